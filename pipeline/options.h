/* What can be chosen about an explanation: plain structs that daemon/config.def fills and the
 * pipeline reads. Strings are borrowed from the configuration, which outlives their users.
 * Names, defaults and units are those of conf/parchgradd.yaml. */
#ifndef PG_PIPELINE_OPTIONS_H
#define PG_PIPELINE_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct pg_string_list {
    const char *const *items;
    int count;
} pg_string_list;

/* model.input: torchvision's preprocessing. value = (pixel * scale - mean) / std per channel. */
typedef struct pg_input_options {
    float mean[3], std[3];
    float scale;        /* 1/255 */
    bool bgr;           /* layout: the network wants B,G,R */
    int64_t height, width; /* size: what the network takes; 0: what the file says */
    int64_t resize;     /* shorter side is resized to this first; 0: straight to the crop size */
    bool crop;          /* centre crop after resize; false: squeeze to the input size */
} pg_input_options;

/* explain.output, explain.vector, explain.region: pipeline/head.h. */
typedef enum pg_explained { PG_EXPLAIN_LOGIT, PG_EXPLAIN_COSINE, PG_EXPLAIN_NORM } pg_explained;
typedef struct pg_head_options {
    pg_explained what;
    const char *vector_path; /* NULL or "": none */
    const int64_t *region;   /* [n_region] cells of the output */
    int n_region;            /* 0: all of them */
} pg_head_options;

typedef enum pg_reduce { PG_REDUCE_MEAN_ABS, PG_REDUCE_MAX_ABS, PG_REDUCE_SUM_ABS, PG_REDUCE_SUM } pg_reduce;
typedef enum pg_select {
    PG_SELECT_CLASS,
    PG_SELECT_INSTANCE,
    PG_SELECT_LIST,
    PG_SELECT_RANDOM,
    PG_SELECT_NONE
} pg_select;
typedef enum pg_conserve { PG_CONSERVE_APPROX, PG_CONSERVE_EXACT, PG_CONSERVE_OFF } pg_conserve;

/* `parchgrad.list` entry: the kept channels of the convolutions whose name matches. */
typedef struct pg_channel_list {
    const char *layer; /* name or glob */
    const int64_t *channels;
    int count;
} pg_channel_list;

typedef struct pg_prune_options {
    pg_select select;
    bool use_level;      /* level instead of quantile */
    double quantile, level;
    double gamma;        /* INFINITY by default */
    pg_conserve conserve;
    /* layers: exactly one of default, a ratio, a list of names or globs */
    bool layers_default;
    double layers_ratio; /* negative: not a ratio */
    pg_string_list layers;
    const pg_channel_list *lists; /* select: list */
    int n_lists;
    uint64_t seed;       /* select: random */
    const char *stats_path; /* NULL or "": none */
} pg_prune_options;

typedef struct pg_explain_options {
    const char *model_path, *labels_path, *output; /* labels, output: NULL or "" */
    int class_axis;         /* of the output; negative: by its rank */
    const char *input_name; /* of the picture; NULL or "": the only one */
    const struct pg_model_value *inputs; /* [n_inputs] values of the model's other inputs */
    int n_inputs;
    int threads;
    pg_input_options input;
    pg_head_options head;
    const char *method;  /* row of saliency.def: "parchgrad", "gradient", "inputgrad" */
    const char *target;  /* "top1", a class index or a class name */
    pg_reduce reduce;
    pg_prune_options prune;
    bool kept_channels;     /* drop what pruning sets to zero from the convolutions */
    int kept_cache;         /* MiB per worker for their packed weights; 0: 64 */
    int top;             /* how many classes a result lists */
    double smooth;       /* Gaussian sigma of the published map in pixels, 0: none */
    double percentile;   /* the overlay's full colour, 99.5 */
    uint64_t max_pixels; /* of an encoded picture, width x height */
    uint64_t max_file_bytes;
    uint64_t max_session_bytes;
} pg_explain_options;

#endif
