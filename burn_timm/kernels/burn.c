/* burn.c - run 1-bit vision networks on a CPU; see burn.h. C11, no libraries but libc (and threads).

   A network is a float convolution (the stem), binary convolutions (the steps) and a head. A step computes, per pixel,

       count  = sum over the taps inside the image of +1 where input bit and weight bit agree, -1 where they differ
       output = prelu(scale * count + bias + shortcut, slope)
       bits   = output >= threshold of the next step

   Maps are float [height, width, channels]; bits are [height + 2 padding, width + 2 padding, words of 64 channels], with
   zeros in the padding and in spare channels. Binary weights are [blocks of outputs][kernel rows][units of a row][outputs
   of a block]: one vector compares the same unit of inputs (8 or 64 of them) with many outputs, and nothing is ever
   summed across a vector. A tap in the padding compares with zeros; what that adds is known and subtracted.

   This file includes itself once for each set of instructions (the part below "KERNELS"); the best one is chosen when a
   network is opened, so that one binary serves all CPUs. */

#ifndef BURN_KERNELS

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

typedef struct {
    shape_of_step shape;
    float *threshold, *scale, *bias, *slope;
    uint8_t *weights;
    uint16_t *ones; /* [taps][outputs]: positive weights of each tap */
    dense project;
    /* of the size of the images: */
    int height, width; /* of the output */
    uint8_t *bits;
    int32_t *most;                   /* [row classes][column classes][outputs]: the count where nothing differs */
    uint8_t *row_class, *column_class;
    int column_classes;
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
} kernels;

#if BURN_THREADS
typedef struct {
    pthread_t *threads;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    pid_t owner; /* the process that has the threads: after a fork the child has none */
    int count;
    bool ending;
    atomic_uint generation;
    atomic_int next, busy;
} pool_of_threads;
#endif

struct burn_network {
    int channels, height, width, steps_count, stem_pool, pool_type, feature_dim, classes, threads;
    int stem_height, stem_width; /* behind the stem's pooling */
    const kernels *use;
    float *mean, *std, *shift, *class_bias;
    uint16_t *class_half; /* float16 [classes, features] */
    float *class_float;   /* or float32, where float16 has no room for them */
    dense stem;
    step *steps;
    float *image, *maps[2], *halves, *projected, *features; /* image: padded, [height, width, channels] */
    int32_t *scratch;                                        /* of each thread, CHUNK_SUMS or the outputs of a step */
    size_t scratch_each;
    void (*work)(burn_network *, const void *, int part, int thread);
    const void *task;
    int parts;
#if BURN_THREADS
    pool_of_threads pool;
#endif
};

static int ceil_div(int a, int b) { return (a + b - 1) / b; }
static int words_of(int channels) { return ceil_div(channels, 64); }
static int block_width(const kernels *k, int outputs) {
    int vectors = k->vectors;
    while (vectors > 1 && outputs < k->lanes * vectors) vectors /= 2;
    return vectors * k->lanes;
}

/* ---- Threads ---------------------------------------------------------------------------------------------------- */

#if BURN_THREADS
static void take_parts(burn_network *n, int thread) {
    for (int part; (part = atomic_fetch_add(&n->pool.next, 1)) < n->parts;) n->work(n, n->task, part, thread);
    atomic_fetch_sub(&n->pool.busy, 1);
}

typedef struct {
    burn_network *network;
    int thread;
} start_of_thread;

static void *thread_main(void *argument) {
    start_of_thread start = *(start_of_thread *)argument;
    free(argument);
    pool_of_threads *pool = &start.network->pool;
    for (unsigned seen = 0;;) {
        for (int spin = 0; spin < 2000 && atomic_load(&pool->generation) == seen; spin++)
            if (spin % 64 == 63) sched_yield();
        if (atomic_load(&pool->generation) == seen) {
            pthread_mutex_lock(&pool->mutex);
            while (atomic_load(&pool->generation) == seen) pthread_cond_wait(&pool->wake, &pool->mutex);
            pthread_mutex_unlock(&pool->mutex);
        }
        seen = atomic_load(&pool->generation);
        if (pool->ending) return NULL;
        take_parts(start.network, start.thread);
    }
}

static void start_threads(burn_network *n) {
    pool_of_threads *pool = &n->pool;
    if (pool->owner == getpid()) return;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    atomic_store(&pool->generation, 0);
    pool->owner = getpid();
    pool->ending = false;
    for (pool->count = 0; pool->count < n->threads - 1; pool->count++) {
        start_of_thread *start = malloc(sizeof *start);
        if (!start) break;
        *start = (start_of_thread){n, pool->count + 1};
        if (pthread_create(&pool->threads[pool->count], NULL, thread_main, start)) {
            free(start);
            break; /* fewer threads do the same work */
        }
    }
}

static void announce(pool_of_threads *pool) {
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add(&pool->generation, 1);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
}

static void stop_threads(burn_network *n) {
    pool_of_threads *pool = &n->pool;
    if (pool->owner != getpid()) return;
    pool->ending = true;
    announce(pool);
    for (int i = 0; i < pool->count; i++) pthread_join(pool->threads[i], NULL);
    pthread_mutex_destroy(&pool->mutex);
    pthread_cond_destroy(&pool->wake);
}
#endif

/* Calls work for each part from 0 to parts - 1, on all threads. */
static void in_parts(burn_network *n, int parts, void (*work)(burn_network *, const void *, int, int), const void *task) {
    n->work = work, n->task = task, n->parts = parts;
#if BURN_THREADS
    if (n->threads > 1 && parts > 1) {
        start_threads(n);
        pool_of_threads *pool = &n->pool;
        atomic_store(&pool->next, 0);
        atomic_store(&pool->busy, pool->count + 1);
        announce(pool);
        take_parts(n, 0);
        for (int spin = 0; atomic_load(&pool->busy) > 0; spin++)
            if (spin % 64 == 63) sched_yield();
        return;
    }
#endif
    for (int part = 0; part < parts; part++) work(n, task, part, 0);
}

/* ---- The kernels of every set of instructions ------------------------------------------------------------------- */

#define BURN_KERNELS
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
#include "burn.c"
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
#include "burn.c"
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
#include "burn.c"
#undef SET
#undef TARGET
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
#include "burn.c"

static const kernels *const SETS[] = {
#if defined(__x86_64__)
    &kernels_avx512, &kernels_avx2,
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
    unsigned avx2_bmi2 = 1u << 5 | 1u << 8, f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, vpopcntdq = 1u << 14;
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

static void *aligned(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    if (memory) memset(memory, 0, (bytes + 127) / 64 * 64);
    return memory;
}

static float *get_floats(reader *r, size_t count) {
    float *values = aligned((count + 16) * sizeof(float));
    if (values) get(r, values, count * sizeof(float));
    return values;
}

/* weights [outputs][taps], bias [outputs] (all zero where there is none in the file). */
static int get_dense(reader *r, dense *layer, int inputs, int outputs, int size, bool with_bias) {
    size_t taps = (size_t)inputs * size * size, blocks = ceil_div(outputs, 16);
    float row[256];
    *layer = (dense){inputs, outputs, size, aligned(blocks * taps * 16 * sizeof(float)), NULL};
    if (!layer->weights) return BURN_MEMORY;
    for (int o = 0; o < outputs; o++) {
        for (size_t tap = 0; tap < taps; tap += 256) {
            size_t count = taps - tap < 256 ? taps - tap : 256;
            get(r, row, count * sizeof(float));
            for (size_t i = 0; i < count; i++) layer->weights[((o / 16) * taps + tap + i) * 16 + o % 16] = row[i];
        }
    }
    layer->bias = with_bias ? get_floats(r, outputs) : aligned((outputs + 16) * sizeof(float));
    return layer->bias ? BURN_OK : BURN_MEMORY;
}

/* Bits [outputs][taps][words] into the layout of the kernels, and the positive weights of each tap. */
static int get_binary(reader *r, step *s, const kernels *k) {
    int words = words_of(s->shape.inputs), taps = s->shape.size * s->shape.size;
    int width = block_width(k, s->shape.outputs), blocks = ceil_div(s->shape.outputs, width);
    size_t units = (size_t)taps * words * 8 / k->unit, row = (size_t)taps * words;
    uint64_t *bits = malloc(row * 8);
    s->weights = aligned(blocks * units * width * k->unit);
    s->ones = aligned((size_t)taps * s->shape.outputs * sizeof(uint16_t));
    int error = bits && s->weights && s->ones ? BURN_OK : BURN_MEMORY;
    for (int o = 0; o < s->shape.outputs && !error; o++) {
        get(r, bits, row * 8);
        uint8_t *block = s->weights + (size_t)(o / width) * units * width * k->unit + (size_t)(o % width) * k->unit;
        for (size_t u = 0; u < units; u++)
            memcpy(block + u * width * k->unit, (uint8_t *)bits + u * k->unit, k->unit);
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
    size_t count = (size_t)n->classes * n->feature_dim;
    if (half && (n->class_half = aligned(count * 2))) get(r, n->class_half, count * 2);
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
    if (!within(n->channels, 1, 64) || !within(n->height, 1, MAX_SIDE) || !within(n->width, 1, MAX_SIDE) ||
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

static int prepare_step(step *s, int height, int width, int word) {
    const shape_of_step *shape = &s->shape;
    uint32_t rows[2 * MAX_KERNEL + 1], columns[2 * MAX_KERNEL + 1];
    s->height = out_side(height, shape), s->width = out_side(width, shape);
    if (s->height < 1 || s->width < 1) return BURN_ARGUMENT;
    int half_height = ceil_div(height, 2), half_width = ceil_div(width, 2); /* the shortcut must have the same size */
    if (s->height != (shape->pool ? half_height : height) || s->width != (shape->pool ? half_width : width))
        return BURN_ARGUMENT;
    s->row_class = malloc(s->height), s->column_class = malloc(s->width);
    size_t area = (size_t)(height + 2 * shape->padding) * (width + 2 * shape->padding);
    s->bits = aligned(area * words_of(shape->inputs) * word);
    if (!s->row_class || !s->column_class || !s->bits) return BURN_MEMORY;
    int row_classes = classes_of(height, s->height, shape, s->row_class, rows);
    s->column_classes = classes_of(width, s->width, shape, s->column_class, columns);
    s->most = aligned(((size_t)row_classes * s->column_classes * shape->outputs + 16) * sizeof(int32_t));
    if (!s->most) return BURN_MEMORY;
    int32_t *most = s->most;
    for (int i = 0; i < row_classes; i++)
        for (int j = 0; j < s->column_classes; j++)
            for (int o = 0; o < shape->outputs; o++, most++)
                for (int tap = 0; tap < shape->size * shape->size; tap++) {
                    bool inside = rows[i] >> (tap / shape->size) & columns[j] >> (tap % shape->size) & 1;
                    *most += inside ? shape->inputs : 2 * s->ones[(size_t)tap * shape->outputs + o];
                }
    return BURN_OK;
}

static void free_buffers(burn_network *n) {
    for (int i = 0; n->steps && i < n->steps_count; i++) {
        step *s = &n->steps[i];
        free(s->bits), free(s->most), free(s->row_class), free(s->column_class);
        s->bits = NULL, s->most = NULL, s->row_class = s->column_class = NULL;
    }
    free(n->image), free(n->maps[0]), free(n->maps[1]), free(n->halves), free(n->projected), free(n->features);
    free(n->scratch);
    n->image = n->maps[0] = n->maps[1] = n->halves = n->projected = n->features = NULL, n->scratch = NULL;
}

/* Whether a step may write over its shortcut: each output needs no other pixel than its own. */
static bool in_place(const step *s) { return !s->shape.pool && !s->shape.repeat && !s->shape.project; }

static int prepare(burn_network *n, int height, int width) {
    if (!within(height, 1, MAX_SIDE) || !within(width, 1, MAX_SIDE)) return BURN_ARGUMENT;
    int pad = n->stem.size / 2, row = ceil_div(height, 2), column = ceil_div(width, 2), at = 0, error = BURN_OK;
    size_t sizes[2] = {(size_t)row * column * n->stem.outputs, 0}, halves = 0, projected = 0, widest = n->stem.outputs;
    n->height = height, n->width = width;
    if (n->stem_pool) {
        row = ceil_div(row, 2), column = ceil_div(column, 2), at = 1;
        sizes[1] = (size_t)row * column * n->stem.outputs;
    }
    n->stem_height = row, n->stem_width = column;
    for (int i = 0; i < n->steps_count; i++) {
        step *s = &n->steps[i];
        if ((error = prepare_step(s, row, column, n->use->word))) return error;
        row = s->height, column = s->width;
        size_t area = (size_t)row * column, size = area * s->shape.outputs;
        if (!in_place(s)) at = 1 - at;
        if (size > sizes[at]) sizes[at] = size;
        if (s->shape.project && size > projected) projected = size;
        if (s->shape.project && area * s->shape.inputs > halves) halves = area * s->shape.inputs;
        size_t padded = (size_t)ceil_div(s->shape.outputs, block_width(n->use, s->shape.outputs)) *
                        block_width(n->use, s->shape.outputs);
        if (padded > widest) widest = padded;
    }
    n->scratch_each = (widest * 4 > CHUNK_SUMS ? widest * 4 : CHUNK_SUMS) + 2 * MAX_CHANNELS;
    n->image = aligned((size_t)(height + 2 * pad) * (width + 2 * pad) * n->channels * sizeof(float));
    for (int i = 0; i < 2; i++) n->maps[i] = aligned((sizes[i] + 16) * sizeof(float));
    n->halves = aligned((halves + 16) * sizeof(float)), n->projected = aligned((projected + 16) * sizeof(float));
    n->features = aligned((n->feature_dim + 16) * sizeof(float));
    n->scratch = aligned(n->scratch_each * n->threads * sizeof(int32_t));
    bool whole = n->image && n->maps[0] && n->maps[1] && n->halves && n->projected && n->features && n->scratch;
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

/* ---- One image ---------------------------------------------------------------------------------------------------- */

typedef struct {
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

static void step_part(burn_network *n, const void *task, int part, int thread) {
    const task_of_map *t = task;
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
        const float *shortcut = t->shortcut ? t->shortcut + (size_t)(first + p) * outputs
                                            : t->in + (size_t)(first + p) * inputs;
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
        const int32_t *most = s->most + (size_t)(s->row_class[y] * s->column_classes + s->column_class[x]) * outputs;
        k->finish(counts + (size_t)p * padded, most, s, shortcut, t->shortcut ? outputs : inputs,
                  t->next ? t->next->threshold : NULL, t->out + (size_t)(first + p) * outputs, bits);
    }
}

static void dense_part(burn_network *n, const void *task, int part, int thread) {
    const task_of_map *t = task;
    (void)thread;
    for (int x = 0; x < t->width; x += 8) {
        const float *pixels[8];
        int count = t->width - x < 8 ? t->width - x : 8;
        for (int p = 0; p < count; p++)
            pixels[p] = t->in + part * t->stride * t->row_floats + (x + p) * t->stride * t->pixel_floats;
        n->use->dense(pixels, count, t->layer, t->row_floats, t->out + ((size_t)part * t->width + x) * t->layer->outputs);
    }
}

static void halve_part(burn_network *n, const void *task, int part, int thread) {
    const task_of_map *t = task;
    (void)thread;
    for (int x = 0; x < t->width; x++) {
        const float *inside[4];
        int count = window(t->in, t->in_height, t->in_width, t->channels, part, x, inside);
        n->use->mean(inside, count, t->channels, t->out + ((size_t)part * t->width + x) * t->channels);
    }
}

/* 3x3 maximum, stride 2, padding 1. */
static void max_part(burn_network *n, const void *task, int part, int thread) {
    const task_of_map *t = task;
    (void)n, (void)thread;
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

static void pack_part(burn_network *n, const void *task, int part, int thread) {
    const task_of_map *t = task;
    (void)thread;
    int padding = t->next->shape.padding, words = words_of(t->channels);
    for (int x = 0; x < t->width; x++) {
        size_t at = (size_t)(part + padding) * (t->width + 2 * padding) + x + padding;
        n->use->pack(t->in + ((size_t)part * t->width + x) * t->channels, t->next->threshold, t->channels,
                     t->next->bits + at * words * n->use->word);
    }
}

static void class_part(burn_network *n, const void *task, int part, int thread) {
    float *logits = *(float *const *)task;
    (void)thread;
    int last = (part + 1) * 64 < n->classes ? (part + 1) * 64 : n->classes;
    for (int c = part * 64; c < last; c++) {
        float sums[16] = {0}, total = 0;
        for (int d = 0; d < n->feature_dim; d++) {
            float weight;
            if (n->class_half) { /* float16 to float32; subnormal numbers come out right by the product */
                uint16_t half = n->class_half[(size_t)c * n->feature_dim + d];
                uint32_t bits = (uint32_t)(half & 0x7FFF) << 13;
                memcpy(&weight, &bits, 4);
                weight *= half & 0x8000 ? -0x1p112f : 0x1p112f;
            } else {
                weight = n->class_float[(size_t)c * n->feature_dim + d];
            }
            sums[d % 16] += weight * n->features[d];
        }
        for (int i = 0; i < 16; i++) total += sums[i];
        logits[c] = total + n->class_bias[c];
    }
}

/* The stem, its pooling and the bits of the first step; returns which of the two maps holds the result. */
static int run_stem(burn_network *n, const float *image) {
    int pad = n->stem.size / 2, width = n->width + 2 * pad, at = 0;
    for (int c = 0; c < n->channels; c++)
        for (int y = 0; y < n->height; y++) {
            float *row = n->image + ((size_t)(y + pad) * width + pad) * n->channels + c;
            for (int x = 0; x < n->width; x++) row[(size_t)x * n->channels] = *image++;
        }
    int height = ceil_div(n->height, 2), columns = ceil_div(n->width, 2);
    task_of_map stem = {.in = n->image, .out = n->maps[0], .width = columns, .stride = 2, .layer = &n->stem,
                        .row_floats = (size_t)width * n->channels, .pixel_floats = n->channels};
    in_parts(n, height, dense_part, &stem);
    if (n->stem_pool) {
        task_of_map pool = {.in = n->maps[0], .out = n->maps[1], .width = n->stem_width, .in_height = height,
                            .in_width = columns, .channels = n->stem.outputs};
        in_parts(n, n->stem_height, max_part, &pool);
        at = 1;
    }
    task_of_map pack = {.in = n->maps[at], .next = &n->steps[0], .width = n->stem_width, .channels = n->stem.outputs};
    in_parts(n, n->stem_height, pack_part, &pack);
    return at;
}

static const float *projected(burn_network *n, const step *s, const float *in, int height, int width) {
    task_of_map t = {.in = in, .out = n->halves, .width = s->width, .in_height = height, .in_width = width,
                     .channels = s->shape.inputs};
    if (s->shape.pool) in_parts(n, s->height, halve_part, &t);
    task_of_map project = {.in = s->shape.pool ? n->halves : in, .out = n->projected, .width = s->width, .stride = 1,
                           .layer = &s->project, .row_floats = (size_t)s->width * s->shape.inputs,
                           .pixel_floats = s->shape.inputs};
    in_parts(n, s->height, dense_part, &project);
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
    if (!n || !image || (features && !n->pool_type) || (logits && !n->classes)) return BURN_ARGUMENT;
    int at = run_stem(n, image), height = n->stem_height, width = n->stem_width;
    for (int i = 0; i < n->steps_count; i++) {
        const step *s = &n->steps[i];
        const float *in = n->maps[at];
        const float *shortcut = s->shape.project ? projected(n, s, in, height, width) : NULL;
        if (!in_place(s)) at = 1 - at;
        int padded = ceil_div(s->shape.outputs, block_width(n->use, s->shape.outputs)) *
                     block_width(n->use, s->shape.outputs);
        task_of_map t = {.s = s, .next = i + 1 < n->steps_count ? s + 1 : NULL, .in = in, .shortcut = shortcut,
                         .out = n->maps[at], .in_height = height, .in_width = width};
        t.chunk = CHUNK_SUMS / padded < 4 ? 4 : CHUNK_SUMS / padded < CHUNK_PIXELS ? CHUNK_SUMS / padded : CHUNK_PIXELS;
        height = s->height, width = s->width;
        in_parts(n, ceil_div(height * width, t.chunk), step_part, &t);
    }
    int area = height * width, channels = n->steps[n->steps_count - 1].shape.outputs;
    const float *last = n->maps[at];
    if (map)
        for (int c = 0; c < channels; c++)
            for (int p = 0; p < area; p++) *map++ = last[(size_t)p * channels + c] + n->shift[c];
    if (n->pool_type && (features || logits)) pool_features(n, last, area, channels);
    if (features) memcpy(features, n->features, n->feature_dim * sizeof(float));
    if (logits) in_parts(n, ceil_div(n->classes, 64), class_part, &logits);
    return BURN_OK;
}

/* ---- Opening and closing ------------------------------------------------------------------------------------------ */

static int open_reader(reader *r, int threads, burn_network **network) {
    *network = NULL;
    burn_network *n = calloc(1, sizeof *n);
    if (!n) return BURN_MEMORY;
    n->use = best_kernels();
    n->threads = BURN_THREADS ? threads : 1;
#if BURN_THREADS
    n->pool.threads = calloc(threads, sizeof *n->pool.threads);
    int error = n->pool.threads ? read_network(r, n) : BURN_MEMORY;
#else
    int error = read_network(r, n);
#endif
    if (!error) error = prepare(n, n->height, n->width);
    if (error) {
        burn_close(n);
        return error == BURN_ARGUMENT ? BURN_MALFORMED : error;
    }
    *network = n;
    return BURN_OK;
}

int burn_open(const char *path, int threads, burn_network **network) {
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
    if (!data || !network || !within(threads, 1, 1024)) return BURN_ARGUMENT;
    reader r = {.data = data, .left = size};
    return open_reader(&r, threads, network);
}

void burn_close(burn_network *n) {
    if (!n) return;
#if BURN_THREADS
    stop_threads(n);
    free(n->pool.threads);
#endif
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
    return (burn_shape){n->channels, n->height, n->width, n->pool_type ? n->feature_dim : 0, n->classes, n->pool_type > 0,
                        last->shape.outputs, last->height, last->width, n->mean, n->std, n->use->name};
}

void burn_normalise(const burn_network *n, const uint8_t *pixels, float *image) {
    size_t area = (size_t)n->height * n->width;
    for (int c = 0; c < n->channels; c++)
        for (size_t p = 0; p < area; p++)
            image[c * area + p] = (pixels[p * n->channels + c] / 255.0f - n->mean[c]) / n->std[c];
}

const char *burn_error(int error) {
    static const char *const TEXTS[] = {
        "no error", "the file cannot be opened or read", "no network.bin of burn-timm export --format c",
        "a version that this burn.c does not know: update it, or export again",
        "truncated or damaged (the checksum is wrong): copy or export it again", "sizes that cannot be: export it again",
        "not enough memory", "an argument that cannot be",
    };
    return error >= 0 && error <= BURN_ARGUMENT ? TEXTS[error] : "unknown error";
}

#else
/* ==== KERNELS of one set of instructions: SET, TARGET, UNIT (bytes of inputs), VECTOR (bytes), PIXELS of a tile ===== */

#define FLOATS (VECTOR < 16 ? 4 : VECTOR / 4) /* in a vector; 16 are treated at once, for they give 16 bits */
typedef float NAME(floats) __attribute__((vector_size(FLOATS * 4), aligned(4)));
typedef int32_t NAME(ints) __attribute__((vector_size(FLOATS * 4), aligned(4)));

#define LANES (VECTOR / UNIT)
#define DENSE_PIXELS (FLOATS / 2) /* sums that fit into the registers beside weights and inputs */
#ifndef WORD
#define WORD 8
#define WORD_IS_8
#endif
#define INLINE static inline __attribute__((always_inline)) TARGET

/* Sixteen bits, 1 where value >= limit. */
#if defined(IS_AVX512)
INLINE uint16_t NAME(compare)(const float *values, const float *limits) {
    return _mm512_cmp_ps_mask(_mm512_loadu_ps(values), _mm512_loadu_ps(limits), _CMP_GE_OQ);
}
#elif defined(IS_AVX2)
INLINE uint16_t NAME(compare)(const float *values, const float *limits) {
    __m256 low = _mm256_cmp_ps(_mm256_loadu_ps(values), _mm256_loadu_ps(limits), _CMP_GE_OQ);
    __m256 high = _mm256_cmp_ps(_mm256_loadu_ps(values + 8), _mm256_loadu_ps(limits + 8), _CMP_GE_OQ);
    return _mm256_movemask_ps(low) | _mm256_movemask_ps(high) << 8;
}
#elif defined(IS_NEON)
INLINE uint16_t NAME(compare)(const float *values, const float *limits) {
    const uint32x4_t places = {1, 2, 4, 8};
    uint16_t bits = 0;
    for (int i = 0; i < 4; i++) {
        uint32x4_t above = vcgeq_f32(vld1q_f32(values + 4 * i), vld1q_f32(limits + 4 * i));
        bits |= vaddvq_u32(vandq_u32(above, places)) << (4 * i);
    }
    return bits;
}
#elif defined(IS_WASM)
INLINE uint16_t NAME(compare)(const float *values, const float *limits) {
    uint16_t bits = 0;
    for (int i = 0; i < 4; i++) {
        v128_t above = wasm_f32x4_ge(wasm_v128_load(values + 4 * i), wasm_v128_load(limits + 4 * i));
        bits |= wasm_i32x4_bitmask(above) << (4 * i);
    }
    return bits;
}
#else
INLINE uint16_t NAME(compare)(const float *values, const float *limits) {
    uint16_t bits = 0;
    for (int i = 0; i < 16; i++) bits |= (values[i] >= limits[i]) << i;
    return bits;
}
#endif

/* Puts sixteen bits of a map in their place. AVX2 wants a byte for each four of them, which is their row in `nibbles`. */
INLINE void NAME(store)(uint8_t *bits, int channel, uint16_t group) {
#if defined(IS_AVX2)
    uint32_t spread = _pdep_u32(group, 0xF0F0F0F0u);
    memcpy(bits + channel / 4, &spread, 4);
#else
    memcpy(bits + channel / 8, &group, 2);
#endif
}

TARGET static void NAME(pack)(const float *values, const float *limits, int channels, uint8_t *bits) {
    int c = 0;
    for (; c + 16 <= channels; c += 16) {
        NAME(store)(bits, c, NAME(compare)(values + c, limits + c));
    }
    if (c < channels) {
        uint16_t rest = 0;
        for (int i = 0; c + i < channels; i++) rest |= (values[c + i] >= limits[c + i]) << i;
        NAME(store)(bits, c, rest);
    }
}

/* prelu(scale * (most - 2 * counts) + bias + shortcut, slope) of one pixel, and its bits. A shortcut of half the outputs
   is repeated. */
TARGET static void NAME(finish)(const int32_t *counts, const int32_t *most, const step *s, const float *shortcut,
                                int channels, const float *limits, float *out, uint8_t *bits) {
    int outputs = s->shape.outputs, o = 0;
    bool whole = channels == outputs || channels % 16 == 0; /* no group of 16 crosses the end of the shortcut */
    for (; whole && o + 16 <= outputs; o += 16) {
        const float *source = shortcut + (o < channels ? o : o - channels);
        for (int i = o; i < o + 16; i += FLOATS) {
            NAME(ints) count = *(const NAME(ints) *)(counts + i), limit = *(const NAME(ints) *)(most + i);
            NAME(floats) value = __builtin_convertvector(limit - count - count, NAME(floats));
            value = value * *(const NAME(floats) *)(s->scale + i) + *(const NAME(floats) *)(s->bias + i);
            value += *(const NAME(floats) *)(source + i - o);
            NAME(ints) negative = value < 0;
            NAME(floats) below = value * *(const NAME(floats) *)(s->slope + i);
            *(NAME(ints) *)(out + i) = (negative & (NAME(ints))below) | (~negative & (NAME(ints))value);
        }
        if (bits) NAME(store)(bits, o, NAME(compare)(out + o, limits + o));
    }
    int start = o;
    for (; o < outputs; o++) {
        float value = (most[o] - 2 * counts[o]) * s->scale[o] + s->bias[o];
        value += shortcut[o < channels ? o : o - channels];
        out[o] = value < 0 ? value * s->slope[o] : value;
    }
    if (bits && start < outputs) NAME(pack)(out + start, limits + start, outputs - start, bits + start / 64 * WORD + start % 64 * WORD / 64);
}

TARGET static void NAME(mean)(const float *const *values, int count, int channels, float *out) {
    float share = 1.0f / count;
    if (count == 4) {
        for (int c = 0; c < channels; c++)
            out[c] = (values[0][c] + values[1][c] + values[2][c] + values[3][c]) * share;
        return;
    }
    for (int c = 0; c < channels; c++) {
        float sum = 0;
        for (int i = 0; i < count; i++) sum += values[i][c];
        out[c] = sum * share;
    }
}

/* A float convolution: `count` pixels with one block of 16 outputs, sums [8][16]. */
INLINE void NAME(products)(const float *const *pixels, const dense *layer, size_t row_floats, const float *weights,
                           const float *bias, float (*out)[16], const int count) {
    NAME(floats) sums[8][16 / FLOATS];
    for (int p = 0; p < count; p++)
        for (int v = 0; v < 16 / FLOATS; v++) sums[p][v] = *(const NAME(floats) *)(bias + v * FLOATS);
    for (int row = 0; row < layer->size; row++)
        for (int tap = 0; tap < layer->inputs * layer->size; tap++, weights += 16)
            for (int p = 0; p < count; p++)
                for (int v = 0; v < 16 / FLOATS; v++)
                    sums[p][v] += *(const NAME(floats) *)(weights + v * FLOATS) * pixels[p][row * row_floats + tap];
    for (int p = 0; p < count; p++)
        for (int v = 0; v < 16 / FLOATS; v++) *(NAME(floats) *)(out[p] + v * FLOATS) = sums[p][v];
}

TARGET static void NAME(dense)(const float *const *pixels, int count, const dense *layer, size_t row_floats, float *out) {
    size_t block_floats = (size_t)layer->inputs * layer->size * layer->size * 16;
    for (int first = 0; first < layer->outputs; first += 16) {
        float sums[8][16];
        const float *weights = layer->weights + first / 16 * block_floats, *bias = layer->bias + first;
        int p = 0, width = layer->outputs - first < 16 ? layer->outputs - first : 16;
        if (FLOATS == 16 && count == 8) NAME(products)(pixels, layer, row_floats, weights, bias, sums, 8), p = 8;
        for (; p + DENSE_PIXELS <= count; p += DENSE_PIXELS)
            NAME(products)(pixels + p, layer, row_floats, weights, bias, sums + p, DENSE_PIXELS);
        for (; p < count; p++) NAME(products)(pixels + p, layer, row_floats, weights, bias, sums + p, 1);
        for (p = 0; p < count; p++) memcpy(out + (size_t)p * layer->outputs + first, sums[p], width * sizeof(float));
    }
}

/* How many bits differ: `pixels_n` pixels with the outputs of a block of `vectors_n` vectors, both constants. */
#if UNIT == 8
INLINE void NAME(tile)(const uint8_t *const *pixels, const uint8_t *weights, int rows, size_t row_bytes, int columns,
                       int32_t *counts, size_t counts_stride, const int pixels_n, const int vectors_n) {
#if defined(IS_AVX512)
    __m512i sums[PIXELS][4];
    for (int p = 0; p < pixels_n; p++)
        for (int v = 0; v < vectors_n; v++) sums[p][v] = _mm512_setzero_si512();
    for (int row = 0; row < rows; row++)
        for (int column = 0; column < columns; column++, weights += 64 * vectors_n) {
            __m512i block[4];
            for (int v = 0; v < vectors_n; v++) block[v] = _mm512_load_si512(weights + 64 * v);
            for (int p = 0; p < pixels_n; p++) {
                int64_t word;
                memcpy(&word, pixels[p] + row * row_bytes + 8 * (size_t)column, 8);
                __m512i value = _mm512_set1_epi64(word);
                for (int v = 0; v < vectors_n; v++)
                    sums[p][v] = _mm512_add_epi64(sums[p][v], _mm512_popcnt_epi64(_mm512_xor_si512(value, block[v])));
            }
        }
    for (int p = 0; p < pixels_n; p++)
        for (int v = 0; v < vectors_n; v++)
            _mm256_storeu_si256((__m256i *)(counts + p * counts_stride + 8 * v), _mm512_cvtepi64_epi32(sums[p][v]));
#else
    for (int p = 0; p < pixels_n; p++)
        for (int v = 0; v < vectors_n; v++) {
            int sum = 0;
            for (int row = 0; row < rows; row++)
                for (int column = 0; column < columns; column++) {
                    uint64_t value, weight;
                    memcpy(&value, pixels[p] + row * row_bytes + 8 * (size_t)column, 8);
                    memcpy(&weight, weights + 8 * ((size_t)(row * columns + column) * vectors_n + v), 8);
                    sum += __builtin_popcountll(value ^ weight);
                }
            counts[p * counts_stride + v] = sum;
        }
#endif
}
#else
/* Bytes: eight inputs with 16 or 32 outputs; sums of bytes, which hold 31 units of at most 8. */
#if defined(IS_AVX2)
typedef __m256i NAME(bytes);
/* The bits that differ between a nibble a of the inputs and each nibble w of the weights: row a, column w. */
static const uint8_t NAME(nibbles)[16][16] __attribute__((aligned(16))) = {
    {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4}, {1, 0, 2, 1, 2, 1, 3, 2, 2, 1, 3, 2, 3, 2, 4, 3},
    {1, 2, 0, 1, 2, 3, 1, 2, 2, 3, 1, 2, 3, 4, 2, 3}, {2, 1, 1, 0, 3, 2, 2, 1, 3, 2, 2, 1, 4, 3, 3, 2},
    {1, 2, 2, 3, 0, 1, 1, 2, 2, 3, 3, 4, 1, 2, 2, 3}, {2, 1, 3, 2, 1, 0, 2, 1, 3, 2, 4, 3, 2, 1, 3, 2},
    {2, 3, 1, 2, 1, 2, 0, 1, 3, 4, 2, 3, 2, 3, 1, 2}, {3, 2, 2, 1, 2, 1, 1, 0, 4, 3, 3, 2, 3, 2, 2, 1},
    {1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3}, {2, 1, 3, 2, 3, 2, 4, 3, 1, 0, 2, 1, 2, 1, 3, 2},
    {2, 3, 1, 2, 3, 4, 2, 3, 1, 2, 0, 1, 2, 3, 1, 2}, {3, 2, 2, 1, 4, 3, 3, 2, 2, 1, 1, 0, 3, 2, 2, 1},
    {2, 3, 3, 4, 1, 2, 2, 3, 1, 2, 2, 3, 0, 1, 1, 2}, {3, 2, 4, 3, 2, 1, 3, 2, 2, 1, 3, 2, 1, 0, 2, 1},
    {3, 4, 2, 3, 2, 3, 1, 2, 2, 3, 1, 2, 1, 2, 0, 1}, {4, 3, 3, 2, 3, 2, 2, 1, 3, 2, 2, 1, 2, 1, 1, 0},
};
INLINE NAME(bytes) NAME(row_of)(size_t nibble) {
    return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)((const uint8_t *)NAME(nibbles) + nibble)));
}
INLINE NAME(bytes) NAME(zero)(void) { return _mm256_setzero_si256(); }
#elif defined(IS_NEON)
typedef uint8x16_t NAME(bytes);
INLINE NAME(bytes) NAME(zero)(void) { return vdupq_n_u8(0); }
#else
typedef v128_t NAME(bytes);
INLINE NAME(bytes) NAME(zero)(void) { return wasm_i8x16_splat(0); }
#endif

INLINE void NAME(tile)(const uint8_t *const *pixels, const uint8_t *weights, int rows, size_t row_bytes, int columns,
                       int32_t *counts, size_t counts_stride, const int pixels_n, const int vectors_n) {
    for (int p = 0; p < pixels_n; p++) memset(counts + p * counts_stride, 0, vectors_n * VECTOR * 4);
    for (int part = 0; part < rows * columns;) {
        NAME(bytes) sums[PIXELS][2];
        const uint8_t *inputs[PIXELS];
        int left = columns - part % columns, units = left < 31 ? left : 31;
        for (int p = 0; p < pixels_n; p++) {
            inputs[p] = pixels[p] + part / columns * row_bytes + part % columns * (WORD / 8);
            for (int v = 0; v < vectors_n; v++) sums[p][v] = NAME(zero)();
        }
        part += units;
        for (size_t at = 0; at < (size_t)units * (WORD / 8); at += WORD / 8, weights += VECTOR * vectors_n) {
#if defined(IS_AVX2)
            const __m256i low_half = _mm256_set1_epi8(15);
            __m256i low[2], high[2];
            for (int v = 0; v < vectors_n; v++) {
                __m256i block = _mm256_load_si256((const __m256i *)(weights + VECTOR * v));
                low[v] = _mm256_and_si256(block, low_half);
                high[v] = _mm256_and_si256(_mm256_srli_epi16(block, 4), low_half);
            }
            for (int p = 0; p < pixels_n; p++) {
                __m256i first = NAME(row_of)(inputs[p][at]), second = NAME(row_of)(inputs[p][at + 1]);
                for (int v = 0; v < vectors_n; v++) {
                    __m256i both = _mm256_add_epi8(_mm256_shuffle_epi8(first, low[v]), _mm256_shuffle_epi8(second, high[v]));
                    sums[p][v] = _mm256_add_epi8(sums[p][v], both);
                }
            }
#elif defined(IS_NEON)
            for (int p = 0; p < pixels_n; p++) {
                uint8x16_t value = vld1q_dup_u8(inputs[p] + at);
                for (int v = 0; v < vectors_n; v++)
                    sums[p][v] = vaddq_u8(sums[p][v], vcntq_u8(veorq_u8(value, vld1q_u8(weights + VECTOR * v))));
            }
#else
            for (int p = 0; p < pixels_n; p++) {
                v128_t value = wasm_v128_load8_splat(inputs[p] + at);
                for (int v = 0; v < vectors_n; v++) {
                    v128_t differ = wasm_v128_xor(value, wasm_v128_load(weights + VECTOR * v));
                    sums[p][v] = wasm_i8x16_add(sums[p][v], wasm_i8x16_popcnt(differ));
                }
            }
#endif
        }
        for (int p = 0; p < pixels_n; p++)
            for (int v = 0; v < vectors_n; v++) {
                uint8_t bytes[VECTOR];
                memcpy(bytes, &sums[p][v], VECTOR);
                for (int i = 0; i < VECTOR; i++) counts[p * counts_stride + v * VECTOR + i] += bytes[i];
            }
    }
}
#endif

#if defined(IS_AVX512)
#define MOST_VECTORS 4
#else
#define MOST_VECTORS 2
#endif

/* Counts [count][blocks * width] of all blocks, in tiles; the last tile of a row may overlap the one before. */
TARGET static void NAME(mismatches)(const uint8_t *const *pixels, int count, const uint8_t *weights, int blocks,
                                    int width, int rows, size_t row_bytes, int columns, int32_t *counts) {
    size_t stride = (size_t)blocks * width, block_bytes = (size_t)rows * columns * width * UNIT;
    for (int block = 0; block < blocks; block++, weights += block_bytes) {
        int32_t *target = counts + (size_t)block * width;
        for (int p = 0; p < count; p += PIXELS) {
            int first = p + PIXELS <= count ? p : count >= PIXELS ? count - PIXELS : p;
#define TILE(n, v) NAME(tile)(pixels + first, weights, rows, row_bytes, columns, target + first * stride, stride, n, v)
#define TILES(v)                                             \
    if (count >= PIXELS) {                                   \
        TILE(PIXELS, v);                                     \
    } else {                                                 \
        for (; first < count; first++) TILE(1, v);           \
    }
            switch (width / LANES) {
#if MOST_VECTORS == 4
            case 4: TILES(4) break;
#endif
            case 2: TILES(2) break;
            default: TILES(1) break;
            }
#undef TILE
#undef TILES
        }
    }
}

#define STRING2(x) #x
#define STRING(x) STRING2(x)
static const kernels NAME(kernels) = {
    STRING(SET), UNIT, LANES, MOST_VECTORS, WORD, NAME(mismatches), NAME(finish), NAME(pack), NAME(dense),
    NAME(mean),
};
#undef STRING
#undef STRING2
#undef LANES
#undef DENSE_PIXELS
#undef FLOATS
#undef INLINE
#ifdef WORD_IS_8
#undef WORD
#undef WORD_IS_8
#endif
#undef MOST_VECTORS
#endif
