/* The user names the channels, per layer. */
#include <inttypes.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/select_rule.h"

static pg_err check_channels(const pg_channel_list *list, const pg_conv_info *conv, pg_diag *diag) {
    for (int k = 0; k < list->count; k++)
        if (list->channels[k] < 0 || list->channels[k] >= conv->channels)
            return pg_fail(diag, PG_ECONFIG,
                           "parchgrad.list: channel %" PRId64 " of '%s': convolution '%s' has "
                           "channels 0 to %" PRId64,
                           list->channels[k], list->layer, conv->name, conv->channels - 1);
    return PG_OK;
}

static pg_err check_list(const pg_select_source *source, const pg_channel_list *list,
                         const bool *pruned, pg_diag *diag) {
    bool found = false;
    for (int i = 0; i < source->layers->count; i++) {
        const pg_conv_info *conv = &source->convs[source->layers->convs[i]];
        if (!pg_layers_match(list->layer, conv))
            continue;
        found = true;
        pg_err err = check_channels(list, conv, diag);
        if (err)
            return err;
    }
    return found ? PG_OK
                 : pg_layers_no_match("parchgrad.list", list->layer, source->convs, source->n_convs,
                                      pruned, diag);
}

pg_err pg_select_list_check(const pg_select_source *source, pg_diag *diag) {
    bool *pruned = pg_calloc((size_t)source->n_convs + 1, sizeof *pruned);
    if (!pruned)
        return pg_fail(diag, PG_ENOMEM, "no memory for the list of channels");
    for (int i = 0; i < source->layers->count; i++)
        pruned[source->layers->convs[i]] = true;
    pg_err err =
        source->options->n_lists > 0
            ? PG_OK
            : pg_fail(diag, PG_ECONFIG, "parchgrad.select is 'list', but parchgrad.list is empty");
    for (int k = 0; !err && k < source->options->n_lists; k++)
        err = check_list(source, &source->options->lists[k], pruned, diag);
    pg_free(pruned);
    return err;
}

int64_t pg_select_list_most(const pg_select_source *source, int layer) {
    const pg_conv_info *conv = &source->convs[source->layers->convs[layer]];
    int64_t named = 0;
    for (int l = 0; l < source->options->n_lists; l++)
        if (pg_layers_match(source->options->lists[l].layer, conv))
            named += source->options->lists[l].count;
    return named < conv->channels ? named : conv->channels;
}

int64_t pg_select_by_list(const pg_select_source *source, int layer, int64_t klass,
                          const float *gap, pg_rank *ranks, uint8_t *keep) {
    (void)klass;
    (void)gap;
    (void)ranks;
    const pg_conv_info *conv = &source->convs[source->layers->convs[layer]];
    memset(keep, 0, (size_t)conv->channels);
    int64_t kept = 0;
    for (int l = 0; l < source->options->n_lists; l++) {
        const pg_channel_list *list = &source->options->lists[l];
        if (!pg_layers_match(list->layer, conv))
            continue;
        for (int k = 0; k < list->count; k++) {
            int64_t c = list->channels[k];
            pg_assert(c >= 0 && c < conv->channels);
            kept += !keep[c];
            keep[c] = 1;
        }
    }
    return kept;
}
