/* Rules that replace an integral over [0, 1] by a weighted sum of values at some points. */
#ifndef PG_PIPELINE_QUADRATURE_H
#define PG_PIPELINE_QUADRATURE_H

#include "pipeline/options.h"

/* trapezoid: steps + 1 points; the others: steps. */
int pg_quadrature_points(pg_quadrature rule, int steps);

/* Writes the points, ascending, and their weights, which sum to 1 (riemann_trapezoid, captum's: to
 * (steps - 1) / steps). Gauss-Legendre is exact for polynomials of degree 2 steps - 1, the
 * trapezoid for straight lines. steps >= 1. */
void pg_quadrature_fill(pg_quadrature rule, int steps, double *points, double *weights);

/* The order in which points are visited when there may be no time for all: any number of the first
 * ones is spread over the whole interval (van der Corput's sequence). */
void pg_quadrature_order(int points, int *order);

#endif
