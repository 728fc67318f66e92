/* Expected values: mpmath with 60 digits,
 *
 *   logsf = lambda t, df: log(betainc(df/2, .5, 0, df/(df + t*t), regularized=True) / 2)   (t > 0)
 *   normal = lambda z: log(erfc(z / sqrt(2)) / 2)
 *
 * and, where they do not underflow, equal to scipy 1.13.1's t.logsf, norm.logsf and
 * ttest_ind_from_stats(..., equal_var=False, alternative='greater') to 15 digits. */
#include <criterion/criterion.h>
#include <math.h>

#include "pipeline/welch.h"

static int close_to(double got, double want, double tolerance) {
    if (got == want)
        return 1;
    return fabs(got - want) <= tolerance * fmax(fabs(want), 1e-300);
}

Test(welch, student_tail) {
    static const double cases[][3] = {
        {0, 3, -0.69314718055994531},      {0.5, 1, -1.0429418980620317},
        {2, 4.5, -2.9163860497740616},     {10, 2, -5.3131815914716089},
        {-3, 7, -0.010021107054400556},    {60, 2999.5, -1187.2446533465426},
        {10000, 12, -97.796846509195185},  {5, 1e6, -15.064829835370246},
        {0.001, 50, -0.69394140109409142}, {1e-9, 10, -0.69314718133816208},
        {40, 40, -77.029317040352618},     {-40, 40, -3.5204052873892461e-34},
        {1e160, 3, -1105.1431211980973},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double got = pg_log_student_sf(cases[i][0], cases[i][1]);
        cr_assert(close_to(got, cases[i][2], 1e-12), "t %g df %g: %.17g, not %.17g", cases[i][0],
                  cases[i][1], got, cases[i][2]);
    }
    cr_assert(pg_log_student_sf(INFINITY, 5) == -INFINITY);
    cr_assert(pg_log_student_sf(-INFINITY, 5) == 0);
    cr_assert(isnan(pg_log_student_sf(NAN, 5)));
}

Test(welch, student_tail_falls_everywhere) {
    static const double dfs[] = {0.7, 1, 3, 49.9, 50.1, 1000, 3e5};
    for (size_t i = 0; i < sizeof dfs / sizeof dfs[0]; i++) {
        double before = 0;
        for (double t = -50; t < 200; t += 0.25) {
            double p = pg_log_student_sf(t, dfs[i]);
            cr_assert(p < before || (p == before && p > -1e-15), "df %g t %g: %.17g after %.17g",
                      dfs[i], t, p, before);
            before = p;
        }
    }
}

Test(welch, normal_tail) {
    static const double cases[][2] = {
        {-40, 0},
        {-8, -6.2209605742717861e-16},
        {-1, -0.17275377902344989},
        {0, -0.69314718055994531},
        {0.5, -1.1759117615936186},
        {1, -1.8410216450092635},
        {5, -15.064998393988726},
        {9.9, -52.226428300404045},
        {10.1, -54.246047542693631},
        {37, -689.03058557689059},
        {39, -765.08315656437754},
        {100, -5005.5242086942051},
        {1e5, -5000000012.431864},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        double got = pg_log_normal_sf(cases[i][0]);
        cr_assert(close_to(got, cases[i][1], 1e-12), "z %g: %.17g, not %.17g", cases[i][0], got,
                  cases[i][1]);
    }
}

/* Unequal variances and counts: a pooled variance gives other numbers in every row but the fourth.
 */
Test(welch, is_not_pooled) {
    static const struct {
        pg_sample a, b;
        double t, df, log_p;
    } cases[] = {
        {{5, 1.2, 0.3}, {9, 1, 0.02}, 0.80178372573727308, 4.2988348183687455, -1.4595855219512242},
        {{3, 0.1, 1e-4},
         {2000, 0.09, 0.5},
         0.59408852578600502,
         136.80108927302862,
         -1.2847598410344469},
        {{500, 2, 0.25},
         {9500, 0.5, 0.09},
         66.455415987333845,
         518.07884557710404,
         -587.82762323266255},
        {{10, 0.2, 0.1}, {10, 0.4, 0.1}, -1.4142135623730951, 18, -0.091218480852751429},
        {{2, 1e-6, 1e-16},
         {7, 2e-6, 3e-14},
         -15.186918848753231,
         6.1358057586304518,
         -2.1208442452850231e-6},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pg_test got = pg_welch(&cases[i].a, &cases[i].b);
        cr_assert(close_to(got.t, cases[i].t, 1e-13), "%zu: t %.17g", i, got.t);
        cr_assert(close_to(got.df, cases[i].df, 1e-12), "%zu: df %.17g", i, got.df);
        cr_assert(close_to(got.log_p, cases[i].log_p, 1e-9), "%zu: log p %.17g", i, got.log_p);
    }
}

/* Student's, from the same formula of the tail with the pooled variance. */
Test(welch, student) {
    static const struct {
        pg_sample a, b;
        double t, df, log_p;
    } cases[] = {
        {{5, 1.2, 0.3}, {9, 1, 0.02}, 1.0651074037450895, 12, -1.8714857121601843},
        {{500, 2, 0.25}, {9500, 0.5, 0.09}, 104.43761419313896, 9998, -3692.5291684157792},
        {{10, 0.2, 0.1}, {10, 0.4, 0.1}, -1.414213562373095, 18, -0.091218480852751435},
        {{5, 2, 0}, {4, 1, 0}, INFINITY, 7, -INFINITY},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pg_test got = pg_student(&cases[i].a, &cases[i].b);
        cr_assert(close_to(got.t, cases[i].t, 1e-13), "%zu: t %.17g", i, got.t);
        cr_assert(close_to(got.df, cases[i].df, 1e-15), "%zu: df %.17g", i, got.df);
        cr_assert(close_to(got.log_p, cases[i].log_p, 1e-9), "%zu: log p %.17g", i, got.log_p);
    }
}

Test(welch, without_variance) {
    pg_sample low = {5, 1, 0}, high = {5, 2, 0};
    cr_assert(pg_welch(&high, &low).t == INFINITY);
    cr_assert(pg_welch(&high, &low).log_p == -INFINITY);
    cr_assert(pg_welch(&low, &high).log_p == 0);
    cr_assert(pg_welch(&low, &low).t == 0);
    pg_sample wide = {5, 2, 0.1};
    cr_assert(close_to(pg_welch(&wide, &low).df, 4, 1e-14));
}
