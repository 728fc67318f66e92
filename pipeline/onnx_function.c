/* FunctionProto: a type of node that the model itself defines by other nodes. PyTorch's exporters of
 * 2.1 to 2.4 write whole networks this way. Field numbers are those of onnx.proto. */
#include <stdio.h>

#include "pipeline/onnx_proto.h"

enum { NAME = 1, INPUT = 4, OUTPUT = 5, NODE = 7, OPSET = 9, DOMAIN = 10, DEFAULT = 11 };

static pg_err damaged(pg_diag *diag) {
    return pg_fail(diag, PG_EMODEL, "a function is damaged");
}

static pg_err count_fields(pg_span message, pg_onnx_function *out, pg_span *name, pg_span *domain,
                           pg_diag *diag) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    bool names_ok = true;
    while (pg_wire_next(&wire, &f)) {
        if (f.type != PG_WIRE_BYTES)
            continue;
        if (f.number == NAME)
            *name = f.bytes;
        else if (f.number == DOMAIN)
            *domain = f.bytes;
        else if (f.number == INPUT || f.number == OUTPUT)
            names_ok = names_ok && pg_onnx_name_ok(f.bytes);
        out->n_inputs += f.number == INPUT;
        out->n_outputs += f.number == OUTPUT;
        out->n_nodes += f.number == NODE;
        out->n_defaults += f.number == DEFAULT;
    }
    if (wire.malformed || !names_ok || !pg_onnx_name_ok(*name) || !pg_onnx_name_ok(*domain) ||
        out->n_inputs > PG_ONNX_MAX_IO || out->n_outputs > PG_ONNX_MAX_IO ||
        out->n_nodes > PG_ONNX_MAX_NODES || out->n_defaults > PG_ONNX_MAX_IO)
        return damaged(diag);
    return PG_OK;
}

static pg_err read_fields(pg_span message, pg_pool *pool, pg_names *names,
                          pg_onnx_external *external, pg_onnx_function *out, pg_diag *diag) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    int in = 0, to = 0, node = 0, at = 0;
    int64_t opset = 0; /* of ONNX's own operators in its body */
    pg_err err = PG_OK;
    while (err == PG_OK && pg_wire_next(&wire, &f)) {
        if (f.type != PG_WIRE_BYTES)
            continue;
        if (f.number == INPUT || f.number == OUTPUT) {
            int id = pg_names_enter(names, (const char *)f.bytes.data, f.bytes.size);
            *(f.number == INPUT ? &out->inputs[in++] : &out->outputs[to++]) = id;
            err = id < 0 ? pg_fail(diag, PG_ENOMEM, "no memory for names") : PG_OK;
        } else if (f.number == NODE) {
            err = pg_onnx_read_node(f.bytes, pool, names, external, &out->nodes[node++], diag);
        } else if (f.number == DEFAULT) {
            err = pg_onnx_read_attr(f.bytes, pool, external, &out->defaults[at++], diag);
        } else if (f.number == OPSET) {
            err = pg_onnx_read_opset(f.bytes, &opset, diag);
        }
    }
    for (int i = 0; i < out->n_nodes; i++)
        out->nodes[i].opset = opset;
    return err;
}

pg_err pg_onnx_read_function(pg_span message, pg_pool *pool, pg_names *names,
                             pg_onnx_external *external, pg_onnx_function *out, pg_diag *diag) {
    pg_span name = {0}, domain = {0};
    *out = (pg_onnx_function){0};
    pg_err err = count_fields(message, out, &name, &domain, diag);
    if (err != PG_OK)
        return err;
    out->inputs = pg_pool_array(pool, (size_t)out->n_inputs, sizeof *out->inputs);
    out->outputs = pg_pool_array(pool, (size_t)out->n_outputs, sizeof *out->outputs);
    out->nodes = pg_pool_array(pool, (size_t)out->n_nodes, sizeof *out->nodes);
    out->defaults = pg_pool_array(pool, (size_t)out->n_defaults, sizeof *out->defaults);
    char *type = pg_pool_take(pool, domain.size + name.size + 3);
    if (out->inputs == NULL || out->outputs == NULL || out->nodes == NULL ||
        out->defaults == NULL || type == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the model's functions");
    snprintf(type, domain.size + name.size + 3, "%.*s::%.*s", (int)domain.size,
             (const char *)domain.data, (int)name.size, (const char *)name.data);
    out->type = type;
    return read_fields(message, pool, names, external, out, diag);
}
