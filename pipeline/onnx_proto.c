#include "pipeline/onnx_proto.h"

#include <stdio.h>
#include <string.h>

enum {
    ATTR_FLOAT = 1,
    ATTR_INT,
    ATTR_STRING,
    ATTR_TENSOR,
    ATTR_GRAPH,
    ATTR_FLOATS,
    ATTR_INTS,
};
enum { MIN_OPSET = 7, MAX_OPSET = 21 };

static pg_err damaged(pg_diag *diag, const char *what) {
    return pg_fail(diag, PG_EMODEL, "%s is damaged: not an ONNX file, or a truncated one", what);
}

static pg_err bad_name(pg_diag *diag, const char *whose) {
    return pg_fail(diag, PG_EMODEL,
                   "a name of %s is empty, longer than %d bytes, not UTF-8 or has control "
                   "characters",
                   whose, PG_ONNX_MAX_NAME);
}

static bool is_bytes(const pg_wire_field *f, uint32_t number) {
    return f->number == number && f->type == PG_WIRE_BYTES;
}

/* ---- model and graph ---- */

pg_err pg_onnx_read_opset(pg_span message, int64_t *opset, pg_diag *diag) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    pg_span domain = {0};
    int64_t version = 0;
    while (pg_wire_next(&wire, &f)) {
        if (is_bytes(&f, 1))
            domain = f.bytes;
        else if (f.number == 2 && f.type == PG_WIRE_VARINT)
            version = (int64_t)f.value;
    }
    if (wire.malformed)
        return damaged(diag, "the operator set");
    if (!pg_onnx_name_ok(domain))
        return bad_name(diag, "an operator set");
    bool ours = domain.size == 0 || (domain.size == 7 && memcmp(domain.data, "ai.onnx", 7) == 0);
    if (ours) /* a foreign set is harmless until a node uses it */
        *opset = version;
    return PG_OK;
}

static pg_err take_spans(pg_pool *pool, int count, pg_span **out, pg_diag *diag) {
    *out = pg_pool_array(pool, (size_t)count, sizeof **out);
    return *out != NULL ? PG_OK : pg_fail(diag, PG_ENOMEM, "no memory for the model's outline");
}

static pg_err count_graph(pg_span message, pg_onnx_model *m, pg_diag *diag) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    while (pg_wire_next(&wire, &f)) {
        if (is_bytes(&f, 15))
            return pg_fail(diag, PG_EMODEL, "sparse initialisers are not supported");
        int *count = is_bytes(&f, 1)    ? &m->n_nodes
                     : is_bytes(&f, 5)  ? &m->n_tensors
                     : is_bytes(&f, 11) ? &m->n_inputs
                     : is_bytes(&f, 12) ? &m->n_outputs
                                        : NULL;
        if (count != NULL && ++*count > PG_ONNX_MAX_NODES)
            return pg_fail(diag, PG_EMODEL, "the graph lists more than %d nodes or tensors",
                           PG_ONNX_MAX_NODES);
    }
    return wire.malformed ? damaged(diag, "the graph") : PG_OK;
}

static pg_err read_graph(pg_span message, pg_pool *pool, pg_onnx_model *m, pg_diag *diag) {
    pg_err err = count_graph(message, m, diag);
    if (err == PG_OK)
        err = take_spans(pool, m->n_nodes, &m->nodes, diag);
    if (err == PG_OK)
        err = take_spans(pool, m->n_tensors, &m->tensors, diag);
    if (err == PG_OK)
        err = take_spans(pool, m->n_inputs, &m->inputs, diag);
    if (err == PG_OK)
        err = take_spans(pool, m->n_outputs, &m->outputs, diag);
    if (err != PG_OK)
        return err;
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    pg_span *node = m->nodes, *tensor = m->tensors, *input = m->inputs, *output = m->outputs;
    while (pg_wire_next(&wire, &f)) {
        if (is_bytes(&f, 1))
            *node++ = f.bytes;
        else if (is_bytes(&f, 5))
            *tensor++ = f.bytes;
        else if (is_bytes(&f, 11))
            *input++ = f.bytes;
        else if (is_bytes(&f, 12))
            *output++ = f.bytes;
    }
    return PG_OK;
}

typedef struct outline {
    pg_span graph, producer, version;
    int graphs;
} outline;

static pg_err read_outline(pg_span file, outline *o, pg_onnx_model *m, pg_diag *diag) {
    pg_wire wire = pg_wire_open(file);
    pg_wire_field f;
    pg_err err = PG_OK;
    while (err == PG_OK && pg_wire_next(&wire, &f)) {
        if (f.number == 1 && f.type == PG_WIRE_VARINT)
            m->ir_version = (int64_t)f.value;
        else if (is_bytes(&f, 2))
            o->producer = f.bytes;
        else if (is_bytes(&f, 3))
            o->version = f.bytes;
        else if (is_bytes(&f, 7))
            o->graph = f.bytes, o->graphs++;
        else if (is_bytes(&f, 8))
            err = pg_onnx_read_opset(f.bytes, &m->opset, diag);
        else if (is_bytes(&f, 25))
            m->n_functions++;
    }
    return err == PG_OK && wire.malformed ? damaged(diag, "the file") : err;
}

static pg_err list_functions(pg_span file, pg_pool *pool, pg_onnx_model *m, pg_diag *diag) {
    pg_wire wire = pg_wire_open(file);
    pg_wire_field f;
    int at = 0;
    if (m->n_functions > PG_ONNX_MAX_FUNCTIONS)
        return pg_fail(diag, PG_EMODEL, "the model defines more than %d functions",
                       PG_ONNX_MAX_FUNCTIONS);
    pg_err err = take_spans(pool, m->n_functions, &m->functions, diag);
    while (err == PG_OK && pg_wire_next(&wire, &f))
        if (is_bytes(&f, 25))
            m->functions[at++] = f.bytes;
    return err;
}

pg_err pg_onnx_read_model(pg_span file, pg_pool *pool, pg_onnx_model *out, pg_diag *diag) {
    outline o = {0};
    *out = (pg_onnx_model){0};
    if (file.size >= 4 && memcmp(file.data, "PK\3\4", 4) == 0) /* torch.save writes these */
        return pg_fail(diag, PG_EMODEL, "is a zip archive: a PyTorch checkpoint has to be exported "
                                        "as ONNX first");
    pg_err err = read_outline(file, &o, out, diag);
    if (err != PG_OK)
        return err;
    if (o.graphs != 1 || !pg_onnx_name_ok(o.producer) || !pg_onnx_name_ok(o.version))
        return damaged(diag, "the file");
    if (out->opset < MIN_OPSET || out->opset > MAX_OPSET)
        return pg_fail(diag, PG_EMODEL,
                       "the model uses operator set %lld; versions %d to %d are supported",
                       (long long)out->opset, MIN_OPSET, MAX_OPSET);
    char *text = pg_pool_take(pool, o.producer.size + o.version.size + 2);
    if (text == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the model's outline");
    if (o.producer.size > 0)
        memcpy(text, o.producer.data, o.producer.size);
    if (o.version.size > 0) {
        text[o.producer.size] = ' ';
        memcpy(text + o.producer.size + 1, o.version.data, o.version.size);
    }
    out->producer = text;
    err = list_functions(file, pool, out, diag);
    return err == PG_OK ? read_graph(o.graph, pool, out, diag) : err;
}

/* ---- graph inputs and outputs ---- */

static bool read_dim(pg_span message, int64_t *dim) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    *dim = -1; /* a name or nothing: left open */
    while (pg_wire_next(&wire, &f))
        if (f.number == 1 && f.type == PG_WIRE_VARINT)
            *dim = (int64_t)f.value > 0 ? (int64_t)f.value : -1;
    return !wire.malformed;
}

static bool read_shape(pg_span message, pg_onnx_value *v) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    v->has_shape = true;
    v->rank = 0;
    while (pg_wire_next(&wire, &f)) {
        if (!is_bytes(&f, 1))
            continue;
        int64_t dim;
        if (v->rank >= PG_ONNX_MAX_VALUES || !read_dim(f.bytes, &dim))
            return false;
        if (v->rank < PG_MAX_RANK)
            v->dims[v->rank] = dim;
        v->rank++;
    }
    return !wire.malformed;
}

static bool read_tensor_type(pg_span message, pg_onnx_value *v) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    bool ok = true;
    v->is_tensor = true;
    while (pg_wire_next(&wire, &f)) {
        if (f.number == 1 && f.type == PG_WIRE_VARINT)
            v->elem_type = (int64_t)f.value;
        else if (is_bytes(&f, 2))
            ok = ok && read_shape(f.bytes, v);
    }
    return ok && !wire.malformed;
}

static bool read_type(pg_span message, pg_onnx_value *v) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    bool ok = true;
    while (pg_wire_next(&wire, &f))
        if (is_bytes(&f, 1))
            ok = ok && read_tensor_type(f.bytes, v);
    return ok && !wire.malformed;
}

static int enter(pg_names *names, pg_span name) {
    return name.size == 0 ? -1 : pg_names_enter(names, (const char *)name.data, name.size);
}

pg_err pg_onnx_read_value(pg_span message, pg_names *names, pg_onnx_value *out, pg_diag *diag) {
    *out = (pg_onnx_value){.name = -1};
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    pg_span name = {0};
    bool ok = true;
    while (pg_wire_next(&wire, &f)) {
        if (is_bytes(&f, 1))
            name = f.bytes;
        else if (is_bytes(&f, 2))
            ok = ok && read_type(f.bytes, out);
    }
    if (!ok || wire.malformed)
        return damaged(diag, "the list of inputs and outputs");
    if (!pg_onnx_name_ok(name) || name.size == 0)
        return bad_name(diag, "an input or output");
    out->name = enter(names, name);
    return out->name < 0 ? pg_fail(diag, PG_ENOMEM, "no memory for names") : PG_OK;
}

/* ---- attributes ---- */

typedef struct attr_fields {
    pg_span name, text, tensor, ref;
    int64_t type;
    bool has_i, has_f, has_s, has_t, other;
    int64_t n_ints, n_floats; /* -1: damaged */
} attr_fields;

static void count_list(const pg_wire_field *f, pg_wire_type plain, int64_t *total) {
    int64_t count = pg_wire_count(f, plain);
    *total = count < 0 || *total < 0 ? -1 : *total + count;
}

static bool scan_attr(pg_span message, attr_fields *a, pg_attr *out) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    while (pg_wire_next(&wire, &f)) {
        bool bytes = f.type == PG_WIRE_BYTES;
        if (f.number == 1 && bytes)
            a->name = f.bytes;
        else if (f.number == 2 && f.type == PG_WIRE_FIXED32)
            out->f = pg_wire_f32((uint32_t)f.value), a->has_f = true;
        else if (f.number == 3 && f.type == PG_WIRE_VARINT)
            out->i = (int64_t)f.value, a->has_i = true;
        else if (f.number == 4 && bytes)
            a->text = f.bytes, a->has_s = true;
        else if (f.number == 5 && bytes)
            a->tensor = f.bytes, a->has_t = true;
        else if (f.number == 7)
            count_list(&f, PG_WIRE_FIXED32, &a->n_floats);
        else if (f.number == 8)
            count_list(&f, PG_WIRE_VARINT, &a->n_ints);
        else if (f.number == 20 && f.type == PG_WIRE_VARINT)
            a->type = (int64_t)f.value;
        else if (is_bytes(&f, 21))
            a->ref = f.bytes;
        else if (f.number == 6 || f.number == 9 || f.number == 10 || f.number == 11)
            a->other = true;
    }
    return !wire.malformed && a->n_ints >= 0 && a->n_floats >= 0;
}

/* Files of IR version 1 leave the type out: what is filled says it. */
static pg_attr_type attr_type(const attr_fields *a) {
    switch (a->type) {
    case ATTR_FLOAT:
        return PG_ATTR_FLOAT;
    case ATTR_INT:
        return PG_ATTR_INT;
    case ATTR_STRING:
        return PG_ATTR_STRING;
    case ATTR_TENSOR:
        return a->has_t ? PG_ATTR_TENSOR : PG_ATTR_OTHER;
    case ATTR_FLOATS:
        return PG_ATTR_FLOATS;
    case ATTR_INTS:
        return PG_ATTR_INTS;
    case 0:
        return a->other    ? PG_ATTR_OTHER
               : a->has_t  ? PG_ATTR_TENSOR
               : a->has_s  ? PG_ATTR_STRING
               : a->has_f  ? PG_ATTR_FLOAT
               : a->has_i  ? PG_ATTR_INT
               : a->n_ints ? PG_ATTR_INTS
                           : PG_ATTR_FLOATS;
    default:
        return PG_ATTR_OTHER;
    }
}

/* The list in field 7 (floats) or 8 (ints), whose length scan_attr has counted; NULL: no memory. */
static uint64_t *read_list(pg_span message, uint32_t number, int64_t count, pg_pool *pool) {
    pg_wire_type plain = number == 7 ? PG_WIRE_FIXED32 : PG_WIRE_VARINT;
    uint64_t *bits = pg_pool_array(pool, (size_t)count, sizeof *bits), *at = bits;
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    while (bits != NULL && pg_wire_next(&wire, &f))
        if (f.number == number) {
            pg_wire_numbers(&f, plain, at);
            at += pg_wire_count(&f, plain);
        }
    return bits;
}

static pg_err fill_ints(pg_span message, int64_t count, pg_pool *pool, pg_attr *out) {
    out->ints = (const int64_t *)read_list(message, 8, count, pool);
    out->count = (size_t)count;
    return out->ints != NULL ? PG_OK : PG_ENOMEM;
}

static pg_err fill_floats(pg_span message, int64_t count, pg_pool *pool, pg_attr *out) {
    const uint64_t *bits = read_list(message, 7, count, pool);
    float *floats = pg_pool_array(pool, (size_t)count, sizeof *floats);
    if (bits == NULL || floats == NULL)
        return PG_ENOMEM;
    for (int64_t i = 0; i < count; i++)
        floats[i] = pg_wire_f32((uint32_t)bits[i]);
    out->floats = floats;
    out->count = (size_t)count;
    return PG_OK;
}

static pg_err fill_tensor(pg_span message, pg_pool *pool, pg_onnx_external *external, pg_attr *out,
                          pg_diag *diag) {
    pg_const *tensor = pg_pool_take(pool, sizeof *tensor);
    if (tensor == NULL)
        return PG_ENOMEM;
    pg_span name;
    out->tensor = tensor;
    return pg_onnx_read_tensor(message, pool, external, &name, tensor, diag);
}

pg_err pg_onnx_read_attr(pg_span message, pg_pool *pool, pg_onnx_external *external, pg_attr *out,
                         pg_diag *diag) {
    attr_fields a = {0};
    if (!scan_attr(message, &a, out))
        return damaged(diag, "an attribute");
    if (a.name.size == 0 || !pg_onnx_name_ok(a.name) || !pg_onnx_name_ok(a.ref))
        return bad_name(diag, "an attribute");
    out->name = pg_pool_text(pool, (const char *)a.name.data, a.name.size);
    out->type = a.ref.size > 0 ? PG_ATTR_REF : attr_type(&a);
    pg_err err = out->name == NULL ? PG_ENOMEM : PG_OK;
    if (err == PG_OK && out->type == PG_ATTR_REF &&
        (out->s = pg_pool_text(pool, (const char *)a.ref.data, a.ref.size)) == NULL)
        err = PG_ENOMEM;
    if (err == PG_OK && out->type == PG_ATTR_STRING) {
        if (!pg_onnx_name_ok(a.text))
            out->type = PG_ATTR_OTHER;
        else if ((out->s = pg_pool_text(pool, (const char *)a.text.data, a.text.size)) == NULL)
            err = PG_ENOMEM;
    }
    if (err == PG_OK && out->type == PG_ATTR_INTS)
        err = fill_ints(message, a.n_ints, pool, out);
    if (err == PG_OK && out->type == PG_ATTR_FLOATS)
        err = fill_floats(message, a.n_floats, pool, out);
    if (err == PG_OK && out->type == PG_ATTR_TENSOR)
        err = fill_tensor(a.tensor, pool, external, out, diag);
    return err == PG_ENOMEM ? pg_fail(diag, err, "no memory for the attributes") : err;
}

/* ---- nodes ---- */

typedef struct node_fields {
    pg_span name, type, domain;
    pg_span output; /* the first: names a node that has no name */
} node_fields;

static pg_err scan_node(pg_span message, node_fields *n, pg_onnx_node *out, pg_diag *diag) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    bool names_ok = true;
    while (pg_wire_next(&wire, &f)) {
        if (f.type != PG_WIRE_BYTES)
            continue;
        switch (f.number) {
        case 1:
            out->n_inputs++;
            names_ok = names_ok && pg_onnx_name_ok(f.bytes);
            break;
        case 2:
            out->n_outputs++;
            n->output = n->output.size == 0 ? f.bytes : n->output;
            names_ok = names_ok && pg_onnx_name_ok(f.bytes);
            break;
        case 3:
            n->name = f.bytes;
            break;
        case 4:
            n->type = f.bytes;
            break;
        case 5:
            out->n_attrs++;
            break;
        case 7:
            n->domain = f.bytes;
            break;
        default:
            break;
        }
    }
    if (wire.malformed)
        return damaged(diag, "a node");
    if (!names_ok || !pg_onnx_name_ok(n->name) || !pg_onnx_name_ok(n->type) ||
        !pg_onnx_name_ok(n->domain) || n->type.size == 0)
        return bad_name(diag, "a node");
    if (out->n_inputs > PG_ONNX_MAX_IO || out->n_outputs > PG_ONNX_MAX_IO ||
        out->n_attrs > PG_ONNX_MAX_IO)
        return pg_fail(diag, PG_EMODEL, "a node lists more than %d inputs, outputs or attributes",
                       PG_ONNX_MAX_IO);
    return PG_OK;
}

static pg_err fill_node(pg_span message, pg_pool *pool, pg_names *names,
                        pg_onnx_external *external, pg_onnx_node *out, pg_diag *diag) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    int in = 0, to = 0, at = 0;
    pg_err err = PG_OK;
    while (err == PG_OK && pg_wire_next(&wire, &f)) {
        if (is_bytes(&f, 1) || is_bytes(&f, 2)) {
            int id = enter(names, f.bytes);
            if (id < 0 && f.bytes.size > 0)
                return pg_fail(diag, PG_ENOMEM, "no memory for names");
            if (f.number == 1)
                out->inputs[in++] = id;
            else
                out->outputs[to++] = id;
        } else if (is_bytes(&f, 5)) {
            err = pg_onnx_read_attr(f.bytes, pool, external, &out->attrs[at++], diag);
        }
    }
    return err;
}

pg_err pg_onnx_read_node(pg_span message, pg_pool *pool, pg_names *names,
                         pg_onnx_external *external, pg_onnx_node *out, pg_diag *diag) {
    node_fields n = {0};
    *out = (pg_onnx_node){0};
    pg_err err = scan_node(message, &n, out, diag);
    if (err != PG_OK)
        return err;
    bool foreign = n.domain.size > 0 &&
                   !(n.domain.size == 7 && memcmp(n.domain.data, "ai.onnx", 7) == 0);
    out->inputs = pg_pool_array(pool, (size_t)out->n_inputs, sizeof *out->inputs);
    out->outputs = pg_pool_array(pool, (size_t)out->n_outputs, sizeof *out->outputs);
    out->attrs = pg_pool_array(pool, (size_t)out->n_attrs, sizeof *out->attrs);
    /* a foreign operator keeps its domain in its type, so that no table knows it */
    char *type = pg_pool_take(pool, n.domain.size + n.type.size + 3);
    pg_span name = n.name.size > 0 ? n.name : n.output;
    out->name = pg_pool_text(pool, (const char *)name.data, name.size);
    if (out->inputs == NULL || out->outputs == NULL || out->attrs == NULL || type == NULL ||
        out->name == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the nodes");
    if (foreign)
        snprintf(type, n.domain.size + n.type.size + 3, "%.*s::%.*s", (int)n.domain.size,
                 (const char *)n.domain.data, (int)n.type.size, (const char *)n.type.data);
    else
        memcpy(type, n.type.data, n.type.size);
    out->type = type;
    err = fill_node(message, pool, names, external, out, diag);
    return err == PG_EMODEL ? pg_fail_in(diag, err, "node '%s'", out->name) : err;
}
