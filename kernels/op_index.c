/* Operators whose result is the source's elements in other places, each place found axis by axis:
 * Transpose, Slice, Expand, Tile, Trilu, DepthToSpace and SpaceToDepth. They are only tables for
 * index_map.h, which does the work. */
#include <string.h>

#include "kernels/index_map.h"

extern const pg_op_class pg_transpose_class, pg_slice_class, pg_expand_class, pg_tile_class,
    pg_trilu_class, pg_depth_to_space_class, pg_space_to_depth_class;

/* ---- Transpose ---- */

static pg_err create_transpose(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_err err = pg_node_one_input(def, diag);
    if (err)
        return err;
    const pg_shape *src = &def->inputs[0].shape;
    int64_t perm[PG_MAX_RANK];
    bool seen[PG_MAX_RANK] = {false};
    bool given = pg_def_attr(def, "perm") != NULL;
    err = pg_def_ints(def, "perm", src->rank, 0, perm, diag);
    if (err)
        return err;
    pg_shape dst = {.rank = src->rank};
    pg_index_axis axes[PG_MAX_RANK];
    for (int i = 0; i < src->rank; i++) {
        if (!given)
            perm[i] = src->rank - 1 - i;
        if (perm[i] < 0 || perm[i] >= src->rank || seen[perm[i]])
            return pg_node_refuse(def, diag, "perm is no permutation");
        seen[perm[i]] = true;
        dst.dims[i] = src->dims[perm[i]];
        axes[i] = pg_index_part(dst.dims[i], (int)perm[i], i, 1);
    }
    pg_index_op *op;
    err = pg_index_new(&pg_transpose_class, def, &dst, axes, dst.rank, &op, out, diag);
    if (!err)
        (*out)->layouts = PG_LAYOUTS_ANY;
    return err;
}

/* Channels-last bytes of [N,C,H,W] are plain bytes of [N,H,W,C]. */
static bool transpose_same_bytes(const pg_op *base) {
    const pg_index_op *op = (const pg_index_op *)base;
    int64_t src[PG_MAX_RANK], dst[PG_MAX_RANK];
    pg_desc_strides(&base->src[0], src);
    pg_desc_strides(&base->dst[0], dst);
    for (int i = 0; i < base->dst[0].shape.rank; i++)
        if (base->dst[0].shape.dims[i] > 1 && dst[i] != src[op->axes[i].src_axis])
            return false;
    return true;
}

/* ---- Slice ---- */

enum { STARTS, ENDS, AXES, STEPS, LISTS };

/* Attributes until opset 9, inputs since. Without axes, the first ones are meant. */
static pg_err read_slices(const pg_op_def *def, int64_t lists[LISTS][PG_NODE_INTS], int *n,
                          pg_diag *diag) {
    static const char *const names[] = {"starts", "ends", "axes", "steps"};
    int count[LISTS];
    for (int i = 0; i < LISTS; i++) {
        pg_err err = pg_node_ints(def, names[i], i + 1, lists[i], &count[i], diag);
        if (err)
            return err;
    }
    *n = count[STARTS];
    if (*n < 0 || count[ENDS] != *n || (count[AXES] >= 0 && count[AXES] != *n) ||
        (count[STEPS] >= 0 && count[STEPS] != *n))
        return pg_node_refuse(def, diag, "starts, ends, axes and steps differ in length");
    for (int i = 0; i < *n; i++) {
        lists[AXES][i] = count[AXES] >= 0 ? lists[AXES][i] : i;
        lists[STEPS][i] = count[STEPS] >= 0 ? lists[STEPS][i] : 1;
    }
    return PG_OK;
}

static pg_err create_slice(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    int64_t lists[LISTS][PG_NODE_INTS], first[PG_MAX_RANK] = {0}, stride[PG_MAX_RANK] = {0};
    int n = 0, axis = 0;
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = read_slices(def, lists, &n, diag);
    if (err)
        return err;
    pg_shape dst = def->inputs[0].shape;
    for (int i = 0; i < n; i++) {
        int64_t step = lists[STEPS][i];
        err = pg_node_axis(def, lists[AXES][i], dst.rank, &axis, diag);
        if (err)
            return err;
        if (step == 0 || stride[axis] != 0)
            return pg_node_refuse(def, diag, "a step is 0 or an axis is named twice");
        stride[axis] = step;
        dst.dims[axis] =
            pg_slice_range(dst.dims[axis], lists[STARTS][i], lists[ENDS][i], step, &first[axis]);
    }
    pg_index_op *op;
    err = pg_index_new_same(&pg_slice_class, def, &dst, &op, out, diag);
    for (int k = 0; k < dst.rank && !err; k++) /* i * stride stays inside the source's axis */
        for (int64_t i = 0; i < dst.dims[k] && stride[k] != 0; i++)
            op->axes[k].from[i] = first[k] + i * stride[k];
    return err;
}

/* ---- Expand, Tile ---- */

/* numpy's broadcast: axes are aligned at the last one. Both of source and wanted shape may have
 * the longer axis. */
static pg_err expand_shape(const pg_op_def *def, const pg_shape *src, pg_shape *dst,
                           pg_diag *diag) {
    int64_t wanted[PG_NODE_INTS];
    int count;
    pg_err err = pg_node_ints(def, NULL, 1, wanted, &count, diag);
    if (err)
        return err;
    if (count < 0 || count > PG_MAX_RANK)
        return pg_node_refuse(def, diag, "its shape must be a constant of at most %d values",
                              PG_MAX_RANK);
    dst->rank = count > src->rank ? count : src->rank;
    for (int i = 1; i <= dst->rank; i++) {
        int64_t have = i <= src->rank ? src->dims[src->rank - i] : 1;
        int64_t want = i <= count ? wanted[count - i] : 1;
        if (want < 0 || (have != want && have != 1 && want != 1))
            return pg_node_refuse(def, diag, "its input does not broadcast to the shape");
        dst->dims[dst->rank - i] = have == 1 ? want : have;
    }
    return PG_OK;
}

static pg_err create_expand(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_shape dst = {0};
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = expand_shape(def, &def->inputs[0].shape, &dst, diag);
    if (err)
        return err;
    const pg_shape *src = &def->inputs[0].shape;
    int added = dst.rank - src->rank;
    pg_index_axis axes[PG_MAX_RANK];
    for (int k = 0; k < dst.rank; k++)
        axes[k] = pg_index_part(dst.dims[k], k < added ? PG_INDEX_FLAT : k - added, k, 1);
    pg_index_op *op;
    err = pg_index_new(&pg_expand_class, def, &dst, axes, dst.rank, &op, out, diag);
    if (err)
        return err;
    (*out)->layouts = added == 0 ? PG_LAYOUTS_SAME : PG_LAYOUTS_PLAIN;
    for (int k = 0; k < dst.rank; k++)
        if (k < added || src->dims[k - added] == 1)
            memset(op->axes[k].from, 0, (size_t)dst.dims[k] * sizeof *op->axes[k].from);
    return PG_OK;
}

static pg_err create_tile(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    int64_t repeats[PG_NODE_INTS];
    int count;
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = pg_node_ints(def, NULL, 1, repeats, &count, diag);
    if (err)
        return err;
    pg_shape dst = def->inputs[0].shape;
    if (count != dst.rank)
        return pg_node_refuse(def, diag, "its repeats must be constant, one for each axis");
    for (int k = 0; k < dst.rank; k++) {
        if (repeats[k] < 0 || repeats[k] > INT32_MAX || dst.dims[k] > INT32_MAX)
            return pg_node_refuse(def, diag, "its repeats are out of range");
        dst.dims[k] *= repeats[k];
    }
    pg_index_op *op;
    err = pg_index_new_same(&pg_tile_class, def, &dst, &op, out, diag);
    for (int k = 0; k < dst.rank && !err; k++)
        for (int64_t i = 0; i < dst.dims[k]; i++)
            op->axes[k].from[i] = i % def->inputs[0].shape.dims[k];
    return err;
}

/* ---- Trilu ---- */

/* The last two axes are one, so that a place can be padding because of both. */
static pg_err create_trilu(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    int64_t upper, diagonal[PG_NODE_INTS] = {0};
    int count;
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = pg_def_int(def, "upper", 1, &upper, diag);
    if (!err)
        err = pg_node_ints(def, NULL, 1, diagonal, &count, diag);
    if (err)
        return err;
    const pg_shape *src = &def->inputs[0].shape;
    if (src->rank < 2 || count > 1)
        return pg_node_refuse(def, diag, "needs a matrix and at most one diagonal");
    int last = src->rank - 1;
    int64_t rows = src->dims[last - 1], cols = src->dims[last], k = count < 1 ? 0 : diagonal[0];
    k = k < -rows ? -rows : k > cols ? cols : k; /* beyond, all is alike */
    pg_index_axis axes[PG_MAX_RANK];
    for (int i = 0; i < last; i++)
        axes[i] = pg_index_part(src->dims[i], i, i, 1);
    axes[last - 1] = pg_index_part(rows * cols, PG_INDEX_FLAT, PG_INDEX_FLAT, 1);
    pg_index_op *op;
    err = pg_index_new(&pg_trilu_class, def, src, axes, last, &op, out, diag);
    for (int64_t i = 0; i < rows * cols && !err; i++) {
        int64_t beyond = i % cols - i / cols - k; /* of the diagonal */
        if (upper ? beyond < 0 : beyond > 0)
            op->axes[last - 1].from[i] = -1;
    }
    return err;
}

/* ---- DepthToSpace, SpaceToDepth ---- */

/* Reads blocksize and checks that the input is an image. */
static pg_err read_block(const pg_op_def *def, int64_t *block, pg_diag *diag) {
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = pg_def_int(def, "blocksize", 0, block, diag);
    if (err)
        return err;
    if (def->inputs[0].shape.rank != 4)
        return pg_node_refuse(def, diag, "its input must be [N,C,H,W]");
    if (*block < 1 || *block > 1 << 10)
        return pg_node_refuse(def, diag, "blocksize is out of range");
    return PG_OK;
}

/* A part of an axis on either side: positions i * src_step of src_axis. */
static void scale_table(pg_index_axis *axis, int64_t src_step) {
    for (int64_t i = 0; i < axis->n; i++)
        axis->from[i] *= src_step;
}

/* [N, b*b*C, H, W] -> [N, C, H*b, W*b]. The source's channel is (y*b + x)*C + c in mode DCR,
 * (c*b + y)*b + x in CRD, for row y and column x of the block. */
static pg_err create_depth_to_space(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    int64_t b = 0;
    const char *mode;
    pg_err err = read_block(def, &b, diag);
    if (!err)
        err = pg_def_string(def, "mode", "DCR", &mode, diag);
    if (err)
        return err;
    bool crd = strcmp(mode, "CRD") == 0;
    const int64_t *d = def->inputs[0].shape.dims, c = d[1] / (b * b);
    if (!crd && strcmp(mode, "DCR") != 0)
        return pg_node_refuse(def, diag, "mode '%s' is not supported", mode);
    if (d[1] % (b * b) != 0)
        return pg_node_refuse(def, diag, "its channels do not divide into blocks");
    const pg_shape dst = {.rank = 4, .dims = {d[0], c, d[2] * b, d[3] * b}};
    const pg_index_axis axes[] = {pg_index_part(d[0], 0, 0, 1), pg_index_part(c, 1, 1, 1),
                                  pg_index_part(d[2], 2, 2, b), pg_index_part(b, 1, 2, 1),
                                  pg_index_part(d[3], 3, 3, b), pg_index_part(b, 1, 3, 1)};
    pg_index_op *op;
    err = pg_index_new(&pg_depth_to_space_class, def, &dst, axes, 6, &op, out, diag);
    if (err)
        return err;
    (*out)->layouts = PG_LAYOUTS_SAME;
    scale_table(&op->axes[1], crd ? b * b : 1);
    scale_table(&op->axes[3], crd ? b : b * c);
    scale_table(&op->axes[5], crd ? 1 : c);
    return PG_OK;
}

/* [N, C, H*b, W*b] -> [N, b*b*C, H, W], channel (y*b + x)*C + c. */
static pg_err create_space_to_depth(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    int64_t b = 0;
    pg_err err = read_block(def, &b, diag);
    if (err)
        return err;
    const int64_t *d = def->inputs[0].shape.dims, c = d[1], h = d[2] / b, w = d[3] / b;
    if (d[2] % b != 0 || d[3] % b != 0)
        return pg_node_refuse(def, diag, "its height and width do not divide into blocks");
    const pg_shape dst = {.rank = 4, .dims = {d[0], c * b * b, h, w}};
    const pg_index_axis axes[] = {pg_index_part(d[0], 0, 0, 1), pg_index_part(b, 2, 1, b * c),
                                  pg_index_part(b, 3, 1, c),    pg_index_part(c, 1, 1, 1),
                                  pg_index_part(h, 2, 2, 1),    pg_index_part(w, 3, 3, 1)};
    pg_index_op *op;
    err = pg_index_new(&pg_space_to_depth_class, def, &dst, axes, 6, &op, out, diag);
    if (err)
        return err;
    (*out)->layouts = PG_LAYOUTS_SAME;
    scale_table(&op->axes[4], b);
    scale_table(&op->axes[5], b);
    return PG_OK;
}

const pg_op_class pg_transpose_class = {
    .create = create_transpose,
    .same_bytes = transpose_same_bytes,
    .prepare = pg_index_prepare,
    .forward = pg_index_forward,
    .backward = pg_index_backward,
    .destroy = pg_index_destroy,
};
const pg_op_class pg_slice_class = PG_INDEX_CLASS(create_slice);
const pg_op_class pg_expand_class = PG_INDEX_CLASS(create_expand);
const pg_op_class pg_tile_class = PG_INDEX_CLASS(create_tile);
const pg_op_class pg_trilu_class = PG_INDEX_CLASS(create_trilu);
const pg_op_class pg_depth_to_space_class = PG_INDEX_CLASS(create_depth_to_space);
const pg_op_class pg_space_to_depth_class = PG_INDEX_CLASS(create_space_to_depth);
