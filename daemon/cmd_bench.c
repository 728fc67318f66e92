/* Speed figures: forward and backward of the bare network, and each method end to end. Times are
 * medians over interleaved runs after a warm-up, because the first runs page memory in and
 * frequencies settle; the spread (10th to 90th percentile) says how much to believe. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/bench.h"
#include "daemon/cli.h"
#include "daemon/clock.h"
#include "daemon/progress.h"
#include "kernels/mem.h"
#include "kernels/threads.h"
#include "pipeline/explainer.h"
#include "pipeline/session.h"

enum { METHODS_MAX = PG_BENCH_SERIES_MAX - PG_BENCH_METHODS - 1 };

#define USUAL "forward,backward,gradient,parchgrad" /* some methods take minutes for a frame */

static const pg_cli_option options[] = {
    {"--model", "FILE", "model.path", "the network, an ONNX file"},
    {"--size", "SIDE", "model.input.size", "input size, for a model that leaves it open"},
    {"--stats", "FILE", "parchgrad.stats",
     "channel statistics; without: random channels are pruned"},
    {"--runs", "N", NULL, "runs that count [20]"},
    {"--warm-up", "N", NULL, "runs before that [3]"},
    {"--only", "LIST", NULL, "these series: methods, forward, backward [" USUAL "]"},
    {"--layers", NULL, NULL, "also the time of each operator"},
    {"--full", NULL, NULL, "also parchgrad without engine.kept_channels"},
    {"--cpu-time", NULL, NULL,
     "processor time instead of elapsed time, for one thread on a busy machine"},
    {"--step", NULL, NULL,
     "measure when told: for each number of runs read from stdin, one line of JSON"},
    {"--retune", NULL, "engine.tune=always", "measure again which implementations are fastest"},
    {0},
};

/* What runs methods. */
typedef struct pg_runner {
    pg_explain_options explain;
    pg_explainer *explainer;
    pg_pipeline *pipeline;
} pg_runner;

typedef struct pg_bench {
    const pg_config *config;
    bool layers, full, step;
    pg_clock_fn now;
    uint64_t done, total;
    pg_bench_result result;
    pg_model *model; /* the bare network's */
    pg_session *session;
    pg_runner configured;  /* the configuration's, or with random channels */
    pg_runner full_runner; /* the same without engine.kept_channels */
    float *input, *seed;
    double *layer_ms; /* [2 * operators] */
    pg_frame frame;
    pg_progress progress;
} pg_bench;

static pg_err add_series(pg_bench *b, const char *name, const char *method, pg_diag *diag) {
    pg_bench_result *r = &b->result;
    pg_series *s = &r->series[r->n_series++];
    *s = (pg_series){.name = name, .method = method, .wanted = true};
    return pg_series_create(s, r->runs, diag);
}

/* Counts a run once the warm-up is over, draws the bar, and notices Ctrl-C. */
static pg_err note(pg_bench *b, pg_series *s, int run, uint64_t ns, pg_diag *diag) {
    if (run >= b->result.warm_up)
        s->ms[s->count++] = (double)ns * 1e-6;
    pg_progress_update(&b->progress, ++b->done, b->total);
    return pg_cli_stop ? pg_fail(diag, PG_EFAIL, "interrupted") : PG_OK;
}

/* Whether one of the series with or without a method is wanted. */
static bool wants(const pg_bench *b, bool method) {
    bool any = false;
    for (int i = 0; i < b->result.n_series; i++)
        any = any || (b->result.series[i].wanted && (b->result.series[i].method != NULL) == method);
    return any;
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
    pg_series *forward = &b->result.series[PG_BENCH_FORWARD];
    pg_series *backward = &b->result.series[PG_BENCH_BACKWARD];
    uint64_t begin = b->now();
    pg_err err = pg_session_forward(b->session, diag);
    uint64_t middle = b->now();
    if (err == PG_OK && forward->wanted)
        err = note(b, forward, run, middle - begin, diag);
    if (err != PG_OK || !backward->wanted)
        return err;
    middle = b->now();
    err = pg_session_backward(b->session, b->seed, NULL, diag);
    uint64_t end = b->now();
    return err == PG_OK ? note(b, backward, run, end - middle, diag) : err;
}

static void keep_shortest(pg_bench *b, int run) {
    for (int i = 0; i < pg_model_op_count(b->model); i++) {
        uint64_t ns[2];
        pg_session_profile_get(b->session, i, &ns[0], &ns[1]);
        for (int way = 0; way < 2; way++) {
            double *ms = &b->layer_ms[2 * i + way];
            *ms = run == 0 || (double)ns[way] * 1e-6 < *ms ? (double)ns[way] * 1e-6 : *ms;
        }
    }
}

/* Timing each operator costs time itself: in runs of its own. The shortest of an operator counts,
 * for in a whole network's length there is always some other program that takes a processor away
 * from one of them. */
static pg_err profile_layers(pg_bench *b, pg_diag *diag) {
    pg_err err = PG_OK;
    b->layer_ms = pg_calloc(2 * (size_t)pg_model_op_count(b->model), sizeof *b->layer_ms);
    if (b->layer_ms == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    for (int run = 0; err == PG_OK && run < b->result.runs; run++) {
        pg_session_profile(b->session, b->now); /* from zero */
        err = pg_session_forward(b->session, diag);
        if (err == PG_OK)
            err = pg_session_backward(b->session, b->seed, NULL, diag);
        keep_shortest(b, run);
    }
    b->result.layer_ms = b->layer_ms;
    return err;
}

/* ---- each method, from the network's input to the map ---- */

static pg_err open_runner(pg_bench *b, pg_runner *runner, pg_diag *diag) {
    pg_err err = pg_cli_locate(
        b->config, pg_explainer_create(&runner->explain, &runner->explainer, diag), diag);
    if (err == PG_OK)
        err = pg_pipeline_create(runner->explainer, b->now, &runner->pipeline, diag);
    return err;
}

static void close_runner(pg_runner *runner) {
    pg_pipeline_destroy(&runner->pipeline);
    pg_explainer_destroy(&runner->explainer);
}

static pg_err open_methods(pg_bench *b, pg_diag *diag) {
    pg_bench_result *r = &b->result;
    pg_err err = open_runner(b, &b->configured, diag);
    if (err == PG_OK && b->full)
        err = open_runner(b, &b->full_runner, diag);
    for (int m = PG_BENCH_METHODS; m < r->n_series; m++)
        r->series[m].pipeline = b->configured.pipeline;
    if (b->full)
        r->series[r->n_series - 1].pipeline = b->full_runner.pipeline;
    if (err != PG_OK)
        return err;
    r->model = pg_explainer_model(b->configured.explainer);
    const pg_shape *shape = &pg_model_get_info(r->model)->input;
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
    uint64_t begin = b->now();
    if (pg_pipeline_run(s->pipeline, &b->frame, &(pg_wish){.method = s->method}, &result, diag) !=
        PG_DROP_NONE)
        return pg_fail_in(diag, PG_EFAIL, "method %s", s->method);
    uint64_t end = b->now();
    for (int i = 0; run >= b->result.warm_up && i < PG_STAGE_COUNT; i++)
        s->stage_ms[i][s->count] = (double)result.timing_ns[i] * 1e-6;
    return note(b, s, run, end - begin, diag);
}

/* ---- measuring ---- */

static pg_err open_all(pg_bench *b, pg_diag *diag) {
    pg_err err = PG_OK;
    if (wants(b, false) || b->layers)
        err = open_network(b, diag);
    if (err == PG_OK && wants(b, true))
        err = open_methods(b, diag);
    if (b->model != NULL)
        b->result.model = b->model;
    return err;
}

/* All series in turn, `runs` times after the warm-up, so that clock and neighbours hit them alike.
 */
static pg_err measure(pg_bench *b, int runs, pg_diag *diag) {
    pg_bench_result *r = &b->result;
    pg_err err = PG_OK;
    for (int i = 0; i < r->n_series; i++)
        r->series[i].count = 0;
    for (int run = 0; err == PG_OK && run < r->warm_up + runs; run++) {
        if (wants(b, false))
            err = run_network(b, run, diag);
        for (int m = PG_BENCH_METHODS; err == PG_OK && m < r->n_series; m++)
            if (r->series[m].wanted)
                err = run_method(b, &r->series[m], run, diag);
    }
    for (int i = 0; err == PG_OK && i < r->n_series; i++)
        if (r->series[i].count > 0)
            pg_series_summarise(&r->series[i]);
    return err;
}

static pg_err measure_once(pg_bench *b, const pg_cli *cli, pg_diag *diag) {
    pg_progress_start(&b->progress, "measuring");
    pg_err err = open_all(b, diag);
    if (err == PG_OK)
        err = measure(b, b->result.runs, diag);
    if (err == PG_OK && b->layers)
        err = profile_layers(b, diag);
    if (err == PG_OK)
        err = pg_peak_measure(b->now, &b->result.peak, diag);
    pg_progress_end(&b->progress);
    if (err == PG_OK && cli->json)
        return pg_bench_print_json(&b->result, diag);
    if (err == PG_OK)
        pg_bench_print(&b->result);
    return err;
}

/* For a program that measures others in between: each line of stdin holds a number of runs, the
 * answer is their figures on one line. The first step pays for pages and caches; ask for one run
 * and forget it. */
static pg_err measure_in_steps(pg_bench *b, pg_diag *diag) {
    int most = b->result.runs;
    char line[32];
    b->result.warm_up = 0;
    pg_err err = open_all(b, diag);
    while (err == PG_OK && fgets(line, sizeof line, stdin) != NULL) {
        b->result.runs = atoi(line);
        if (b->result.runs < 1 || b->result.runs > most)
            return pg_fail(diag, PG_ECONFIG, "a step is a number of runs from 1 to --runs, %d",
                           most);
        err = measure(b, b->result.runs, diag);
        if (err == PG_OK)
            err = pg_bench_print_json(&b->result, diag);
        fflush(stdout);
    }
    return err;
}

/* ---- the whole ---- */

/* Leaves the series that `list` does not name out. */
static pg_err keep_only(pg_bench *b, const char *list, pg_diag *diag) {
    pg_bench_result *r = &b->result;
    for (int i = 0; i < r->n_series; i++)
        r->series[i].wanted = false;
    for (const char *at = list; *at != '\0';) {
        size_t length = strcspn(at, ",");
        bool found = false;
        for (int i = 0; i < r->n_series; i++)
            if (strlen(r->series[i].name) == length && memcmp(r->series[i].name, at, length) == 0)
                found = r->series[i].wanted = true;
        if (!found)
            return pg_fail(diag, PG_ECONFIG,
                           "--only: '%.*s' is neither forward, backward nor a method", (int)length,
                           at);
        at += length + (at[length] == ',');
    }
    return PG_OK;
}

static pg_err add_all_series(pg_bench *b, pg_diag *diag) {
    pg_err err = add_series(b, "forward", NULL, diag);
    if (err == PG_OK)
        err = add_series(b, "backward", NULL, diag);
    for (int i = 0; err == PG_OK && i < METHODS_MAX && pg_saliency_at(i) != NULL; i++)
        err = add_series(b, pg_saliency_at(i)->name, pg_saliency_at(i)->name, diag);
    if (err == PG_OK && b->full)
        err = add_series(b, "parchgrad, full", "parchgrad", diag);
    return err;
}

static pg_err plan(pg_bench *b, const pg_cli *cli, pg_diag *diag) {
    pg_bench_result *r = &b->result;
    const char *only = pg_cli_value(cli, "--only");
    b->layers = pg_cli_value(cli, "--layers") != NULL;
    b->full = pg_cli_value(cli, "--full") != NULL;
    b->step = pg_cli_value(cli, "--step") != NULL;
    bool processor = pg_cli_value(cli, "--cpu-time") != NULL;
    b->now = processor ? pg_clock_processor : pg_clock_monotonic;
    pg_err err = pg_cli_number(cli, "--runs", 1, 100000, 20, &r->runs, diag);
    if (err == PG_OK)
        err = pg_cli_number(cli, "--warm-up", 0, 100000, 3, &r->warm_up, diag);
    if (err == PG_OK)
        err = pg_cli_config(cli, &b->config, diag);
    if (err == PG_OK)
        err = add_all_series(b, diag);
    if (err == PG_OK)
        err = keep_only(b, only != NULL ? only : USUAL, diag);
    if (err != PG_OK)
        return err;
    if (b->full)
        r->series[r->n_series - 1].wanted = true;
    pg_explain_options *explain = &b->configured.explain;
    *explain = b->config->explain;
    if (pg_select_wants_gap(explain->prune.select) && explain->prune.stats_path[0] == '\0') {
        explain->prune.select = PG_SELECT_RANDOM;
        r->random_channels = true;
    }
    b->full_runner.explain = *explain;
    b->full_runner.explain.kept_channels = false;
    r->threads = pg_threads_set(explain->threads);
    if ((err = pg_team_pin_set(b->config->pin, 0, 1, diag)) != PG_OK)
        return err;
    if (processor && r->threads != 1)
        return pg_fail(diag, PG_ECONFIG, "--cpu-time is for one thread: --set model.threads=1");
    for (int i = 0; i < r->n_series; i++)
        b->total += r->series[i].wanted ? (uint64_t)(r->runs + r->warm_up) : 0;
    return PG_OK;
}

static pg_err run(const pg_cli *cli, pg_diag *diag) {
    pg_bench b = {0};
    pg_cli_catch_stop();
    pg_err err = plan(&b, cli, diag);
    if (err == PG_OK)
        err = b.step ? measure_in_steps(&b, diag) : measure_once(&b, cli, diag);
    close_runner(&b.full_runner);
    close_runner(&b.configured);
    pg_session_destroy(&b.session);
    pg_model_destroy(&b.model);
    pg_free(b.input);
    pg_free(b.seed);
    pg_free(b.layer_ms);
    for (int i = 0; i < b.result.n_series; i++)
        pg_series_destroy(&b.result.series[i]);
    pg_config_destroy(&b.config);
    return err;
}

const pg_command pg_command_bench = {
    .name = "bench",
    .configured = true,
    .json = true,
    .brief = "Measure how long forward, backward and each method take.",
    .prose = "Shares are of this machine's own bounds, measured with the same threads: "
             "multiply-adds in\n"
             "registers, and bytes read from memory.",
    .options = options,
    .run = run,
};
