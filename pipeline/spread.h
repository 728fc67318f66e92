/* Mean and spread of samples as they come (Welford, Technometrics 4, 1962). */
#ifndef PG_PIPELINE_SPREAD_H
#define PG_PIPELINE_SPREAD_H

#include <math.h>

/* Zero-initialise. */
typedef struct pg_spread {
    int n;
    double mean, squares; /* squares: sum of squared distances from the mean */
} pg_spread;

static inline void pg_spread_note(pg_spread *spread, double value) {
    double before = value - spread->mean;
    spread->mean += before / ++spread->n;
    spread->squares += before * (value - spread->mean);
}

/* Standard error of the mean; NaN of fewer than two samples. */
static inline double pg_spread_error(const pg_spread *spread) {
    return spread->n > 1 ? sqrt(spread->squares / (spread->n - 1) / spread->n) : (double)NAN;
}

#endif
