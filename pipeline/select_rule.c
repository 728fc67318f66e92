#include "pipeline/select_rule.h"

#include <math.h>
#include <string.h>

#include "kernels/defect.h"

int64_t pg_select_quota(double quantile, int64_t channels) {
    double k = floor(quantile * (double)channels);
    return !(k >= 1) ? 1 : k > (double)channels ? channels : (int64_t)k;
}

bool pg_select_alive(const pg_sample *all) {
    return all->count > 1 && sqrt(all->variance) > 1e-9 * fabs(all->mean);
}

int pg_select_stats_conv(const pg_select_source *source, int layer) {
    if (pg_defect("last-layer-stats"))
        layer = source->layers->count - 1;
    return source->layers->convs[layer];
}

static bool better(const pg_rank *a, const pg_rank *b) {
    if (a->log_p != b->log_p)
        return a->log_p < b->log_p;
    if (a->t != b->t)
        return a->t > b->t;
    return a->channel < b->channel;
}

/* A heap with the worst of ranks[n] first: puts the one at `at` where it belongs. */
static void sift(pg_rank *heap, int64_t n, int64_t at) {
    const pg_rank moved = heap[at];
    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && better(&heap[child], &heap[child + 1]))
            child++;
        if (!better(&moved, &heap[child]))
            break;
        heap[at] = heap[child];
    }
    heap[at] = moved;
}

static int64_t keep_by_level(double level, const pg_rank *ranks, int64_t n, pg_ties ties,
                             uint8_t *keep) {
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        if (ranks[i].log_p < level || (ranks[i].log_p == level && ties != PG_TIES_DROPPED)) {
            keep[ranks[i].channel] = 1;
            kept++;
        }
    return kept;
}

/* The best `quota` > 0 go to the beginning of ranks, the worst of them first. A heap instead of a
 * sort: a tenth of the channels is wanted, few of the rest get past its worst, and qsort may
 * allocate. */
static void take_best(pg_rank *ranks, int64_t n, int64_t quota) {
    for (int64_t i = quota / 2; i-- > 0;)
        sift(ranks, quota, i);
    for (int64_t i = quota; i < n; i++)
        if (better(&ranks[i], &ranks[0])) {
            pg_rank worst = ranks[0];
            ranks[0] = ranks[i];
            ranks[i] = worst;
            sift(ranks, quota, 0);
        }
}

int64_t pg_select_best(const pg_prune_options *options, int64_t channels, pg_rank *ranks, int64_t n,
                       pg_ties ties, uint8_t *keep) {
    /* all: the layer is left alone, dead channels too */
    if (!options->use_level && options->quantile >= 1 && ties == PG_TIES_BROKEN) {
        memset(keep, 1, (size_t)channels);
        return channels;
    }
    memset(keep, 0, (size_t)channels);
    if (options->use_level)
        return keep_by_level(log(options->level), ranks, n, ties, keep);
    int64_t quota = pg_select_quota(options->quantile, channels);
    quota = quota < n ? quota : n;
    if (quota == 0)
        return 0;
    take_best(ranks, n, quota);
    double last = ranks[0].log_p;
    if (ties != PG_TIES_BROKEN)
        return keep_by_level(last, ranks, n, ties, keep);
    for (int64_t i = 0; i < quota; i++)
        keep[ranks[i].channel] = 1;
    return quota;
}
