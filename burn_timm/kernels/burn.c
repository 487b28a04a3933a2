/* burn.c - run 1-bit vision networks on a CPU; see burn.h. C11, no libraries but libc (and threads).

   A network is a float convolution (the stem), binary convolutions (the steps) and a head. A step computes, per pixel,

       count  = sum over the taps inside the image of +1 where input bit and weight bit agree, -1 where they differ
       output = prelu(scale * count + bias + shortcut, slope)
       bits   = output >= threshold of the next step

   Maps are float [height, width, channels]; bits are [height + 2 padding, width + 2 padding, words of 64 channels],
   with zeros in the padding and in spare channels. Binary weights are [blocks of outputs][kernel rows][units of a
   row][outputs of a block]: one vector compares the same unit of inputs (8 or 64 of them) with many outputs, and
   nothing is ever summed across a vector. A tap in the padding compares with zeros; what that adds is known and
   subtracted.

   burn_kernels.h is included once for each set of instructions; the best one is chosen when a network is opened, so
   that one binary serves all CPUs. */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "burn.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__wasm_simd128__)
#include <wasm_simd128.h>
#endif
#if defined(__wasm__) && !defined(BURN_THREADS)
#define BURN_THREADS 0
#elif !defined(BURN_THREADS)
#define BURN_THREADS 1
#endif
#if BURN_THREADS
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <unistd.h>
#endif

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "burn.c needs a little-endian machine"
#endif

enum { VERSION = 1, MAX_CHANNELS = 8192, MAX_SIDE = 8192, MAX_KERNEL = 11, MAX_STEPS = 1024, MAX_COUNT = 65535 };
#define MAX_MEMORY ((uint64_t)2 << 30) /* of the weights, and of the maps of one size of images */
enum { CHUNK_SUMS = 8192, CHUNK_PIXELS = 512 }; /* of one part of a step: its counts stay in the first cache */
enum { POOL_NONE, POOL_AVG, POOL_MAX, POOL_AVGMAX, POOL_CATAVGMAX, POOL_TYPES };

typedef struct {
    int inputs, outputs, size, stride, padding, pool, repeat, project;
} shape_of_step;

/* A float convolution: weights [blocks of 16 outputs][taps][16], bias [blocks * 16]. */
typedef struct {
    int inputs, outputs, size;
    float *weights, *bias;
} dense;

typedef struct {
    shape_of_step shape;
    float *threshold, *scale, *bias, *slope;
    uint8_t *weights;
    uint16_t *ones; /* [taps][outputs]: positive weights of each tap */
    dense project;
    /* of the size of the images: */
    int in_height, in_width, height, width; /* of the input and of the output */
    uint8_t *bits;
} step;

typedef struct {
    const char *name;
    int unit, lanes, vectors; /* bytes of weights compared at once; outputs of a vector; vectors of the widest block */
    int word;                 /* bytes that hold 64 bits of a map */
    void (*mismatches)(const uint8_t *const *pixels, int count, const uint8_t *weights, int blocks, int width, int rows,
                       size_t row_bytes, int columns, int32_t *counts);
    void (*finish)(const int32_t *counts, const int32_t *most, const step *s, const float *shortcut, int channels,
                   const float *limits, float *out, uint8_t *bits);
    void (*pack)(const float *values, const float *limits, int channels, uint8_t *bits);
    void (*dense)(const float *const *pixels, int count, const dense *layer, size_t row_floats, float *out);
    void (*mean)(const float *const *values, int count, int channels, float *out);
    float (*dot)(const void *row, bool half, const float *values, int count);
} kernels;

/* Threads that do the parts of one task at a time; they start with the first task, and again behind a fork. */
typedef struct {
    int threads, parts;
    void (*work)(const void *task, int part, int thread);
    const void *task;
#if BURN_THREADS
    pthread_t *started;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pid_t owner; /* the process that has the threads: after a fork the child has none */
    int count;
    bool ending;
    atomic_uint generation;
    atomic_int next, busy, numbers;
#endif
} workers;

struct burn_network {
    int channels, height, width, steps_count, stem_pool, pool_type, feature_dim, classes;
    int stem_height, stem_width; /* behind the stem's pooling */
    const kernels *use;
    void *owned, *buffers; /* its memory: for all sizes of images, for the present one */
    float *mean, *std, *shift, *class_bias;
    void *class_weights; /* [classes, features], float16 where that is `half`, else float32 */
    int half;
    dense stem;
    step *steps;
    float *maps[2]; /* the second one first holds the padded image [height, width, channels] */
    float *halves, *projected, *features;
    int32_t *scratch; /* of each thread, CHUNK_SUMS or the outputs of a step */
    size_t scratch_each;
    workers pool;
};

static int ceil_div(int a, int b) { return (a + b - 1) / b; }
static int words_of(int channels) { return ceil_div(channels, 64); }
static int block_width(const kernels *k, int outputs) {
    int vectors = k->vectors;
    while (vectors > 1 && outputs < k->lanes * vectors) vectors /= 2;
    return vectors * k->lanes;
}
static int in_blocks(const kernels *k, int outputs) { /* outputs, filled up to whole blocks */
    return ceil_div(outputs, block_width(k, outputs)) * block_width(k, outputs);
}
static int chunk_of(int padded) { /* pixels of one part of a step */
    return CHUNK_SUMS / padded < 4 ? 4 : CHUNK_SUMS / padded < CHUNK_PIXELS ? CHUNK_SUMS / padded : CHUNK_PIXELS;
}

/* ---- Threads ----------------------------------------------------------------------------------------------------- */

#if BURN_THREADS
static void take_parts(workers *w, int thread) {
    for (int part; (part = atomic_fetch_add(&w->next, 1)) < w->parts;) w->work(w->task, part, thread);
    atomic_fetch_sub(&w->busy, 1);
}

static void *thread_main(void *argument) {
    workers *w = argument;
    int number = atomic_fetch_add(&w->numbers, 1);
    for (unsigned seen = 0;;) {
        for (int spin = 0; spin < 2000 && atomic_load(&w->generation) == seen; spin++)
            if (spin % 64 == 63) sched_yield();
        if (atomic_load(&w->generation) == seen) {
            pthread_mutex_lock(&w->mutex);
            while (atomic_load(&w->generation) == seen) pthread_cond_wait(&w->wake, &w->mutex);
            pthread_mutex_unlock(&w->mutex);
        }
        seen = atomic_load(&w->generation);
        if (w->ending) return NULL;
        take_parts(w, number);
    }
}

static void start_threads(workers *w) {
    if (w->owner == getpid()) return;
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->wake, NULL);
    atomic_store(&w->generation, 0);
    atomic_store(&w->numbers, 1); /* 0 is the caller */
    w->owner = getpid(), w->ending = false, w->count = 0;
    while (w->count < w->threads - 1 && !pthread_create(&w->started[w->count], NULL, thread_main, w)) w->count++;
}

static void wake_threads(workers *w) {
    pthread_mutex_lock(&w->mutex);
    atomic_fetch_add(&w->generation, 1);
    pthread_cond_broadcast(&w->wake);
    pthread_mutex_unlock(&w->mutex);
}
#endif

static int open_workers(workers *w, int threads) {
    *w = (workers){.threads = BURN_THREADS ? threads : 1};
#if BURN_THREADS
    w->started = calloc(threads, sizeof *w->started);
    return w->started ? BURN_OK : BURN_MEMORY;
#else
    return BURN_OK;
#endif
}

static void close_workers(workers *w) {
#if BURN_THREADS
    if (w->owner == getpid()) {
        w->ending = true;
        wake_threads(w);
        for (int i = 0; i < w->count; i++) pthread_join(w->started[i], NULL);
        pthread_mutex_destroy(&w->mutex);
        pthread_cond_destroy(&w->wake);
    }
    free(w->started);
#else
    (void)w;
#endif
}

/* Calls work(task, part, thread) for each part from 0 to parts - 1, on all threads. */
static void in_parts(workers *w, int parts, void (*work)(const void *, int, int), const void *task) {
#if BURN_THREADS
    if (w->threads > 1 && parts > 1) {
        start_threads(w);
        w->work = work, w->task = task, w->parts = parts;
        atomic_store(&w->next, 0);
        atomic_store(&w->busy, w->count + 1);
        wake_threads(w);
        take_parts(w, 0);
        for (int spin = 0; atomic_load(&w->busy) > 0; spin++)
            if (spin % 64 == 63) sched_yield();
        return;
    }
#endif
    for (int part = 0; part < parts; part++) work(task, part, 0);
}

/* ---- The kernels of every set of instructions -------------------------------------------------------------------- */

#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)
#define NAME(f) JOIN(f, SET)

#if defined(__x86_64__)
#define FOR_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,fma,popcnt")))
#define FOR_AVX2 __attribute__((target("avx2,bmi2,fma,popcnt")))
#define SET avx512
#define IS_AVX512
#include "burn_kernels.h"
#define SET avx2
#define IS_AVX2
#define WORD 16
#include "burn_kernels.h"
#elif defined(__aarch64__)
#define SET neon
#define IS_NEON
#include "burn_kernels.h"
#elif defined(__wasm_simd128__)
#define SET wasm
#define IS_WASM
#include "burn_kernels.h"
#endif
#define SET plain
#include "burn_kernels.h"

static const kernels *const SETS[] = {
#if defined(__x86_64__)
    &kernels_avx512,
    &kernels_avx2,
#elif defined(__aarch64__)
    &kernels_neon,
#elif defined(__wasm_simd128__)
    &kernels_wasm,
#endif
    &kernels_plain,
};
static const kernels *chosen;

/* Whether CPU and operating system have the instructions of a set. (zig's __builtin_cpu_supports always says no.) */
static bool available(const kernels *k) {
#if defined(__x86_64__)
    if (k == &kernels_plain) return true;
    unsigned a, b, c, d, low, high, fma_xsave = 1u << 12 | 1u << 27;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & fma_xsave) != fma_xsave) return false;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0)); /* the registers that the system keeps */
    if ((low & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
    unsigned avx2_bmi2 = 1u << 5 | 1u << 8, f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    unsigned vpopcntdq = 1u << 14;
    if (k == &kernels_avx2) return (b & avx2_bmi2) == avx2_bmi2;
    return (low & 0xE0) == 0xE0 && (b & f_dq_bw_vl) == f_dq_bw_vl && (c & vpopcntdq);
#else
    return k != NULL;
#endif
}

int burn_use(const char *target) {
    for (size_t i = 0; i < sizeof SETS / sizeof *SETS; i++) {
        if ((!target || !strcmp(target, SETS[i]->name)) && available(SETS[i])) {
            chosen = target ? SETS[i] : NULL;
            return BURN_OK;
        }
    }
    return BURN_ARGUMENT;
}

static const kernels *best_kernels(void) {
    if (chosen) return chosen;
    size_t i = 0;
    while (!available(SETS[i])) i++; /* plain always is */
    return SETS[i];
}

/* ---- Memory ------------------------------------------------------------------------------------------------------ */

typedef struct {
    void *before; /* the piece before it */
    uint64_t total; /* bytes of the list so far */
} head_of_piece;

/* Zeroed memory for `count` items of `size` bytes, which belongs to a list of pieces. NULL where there is not so much,
   also on machines of 32 bits, or where the list would grow beyond MAX_MEMORY: a small file can ask for any amount. */
static void *take(void **list, uint64_t count, size_t size) {
    if (count > (SIZE_MAX / 2 - 256) / size) return NULL;
    size_t bytes = ((size_t)count * size + 191) / 64 * 64;
    uint64_t total = bytes + (*list ? ((head_of_piece *)*list)->total : 0);
    head_of_piece *piece = total > MAX_MEMORY ? NULL : aligned_alloc(64, bytes);
    if (!piece) return NULL;
    memset(piece, 0, bytes);
    *piece = (head_of_piece){*list, total};
    *list = piece;
    return (uint8_t *)piece + 64;
}

static void release(void **list) {
    while (*list) {
        void *piece = *list;
        *list = ((head_of_piece *)piece)->before;
        free(piece);
    }
}

/* ---- Reading a file: every size is checked before it is used ----------------------------------------------------- */

typedef struct {
    FILE *file;
    const uint8_t *data; /* where there is no file */
    uint64_t left;
    int error; /* the first one; nothing is read after it */
    void **owned;
} reader;

static void get(reader *r, void *to, uint64_t bytes) {
    if (!r->error && bytes > r->left) r->error = BURN_MALFORMED;
    if (r->error) return;
    r->left -= bytes;
    if (r->file) {
        if (fread(to, 1, bytes, r->file) != bytes) r->error = BURN_NO_FILE;
    } else {
        memcpy(to, r->data, bytes);
        r->data += bytes;
    }
}

static uint32_t get32(reader *r) {
    uint32_t value = 0;
    get(r, &value, 4);
    return value;
}

static uint64_t checksum(uint64_t sum, const uint8_t *data, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 8) {
        uint64_t word = 0;
        memcpy(&word, data + at, bytes - at < 8 ? bytes - at : 8);
        sum = (sum ^ word) * 0x9E3779B97F4A7C15u;
        sum ^= sum >> 29;
    }
    return sum;
}

/* Checks what stands before the sizes: "BURN1BIT", the checksum of all that follows it, and the version. */
static int check_head(reader *r) {
    char mark[8] = {0};
    uint64_t expected = 0, found;
    get(r, mark, 8);
    get(r, &expected, 8);
    if (r->error == BURN_NO_FILE) return r->error;
    if (r->error || memcmp(mark, "BURN1BIT", 8)) return BURN_NOT_BURN;
    found = r->left; /* the length is part of the sum */
    if (r->file) {
        uint8_t block[16384];
        long start = ftell(r->file);
        for (size_t size; (size = fread(block, 1, sizeof block, r->file)) > 0;) found = checksum(found, block, size);
        if (ferror(r->file) || fseek(r->file, start, SEEK_SET)) return BURN_NO_FILE;
    } else {
        found = checksum(found, r->data, r->left);
    }
    if (found != expected) return BURN_DAMAGED;
    return get32(r) == VERSION ? BURN_OK : BURN_VERSION;
}

static bool within(int64_t value, int64_t least, int64_t most) { return least <= value && value <= most; }

static bool plausible(const shape_of_step *s, int channels) {
    return s->inputs == channels && within(s->outputs, 1, MAX_CHANNELS) && within(s->size, 1, MAX_KERNEL) &&
           within(s->stride, 1, 2) && within(s->padding, 0, s->size - 1) && within(s->pool, 0, 1) &&
           s->size * s->size * words_of(s->inputs) * 64 <= MAX_COUNT &&
           within(s->repeat, 0, 1) && within(s->project, 0, 1) && s->pool == (s->stride == 2) &&
           (s->project ? !s->repeat : s->outputs == s->inputs * (1 + s->repeat));
}

/* Memory for what takes so many bytes of the file; NULL, with an error, where there are not so many in either. */
static void *room(reader *r, uint64_t in_file, uint64_t count, size_t size) {
    if (!r->error && in_file > r->left) r->error = BURN_MALFORMED;
    void *memory = r->error ? NULL : take(r->owned, count, size);
    if (!memory && !r->error) r->error = BURN_MEMORY;
    return memory;
}

static void *get_array(reader *r, uint64_t count, size_t size) {
    void *values = room(r, count * size, count + 16, size); /* 16: vectors may read behind the end */
    if (values) get(r, values, count * size);
    return values;
}

static float *get_floats(reader *r, uint64_t count) { return get_array(r, count, sizeof(float)); }

/* weights [outputs][taps], bias [outputs] (all zero where there is none in the file). */
static void get_dense(reader *r, dense *layer, int inputs, int outputs, int size, bool with_bias) {
    size_t taps = (size_t)inputs * size * size, blocks = ceil_div(outputs, 16);
    float row[256];
    *layer = (dense){inputs, outputs, size, NULL, NULL};
    layer->weights = room(r, (uint64_t)taps * outputs * sizeof(float), (uint64_t)blocks * taps * 16, sizeof(float));
    for (int o = 0; o < outputs && !r->error; o++)
        for (size_t tap = 0; tap < taps && !r->error; tap += 256) {
            size_t count = taps - tap < 256 ? taps - tap : 256;
            get(r, row, count * sizeof(float));
            for (size_t i = 0; i < count && !r->error; i++)
                layer->weights[((o / 16) * taps + tap + i) * 16 + o % 16] = row[i];
        }
    layer->bias = with_bias ? get_floats(r, outputs) : room(r, 0, outputs + 16, sizeof(float));
}

/* Bits [outputs][taps][words] into the layout of the kernels, and the positive weights of each tap. */
static void get_binary(reader *r, step *s, const kernels *k) {
    int words = words_of(s->shape.inputs), taps = s->shape.size * s->shape.size, outputs = s->shape.outputs;
    int width = block_width(k, outputs), spare = words * 64 - s->shape.inputs;
    size_t units = (size_t)taps * words * 8 / k->unit;
    s->weights = room(r, (uint64_t)taps * words * outputs * 8, (uint64_t)in_blocks(k, outputs) * units, k->unit);
    s->ones = room(r, 0, (uint64_t)taps * outputs, sizeof(uint16_t));
    uint64_t bits[MAX_CHANNELS / 64];
    for (int o = 0; o < outputs && !r->error; o++) {
        uint8_t *place = s->weights + ((size_t)(o / width) * units * width + o % width) * k->unit;
        for (int tap = 0; tap < taps && !r->error; tap++) {
            get(r, bits, words * 8);
            if (spare && !r->error && bits[words - 1] >> (64 - spare)) r->error = BURN_MALFORMED; /* they would count */
            for (int i = 0; i < words * 8 && !r->error; i += k->unit, place += width * k->unit)
                memcpy(place, (uint8_t *)bits + i, k->unit);
            for (int word = 0; word < words && !r->error; word++)
                s->ones[(size_t)tap * outputs + o] += __builtin_popcountll(bits[word]);
        }
    }
}

static void get_step(reader *r, step *s, const kernels *k) {
    s->threshold = get_floats(r, s->shape.inputs);
    s->scale = get_floats(r, s->shape.outputs);
    s->bias = get_floats(r, s->shape.outputs);
    s->slope = get_floats(r, s->shape.outputs);
    get_binary(r, s, k);
    if (s->shape.project) get_dense(r, &s->project, s->shape.inputs, s->shape.outputs, 1, false);
}

/* The sizes of the network and of its steps. */
static void get_sizes(reader *r, burn_network *n) {
    n->channels = get32(r), n->height = get32(r), n->width = get32(r);
    n->stem.outputs = get32(r), n->stem.size = get32(r);
    n->stem_pool = get32(r), n->steps_count = get32(r), n->pool_type = get32(r), n->classes = get32(r);
    n->half = get32(r);
    if (!within(n->channels, 1, 1024) || !within(n->height, 1, MAX_SIDE) || !within(n->width, 1, MAX_SIDE) ||
        !within(n->stem.outputs, 1, MAX_CHANNELS) || !within(n->stem.size, 1, MAX_KERNEL) ||
        !within(n->stem_pool, 0, 1) || !within(n->steps_count, 1, MAX_STEPS) ||
        !within(n->pool_type, 0, POOL_TYPES - 1) || !within(n->half, 0, 1) ||
        !within(n->classes, 0, n->pool_type ? 1 << 20 : 0)) {
        r->error = r->error ? r->error : BURN_MALFORMED;
        return;
    }
    n->mean = get_floats(r, n->channels), n->std = get_floats(r, n->channels);
    n->steps = room(r, 0, n->steps_count, sizeof *n->steps);
    int channels = n->stem.outputs;
    for (int i = 0; i < n->steps_count && !r->error; i++) {
        shape_of_step *s = &n->steps[i].shape;
        s->inputs = get32(r), s->outputs = get32(r), s->size = get32(r), s->stride = get32(r);
        s->padding = get32(r), s->pool = get32(r), s->repeat = get32(r), s->project = get32(r);
        if (!r->error && !plausible(s, channels)) r->error = BURN_MALFORMED;
        channels = s->outputs;
    }
    n->feature_dim = channels * (n->pool_type == POOL_CATAVGMAX ? 2 : 1);
}

static int read_network(reader *r, burn_network *n) {
    if ((r->error = check_head(r))) return r->error;
    get_sizes(r, n);
    if (r->error) return r->error;
    get_dense(r, &n->stem, n->channels, n->stem.outputs, n->stem.size, true);
    for (int i = 0; i < n->steps_count && !r->error; i++) get_step(r, &n->steps[i], n->use);
    n->shift = get_floats(r, n->steps[n->steps_count - 1].shape.outputs);
    if (n->classes) {
        uint64_t count = (uint64_t)n->classes * n->feature_dim;
        n->class_weights = get_array(r, count, n->half ? 2 : 4);
        if (n->half && count % 2) get(r, &(uint16_t){0}, 2); /* filled up to 4 bytes */
        n->class_bias = get_floats(r, n->classes);
    }
    if (!r->error && r->left) r->error = BURN_MALFORMED; /* the checksum is right, so the writer was wrong */
    return r->error;
}

/* ---- Buffers for one size of images ------------------------------------------------------------------------------ */

static int out_side(int side, const shape_of_step *s) { return (side + 2 * s->padding - s->size) / s->stride + 1; }

static int prepare_step(void **list, step *s, int height, int width, int word) {
    const shape_of_step *shape = &s->shape;
    if (height + 2 * shape->padding < shape->size || width + 2 * shape->padding < shape->size) return BURN_ARGUMENT;
    s->in_height = height, s->in_width = width;
    s->height = out_side(height, shape), s->width = out_side(width, shape);
    int side = shape->pool ? 2 : 1; /* the shortcut must have the same size */
    if (s->height != ceil_div(height, side) || s->width != ceil_div(width, side)) return BURN_ARGUMENT;
    uint64_t area = (uint64_t)(height + 2 * shape->padding) * (width + 2 * shape->padding);
    s->bits = take(list, area * words_of(shape->inputs), word);
    return s->bits ? BURN_OK : BURN_MEMORY;
}

/* Whether a step may write over its shortcut: each output needs no other pixel than its own. */
static bool in_place(const step *s) { return !s->shape.pool && !s->shape.repeat && !s->shape.project; }

static int prepare(burn_network *n, int height, int width) {
    if (!within(height, 1, MAX_SIDE) || !within(width, 1, MAX_SIDE)) return BURN_ARGUMENT;
    int pad = n->stem.size / 2, row = ceil_div(height, 2), column = ceil_div(width, 2), at = 0, error = BURN_OK;
    uint64_t sizes[2] = {(uint64_t)row * column * n->stem.outputs, 0}, halves = 0, projected = 0,
             widest = n->stem.outputs;
    release(&n->buffers);
    n->scratch = NULL, n->height = height, n->width = width;
    if (n->stem_pool) {
        row = ceil_div(row, 2), column = ceil_div(column, 2), at = 1;
        sizes[1] = (uint64_t)row * column * n->stem.outputs;
    }
    n->stem_height = row, n->stem_width = column;
    for (int i = 0; i < n->steps_count; i++) {
        step *s = &n->steps[i];
        if ((error = prepare_step(&n->buffers, s, row, column, n->use->word))) return error;
        row = s->height, column = s->width;
        uint64_t area = (uint64_t)row * column, size = area * s->shape.outputs;
        if (!in_place(s)) at = 1 - at;
        if (size > sizes[at]) sizes[at] = size;
        if (s->shape.project && size > projected) projected = size;
        if (s->shape.project && area * s->shape.inputs > halves) halves = area * s->shape.inputs;
        size_t padded = in_blocks(n->use, s->shape.outputs);
        if (padded > widest) widest = padded;
    }
    n->scratch_each = (widest * 4 > CHUNK_SUMS ? widest * 4 : CHUNK_SUMS) + 2 * MAX_CHANNELS;
    uint64_t image = (uint64_t)(height + 2 * pad) * (width + 2 * pad) * n->channels;
    if (image > sizes[1]) sizes[1] = image;
    for (int i = 0; i < 2; i++) n->maps[i] = take(&n->buffers, sizes[i] + 16, sizeof(float));
    n->halves = take(&n->buffers, halves + 16, sizeof(float)), n->projected = take(&n->buffers, projected + 16, sizeof(float));
    n->features = take(&n->buffers, n->feature_dim + 16, sizeof(float));
    if (n->maps[0] && n->maps[1] && n->halves && n->projected && n->features)
        n->scratch = take(&n->buffers, (uint64_t)n->scratch_each * n->pool.threads, sizeof(int32_t));
    return n->scratch ? BURN_OK : BURN_MEMORY;
}

int burn_resize(burn_network *n, int height, int width) {
    if (!n) return BURN_ARGUMENT;
    int old_height = n->height, old_width = n->width;
    int error = prepare(n, height, width);
    return error && prepare(n, old_height, old_width) ? BURN_MEMORY : error;
}

/* What the counts [outputs] of a pixel are where no bit differs: taps in the padding do not count, though zeros are
   compared there. ones [taps][outputs]: the positive weights of each tap. Returns a number for the taps that lie inside;
   `most` holds the counts already where that is `known`. */
static int most_of(const shape_of_step *s, const uint16_t *ones, int height, int width, int y, int x, int known,
                   int32_t *most) {
    int up = s->padding - y * s->stride, left = s->padding - x * s->stride;
    int top = up > 0 ? up : 0, bottom = up + height < s->size ? up + height : s->size;
    int first = left > 0 ? left : 0, last = left + width < s->size ? left + width : s->size;
    int inside = ((top * 16 + bottom) * 16 + first) * 16 + last;
    if (inside == known) return known;
    int outputs = s->outputs, size = s->size, whole = (bottom - top) * (last - first) * s->inputs;
    for (int o = 0; o < outputs; o++) most[o] = whole;
    for (int row = 0; row < size; row++)
        for (int column = 0; column < size; column++, ones += outputs)
            if (row < top || row >= bottom || column < first || column >= last)
                for (int o = 0; o < outputs; o++) most[o] += 2 * ones[o];
    return inside;
}

/* ---- One image --------------------------------------------------------------------------------------------------- */

typedef struct {
    burn_network *n;
    const step *s, *next; /* next: NULL behind the last step */
    const float *in, *shortcut; /* shortcut: of the outputs' size; or NULL: in, pooled where the step pools */
    float *out;
    int in_height, in_width, width, channels; /* width: of the output */
    int chunk, stride;
    const dense *layer;
    size_t row_floats, pixel_floats; /* of a dense layer's input */
} task_of_map;

/* The pixels of the 2x2 window of an output pixel, those that lie inside; returns their number. */
static int window(const float *map, int height, int width, int channels, int y, int x, const float **pixels) {
    int count = 0;
    for (int row = 2 * y; row < 2 * y + 2 && row < height; row++)
        for (int column = 2 * x; column < 2 * x + 2 && column < width; column++)
            pixels[count++] = map + ((size_t)row * width + column) * channels;
    return count;
}

static void step_part(const void *task, int part, int thread) {
    const task_of_map *t = task;
    burn_network *n = t->n;
    const step *s = t->s;
    const kernels *k = n->use;
    int total = s->height * s->width, first = part * t->chunk;
    int count = first + t->chunk < total ? t->chunk : total - first;
    int outputs = s->shape.outputs, inputs = s->shape.inputs, words = words_of(inputs);
    int width = block_width(k, outputs), padded = in_blocks(k, outputs), inside = -1;
    size_t pixel_bytes = words * k->word, row_bytes = (s->in_width + 2 * s->shape.padding) * pixel_bytes;
    int32_t *counts = n->scratch + thread * n->scratch_each, *most = counts + n->scratch_each - MAX_CHANNELS;
    float *mean = (float *)most - MAX_CHANNELS;
    const uint8_t *pixels[CHUNK_PIXELS] = {0};
    for (int p = 0, y = first / s->width, x = first % s->width; p < count; p++) {
        pixels[p] = s->bits + y * s->shape.stride * row_bytes + x * s->shape.stride * pixel_bytes;
        if (++x == s->width) x = 0, y++;
    }
    k->mismatches(pixels, count, s->weights, padded / width, width, s->shape.size, row_bytes,
                  s->shape.size * words * 8 / k->unit, counts);
    int next_words = words_of(outputs), next_padding = t->next ? t->next->shape.padding : 0;
    for (int p = 0, y = first / s->width, x = first % s->width; p < count; p++) {
        const float *shortcut =
            t->shortcut ? t->shortcut + (size_t)(first + p) * outputs : t->in + (size_t)(first + p) * inputs;
        if (!t->shortcut && s->shape.pool) {
            const float *pooled[4];
            k->mean(pooled, window(t->in, s->in_height, s->in_width, inputs, y, x, pooled), inputs, mean);
            shortcut = mean;
        }
        uint8_t *bits = NULL;
        if (t->next) {
            size_t at = (size_t)(y + next_padding) * (s->width + 2 * next_padding) + x + next_padding;
            bits = t->next->bits + at * next_words * k->word;
        }
        inside = most_of(&s->shape, s->ones, s->in_height, s->in_width, y, x, inside, most);
        k->finish(counts + (size_t)p * padded, most, s, shortcut, t->shortcut ? outputs : inputs,
                  t->next ? t->next->threshold : NULL, t->out + (size_t)(first + p) * outputs, bits);
        if (++x == s->width) x = 0, y++;
    }
}

static void dense_part(const void *task, int part, int thread) {
    const task_of_map *t = task;
    burn_network *n = t->n;
    (void)thread;
    for (int x = 0; x < t->width; x += 8) {
        const float *pixels[8];
        int count = t->width - x < 8 ? t->width - x : 8;
        for (int p = 0; p < count; p++)
            pixels[p] = t->in + part * t->stride * t->row_floats + (x + p) * t->stride * t->pixel_floats;
        n->use->dense(pixels, count, t->layer, t->row_floats,
                      t->out + ((size_t)part * t->width + x) * t->layer->outputs);
    }
}

static void halve_part(const void *task, int part, int thread) {
    const task_of_map *t = task;
    burn_network *n = t->n;
    (void)thread;
    for (int x = 0; x < t->width; x++) {
        const float *inside[4];
        int count = window(t->in, t->in_height, t->in_width, t->channels, part, x, inside);
        n->use->mean(inside, count, t->channels, t->out + ((size_t)part * t->width + x) * t->channels);
    }
}

/* NaN where one of them is, as torch has it. */
static inline float larger(float value, float most) { return ((value > most) | (value != value)) ? value : most; }

/* 3x3 maximum, stride 2, padding 1. */
static void max_part(const void *task, int part, int thread) {
    const task_of_map *t = task;
    (void)thread;
    for (int x = 0; x < t->width; x++) {
        float *out = t->out + ((size_t)part * t->width + x) * t->channels;
        for (int i = 0; i < t->channels; i++) out[i] = -__builtin_inff();
        for (int row = 2 * part - 1; row <= 2 * part + 1; row++)
            for (int column = 2 * x - 1; column <= 2 * x + 1; column++)
                if (row >= 0 && row < t->in_height && column >= 0 && column < t->in_width) {
                    const float *in = t->in + ((size_t)row * t->in_width + column) * t->channels;
                    for (int i = 0; i < t->channels; i++) out[i] = larger(in[i], out[i]);
                }
    }
}

static void pack_part(const void *task, int part, int thread) {
    const task_of_map *t = task;
    burn_network *n = t->n;
    (void)thread;
    int padding = t->next->shape.padding, words = words_of(t->channels);
    for (int x = 0; x < t->width; x++) {
        size_t at = (size_t)(part + padding) * (t->width + 2 * padding) + x + padding;
        n->use->pack(t->in + ((size_t)part * t->width + x) * t->channels, t->next->threshold, t->channels,
                     t->next->bits + at * words * n->use->word);
    }
}

static void class_part(const void *task, int part, int thread) {
    const task_of_map *t = task;
    burn_network *n = t->n;
    (void)thread;
    int last = (part + 1) * 64 < n->classes ? (part + 1) * 64 : n->classes;
    for (int c = part * 64; c < last; c++) {
        const uint8_t *row = (uint8_t *)n->class_weights + (size_t)c * n->feature_dim * (n->half ? 2 : 4);
        t->out[c] = n->use->dot(row, n->half, n->features, n->feature_dim) + n->class_bias[c];
    }
}

/* The stem, its pooling and the bits of the first step; returns which of the two maps holds the result. */
static int run_stem(burn_network *n, const float *image) {
    int pad = n->stem.size / 2, width = n->width + 2 * pad, at = 0;
    float *padded = n->maps[1];
    memset(padded, 0, (size_t)(n->height + 2 * pad) * width * n->channels * sizeof(float));
    for (int c = 0; c < n->channels; c++)
        for (int y = 0; y < n->height; y++) {
            float *row = padded + ((size_t)(y + pad) * width + pad) * n->channels + c;
            for (int x = 0; x < n->width; x++) row[(size_t)x * n->channels] = *image++;
        }
    int height = ceil_div(n->height, 2), columns = ceil_div(n->width, 2);
    task_of_map stem = {.n = n, .in = padded, .out = n->maps[0], .width = columns, .stride = 2, .layer = &n->stem,
                        .row_floats = (size_t)width * n->channels, .pixel_floats = n->channels};
    in_parts(&n->pool, height, dense_part, &stem);
    if (n->stem_pool) {
        task_of_map pool = {.n = n, .in = n->maps[0], .out = n->maps[1], .width = n->stem_width, .in_height = height,
                            .in_width = columns, .channels = n->stem.outputs};
        in_parts(&n->pool, n->stem_height, max_part, &pool);
        at = 1;
    }
    task_of_map pack = {.n = n, .in = n->maps[at], .next = &n->steps[0], .width = n->stem_width,
                        .channels = n->stem.outputs};
    in_parts(&n->pool, n->stem_height, pack_part, &pack);
    return at;
}

static const float *projected(burn_network *n, const step *s, const float *in) {
    if (s->shape.pool) {
        task_of_map halve = {.n = n, .in = in, .out = n->halves, .width = s->width, .in_height = s->in_height,
                             .in_width = s->in_width, .channels = s->shape.inputs};
        in_parts(&n->pool, s->height, halve_part, &halve);
        in = n->halves;
    }
    task_of_map project = {.n = n, .in = in, .out = n->projected, .width = s->width, .stride = 1, .layer = &s->project,
                           .row_floats = (size_t)s->width * s->shape.inputs, .pixel_floats = s->shape.inputs};
    in_parts(&n->pool, s->height, dense_part, &project);
    return n->projected;
}

static void pool_features(burn_network *n, const float *map, int area, int channels) {
    for (int c = 0; c < channels; c++) {
        float sum = 0, most = -__builtin_inff();
        for (int p = 0; p < area; p++) {
            float value = map[(size_t)p * channels + c];
            sum += value;
            most = larger(value, most);
        }
        float mean = sum / area + n->shift[c];
        most += n->shift[c];
        n->features[c] = n->pool_type == POOL_MAX ? most : n->pool_type == POOL_AVGMAX ? (mean + most) / 2 : mean;
        if (n->pool_type == POOL_CATAVGMAX) n->features[channels + c] = most;
    }
}

int burn_run(burn_network *n, const float *image, float *features, float *logits, float *map) {
    if (!n || !n->scratch || !image || (features && !n->pool_type) || (logits && !n->classes)) return BURN_ARGUMENT;
    int at = run_stem(n, image);
    for (int i = 0; i < n->steps_count; i++) {
        const step *s = &n->steps[i];
        task_of_map t = {.n = n, .s = s, .next = i + 1 < n->steps_count ? s + 1 : NULL, .in = n->maps[at],
                         .chunk = chunk_of(in_blocks(n->use, s->shape.outputs))};
        if (s->shape.project) t.shortcut = projected(n, s, t.in);
        if (!in_place(s)) at = 1 - at;
        t.out = n->maps[at];
        in_parts(&n->pool, ceil_div(s->height * s->width, t.chunk), step_part, &t);
    }
    const step *end = &n->steps[n->steps_count - 1];
    int area = end->height * end->width, channels = end->shape.outputs;
    const float *last = n->maps[at];
    if (map)
        for (int c = 0; c < channels; c++)
            for (int p = 0; p < area; p++) *map++ = last[(size_t)p * channels + c] + n->shift[c];
    if (n->pool_type && (features || logits)) pool_features(n, last, area, channels);
    if (features) memcpy(features, n->features, n->feature_dim * sizeof(float));
    if (logits) in_parts(&n->pool, ceil_div(n->classes, 64), class_part, &(task_of_map){.n = n, .out = logits});
    return BURN_OK;
}

/* ---- Opening and closing ----------------------------------------------------------------------------------------- */

static int open_reader(reader *r, int threads, burn_network **network) {
    *network = NULL;
    burn_network *n = calloc(1, sizeof *n);
    if (!n) return BURN_MEMORY;
    n->use = best_kernels();
    int error = open_workers(&n->pool, threads);
    r->owned = &n->owned;
    if (!error) error = read_network(r, n);
    if (!error) error = prepare(n, n->height, n->width);
    if (error) {
        burn_close(n);
        return error == BURN_ARGUMENT ? BURN_MALFORMED : error;
    }
    *network = n;
    return BURN_OK;
}

int burn_open(const char *path, int threads, burn_network **network) {
    if (network) *network = NULL;
    if (!path || !network || !within(threads, 1, 1024)) return BURN_ARGUMENT;
    reader r = {.file = fopen(path, "rb")};
    if (!r.file) return BURN_NO_FILE;
    long size = fseek(r.file, 0, SEEK_END) ? -1 : ftell(r.file);
    int error = BURN_NO_FILE;
    if (size >= 0 && !fseek(r.file, 0, SEEK_SET)) {
        r.left = size;
        error = open_reader(&r, threads, network);
    }
    fclose(r.file);
    return error;
}

int burn_open_memory(const void *data, size_t size, int threads, burn_network **network) {
    if (network) *network = NULL;
    if (!data || !network || !within(threads, 1, 1024)) return BURN_ARGUMENT;
    reader r = {.data = data, .left = size};
    return open_reader(&r, threads, network);
}

void burn_close(burn_network *n) {
    if (!n) return;
    close_workers(&n->pool);
    release(&n->buffers);
    release(&n->owned);
    free(n);
}

burn_shape burn_get_shape(const burn_network *n) {
    const step *last = &n->steps[n->steps_count - 1];
    return (burn_shape){n->channels, n->height, n->width, n->pool_type ? n->feature_dim : 0, n->classes,
                        n->pool_type > 0, last->shape.outputs, last->height, last->width, n->mean, n->std,
                        n->use->name};
}

void burn_normalise(const burn_network *n, const uint8_t *pixels, float *image) {
    size_t area = (size_t)n->height * n->width;
    for (int c = 0; c < n->channels; c++)
        for (size_t p = 0; p < area; p++)
            image[c * area + p] = (pixels[p * n->channels + c] / 255.0f - n->mean[c]) / n->std[c];
}

const char *burn_error(int error) {
    static const char *const TEXTS[] = {
        "no error",
        "the file cannot be opened or read",
        "no network.bin of burn-timm export --format c",
        "a version that this burn.c does not know: update it, or export again",
        "truncated or damaged (the checksum is wrong): copy or export it again",
        "sizes that cannot be: export it again",
        "not enough memory, or more than 2 GiB of weights or of maps",
        "an argument that cannot be",
    };
    return error >= 0 && error <= BURN_ARGUMENT ? TEXTS[error] : "unknown error";
}
