/* The formulas of method.md sections 3 and 10, and the properties of section 8 that need no
 * network: two group maps are made up, weighed, and the result is measured. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/compat.h"
#include "pipeline/prune.h"

enum { AREA = 49 };

static pg_prune_options with(double gamma, pg_conserve conserve) {
    return (pg_prune_options){.gamma = gamma, .conserve = conserve};
}

static double covariance(const double *a, const double *b) {
    double ma = 0, mb = 0, sum = 0;
    for (int i = 0; i < AREA; i++) {
        ma += a[i] / AREA;
        mb += b[i] / AREA;
    }
    for (int i = 0; i < AREA; i++)
        sum += (a[i] - ma) * (b[i] - mb);
    return sum / (AREA - 1);
}

static double mean_square(const double *a) {
    double sum = 0;
    for (int i = 0; i < AREA; i++)
        sum += a[i] * a[i] / AREA;
    return sum;
}

static pg_group_moments moments_of(const double *h, const double *l) {
    return (pg_group_moments){AREA,           covariance(h, h), covariance(l, l), covariance(h, l),
                              mean_square(h), mean_square(l)};
}

/* Two correlated maps of different size. */
static void make(double *h, double *l, unsigned seed) {
    srand(seed);
    for (int i = 0; i < AREA; i++) {
        h[i] = 0.3 + rand() / (double)RAND_MAX;
        l[i] = 4 * (rand() / (double)RAND_MAX) - 1 + 0.8 * h[i];
    }
}

static int near(double a, double b) { return fabs(a - b) <= 1e-9 * fmax(fabs(a), fabs(b)); }

Test(prune, factors_by_hand) {
    const pg_group_moments m = {10, 4, 12, 1, 5, 13}; /* M 4, N 12, Cov 1 */
    pg_prune_options o = with(INFINITY, PG_CONSERVE_APPROX);
    pg_prune_factors f = pg_prune_weigh(&o, &m);
    cr_assert(f.high == 2 && f.low == 0 && f.beta == 2 && f.share == 0.25 && !f.degenerate);
    o.conserve = PG_CONSERVE_OFF;
    f = pg_prune_weigh(&o, &m);
    cr_assert(f.high == 1 && f.low == 0 && f.beta == 1);
    o.conserve = PG_CONSERVE_EXACT; /* sqrt((4 + 12 + 2) / 4) */
    f = pg_prune_weigh(&o, &m);
    cr_assert(near(f.high, sqrt(4.5)) && f.low == 0);
    o = with(2, PG_CONSERVE_APPROX); /* g = 2 sqrt(3); beta = sqrt(16 / (4 12 + 12)) */
    f = pg_prune_weigh(&o, &m);
    cr_assert(near(f.low, sqrt(16.0 / 60)) && near(f.high, 2 * sqrt(3) * f.low));
    o.conserve = PG_CONSERVE_OFF;
    f = pg_prune_weigh(&o, &m);
    cr_assert(near(f.high, 2 * sqrt(3)) && f.low == 1 && f.beta == 1);
    o.conserve = PG_CONSERVE_EXACT; /* beta = sqrt(18 / (60 + 2 g)) */
    f = pg_prune_weigh(&o, &m);
    cr_assert(near(f.beta, sqrt(18 / (60 + 4 * sqrt(3)))) && near(f.low, f.beta));
}

/* Var(S'_H) = M + N, or the finite split of it; std(S'_H) = gamma std(S'_L); exact: Var(S') =
 * Var(S). */
Test(prune, what_is_conserved) {
    static const double gammas[] = {INFINITY, 0.2, 1, 3, 100};
    for (unsigned seed = 1; seed < 50; seed++)
        for (size_t k = 0; k < 5; k++)
            for (int exact = 0; exact < 2; exact++) {
                double h[AREA], l[AREA], sum[AREA], after[AREA];
                make(h, l, seed);
                pg_group_moments m = moments_of(h, l);
                pg_prune_options o =
                    with(gammas[k], exact ? PG_CONSERVE_EXACT : PG_CONSERVE_APPROX);
                pg_prune_factors f = pg_prune_weigh(&o, &m);
                for (int i = 0; i < AREA; i++) {
                    sum[i] = h[i] + l[i];
                    h[i] *= f.high;
                    l[i] *= f.low;
                    after[i] = h[i] + l[i];
                }
                double vh = covariance(h, h), vl = covariance(l, l);
                if (exact)
                    cr_assert(near(covariance(after, after), covariance(sum, sum)));
                else
                    cr_assert(near(vh + vl, m.var_high + m.var_low), "gamma %g", gammas[k]);
                if (isfinite(gammas[k]))
                    cr_assert(near(sqrt(vh), gammas[k] * sqrt(vl)));
                else
                    cr_assert_eq(vl, 0);
            }
}

Test(prune, finite_gamma_tends_to_infinite) {
    double h[AREA], l[AREA];
    make(h, l, 7);
    pg_group_moments m = moments_of(h, l);
    for (int c = 0; c < 2; c++) {
        pg_conserve conserve = c ? PG_CONSERVE_EXACT : PG_CONSERVE_APPROX;
        pg_prune_options far = with(1e7, conserve), limit = with(INFINITY, conserve);
        pg_prune_factors a = pg_prune_weigh(&far, &m), b = pg_prune_weigh(&limit, &m);
        cr_assert(fabs(a.high / b.high - 1) < 1e-6 && fabs(a.low) < 1e-6 * b.high);
    }
}

/* f(s seed) = s f(seed): the factors do not know the seed's scale, degenerate or not. */
Test(prune, scale_of_the_seed_does_not_matter) {
    for (int degenerate = 0; degenerate < 2; degenerate++) {
        pg_group_moments m = {49, degenerate ? 3e-13 : 3, 2, 1e-7, 5, 4};
        for (int c = 0; c <= PG_CONSERVE_OFF; c++)
            for (int e = -80; e <= 80; e += 10) {
                double s = pow(2, e);
                pg_group_moments n = {49,        m.var_high * s,         m.var_low * s,
                                      m.cov * s, m.mean_square_high * s, m.mean_square_low * s};
                pg_prune_options o = with(3, (pg_conserve)c);
                pg_prune_factors a = pg_prune_weigh(&o, &m), b = pg_prune_weigh(&o, &n);
                cr_assert(near(a.high, b.high) && near(a.low, b.low) && near(a.share, b.share));
                cr_assert(a.degenerate == b.degenerate && a.degenerate == (degenerate == 1));
            }
    }
}

static bool alone(pg_prune_options o, pg_group_moments m) {
    pg_prune_factors f = pg_prune_weigh(&o, &m);
    cr_assert(!f.degenerate || (f.high == 1 && f.low == 1 && f.beta == 1));
    cr_assert(isfinite(f.high) && isfinite(f.low) && isfinite(f.share));
    return f.degenerate;
}

Test(prune, degenerate_layers_are_left_alone) {
    pg_prune_options all[3] = {with(INFINITY, PG_CONSERVE_APPROX),
                               with(INFINITY, PG_CONSERVE_EXACT), with(INFINITY, PG_CONSERVE_OFF)};
    for (int i = 0; i < 3; i++) {
        pg_prune_options finite = all[i];
        finite.gamma = 3;
        cr_assert(alone(all[i], (pg_group_moments){9, 0, 0, 0, 0, 0}));
        cr_assert(alone(all[i], (pg_group_moments){9, 0, 1, 0, 0, 1}));
        cr_assert(alone(all[i], (pg_group_moments){9, 0.9e-12, 1, 0, 1e-12, 1}));
        cr_assert(!alone(all[i], (pg_group_moments){9, 1.1e-12, 1, 0, 1e-12, 1}));
        cr_assert(!alone(all[i], (pg_group_moments){9, 1, 0, 0, 1, 0}));
        cr_assert(alone(finite, (pg_group_moments){9, 1, 0, 0, 1, 0}));
        cr_assert(alone(finite, (pg_group_moments){9, 1, 0.9e-12, 0, 1, 1e-12}));
        /* a constant map's variance is rounding: far below its mean square */
        cr_assert(alone(all[i], (pg_group_moments){9, 1e-8, 1e-7, 0, 1e5, 1e5}));
        cr_assert(alone(all[i], (pg_group_moments){9, NAN, 1, 0, 1, 1}));
    }
    /* S_H = -S_L, gamma 1: nothing is left after the split, and nothing to compare with */
    cr_assert(alone(with(1, PG_CONSERVE_EXACT), (pg_group_moments){9, 1, 1, -1, 1, 1}));
    cr_assert(!alone(with(1, PG_CONSERVE_APPROX), (pg_group_moments){9, 1, 1, -1, 1, 1}));
}

/* Squeeze-excite: one position, squares instead of variances. */
Test(prune, single_position) {
    pg_prune_options o = with(INFINITY, PG_CONSERVE_EXACT);
    const pg_group_moments m = {1, 9, 16, 12, 9, 16}; /* S_H 3, S_L 4 */
    pg_prune_factors f = pg_prune_weigh(&o, &m);
    cr_assert(near(f.high * 3, 7));
    o.conserve = PG_CONSERVE_APPROX;
    f = pg_prune_weigh(&o, &m);
    cr_assert(near(f.high * 3, 5));
}

/* The authors' |S| at one position, and their 1e-13: both groups without variance share it, and a
 * smaller seed makes another beta. */
Test(prune, compat) {
    pg_prune_options o = with(INFINITY, PG_CONSERVE_APPROX);
    const pg_group_moments one = {1, 9, 16, 12, 9, 16}, flat = {49, 0, 0, 0, 5, 13};
    o.compat = PG_COMPAT_width;
    cr_assert(near(pg_prune_weigh(&o, &one).beta, sqrt(7.0 / 3)));
    o.compat = PG_COMPAT_floor;
    cr_assert(near(pg_prune_weigh(&o, &one).beta, sqrt((9 + 16 + 2e-13) / (9 + 1e-13))));
    pg_prune_factors f = pg_prune_weigh(&o, &flat);
    cr_assert(!f.degenerate && near(f.beta, sqrt(2)) && f.low == 0);
    const pg_group_moments small = {49, 1e-13, 6e-13, 0, 1e-13, 6e-13};
    cr_assert(near(pg_prune_weigh(&o, &small).beta, sqrt(9.0 / 2)));
    const pg_group_moments large = {49, 1e3, 6e3, 0, 1e3, 6e3};
    cr_assert(near(pg_prune_weigh(&o, &large).beta, sqrt(7)));
    const pg_group_moments lost = {49, 0, 1, 0, 0, 1};
    cr_assert(near(pg_prune_weigh(&o, &lost).beta, sqrt((1 + 2e-13) / 1e-13)));
    o.conserve = PG_CONSERVE_OFF;
    cr_assert(pg_prune_weigh(&o, &lost).high == 1 && pg_prune_weigh(&o, &lost).low == 0);
}

/* 10 vectors of scale 0.1 and 1 against 100 of scale 0.1 in both: H dominates the second axis
 * although L outnumbers it, L dominates the first. */
Test(prune, vector_sum) {
    srand(3);
    double high[2] = {0}, low[2] = {0};
    for (int trial = 0; trial < 2000; trial++) {
        double h[2] = {0}, l[2] = {0};
        for (int i = 0; i < 110; i++)
            for (int axis = 0; axis < 2; axis++) {
                double scale = i < 10 && axis == 1 ? 1 : 0.1;
                double x = scale * (2.0 * rand() / RAND_MAX - 1);
                *(i < 10 ? &h[axis] : &l[axis]) += x;
            }
        for (int axis = 0; axis < 2; axis++) {
            high[axis] += h[axis] * h[axis];
            low[axis] += l[axis] * l[axis];
        }
    }
    cr_assert(high[1] > 5 * low[1] && low[0] > 5 * high[0]);
}

/* ---- the pass's bookkeeping ---- */

Test(prune, begin_and_results) {
    const pg_conv_info convs[3] = {
        {.name = "a", .channels = 4}, {.name = "b", .channels = 2}, {.name = "c", .channels = 2}};
    int which[2] = {0, 2};
    int64_t offset[3] = {0, 4, 6}, kept[2] = {1, 2};
    const uint8_t keep[6] = {0, 1, 0, 0, 1, 1};
    pg_layers layers = {2, which, offset, 6};
    pg_prune_options o = with(INFINITY, PG_CONSERVE_APPROX);
    pg_prune *p = NULL;
    cr_assert_eq(pg_prune_create(&o, convs, 3, &layers, &p, NULL), PG_OK);
    pg_selection selection = {keep, kept, "list", true};
    const pg_conv_prune *c = pg_prune_begin(p, &selection);
    cr_assert(c[0].keep == keep && c[1].keep == NULL);
    cr_assert(c[2].keep == NULL, "all kept is the plain gradient, bit for bit");
    const pg_group_moments m = {10, 4, 12, 1, 5, 13};
    float high = 0, low = 9;
    cr_assert(c[0].weigh(c[0].user, &m, &high, &low));
    cr_assert(high == 2 && low == 0);
    const pg_layer_result *r = pg_prune_results(p);
    cr_assert(r[0].conv == 0 && r[0].kept == 1 && r[0].total == 4 && r[0].beta == 2);
    cr_assert(r[0].share == 0.25f && !r[0].degenerate && !strcmp(r[0].name, "a"));
    cr_assert(r[1].conv == 2 && r[1].degenerate && r[1].kept == 2 && r[1].beta == 1);
    cr_assert(!pg_prune_degenerate(p), "left alone, but not for lack of variance");
    c = pg_prune_begin(p, &selection);
    const pg_group_moments dead = {10, 0, 12, 0, 0, 13};
    cr_assert(!c[0].weigh(c[0].user, &dead, &high, &low));
    cr_assert(pg_prune_degenerate(p) && r[0].degenerate);
    kept[0] = 0;
    c = pg_prune_begin(p, &selection);
    cr_assert(c[0].keep == NULL && !pg_prune_degenerate(p));
    pg_prune_destroy(&p);
}
