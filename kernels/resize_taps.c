/* Positions and weights as the ONNX specification of Resize (opset 19) gives them; its reference
 * implementation (onnx.reference) is what the tests compare with. Where that one takes the
 * unrounded length of the result for align_corners and tf_crop_and_resize, the whole one is taken
 * here, as in the specification's formula, torch and onnxruntime. */
#include "kernels/resize_taps.h"

#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/simd.h"

/* ---- positions ---- */

bool pg_resize_position(const pg_resize_axis *axis, int64_t x, double *position) {
    double at = (double)x, in = (double)axis->in, out = (double)axis->out, scale = axis->scale;
    double half = (at + 0.5) / scale - 0.5;
    switch (axis->coordinates) {
    case PG_RESIZE_HALF_PIXEL:
        *position = half;
        break;
    case PG_RESIZE_HALF_PIXEL_SYMMETRIC: /* the centres of both meet, whatever rounding took */
        *position = in / 2 * (1 - out / (in * scale)) + half;
        break;
    case PG_RESIZE_PYTORCH_HALF_PIXEL:
        *position = axis->out > 1 ? half : 0;
        break;
    case PG_RESIZE_ALIGN_CORNERS:
        *position = axis->out > 1 ? at * (in - 1) / (out - 1) : 0;
        break;
    case PG_RESIZE_ASYMMETRIC:
        *position = at / scale;
        break;
    case PG_RESIZE_TF_HALF_PIXEL_FOR_NN:
        *position = (at + 0.5) / scale;
        break;
    case PG_RESIZE_TF_CROP_AND_RESIZE: {
        double start = axis->roi_start, end = axis->roi_end;
        *position = axis->out > 1 ? start * (in - 1) + at * (end - start) * (in - 1) / (out - 1)
                                  : 0.5 * (start + end) * (in - 1);
        return *position >= 0 && *position <= in - 1;
    }
    }
    return true;
}

static int64_t clamp_to(int64_t n, double position) {
    return position < 0 ? 0 : position > (double)(n - 1) ? n - 1 : (int64_t)position;
}

int64_t pg_resize_nearest(const pg_resize_axis *axis, double position,
                          pg_resize_rounding rounding) {
    /* a scale of 4/3 is not a float: what misses a whole or a half by rounding is meant to hit it
     */
    double snapped = rint(2 * position) / 2;
    if (fabs(position - snapped) <= 1e-6 * fmax(1, fabs(position)))
        position = snapped;
    switch (rounding) {
    case PG_RESIZE_ROUND_PREFER_FLOOR:
        position = ceil(position - 0.5);
        break;
    case PG_RESIZE_ROUND_PREFER_CEIL:
        position = floor(position + 0.5);
        break;
    case PG_RESIZE_FLOOR:
        position = floor(position);
        break;
    case PG_RESIZE_CEIL:
        position = ceil(position);
        break;
    }
    return clamp_to(axis->in, position);
}

/* ---- weights ---- */

/* The filter at distance x: a triangle, or Keys' cubic (1981) with parameter a. */
static double filter_at(const pg_resize_filter *f, double x) {
    double a = f->cubic_a;
    x = fabs(x);
    if (!f->cubic)
        return x < 1 ? 1 - x : 0;
    if (x <= 1)
        return ((a + 2) * x - (a + 3)) * x * x + 1;
    return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

/* Elements on either side of a position that its filter reaches. */
static int64_t reach(const pg_resize_axis *axis, const pg_resize_filter *f, double *squeeze) {
    *squeeze = f->antialias && axis->scale < 1 ? axis->scale : 1;
    double radius = (f->cubic ? 2 : 1) / *squeeze;
    return (int64_t)ceil(fmin(radius, 0x1p30));
}

/* The taps of one place: 2 * n of them around the position, edges repeated; taps of one element are
 * one tap. Returns how many there are. */
static int64_t place_taps(const pg_resize_axis *axis, const pg_resize_filter *f, int64_t x,
                          int32_t *index, double *weight) {
    double position, squeeze, sum = 0;
    int64_t n = reach(axis, f, &squeeze), used = 0;
    if (!pg_resize_position(axis, x, &position))
        return 0;
    /* beyond one filter's width from the axis every tap is the edge */
    position = fmin(fmax(position, (double)-n), (double)(axis->in + n));
    int64_t left = (int64_t)ceil(position) - 1;
    for (int64_t i = left + 1 - n; i <= left + n; i++) {
        double w = filter_at(f, squeeze * ((double)i - position));
        bool outside = i < 0 || i >= axis->in;
        if (outside && f->exclude_outside)
            continue;
        int32_t at = (int32_t)(i < 0 ? 0 : i >= axis->in ? axis->in - 1 : i);
        if (used == 0 || index[used - 1] != at)
            index[used] = at, weight[used++] = 0;
        weight[used - 1] += w;
        sum += w;
    }
    bool partial = squeeze < 1 || f->exclude_outside; /* else the weights sum to 1 */
    for (int64_t t = 0; t < used && partial && sum != 0; t++)
        weight[t] /= sum;
    return used;
}

static bool alloc_taps(pg_taps *taps, int64_t rows, int64_t cols, int64_t count) {
    *taps = (pg_taps){.rows = rows, .cols = cols};
    taps->start = pg_calloc((size_t)rows + 1, sizeof *taps->start);
    taps->index = pg_malloc((size_t)count * sizeof *taps->index);
    taps->weight = pg_malloc((size_t)count * sizeof *taps->weight);
    if (taps->start && taps->index && taps->weight)
        return true;
    pg_taps_free(taps);
    return false;
}

bool pg_taps_make(const pg_resize_axis *axis, const pg_resize_filter *filter, pg_taps *taps) {
    double squeeze;
    int64_t most = 2 * reach(axis, filter, &squeeze);
    most = most > axis->in ? axis->in : most; /* equal neighbours are joined */
    double *weight = pg_malloc((size_t)most * sizeof *weight);
    if (!weight || !alloc_taps(taps, axis->out, axis->in, axis->out * most)) {
        pg_free(weight);
        return false;
    }
    int64_t used = 0;
    for (int64_t x = 0; x < axis->out; x++) {
        int64_t n = place_taps(axis, filter, x, taps->index + used, weight);
        int64_t first = used;
        for (int64_t t = 0; t < n; t++) {
            if (weight[t] == 0)
                continue;
            taps->index[used] = taps->index[first + t];
            taps->weight[used++] = (float)weight[t];
        }
        taps->start[x + 1] = used;
    }
    pg_free(weight);
    return true;
}

bool pg_taps_transpose(const pg_taps *taps, pg_taps *t) {
    if (!alloc_taps(t, taps->cols, taps->rows, taps->start[taps->rows]))
        return false;
    for (int64_t i = 0; i < taps->start[taps->rows]; i++)
        t->start[taps->index[i] + 1]++;
    for (int64_t c = 0; c < t->rows; c++)
        t->start[c + 1] += t->start[c];
    for (int64_t r = 0; r < taps->rows; r++)
        for (int64_t i = taps->start[r]; i < taps->start[r + 1]; i++) {
            int64_t to = t->start[taps->index[i]]++;
            t->index[to] = (int32_t)r;
            t->weight[to] = taps->weight[i];
        }
    memmove(t->start + 1, t->start, (size_t)t->rows * sizeof *t->start); /* they have moved on */
    t->start[0] = 0;
    return true;
}

void pg_taps_free(pg_taps *taps) {
    pg_free(taps->start);
    pg_free(taps->index);
    pg_free(taps->weight);
    *taps = (pg_taps){0};
}

/* ---- application ---- */

/* y = or += a u (+ b v): two taps at a time, so that dst is read and written half as often. */
PG_CLONES static void set_one(int64_t n, float a, const float *u, float *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] = a * u[i];
}

PG_CLONES static void add_one(int64_t n, float a, const float *u, float *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] += a * u[i];
}

PG_CLONES static void set_two(int64_t n, float a, const float *u, float b, const float *v,
                              float *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] = a * u[i] + b * v[i];
}

PG_CLONES static void add_two(int64_t n, float a, const float *u, float b, const float *v,
                              float *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] += a * u[i] + b * v[i];
}

/* One row of `inner` elements. */
static void mix_row(const pg_taps *taps, int64_t row, int64_t inner, const float *src, float *dst) {
    int64_t first = taps->start[row], t = first, end = taps->start[row + 1];
    const float *w = taps->weight;
    if (first == end)
        memset(dst, 0, (size_t)inner * sizeof *dst);
    for (; t + 1 < end; t += 2) {
        const float *u = src + taps->index[t] * inner, *v = src + taps->index[t + 1] * inner;
        (t == first ? set_two : add_two)(inner, w[t], u, w[t + 1], v, dst);
    }
    if (t < end)
        (t == first ? set_one : add_one)(inner, w[t], src + taps->index[t] * inner, dst);
}

/* Rows of one element: a plain layout's last axis. */
static void mix_elements(const pg_taps *taps, const float *src, float *dst) {
    for (int64_t i = 0; i < taps->rows; i++) {
        double sum = 0;
        for (int64_t t = taps->start[i]; t < taps->start[i + 1]; t++)
            sum += (double)taps->weight[t] * (double)src[taps->index[t]];
        dst[i] = (float)sum;
    }
}

void pg_taps_apply(const pg_taps *taps, int64_t outer, int64_t inner, const float *src,
                   float *dst) {
    const int64_t parallel_from = 1 << 14; /* elements */
    int64_t rows = taps->rows, cols = taps->cols;
    if (inner == 1) {
#pragma omp parallel for schedule(static) if (outer * rows >= parallel_from)
        for (int64_t o = 0; o < outer; o++)
            mix_elements(taps, src + o * cols, dst + o * rows);
        return;
    }
#pragma omp parallel for schedule(static) if (outer * rows * inner >= parallel_from)
    for (int64_t at = 0; at < outer * rows; at++)
        mix_row(taps, at % rows, inner, src + at / rows * cols * inner, dst + at * inner);
}
