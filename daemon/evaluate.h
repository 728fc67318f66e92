/* What `evaluate` has found, between the command that measures (cmd_evaluate.c) and the files that
 * print it (evaluate_print.c, evaluate_html.c). */
#ifndef PG_DAEMON_EVALUATE_H
#define PG_DAEMON_EVALUATE_H

#include "pipeline/evaluate.h"

enum { PG_EVALUATE_METHODS = 64, PG_EVALUATE_SHOWN = 8 };

/* One method: figures of each picture, and sums of its curves. */
typedef struct pg_evaluated {
    const char *name;
    double *values[PG_METRIC_COUNT]; /* [room] one per picture, NaN where it does not apply */
    pg_interval intervals[PG_METRIC_COUNT];
    double morf[PG_CURVE_POINTS], lerf[PG_CURVE_POINTS], insertion[PG_CURVE_POINTS]; /* means */
    char *shown[PG_EVALUATE_SHOWN]; /* overlays, base64 of a JPEG; NULL: none */
} pg_evaluated;

typedef struct pg_report {
    const char *model, *data;
    char sha256[65];
    int pictures, recognised, broken, mosaics;
    char first_broken[512];
    int n_methods;
    pg_evaluated methods[PG_EVALUATE_METHODS];
    int n_shown;
    char names[PG_EVALUATE_SHOWN][256]; /* of the pictures shown */
} pg_report;

/* Whether the metric applied to any method (evaluate_print.c). */
bool pg_report_has(const pg_report *report, pg_metric metric);

void pg_report_print(const pg_report *report);                 /* tables on stdout */
pg_err pg_report_json(const pg_report *report, pg_diag *diag); /* on stdout */
/* One file with everything in it: tables, curves, pictures side by side. */
pg_err pg_report_html(const pg_report *report, const char *path, pg_diag *diag);

#endif
