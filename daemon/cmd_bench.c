/* Speed figures: forward and backward of the bare network, and each method end to end. Times are
 * medians over interleaved runs after a warm-up, because the first runs page memory in and
 * frequencies settle; the spread (10th to 90th percentile) says how much to believe. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/cli.h"
#include "daemon/clock.h"
#include "daemon/json.h"
#include "daemon/progress.h"
#include "kernels/mem.h"
#include "kernels/op.h"
#include "kernels/threads.h"
#include "pipeline/explainer.h"
#include "pipeline/session.h"

enum { METHODS_MAX = 32, FIRST_METHOD = 2 };

static const pg_cli_option options[] = {
    {"--model", "FILE", "model.path", "the network, an ONNX file"},
    {"--stats", "FILE", "parchgrad.stats",
     "channel statistics; without: random channels are pruned"},
    {"--runs", "N", NULL, "runs that count [20]"},
    {"--warm-up", "N", NULL, "runs before that [3]"},
    {"--layers", NULL, NULL, "also the time of each operator"},
    {"--full", NULL, NULL, "also parchgrad without engine.kept_channels"},
    {0},
};

/* Times of one thing, in ms. */
typedef struct pg_series {
    const char *name;
    double *ms; /* [runs], sorted by summarise */
    int count;
    double median, p10, p90, least;
    const char *method;    /* NULL: the bare network */
    pg_pipeline *pipeline; /* borrowed */
} pg_series;

/* What runs methods. */
typedef struct pg_runner {
    pg_explain_options explain;
    pg_explainer *explainer;
    pg_pipeline *pipeline;
} pg_runner;

typedef struct pg_bench {
    const pg_config *config;
    bool random_channels;
    int runs, warm_up, n_series, threads;
    uint64_t done, total;
    pg_series series[METHODS_MAX + FIRST_METHOD + 1]; /* forward, backward, methods */
    pg_model *model;
    pg_session *session;
    pg_runner configured; /* the configuration's, or with random channels */
    pg_runner full;       /* the same without engine.kept_channels */
    float *input, *seed;
    pg_frame frame;
    pg_progress progress;
} pg_bench;

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void summarise(pg_series *s) {
    qsort(s->ms, (size_t)s->count, sizeof *s->ms, ascending);
    s->median = (s->ms[(s->count - 1) / 2] + s->ms[s->count / 2]) / 2;
    s->p10 = s->ms[(s->count - 1) / 10];
    s->p90 = s->ms[(s->count - 1) - (s->count - 1) / 10];
    s->least = s->ms[0];
}

static pg_err add_series(pg_bench *b, const char *name, const char *method, pg_diag *diag) {
    pg_series *s = &b->series[b->n_series];
    *s = (pg_series){
        .name = name, .method = method, .ms = pg_calloc((size_t)b->runs, sizeof(double))};
    if (s->ms == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    b->n_series++;
    return PG_OK;
}

/* Counts a time once the warm-up is over, draws the bar, and notices Ctrl-C. */
static pg_err note(pg_bench *b, pg_series *s, int run, uint64_t ns, pg_diag *diag) {
    if (run >= b->warm_up)
        s->ms[s->count++] = (double)ns * 1e-6;
    pg_progress_update(&b->progress, ++b->done, b->total);
    return pg_cli_stop ? pg_fail(diag, PG_EFAIL, "interrupted") : PG_OK;
}

/* Pixels between -1 and 1 that look like nothing: the same in every run and on every machine. */
static void fill(float *values, int64_t count) {
    uint32_t state = 12345;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (float)(state >> 8) / 8388608.0f - 1;
    }
}

/* ---- the bare network ---- */

static pg_err open_network(pg_bench *b, pg_diag *diag) {
    pg_err err = pg_explainer_open_model(&b->configured.explain, NULL, &b->model, diag);
    if (err == PG_OK)
        err = pg_model_prepare(b->model, NULL, true, diag);
    if (err == PG_OK)
        err = pg_session_create(b->model, &b->session, diag);
    if (err != PG_OK)
        return err;
    const pg_model_info *info = pg_model_get_info(b->model);
    pg_layout layout;
    fill(pg_session_input(b->session, &layout), pg_shape_count(&info->input));
    b->seed = pg_calloc((size_t)pg_shape_count(&info->output.shape), sizeof *b->seed);
    if (b->seed == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    b->seed[0] = 1;
    return PG_OK;
}

static pg_err run_network(pg_bench *b, int run, pg_diag *diag) {
    uint64_t begin = pg_clock_monotonic();
    pg_err err = pg_session_forward(b->session, diag);
    uint64_t middle = pg_clock_monotonic();
    if (err == PG_OK)
        err = pg_session_backward(b->session, b->seed, NULL, diag);
    uint64_t end = pg_clock_monotonic();
    if (err == PG_OK)
        err = note(b, &b->series[0], run, middle - begin, diag);
    if (err == PG_OK)
        err = note(b, &b->series[1], run, end - middle, diag);
    return err;
}

/* Timing each operator costs time itself: in runs of its own. */
static pg_err profile_layers(pg_bench *b, pg_diag *diag) {
    pg_session_profile(b->session, pg_clock_monotonic);
    pg_err err = PG_OK;
    for (int run = 0; err == PG_OK && run < b->runs; run++) {
        err = pg_session_forward(b->session, diag);
        if (err == PG_OK)
            err = pg_session_backward(b->session, b->seed, NULL, diag);
    }
    return err;
}

/* ---- each method, from the network's input to the map ---- */

static pg_err open_runner(pg_bench *b, pg_runner *runner, pg_diag *diag) {
    pg_err err = pg_cli_locate(
        b->config, pg_explainer_create(&runner->explain, &runner->explainer, diag), diag);
    if (err == PG_OK)
        err = pg_pipeline_create(runner->explainer, pg_clock_monotonic, &runner->pipeline, diag);
    return err;
}

static void close_runner(pg_runner *runner) {
    pg_pipeline_destroy(&runner->pipeline);
    pg_explainer_destroy(&runner->explainer);
}

static pg_err open_methods(pg_bench *b, bool full, pg_diag *diag) {
    pg_err err = open_runner(b, &b->configured, diag);
    if (err == PG_OK && full)
        err = open_runner(b, &b->full, diag);
    for (int m = FIRST_METHOD; m < b->n_series; m++)
        b->series[m].pipeline = b->configured.pipeline;
    if (full)
        b->series[b->n_series - 1].pipeline = b->full.pipeline;
    if (err != PG_OK)
        return err;
    const pg_shape *shape = &pg_model_get_info(b->model)->input;
    int64_t count = pg_shape_count(shape);
    b->input = pg_malloc((size_t)count * sizeof(float));
    if (b->input == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    fill(b->input, count);
    b->frame = (pg_frame){.format = PG_FMT_F32CHW,
                          .height = shape->dims[2],
                          .width = shape->dims[3],
                          .target_class = -1,
                          .label = -1,
                          .pixels = {(const uint8_t *)b->input, (size_t)count * sizeof(float)}};
    return PG_OK;
}

static pg_err run_method(pg_bench *b, pg_series *s, int run, pg_diag *diag) {
    pg_explanation result;
    uint64_t begin = pg_clock_monotonic();
    if (pg_pipeline_run(s->pipeline, &b->frame, &(pg_wish){.method = s->method}, &result, diag) !=
        PG_DROP_NONE)
        return pg_fail_in(diag, PG_EFAIL, "method %s", s->method);
    return note(b, s, run, pg_clock_monotonic() - begin, diag);
}

static pg_err measure(pg_bench *b, bool layers, bool full, pg_diag *diag) {
    pg_err err = open_network(b, diag);
    if (err == PG_OK)
        err = open_methods(b, full, diag);
    for (int run = 0; err == PG_OK && run < b->warm_up + b->runs; run++) {
        err = run_network(b, run, diag);
        for (int m = FIRST_METHOD; err == PG_OK && m < b->n_series; m++)
            err = run_method(b, &b->series[m], run, diag);
    }
    return err == PG_OK && layers ? profile_layers(b, diag) : err;
}

/* ---- results ---- */

static void layer_ms(const pg_bench *b, int op, double *forward, double *backward) {
    uint64_t f = 0, g = 0;
    pg_session_profile_get(b->session, op, &f, &g);
    *forward = (double)f * 1e-6 / b->runs;
    *backward = (double)g * 1e-6 / b->runs;
}

static void print_text(const pg_bench *b, bool layers) {
    const pg_model_info *info = pg_model_get_info(b->model);
    printf("%s: %.3f GFLOP, %d threads, %d runs after %d to warm up\n\n", info->path,
           (double)info->flops * 1e-9, b->threads, b->runs, b->warm_up);
    puts("                       median ms   10 % .. 90 %");
    for (int i = 0; i < b->n_series; i++) {
        const pg_series *s = &b->series[i];
        printf("%-20s %11.3f   %.3f .. %.3f", s->name, s->median, s->p10, s->p90);
        if (i < FIRST_METHOD)
            printf("   %.1f GFLOP/s", (double)info->flops * 1e-6 / s->median);
        putchar('\n');
    }
    if (b->random_channels)
        puts("\nParchGrad with random channels: no statistics were given.");
    if (!layers)
        return;
    puts("\n   op  forward ms  backward ms   GFLOP/s  type                name");
    for (int i = 0; i < pg_model_op_count(b->model); i++) {
        const pg_op *op = pg_model_op(b->model, i);
        double f, g;
        layer_ms(b, i, &f, &g);
        printf("%5d  %10.4f  %11.4f  %8.1f  %-18s  %s\n", i, f, g,
               f > 0 ? (double)op->flops * 1e-6 / f : 0, op->type, op->node);
    }
}

static void json_series(pg_json *json, const pg_series *s, double flops) {
    pg_json_open(json, s->name, '{');
    pg_json_number(json, "median_ms", s->median);
    pg_json_number(json, "p10_ms", s->p10);
    pg_json_number(json, "p90_ms", s->p90);
    pg_json_number(json, "min_ms", s->least);
    if (flops > 0)
        pg_json_number(json, "gflops", flops * 1e-6 / s->median);
    pg_json_close(json, '}');
}

static pg_err print_json(const pg_bench *b, bool layers, pg_diag *diag) {
    const pg_model_info *info = pg_model_get_info(b->model);
    pg_json json = {0};
    pg_json_open(&json, NULL, '{');
    pg_json_string(&json, "model", info->path);
    pg_json_string(&json, "sha256", info->sha256_hex);
    pg_json_int(&json, "flops", (int64_t)info->flops);
    pg_json_int(&json, "threads", b->threads);
    pg_json_int(&json, "runs", b->runs);
    pg_json_int(&json, "warm_up", b->warm_up);
    pg_json_bool(&json, "random_channels", b->random_channels);
    for (int i = 0; i < FIRST_METHOD; i++)
        json_series(&json, &b->series[i], (double)info->flops);
    pg_json_open(&json, "methods", '{');
    for (int i = FIRST_METHOD; i < b->n_series; i++)
        json_series(&json, &b->series[i], 0);
    pg_json_close(&json, '}');
    if (layers)
        pg_json_open(&json, "layers", '[');
    for (int i = 0; layers && i < pg_model_op_count(b->model); i++) {
        const pg_op *op = pg_model_op(b->model, i);
        double f, g;
        layer_ms(b, i, &f, &g);
        pg_json_open(&json, NULL, '{');
        pg_json_string(&json, "name", op->node);
        pg_json_string(&json, "type", op->type);
        pg_json_number(&json, "forward_ms", f);
        pg_json_number(&json, "backward_ms", g);
        pg_json_int(&json, "flops", (int64_t)op->flops);
        pg_json_close(&json, '}');
    }
    if (layers)
        pg_json_close(&json, ']');
    pg_json_close(&json, '}');
    return pg_json_print(&json) ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
}

/* ---- the whole ---- */

static pg_err plan(pg_bench *b, const pg_cli *cli, bool full, pg_diag *diag) {
    pg_err err = pg_cli_number(cli, "--runs", 1, 100000, 20, &b->runs, diag);
    if (err == PG_OK)
        err = pg_cli_number(cli, "--warm-up", 0, 100000, 3, &b->warm_up, diag);
    if (err == PG_OK)
        err = pg_cli_config(cli, &b->config, diag);
    if (err != PG_OK)
        return err;
    pg_explain_options *explain = &b->configured.explain;
    *explain = b->config->explain;
    if (pg_select_wants_gap(explain->prune.select) && explain->prune.stats_path[0] == '\0') {
        explain->prune.select = PG_SELECT_RANDOM;
        b->random_channels = true;
    }
    b->full.explain = *explain;
    b->full.explain.kept_channels = false;
    err = add_series(b, "forward", NULL, diag);
    if (err == PG_OK)
        err = add_series(b, "backward", NULL, diag);
    for (int i = 0; err == PG_OK && i < METHODS_MAX && pg_saliency_at(i) != NULL; i++)
        err = add_series(b, pg_saliency_at(i)->name, pg_saliency_at(i)->name, diag);
    if (err == PG_OK && full)
        err = add_series(b, "parchgrad, full", "parchgrad", diag);
    b->threads = pg_threads_set(explain->threads);
    b->total = (uint64_t)(b->runs + b->warm_up) * (uint64_t)b->n_series;
    return err;
}

static pg_err run(const pg_cli *cli, pg_diag *diag) {
    pg_bench b = {0};
    bool layers = pg_cli_value(cli, "--layers") != NULL;
    pg_cli_catch_stop();
    bool full = pg_cli_value(cli, "--full") != NULL;
    pg_err err = plan(&b, cli, full, diag);
    pg_progress_start(&b.progress, "measuring");
    if (err == PG_OK)
        err = measure(&b, layers, full, diag);
    pg_progress_end(&b.progress);
    for (int i = 0; err == PG_OK && i < b.n_series; i++)
        summarise(&b.series[i]);
    if (err == PG_OK && cli->json)
        err = print_json(&b, layers, diag);
    else if (err == PG_OK)
        print_text(&b, layers);
    close_runner(&b.full);
    close_runner(&b.configured);
    pg_session_destroy(&b.session);
    pg_model_destroy(&b.model);
    pg_free(b.input);
    pg_free(b.seed);
    for (int i = 0; i < b.n_series; i++)
        pg_free(b.series[i].ms);
    pg_config_destroy(&b.config);
    return err;
}

const pg_command pg_command_bench = {
    .name = "bench",
    .configured = true,
    .json = true,
    .brief = "Measure how long forward, backward and each method take.",
    .options = options,
    .run = run,
};
