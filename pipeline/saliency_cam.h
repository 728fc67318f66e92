/* What the CAM methods share: the watched layer's activation and gradient as [C,h,w], and room. */
#ifndef PG_PIPELINE_SALIENCY_CAM_H
#define PG_PIPELINE_SALIENCY_CAM_H

#include "pipeline/saliency.h"

typedef struct pg_cam_state {
    int64_t channels, height, width, area; /* of the layer; area = height width */
    float *a, *g;                          /* [C,h,w]; g is filled by pg_cam_read_gradient */
    double *weights;                       /* [C] */
    double *scratch;                       /* [3 C + area] */
} pg_cam_state;

/* For the seam's `check`: PG_ECONFIG if the network has no layer to look at. */
pg_err pg_cam_check(const pg_saliency *method, const pg_explainer *explainer, pg_diag *diag);

/* For the seam's `open` and `close`. */
pg_err pg_cam_open(const pg_saliency *method, const pg_explainer *explainer, pg_pass *pass,
                   void **state, pg_diag *diag);
void pg_cam_close(void **state);

/* The costs of methods that need no, or only the tail's, backward pass. */
pg_cost pg_cam_cost(const pg_saliency *method, const pg_explainer *explainer);

/* The layer's activation of the last forward into state->a. */
void pg_cam_read_activation(const pg_pass *pass, pg_cam_state *state);

/* Backward from the explained score to the layer; its gradient into state->g. */
pg_err pg_cam_read_gradient(pg_pass *pass, pg_cam_state *state, pg_diag *diag);

/* Says that `out` holds a map [h,w] of the layer, which becomes a picture as the library's does. */
void pg_cam_describe(const pg_cam_state *state, pg_attribution *out);

#endif
