/* web.c - what the page calls: one network, one picture at a time. */

#include "burn.h"

#include <stdlib.h>

static burn_network *network;
static uint8_t *pixels;
static float *image, *features;

/* Memory for a file that the page then fills in. */
void *web_allocate(size_t bytes) { return malloc(bytes); }

/* Opens the network in memory and frees that memory; 0, or an error of burn.h. */
int web_open(void *data, size_t size) {
    int error = burn_open_memory(data, size, 1, &network);
    free(data);
    if (error) return error;
    burn_shape shape = burn_get_shape(network);
    if (shape.channels != 3 || shape.height != shape.width || !shape.pooled) return BURN_ARGUMENT;
    size_t area = (size_t)shape.height * shape.width;
    pixels = malloc(area * shape.channels);
    image = malloc(area * shape.channels * sizeof(float));
    features = malloc(shape.feature_dim * sizeof(float));
    return pixels && image && features ? BURN_OK : BURN_MEMORY;
}

int web_side(void) { return burn_get_shape(network).height; }
int web_dim(void) { return burn_get_shape(network).feature_dim; }
uint8_t *web_pixels(void) { return pixels; } /* [side, side, 3], filled in by the page */
float *web_features(void) { return features; }

int web_run(void) {
    burn_normalise(network, pixels, image);
    return burn_run(network, image, features, NULL, NULL);
}
