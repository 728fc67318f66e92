/* One pass: forward -> target -> select -> backward, once. Methods compose passes; the pass keeps
 * the time of each stage and what the pruning did. */
#ifndef PG_PIPELINE_PASS_H
#define PG_PIPELINE_PASS_H

#include "pipeline/frame.h"
#include "kernels/philox.h"
#include "pipeline/head.h"
#include "pipeline/prune.h"
#include "pipeline/session.h"

/* What something costs, in whole passes through the network. */
typedef struct pg_cost {
    double forwards, backwards;
} pg_cost;

/* One worker's. */
typedef struct pg_pass {
    pg_session *session;
    float *input; /* the network's input, in `layout` */
    pg_layout layout;
    int64_t input_count, output_count; /* values of input and output */
    const pg_head *head; /* borrowed */
    int64_t classes;
    float *scores; /* [classes] of the last forward */
    double *sums;  /* [classes] scratch of the head */
    float *seed;   /* the output's gradient */
    const pg_explain_options *explain; /* borrowed */
    pg_selector *selector;             /* NULL: this explainer cannot prune */
    pg_prune *prune;
    int64_t klass; /* the explained class, set by the caller */
    const pg_frame *frame; /* the same, borrowed for one run: names random numbers */
    /* the frame itself, put aside while a method runs the network on other inputs: one block */
    float *kept_input, *kept_scores, *kept_output; /* NULL until pg_pass_reserve */
    const float *output;                           /* the network's output for the frame */
    /* what the last backward did */
    bool pruned;
    const char *rule; /* pg_selection.rule, "none" without pruning */
    /* stage times: a clock and the moment the running stage began */
    pg_clock_fn now; /* NULL: all times are 0 */
    uint64_t mark;
    uint64_t timing_ns[PG_STAGE_COUNT];
    /* what one pass took on this worker lately, in ns; 0: none yet */
    double forward_ns, backward_ns;
    uint64_t deadline; /* of the frame, on the same clock, set by the caller; 0: none */
    /* called after each step of a method that takes many, on the worker's thread; NULL: nobody
     * watches */
    void (*progress)(void *user, int done, int planned);
    void *progress_user;
} pg_pass;

/* `source`: NULL when pruning will not be asked for. Everything is borrowed. On failure nothing is
 * left behind. */
pg_err pg_pass_create(const pg_model *model, const pg_head *head, const pg_explain_options *explain,
                      const pg_select_source *source, pg_clock_fn now, pg_pass *out, pg_diag *diag);
void pg_pass_destroy(pg_pass *pass); /* accepts a zeroed pass */

/* A new frame: starts the stage clock. */
void pg_pass_start(pg_pass *pass);
/* Charges the time since the last mark to `stage`. */
void pg_pass_mark(pg_pass *pass, pg_stage stage);

/* Runs the network on the input and the head on its output. PG_EFAIL also when a score is not
 * finite. */
pg_err pg_pass_forward(pg_pass *pass, pg_diag *diag);

/* The same from the watched value on (pg_session_forward_tail). Not a pass of its own: its time is not
 * learned. */
pg_err pg_pass_forward_tail(pg_pass *pass, pg_diag *diag);

/* The probability of a class by the last forward. */
float pg_pass_probability(const pg_pass *pass, int64_t klass);

/* The gradient of the score of pass->klass, with or without ParchGrad; read it from the session. */
pg_err pg_pass_backward(pg_pass *pass, bool prune, pg_diag *diag);

/* The same by guided backpropagation (pg_session_backward_guided), without ParchGrad. */
pg_err pg_pass_backward_guided(pg_pass *pass, pg_diag *diag);

/* ---- methods that look at more than the frame ---- */

/* Makes room for pg_pass_keep; for a method's open. PG_ENOMEM. */
pg_err pg_pass_reserve(pg_pass *pass, pg_diag *diag);

/* Forward has run on the frame: puts its input, scores and output aside, so that the method may
 * write pass->input and run forward again. Once per frame. pg_pass_restore brings them back (the
 * session's activations stay those of the last forward); for the end of run, also after failure. */
void pg_pass_keep(pg_pass *pass);
void pg_pass_restore(pg_pass *pass);

/* pass->input becomes the frame's, which has been put aside, times mask [H,W], whose rows lie `stride`
 * values apart. */
void pg_pass_look_through(pg_pass *pass, const float *mask, int64_t stride);

/* How many steps of this cost fit before the deadline, by what passes took lately; INT_MAX without
 * a deadline. */
int pg_pass_fit(const pg_pass *pass, pg_cost step);

/* The random numbers of one sample of this frame: a function of the seed, the stream and the frame's
 * seq, so that a replay gives the same bytes. */
pg_sequence pg_pass_sequence(const pg_pass *pass, uint64_t seed, int sample);

/* Tells whoever watches how far the method is. */
void pg_pass_progress(const pg_pass *pass, int done, int planned);

/* Index of the largest score; ties go to the lower index. */
int64_t pg_pass_argmax(const float *scores, int64_t classes);

#endif
