/* A session: one worker's memory for one prepared model. Forward and backward run in it; nothing is
 * allocated after create. Belongs to one thread at a time. */
#ifndef PG_PIPELINE_SESSION_H
#define PG_PIPELINE_SESSION_H

#include "kernels/op_conv.h"
#include "pipeline/model.h"

typedef struct pg_session pg_session;

/* The model is borrowed and must outlive the session. Sets the calling thread's OpenMP team size. */
pg_err pg_session_create(const pg_model *model, pg_session **out, pg_diag *diag);

/* Destroys and nulls; accepts NULL. */
void pg_session_destroy(pg_session **session);

/* Where the caller writes the network's input before forward: `layout` says in which order. The
 * buffer stays valid and keeps its contents until the next write by the caller (methods multiply
 * by it after backward). */
float *pg_session_input(pg_session *session, pg_layout *layout);

/* Runs the network on the input buffer. PG_EFAIL: a library call failed. */
pg_err pg_session_forward(pg_session *session, pg_diag *diag);

/* The output of the last forward, as pg_model_info's `output` describes it. */
const float *pg_session_output(const pg_session *session);

/* The watched value of the last forward, as pg_model_info's `watched` describes it; NULL if there is none.
 * It may be changed before forward_tail, which computes everything behind it once more. The session's
 * output is then that of the tail; forward makes all of it right again. */
float *pg_session_watched(pg_session *session);
pg_err pg_session_forward_tail(pg_session *session, pg_diag *diag);

/* Backward from the seed down to the watched value only: its gradient, valid until the next call. */
pg_err pg_session_backward_tail(pg_session *session, const float *seed, pg_diag *diag);
const float *pg_session_d_watched(const pg_session *session);

/* Runs backward from d_output = seed, laid out as the output, to the input. `prune`: one entry per convolution
 * [n_convs], NULL for the plain gradient. May be called repeatedly after one forward. */
pg_err pg_session_backward(pg_session *session, const float *seed, const pg_conv_prune *prune,
                           pg_diag *diag);

/* The same by guided backpropagation: what is negative does not pass an operator with a ReLU. */
pg_err pg_session_backward_guided(pg_session *session, const float *seed, pg_diag *diag);

/* Another way backward in the gradient's memory: like backward, with `step` doing each operator's
 * part in place of its class, aliases left out. d_dst and d_src of `io` hold what is propagated, and
 * step may change d_dst, which nobody reads after it. Values are kept that backward or, by
 * op->keeps_src and keeps_dst, step wants. */
typedef pg_err pg_session_step(void *user, int node, const struct pg_op *op, const pg_op_io *io);
pg_err pg_session_walk(pg_session *session, const float *seed, pg_session_step *step, void *user,
                       pg_diag *diag);

/* The pointers of one operator (index of pg_model_op), fixed for the session's life. */
const pg_op_io *pg_session_io(const pg_session *session, int node);

/* The gradient of the last backward in the input's own layout and shape. */
const float *pg_session_d_input(const pg_session *session);

/* GAP_c of one convolution after forward, [channels]; NULL if prepare did not ask for it. Zeros, and so never
 * alive, for a convolution that the logits do not depend on (an auxiliary head): it is counted, not run. */
const float *pg_session_gap(const pg_session *session, int conv);

/* Nanoseconds spent per operator (indices of pg_model_op) in all calls since create or the last
 * reset, filled by forward and backward when a clock has been given; for `bench`. */
void pg_session_profile(pg_session *session, uint64_t (*now_ns)(void));
void pg_session_profile_get(const pg_session *session, int op, uint64_t *forward_ns,
                            uint64_t *backward_ns);

#endif
