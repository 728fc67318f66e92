/* What `bench` says. Beside a time stands how much of the machine's own bound it reaches, so that
 * slow can be told from large. An operator has two bounds, arithmetic and memory; the one that
 * takes longer at the measured peak is the one it is compared with. Memory counts what must move at
 * least: values in, values out, and the weights once. Values that still lie in a cache beat that
 * bound: shares above 100 % are no error, and mean that nothing can be won there. */
#include "daemon/bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/json.h"
#include "kernels/mem.h"
#include "kernels/op.h"

/* ---- series ---- */

pg_err pg_series_create(pg_series *s, int runs, pg_diag *diag) {
    s->ms = pg_calloc((size_t)runs, sizeof *s->ms);
    bool there = s->ms != NULL;
    for (int i = 0; s->method != NULL && i < PG_STAGE_COUNT; i++) {
        s->stage_ms[i] = pg_calloc((size_t)runs, sizeof *s->ms);
        there = there && s->stage_ms[i] != NULL;
    }
    return there ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
}

void pg_series_destroy(pg_series *s) {
    pg_free(s->ms);
    for (int i = 0; i < PG_STAGE_COUNT; i++)
        pg_free(s->stage_ms[i]);
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double sort_to_median(double *values, int count) {
    qsort(values, (size_t)count, sizeof *values, ascending);
    return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

void pg_series_summarise(pg_series *s) {
    s->median = sort_to_median(s->ms, s->count);
    s->p10 = s->ms[(s->count - 1) / 10];
    s->p90 = s->ms[(s->count - 1) - (s->count - 1) / 10];
    s->least = s->ms[0];
    for (int i = 0; s->method != NULL && i < PG_STAGE_COUNT; i++)
        s->stage_median[i] = sort_to_median(s->stage_ms[i], s->count);
}

/* ---- bounds ---- */

/* The peak for what an implementation computes in. */
static double peak_gflops(const pg_peak *peak, const char *impl) {
    bool bf16 = impl != NULL && strstr(impl, "bf16") != NULL && peak->bf16_gflops > 0;
    return bf16 ? peak->bf16_gflops : peak->f32_gflops;
}

typedef struct pg_layer_times {
    double forward, backward;             /* ms */
    double forward_share, backward_share; /* of the bound, 0 .. 1 and sometimes above */
    bool memory;                          /* the bound is memory's */
} pg_layer_times;

static double bytes_of(const pg_desc *values, int count) {
    double bytes = 0;
    for (int i = 0; i < count; i++)
        bytes += (double)pg_shape_count(&values[i].shape) * sizeof(float);
    return bytes;
}

static pg_layer_times layer_times(const pg_bench_result *r, int index) {
    const pg_op *op = pg_model_op(r->model, index);
    pg_layer_times t = {.forward = r->layer_ms[2 * index], .backward = r->layer_ms[2 * index + 1]};
    if (r->peak.f32_gflops == 0)
        return t;
    /* weight_bytes counts a copy for each direction */
    double bytes =
        bytes_of(op->src, op->n_src) + bytes_of(op->dst, op->n_dst) + (double)op->weight_bytes / 2;
    double memory_ms = bytes * 1e-6 / r->peak.read_gbs;
    double arithmetic_ms = (double)op->flops * 1e-6 / peak_gflops(&r->peak, op->impl);
    t.memory = memory_ms > arithmetic_ms;
    double bound_ms = t.memory ? memory_ms : arithmetic_ms;
    t.forward_share = t.forward > 0 ? bound_ms / t.forward : 0;
    t.backward_share = t.backward > 0 ? bound_ms / t.backward : 0;
    return t;
}

static double gflops(double flops, double ms) { return ms > 0 ? flops * 1e-6 / ms : 0; }

/* ---- text ---- */

static void print_series(const pg_bench_result *r, int index) {
    const pg_series *s = &r->series[index];
    double flops = (double)pg_model_get_info(r->model)->flops;
    printf("%-20s %11.3f   %.3f .. %.3f", s->name, s->median, s->p10, s->p90);
    if (s->method == NULL)
        printf("   %.1f GFLOP/s", gflops(flops, s->median));
    if (s->method == NULL && r->peak.f32_gflops > 0)
        printf(", %.0f %% of the f32 peak", 100 * gflops(flops, s->median) / r->peak.f32_gflops);
    for (int i = 0; s->method != NULL && i < PG_STAGE_COUNT; i++)
        if (s->stage_median[i] >= 5e-4)
            printf("   %s %.3f", pg_stage_name((pg_stage)i), s->stage_median[i]);
    putchar('\n');
}

static void print_layers(const pg_bench_result *r) {
    puts("\n       ------ forward ------   ------ backward -----\n"
         "   op     ms  GFLOP/s  share       ms  GFLOP/s  share  bound   type                name");
    for (int i = 0; i < pg_model_op_count(r->model); i++) {
        const pg_op *op = pg_model_op(r->model, i);
        pg_layer_times t = layer_times(r, i);
        double flops = (double)op->flops;
        printf("%5d %8.4f %7.1f %4.0f %%  %8.4f %7.1f %4.0f %%  %-6s  %-18s  %s\n", i, t.forward,
               gflops(flops, t.forward), 100 * t.forward_share, t.backward,
               gflops(flops, t.backward), 100 * t.backward_share, t.memory ? "memory" : "flops",
               op->type, op->node);
    }
}

void pg_bench_print(const pg_bench_result *r) {
    const pg_model_info *info = pg_model_get_info(r->model);
    printf("%s: %.3f GFLOP in %s, %d threads, %d runs after %d to warm up\n", info->path,
           (double)info->flops * 1e-9, pg_precision_name(info->precision), r->threads, r->runs,
           r->warm_up);
    if (r->peak.f32_gflops > 0)
        printf("peak of these threads: %.0f GFLOP/s f32, %.0f bf16, memory %.1f GB/s\n",
               r->peak.f32_gflops, r->peak.bf16_gflops, r->peak.read_gbs);
    puts("\n                       median ms   10 % .. 90 %");
    for (int i = 0; i < r->n_series; i++)
        if (r->series[i].wanted)
            print_series(r, i);
    if (r->random_channels)
        puts("\nParchGrad with random channels: no statistics were given.");
    if (r->layer_ms != NULL)
        print_layers(r);
}

/* ---- JSON ---- */

static void json_series(pg_json *json, const pg_series *s, double flops) {
    pg_json_open(json, s->name, '{');
    pg_json_number(json, "median_ms", s->median);
    pg_json_number(json, "p10_ms", s->p10);
    pg_json_number(json, "p90_ms", s->p90);
    pg_json_number(json, "min_ms", s->least);
    if (s->method == NULL)
        pg_json_number(json, "gflops", gflops(flops, s->median));
    if (s->method != NULL)
        pg_json_open(json, "stages_ms", '{');
    for (int i = 0; s->method != NULL && i < PG_STAGE_PUBLISH; i++)
        pg_json_number(json, pg_stage_name((pg_stage)i), s->stage_median[i]);
    if (s->method != NULL)
        pg_json_close(json, '}');
    pg_json_close(json, '}');
}

static void json_peak(pg_json *json, const pg_peak *peak) {
    pg_json_open(json, "peak", '{');
    pg_json_number(json, "f32_gflops", peak->f32_gflops);
    pg_json_number(json, "bf16_gflops", peak->bf16_gflops);
    pg_json_number(json, "read_gbs", peak->read_gbs);
    pg_json_close(json, '}');
}

static void json_layer(pg_json *json, const pg_bench_result *r, int index) {
    const pg_op *op = pg_model_op(r->model, index);
    pg_layer_times t = layer_times(r, index);
    pg_json_open(json, NULL, '{');
    pg_json_string(json, "name", op->node);
    pg_json_string(json, "type", op->type);
    pg_json_string(json, "implementation", op->impl);
    pg_json_number(json, "forward_ms", t.forward);
    pg_json_number(json, "backward_ms", t.backward);
    pg_json_int(json, "flops", (int64_t)op->flops);
    if (r->peak.f32_gflops > 0) {
        pg_json_string(json, "bound", t.memory ? "memory" : "flops");
        pg_json_number(json, "forward_share", t.forward_share);
        pg_json_number(json, "backward_share", t.backward_share);
    }
    pg_json_close(json, '}');
}

pg_err pg_bench_print_json(const pg_bench_result *r, pg_diag *diag) {
    const pg_model_info *info = pg_model_get_info(r->model);
    pg_json json = {0};
    pg_json_open(&json, NULL, '{');
    pg_json_string(&json, "model", info->path);
    pg_json_string(&json, "sha256", info->sha256_hex);
    pg_json_int(&json, "flops", (int64_t)info->flops);
    pg_json_string(&json, "precision", pg_precision_name(info->precision));
    pg_json_int(&json, "threads", r->threads);
    pg_json_int(&json, "runs", r->runs);
    pg_json_int(&json, "warm_up", r->warm_up);
    pg_json_bool(&json, "random_channels", r->random_channels);
    if (r->peak.f32_gflops > 0)
        json_peak(&json, &r->peak);
    for (int i = 0; i < PG_BENCH_METHODS; i++)
        if (r->series[i].wanted)
            json_series(&json, &r->series[i], (double)info->flops);
    pg_json_open(&json, "methods", '{');
    for (int i = PG_BENCH_METHODS; i < r->n_series; i++)
        if (r->series[i].wanted)
            json_series(&json, &r->series[i], (double)info->flops);
    pg_json_close(&json, '}');
    if (r->layer_ms != NULL) {
        pg_json_open(&json, "layers", '[');
        for (int i = 0; i < pg_model_op_count(r->model); i++)
            json_layer(&json, r, i);
        pg_json_close(&json, ']');
    }
    pg_json_close(&json, '}');
    return pg_json_print(&json) ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
}
