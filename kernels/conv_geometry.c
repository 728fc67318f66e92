#include "kernels/conv_geometry.h"

#include <inttypes.h>
#include <string.h>

#include "kernels/op_node.h"
#include "kernels/window.h"

/* A node while it is being worked out. */
typedef struct reading {
    int n;           /* spatial axes of the node */
    pg_window hw[2]; /* height and width; a 1-D convolution is one of height 1 */
    pg_window *axes; /* those of the node: the last n of hw */
    int64_t groups;
    pg_auto_pad mode;
} reading;

/* ---- operands ---- */

static pg_err check_constant(const pg_op_def *def, int index, const char *what, pg_diag *diag) {
    const pg_const *value = def->inputs[index].constant;
    if (value == NULL)
        return pg_node_refuse(
            def, diag, "its %s are computed at run time; only constants are supported", what);
    if (value->dtype != PG_F32)
        return pg_node_refuse(def, diag, "its %s are not floating point", what);
    return PG_OK;
}

static pg_err check_operands(const pg_op_def *def, pg_diag *diag) {
    const pg_op_input *in = def->inputs;
    if (def->n_inputs < 2 || def->n_inputs > 3 || !in[0].present || !in[1].present)
        return pg_node_refuse(def, diag, "needs an input and weights");
    if (in[0].constant)
        return pg_node_refuse(def, diag, "its input is a constant");
    pg_err err = check_constant(def, 1, "weights", diag);
    if (!err && def->n_inputs == 3 && in[2].present)
        err = check_constant(def, 2, "biases", diag);
    return err;
}

static pg_err check_ranks(const pg_op_def *def, const pg_shape *x, const pg_shape *w,
                          pg_diag *diag) {
    char a[PG_SHAPE_TEXT], b[PG_SHAPE_TEXT];
    if (x->rank > 4)
        return pg_node_refuse(def, diag, "%d-D convolutions are not supported (input %s)",
                              x->rank - 2, pg_shape_text(x, a));
    if (x->rank < 3 || w->rank != x->rank || pg_shape_count(w) <= 0)
        return pg_node_refuse(def, diag, "input %s and weights %s do not make a convolution",
                              pg_shape_text(x, a), pg_shape_text(w, b));
    if (x->dims[0] != 1)
        return pg_node_refuse(def, diag, "the batch size is %" PRId64 ", it must be 1", x->dims[0]);
    return PG_OK;
}

/* `to_c` and `from_c` as the weights have them: of the output, and of the input. */
static pg_err check_channels(const pg_op_def *def, int64_t groups, int64_t from_c, int64_t to_c,
                             pg_diag *diag) {
    const pg_shape *x = &def->inputs[0].shape, *w = &def->inputs[1].shape;
    char a[PG_SHAPE_TEXT], b[PG_SHAPE_TEXT];
    if (x->dims[1] != from_c || from_c % groups || to_c % groups)
        return pg_node_refuse(def, diag,
                              "input %s, weights %s and group %" PRId64 " do not fit together",
                              pg_shape_text(x, a), pg_shape_text(w, b), groups);
    if (def->n_inputs < 3 || !def->inputs[2].present)
        return PG_OK;
    const pg_shape *bias = &def->inputs[2].shape;
    if (bias->rank != 1 || bias->dims[0] != to_c)
        return pg_node_refuse(def, diag, "the bias has the shape %s", pg_shape_text(bias, a));
    return PG_OK;
}

static pg_err start(const pg_op_def *def, reading *r, pg_diag *diag) {
    pg_err err = check_operands(def, diag);
    if (err)
        return err;
    const pg_shape *x = &def->inputs[0].shape, *w = &def->inputs[1].shape;
    err = check_ranks(def, x, w, diag);
    if (err)
        return err;
    const pg_window unit = {.in = 1, .out = 1, .kernel = 1, .stride = 1, .dilation = 1};
    r->n = x->rank - 2;
    r->hw[0] = r->hw[1] = unit;
    r->axes = r->hw + 2 - r->n;
    for (int i = 0; i < r->n; i++) {
        r->axes[i].in = x->dims[2 + i];
        r->axes[i].kernel = w->dims[2 + i];
    }
    err = pg_def_int(def, "group", 1, &r->groups, diag);
    if (!err && (r->groups < 1 || r->groups > PG_WINDOW_LIMIT))
        err = pg_node_refuse(def, diag, "group %" PRId64 " is out of range", r->groups);
    if (!err)
        err = pg_window_read(def, r->n, r->axes, &r->mode, diag);
    return err;
}

static void fill(const reading *r, pg_conv_geometry *g) {
    const pg_window *h = &r->hw[0], *w = &r->hw[1];
    memset(g, 0, sizeof *g);
    g->groups = r->groups;
    g->in_h = h->in, g->in_w = w->in;
    g->out_h = h->out, g->out_w = w->out;
    g->k_h = h->kernel, g->k_w = w->kernel;
    for (int i = 0; i < 2; i++) {
        g->dnnl.strides[i] = r->hw[i].stride;
        g->dnnl.dilates[i] = r->hw[i].dilation - 1;
        g->dnnl.pad_begin[i] = r->hw[i].begin;
        /* The padding the library is told is what is used: a stride may leave a rest unread. */
        g->dnnl.pad_end[i] = r->hw[i].end;
    }
}

static pg_shape output(const reading *r, int64_t channels) {
    pg_shape dst = {.rank = 2 + r->n, .dims = {1, channels}};
    for (int i = 0; i < r->n; i++)
        dst.dims[2 + i] = r->axes[i].out;
    return dst;
}

/* ---- Conv ---- */

pg_err pg_conv_geometry_read(const pg_op_def *def, pg_conv_geometry *out, pg_shape *dst,
                             pg_diag *diag) {
    reading r = {0};
    pg_err err = start(def, &r, diag);
    if (err)
        return err;
    const pg_shape *w = &def->inputs[1].shape; /* [C_out, C_in / group, ...] */
    err = check_channels(def, r.groups, w->dims[1] * r.groups, w->dims[0], diag);
    for (int i = 0; !err && i < r.n; i++)
        err = pg_window_place(def, r.mode, false, &r.axes[i], diag);
    if (err)
        return err;
    fill(&r, out);
    out->in_c = w->dims[1] * r.groups;
    out->out_c = w->dims[0];
    *dst = output(&r, out->out_c);
    return PG_OK;
}

/* ---- ConvTranspose ---- */

/* The input reaches `full` positions; `begin` of them are cropped in front and the output ends
 * wherever it ends, maybe beyond the last of them, where only the bias is. With output_shape, or
 * auto_pad SAME, the size is what is given and the cropping follows (ConvTranspose-11; the formula
 * of version 1 has UPPER and LOWER the other way round than its own text). `asked`: 0 for none. */
static pg_err place_transposed(const pg_op_def *def, pg_auto_pad mode, int64_t extra, int64_t asked,
                               pg_window *w, pg_diag *diag) {
    int64_t full = (w->in - 1) * w->stride + pg_window_reach(w);
    if (mode == PG_PAD_VALID)
        w->begin = w->end = 0;
    if (asked == 0 && (mode == PG_PAD_SAME_UPPER || mode == PG_PAD_SAME_LOWER))
        asked = w->in * w->stride;
    if (asked > 0) {
        int64_t total = full + extra - asked;
        pg_window_pad(mode, total > 0 ? total : 0, w);
        w->out = asked;
    } else {
        w->out = full + extra - w->begin - w->end;
    }
    if (w->out < 1)
        return pg_node_refuse(def, diag, "its padding leaves no output");
    w->end = full - w->begin - w->out;
    if (w->end <= -w->stride)
        return pg_node_refuse(def, diag,
                              "its output goes on for %" PRId64
                              " positions, a stride or more, beyond what the input reaches",
                              -w->end);
    return PG_OK;
}

static pg_err place_all_transposed(const pg_op_def *def, reading *r, pg_diag *diag) {
    int64_t extra[2], asked[2];
    const pg_attr *shape = pg_def_attr(def, "output_shape");
    pg_err err = pg_def_ints(def, "output_padding", r->n, 0, extra, diag);
    if (!err)
        err = pg_def_ints(def, "output_shape", r->n, 0, asked, diag);
    for (int i = 0; !err && i < r->n; i++) {
        bool given = shape && shape->count > 0;
        if (extra[i] < 0 || extra[i] > PG_WINDOW_LIMIT)
            err = pg_node_refuse(def, diag, "output_padding %" PRId64 " is out of range", extra[i]);
        else if (given && asked[i] < 1)
            err = pg_node_refuse(def, diag, "output_shape %" PRId64 " is out of range", asked[i]);
        else
            err = place_transposed(def, r->mode, extra[i], asked[i], &r->axes[i], diag);
    }
    return err;
}

/* The convolution that leads back: input and output change places. An end beyond what the input
 * reaches is the rest that its stride leaves unread. */
static void turn_round(pg_window *w) {
    int64_t in = w->in;
    w->in = w->out;
    w->out = in;
    w->end = w->end > 0 ? w->end : 0;
}

pg_err pg_conv_transpose_geometry_read(const pg_op_def *def, pg_conv_geometry *out, pg_shape *dst,
                                       pg_diag *diag) {
    reading r = {0};
    pg_err err = start(def, &r, diag);
    if (err)
        return err;
    const pg_shape *w = &def->inputs[1].shape; /* [C_in, C_out / group, ...] */
    err = check_channels(def, r.groups, w->dims[0], w->dims[1] * r.groups, diag);
    if (!err)
        err = place_all_transposed(def, &r, diag);
    if (err)
        return err;
    *dst = output(&r, w->dims[1] * r.groups);
    turn_round(&r.hw[0]);
    turn_round(&r.hw[1]);
    fill(&r, out);
    out->in_c = w->dims[1] * r.groups;
    out->out_c = w->dims[0];
    return PG_OK;
}

uint64_t pg_conv_flops(const pg_conv_geometry *g) {
    return 2 * (uint64_t)(g->out_h * g->out_w) * (uint64_t)g->out_c *
           (uint64_t)(g->in_c / g->groups * g->k_h * g->k_w);
}
