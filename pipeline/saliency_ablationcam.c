/* How much of the score goes when a channel of the layer is silenced. Where the score is an affine
 * function of the layer (pooling and a linear classifier behind it) all drops come from one
 * gradient; else the tail of the network runs once per channel, the strongest first, so that a
 * deadline costs the least. A silenced channel is 0; pytorch-grad-cam does the same where the
 * layer's minimum is 0, and elsewhere writes ever larger negative numbers, which is not copied. */
#include "pipeline/cam.h"
#include "pipeline/explainer.h"
#include "pipeline/saliency_cam.h"

#include <math.h>
#include <string.h>

static pg_cost cost(const pg_saliency *method, const pg_explainer *explainer) {
    (void)method;
    const pg_model_info *info = explainer->info;
    if (info == NULL)
        return (pg_cost){(double)NAN, (double)NAN};
    double tails = info->linear_tail ? 0 : (double)info->watched.shape.dims[1];
    return (pg_cost){.forwards = 1 + tails * info->tail_share};
}

static pg_err open_state(const pg_saliency *method, const pg_explainer *explainer, pg_pass *pass,
                         void **state, pg_diag *diag) {
    pg_err err = pg_pass_reserve(pass, diag);
    return err ? err : pg_cam_open(method, explainer, pass, state, diag);
}

/* One channel of the session's own copy: to 0, or back from the plain one. */
static void set_channel(pg_pass *pass, const pg_cam_state *s, int64_t c, bool silent) {
    float *layer = pg_session_watched(pass->session);
    bool plain = pass->head->info->watched.layout == PG_PLAIN;
    int64_t first = plain ? c * s->area : c, step = plain ? 1 : s->channels;
    for (int64_t p = 0; p < s->area; p++)
        layer[first + p * step] = silent ? 0 : s->a[c * s->area + p];
}

static double strength(const pg_cam_state *s, int64_t c) {
    double sum = 0;
    for (int64_t p = 0; p < s->area; p++)
        sum += fabs((double)s->a[c * s->area + p]);
    return sum;
}

/* The strongest channel not done yet, -1 when only silent ones are left. `left` is [C], 0: done. */
static int64_t next_channel(const pg_cam_state *s, const double *left) {
    int64_t best = -1;
    for (int64_t c = 0; c < s->channels; c++)
        if (left[c] > 0 && (best < 0 || left[c] > left[best]))
            best = c;
    return best;
}

static pg_err run_tails(pg_pass *pass, pg_cam_state *s, double score, pg_attribution *out,
                        pg_diag *diag) {
    const pg_cost one = {.forwards = pass->head->info->tail_share};
    double *left = s->scratch;
    for (int64_t c = 0; c < s->channels; c++) {
        s->weights[c] = 0;
        left[c] = strength(s, c);
        out->planned += left[c] > 0;
    }
    for (int64_t c; (c = next_channel(s, left)) >= 0 && pg_pass_fit(pass, one) > 0;) {
        set_channel(pass, s, c, true);
        pg_err err = pg_pass_forward_tail(pass, diag);
        set_channel(pass, s, c, false);
        if (err)
            return err;
        s->weights[c] = (score - (double)pass->scores[pass->klass]) / score;
        left[c] = 0;
        pg_pass_progress(pass, ++out->samples, out->planned);
    }
    return PG_OK;
}

static pg_err weigh(pg_pass *pass, pg_cam_state *s, double score, pg_attribution *out,
                    pg_diag *diag) {
    if (pass->head->info->linear_tail && pass->head->what == PG_EXPLAIN_LOGIT) {
        pg_err err = pg_cam_read_gradient(pass, s, diag);
        if (err == PG_OK)
            pg_cam_affine_drops(s->channels, s->area, s->a, s->g, score, s->weights);
        return err;
    }
    pg_pass_keep(pass);
    pg_err err = run_tails(pass, s, score, out, diag);
    pg_pass_restore(pass);
    return err;
}

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    (void)method;
    pg_cam_state *s = state;
    double score = (double)pass->scores[pass->klass];
    pg_cam_describe(s, out);
    pg_cam_read_activation(pass, s);
    if (score == 0) { /* shares of nothing */
        memset(out->room, 0, (size_t)s->area * sizeof *out->room);
        out->degenerate = true;
        return PG_OK;
    }
    pg_err err = weigh(pass, s, score, out, diag);
    if (err == PG_OK)
        pg_cam_sum(s->channels, s->area, s->a, s->weights, out->room);
    return err;
}

const pg_saliency_kind pg_saliency_ablationcam = {.check = pg_cam_check,
                                                  .cost = cost,
                                                  .open = open_state,
                                                  .close = pg_cam_close,
                                                  .run = run,
                                                  .show = PG_SHOW_POSITIVE};
