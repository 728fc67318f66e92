/* Saliency methods: each composes passes through the network into one signed attribution.
 *
 * A kind is code, one file saliency_<kind>.c; a method is a row of saliency.def: a name that users
 * choose, and a kind. Several rows may share a kind: with ParchGrad and without, or variants that
 * differ in a number. To add a method: such a file if its kind is new, and a row. */
#ifndef PG_PIPELINE_SALIENCY_H
#define PG_PIPELINE_SALIENCY_H

#include "pipeline/map.h"
#include "pipeline/pass.h"
#include "pipeline/pipeline.h"

typedef struct pg_saliency pg_saliency;

/* How the map of a layer becomes one of the picture's size. */
typedef enum pg_finish {
    PG_FINISH_NONE,    /* reduced over channels, then enlarged */
    PG_FINISH_CAM,     /* ReLU, scaled to 0 .. 1, enlarged, scaled again: pytorch-grad-cam's */
    PG_FINISH_CAM_LATE /* enlarged, ReLU, scaled to 0 .. 1 */
} pg_finish;

/* What a method fills. Before run it holds the shape of the network's input, the pass's layout, no
 * samples, NaN where a figure may not exist, and the room as the place of the values. */
typedef struct pg_attribution {
    float *room;         /* for the input's count */
    const float *values; /* signed; elsewhere than in the room they last until the next pass */
    pg_layout layout;
    int64_t channels, height, width; /* the input's; a CAM: 1 and its layer's own, and the pipeline
                                        enlarges the map */
    pg_finish finish;
    int samples, planned;            /* steps, copies, masks, channels: done and meant; 0: the
                                        method has none */
    double std_error;                /* of the map's mean value; methods that sample */
    double delta;                    /* sum - (f(x) - f(baseline)); integrated gradients */
    double relevance;                /* sum(R) / logit; LRP */
    const struct pg_concepts *concepts; /* CRP; NULL */
    bool degenerate;                 /* the method itself says that its map means nothing */
} pg_attribution;

typedef struct pg_saliency_kind {
    /* Can this model under this configuration carry the method? Called between pg_model_open and
     * pg_model_prepare for the configured method, and at any time after that for others. PG_ECONFIG
     * with a sentence that names the node, layer or key. NULL: always. */
    pg_err (*check)(const pg_saliency *method, const pg_explainer *explainer, pg_diag *diag);
    /* All of one explanation, the frame's own forward included. The explainer may have nothing but
     * its options (--list-methods without a model): NAN then for what the model decides. */
    pg_cost (*cost)(const pg_saliency *method, const pg_explainer *explainer);
    /* One worker's state, made before the method's first run in a pipeline; nothing is allocated
     * after that. On failure *state stays NULL. NULL: none. */
    pg_err (*open)(const pg_saliency *method, const pg_explainer *explainer, pg_pass *pass,
                   void **state, pg_diag *diag);
    void (*close)(void **state); /* frees and nulls what open made */
    /* Forward has run on the frame and the class is known (pass->klass). */
    pg_err (*run)(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag);
    pg_show show; /* what of its map is heat */
} pg_saliency_kind;

extern const pg_saliency_kind pg_saliency_lrp; /* prepared only for those who will ask for it */

struct pg_saliency {
    const char *name;
    const pg_saliency_kind *kind;
    bool prunes;        /* gradients are split at the convolutions as parchgrad.* says */
    int variant;        /* what the kind makes of it; 0 where there is only one */
    const char *params; /* configuration keys it reads beside parchgrad.*, separated by spaces */
    const char *prose;
};

/* The price of one pass each way, for a kind's cost. */
pg_cost pg_saliency_one_pass(const pg_saliency *method, const pg_explainer *explainer);

/* The row of that name, NULL if there is none. */
const pg_saliency *pg_saliency_find(const char *name);

/* The rows, for help texts, tests and the workers' state; NULL beyond the last. */
const pg_saliency *pg_saliency_at(int index);
enum {
#define PG_SALIENCY(name, kind, prunes, variant, params, prose) +1
    PG_SALIENCY_COUNT = 0
#include "pipeline/saliency.def"
#undef PG_SALIENCY
};
int pg_saliency_index(const pg_saliency *method);

#endif
