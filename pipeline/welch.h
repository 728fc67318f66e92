/* One-sided tests whose p-values stay comparable where p itself is 0 in double: everything is a
 * logarithm (method.md section 5). */
#ifndef PG_PIPELINE_WELCH_H
#define PG_PIPELINE_WELCH_H

/* One group: number of values, mean, variance with divisor n - 1. */
typedef struct pg_sample {
    double count, mean, variance;
} pg_sample;

typedef struct pg_test {
    double t, df;
    double log_p; /* ln P(T > t): the evidence that the first mean is NOT greater */
} pg_test;

/* Welch's t with Welch-Satterthwaite degrees of freedom: is the mean of `a` greater than that of
 * `b`? Both groups need two values. Without any variance t is +-infinity, or 0 for equal means. */
pg_test pg_welch(const pg_sample *a, const pg_sample *b);

/* Student's t with one variance assumed for both groups, else the same. */
pg_test pg_student(const pg_sample *a, const pg_sample *b);

/* ln P(T > t) of Student's t with df > 0 degrees of freedom. */
double pg_log_student_sf(double t, double df);

/* ln P(Z > z) of the standard normal distribution. */
double pg_log_normal_sf(double z);

#endif
