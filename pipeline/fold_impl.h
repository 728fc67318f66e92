/* What the two halves of the constant folder share. */
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

pg_err pg_fold_binary(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_unary(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_where(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_reduce(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_cast(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);
pg_err pg_fold_range(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag);

#endif
