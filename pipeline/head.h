/* The head: what of the network's output is explained, as one number per class.
 *
 *   output              score of class k                            seed, d score / d output
 *   [1,K]               the logit z_k                               1 at k
 *   [1,K,h,w], [1,A,K]  the sum of z_k over the cells of a region   1 at k in each of its cells
 *   embedding, cosine   y.v / (|y||v|), the only class              (v/|v| - cos y/|y|) / |y|
 *   embedding, norm     |y|, the only class                         y / |y|
 *
 * Everything after it (target, top classes, statistics) sees scores and never the output's shape.
 * Constant after create, shared by all workers. */
#ifndef PG_PIPELINE_HEAD_H
#define PG_PIPELINE_HEAD_H

#include "pipeline/model.h"
#include "pipeline/options.h"

typedef struct pg_head {
    pg_explained what;
    const pg_model_info *info; /* borrowed; its layout is read when scores are */
    int64_t classes;           /* scores */
    int64_t cells;             /* of the region */
    int64_t first[PG_MAX_RANK], extent[PG_MAX_RANK]; /* the region along each axis of the output,
                                                        the axis of the classes whole */
    float *vector; /* [elements of the output], of length 1, in the file's order; NULL without */
} pg_head;

/* PG_ECONFIG: the region does not fit the output, or the vector cannot be read or has another
 * length. `info` must outlive the head. On failure nothing is left behind. */
pg_err pg_head_create(const pg_head_options *options, const pg_model_info *info, pg_head *out,
                      pg_diag *diag);
void pg_head_destroy(pg_head *head); /* accepts a zeroed head */

/* True where scores are of classes: a target other than top1, labels and class-wise statistics make
 * sense. */
bool pg_head_has_classes(const pg_head *head);

/* scores [classes] from the session's output; `sums` is scratch [classes]. */
void pg_head_scores(const pg_head *head, const float *output, double *sums, float *scores);

/* seed [elements of the output], in the output's layout: d scores[klass] / d output. */
void pg_head_seed(const pg_head *head, const float *output, const float *scores, int64_t klass,
                  float *seed);

/* Scores as probabilities, the mean over the cells first: by the softmax or sigmoid that ends the
 * file (softmax if none does). For embeddings the score itself. */
typedef struct pg_head_scale {
    double largest, sum; /* of the softmax */
} pg_head_scale;
pg_head_scale pg_head_scale_of(const pg_head *head, const float *scores);
float pg_head_probability(const pg_head *head, pg_head_scale scale, float score);

#endif
