/* Class-wise: is the channel's statistic greater in this class than in all others? */
#include <math.h>

#include "pipeline/compat.h"
#include "pipeline/select_rule.h"

bool pg_select_class_testable(const pg_channel_stats *stats, int64_t klass) {
    if (klass < 0 || klass >= pg_channel_stats_classes(stats))
        return false;
    uint64_t own = pg_channel_stats_count(stats, klass);
    return own >= 2 && pg_channel_stats_count(stats, -1) - own >= 2;
}

/* The test that the authors make: p in float32 is 0 below 1e-45. */
static pg_test in_float(const pg_sample *own, const pg_sample *rest) {
    pg_test test = pg_student(own, rest);
    test.log_p = log((double)(float)exp(test.log_p));
    return test;
}

int64_t pg_select_by_class(const pg_select_source *source, int layer, int64_t klass,
                           const float *gap, pg_rank *ranks, uint8_t *keep) {
    (void)gap;
    bool student = source->options->compat & PG_COMPAT_student;
    int64_t channels = source->convs[source->layers->convs[layer]].channels, n = 0;
    int conv = pg_select_stats_conv(source, layer);
    int64_t known = source->convs[conv].channels;
    for (int64_t c = 0; c < channels; c++) {
        pg_sample all = pg_channel_stats_all(source->stats, conv, c % known);
        if (!pg_select_alive(&all))
            continue;
        pg_sample own = pg_channel_stats_class(source->stats, klass, conv, c % known);
        pg_sample rest = pg_channel_stats_rest(source->stats, klass, conv, c % known);
        pg_test test = student ? in_float(&own, &rest) : pg_welch(&own, &rest);
        ranks[n++] = (pg_rank){test.log_p, test.t, c};
    }
    return pg_select_best(source->options, channels, ranks, n,
                          student ? PG_TIES_KEPT : PG_TIES_BROKEN, keep);
}
