/* The gradient of the explained score, dz/dx: what the others are built from. */
#include "pipeline/saliency.h"

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    (void)state;
    pg_err err = pg_pass_backward(pass, method->prunes, diag);
    if (!err)
        out->values = pg_session_d_input(pass->session);
    return err;
}

const pg_saliency_kind pg_saliency_gradient = {.cost = pg_saliency_one_pass, .run = run};
