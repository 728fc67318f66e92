/* The operator seam: what every operator of a network is to the rest of the program.
 *
 * An operator is one ONNX node made executable. Its life has two halves:
 *
 *   shared, once per model                      per session (one worker's memory)
 *   create   attributes + input shapes          bind      pointers known: make library handles
 *            -> output shapes                   forward   src -> dst (+ saved)
 *   prepare  layouts known: pack weights,       backward  d_dst (+ src, dst, saved) -> d_src
 *            make primitives, state sizes       unbind
 *   destroy
 *
 * After prepare an operator is immutable, so all workers share it without a lock; everything a call
 * writes is in pg_op_io. There is no gradient with respect to weights anywhere in this program.
 *
 * To add an operator: one file op_<name>.c with create, forward and backward side by side, one line
 * in op_table.def, one reference (a case in tests/kernel). Nothing else changes.
 */
#ifndef PG_KERNELS_OP_H
#define PG_KERNELS_OP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/err.h"
#include "kernels/tensor.h"

typedef struct pg_op pg_op;
struct pg_conv_prune; /* op_conv.h */

/* ---- what a node of the file says ---- */

typedef enum pg_attr_type {
    PG_ATTR_INT,
    PG_ATTR_FLOAT,
    PG_ATTR_STRING,
    PG_ATTR_INTS,
    PG_ATTR_FLOATS,
    PG_ATTR_TENSOR,
    PG_ATTR_REF,   /* in the body of a function: the caller's attribute named s; gone after import */
    PG_ATTR_OTHER, /* graphs, strings, sparse tensors: no operator here takes one */
} pg_attr_type;

/* One attribute, borrowed from the importer for the length of the create call. */
typedef struct pg_attr {
    const char *name;
    pg_attr_type type;
    int64_t i;
    float f;
    const char *s;
    const int64_t *ints;
    const float *floats;
    size_t count; /* of ints or floats */
    const pg_const *tensor;
} pg_attr;

/* One input as ONNX lists it: absent (an empty name), constant, or computed at run time. */
typedef struct pg_op_input {
    bool present;
    const pg_const *constant; /* NULL: a run-time value. Valid until prepare has returned. */
    pg_shape shape;
} pg_op_input;

/* A node as create sees it. Everything is borrowed. */
typedef struct pg_op_def {
    const char *node; /* the node's name, for messages */
    const char *type; /* ONNX operator type: one class may serve several */
    int opset;        /* of the default domain */
    const pg_attr *attrs;
    int n_attrs;
    const pg_op_input *inputs;
    int n_inputs;
    int n_outputs;
    int n_read; /* outputs up to the last one that leads to the logits, <= n_outputs */
    bool folding; /* made to fold constants (pipeline/fold.h), which may be empty */
} pg_op_def;

/* Attribute look-up with the default of the ONNX specification. A wrong type or, for ints, a
 * wrong count (other than 0 or `count`) is refused with PG_EMODEL naming node and attribute. */
pg_err pg_def_int(const pg_op_def *def, const char *name, int64_t fallback, int64_t *out,
                  pg_diag *diag);
pg_err pg_def_float(const pg_op_def *def, const char *name, float fallback, float *out,
                    pg_diag *diag);
pg_err pg_def_string(const pg_op_def *def, const char *name, const char *fallback,
                     const char **out, pg_diag *diag);
/* Fills out[0..count) with the attribute's values, or with `fallback` when it is absent. */
pg_err pg_def_ints(const pg_op_def *def, const char *name, int count, int64_t fallback,
                   int64_t *out, pg_diag *diag);
/* The attribute itself, or NULL. */
const pg_attr *pg_def_attr(const pg_op_def *def, const char *name);

/* ---- the operator ---- */

/* Where the bytes of its values may be; the planner picks and tells by filling src[].layout and
 * dst[].layout before prepare. Values of rank < 3 are always PG_PLAIN. */
typedef enum pg_layout_policy {
    PG_LAYOUTS_PLAIN,         /* every value PG_PLAIN */
    PG_LAYOUTS_CHANNELS_LAST, /* every value of rank >= 3 PG_CHANNELS_LAST */
    PG_LAYOUTS_SAME,          /* any, the same for all values of the operator's highest rank */
    PG_LAYOUTS_ANY,           /* any, each for itself */
} pg_layout_policy;

/* How a gradient that is zero in most channels may be handed on: the array holds [positions, width] values, the
 * live channels side by side in ascending order, the rest of each row of no meaning. The operator that reads the
 * value may fill this in; the one that made it looks. */
typedef struct pg_live {
    int64_t most;        /* (session) live channels the maker of the value can take */
    const uint8_t *keep; /* [channels] 1: live. NULL: the gradient is dense, as it is without all this. Borrowed
                            for the length of the pass */
    int64_t count, width; /* live channels, columns of the array */
    bool lasting;         /* the same channels will be live with other frames */
} pg_live;

/* A gradient on its way from the reader of a value that is the last to add to it, to the operator
 * that made the value: a few rows (positions of a channels-last array) at a time, while they are in
 * the cache, instead of an array in memory. The session has one for each pair that can. */
typedef struct pg_rows {
    const struct pg_op *maker;
    const struct pg_op_io *io; /* the maker's */
    const float *others;       /* what other readers have contributed, an array. NULL: nothing */
    void *memory; /* maker->rows_bytes, the maker's from rows_begin to the end of its backward */
    bool taken;   /* in this pass: the array of the gradient is not the gradient */
} pg_rows;

/* Pointers of one operator in one session, fixed for the session's life. Arrays follow the
 * operator's src and dst. */
typedef struct pg_op_io {
    const float *const *src;
    float *const *dst;
    const float *const *d_dst;
    float *const *d_src; /* overwritten, not accumulated; a NULL entry: nobody wants it */
    const bool *add;     /* [n_src] operators with `adds` only: where true, d_src[k] holds what other
                            readers of src[k] have contributed, to be added to. NULL: none */
    void *saved;         /* forward -> backward, op->saved_bytes */
    void *scratch;       /* free for use within one call, op->scratch_bytes */
    void *state;         /* what bind made */
    const struct pg_conv_prune *prune; /* convolutions only; NULL: plain gradient */
    const pg_live *d_dst_live; /* how d_dst[0] is stored; NULL: dense */
    pg_live *d_src_live;       /* how d_src[0] may be stored; NULL: dense. Dense again before each call */
    pg_rows *d_dst_rows, *d_src_rows; /* d_dst[0] in rows, d_src[0] likewise; NULL: as arrays only */
} pg_op_io;

typedef struct pg_op_class {
    /* Checks attributes and input shapes, computes output shapes and sets every field of pg_op
     * marked (create). On failure nothing is left behind and diag says why; PG_EMODEL for what the
     * operator cannot do. */
    pg_err (*create)(const pg_op_def *def, pg_op **out, pg_diag *diag);
    /* For operators that only rename or permute: with the layouts that src and dst have now, every
     * element of dst[0] lies where it lies in src[0]. The planner asks for both layouts of dst and,
     * where one will do, makes the operator an alias. NULL: never. */
    bool (*same_bytes)(const pg_op *op);
    /* Layouts are known: packs weights, makes primitives, sets fields marked (prepare). Called
     * once, with omp_get_max_threads() already what every session will use. Constants of the
     * definition die after this call. NULL: nothing to do. */
    pg_err (*prepare)(pg_op *op, pg_diag *diag);
    /* Makes per-session library handles on the fixed pointers of `io`. NULL: nothing to do. */
    pg_err (*bind)(const pg_op *op, const pg_op_io *io, void **state, pg_diag *diag);
    void (*unbind)(const pg_op *op, void **state);
    /* Computes dst from src. No allocation, no failure but a library's. */
    pg_err (*forward)(const pg_op *op, const pg_op_io *io);
    /* Computes the non-NULL d_src from d_dst: the vector-Jacobian product. NULL: not
     * differentiable; a model whose gradient must pass it is refused at load. */
    pg_err (*backward)(const pg_op *op, const pg_op_io *io);
    /* The maker's side of pg_rows, for operators with rows_bytes; the reader calls them within its
     * own backward. begin: false, this time an array is wanted. take: `count` complete rows of
     * d_dst[0] from `first` on, which may be written over; called by all threads of the team, for
     * rows of their own. end, after all rows: false, it has to be an array after all, and what
     * others have contributed to d_dst[0] still stands there. */
    bool (*rows_begin)(const pg_op *op, const pg_op_io *io);
    void (*rows_take)(const pg_op *op, const pg_op_io *io, int64_t first, int64_t count,
                      float *rows);
    bool (*rows_end)(const pg_op *op, const pg_op_io *io);
    /* Frees what create and prepare made in the operator's own type, not the base. NULL: nothing. */
    void (*destroy)(pg_op *op);
} pg_op_class;

/* The base every operator's own struct starts with. Run-time values only: constants of the node
 * belong to the operator. */
struct pg_op {
    const pg_op_class *cls;
    const char *type; /* (create) the row's name in op_table.def */
    char *node;       /* (create) owned copy of the node's name */
    int n_src;        /* (create) run-time inputs, in ONNX order, constants and absent left out */
    int n_dst;        /* (create) */
    pg_desc *src;     /* (create; layouts by the planner) [n_src] */
    pg_desc *dst;     /* (create; layouts by the planner) [n_dst] */
    pg_layout_policy layouts; /* (create) */
    bool alias;     /* (create; or the planner, see same_bytes) dst[0] is src[0] under another shape (Reshape, Identity): the
                       planner shares the memory, forward and backward are never called */
    bool bf16_forward, bf16_backward; /* (before prepare) products may be of bfloat16 (bf16.h) */
    bool relu;      /* (create; or the optimiser) dst[0] comes out of a ReLU, or of a Clip from 0 on */
    bool keeps_src; /* (create) backward reads src */
    bool keeps_dst; /* (create) backward reads dst */
    int in_place;   /* (create) backward may write d_src[in_place - 1] over d_dst[0]; 0: none */
    bool adds;      /* (create) backward can add to d_src instead of overwriting it (io->add) */
    int64_t live_most;    /* (prepare) backward takes a d_dst[0] with up to so many live channels side by side
                             (pg_live); 0: dense gradients only */
    size_t rows_bytes;    /* (prepare) what taking d_dst[0] in rows takes; 0: arrays only */
    bool gives_rows;      /* (prepare) backward can hand over d_src[0] in rows */
    size_t saved_bytes;   /* (prepare) */
    size_t scratch_bytes; /* (prepare) the larger of what forward and backward want */
    size_t weight_bytes;  /* (prepare) packed weights, all copies */
    size_t state_bytes;   /* (prepare) large memory that bind takes, per session */
    uint64_t flops;       /* (create) multiplications and additions of one forward call */
    const char *impl;     /* (prepare) which implementation runs, for `inspect`; static or owned */
};

/* Allocates `size` >= sizeof(pg_op) zeroed bytes and fills the base: class, type, node, src with
 * the run-time inputs' shapes, n_dst zeroed dst. For use in create. */
pg_err pg_op_alloc(const pg_op_class *cls, const pg_op_def *def, size_t size, int n_dst,
                   pg_op **out, pg_diag *diag);

/* Looks the type up in op_table.def and creates the operator. Unknown type: PG_EMODEL. */
pg_err pg_op_create(const pg_op_def *def, pg_op **out, pg_diag *diag);

/* True if op_table.def has a row for this ONNX operator type. */
bool pg_op_known(const char *type);

/* Destroys and nulls; accepts NULL. */
void pg_op_destroy(pg_op **op);

#endif
