/* Operands that broadcast against each other as in numpy, some computed and some constant: what
 * Add, Mul, Sum, Max, ... have in common. Each operand keeps its own shape and layout; element
 * strides along the axes of the result (0 where it is broadcast) are all a walk needs. */
#ifndef PG_KERNELS_OPERANDS_H
#define PG_KERNELS_OPERANDS_H

#include "kernels/op.h"

typedef struct pg_operand {
    pg_desc desc;
    int src;             /* which run-time input it is, -1: a constant */
    const pg_const *raw; /* the constant as the file has it, borrowed until packed */
    float *value;        /* the constant, packed; owned */
} pg_operand;

/* Reads all inputs of the node into operands[def->n_inputs] and their common shape into *dst.
 * Refuses absent inputs, shapes that do not broadcast and nodes without a computed input. */
pg_err pg_operands_read(const pg_op_def *def, pg_operand *operands, pg_shape *dst, pg_diag *diag);

/* Layouts of `op` are known: copies them to the operands and packs the constants as float in the
 * result's layout, adding them to op->weight_bytes. For use in prepare. */
pg_err pg_operands_pack(pg_op *op, pg_operand *operands, int n, pg_diag *diag);

/* Frees the packed constants, not the array. */
void pg_operands_free(pg_operand *operands, int n);

/* Element strides of the operand along the axes of `dst`. */
void pg_operand_strides(const pg_operand *operand, const pg_shape *dst,
                        int64_t strides[PG_MAX_RANK]);

/* The operand's values in a session. */
const float *pg_operand_data(const pg_operand *operand, const pg_op_io *io);

/* True if it has fewer elements than the result. */
bool pg_operand_is_broadcast(const pg_operand *operand, const pg_shape *dst);

#endif
