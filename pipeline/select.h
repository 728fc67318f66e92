/* Which channels are kept: the high group H of every pruned convolution (method.md section 5).
 *
 * A rule (class, instance, list, random) fills one layer's mask. The selector belongs to one
 * worker: it runs the rule for all layers of a frame and remembers what can be remembered
 * (class-wise masks depend on the class alone, lists and random ones on nothing).
 */
#ifndef PG_PIPELINE_SELECT_H
#define PG_PIPELINE_SELECT_H

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

/* ---- the selector ---- */
typedef struct pg_selector pg_selector;

/* The result for one frame; borrowed from the selector until its next run. */
typedef struct pg_selection {
    const uint8_t *keep; /* masks of all layers, see pg_layers */
    const int64_t *kept; /* [layers] */
    const char *rule;    /* "class", "instance", "list", "random"; "none" */
    bool lasting;        /* the masks do not depend on the frame itself */
} pg_selection;

/* PG_ECONFIG: class or instance without statistics (the sentence tells how to get them), a wrong
 * list. PG_ENOMEM. `source` is copied; what it points to is borrowed. */
pg_err pg_selector_create(const pg_select_source *source, pg_selector **out, pg_diag *diag);
void pg_selector_destroy(pg_selector **selector); /* accepts NULL */

/* How many channels of a layer frames will usually keep at most; with a level, which says nothing
 * about that, a quarter. */
int64_t pg_selector_expects(const pg_selector *selector, int layer);

/* True if the rule is about GAP_c, and so needs statistics of it. */
bool pg_select_wants_gap(pg_select select);

/* True if run may ask for GAP_c of the frame, which costs a pass over every pruned layer's output: the
 * instance-wise rule, and the class-wise one where some of the model's classes cannot be tested. */
bool pg_select_reads_gap(const pg_select_source *source, int64_t classes);

/* Gets GAP_c [channels] of one convolution of the frame, NULL if it was not computed. */
typedef const float *(*pg_gap_fn)(void *user, int conv);

/* Selects for one frame. A class that cannot be tested falls back to the instance-wise rule, and
 * the selection says so in `rule`. Allocates nothing. */
void pg_selector_run(pg_selector *selector, int64_t klass, pg_gap_fn gap, void *user,
                     pg_selection *out);

#endif
