/* Percentile bootstrap (Efron 1979). Resamples come from a counter-based generator: a table printed
 * twice is the same table. */
#include <math.h>
#include <stdlib.h>

#include "kernels/mem.h"
#include "kernels/philox.h"
#include "pipeline/evaluate.h"

enum { RESAMPLES = 1000 };

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double resampled_mean(const double *values, int count, uint32_t number) {
    double sum = 0;
    uint32_t words[4];
    for (int i = 0; i < count; i++) {
        const uint32_t counter[4] = {(uint32_t)i / 4, number, 0, 0}, key[2] = {0x9e3779b9, 1};
        if (i % 4 == 0)
            pg_philox(counter, key, words);
        sum += values[(uint64_t)words[i % 4] * (uint64_t)count >> 32];
    }
    return sum / count;
}

pg_err pg_bootstrap(const double *values, int count, pg_interval *out, pg_diag *diag) {
    *out = (pg_interval){(double)NAN, (double)NAN, (double)NAN, 0};
    double *kept = pg_malloc(((size_t)count + RESAMPLES) * sizeof *kept), *means = kept + count;
    if (kept == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for confidence intervals");
    double sum = 0;
    for (int i = 0; i < count; i++)
        if (!isnan(values[i]))
            sum += kept[out->count++] = values[i];
    if (out->count > 0) {
        out->mean = sum / out->count;
        for (int i = 0; i < RESAMPLES; i++)
            means[i] = resampled_mean(kept, out->count, (uint32_t)i);
        qsort(means, RESAMPLES, sizeof *means, ascending);
        out->low = means[RESAMPLES * 25 / 1000];
        out->high = means[RESAMPLES * 975 / 1000 - 1];
    }
    pg_free(kept);
    return PG_OK;
}
