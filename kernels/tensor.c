#include "kernels/tensor.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

int64_t pg_shape_count(const pg_shape *shape) {
    const int64_t limit = (int64_t)1 << 40;
    int64_t count = 1;
    for (int i = 0; i < shape->rank; i++) {
        int64_t d = shape->dims[i];
        if (d < 0 || d > limit)
            return -1;
        if (d != 0 && count > limit / d)
            return -1;
        count *= d;
    }
    return count;
}

bool pg_shape_equal(const pg_shape *a, const pg_shape *b) {
    return a->rank == b->rank &&
           memcmp(a->dims, b->dims, (size_t)a->rank * sizeof a->dims[0]) == 0;
}

const char *pg_shape_text(const pg_shape *shape, char text[PG_SHAPE_TEXT]) {
    int used = snprintf(text, PG_SHAPE_TEXT, "[");
    for (int i = 0; i < shape->rank; i++)
        used += snprintf(text + used, (size_t)(PG_SHAPE_TEXT - used), "%s%" PRId64, i ? "," : "",
                         shape->dims[i]);
    snprintf(text + used, (size_t)(PG_SHAPE_TEXT - used), "]");
    return text;
}

void pg_desc_strides(const pg_desc *desc, int64_t strides[PG_MAX_RANK]) {
    const pg_shape *s = &desc->shape;
    int64_t step = 1;
    bool last = desc->layout == PG_CHANNELS_LAST && s->rank >= 3;
    if (last) {
        strides[1] = 1;
        step = s->dims[1];
    }
    for (int i = s->rank - 1; i >= 0; i--) {
        if (last && i == 1)
            continue;
        strides[i] = step;
        step *= s->dims[i];
    }
}

bool pg_layout_same_bytes(const pg_shape *shape) {
    if (shape->rank < 3 || shape->dims[1] == 1)
        return true;
    for (int i = 2; i < shape->rank; i++)
        if (shape->dims[i] != 1)
            return false;
    return true;
}

/* Transposes [rows, cols] to [cols, rows] in tiles that stay in the first-level cache. */
static void transpose(int64_t rows, int64_t cols, const float *src, float *dst) {
    enum { TILE = 32 };
    for (int64_t r0 = 0; r0 < rows; r0 += TILE)
        for (int64_t c0 = 0; c0 < cols; c0 += TILE) {
            int64_t r1 = r0 + TILE < rows ? r0 + TILE : rows;
            int64_t c1 = c0 + TILE < cols ? c0 + TILE : cols;
            for (int64_t r = r0; r < r1; r++)
                for (int64_t c = c0; c < c1; c++)
                    dst[c * rows + r] = src[r * cols + c];
        }
}

void pg_layout_convert(const pg_shape *shape, pg_layout from, const float *src, pg_layout to,
                       float *dst) {
    int64_t count = pg_shape_count(shape);
    if (from == to || pg_layout_same_bytes(shape)) {
        memcpy(dst, src, (size_t)count * sizeof *dst);
        return;
    }
    if (count == 0)
        return;
    int64_t batch = shape->dims[0], channels = shape->dims[1];
    int64_t spatial = count / batch / channels;
    for (int64_t n = 0; n < batch; n++) {
        const float *s = src + n * channels * spatial;
        float *d = dst + n * channels * spatial;
        if (to == PG_CHANNELS_LAST)
            transpose(channels, spatial, s, d);
        else
            transpose(spatial, channels, s, d);
    }
}
