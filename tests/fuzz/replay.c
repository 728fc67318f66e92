/* The cases fuzzing has found, once each, in every build and without libFuzzer: replay FILE...
 * Fails by an assertion, a sanitizer, or when a case takes longer than two seconds. */
#include <stdio.h>
#include <time.h>

#include "kernels/mem.h"
#include "pipeline/file_io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
    int slow = 0;
    for (int i = 1; i < argc; i++) {
        uint8_t *data;
        size_t size;
        pg_diag diag = {{0}};
        if (pg_file_read(argv[i], 1 << 20, &data, &size, &diag) != PG_OK) {
            fprintf(stderr, "replay: %s\n", diag.text);
            return 2;
        }
        double start = now();
        LLVMFuzzerTestOneInput(data, size);
        double taken = now() - start;
        if (taken > 2) {
            fprintf(stderr, "replay: %s took %.1f s\n", argv[i], taken);
            slow++;
        }
        pg_free(data);
    }
    printf("replay: %d cases, %d too slow\n", argc - 1, slow);
    return slow > 0 || argc < 2;
}
