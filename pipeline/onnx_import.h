/* An ONNX file -> a graph: one pass over the nodes in the file's order, with shapes inferred, shape
 * arithmetic and constants folded, and everything this program cannot do reported at once. */
#ifndef PG_PIPELINE_ONNX_IMPORT_H
#define PG_PIPELINE_ONNX_IMPORT_H

#include "pipeline/graph.h"
#include "pipeline/onnx_proto.h"

typedef struct pg_import {
    /* in */
    const pg_model_options *options;
    pg_span file;     /* stays valid until prepare: constants point into it */
    pg_onnx_external *external; /* files beside it, likewise */
    pg_pool *load;    /* definitions and constants: until prepare */
    pg_graph *graph;  /* initialised; its pool outlives the model */
    /* out; strings in the graph's pool */
    int64_t ir_version, opset;
    const char *producer, *input_name;
    bool channels_last, input_bytes; /* as pg_model_info */
    const char *const *outputs;      /* [n_outputs] */
    int n_outputs, class_axis;
    int nodes_in_file, nodes_folded;
    pg_folded *folded; /* [n_folded], in the graph's pool */
    int n_folded;
    pg_squash squash;
} pg_import;

/* Fills graph (nodes, values, convolutions, input, logits) and the out fields. PG_ECONFIG: an
 * option does not fit the file. PG_EMODEL: refused, with a sentence; options->refusals, if given,
 * then has what the sentence had no room for. */
pg_err pg_onnx_import(pg_import *import, pg_diag *diag);

#endif
