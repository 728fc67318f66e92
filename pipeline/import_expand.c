/* Nodes that stand for several are written out, before anything else looks at the nodes:
 *
 *   functions of the model itself     their body, with its names made the caller's
 *   ONNX Runtime's fused operators    the operators of ONNX they were made of
 *
 * Of ONNX Runtime's only forms that mean the same on every machine are taken; the layouts of one
 * machine (com.microsoft.nchwc) are refused by name, with what to do about it. The convolution in a
 * FusedConv keeps its node's name, and its own output gets one: ParchGrad's z is the convolution's,
 * not the activation's. */
#include <stdio.h>
#include <string.h>

#include "pipeline/import_impl.h"

#define DOMAIN "com.microsoft::"

/* Functions call functions: bounds what a small file can make of itself. */
enum { MAX_DEPTH = 32, MAX_CALLS = PG_ONNX_MAX_NODES };

/* The nodes written so far, and what it took. */
typedef struct builder {
    pg_importer *im;
    pg_onnx_node *nodes;
    int count, room;
    pg_onnx_function *functions; /* [model.n_functions] */
    int *map, *seen;             /* [names.count when the functions had been read] a body's names */
    int instance;                /* seen[n] == instance: map[n] is valid */
    int calls;
    pg_err err; /* the first failure; what follows does nothing */
    pg_diag *diag;
} builder;

typedef void (*expand_fn)(builder *b, const pg_onnx_node *node);

/* ---- writing nodes ---- */

static void fail(builder *b, pg_err err, const char *sentence) {
    if (b->err == PG_OK)
        b->err = pg_fail(b->diag, err, "%s", sentence);
}

static void no_memory(builder *b) { fail(b, PG_ENOMEM, "no memory for the model"); }

static void append(builder *b, const pg_onnx_node *node) {
    if (b->err != PG_OK)
        return;
    if (b->count == MAX_CALLS) {
        fail(b, PG_EMODEL, "written out, the model's functions have too many nodes");
        return;
    }
    if (b->count == b->room) {
        int room = b->room < 64 ? 64 : b->room * 2;
        pg_onnx_node *nodes = pg_pool_array(b->im->job->load, (size_t)room, sizeof *nodes);
        if (nodes == NULL) {
            no_memory(b);
            return;
        }
        if (b->count > 0)
            memcpy(nodes, b->nodes, (size_t)b->count * sizeof *nodes);
        b->nodes = nodes;
        b->room = room;
    }
    b->nodes[b->count++] = *node;
}

/* Appends a node named like `from`, with its attributes, these inputs and one output. NULL on
 * failure. */
static pg_onnx_node *add(builder *b, const pg_onnx_node *from, const char *type, int n_inputs,
                         const int *inputs, int output) {
    pg_pool *load = b->im->job->load;
    int *in = pg_pool_array(load, (size_t)n_inputs, sizeof *in);
    int *out = pg_pool_take(load, sizeof *out);
    if (in == NULL || out == NULL) {
        no_memory(b);
        return NULL;
    }
    if (n_inputs > 0)
        memcpy(in, inputs, (size_t)n_inputs * sizeof *in);
    *out = output;
    pg_onnx_node node = *from;
    node.type = type;
    node.inputs = in;
    node.n_inputs = n_inputs;
    node.outputs = out;
    node.n_outputs = 1;
    append(b, &node);
    return b->err == PG_OK ? &b->nodes[b->count - 1] : NULL;
}

static int enter(builder *b, const char *first, const char *second) {
    char text[2 * PG_ONNX_MAX_NAME];
    int length = snprintf(text, sizeof text, "%s/%s", first, second);
    if (length >= PG_ONNX_MAX_NAME) {
        fail(b, PG_EMODEL, "written out, a name in the model's functions is too long");
        return -1;
    }
    int id = pg_names_enter(&b->im->names, text, (size_t)length);
    if (id < 0)
        no_memory(b);
    return id;
}

/* A name for a value in between: that of the node's first output, and what it is. */
static int between(builder *b, const pg_onnx_node *node, const char *what) {
    int id = node->n_outputs > 0 ? node->outputs[0] : -1;
    return enter(b, id >= 0 ? pg_import_name(b->im, id) : "", what);
}

static int input(const pg_onnx_node *node, int k) {
    return k < node->n_inputs ? node->inputs[k] : -1;
}

static int output(const pg_onnx_node *node, int k) {
    return k < node->n_outputs ? node->outputs[k] : -1;
}

static const pg_attr *find_attr(const pg_attr *attrs, int count, const char *name) {
    for (int i = 0; i < count; i++)
        if (strcmp(attrs[i].name, name) == 0)
            return &attrs[i];
    return NULL;
}

static const pg_attr *attr_of(const pg_onnx_node *node, const char *name) {
    return find_attr(node->attrs, node->n_attrs, name);
}

/* Replaces the node's attributes by these. */
static void set_attrs(builder *b, pg_onnx_node *node, int count, const pg_attr *attrs) {
    if (node == NULL)
        return;
    node->attrs = pg_pool_array(b->im->job->load, (size_t)count, sizeof *attrs);
    node->n_attrs = node->attrs != NULL ? count : 0;
    if (node->attrs == NULL)
        no_memory(b);
    else if (count > 0)
        memcpy(node->attrs, attrs, (size_t)count * sizeof *attrs);
}

static int add_scalar(builder *b, const pg_onnx_node *from, const char *what, float value) {
    int name = between(b, from, what);
    pg_onnx_node *node = add(b, from, "Constant", 0, NULL, name);
    set_attrs(b, node, 1,
              &(pg_attr){.name = "value_float", .type = PG_ATTR_FLOAT, .f = value});
    return name;
}

/* ---- FusedConv, FusedGemm ---- */

/* Parameters of the fused activation in the order of activation_params. */
static const struct activation {
    const char *type, *first, *second;
} ACTIVATIONS[] = {
    {"Relu", NULL, NULL},        {"Tanh", NULL, NULL},
    {"Sigmoid", NULL, NULL},     {"LeakyRelu", "alpha", NULL},
    {"Clip", "min", "max"},      {"HardSigmoid", "alpha", "beta"},
};

static const struct activation *find_activation(const pg_onnx_node *node) {
    const pg_attr *attr = attr_of(node, "activation");
    for (size_t i = 0; attr != NULL && attr->type == PG_ATTR_STRING &&
                       i < sizeof ACTIVATIONS / sizeof *ACTIVATIONS; i++)
        if (strcmp(ACTIVATIONS[i].type, attr->s) == 0)
            return &ACTIVATIONS[i];
    return NULL;
}

/* FusedConv has its parameters in activation_params, FusedGemm in activation_alpha and so on. */
static float parameter(const pg_onnx_node *node, size_t k, const char *name) {
    char own[64];
    const pg_attr *list = attr_of(node, "activation_params");
    snprintf(own, sizeof own, "activation_%s", name);
    const pg_attr *one = attr_of(node, own);
    if (list != NULL && list->type == PG_ATTR_FLOATS && k < list->count)
        return list->floats[k];
    return one != NULL && one->type == PG_ATTR_FLOAT ? one->f : 0;
}

static void add_activation(builder *b, const pg_onnx_node *node, const struct activation *a,
                           int in) {
    int inputs[3] = {in};
    const char *names[2] = {a->first, a->second};
    pg_attr attrs[2];
    int n = 0, n_inputs = 1;
    for (int k = 0; k < 2 && names[k] != NULL; k++) {
        float value = parameter(node, (size_t)k, names[k]);
        if (strcmp(a->type, "Clip") == 0) /* its bounds are inputs since opset 11 */
            inputs[n_inputs++] = add_scalar(b, node, names[k], value);
        attrs[n++] = (pg_attr){.name = names[k], .type = PG_ATTR_FLOAT, .f = value};
    }
    set_attrs(b, add(b, node, a->type, n_inputs, inputs, output(node, 0)), n, attrs);
}

static void fused(builder *b, const pg_onnx_node *node) {
    bool conv = strcmp(node->type, DOMAIN "FusedConv") == 0;
    const struct activation *act = find_activation(node);
    bool sum = conv && input(node, 3) >= 0;
    int inputs[3] = {input(node, 0), input(node, 1), input(node, 2)};
    const char *type = conv ? "Conv" : "Gemm";
    if (act == NULL && attr_of(node, "activation") != NULL)
        type = node->type; /* refused under its own name */
    int made = act != NULL || sum ? between(b, node, type) : output(node, 0);
    add(b, node, type, 3, inputs, made);
    if (sum) {
        int added = act != NULL ? between(b, node, "Add") : output(node, 0);
        add(b, node, "Add", 2, (int[]){made, input(node, 3)}, added);
        made = added;
    }
    if (act != NULL)
        add_activation(b, node, act, made);
}

/* ---- activations ---- */

static void same_name(builder *b, const pg_onnx_node *node) {
    pg_onnx_node *made = add(b, node, node->type + strlen(DOMAIN), node->n_inputs, node->inputs,
                             output(node, 0));
    if (made != NULL)
        made->outputs = node->outputs, made->n_outputs = node->n_outputs;
}

/* BiasGelu and FastGelu: the bias first, if there is one. */
static void bias_gelu(builder *b, const pg_onnx_node *node) {
    bool fast = strcmp(node->type, DOMAIN "FastGelu") == 0;
    int in = input(node, 0);
    if (input(node, 1) >= 0) {
        int sum = between(b, node, "Add");
        add(b, node, "Add", 2, (int[]){in, input(node, 1)}, sum);
        in = sum;
    }
    pg_onnx_node *gelu = add(b, node, "Gelu", 1, &in, output(node, 0));
    set_attrs(b, gelu, 1,
              &(pg_attr){.name = "approximate", .type = PG_ATTR_STRING,
                         .s = fast ? "tanh" : "none"});
}

/* x sigmoid(alpha x) */
static void quick_gelu(builder *b, const pg_onnx_node *node) {
    const pg_attr *attr = attr_of(node, "alpha");
    float alpha = attr != NULL && attr->type == PG_ATTR_FLOAT ? attr->f : 1.702f;
    int scaled = input(node, 0), gate = between(b, node, "Sigmoid");
    if (alpha != 1) {
        int factor = add_scalar(b, node, "alpha", alpha);
        scaled = between(b, node, "Mul");
        add(b, node, "Mul", 2, (int[]){input(node, 0), factor}, scaled);
    }
    add(b, node, "Sigmoid", 1, &scaled, gate);
    add(b, node, "Mul", 2, (int[]){input(node, 0), gate}, output(node, 0));
}

/* ---- SkipLayerNormalization: layer norm of input + skip (+ bias), whose sum is output 3 ---- */

static void skip_layer_norm(builder *b, const pg_onnx_node *node) {
    bool biased = input(node, 4) >= 0;
    int sum = output(node, 3) >= 0 ? output(node, 3) : between(b, node, "Add");
    int first = biased ? between(b, node, "AddSkip") : sum;
    add(b, node, "Add", 2, (int[]){input(node, 0), input(node, 1)}, first);
    if (biased)
        add(b, node, "Add", 2, (int[]){first, input(node, 4)}, sum);
    int n = input(node, 3) >= 0 ? 3 : 2;
    pg_onnx_node *norm = add(b, node, "LayerNormalization", n,
                             (int[]){sum, input(node, 2), input(node, 3)}, output(node, 0));
    const pg_attr *epsilon = attr_of(node, "epsilon");
    pg_attr attrs[2] = {{.name = "axis", .type = PG_ATTR_INT, .i = -1}};
    if (epsilon != NULL)
        attrs[1] = *epsilon;
    set_attrs(b, norm, epsilon != NULL ? 2 : 1, attrs);
}

/* ---- the table ---- */

static const struct row {
    const char *type;
    expand_fn expand;
} TABLE[] = {
    {DOMAIN "BiasGelu", bias_gelu},
    {DOMAIN "DequantizeLinear", same_name},
    {DOMAIN "FastGelu", bias_gelu},
    {DOMAIN "FusedConv", fused},
    {DOMAIN "FusedGemm", fused},
    {DOMAIN "Gelu", same_name},
    {DOMAIN "QuantizeLinear", same_name},
    {DOMAIN "QuickGelu", quick_gelu},
    {DOMAIN "SkipLayerNormalization", skip_layer_norm},
};

static expand_fn find(const char *type) {
    for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE; i++)
        if (strcmp(TABLE[i].type, type) == 0)
            return TABLE[i].expand;
    return NULL;
}

/* ---- functions of the model ---- */

static const pg_onnx_function *find_function(const builder *b, const char *type) {
    if (strstr(type, "::") == NULL)
        return NULL;
    for (int i = 0; i < b->im->model.n_functions; i++)
        if (strcmp(b->functions[i].type, type) == 0)
            return &b->functions[i];
    return NULL;
}

/* The caller's name for a name of the body; a new one for a value that stays inside. */
static int caller_name(builder *b, const pg_onnx_node *call, int id) {
    if (id < 0)
        return -1;
    if (b->seen[id] != b->instance) {
        b->seen[id] = b->instance;
        b->map[id] = enter(b, call->name, pg_import_name(b->im, id));
    }
    return b->map[id];
}

static void bind_name(builder *b, int formal, int actual) {
    if (formal >= 0) {
        b->seen[formal] = b->instance;
        b->map[formal] = actual;
    }
}

/* Attributes that refer to the caller's get its value, or the function's default, or go. */
static void resolve_attrs(builder *b, const pg_onnx_node *call, const pg_onnx_function *f,
                          pg_onnx_node *node) {
    pg_attr *attrs = pg_pool_array(b->im->job->load, (size_t)node->n_attrs, sizeof *attrs);
    int n = 0;
    if (attrs == NULL) {
        no_memory(b);
        return;
    }
    for (int i = 0; i < node->n_attrs; i++) {
        const pg_attr *own = &node->attrs[i], *value = own;
        if (own->type == PG_ATTR_REF) {
            value = attr_of(call, own->s);
            if (value == NULL)
                value = find_attr(f->defaults, f->n_defaults, own->s);
        }
        if (value == NULL)
            continue;
        attrs[n] = *value;
        attrs[n++].name = own->name;
    }
    node->attrs = attrs;
    node->n_attrs = n;
}

static void rename_node(builder *b, const pg_onnx_node *call, const pg_onnx_function *f,
                        pg_onnx_node *node) {
    pg_pool *load = b->im->job->load;
    int *in = pg_pool_array(load, (size_t)node->n_inputs, sizeof *in);
    int *out = pg_pool_array(load, (size_t)node->n_outputs, sizeof *out);
    int name = enter(b, call->name, node->name);
    if (in == NULL || out == NULL)
        no_memory(b);
    if (b->err != PG_OK)
        return;
    for (int k = 0; k < node->n_inputs; k++)
        in[k] = caller_name(b, call, node->inputs[k]);
    for (int k = 0; k < node->n_outputs; k++)
        out[k] = caller_name(b, call, node->outputs[k]);
    node->name = pg_import_name(b->im, name);
    node->inputs = in;
    node->outputs = out;
    resolve_attrs(b, call, f, node);
}

static void expand_node(builder *b, const pg_onnx_node *node, int depth);

/* The whole body is renamed before its first node is looked at, because that may be a call too and
 * the map is one for all. */
static void call_function(builder *b, const pg_onnx_node *call, const pg_onnx_function *f,
                          int depth) {
    pg_onnx_node *body = pg_pool_array(b->im->job->load, (size_t)f->n_nodes, sizeof *body);
    if (body == NULL) {
        no_memory(b);
        return;
    }
    if (depth == MAX_DEPTH) {
        fail(b, PG_EMODEL, "the model's functions call each other too deeply");
        return;
    }
    b->instance++;
    for (int k = 0; k < f->n_inputs; k++)
        bind_name(b, f->inputs[k], input(call, k));
    for (int k = 0; k < f->n_outputs; k++)
        if (output(call, k) >= 0)
            bind_name(b, f->outputs[k], output(call, k));
    for (int i = 0; i < f->n_nodes && b->err == PG_OK; i++) {
        body[i] = f->nodes[i];
        rename_node(b, call, f, &body[i]);
    }
    for (int i = 0; i < f->n_nodes && b->err == PG_OK; i++)
        expand_node(b, &body[i], depth + 1);
}

static void expand_node(builder *b, const pg_onnx_node *node, int depth) {
    expand_fn expand = find(node->type);
    const pg_onnx_function *function = find_function(b, node->type);
    if (++b->calls > MAX_CALLS)
        fail(b, PG_EMODEL, "written out, the model's functions have too many nodes");
    else if (function != NULL)
        call_function(b, node, function, depth);
    else if (expand != NULL)
        expand(b, node);
    else
        append(b, node);
}

static void read_functions(builder *b) {
    pg_importer *im = b->im;
    pg_pool *load = im->job->load;
    size_t count = (size_t)im->model.n_functions;
    b->functions = pg_pool_array(load, count, sizeof *b->functions);
    for (size_t i = 0; b->functions != NULL && i < count && b->err == PG_OK; i++)
        b->err = pg_onnx_read_function(im->model.functions[i], load, &im->names, im->job->external,
                                       &b->functions[i], b->diag);
    b->map = pg_pool_array(load, im->names.count, sizeof *b->map);
    b->seen = pg_pool_array(load, im->names.count, sizeof *b->seen);
    if (b->functions == NULL || b->map == NULL || b->seen == NULL)
        no_memory(b);
}

pg_err pg_import_expand(pg_importer *im, pg_diag *diag) {
    builder b = {.im = im, .diag = diag};
    bool any = im->model.n_functions > 0;
    for (int i = 0; i < im->n_nodes; i++)
        any = any || find(im->nodes[i].type) != NULL;
    if (!any)
        return PG_OK;
    read_functions(&b);
    for (int i = 0; i < im->n_nodes && b.err == PG_OK; i++)
        expand_node(&b, &im->nodes[i], 0);
    im->nodes = b.nodes;
    im->n_nodes = b.count;
    return b.err;
}
