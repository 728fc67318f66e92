/* What the parts of the constant folder share. */
#ifndef PG_PIPELINE_FOLD_IMPL_H
#define PG_PIPELINE_FOLD_IMPL_H

#include "pipeline/fold.h"

typedef pg_err (*pg_fold_fn)(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);

/* Memory for the result: fills dtype, shape and data, which the caller then writes. */
pg_err pg_fold_result(pg_folder *folder, pg_dtype dtype, const pg_shape *shape, pg_const *out,
                      void **data, pg_diag *diag);

/* The constant of input `index`; NULL if it is absent. */
const pg_const *pg_fold_input(const pg_op_def *def, int index);

/* The integers of input `index`, or, where ONNX once had an attribute of that name, of the
 * attribute. *values is NULL when neither is there. */
pg_err pg_fold_ints(const pg_op_def *def, int index, const char *attr, const int64_t **values,
                    int64_t *count, pg_diag *diag);

/* Counts an axis from the front. */
pg_err pg_fold_axis(int64_t axis, int rank, int *out, pg_diag *diag);

/* Copies src[...] to dst in row-major order of `shape`, reading with these element strides. */
void pg_fold_copy(pg_dtype dtype, const pg_shape *shape, const void *src,
                  const int64_t strides[PG_MAX_RANK], void *dst);

/* Strides that read `from` as if it had the shape `to` (0 where it is repeated). False: they do not
 * broadcast. */
bool pg_fold_broadcast_strides(const pg_shape *from, const pg_shape *to,
                               int64_t strides[PG_MAX_RANK]);

/* The numpy broadcast of two shapes. */
bool pg_fold_broadcast(const pg_shape *a, const pg_shape *b, pg_shape *out);

/* The constant as the other element type. */
pg_err pg_fold_convert(pg_folder *folder, const pg_const *in, pg_dtype to, pg_const *out,
                       pg_diag *diag);

/* PG_F32 or PG_I64 for an ONNX element type; false: no constant here has it. */
bool pg_fold_dtype(int64_t elem, pg_dtype *dtype);

/* The constants of inputs 0 to count - 1, all of which have to be there. */
pg_err pg_fold_inputs(const pg_op_def *def, int count, const pg_const **in, pg_diag *diag);

/* A shape given as a list of integers; pg_fold_result checks them. */
pg_err pg_fold_shape_from(const int64_t *values, int64_t count, pg_shape *out, pg_diag *diag);

/* Functions of two elements. From EQUAL on, the result is a bool, which is PG_I64. */
typedef enum pg_fold_pair_op {
    PG_FOLD_ADD,
    PG_FOLD_SUB,
    PG_FOLD_MUL,
    PG_FOLD_DIV,
    PG_FOLD_POW,
    PG_FOLD_MIN,
    PG_FOLD_MAX,
    PG_FOLD_MOD,  /* integers: the sign of the divisor */
    PG_FOLD_FMOD, /* the sign of the dividend */
    PG_FOLD_EQUAL,
    PG_FOLD_LESS,
    PG_FOLD_GREATER,
    PG_FOLD_NOT_LESS,
    PG_FOLD_NOT_GREATER,
    PG_FOLD_AND,
    PG_FOLD_OR,
    PG_FOLD_XOR,
} pg_fold_pair_op;

bool pg_fold_compares(pg_fold_pair_op op);

/* *out = a op b for one element of the type; out may be a. Refuses division by zero and overflow of
 * integers. */
pg_err pg_fold_pair(pg_fold_pair_op op, pg_dtype dtype, const void *a, const void *b, void *out,
                    pg_diag *diag);

pg_err pg_fold_run(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_batch_norm(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_constant(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_constant_of_shape(pg_folder *folder, const pg_op_def *def, pg_const *out,
                                 pg_diag *diag);
pg_err pg_fold_shape(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_size(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_eye(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_range(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_identity(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_reshape(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_squeeze(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_unsqueeze(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_flatten(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_concat(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_scatter_nd(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_scatter_elements(pg_folder *folder, const pg_op_def *def, pg_const *out,
                                pg_diag *diag);
pg_err pg_fold_nonzero(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_one_hot(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_binary(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_clip(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_unary(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_where(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_reduce(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_cumsum(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_cast(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);

#endif
