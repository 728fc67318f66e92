/* Class activation maps: each is a weight per channel of one layer's activation A [C,P], or per
 * element, summed over channels to a map [P]. G [C,P] is the score's gradient at A. Definitions are
 * those of pytorch-grad-cam 1.5.5, which gives none of them a bias term; sums are in double. */
#ifndef PG_PIPELINE_CAM_H
#define PG_PIPELINE_CAM_H

#include <stdbool.h>
#include <stdint.h>

/* GradCAM (Selvaraju et al. 2017): w_c = mean over P of G. */
void pg_cam_grad_weights(int64_t channels, int64_t area, const float *g, double *weights);

/* GradCAM++ (Chattopadhay et al. 2018, eq. 19 for an exponential score):
 * w_c = sum over P of ReLU(G) G^2 / (2 G^2 + G^3 sum(A_c) + 1e-6), 0 where G = 0. */
void pg_cam_plus_plus_weights(int64_t channels, int64_t area, const float *a, const float *g,
                              double *weights);

/* AblationCAM (Desai & Ramaswamy 2020), w_c = (y - y_c) / y with channel c at 0, where the score is
 * affine in A: y - y_c = <G_c, A_c>. */
void pg_cam_affine_drops(int64_t channels, int64_t area, const float *a, const float *g,
                         double score, double *weights);

/* map[p] = sum over c of w_c A[c,p]. */
void pg_cam_sum(int64_t channels, int64_t area, const float *a, const double *weights, float *map);

/* LayerCAM (Jiang et al. 2021): map = sum over c of ReLU(G) A. */
void pg_cam_layer(int64_t channels, int64_t area, const float *a, const float *g, float *map);

/* EigenCAM (Muhammad & Yeasin 2020): A^T, its columns centred, projected on its first right
 * singular vector. The sign, which a singular vector leaves open, is that in which the map
 * correlates with sum over c of A; `scratch` is [3 C + P]. False: A is constant, the map zero. */
bool pg_cam_eigen(int64_t channels, int64_t area, const float *a, double *scratch, float *map);

/* Negative values to 0, then minimum to 0 and maximum to 1 (divided by max + 1e-7). False: nothing
 * positive was there, or all the same: the map is zero. */
bool pg_cam_scale(int64_t area, float *map);

#endif
