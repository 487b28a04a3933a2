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

enum { VERSION = 1, MAX_CHANNELS = 8192, MAX_SIDE = 8192, MAX_KERNEL = 11, MAX_STEPS = 1024 };
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

/* What a count is where nothing differs, as taps in the padding do not count: most [row classes][column
 * classes][outputs]. */
typedef struct {
    int32_t *most;
    uint8_t *row_class, *column_class; /* of each output row and column */
    int column_classes;
} border;

typedef struct {
    shape_of_step shape;
    float *threshold, *scale, *bias, *slope;
    uint8_t *weights;
    uint16_t *ones; /* [taps][outputs]: positive weights of each tap */
    dense project;
    /* of the size of the images: */
    int height, width; /* of the output */
    uint8_t *bits;
    border edge;
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
    float (*dot)(const uint16_t *half, const float *single, const float *values, int count);
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
    float *mean, *std, *shift, *class_bias;
    uint16_t *class_half; /* float16 [classes, features] */
    float *class_float;   /* or float32, where float16 has no room for them */
    dense stem;
    step *steps;
    float *maps[2], *halves, *projected,
        *features;    /* the second map first holds the padded image [height, width, channels] */
    int32_t *scratch; /* of each thread, CHUNK_SUMS or the outputs of a step */
    size_t scratch_each;
    workers pool;
};

#ifdef BURN_TRAINING /* see train.c */
typedef struct {
    const kernels *base;
    void (*signs)(const void *values, int bytes, int channels, uint8_t *bits);
    void (*spread)(const uint8_t *bits, int channels, int bytes, const void *plus, const void *minus, void *out);
    void (*positive)(const float *values, int count, uint64_t *bits);
    float (*mean_size)(const float *values, int count);
    void (*scaled)(const int32_t *counts, const int32_t *most, const float *scale, int outputs, int bytes, void *out);
    void (*pass)(const void *grad, int bytes, const float *weight, size_t count, float *out);
} training_kernels;
#endif

static int ceil_div(int a, int b) { return (a + b - 1) / b; }
static int words_of(int channels) { return ceil_div(channels, 64); }
static int block_width(const kernels *k, int outputs) {
    int vectors = k->vectors;
    while (vectors > 1 && outputs < k->lanes * vectors) vectors /= 2;
    return vectors * k->lanes;
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
#define SET avx512
#define TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,fma,popcnt")))
#define IS_AVX512
#define UNIT 8
#define VECTOR 64
#define PIXELS 4
#include "burn_kernels.h"
#undef SET
#undef TARGET
#undef IS_AVX512
#undef UNIT
#undef VECTOR
#undef PIXELS

#define SET avx2
#define TARGET __attribute__((target("avx2,bmi2,fma,popcnt")))
#define IS_AVX2
#define WORD 16
#define UNIT 1
#define VECTOR 32
#define PIXELS 4
#include "burn_kernels.h"
#undef SET
#undef TARGET
#undef IS_AVX2
#undef WORD
#undef UNIT
#undef VECTOR
#undef PIXELS
#endif

#if defined(__aarch64__) || defined(__wasm_simd128__)
#if defined(__aarch64__)
#define SET neon
#define IS_NEON
#else
#define SET wasm
#define IS_WASM
#endif
#define TARGET
#define UNIT 1
#define VECTOR 16
#define PIXELS 4
#include "burn_kernels.h"
#undef SET
#undef TARGET
#undef UNIT
#undef VECTOR
#undef PIXELS
#endif

#if defined(BURN_TRAINING) && defined(__x86_64__) /* AVX2 on maps with eight bytes for 64 bits */
#define SET compact
#define TARGET __attribute__((target("avx2,bmi2,fma,popcnt")))
#define IS_AVX2
#define UNIT 1
#define VECTOR 32
#define PIXELS 4
#include "burn_kernels.h"
#undef SET
#undef TARGET
#undef IS_AVX2
#undef UNIT
#undef VECTOR
#undef PIXELS
#endif

#define SET plain
#define TARGET
#define IS_PLAIN
#define UNIT 8
#define VECTOR 8
#define PIXELS 2
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

/* ---- Reading a file: every size is checked before it is used ----------------------------------------------------- */

typedef struct {
    FILE *file;
    const uint8_t *data; /* where there is no file */
    uint64_t left;
    bool failed;
} reader;

static void get(reader *r, void *to, uint64_t bytes) {
    if (r->failed || bytes > r->left) {
        r->failed = true;
        memset(to, 0, bytes);
        return;
    }
    r->left -= bytes;
    if (r->file) {
        if (fread(to, 1, bytes, r->file) != bytes) r->failed = true;
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
    uint64_t expected = 0, found = r->left;
    get(r, mark, 8);
    get(r, &expected, 8);
    if (r->failed || memcmp(mark, "BURN1BIT", 8)) return BURN_NOT_BURN;
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
           within(s->repeat, 0, 1) && within(s->project, 0, 1) && s->pool == (s->stride == 2) &&
           (s->project ? !s->repeat : s->outputs == s->inputs * (1 + s->repeat));
}

/* Zeroed memory for `count` items of `size` bytes; NULL where there is not so much, also on machines of 32 bits. */
static void *aligned(uint64_t count, size_t size) {
    if (count > (SIZE_MAX / 2 - 128) / size) return NULL;
    size_t bytes = ((size_t)count * size + 127) / 64 * 64;
    void *memory = aligned_alloc(64, bytes);
    if (memory) memset(memory, 0, bytes);
    return memory;
}

/* Whether the file still has so many items: asked before memory is taken for them. */
static bool enough(reader *r, uint64_t count, size_t size) {
    if (count > r->left / size) r->failed = true;
    return !r->failed;
}

static float *get_floats(reader *r, uint64_t count) {
    float *values = enough(r, count, sizeof(float)) ? aligned(count + 16, sizeof(float)) : NULL;
    if (values) get(r, values, count * sizeof(float));
    return values;
}

/* weights [outputs][taps], bias [outputs] (all zero where there is none in the file). */
static int get_dense(reader *r, dense *layer, int inputs, int outputs, int size, bool with_bias) {
    size_t taps = (size_t)inputs * size * size, blocks = ceil_div(outputs, 16);
    float row[256];
    *layer = (dense){inputs, outputs, size, NULL, NULL};
    if (enough(r, (uint64_t)taps * outputs, sizeof(float)))
        layer->weights = aligned((uint64_t)blocks * taps * 16, sizeof(float));
    if (!layer->weights) return BURN_MEMORY;
    for (int o = 0; o < outputs; o++) {
        for (size_t tap = 0; tap < taps; tap += 256) {
            size_t count = taps - tap < 256 ? taps - tap : 256;
            get(r, row, count * sizeof(float));
            for (size_t i = 0; i < count; i++) layer->weights[((o / 16) * taps + tap + i) * 16 + o % 16] = row[i];
        }
    }
    layer->bias = with_bias ? get_floats(r, outputs) : aligned(outputs + 16, sizeof(float));
    return layer->bias ? BURN_OK : BURN_MEMORY;
}

/* Bits [outputs][taps][words] into the layout of the kernels, and the positive weights of each tap. */
static int get_binary(reader *r, step *s, const kernels *k) {
    int words = words_of(s->shape.inputs), taps = s->shape.size * s->shape.size;
    int width = block_width(k, s->shape.outputs), blocks = ceil_div(s->shape.outputs, width);
    size_t units = (size_t)taps * words * 8 / k->unit, row = (size_t)taps * words;
    uint64_t *bits = malloc(row * 8);
    if (enough(r, (uint64_t)row * s->shape.outputs, 8)) s->weights = aligned((uint64_t)blocks * units * width, k->unit);
    s->ones = aligned((uint64_t)taps * s->shape.outputs, sizeof(uint16_t));
    int error = bits && s->weights && s->ones ? BURN_OK : BURN_MEMORY;
    for (int o = 0; o < s->shape.outputs && !error; o++) {
        get(r, bits, row * 8);
        uint8_t *block = s->weights + (size_t)(o / width) * units * width * k->unit + (size_t)(o % width) * k->unit;
        for (size_t u = 0; u < units; u++) memcpy(block + u * width * k->unit, (uint8_t *)bits + u * k->unit, k->unit);
        for (int tap = 0; tap < taps; tap++) {
            int ones = 0;
            for (int w = 0; w < words; w++) ones += __builtin_popcountll(bits[tap * words + w]);
            s->ones[(size_t)tap * s->shape.outputs + o] = ones;
        }
        if (s->shape.inputs % 64) /* spare bits must be 0: they are compared too */
            for (int tap = 0; tap < taps; tap++)
                if (bits[tap * words + words - 1] >> (s->shape.inputs % 64)) error = BURN_MALFORMED;
    }
    free(bits);
    return error;
}

static int get_step(reader *r, step *s, const kernels *k) {
    s->threshold = get_floats(r, s->shape.inputs);
    s->scale = get_floats(r, s->shape.outputs);
    s->bias = get_floats(r, s->shape.outputs);
    s->slope = get_floats(r, s->shape.outputs);
    if (!s->threshold || !s->scale || !s->bias || !s->slope) return BURN_MEMORY;
    int error = get_binary(r, s, k);
    if (!error && s->shape.project) error = get_dense(r, &s->project, s->shape.inputs, s->shape.outputs, 1, false);
    return error;
}

static int get_classifier(reader *r, burn_network *n, bool half) {
    uint64_t count = (uint64_t)n->classes * n->feature_dim;
    if (half && enough(r, count, 2) && (n->class_half = aligned(count + 16, 2))) get(r, n->class_half, count * 2);
    if (!half) n->class_float = get_floats(r, count);
    if (half && count % 2) {
        uint16_t padding;
        get(r, &padding, 2);
    }
    n->class_bias = get_floats(r, n->classes);
    return (n->class_half || n->class_float) && n->class_bias ? BURN_OK : BURN_MEMORY;
}

static int read_network(reader *r, burn_network *n) {
    int error = check_head(r);
    if (error) return error;
    n->channels = get32(r), n->height = get32(r), n->width = get32(r);
    int stem_outputs = get32(r), stem_size = get32(r);
    n->stem_pool = get32(r), n->steps_count = get32(r), n->pool_type = get32(r), n->classes = get32(r);
    int half = get32(r);
    if (!within(n->channels, 1, 1024) || !within(n->height, 1, MAX_SIDE) || !within(n->width, 1, MAX_SIDE) ||
        !within(stem_outputs, 1, MAX_CHANNELS) || !within(stem_size, 1, MAX_KERNEL) || !within(n->stem_pool, 0, 1) ||
        !within(n->steps_count, 1, MAX_STEPS) || !within(n->pool_type, 0, POOL_TYPES - 1) || !within(half, 0, 1) ||
        !within(n->classes, 0, n->pool_type ? 1 << 20 : 0))
        return BURN_MALFORMED;
    n->mean = get_floats(r, n->channels), n->std = get_floats(r, n->channels);
    n->steps = calloc(n->steps_count, sizeof *n->steps);
    if (!n->mean || !n->std || !n->steps) return BURN_MEMORY;
    int channels = stem_outputs;
    for (int i = 0; i < n->steps_count; i++) {
        shape_of_step *s = &n->steps[i].shape;
        s->inputs = get32(r), s->outputs = get32(r), s->size = get32(r), s->stride = get32(r);
        s->padding = get32(r), s->pool = get32(r), s->repeat = get32(r), s->project = get32(r);
        if (!plausible(s, channels)) return BURN_MALFORMED;
        channels = s->outputs;
    }
    n->feature_dim = channels * (n->pool_type == POOL_CATAVGMAX ? 2 : 1);
    error = get_dense(r, &n->stem, n->channels, stem_outputs, stem_size, true);
    for (int i = 0; i < n->steps_count && !error && !r->failed; i++) error = get_step(r, &n->steps[i], n->use);
    if (error) return error;
    if (!(n->shift = get_floats(r, channels))) return BURN_MEMORY;
    if (n->classes && !r->failed && (error = get_classifier(r, n, half))) return error;
    if (r->failed || r->left) return BURN_MALFORMED; /* the checksum is right, so the writer was wrong */
    return BURN_OK;
}

/* ---- Buffers for one size of images ------------------------------------------------------------------------------ */

static int out_side(int side, const shape_of_step *s) { return (side + 2 * s->padding - s->size) / s->stride + 1; }

/* Which taps of a position lie inside, as a number for each distinct set of taps; returns how many sets there are. */
static int classes_of(int side, int out, const shape_of_step *s, uint8_t *of_position, uint32_t *taps) {
    int count = 0;
    for (int at = 0; at < out; at++) {
        uint32_t inside = 0;
        for (int tap = 0; tap < s->size; tap++) {
            int place = at * s->stride - s->padding + tap;
            if (place >= 0 && place < side) inside |= 1u << tap;
        }
        int found = 0;
        while (found < count && taps[found] != inside) found++;
        if (found == count) taps[count++] = inside;
        of_position[at] = found;
    }
    return count;
}

static void free_border(border *edge) {
    free(edge->most), free(edge->row_class), free(edge->column_class);
    *edge = (border){0};
}

/* height and width: of the inputs; ones [taps][outputs]: the positive weights of each tap. */
static int make_border(border *edge, const shape_of_step *s, int height, int width, const uint16_t *ones) {
    uint32_t rows[2 * MAX_KERNEL + 1], columns[2 * MAX_KERNEL + 1];
    int out_height = out_side(height, s), out_width = out_side(width, s);
    edge->row_class = malloc(out_height), edge->column_class = malloc(out_width);
    if (!edge->row_class || !edge->column_class) return BURN_MEMORY;
    int row_classes = classes_of(height, out_height, s, edge->row_class, rows);
    edge->column_classes = classes_of(width, out_width, s, edge->column_class, columns);
    int32_t *most = edge->most = aligned((uint64_t)row_classes * edge->column_classes * s->outputs + 16, 4);
    if (!most) return BURN_MEMORY;
    for (int i = 0; i < row_classes; i++)
        for (int j = 0; j < edge->column_classes; j++, most += s->outputs)
            for (int tap = 0; tap < s->size * s->size; tap++) {
                bool inside = rows[i] >> (tap / s->size) & columns[j] >> (tap % s->size) & 1;
                for (int o = 0; o < s->outputs; o++)
                    most[o] += inside ? s->inputs : 2 * ones[(size_t)tap * s->outputs + o];
            }
    return BURN_OK;
}

static int prepare_step(step *s, int height, int width, int word) {
    const shape_of_step *shape = &s->shape;
    if (height + 2 * shape->padding < shape->size || width + 2 * shape->padding < shape->size) return BURN_ARGUMENT;
    s->height = out_side(height, shape), s->width = out_side(width, shape);
    if (s->height < 1 || s->width < 1) return BURN_ARGUMENT;
    int half_height = ceil_div(height, 2), half_width = ceil_div(width, 2); /* the shortcut must have the same size */
    if (s->height != (shape->pool ? half_height : height) || s->width != (shape->pool ? half_width : width))
        return BURN_ARGUMENT;
    uint64_t area = (uint64_t)(height + 2 * shape->padding) * (width + 2 * shape->padding);
    s->bits = aligned(area * words_of(shape->inputs), word);
    return s->bits ? make_border(&s->edge, shape, height, width, s->ones) : BURN_MEMORY;
}

static void free_buffers(burn_network *n) {
    for (int i = 0; n->steps && i < n->steps_count; i++) {
        step *s = &n->steps[i];
        free(s->bits);
        s->bits = NULL;
        free_border(&s->edge);
    }
    free(n->maps[0]), free(n->maps[1]), free(n->halves), free(n->projected), free(n->features);
    free(n->scratch);
    n->maps[0] = n->maps[1] = n->halves = n->projected = n->features = NULL, n->scratch = NULL;
}

static const int32_t *count_at(const border *edge, int y, int x, int outputs) {
    return edge->most + (size_t)(edge->row_class[y] * edge->column_classes + edge->column_class[x]) * outputs;
}

/* Whether a step may write over its shortcut: each output needs no other pixel than its own. */
static bool in_place(const step *s) { return !s->shape.pool && !s->shape.repeat && !s->shape.project; }

static int prepare(burn_network *n, int height, int width) {
    if (!within(height, 1, MAX_SIDE) || !within(width, 1, MAX_SIDE)) return BURN_ARGUMENT;
    int pad = n->stem.size / 2, row = ceil_div(height, 2), column = ceil_div(width, 2), at = 0, error = BURN_OK;
    uint64_t sizes[2] = {(uint64_t)row * column * n->stem.outputs, 0}, halves = 0, projected = 0,
             widest = n->stem.outputs;
    n->height = height, n->width = width;
    if (n->stem_pool) {
        row = ceil_div(row, 2), column = ceil_div(column, 2), at = 1;
        sizes[1] = (uint64_t)row * column * n->stem.outputs;
    }
    n->stem_height = row, n->stem_width = column;
    for (int i = 0; i < n->steps_count; i++) {
        step *s = &n->steps[i];
        if ((error = prepare_step(s, row, column, n->use->word))) return error;
        row = s->height, column = s->width;
        uint64_t area = (uint64_t)row * column, size = area * s->shape.outputs;
        if (!in_place(s)) at = 1 - at;
        if (size > sizes[at]) sizes[at] = size;
        if (s->shape.project && size > projected) projected = size;
        if (s->shape.project && area * s->shape.inputs > halves) halves = area * s->shape.inputs;
        size_t padded = (size_t)ceil_div(s->shape.outputs, block_width(n->use, s->shape.outputs)) *
                        block_width(n->use, s->shape.outputs);
        if (padded > widest) widest = padded;
    }
    n->scratch_each = (widest * 4 > CHUNK_SUMS ? widest * 4 : CHUNK_SUMS) + 2 * MAX_CHANNELS;
    uint64_t image = (uint64_t)(height + 2 * pad) * (width + 2 * pad) * n->channels;
    if (image > sizes[1]) sizes[1] = image;
    for (int i = 0; i < 2; i++) n->maps[i] = aligned(sizes[i] + 16, sizeof(float));
    n->halves = aligned(halves + 16, sizeof(float)), n->projected = aligned(projected + 16, sizeof(float));
    n->features = aligned(n->feature_dim + 16, sizeof(float));
    n->scratch = aligned((uint64_t)n->scratch_each * n->pool.threads, sizeof(int32_t));
    bool whole = n->maps[0] && n->maps[1] && n->halves && n->projected && n->features && n->scratch;
    return whole ? BURN_OK : BURN_MEMORY;
}

int burn_resize(burn_network *n, int height, int width) {
    if (!n) return BURN_ARGUMENT;
    int old_height = n->height, old_width = n->width;
    free_buffers(n);
    int error = prepare(n, height, width);
    if (error) {
        free_buffers(n);
        if (prepare(n, old_height, old_width)) return BURN_MEMORY;
    }
    return error;
}

/* ---- One image --------------------------------------------------------------------------------------------------- */

typedef struct {
    burn_network *n;
    const step *s, *next; /* next: NULL behind the last step */
    const float *in;
    const float *shortcut; /* of the outputs' size; or NULL: in, pooled where the step pools */
    float *out;
    int height, width, stride, chunk; /* of the output; in floats where the input is dense */
    const dense *layer;
    size_t row_floats, pixel_floats;
    int in_height, in_width, channels;
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
    int width = block_width(k, outputs), blocks = ceil_div(outputs, width), padded = blocks * width;
    size_t pixel_bytes = words * k->word, row_bytes = (t->in_width + 2 * s->shape.padding) * pixel_bytes;
    int32_t *counts = n->scratch + thread * n->scratch_each;
    float *mean = (float *)(counts + n->scratch_each - 2 * MAX_CHANNELS);
    const uint8_t *pixels[CHUNK_PIXELS] = {0};
    for (int p = 0; p < count; p++) {
        int y = (first + p) / s->width, x = (first + p) % s->width;
        pixels[p] = s->bits + y * s->shape.stride * row_bytes + x * s->shape.stride * pixel_bytes;
    }
    k->mismatches(pixels, count, s->weights, blocks, width, s->shape.size, row_bytes,
                  s->shape.size * words * 8 / k->unit, counts);
    int next_words = words_of(outputs), next_padding = t->next ? t->next->shape.padding : 0;
    for (int p = 0; p < count; p++) {
        int y = (first + p) / s->width, x = (first + p) % s->width;
        const float *shortcut =
            t->shortcut ? t->shortcut + (size_t)(first + p) * outputs : t->in + (size_t)(first + p) * inputs;
        if (!t->shortcut && s->shape.pool) {
            const float *inside[4];
            k->mean(inside, window(t->in, t->in_height, t->in_width, inputs, y, x, inside), inputs, mean);
            shortcut = mean;
        }
        uint8_t *bits = NULL;
        if (t->next) {
            size_t at = (size_t)(y + next_padding) * (s->width + 2 * next_padding) + x + next_padding;
            bits = t->next->bits + at * next_words * k->word;
        }
        const int32_t *most = count_at(&s->edge, y, x, outputs);
        k->finish(counts + (size_t)p * padded, most, s, shortcut, t->shortcut ? outputs : inputs,
                  t->next ? t->next->threshold : NULL, t->out + (size_t)(first + p) * outputs, bits);
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
                    for (int i = 0; i < t->channels; i++) out[i] = in[i] > out[i] ? in[i] : out[i];
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
        size_t row = (size_t)c * n->feature_dim;
        float total = n->use->dot(n->class_half ? n->class_half + row : NULL,
                                  n->class_float ? n->class_float + row : NULL, n->features, n->feature_dim);
        t->out[c] = total + n->class_bias[c];
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
    task_of_map stem = {.n = n,
                        .in = padded,
                        .out = n->maps[0],
                        .width = columns,
                        .stride = 2,
                        .layer = &n->stem,
                        .row_floats = (size_t)width * n->channels,
                        .pixel_floats = n->channels};
    in_parts(&n->pool, height, dense_part, &stem);
    if (n->stem_pool) {
        task_of_map pool = {.n = n,
                            .in = n->maps[0],
                            .out = n->maps[1],
                            .width = n->stem_width,
                            .in_height = height,
                            .in_width = columns,
                            .channels = n->stem.outputs};
        in_parts(&n->pool, n->stem_height, max_part, &pool);
        at = 1;
    }
    task_of_map pack = {
        .n = n, .in = n->maps[at], .next = &n->steps[0], .width = n->stem_width, .channels = n->stem.outputs};
    in_parts(&n->pool, n->stem_height, pack_part, &pack);
    return at;
}

static const float *projected(burn_network *n, const step *s, const float *in, int height, int width) {
    task_of_map t = {.n = n,
                     .in = in,
                     .out = n->halves,
                     .width = s->width,
                     .in_height = height,
                     .in_width = width,
                     .channels = s->shape.inputs};
    if (s->shape.pool) in_parts(&n->pool, s->height, halve_part, &t);
    task_of_map project = {.n = n,
                           .in = s->shape.pool ? n->halves : in,
                           .out = n->projected,
                           .width = s->width,
                           .stride = 1,
                           .layer = &s->project,
                           .row_floats = (size_t)s->width * s->shape.inputs,
                           .pixel_floats = s->shape.inputs};
    in_parts(&n->pool, s->height, dense_part, &project);
    return n->projected;
}

static void pool_features(burn_network *n, const float *map, int area, int channels) {
    for (int c = 0; c < channels; c++) {
        float sum = 0, most = -__builtin_inff();
        for (int p = 0; p < area; p++) {
            float value = map[(size_t)p * channels + c];
            sum += value;
            most = value > most ? value : most;
        }
        float mean = sum / area + n->shift[c];
        most += n->shift[c];
        n->features[c] = n->pool_type == POOL_MAX ? most : n->pool_type == POOL_AVGMAX ? (mean + most) / 2 : mean;
        if (n->pool_type == POOL_CATAVGMAX) n->features[channels + c] = most;
    }
}

int burn_run(burn_network *n, const float *image, float *features, float *logits, float *map) {
    if (!n || !n->scratch || !image || (features && !n->pool_type) || (logits && !n->classes)) return BURN_ARGUMENT;
    int at = run_stem(n, image), height = n->stem_height, width = n->stem_width;
    for (int i = 0; i < n->steps_count; i++) {
        const step *s = &n->steps[i];
        const float *in = n->maps[at];
        const float *shortcut = s->shape.project ? projected(n, s, in, height, width) : NULL;
        if (!in_place(s)) at = 1 - at;
        int padded =
            ceil_div(s->shape.outputs, block_width(n->use, s->shape.outputs)) * block_width(n->use, s->shape.outputs);
        task_of_map t = {.n = n,
                         .s = s,
                         .next = i + 1 < n->steps_count ? s + 1 : NULL,
                         .in = in,
                         .shortcut = shortcut,
                         .out = n->maps[at],
                         .in_height = height,
                         .in_width = width};
        t.chunk = CHUNK_SUMS / padded < 4 ? 4 : CHUNK_SUMS / padded < CHUNK_PIXELS ? CHUNK_SUMS / padded : CHUNK_PIXELS;
        height = s->height, width = s->width;
        in_parts(&n->pool, ceil_div(height * width, t.chunk), step_part, &t);
    }
    int area = height * width, channels = n->steps[n->steps_count - 1].shape.outputs;
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
    if (!error) error = read_network(r, n);
    if (error == BURN_MEMORY && r->failed) error = BURN_MALFORMED; /* sizes that the file does not hold */
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
    free_buffers(n);
    for (int i = 0; n->steps && i < n->steps_count; i++) {
        step *s = &n->steps[i];
        free(s->threshold), free(s->scale), free(s->bias), free(s->slope), free(s->weights), free(s->ones);
        free(s->project.weights), free(s->project.bias);
    }
    free(n->steps), free(n->stem.weights), free(n->stem.bias), free(n->mean), free(n->std), free(n->shift);
    free(n->class_half), free(n->class_float), free(n->class_bias), free(n);
}

burn_shape burn_get_shape(const burn_network *n) {
    const step *last = &n->steps[n->steps_count - 1];
    return (burn_shape){n->channels,
                        n->height,
                        n->width,
                        n->pool_type ? n->feature_dim : 0,
                        n->classes,
                        n->pool_type > 0,
                        last->shape.outputs,
                        last->height,
                        last->width,
                        n->mean,
                        n->std,
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
        "not enough memory",
        "an argument that cannot be",
    };
    return error >= 0 && error <= BURN_ARGUMENT ? TEXTS[error] : "unknown error";
}
