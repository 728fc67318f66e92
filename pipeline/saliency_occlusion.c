/* Occlusion (Zeiler & Fergus 2014): a window of zeros, which after normalisation is the training
 * mean, slides over the picture; each pixel gets the mean fall of the score over the windows that
 * cover it, as captum's Occlusion computes it. No gradient is used: a control for those that do. */
#include "pipeline/explainer.h"
#include "pipeline/saliency.h"

#include <math.h>
#include <string.h>

#include "kernels/mem.h"

typedef struct windows {
    int64_t size_h, size_w, stride, rows, cols;
} windows;

typedef struct occlusion_state {
    double *fall;   /* [H,W] sums, then means */
    int32_t *count; /* [H,W] windows */
    int64_t planes, height, width;
    windows windows;
} occlusion_state;

static int64_t places(int64_t length, int64_t window, int64_t stride) {
    return (length - window + stride - 1) / stride + 1;
}

static windows plan(const pg_explain_options *o, int64_t height, int64_t width) {
    windows w = {.size_h = o->occlusion_window,
                 .size_w = o->occlusion_window,
                 .stride = o->occlusion_stride};
    w.size_h = w.size_h < height ? w.size_h : height;
    w.size_w = w.size_w < width ? w.size_w : width;
    w.rows = places(height, w.size_h, w.stride);
    w.cols = places(width, w.size_w, w.stride);
    return w;
}

static pg_cost cost(const pg_saliency *method, const pg_explainer *explainer) {
    (void)method;
    if (explainer->info == NULL)
        return (pg_cost){(double)NAN, (double)NAN};
    const int64_t *in = explainer->info->input.dims;
    windows w = plan(explainer->options, in[2], in[3]);
    return (pg_cost){.forwards = 1 + (double)(w.rows * w.cols)};
}

static void close_state(void **state) {
    occlusion_state *s = *state;
    if (s == NULL)
        return;
    pg_free(s->fall);
    pg_free(s->count);
    pg_free(s);
    *state = NULL;
}

static pg_err open_state(const pg_saliency *method, const pg_explainer *explainer, pg_pass *pass,
                         void **state, pg_diag *diag) {
    (void)method;
    const int64_t *in = explainer->info->input.dims;
    occlusion_state *s = *state = pg_calloc(1, sizeof *s);
    if (s != NULL) {
        size_t area = (size_t)(in[2] * in[3]);
        s->planes = in[1];
        s->height = in[2];
        s->width = in[3];
        s->windows = plan(explainer->options, in[2], in[3]);
        s->fall = pg_malloc(area * sizeof *s->fall);
        s->count = pg_malloc(area * sizeof *s->count);
        if (s->fall && s->count && pg_pass_reserve(pass, diag) == PG_OK)
            return PG_OK;
    }
    close_state(state);
    return pg_fail(diag, PG_ENOMEM, "no memory for occlusion");
}

/* The window's own part of the picture: y from row to row_end, x from col to col_end. */
typedef struct patch {
    int64_t row, row_end, col, col_end;
} patch;

static patch patch_of(const occlusion_state *s, int64_t index) {
    const windows *w = &s->windows;
    patch p = {.row = index / w->cols * w->stride, .col = index % w->cols * w->stride};
    p.row_end = p.row + w->size_h < s->height ? p.row + w->size_h : s->height;
    p.col_end = p.col + w->size_w < s->width ? p.col + w->size_w : s->width;
    return p;
}

static void cover(const occlusion_state *s, pg_pass *pass, patch p, bool hide) {
    int64_t area = s->height * s->width;
    bool plain = pass->layout == PG_PLAIN;
    int64_t pixel = plain ? 1 : s->planes, plane = plain ? area : 1;
    for (int64_t y = p.row; y < p.row_end; y++)
        for (int64_t x = p.col; x < p.col_end; x++)
            for (int64_t c = 0; c < s->planes; c++) {
                int64_t at = (y * s->width + x) * pixel + c * plane;
                pass->input[at] = hide ? 0 : pass->kept_input[at];
            }
}

static void note(occlusion_state *s, patch p, double fall) {
    for (int64_t y = p.row; y < p.row_end; y++)
        for (int64_t x = p.col; x < p.col_end; x++) {
            s->fall[y * s->width + x] += fall;
            s->count[y * s->width + x]++;
        }
}

/* The `step`-th window to be tried: an order that spreads over the picture, so that a deadline
 * leaves a coarse map and not half of one. 61 is coprime to all counts it is used for. */
static int64_t spread(int64_t step, int64_t count) {
    return count % 61 == 0 ? step : step * 61 % count;
}

static pg_err slide(occlusion_state *s, pg_pass *pass, pg_attribution *out, pg_diag *diag) {
    const pg_cost one = {.forwards = 1};
    int64_t count = s->windows.rows * s->windows.cols;
    double score = (double)pass->kept_scores[pass->klass];
    out->planned = (int)count;
    for (int64_t i = 0; i < count && (i == 0 || pg_pass_fit(pass, one) > 0); i++) {
        patch p = patch_of(s, spread(i, count));
        cover(s, pass, p, true);
        pg_err err = pg_pass_forward(pass, diag);
        cover(s, pass, p, false);
        if (err)
            return err;
        note(s, p, score - (double)pass->scores[pass->klass]);
        pg_pass_progress(pass, ++out->samples, out->planned);
    }
    return PG_OK;
}

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    (void)method;
    occlusion_state *s = state;
    int64_t area = s->height * s->width;
    memset(s->fall, 0, (size_t)area * sizeof *s->fall);
    memset(s->count, 0, (size_t)area * sizeof *s->count);
    pg_pass_keep(pass);
    pg_err err = slide(s, pass, out, diag);
    pg_pass_restore(pass);
    for (int64_t i = 0; i < area; i++)
        out->room[i] = s->count[i] ? (float)(s->fall[i] / s->count[i]) : 0;
    out->layout = PG_PLAIN;
    out->channels = 1;
    return err;
}

const pg_saliency_kind pg_saliency_occlusion = {.cost = cost,
                                                .open = open_state,
                                                .close = close_state,
                                                .run = run,
                                                .show = PG_SHOW_POSITIVE};
