/* One pass: forward -> target -> select -> backward, once. Methods compose passes; the pass keeps
 * the time of each stage and what the pruning did. */
#ifndef PG_PIPELINE_PASS_H
#define PG_PIPELINE_PASS_H

#include "pipeline/head.h"
#include "pipeline/prune.h"
#include "pipeline/session.h"

/* One worker's. */
typedef struct pg_pass {
    pg_session *session;
    float *input; /* the network's input, in `layout` */
    pg_layout layout;
    int64_t input_count; /* values of the input */
    const pg_head *head; /* borrowed */
    int64_t classes;
    float *scores; /* [classes] of the last forward */
    double *sums;  /* [classes] scratch of the head */
    float *seed;   /* the output's gradient */
    const pg_prune_options *options; /* borrowed */
    pg_selector *selector;           /* NULL: this explainer cannot prune */
    pg_prune *prune;
    int64_t klass; /* the explained class, set by the caller */
    /* what the last backward did */
    bool pruned;
    const char *rule; /* pg_selection.rule, "none" without pruning */
    /* stage times: a clock and the moment the running stage began */
    pg_clock_fn now; /* NULL: all times are 0 */
    uint64_t mark;
    uint64_t timing_ns[PG_STAGE_COUNT];
} pg_pass;

/* `source`: NULL when pruning will not be asked for. Everything is borrowed. On failure nothing is
 * left behind. */
pg_err pg_pass_create(const pg_model *model, const pg_head *head, const pg_prune_options *options,
                      const pg_select_source *source, pg_clock_fn now, pg_pass *out, pg_diag *diag);
void pg_pass_destroy(pg_pass *pass); /* accepts a zeroed pass */

/* Starts the stage clock. */
void pg_pass_start(pg_pass *pass);
/* Charges the time since the last mark to `stage`. */
void pg_pass_mark(pg_pass *pass, pg_stage stage);

/* Runs the network on the input and the head on its output. PG_EFAIL also when a score is not
 * finite. */
pg_err pg_pass_forward(pg_pass *pass, pg_diag *diag);

/* The gradient of the score of pass->klass, with or without ParchGrad; read it from the session. */
pg_err pg_pass_backward(pg_pass *pass, bool prune, pg_diag *diag);

/* Index of the largest score; ties go to the lower index. */
int64_t pg_pass_argmax(const float *scores, int64_t classes);

#endif
