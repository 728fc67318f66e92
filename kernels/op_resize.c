/* Resize (opset 10 to 21) and Upsample (7, 9), which is Resize of its time.
 *
 * Every mode is separable. Nearest reads one element per axis: index_map.h does it. Linear and
 * cubic are one sparse matrix per resized axis (resize_taps.h), applied axis by axis, shrinking
 * ones first; backward applies the transposed matrices in the opposite order. The loops run over
 * [before, axis, behind] as the tensor lies in memory, so channels-last rows are C or W*C long. */
#include <math.h>
#include <string.h>

#include "kernels/index_map.h"
#include "kernels/mem.h"
#include "kernels/resize_taps.h"

extern const pg_op_class pg_resize_class;
static const pg_op_class nearest_class, filter_class;

enum {
    SIDE_LIMIT = 1 << 20
}; /* elements of an axis: far above any picture, and tables stay small */

/* What the node asks for. */
typedef struct request {
    const char *mode;
    pg_resize_rounding rounding;
    pg_resize_filter filter;
    float extrapolation;
    bool resized[PG_MAX_RANK];        /* the axes it names */
    pg_resize_axis axes[PG_MAX_RANK]; /* one for each axis of the input */
} request;

/* ---- reading the node ---- */

/* The attribute as an index into `names`. */
static pg_err read_choice(const pg_op_def *def, const char *name, const char *const *names, int n,
                          const char *fallback, int *out, pg_diag *diag) {
    const char *given;
    pg_err err = pg_def_string(def, name, fallback, &given, diag);
    if (err)
        return err;
    for (*out = 0; *out < n; ++*out)
        if (strcmp(names[*out], given) == 0)
            return PG_OK;
    return pg_node_refuse(def, diag, "%s '%s' is not supported", name, given);
}

/* Upsample, and Resize of opset 10, have one way of finding positions and no other attributes. */
static bool is_old(const pg_op_def *def) {
    return strcmp(def->type, "Upsample") == 0 || def->opset < 11;
}

static pg_err read_attributes(const pg_op_def *def, request *r, pg_diag *diag) {
    static const char *const modes[] = {"nearest", "linear", "cubic"};
    static const char *const coordinates[] = {
        "half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners",
        "asymmetric", "tf_half_pixel_for_nn", "tf_crop_and_resize"};
    static const char *const roundings[] = {"round_prefer_floor", "round_prefer_ceil", "floor",
                                            "ceil"};
    bool old = is_old(def);
    int mode = 0, way = PG_RESIZE_ASYMMETRIC, rounding = PG_RESIZE_FLOOR;
    float a = -0.75f;
    int64_t exclude = 0, antialias = 0;
    pg_err err = read_choice(def, "mode", modes, old ? 2 : 3, "nearest", &mode, diag);
    if (!err && !old)
        err = read_choice(def, "coordinate_transformation_mode", coordinates, 7, "half_pixel", &way,
                          diag);
    if (!err && !old)
        err = read_choice(def, "nearest_mode", roundings, 4, "round_prefer_floor", &rounding, diag);
    if (!err)
        err = pg_def_float(def, "cubic_coeff_a", -0.75f, &a, diag);
    if (!err)
        err = pg_def_int(def, "exclude_outside", 0, &exclude, diag);
    if (!err)
        err = pg_def_int(def, "antialias", 0, &antialias, diag);
    if (!err)
        err = pg_def_float(def, "extrapolation_value", 0, &r->extrapolation, diag);
    if (!err && !isfinite(a))
        err = pg_node_refuse(def, diag, "cubic_coeff_a is not a number");
    if (err)
        return err;
    r->mode = modes[mode];
    r->rounding = (pg_resize_rounding)rounding;
    r->filter = (pg_resize_filter){.cubic = mode == 2,
                                   .cubic_a = (double)a,
                                   .antialias = antialias != 0,
                                   .exclude_outside = exclude != 0};
    for (int k = 0; k < PG_MAX_RANK; k++)
        r->axes[k] =
            (pg_resize_axis){.scale = 1, .coordinates = (pg_resize_coordinates)way, .roi_end = 1};
    return PG_OK;
}

/* The axes that lists of scales, sizes and regions speak of: all, or those named (opset 18). */
static pg_err read_axes(const pg_op_def *def, request *r, int64_t axes[PG_NODE_INTS], int *n,
                        pg_diag *diag) {
    int rank = def->inputs[0].shape.rank;
    pg_err err = pg_node_ints(def, "axes", -1, axes, n, diag);
    if (!err)
        err = pg_node_axes(def, "axes", -1, rank, r->resized, n, diag);
    for (int i = 0; i < *n && !err; i++)
        axes[i] += axes[i] < 0 ? rank : 0;
    if (err || *n >= 0)
        return err;
    *n = rank;
    for (int i = 0; i < rank; i++)
        axes[i] = i, r->resized[i] = true;
    return PG_OK;
}

/* Scales are an attribute of Upsample 7, an input of the others; input 2 since opset 11. */
static pg_err read_floats(const pg_op_def *def, const char *attr_name, int input,
                          const float **values, int64_t *count, pg_diag *diag) {
    const pg_attr *attr = attr_name ? pg_def_attr(def, attr_name) : NULL;
    const pg_const *given = pg_node_constant(def, input);
    *values = NULL, *count = 0;
    if (attr && attr->type != PG_ATTR_FLOATS)
        return pg_node_refuse(def, diag, "attribute '%s' is not a list of floats", attr_name);
    if (attr)
        *values = attr->floats, *count = (int64_t)attr->count;
    else if (given && pg_shape_count(&given->shape) > 0) {
        if (given->dtype != PG_F32 || given->shape.rank != 1)
            return pg_node_refuse(def, diag, "input %d is not a list of floats", input);
        *values = given->f, *count = given->shape.dims[0];
    }
    return PG_OK;
}

/* sizes[i] for axes[i], or the same scale for all of them that keeps their proportions. */
static pg_err apply_sizes(const pg_op_def *def, request *r, const int64_t *axes, int n,
                          const int64_t *sizes, pg_diag *diag) {
    static const char *const policies[] = {"stretch", "not_larger", "not_smaller"};
    int policy = 0;
    double common = 0;
    pg_err err =
        read_choice(def, "keep_aspect_ratio_policy", policies, 3, "stretch", &policy, diag);
    for (int i = 0; i < n && !err; i++) {
        pg_resize_axis *axis = &r->axes[axes[i]];
        if (sizes[i] < 1 || sizes[i] > SIDE_LIMIT)
            return pg_node_refuse(def, diag, "a size is out of range");
        axis->out = sizes[i];
        axis->scale = (double)axis->out / (double)axis->in;
        bool better = policy == 1 ? axis->scale < common : axis->scale > common;
        common = i == 0 || better ? axis->scale : common;
    }
    for (int i = 0; i < n && !err && policy != 0; i++) {
        pg_resize_axis *axis = &r->axes[axes[i]];
        axis->scale = common;
        axis->out = (int64_t)floor(common * (double)axis->in + 0.5);
    }
    return err;
}

/* The length is taken in float, as exporters and other runtimes do: 10 * 0.7f is 7. */
static pg_err apply_scales(const pg_op_def *def, request *r, const int64_t *axes, int n,
                           const float *scales, pg_diag *diag) {
    for (int i = 0; i < n; i++) {
        pg_resize_axis *axis = &r->axes[axes[i]];
        float out = floorf((float)axis->in * scales[i]);
        if (!(scales[i] > 0) || !(out >= 1) || out > (float)SIDE_LIMIT)
            return pg_node_refuse(def, diag, "a scale is out of range");
        axis->scale = (double)scales[i];
        axis->out = (int64_t)out;
    }
    return PG_OK;
}

static pg_err read_roi(const pg_op_def *def, request *r, const int64_t *axes, int n,
                       pg_diag *diag) {
    const float *roi;
    int64_t count;
    if (is_old(def) || r->axes[0].coordinates != PG_RESIZE_TF_CROP_AND_RESIZE)
        return PG_OK;
    pg_err err = read_floats(def, NULL, 1, &roi, &count, diag);
    if (err)
        return err;
    if (count != 2 * n)
        return pg_node_refuse(def, diag, "its region of interest needs two values for each axis");
    for (int i = 0; i < n; i++) {
        r->axes[axes[i]].roi_start = (double)roi[i];
        r->axes[axes[i]].roi_end = (double)roi[n + i];
        if (!isfinite(roi[i]) || !isfinite(roi[n + i]))
            return pg_node_refuse(def, diag, "its region of interest is not finite");
    }
    return PG_OK;
}

static pg_err read_request(const pg_op_def *def, request *r, pg_diag *diag) {
    int64_t axes[PG_NODE_INTS], sizes[PG_NODE_INTS], n_scales = 0;
    const float *scales = NULL;
    bool old = is_old(def);
    int n = 0, n_sizes = -1;
    pg_err err = pg_node_one_input(def, diag);
    if (!err)
        err = read_attributes(def, r, diag);
    if (!err)
        err = read_axes(def, r, axes, &n, diag);
    if (!err)
        err = read_floats(def, old ? "scales" : NULL, old ? 1 : 2, &scales, &n_scales, diag);
    if (!err && !old)
        err = pg_node_ints(def, NULL, 3, sizes, &n_sizes, diag);
    if (err)
        return err;
    const pg_shape *src = &def->inputs[0].shape;
    for (int k = 0; k < src->rank; k++) {
        if (src->dims[k] > SIDE_LIMIT)
            return pg_node_refuse(def, diag, "axis %d is too long", k);
        r->axes[k].in = r->axes[k].out = src->dims[k];
    }
    bool by_size = n_sizes > 0;
    if (by_size == (n_scales > 0) || (by_size ? n_sizes : n_scales) != n)
        return pg_node_refuse(def, diag, "needs scales or sizes, one for each axis");
    err = by_size ? apply_sizes(def, r, axes, n, sizes, diag)
                  : apply_scales(def, r, axes, n, scales, diag);
    return err ? err : read_roi(def, r, axes, n, diag);
}

/* True if the axis comes out as it is: no way of finding positions is meant to shift what keeps its
 * length (tf_half_pixel_for_nn would, by a half). */
static bool unchanged(const request *r, int k) {
    const pg_resize_axis *axis = &r->axes[k];
    return !r->resized[k] ||
           (axis->scale == 1 && axis->coordinates != PG_RESIZE_TF_CROP_AND_RESIZE);
}

/* ---- nearest ---- */

static pg_err create_nearest(const pg_op_def *def, const request *r, const pg_shape *dst,
                             pg_op **out, pg_diag *diag) {
    pg_index_op *op;
    pg_err err = pg_index_new_same(&nearest_class, def, dst, &op, out, diag);
    if (err)
        return err;
    op->fill = r->extrapolation;
    for (int k = 0; k < dst->rank; k++)
        for (int64_t i = 0; i < dst->dims[k] && !unchanged(r, k); i++) {
            double position;
            bool inside = pg_resize_position(&r->axes[k], i, &position);
            op->axes[k].from[i] =
                inside ? pg_resize_nearest(&r->axes[k], position, r->rounding) : -1;
        }
    return PG_OK;
}

/* ---- linear and cubic ---- */

/* One axis resized: [outer, in, inner] -> [outer, out, inner] in memory. */
typedef struct pass {
    pg_taps taps, transposed; /* [out,in], [in,out] */
    int axis;
    double growth;        /* out / in */
    bool *outside;        /* [out] places to be extrapolated; NULL: none */
    int64_t outer, inner; /* (prepare) */
} pass;

typedef struct resize_op {
    pg_op op;
    int n_passes;
    pass passes[PG_MAX_RANK];
    float extrapolation;
    size_t room; /* (prepare) elements of the largest tensor between two passes */
} resize_op;

static bool make_pass(const request *r, int k, pass *p) {
    const pg_resize_axis *axis = &r->axes[k];
    double position;
    *p = (pass){.axis = k, .growth = (double)axis->out / (double)axis->in};
    p->outside = pg_calloc((size_t)axis->out, sizeof *p->outside);
    bool any = false;
    for (int64_t i = 0; i < axis->out && p->outside; i++)
        any |= p->outside[i] = !pg_resize_position(axis, i, &position);
    bool ok = p->outside && pg_taps_make(axis, &r->filter, &p->taps) &&
              pg_taps_transpose(&p->taps, &p->transposed);
    if (!any) {
        pg_free(p->outside);
        p->outside = NULL;
    }
    return ok;
}

static pg_err create_filter(const pg_op_def *def, const request *r, const pg_shape *dst,
                            pg_op **out, pg_diag *diag) {
    pg_err err = pg_op_alloc(&filter_class, def, sizeof(resize_op), 1, out, diag);
    if (err)
        return err;
    resize_op *op = (resize_op *)*out;
    op->op.dst[0].shape = *dst;
    op->op.layouts = PG_LAYOUTS_SAME;
    op->extrapolation = r->extrapolation;
    for (int k = 0; k < dst->rank; k++) {
        if (unchanged(r, k))
            continue;
        int at = op->n_passes++;
        if (!make_pass(r, k, &op->passes[at])) {
            pg_op_destroy(out);
            return pg_fail(diag, PG_ENOMEM, "node '%s': out of memory", def->node);
        }
        for (; at > 0 && op->passes[at].growth < op->passes[at - 1].growth; at--) {
            pass moved = op->passes[at];
            op->passes[at] = op->passes[at - 1];
            op->passes[at - 1] = moved;
        }
    }
    return PG_OK;
}

static pg_err create(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    request r = {0};
    pg_err err = read_request(def, &r, diag);
    if (err)
        return err;
    pg_shape dst = {.rank = def->inputs[0].shape.rank};
    for (int k = 0; k < dst.rank; k++)
        dst.dims[k] = r.axes[k].out;
    if (pg_shape_count(&dst) < 0)
        return pg_node_refuse(def, diag, "its result would be too large");
    return strcmp(r.mode, "nearest") == 0 ? create_nearest(def, &r, &dst, out, diag)
                                          : create_filter(def, &r, &dst, out, diag);
}

/* Elements before and behind an axis as the tensor lies in memory. */
static void around(const pg_desc *desc, int axis, int64_t *outer, int64_t *inner) {
    int64_t strides[PG_MAX_RANK];
    pg_desc_strides(desc, strides);
    *inner = strides[axis];
    *outer = pg_shape_count(&desc->shape) / (strides[axis] * desc->shape.dims[axis]);
}

static pg_err prepare(pg_op *base, pg_diag *diag) {
    (void)diag;
    resize_op *op = (resize_op *)base;
    pg_desc now = base->src[0];
    for (int i = 0; i < op->n_passes; i++) {
        pass *p = &op->passes[i];
        around(&now, p->axis, &p->outer, &p->inner);
        now.shape.dims[p->axis] = p->taps.rows;
        size_t count = (size_t)pg_shape_count(&now.shape);
        op->room = i < op->n_passes - 1 && count > op->room ? count : op->room;
        base->weight_bytes += 2 * (size_t)p->taps.start[p->taps.rows] * sizeof(float);
        base->flops += 2 * (uint64_t)(p->outer * p->inner * p->taps.start[p->taps.rows]);
    }
    base->scratch_bytes = (op->n_passes > 2   ? 2
                           : op->n_passes > 1 ? 1
                                              : 0) *
                          op->room * sizeof(float);
    return PG_OK;
}

/* Gives the places outside the region of interest their value. */
static void extrapolate(const resize_op *op, float *y) {
    for (int i = 0; i < op->n_passes; i++) {
        const pass *p = &op->passes[i];
        int64_t outer, inner;
        around(&op->op.dst[0], p->axis, &outer, &inner);
        for (int64_t row = 0; row < outer * p->taps.rows && p->outside; row++)
            for (int64_t k = 0; k < inner && p->outside[row % p->taps.rows]; k++)
                y[row * inner + k] = op->extrapolation;
    }
}

/* Tensors between passes take turns in the halves of scratch. */
static float *between(const resize_op *op, const pg_op_io *io, int i) {
    return (float *)io->scratch + (i % 2 ? op->room : 0);
}

static pg_err forward(const pg_op *base, const pg_op_io *io) {
    const resize_op *op = (const resize_op *)base;
    const float *x = io->src[0];
    if (op->n_passes == 0)
        memcpy(io->dst[0], x, (size_t)pg_shape_count(&base->dst[0].shape) * sizeof *x);
    for (int i = 0; i < op->n_passes; i++) {
        const pass *p = &op->passes[i];
        float *y = i == op->n_passes - 1 ? io->dst[0] : between(op, io, i);
        pg_taps_apply(&p->taps, p->outer, p->inner, x, y);
        x = y;
    }
    extrapolate(op, io->dst[0]);
    return PG_OK;
}

static pg_err backward(const pg_op *base, const pg_op_io *io) {
    const resize_op *op = (const resize_op *)base;
    const float *d_y = io->d_dst[0];
    if (!io->d_src[0])
        return PG_OK;
    if (op->n_passes == 0)
        memcpy(io->d_src[0], d_y, (size_t)pg_shape_count(&base->src[0].shape) * sizeof *d_y);
    for (int i = op->n_passes - 1; i >= 0; i--) {
        const pass *p = &op->passes[i];
        float *d_x = i == 0 ? io->d_src[0] : between(op, io, i - 1);
        pg_taps_apply(&p->transposed, p->outer, p->inner, d_y, d_x);
        d_y = d_x;
    }
    return PG_OK;
}

static void destroy(pg_op *base) {
    resize_op *op = (resize_op *)base;
    for (int i = 0; i < op->n_passes; i++) {
        pg_taps_free(&op->passes[i].taps);
        pg_taps_free(&op->passes[i].transposed);
        pg_free(op->passes[i].outside);
    }
}

static const pg_op_class nearest_class = PG_INDEX_CLASS(create);
static const pg_op_class filter_class = {.create = create,
                                         .prepare = prepare,
                                         .forward = forward,
                                         .backward = backward,
                                         .destroy = destroy};
/* The row of the operator table: create makes one of the two above. */
const pg_op_class pg_resize_class = {.create = create};
