#include "pipeline/quadrature.h"

#include <math.h>

int pg_quadrature_points(pg_quadrature rule, int steps) {
    return rule == PG_QUADRATURE_TRAPEZOID ? steps + 1 : steps;
}

/* P_n(t) and its derivative, by the three-term recurrence. */
static double legendre(int n, double t, double *slope) {
    double before = 1, p = t;
    for (int k = 2; k <= n; k++) {
        double next = ((2 * k - 1) * t * p - (k - 1) * before) / k;
        before = p;
        p = next;
    }
    *slope = n * (t * p - before) / (t * t - 1);
    return p;
}

/* Zeros of P_n by Newton's method from Chebyshev's, weights 2 / ((1 - t^2) P_n'(t)^2), both moved
 * from [-1, 1] to [0, 1]. (Abramowitz and Stegun 25.4.29) */
static void gauss_legendre(int n, double *points, double *weights) {
    for (int i = 0; i < n; i++) {
        double t = -cos(3.14159265358979323846 * (i + 0.75) / (n + 0.5)), slope = 1;
        for (int k = 0; k < 20; k++) {
            double step = legendre(n, t, &slope) / slope;
            t -= step;
            if (fabs(step) < 1e-15)
                break;
        }
        legendre(n, t, &slope);
        points[i] = (1 + t) / 2;
        weights[i] = 1 / ((1 - t * t) * slope * slope);
    }
}

void pg_quadrature_fill(pg_quadrature rule, int steps, double *points, double *weights) {
    if (rule == PG_QUADRATURE_GAUSS_LEGENDRE) {
        gauss_legendre(steps, points, weights);
        return;
    }
    int n = pg_quadrature_points(rule, steps);
    for (int i = 0; i < n; i++) {
        points[i] = n > 1 ? (double)i / (n - 1) : 0;
        weights[i] = 1.0 / steps;
    }
    weights[0] /= 2;
    weights[n - 1] /= 2;
}

void pg_quadrature_order(int points, int *order) {
    int bits = 0, n = 0;
    while (1 << bits < points)
        bits++;
    for (int i = 0; i < 1 << bits; i++) {
        int reversed = 0;
        for (int b = 0; b < bits; b++)
            reversed |= (i >> b & 1) << (bits - 1 - b);
        if (reversed < points)
            order[n++] = reversed;
    }
}
