/* LayoutConvert: the planner's own node, put where a value must change between PG_PLAIN and
 * PG_CHANNELS_LAST. Its gradient is the conversion the other way. */
#include "kernels/op_node.h"

extern const pg_op_class pg_layout_convert_class;

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_err err = pg_node_one_input(def, diag);
    if (err)
        return err;
    err = pg_op_alloc(&pg_layout_convert_class, def, sizeof(pg_op), 1, out, diag);
    if (err)
        return err;
    (*out)->dst[0].shape = def->inputs[0].shape;
    (*out)->layouts = PG_LAYOUTS_SAME; /* ignored: the planner sets both sides itself */
    return PG_OK;
}

static pg_err forward(const pg_op *op, const pg_op_io *io) {
    pg_layout_convert(&op->src[0].shape, op->src[0].layout, io->src[0], op->dst[0].layout,
                      io->dst[0]);
    return PG_OK;
}

static pg_err backward(const pg_op *op, const pg_op_io *io) {
    if (io->d_src[0])
        pg_layout_convert(&op->src[0].shape, op->dst[0].layout, io->d_dst[0], op->src[0].layout,
                          io->d_src[0]);
    return PG_OK;
}

const pg_op_class pg_layout_convert_class = {
    .create = create, .forward = forward, .backward = backward};
