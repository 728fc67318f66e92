#include "kernels/walk.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/err.h"
#include "kernels/simd.h"

enum { PARALLEL_FROM = 1 << 15 }; /* elements; below, starting a team costs more than it saves */

static void swap_axes(pg_walk *w, int a, int b) {
    int64_t t = w->dims[a];
    w->dims[a] = w->dims[b];
    w->dims[b] = t;
    for (int k = 0; k < w->operands; k++) {
        t = w->stride[k][a];
        w->stride[k][a] = w->stride[k][b];
        w->stride[k][b] = t;
    }
}

static bool mergeable(const pg_walk *w, int outer, int inner) {
    for (int k = 0; k < w->operands; k++)
        if (w->stride[k][outer] != w->stride[k][inner] * w->dims[inner])
            return false;
    return true;
}

static void merge_axes(pg_walk *w) {
    int last = 0;
    for (int i = 1; i < w->rank; i++) {
        bool merge = mergeable(w, last, i);
        int64_t d = merge ? w->dims[last] * w->dims[i] : w->dims[i];
        last += merge ? 0 : 1;
        w->dims[last] = d;
        for (int k = 0; k < w->operands; k++)
            w->stride[k][last] = w->stride[k][i];
    }
    w->rank = last + 1;
}

void pg_walk_init(pg_walk *w, int rank, const int64_t *dims, int operands,
                  const int64_t *const *strides) {
    pg_assert(operands <= PG_WALK_OPERANDS && rank <= PG_MAX_RANK);
    memset(w, 0, sizeof *w);
    w->operands = operands;
    for (int i = 0; i < rank; i++) {
        if (dims[i] == 1)
            continue;
        w->dims[w->rank] = dims[i];
        for (int k = 0; k < operands; k++)
            w->stride[k][w->rank] = strides[k][i];
        w->rank++;
    }
    if (w->rank == 0) {
        w->rank = 1;
        w->dims[0] = 1;
    }
    for (int i = 1; i < w->rank; i++)
        for (int j = i; j > 0 && llabs(w->stride[0][j]) > llabs(w->stride[0][j - 1]); j--)
            swap_axes(w, j, j - 1);
    merge_axes(w);
    w->rows = 1;
    for (int i = 0; i < w->rank - 1; i++)
        w->rows *= w->dims[i];
}

void pg_walk_row(const pg_walk *w, int64_t row, int64_t offset[PG_WALK_OPERANDS]) {
    for (int k = 0; k < PG_WALK_OPERANDS; k++)
        offset[k] = 0;
    for (int i = w->rank - 2; i >= 0; i--) {
        int64_t at = row % w->dims[i];
        row /= w->dims[i];
        for (int k = 0; k < w->operands; k++)
            offset[k] += at * w->stride[k][i];
    }
}

static void copy_row(int64_t n, float *dst, int64_t ds, const float *src, int64_t ss) {
    if (ds == 1 && ss == 1) {
        memcpy(dst, src, (size_t)n * sizeof *dst);
    } else {
        for (int64_t i = 0; i < n; i++)
            dst[i * ds] = src[i * ss];
    }
}

void pg_walk_copy(const pg_walk *w, float *dst, const float *src) {
    int64_t n = w->dims[w->rank - 1], ds = w->stride[0][w->rank - 1], ss = w->stride[1][w->rank - 1];
#pragma omp parallel for schedule(static) if (w->rows > 1 && w->rows * n >= PARALLEL_FROM)
    for (int64_t row = 0; row < w->rows; row++) {
        int64_t at[PG_WALK_OPERANDS];
        pg_walk_row(w, row, at);
        copy_row(n, dst + at[0], ds, src + at[1], ss);
    }
}

void pg_walk_scale(const pg_walk *w, float scale, float *dst, const float *src) {
    int64_t n = w->dims[w->rank - 1], ds = w->stride[0][w->rank - 1], ss = w->stride[1][w->rank - 1];
#pragma omp parallel for schedule(static) if (w->rows > 1 && w->rows * n >= PARALLEL_FROM)
    for (int64_t row = 0; row < w->rows; row++) {
        int64_t at[PG_WALK_OPERANDS];
        pg_walk_row(w, row, at);
        for (int64_t i = 0; i < n; i++)
            dst[at[0] + i * ds] = scale * src[at[1] + i * ss];
    }
}

PG_CLONES static void add_row(int64_t n, const float *src, double *sums) {
    for (int64_t i = 0; i < n; i++)
        sums[i] += (double)src[i];
}

/* Eight partial sums: what lets a compiler vectorise a sum whose order it may not change. */
PG_CLONES static double total_row(int64_t n, const float *src) {
    double part[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            part[k] += (double)src[i + k];
    for (int k = 0; i < n; i++, k++)
        part[k] += (double)src[i];
    return ((part[0] + part[4]) + (part[1] + part[5])) + ((part[2] + part[6]) + (part[3] + part[7]));
}

void pg_walk_sum(const pg_walk *w, const float *src, double *sums) {
    int64_t n = w->dims[w->rank - 1], ss = w->stride[0][w->rank - 1], ds = w->stride[1][w->rank - 1];
    for (int64_t row = 0; row < w->rows; row++) {
        int64_t at[PG_WALK_OPERANDS];
        pg_walk_row(w, row, at);
        if (ss == 1 && ds == 1)
            add_row(n, src + at[0], sums + at[1]);
        else if (ss == 1 && ds == 0)
            sums[at[1]] += total_row(n, src + at[0]);
        else
            for (int64_t i = 0; i < n; i++)
                sums[at[1] + i * ds] += (double)src[at[0] + i * ss];
    }
}
