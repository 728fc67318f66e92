/* Nodes that stand for several: what ONNX Runtime's offline optimiser writes under its own domain is
 * written out again in operators of ONNX, before anything else looks at the nodes.
 *
 * Only forms that mean the same on every machine are taken; the layouts of one machine
 * (com.microsoft.nchwc) are refused by name, with what to do about it. The convolution in a FusedConv
 * keeps its node's name, and its own output gets one: ParchGrad's z is the convolution's, not the
 * activation's. */
#include <stdio.h>
#include <string.h>

#include "pipeline/import_impl.h"

#define DOMAIN "com.microsoft::"

/* The nodes written so far. */
typedef struct builder {
    pg_importer *im;
    pg_onnx_node *nodes;
    int count, room;
    bool failed; /* out of memory, or too many: seen by the caller at the end */
} builder;

typedef void (*expand_fn)(builder *b, const pg_onnx_node *node);

/* ---- writing nodes ---- */

static bool grow(builder *b) {
    if (b->count < b->room)
        return true;
    int room = b->room < 64 ? 64 : b->room * 2;
    if (b->failed || room > 2 * PG_ONNX_MAX_NODES)
        return false;
    pg_onnx_node *nodes = pg_pool_array(b->im->job->load, (size_t)room, sizeof *nodes);
    if (nodes == NULL)
        return false;
    if (b->count > 0)
        memcpy(nodes, b->nodes, (size_t)b->count * sizeof *nodes);
    b->nodes = nodes;
    b->room = room;
    return true;
}

/* Appends a node named like `from`, with its attributes, these inputs and one output. */
static pg_onnx_node *add(builder *b, const pg_onnx_node *from, const char *type, int n_inputs,
                         const int *inputs, int output) {
    pg_pool *load = b->im->job->load;
    int *in = pg_pool_array(load, (size_t)n_inputs, sizeof *in), *out = pg_pool_take(load, sizeof *out);
    if (in == NULL || out == NULL || !grow(b)) {
        b->failed = true;
        return NULL;
    }
    memcpy(in, inputs, (size_t)n_inputs * sizeof *in);
    *out = output;
    pg_onnx_node *node = &b->nodes[b->count++];
    *node = (pg_onnx_node){.name = from->name, .type = type, .inputs = in, .n_inputs = n_inputs,
                           .outputs = out, .n_outputs = 1, .attrs = from->attrs,
                           .n_attrs = from->n_attrs};
    return node;
}

/* A name for a value in between: that of the node's first output, and what it is. */
static int between(builder *b, const pg_onnx_node *node, const char *what) {
    char text[PG_ONNX_MAX_NAME + 64];
    int id = node->n_outputs > 0 ? node->outputs[0] : -1;
    int length = snprintf(text, sizeof text, "%s/%s", id >= 0 ? pg_import_name(b->im, id) : "",
                          what);
    int made = length < (int)sizeof text
                   ? pg_names_enter(&b->im->names, text, (size_t)length) : -1;
    b->failed = b->failed || made < 0;
    return made;
}

static int input(const pg_onnx_node *node, int k) {
    return k < node->n_inputs ? node->inputs[k] : -1;
}

static int output(const pg_onnx_node *node, int k) {
    return k < node->n_outputs ? node->outputs[k] : -1;
}

static const pg_attr *find_attr(const pg_onnx_node *node, const char *name) {
    for (int i = 0; i < node->n_attrs; i++)
        if (strcmp(node->attrs[i].name, name) == 0)
            return &node->attrs[i];
    return NULL;
}

/* Replaces the node's attributes by these. */
static void set_attrs(builder *b, pg_onnx_node *node, int count, const pg_attr *attrs) {
    if (node == NULL)
        return;
    node->attrs = pg_pool_array(b->im->job->load, (size_t)count, sizeof *attrs);
    node->n_attrs = node->attrs != NULL ? count : 0;
    b->failed = b->failed || node->attrs == NULL;
    if (node->attrs != NULL)
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
    const pg_attr *attr = find_attr(node, "activation");
    for (size_t i = 0; attr != NULL && attr->type == PG_ATTR_STRING &&
                       i < sizeof ACTIVATIONS / sizeof *ACTIVATIONS; i++)
        if (strcmp(ACTIVATIONS[i].type, attr->s) == 0)
            return &ACTIVATIONS[i];
    return NULL;
}

/* FusedConv has its parameters in activation_params, FusedGemm in activation_alpha and so on. */
static float parameter(const pg_onnx_node *node, size_t k, const char *name) {
    char own[64];
    const pg_attr *list = find_attr(node, "activation_params");
    snprintf(own, sizeof own, "activation_%s", name);
    const pg_attr *one = find_attr(node, own);
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
    if (act == NULL && find_attr(node, "activation") != NULL)
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
    const pg_attr *attr = find_attr(node, "alpha");
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
    const pg_attr *epsilon = find_attr(node, "epsilon");
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

pg_err pg_import_expand(pg_importer *im, pg_diag *diag) {
    builder b = {.im = im};
    bool any = false;
    for (int i = 0; i < im->n_nodes; i++)
        any = any || find(im->nodes[i].type) != NULL;
    for (int i = 0; any && i < im->n_nodes; i++) {
        const pg_onnx_node *node = &im->nodes[i];
        expand_fn expand = find(node->type);
        if (expand != NULL)
            expand(&b, node);
        else if (grow(&b))
            b.nodes[b.count++] = *node;
        else
            b.failed = true;
    }
    if (b.failed)
        return pg_import_no_memory(diag);
    if (any) {
        im->nodes = b.nodes;
        im->n_nodes = b.count;
    }
    return PG_OK;
}
