/* One frame's journey: decode -> preprocess -> forward -> target -> select -> backward + prune ->
 * map -> quality. No threads, no sockets, no clock but the one passed in.
 *
 *   pg_explainer   model, statistics, labels, method: constant, shared by all workers (one
 *                  configuration generation)
 *   pg_pipeline    one worker's buffers and session; allocates nothing after create
 */
#ifndef PG_PIPELINE_PIPELINE_H
#define PG_PIPELINE_PIPELINE_H

#include "pipeline/frame.h"
#include "pipeline/model.h"
#include "pipeline/options.h"

/* The stages, in order, timed apart (disjoint): stage_duration_seconds{stage}, header `timing`.
 * "publish" belongs to the daemon. */
typedef enum pg_stage {
    PG_STAGE_DECODE,
    PG_STAGE_PREPROCESS,
    PG_STAGE_FORWARD,
    PG_STAGE_SELECT, /* target and channel selection */
    PG_STAGE_BACKWARD,
    PG_STAGE_MAP,
    PG_STAGE_PUBLISH,
    PG_STAGE_COUNT
} pg_stage;
const char *pg_stage_name(pg_stage stage); /* "decode", ... */

typedef uint64_t (*pg_clock_fn)(void); /* monotonic nanoseconds */

/* ---- explainer ---- */
typedef struct pg_explainer pg_explainer;

/* Loads model, labels and statistics, resolves method, target and layers, prepares the model.
 * `options` is borrowed for the explainer's life. PG_ECONFIG, PG_EMODEL with a sentence. */
pg_err pg_explainer_create(const pg_explain_options *options, pg_explainer **out, pg_diag *diag);
void pg_explainer_destroy(pg_explainer **explainer); /* accepts NULL; pipelines must be gone */
const pg_model *pg_explainer_model(const pg_explainer *explainer);
const pg_explain_options *pg_explainer_options(const pg_explainer *explainer);
/* Class name from the label file, NULL without one. */
const char *pg_explainer_label(const pg_explainer *explainer, int64_t klass);
/* "top1", index or name -> class index, -1 for top1. False: unknown or out of range. */
bool pg_explainer_parse_target(const pg_explainer *explainer, const char *text, int64_t *klass);
/* Whether pg_pipeline_run would take this method (NULL or "": the explainer's own), so that the
 * setting of a stream can be refused at start. PG_ECONFIG: unknown, or statistics are missing. */
pg_err pg_explainer_check_method(const pg_explainer *explainer, const char *method, pg_diag *diag);
/* 64 hex digits of the statistics file, "" without one. */
const char *pg_explainer_stats_sha256(const pg_explainer *explainer);

/* ---- result ---- */
enum { PG_TOP_MAX = 10 };

typedef struct pg_top {
    int64_t klass;
    const char *name; /* borrowed from the explainer; NULL without labels */
    float probability;
} pg_top;

/* What ParchGrad did at one selected convolution. */
typedef struct pg_layer_result {
    const char *name;  /* borrowed */
    int conv;          /* number */
    int kept, total;
    const uint8_t *keep; /* [total] 1 of the channels kept; NULL: all of them; borrowed */
    float beta;        /* method.md section 3 */
    float share;       /* M/(M+N) */
    bool degenerate;   /* left as it was */
} pg_layer_result;

typedef struct pg_quality {
    double entropy;     /* of |map| as a distribution, divided by ln(H W): 0 .. 1 */
    double gini;        /* 0 uniform .. 1 one pixel */
    double mass_in_roi; /* NaN without a region of interest */
    bool degenerate;    /* map all zero, or the method says it means nothing, or some layer was left
                           alone for lack of variance */
} pg_quality;

/* Figures of the method, as pg_attribution has them: 0 and NaN where it has none. */
typedef struct pg_method_result {
    int samples, planned;
    double std_error, delta, relevance;
} pg_method_result;

/* What each channel of CRP's layer has to do with the logit, whatever channels the map is of. */
typedef struct pg_concepts {
    const char *layer;
    int64_t channels;
    const double *relevance; /* [channels] signed, summed over positions */
    int n_top;
    int64_t top[PG_TOP_MAX]; /* channels, most relevant first; ties go to the lower one */
} pg_concepts;

/* Borrowed from the pipeline: valid until its next run. */
typedef struct pg_explanation {
    int64_t classes;
    const float *logits;      /* [classes]; of several cells their sums (head.h) */
    const float *output;      /* the network's own, laid out as pg_model_info says */
    int n_top;
    pg_top top[PG_TOP_MAX];
    pg_top explained;
    const char *why;          /* "top1", "frame", "stream", "config" */
    const char *method;
    pg_method_result figures;
    const pg_concepts *concepts; /* NULL: the method is not crp */
    const char *select;       /* the rule that chose the channels: "class", "instance", "list",
                                 "random", "none"; "instance" under select: class means that
                                 calibration saw too few samples of the class */
    int64_t height, width;    /* of the map: the network's input size */
    int64_t attribution[3];   /* C,H,W of the attribution: the input's; a CAM: 1,h,w of its layer */
    const float *map;         /* [H,W], reduced and smoothed */
    double transform[6];      /* [a b c d e f]: frame x = a X + b Y + c, frame y = d X + e Y + f */
    int n_layers;
    const pg_layer_result *layers;
    pg_quality quality;
    uint64_t timing_ns[PG_STAGE_COUNT], total_ns;
    int64_t frame_height, frame_width;
} pg_explanation;

/* ---- pipeline ---- */

/* What a stream wants otherwise than the configuration. */
typedef struct pg_wish {
    const char *method, *target; /* NULL or "": the explainer's */
    double deadline;             /* seconds from run's begin; 0: the explainer's */
} pg_wish;

typedef struct pg_pipeline pg_pipeline;

/* On the worker's own thread. `explainer` is borrowed and must outlive the pipeline. */
pg_err pg_pipeline_create(const pg_explainer *explainer, pg_clock_fn now, pg_pipeline **out,
                          pg_diag *diag);
void pg_pipeline_destroy(pg_pipeline **pipeline);

/* Whoever watches how far a method of many steps is (pg_pass.progress); NULL: nobody. */
void pg_pipeline_watch(pg_pipeline *pipeline, void (*progress)(void *user, int done, int planned),
                       void *user);

/* Explains one frame. `wish` (a stream's settings) wins over the explainer's own, and the frame's
 * own target and method over both. Returns PG_DROP_NONE and fills *out, or the reason the frame is
 * dropped, with the sentence in diag. */
pg_drop pg_pipeline_run(pg_pipeline *pipeline, const pg_frame *frame, const pg_wish *wish,
                        pg_explanation *out, pg_diag *diag);

/* The network's input of the last run, in `layout`: the frame after preprocessing. */
const float *pg_pipeline_input(const pg_pipeline *pipeline, pg_layout *layout);

/* The signed attribution of the last run, PG_PLAIN (converted on demand). */
const float *pg_pipeline_attribution(pg_pipeline *pipeline);

/* The overlay of the last run: the map in colour over the picture as the network saw it, at
 * network input size, RGB [H,W,3]. Rendered on demand; valid until the next run. */
const uint8_t *pg_pipeline_overlay(pg_pipeline *pipeline);

/* The same as a JPEG (quality 85). Valid until the next run; empty on failure. */
pg_bytes pg_pipeline_overlay_jpeg(pg_pipeline *pipeline);

#endif
