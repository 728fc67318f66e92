/* Hostile model files: bytes -> import -> optimise -> prepare -> session -> forward -> backward.
 *
 * Beside what the sanitizers see, four promises are checked on every case: a file is refused only
 * with a sentence; up to and including prepare it takes no more memory than FILE_TIMES its size and
 * MEMORY_BASE; when the model is destroyed, all memory is back; and it all takes less than SECONDS
 * of the processor (of the processor, because a busy machine is not the file's fault).
 *
 * Small limits keep one case below some milliseconds: they are the model options a deployment sets
 * too, only smaller. What would compute for long is prepared but not run.
 */
#include <string.h>
#include <time.h>

#include "kernels/mem.h"
#include "pipeline/model.h"
#include "pipeline/session.h"

enum {
    SIDE = 8,                /* pixels, where the file leaves its input open */
    VALUE_BYTES = 1 << 20,   /* one activation */
    SESSION_BYTES = 32 << 20,
    LOAD_BYTES = 60 << 20,
    FLOPS = 20000000,        /* more than that is not run */
    SECONDS = 2,
    FILE_TIMES = 4,
    MEMORY_BASE = 64 << 20,
};

static double processor_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void run(pg_model *model, pg_diag *diag) {
    const pg_model_info *info = pg_model_get_info(model);
    pg_session *session = NULL;
    if (info->flops > FLOPS || pg_session_create(model, &session, diag) != PG_OK)
        return;
    int64_t count = pg_shape_count(&info->input);
    float *input = pg_session_input(session, NULL);
    for (int64_t i = 0; i < count; i++)
        input[i] = (float)(i % 17) / 8 - 1;
    float *seed = pg_calloc((size_t)info->classes, sizeof *seed);
    pg_assert(seed != NULL);
    seed[0] = 1;
    if (pg_session_forward(session, diag) == PG_OK)
        pg_session_backward(session, seed, NULL, diag);
    pg_free(seed);
    pg_session_destroy(&session);
}

static pg_err prepare(pg_model *model, pg_diag *diag) {
    int n = pg_model_get_info(model)->n_convs;
    bool *gap = pg_malloc((size_t)n);
    pg_assert(gap != NULL);
    memset(gap, true, (size_t)n);
    pg_err err = pg_model_prepare(model, gap, true, diag);
    pg_free(gap);
    return err;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static pg_diag diag;
    const uint8_t none = 0;
    const pg_model_options options = {.path = "fuzz", .fuse_add = true, .bytes = size > 0 ? data : &none,
                                      .n_bytes = size, .height = SIDE, .width = SIDE, .threads = 1,
                                      .max_value_bytes = VALUE_BYTES,
                                      .max_load_bytes = LOAD_BYTES,
                                      .max_session_bytes = SESSION_BYTES};
    const pg_mem_stats before = pg_mem_get_stats();
    const double start = processor_seconds();
    pg_mem_reset_peak();
    diag.text[0] = '\0';
    pg_model *model = NULL;
    pg_err err = pg_model_open(&options, &model, &diag);
    if (err == PG_OK)
        err = prepare(model, &diag);
    uint64_t taken = pg_mem_get_stats().peak_bytes - before.live_bytes;
    pg_assert(taken <= FILE_TIMES * size + MEMORY_BASE);
    pg_assert((err == PG_OK) == (diag.text[0] == '\0'));
    if (err == PG_OK)
        run(model, &diag);
    pg_model_destroy(&model);
    pg_mem_stats after = pg_mem_get_stats();
    pg_assert(processor_seconds() - start < SECONDS);
    pg_assert(after.live_bytes == before.live_bytes && after.live_blocks == before.live_blocks);
    return 0;
}
