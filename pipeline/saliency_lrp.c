/* Layer-wise relevance propagation and, under the name crp, the part of it that passes chosen
 * channels of a layer. The walk begins with the logit itself: in the output's cells of the
 * explained class lies what they hold, everywhere else 0. Biases and the stabilisers absorb
 * relevance, so what arrives is published as a share of the logit and not promised to be all of it.
 */
#include <math.h>

#include "kernels/mem.h"
#include "pipeline/explainer.h"

enum { LRP, CRP };

typedef struct state {
    const pg_explainer *explainer;
    pg_lrp_walk *walk;
    uint8_t *keep;     /* [channels] CRP; NULL: all */
    double *relevance; /* [channels] CRP */
    pg_concepts concepts;
} state;

static pg_err check(const pg_saliency *method, const pg_explainer *e, pg_diag *diag) {
    if (e->options->head.what != PG_EXPLAIN_LOGIT)
        return pg_fail(diag, PG_ECONFIG,
                       "method '%s': relevance begins with a logit; explain.output "
                       "must be logit",
                       method->name);
    if (!pg_model_lrp(e->model))
        return pg_fail(diag, PG_ECONFIG,
                       "method '%s': the model has not been prepared for it; name it in "
                       "explain.methods",
                       method->name);
    if (method->variant == CRP && e->crp.node < 0)
        return pg_fail(diag, PG_ECONFIG, "method '%s': %s", method->name, e->cannot_crp);
    return PG_OK;
}

static pg_cost cost(const pg_saliency *method, const pg_explainer *e) {
    (void)method;
    const pg_lrp *lrp = e->model ? pg_model_lrp(e->model) : NULL; /* none: priced without a model */
    return lrp ? (pg_cost){1 + lrp->forwards, lrp->backwards} : (pg_cost){(double)NAN, (double)NAN};
}

static void close_state(void **opaque) {
    state *s = *opaque;
    if (s == NULL)
        return;
    pg_lrp_walk_destroy(&s->walk);
    pg_free(s->keep);
    pg_free(s->relevance);
    pg_free(s);
    *opaque = NULL;
}

static pg_err open_crp(state *s, pg_diag *diag) {
    const pg_crp_options *o = &s->explainer->options->crp;
    const pg_crp_layer *layer = &s->explainer->crp;
    size_t n = (size_t)layer->channels;
    s->relevance = pg_calloc(n, sizeof *s->relevance);
    s->keep = o->n_channels > 0 ? pg_calloc(n, 1) : NULL;
    if (!s->relevance || (!s->keep && o->n_channels > 0))
        return pg_fail(diag, PG_ENOMEM, "no memory for relevance");
    for (int i = 0; i < o->n_channels; i++)
        s->keep[o->channels[i]] = 1;
    s->concepts =
        (pg_concepts){.layer = layer->name, .channels = layer->channels, .relevance = s->relevance};
    return PG_OK;
}

static pg_err open(const pg_saliency *method, const pg_explainer *explainer, pg_pass *pass,
                   void **opaque, pg_diag *diag) {
    state *s = *opaque = pg_calloc(1, sizeof *s);
    if (!s)
        return pg_fail(diag, PG_ENOMEM, "no memory for relevance");
    s->explainer = explainer;
    pg_err err = pg_lrp_walk_create(pg_model_lrp(explainer->model), pass->session, &s->walk, diag);
    if (!err && method->variant == CRP)
        err = open_crp(s, diag);
    if (err)
        close_state(opaque);
    return err;
}

static void rank(pg_concepts *c) {
    c->n_top = 0;
    for (int64_t k = 0; k < c->channels; k++) {
        int at = c->n_top < PG_TOP_MAX ? c->n_top++ : PG_TOP_MAX;
        for (; at > 0 && c->relevance[c->top[at - 1]] < c->relevance[k]; at--)
            if (at < PG_TOP_MAX)
                c->top[at] = c->top[at - 1];
        if (at < PG_TOP_MAX)
            c->top[at] = k;
    }
}

/* The logit, in the cells it was summed from. */
static const float *first_relevance(pg_pass *pass) {
    pg_head_seed(pass->head, pass->output, pass->scores, pass->klass, pass->seed);
    for (int64_t i = 0; i < pass->output_count; i++)
        pass->seed[i] *= pass->output[i];
    return pass->seed;
}

static pg_err run(const pg_saliency *method, pg_pass *pass, void *opaque, pg_attribution *out,
                  pg_diag *diag) {
    state *s = opaque;
    pg_crp_condition condition = {&s->explainer->crp, s->keep, s->relevance};
    bool crp = method->variant == CRP;
    pass->pruned = false;
    pass->rule = "none";
    pg_pass_mark(pass, PG_STAGE_SELECT);
    pg_err err = pg_lrp_walk_run(s->walk, first_relevance(pass), crp ? &condition : NULL, diag);
    pg_pass_mark(pass, PG_STAGE_BACKWARD);
    if (err)
        return err;
    const float *r = out->values = pg_session_d_input(pass->session);
    double sum = 0, logit = (double)pass->scores[pass->klass];
    for (int64_t i = 0; i < pass->input_count; i++)
        sum += (double)r[i];
    out->relevance = logit != 0 ? sum / logit : (double)NAN;
    out->degenerate = logit == 0;
    if (crp) {
        rank(&s->concepts);
        out->concepts = &s->concepts;
    }
    return PG_OK;
}

const pg_saliency_kind pg_saliency_lrp = {
    .check = check, .cost = cost, .open = open, .close = close_state, .run = run};
