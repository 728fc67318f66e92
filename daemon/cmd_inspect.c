#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cli.h"
#include "daemon/json.h"
#include "kernels/mem.h"
#include "kernels/op.h"
#include "kernels/threads.h"
#include "pipeline/explainer.h"

static const pg_cli_option options[] = {
    {"--model", "FILE", "model.path", "the network, an ONNX file"},
    {0},
};

/* A prepared model, and which of its convolutions the configuration selects. */
typedef struct pg_inspection {
    pg_refusals refusals; /* of a file that is not supported: then there is no model */
    pg_model *model;
    const pg_model_info *info;
    pg_lrp_options lrp;
    bool *selected;   /* [n_convs] by this configuration */
    bool *by_default; /* [n_convs] by parchgrad.layers: default */
    int n_selected, n_by_default;
} pg_inspection;

static pg_err choose(const pg_prune_options *how, const pg_model_info *info, pg_layers *layers,
                     bool **chosen, int *count, pg_diag *diag) {
    *chosen = pg_calloc((size_t)info->n_convs + 1, sizeof **chosen);
    if (*chosen == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    pg_err err = pg_layers_choose(how, info->convs, info->n_convs, layers, diag);
    for (int i = 0; err == PG_OK && i < layers->count; i++)
        (*chosen)[layers->convs[i]] = true;
    *count = layers->count;
    return err;
}

/* True where an explainer of these options could prune, given the statistics its method wants. */
static bool may_prune(const pg_explain_options *o) {
    const pg_saliency *method = pg_saliency_find(o->method);
    return !pg_select_wants_gap(o->prune.select) ||
           (o->prune.stats_path && o->prune.stats_path[0]) || (method && method->prunes);
}

static pg_err look(const pg_config *config, pg_inspection *out, pg_diag *diag) {
    pg_threads_set(config->explain.threads);
    pg_err err = pg_explainer_open_model(&config->explain, &out->refusals, &out->model, diag);
    if (err != PG_OK)
        return err;
    out->info = pg_model_get_info(out->model);
    const pg_explain_options *o = &config->explain;
    pg_prune_options usual = o->prune;
    usual.layers_default = true;
    pg_layers layers = {0}, by_default = {0};
    err = choose(&o->prune, out->info, &layers, &out->selected, &out->n_selected, diag);
    if (err == PG_OK)
        err = choose(&usual, out->info, &by_default, &out->by_default, &out->n_by_default, diag);
    const pg_select_source source = {.options = &o->prune,
                                     .convs = out->info->convs,
                                     .n_convs = out->info->n_convs,
                                     .layers = &layers};
    if (err == PG_OK && may_prune(o))
        pg_explainer_expect_kept(o, &source, out->model);
    if (err == PG_OK)
        err = pg_explainer_want_relevance(o, &out->lrp, out->model, diag);
    if (err == PG_OK)
        err = pg_model_prepare(out->model, out->selected, true, diag);
    pg_layers_free(&layers);
    pg_layers_free(&by_default);
    return err;
}

/* What method.md section 10 wants said: where z is taken. */
static const char *batch_norm_case(const pg_model_info *info) {
    int kept = 0;
    for (int i = 0; i < info->n_convs; i++)
        kept += info->convs[i].batch_norm;
    if (kept == 0)
        return "none in the file: folded by the exporter, or never there; ParchGrad sees the "
               "convolutions as they are";
    return kept == info->n_convs
               ? "kept in the file after every convolution: ParchGrad sees the values before it"
               : "kept in the file after some convolutions: ParchGrad sees the values before it "
                 "there";
}

static const char *shape_of(const pg_op *op, char text[PG_SHAPE_TEXT]) {
    return op->n_dst > 0 ? pg_shape_text(&op->dst[0].shape, text) : "";
}

static void print_convs(const pg_inspection *it) {
    puts("\n conv  output [C,H,W]      kernel stride groups  BN     GFLOP  default  pruned  name");
    for (int i = 0; i < it->info->n_convs; i++) {
        const pg_conv_info *c = &it->info->convs[i];
        char shape[64], kernel[32], stride[32];
        snprintf(shape, sizeof shape, "[%" PRId64 ",%" PRId64 ",%" PRId64 "]", c->channels,
                 c->height, c->width);
        snprintf(kernel, sizeof kernel, "%" PRId64 "x%" PRId64, c->kernel_h, c->kernel_w);
        snprintf(stride, sizeof stride, "%" PRId64 "x%" PRId64, c->stride_h, c->stride_w);
        printf("%5d  %-18s  %-6s %-6s %6" PRId64 "  %-3s %9.4f  %-7s  %-6s  %s%s\n", i, shape,
               kernel, stride, c->groups, c->batch_norm ? "yes" : "no", (double)c->flops * 1e-9,
               it->by_default[i] ? "yes" : "", it->selected[i] ? "yes" : "", c->name,
               c->on_path ? "" : " (no gradient passes it: cannot be pruned)");
    }
}

static void print_ops(const pg_inspection *it) {
    puts("\n   op  type                output                     GFLOP  implementation          "
         "                      name");
    for (int i = 0; i < pg_model_op_count(it->model); i++) {
        const pg_op *op = pg_model_op(it->model, i);
        char shape[PG_SHAPE_TEXT];
        printf("%5d  %-18s  %-21s %9.4f  %-44s  %s\n", i, op->type, shape_of(op, shape),
               (double)op->flops * 1e-9,
               op->alias          ? "(no copy)"
               : op->impl == NULL ? ""
                                  : op->impl,
               op->node);
    }
}

/* What is left out at the end, in words; NULL: nothing. */
static const char *squash_name(const pg_model_info *m) {
    return m->squash == PG_SQUASH_SOFTMAX   ? "softmax"
           : m->squash == PG_SQUASH_SIGMOID ? "sigmoid"
                                            : NULL;
}

static void print_output(const pg_model_info *m) {
    char shape[PG_SHAPE_TEXT];
    printf("explained: %s %s, %" PRId64 " classes along axis %d", m->logits_name,
           pg_shape_text(&m->output.shape, shape), m->classes, m->class_axis);
    if (squash_name(m) != NULL)
        printf("; the input of the file's last %s, which is left out", squash_name(m));
    if (pg_shape_count(&m->output.shape) > m->classes)
        printf("; the sum over %" PRId64 " cells, or explain.region",
               pg_shape_count(&m->output.shape) / m->classes);
    printf("\noutputs of the file:");
    for (int i = 0; i < m->n_outputs; i++)
        printf("%s %s", i > 0 ? "," : "", m->outputs[i]);
    puts("");
}

static int count_ops(const pg_inspection *it, const char *type) {
    int count = 0;
    for (int i = 0; i < pg_model_op_count(it->model); i++)
        count += strcmp(pg_model_op(it->model, i)->type, type) == 0;
    return count;
}

static void print_nodes(const pg_inspection *it) {
    const pg_model_info *m = it->info;
    printf("nodes: %d in the file, %d folded away, %d run\n", m->nodes_in_file, m->nodes_folded,
           m->nodes_run);
    for (int i = 0; i < m->n_folded; i++)
        printf("%s %d %s", i == 0 ? "folded:" : ",", m->folded[i].count, m->folded[i].type);
    if (m->n_folded > 0)
        puts("");
    int quantised = count_ops(it, "QuantizeLinear");
    if (quantised > 0)
        printf("quantised: %d values; explained in float, rounded as the file says, the gradient "
               "straight through the rounding\n",
               quantised);
}

static void print_text(const pg_inspection *it) {
    const pg_model_info *m = it->info;
    char shape[PG_SHAPE_TEXT];
    printf("%s: %.1f MB, sha256 %s\n", m->path, (double)m->file_bytes * 1e-6, m->sha256_hex);
    printf("made by %s, ONNX IR %" PRId64 ", opset %" PRId64 "\n",
           m->producer == NULL || m->producer[0] == '\0' ? "(not said)" : m->producer,
           m->ir_version, m->opset);
    printf("input: %s %s%s%s\n", m->input_name, pg_shape_text(&m->input, shape),
           m->channels_last ? ", channels last in the file" : "",
           m->input_bytes ? ", bytes: pixels go in as they are" : "");
    print_output(m);
    print_nodes(it);
    printf("batch normalisation: %s\n", batch_norm_case(m));
    printf("pruned: %d of %d convolutions; by default %d\n", it->n_selected, m->n_convs,
           it->n_by_default);
    printf("one forward: %.3f GFLOP, in %s\n", (double)m->flops * 1e-9,
           pg_precision_name(m->precision));
    printf("memory: weights %.1f MB shared, %.1f MB for each worker",
           (double)m->weight_bytes * 1e-6, (double)m->session_bytes * 1e-6);
    if (m->kept_bytes > 0)
        printf(", of these %.1f MB for packed weights of kept channels (engine.kept_cache)",
               (double)m->kept_bytes * 1e-6);
    puts("");
    print_convs(it);
    print_ops(it);
}

static void json_model(pg_json *json, const pg_inspection *it) {
    const pg_model_info *m = it->info;
    pg_json_bool(json, "supported", true);
    pg_json_string(json, "path", m->path);
    pg_json_string(json, "sha256", m->sha256_hex);
    pg_json_int(json, "file_bytes", (int64_t)m->file_bytes);
    pg_json_string(json, "producer", m->producer);
    pg_json_int(json, "ir_version", m->ir_version);
    pg_json_int(json, "opset", m->opset);
    pg_json_string(json, "input_name", m->input_name);
    pg_json_open(json, "input", '[');
    for (int i = 0; i < m->input.rank; i++)
        pg_json_int(json, NULL, m->input.dims[i]);
    pg_json_close(json, ']');
    pg_json_string(json, "logits_name", m->logits_name);
    pg_json_int(json, "classes", m->classes);
    pg_json_int(json, "class_axis", m->class_axis);
    pg_json_string(json, "left_out", squash_name(m));
    pg_json_open(json, "output", '[');
    for (int i = 0; i < m->output.shape.rank; i++)
        pg_json_int(json, NULL, m->output.shape.dims[i]);
    pg_json_close(json, ']');
    pg_json_open(json, "outputs", '[');
    for (int i = 0; i < m->n_outputs; i++)
        pg_json_string(json, NULL, m->outputs[i]);
    pg_json_close(json, ']');
    pg_json_string(json, "precision", pg_precision_name(m->precision));
    pg_json_bool(json, "channels_last", m->channels_last);
    pg_json_bool(json, "input_bytes", m->input_bytes);
    pg_json_int(json, "nodes_in_file", m->nodes_in_file);
    pg_json_int(json, "nodes_folded", m->nodes_folded);
    pg_json_int(json, "nodes_run", m->nodes_run);
    pg_json_open(json, "folded", '{');
    for (int i = 0; i < m->n_folded; i++)
        pg_json_int(json, m->folded[i].type, m->folded[i].count);
    pg_json_close(json, '}');
    pg_json_int(json, "quantised", count_ops(it, "QuantizeLinear"));
    pg_json_string(json, "batch_norm", batch_norm_case(m));
    pg_json_int(json, "flops", (int64_t)m->flops);
    pg_json_int(json, "weight_bytes", (int64_t)m->weight_bytes);
    pg_json_int(json, "session_bytes", (int64_t)m->session_bytes);
    pg_json_int(json, "kept_bytes", (int64_t)m->kept_bytes);
}

static void json_convs(pg_json *json, const pg_inspection *it) {
    pg_json_open(json, "convolutions", '[');
    for (int i = 0; i < it->info->n_convs; i++) {
        const pg_conv_info *c = &it->info->convs[i];
        pg_json_open(json, NULL, '{');
        pg_json_int(json, "conv", i);
        pg_json_string(json, "name", c->name);
        pg_json_string(json, "output", c->output);
        pg_json_int(json, "in_channels", c->in_channels);
        pg_json_int(json, "channels", c->channels);
        pg_json_int(json, "height", c->height);
        pg_json_int(json, "width", c->width);
        pg_json_int(json, "kernel_h", c->kernel_h);
        pg_json_int(json, "kernel_w", c->kernel_w);
        pg_json_int(json, "stride_h", c->stride_h);
        pg_json_int(json, "stride_w", c->stride_w);
        pg_json_int(json, "groups", c->groups);
        pg_json_bool(json, "batch_norm", c->batch_norm);
        pg_json_bool(json, "on_path", c->on_path);
        pg_json_bool(json, "default", it->by_default[i]);
        pg_json_bool(json, "pruned", it->selected[i]);
        pg_json_int(json, "flops", (int64_t)c->flops);
        pg_json_close(json, '}');
    }
    pg_json_close(json, ']');
}

static pg_err print_json(const pg_inspection *it, pg_diag *diag) {
    pg_json json = {0};
    pg_json_open(&json, NULL, '{');
    json_model(&json, it);
    json_convs(&json, it);
    pg_json_open(&json, "operators", '[');
    for (int i = 0; i < pg_model_op_count(it->model); i++) {
        const pg_op *op = pg_model_op(it->model, i);
        pg_json_open(&json, NULL, '{');
        pg_json_string(&json, "name", op->node);
        pg_json_string(&json, "type", op->type);
        pg_json_open(&json, "output", '[');
        for (int d = 0; op->n_dst > 0 && d < op->dst[0].shape.rank; d++)
            pg_json_int(&json, NULL, op->dst[0].shape.dims[d]);
        pg_json_close(&json, ']');
        pg_json_string(&json, "implementation", op->impl);
        pg_json_int(&json, "weight_bytes", (int64_t)op->weight_bytes);
        pg_json_int(&json, "flops", (int64_t)op->flops);
        pg_json_close(&json, '}');
    }
    pg_json_close(&json, ']');
    pg_json_close(&json, '}');
    return pg_json_print(&json) ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
}

/* ---- a file that is not supported ---- */

static void print_refusals(const pg_refusals *r, const char *path) {
    printf("%s: %d node%s not supported\n", path, r->count, r->count == 1 ? " is" : "s are");
    for (int i = 0; i < r->kept; i++) {
        const pg_refusal *item = &r->items[i];
        printf("  %-20s node '%s': %s\n", item->type, item->node, item->reason);
        if (item->advice[0] != '\0')
            printf("  %-20s what to do: %s\n", "", item->advice);
    }
    if (r->kept < r->count)
        printf("  ... and %d more\n", r->count - r->kept);
}

static bool json_refusals(const pg_refusals *r, const char *path) {
    pg_json json = {0};
    pg_json_open(&json, NULL, '{');
    pg_json_string(&json, "path", path);
    pg_json_bool(&json, "supported", false);
    pg_json_int(&json, "unsupported_count", r->count);
    pg_json_open(&json, "unsupported", '[');
    for (int i = 0; i < r->kept; i++) {
        pg_json_open(&json, NULL, '{');
        pg_json_string(&json, "node", r->items[i].node);
        pg_json_string(&json, "type", r->items[i].type);
        pg_json_string(&json, "reason", r->items[i].reason);
        pg_json_string(&json, "advice", r->items[i].advice);
        pg_json_close(&json, '}');
    }
    pg_json_close(&json, ']');
    pg_json_close(&json, '}');
    return pg_json_print(&json);
}

static pg_err run(const pg_cli *cli, pg_diag *diag) {
    const pg_config *config = NULL;
    pg_inspection it = {0};
    pg_err err = pg_cli_config(cli, &config, diag);
    if (err == PG_OK)
        err = pg_cli_locate(config, look(config, &it, diag), diag);
    if (it.refusals.count > 0 && !cli->json)
        print_refusals(&it.refusals, config->explain.model_path);
    else if (it.refusals.count > 0 && !json_refusals(&it.refusals, config->explain.model_path))
        err = pg_fail(diag, PG_ENOMEM, "out of memory");
    if (err == PG_OK && cli->json)
        err = print_json(&it, diag);
    else if (err == PG_OK)
        print_text(&it);
    pg_model_destroy(&it.model);
    pg_refusals_clear(&it.refusals);
    pg_free(it.selected);
    pg_free(it.by_default);
    pg_config_destroy(&config);
    return err;
}

const pg_command pg_command_inspect = {
    .name = "inspect",
    .configured = true,
    .json = true,
    .brief = "Show a network: layers, shapes, what is pruned, memory.",
    .prose =
        "A file that uses operators this program does not have is refused (status 3); then every\n"
        "such node is listed with the reason and what can be done about it.",
    .options = options,
    .run = run,
};
