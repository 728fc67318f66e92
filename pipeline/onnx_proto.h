/* The ONNX messages the importer needs, taken from the wire: bounded, checked, and still knowing
 * nothing of what a node means. Field numbers are those of onnx.proto (IR version 3 to 10). */
#ifndef PG_PIPELINE_ONNX_PROTO_H
#define PG_PIPELINE_ONNX_PROTO_H

#include "kernels/op.h"
#include "pipeline/names.h"
#include "pipeline/onnx_tensor.h"

/* Counts no real network comes near; beyond them a file is refused before memory is taken. */
enum {
    PG_ONNX_MAX_NODES = 200000,
    PG_ONNX_MAX_TENSORS = 200000,
    PG_ONNX_MAX_FUNCTIONS = 10000,
    PG_ONNX_MAX_VALUES = 4096, /* graph inputs that are not initialisers; graph outputs */
    PG_ONNX_MAX_IO = 4096,     /* inputs, outputs, attributes of one node */
};

/* A file's outline: spans into the file's bytes, arrays in the pool. */
typedef struct pg_onnx_model {
    int64_t ir_version, opset;
    const char *producer; /* "pytorch 1.13" */
    pg_span *nodes, *tensors, *inputs, *outputs, *functions;
    int n_nodes, n_tensors, n_inputs, n_outputs, n_functions;
} pg_onnx_model;

/* Reads the outline. PG_EMODEL: not an ONNX file, or one this program refuses (sparse initialisers,
 * an opset outside 7..21). */
pg_err pg_onnx_read_model(pg_span file, pg_pool *pool, pg_onnx_model *out, pg_diag *diag);

/* A graph input or output. */
typedef struct pg_onnx_value {
    int name;
    int64_t elem_type; /* 0: not given */
    bool is_tensor, has_shape;
    int rank;                    /* of the file; may exceed PG_MAX_RANK */
    int64_t dims[PG_MAX_RANK];   /* -1: left open */
} pg_onnx_value;
pg_err pg_onnx_read_value(pg_span message, pg_names *names, pg_onnx_value *out, pg_diag *diag);

/* One node. Names of absent inputs and outputs are -1. */
typedef struct pg_onnx_node {
    const char *name; /* "" becomes the name of the first output */
    const char *type;
    int *inputs, *outputs;
    int n_inputs, n_outputs;
    pg_attr *attrs;
    int n_attrs;
    int64_t opset; /* 0: the model's */
} pg_onnx_node;
pg_err pg_onnx_read_node(pg_span message, pg_pool *pool, pg_names *names,
                         pg_onnx_external *external, pg_onnx_node *out, pg_diag *diag);

/* One entry of opset_import: *opset gets the version of ONNX's own set, and stays for another's. */
pg_err pg_onnx_read_opset(pg_span message, int64_t *opset, pg_diag *diag);

/* An attribute of a node or, with its default, of a function. */
pg_err pg_onnx_read_attr(pg_span message, pg_pool *pool, pg_onnx_external *external, pg_attr *out,
                         pg_diag *diag);

/* A function the model defines (onnx_function.c): nodes that stand for every node of its type. */
typedef struct pg_onnx_function {
    const char *type; /* "domain::name", as the nodes that call it have it */
    int *inputs, *outputs;
    int n_inputs, n_outputs;
    pg_onnx_node *nodes;
    int n_nodes;
    pg_attr *defaults; /* of its attributes */
    int n_defaults;
} pg_onnx_function;
pg_err pg_onnx_read_function(pg_span message, pg_pool *pool, pg_names *names,
                             pg_onnx_external *external, pg_onnx_function *out, pg_diag *diag);

#endif
