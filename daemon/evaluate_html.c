/* The report as one file: no scripts, nothing from elsewhere, pictures and curves inside. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/evaluate.h"
#include "daemon/text.h"
#include "pipeline/file_io.h"

enum { CHART_W = 320, CHART_H = 220, MARGIN = 34 };

static const char *const colours[] = {"#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd",
                                      "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf"};
enum { COLOURS = sizeof colours / sizeof colours[0] };

static const char style[] =
    "body{font:15px/1.45 system-ui,sans-serif;margin:2em;max-width:75em;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}th,td{padding:.25em .6em;text-align:right;"
    "border-bottom:1px solid #ddd}th{background:#f4f4f4}td:first-child,th:first-child{text-align:"
    "left}small{color:#777;display:block}.best{background:#e6f4e6}.scroll{overflow-x:auto}"
    "figure{display:inline-block;margin:.5em 1em .5em 0}img{width:150px;display:block}"
    "svg{background:#fff;border:1px solid #ddd}dt{font-weight:600}dd{margin:0 0 .3em 1.5em}";

/* Names of files are other people's. */
static void add_escaped(pg_text *t, const char *string) {
    for (const char *c = string; *c; c++)
        switch (*c) {
        case '<':
            pg_text_add(t, "&lt;");
            break;
        case '>':
            pg_text_add(t, "&gt;");
            break;
        case '&':
            pg_text_add(t, "&amp;");
            break;
        case '"':
            pg_text_add(t, "&quot;");
            break;
        default:
            pg_text_add(t, "%c", *c);
        }
}

/* ---- the table ---- */

static int best_of(const pg_report *r, int k) {
    int best = -1, better = pg_metric_at((pg_metric)k)->better;
    for (int m = 0; m < r->n_methods; m++) {
        const pg_interval *i = &r->methods[m].intervals[k];
        if (i->count == 0 || strcmp(r->methods[m].name, PG_EVALUATE_RANDOM) == 0)
            continue;
        if (best < 0 || better * (i->mean - r->methods[best].intervals[k].mean) > 0)
            best = m;
    }
    return better ? best : -1;
}

static void add_cell(pg_text *t, const pg_interval *i, bool best) {
    if (i->count == 0)
        pg_text_add(t, "<td></td>");
    else
        pg_text_add(t, "<td%s>%.3f<small>%.3f &hellip; %.3f</small></td>",
                    best ? " class=\"best\"" : "", i->mean, i->low, i->high);
}

static void add_table(pg_text *t, const pg_report *r) {
    pg_text_add(t, "<h2>Methods and metrics</h2><div class=\"scroll\"><table><tr><th>method</th>");
    for (int k = 0; k < PG_METRIC_COUNT; k++)
        if (pg_report_has(r, (pg_metric)k)) {
            const pg_metric_row *row = pg_metric_at((pg_metric)k);
            pg_text_add(t, "<th title=\"%s\">%s%s</th>", row->prose, row->name,
                        row->better > 0   ? " &uarr;"
                        : row->better < 0 ? " &darr;"
                                          : "");
        }
    pg_text_add(t, "</tr>");
    for (int m = 0; m < r->n_methods; m++) {
        pg_text_add(t, "<tr><td>");
        add_escaped(t, r->methods[m].name);
        pg_text_add(t, "</td>");
        for (int k = 0; k < PG_METRIC_COUNT; k++)
            if (pg_report_has(r, (pg_metric)k))
                add_cell(t, &r->methods[m].intervals[k], best_of(r, k) == m);
        pg_text_add(t, "</tr>");
    }
    pg_text_add(t,
                "</table></div><p>Means over pictures with 95 %% bootstrap intervals; &uarr; more "
                "is better, &darr; less; the best mean is marked, which says little where "
                "intervals overlap. <b>" PG_EVALUATE_RANDOM "</b> is what chance reaches.</p>"
                "<dl>");
    for (int k = 0; k < PG_METRIC_COUNT; k++)
        if (pg_report_has(r, (pg_metric)k))
            pg_text_add(t, "<dt>%s</dt><dd>%s</dd>", pg_metric_at((pg_metric)k)->name,
                        pg_metric_at((pg_metric)k)->prose);
    pg_text_add(t, "</dl>");
}

/* ---- the curves ---- */

static double x_of(int i) { return MARGIN + (double)i * (CHART_W - MARGIN - 8) / PG_CURVE_STEPS; }
static double y_of(double p) { return CHART_H - MARGIN - p * (CHART_H - MARGIN - 8); }

static void add_chart(pg_text *t, const pg_report *r, const char *title, size_t offset) {
    pg_text_add(t, "<figure><svg width=\"%d\" height=\"%d\" role=\"img\" aria-label=\"%s\">",
                CHART_W, CHART_H, title);
    for (int i = 0; i <= PG_CURVE_STEPS; i += 5)
        pg_text_add(t,
                    "<path d=\"M%.0f 8V%d\" stroke=\"#eee\"/><text x=\"%.0f\" y=\"%d\" "
                    "font-size=\"11\" text-anchor=\"middle\">%d %%</text>",
                    x_of(i), CHART_H - MARGIN, x_of(i), CHART_H - MARGIN + 14, 10 * i);
    for (int i = 0; i <= 2; i++)
        pg_text_add(t,
                    "<path d=\"M%d %.0fH%d\" stroke=\"#eee\"/><text x=\"%d\" y=\"%.0f\" "
                    "font-size=\"11\" text-anchor=\"end\">%.1f</text>",
                    MARGIN, y_of(i / 2.0), CHART_W - 8, MARGIN - 4, y_of(i / 2.0) + 4, i / 2.0);
    for (int m = 0; m < r->n_methods; m++) {
        const double *curve = (const double *)(const void *)((const char *)&r->methods[m] + offset);
        pg_text_add(t, "<polyline fill=\"none\" stroke-width=\"1.8\" stroke=\"%s\" points=\"",
                    colours[m % COLOURS]);
        for (int i = 0; i < PG_CURVE_POINTS; i++)
            pg_text_add(t, "%.1f,%.1f ", x_of(i), y_of(curve[i]));
        pg_text_add(t, "\"><title>%s</title></polyline>", r->methods[m].name);
    }
    pg_text_add(t, "<text x=\"%d\" y=\"%d\" font-size=\"12\" text-anchor=\"middle\">pixels</text>",
                CHART_W / 2, CHART_H - 6);
    pg_text_add(t, "</svg><figcaption>%s</figcaption></figure>", title);
}

static void add_curves(pg_text *t, const pg_report *r) {
    pg_text_add(t, "<h2>What the class's probability does</h2>");
    add_chart(t, r, "hottest pixels removed first", offsetof(pg_evaluated, morf));
    add_chart(t, r, "coldest pixels removed first", offsetof(pg_evaluated, lerf));
    add_chart(t, r, "hottest pixels come back first", offsetof(pg_evaluated, insertion));
    pg_text_add(t, "<p>");
    for (int m = 0; m < r->n_methods; m++)
        pg_text_add(t, "<span style=\"color:%s\">&#9632;</span> %s &nbsp; ", colours[m % COLOURS],
                    r->methods[m].name);
    pg_text_add(t, "</p>");
}

/* ---- the pictures ---- */

static void add_pictures(pg_text *t, const pg_report *r) {
    pg_text_add(t, "<h2>Maps side by side</h2><div class=\"scroll\"><table><tr><th></th>");
    for (int m = 0; m < r->n_methods; m++)
        if (r->methods[m].shown[0])
            pg_text_add(t, "<th>%s</th>", r->methods[m].name);
    pg_text_add(t, "</tr>");
    for (int s = 0; s < r->n_shown; s++) {
        pg_text_add(t, "<tr><td>");
        add_escaped(t, r->names[s]);
        pg_text_add(t, "</td>");
        for (int m = 0; m < r->n_methods; m++)
            if (r->methods[m].shown[s])
                pg_text_add(t, "<td><img alt=\"%s\" src=\"data:image/jpeg;base64,%s\"></td>",
                            r->methods[m].name, r->methods[m].shown[s]);
        pg_text_add(t, "</tr>");
    }
    pg_text_add(t, "</table></div>");
}

pg_err pg_report_html(const pg_report *r, const char *path, pg_diag *diag) {
    pg_text t = {0};
    pg_text_add(&t,
                "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Explanations, "
                "evaluated</title><style>%s</style><h1>Which explanation to trust</h1><p>",
                style);
    add_escaped(&t, r->model);
    pg_text_add(&t, " (%.12s&hellip;) on %d pictures of ", r->sha256, r->pictures);
    add_escaped(&t, r->data);
    pg_text_add(&t, ", %d recognised, %d mosaics.</p>", r->recognised, r->mosaics);
    add_table(&t, r);
    add_curves(&t, r);
    add_pictures(&t, r);
    pg_text_add(&t, "</html>\n");
    pg_err err = t.failed ? pg_fail(diag, PG_ENOMEM, "out of memory")
                          : pg_file_write(path, t.data, t.size, diag);
    pg_text_free(&t);
    return err;
}
