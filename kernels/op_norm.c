/* The normalisations of ONNX, brought into one form (op_norm.h): which axes a mean runs over, and
 * what each element is multiplied by afterwards.
 *
 *   InstanceNormalization      all positions of one channel
 *   GroupNormalization         all positions of a group of channels
 *   LayerNormalization         all axes from `axis` on
 *   MeanVarianceNormalization  the axes it lists; no scale, and epsilon beside the deviation
 *
 * Scale and bias have to be constants. stash_type names the precision of the statistics; they are
 * double here, whatever it says. */
#include "kernels/op_norm.h"

#include <inttypes.h>
#include <math.h>

#include "kernels/mem.h"
#include "kernels/op_node.h"

static pg_err check_input(const pg_op_def *def, int least_rank, pg_diag *diag) {
    if (def->n_inputs < 1 || !def->inputs[0].present || def->inputs[0].constant)
        return pg_node_refuse(def, diag, "needs a computed first input");
    if (def->inputs[0].shape.rank < least_rank)
        return pg_node_refuse(def, diag, "its input has fewer than %d axes", least_rank);
    return PG_OK;
}

static pg_err read_epsilon(const pg_op_def *def, pg_norm_spec *spec, pg_diag *diag) {
    float epsilon = 0;
    pg_err err = pg_def_float(def, "epsilon", 1e-5f, &epsilon, diag);
    if (!err && !(epsilon >= 0 && isfinite(epsilon)))
        err = pg_node_refuse(def, diag, "epsilon is out of range");
    spec->epsilon = (double)epsilon;
    return err;
}

/* Input `index` as a constant of floats, *out NULL where it is absent and may be. */
static pg_err read_constant(const pg_op_def *def, int index, const char *what, bool optional,
                            const pg_const **out, pg_diag *diag) {
    bool present = index < def->n_inputs && def->inputs[index].present;
    *out = pg_node_constant(def, index);
    if (!present)
        return optional ? PG_OK : pg_node_refuse(def, diag, "its %s is missing", what);
    if (*out == NULL)
        return pg_node_refuse(def, diag,
                              "its %s (input %d) is computed at run time; only a "
                              "constant is supported",
                              what, index);
    if ((*out)->dtype != PG_F32)
        return pg_node_refuse(def, diag, "its %s is not floating point", what);
    return PG_OK;
}

static pg_err allocate_affine(const pg_op_def *def, pg_norm_spec *spec, int64_t n, pg_diag *diag) {
    spec->n = n;
    spec->scale = pg_malloc((size_t)n * sizeof(float));
    spec->bias = pg_malloc((size_t)n * sizeof(float));
    if (spec->scale && spec->bias)
        return PG_OK;
    return pg_fail(diag, PG_ENOMEM, "node '%s' (%s): out of memory", def->node, def->type);
}

static void free_affine(pg_norm_spec *spec) {
    pg_free(spec->scale);
    pg_free(spec->bias);
}

/* ---- per channel: Instance, Group ---- */

/* Scale and bias of `given` values each, for as many channels in a row. */
static pg_err read_per_channel(const pg_op_def *def, pg_norm_spec *spec, int64_t given,
                               pg_diag *diag) {
    const pg_const *scale, *bias;
    int64_t channels = def->inputs[0].shape.dims[1];
    pg_err err = read_constant(def, 1, "scale", false, &scale, diag);
    if (!err)
        err = read_constant(def, 2, "bias", false, &bias, diag);
    if (err)
        return err;
    if (scale->shape.rank != 1 || bias->shape.rank != 1 || scale->shape.dims[0] != given ||
        bias->shape.dims[0] != given)
        return pg_node_refuse(def, diag, "its scale and bias must have %" PRId64 " values each",
                              given);
    spec->affine = PG_NORM_PER_CHANNEL;
    err = allocate_affine(def, spec, channels, diag);
    for (int64_t c = 0; !err && c < channels; c++) {
        spec->scale[c] = scale->f[c / (channels / given)];
        spec->bias[c] = bias->f[c / (channels / given)];
    }
    return err;
}

/* Means over all positions of `groups` groups of channels. */
static void set_channel_groups(pg_norm_spec *spec, const pg_shape *src, int64_t groups) {
    spec->split = true;
    spec->rank = src->rank + 1;
    spec->dims[0] = src->dims[0];
    spec->dims[1] = groups;
    spec->dims[2] = src->dims[1] / groups;
    for (int i = 2; i < src->rank; i++)
        spec->dims[i + 1] = src->dims[i];
    for (int i = 2; i < spec->rank; i++)
        spec->over[i] = true;
    spec->layouts = PG_LAYOUTS_SAME;
}

static pg_err create_instance(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_norm_spec spec = {0};
    pg_err err = check_input(def, 3, diag);
    if (!err)
        err = read_epsilon(def, &spec, diag);
    if (!err)
        err = read_per_channel(def, &spec, def->inputs[0].shape.dims[1], diag);
    if (err) {
        free_affine(&spec);
        return err;
    }
    set_channel_groups(&spec, &def->inputs[0].shape, def->inputs[0].shape.dims[1]);
    return pg_norm_create(def, &spec, out, diag);
}

static pg_err create_group(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_norm_spec spec = {0};
    int64_t groups = 0;
    pg_err err = check_input(def, 2, diag);
    if (!err)
        err = read_epsilon(def, &spec, diag);
    if (!err)
        err = pg_def_int(def, "num_groups", 0, &groups, diag);
    if (!err && (groups < 1 || def->inputs[0].shape.dims[1] % groups != 0))
        err = pg_node_refuse(def, diag, "num_groups is missing or does not divide the channels");
    if (!err) /* opset 18 had one pair of values per group */
        err = read_per_channel(def, &spec, def->opset < 21 ? groups : def->inputs[0].shape.dims[1],
                               diag);
    if (err) {
        free_affine(&spec);
        return err;
    }
    set_channel_groups(&spec, &def->inputs[0].shape, groups);
    return pg_norm_create(def, &spec, out, diag);
}

/* ---- Layer ---- */

/* `from`, broadcast to the trailing axes `to`. False: it does not fit. NULL: `fill` everywhere. */
static bool spread(const pg_const *from, const pg_shape *to, float fill, float *out) {
    pg_shape own = from ? from->shape : (pg_shape){.rank = 0};
    int extra = own.rank - to->rank;
    for (int i = 0; i < own.rank; i++)
        if (own.dims[i] != 1 && (i < extra || own.dims[i] != to->dims[i - extra]))
            return false;
    for (int64_t at = 0; at < pg_shape_count(to); at++) {
        int64_t rest = at, index = 0, step = 1;
        for (int i = to->rank - 1; i >= 0; i--) {
            int64_t d = i + extra >= 0 ? own.dims[i + extra] : 1;
            index += d == 1 ? 0 : rest % to->dims[i] * step;
            step *= d;
            rest /= to->dims[i];
        }
        out[at] = from ? from->f[index] : fill;
    }
    return true;
}

static pg_err read_trailing(const pg_op_def *def, int axis, pg_norm_spec *spec, pg_diag *diag) {
    const pg_const *scale, *bias;
    const pg_shape *src = &def->inputs[0].shape;
    pg_shape last = {.rank = src->rank - axis};
    for (int i = axis; i < src->rank; i++)
        last.dims[i - axis] = src->dims[i];
    pg_err err = read_constant(def, 1, "scale", false, &scale, diag);
    if (!err)
        err = read_constant(def, 2, "bias", true, &bias, diag);
    if (!err)
        err = allocate_affine(def, spec, pg_shape_count(&last), diag);
    if (!err && (!spread(scale, &last, 1, spec->scale) || !spread(bias, &last, 0, spec->bias)))
        err = pg_node_refuse(def, diag,
                             "its scale or bias does not broadcast to the normalised axes");
    spec->affine = PG_NORM_TRAILING;
    return err;
}

/* Outputs 1 and 2 (mean and 1 / deviation) exist for training; who reads them is refused. */
static pg_err create_layer(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    pg_norm_spec spec = {.layouts = PG_LAYOUTS_PLAIN};
    int64_t given = 0;
    int axis = 0;
    pg_err err = check_input(def, 1, diag);
    if (!err)
        err = read_epsilon(def, &spec, diag);
    if (!err)
        err = pg_def_int(def, "axis", -1, &given, diag);
    if (!err)
        err = pg_node_axis(def, given, def->inputs[0].shape.rank, &axis, diag);
    if (!err)
        err = read_trailing(def, axis, &spec, diag);
    if (err) {
        free_affine(&spec);
        return err;
    }
    spec.rank = def->inputs[0].shape.rank;
    for (int i = 0; i < spec.rank; i++) {
        spec.dims[i] = def->inputs[0].shape.dims[i];
        spec.over[i] = i >= axis;
    }
    return pg_norm_create(def, &spec, out, diag);
}

/* ---- MeanVariance ---- */

static pg_err create_mean_variance(const pg_op_def *def, pg_op **out, pg_diag *diag) {
    /* 1e-9 is in the operator's definition by other operators, not in an attribute */
    pg_norm_spec spec = {.epsilon = 1e-9, .epsilon_outside = true, .layouts = PG_LAYOUTS_SAME};
    int count = 0;
    pg_err err = check_input(def, 1, diag);
    if (err)
        return err;
    const pg_shape *src = &def->inputs[0].shape;
    if (pg_def_attr(def, "axes"))
        err = pg_node_axes(def, "axes", -1, src->rank, spec.over, &count, diag);
    else if (src->rank != 4)
        err = pg_node_refuse(def, diag, "without axes it needs a shape of [N,C,H,W]");
    else
        spec.over[0] = spec.over[2] = spec.over[3] = true;
    if (err)
        return err;
    spec.rank = src->rank;
    for (int i = 0; i < src->rank; i++) {
        spec.dims[i] = src->dims[i];
        if (i >= 2 && spec.over[i] != spec.over[2])
            spec.layouts = PG_LAYOUTS_PLAIN;
    }
    return pg_norm_create(def, &spec, out, diag);
}

const pg_op_class pg_instance_norm_class = {.create = create_instance};
const pg_op_class pg_group_norm_class = {.create = create_group};
const pg_op_class pg_layer_norm_class = {.create = create_layer};
const pg_op_class pg_mean_variance_class = {.create = create_mean_variance};
