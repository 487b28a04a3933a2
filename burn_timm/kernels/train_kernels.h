/* train_kernels.h - the kernels of train.c for one set of instructions: SET is its name, TARGET an attribute for the
   compiler. burn_kernels.h has been included for the same set before. */

/* Loops that compilers turn into vectors; `bytes` is 2 (bfloat16) or 4 (float32). */

/* 1 where the number's own sign bit is 0, sixteen at a time. */
TARGET static void NAME(signs)(const void *values, int bytes, int channels, uint8_t *bits) {
    for (int c = 0; c < channels; c += 16) {
        int16_t tops[16]; /* the half that has the sign */
        if (bytes == 2)
            memcpy(tops, (const int16_t *)values + c, 32);
        else
            for (int i = 0; i < 16; i++) tops[i] = ((const int32_t *)values)[c + i] >> 16;
#if defined(__SSE2__)
        __m128i low = _mm_loadu_si128((const __m128i *)tops), high = _mm_loadu_si128((const __m128i *)(tops + 8));
        uint16_t group = ~_mm_movemask_epi8(_mm_packs_epi16(low, high));
#else
        uint16_t group = 0;
        for (int i = 0; i < 16; i++) group |= (tops[i] >= 0) << i;
#endif
        memcpy(bits + c / 8, &group, 2);
    }
}

/* One of two numbers for each bit: the lanes of a vector are compared with a bit each, which is one instruction. */
TARGET static void NAME(spread)(const uint8_t *bits, int channels, int bytes, const void *plus, const void *minus,
                                void *out) {
    static const lanes_of_16 each = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, -32768};
    for (int c = 0; c < channels; c += 16) {
        int16_t group;
        memcpy(&group, bits + c / 8, 2);
        lanes_of_16 set = (each & group) == each;
        if (bytes == 2) {
            int16_t p = *(const int16_t *)plus, m = *(const int16_t *)minus;
            lanes_of_16 numbers = (set & (int16_t)(p ^ m)) ^ m;
            memcpy((int16_t *)out + c, &numbers, sizeof numbers);
        } else {
            int32_t p = *(const int32_t *)plus, m = *(const int32_t *)minus, *to = (int32_t *)out + c;
            for (int i = 0; i < 16; i++) to[i] = m ^ ((p ^ m) & set[i]);
        }
    }
}

TARGET static void NAME(positive)(const float *values, int count, uint64_t *bits) {
    static const float zeros[16];
    for (int c = 0; c < count; c += 16) *bits |= (uint64_t)NAME(compare)(values + c, zeros) << c;
}

/* Mean of |w|, exactly that number where all are equal (burn_timm.packing.weight_scale). */
TARGET static float NAME(mean_size)(const float *values, int count) {
    float sums[16] = {0}, lows[16], highs[16] = {0}, total = 0, low, high;
    for (int i = 0; i < 16; i++) lows[i] = __builtin_inff();
    for (int at = 0; at < count; at += 16)
        for (int i = 0; i < 16; i++) {
            float size = __builtin_fabsf(values[at + i]);
            sums[i] += size;
            lows[i] = size < lows[i] ? size : lows[i];
            highs[i] = size > highs[i] ? size : highs[i];
        }
    low = lows[0], high = highs[0];
    for (int i = 0; i < 16; i++) {
        total += sums[i];
        low = lows[i] < low ? lows[i] : low;
        high = highs[i] > high ? highs[i] : high;
    }
    return low == high && total == total ? high : total / count; /* only the total shows a NaN */
}

/* scale * (most - 2 * counts), rounded to nearest even where it becomes a bfloat16. */
TARGET static void NAME(scaled)(const int32_t *counts, const int32_t *most, const float *scale, int outputs, int bytes,
                                void *out) {
    if (bytes == 4) {
        for (int o = 0; o < outputs; o++) ((float *)out)[o] = (float)(most[o] - 2 * counts[o]) * scale[o];
        return;
    }
    for (int o = 0; o < outputs; o++) {
        float value = (float)(most[o] - 2 * counts[o]) * scale[o];
        uint32_t bits;
        memcpy(&bits, &value, 4);
        ((uint16_t *)out)[o] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
    }
}

TARGET static void NAME(pass)(const void *grad, int bytes, const float *weight, size_t count, float *out) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = bytes == 2 ? (uint32_t)((const uint16_t *)grad)[i] << 16 : ((const uint32_t *)grad)[i];
        float value;
        memcpy(&value, &bits, 4);
        out[i] = value * (weight[i] <= 1 && weight[i] >= -1 ? 1.0f : 0.0f); /* a product, which keeps NaN */
    }
}

static const training_kernels NAME(training) = {
    &NAME(kernels), NAME(signs), NAME(spread), NAME(positive), NAME(mean_size), NAME(scaled), NAME(pass),
};

#undef SET
#undef TARGET
