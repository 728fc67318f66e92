/* A model: an ONNX file turned into an immutable, executable graph that all workers share.
 *
 * Opening happens in two steps, because which convolutions are pruned, and so which must record
 * their channel statistic, is chosen by looking at the graph:
 *
 *   pg_model_open     read, check, import, fold constants, optimise: shapes and names are known
 *   pg_model_prepare  choose layouts, pack weights, plan memory: ready for sessions
 */
#ifndef PG_PIPELINE_MODEL_H
#define PG_PIPELINE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/err.h"
#include "kernels/tensor.h"
#include "pipeline/options.h"
#include "pipeline/refusals.h"

typedef struct pg_model pg_model;
struct pg_op;

/* The value of an input that is not the picture: numbers, or a .npy file of float32. */
typedef struct pg_model_value {
    const char *name;
    const double *values; /* [count]; one value fills any shape */
    int64_t count;
    const char *path; /* NULL: the numbers */
} pg_model_value;

/* Whether implementations of convolutions are chosen by measuring: not; with choices kept in a
 * file; measuring again each time. */
typedef enum pg_tune_mode { PG_TUNE_OFF, PG_TUNE_CACHED, PG_TUNE_ALWAYS } pg_tune_mode;
const char *pg_precision_name(pg_precision precision); /* as the configuration has it */

typedef struct pg_model_options {
    const char *path;
    const void *bytes;        /* the model itself, borrowed until prepare; `path` is only its name
                                 then, and external data is refused. NULL: read `path` */
    size_t n_bytes;
    const char *output;       /* name of the value that is explained; NULL or "": the first output */
    int class_axis;           /* of that output; negative: 1, or the last of three axes */
    const char *input_name;   /* of the picture; NULL or "": the only input that looks like one */
    const char *watch;        /* layer that methods look at (watch.h); NULL or "": the last with an
                                 extent */
    int shuffled_layers;      /* the last ones' weights are shuffled (shuffle.h); 0: as they are */
    const pg_model_value *inputs; /* [n_inputs] what the others hold */
    int n_inputs;
    int64_t height, width;    /* input size where the file leaves it open; 0: the file must say */
    pg_precision precision;
    bool fuse_add;            /* residual additions are done by the convolution before them */
    bool fuse_split;          /* gradients may be handed on in rows (pg_rows) */
    bool skip_zeros;          /* behind a ReLU (pg_conv_expect_zeros) */
    bool relevance;           /* pg_model_want_relevance will be called: additions and concatenations
                                 stay nodes of their own, each with a rule */
    bool library_only;        /* convolutions are oneDNN's everywhere (pg_conv_library_only) */
    pg_tune_mode tune;
    const char *cache_dir;    /* of the choices, borrowed until prepare; NULL or "": tune.h */
    int threads;              /* OpenMP threads of each session; 0: all processors */
    uint64_t max_file_bytes;  /* the model and its external data; 0: 2 GiB */
    uint64_t max_value_bytes; /* one activation; 0: 1 GiB */
    uint64_t max_load_bytes;  /* memory for loading, beside 32 times the file's bytes; 0: 1 GiB */
    uint64_t max_session_bytes; /* one worker's arena; 0: 8 GiB */
    uint64_t kept_bytes;      /* one session's packed weights of kept channels (pg_model_expect_kept) for as many
                                 masks as fit, at least for one; 0: 22 MiB */
    pg_refusals *refusals;    /* NULL, or filled with every node that is not supported */
} pg_model_options;

/* What the file ends in and was taken off, so that logits are explained. */
typedef enum pg_squash { PG_SQUASH_NONE, PG_SQUASH_SOFTMAX, PG_SQUASH_SIGMOID } pg_squash;

/* Reads and imports the file. PG_ECONFIG: the file cannot be opened. PG_EMODEL: it is no usable
 * model; diag names every unsupported node at once. */
pg_err pg_model_open(const pg_model_options *options, pg_model **out, pg_diag *diag);

/* One 4-D convolution, numbered in graph order, all of them (method.md sections 4 and 10). */
typedef struct pg_conv_info {
    const char *name;    /* node name */
    const char *output;  /* name of the node's output */
    int64_t in_channels, channels, height, width; /* of z */
    int64_t groups, kernel_h, kernel_w, stride_h, stride_w;
    bool batch_norm;     /* a BatchNormalization node was folded into it by us: z is before it */
    bool on_path;        /* a gradient from the logits to the input can pass it */
    uint64_t flops;
} pg_conv_info;

/* How many nodes of a type were computed when the file was loaded. */
typedef struct pg_folded {
    const char *type;
    int count;
} pg_folded;
enum { PG_FOLDED_TYPES = 64 }; /* further types are in nodes_folded only */

typedef struct pg_model_info {
    const char *path;
    uint8_t sha256[32];       /* of the file; with external data see onnx_external.h */
    char sha256_hex[65];
    uint64_t file_bytes;      /* external data included */
    int64_t ir_version, opset;
    const char *producer;
    pg_shape input;           /* [1,3,H,W] (or [1,1,H,W]), also where the file wants channels last */
    const char *input_name;
    bool channels_last;       /* the file's own input is [1,H,W,C] */
    bool input_bytes;         /* the file's own input is uint8: pixels 0 .. 255 */
    const char *const *outputs; /* [n_outputs] all the file has */
    int n_outputs;
    pg_desc output;           /* what is explained: [1,classes], [1,classes,H,W], [1,boxes,classes];
                                 its layout is known after prepare */
    const char *logits_name;
    int class_axis;           /* of output */
    int64_t classes;          /* its length */
    pg_squash squash;         /* the logits are the input of the file's last softmax or sigmoid */
    pg_precision precision;   /* not PG_PRECISION_AUTO */
    const char *watched_name; /* NULL: no value is watched */
    pg_desc watched;          /* [1,C,H,W]; its layout is known after prepare */
    bool linear_tail;         /* the logits are an affine function of it */
    double tail_share;        /* of forward's FLOPs, that lie behind it */
    int n_convs;
    const pg_conv_info *convs;
    int nodes_in_file, nodes_folded, nodes_run;
    const pg_folded *folded;  /* [n_folded] in order of appearance */
    int n_folded;
    uint64_t weight_bytes;    /* packed, shared; after prepare */
    uint64_t session_bytes;   /* one worker's arena and packed weights; after prepare */
    uint64_t kept_bytes;      /* of these the packed weights, once as many classes were explained */
    uint64_t flops;           /* one forward */
} pg_model_info;
const pg_model_info *pg_model_get_info(const pg_model *model);

/* The executable operators in order of execution, for `inspect`; valid as long as the model. */
int pg_model_op_count(const pg_model *model);
const struct pg_op *pg_model_op(const pg_model *model, int index);

/* Between open and prepare: convolution `conv` will usually be pruned to at most `most` channels with
 * the others at zero (pg_conv_expect_kept). Makes that faster and takes memory. */
void pg_model_expect_kept(pg_model *model, int conv, int64_t most);

/* Between open and prepare: relevance will be propagated too (lrp.h). PG_ECONFIG where this network
 * or these rules do not allow it, with every node and the reason. `options` is borrowed until
 * prepare. Takes memory for modified weights and for values that the walk reads. */
struct pg_lrp_options;
pg_err pg_model_want_relevance(pg_model *model, const struct pg_lrp_options *options,
                               pg_diag *diag);

/* What pg_lrp_walk_create takes; NULL if it was not wanted. */
struct pg_lrp;
const struct pg_lrp *pg_model_lrp(const pg_model *model);

/* After prepare: pg_crp_find on this model's graph. */
struct pg_crp_layer;
pg_err pg_model_find_layer(const pg_model *model, const char *name, struct pg_crp_layer *out,
                           pg_diag *diag);

/* `gap`: which convolutions record GAP_c in forward, [n_convs], NULL: none. `backward`: false when
 * only forward will run (calibrate), which needs less memory. Once per model. PG_EMODEL: backward
 * cannot pass an operator, or a session would exceed max_session_bytes. */
pg_err pg_model_prepare(pg_model *model, const bool *gap, bool backward, pg_diag *diag);

/* Destroys and nulls; accepts NULL and half-built. Sessions must be gone. */
void pg_model_destroy(pg_model **model);

#endif
