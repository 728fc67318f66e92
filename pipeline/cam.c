#include "pipeline/cam.h"

#include <math.h>

void pg_cam_grad_weights(int64_t channels, int64_t area, const float *g, double *weights) {
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0;
        for (int64_t p = 0; p < area; p++)
            sum += (double)g[c * area + p];
        weights[c] = sum / (double)area;
    }
}

void pg_cam_plus_plus_weights(int64_t channels, int64_t area, const float *a, const float *g,
                              double *weights) {
    const double tiny = 1e-6; /* of the definition */
    for (int64_t c = 0; c < channels; c++) {
        double total = 0, weight = 0;
        for (int64_t p = 0; p < area; p++)
            total += (double)a[c * area + p];
        for (int64_t p = 0; p < area; p++) {
            double d = (double)g[c * area + p];
            if (d > 0)
                weight += d * (d * d / (2 * d * d + total * d * d * d + tiny));
        }
        weights[c] = weight;
    }
}

void pg_cam_affine_drops(int64_t channels, int64_t area, const float *a, const float *g,
                         double score, double *weights) {
    for (int64_t c = 0; c < channels; c++) {
        double drop = 0;
        for (int64_t p = 0; p < area; p++)
            drop += (double)g[c * area + p] * (double)a[c * area + p];
        weights[c] = drop / score;
    }
}

void pg_cam_sum(int64_t channels, int64_t area, const float *a, const double *weights, float *map) {
    for (int64_t p = 0; p < area; p++) {
        double sum = 0;
        for (int64_t c = 0; c < channels; c++)
            sum += weights[c] * (double)a[c * area + p];
        map[p] = (float)sum;
    }
}

void pg_cam_layer(int64_t channels, int64_t area, const float *a, const float *g, float *map) {
    for (int64_t p = 0; p < area; p++) {
        double sum = 0;
        for (int64_t c = 0; c < channels; c++) {
            double d = (double)g[c * area + p];
            sum += d > 0 ? d * (double)a[c * area + p] : 0;
        }
        map[p] = (float)sum;
    }
}

/* ---- EigenCAM ---- */

/* out[p] = sum over c of v[c] (A[c,p] - mean[c]) */
static void project(int64_t channels, int64_t area, const float *a, const double *mean,
                    const double *v, double *out) {
    for (int64_t p = 0; p < area; p++)
        out[p] = 0;
    for (int64_t c = 0; c < channels; c++)
        for (int64_t p = 0; p < area; p++)
            out[p] += v[c] * ((double)a[c * area + p] - mean[c]);
}

/* One step of power iteration on the channels' covariance: v becomes `next`, normalised; returns
 * how far it turned. */
static double turn(int64_t channels, int64_t area, const float *a, const double *mean, double *v,
                   double *next, double *u) {
    double norm = 0, change = 0;
    project(channels, area, a, mean, v, u);
    for (int64_t c = 0; c < channels; c++) {
        next[c] = 0;
        for (int64_t p = 0; p < area; p++)
            next[c] += u[p] * ((double)a[c * area + p] - mean[c]);
        norm += next[c] * next[c];
    }
    norm = sqrt(norm);
    for (int64_t c = 0; c < channels && norm > 0; c++) {
        change += fabs(next[c] / norm - v[c]);
        v[c] = next[c] / norm;
    }
    return change;
}

/* The first direction: the centred row with the largest norm, a channel's own. It is not orthogonal
 * to the first singular vector unless that channel takes no part in it. */
static bool start(int64_t channels, int64_t area, const float *a, double *mean, double *v) {
    double largest = 0;
    int64_t at = 0;
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, square = 0;
        for (int64_t p = 0; p < area; p++)
            sum += (double)a[c * area + p];
        mean[c] = sum / (double)area;
        for (int64_t p = 0; p < area; p++) {
            double d = (double)a[c * area + p] - mean[c];
            square += d * d;
        }
        if (square > largest)
            largest = square, at = c;
        v[c] = 1e-3;
    }
    v[at] = 1;
    return largest > 0;
}

bool pg_cam_eigen(int64_t channels, int64_t area, const float *a, double *scratch, float *map) {
    enum { STEPS = 500 };
    double *mean = scratch, *v = mean + channels, *next = v + channels, *u = next + channels;
    if (!start(channels, area, a, mean, v)) {
        for (int64_t p = 0; p < area; p++)
            map[p] = 0;
        return false;
    }
    double change = 1;
    for (int i = 0; i < STEPS && change > 1e-9; i++)
        change = turn(channels, area, a, mean, v, next, u);
    project(channels, area, a, mean, v, u);
    double agreement = 0;
    for (int64_t p = 0; p < area; p++)
        for (int64_t c = 0; c < channels; c++)
            agreement += u[p] * ((double)a[c * area + p] - mean[c]);
    for (int64_t p = 0; p < area; p++)
        map[p] = (float)(agreement < 0 ? -u[p] : u[p]);
    return true;
}

/* ---- the picture ---- */

bool pg_cam_scale(int64_t area, float *map) {
    float least = INFINITY, most = 0;
    for (int64_t p = 0; p < area; p++) {
        map[p] = map[p] > 0 ? map[p] : 0;
        least = map[p] < least ? map[p] : least;
        most = map[p] > most ? map[p] : most;
    }
    for (int64_t p = 0; p < area; p++)
        map[p] = (map[p] - least) / (1e-7f + (most - least));
    return most > least;
}
