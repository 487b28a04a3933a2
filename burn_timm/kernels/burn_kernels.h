/* burn_kernels.h - the kernels of burn.c for one set of instructions; part of burn-timm, Apache-2.0.

   burn.c includes this file once for each set, with SET (its name), IS_... and, for AVX2, WORD (bytes that hold 64 bits
   of a map) defined. TARGET: an attribute for the compiler; VECTOR: bytes of a vector; UNIT: bytes of weights compared
   at once; PIXELS: of a tile. */

#if defined(IS_AVX512)
#define TARGET FOR_AVX512
#define VECTOR 64
#define UNIT 8
#define PIXELS 4
#elif defined(IS_AVX2)
#define TARGET FOR_AVX2
#define VECTOR 32
#define UNIT 1
#define PIXELS 4
#elif defined(IS_NEON) || defined(IS_WASM)
#define TARGET
#define VECTOR 16
#define UNIT 1
#define PIXELS 4
#else
#define TARGET
#define VECTOR 8
#define UNIT 8
#define PIXELS 2
#endif

#define FLOATS (VECTOR < 16 ? 4 : VECTOR / 4) /* in a vector; 16 are treated at once, for they give 16 bits */
typedef float NAME(floats) __attribute__((vector_size(FLOATS * 4), aligned(4), may_alias));
typedef int32_t NAME(ints) __attribute__((vector_size(FLOATS * 4), aligned(4), may_alias));
typedef uint16_t NAME(shorts) __attribute__((vector_size(FLOATS * 2), aligned(2), may_alias));

#define LANES (VECTOR / UNIT)
#define DENSE_PIXELS (FLOATS / 2) /* sums that fit into the registers beside weights and inputs */
#ifndef WORD
#define WORD 8
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

/* Puts sixteen bits of a map in their place. AVX2 has a byte for each four of them: where their row in `nibbles`
 * begins. */
INLINE void NAME(store)(uint8_t *bits, int channel, uint16_t group) {
#if WORD == 16
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

/* prelu(scale * (most - 2 * counts) + bias + shortcut, slope) of one pixel, and its bits; a shortcut of half the
   outputs is repeated. */
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
    if (bits && start < outputs)
        NAME(pack)(out + start, limits + start, outputs - start, bits + start / 8 * (WORD / 8));
}

TARGET static void NAME(mean)(const float *const *values, int count, int channels, float *out) {
    float share = 1.0f / count;
    if (count == 4) {
        for (int c = 0; c < channels; c++) out[c] = (values[0][c] + values[1][c] + values[2][c] + values[3][c]) * share;
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

TARGET static void NAME(dense)(const float *const *pixels, int count, const dense *layer, size_t row_floats,
                               float *out) {
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

/* The sum of products with a row of the classifier, float16 or float32. A float16's bits in the place of a float's are it
   times 2^-112; subnormal ones come out right too. */
TARGET static float NAME(dot)(const void *row, bool half, const float *values, int count) {
    NAME(floats) sums = {0};
    float total = 0;
    int at = 0;
    for (; at + FLOATS <= count; at += FLOATS) {
        NAME(floats) weight;
        if (half) {
            NAME(ints) bits = __builtin_convertvector(*(const NAME(shorts) *)((const uint16_t *)row + at), NAME(ints));
            weight = (NAME(floats))((bits & 0x7FFF) << 13) * 0x1p112f;
            weight = (NAME(floats))((NAME(ints))weight | (bits & 0x8000) << 16);
        } else {
            weight = *(const NAME(floats) *)((const float *)row + at);
        }
        sums += weight * *(const NAME(floats) *)(values + at);
    }
    for (; at < count; at++) {
        uint16_t bits = half ? ((const uint16_t *)row)[at] : 0;
        float weight;
        memcpy(&weight, &(uint32_t){(uint32_t)(bits & 0x7FFF) << 13}, 4);
        weight *= bits & 0x8000 ? -0x1p112f : 0x1p112f;
        total += (half ? weight : ((const float *)row)[at]) * values[at];
    }
    for (int i = 0; i < FLOATS; i++) total += sums[i];
    return total;
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
/* Bytes: eight inputs with 16 or 32 outputs. Sums of bytes, which hold 31 units of at most 8, go into sums of 16 bits, of
   the even and of the odd outputs, which hold MAX_COUNT. */
typedef uint16_t NAME(halves) __attribute__((vector_size(VECTOR)));
#if defined(IS_AVX2)
typedef __m256i NAME(bytes);
/* The bits that differ between a nibble a of the inputs and each nibble w of the weights: row a, column w. */
#define DIFFER(a, w) __builtin_popcount((a) ^ (w))
#define FOUR(a, w) DIFFER(a, w), DIFFER(a, w + 1), DIFFER(a, w + 2), DIFFER(a, w + 3)
#define ROW(a) {FOUR(a, 0), FOUR(a, 4), FOUR(a, 8), FOUR(a, 12)}
#define ROWS(a) ROW(a), ROW(a + 1), ROW(a + 2), ROW(a + 3)
static const uint8_t NAME(nibbles)[16][16] __attribute__((aligned(16))) = {ROWS(0), ROWS(4), ROWS(8), ROWS(12)};
INLINE NAME(bytes) NAME(row_of)(size_t nibble) {
    return _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i *)((const uint8_t *)NAME(nibbles) + nibble)));
}
INLINE void NAME(add_unit)(const uint8_t *const *inputs, size_t at, const uint8_t *weights, NAME(bytes) (*sums)[2],
                           const int pixels_n, const int vectors_n) {
    const __m256i low_half = _mm256_set1_epi8(15);
    __m256i low[2], high[2];
    for (int v = 0; v < vectors_n; v++) {
        __m256i block = _mm256_load_si256((const __m256i *)(weights + VECTOR * v));
        low[v] = _mm256_and_si256(block, low_half);
        high[v] = _mm256_and_si256(_mm256_srli_epi16(block, 4), low_half);
    }
    for (int p = 0; p < pixels_n; p++) {
#if WORD == 16
        __m256i first = NAME(row_of)(inputs[p][at]), second = NAME(row_of)(inputs[p][at + 1]);
#else
        __m256i first = NAME(row_of)(inputs[p][at] << 4 & 0xF0), second = NAME(row_of)(inputs[p][at] & 0xF0);
#endif
        for (int v = 0; v < vectors_n; v++) {
            __m256i both = _mm256_add_epi8(_mm256_shuffle_epi8(first, low[v]), _mm256_shuffle_epi8(second, high[v]));
            sums[p][v] = _mm256_add_epi8(sums[p][v], both);
        }
    }
}
#else
#if defined(IS_NEON)
typedef uint8x16_t NAME(bytes);
#define DIFFERENT(input, weights) vcntq_u8(veorq_u8(vld1q_dup_u8(input), vld1q_u8(weights)))
#define ADD vaddq_u8
#else
typedef v128_t NAME(bytes);
#define DIFFERENT(input, weights) wasm_i8x16_popcnt(wasm_v128_xor(wasm_v128_load8_splat(input), wasm_v128_load(weights)))
#define ADD wasm_i8x16_add
#endif
INLINE void NAME(add_unit)(const uint8_t *const *inputs, size_t at, const uint8_t *weights, NAME(bytes) (*sums)[2],
                           const int pixels_n, const int vectors_n) {
    for (int p = 0; p < pixels_n; p++)
        for (int v = 0; v < vectors_n; v++)
            sums[p][v] = ADD(sums[p][v], DIFFERENT(inputs[p] + at, weights + VECTOR * v));
}
#endif

INLINE void NAME(tile)(const uint8_t *const *pixels, const uint8_t *weights, int rows, size_t row_bytes, int columns,
                       int32_t *counts, size_t counts_stride, const int pixels_n, const int vectors_n) {
    NAME(halves) even[PIXELS][2] = {0}, odd[PIXELS][2] = {0};
    for (int part = 0; part < rows * columns;) {
        NAME(bytes) sums[PIXELS][2];
        const uint8_t *inputs[PIXELS];
        int left = columns - part % columns, units = left < 31 ? left : 31;
        for (int p = 0; p < pixels_n; p++) {
            inputs[p] = pixels[p] + part / columns * row_bytes + part % columns * (WORD / 8);
            for (int v = 0; v < vectors_n; v++) sums[p][v] = (NAME(bytes)){0};
        }
        part += units;
        for (size_t at = 0; at < (size_t)units * (WORD / 8); at += WORD / 8, weights += VECTOR * vectors_n)
            NAME(add_unit)(inputs, at, weights, sums, pixels_n, vectors_n);
        for (int p = 0; p < pixels_n; p++)
            for (int v = 0; v < vectors_n; v++) {
                even[p][v] += (NAME(halves))sums[p][v] & 0xFF;
                odd[p][v] += (NAME(halves))sums[p][v] >> 8;
            }
    }
    for (int p = 0; p < pixels_n; p++)
        for (int v = 0; v < vectors_n; v++) {
            int32_t *to = counts + p * counts_stride + v * VECTOR;
            for (int i = 0; i < VECTOR / 2; i++) to[2 * i] = even[p][v][i], to[2 * i + 1] = odd[p][v][i];
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
#define TILES(v)                                                                                                       \
    if (count >= PIXELS) {                                                                                             \
        TILE(PIXELS, v);                                                                                               \
    } else {                                                                                                           \
        for (; first < count; first++) TILE(1, v);                                                                     \
    }
            switch (width / LANES) {
#if MOST_VECTORS == 4
            case 4:
                TILES(4) break;
#endif
            case 2:
                TILES(2) break;
            default:
                TILES(1) break;
            }
#undef TILE
#undef TILES
        }
    }
}

#define STRING2(x) #x
#define STRING(x) STRING2(x)
static const kernels NAME(kernels) = {
    STRING(SET),  UNIT,       LANES,       MOST_VECTORS, WORD,      NAME(mismatches),
    NAME(finish), NAME(pack), NAME(dense), NAME(mean),   NAME(dot),
};
#undef STRING
#undef STRING2
#undef LANES
#undef DENSE_PIXELS
#undef FLOATS
#undef INLINE
#undef MOST_VECTORS
#undef DIFFERENT
#undef ADD
#undef SET
#undef TARGET
#undef WORD
#undef UNIT
#undef VECTOR
#undef PIXELS
#undef IS_AVX512
#undef IS_AVX2
#undef IS_NEON
#undef IS_WASM
