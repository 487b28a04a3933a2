/* burn.h - run 1-bit vision networks on a CPU. Apache-2.0, part of burn-timm.

   burn_network *network;
   int error = burn_open("network.bin", 1, &network);
   if (error) { fprintf(stderr, "%s\n", burn_error(error)); return 1; }
   burn_normalise(network, rgb, image);                  // uint8 [height, width, 3] -> float [3, height, width]
   error = burn_run(network, image, features, logits, NULL);
   burn_close(network);

   Memory is allocated by burn_open and burn_resize only; threads start with the first burn_run. Two threads must not use
   the same network at the same time, but each may use its own. A network may be used after fork(). */

#ifndef BURN_H
#define BURN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct burn_network burn_network;

enum {
    BURN_OK = 0,
    BURN_NO_FILE,   /* the file cannot be opened or read */
    BURN_NOT_BURN,  /* it is no network.bin */
    BURN_VERSION,   /* it needs a newer burn.c */
    BURN_DAMAGED,   /* truncated, or its checksum is wrong */
    BURN_MALFORMED, /* sizes that cannot be */
    BURN_MEMORY,    /* not enough memory, or more than 2 GiB of weights or of maps */
    BURN_ARGUMENT   /* an argument that cannot be: no such output, a size that is too small, a null pointer */
};

typedef struct {
    int channels, height, width;             /* of the images */
    int feature_dim, classes;                /* classes: 0 without a classifier */
    int pooled;                              /* whether there are features, not a map only */
    int map_channels, map_height, map_width; /* of the feature map */
    const float *mean, *std;                 /* of each channel, for images in [0, 1] */
    const char *target;                      /* the instructions that are used, such as "avx512" */
} burn_shape;

/* Reads a network. threads: 1 or more; the results do not depend on it. */
int burn_open(const char *path, int threads, burn_network **network);

/* The same from memory, which is not needed afterwards. */
int burn_open_memory(const void *data, size_t size, int threads, burn_network **network);

/* Runs one image, float [channels, height, width], normalised. Any output may be NULL:
   features [feature_dim], logits [classes], map [map_channels, map_height, map_width]. */
int burn_run(burn_network *network, const float *image, float *features, float *logits, float *map);

/* Takes images of another size from now on. After an error the network keeps the size it had; after BURN_MEMORY it may
   have none, and burn_run returns BURN_ARGUMENT. */
int burn_resize(burn_network *network, int height, int width);

/* uint8 [height, width, channels] to float [channels, height, width], normalised by mean and std. */
void burn_normalise(const burn_network *network, const uint8_t *pixels, float *image);

burn_shape burn_get_shape(const burn_network *network);
const char *burn_error(int error);
void burn_close(burn_network *network);

/* Chooses the instructions of all networks opened afterwards: "avx512", "avx2", "neon", "wasm", "plain"; NULL: the best
   ones. Returns BURN_ARGUMENT where this CPU, or this build, does not have them. For tests and comparisons. */
int burn_use(const char *target);

#ifdef __cplusplus
}
#endif
#endif
