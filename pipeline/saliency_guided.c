/* Guided backpropagation (Springenberg, Dosovitskiy, Brox, Riedmiller, "Striving for simplicity:
 * the all convolutional net", arXiv:1412.6806): backward, but at every ReLU only what is positive
 * both ways passes: the activation's input, and the gradient that comes from above. */
#include "kernels/op.h"
#include "pipeline/explainer.h"

/* Without a ReLU it would be the plain gradient under another name. */
static pg_err check(const pg_saliency *method, const pg_explainer *explainer, pg_diag *diag) {
    for (int i = 0; i < pg_model_op_count(explainer->model); i++)
        if (pg_model_op(explainer->model, i)->relu)
            return PG_OK;
    return pg_fail(diag, PG_ECONFIG,
                   "method '%s' changes how gradients pass ReLU, and this network has none",
                   method->name);
}

static pg_err run(const pg_saliency *method, pg_pass *pass, void *state, pg_attribution *out,
                  pg_diag *diag) {
    (void)method, (void)state;
    pg_err err = pg_pass_backward_guided(pass, diag);
    if (!err)
        out->values = pg_session_d_input(pass->session);
    return err;
}

const pg_saliency_kind pg_saliency_guided = {
    .check = check, .cost = pg_saliency_one_pass, .run = run};
