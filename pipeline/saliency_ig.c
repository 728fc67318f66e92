/* Integrated gradients: (x - b) times the mean of df/dx along the straight line from a baseline b
 * to the frame x (Sundararajan, Taly, Yan, "Axiomatic attribution for deep networks", ICML 2017).
 * The attributions sum to f(x) - f(b), but for the error of the quadrature: `delta` is that error,
 * with ParchGrad a measure of how far the pruned gradient is from being one.
 *
 * The frame itself, which has been through the network already, is the first point; then the
 * baseline, whose score delta needs. The others follow spread over the line, so that when the
 * deadline ends the walk early, the weighted mean of what was visited is still an estimate of the
 * whole. If passes are known to be too slow for all steps, fewer are planned from the start, which
 * is a better rule than a torn one. */
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/simd.h"
#include "pipeline/explainer.h"
#include "pipeline/map.h"
#include "pipeline/quadrature.h"

typedef struct ig_state {
    int64_t channels, height, width; /* of the input */
    float level[3];                  /* the baseline of each channel, but for blur */
    pg_map_scratch blur;             /* zeroed but for blur */
    float *plane;                    /* [H W], the same */
    float *base;                     /* [count] in the pass's layout */
    double *sum;                     /* [count] of weighted gradients */
    double *points, *weights;        /* of the quadrature */
    int *order;
} ig_state;

static const pg_cost one_step = {.forwards = 1, .backwards = 1};

static pg_cost cost(const pg_saliency *method, const pg_explainer *explainer) {
    (void)method;
    const pg_ig_options *o = &explainer->options->ig;
    int points = pg_quadrature_points(o->quadrature, o->steps);
    /* the frame's forward is the last point's, or else the baseline takes one of its own */
    bool ends = o->quadrature != PG_QUADRATURE_GAUSS_LEGENDRE && points > 1;
    return (pg_cost){.forwards = ends ? points : points + 2, .backwards = points};
}

/* ---- state ---- */

static void close(void **state) {
    ig_state *s = *state;
    pg_map_scratch_destroy(&s->blur);
    pg_free(s->plane);
    pg_free(s->base);
    pg_free(s->sum);
    pg_free(s->points);
    pg_free(s->weights);
    pg_free(s->order);
    pg_free(s);
    *state = NULL;
}

/* What black and white become in each channel of the network's input. */
static void set_levels(ig_state *s, const pg_explainer *e) {
    const pg_ig_options *o = &e->options->ig;
    pg_input_options input = pg_explainer_input(e->options, e->info);
    for (int c = 0; c < 3; c++) {
        float pixel = o->baseline == PG_BASELINE_WHITE ? 255 * input.scale : 0;
        bool painted = o->baseline == PG_BASELINE_BLACK || o->baseline == PG_BASELINE_WHITE;
        s->level[c] = painted                            ? (pixel - input.mean[c]) / input.std[c]
                      : o->baseline == PG_BASELINE_VALUE ? (float)o->value
                                                         : 0;
    }
}

static pg_err open(const pg_saliency *method, const pg_explainer *e, pg_pass *pass, void **state,
                   pg_diag *diag) {
    (void)method;
    const pg_ig_options *o = &e->options->ig;
    const int64_t *dims = e->info->input.dims;
    size_t count = (size_t)pass->input_count;
    size_t points = (size_t)pg_quadrature_points(o->quadrature, o->steps);
    pg_err err = pg_pass_reserve(pass, diag);
    ig_state *s = err ? NULL : pg_calloc(1, sizeof *s);
    if (!s)
        return err ? err : pg_fail(diag, PG_ENOMEM, "no memory for integrated gradients");
    *state = s;
    s->channels = dims[1], s->height = dims[2], s->width = dims[3];
    set_levels(s, e);
    s->base = pg_calloc(count, sizeof *s->base);
    s->sum = pg_calloc(count, sizeof *s->sum);
    s->plane = pg_calloc((size_t)(s->height * s->width), sizeof *s->plane);
    s->points = pg_calloc(points, sizeof *s->points);
    s->weights = pg_calloc(points, sizeof *s->weights);
    s->order = pg_calloc(points, sizeof *s->order);
    if (!s->base || !s->sum || !s->plane || !s->points || !s->weights || !s->order)
        err = pg_fail(diag, PG_ENOMEM, "no memory for integrated gradients");
    if (!err && o->baseline == PG_BASELINE_BLUR)
        err = pg_map_scratch_create(s->height, s->width, o->blur, &s->blur, diag);
    if (err)
        close(state);
    return err;
}

/* ---- one frame ---- */

static void make_baseline(ig_state *s, const pg_pass *pass) {
    int64_t area = s->height * s->width;
    int64_t pixel = pass->layout == PG_PLAIN ? 1 : s->channels;
    int64_t plane = pass->layout == PG_PLAIN ? area : 1;
    for (int64_t c = 0; c < s->channels; c++) {
        const float *x = pass->kept_input + c * plane;
        for (int64_t i = 0; i < area; i++)
            s->plane[i] = s->blur.values ? x[i * pixel] : s->level[c];
        if (s->blur.values)
            pg_map_smooth(&s->blur, s->plane);
        for (int64_t i = 0; i < area; i++)
            s->base[c * plane + i * pixel] = s->plane[i];
    }
}

/* As many steps as the deadline leaves time for; of each the last point takes only a backward. */
static int steps_in_time(const pg_pass *pass) {
    int fit = pg_pass_fit(pass, one_step), steps = pass->explain->ig.steps;
    return fit >= steps ? steps : fit < 1 ? 1 : fit;
}

/* Fills the rule, and the order of the visit: the frame, if it is a point, before all others. */
static int plan(ig_state *s, const pg_pass *pass) {
    pg_quadrature rule = pass->explain->ig.quadrature;
    int steps = steps_in_time(pass), n = pg_quadrature_points(rule, steps);
    pg_quadrature_fill(rule, steps, s->points, s->weights);
    bool ends = n > 1 && rule != PG_QUADRATURE_GAUSS_LEGENDRE;
    pg_quadrature_order(ends ? n - 1 : n, s->order + ends);
    if (ends)
        s->order[0] = n - 1;
    return n;
}

/* x = b + alpha (x - b), and forward */
static pg_err go_to(const ig_state *s, pg_pass *pass, double alpha, pg_diag *diag) {
    float a = (float)alpha;
    for (int64_t i = 0; i < pass->input_count; i++)
        pass->input[i] = s->base[i] + a * (pass->kept_input[i] - s->base[i]);
    return pg_pass_forward(pass, diag);
}

PG_CLONES static void add_weighted(int64_t count, const float *d_x, double weight, double *sum) {
    for (int64_t i = 0; i < count; i++)
        sum[i] += weight * (double)d_x[i];
}

static pg_err visit(const pg_saliency *method, ig_state *s, pg_pass *pass, int point,
                    double *f_base, pg_diag *diag) {
    double alpha = s->points[point];
    pg_err err = alpha == 1 ? PG_OK : go_to(s, pass, alpha, diag);
    if (!err && alpha == 0)
        *f_base = (double)pass->scores[pass->klass];
    if (!err)
        err = pg_pass_backward(pass, method->prunes, diag);
    if (!err)
        add_weighted(pass->input_count, pg_session_d_input(pass->session), s->weights[point],
                     s->sum);
    return err;
}

/* values = scale (x - b) sum; returns what they add up to */
static double multiply(const ig_state *s, const pg_pass *pass, double scale, float *values) {
    double total = 0;
    for (int64_t i = 0; i < pass->input_count; i++) {
        double value = scale * ((double)pass->kept_input[i] - (double)s->base[i]) * s->sum[i];
        values[i] = (float)value;
        total += value;
    }
    return total;
}

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    ig_state *s = state;
    const pg_ig_options *o = &pass->explain->ig;
    int n = plan(s, pass);
    pg_pass_keep(pass);
    make_baseline(s, pass);
    memset(s->sum, 0, (size_t)pass->input_count * sizeof *s->sum);
    double whole = 0, done = 0, f_base = (double)NAN;
    for (int i = 0; i < n; i++)
        whole += s->weights[s->order[i]];
    pg_err err = PG_OK;
    out->planned = pg_quadrature_points(o->quadrature, o->steps);
    for (int i = 0; !err && i < n && (i == 0 || pg_pass_fit(pass, one_step) > 0); i++) {
        err = visit(method, s, pass, s->order[i], &f_base, diag);
        done += s->weights[s->order[i]];
        out->samples = i + 1;
        pg_pass_progress(pass, i + 1, n);
    }
    if (!err && isnan(f_base) && pg_pass_fit(pass, (pg_cost){.forwards = 1}) > 0) {
        err = go_to(s, pass, 0, diag);
        f_base = (double)pass->scores[pass->klass];
    }
    pg_pass_restore(pass);
    if (!err)
        out->delta = multiply(s, pass, whole / done, out->room) -
                     ((double)pass->scores[pass->klass] - f_base);
    return err;
}

const pg_saliency_kind pg_saliency_ig = {.cost = cost, .open = open, .close = close, .run = run};
