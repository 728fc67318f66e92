/* NumPy's .npy files, as far as this program trades in them: float32, C order, little-endian. */
#ifndef PG_PIPELINE_NPY_H
#define PG_PIPELINE_NPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/err.h"
#include "kernels/tensor.h"

/* A view into the file's bytes; the values may be unaligned. */
typedef struct pg_npy {
    pg_shape shape;
    const uint8_t *values; /* float32, little-endian, exactly as many as the shape says */
    size_t bytes;
} pg_npy;

/* True if the bytes start like a .npy file. */
bool pg_npy_is(const uint8_t *data, size_t size);

/* Parses the header and checks that the payload is complete. PG_EINPUT with a sentence for anything
 * but a float32 C-order array of rank 1 to PG_MAX_RANK. */
pg_err pg_npy_parse(const uint8_t *data, size_t size, pg_npy *out, pg_diag *diag);

/* The same for a network input: [C,H,W] or [1,C,H,W] with C 1 or 3; shape becomes [C,H,W]. */
pg_err pg_npy_parse_input(const uint8_t *data, size_t size, pg_npy *out, pg_diag *diag);

/* Writes an array to a file (version 1.0). PG_EFAIL, PG_ENOMEM. */
pg_err pg_npy_save(const char *path, const pg_shape *shape, const float *values, pg_diag *diag);

#endif
