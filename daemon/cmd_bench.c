/* Speed figures: forward and backward of the bare network, then each method end to end. Times are
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

enum { METHODS_MAX = 32 };

static const pg_cli_option options[] = {
    {"--model", "FILE", "model.path", "the network, an ONNX file"},
    {"--stats", "FILE", "parchgrad.stats",
     "channel statistics; without: random channels are pruned"},
    {"--runs", "N", NULL, "runs that count [20]"},
    {"--warm-up", "N", NULL, "runs before that [3]"},
    {"--layers", NULL, NULL, "also the time of each operator"},
    {0},
};

/* Times of one thing, in ms. */
typedef struct pg_series {
    const char *name;
    double *ms; /* [runs], sorted by summarise */
    int count;
    double median, p10, p90, least;
} pg_series;

typedef struct pg_bench {
    const pg_config *config;
    pg_explain_options explain; /* the configuration's, or with random channels */
    bool random_channels;
    int runs, warm_up, n_series, threads;
    uint64_t done, total;
    pg_series series[METHODS_MAX + 2]; /* forward, backward, methods */
    pg_model *model;
    pg_session *session;
    pg_explainer *explainer;
    pg_pipeline *pipeline;
    float *input;
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

static pg_err add_series(pg_bench *b, const char *name, pg_diag *diag) {
    pg_series *s = &b->series[b->n_series];
    *s = (pg_series){.name = name, .ms = pg_calloc((size_t)b->runs, sizeof(double))};
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

static pg_err network_run(pg_bench *b, float *seed, int run, pg_diag *diag) {
    uint64_t begin = pg_clock_monotonic();
    pg_err err = pg_session_forward(b->session, diag);
    uint64_t middle = pg_clock_monotonic();
    if (err == PG_OK)
        err = pg_session_backward(b->session, seed, NULL, diag);
    uint64_t end = pg_clock_monotonic();
    if (err == PG_OK)
        err = note(b, &b->series[0], run, middle - begin, diag);
    if (err == PG_OK)
        err = note(b, &b->series[1], run, end - middle, diag);
    return err;
}

static pg_err bench_network(pg_bench *b, bool layers, pg_diag *diag) {
    pg_err err = pg_explainer_open_model(&b->explain, NULL, &b->model, diag);
    if (err == PG_OK)
        err = pg_model_prepare(b->model, NULL, true, diag);
    if (err == PG_OK)
        err = pg_session_create(b->model, &b->session, diag);
    if (err != PG_OK)
        return err;
    const pg_model_info *info = pg_model_get_info(b->model);
    pg_layout layout;
    fill(pg_session_input(b->session, &layout), pg_shape_count(&info->input));
    float *seed = pg_calloc((size_t)pg_shape_count(&info->output.shape), sizeof *seed);
    if (seed == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    seed[0] = 1;
    for (int run = 0; err == PG_OK && run < b->warm_up + b->runs; run++)
        err = network_run(b, seed, run, diag);
    /* timing each operator costs time itself: in runs of its own */
    if (layers && err == PG_OK)
        pg_session_profile(b->session, pg_clock_monotonic);
    for (int run = 0; layers && err == PG_OK && run < b->runs; run++) {
        err = pg_session_forward(b->session, diag);
        if (err == PG_OK)
            err = pg_session_backward(b->session, seed, NULL, diag);
    }
    pg_free(seed);
    return err;
}

/* ---- each method, from the network's input to the map ---- */

static pg_err bench_methods(pg_bench *b, pg_diag *diag) {
    pg_err err =
        pg_cli_locate(b->config, pg_explainer_create(&b->explain, &b->explainer, diag), diag);
    if (err == PG_OK)
        err = pg_pipeline_create(b->explainer, pg_clock_monotonic, &b->pipeline, diag);
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
    for (int run = 0; run < b->warm_up + b->runs; run++) {
        for (int m = 2; m < b->n_series; m++) {
            pg_explanation result;
            uint64_t begin = pg_clock_monotonic();
            pg_drop drop =
                pg_pipeline_run(b->pipeline, &b->frame, b->series[m].name, NULL, &result, diag);
            if (drop != PG_DROP_NONE)
                return pg_fail_in(diag, PG_EFAIL, "method %s", b->series[m].name);
            err = note(b, &b->series[m], run, pg_clock_monotonic() - begin, diag);
            if (err != PG_OK)
                return err;
        }
    }
    return PG_OK;
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
        if (i < 2)
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
    for (int i = 0; i < 2; i++)
        json_series(&json, &b->series[i], (double)info->flops);
    pg_json_open(&json, "methods", '{');
    for (int i = 2; i < b->n_series; i++)
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

static pg_err plan(pg_bench *b, const pg_cli *cli, pg_diag *diag) {
    pg_err err = pg_cli_number(cli, "--runs", 1, 100000, 20, &b->runs, diag);
    if (err == PG_OK)
        err = pg_cli_number(cli, "--warm-up", 0, 100000, 3, &b->warm_up, diag);
    if (err == PG_OK)
        err = pg_cli_config(cli, &b->config, diag);
    if (err != PG_OK)
        return err;
    b->explain = b->config->explain;
    bool needs_stats =
        b->explain.prune.select == PG_SELECT_CLASS || b->explain.prune.select == PG_SELECT_INSTANCE;
    if (needs_stats && b->explain.prune.stats_path[0] == '\0') {
        b->explain.prune.select = PG_SELECT_RANDOM;
        b->random_channels = true;
    }
    err = add_series(b, "forward", diag);
    if (err == PG_OK)
        err = add_series(b, "backward", diag);
    for (int i = 0; err == PG_OK && i < METHODS_MAX && pg_saliency_at(i) != NULL; i++)
        err = add_series(b, pg_saliency_at(i)->name, diag);
    b->threads = pg_threads_set(b->explain.threads);
    b->total = (uint64_t)(b->runs + b->warm_up) * (uint64_t)b->n_series;
    return err;
}

static pg_err run(const pg_cli *cli, pg_diag *diag) {
    pg_bench b = {0};
    bool layers = pg_cli_value(cli, "--layers") != NULL;
    pg_cli_catch_stop();
    pg_err err = plan(&b, cli, diag);
    pg_progress_start(&b.progress, "measuring");
    if (err == PG_OK)
        err = bench_network(&b, layers, diag);
    if (err == PG_OK)
        err = bench_methods(&b, diag);
    pg_progress_end(&b.progress);
    for (int i = 0; err == PG_OK && i < b.n_series; i++)
        summarise(&b.series[i]);
    if (err == PG_OK && cli->json)
        err = print_json(&b, layers, diag);
    else if (err == PG_OK)
        print_text(&b, layers);
    pg_pipeline_destroy(&b.pipeline);
    pg_explainer_destroy(&b.explainer);
    pg_session_destroy(&b.session);
    pg_model_destroy(&b.model);
    pg_free(b.input);
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
