#include <math.h>
#include <stdio.h>

#include "daemon/evaluate.h"
#include "daemon/json.h"

static const char *arrow(pg_metric metric) {
    int better = pg_metric_at(metric)->better;
    return better > 0 ? "more is better" : better < 0 ? "less is better" : "";
}

bool pg_report_has(const pg_report *r, pg_metric metric) {
    for (int m = 0; m < r->n_methods; m++)
        if (r->methods[m].intervals[metric].count > 0)
            return true;
    return false;
}

/* One block of lines per metric: tables of twenty columns do not fit a terminal. */
void pg_report_print(const pg_report *r) {
    printf("%s on %d pictures of %s, %d recognised\n", r->model, r->pictures, r->data,
           r->recognised);
    if (r->broken > 0)
        printf("%d files could not be used, the first: %s\n", r->broken, r->first_broken);
    for (int k = 0; k < PG_METRIC_COUNT; k++) {
        const pg_metric_row *row = pg_metric_at((pg_metric)k);
        if (!pg_report_has(r, (pg_metric)k))
            continue;
        printf("\n%s: %s%s%s\n", row->name, row->prose, row->better ? "; " : "",
               arrow((pg_metric)k));
        for (int m = 0; m < r->n_methods; m++) {
            const pg_interval *i = &r->methods[m].intervals[k];
            if (i->count > 0)
                printf("  %-22s %10.4f   95 %% %9.4f .. %9.4f   of %d\n", r->methods[m].name,
                       i->mean, i->low, i->high, i->count);
        }
    }
    if (!pg_report_has(r, PG_METRIC_POINTING))
        puts(
            "\ngrid_pointing: not played, for lack of confidently recognised pictures of different "
            "classes");
}

static void json_curve(pg_json *json, const char *key, const double *curve) {
    pg_json_open(json, key, '[');
    for (int i = 0; i < PG_CURVE_POINTS; i++)
        pg_json_number(json, NULL, curve[i]);
    pg_json_close(json, ']');
}

static void json_method(pg_json *json, const pg_report *r, const pg_evaluated *m) {
    pg_json_open(json, m->name, '{');
    for (int k = 0; k < PG_METRIC_COUNT; k++) {
        const pg_interval *i = &m->intervals[k];
        int count = k == PG_METRIC_POINTING ? r->mosaics : r->pictures;
        if (i->count == 0)
            continue;
        pg_json_open(json, pg_metric_at((pg_metric)k)->name, '{');
        pg_json_number(json, "mean", i->mean);
        pg_json_number(json, "low", i->low);
        pg_json_number(json, "high", i->high);
        pg_json_int(json, "count", i->count);
        pg_json_open(json, "values", '[');
        for (int p = 0; p < count; p++)
            pg_json_number(json, NULL, m->values[k][p]);
        pg_json_close(json, ']');
        pg_json_close(json, '}');
    }
    pg_json_open(json, "curves", '{');
    json_curve(json, "morf", m->morf);
    json_curve(json, "lerf", m->lerf);
    json_curve(json, "insertion", m->insertion);
    pg_json_close(json, '}');
    pg_json_close(json, '}');
}

pg_err pg_report_json(const pg_report *r, pg_diag *diag) {
    pg_json json = {0};
    pg_json_open(&json, NULL, '{');
    pg_json_string(&json, "model", r->model);
    pg_json_string(&json, "sha256", r->sha256);
    pg_json_string(&json, "data", r->data);
    pg_json_int(&json, "pictures", r->pictures);
    pg_json_int(&json, "recognised", r->recognised);
    pg_json_int(&json, "broken", r->broken);
    pg_json_string(&json, "first_broken", r->first_broken[0] ? r->first_broken : NULL);
    pg_json_int(&json, "mosaics", r->mosaics);
    pg_json_open(&json, "methods", '{');
    for (int m = 0; m < r->n_methods; m++)
        json_method(&json, r, &r->methods[m]);
    pg_json_close(&json, '}');
    pg_json_close(&json, '}');
    return pg_json_print(&json) ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
}
