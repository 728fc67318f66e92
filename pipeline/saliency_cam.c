#include "pipeline/saliency_cam.h"

#include "kernels/mem.h"
#include "pipeline/explainer.h"

pg_err pg_cam_check(const pg_saliency *method, const pg_explainer *explainer, pg_diag *diag) {
    const int64_t *layer = explainer->info->watched.shape.dims, *in = explainer->info->input.dims;
    if (explainer->info->watched_name != NULL && layer[2] * layer[3] <= in[2] * in[3])
        return PG_OK;
    if (explainer->info->watched_name != NULL)
        return pg_fail(
            diag, PG_ECONFIG,
            "method '%s': the layer '%s' is larger than the picture; name an earlier one "
            "as cam.layer",
            method->name, explainer->info->watched_name);
    return pg_fail(diag, PG_ECONFIG,
                   "method '%s': the network has no layer of more than one position before its "
                   "logits (or attention lies behind it); name one as cam.layer",
                   method->name);
}

pg_cost pg_cam_cost(const pg_saliency *method, const pg_explainer *explainer) {
    (void)method;
    (void)explainer;
    return (pg_cost){.forwards = 1};
}

pg_err pg_cam_open(const pg_saliency *method, const pg_explainer *explainer, pg_pass *pass,
                   void **state, pg_diag *diag) {
    (void)method;
    (void)pass;
    const pg_shape *shape = &explainer->info->watched.shape;
    pg_cam_state *s = *state = pg_calloc(1, sizeof *s);
    if (s == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for a class activation map");
    s->channels = shape->dims[1];
    s->height = shape->dims[2];
    s->width = shape->dims[3];
    s->area = s->height * s->width;
    size_t channels = (size_t)s->channels, count = channels * (size_t)s->area;
    s->a = pg_calloc(count, sizeof *s->a);
    s->g = pg_calloc(count, sizeof *s->g);
    s->weights = pg_calloc(channels, sizeof *s->weights);
    s->scratch = pg_calloc(3 * channels + (size_t)s->area, sizeof *s->scratch);
    if (s->a && s->g && s->weights && s->scratch)
        return PG_OK;
    pg_cam_close(state);
    return pg_fail(diag, PG_ENOMEM, "no memory for a class activation map");
}

void pg_cam_close(void **state) {
    pg_cam_state *s = *state;
    if (s == NULL)
        return;
    pg_free(s->a);
    pg_free(s->g);
    pg_free(s->weights);
    pg_free(s->scratch);
    pg_free(s);
    *state = NULL;
}

static const pg_desc *layer(const pg_pass *pass) { return &pass->head->info->watched; }

void pg_cam_read_activation(const pg_pass *pass, pg_cam_state *state) {
    pg_layout_convert(&layer(pass)->shape, layer(pass)->layout, pg_session_watched(pass->session),
                      PG_PLAIN, state->a);
}

pg_err pg_cam_read_gradient(pg_pass *pass, pg_cam_state *state, pg_diag *diag) {
    pg_head_seed(pass->head, pg_session_output(pass->session), pass->scores, pass->klass,
                 pass->seed);
    pg_err err = pg_session_backward_tail(pass->session, pass->seed, diag);
    if (err == PG_OK)
        pg_layout_convert(&layer(pass)->shape, layer(pass)->layout,
                          pg_session_d_watched(pass->session), PG_PLAIN, state->g);
    return err;
}

void pg_cam_describe(const pg_cam_state *state, pg_attribution *out) {
    out->layout = PG_PLAIN;
    out->channels = 1;
    out->height = state->height;
    out->width = state->width;
    out->finish = PG_FINISH_CAM;
}
