/* Which convolutions ParchGrad prunes (method.md section 4). */
#ifndef PG_PIPELINE_LAYERS_H
#define PG_PIPELINE_LAYERS_H

#include "pipeline/model.h"
#include "pipeline/options.h"

/* The selected convolutions in graph order. Their channels stand one after the other in masks of
 * `channels` bytes: those of layer i from offset[i]. */
typedef struct pg_layers {
    int count;
    int *convs;       /* [count] number of the convolution */
    int64_t *offset;  /* [count + 1] */
    int64_t channels; /* of all selected convolutions */
} pg_layers;

/* Resolves options->layers*: the default is the later half, floor(n / 2) convolutions; a ratio r
 * takes the last floor(r n); names and globs are compared with node names and output names.
 * PG_ECONFIG: a pattern that matches nothing (the sentence lists the nearest names), a ratio
 * outside 0 .. 1. */
pg_err pg_layers_choose(const pg_prune_options *options, const pg_conv_info *convs, int n_convs,
                        pg_layers *out, pg_diag *diag);
void pg_layers_free(pg_layers *layers);

/* True if a name or glob means this convolution. */
bool pg_layers_match(const char *pattern, const pg_conv_info *conv);

/* Fails with PG_ECONFIG: "<key>: '<pattern>' matches no <what>; the nearest names are ...". `among`
 * [n_convs] restricts the proposals, NULL: all. */
pg_err pg_layers_no_match(const char *key, const char *pattern, const pg_conv_info *convs,
                          int n_convs, const bool *among, pg_diag *diag);

#endif
