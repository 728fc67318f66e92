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
    int nodes_in_file, nodes_folded;
    bool softmax_removed;
} pg_import;

/* Fills graph (nodes, values, convolutions, input, logits) and the out fields. PG_ECONFIG: an
 * option does not fit the file. PG_EMODEL: refused, with a sentence. */
pg_err pg_onnx_import(pg_import *import, pg_diag *diag);

#endif
