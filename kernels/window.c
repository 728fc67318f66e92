#include "kernels/window.h"

#include <inttypes.h>
#include <string.h>

#include "kernels/op_node.h"

static pg_err read_auto_pad(const pg_op_def *def, pg_auto_pad *out, pg_diag *diag) {
    static const char *const names[] = {"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"};
    const char *text = NULL;
    pg_err err = pg_def_string(def, "auto_pad", "NOTSET", &text, diag);
    if (err)
        return err;
    for (int i = 0; i < 4; i++)
        if (strcmp(text, names[i]) == 0) {
            *out = (pg_auto_pad)i;
            return PG_OK;
        }
    return pg_node_refuse(def, diag, "auto_pad is '%.40s', which ONNX does not know", text);
}

/* kernel_shape is optional beside weights and must then agree with them. */
static pg_err read_kernel(const pg_op_def *def, int n, pg_window *axes, pg_diag *diag) {
    const pg_attr *attr = pg_def_attr(def, "kernel_shape");
    int64_t kernel[PG_WINDOW_AXES];
    pg_err err = pg_def_ints(def, "kernel_shape", n, 0, kernel, diag);
    bool given = attr && attr->count > 0;
    for (int i = 0; !err && i < n; i++) {
        if (!given && axes[i].kernel == 0)
            err = pg_node_refuse(def, diag, "kernel_shape is missing");
        else if (given && axes[i].kernel != 0 && kernel[i] != axes[i].kernel)
            err =
                pg_node_refuse(def, diag, "kernel_shape says %" PRId64 ", the weights say %" PRId64,
                               kernel[i], axes[i].kernel);
        else if (given)
            axes[i].kernel = kernel[i];
    }
    return err;
}

static bool in_range(int64_t v) { return v >= 1 && v <= PG_WINDOW_LIMIT; }

static pg_err check(const pg_op_def *def, const pg_window *w, pg_diag *diag) {
    if (!in_range(w->stride) || !in_range(w->dilation) || !in_range(w->kernel))
        return pg_node_refuse(def, diag,
                              "stride %" PRId64 ", dilation %" PRId64 " or kernel %" PRId64
                              " is out of range",
                              w->stride, w->dilation, w->kernel);
    if (w->begin < 0 || w->end < 0)
        return pg_node_refuse(def, diag,
                              "negative padding (%" PRId64 ",%" PRId64 ") is not supported",
                              w->begin, w->end);
    if (w->begin > PG_WINDOW_LIMIT || w->end > PG_WINDOW_LIMIT)
        return pg_node_refuse(def, diag, "padding %" PRId64 ",%" PRId64 " is out of range",
                              w->begin, w->end);
    return PG_OK;
}

pg_err pg_window_read(const pg_op_def *def, int n, pg_window *axes, pg_auto_pad *mode,
                      pg_diag *diag) {
    int64_t strides[PG_WINDOW_AXES], dilations[PG_WINDOW_AXES], pads[2 * PG_WINDOW_AXES];
    pg_assert(n >= 1 && n <= PG_WINDOW_AXES);
    pg_err err = pg_def_ints(def, "strides", n, 1, strides, diag);
    if (!err)
        err = pg_def_ints(def, "dilations", n, 1, dilations, diag);
    if (!err)
        err = pg_def_ints(def, "pads", 2 * n, 0, pads, diag);
    if (!err)
        err = read_kernel(def, n, axes, diag);
    if (!err)
        err = read_auto_pad(def, mode, diag);
    for (int i = 0; !err && i < n; i++) {
        axes[i].stride = strides[i];
        axes[i].dilation = dilations[i];
        axes[i].begin = pads[i];
        axes[i].end = pads[n + i];
        err = check(def, &axes[i], diag);
    }
    return err;
}

void pg_window_pad(pg_auto_pad mode, int64_t total, pg_window *w) {
    w->begin = mode == PG_PAD_SAME_UPPER ? total / 2 : total - total / 2;
    w->end = total - w->begin;
}

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* SAME means: as many outputs as strides fit into the input. */
static void place_same(pg_auto_pad mode, pg_window *w) {
    w->out = ceil_div(w->in, w->stride);
    int64_t total = (w->out - 1) * w->stride + pg_window_reach(w) - w->in;
    pg_window_pad(mode, total > 0 ? total : 0, w);
}

pg_err pg_window_place(const pg_op_def *def, pg_auto_pad mode, bool ceil_mode, pg_window *w,
                       pg_diag *diag) {
    if (mode == PG_PAD_SAME_UPPER || mode == PG_PAD_SAME_LOWER) {
        place_same(mode, w);
        return PG_OK;
    }
    if (mode == PG_PAD_VALID)
        w->begin = w->end = 0;
    int64_t padded = w->in + w->begin + w->end, room = padded - pg_window_reach(w);
    if (room < 0)
        return pg_node_refuse(def, diag,
                              "a kernel reaching over %" PRId64
                              " positions does not fit into %" PRId64 " (padding included)",
                              pg_window_reach(w), padded);
    bool up = ceil_mode && mode == PG_PAD_EXPLICIT;
    w->out = (up ? ceil_div(room, w->stride) : room / w->stride) + 1;
    /* "Sliding windows that would start in the right padded region are ignored" (MaxPool-12,
     * AveragePool-19 as of ONNX 1.16; torch has always done so, older texts say nothing). */
    if (up && (w->out - 1) * w->stride >= w->in + w->begin)
        w->out--;
    return PG_OK;
}
