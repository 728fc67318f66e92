/* What the parts of the evaluator share. */
#ifndef PG_PIPELINE_EVALUATE_IMPL_H
#define PG_PIPELINE_EVALUATE_IMPL_H

#include "pipeline/evaluate.h"
#include "pipeline/explainer.h"
#include "pipeline/map.h"
#include "pipeline/rank.h"

struct pg_evaluator {
    const pg_evaluate_options *options;
    pg_explain_options shuffled_options;
    const char *const *methods;
    int n_methods;
    pg_explainer *explainer, *shuffled;
    pg_pipeline *pipeline, *shuffled_pipeline;
    pg_pass probe;
    pg_ranker rank;
    pg_map_scratch blur;
    int64_t channels, height, width, area;
    uint64_t seq; /* of the frame */
    char stream[PG_STREAM_MAX + 1];
    float *input;             /* [C,H,W] of the frame */
    float *changed, *blurred; /* [C,H,W] */
    float *map;               /* [H,W] of the frame and method */
    float *previous;          /* [n_methods,H,W] of the frame before */
    bool *has_previous;       /* [n_methods] */
    bool control;             /* the last map was random */
    pg_bytes overlay;         /* of the last map; later runs of the pipeline encode none */
};

/* What becomes of the decision while pixels go, and come back, in the order of e->map: fills the
 * curves and their metrics. `top`: the frame's top class, and its probability. */
pg_err pg_evaluate_perturb(pg_evaluator *e, const pg_top *top, pg_evaluation *out, pg_diag *diag);

#endif
