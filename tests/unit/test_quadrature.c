#include <criterion/criterion.h>

#include <math.h>
#include <string.h>

#include "pipeline/quadrature.h"

enum { MOST = 1001 };
static double points[MOST], weights[MOST];

static double integrate(int n, int power) {
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += weights[i] * pow(points[i], power);
    return sum;
}

static const pg_quadrature rules[] = {PG_QUADRATURE_TRAPEZOID, PG_QUADRATURE_GAUSS_LEGENDRE,
                                      PG_QUADRATURE_RIEMANN_TRAPEZOID};
static const int steps[] = {1, 2, 3, 5, 25, 50, 100, 1000};

/* Sums of up to 1000 weights: rounding stays below 1e-13. */
Test(quadrature, weights_sum_to_one_and_points_ascend) {
    for (int r = 0; r < 3; r++)
        for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
            int n = pg_quadrature_points(rules[r], steps[s]);
            cr_assert_eq(n, rules[r] == PG_QUADRATURE_TRAPEZOID ? steps[s] + 1 : steps[s]);
            pg_quadrature_fill(rules[r], steps[s], points, weights);
            bool captum = rules[r] == PG_QUADRATURE_RIEMANN_TRAPEZOID;
            double whole = !captum ? 1 : n == 1 ? 0.25 : (steps[s] - 1.0) / steps[s];
            cr_expect(fabs(integrate(n, 0) - whole) < 1e-13, "rule %d, %d steps", r, steps[s]);
            cr_expect(points[0] >= 0 && points[n - 1] <= 1);
            for (int i = 1; i < n; i++)
                cr_expect(points[i] > points[i - 1] && weights[i] > 0);
        }
}

Test(quadrature, the_trapezoid_has_both_ends_and_is_exact_for_lines) {
    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
        int m = steps[s];
        pg_quadrature_fill(PG_QUADRATURE_TRAPEZOID, m, points, weights);
        cr_expect(points[0] == 0 && points[m] == 1);
        cr_expect_eq(weights[0], 0.5 / m);
        cr_expect_eq(weights[m], 0.5 / m);
        cr_expect(fabs(integrate(m + 1, 1) - 0.5) < 1e-13);
        /* of squares the error is 1 / (6 m^2) */
        cr_expect(fabs(integrate(m + 1, 2) - 1.0 / 3 - 1.0 / (6.0 * m * m)) < 1e-13);
    }
}

Test(quadrature, gauss_is_exact_to_degree_2n_minus_1_and_no_further) {
    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++) {
        int n = steps[s];
        pg_quadrature_fill(PG_QUADRATURE_GAUSS_LEGENDRE, n, points, weights);
        for (int p = 0; p < 2 * n && p < 60; p++)
            cr_expect(fabs(integrate(n, p) * (p + 1) - 1) < 1e-12, "n %d, power %d: %g", n, p,
                      integrate(n, p) * (p + 1) - 1);
        for (int i = 0; i < n; i++) { /* the middle is an axis of symmetry */
            cr_expect(fabs(points[i] + points[n - 1 - i] - 1) < 1e-14);
            cr_expect(fabs(weights[i] - weights[n - 1 - i]) < 1e-14);
        }
    }
    pg_quadrature_fill(PG_QUADRATURE_GAUSS_LEGENDRE, 2, points, weights);
    cr_expect(fabs(integrate(2, 4) - 0.2) > 1e-3);
    /* n = 3: (1 -+ sqrt(3/5)) / 2 with 5/18, 1/2 with 4/9 */
    pg_quadrature_fill(PG_QUADRATURE_GAUSS_LEGENDRE, 3, points, weights);
    cr_expect(fabs(points[0] - (1 - sqrt(0.6)) / 2) < 1e-15);
    cr_expect(fabs(weights[0] - 5.0 / 18) < 1e-15 && fabs(weights[1] - 4.0 / 9) < 1e-15);
}

Test(quadrature, the_order_visits_each_point_once_and_spreads) {
    static int order[MOST];
    static bool seen[MOST];
    for (int n = 1; n <= MOST; n += n < 70 ? 1 : 97) {
        memset(seen, 0, sizeof seen);
        pg_quadrature_order(n, order);
        for (int i = 0; i < n; i++) {
            cr_assert(order[i] >= 0 && order[i] < n && !seen[order[i]]);
            seen[order[i]] = true;
        }
        cr_expect_eq(order[0], 0);
    }
    /* of 64, any 2^k first ones lie 64 / 2^k apart */
    pg_quadrature_order(64, order);
    for (int first = 2; first <= 32; first *= 2)
        for (int i = 0; i < first; i++)
            cr_expect(order[i] % (64 / first) == 0);
}
