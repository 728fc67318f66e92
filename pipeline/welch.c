/* With thousands of samples t is easily 60, and p = 1e-700: zero in double, for many channels at
 * once. So the tail is never formed; its logarithm is.
 *
 *   P(T > t) = I_x(df/2, 1/2) / 2 for t >= 0, x = df / (df + t^2)
 *   ln I_x(a,b) = a ln x + b ln(1-x) - ln a - ln B(a,b) + ln(continued fraction)
 *
 * The continued fraction (modified Lentz) lies near 1 and converges fast for x below about
 * a/(a+b); above, where p is near 1/2, I_x = 1 - I_{1-x}(b,a) loses nothing.
 */
#include "pipeline/welch.h"

#include <math.h>

#include "kernels/defect.h"

/* ln Gamma(a + 1/2) - ln Gamma(a): for large a the difference of two lgamma would cancel. */
static double log_gamma_half_step(double a) {
    if (a < 25) {
        int sign;
        return lgamma_r(a + 0.5, &sign) - lgamma_r(a, &sign);
    }
    double r = 1 / a, r2 = r * r;
    return 0.5 * log(a) - r / 8 * (1 - r2 / 24 * (1 - r2 * 3 / 10 * (1 - r2 * 85 / 112)));
}

/* The continued fraction of the incomplete beta function. */
static double beta_fraction(double a, double b, double x) {
    const double tiny = 1e-300;
    double c = 1, d = 1 - (a + b) * x / (a + 1);
    d = 1 / (fabs(d) < tiny ? tiny : d);
    double h = d;
    for (int i = 1; i < 100000; i++) {
        double m = i, even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
        double parts[2] = {even, odd}, step = 1;
        for (int k = 0; k < 2; k++) {
            d = 1 + parts[k] * d;
            c = 1 + parts[k] / c;
            d = 1 / (fabs(d) < tiny ? tiny : d);
            c = fabs(c) < tiny ? tiny : c;
            step = d * c;
            h *= step;
        }
        if (fabs(step - 1) < 1e-16)
            break;
    }
    return h;
}

/* ln of the two-sided tail P(|T| > t), t >= 0. */
static double log_student_two_sided(double t, double df) {
    double log_ratio = 2 * log(t) - log(df);                             /* ln(t^2 / df) */
    double log_sum = log_ratio > 40 ? log_ratio : log1p(exp(log_ratio)); /* ln(1 + t^2/df) */
    double log_x = -log_sum, log_y = log_ratio - log_sum;                /* y = 1 - x */
    double a = df / 2, b = 0.5;
    /* B(a, 1/2) = Gamma(a) sqrt(pi) / Gamma(a + 1/2) */
    double log_front = a * log_x + b * log_y + log_gamma_half_step(a) - 0.5 * log(M_PI);
    double x = exp(log_x);
    if (x < (a + 1) / (a + b + 2))
        return log_front - log(a) + log(beta_fraction(a, b, x));
    return log1p(-exp(log_front - log(b)) * beta_fraction(b, a, exp(log_y)));
}

double pg_log_student_sf(double t, double df) {
    if (isnan(t) || isnan(df))
        return NAN;
    if (t == 0)
        return -M_LN2;
    if (isinf(t))
        return t > 0 ? -INFINITY : 0;
    double two_sided = log_student_two_sided(fabs(t), df);
    return t > 0 ? two_sided - M_LN2 : log1p(-0.5 * exp(two_sided));
}

double pg_log_normal_sf(double z) {
    if (z < -1)
        return log1p(-0.5 * erfc(-z / M_SQRT2));
    if (z < 10)
        return log(0.5 * erfc(z / M_SQRT2));
    if (isinf(z))
        return -INFINITY;
    /* Mills' ratio: P(Z > z) = phi(z) / (z + 1/(z + 2/(z + 3/...))) */
    double fraction = z;
    for (int i = 40; i >= 1; i--)
        fraction = z + i / fraction;
    return -0.5 * z * z - 0.5 * log(2 * M_PI) - log(fraction);
}

/* Both groups are constant. */
static pg_test without_variance(double difference, double df) {
    double t = difference > 0 ? INFINITY : difference < 0 ? -INFINITY : 0;
    return (pg_test){t, df, pg_log_student_sf(t, 1)};
}

pg_test pg_student(const pg_sample *a, const pg_sample *b) {
    double difference = a->mean - b->mean, df = a->count + b->count - 2;
    double v = ((a->count - 1) * a->variance + (b->count - 1) * b->variance) / df;
    if (!(v > 0))
        return without_variance(difference, df);
    double t = difference / sqrt(v * (1 / a->count + 1 / b->count));
    return (pg_test){t, df, pg_log_student_sf(t, df)};
}

pg_test pg_welch(const pg_sample *a, const pg_sample *b) {
    double va = a->variance / a->count, vb = b->variance / b->count, v = va + vb;
    double difference = a->mean - b->mean;
    if (!(v > 0))
        return without_variance(difference, a->count + b->count - 2);
    if (pg_defect("pooled-student"))
        return pg_student(a, b);
    /* Shares instead of variances: their squares cannot underflow. */
    double sa = va / v, sb = vb / v, t = difference / sqrt(v);
    double df = 1 / (sa * sa / (a->count - 1) + sb * sb / (b->count - 1));
    return (pg_test){t, df, pg_log_student_sf(t, df)};
}
