#include "pipeline/cam.h"
#include "pipeline/saliency_cam.h"

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    (void)method;
    pg_cam_state *s = state;
    pg_err err = pg_cam_read_gradient(pass, s, diag);
    if (err)
        return err;
    pg_cam_read_activation(pass, s);
    pg_cam_plus_plus_weights(s->channels, s->area, s->a, s->g, s->weights);
    pg_cam_sum(s->channels, s->area, s->a, s->weights, out->values);
    pg_cam_describe(s, out);
    return PG_OK;
}

const pg_saliency_kind pg_saliency_gradcam_plus_plus = {.check = pg_cam_check,
                                                        .cost = pg_cam_cost,
                                                        .open = pg_cam_open,
                                                        .close = pg_cam_close,
                                                        .run = run};
