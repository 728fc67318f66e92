#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cli.h"
#include "daemon/clock.h"
#include "daemon/json.h"
#include "daemon/progress.h"
#include "kernels/mem.h"
#include "pipeline/file_io.h"
#include "pipeline/frame_file.h"
#include "pipeline/image_write.h"
#include "pipeline/npy.h"

static const pg_cli_option options[] = {
    {"--model", "FILE", "model.path", "the network, an ONNX file"},
    {"--labels", "FILE", "model.labels", "class names, one per line"},
    {"--stats", "FILE", "parchgrad.stats", "channel statistics made by calibrate"},
    {"--method", "NAME", "explain.method", "how"},
    {"--target", "CLASS|top1", "explain.target", "which class, by index or name"},
    {"--save-attribution", "FILE.npy", NULL, "signed attribution, float32 [3,H,W]"},
    {"--save-map", "FILE.npy", NULL, "the map, float32 [H,W]"},
    {"--save-logits", "FILE.npy", NULL, "the logits, float32 [classes]"},
    {"--save-output", "FILE.npy", NULL, "the network's output, float32 in its own shape"},
    {"--save-overlay", "FILE.png|jpg", NULL, "the map in colour over the picture"},
    {"--list-methods", NULL, NULL, "print the methods there are and what they cost"},
    {"--retune", NULL, "engine.tune=always", "measure again which implementations are fastest"},
    {0},
};

/* One picture's way through: everything explain holds. */
typedef struct pg_explain_job {
    const pg_cli *cli;
    const pg_config *config;
    pg_explainer *explainer;
    pg_pipeline *pipeline;
    uint8_t *file;
    size_t file_size;
    pg_frame frame;
    pg_explanation result;
    pg_progress progress;
} pg_explain_job;

/* ---- in ---- */

static pg_err read_input(pg_explain_job *job, pg_diag *diag) {
    enum { NPY_ROOM = 65536 };
    const char *path = job->cli->operand;
    uint64_t limit = job->config->limits.frame_bytes;
    pg_frame *frame = &job->frame;
    pg_err err = pg_file_read(path, limit + NPY_ROOM, &job->file, &job->file_size, diag);
    if (err == PG_ECONFIG || err == PG_EINPUT)
        return PG_EINPUT; /* the input is what is wrong, whatever the reason */
    if (err != PG_OK)
        return err;
    err = pg_frame_of_file(job->file, job->file_size, frame, diag);
    if (err != PG_OK)
        return pg_fail_in(diag, err, "%s", path);
    strcpy(frame->stream, "input");
    frame->ts_ns = frame->arrival_ns = pg_clock_wall();
    return PG_OK;
}

/* ---- out: files ---- */

static pg_err save_array(pg_explain_job *job, const char *option, pg_shape shape,
                         const float *values, pg_diag *diag) {
    const char *path = pg_cli_value(job->cli, option);
    return path == NULL ? PG_OK : pg_npy_save(path, &shape, values, diag);
}

static pg_err save_output(pg_explain_job *job, pg_diag *diag) {
    const pg_desc *output = &pg_model_get_info(pg_explainer_model(job->explainer))->output;
    if (pg_cli_value(job->cli, "--save-output") == NULL)
        return PG_OK;
    float *plain = pg_malloc((size_t)pg_shape_count(&output->shape) * sizeof *plain);
    if (plain == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    pg_layout_convert(&output->shape, output->layout, job->result.output, PG_PLAIN, plain);
    pg_err err = save_array(job, "--save-output", output->shape, plain, diag);
    pg_free(plain);
    return err;
}

static pg_err save(pg_explain_job *job, pg_diag *diag) {
    const pg_explanation *r = &job->result;
    pg_shape attribution = {3, {r->attribution[0], r->attribution[1], r->attribution[2]}};
    pg_shape map = {2, {r->height, r->width}}, logits = {1, {r->classes}};
    pg_err err = PG_OK;
    if (pg_cli_value(job->cli, "--save-attribution") != NULL)
        err = save_array(job, "--save-attribution", attribution,
                         pg_pipeline_attribution(job->pipeline), diag);
    if (err == PG_OK)
        err = save_array(job, "--save-map", map, r->map, diag);
    if (err == PG_OK)
        err = save_array(job, "--save-logits", logits, r->logits, diag);
    if (err == PG_OK)
        err = save_output(job, diag);
    const char *overlay = pg_cli_value(job->cli, "--save-overlay");
    if (err == PG_OK && overlay != NULL)
        err = pg_image_save(overlay, pg_pipeline_overlay(job->pipeline), r->width, r->height, diag);
    return err;
}

/* ---- out: text ---- */

static void print_prune(const pg_explanation *r) {
    if (r->n_layers == 0)
        return;
    int kept = 0, total = 0, alone = 0;
    float least = INFINITY, most = 0;
    for (int i = 0; i < r->n_layers; i++) {
        kept += r->layers[i].kept;
        total += r->layers[i].total;
        alone += r->layers[i].degenerate;
        if (r->layers[i].degenerate)
            continue;
        least = fminf(least, r->layers[i].beta);
        most = fmaxf(most, r->layers[i].beta);
    }
    printf("pruned: %d convolutions, %d of %d channels kept", r->n_layers, kept, total);
    if (alone < r->n_layers)
        printf(", beta %.2f to %.2f", (double)least, (double)most);
    if (alone > 0)
        printf("; %d left as they are (degenerate)", alone);
    putchar('\n');
}

static void print_figures(const pg_method_result *f) {
    if (f->planned == 0)
        return;
    printf("samples: %d of %d", f->samples, f->planned);
    if (!isnan(f->std_error))
        printf(", standard error of the mean %.3g", f->std_error);
    if (!isnan(f->delta))
        printf(", convergence delta %.3g", f->delta);
    putchar('\n');
}

static void print_text(const pg_explain_job *job) {
    const pg_explanation *r = &job->result;
    for (int i = 0; i < r->n_top; i++)
        printf("%7.4f  %5" PRId64 "  %s\n", (double)r->top[i].probability, r->top[i].klass,
               r->top[i].name == NULL ? "" : r->top[i].name);
    printf("explained: class %" PRId64 "%s%s (%s), probability %.4f, by %s\n", r->explained.klass,
           r->explained.name == NULL ? "" : " ", r->explained.name == NULL ? "" : r->explained.name,
           r->why, (double)r->explained.probability, r->method);
    print_prune(r);
    print_figures(&r->figures);
    printf("map: %" PRId64 " x %" PRId64 ", entropy %.3f, gini %.3f%s\n", r->width, r->height,
           r->quality.entropy, r->quality.gini, r->quality.degenerate ? ", degenerate" : "");
    printf("time: %.2f ms", (double)r->total_ns * 1e-6);
    for (int i = 0; i < PG_STAGE_PUBLISH; i++)
        printf("%s%s %.2f", i == 0 ? " (" : ", ", pg_stage_name((pg_stage)i),
               (double)r->timing_ns[i] * 1e-6);
    puts(")");
}

/* ---- out: JSON, with the names of the wire format's header ---- */

static void json_classes(pg_json *json, const pg_explanation *r) {
    pg_json_open(json, "top", '[');
    for (int i = 0; i < r->n_top; i++) {
        pg_json_open(json, NULL, '[');
        pg_json_int(json, NULL, r->top[i].klass);
        pg_json_string(json, NULL, r->top[i].name);
        pg_json_number(json, NULL, (double)r->top[i].probability);
        pg_json_close(json, ']');
    }
    pg_json_close(json, ']');
    pg_json_open(json, "explained", '{');
    pg_json_int(json, "class", r->explained.klass);
    pg_json_string(json, "name", r->explained.name);
    pg_json_number(json, "probability", (double)r->explained.probability);
    pg_json_string(json, "why", r->why);
    pg_json_close(json, '}');
    pg_json_string(json, "method", r->method);
}

/* null where nothing is pruned. */
static void json_channels(pg_json *json, const pg_layer_result *layer) {
    if (layer->keep == NULL) {
        pg_json_string(json, "channels", NULL);
        return;
    }
    pg_json_open(json, "channels", '[');
    for (int c = 0; c < layer->total; c++)
        if (layer->keep[c])
            pg_json_int(json, NULL, c);
    pg_json_close(json, ']');
}

static void json_prune(pg_json *json, const pg_explanation *r) {
    pg_json_open(json, "prune", '{');
    pg_json_open(json, "layers", '[');
    for (int i = 0; i < r->n_layers; i++) {
        const pg_layer_result *layer = &r->layers[i];
        pg_json_open(json, NULL, '{');
        pg_json_string(json, "name", layer->name);
        pg_json_int(json, "conv", layer->conv);
        pg_json_int(json, "kept", layer->kept);
        pg_json_int(json, "total", layer->total);
        json_channels(json, layer);
        pg_json_number(json, "beta", (double)layer->beta);
        pg_json_number(json, "share", (double)layer->share);
        pg_json_bool(json, "degenerate", layer->degenerate);
        pg_json_close(json, '}');
    }
    pg_json_close(json, ']');
    pg_json_close(json, '}');
}

static void json_figures(pg_json *json, const pg_method_result *f) {
    if (f->planned > 0) {
        pg_json_int(json, "samples", f->samples);
        pg_json_int(json, "planned", f->planned);
    }
    if (!isnan(f->std_error))
        pg_json_number(json, "std_error", f->std_error);
    if (!isnan(f->delta))
        pg_json_number(json, "delta", f->delta);
    if (!isnan(f->relevance))
        pg_json_number(json, "relevance", f->relevance);
}

static void json_map(pg_json *json, const pg_explanation *r) {
    pg_json_open(json, "map", '{');
    pg_json_int(json, "w", r->width);
    pg_json_int(json, "h", r->height);
    pg_json_open(json, "transform", '[');
    for (int i = 0; i < 6; i++)
        pg_json_number(json, NULL, r->transform[i]);
    pg_json_close(json, ']');
    pg_json_close(json, '}');
    pg_json_open(json, "quality", '{');
    pg_json_number(json, "entropy", r->quality.entropy);
    pg_json_number(json, "gini", r->quality.gini);
    json_figures(json, &r->figures);
    pg_json_bool(json, "degenerate", r->quality.degenerate);
    pg_json_close(json, '}');
}

/* Every channel's relevance, and the most relevant ones. */
static void json_concepts(pg_json *json, const pg_concepts *c) {
    pg_json_open(json, "concepts", '{');
    pg_json_string(json, "layer", c->layer);
    pg_json_open(json, "top", '[');
    for (int i = 0; i < c->n_top; i++)
        pg_json_int(json, NULL, c->top[i]);
    pg_json_close(json, ']');
    pg_json_open(json, "relevance", '[');
    for (int64_t k = 0; k < c->channels; k++)
        pg_json_number(json, NULL, c->relevance[k]);
    pg_json_close(json, ']');
    pg_json_close(json, '}');
}

static pg_err print_json(const pg_explain_job *job, pg_diag *diag) {
    const pg_explanation *r = &job->result;
    pg_json json = {0};
    pg_json_open(&json, NULL, '{');
    pg_json_string(&json, "input", job->cli->operand);
    pg_json_int(&json, "w", r->frame_width);
    pg_json_int(&json, "h", r->frame_height);
    json_classes(&json, r);
    json_prune(&json, r);
    json_map(&json, r);
    if (r->concepts != NULL)
        json_concepts(&json, r->concepts);
    pg_json_open(&json, "timing", '{');
    for (int i = 0; i < PG_STAGE_PUBLISH; i++)
        pg_json_int(&json, pg_stage_name((pg_stage)i), (int64_t)r->timing_ns[i]);
    pg_json_int(&json, "total", (int64_t)r->total_ns);
    pg_json_close(&json, '}');
    const char *stats = pg_explainer_stats_sha256(job->explainer);
    pg_json_open(&json, "model", '{');
    const pg_model_info *model = pg_model_get_info(pg_explainer_model(job->explainer));
    pg_json_string(&json, "sha256", model->sha256_hex);
    pg_json_string(&json, "stats", stats[0] == '\0' ? NULL : stats);
    pg_json_string(&json, "precision", pg_precision_name(model->precision));
    pg_json_close(&json, '}');
    pg_json_close(&json, '}');
    return pg_json_print(&json) ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
}

/* ---- the whole ---- */

static void show_progress(void *job, int done, int planned) {
    pg_progress_update(&((pg_explain_job *)job)->progress, (uint64_t)done, (uint64_t)planned);
}

static pg_err explain(pg_explain_job *job, pg_diag *diag) {
    pg_err err = pg_cli_config(job->cli, &job->config, diag);
    if (err == PG_OK)
        err = pg_cli_explainer(job->config, &job->explainer, diag);
    if (err == PG_OK)
        err = read_input(job, diag);
    if (err == PG_OK)
        err = pg_pipeline_create(job->explainer, pg_clock_monotonic, &job->pipeline, diag);
    if (err != PG_OK)
        return err;
    pg_progress_start(&job->progress, job->config->explain.method);
    pg_pipeline_watch(job->pipeline, show_progress, job);
    pg_drop drop = pg_pipeline_run(job->pipeline, &job->frame, NULL, &job->result, diag);
    pg_progress_end(&job->progress);
    if (drop != PG_DROP_NONE)
        return pg_fail_in(diag, drop == PG_DROP_INFER_ERROR ? PG_EFAIL : PG_EINPUT, "%s",
                          job->cli->operand);
    err = save(job, diag);
    if (err == PG_OK && job->cli->json)
        return print_json(job, diag);
    if (err == PG_OK)
        print_text(job);
    return err;
}

static pg_err run(const pg_cli *cli, pg_diag *diag) {
    if (pg_cli_value(cli, "--list-methods") != NULL)
        return pg_methods_list(cli, diag);
    pg_explain_job job = {.cli = cli};
    pg_err err = explain(&job, diag);
    pg_pipeline_destroy(&job.pipeline);
    pg_explainer_destroy(&job.explainer);
    pg_free(job.file);
    pg_config_destroy(&job.config);
    return err;
}

const pg_command pg_command_explain = {
    .name = "explain",
    .operand = "INPUT",
    .configured = true,
    .json = true,
    .brief = "Explain one picture.",
    .prose = "INPUT is a JPEG or PNG, or a .npy of float32 [3,H,W] or [1,3,H,W] that is already "
             "what the\n"
             "network takes: no preprocessing then.",
    .options = options,
    .run = run,
};
