/* ScoreCAM (Wang et al. 2020): the picture is seen through each channel of the layer as a mask;
 * what the network then says of the class is the channel's weight. Four programs carry the name and
 * compute different things; three are here, each under a name of its own:
 *
 *                     mask: scaled to 0..1    enlarged        weight                 ReLU
 *   scorecam          after enlarging         corners meet    softmax of the scores  layer size
 *                     (pytorch-grad-cam 1.5.5)
 *   scorecam-torchcam before enlarging        edges meet      softmax of the scores  layer size
 *   scorecam-prob     after enlarging         edges meet      probability            picture size
 *                     (the authors' program)
 *
 * The mask multiplies the normalised picture, so what is masked is the training mean. Channels that
 * are constant give a mask of zeros: they share one run, of the black picture (the authors' program
 * leaves them out). Channels that vary most go first, so that scorecam.channels and a deadline cost
 * least. */
#include "pipeline/cam.h"
#include "pipeline/explainer.h"
#include "pipeline/map.h"
#include "pipeline/saliency_cam.h"

#include <math.h>
#include <string.h>

#include "kernels/mem.h"

typedef struct variant {
    bool corners, scale_first, probability;
} variant;

static const variant variants[] = {/* by the method's own number */
                                   {.corners = true},
                                   {.scale_first = true},
                                   {.probability = true}};

typedef struct score_state {
    void *cam; /* pg_cam_state */
    const variant *variant;
    float *small;   /* [h,w] */
    float *mask;    /* [H,W] */
    double *score;  /* [C]; NaN: not done */
    double *spread; /* [C] standard deviation; negative: done */
    int64_t height, width;
} score_state;

static pg_cost cost(const pg_saliency *method, const pg_explainer *explainer) {
    (void)method;
    if (explainer->info == NULL)
        return (pg_cost){(double)NAN, (double)NAN};
    int64_t channels = explainer->info->watched.shape.dims[1];
    int most = explainer->options->scorecam_channels;
    return (pg_cost){.forwards = 1 + (double)(most > 0 && most < channels ? most : channels)};
}

static void close_state(void **state) {
    score_state *s = *state;
    if (s == NULL)
        return;
    pg_cam_close(&s->cam);
    pg_free(s->small);
    pg_free(s->mask);
    pg_free(s->score);
    pg_free(s->spread);
    pg_free(s);
    *state = NULL;
}

static pg_err fill(score_state *s, const pg_saliency *method, const pg_explainer *explainer,
                   pg_pass *pass, pg_diag *diag) {
    const int64_t *in = explainer->info->input.dims;
    s->variant = &variants[method->variant];
    s->height = in[2];
    s->width = in[3];
    pg_err err = pg_pass_reserve(pass, diag);
    if (err || (err = pg_cam_open(method, explainer, pass, &s->cam, diag)))
        return err;
    const pg_cam_state *cam = s->cam;
    s->small = pg_malloc((size_t)cam->area * sizeof *s->small);
    s->mask = pg_malloc((size_t)(s->height * s->width) * sizeof *s->mask);
    s->score = pg_malloc((size_t)cam->channels * sizeof *s->score);
    s->spread = pg_malloc((size_t)cam->channels * sizeof *s->spread);
    if (!s->small || !s->mask || !s->score || !s->spread)
        return pg_fail(diag, PG_ENOMEM, "no memory for masks");
    return PG_OK;
}

static pg_err open_state(const pg_saliency *method, const pg_explainer *explainer, pg_pass *pass,
                         void **state, pg_diag *diag) {
    score_state *s = *state = pg_calloc(1, sizeof *s);
    if (s == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for masks");
    pg_err err = fill(s, method, explainer, pass, diag);
    if (err)
        close_state(state);
    return err;
}

/* ---- one channel ---- */

static void to_unit(int64_t n, const float *from, float *to) {
    float least = INFINITY, most = -INFINITY;
    for (int64_t i = 0; i < n; i++) {
        least = from[i] < least ? from[i] : least;
        most = from[i] > most ? from[i] : most;
    }
    for (int64_t i = 0; i < n; i++)
        to[i] = (from[i] - least) / (most - least + 1e-8f);
}

static void enlarge(score_state *s, const float *small) {
    const pg_cam_state *cam = s->cam;
    pg_map_enlarge(small, cam->height, cam->width, s->variant->corners, s->mask, s->height,
                   s->width);
}

static void make_mask(score_state *s, int64_t c) {
    const pg_cam_state *cam = s->cam;
    const float *a = cam->a + c * cam->area;
    if (s->variant->scale_first) {
        to_unit(cam->area, a, s->small);
        enlarge(s, s->small);
    } else {
        enlarge(s, a);
        to_unit(s->height * s->width, s->mask, s->mask);
    }
}

/* Runs the network on what pass->input holds. */
static pg_err score(const score_state *s, pg_pass *pass, double *out, pg_diag *diag) {
    pg_err err = pg_pass_forward(pass, diag);
    *out = (double)NAN;
    if (!err)
        *out = (double)(s->variant->probability ? pg_pass_probability(pass, pass->klass)
                                                : pass->scores[pass->klass]);
    return err;
}

/* ---- all channels ---- */

/* Standard deviations; a constant channel has 0. Returns how many vary. */
static int64_t measure(score_state *s) {
    const pg_cam_state *cam = s->cam;
    int64_t vary = 0;
    for (int64_t c = 0; c < cam->channels; c++) {
        const float *a = cam->a + c * cam->area;
        double sum = 0, square = 0;
        for (int64_t p = 0; p < cam->area; p++)
            sum += (double)a[p];
        for (int64_t p = 0; p < cam->area; p++) {
            double d = (double)a[p] - sum / (double)cam->area;
            square += d * d;
        }
        s->spread[c] = sqrt(square / (double)cam->area);
        s->score[c] = (double)NAN;
        vary += s->spread[c] > 0;
    }
    return vary;
}

static int64_t next_channel(const score_state *s) {
    const pg_cam_state *cam = s->cam;
    int64_t best = -1;
    for (int64_t c = 0; c < cam->channels; c++)
        if (s->spread[c] > 0 && (best < 0 || s->spread[c] > s->spread[best]))
            best = c;
    return best;
}

/* All constant channels at once: the picture behind a mask of zeros. */
static pg_err score_constant(score_state *s, pg_pass *pass, pg_diag *diag) {
    const pg_cam_state *cam = s->cam;
    double value;
    memset(pass->input, 0, (size_t)pass->input_count * sizeof *pass->input);
    pg_err err = score(s, pass, &value, diag);
    for (int64_t c = 0; c < cam->channels; c++)
        if (s->spread[c] == 0)
            s->score[c] = value;
    return err;
}

static pg_err score_all(score_state *s, pg_pass *pass, int most, pg_attribution *out,
                        pg_diag *diag) {
    const pg_cam_state *cam = s->cam;
    int64_t vary = measure(s);
    pg_err err = PG_OK;
    out->planned = (int)(most > 0 && most < vary ? most : vary);
    const pg_cost one = {.forwards = 1};
    for (int64_t c; !err && out->samples < out->planned && (c = next_channel(s)) >= 0 &&
                    (out->samples == 0 || pg_pass_fit(pass, one) > 0);) {
        make_mask(s, c);
        pg_pass_look_through(pass, s->mask, s->width);
        err = score(s, pass, &s->score[c], diag);
        s->spread[c] = -1;
        pg_pass_progress(pass, ++out->samples, out->planned);
    }
    if (!err && out->samples == vary && vary < cam->channels && !s->variant->probability)
        err = score_constant(s, pass, diag);
    return err;
}

/* Softmax over the channels that have a score, or the scores themselves; 0 for the others. */
static void weigh(const score_state *s, double *weights) {
    const pg_cam_state *cam = s->cam;
    double most = -INFINITY, sum = 0;
    for (int64_t c = 0; c < cam->channels; c++)
        most = fmax(most, s->score[c]); /* fmax ignores NaN */
    for (int64_t c = 0; c < cam->channels; c++) {
        weights[c] = isnan(s->score[c])        ? 0
                     : s->variant->probability ? s->score[c]
                                               : exp(s->score[c] - most);
        sum += weights[c];
    }
    for (int64_t c = 0; c < cam->channels && !s->variant->probability && sum > 0; c++)
        weights[c] /= sum;
}

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    (void)method;
    score_state *s = state;
    pg_cam_state *cam = s->cam;
    pg_cam_read_activation(pass, cam);
    pg_pass_keep(pass);
    pg_err err = score_all(s, pass, pass->explain->scorecam_channels, out, diag);
    pg_pass_restore(pass);
    if (err)
        return err;
    weigh(s, cam->weights);
    pg_cam_sum(cam->channels, cam->area, cam->a, cam->weights, out->room);
    pg_cam_describe(cam, out);
    if (s->variant->probability)
        out->finish = PG_FINISH_CAM_LATE;
    return PG_OK;
}

const pg_saliency_kind pg_saliency_scorecam = {.check = pg_cam_check,
                                               .cost = cost,
                                               .open = open_state,
                                               .close = close_state,
                                               .run = run,
                                               .show = PG_SHOW_POSITIVE};
