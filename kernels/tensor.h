/* Shapes, memory layouts and constants.
 *
 * A shape is always written in ONNX order: [N,C,H,W] for images. Where the bytes are is a second
 * question with two answers:
 *   PG_PLAIN          row-major in that order
 *   PG_CHANNELS_LAST  row-major in the order N, spatial..., C  ([N,H,W,C] for images)
 * Convolutions, pools and everything between them run channels-last: oneDNN's kernels are as fast
 * there as in its blocked layouts, and per-channel work (the heart of ParchGrad) is contiguous.
 * Batch size is 1: a frame is explained alone.
 */
#ifndef PG_KERNELS_TENSOR_H
#define PG_KERNELS_TENSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PG_MAX_RANK = 6 };

typedef enum pg_layout { PG_PLAIN, PG_CHANNELS_LAST } pg_layout;

typedef struct pg_shape {
    int rank;
    int64_t dims[PG_MAX_RANK];
} pg_shape;

/* What a run-time value (always float32) looks like. */
typedef struct pg_desc {
    pg_shape shape;
    pg_layout layout; /* PG_CHANNELS_LAST only for rank >= 3 */
} pg_desc;

/* Element types of constants. Half, bfloat16 and double initialisers are widened or narrowed to
 * PG_F32 when the file is read; int32, int8, uint8 and bool to PG_I64. */
typedef enum pg_dtype { PG_F32, PG_I64 } pg_dtype;

/* The element type the file gives a constant, where somebody needs it: quantisation saturates at the
 * range of its zero point's type. Numbers are those of ONNX's TensorProto.DataType. */
typedef enum pg_elem_type {
    PG_ELEM_UNKNOWN = 0, /* computed at load */
    PG_ELEM_FLOAT = 1,
    PG_ELEM_UINT8,
    PG_ELEM_INT8,
    PG_ELEM_UINT16,
    PG_ELEM_INT16,
    PG_ELEM_INT32,
    PG_ELEM_INT64,
    PG_ELEM_STRING,
    PG_ELEM_BOOL,
    PG_ELEM_FLOAT16,
    PG_ELEM_DOUBLE,
    PG_ELEM_UINT32,
    PG_ELEM_UINT64,
    PG_ELEM_BFLOAT16 = 16,
    PG_ELEM_UINT4 = 21,
    PG_ELEM_INT4,
} pg_elem_type;

/* A tensor whose value is known when the model is loaded: weights, and the shape arithmetic that
 * exporters write. Always PG_PLAIN. Immutable once made. */
typedef struct pg_const {
    pg_dtype dtype;
    pg_elem_type elem;
    pg_shape shape;
    union {
        const float *f;
        const int64_t *i;
        const void *data;
    };
} pg_const;

/* Number of elements (1 for rank 0), or -1 when a dimension is negative or the product exceeds
 * 2^40: no real network comes near it, and every size computed from it still fits an int64. */
int64_t pg_shape_count(const pg_shape *shape);

bool pg_shape_equal(const pg_shape *a, const pg_shape *b);

/* Writes "[1,64,112,112]" into `text` (a buffer of at least PG_SHAPE_TEXT bytes), returns it. */
enum { PG_SHAPE_TEXT = 160 };
const char *pg_shape_text(const pg_shape *shape, char text[PG_SHAPE_TEXT]);

/* Element strides of each ONNX-order axis for the given layout. */
void pg_desc_strides(const pg_desc *desc, int64_t strides[PG_MAX_RANK]);

/* Converts one tensor of `shape` between layouts; src and dst must not overlap. */
void pg_layout_convert(const pg_shape *shape, pg_layout from, const float *src, pg_layout to,
                       float *dst);

/* True if both layouts put every element at the same place (C == 1 or one spatial position). */
bool pg_layout_same_bytes(const pg_shape *shape);

#endif
