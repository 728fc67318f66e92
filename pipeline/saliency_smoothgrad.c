/* SmoothGrad: the mean gradient over copies of the frame with Gaussian noise (Smilkov et al.,
 * arXiv:1706.03825), of its magnitude by default. The noise is a function of smoothgrad.seed, the
 * stream and the frame's seq (kernels/philox.h), counted in the order [C,H,W] whatever the layout:
 * a replay explains the same way to the byte, on any machine that computes the same gradients.
 *
 * Every copy is as good as any other, so the deadline may end the sampling after any of them.
 * std_error is that of the mean over all values. */
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/philox.h"
#include "kernels/simd.h"
#include "pipeline/explainer.h"
#include "pipeline/spread.h"

typedef struct smooth_state {
    pg_shape shape; /* of the input */
    float *plain;   /* [C,H,W] noise; NULL where the layouts are the same */
    float *noise;   /* [count] in the pass's layout */
    double *sum;    /* [count] */
} smooth_state;

static pg_cost cost(const pg_saliency *method, const pg_explainer *explainer) {
    (void)method;
    int samples = explainer->options->smoothgrad.samples;
    return (pg_cost){.forwards = 1 + samples, .backwards = samples};
}

static void close(void **state) {
    smooth_state *s = *state;
    pg_free(s->plain);
    pg_free(s->noise);
    pg_free(s->sum);
    pg_free(s);
    *state = NULL;
}

static pg_err open(const pg_saliency *method, const pg_explainer *e, pg_pass *pass, void **state,
                   pg_diag *diag) {
    (void)method;
    size_t count = (size_t)pass->input_count;
    pg_err err = pg_pass_reserve(pass, diag);
    smooth_state *s = err ? NULL : pg_calloc(1, sizeof *s);
    if (!s)
        return err ? err : pg_fail(diag, PG_ENOMEM, "no memory for SmoothGrad");
    *state = s;
    s->shape = e->info->input;
    s->plain = pg_calloc(count, sizeof *s->plain);
    s->noise = pg_calloc(count, sizeof *s->noise);
    s->sum = pg_calloc(count, sizeof *s->sum);
    if (s->plain && s->noise && s->sum)
        return PG_OK;
    close(state);
    return pg_fail(diag, PG_ENOMEM, "no memory for SmoothGrad");
}

/* ---- one frame ---- */

static float range_of(const float *x, int64_t count) {
    float least = x[0], most = x[0];
    for (int64_t i = 1; i < count; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    return most - least;
}

/* x + sigma times noise, and forward */
static pg_err disturb(smooth_state *s, pg_pass *pass, float sigma, int sample, pg_diag *diag) {
    pg_sequence sequence = pg_pass_sequence(pass, pass->explain->smoothgrad.seed, sample);
    pg_normal_fill(&sequence, pass->input_count, s->plain);
    pg_layout_convert(&s->shape, PG_PLAIN, s->plain, pass->layout, s->noise);
    for (int64_t i = 0; i < pass->input_count; i++)
        pass->input[i] = pass->kept_input[i] + sigma * s->noise[i];
    return pg_pass_forward(pass, diag);
}

/* Adds |g|, g^2 or g, and returns the mean of what was added; eight sums for eight lanes. */
PG_CLONES static double add(pg_smooth_mode mode, int64_t count, const float *g, double *sum) {
    double part[8] = {0}, total = 0;
    for (int64_t begin = 0; begin < count; begin += 8) {
        int64_t n = count - begin < 8 ? count - begin : 8;
        for (int64_t i = 0; i < n; i++) {
            double v = (double)g[begin + i];
            v = mode == PG_SMOOTH_ABS ? fabs(v) : mode == PG_SMOOTH_SQUARE ? v * v : v;
            sum[begin + i] += v;
            part[i] += v;
        }
    }
    for (int i = 0; i < 8; i++)
        total += part[i];
    return total / (double)count;
}

static pg_err sample_all(const pg_saliency *method, smooth_state *s, pg_pass *pass, float sigma,
                         int samples, pg_spread *means, pg_diag *diag) {
    const pg_cost one = {.forwards = 1, .backwards = 1};
    pg_err err = PG_OK;
    for (int i = 0; !err && i < samples && (i == 0 || pg_pass_fit(pass, one) > 0); i++) {
        err = disturb(s, pass, sigma, i, diag);
        if (!err)
            err = pg_pass_backward(pass, method->prunes, diag);
        if (!err)
            pg_spread_note(means, add(pass->explain->smoothgrad.mode, pass->input_count,
                            pg_session_d_input(pass->session), s->sum));
        pg_pass_progress(pass, i + 1, samples);
    }
    return err;
}

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    smooth_state *s = state;
    const pg_smoothgrad_options *o = &pass->explain->smoothgrad;
    pg_pass_keep(pass);
    memset(s->sum, 0, (size_t)pass->input_count * sizeof *s->sum);
    float range = range_of(pass->kept_input, pass->input_count);
    out->degenerate = !(range > 0); /* no noise either: all copies would be the same */
    out->planned = o->samples;
    pg_spread means = {0};
    pg_err err = sample_all(method, s, pass, (float)o->sigma * range,
                            out->degenerate ? 1 : o->samples, &means, diag);
    pg_pass_restore(pass);
    out->samples = means.n;
    out->std_error = pg_spread_error(&means);
    for (int64_t i = 0; !err && i < pass->input_count; i++)
        out->room[i] = (float)(s->sum[i] / means.n);
    return err;
}

const pg_saliency_kind pg_saliency_smoothgrad = {
    .cost = cost, .open = open, .close = close, .run = run};
