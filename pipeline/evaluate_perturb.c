/* Every question is a picture with some of its pixels changed, put to the network by a session of
 * its own: the pipeline's stays with the frame. A removed pixel is 0 in the normalised input, the
 * training mean. MoRF and deletion remove the same pixels, so they share their runs. */
#include "pipeline/evaluate_impl.h"

#include <math.h>
#include <string.h>

static const double ODDS_FLOOR = 1e-6; /* the e of LOdds */

/* The network's answer to e->changed, in the probe. */
static pg_err ask(pg_evaluator *e, pg_diag *diag) {
    pg_layout_convert(&e->explainer->info->input, PG_PLAIN, e->changed, e->probe.layout,
                      e->probe.input);
    return pg_pass_forward(&e->probe, diag);
}

static void copy(const pg_evaluator *e, const float *from, float *to) {
    memcpy(to, from, (size_t)(e->area * e->channels) * sizeof *to);
}

/* One pixel of e->changed, all colours: from `source`, NULL: removed. */
static void put(pg_evaluator *e, int64_t pixel, const float *source) {
    for (int64_t c = 0; c < e->channels; c++)
        e->changed[c * e->area + pixel] = source ? source[c * e->area + pixel] : 0;
}

/* The first `count` pixels of the order, or the last. */
static void put_many(pg_evaluator *e, bool last, int64_t count, const float *source) {
    for (int64_t i = 0; i < count; i++)
        put(e, e->rank.order[last ? e->area - 1 - i : i], source);
}

static void add_morf(const pg_pass *probe, const pg_evaluation *about, const pg_top *top, bool lerf,
                     double *values) {
    int at = lerf ? PG_METRIC_AOPC_LERF : PG_METRIC_AOPC_MORF; /* four in a row, both times */
    double p = (double)about->probability, p_top = (double)top->probability;
    double p_r = (double)pg_pass_probability(probe, about->klass);
    double p_top_r = (double)pg_pass_probability(probe, top->klass);
    values[at] += (p - p_r) / PG_MORF_STEPS;
    values[at + 1] += log((p_r + ODDS_FLOOR) / (p + ODDS_FLOOR)) / PG_MORF_STEPS;
    values[at + 2] +=
        (pg_pass_argmax(probe->scores, probe->classes) == about->klass) / (double)PG_MORF_STEPS;
    values[at + 3] += fabs(p_top - p_top_r) / PG_MORF_STEPS;
}

/* Removal in steps, hottest first or coldest first. floor(r H W) pixels at share r. */
static pg_err remove_steps(pg_evaluator *e, bool lerf, const pg_top *top, pg_evaluation *out,
                           pg_diag *diag) {
    double *curve = lerf ? out->lerf : out->morf;
    for (int k = 0; k < 4; k++)
        out->values[(lerf ? PG_METRIC_AOPC_LERF : PG_METRIC_AOPC_MORF) + k] = 0;
    curve[0] = (double)out->probability;
    for (int step = 1; step <= PG_CURVE_STEPS; step++) {
        copy(e, e->input, e->changed);
        put_many(e, lerf, e->area * step / PG_CURVE_STEPS, NULL);
        pg_err err = ask(e, diag);
        if (err)
            return err;
        curve[step] = (double)pg_pass_probability(&e->probe, out->klass);
        if (step <= PG_MORF_STEPS)
            add_morf(&e->probe, out, top, lerf, out->values);
    }
    return PG_OK;
}

static pg_err insert_steps(pg_evaluator *e, pg_evaluation *out, pg_diag *diag) {
    for (int64_t c = 0; c < e->channels; c++) {
        float *plane = e->blurred + c * e->area;
        memcpy(plane, e->input + c * e->area, (size_t)e->area * sizeof *plane);
        pg_map_smooth(&e->blur, plane);
    }
    for (int step = 0; step < PG_CURVE_STEPS; step++) {
        copy(e, e->blurred, e->changed);
        put_many(e, false, e->area * step / PG_CURVE_STEPS, e->input);
        pg_err err = ask(e, diag);
        if (err)
            return err;
        out->insertion[step] = (double)pg_pass_probability(&e->probe, out->klass);
    }
    out->insertion[PG_CURVE_STEPS] = (double)out->probability; /* all of them: the frame */
    return PG_OK;
}

/* Trapezoids over 0 .. 1. */
static double area_under(const double *curve) {
    double sum = (curve[0] + curve[PG_CURVE_STEPS]) / 2;
    for (int i = 1; i < PG_CURVE_STEPS; i++)
        sum += curve[i];
    return sum / PG_CURVE_STEPS;
}

pg_err pg_evaluate_perturb(pg_evaluator *e, const pg_top *top, pg_evaluation *out, pg_diag *diag) {
    pg_err err;
    pg_rank_order(&e->rank, e->map);
    if ((err = remove_steps(e, false, top, out, diag)) ||
        (err = remove_steps(e, true, top, out, diag)) || (err = insert_steps(e, out, diag)))
        return err;
    out->values[PG_METRIC_DELETION] = area_under(out->morf);
    out->values[PG_METRIC_INSERTION] = area_under(out->insertion);
    return PG_OK;
}
