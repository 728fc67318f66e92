/* Which method to trust: every method on every picture, one table. Pictures are read one at a time;
 * what is kept of each is a row of figures, and of a few the overlays for the report. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base64.h"
#include "daemon/cli.h"
#include "daemon/clock.h"
#include "daemon/evaluate.h"
#include "daemon/pictures.h"
#include "daemon/progress.h"
#include "kernels/mem.h"
#include "pipeline/explainer.h"

enum { GRID_POOL = 64, GRID_SIDE_MAX = 4 };
static const float CONFIDENT = 0.5f; /* pictures of the mosaics */

static const pg_cli_option options[] = {
    {"--model", "FILE", "model.path", "the network, an ONNX file"},
    {"--stats", "FILE", "parchgrad.stats", "channel statistics made by calibrate"},
    {"--data", "DIR|FILE", NULL,
     "pictures: one folder per class (its index or name), or any; or a recording"},
    {"--labels", "folder|predicted", NULL,
     "what class a picture is: its folder's [if there are folders; of a frame: its label], or the "
     "network's own"},
    {"--methods", "A,B,...", NULL, "which [the configured one, gradient, inputgrad, gradcam]"},
    {"--stream", "ID", NULL, "of a recording of several streams"},
    {"--boxes", "FILE.csv", NULL,
     "objects: lines of file name (of a frame: seq),x,y,width,height in pixels [a frame's roi]"},
    {"--limit", "N", NULL, "pictures, spread evenly over the list [all]"},
    {"--grid", "N", NULL, "mosaics of N by N pictures for the pointing game, 0: none [2]"},
    {"--mosaics", "N", NULL, "how many [10]"},
    {"--sequence", NULL, NULL,
     "the pictures are frames of a video in the order of their names, as a recording's are"},
    {"--no-randomised", NULL, NULL, "leave out the network with shuffled layers (a second copy)"},
    {"--html", "FILE", NULL, "a report with curves and pictures, in one file"},
    {0},
};

typedef struct job {
    const pg_cli *cli;
    const pg_config *config;
    pg_evaluate_options options;
    pg_explain_options explain; /* the configured ones, with the first method of the list */
    pg_evaluator *evaluator;
    char *method_list;
    const char *methods[PG_EVALUATE_METHODS];
    int n_methods;
    pg_pictures *pictures;
    int limit, grid, mosaics;
    float *pool[GRID_POOL]; /* inputs for the mosaics */
    int64_t pool_class[GRID_POOL];
    int n_pool;
    pg_report report;
    pg_progress progress;
    uint64_t done, total;
} job;

/* ---- the command line ---- */

static pg_err add_method(job *j, const char *name, pg_diag *diag) {
    for (int i = 0; i < j->n_methods; i++)
        if (strcmp(j->methods[i], name) == 0)
            return PG_OK;
    if (j->n_methods == PG_EVALUATE_METHODS - 1)
        return pg_fail(diag, PG_ECONFIG, "--methods: more than %d", PG_EVALUATE_METHODS - 1);
    j->methods[j->n_methods++] = name;
    return PG_OK;
}

/* The list that was given, or a few that say most; always the control. */
static pg_err choose_methods(job *j, pg_diag *diag) {
    const char *given = pg_cli_value(j->cli, "--methods");
    pg_err err = PG_OK;
    if (given == NULL) {
        const char *few[] = {j->config->explain.method, "gradient", "inputgrad", "gradcam"};
        for (int i = 0; i < 4 && err == PG_OK; i++)
            err = add_method(j, few[i], diag);
    } else {
        size_t size = strlen(given) + 1;
        j->method_list = pg_malloc(size);
        if (j->method_list == NULL)
            return pg_fail(diag, PG_ENOMEM, "out of memory");
        memcpy(j->method_list, given, size);
        char *rest = NULL;
        for (char *name = strtok_r(j->method_list, ", ", &rest); name && err == PG_OK;
             name = strtok_r(NULL, ", ", &rest))
            err = add_method(j, name, diag);
        if (err == PG_OK && (j->n_methods == 0 || strcmp(j->methods[0], PG_EVALUATE_RANDOM) == 0))
            return pg_fail(diag, PG_ECONFIG, "--methods begins with no method");
    }
    return err ? err : add_method(j, PG_EVALUATE_RANDOM, diag);
}

static pg_err open_pictures(job *j, pg_diag *diag) {
    const pg_limits_config *limits = &j->config->limits;
    const pg_pictures_options from = {
        .data = j->report.data,
        .labels = pg_cli_value(j->cli, "--labels"),
        .boxes = pg_cli_value(j->cli, "--boxes"),
        .stream = pg_cli_value(j->cli, "--stream"),
        .limits = {limits->frame_bytes, limits->meta_bytes},
    };
    pg_err err = pg_pictures_open(&from, &j->pictures, diag);
    if (!err && (size_t)j->limit > pg_pictures_count(j->pictures))
        j->limit = (int)pg_pictures_count(j->pictures);
    return err;
}

static pg_err read_options(job *j, pg_diag *diag) {
    j->report.data = pg_cli_value(j->cli, "--data");
    if (j->report.data == NULL)
        return pg_fail(diag, PG_ECONFIG, "evaluate wants --data, a folder or a recording");
    pg_err err;
    if ((err = pg_cli_number(j->cli, "--limit", 1, 1000000, 1000000, &j->limit, diag)) ||
        (err = pg_cli_number(j->cli, "--grid", 0, GRID_SIDE_MAX, 2, &j->grid, diag)) ||
        (err = pg_cli_number(j->cli, "--mosaics", 1, 10000, 10, &j->mosaics, diag)) ||
        (err = pg_cli_config(j->cli, &j->config, diag)) || (err = choose_methods(j, diag)) ||
        (err = open_pictures(j, diag)))
        return err;
    j->explain = j->config->explain;
    j->explain.method = j->methods[0];
    j->options =
        (pg_evaluate_options){.explain = &j->explain,
                              .sequence = pg_pictures_are_frames(j->pictures) ||
                                          pg_cli_value(j->cli, "--sequence") != NULL,
                              .randomise = pg_cli_value(j->cli, "--no-randomised") == NULL};
    return PG_OK;
}

static pg_err open_report(job *j, pg_diag *diag) {
    const pg_model_info *info = pg_evaluator_explainer(j->evaluator)->info;
    j->report.model = info->path;
    memcpy(j->report.sha256, info->sha256_hex, sizeof j->report.sha256);
    j->report.n_methods = j->n_methods;
    for (int m = 0; m < j->n_methods; m++) {
        j->report.methods[m].name = j->methods[m];
        for (int k = 0; k < PG_METRIC_COUNT; k++) {
            size_t room = (size_t)(j->limit > j->mosaics ? j->limit : j->mosaics);
            j->report.methods[m].values[k] = pg_malloc(room * sizeof(double));
            if (j->report.methods[m].values[k] == NULL)
                return pg_fail(diag, PG_ENOMEM, "out of memory");
            for (size_t i = 0; i < room; i++)
                j->report.methods[m].values[k][i] = (double)NAN;
        }
    }
    return PG_OK;
}

/* ---- one picture ---- */

static pg_err tick(job *j, pg_diag *diag) {
    pg_progress_update(&j->progress, ++j->done, j->total);
    return pg_cli_stop ? pg_fail(diag, PG_EFAIL, "interrupted") : PG_OK;
}

static pg_err show(pg_evaluated *m, int slot, pg_bytes jpeg, pg_diag *diag) {
    if (jpeg.size == 0)
        return PG_OK;
    m->shown[slot] = pg_base64(jpeg.data, jpeg.size);
    return m->shown[slot] ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
}

static void note(pg_evaluated *m, int picture, const pg_evaluation *r) {
    for (int k = 0; k < PG_METRIC_COUNT; k++)
        m->values[k][picture] = r->values[k];
    for (int i = 0; i < PG_CURVE_POINTS; i++) {
        m->morf[i] += r->morf[i];
        m->lerf[i] += r->lerf[i];
        m->insertion[i] += r->insertion[i];
    }
}

/* A picture the network is sure of and right about, of a class that is not there yet. */
static void keep_for_grid(job *j, const pg_evaluation *r) {
    if (j->n_pool == GRID_POOL || j->grid < 2 || r->probability < CONFIDENT || !r->recognised)
        return;
    for (int i = 0; i < j->n_pool; i++)
        if (j->pool_class[i] == r->klass)
            return;
    const int64_t *in = pg_evaluator_explainer(j->evaluator)->info->input.dims;
    size_t bytes = (size_t)(in[1] * in[2] * in[3]) * sizeof(float);
    float *copy = pg_malloc(bytes); /* none left: a mosaic less */
    if (copy == NULL)
        return;
    memcpy(copy, pg_evaluate_input(j->evaluator), bytes);
    j->pool[j->n_pool] = copy;
    j->pool_class[j->n_pool++] = r->klass;
}

static pg_err run_methods(job *j, const pg_picture *p, pg_diag *diag) {
    int picture = j->report.pictures, slot = j->report.n_shown;
    bool shown = slot < PG_EVALUATE_SHOWN;
    pg_evaluation r;
    for (int m = 0; m < j->n_methods; m++) {
        pg_err err = pg_evaluate(j->evaluator, m, &p->frame, p->label, p->box, &r, diag);
        if (!err && shown)
            err = show(&j->report.methods[m], slot, pg_evaluate_overlay(j->evaluator), diag);
        if (err)
            return err;
        note(&j->report.methods[m], picture, &r);
        if ((err = tick(j, diag)))
            return err;
    }
    keep_for_grid(j, &r);
    j->report.recognised += r.recognised;
    j->report.pictures++;
    if (shown)
        snprintf(j->report.names[j->report.n_shown++], sizeof j->report.names[0], "%.200s",
                 p->name);
    return PG_OK;
}

/* What is wrong with the picture itself is counted; only trouble of our own ends the run. */
static pg_err take_picture(job *j, size_t index, pg_diag *diag) {
    pg_picture p;
    pg_diag why = {""};
    pg_err err =
        pg_pictures_read(j->pictures, index, pg_evaluator_explainer(j->evaluator), &p, &why);
    bool usage = err == PG_ECONFIG;
    if (!err) {
        if (!pg_pictures_are_frames(j->pictures))
            p.frame.seq = (uint64_t)j->report.pictures;
        err = run_methods(j, &p, &why);
    }
    if (err == PG_EINPUT || (err == PG_ECONFIG && !usage)) {
        if (j->report.broken++ == 0)
            snprintf(j->report.first_broken, sizeof j->report.first_broken, "%.200s: %.300s",
                     p.name, why.text);
        return PG_OK;
    }
    if (usage)
        return pg_fail(diag, err, "%s", why.text);
    return err ? pg_fail(diag, err, "%s: %s", p.name, why.text) : PG_OK;
}

/* ---- all of them ---- */

static pg_err take_all(job *j, pg_diag *diag) {
    for (int i = 0; i < j->limit; i++) {
        size_t at = (size_t)i * pg_pictures_count(j->pictures) / (size_t)j->limit;
        pg_err err = take_picture(j, at, diag);
        if (err)
            return err;
    }
    if (j->report.pictures > 0)
        return PG_OK;
    return pg_fail(diag, PG_EINPUT, "%s: no picture could be used; the first: %s", j->report.data,
                   j->report.first_broken);
}

/* Mosaic i takes pictures i n^2 .. of the pool in a circle; with fewer classes than cells there is
 * no game. */
static pg_err play_grid(job *j, pg_diag *diag) {
    int cells = j->grid * j->grid;
    int most = j->grid < 2 || j->n_pool < cells ? 0 : j->mosaics;
    for (int i = 0; i < most; i++) {
        const float *inputs[GRID_SIDE_MAX * GRID_SIDE_MAX];
        int64_t klass[GRID_SIDE_MAX * GRID_SIDE_MAX];
        for (int c = 0; c < cells; c++) {
            int at = (i + c) % j->n_pool;
            inputs[c] = j->pool[at];
            klass[c] = j->pool_class[at];
        }
        for (int m = 0; m < j->n_methods; m++) {
            double *share = &j->report.methods[m].values[PG_METRIC_POINTING][i];
            pg_err err = pg_evaluate_grid(j->evaluator, m, j->grid, inputs, klass, share, diag);
            if (err || (err = tick(j, diag)))
                return err;
        }
        j->report.mosaics++;
        if (i + 1 == j->n_pool) /* further ones would be the same again */
            break;
    }
    return PG_OK;
}

static pg_err summarise(job *j, pg_diag *diag) {
    const pg_report *r = &j->report;
    for (int m = 0; m < r->n_methods; m++) {
        pg_evaluated *method = &j->report.methods[m];
        for (int k = 0; k < PG_METRIC_COUNT; k++) {
            int count = k == PG_METRIC_POINTING ? r->mosaics : r->pictures;
            pg_err err = pg_bootstrap(method->values[k], count, &method->intervals[k], diag);
            if (err)
                return err;
        }
        for (int i = 0; i < PG_CURVE_POINTS; i++) {
            method->morf[i] /= r->pictures;
            method->lerf[i] /= r->pictures;
            method->insertion[i] /= r->pictures;
        }
    }
    return PG_OK;
}

static pg_err evaluate(job *j, pg_diag *diag) {
    pg_err err = read_options(j, diag);
    if (err)
        return err;
    err = pg_evaluator_create(&j->options, j->methods, j->n_methods, pg_clock_monotonic,
                              &j->evaluator, diag);
    if (err || (err = open_report(j, diag)))
        return pg_cli_locate(j->config, err, diag);
    j->total = (uint64_t)(j->limit + (j->grid > 1 ? j->mosaics : 0)) * (uint64_t)j->n_methods;
    pg_progress_start(&j->progress, "evaluating");
    pg_cli_catch_stop();
    err = take_all(j, diag);
    if (!err)
        err = play_grid(j, diag);
    pg_progress_end(&j->progress);
    if (err || (err = summarise(j, diag)))
        return err;
    const char *html = pg_cli_value(j->cli, "--html");
    if (html && (err = pg_report_html(&j->report, html, diag)))
        return err;
    if (j->cli->json)
        return pg_report_json(&j->report, diag);
    pg_report_print(&j->report);
    return PG_OK;
}

static pg_err run(const pg_cli *cli, pg_diag *diag) {
    job *j = pg_calloc(1, sizeof *j);
    if (j == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    j->cli = cli;
    pg_err err = evaluate(j, diag);
    pg_evaluator_destroy(&j->evaluator);
    pg_pictures_close(&j->pictures);
    for (int i = 0; i < j->n_pool; i++)
        pg_free(j->pool[i]);
    for (int m = 0; m < PG_EVALUATE_METHODS; m++) {
        for (int k = 0; k < PG_METRIC_COUNT; k++)
            pg_free(j->report.methods[m].values[k]);
        for (int s = 0; s < PG_EVALUATE_SHOWN; s++)
            pg_free(j->report.methods[m].shown[s]);
    }
    pg_free(j->method_list);
    pg_config_destroy(&j->config);
    pg_free(j);
    return err;
}

const pg_command pg_command_evaluate = {
    .name = "evaluate",
    .configured = true,
    .json = true,
    .brief = "Measure which method explains this network best.",
    .prose =
        "DIR holds JPEG, PNG or .npy files (float32 [3,H,W], already what the network takes), "
        "in one\n"
        "folder per class, or in any and then the network's own top class is explained. FILE is a\n"
        "recording that `parchgrad record` made: its frames in order, each compared with the one\n"
        "before it; a frame's own label and roi count, its target and method do not. A random map\n"
        "stands in the table as what chance reaches. Means with 95 % bootstrap intervals.",
    .options = options,
    .run = run,
};
