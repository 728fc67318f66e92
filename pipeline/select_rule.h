/* The rules of selection, and what they share. A rule (class, instance, list, random; select_*.c)
 * fills one layer's mask. */
#ifndef PG_PIPELINE_SELECT_RULE_H
#define PG_PIPELINE_SELECT_RULE_H

#include "pipeline/channel_stats.h"
#include "pipeline/layers.h"

/* Everything a rule may look at; all borrowed, constant, shared by the workers. */
typedef struct pg_select_source {
    const pg_prune_options *options;
    const pg_channel_stats *stats; /* sealed; NULL: none */
    const pg_conv_info *convs;
    int n_convs;
    const pg_layers *layers;
} pg_select_source;

/* Evidence that a channel belongs to H. */
typedef struct pg_rank {
    double log_p; /* smaller is better */
    double t;     /* breaks ties: greater is better, then the lower channel */
    int64_t channel;
} pg_rank;

/* One layer: `layer` counts in source->layers, gap [channels] is the frame's (NULL where the rule
 * does not want it), ranks [channels] is scratch. Fills keep [channels] with 0 and 1 and returns
 * how many are kept: 0 and all mean that the layer is left alone. */
typedef int64_t (*pg_select_rule)(const pg_select_source *source, int layer, int64_t klass,
                                  const float *gap, pg_rank *ranks, uint8_t *keep);

int64_t pg_select_by_class(const pg_select_source *source, int layer, int64_t klass,
                           const float *gap, pg_rank *ranks, uint8_t *keep);
int64_t pg_select_by_instance(const pg_select_source *source, int layer, int64_t klass,
                              const float *gap, pg_rank *ranks, uint8_t *keep);
int64_t pg_select_by_list(const pg_select_source *source, int layer, int64_t klass,
                          const float *gap, pg_rank *ranks, uint8_t *keep);
int64_t pg_select_at_random(const pg_select_source *source, int layer, int64_t klass,
                            const float *gap, pg_rank *ranks, uint8_t *keep);

/* False: the class, or everything but the class, has fewer than two samples and cannot be tested.
 */
bool pg_select_class_testable(const pg_channel_stats *stats, int64_t klass);

/* select: list. PG_ECONFIG: a layer that matches no pruned convolution, a channel out of range. */
pg_err pg_select_list_check(const pg_select_source *source, pg_diag *diag);
int64_t pg_select_list_most(const pg_select_source *source, int layer); /* channels named for it */

/* ---- shared by the rules ---- */

/* max(1, floor(q C)), at most C. */
int64_t pg_select_quota(double quantile, int64_t channels);

/* Channels whose log_p is exactly that of the last kept one, or of the level. */
typedef enum pg_ties {
    PG_TIES_BROKEN, /* by t and by number: as many are kept as should be */
    PG_TIES_KEPT,   /* all */
    PG_TIES_DROPPED /* all, the last kept one too */
} pg_ties;

/* Keeps the best `quota` of ranks[n], or all with log_p <= log(level), by the options. Reorders
 * ranks. Returns the number kept. */
int64_t pg_select_best(const pg_prune_options *options, int64_t channels, pg_rank *ranks, int64_t n,
                       pg_ties ties, uint8_t *keep);

/* True if the channel's statistic varies over the calibration set. */
bool pg_select_alive(const pg_sample *all);

/* The convolution whose statistics belong to a layer. */
int pg_select_stats_conv(const pg_select_source *source, int layer);

#endif
