/* The control group: k channels drawn without looking at anything. Counter-based: the draw is a
 * function of seed, convolution and channel, so every worker and every replay draws the same. */
#include "pipeline/select_rule.h"

/* splitmix64's output function: a bijection that leaves no trace of a counter. */
static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

int64_t pg_select_at_random(const pg_select_source *source, int layer, int64_t klass,
                            const float *gap, pg_rank *ranks, uint8_t *keep) {
    (void)klass;
    (void)gap;
    int conv = source->layers->convs[layer];
    int64_t channels = source->convs[conv].channels;
    uint64_t stream = mix(mix(source->options->seed) ^ (uint64_t)conv);
    for (int64_t c = 0; c < channels; c++)
        ranks[c] = (pg_rank){(double)(mix(stream ^ (uint64_t)c) >> 11), 0, c};
    pg_prune_options by_quantile = *source->options;
    by_quantile.use_level = false; /* there is no p to compare with a level */
    return pg_select_best(&by_quantile, channels, ranks, channels, PG_TIES_BROKEN, keep);
}
