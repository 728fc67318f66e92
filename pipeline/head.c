#include "pipeline/head.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/walk.h"
#include "pipeline/file_io.h"
#include "pipeline/npy.h"

/* ---- create ---- */

/* One number per axis of the cells names one cell, two per axis (all firsts, then all ends) a box
 * that ends before its second corner. */
static pg_err read_region(const pg_head_options *options, pg_head *head, pg_diag *diag) {
    const pg_shape *shape = &head->info->output.shape;
    int axes = shape->rank - 2, n = options->n_region;
    char text[PG_SHAPE_TEXT];
    for (int i = 0; i < shape->rank; i++)
        head->extent[i] = shape->dims[i];
    if (n != 0 && n != axes && n != 2 * axes)
        return pg_fail(diag, PG_ECONFIG,
                       "explain.region has %d numbers; for an output of shape %s it is %d for one "
                       "cell or %d for a box, or all",
                       n, pg_shape_text(shape, text), axes, 2 * axes);
    for (int axis = 1, k = 0; n > 0 && axis < shape->rank; axis++) {
        if (axis == head->info->class_axis)
            continue;
        int64_t first = options->region[k];
        int64_t end = n == axes ? first + 1 : options->region[axes + k];
        if (first < 0 || end <= first || end > shape->dims[axis])
            return pg_fail(diag, PG_ECONFIG,
                           "explain.region: %" PRId64 " to %" PRId64 " is no part of axis %d of "
                           "the output, whose shape is %s",
                           first, end, axis, pg_shape_text(shape, text));
        head->first[axis] = first;
        head->extent[axis] = end - first;
        k++;
    }
    head->cells = 1;
    for (int axis = 1; axis < shape->rank; axis++)
        if (axis != head->info->class_axis)
            head->cells *= head->extent[axis];
    return PG_OK;
}

/* The vector of explain.vector, scaled to length 1. */
static pg_err read_vector(const char *path, int64_t count, float **out, pg_diag *diag) {
    enum { ROOM = 65536 };
    uint8_t *file = NULL;
    size_t size = 0;
    pg_npy npy;
    if (path == NULL || path[0] == '\0')
        return pg_fail(diag, PG_ECONFIG,
                       "explain.output is cosine: which direction? set explain.vector");
    pg_err err = pg_file_read(path, (uint64_t)count * sizeof(float) + ROOM, &file, &size, diag);
    if (err == PG_OK)
        err = pg_npy_parse(file, size, &npy, diag);
    if (err == PG_OK && pg_shape_count(&npy.shape) != count)
        err = pg_fail(diag, PG_ECONFIG,
                      "it holds %" PRId64 " values, the output has %" PRId64,
                      pg_shape_count(&npy.shape), count);
    if (err == PG_OK && (*out = pg_malloc((size_t)count * sizeof(float))) == NULL)
        err = pg_fail(diag, PG_ENOMEM, "no memory for it");
    double square = 0;
    if (err == PG_OK) {
        memcpy(*out, npy.values, (size_t)count * sizeof(float));
        for (int64_t i = 0; i < count; i++)
            square += (double)(*out)[i] * (double)(*out)[i];
        if (!(square > 0) || !isfinite(square))
            err = pg_fail(diag, PG_ECONFIG, "it has no direction: its length is %g", sqrt(square));
    }
    for (int64_t i = 0; err == PG_OK && i < count; i++)
        (*out)[i] = (float)((double)(*out)[i] / sqrt(square));
    pg_free(file);
    if (err == PG_OK)
        return PG_OK;
    pg_free(*out);
    *out = NULL;
    err = err == PG_EINPUT ? PG_ECONFIG : err;
    return pg_fail_in(diag, err, "explain.vector: %s", path);
}

pg_err pg_head_create(const pg_head_options *options, const pg_model_info *info, pg_head *out,
                      pg_diag *diag) {
    *out = (pg_head){.what = options->what, .info = info, .classes = info->classes, .cells = 1};
    if (options->what == PG_EXPLAIN_LOGIT)
        return read_region(options, out, diag);
    out->classes = 1;
    if (options->n_region > 0)
        return pg_fail(diag, PG_ECONFIG,
                       "explain.region goes with explain.output logit; cosine and norm are of the "
                       "whole output");
    if (options->what == PG_EXPLAIN_COSINE)
        return read_vector(options->vector_path, pg_shape_count(&info->output.shape), &out->vector,
                           diag);
    return PG_OK;
}

void pg_head_destroy(pg_head *head) {
    pg_free(head->vector);
    head->vector = NULL;
}

bool pg_head_has_classes(const pg_head *head) { return head->what == PG_EXPLAIN_LOGIT; }

/* ---- logits ---- */

/* A walk over the region, or over `class_extent` of its classes; its second operand has one number
 * per class. Returns where the region begins in the output. */
static int64_t walk_region(const pg_head *head, int64_t class_extent, pg_walk *walk) {
    int64_t strides[PG_MAX_RANK], classes[PG_MAX_RANK] = {0}, extent[PG_MAX_RANK], offset = 0;
    int rank = head->info->output.shape.rank;
    pg_desc_strides(&head->info->output, strides);
    memcpy(extent, head->extent, sizeof extent);
    extent[head->info->class_axis] = class_extent;
    classes[head->info->class_axis] = 1;
    for (int i = 0; i < rank; i++)
        offset += head->first[i] * strides[i];
    pg_walk_init(walk, rank, extent, 2, (const int64_t *[]){strides, classes});
    return offset;
}

static void sum_logits(const pg_head *head, const float *output, double *sums, float *scores) {
    pg_walk walk;
    int64_t offset = walk_region(head, head->classes, &walk);
    memset(sums, 0, (size_t)head->classes * sizeof *sums);
    pg_walk_sum(&walk, output + offset, sums);
    for (int64_t k = 0; k < head->classes; k++)
        scores[k] = (float)sums[k];
}

static void seed_logit(const pg_head *head, int64_t klass, float *seed) {
    static const float one = 1;
    int64_t strides[PG_MAX_RANK];
    pg_walk walk;
    pg_desc_strides(&head->info->output, strides);
    int64_t offset = walk_region(head, 1, &walk) + klass * strides[head->info->class_axis];
    memset(seed, 0, (size_t)pg_shape_count(&head->info->output.shape) * sizeof *seed);
    pg_walk_copy(&walk, seed + offset, &one);
}

/* ---- embeddings ---- */

static double length_of(const float *y, int64_t count) {
    double square = 0;
    for (int64_t i = 0; i < count; i++)
        square += (double)y[i] * (double)y[i];
    return sqrt(square);
}

/* Where element i of the output, counted in the layout it has, stands in the file's order. */
static int64_t file_index(const pg_desc *output, int64_t i) {
    if (output->layout == PG_PLAIN)
        return i;
    int64_t channels = output->shape.dims[1];
    int64_t area = pg_shape_count(&output->shape) / channels;
    return i % channels * area + i / channels;
}

static double dot(const pg_head *head, const float *y, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++)
        sum += (double)y[i] * (double)head->vector[file_index(&head->info->output, i)];
    return sum;
}

static float score_embedding(const pg_head *head, const float *output) {
    int64_t count = pg_shape_count(&head->info->output.shape);
    double length = length_of(output, count);
    if (head->what == PG_EXPLAIN_NORM)
        return (float)length;
    return (float)(length > 0 ? dot(head, output, count) / length : 0);
}

/* An embedding of zeros has neither direction nor slope: no gradient, and so a degenerate map. */
static void seed_embedding(const pg_head *head, const float *output, double score, float *seed) {
    int64_t count = pg_shape_count(&head->info->output.shape);
    double length = length_of(output, count);
    for (int64_t i = 0; i < count; i++) {
        double direction = length > 0 ? (double)output[i] / length : 0, d = direction;
        if (head->what == PG_EXPLAIN_COSINE && length > 0) {
            double v = (double)head->vector[file_index(&head->info->output, i)];
            d = (v - score * direction) / length;
        }
        seed[i] = (float)d;
    }
}

/* ---- both ---- */

void pg_head_scores(const pg_head *head, const float *output, double *sums, float *scores) {
    if (head->what == PG_EXPLAIN_LOGIT)
        sum_logits(head, output, sums, scores);
    else
        scores[0] = score_embedding(head, output);
}

void pg_head_seed(const pg_head *head, const float *output, const float *scores, int64_t klass,
                  float *seed) {
    if (head->what == PG_EXPLAIN_LOGIT)
        seed_logit(head, klass, seed);
    else
        seed_embedding(head, output, (double)scores[0], seed);
}

pg_head_scale pg_head_scale_of(const pg_head *head, const float *scores) {
    pg_head_scale scale = {.largest = (double)scores[0] / (double)head->cells};
    for (int64_t k = 1; k < head->classes; k++)
        scale.largest = fmax(scale.largest, (double)scores[k] / (double)head->cells);
    for (int64_t k = 0; k < head->classes; k++)
        scale.sum += exp((double)scores[k] / (double)head->cells - scale.largest);
    return scale;
}

float pg_head_probability(const pg_head *head, pg_head_scale scale, float score) {
    double mean = (double)score / (double)head->cells;
    if (head->what != PG_EXPLAIN_LOGIT)
        return score;
    if (head->info->squash == PG_SQUASH_SIGMOID)
        return (float)(1 / (1 + exp(-mean)));
    return (float)(exp(mean - scale.largest) / scale.sum);
}
