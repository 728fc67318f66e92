/* Runs a network once forward and once backward, for the tests written in Python:
 *
 *   run_model MODEL.onnx INPUT.npy SEED.npy OUTPUT.npy GRADIENT.npy
 *
 * reads the input [1,C,H,W] and d_output = seed, writes the output and the input's gradient, all in
 * the file's order. `parchgradd explain` seeds one class at a time; a seed that weighs all elements
 * tests the whole output of an operator with one run.
 *
 * The exit status is the daemon's: 3 if the model is refused, with the sentence on stderr. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/file_io.h"
#include "pipeline/npy.h"
#include "pipeline/session.h"

enum { FILE_MAX = 1 << 28 };

typedef struct job {
    const char *input, *seed, *output, *gradient; /* paths */
    pg_model *model;
    pg_session *session;
} job;

/* Reads an array that has to hold `count` values; the caller frees it. */
static pg_err load(const char *path, int64_t count, float **out, pg_diag *diag) {
    uint8_t *file = NULL;
    size_t size = 0;
    pg_npy array;
    pg_err err = pg_file_read(path, FILE_MAX, &file, &size, diag);
    if (err == PG_OK)
        err = pg_npy_parse(file, size, &array, diag);
    if (err == PG_OK && pg_shape_count(&array.shape) != count)
        err = pg_fail(diag, PG_EINPUT, "%" PRId64 " values, the model wants %" PRId64,
                      pg_shape_count(&array.shape), count);
    if (err == PG_OK && (*out = pg_malloc(array.bytes)) == NULL)
        err = pg_fail(diag, PG_ENOMEM, "no memory for %zu bytes", array.bytes);
    if (err == PG_OK)
        memcpy(*out, array.values, array.bytes);
    pg_free(file);
    return err == PG_OK ? PG_OK : pg_fail_in(diag, err, "%s", path);
}

/* Reads an array in the file's order into `to`, which is laid out as desc says. */
static pg_err load_as(const char *path, const pg_desc *desc, float *to, pg_diag *diag) {
    float *plain = NULL;
    pg_err err = load(path, pg_shape_count(&desc->shape), &plain, diag);
    if (err == PG_OK)
        pg_layout_convert(&desc->shape, PG_PLAIN, plain, desc->layout, to);
    pg_free(plain);
    return err;
}

static pg_err save(const char *path, const pg_desc *desc, const float *values, pg_diag *diag) {
    float *plain = pg_malloc((size_t)pg_shape_count(&desc->shape) * sizeof *plain);
    if (plain == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for %s", path);
    pg_layout_convert(&desc->shape, desc->layout, values, PG_PLAIN, plain);
    pg_err err = pg_npy_save(path, &desc->shape, plain, diag);
    pg_free(plain);
    return err;
}

static pg_err run(job *j, pg_diag *diag) {
    const pg_model_info *info = pg_model_get_info(j->model);
    pg_desc input = {.shape = info->input};
    float *x = pg_session_input(j->session, &input.layout);
    float *seed = pg_malloc((size_t)pg_shape_count(&info->output.shape) * sizeof *seed);
    if (seed == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the seed");
    pg_err err = load_as(j->input, &input, x, diag);
    if (err == PG_OK)
        err = load_as(j->seed, &info->output, seed, diag);
    if (err == PG_OK)
        err = pg_session_forward(j->session, diag);
    if (err == PG_OK)
        err = save(j->output, &info->output, pg_session_output(j->session), diag);
    if (err == PG_OK)
        err = pg_session_backward(j->session, seed, NULL, diag);
    if (err == PG_OK)
        err = save(j->gradient, &input, pg_session_d_input(j->session), diag);
    pg_free(seed);
    return err;
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "run_model MODEL INPUT SEED OUTPUT GRADIENT\n");
        return pg_err_exit_status(PG_ECONFIG);
    }
    static pg_diag diag;
    job j = {.input = argv[2], .seed = argv[3], .output = argv[4], .gradient = argv[5]};
    pg_model_options options = {.path = argv[1], .class_axis = -1, .fuse_add = true, .threads = 1};
    pg_err err = pg_model_open(&options, &j.model, &diag);
    if (err == PG_OK)
        err = pg_model_prepare(j.model, NULL, true, &diag);
    if (err == PG_OK)
        err = pg_session_create(j.model, &j.session, &diag);
    if (err == PG_OK)
        err = run(&j, &diag);
    pg_session_destroy(&j.session);
    pg_model_destroy(&j.model);
    if (err != PG_OK)
        fprintf(stderr, "%s\n", diag.text);
    return pg_err_exit_status(err);
}
