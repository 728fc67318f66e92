/* The arithmetic half of the constant folder: element-wise operators with numpy's broadcasting,
 * reductions, casts. Speed does not matter here; integer overflow and division do. */
#include <math.h>
#include <string.h>

#include "pipeline/fold_impl.h"

bool pg_fold_broadcast(const pg_shape *a, const pg_shape *b, pg_shape *out) {
    const pg_shape *tall = a->rank >= b->rank ? a : b, *low = tall == a ? b : a;
    int lead = tall->rank - low->rank;
    *out = *tall;
    for (int i = 0; i < low->rank; i++) {
        int64_t x = tall->dims[lead + i], y = low->dims[i];
        if (x != y && x != 1 && y != 1)
            return false;
        out->dims[lead + i] = x == 1 ? y : x;
    }
    return true;
}

bool pg_fold_broadcast_strides(const pg_shape *from, const pg_shape *to,
                               int64_t strides[PG_MAX_RANK]) {
    int lead = to->rank - from->rank;
    int64_t step = 1;
    if (lead < 0)
        return false;
    for (int i = 0; i < lead; i++)
        strides[i] = 0;
    for (int i = from->rank - 1; i >= 0; i--) {
        if (from->dims[i] != to->dims[lead + i] && from->dims[i] != 1)
            return false;
        strides[lead + i] = from->dims[i] == 1 ? 0 : step;
        step *= from->dims[i];
    }
    return true;
}

/* ---- element-wise, two inputs ---- */

static const struct {
    const char *type;
    pg_fold_pair_op op;
} BINARY[] = {
    {"Add", PG_FOLD_ADD},         {"And", PG_FOLD_AND},
    {"Div", PG_FOLD_DIV},         {"Equal", PG_FOLD_EQUAL},
    {"Greater", PG_FOLD_GREATER}, {"GreaterOrEqual", PG_FOLD_NOT_LESS},
    {"Less", PG_FOLD_LESS},       {"LessOrEqual", PG_FOLD_NOT_GREATER},
    {"Max", PG_FOLD_MAX},         {"Min", PG_FOLD_MIN},
    {"Mod", PG_FOLD_MOD},         {"Mul", PG_FOLD_MUL},
    {"Or", PG_FOLD_OR},           {"Pow", PG_FOLD_POW},
    {"Sub", PG_FOLD_SUB},         {"Sum", PG_FOLD_ADD},
    {"Xor", PG_FOLD_XOR},
};

static float float_pair(pg_fold_pair_op op, float a, float b) {
    switch (op) {
    case PG_FOLD_ADD:
        return a + b;
    case PG_FOLD_SUB:
        return a - b;
    case PG_FOLD_MUL:
        return a * b;
    case PG_FOLD_DIV:
        return a / b;
    case PG_FOLD_POW:
        return powf(a, b);
    case PG_FOLD_MIN:
        return a < b ? a : b;
    case PG_FOLD_MAX:
        return a > b ? a : b;
    case PG_FOLD_MOD:
    case PG_FOLD_FMOD:
        return fmodf(a, b);
    case PG_FOLD_EQUAL:
        return a == b;
    case PG_FOLD_LESS:
        return a < b;
    case PG_FOLD_GREATER:
        return a > b;
    case PG_FOLD_NOT_LESS:
        return a >= b;
    case PG_FOLD_NOT_GREATER:
        return a <= b;
    case PG_FOLD_AND:
    case PG_FOLD_OR:
    case PG_FOLD_XOR:
        break; /* of bool only, which is an integer here */
    }
    return 0;
}

/* By squaring; a negative exponent rounds towards zero as an integer power must. False: overflow.
 */
static bool int_power(int64_t base, int64_t exponent, int64_t *out) {
    *out = base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
    if (base == 1 || base == -1 || exponent < 0 || (base == 0 && exponent > 0))
        return base != 0 || exponent > 0;
    *out = 1;
    if (exponent > 63)
        return false;
    for (int64_t i = 0; i < exponent; i++)
        if (__builtin_mul_overflow(*out, base, out))
            return false;
    return true;
}

/* False: overflow, or division by zero. */
static bool int_pair(pg_fold_pair_op op, int64_t a, int64_t b, int64_t *out) {
    switch (op) {
    case PG_FOLD_ADD:
        return !__builtin_add_overflow(a, b, out);
    case PG_FOLD_SUB:
        return !__builtin_sub_overflow(a, b, out);
    case PG_FOLD_MUL:
        return !__builtin_mul_overflow(a, b, out);
    case PG_FOLD_DIV:
    case PG_FOLD_MOD:
    case PG_FOLD_FMOD:
        if (b == 0 || (a == INT64_MIN && b == -1))
            return false;
        *out = op == PG_FOLD_DIV ? a / b : a % b; /* C's remainder has the sign of a, as fmod's */
        if (op == PG_FOLD_MOD && *out != 0 && (*out < 0) != (b < 0))
            *out += b;
        return true;
    case PG_FOLD_POW:
        return int_power(a, b, out);
    case PG_FOLD_MIN:
        *out = a < b ? a : b;
        return true;
    case PG_FOLD_MAX:
        *out = a > b ? a : b;
        return true;
    case PG_FOLD_EQUAL:
        *out = a == b;
        return true;
    case PG_FOLD_LESS:
        *out = a < b;
        return true;
    case PG_FOLD_GREATER:
        *out = a > b;
        return true;
    case PG_FOLD_NOT_LESS:
        *out = a >= b;
        return true;
    case PG_FOLD_NOT_GREATER:
        *out = a <= b;
        return true;
    case PG_FOLD_AND:
        *out = a != 0 && b != 0;
        return true;
    case PG_FOLD_OR:
        *out = a != 0 || b != 0;
        return true;
    case PG_FOLD_XOR:
        *out = (a != 0) != (b != 0);
        return true;
    }
    return false;
}

pg_err pg_fold_pair(pg_fold_pair_op op, pg_dtype dtype, const void *a, const void *b, void *out,
                    pg_diag *diag) {
    if (dtype == PG_I64)
        return int_pair(op, *(const int64_t *)a, *(const int64_t *)b, out)
                   ? PG_OK
                   : pg_fail(diag, PG_EMODEL, "division by zero, or an integer overflows");
    float value = float_pair(op, *(const float *)a, *(const float *)b);
    if (pg_fold_compares(op))
        *(int64_t *)out = value != 0;
    else
        *(float *)out = value;
    return PG_OK;
}

bool pg_fold_compares(pg_fold_pair_op op) { return op >= PG_FOLD_EQUAL; }

/* Both operands laid out in the result's shape: the loops below then need no strides. */
static pg_err spread(pg_folder *folder, const pg_const *from, const pg_shape *shape,
                     const void **out, pg_diag *diag) {
    if (pg_shape_equal(&from->shape, shape)) {
        *out = from->data;
        return PG_OK;
    }
    int64_t strides[PG_MAX_RANK];
    pg_const copy;
    void *data;
    if (!pg_fold_broadcast_strides(&from->shape, shape, strides))
        return pg_fail(diag, PG_EMODEL, "shapes do not broadcast");
    pg_err err = pg_fold_result(folder, from->dtype, shape, &copy, &data, diag);
    if (err != PG_OK)
        return err;
    pg_fold_copy(from->dtype, shape, from->data, strides, data);
    *out = data;
    return PG_OK;
}

static size_t size_of(pg_dtype dtype) { return dtype == PG_F32 ? sizeof(float) : sizeof(int64_t); }

static pg_err pair(pg_folder *folder, pg_fold_pair_op op, const pg_const *a, const pg_const *b,
                   pg_const *out, pg_diag *diag) {
    pg_shape shape;
    const void *x = NULL, *y = NULL;
    void *data = NULL;
    if (a->dtype != b->dtype)
        return pg_fail(diag, PG_EMODEL, "element types differ");
    if (!pg_fold_broadcast(&a->shape, &b->shape, &shape))
        return pg_fail(diag, PG_EMODEL, "shapes do not broadcast");
    pg_dtype from = a->dtype, to = pg_fold_compares(op) ? PG_I64 : from;
    pg_err err = spread(folder, a, &shape, &x, diag);
    if (err == PG_OK)
        err = spread(folder, b, &shape, &y, diag);
    if (err == PG_OK)
        err = pg_fold_result(folder, to, &shape, out, &data, diag);
    size_t step = size_of(from), step_to = size_of(to), count = (size_t)pg_shape_count(&shape);
    for (size_t i = 0; err == PG_OK && i < count; i++)
        err = pg_fold_pair(op, from, (const char *)x + i * step, (const char *)y + i * step,
                           (char *)data + i * step_to, diag);
    return err;
}

pg_err pg_fold_binary(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *first = pg_fold_input(def, 0);
    size_t at = 0;
    int64_t fmod_wanted;
    while (strcmp(BINARY[at].type, def->type) != 0)
        at++;
    pg_fold_pair_op op = BINARY[at].op;
    bool variadic = op == PG_FOLD_MIN || op == PG_FOLD_MAX || strcmp(def->type, "Sum") == 0;
    if (first == NULL || (variadic ? def->n_inputs < 1 : def->n_inputs != 2))
        return pg_fail(diag, PG_EMODEL, "wrong number of inputs");
    pg_err err = pg_def_int(def, "fmod", 0, &fmod_wanted, diag);
    if (op == PG_FOLD_MOD && fmod_wanted)
        op = PG_FOLD_FMOD;
    *out = *first;
    for (int i = 1; err == PG_OK && i < def->n_inputs; i++) {
        const pg_const *next = pg_fold_input(def, i);
        if (next == NULL)
            return pg_fail(diag, PG_EMODEL, "an input is missing");
        pg_const left = *out, power;
        /* Pow's exponent may be of another type: take it to the base's */
        if (op == PG_FOLD_POW) {
            err = pg_fold_convert(folder, next, left.dtype, &power, diag);
            next = &power;
        }
        if (err == PG_OK)
            err = pair(folder, op, &left, next, out, diag);
    }
    return err;
}

/* Bounds are inputs since opset 11; before, Clip was of floats only, as its operator is. */
pg_err pg_fold_clip(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in, *lo = pg_fold_input(def, 1), *hi = pg_fold_input(def, 2);
    pg_err err = pg_fold_inputs(def, 1, &in, diag);
    if (err != PG_OK)
        return err;
    if (in->dtype == PG_F32)
        return pg_fold_run(folder, def, out, diag);
    pg_const raised = *in;
    if (lo != NULL)
        err = pair(folder, PG_FOLD_MAX, in, lo, &raised, diag);
    *out = raised;
    if (err == PG_OK && hi != NULL)
        err = pair(folder, PG_FOLD_MIN, &raised, hi, out, diag);
    return err;
}

/* ---- element-wise, one input ---- */

static float neg_of(float x) { return -x; }
static float reciprocal_of(float x) { return 1 / x; }
static float sigmoid_of(float x) { return 1 / (1 + expf(-x)); }
static float sign_of(float x) { return x > 0 ? 1 : x < 0 ? -1 : x; }
static float not_of(float x) { return x == 0; }

/* The whole numbers have their own rules below, or none. */
static const struct {
    const char *type;
    float (*of)(float x);
} UNARY[] = {
    {"Abs", fabsf},    {"Ceil", ceilf},
    {"Cos", cosf},     {"Erf", erff},
    {"Exp", expf},     {"Floor", floorf},
    {"Log", logf},     {"Neg", neg_of},
    {"Not", not_of},   {"Reciprocal", reciprocal_of},
    {"Round", rintf},  {"Sigmoid", sigmoid_of},
    {"Sign", sign_of}, {"Sin", sinf},
    {"Sqrt", sqrtf},   {"Tanh", tanhf},
};

static pg_err int_one(const char *type, int64_t x, int64_t *out, pg_diag *diag) {
    if (strcmp(type, "Not") == 0)
        *out = x == 0;
    else if (strcmp(type, "Sign") == 0)
        *out = (x > 0) - (x < 0);
    else if (strcmp(type, "Neg") != 0 && strcmp(type, "Abs") != 0)
        return pg_fail(diag, PG_EMODEL, "not defined on integers");
    else if (x == INT64_MIN)
        return pg_fail(diag, PG_EMODEL, "an integer overflows");
    else
        *out = x < 0 || strcmp(type, "Neg") == 0 ? -x : x;
    return PG_OK;
}

pg_err pg_fold_unary(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in = pg_fold_input(def, 0);
    size_t at = 0;
    void *data;
    while (strcmp(UNARY[at].type, def->type) != 0)
        at++;
    if (in == NULL || def->n_inputs != 1)
        return pg_fail(diag, PG_EMODEL, "wrong number of inputs");
    pg_err err = pg_fold_result(folder, in->dtype, &in->shape, out, &data, diag);
    int64_t count = pg_shape_count(&in->shape);
    for (int64_t i = 0; err == PG_OK && i < count; i++)
        if (in->dtype == PG_F32)
            ((float *)data)[i] = UNARY[at].of(in->f[i]);
        else
            err = int_one(def->type, in->i[i], (int64_t *)data + i, diag);
    return err;
}

pg_err pg_fold_where(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in[3];
    const void *at[3];
    pg_shape partial, shape;
    void *data;
    for (int i = 0; i < 3; i++)
        if ((in[i] = pg_fold_input(def, i)) == NULL)
            return pg_fail(diag, PG_EMODEL, "an input is missing");
    if (in[0]->dtype != PG_I64 || in[1]->dtype != in[2]->dtype)
        return pg_fail(diag, PG_EMODEL, "element types differ");
    if (!pg_fold_broadcast(&in[0]->shape, &in[1]->shape, &partial) ||
        !pg_fold_broadcast(&partial, &in[2]->shape, &shape))
        return pg_fail(diag, PG_EMODEL, "shapes do not broadcast");
    pg_err err = PG_OK;
    for (int i = 0; i < 3 && err == PG_OK; i++)
        err = spread(folder, in[i], &shape, &at[i], diag);
    if (err == PG_OK)
        err = pg_fold_result(folder, in[1]->dtype, &shape, out, &data, diag);
    if (err != PG_OK)
        return err;
    int64_t count = pg_shape_count(&shape);
    for (int64_t i = 0; i < count; i++) {
        const void *from = ((const int64_t *)at[0])[i] != 0 ? at[1] : at[2];
        if (out->dtype == PG_F32)
            ((float *)data)[i] = ((const float *)from)[i];
        else
            ((int64_t *)data)[i] = ((const int64_t *)from)[i];
    }
    return PG_OK;
}
