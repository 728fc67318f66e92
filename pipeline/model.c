#include "pipeline/model.h"

#include <inttypes.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op_conv.h"
#include "kernels/threads.h"
#include "pipeline/file_io.h"
#include "pipeline/model_private.h"
#include "pipeline/onnx_import.h"
#include "pipeline/optimise.h"
#include "pipeline/sha256.h"
#include "pipeline/shuffle.h"
#include "pipeline/tune.h"
#include "pipeline/watch.h"

static void drop_load(pg_model *model) {
    for (int i = 0; i < model->graph.n_nodes; i++)
        model->graph.nodes[i].def = NULL;
    pg_onnx_external_close(&model->external);
    pg_pool_clear(&model->load);
    pg_free(model->file);
    model->file = NULL;
}

static pg_err read_file(pg_model *model, const pg_model_options *options, pg_span *file,
                        pg_diag *diag) {
    uint64_t limit = options->max_file_bytes != 0 ? options->max_file_bytes : (uint64_t)2 << 30;
    *file = (pg_span){options->bytes, options->n_bytes};
    if (options->bytes == NULL) {
        pg_err err = pg_file_read(options->path, limit, &model->file, &file->size, diag);
        if (err != PG_OK) /* here a file that is too large is a model that is refused */
            return err == PG_EINPUT ? PG_EMODEL : err;
        file->data = model->file;
    }
    uint64_t base = options->max_load_bytes != 0 ? options->max_load_bytes : (uint64_t)1 << 30;
    model->budget = (size_t)base + PG_ONNX_LOAD_FACTOR * file->size;
    pg_onnx_external_open(&model->external, options->bytes == NULL ? options->path : NULL, *file,
                          limit > file->size ? limit - file->size : 0, &model->load);
    model->info.path = pg_pool_text(&model->pool, options->path, strlen(options->path));
    return model->info.path != NULL ? PG_OK : pg_fail(diag, PG_ENOMEM, "no memory for the model");
}

static pg_err import(pg_model *model, const pg_model_options *options, pg_span file,
                     pg_diag *diag) {
    pg_import job = {.options = options,
                     .file = file,
                     .external = &model->external,
                     .load = &model->load,
                     .graph = &model->graph};
    pg_err err = pg_onnx_import(&job, diag);
    if (err == PG_OK)
        err = pg_shuffle_last(&model->graph, options->shuffled_layers, &model->load, diag);
    if (err == PG_OK)
        err = pg_watch_named(&model->graph, options->watch, diag);
    if (err == PG_OK)
        err = pg_optimise(&model->graph, &model->load, options->fuse_add && !options->relevance,
                          !options->relevance, diag);
    if (err != PG_OK)
        return pg_fail_in(diag, err, "%s", options->path);
    pg_model_info *info = &model->info;
    pg_onnx_external_digest(&model->external, info->sha256);
    pg_sha256_hex(info->sha256, info->sha256_hex);
    info->file_bytes = file.size + model->external.bytes;
    const pg_graph *g = &model->graph;
    info->ir_version = job.ir_version;
    info->opset = job.opset;
    info->producer = job.producer;
    info->input_name = job.input_name;
    info->nodes_in_file = job.nodes_in_file;
    info->nodes_folded = job.nodes_folded;
    info->folded = job.folded;
    info->n_folded = job.n_folded;
    info->channels_last = job.channels_last;
    info->input_bytes = job.input_bytes;
    info->outputs = job.outputs;
    info->n_outputs = job.n_outputs;
    info->squash = job.squash;
    info->input = g->values[g->input].shape;
    info->output.shape = g->values[g->logits].shape;
    info->class_axis = job.class_axis;
    info->classes = info->output.shape.dims[job.class_axis];
    info->logits_name = g->values[g->logits].name;
    if (model->graph.watched < 0)
        pg_watch_last(&model->graph);
    if ((err = pg_watch_describe(g, info, diag)))
        return pg_fail_in(diag, err, "%s", options->path);
    info->n_convs = g->n_convs;
    info->convs = g->convs;
    return PG_OK;
}

static pg_err index_convs(pg_model *model, pg_diag *diag) {
    pg_graph *g = &model->graph;
    pg_free(model->conv_node);
    model->conv_node = pg_malloc((size_t)g->n_convs * sizeof *model->conv_node);
    if (model->conv_node == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the model");
    for (int c = 0; c < g->n_convs; c++)
        model->conv_node[c] = -1;
    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].conv >= 0)
            model->conv_node[g->nodes[i].conv] = i;
    return PG_OK;
}

/* The figures of `inspect`; weights and implementations are known after prepare only. */
static void sum_up(pg_model *model) {
    pg_model_info *info = &model->info;
    info->nodes_run = 0;
    info->weight_bytes = model->lrp.weight_bytes;
    info->flops = 0;
    info->kept_bytes = 0;
    for (int i = 0; i < model->graph.n_nodes; i++) {
        const struct pg_op *op = model->graph.nodes[i].op;
        info->nodes_run += !op->alias;
        info->weight_bytes += op->weight_bytes;
        info->kept_bytes += op->state_bytes;
        info->flops += op->flops;
    }
    info->session_bytes = model->plan.arena_bytes + info->kept_bytes;
}

/* A step of loading has ended; beyond the budget it failed because of the file. */
static pg_err end_budget(pg_model *model, pg_err err, pg_diag *diag) {
    bool exceeded;
    model->budget = pg_mem_budget_end(&exceeded);
    return err != PG_OK && exceeded
               ? pg_fail(diag, PG_EMODEL,
                         "%s: loading it would take memory out of proportion to the file's size",
                         model->info.path)
               : err;
}

static pg_err load(pg_model *model, const pg_model_options *options, pg_span file, pg_diag *diag) {
    pg_mem_budget_begin(model->budget);
    pg_err err = import(model, options, file, diag);
    if (err == PG_OK)
        err = index_convs(model, diag);
    return end_budget(model, err, diag);
}

pg_err pg_model_open(const pg_model_options *options, pg_model **out, pg_diag *diag) {
    *out = NULL;
    pg_model *model = pg_calloc(1, sizeof *model);
    if (model == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the model");
    pg_graph_init(&model->graph, &model->pool);
    model->threads = options->threads;
    model->tune = options->tune;
    model->cache_dir = options->cache_dir;
    model->info.precision =
        options->precision == PG_PRECISION_AUTO ? PG_PRECISION_F32 : options->precision;
    model->library_only = options->library_only;
    model->fuse_split = options->fuse_split;
    model->skip_zeros = options->skip_zeros;
    model->max_session_bytes =
        options->max_session_bytes != 0 ? options->max_session_bytes : (uint64_t)8 << 30;
    model->kept_bytes = options->kept_bytes != 0 ? options->kept_bytes : (uint64_t)22 << 20;
    pg_span file = {0};
    pg_err err = read_file(model, options, &file, diag);
    if (err == PG_OK)
        err = load(model, options, file, diag);
    if (err != PG_OK) {
        pg_model_destroy(&model);
        return err;
    }
    sum_up(model);
    *out = model;
    return PG_OK;
}

const char *pg_precision_name(pg_precision precision) {
    static const char *const names[] = {"auto", "f32", "bf16", "bf16-backward"};
    return names[precision];
}

const pg_model_info *pg_model_get_info(const pg_model *model) { return &model->info; }

int pg_model_op_count(const pg_model *model) { return model->graph.n_nodes; }

const struct pg_op *pg_model_op(const pg_model *model, int index) {
    pg_assert(index >= 0 && index < model->graph.n_nodes);
    return model->graph.nodes[index].op;
}

void pg_model_expect_kept(pg_model *model, int conv, int64_t most) {
    pg_assert(!model->prepared && conv >= 0 && conv < model->info.n_convs);
    const pg_graph *g = &model->graph;
    const pg_conv_info *info = &model->info.convs[conv];
    int node = model->conv_node[conv];
    if (node < 0)
        return;
    pg_conv_expect_kept(g->nodes[node].op, most);
    /* What a depthwise convolution drops is zero for the one before it, too. */
    for (int i = 0; info->groups > 1 && info->groups == info->in_channels && i < node; i++)
        if (g->nodes[i].dst[0] == g->nodes[node].src[0] && pg_op_is_conv(g->nodes[i].op))
            pg_conv_expect_kept(g->nodes[i].op, most);
}

pg_err pg_model_want_relevance(pg_model *model, const struct pg_lrp_options *options,
                               pg_diag *diag) {
    pg_assert(!model->prepared);
    pg_lrp_free(&model->lrp);
    return pg_lrp_plan(&model->graph, options, &model->lrp, diag);
}

const struct pg_lrp *pg_model_lrp(const pg_model *model) {
    return model->lrp.nodes != NULL ? &model->lrp : NULL;
}

pg_err pg_model_find_layer(const pg_model *model, const char *name, struct pg_crp_layer *out,
                           pg_diag *diag) {
    pg_assert(model->prepared);
    return pg_crp_find(&model->graph, name, out, diag);
}

/* Layouts have put nodes between the others: every step is found anew. */
static pg_err prepare_relevance(pg_model *model, pg_conv_tuner *tuner, pg_diag *diag) {
    if (model->lrp.nodes == NULL)
        return PG_OK;
    const pg_lrp_options *options = model->lrp.options;
    pg_lrp_free(&model->lrp);
    pg_err err = pg_lrp_plan(&model->graph, options, &model->lrp, diag);
    return err == PG_OK ? pg_lrp_prepare(&model->graph, &model->lrp, tuner, diag) : err;
}

/* Of equal inputs it takes the first. */
static bool takes_a_maximum(const struct pg_op *op) {
    return strcmp(op->type, "MaxPool") == 0 || strcmp(op->type, "GlobalMaxPool") == 0 ||
           strcmp(op->type, "ReduceMax") == 0;
}

/* Half of what comes out of a ReLU is 0. Leaving zeros out changes the order of a sum from position
 * to position, and what should be equal, where a picture is plain, differs in the last bit: not
 * where a maximum further on would then take another of them. */
static void expect_zeros(pg_graph *g, int *maker, bool *compared) {
    pg_graph_makers(g, maker);
    memset(compared, 0, (size_t)g->n_values * sizeof *compared);
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        const pg_node *node = &g->nodes[i];
        bool any = takes_a_maximum(node->op);
        for (int k = 0; k < node->op->n_dst; k++)
            any = any || compared[node->dst[k]];
        for (int k = 0; any && k < node->op->n_src; k++)
            compared[node->src[k]] = true;
        int from = pg_op_is_conv(node->op) && !any ? maker[node->src[0]] : -1;
        if (from >= 0 && g->nodes[from].op->relu)
            pg_conv_expect_zeros(node->op);
    }
}

static pg_err find_zeros(pg_model *model, pg_diag *diag) {
    size_t n = (size_t)model->graph.n_values;
    int *maker = pg_malloc(n * sizeof *maker);
    bool *compared = pg_malloc(n * sizeof *compared);
    if (maker != NULL && compared != NULL)
        expect_zeros(&model->graph, maker, compared);
    pg_err err = maker != NULL && compared != NULL
                     ? PG_OK
                     : pg_fail(diag, PG_ENOMEM, "no memory for the graph");
    pg_free(maker);
    pg_free(compared);
    return err;
}

static pg_err prepare_each(pg_model *model, pg_conv_tuner *tuner, pg_diag *diag) {
    pg_graph *g = &model->graph;
    for (int i = 0; i < g->n_nodes; i++) {
        struct pg_op *op = g->nodes[i].op;
        if (pg_op_is_conv(op))
            pg_conv_use_tuner(op, tuner);
        op->bf16_forward = model->info.precision == PG_PRECISION_BF16;
        op->bf16_backward = model->info.precision != PG_PRECISION_F32;
        if (model->library_only && pg_op_is_conv(op))
            pg_conv_library_only(op);
        pg_err err = op->cls->prepare != NULL ? op->cls->prepare(op, diag) : PG_OK;
        if (err != PG_OK)
            return pg_fail_in(diag, err, "%s", model->info.path);
        op->gives_rows = op->gives_rows && model->fuse_split;
    }
    return PG_OK;
}

static pg_err prepare_ops(pg_model *model, const bool *gap, pg_diag *diag) {
    pg_graph *g = &model->graph;
    pg_threads_set(model->threads); /* team sizes are baked into the primitives */
    for (int c = 0; gap != NULL && c < g->n_convs; c++)
        if (gap[c] && model->conv_node[c] >= 0)
            pg_conv_want_gap(g->nodes[model->conv_node[c]].op);
    pg_tune tune = {0};
    pg_tune_begin(&tune, model->tune, model->cache_dir, model->info.sha256_hex);
    pg_err err = prepare_relevance(model, &tune.tuner, diag); /* reads the operators' constants */
    if (err == PG_OK && model->skip_zeros)
        err = find_zeros(model, diag);
    if (err == PG_OK)
        err = prepare_each(model, &tune.tuner, diag);
    pg_tune_end(&tune);
    return err;
}

/* A class's masks are one per layer, and of use together: the same number everywhere. */
static void remember_kept(pg_model *model) {
    enum { MASKS_MAX = 64 };
    pg_graph *g = &model->graph;
    uint64_t one = 0;
    for (int i = 0; i < g->n_nodes; i++)
        one += pg_op_is_conv(g->nodes[i].op) ? g->nodes[i].op->state_bytes : 0;
    if (one == 0)
        return;
    uint64_t masks = model->kept_bytes / one;
    masks = masks < 1 ? 1 : masks > MASKS_MAX ? MASKS_MAX : masks;
    for (int i = 0; i < g->n_nodes; i++)
        if (pg_op_is_conv(g->nodes[i].op))
            pg_conv_remember_kept(g->nodes[i].op, (int)masks);
}

static pg_err prepare(pg_model *model, const bool *gap, pg_diag *diag) {
    pg_err err =
        pg_plan_layouts(&model->graph, &model->plan.input_layout, &model->info.output.layout, diag);
    if (err == PG_OK)
        err = index_convs(model, diag);
    if (err == PG_OK)
        err = prepare_ops(model, gap, diag);
    if (err == PG_OK)
        pg_lrp_take_scratch(&model->lrp, &model->graph);
    drop_load(model);
    if (err == PG_OK) /* layouts are known now */
        err = pg_watch_describe(&model->graph, &model->info, diag);
    if (err == PG_OK)
        remember_kept(model);
    if (err == PG_OK)
        err = pg_plan_memory(&model->graph, model->backward, &model->plan, diag);
    if (err != PG_OK)
        return err;
    sum_up(model);
    if (model->info.session_bytes > model->max_session_bytes)
        return pg_fail(
            diag, PG_EMODEL,
            "%s: a session would take %" PRIu64 " MiB, more than the limit of %" PRIu64 " MiB",
            model->info.path, model->info.session_bytes >> 20, model->max_session_bytes >> 20);
    return PG_OK;
}

pg_err pg_model_prepare(pg_model *model, const bool *gap, bool backward, pg_diag *diag) {
    pg_assert(!model->prepared);
    model->backward = backward;
    pg_mem_budget_begin(model->budget);
    pg_err err = end_budget(model, prepare(model, gap, diag), diag);
    pg_mem_trim(); /* the file, its constants, and what was only tried are gone */
    if (err != PG_OK)
        return err;
    model->prepared = true;
    return PG_OK;
}

void pg_model_destroy(pg_model **model) {
    if (model == NULL || *model == NULL)
        return;
    pg_model *m = *model;
    drop_load(m);
    pg_lrp_free(&m->lrp);
    pg_graph_clear(&m->graph);
    pg_pool_clear(&m->pool);
    pg_free(m->conv_node);
    pg_free(m);
    *model = NULL;
}
