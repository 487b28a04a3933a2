/* mutate.c - opens mutations of a network and runs those that open; built with sanitizers.

   mutate NETWORK COUNT            each must be an error, or the exact network (the mutation changed nothing)
   mutate NETWORK COUNT checksum   the checksum is made right again: any error will do, and any network that runs */

#include "burn.c"

static uint64_t state = 88172645463325252u;

static uint64_t draw(uint64_t below) {
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return state % below;
}

static void run(burn_network *network) {
    burn_shape s = burn_get_shape(network);
    size_t inputs = (size_t)s.channels * s.height * s.width;
    size_t outputs = (size_t)s.map_channels * s.map_height * s.map_width;
    if (inputs > 1 << 22) return;
    float *image = calloc(inputs, sizeof(float)), *map = calloc(outputs, sizeof(float));
    if (image && map) burn_run(network, image, NULL, NULL, map);
    free(image), free(map);
}

int main(int argc, char **argv) {
    if (argc < 3) return 2;
    FILE *file = fopen(argv[1], "rb");
    if (!file) return 2;
    fseek(file, 0, SEEK_END);
    size_t whole = ftell(file), header = 16 + 44 + 24 + 4 * 32, silent = 0, opened = 0;
    rewind(file);
    uint8_t *data = malloc(whole), *mutated = malloc(whole);
    if (!data || !mutated || fread(data, 1, whole, file) != whole) return 2;
    fclose(file);
    static const uint32_t sizes[] = {0, 1, 2, 3, 7, 64, 1000, 8192, 65536, 0x7fffffff, 1u << 31, 0xffffffff};
    for (int i = atoi(argv[2]); i > 0; i--) {
        size_t size = whole;
        memcpy(mutated, data, whole);
        switch (draw(4)) {
        case 0:
            size = draw(whole);
            break;
        case 1:
            mutated[draw(whole)] ^= 1 << draw(8);
            break;
        case 2:
            memcpy(mutated + 16 + 4 * draw(header / 4 - 4), &sizes[draw(12)], 4);
            break;
        default:
            for (int n = draw(20); n >= 0; n--) mutated[16 + draw(header - 16)] = draw(256);
        }
        if (argc > 3 && size > 16) {
            uint64_t sum = checksum(size - 16, mutated + 16, size - 16);
            memcpy(mutated + 8, &sum, 8);
        }
        uint8_t *exact = malloc(size ? size : 1); /* so that a byte behind the end is seen */
        memcpy(exact, mutated, size);
        burn_network *network;
        if (!burn_open_memory(exact, size, 1 + draw(2), &network)) {
            opened++;
            silent += size != whole || memcmp(mutated, data, whole) != 0;
            run(network);
            burn_close(network);
        }
        free(exact);
    }
    free(data), free(mutated);
    printf("%s mutations: %zu opened, %zu of them another network\n", argv[2], opened, silent);
    return argc == 3 && silent > 0;
}
