/* The difference between oneDNN 2.6 and 3.x, in one place. Only kernels include this file.
 *
 * The two generations differ where a primitive is described: 2.x passes memory descriptors as
 * public structs and describes an operation in two steps, 3.x hides the descriptors behind pointers
 * and needs one call. Here a descriptor is a heap object in both, owned by whoever made it, and an
 * operation is one call. What is the same in both (memory, execute, query of implementation names,
 * sgemm) is used directly.
 */
#ifndef PG_KERNELS_DNNL_COMPAT_H
#define PG_KERNELS_DNNL_COMPAT_H

#include <dnnl.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/err.h"
#include "kernels/op_conv.h"

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t pg_md;
typedef const_dnnl_memory_desc_t pg_const_md;
#else
typedef dnnl_memory_desc_t *pg_md;
typedef const dnnl_memory_desc_t *pg_const_md;
#endif

/* The process's CPU engine, made on first use and never freed. Thread-safe. NULL if the library
 * cannot make one, or if the library found at run time is of another major version than the headers
 * of the build. */
dnnl_engine_t pg_dnnl_engine(void);

/* PG_OK for dnnl_success; otherwise PG_ENOMEM or PG_EFAIL with "<what>: <the status in words>". */
pg_err pg_dnnl_check(dnnl_status_t status, const char *what, pg_diag *diag);

/* A new descriptor, of float32 or of `type`, or NULL. The caller frees it with pg_md_free. */
pg_md pg_md_create(int n_dims, const int64_t *dims, dnnl_format_tag_t tag);
pg_md pg_md_create_of(dnnl_data_type_t type, int n_dims, const int64_t *dims,
                      dnnl_format_tag_t tag);
pg_md pg_md_clone(pg_const_md md);
void pg_md_free(pg_md *md); /* frees and nulls; accepts NULL */

/* How a float tensor lies in memory: an axis's index is split by the sizes of the inner blocks
 * along it, the last block being the innermost, and strides are those of the outermost blocks. All
 * borrowed. */
typedef struct pg_md_blocks {
    const int64_t *padded, *strides; /* [axes] lengths, whole blocks; of the outermost blocks */
    const int64_t *size, *axis;      /* [n_inner] */
    int n_inner;
} pg_md_blocks;

/* False: not of floats, or not in blocks (Winograd). */
bool pg_md_read_blocks(pg_const_md md, pg_md_blocks *out);

/* One convolution's geometry in oneDNN's terms: two spatial axes, dilation counted from 0. */
typedef struct pg_dnnl_conv {
    dnnl_dims_t strides, dilates, pad_begin, pad_end;
} pg_dnnl_conv;

/* Describe a convolution and its gradient with respect to the input. `bias` may be NULL. Winograd:
 * by that algorithm, which 2.6 has for 3x3 and 3.x has not. `nth`: of the implementations the
 * library has, counted from 0. On success *out is the caller's, to be freed with
 * dnnl_primitive_desc_destroy. dnnl_unimplemented if the library has nothing for these descriptors.
 */
dnnl_status_t pg_dnnl_conv_forward(const pg_dnnl_conv *conv, bool winograd, int nth,
                                   pg_const_md src, pg_const_md weights, pg_const_md bias,
                                   pg_const_md dst, const_dnnl_primitive_attr_t attr,
                                   dnnl_primitive_desc_t *out);
dnnl_status_t pg_dnnl_conv_backward(const pg_dnnl_conv *conv, bool winograd, int nth,
                                    pg_const_md d_src, pg_const_md weights, pg_const_md d_dst,
                                    const_dnnl_primitive_desc_t forward,
                                    const_dnnl_primitive_attr_t attr, dnnl_primitive_desc_t *out);

/* Empties the library's memory of primitives it has made; those in use live on. */
void pg_dnnl_forget(void);

/* The next implementation the library has for the same descriptors, in place. False: there is none,
 * or this version of the library does not tell; *pd stays as it is. */
bool pg_dnnl_next(dnnl_primitive_desc_t *pd);

/* Attributes every primitive here uses: scratch memory comes from the caller, and behind the
 * operation a tensor described by `addend` may be added (NULL: none; it is the argument
 * PG_DNNL_ARG_ADDEND) and then an activation applied. The caller frees with
 * dnnl_primitive_attr_destroy. */
#define PG_DNNL_ARG_ADDEND (DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1)
dnnl_status_t pg_dnnl_attr(pg_const_md addend, pg_act act, float lo, float hi,
                           dnnl_primitive_attr_t *out);

#endif
