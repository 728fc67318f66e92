/* What `bench` measured, between the file that measures (cmd_bench.c) and the one that prints
 * (bench_report.c). */
#ifndef PG_DAEMON_BENCH_H
#define PG_DAEMON_BENCH_H

#include <stdbool.h>

#include "kernels/peak.h"
#include "pipeline/pipeline.h"

enum {
    PG_BENCH_FORWARD,  /* of the bare network */
    PG_BENCH_BACKWARD, /* likewise */
    PG_BENCH_METHODS,  /* the first method's series */
    PG_BENCH_SERIES_MAX = 48
};

/* Times of one thing, in ms. */
typedef struct pg_series {
    const char *name;
    const char *method;               /* NULL: the bare network */
    bool wanted;                      /* --only may leave it out */
    double *ms;                       /* [count], sorted by pg_series_summarise */
    double *stage_ms[PG_STAGE_COUNT]; /* [count] likewise; NULL for the bare network */
    int count;
    double median, p10, p90, least;
    double stage_median[PG_STAGE_COUNT];
    pg_pipeline *pipeline; /* borrowed */
} pg_series;

/* PG_ENOMEM: no room for the times of `runs` runs. */
pg_err pg_series_create(pg_series *series, int runs, pg_diag *diag);
void pg_series_destroy(pg_series *series);
/* Sorts the times and fills in median, spread and minimum. At least one time is there. */
void pg_series_summarise(pg_series *series);

typedef struct pg_bench_result {
    const pg_model *model;
    const double *layer_ms; /* [2 * operators] the shortest forward and backward of each; NULL: not
                               asked for */
    pg_peak peak;           /* f32_gflops 0: not measured */
    int runs, warm_up, threads, n_series;
    bool random_channels;
    pg_series series[PG_BENCH_SERIES_MAX];
} pg_bench_result;

void pg_bench_print(const pg_bench_result *result);
pg_err pg_bench_print_json(const pg_bench_result *result, pg_diag *diag);

#endif
