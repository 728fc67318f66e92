/* RISE (Petsiuk, Das, Saenko 2018): the picture is looked at through random masks; a pixel's value
 * is the mean probability of the class over the masks, each weighed by how much of the pixel it
 * shows. A mask is a grid of s x s cells, each open with probability q, enlarged bilinearly to (s +
 * 1) cells and shifted by up to one cell, as in the authors' program:
 *
 *   map = 1/(N q) sum over masks m of p(x m) m
 *
 * No gradient is used: a control for those that do. Every mask is as good as any other, so a
 * deadline may end the sampling; std_error is that of the map's mean. */
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/explainer.h"
#include "pipeline/map.h"
#include "pipeline/spread.h"

typedef struct rise_state {
    int64_t height, width;
    int64_t cell_h, cell_w; /* pixels */
    int cells;
    float *grid;  /* [cells, cells] 0 or 1 */
    float *large; /* [(cells + 1) cell_h, (cells + 1) cell_w] */
    double *sum;  /* [H,W] */
} rise_state;

static pg_cost cost(const pg_saliency *method, const pg_explainer *explainer) {
    (void)method;
    return (pg_cost){.forwards = 1 + explainer->options->rise_masks};
}

static void close(void **state) {
    rise_state *s = *state;
    if (s == NULL)
        return;
    pg_free(s->grid);
    pg_free(s->large);
    pg_free(s->sum);
    pg_free(s);
    *state = NULL;
}

static pg_err open(const pg_saliency *method, const pg_explainer *e, pg_pass *pass, void **state,
                   pg_diag *diag) {
    (void)method;
    const int64_t *in = e->info->input.dims;
    pg_err err = pg_pass_reserve(pass, diag);
    rise_state *s = *state = err ? NULL : pg_calloc(1, sizeof *s);
    if (s != NULL) {
        int64_t n = s->cells = e->options->rise_cells;
        s->height = in[2];
        s->width = in[3];
        s->cell_h = (s->height + n - 1) / n;
        s->cell_w = (s->width + n - 1) / n;
        s->grid = pg_malloc((size_t)(n * n) * sizeof *s->grid);
        s->large =
            pg_malloc((size_t)((n + 1) * s->cell_h * (n + 1) * s->cell_w) * sizeof *s->large);
        s->sum = pg_malloc((size_t)(s->height * s->width) * sizeof *s->sum);
        if (s->grid && s->large && s->sum)
            return PG_OK;
    }
    close(state);
    return err ? err : pg_fail(diag, PG_ENOMEM, "no memory for RISE");
}

/* ---- one mask ---- */

/* Word i of the sequence is cell i; the two after the last say how far the mask is shifted. */
static uint32_t word(const pg_sequence *sequence, int64_t i) {
    const uint32_t counter[4] = {(uint32_t)(i / 4), sequence->name[0], sequence->name[1],
                                 sequence->name[2]};
    uint32_t words[4];
    pg_philox(counter, sequence->key, words);
    return words[i % 4];
}

/* The mask's first pixel in s->large. */
static const float *make_mask(rise_state *s, const pg_sequence *sequence, double share) {
    int64_t n = s->cells, count = n * n, width = (n + 1) * s->cell_w;
    for (int64_t i = 0; i < count; i++)
        s->grid[i] = (double)word(sequence, i) * 0x1p-32 < share ? 1.0f : 0.0f;
    pg_map_enlarge(s->grid, n, n, false, s->large, (n + 1) * s->cell_h, width);
    int64_t down = (int64_t)((uint64_t)word(sequence, count) * (uint64_t)s->cell_h >> 32);
    int64_t right = (int64_t)((uint64_t)word(sequence, count + 1) * (uint64_t)s->cell_w >> 32);
    return s->large + down * width + right;
}

static int64_t mask_stride(const rise_state *s) { return (s->cells + 1) * s->cell_w; }

/* Adds p times the mask; returns the mean of what was added. */
static double add(rise_state *s, const float *mask, double p) {
    double total = 0;
    for (int64_t y = 0; y < s->height; y++)
        for (int64_t x = 0; x < s->width; x++) {
            double v = p * (double)mask[y * mask_stride(s) + x];
            s->sum[y * s->width + x] += v;
            total += v;
        }
    return total / (double)(s->height * s->width);
}

/* ---- all masks ---- */

static pg_err sample(rise_state *s, pg_pass *pass, pg_attribution *out, pg_diag *diag) {
    const pg_explain_options *o = pass->explain;
    const pg_cost one = {.forwards = 1};
    pg_spread means = {0}; /* of the masks' own means */
    out->planned = o->rise_masks;
    while (out->samples < out->planned && (out->samples < 2 || pg_pass_fit(pass, one) > 0)) {
        pg_sequence sequence = pg_pass_sequence(pass, o->rise_seed, out->samples);
        const float *mask = make_mask(s, &sequence, o->rise_share);
        pg_pass_look_through(pass, mask, mask_stride(s));
        pg_err err = pg_pass_forward(pass, diag);
        if (err)
            return err;
        double p = (double)pg_pass_probability(pass, pass->klass);
        pg_spread_note(&means, add(s, mask, p) / o->rise_share);
        pg_pass_progress(pass, ++out->samples, out->planned);
    }
    out->std_error = pg_spread_error(&means);
    return PG_OK;
}

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    (void)method;
    rise_state *s = state;
    int64_t area = s->height * s->width;
    memset(s->sum, 0, (size_t)area * sizeof *s->sum);
    pg_pass_keep(pass);
    pg_err err = sample(s, pass, out, diag);
    pg_pass_restore(pass);
    if (err)
        return err;
    for (int64_t i = 0; i < area; i++)
        out->room[i] = (float)(s->sum[i] / (out->samples * pass->explain->rise_share));
    out->layout = PG_PLAIN;
    out->channels = 1;
    return PG_OK;
}

const pg_saliency_kind pg_saliency_rise = {
    .cost = cost, .open = open, .close = close, .run = run, .show = PG_SHOW_RANGE};
