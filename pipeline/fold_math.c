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

typedef enum binary { ADD, SUB, MUL, DIV, POW, MIN, MAX, MOD, EQUAL, LESS, GREATER, AND, OR } binary;
static const char *const BINARY[] = {"Add", "Sub",   "Mul",  "Div",     "Pow", "Min", "Max",
                                     "Mod", "Equal", "Less", "Greater", "And", "Or"};

static int find(const char *const *names, int count, const char *type) {
    for (int i = 0; i < count; i++)
        if (strcmp(names[i], type) == 0)
            return i;
    return -1;
}

static float float_pair(binary op, float a, float b) {
    switch (op) {
    case ADD:
        return a + b;
    case SUB:
        return a - b;
    case MUL:
        return a * b;
    case DIV:
        return a / b;
    case POW:
        return powf(a, b);
    case MIN:
        return a < b ? a : b;
    case MAX:
        return a > b ? a : b;
    case MOD:
        return fmodf(a, b);
    case EQUAL:
        return a == b;
    case LESS:
        return a < b;
    case GREATER:
        return a > b;
    default:
        return 0;
    }
}

/* By squaring, wrapping; a negative exponent rounds towards zero as an integer power must. */
static int64_t int_power(int64_t base, int64_t exponent) {
    if (exponent < 0)
        return base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
    uint64_t result = 1, square = (uint64_t)base;
    for (uint64_t e = (uint64_t)exponent; e != 0; e >>= 1, square *= square)
        if (e & 1)
            result *= square;
    return (int64_t)result;
}

/* Wraps like the library calls it stands for; false: division by zero. */
static bool int_pair(binary op, int64_t a, int64_t b, int64_t *out) {
    switch (op) {
    case ADD:
        *out = (int64_t)((uint64_t)a + (uint64_t)b);
        return true;
    case SUB:
        *out = (int64_t)((uint64_t)a - (uint64_t)b);
        return true;
    case MUL:
        *out = (int64_t)((uint64_t)a * (uint64_t)b);
        return true;
    case DIV:
        if (b == 0 || (a == INT64_MIN && b == -1))
            return false;
        *out = a / b;
        return true;
    case MOD: /* the sign of the divisor */
        if (b == 0 || (a == INT64_MIN && b == -1))
            return false;
        *out = a % b != 0 && (a % b < 0) != (b < 0) ? a % b + b : a % b;
        return true;
    case POW:
        *out = int_power(a, b);
        return true;
    case MIN:
        *out = a < b ? a : b;
        return true;
    case MAX:
        *out = a > b ? a : b;
        return true;
    case EQUAL:
        *out = a == b;
        return true;
    case LESS:
        *out = a < b;
        return true;
    case GREATER:
        *out = a > b;
        return true;
    case AND:
        *out = a != 0 && b != 0;
        return true;
    case OR:
        *out = a != 0 || b != 0;
        return true;
    }
    return false;
}

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

static pg_err pair(pg_folder *folder, binary op, const pg_const *a, const pg_const *b,
                   pg_const *out, pg_diag *diag) {
    pg_shape shape;
    const void *x = NULL, *y = NULL;
    void *data = NULL;
    bool logical = op >= EQUAL;
    if (a->dtype != b->dtype)
        return pg_fail(diag, PG_EMODEL, "element types differ");
    if (!pg_fold_broadcast(&a->shape, &b->shape, &shape))
        return pg_fail(diag, PG_EMODEL, "shapes do not broadcast");
    pg_err err = spread(folder, a, &shape, &x, diag);
    if (err == PG_OK)
        err = spread(folder, b, &shape, &y, diag);
    if (err == PG_OK)
        err = pg_fold_result(folder, logical ? PG_I64 : a->dtype, &shape, out, &data, diag);
    if (err != PG_OK)
        return err;
    int64_t count = pg_shape_count(&shape);
    for (int64_t i = 0; i < count; i++) {
        if (a->dtype == PG_I64) {
            if (!int_pair(op, ((const int64_t *)x)[i], ((const int64_t *)y)[i],
                          (int64_t *)data + i))
                return pg_fail(diag, PG_EMODEL, "division by zero");
            continue;
        }
        float value = float_pair(op, ((const float *)x)[i], ((const float *)y)[i]);
        if (logical)
            ((int64_t *)data)[i] = value != 0;
        else
            ((float *)data)[i] = value;
    }
    return PG_OK;
}

pg_err pg_fold_binary(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    int op = find(BINARY, (int)(sizeof BINARY / sizeof *BINARY), def->type);
    const pg_const *first = pg_fold_input(def, 0);
    bool variadic = op == MIN || op == MAX;
    if (op < 0 || first == NULL || def->n_inputs < (variadic ? 1 : 2) ||
        (!variadic && def->n_inputs != 2))
        return pg_fail(diag, PG_EMODEL, "wrong number of inputs");
    *out = *first;
    for (int i = 1; i < def->n_inputs; i++) {
        const pg_const *next = pg_fold_input(def, i);
        if (next == NULL)
            return pg_fail(diag, PG_EMODEL, "an input is missing");
        pg_const left = *out, power;
        /* Pow's exponent may be of another type: take it to the base's */
        if (op == POW && next->dtype != left.dtype) {
            pg_err err = pg_fold_convert(folder, next, left.dtype, &power, diag);
            if (err != PG_OK)
                return err;
            next = &power;
        }
        pg_err err = pair(folder, (binary)op, &left, next, out, diag);
        if (err != PG_OK)
            return err;
    }
    return PG_OK;
}

/* ---- element-wise, one input ---- */

typedef enum unary { NEG, ABS, SQRT, FLOOR, CEIL, EXP, LOG, RECIPROCAL, NOT, ROUND } unary;
static const char *const UNARY[] = {"Neg", "Abs", "Sqrt",       "Floor", "Ceil",
                                    "Exp", "Log", "Reciprocal", "Not",   "Round"};

static float float_one(unary op, float x) {
    switch (op) {
    case NEG:
        return -x;
    case ABS:
        return fabsf(x);
    case SQRT:
        return sqrtf(x);
    case FLOOR:
        return floorf(x);
    case CEIL:
        return ceilf(x);
    case EXP:
        return expf(x);
    case LOG:
        return logf(x);
    case RECIPROCAL:
        return 1 / x;
    case ROUND:
        return rintf(x);
    case NOT:
        return x == 0;
    }
    return 0;
}

pg_err pg_fold_unary(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    int op = find(UNARY, (int)(sizeof UNARY / sizeof *UNARY), def->type);
    const pg_const *in = pg_fold_input(def, 0);
    void *data;
    if (op < 0 || in == NULL || def->n_inputs != 1)
        return pg_fail(diag, PG_EMODEL, "wrong number of inputs");
    if (in->dtype == PG_I64 && op != NEG && op != ABS && op != NOT)
        return pg_fail(diag, PG_EMODEL, "not defined on integers");
    pg_err err = pg_fold_result(folder, in->dtype, &in->shape, out, &data, diag);
    if (err != PG_OK)
        return err;
    int64_t count = pg_shape_count(&in->shape);
    for (int64_t i = 0; i < count; i++)
        if (in->dtype == PG_F32)
            ((float *)data)[i] = float_one((unary)op, in->f[i]);
        else if (op == NOT)
            ((int64_t *)data)[i] = in->i[i] == 0;
        else
            ((int64_t *)data)[i] =
                op == NEG || in->i[i] < 0 ? (int64_t)(0 - (uint64_t)in->i[i]) : in->i[i];
    return PG_OK;
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

/* ---- conversions ---- */

/* C leaves out-of-range conversions undefined: saturate, and NaN becomes 0. */
static int64_t float_to_int(float x) {
    if (x != x)
        return 0;
    if (x >= 0x1p63f)
        return INT64_MAX;
    return x <= -0x1p63f ? INT64_MIN : (int64_t)x;
}

pg_err pg_fold_convert(pg_folder *folder, const pg_const *in, pg_dtype to, pg_const *out,
                       pg_diag *diag) {
    void *data;
    if (in->dtype == to) {
        *out = *in;
        return PG_OK;
    }
    pg_err err = pg_fold_result(folder, to, &in->shape, out, &data, diag);
    if (err != PG_OK)
        return err;
    int64_t count = pg_shape_count(&in->shape);
    for (int64_t i = 0; i < count; i++)
        if (to == PG_F32)
            ((float *)data)[i] = (float)in->i[i];
        else
            ((int64_t *)data)[i] = float_to_int(in->f[i]);
    return PG_OK;
}

pg_err pg_fold_cast(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    enum { FLOAT = 1, STRING = 8, BOOL = 9, HALF = 10, DOUBLE = 11, COMPLEX = 14, BFLOAT = 16 };
    const pg_const *in = pg_fold_input(def, 0);
    int64_t to;
    void *data;
    pg_err err = pg_def_int(def, "to", 0, &to, diag);
    if (err != PG_OK)
        return err;
    if (in == NULL || to < 1 || to > BFLOAT || to == STRING || to == COMPLEX || to == COMPLEX + 1)
        return pg_fail(diag, PG_EMODEL, "cast to element type %lld is not supported",
                       (long long)to);
    if (to != BOOL)
        return pg_fold_convert(folder, in,
                               to == FLOAT || to == HALF || to == DOUBLE || to == BFLOAT ? PG_F32
                                                                                         : PG_I64,
                               out, diag);
    err = pg_fold_result(folder, PG_I64, &in->shape, out, &data, diag);
    int64_t count = pg_shape_count(&in->shape);
    for (int64_t i = 0; err == PG_OK && i < count; i++)
        ((int64_t *)data)[i] = in->dtype == PG_F32 ? in->f[i] != 0 : in->i[i] != 0;
    return err;
}

/* ---- reductions over all axes, or over a list ---- */

/* None named means all, unless noop_with_empty_axes. */
static pg_err reduced_axes(const pg_op_def *def, int rank, bool reduced[PG_MAX_RANK],
                           pg_diag *diag) {
    const int64_t *axes;
    int64_t count, noop = 0;
    pg_err err = pg_fold_ints(def, 1, "axes", &axes, &count, diag);
    if (err == PG_OK)
        err = pg_def_int(def, "noop_with_empty_axes", 0, &noop, diag);
    for (int i = 0; i < PG_MAX_RANK; i++)
        reduced[i] = (axes == NULL || count == 0) && !noop;
    for (int64_t i = 0; err == PG_OK && axes != NULL && i < count; i++) {
        int axis = 0;
        err = pg_fold_axis(axes[i], rank, &axis, diag);
        if (err == PG_OK)
            reduced[axis] = true;
    }
    return err;
}

pg_err pg_fold_reduce(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    static const char *const NAMES[] = {"ReduceSum", "ReduceProd", "ReduceMin", "ReduceMax"};
    static const binary PAIR[] = {ADD, MUL, MIN, MAX};
    const pg_const *in = pg_fold_input(def, 0);
    bool reduced[PG_MAX_RANK];
    int64_t keep;
    int which = find(NAMES, 4, def->type);
    if (in == NULL || which < 0)
        return pg_fail(diag, PG_EMODEL, "wrong number of inputs");
    pg_err err = pg_def_int(def, "keepdims", 1, &keep, diag);
    if (err == PG_OK)
        err = reduced_axes(def, in->shape.rank, reduced, diag);
    if (err != PG_OK)
        return err;
    pg_shape full = in->shape, squeezed = {0};
    for (int i = 0; i < full.rank; i++) {
        if (reduced[i])
            full.dims[i] = 1;
        if (!reduced[i] || keep)
            squeezed.dims[squeezed.rank++] = full.dims[i];
    }
    int64_t strides[PG_MAX_RANK], count = pg_shape_count(&in->shape);
    void *data;
    err = pg_fold_result(folder, in->dtype, &squeezed, out, &data, diag);
    if (err != PG_OK)
        return err;
    if (count == 0 || !pg_fold_broadcast_strides(&full, &in->shape, strides))
        return pg_fail(diag, PG_EMODEL, "nothing to reduce");
    /* walk the input; the first element that reaches a place starts it */
    int64_t index[PG_MAX_RANK] = {0};
    for (int64_t at = 0; at < count; at++) {
        int64_t to = 0;
        bool first = true;
        for (int i = 0; i < full.rank; i++) {
            to += index[i] * strides[i];
            first = first && (!reduced[i] || index[i] == 0);
        }
        if (in->dtype == PG_F32) {
            float *place = (float *)data + to;
            *place = first ? in->f[at] : float_pair(PAIR[which], *place, in->f[at]);
        } else {
            int64_t *place = (int64_t *)data + to;
            if (first)
                *place = in->i[at];
            else
                int_pair(PAIR[which], *place, in->i[at], place);
        }
        for (int i = in->shape.rank - 1; i >= 0 && ++index[i] == in->shape.dims[i]; i--)
            index[i] = 0;
    }
    return PG_OK;
}

pg_err pg_fold_range(pg_folder *folder, const pg_op_def *def, pg_const *out, pg_diag *diag) {
    const pg_const *in[3];
    void *data;
    for (int i = 0; i < 3; i++) {
        in[i] = pg_fold_input(def, i);
        if (in[i] == NULL || pg_shape_count(&in[i]->shape) != 1 || in[i]->dtype != in[0]->dtype)
            return pg_fail(diag, PG_EMODEL, "needs three scalars of one type");
    }
    bool whole = in[0]->dtype == PG_I64;
    double start = whole ? (double)in[0]->i[0] : in[0]->f[0];
    double limit = whole ? (double)in[1]->i[0] : in[1]->f[0];
    double step = whole ? (double)in[2]->i[0] : in[2]->f[0];
    double count = ceil((limit - start) / step);
    if (!(count <= (double)PG_FOLD_MAX_VALUE))
        return pg_fail(diag, PG_EMODEL, "the range is endless or too long");
    pg_shape shape = {.rank = 1, .dims = {count > 0 ? (int64_t)count : 0}};
    pg_err err = pg_fold_result(folder, in[0]->dtype, &shape, out, &data, diag);
    for (int64_t i = 0; err == PG_OK && i < shape.dims[0]; i++)
        if (whole)
            ((int64_t *)data)[i] = (int64_t)((uint64_t)in[0]->i[0] +
                                             (uint64_t)i * (uint64_t)in[2]->i[0]);
        else
            ((float *)data)[i] = (float)(start + (double)i * step);
    return err;
}
