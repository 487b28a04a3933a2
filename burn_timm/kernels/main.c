/* main.c - features, or the five best classes, of a picture:

   cc -O3 burn.c main.c -o main -lpthread && ./main network.bin image.ppm

   The picture is a binary PPM (P6) of exactly the network's size, 8 bits a channel. ImageMagick makes one of any photo:
   magick photo.jpg -resize "224x224^" -gravity center -extent 224x224 image.ppm */

#include "burn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The next number of a PPM's header, behind white space and comments; -1 where there is none. */
static int number(FILE *file) {
    int c = fgetc(file), value = 0, digits = 0;
    while (c == ' ' || c == '\t' || c == '\r' || c == '\n' || c == '#') {
        if (c == '#')
            while (c != '\n' && c != EOF) c = fgetc(file);
        c = fgetc(file);
    }
    for (; c >= '0' && c <= '9' && digits < 9; c = fgetc(file), digits++) value = 10 * value + c - '0';
    return digits ? value : -1;
}

static int fail(const char *what, const char *why) {
    fprintf(stderr, "%s: %s\n", what, why);
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 3) return fail("usage", "main NETWORK.bin IMAGE.ppm [THREADS [INSTRUCTIONS]]");
    int threads = argc > 3 ? atoi(argv[3]) : 1;
    burn_network *network;
    if (argc > 4 && burn_use(argv[4])) return fail(argv[4], "this CPU or this program has no such instructions");
    int error = burn_open(argv[1], threads, &network);
    if (error) return fail(argv[1], burn_error(error));
    burn_shape shape = burn_get_shape(network);

    FILE *file = fopen(argv[2], "rb");
    if (!file) return fail(argv[2], "cannot be opened");
    if (fgetc(file) != 'P' || fgetc(file) != '6') return fail(argv[2], "no binary PPM (P6)");
    int width = number(file), height = number(file), most = number(file);
    if (width != shape.width || height != shape.height || most != 255 || shape.channels != 3) {
        fprintf(stderr, "%s: %d x %d pixels of at most %d; the network takes %d x %d of at most 255 in %d channels\n",
                argv[2], width, height, most, shape.width, shape.height, shape.channels);
        return 1;
    }
    size_t area = (size_t)width * height, outputs = shape.classes ? shape.classes : shape.feature_dim;
    uint8_t *pixels = malloc(3 * area);
    float *image = malloc(3 * area * sizeof(float)), *values = malloc((outputs + 1) * sizeof(float));
    if (!pixels || !image || !values) return fail(argv[2], "not enough memory");
    if (fread(pixels, 3, area, file) != area) return fail(argv[2], "truncated");
    fclose(file);

    burn_normalise(network, pixels, image);
    error = burn_run(network, image, shape.classes ? NULL : values, shape.classes ? values : NULL, NULL);
    if (error) return fail(argv[1], burn_error(error));
    if (!shape.classes)
        for (size_t i = 0; i < outputs; i++) printf("%.9g\n", values[i]);
    for (int place = 0; place < 5 && place < shape.classes; place++) {
        int best = 0;
        for (int i = 1; i < shape.classes; i++)
            if (values[i] > values[best]) best = i;
        printf("class %d: %.6f\n", best, values[best]);
        values[best] = -3e38f;
    }
    free(pixels), free(image), free(values);
    burn_close(network);
    return 0;
}
