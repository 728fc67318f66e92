#include "pipeline/rank.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/mem.h"

pg_err pg_rank_create(int64_t count, pg_ranker *out, pg_diag *diag) {
    size_t n = (size_t)count;
    *out = (pg_ranker){.count = count,
                       .order = pg_malloc(n * sizeof *out->order),
                       .first = pg_malloc(n * sizeof *out->first),
                       .second = pg_malloc(n * sizeof *out->second)};
    if (out->order && out->first && out->second)
        return PG_OK;
    pg_rank_destroy(out);
    return pg_fail(diag, PG_ENOMEM, "no memory for ranks");
}

void pg_rank_destroy(pg_ranker *rank) {
    pg_free(rank->order);
    pg_free(rank->first);
    pg_free(rank->second);
    *rank = (pg_ranker){0};
}

static int hotter_first(const void *a, const void *b, void *values) {
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    float x = ((const float *)values)[i], y = ((const float *)values)[j];
    if (isnan(x) || isnan(y) || x == y)
        return isnan(x) != isnan(y) ? (isnan(x) ? 1 : -1) : (i > j) - (i < j);
    return x < y ? 1 : -1;
}

const int32_t *pg_rank_order(pg_ranker *rank, const float *values) {
    for (int64_t i = 0; i < rank->count; i++)
        rank->order[i] = (int32_t)i;
    qsort_r(rank->order, (size_t)rank->count, sizeof *rank->order, hotter_first, (void *)values);
    return rank->order;
}

static void ranks_of(pg_ranker *rank, const float *values, double *out) {
    const int32_t *order = pg_rank_order(rank, values);
    for (int64_t i = 0, end; i < rank->count; i = end) {
        for (end = i + 1; end < rank->count && values[order[end]] == values[order[i]];)
            end++;
        for (int64_t k = i; k < end; k++)
            out[order[k]] = (double)(i + end - 1) / 2;
    }
}

double pg_rank_spearman(pg_ranker *rank, const float *a, const float *b) {
    double *of_a = rank->first, *of_b = rank->second, middle = (double)(rank->count - 1) / 2;
    ranks_of(rank, a, of_a);
    ranks_of(rank, b, of_b);
    double aa = 0, bb = 0, ab = 0;
    for (int64_t i = 0; i < rank->count; i++) {
        double x = of_a[i] - middle, y = of_b[i] - middle;
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : (double)NAN;
}
