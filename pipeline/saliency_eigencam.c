/* The only one that asks nothing of the class: a control, what the layer sees at all. */
#include "pipeline/cam.h"
#include "pipeline/saliency_cam.h"

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    (void)method;
    (void)diag;
    pg_cam_state *s = state;
    pg_cam_read_activation(pass, s);
    out->degenerate = !pg_cam_eigen(s->channels, s->area, s->a, s->scratch, out->room);
    pg_cam_describe(s, out);
    return PG_OK;
}

const pg_saliency_kind pg_saliency_eigencam = {.check = pg_cam_check,
                                               .cost = pg_cam_cost,
                                               .open = pg_cam_open,
                                               .close = pg_cam_close,
                                               .run = run,
                                               .show = PG_SHOW_POSITIVE};
