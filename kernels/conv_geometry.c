#include "kernels/conv_geometry.h"

#include <inttypes.h>
#include <string.h>

/* No sane network strides, dilates or pads further; with it, no sum below can overflow. */
enum { LIMIT = 1 << 20 };

/* One spatial axis while it is being worked out. */
typedef struct axis {
    int64_t in, kernel, stride, dilation, begin, end, out;
} axis;

typedef enum auto_pad { PAD_EXPLICIT, PAD_VALID, PAD_UPPER, PAD_LOWER } auto_pad;

#define REFUSE(def, diag, format, ...)                                                             \
    pg_fail(diag, PG_EMODEL, "node '%s' (%s): " format, (def)->node, (def)->type, __VA_ARGS__)

static pg_err read_auto_pad(const pg_op_def *def, auto_pad *out, pg_diag *diag) {
    static const char *const names[] = {"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"};
    const char *text = NULL;
    pg_err err = pg_def_string(def, "auto_pad", "NOTSET", &text, diag);
    if (err)
        return err;
    for (int i = 0; i < 4; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (auto_pad)i;
            return PG_OK;
        }
    return REFUSE(def, diag, "auto_pad is '%.40s', which ONNX does not know", text);
}

static pg_err read_lists(const pg_op_def *def, int n, axis *axes, pg_diag *diag) {
    int64_t strides[2], dilations[2], pads[4], kernel[2];
    pg_err err = pg_def_ints(def, "strides", n, 1, strides, diag);
    if (!err)
        err = pg_def_ints(def, "dilations", n, 1, dilations, diag);
    if (!err)
        err = pg_def_ints(def, "pads", 2 * n, 0, pads, diag);
    if (!err)
        err = pg_def_ints(def, "kernel_shape", n, 0, kernel, diag);
    for (int i = 0; !err && i < n; i++) {
        axis *a = &axes[i];
        a->stride = strides[i];
        a->dilation = dilations[i];
        a->begin = pads[i];
        a->end = pads[n + i];
        if (kernel[i] != 0 && kernel[i] != a->kernel)
            err = REFUSE(def, diag, "kernel_shape says %" PRId64 ", the weights say %" PRId64,
                         kernel[i], a->kernel);
        else if (a->stride < 1 || a->stride > LIMIT || a->dilation < 1 || a->dilation > LIMIT ||
                 a->kernel > LIMIT)
            err = REFUSE(def, diag,
                         "stride %" PRId64 ", dilation %" PRId64 " or kernel %" PRId64
                         " is out of range",
                         a->stride, a->dilation, a->kernel);
        else if (a->begin < 0 || a->begin > LIMIT || a->end < 0 || a->end > LIMIT)
            err = REFUSE(def, diag, "padding %" PRId64 ",%" PRId64 " is out of range", a->begin,
                         a->end);
    }
    return err;
}

/* Padding by name, and the output size. SAME means: as many outputs as strides fit into the input,
 * an odd pixel of padding goes to the end (UPPER) or to the beginning (LOWER). */
static pg_err finish_axis(const pg_op_def *def, auto_pad mode, axis *a, pg_diag *diag) {
    int64_t reach = (a->kernel - 1) * a->dilation + 1;
    if (mode == PAD_VALID)
        a->begin = a->end = 0;
    if (mode == PAD_UPPER || mode == PAD_LOWER) {
        int64_t outputs = (a->in + a->stride - 1) / a->stride;
        int64_t total = (outputs - 1) * a->stride + reach - a->in;
        total = total > 0 ? total : 0;
        a->begin = mode == PAD_UPPER ? total / 2 : total - total / 2;
        a->end = total - a->begin;
    }
    int64_t room = a->in + a->begin + a->end - reach;
    if (room < 0)
        return REFUSE(def, diag,
                      "a kernel reaching over %" PRId64 " positions does not fit into %" PRId64
                      " (padding included)",
                      reach, a->in + a->begin + a->end);
    a->out = room / a->stride + 1;
    return PG_OK;
}

static pg_err check_ranks(const pg_op_def *def, const pg_shape *x, const pg_shape *w,
                          pg_diag *diag) {
    char a[PG_SHAPE_TEXT], b[PG_SHAPE_TEXT];
    if (x->rank > 4)
        return REFUSE(def, diag, "%d-D convolutions are not supported (input %s)", x->rank - 2,
                      pg_shape_text(x, a));
    if (x->rank < 3 || w->rank != x->rank || pg_shape_count(w) <= 0)
        return REFUSE(def, diag, "input %s and weights %s do not make a convolution",
                      pg_shape_text(x, a), pg_shape_text(w, b));
    if (x->dims[0] != 1)
        return REFUSE(def, diag, "the batch size is %" PRId64 ", it must be 1", x->dims[0]);
    return PG_OK;
}

static pg_err check_channels(const pg_op_def *def, int64_t groups, const pg_shape *x,
                             const pg_shape *w, pg_diag *diag) {
    char a[PG_SHAPE_TEXT], b[PG_SHAPE_TEXT];
    int64_t in_c = x->dims[1], out_c = w->dims[0];
    if (groups < 1 || in_c % groups || out_c % groups || w->dims[1] != in_c / groups)
        return REFUSE(def, diag, "input %s, weights %s and group %" PRId64 " do not fit together",
                      pg_shape_text(x, a), pg_shape_text(w, b), groups);
    return PG_OK;
}

static void fill(const axis *h, const axis *w, pg_conv_geometry *g) {
    g->in_h = h->in, g->in_w = w->in;
    g->out_h = h->out, g->out_w = w->out;
    g->k_h = h->kernel, g->k_w = w->kernel;
    const axis *axes[2] = {h, w};
    for (int i = 0; i < 2; i++) {
        g->dnnl.strides[i] = axes[i]->stride;
        g->dnnl.dilates[i] = axes[i]->dilation - 1;
        g->dnnl.pad_begin[i] = axes[i]->begin;
        /* The padding the library is told is what is used: a stride may leave a rest unread. */
        g->dnnl.pad_end[i] = axes[i]->end;
    }
}

pg_err pg_conv_geometry_read(const pg_op_def *def, pg_conv_geometry *out, pg_shape *dst,
                             pg_diag *diag) {
    const pg_shape *x = &def->inputs[0].shape, *w = &def->inputs[1].shape;
    axis axes[2] = {{.in = 1, .kernel = 1, .stride = 1, .dilation = 1, .out = 1}};
    auto_pad mode = PAD_EXPLICIT;
    int64_t groups = 1;
    pg_err err = check_ranks(def, x, w, diag);
    if (err)
        return err;

    int n = x->rank - 2;                   /* spatial axes of the node */
    axis *used = n == 1 ? axes + 1 : axes; /* a 1-D convolution is one of height 1 */
    for (int i = 0; i < n; i++) {
        used[i].in = x->dims[2 + i];
        used[i].kernel = w->dims[2 + i];
    }
    err = pg_def_int(def, "group", 1, &groups, diag);
    if (!err)
        err = check_channels(def, groups, x, w, diag);
    if (!err)
        err = read_auto_pad(def, &mode, diag);
    if (!err)
        err = read_lists(def, n, used, diag);
    for (int i = 0; !err && i < n; i++)
        err = finish_axis(def, mode, &used[i], diag);
    if (err)
        return err;

    memset(out, 0, sizeof *out);
    out->groups = groups;
    out->in_c = x->dims[1];
    out->out_c = w->dims[0];
    fill(&axes[0], &axes[1], out);
    *dst = (pg_shape){.rank = x->rank, .dims = {1, out->out_c}};
    for (int i = 0; i < n; i++)
        dst->dims[2 + i] = used[i].out;
    return PG_OK;
}
