/* Which saliency method can be trusted on this model and these pictures: method.md section 9.
 *
 * An evaluator owns a pipeline for the maps and a second session for the questions put to the
 * network about them; it belongs to one thread. Pictures are taken one after the other; memory does
 * not grow with their number. */
#ifndef PG_PIPELINE_EVALUATE_H
#define PG_PIPELINE_EVALUATE_H

#include "pipeline/pipeline.h"

typedef enum pg_metric {
#define PG_METRIC(symbol, name, better, prose) PG_METRIC_##symbol,
#include "pipeline/evaluate.def"
#undef PG_METRIC
    PG_METRIC_COUNT
} pg_metric;

typedef struct pg_metric_row {
    const char *name, *prose;
    int better; /* 1: more is better, -1: less, 0: neither */
} pg_metric_row;
const pg_metric_row *pg_metric_at(pg_metric metric);

enum {
    PG_CURVE_STEPS = 10, /* shares 0, 1/10 .. 10/10 of the pixels */
    PG_CURVE_POINTS = PG_CURVE_STEPS + 1,
    PG_MORF_STEPS = 5 /* 1/10 .. 5/10 count for MoRF and LeRF */
};

/* p(y) with the hottest pixels at zero, the coldest at zero, and the hottest come back into a
 * blurred picture, by share of the pixels. */
typedef struct pg_evaluation {
    double values[PG_METRIC_COUNT]; /* NaN: does not apply */
    double morf[PG_CURVE_POINTS], lerf[PG_CURVE_POINTS], insertion[PG_CURVE_POINTS];
    int64_t klass;   /* explained: the label, or the top class */
    bool recognised; /* the label is the top class */
    float probability;
} pg_evaluation;

/* The control: a map of random numbers. It is no method of explanation, only of evaluation. */
#define PG_EVALUATE_RANDOM "random-map"

typedef struct pg_evaluate_options {
    const pg_explain_options *explain; /* borrowed for the evaluator's life */
    bool sequence;                     /* pictures are frames in order: stability */
    bool randomise; /* load the network a second time with its last layers shuffled */
} pg_evaluate_options;

typedef struct pg_evaluator pg_evaluator;

/* `methods` [n_methods]: names of explain.method, or PG_EVALUATE_RANDOM; borrowed. PG_ECONFIG: one
 * is unknown or this model cannot carry it. */
pg_err pg_evaluator_create(const pg_evaluate_options *options, const char *const *methods,
                           int n_methods, pg_clock_fn now, pg_evaluator **out, pg_diag *diag);
void pg_evaluator_destroy(pg_evaluator **evaluator); /* accepts NULL */
const pg_explainer *pg_evaluator_explainer(const pg_evaluator *evaluator);

/* One method on one picture. `label` -1: unknown, the top class is explained. `box` x, y, width,
 * height of the object in the frame's pixels, NULL: unknown. PG_EINPUT: the frame cannot be used.
 */
pg_err pg_evaluate(pg_evaluator *evaluator, int method, const pg_frame *frame, int64_t label,
                   const double *box, pg_evaluation *out, pg_diag *diag);

/* The overlay of the last pg_evaluate as a JPEG; empty for the control. Valid until the next. */
pg_bytes pg_evaluate_overlay(const pg_evaluator *evaluator);

/* The last frame as the network takes it, [C,H,W]; valid until the next. */
const float *pg_evaluate_input(const pg_evaluator *evaluator);

/* Grid pointing game: `inputs` [n n] pictures as pg_evaluate_input gave them, of distinct classes
 * `klass`, become a mosaic, each shrunk to a cell; *share is the mean over cells of the part of the
 * positive attribution for the cell's class that lies in the cell (1/n^2 is chance). */
pg_err pg_evaluate_grid(pg_evaluator *evaluator, int method, int n, const float *const *inputs,
                        const int64_t *klass, double *share, pg_diag *diag);

/* Mean of values (NaN left out) and its 95 % confidence interval by 1,000 bootstrap resamples, the
 * same on every run. `count` 0 or all NaN: all NaN. PG_ENOMEM. */
typedef struct pg_interval {
    double mean, low, high;
    int count;
} pg_interval;
pg_err pg_bootstrap(const double *values, int count, pg_interval *out, pg_diag *diag);

#endif
