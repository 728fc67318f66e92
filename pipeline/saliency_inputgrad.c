/* x dz/dx, the share of each input value in a network that were linear. x is what the network sees:
 * after normalisation, so a pixel of the mean colour gets nothing. */
#include "pipeline/saliency.h"

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    (void)state;
    pg_err err = pg_pass_backward(pass, method->prunes, diag);
    if (err)
        return err;
    const float *x = pass->input;
    const float *d_x = pg_session_d_input(pass->session);
    for (int64_t i = 0; i < pass->input_count; i++)
        out->room[i] = x[i] * d_x[i];
    return PG_OK;
}

const pg_saliency_kind pg_saliency_inputgrad = {.cost = pg_saliency_one_pass, .run = run};
