#include "pipeline/saliency.h"

pg_err pg_saliency_inputgrad(const pg_saliency *method, pg_pass *pass, float *attribution,
                             pg_diag *diag) {
    pg_err err = pg_pass_backward(pass, method->prunes, diag);
    if (err)
        return err;
    const float *x = pass->input;
    const float *d_x = pg_session_d_input(pass->session);
    for (int64_t i = 0; i < pass->input_count; i++)
        attribution[i] = x[i] * d_x[i];
    return PG_OK;
}
