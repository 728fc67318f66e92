/* One direction of a convolution as oneDNN or a kernel of our own (conv_kernel.h) runs it, hidden
 * from the operator that uses it: input and output are channels-last arrays, whatever layouts the
 * library prefers inside.
 *
 * A path is made once per model (packed weights, primitives) and shared; a run holds one session's
 * library handles on fixed pointers, so that running allocates nothing.
 */
#ifndef PG_KERNELS_CONV_PATH_H
#define PG_KERNELS_CONV_PATH_H

#include "kernels/dnnl_compat.h"

/* Batch 1, two spatial axes (a 1-D convolution has in_h = out_h = k_h = 1). */
typedef struct pg_conv_geometry {
    int64_t groups, in_c, in_h, in_w, out_c, out_h, out_w, k_h, k_w;
    pg_dnnl_conv dnnl;
} pg_conv_geometry;

enum { PG_CONV_IMPL_MAX = 80 };

struct pg_conv_kernel; /* conv_kernel.h */

/* Zero-initialise. Private but for the numbers and the name. */
typedef struct pg_conv_path {
    size_t scratch_bytes; /* a run needs */
    size_t weight_bytes;
    size_t packed_bytes;         /* of the weights as the library wants them */
    char impl[PG_CONV_IMPL_MAX]; /* oneDNN's name of the implementation, "+reorder" where the
                                    library wanted other layouts than ours */
    bool backward;
    bool flipped; /* see pg_conv_way; `weights` are [in_c, out_c, k_h, k_w], the taps in reverse */
    bool adds;    /* the addition is part of it: pg_conv_run_add */
    bool whole;   /* addition and activation are part of it; otherwise neither is */
    dnnl_primitive_t primitive, reorder_in, reorder_out; /* reorders: NULL where not needed */
    dnnl_primitive_t pack; /* plain weights -> packed; NULL: they are packed */
    pg_md our_in, our_out, in, out, plain_md, weights_md, bias_md, scratchpad_md;
    void *weights;                    /* NULL: each run brings its own */
    float *bias;                      /* NULL: none */
    size_t in_bytes, out_bytes;       /* staging for the reorders, 0 where not needed */
    const struct pg_conv_kernel *own; /* NULL: the library runs it. Otherwise of the above only
                                         weights and bias are used, and: */
    pg_conv_geometry geometry;
    pg_act act;
    float lo, hi;
} pg_conv_path;

/* How a path is come by (conv_path.c has the list). Ways differ in speed, and in rounding. */
typedef struct pg_conv_way {
    const char *name;
    bool flipped; /* backward at stride 1 as a forward convolution with flipped weights */
    bool winograd;
    bool any;                         /* the library's own layouts, with reorders around it */
    bool apart;                       /* addition and activation are left to the caller */
    int nth;                          /* of the library's implementations */
    const struct pg_conv_kernel *own; /* this one of ours, also where it is not the default */
} pg_conv_way;

/* The first is the default: our own kernel, or the library's first choice, channels-last if it has
 * a fast implementation for that. */
enum { PG_CONV_WAYS = 12 };
extern const pg_conv_way pg_conv_ways[PG_CONV_WAYS];

/* What a path computes. Forward: dst = act(conv(src, weights) + bias [+ addend]); backward: d_src
 * from d_dst, bias, add and act ignored. `add` and `act` are a wish: path.whole tells whether they
 * are granted. If not, the path computes conv(src, weights) + bias. weights: [out_c, in_c / groups,
 * k_h, k_w] or NULL (each run brings its own: pg_conv_run_pack), bias: [out_c] or NULL; both are
 * copied.
 *
 * bf16: the multiplications are of bfloat16, weights and input being rounded, the sums are float;
 * where the library has only its slow loop for that, all is float. What the caller's arrays hold
 * is a question of its own. */
typedef struct pg_conv_path_spec {
    const pg_conv_geometry *geometry;
    bool backward;
    const float *weights, *bias;
    bool add;
    pg_act act;
    float lo, hi;
    bool library_only; /* no kernel of our own */
    int64_t kept;      /* backward, 0: all. So many output channels have a gradient at most; rather
                          a kernel that can feed a sink then (pg_conv_run_feed) */
    bool sparse;       /* many values of the input are 0 */
    bool lean;         /* for the tuner: no way with larger packed weights than the first's */
    bool exact;        /* no Winograd: small sums are as exact as large ones beside them */
    const pg_conv_way *way; /* NULL: the first */
    bool bf16;              /* and then: */
    bool in_bf16, out_bf16; /* the input array, the output array holds pg_bf16 */
} pg_conv_path_spec;

/* True where products of bfloat16 pay, on processors where they do: in dense convolutions of at
 * least 16 input channels. Measured on Zen 4: those run twice as fast; depthwise ones not at all
 * (64 against 70 GFLOP/s), some of the library's ways for grouped ones many times slower, and the
 * 3 channels of a first layer leave most of its 16 lanes empty. */
bool pg_conv_pays_bf16(const pg_conv_geometry *geometry);

/* Whether the first way is the kernel for inputs with many zeros. */
bool pg_conv_path_is_sparse(const pg_conv_path_spec *spec);

/* Makes a path into *path, which must be zero; the thread count in force becomes part of it. On
 * failure *path is free and diag says why. Ways other than the first fail where they are not
 * possible, or would be the library's slow loop. */
pg_err pg_conv_path_make(const pg_conv_path_spec *spec, pg_conv_path *path, pg_diag *diag);
void pg_conv_path_free(pg_conv_path *path); /* and zeroes */

enum { PG_CONV_RUN_ARGS = 6 };

/* Zero-initialise; private. */
typedef struct pg_conv_run {
    dnnl_stream_t stream;
    dnnl_memory_t our_in, our_out, in, out, plain, weights, bias, addend, scratchpad;
    dnnl_exec_arg_t args[PG_CONV_RUN_ARGS];
    int n_args;
    const float *own_in, *own_weights; /* where path.own runs */
    float *own_out;
    void *own_scratch;
    int64_t own_channels;
    const float *own_skip;
} pg_conv_run;

/* Handles on `in` and `out` (of float or pg_bf16, as the spec said) and `scratch` (scratch_bytes,
 * aligned to PG_MEM_ALIGN), which must outlive the run. On failure *run is free. */
pg_err pg_conv_run_make(const pg_conv_path *path, const void *in, void *out, void *scratch,
                        pg_conv_run *run, pg_diag *diag);
void pg_conv_run_free(pg_conv_run *run); /* and zeroes */

/* The tensor added, in the layout of the output, if path->adds; it must outlive the run. */
pg_err pg_conv_run_add(const pg_conv_path *path, pg_conv_run *run, const float *addend,
                       pg_diag *diag);

/* From now on reads `in`, of which the first `channels` matter: weights of the others are 0. */
pg_err pg_conv_run_read(pg_conv_run *run, const void *in, int64_t channels);

/* For paths made without weights. pack: brings `plain` (as in pg_conv_path_spec, but pg_bf16 if the
 * spec said bf16) into the library's layout in packed[packed_bytes], which the run uses from now
 * on. use: weights packed earlier, by any run of the path. `packed` is aligned to PG_MEM_ALIGN and
 * outlives its use. */
pg_err pg_conv_run_pack(const pg_conv_path *path, pg_conv_run *run, const void *plain,
                        void *packed);
pg_err pg_conv_run_use(pg_conv_run *run, void *packed);

/* Computes *out from *in. */
pg_err pg_conv_run_execute(const pg_conv_path *path, const pg_conv_run *run);

/* Who wants the output a few rows at a time, while they are in the cache: rows [count, channels],
 * the first of them that of position `first`; they may be written over. Called by all threads, for
 * rows of their own. */
typedef struct pg_conv_sink {
    void (*take)(void *user, int64_t first, int64_t count, float *rows);
    void *user;
} pg_conv_sink;

/* True if the path, a backward one, can. */
bool pg_conv_path_sinks(const pg_conv_path *path);

/* The same into the sink, *out being left alone; skip, in the layout of *out, is added. NULL: none.
 */
void pg_conv_run_feed(const pg_conv_path *path, const pg_conv_run *run, const float *skip,
                      const pg_conv_sink *sink);

/* ---- operators that are nothing but two paths ---- */

/* What their bind makes. */
typedef struct pg_conv_pair {
    pg_conv_run forward, backward;
} pg_conv_pair;

/* The work of bind: runs on the operator's only input and output, one for each path that is made
 * (zero: it is not) and, backward, wanted. Without any *state stays NULL. */
pg_err pg_conv_pair_bind(const pg_op *op, const pg_conv_path *forward, const pg_conv_path *backward,
                         const pg_op_io *io, void **state, pg_diag *diag);
void pg_conv_pair_unbind(const pg_op *op, void **state); /* an operator class's unbind */

#endif
