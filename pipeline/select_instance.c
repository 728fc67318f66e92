/* Instance-wise: is the channel's statistic in this frame greater than it usually is? */
#include <math.h>

#include "kernels/err.h"
#include "pipeline/compat.h"
#include "pipeline/select_rule.h"

int64_t pg_select_by_instance(const pg_select_source *source, int layer, int64_t klass,
                              const float *gap, pg_rank *ranks, uint8_t *keep) {
    (void)klass;
    pg_assert(gap != NULL);
    bool strict = source->options->compat & PG_COMPAT_strict;
    int64_t channels = source->convs[source->layers->convs[layer]].channels, n = 0;
    int conv = pg_select_stats_conv(source, layer);
    int64_t known = source->convs[conv].channels;
    for (int64_t c = 0; c < channels; c++) {
        pg_sample all = pg_channel_stats_all(source->stats, conv, c % known);
        if (!pg_select_alive(&all))
            continue;
        double z = ((double)gap[c] - all.mean) / sqrt(all.variance);
        /* p falls as z rises: the order is z's own, and only a level needs p itself. */
        double log_p = source->options->use_level ? pg_log_normal_sf(z) : -z;
        ranks[n++] = (pg_rank){log_p, z, c};
    }
    return pg_select_best(source->options, channels, ranks, n,
                          strict ? PG_TIES_DROPPED : PG_TIES_BROKEN, keep);
}
