/* Which channels are kept: the high group H of every pruned convolution (method.md section 5).
 *
 * The selector belongs to one worker: it runs the rule for all layers of a frame and remembers what
 * can be remembered (class-wise masks depend on the class alone, lists and random ones on nothing).
 */
#ifndef PG_PIPELINE_SELECT_H
#define PG_PIPELINE_SELECT_H

#include "pipeline/select_rule.h"

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
 * about that, a quarter. Needs no statistics. */
int64_t pg_select_expects(const pg_select_source *source, int layer);

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
