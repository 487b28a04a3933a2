/* maps.c - the feature maps of images, for the test of convolutions on other CPUs:
   maps INSTRUCTIONS FOLDER COUNT reads FOLDER/i.net and FOLDER/i.in, float32, and writes FOLDER/i.out for each i. */

#include "burn.h"

#include <stdio.h>
#include <stdlib.h>

static FILE *file_of(const char *folder, int number, const char *end, const char *mode) {
    char path[1000];
    snprintf(path, sizeof path, "%s/%d.%s", folder, number, end);
    FILE *file = fopen(path, mode);
    if (!file) exit(1);
    return file;
}

int main(int argc, char **argv) {
    if (argc < 4 || burn_use(argv[1])) return 1;
    static char network[1 << 22];
    for (int i = 0; i < atoi(argv[3]); i++) {
        burn_network *opened;
        FILE *file = file_of(argv[2], i, "net", "rb"), *in = file_of(argv[2], i, "in", "rb");
        if (burn_open_memory(network, fread(network, 1, sizeof network, file), 1, &opened)) return 1;
        burn_shape s = burn_get_shape(opened);
        size_t inputs = (size_t)s.channels * s.height * s.width, outputs = (size_t)s.map_channels * s.map_height * s.map_width;
        float *image = malloc(inputs * sizeof(float)), *map = malloc(outputs * sizeof(float));
        FILE *out = file_of(argv[2], i, "out", "wb");
        while (fread(image, sizeof(float), inputs, in) == inputs) {
            if (burn_run(opened, image, NULL, NULL, map)) return 1;
            fwrite(map, sizeof(float), outputs, out);
        }
        fclose(file), fclose(in), fclose(out);
        free(image), free(map);
        burn_close(opened);
    }
    return 0;
}
