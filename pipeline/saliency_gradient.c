#include <string.h>

#include "pipeline/saliency.h"

pg_err pg_saliency_gradient(const pg_saliency *method, pg_pass *pass, float *attribution,
                            pg_diag *diag) {
    pg_err err = pg_pass_backward(pass, method->prunes, diag);
    if (!err)
        memcpy(attribution, pg_session_d_input(pass->session),
               (size_t)pass->input_count * sizeof *attribution);
    return err;
}
