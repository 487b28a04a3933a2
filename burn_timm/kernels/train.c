/* train.c - what a training step needs of binary convolutions: signs and weights to bits and back, and sums of +-1.

   Maps are [N, H, W, C], of bfloat16 (passed as 16-bit integers) or float32 (32-bit ones), `bytes` 2 or 4. Channels are
   multiples of 16. Bits are [N, H + 2 padding, W + 2 padding, words of 64 channels]. Nothing rounds but the last
   product with the scale: the sums are whole numbers. Called through ctypes by burn_timm/nn/sign_conv.py. */

#include "burn.c"

typedef struct {
    const kernels *base;
    void (*signs)(const void *values, int bytes, int channels, uint8_t *bits);
    void (*spread)(const uint8_t *bits, int channels, int bytes, const void *plus, const void *minus, void *out);
    void (*positive)(const float *values, int count, uint64_t *bits);
    float (*mean_size)(const float *values, int count);
    void (*scaled)(const int32_t *counts, const int32_t *most, const float *scale, int outputs, int bytes, void *out);
    void (*pass)(const void *grad, int bytes, const float *weight, size_t count, float *out);
} training_kernels;
typedef int16_t lanes_of_16 __attribute__((vector_size(32)));

#if defined(__x86_64__)
#define SET avx512
#define TARGET FOR_AVX512
#include "train_kernels.h"

#define SET compact /* AVX2 on maps with eight bytes for 64 bits, as the backward pass reads them */
#define IS_AVX2
#include "burn_kernels.h"
#define SET compact
#define TARGET FOR_AVX2
#include "train_kernels.h"
#elif defined(__aarch64__)
#define SET neon
#define TARGET
#include "train_kernels.h"
#endif
#define SET plain
#define TARGET
#include "train_kernels.h"

typedef struct {
    const void *in, *weight;
    void *out;
    float *scale;
    uint16_t *ones;
    const uint8_t *packed, *plus, *minus;
    int bytes, height, width, channels, padding, outputs, size, words, chunk, total, out_height, out_width;
    shape_of_step shape;
    const training_kernels *k;
    int32_t *scratch;
    size_t scratch_each, each;
} task_of_training;

static const training_kernels *training(void) {
#if defined(__x86_64__)
    const char *name = best_kernels()->name;
    if (!strcmp(name, "avx512")) return &training_avx512;
    if (!strcmp(name, "avx2")) return &training_compact;
#elif defined(__aarch64__)
    if (best_kernels() == &kernels_neon) return &training_neon;
#endif
    return &training_plain;
}

static workers shared;
#if BURN_THREADS
static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void lock_shared(void) { pthread_mutex_lock(&one_at_a_time); }
static void unlock_shared(void) { pthread_mutex_unlock(&one_at_a_time); }
/* A fork waits until no kernel runs, so that the child does not find the lock taken by a thread that it has not. */
static void hold_while_forking(void) { pthread_atfork(lock_shared, unlock_shared, unlock_shared); }
#endif

static int on_threads(int threads, int parts, void (*work)(const void *, int, int), const task_of_training *t) {
#if BURN_THREADS
    pthread_once(&once, hold_while_forking);
    lock_shared();
#endif
    int error = BURN_OK;
    if (shared.threads != threads) {
        if (shared.threads) close_workers(&shared);
        error = open_workers(&shared, threads);
        if (error) shared.threads = 0;
    }
    if (!error) in_parts(&shared, parts, work, t);
#if BURN_THREADS
    unlock_shared();
#endif
    return error;
}

static uint8_t *bits_of_row(const task_of_training *t, const void *bits, int row) {
    int image = row / t->height, y = row % t->height + t->padding;
    size_t width = t->width + 2 * t->padding;
    return (uint8_t *)bits + (((size_t)image * (t->height + 2 * t->padding) + y) * width + t->padding) * t->words * 8;
}

static void pack_signs_part(const void *task, int row, int thread) {
    const task_of_training *t = task;
    (void)thread;
    uint8_t *bits = bits_of_row(t, t->out, row);
    const uint8_t *in = (const uint8_t *)t->in + (size_t)row * t->width * t->channels * t->bytes;
    for (int x = 0; x < t->width; x++, bits += t->words * 8, in += (size_t)t->channels * t->bytes)
        t->k->signs(in, t->bytes, t->channels, bits);
}

static void unpack_signs_part(const void *task, int row, int thread) {
    const task_of_training *t = task;
    (void)thread;
    const uint8_t *bits = bits_of_row(t, t->in, row);
    uint8_t *out = (uint8_t *)t->out + (size_t)row * t->width * t->channels * t->bytes;
    for (int x = 0; x < t->width; x++, bits += t->words * 8, out += (size_t)t->channels * t->bytes)
        t->k->spread(bits, t->channels, t->bytes, t->plus, t->minus, out);
}

int burn_pack_signs(int threads, int bytes, const void *x, int n, int height, int width, int channels, int padding,
                    void *bits) {
    task_of_training t = {.in = x, .out = bits, .bytes = bytes, .height = height, .width = width, .channels = channels,
                          .padding = padding, .words = words_of(channels), .k = training()};
    return on_threads(threads, n * height, pack_signs_part, &t);
}

/* plus and minus: addresses of the two numbers. */
int burn_unpack_signs(int threads, int bytes, const void *bits, int n, int height, int width, int channels, int padding,
                      const void *plus, const void *minus, void *x) {
    task_of_training t = {.in = bits, .out = x, .bytes = bytes, .height = height, .width = width, .channels = channels,
                          .padding = padding, .words = words_of(channels), .plus = plus, .minus = minus,
                          .k = training()};
    return on_threads(threads, n * height, unpack_signs_part, &t);
}

/* Where word w of tap `tap` of output o lies in packed weights: its first byte, and how far its bytes are apart. */
static size_t place(const task_of_training *t, int o, int tap, int word, int *apart) {
    int width = block_width(t->k->base, t->outputs), unit = t->k->base->unit, taps = t->size * t->size;
    size_t block = (size_t)taps * t->words * 8 * width;
    *apart = width * unit;
    return o / width * block + (size_t)(tap * t->words + word) * 8 * width + (size_t)(o % width) * unit;
}

static void pack_weights_part(const void *task, int o, int thread) {
    const task_of_training *t = task;
    (void)thread;
    int taps = t->size * t->size, unit = t->k->base->unit, apart;
    const float *weight = (const float *)t->weight + (size_t)o * taps * t->channels;
    t->scale[o] = t->k->mean_size(weight, taps * t->channels);
    for (int tap = 0; tap < taps; tap++, weight += t->channels) {
        int ones = 0;
        for (int word = 0; word < t->words; word++) {
            uint64_t bits = 0;
            int count = t->channels - word * 64 < 64 ? t->channels - word * 64 : 64;
            t->k->positive(weight + word * 64, count, &bits);
            ones += __builtin_popcountll(bits);
            size_t at = place(t, o, tap, word, &apart);
            for (int i = 0; i < 8; i += unit)
                memcpy((uint8_t *)t->out + at + i / unit * apart, (uint8_t *)&bits + i, unit);
        }
        t->ones[(size_t)tap * t->outputs + o] = ones;
    }
}

static void unpack_weights_part(const void *task, int o, int thread) {
    const task_of_training *t = task;
    (void)thread;
    int taps = t->size * t->size, unit = t->k->base->unit, apart;
    uint8_t *out = (uint8_t *)t->out + (size_t)o * taps * t->channels * t->bytes;
    for (int tap = 0; tap < taps; tap++)
        for (int word = 0; word < t->words; word++) {
            uint64_t bits = 0;
            int count = t->channels - word * 64 < 64 ? t->channels - word * 64 : 64;
            size_t at = place(t, o, tap, word, &apart);
            for (int i = 0; i < 8; i += unit) memcpy((uint8_t *)&bits + i, t->packed + at + i / unit * apart, unit);
            t->k->spread((uint8_t *)&bits, count, t->bytes, t->plus + o * t->bytes, t->minus + o * t->bytes, out);
            out += count * t->bytes;
        }
}

/* Bytes of packed weights of this CPU. */
size_t burn_packed_bytes(int outputs, int inputs, int size) {
    return (size_t)in_blocks(training()->base, outputs) * size * size * words_of(inputs) * 8;
}

/* weight float32 [O, k, k, I] -> packed, scale (mean |w|) [O], ones [k, k, O]: positive weights of each tap. */
int burn_pack_weights(int threads, const float *weight, int outputs, int inputs, int size, void *packed, float *scale,
                      uint16_t *ones) {
    task_of_training t = {.weight = weight, .outputs = outputs, .channels = inputs, .size = size, .out = packed,
                          .words = words_of(inputs), .scale = scale, .ones = ones, .k = training()};
    memset(packed, 0, burn_packed_bytes(outputs, inputs, size));
    return on_threads(threads, outputs, pack_weights_part, &t);
}

/* The reverse: [O, k, k, I] of the two numbers of each output, plus [O] and minus [O]. */
int burn_unpack_weights(int threads, int bytes, const void *packed, int outputs, int inputs, int size, const void *plus,
                        const void *minus, void *weight) {
    task_of_training t = {.packed = packed, .outputs = outputs, .channels = inputs, .size = size, .bytes = bytes,
                          .words = words_of(inputs), .out = weight, .plus = plus, .minus = minus, .k = training()};
    return on_threads(threads, outputs, unpack_weights_part, &t);
}

static void convolve_part(const void *task, int part, int thread) {
    const task_of_training *t = task;
    const kernels *k = t->k->base;
    int first = part * t->chunk, count = first + t->chunk < t->total ? t->chunk : t->total - first;
    int width = block_width(k, t->outputs), padded = in_blocks(k, t->outputs), area = t->out_height * t->out_width;
    size_t pixel = t->words * 8, row = (t->width + 2 * t->padding) * pixel, image = (t->height + 2 * t->padding) * row;
    int32_t *counts = t->scratch + thread * t->scratch_each, *most = counts + t->scratch_each - padded;
    const uint8_t *pixels[CHUNK_PIXELS] = {0};
    for (int p = 0; p < count; p++) {
        int at = (first + p) % area, y = at / t->out_width, x = at % t->out_width;
        pixels[p] = (const uint8_t *)t->in + (first + p) / area * image + y * t->shape.stride * row +
                    x * t->shape.stride * pixel;
    }
    k->mismatches(pixels, count, t->packed, padded / width, width, t->size, row, t->size * t->words * 8 / k->unit,
                  counts);
    for (int p = 0, inside = -1; p < count; p++) {
        int at = (first + p) % area;
        inside = most_of(&t->shape, t->ones, t->height, t->width, at / t->out_width, at % t->out_width, inside, most);
        t->k->scaled(counts + (size_t)p * padded, most, t->scale, t->outputs, t->bytes,
                     (uint8_t *)t->out + (size_t)(first + p) * t->outputs * t->bytes);
    }
}

/* bits of x [N, H, W, I] -> scale * (the convolution of +-1 with +-1), [N, H', W', O]. */
int burn_sign_conv(int threads, int bytes, const void *bits, int n, int height, int width, int inputs, int outputs,
                   int size, int stride, int padding, const void *packed, const float *scale, const uint16_t *ones,
                   void *out) {
    shape_of_step shape = {inputs, outputs, size, stride, padding, 0, 0, 0};
    task_of_training t = {.in = bits, .out = out, .packed = packed, .scale = (float *)scale, .ones = (uint16_t *)ones,
                          .bytes = bytes, .height = height, .width = width, .padding = padding, .outputs = outputs,
                          .size = size, .words = words_of(inputs), .shape = shape, .k = training()};
    t.out_height = out_side(height, &shape), t.out_width = out_side(width, &shape);
    t.total = n * t.out_height * t.out_width;
    int padded = in_blocks(t.k->base, outputs);
    t.chunk = chunk_of(padded);
    t.scratch_each = (size_t)(t.chunk + 1) * padded + 16;
    if (!(t.scratch = calloc(t.scratch_each * threads, sizeof(int32_t)))) return BURN_MEMORY;
    int error = on_threads(threads, ceil_div(t.total, t.chunk), convolve_part, &t);
    free(t.scratch);
    return error;
}

static void pass_part(const void *task, int part, int thread) {
    const task_of_training *t = task;
    (void)thread;
    size_t at = part * t->each;
    t->k->pass((const uint8_t *)t->in + at * t->bytes, t->bytes, (const float *)t->weight + at, t->each,
               (float *)t->out + at);
}

/* The straight-through estimator: grad where |weight| <= 1, else 0; [outputs, each]. */
int burn_pass_through(int threads, int bytes, const void *grad, const float *weight, int outputs, size_t each,
                      float *out) {
    task_of_training t = {.in = grad, .weight = weight, .out = out, .bytes = bytes, .each = each, .k = training()};
    return on_threads(threads, outputs, pass_part, &t);
}
