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

/* A merge sort, stable; `room` [count]. */
static void sort(int32_t *order, int32_t *room, int64_t begin, int64_t end, const float *values) {
    if (end - begin < 2)
        return;
    int64_t middle = begin + (end - begin) / 2, i = begin, j = middle, k = begin;
    sort(order, room, begin, middle, values);
    sort(order, room, middle, end, values);
    while (i < middle && j < end) {
        float a = values[order[i]], b = values[order[j]];
        bool second = b > a || (isnan(a) && !isnan(b));
        room[k++] = second ? order[j++] : order[i++];
    }
    while (i < middle)
        room[k++] = order[i++];
    while (j < end)
        room[k++] = order[j++];
    for (k = begin; k < end; k++)
        order[k] = room[k];
}

const int32_t *pg_rank_order(pg_ranker *rank, const float *values) {
    for (int64_t i = 0; i < rank->count; i++)
        rank->order[i] = (int32_t)i;
    sort(rank->order, (int32_t *)(void *)rank->second, 0, rank->count, values);
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
    ranks_of(rank, b, rank->first); /* sorting uses `second` */
    double *of_b = rank->first;
    ranks_of(rank, a, rank->second);
    double *of_a = rank->second, middle = (double)(rank->count - 1) / 2;
    double aa = 0, bb = 0, ab = 0;
    for (int64_t i = 0; i < rank->count; i++) {
        double x = of_a[i] - middle, y = of_b[i] - middle;
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    return aa > 0 && bb > 0 ? ab / sqrt(aa * bb) : (double)NAN;
}
