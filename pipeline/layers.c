#include "pipeline/layers.h"

#include <fnmatch.h>
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/nearest.h"

bool pg_layers_match(const char *pattern, const pg_conv_info *conv) {
    const char *names[2] = {conv->name, conv->output};
    for (int i = 0; i < 2; i++) /* names may hold characters that are special in a glob */
        if (names[i] && (strcmp(pattern, names[i]) == 0 || fnmatch(pattern, names[i], 0) == 0))
            return true;
    return false;
}

pg_err pg_layers_no_match(const char *key, const char *pattern, const pg_conv_info *convs,
                          int n_convs, const bool *among, pg_diag *diag) {
    pg_nearest nearest = {.count = 0};
    for (int i = 0; i < n_convs; i++) {
        if (among && !among[i])
            continue;
        int d = pg_name_distance(pattern, convs[i].name ? convs[i].name : "");
        int e = pg_name_distance(pattern, convs[i].output ? convs[i].output : "");
        pg_nearest_offer(&nearest, d < e ? d : e, &convs[i]);
    }
    pg_fail(diag, PG_ECONFIG, "%s: '%s' matches no convolution%s", key, pattern,
            among ? " that is pruned" : "");
    for (int k = 0; k < nearest.count; k++) {
        const pg_conv_info *conv = nearest.items[k];
        pg_diag_append(diag, "%s'%s' (output '%s')", k ? ", " : "; the nearest names are ",
                       conv->name ? conv->name : "", conv->output ? conv->output : "");
    }
    return PG_ECONFIG;
}

static pg_err mark(const pg_prune_options *options, const pg_conv_info *convs, int n, bool *chosen,
                   pg_diag *diag) {
    if (options->layers_default || options->layers_ratio >= 0) {
        double ratio = options->layers_default ? 0.5 : options->layers_ratio;
        if (!(ratio <= 1))
            return pg_fail(diag, PG_ECONFIG, "parchgrad.layers: the ratio must be 0 to 1");
        int take = (int)floor(ratio * n);
        for (int i = n - take; i < n; i++)
            chosen[i] = true;
        return PG_OK;
    }
    for (int p = 0; p < options->layers.count; p++) {
        const char *pattern = options->layers.items[p];
        bool found = false;
        for (int i = 0; i < n; i++)
            if (pg_layers_match(pattern, &convs[i]))
                found = chosen[i] = true;
        if (!found)
            return pg_layers_no_match("parchgrad.layers", pattern, convs, n, NULL, diag);
    }
    return PG_OK;
}

static pg_err fill(const pg_conv_info *convs, int n, const bool *chosen, pg_layers *out,
                   pg_diag *diag) {
    out->convs = pg_calloc((size_t)n + 1, sizeof *out->convs);
    out->offset = pg_calloc((size_t)n + 1, sizeof *out->offset);
    if (!out->convs || !out->offset)
        return pg_fail(diag, PG_ENOMEM, "no memory for the list of layers");
    for (int i = 0; i < n; i++) {
        if (!chosen[i])
            continue;
        out->convs[out->count] = i;
        out->offset[out->count++] = out->channels;
        out->channels += convs[i].channels;
    }
    out->offset[out->count] = out->channels;
    return PG_OK;
}

pg_err pg_layers_choose(const pg_prune_options *options, const pg_conv_info *convs, int n_convs,
                        pg_layers *out, pg_diag *diag) {
    *out = (pg_layers){.count = 0};
    bool *chosen = pg_calloc((size_t)n_convs + 1, sizeof *chosen);
    if (!chosen)
        return pg_fail(diag, PG_ENOMEM, "no memory for the list of layers");
    pg_err err = mark(options, convs, n_convs, chosen, diag);
    if (!err)
        err = fill(convs, n_convs, chosen, out, diag);
    pg_free(chosen);
    if (err)
        pg_layers_free(out);
    return err;
}

void pg_layers_free(pg_layers *layers) {
    pg_free(layers->convs);
    pg_free(layers->offset);
    *layers = (pg_layers){.count = 0};
}
