/* The inputs of a file. One is the picture: four-dimensional, 1 or 3 channels, channels first as
 * PyTorch writes it or last as TensorFlow does. The graph's own input is always [1,C,H,W]; for a
 * file that wants channels last a Transpose follows it, which costs nothing where the layouts of
 * both sides are the same bytes.
 *
 * Other inputs (a scale, a threshold, a flag) are given as constants in model.inputs: the network
 * then is one of a single picture like any other. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/file_io.h"
#include "pipeline/import_impl.h"
#include "pipeline/npy.h"

enum { MAX_SIDE = 16384 }; /* pixels of an input */

/* onnx.proto, TensorProto.DataType */
enum { ELEM_FLOAT = 1, ELEM_UINT8 = 2, ELEM_FLOAT16 = 10, ELEM_DOUBLE = 11, ELEM_BFLOAT16 = 16 };

static bool is_floating(int64_t type) {
    return type == ELEM_FLOAT || type == ELEM_FLOAT16 || type == ELEM_DOUBLE ||
           type == ELEM_BFLOAT16;
}

static bool is_channels(int64_t n) { return n == 1 || n == 3; }

/* Which axis holds the channels of a picture; 0: it is none. Where both ends would do, the first:
 * [1,3,3,3] is not a picture anyone has. */
static int channel_axis(const pg_onnx_value *v) {
    bool type = is_floating(v->elem_type) || v->elem_type == ELEM_UINT8;
    if (!v->is_tensor || !type || v->rank != 4)
        return 0;
    return is_channels(v->dims[1]) ? 1 : is_channels(v->dims[3]) ? 3 : 0;
}

static void describe(const pg_importer *im, const pg_onnx_value *v, char *text, size_t size) {
    char shape[PG_SHAPE_TEXT] = "of unknown shape";
    if (v->is_tensor && v->has_shape && v->rank <= PG_MAX_RANK) {
        pg_shape s = {.rank = v->rank};
        memcpy(s.dims, v->dims, sizeof s.dims);
        pg_shape_text(&s, shape);
    }
    snprintf(text, size, "%.200s %s", pg_import_name(im, v->name), shape);
}

/* ---- the picture ---- */

static pg_err side(const char *what, int64_t in_file, int64_t asked, int64_t *out,
                   pg_diag *diag) {
    if (in_file > 0 && asked > 0 && in_file != asked)
        return pg_fail(diag, PG_ECONFIG, "the model fixes its input %s at %" PRId64
                                         ", not %" PRId64, what, in_file, asked);
    *out = in_file > 0 ? in_file : asked;
    if (*out <= 0)
        return pg_fail(diag, PG_ECONFIG,
                       "the model leaves its input %s open: set model.input.size", what);
    if (*out > MAX_SIDE)
        return pg_fail(diag, PG_EMODEL, "an input %s of %" PRId64 " pixels is too large", what,
                       *out);
    return PG_OK;
}

/* [1,C,H,W] -> [1,H,W,C] for files that want it so. */
static pg_err add_transpose(pg_importer *im, int *value, pg_diag *diag) {
    static const int64_t perm[4] = {0, 2, 3, 1};
    pg_pool *load = im->job->load;
    pg_graph *g = im->job->graph;
    pg_attr *attr = pg_pool_take(load, sizeof *attr);
    pg_op_input *input = pg_pool_take(load, sizeof *input);
    pg_op_def *def = pg_pool_take(load, sizeof *def);
    if (attr == NULL || input == NULL || def == NULL)
        return pg_import_no_memory(diag);
    *attr = (pg_attr){.name = "perm", .type = PG_ATTR_INTS, .ints = perm, .count = 4};
    *input = (pg_op_input){.present = true, .shape = g->values[*value].shape};
    *def = (pg_op_def){.node = im->job->input_name, .type = "Transpose",
                       .opset = (int)im->model.opset, .attrs = attr, .n_attrs = 1,
                       .inputs = input, .n_inputs = 1, .n_outputs = 1};
    struct pg_op *op = NULL;
    pg_err err = pg_op_create(def, &op, diag);
    if (err != PG_OK)
        return err;
    const char *name = NULL;
    pg_node *node = pg_graph_add_node(g, &op, def, value, &name);
    if (node == NULL) {
        pg_op_destroy(&op);
        return pg_import_no_memory(diag);
    }
    node->conv = -1;
    *value = node->dst[0];
    return PG_OK;
}

static pg_err bind_picture(pg_importer *im, const pg_onnx_value *v, pg_diag *diag) {
    const pg_model_options *o = im->job->options;
    pg_graph *g = im->job->graph;
    int channels = channel_axis(v), height = channels == 1 ? 2 : 1;
    pg_shape shape = {.rank = 4, .dims = {1, v->dims[channels]}};
    if (v->dims[0] > 1)
        return pg_fail(diag, PG_EMODEL,
                       "the input '%s' has the batch size %" PRId64 ": export with batch size 1 or "
                       "an open batch axis",
                       pg_import_name(im, v->name), v->dims[0]);
    pg_err err = side("height", v->dims[height], o->height, &shape.dims[2], diag);
    if (err == PG_OK)
        err = side("width", v->dims[height + 1], o->width, &shape.dims[3], diag);
    if (err != PG_OK)
        return err;
    im->job->input_name = pg_import_keep(im, pg_import_name(im, v->name));
    im->job->channels_last = channels == 3;
    im->job->input_bytes = v->elem_type == ELEM_UINT8;
    if (im->job->input_name == NULL)
        return pg_import_no_memory(diag);
    int value = g->input = pg_graph_add_value(g, im->job->input_name, &shape);
    if (value < 0)
        return pg_import_no_memory(diag);
    if (channels == 3)
        err = add_transpose(im, &value, diag);
    im->bindings[v->name] = (pg_binding){.kind = PG_VALUE, .value = value};
    return err;
}

/* ---- the others ---- */

static const pg_model_value *given(const pg_importer *im, int name) {
    const pg_model_options *o = im->job->options;
    for (int i = 0; i < o->n_inputs; i++)
        if (strcmp(o->inputs[i].name, pg_import_name(im, name)) == 0)
            return &o->inputs[i];
    return NULL;
}

static bool whole(double v) { return v == floor(v) && fabs(v) <= 9007199254740992.0; }

/* The shape the file says; an open axis takes what is left of `count` values. */
static pg_err given_shape(const pg_importer *im, const pg_onnx_value *v, int64_t count,
                          pg_shape *shape, pg_diag *diag) {
    const char *name = pg_import_name(im, v->name);
    int open = -1;
    *shape = (pg_shape){.rank = v->has_shape ? v->rank : 1};
    if (shape->rank > PG_MAX_RANK)
        return pg_fail(diag, PG_EMODEL, "the input '%s' has more than %d axes", name, PG_MAX_RANK);
    for (int i = 0; i < shape->rank; i++) {
        bool fixed = v->has_shape && v->dims[i] > 0;
        shape->dims[i] = fixed ? v->dims[i] : 1;
        if (!fixed && open < 0)
            open = i;
    }
    int64_t known = pg_shape_count(shape);
    if (open >= 0 && known > 0 && count % known == 0)
        shape->dims[open] = count / known;
    int64_t total = pg_shape_count(shape);
    char text[PG_SHAPE_TEXT];
    if (total <= 0 || total > PG_FOLD_MAX_VALUE || (count != 1 && count != total))
        return pg_fail(diag, PG_ECONFIG,
                       "model.inputs gives %" PRId64 " values for '%s', whose shape is %s", count,
                       name, pg_shape_text(shape, text));
    return PG_OK;
}

/* The numbers a user gave; one fills any shape. */
static pg_err fill_given(const char *name, const pg_model_value *values, pg_const *out,
                         pg_diag *diag) {
    int64_t count = pg_shape_count(&out->shape);
    for (int64_t i = 0; i < count; i++) {
        double value = values->values[values->count == 1 ? 0 : i];
        if (out->dtype == PG_I64 && !whole(value))
            return pg_fail(diag, PG_ECONFIG, "model.inputs: '%s' takes whole numbers, not %g",
                           name, value);
        if (out->dtype == PG_F32)
            ((float *)(uintptr_t)out->data)[i] = (float)value;
        else
            ((int64_t *)(uintptr_t)out->data)[i] = (int64_t)value;
    }
    return PG_OK;
}

/* The same from a .npy file, which holds float32 only. */
static pg_err read_given(const char *name, const pg_model_value *values, double **out,
                         int64_t *count, pg_diag *diag) {
    uint8_t *file = NULL;
    size_t size = 0;
    pg_npy npy;
    pg_err err = pg_file_read(values->path, (uint64_t)PG_FOLD_MAX_VALUE * 4, &file, &size, diag);
    if (err == PG_OK)
        err = pg_npy_parse(file, size, &npy, diag);
    if (err == PG_OK) {
        *count = pg_shape_count(&npy.shape);
        *out = pg_malloc((size_t)*count * sizeof **out);
        if (*out == NULL)
            err = pg_fail(diag, PG_ENOMEM, "no memory for it");
    }
    for (int64_t i = 0; err == PG_OK && i < *count; i++) {
        float value; /* the file gives no alignment */
        memcpy(&value, npy.values + (size_t)i * sizeof value, sizeof value);
        (*out)[i] = (double)value;
    }
    pg_free(file);
    err = err == PG_EINPUT ? PG_ECONFIG : err;
    return err == PG_OK ? err
                        : pg_fail_in(diag, err, "model.inputs: '%s': %s", name, values->path);
}

static pg_err bind_given(pg_importer *im, const pg_onnx_value *v, const pg_model_value *given,
                         pg_diag *diag) {
    const char *name = pg_import_name(im, v->name);
    pg_model_value values = *given;
    double *from_file = NULL;
    pg_const *constant = pg_pool_take(im->job->load, sizeof *constant);
    if (constant == NULL)
        return pg_import_no_memory(diag);
    pg_err err = PG_OK;
    if (given->path != NULL) {
        err = read_given(name, given, &from_file, &values.count, diag);
        values.values = from_file;
    }
    if (err == PG_OK)
        err = given_shape(im, v, values.count, &constant->shape, diag);
    if (err == PG_OK) {
        constant->dtype = is_floating(v->elem_type) ? PG_F32 : PG_I64;
        constant->data = pg_pool_array(im->job->load, (size_t)pg_shape_count(&constant->shape),
                                       constant->dtype == PG_F32 ? 4 : 8);
        err = constant->data == NULL ? pg_import_no_memory(diag)
                                     : fill_given(name, &values, constant, diag);
    }
    pg_free(from_file);
    im->bindings[v->name] = (pg_binding){.kind = PG_CONSTANT, .constant = constant};
    return err;
}

static pg_err check_given(const pg_importer *im, pg_diag *diag) {
    const pg_model_options *o = im->job->options;
    for (int i = 0; i < o->n_inputs; i++) {
        bool found = false;
        for (int k = 0; k < im->model.n_inputs; k++)
            found = found || strcmp(o->inputs[i].name,
                                    pg_import_name(im, im->input_values[k].name)) == 0;
        if (!found)
            return pg_fail(diag, PG_ECONFIG, "model.inputs: the model has no input '%s'",
                           o->inputs[i].name);
    }
    return PG_OK;
}

/* ---- which is which ---- */

/* With one value per channel it would rather be a mean or a scale. */
static bool is_extended(const pg_onnx_value *v) {
    bool open = v->dims[1] < 1 || v->dims[2] < 1 || v->dims[3] < 1;
    return channel_axis(v) != 0 && (open || v->dims[1] > 3 || v->dims[2] > 3 || v->dims[3] > 3 ||
                                    v->dims[1] * v->dims[2] * v->dims[3] > 3);
}

static bool any_extended(const pg_importer *im) {
    for (int i = 0; i < im->model.n_inputs; i++)
        if (im->bindings[im->input_values[i].name].kind != PG_CONSTANT &&
            is_extended(&im->input_values[i]))
            return true;
    return false;
}

/* The named input, or the only one that looks like a picture. */
static bool is_wanted(const pg_importer *im, const pg_onnx_value *v) {
    const char *wanted = im->job->options->input_name;
    if (wanted != NULL && wanted[0] != '\0')
        return strcmp(wanted, pg_import_name(im, v->name)) == 0;
    return any_extended(im) ? is_extended(v) : channel_axis(v) != 0;
}

pg_err pg_import_inputs(pg_importer *im, pg_diag *diag) {
    const char *wanted = im->job->options->input_name;
    const pg_onnx_value *picture = NULL;
    char all[1024] = "", open[1024] = "", text[512];
    int pictures = 0, missing = 0;
    pg_err err = check_given(im, diag);
    for (int i = 0; err == PG_OK && i < im->model.n_inputs; i++) {
        const pg_onnx_value *v = &im->input_values[i];
        if (im->bindings[v->name].kind == PG_CONSTANT)
            continue; /* an initialiser, or named twice */
        describe(im, v, text, sizeof text);
        pg_import_list(all, sizeof all, text);
        const pg_model_value *values = given(im, v->name);
        if (values != NULL) {
            err = bind_given(im, v, values, diag);
        } else if (is_wanted(im, v)) {
            picture = v;
            pictures++;
        } else {
            pg_import_list(open, sizeof open, text);
            missing++;
        }
    }
    if (err != PG_OK)
        return err;
    if (pictures > 1)
        return pg_fail(diag, PG_ECONFIG,
                       "%d inputs could be the picture: %s; name it with model.input.name and give "
                       "the others a value in model.inputs",
                       pictures, all);
    if (pictures == 0 && wanted != NULL && wanted[0] != '\0')
        return pg_fail(diag, PG_ECONFIG, "model.input.name: the model has no input '%s'; it has %s",
                       wanted, all);
    if (pictures == 0 || channel_axis(picture) == 0)
        return pg_fail(diag, PG_EMODEL,
                       "the model needs an input that is a picture, [1,3,H,W], [1,1,H,W] or "
                       "channels last; it has %s", all[0] != '\0' ? all : "none");
    if (missing > 0)
        return pg_fail(diag, PG_ECONFIG,
                       "besides the picture the model has the input%s %s: give %s in model.inputs",
                       missing == 1 ? "" : "s", open,
                       missing == 1 ? "its value" : "their values");
    return bind_picture(im, picture, diag);
}
