/* What calibration knows: per class, convolution and channel the count, mean and spread of GAP_c
 * (method.md section 5); and the statistics file.
 *
 * Kept as mean and sum of squared deviations (Welford, merged after Chan) instead of sum and sum of
 * squares: a channel whose statistic never varies has a spread of exactly 0 that way. Only classes
 * that were seen take memory: 16 bytes per channel of the network.
 */
#ifndef PG_PIPELINE_CHANNEL_STATS_H
#define PG_PIPELINE_CHANNEL_STATS_H

#include <stdint.h>

#include "pipeline/model.h"
#include "pipeline/welch.h"

typedef struct pg_channel_stats pg_channel_stats;

/* Empty statistics for a model of these convolutions. Names are copied. */
pg_err pg_channel_stats_create(const pg_conv_info *convs, int n_convs, int64_t classes,
                               const uint8_t model_sha256[32], pg_channel_stats **out,
                               pg_diag *diag);
void pg_channel_stats_destroy(pg_channel_stats **stats); /* accepts NULL */

/* Takes one sample in: gaps[n_convs][channels], class 0 <= klass < classes. PG_EINPUT when a value
 * is not finite (nothing is taken in then), PG_ENOMEM. */
pg_err pg_channel_stats_add(pg_channel_stats *stats, int64_t klass, const float *const *gaps,
                            pg_diag *diag);

/* Takes all samples of `from` in. PG_EMODEL: it belongs to another model. */
pg_err pg_channel_stats_merge(pg_channel_stats *stats, const pg_channel_stats *from, pg_diag *diag);

int pg_channel_stats_convs(const pg_channel_stats *stats);
int64_t pg_channel_stats_classes(const pg_channel_stats *stats);

/* Samples of a class; -1: of all. */
uint64_t pg_channel_stats_count(const pg_channel_stats *stats, int64_t klass);

/* One channel's samples of a class / of all other classes / of all, variance with divisor n - 1 (0
 * below two samples). The latter two need pg_channel_stats_seal since the last change; load seals.
 */
pg_sample pg_channel_stats_class(const pg_channel_stats *stats, int64_t klass, int conv,
                                 int64_t channel);
pg_sample pg_channel_stats_rest(const pg_channel_stats *stats, int64_t klass, int conv,
                                int64_t channel);
pg_sample pg_channel_stats_all(const pg_channel_stats *stats, int conv, int64_t channel);
pg_err pg_channel_stats_seal(pg_channel_stats *stats, pg_diag *diag);

/* Writes the file atomically. PG_EFAIL, PG_ENOMEM. */
pg_err pg_channel_stats_save(const pg_channel_stats *stats, const char *path, pg_diag *diag);

/* Reads a file; `sha256` (may be NULL) receives its digest. PG_ECONFIG: cannot be opened.
 * PG_EMODEL, with a sentence that says which: no statistics file, cut, damaged, of a newer version.
 */
pg_err pg_channel_stats_load(const char *path, pg_channel_stats **out, uint8_t sha256[32],
                             pg_diag *diag);

/* Checks that the statistics are those of this model. PG_EMODEL: of another. */
pg_err pg_channel_stats_check_model(const pg_channel_stats *stats, const pg_model_info *model,
                                    pg_diag *diag);

#endif
