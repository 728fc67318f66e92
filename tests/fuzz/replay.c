/* The cases fuzzing has found, once each, in every build and without libFuzzer: replay FILE... The
 * target's assertions and the sanitizers say what is wrong. */
#include <stdio.h>

#include "kernels/mem.h"
#include "pipeline/file_io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        uint8_t *data;
        size_t size;
        pg_diag diag = {{0}};
        if (pg_file_read(argv[i], 1 << 20, &data, &size, &diag) != PG_OK) {
            fprintf(stderr, "replay: %s\n", diag.text);
            return 2;
        }
        printf("%s\n", argv[i]);
        fflush(stdout); /* the last line names the culprit */
        LLVMFuzzerTestOneInput(data, size);
        pg_free(data);
    }
    return argc < 2;
}
