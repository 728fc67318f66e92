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
    unsigned compat;     /* set of PG_COMPAT_... (compat.h) */
} pg_prune_options;

/* model.precision: what convolutions and products with constant matrices multiply. AUTO is F32. */
typedef enum pg_precision {
    PG_PRECISION_AUTO,
    PG_PRECISION_F32,
    PG_PRECISION_BF16,
    PG_PRECISION_BF16_BACKWARD /* forward in float32 */
} pg_precision;
/* lrp.*: method.md section 7. Rules in the order of pg_lrp_rule. */
typedef enum pg_lrp_composite {
    PG_LRP_EPSILON_PLUS_FLAT,
    PG_LRP_EPSILON_PLUS,
    PG_LRP_EPSILON_GAMMA_BOX,
    PG_LRP_EPSILON_ALPHA2_BETA1
} pg_lrp_composite;
typedef enum pg_lrp_choice {
    PG_LRP_BY_COMPOSITE,
    PG_LRP_CHOOSE_EPSILON,
    PG_LRP_CHOOSE_ZPLUS,
    PG_LRP_CHOOSE_ALPHA_BETA,
    PG_LRP_CHOOSE_GAMMA,
    PG_LRP_CHOOSE_ZBOX,
    PG_LRP_CHOOSE_FLAT,
    PG_LRP_CHOOSE_WSQUARE
} pg_lrp_choice;
typedef struct pg_lrp_options {
    pg_lrp_composite composite;
    double epsilon, gamma;
    pg_lrp_choice first, conv, linear; /* in place of the composite's */
    float low[3], high[3];             /* the picture's box, ZBox; from the input options */
} pg_lrp_options;

/* crp.*: the conditioned layer and its channels, none: all of them. */
typedef struct pg_crp_options {
    const char *layer; /* NULL or "": none */
    const int64_t *channels;
    int n_channels;
} pg_crp_options;

/* ig.*: the path from the baseline to the frame, and where on it the gradient is taken. */
typedef enum pg_quadrature {
    PG_QUADRATURE_TRAPEZOID,
    PG_QUADRATURE_GAUSS_LEGENDRE,
    PG_QUADRATURE_RIEMANN_TRAPEZOID
} pg_quadrature;
typedef enum pg_baseline {
    PG_BASELINE_ZERO,
    PG_BASELINE_BLACK,
    PG_BASELINE_WHITE,
    PG_BASELINE_BLUR,
    PG_BASELINE_VALUE
} pg_baseline;
typedef struct pg_ig_options {
    int steps;
    pg_quadrature quadrature;
    pg_baseline baseline;
    double value; /* PG_BASELINE_VALUE: of every number of the network's input */
    double blur;  /* PG_BASELINE_BLUR: sigma in pixels */
} pg_ig_options;

/* smoothgrad.* */
typedef enum pg_smooth_mode { PG_SMOOTH_ABS, PG_SMOOTH_SQUARE, PG_SMOOTH_SIGNED } pg_smooth_mode;
typedef struct pg_smoothgrad_options {
    int samples;
    double sigma; /* as a share of the input's range */
    pg_smooth_mode mode;
    uint64_t seed;
} pg_smoothgrad_options;

typedef struct pg_explain_options {
    const char *model_path, *labels_path, *output; /* labels, output: NULL or "" */
    int class_axis;         /* of the output; negative: by its rank */
    const char *input_name; /* of the picture; NULL or "": the only one */
    const struct pg_model_value *inputs; /* [n_inputs] values of the model's other inputs */
    int n_inputs;
    pg_precision precision;
    int threads;
    pg_input_options input;
    pg_head_options head;
    const char *method;  /* row of saliency.def: "parchgrad", "gradient", ... */
    int shuffled_layers;   /* for the randomisation check of `evaluate`; 0: none */
    pg_string_list methods; /* further methods that streams and frames may ask for: what has to be
                               prepared for them is */
    const char *cam_layer; /* whose activation CAMs weigh; "": the last with an extent */
    int scorecam_channels; /* at most this many, those that vary most; 0: all */
    int rise_masks, rise_cells; /* random masks, of that many cells each way */
    double rise_share;          /* of the cells that let the picture through */
    uint64_t rise_seed;
    int occlusion_window, occlusion_stride; /* pixels */
    double deadline;     /* seconds for one frame, 0: none; methods of many steps then do fewer */
    const char *target;  /* "top1", a class index or a class name */
    pg_reduce reduce;
    pg_prune_options prune;
    pg_lrp_options lrp;
    pg_crp_options crp;
    pg_ig_options ig;
    pg_smoothgrad_options smoothgrad;
    int tune;               /* pg_tune_mode */
    const char *cache_dir;  /* of what tuning chose; NULL or "": pipeline/tune.h */
    bool fuse_add;          /* residual additions are done by the convolution before them */
    bool fuse_split;        /* gradients are split row by row, by the convolution that makes them */
    bool skip_zeros;        /* convolutions may leave out multiplications by zeros behind a ReLU */
    bool own_kernels;       /* also our kernels for convolutions, not only the library's */
    bool kept_channels;     /* drop what pruning sets to zero from the convolutions */
    int kept_cache;         /* MiB per worker for their packed weights; 0: 22 */
    int top;             /* how many classes a result lists */
    double smooth;       /* Gaussian sigma of the published map in pixels, 0: none */
    double percentile;   /* the overlay's full colour, 99.5 */
    uint64_t max_pixels; /* of an encoded picture, width x height */
    uint64_t max_file_bytes;
    uint64_t max_session_bytes;
} pg_explain_options;

#endif
