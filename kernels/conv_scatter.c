/* A row of d_src is made in a buffer with a margin on both sides, so that nothing is cut off at the
 * edges, and copied out; rows are dealt to the threads. Neighbouring positions add to overlapping
 * stretches, and a load that overlaps a store still on its way to the cache waits for it: positions
 * are therefore visited in turns, so far apart that two that follow each other do not meet. */
#include "kernels/conv_scatter.h"

#include <omp.h>
#include <string.h>

#include "kernels/simd.h"

enum { LANES = 16, STRETCH = 2 * LANES };

/* One register of AVX-512; compilers make several smaller ones of it elsewhere. */
typedef float lanes __attribute__((vector_size(LANES * sizeof(float)), aligned(sizeof(float))));

/* Values of a buffer row: the padded input, and what the last position writes. */
static int64_t buffer_row(const pg_conv_geometry *g) {
    int64_t last = (g->out_w - 1) * g->dnnl.strides[1] * g->in_c + STRETCH;
    int64_t own = (g->dnnl.pad_begin[1] + g->in_w) * g->in_c;
    return ((own > last ? own : last) + LANES - 1) / LANES * LANES;
}

static bool lends_itself(const pg_conv_geometry *g) {
    return g->groups == 1 && g->in_c <= 4 && g->k_w * g->in_c <= STRETCH &&
           g->dnnl.dilates[1] == 0 && g->dnnl.pad_begin[1] < g->k_w &&
           (g->out_w - 1) * g->dnnl.strides[1] < g->dnnl.pad_begin[1] + g->in_w;
}

void pg_conv_scatter_make(const pg_conv_geometry *g, int64_t capacity, pg_conv_scatter *out) {
    *out = (pg_conv_scatter){.capacity = 0};
    if (!lends_itself(g))
        return;
    out->capacity = capacity;
    out->geometry = *g;
    out->packed_bytes = (size_t)(capacity * g->k_h * STRETCH) * sizeof(float);
    out->scratch_bytes = (size_t)(omp_get_max_threads() * buffer_row(g)) * sizeof(float);
}

/* [k_h, capacity, STRETCH], a stretch in the order of d_src's columns and channels, zeros behind
 * it. */
void pg_conv_scatter_pack(const pg_conv_scatter *s, const float *rows, float *packed) {
    const pg_conv_geometry *g = &s->geometry;
    memset(packed, 0, s->packed_bytes);
    for (int64_t k = 0; k < s->capacity; k++)
        for (int64_t c = 0; c < g->in_c; c++)
            for (int64_t y = 0; y < g->k_h; y++)
                for (int64_t x = 0; x < g->k_w; x++)
                    packed[(y * s->capacity + k) * STRETCH + x * g->in_c + c] =
                        rows[((k * g->in_c + c) * g->k_h + y) * g->k_w + x];
}

/* One row of the kernel over one row of positions: to[i step + j] += sum over k of g[i,k] w[k,j],
 * for a stretch of one register or two. */
PG_CLONES static void add_short(int64_t n, int64_t step, int64_t turns, int64_t count,
                                int64_t capacity, const float *g, const float *w, float *to) {
    for (int64_t turn = 0; turn < turns; turn++)
        for (int64_t i = turn; i < n; i += turns) {
            const float *from = g + i * capacity;
            lanes *at = (lanes *)(to + i * step), sum = at[0];
            for (int64_t k = 0; k < count; k++)
                sum += from[k] * *(const lanes *)(w + k * STRETCH);
            at[0] = sum;
        }
}

PG_CLONES static void add_long(int64_t n, int64_t step, int64_t turns, int64_t count,
                               int64_t capacity, const float *g, const float *w, float *to) {
    for (int64_t turn = 0; turn < turns; turn++)
        for (int64_t i = turn; i < n; i += turns) {
            const float *from = g + i * capacity;
            lanes *at = (lanes *)(to + i * step), left = at[0], right = at[1];
            for (int64_t k = 0; k < count; k++) {
                const lanes *row = (const lanes *)(w + k * STRETCH);
                left += from[k] * row[0];
                right += from[k] * row[1];
            }
            at[0] = left;
            at[1] = right;
        }
}

static void make_row(const pg_conv_scatter *s, const float *packed, int64_t count,
                     const float *gradient, int64_t y, float *buffer, float *d_row) {
    const pg_conv_geometry *g = &s->geometry;
    int64_t step = g->dnnl.strides[1] * g->in_c;
    int64_t touched = g->k_w * g->in_c <= LANES ? LANES : STRETCH;
    memset(buffer, 0, (size_t)buffer_row(g) * sizeof *buffer);
    for (int64_t k = 0; k < g->k_h; k++) {
        int64_t down = y + g->dnnl.pad_begin[0] - k * (g->dnnl.dilates[0] + 1);
        int64_t p = down / g->dnnl.strides[0];
        if (down < 0 || down % g->dnnl.strides[0] != 0 || p >= g->out_h)
            continue;
        (touched == LANES ? add_short : add_long)(
            g->out_w, step, (touched + step - 1) / step, count, s->capacity,
            gradient + p * g->out_w * s->capacity, packed + k * s->capacity * STRETCH, buffer);
    }
    memcpy(d_row, buffer + g->dnnl.pad_begin[1] * g->in_c,
           (size_t)(g->in_w * g->in_c) * sizeof *d_row);
}

void pg_conv_scatter_run(const pg_conv_scatter *s, const float *packed, int64_t count,
                         const float *gradient, void *scratch, float *d_src) {
    const pg_conv_geometry *g = &s->geometry;
    float *buffers = scratch;
#pragma omp parallel for schedule(static)
    for (int64_t y = 0; y < g->in_h; y++)
        make_row(s, packed, count, gradient, y, buffers + omp_get_thread_num() * buffer_row(g),
                 d_src + y * g->in_w * g->in_c);
}
