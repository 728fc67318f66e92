/* The CAMs that weigh a layer by its gradient: GradCAM, GradCAM++ and LayerCAM (cam.h). The
 * backward pass ends at the layer, so where only pooling and a classifier lie behind it they cost a
 * forward pass. */
#include "pipeline/cam.h"
#include "pipeline/saliency_cam.h"

enum { GRADCAM, PLUS_PLUS, LAYERCAM }; /* the method's variant */

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    pg_cam_state *s = state;
    pg_err err = pg_cam_read_gradient(pass, s, diag);
    if (err)
        return err;
    pg_cam_read_activation(pass, s);
    pg_cam_describe(s, out);
    if (method->variant == LAYERCAM) {
        pg_cam_layer(s->channels, s->area, s->a, s->g, out->room);
        return PG_OK;
    }
    if (method->variant == PLUS_PLUS)
        pg_cam_plus_plus_weights(s->channels, s->area, s->a, s->g, s->weights);
    else
        pg_cam_grad_weights(s->channels, s->area, s->g, s->weights);
    pg_cam_sum(s->channels, s->area, s->a, s->weights, out->room);
    return PG_OK;
}

const pg_saliency_kind pg_saliency_gradcam = {.check = pg_cam_check,
                                              .cost = pg_cam_cost,
                                              .open = pg_cam_open,
                                              .close = pg_cam_close,
                                              .run = run,
                                              .show = PG_SHOW_POSITIVE};
