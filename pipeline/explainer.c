#include "pipeline/explainer.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/bf16.h"
#include "kernels/mem.h"
#include "pipeline/compat.h"
#include "pipeline/sha256.h"

/* Modified weights take memory and time to load, and additions by themselves time to run: for those
 * who may ask for relevance. */
static bool wants_relevance(const pg_explain_options *o) {
    bool any = false;
    for (int i = -1; i < o->methods.count; i++) {
        const char *name = i < 0 ? o->method : o->methods.items[i];
        const pg_saliency *method = name ? pg_saliency_find(name) : NULL;
        any = any || (method && method->kind == &pg_saliency_lrp);
    }
    return any;
}

pg_err pg_explainer_open_model(const pg_explain_options *options, pg_refusals *refusals,
                               pg_model **out, pg_diag *diag) {
    const pg_model_options how = {.path = options->model_path,
                                  .output = options->output,
                                  .class_axis = options->class_axis,
                                  .watch = options->cam_layer,
                                  .shuffled_layers = options->shuffled_layers,
                                  .input_name = options->input_name,
                                  .inputs = options->inputs,
                                  .n_inputs = options->n_inputs,
                                  .refusals = refusals,
                                  .height = options->input.height,
                                  .width = options->input.width,
                                  .precision = options->precision,
                                  .fuse_add = options->fuse_add,
                                  .fuse_split = options->fuse_split,
                                  .skip_zeros = options->skip_zeros,
                                  .tune = (pg_tune_mode)options->tune,
                                  .cache_dir = options->cache_dir,
                                  .relevance = wants_relevance(options),
                                  .library_only = !options->own_kernels,
                                  .threads = options->threads,
                                  .max_file_bytes = options->max_file_bytes,
                                  .kept_bytes = (uint64_t)options->kept_cache << 20,
                                  .max_session_bytes = options->max_session_bytes};
    *out = NULL;
    if (options->precision > PG_PRECISION_F32 && !pg_bf16_native())
        return pg_fail(diag, PG_ECONFIG,
                       "model.precision: %s needs a processor with bfloat16 instructions "
                       "(AVX512_BF16), and this one has none; say auto or f32",
                       pg_precision_name(options->precision));
    if (!options->model_path || options->model_path[0] == '\0')
        return pg_fail(diag, PG_ECONFIG, "model.path is not set: which ONNX file?");
    return pg_model_open(&how, out, diag);
}

pg_input_options pg_explainer_input(const pg_explain_options *options, const pg_model_info *info) {
    pg_input_options input = options->input;
    if (info->input_bytes) {
        input.scale = 1;
        for (int c = 0; c < 3; c++)
            input.mean[c] = 0, input.std[c] = 1;
    }
    return input;
}

bool pg_target_parse(const char *text, int64_t classes, const pg_labels *labels, int64_t *klass) {
    *klass = -1;
    if (strcmp(text, "top1") == 0)
        return true;
    int64_t index = 0;
    size_t digits = strspn(text, "0123456789");
    if (digits > 0 && digits <= 15 && text[digits] == '\0') {
        for (size_t i = 0; i < digits; i++)
            index = index * 10 + (text[i] - '0');
        if (index < classes) {
            *klass = index;
            return true;
        }
    }
    *klass = pg_labels_find(labels, text);
    return *klass >= 0;
}

static pg_err check_numbers(const pg_explain_options *o, pg_diag *diag) {
    const pg_prune_options *p = &o->prune;
    if (!p->use_level && !(p->quantile > 0 && p->quantile <= 1))
        return pg_fail(diag, PG_ECONFIG, "parchgrad.quantile must be above 0 and at most 1");
    if (p->use_level && !(p->level > 0 && p->level <= 1))
        return pg_fail(diag, PG_ECONFIG, "parchgrad.level must be above 0 and at most 1");
    if (!(p->gamma > 0))
        return pg_fail(diag, PG_ECONFIG, "parchgrad.gamma must be a positive number or inf");
    if (o->top < 1 || o->top > PG_TOP_MAX)
        return pg_fail(diag, PG_ECONFIG, "explain.top must be 1 to %d", PG_TOP_MAX);
    return PG_OK;
}

static pg_err load_labels(pg_explainer *e, pg_diag *diag) {
    const char *path = e->options->labels_path;
    if (!path || path[0] == '\0')
        return PG_OK;
    return pg_labels_load(path, e->info->classes, &e->labels, diag);
}

static pg_err load_stats(pg_explainer *e, pg_diag *diag) {
    const char *path = e->options->prune.stats_path;
    if (!path || path[0] == '\0')
        return PG_OK;
    uint8_t digest[32];
    pg_err err = pg_channel_stats_load(path, &e->stats, digest, diag);
    if (err)
        return err;
    pg_sha256_hex(digest, e->stats_sha256);
    err = pg_channel_stats_check_model(e->stats, e->info, diag);
    return err ? pg_fail_in(diag, err, "%s", path) : PG_OK;
}

/* With infinite gamma most channels' gradient is zero, and the convolutions need not see it. */
void pg_explainer_expect_kept(const pg_explain_options *options, const pg_select_source *source,
                              pg_model *model) {
    if (!options->kept_channels || isfinite(options->prune.gamma))
        return;
    for (int i = 0; i < source->layers->count; i++)
        pg_model_expect_kept(model, source->layers->convs[i], pg_select_expects(source, i));
}

/* A trial selector answers whether pruning is possible at all; where the method in force does not
 * prune, the answer waits for a stream that wants to. */
static pg_err try_pruning(pg_explainer *e, pg_diag *diag) {
    e->source = (pg_select_source){.options = &e->options->prune,
                                   .stats = e->stats,
                                   .convs = e->info->convs,
                                   .n_convs = e->info->n_convs,
                                   .layers = &e->layers};
    pg_diag why = {""};
    pg_selector *trial = NULL;
    const pg_prune_options *prune = &e->options->prune;
    bool classes = pg_head_has_classes(&e->head);
    pg_err err = PG_OK;
    if (!classes && prune->select == PG_SELECT_CLASS)
        err = pg_fail(&why, PG_ECONFIG,
                      "an embedding has no classes: set parchgrad.select to "
                      "instance, list or random");
    else if (!classes && prune->compat & PG_COMPAT_seed)
        err = pg_fail(&why, PG_ECONFIG,
                      "an embedding has no classes, and so no probability "
                      "for parchgrad.compat: seed");
    else
        err = pg_selector_create(&e->source, &trial, &why);
    if (!err)
        pg_explainer_expect_kept(e->options, &e->source, e->model);
    pg_selector_destroy(&trial);
    e->can_prune = err == PG_OK;
    snprintf(e->cannot_prune, sizeof e->cannot_prune, "%.*s", (int)sizeof e->cannot_prune - 1,
             why.text);
    if (err && (e->method->prunes || err != PG_ECONFIG))
        return pg_fail(diag, err, "%s", why.text);
    return PG_OK;
}

/* What black and white become before the network: method.md 10, the box of ZBox. */
static pg_lrp_options with_box(const pg_explain_options *options, const pg_model_info *info) {
    pg_lrp_options lrp = options->lrp;
    pg_input_options input = pg_explainer_input(options, info);
    for (int c = 0; c < 3; c++) {
        lrp.low[c] = (0.0f - input.mean[c]) / input.std[c];
        lrp.high[c] = (255.0f * input.scale - input.mean[c]) / input.std[c];
    }
    return lrp;
}

pg_err pg_explainer_want_relevance(const pg_explain_options *options, pg_lrp_options *lrp,
                                   pg_model *model, pg_diag *diag) {
    *lrp = with_box(options, pg_model_get_info(model));
    return wants_relevance(options) ? pg_model_want_relevance(model, lrp, diag) : PG_OK;
}

static void find_crp_layer(pg_explainer *e) {
    pg_diag why = {"crp.layer is not set: which layer's channels?"};
    const pg_crp_options *crp = &e->options->crp;
    e->crp.node = -1;
    if (crp->layer && crp->layer[0] && pg_model_find_layer(e->model, crp->layer, &e->crp, &why))
        e->crp.node = -1;
    for (int i = 0; e->crp.node >= 0 && i < crp->n_channels; i++)
        if (crp->channels[i] >= e->crp.channels) {
            e->crp.node = -1;
            pg_fail(&why, PG_ECONFIG,
                    "crp.channels: '%s' has no channel %" PRId64 ", it has %" PRId64, crp->layer,
                    crp->channels[i], e->crp.channels);
        }
    snprintf(e->cannot_crp, sizeof e->cannot_crp, "%.*s", (int)sizeof e->cannot_crp - 1, why.text);
}

static pg_err check_method(const pg_explainer *e, const pg_saliency *method, pg_diag *diag) {
    if (method->prunes && !e->can_prune)
        return pg_fail(diag, PG_ECONFIG, "method '%s': %s", method->name, e->cannot_prune);
    return method->kind->check ? method->kind->check(method, e, diag) : PG_OK;
}

static pg_err prepare(pg_explainer *e, pg_diag *diag) {
    bool *gap = pg_calloc((size_t)e->info->n_convs + 1, sizeof *gap);
    if (!gap)
        return pg_fail(diag, PG_ENOMEM, "no memory for the model");
    if (e->can_prune && pg_select_reads_gap(&e->source, e->info->classes))
        for (int i = 0; i < e->layers.count; i++)
            gap[e->layers.convs[i]] = true;
    pg_err err = pg_model_prepare(e->model, gap, true, diag);
    pg_free(gap);
    if (err)
        return err;
    find_crp_layer(e);
    err = check_method(e, e->method, diag); /* some can only tell now */
    for (int i = 0; !err && i < e->options->methods.count; i++)
        err = check_method(e, pg_saliency_find(e->options->methods.items[i]), diag);
    return err;
}

static pg_err fill(pg_explainer *e, pg_diag *diag) {
    const pg_explain_options *o = e->options;
    e->method = pg_saliency_find(o->method);
    if (!e->method)
        return pg_fail(diag, PG_ECONFIG, "explain.method: there is no method '%s'", o->method);
    pg_err err = check_numbers(o, diag);
    for (int i = 0; !err && i < o->methods.count; i++)
        if (!pg_saliency_find(o->methods.items[i]))
            err = pg_fail(diag, PG_ECONFIG, "explain.methods: there is no method '%s'",
                          o->methods.items[i]);
    if (err || (err = pg_explainer_open_model(o, NULL, &e->model, diag)))
        return err;
    e->info = pg_model_get_info(e->model);
    if ((err = pg_head_create(&o->head, e->info, &e->head, diag)) || (err = load_labels(e, diag)))
        return err;
    if (!pg_head_has_classes(&e->head) && strcmp(o->target, "top1") != 0)
        return pg_fail(diag, PG_ECONFIG,
                       "explain.target: an embedding has no classes to choose from");
    if (!pg_target_parse(o->target, e->info->classes, e->labels, &e->target))
        return pg_fail(diag, PG_ECONFIG,
                       "explain.target: '%s' is neither top1, nor a class index below %" PRId64
                       ", nor a label",
                       o->target, e->info->classes);
    if ((err = pg_layers_choose(&o->prune, e->info->convs, e->info->n_convs, &e->layers, diag)) ||
        (err = load_stats(e, diag)) || (err = try_pruning(e, diag)) ||
        (err = pg_explainer_want_relevance(o, &e->lrp, e->model, diag)) ||
        (err = check_method(e, e->method, diag)))
        return err;
    return prepare(e, diag);
}

pg_err pg_explainer_create(const pg_explain_options *options, pg_explainer **out, pg_diag *diag) {
    *out = NULL;
    pg_explainer *e = pg_calloc(1, sizeof *e);
    if (!e)
        return pg_fail(diag, PG_ENOMEM, "no memory for an explainer");
    e->options = options;
    pg_err err = fill(e, diag);
    if (err)
        pg_explainer_destroy(&e);
    *out = e;
    return err;
}

void pg_explainer_destroy(pg_explainer **explainer) {
    pg_explainer *e = *explainer;
    if (!e)
        return;
    pg_head_destroy(&e->head);
    pg_layers_free(&e->layers);
    pg_channel_stats_destroy(&e->stats);
    pg_labels_destroy(&e->labels);
    pg_model_destroy(&e->model);
    pg_free(e);
    *explainer = NULL;
}

const pg_model *pg_explainer_model(const pg_explainer *e) { return e->model; }
const pg_explain_options *pg_explainer_options(const pg_explainer *e) { return e->options; }

const char *pg_explainer_label(const pg_explainer *e, int64_t klass) {
    return pg_labels_name(e->labels, klass);
}

bool pg_explainer_parse_target(const pg_explainer *e, const char *text, int64_t *klass) {
    return pg_head_has_classes(&e->head) &&
           pg_target_parse(text, e->info->classes, e->labels, klass);
}

pg_err pg_explainer_check_method(const pg_explainer *e, const char *method, pg_diag *diag) {
    const pg_saliency *row = method && method[0] ? pg_saliency_find(method) : e->method;
    if (!row)
        return pg_fail(diag, PG_ECONFIG, "there is no method '%s'", method);
    return check_method(e, row, diag);
}

const char *pg_explainer_stats_sha256(const pg_explainer *e) { return e->stats_sha256; }
