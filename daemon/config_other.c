/* Readers of keys that are more than one number or word: model, explain and parchgrad. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_impl.h"
#include "kernels/tensor.h"
#include "pipeline/compat.h"
#include "pipeline/model.h"

static pg_err no_memory(pg_diag *diag) {
    return pg_fail(diag, PG_ENOMEM, "out of memory while reading the configuration");
}

/* A whole number without sign, at most `max`. */
static bool whole(const pg_yaml *node, int64_t max, int64_t *out) {
    double value;
    if (!pg_config_number(node, &value) || value < 0 || value > (double)max ||
        value != floor(value) || strpbrk(node->text, ".eE") != NULL)
        return false;
    *out = (int64_t)value;
    return true;
}

PG_CONFIG_READER(class_axis) {
    (void)impl, (void)key;
    int64_t axis = -1;
    bool automatic = node->kind == PG_YAML_SCALAR && strcmp(node->text, "auto") == 0;
    if (!automatic && (!whole(node, PG_MAX_RANK - 1, &axis) || axis < 1))
        return pg_fail(diag, PG_ECONFIG, "%s: %s must be auto or an axis from 1 to %d",
                       node->where, path, PG_MAX_RANK - 1);
    ((pg_config *)base)->explain.class_axis = (int)axis;
    return PG_OK;
}

/* The value of one further input: a number, a list of them, or a file. */
static pg_err input_value(pg_config_impl *impl, const char *path, const pg_yaml *node,
                          pg_model_value *out, pg_diag *diag) {
    double *values = pg_pool_array(&impl->pool, (size_t)node->count + 1, sizeof *values);
    if (values == NULL)
        return no_memory(diag);
    int64_t n = 0;
    bool ok = pg_config_number(node, &values[0]);
    if (ok)
        n = 1;
    size_t length = strlen(node->text);
    bool file = !ok && length > 4 && strcmp(node->text + length - 4, ".npy") == 0;
    if (node->kind == PG_YAML_LIST && node->count > 0) {
        ok = true;
        for (const pg_yaml *entry = node->first; ok && entry != NULL; entry = entry->next)
            ok = pg_config_number(entry, &values[n++]);
    }
    if (!ok && !file)
        return pg_fail(diag, PG_ECONFIG,
                       "%s: %s must give each input a number, a list of numbers or a .npy file",
                       node->where, path);
    *out = (pg_model_value){.name = node->key,
                            .values = values,
                            .count = n,
                            .path = file ? node->text : NULL};
    return PG_OK;
}

PG_CONFIG_READER(inputs) {
    (void)key;
    pg_explain_options *explain = &((pg_config *)base)->explain;
    if (node->kind != PG_YAML_MAP)
        return pg_fail(diag, PG_ECONFIG, "%s: %s must map names of inputs to numbers", node->where,
                       path);
    pg_model_value *inputs = pg_pool_array(&impl->pool, (size_t)node->count + 1, sizeof *inputs);
    if (inputs == NULL)
        return no_memory(diag);
    int n = 0;
    for (const pg_yaml *entry = node->first; entry != NULL; entry = entry->next) {
        pg_err err = input_value(impl, path, entry, &inputs[n++], diag);
        if (err != PG_OK)
            return err;
    }
    explain->inputs = inputs;
    explain->n_inputs = n;
    return PG_OK;
}

PG_CONFIG_READER(region) {
    (void)key;
    pg_head_options *head = &((pg_config *)base)->explain.head;
    head->n_region = 0;
    if (node->kind == PG_YAML_SCALAR && strcmp(node->text, "all") == 0)
        return PG_OK;
    int64_t *cells = pg_pool_array(&impl->pool, (size_t)node->count + 1, sizeof *cells);
    if (cells == NULL)
        return no_memory(diag);
    int n = 0;
    bool ok = node->kind == PG_YAML_LIST && node->count > 0 && node->count <= 2 * PG_MAX_RANK;
    for (const pg_yaml *entry = node->first; ok && entry != NULL; entry = entry->next)
        ok = whole(entry, INT32_MAX, &cells[n++]);
    if (!ok)
        return pg_fail(diag, PG_ECONFIG,
                       "%s: %s must be all, or a list of cell numbers as in [3, 4] or [0, 0, 8, 8]",
                       node->where, path);
    head->region = cells;
    head->n_region = n;
    return PG_OK;
}

/* [r, g, b], or one number for all. */
static pg_err three(const char *path, const pg_yaml *node, double min, float out[3],
                    pg_diag *diag) {
    double values[3];
    bool ok = pg_config_number(node, &values[0]);
    if (ok)
        values[1] = values[2] = values[0];
    const pg_yaml *entry = node->first;
    if (node->kind == PG_YAML_LIST && node->count == 3) {
        ok = true;
        for (int i = 0; i < 3; i++, entry = entry->next)
            ok = ok && pg_config_number(entry, &values[i]);
    }
    for (int i = 0; ok && i < 3; i++) {
        ok = values[i] >= min && values[i] <= 1e6;
        out[i] = (float)values[i];
    }
    if (!ok)
        return pg_fail(diag, PG_ECONFIG,
                       "%s: %s must be three numbers between %g and 1e+06, or one for all",
                       node->where, path, min);
    return PG_OK;
}

PG_CONFIG_READER(mean) {
    (void)impl, (void)key;
    return three(path, node, -1e6, ((pg_config *)base)->explain.input.mean, diag);
}

PG_CONFIG_READER(std) {
    (void)impl, (void)key;
    return three(path, node, 1e-6, ((pg_config *)base)->explain.input.std, diag);
}

PG_CONFIG_READER(size) {
    (void)impl, (void)key;
    pg_input_options *input = &((pg_config *)base)->explain.input;
    bool ok = whole(node, 16384, &input->height);
    if (ok)
        input->width = input->height;
    if (node->kind == PG_YAML_LIST && node->count == 2)
        ok = whole(node->first, 16384, &input->height) && whole(node->last, 16384, &input->width) &&
             input->height > 0 && input->width > 0;
    if (!ok)
        return pg_fail(diag, PG_ECONFIG,
                       "%s: %s must be a side or [height, width], whole numbers up to 16384",
                       node->where, path);
    return PG_OK;
}

PG_CONFIG_READER(level) {
    (void)impl, (void)key;
    pg_prune_options *prune = &((pg_config *)base)->explain.prune;
    prune->use_level = false;
    prune->level = 0;
    if (node->kind == PG_YAML_SCALAR && strcmp(node->text, "none") == 0)
        return PG_OK;
    prune->use_level = true;
    if (!pg_config_number(node, &prune->level) || !(prune->level > 0 && prune->level <= 1))
        return pg_fail(diag, PG_ECONFIG, "%s: %s must be none, or a number above 0 and at most 1",
                       node->where, path);
    return PG_OK;
}

PG_CONFIG_READER(layers) {
    (void)key;
    pg_prune_options *prune = &((pg_config *)base)->explain.prune;
    prune->layers_default = false;
    prune->layers_ratio = -1;
    prune->layers = (pg_string_list){0};
    if (node->kind == PG_YAML_LIST && node->count > 0)
        return pg_config_strings(impl, path, node, &prune->layers, diag);
    if (node->kind == PG_YAML_SCALAR && strcmp(node->text, "default") == 0) {
        prune->layers_default = true;
        return PG_OK;
    }
    if (!pg_config_number(node, &prune->layers_ratio) || prune->layers_ratio < 0 ||
        prune->layers_ratio > 1)
        return pg_fail(diag, PG_ECONFIG,
                       "%s: %s must be default, a ratio between 0 and 1, or a list of names or "
                       "patterns",
                       node->where, path);
    return PG_OK;
}

/* The channels of one entry of parchgrad.list. */
static pg_err channels(pg_config_impl *impl, const char *path, const pg_yaml *node,
                       pg_channel_list *out, pg_diag *diag) {
    int64_t *list = pg_pool_array(&impl->pool, (size_t)node->count + 1, sizeof *list);
    if (list == NULL)
        return no_memory(diag);
    int n = 0;
    bool ok = node->kind == PG_YAML_LIST && node->count > 0;
    for (const pg_yaml *entry = node->first; ok && entry != NULL; entry = entry->next)
        ok = whole(entry, INT32_MAX, &list[n++]);
    if (!ok)
        return pg_fail(diag, PG_ECONFIG, "%s: %s must list channel numbers, as in [3, 17]",
                       node->where, path);
    *out = (pg_channel_list){.layer = node->key, .channels = list, .count = n};
    return PG_OK;
}

PG_CONFIG_READER(methods) {
    (void)key;
    return pg_config_strings(impl, path, node, &((pg_config *)base)->explain.methods, diag);
}

PG_CONFIG_READER(crp_channels) {
    (void)key;
    pg_crp_options *crp = &((pg_config *)base)->explain.crp;
    pg_channel_list list = {0};
    bool none = node->kind == PG_YAML_LIST && node->count == 0;
    pg_err err = none ? PG_OK : channels(impl, path, node, &list, diag);
    crp->channels = list.channels;
    crp->n_channels = list.count;
    return err;
}

PG_CONFIG_READER(list) {
    (void)key;
    pg_prune_options *prune = &((pg_config *)base)->explain.prune;
    if (node->kind != PG_YAML_MAP)
        return pg_fail(diag, PG_ECONFIG, "%s: %s must map convolutions to lists of channels",
                       node->where, path);
    pg_channel_list *lists = pg_pool_array(&impl->pool, (size_t)node->count + 1, sizeof *lists);
    if (lists == NULL)
        return no_memory(diag);
    int n = 0;
    for (const pg_yaml *entry = node->first; entry != NULL; entry = entry->next) {
        pg_err err = channels(impl, path, entry, &lists[n++], diag);
        if (err != PG_OK)
            return err;
    }
    prune->lists = lists;
    prune->n_lists = n;
    return PG_OK;
}

/* The switch of that name, PG_COMPAT_NONE if there is none. */
static unsigned compat_of(const pg_yaml *node) {
    for (int i = 0; node->kind == PG_YAML_SCALAR && i < PG_COMPAT_COUNT; i++)
        if (strcmp(node->text, pg_compat_name(i)) == 0)
            return 1u << i;
    return PG_COMPAT_NONE;
}

PG_CONFIG_READER(compat) {
    (void)impl, (void)key;
    unsigned set = PG_COMPAT_NONE;
    bool all = node->kind == PG_YAML_SCALAR && strcmp(node->text, "reference") == 0;
    bool ok = all || node->kind == PG_YAML_LIST ||
              (node->kind == PG_YAML_SCALAR && strcmp(node->text, "none") == 0);
    for (const pg_yaml *entry = node->first; ok && entry != NULL; entry = entry->next) {
        ok = compat_of(entry) != PG_COMPAT_NONE;
        set |= compat_of(entry);
    }
    ((pg_config *)base)->explain.prune.compat = all ? PG_COMPAT_REFERENCE : set;
    if (ok)
        return PG_OK;
    pg_fail(diag, PG_ECONFIG, "%s: %s must be none, reference or a list of", node->where, path);
    for (int i = 0; i < PG_COMPAT_COUNT; i++)
        pg_diag_append(diag, "%s %s", i == 0 ? "" : ",", pg_compat_name(i));
    return PG_ECONFIG;
}

PG_CONFIG_READER(baseline) {
    static const char *const names[PG_BASELINE_VALUE] = {"zero", "black", "white", "blur"};
    (void)impl, (void)key;
    pg_ig_options *ig = &((pg_config *)base)->explain.ig;
    for (int i = 0; node->kind == PG_YAML_SCALAR && i < PG_BASELINE_VALUE; i++)
        if (strcmp(node->text, names[i]) == 0) {
            ig->baseline = (pg_baseline)i;
            return PG_OK;
        }
    ig->baseline = PG_BASELINE_VALUE;
    if (!pg_config_number(node, &ig->value) || !(fabs(ig->value) <= 1e6))
        return pg_fail(diag, PG_ECONFIG,
                       "%s: %s must be zero, black, white, blur or a number up to a million",
                       node->where, path);
    return PG_OK;
}
