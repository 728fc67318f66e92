#include <criterion/criterion.h>
#include <string.h>

#include "pipeline/fold.h"

static pg_const ints(const int64_t *values, int rank, int64_t count) {
    return (pg_const){.dtype = PG_I64, .shape = {.rank = rank, .dims = {count}}, .i = values};
}

static pg_err fold(const char *type, const pg_attr *attrs, int n_attrs, const pg_const *in, int n,
                   pg_pool *pool, pg_const *out) {
    pg_op_input inputs[8] = {0};
    for (int i = 0; i < n; i++)
        inputs[i] = (pg_op_input){true, &in[i], in[i].shape};
    pg_op_def def = {.node = "n",
                     .type = type,
                     .opset = 13,
                     .attrs = attrs,
                     .n_attrs = n_attrs,
                     .inputs = inputs,
                     .n_inputs = n,
                     .n_outputs = 1};
    pg_folder folder = {.pool = pool};
    pg_diag diag = {{0}};
    return pg_fold(&folder, &def, out, &diag);
}

Test(fold, slice_with_negative_step_and_clamping) {
    static const int64_t data[] = {0, 1, 2, 3, 4}, start[] = {10}, end[] = {INT64_MIN},
                         axis[] = {0}, step[] = {-2};
    pg_const in[] = {ints(data, 1, 5), ints(start, 1, 1), ints(end, 1, 1), ints(axis, 1, 1),
                     ints(step, 1, 1)};
    pg_pool pool = {0};
    pg_const out;
    cr_assert_eq(fold("Slice", NULL, 0, in, 5, &pool, &out), PG_OK);
    cr_assert_eq(out.shape.dims[0], 3);
    cr_assert(out.i[0] == 4 && out.i[1] == 2 && out.i[2] == 0);
    pg_pool_clear(&pool);
}

Test(fold, gather_counts_from_the_end_and_checks_bounds) {
    static const int64_t data[] = {5, 6, 7}, last[] = {-1}, beyond[] = {3};
    pg_const good[] = {ints(data, 1, 3), ints(last, 0, 0)}, bad[] = {good[0], ints(beyond, 0, 0)};
    pg_pool pool = {0};
    pg_const out;
    cr_assert_eq(fold("Gather", NULL, 0, good, 2, &pool, &out), PG_OK);
    cr_assert(out.shape.rank == 0 && out.i[0] == 7);
    cr_assert_eq(fold("Gather", NULL, 0, bad, 2, &pool, &out), PG_EMODEL);
    pg_pool_clear(&pool);
}

Test(fold, arithmetic_broadcasts_and_refuses_division_by_zero) {
    static const int64_t row[] = {2, 4}, two[] = {2}, zero[] = {0};
    pg_const div[] = {ints(row, 1, 2), ints(two, 0, 0)}, by_zero[] = {div[0], ints(zero, 0, 0)};
    pg_pool pool = {0};
    pg_const out;
    cr_assert_eq(fold("Div", NULL, 0, div, 2, &pool, &out), PG_OK);
    cr_assert(out.i[0] == 1 && out.i[1] == 2);
    cr_assert_eq(fold("Div", NULL, 0, by_zero, 2, &pool, &out), PG_EMODEL);
    pg_pool_clear(&pool);
}

Test(fold, reshape_and_transpose) {
    static const int64_t data[] = {0, 1, 2, 3, 4, 5}, to[] = {2, -1}, order[] = {1, 0};
    pg_const in[] = {ints(data, 1, 6), ints(to, 1, 2)};
    pg_attr perm = {.name = "perm", .type = PG_ATTR_INTS, .ints = order, .count = 2};
    pg_pool pool = {0};
    pg_const square, out;
    cr_assert_eq(fold("Reshape", NULL, 0, in, 2, &pool, &square), PG_OK);
    cr_assert(square.shape.rank == 2 && square.shape.dims[1] == 3);
    cr_assert_eq(fold("Transpose", &perm, 1, &square, 1, &pool, &out), PG_OK);
    static const int64_t expected[] = {0, 3, 1, 4, 2, 5};
    cr_assert_eq(memcmp(out.i, expected, sizeof expected), 0);
    pg_pool_clear(&pool);
}

Test(fold, bombs_are_refused) {
    static const int64_t huge[] = {1 << 20, 1 << 20}, one[] = {1}, zero[] = {0},
                         far[] = {INT64_MAX}, still[] = {0};
    pg_const of_shape[] = {ints(huge, 1, 2)};
    pg_const expand[] = {ints(one, 1, 1), ints(huge, 1, 2)};
    pg_const range[] = {ints(zero, 0, 0), ints(far, 0, 0), ints(one, 0, 0)};
    pg_const endless[] = {range[0], range[1], ints(still, 0, 0)};
    pg_pool pool = {0};
    pg_const out;
    cr_assert_eq(fold("ConstantOfShape", NULL, 0, of_shape, 1, &pool, &out), PG_EMODEL);
    cr_assert_eq(fold("Expand", NULL, 0, expand, 2, &pool, &out), PG_EMODEL);
    cr_assert_eq(fold("Range", NULL, 0, range, 3, &pool, &out), PG_EMODEL);
    cr_assert_eq(fold("Range", NULL, 0, endless, 3, &pool, &out), PG_EMODEL);
    pg_pool_clear(&pool);
}

Test(fold, shape_of_a_run_time_value_is_constant) {
    pg_op_input input = {true, NULL, {4, {1, 3, 8, 9}}};
    pg_op_def def = {
        .node = "n", .type = "Shape", .opset = 13, .inputs = &input, .n_inputs = 1, .n_outputs = 1};
    pg_pool pool = {0};
    pg_folder folder = {.pool = &pool};
    pg_const out;
    cr_assert(pg_fold_needs_shape_only("Shape"));
    cr_assert_eq(pg_fold(&folder, &def, &out, NULL), PG_OK);
    cr_assert(out.shape.dims[0] == 4 && out.i[3] == 9);
    pg_pool_clear(&pool);
}

/* ---- the rest of what exporters leave, one small case each ---- */

enum { MAX = 8 };

typedef struct bench {
    pg_pool pool;
    pg_folder folder;
    pg_const in[MAX], out[MAX];
    pg_op_input inputs[MAX];
    pg_attr attrs[MAX];
    pg_op_def def;
    pg_diag diag;
} bench;

static bench *start(const char *type) {
    static bench b;
    b = (bench){.def = {.node = "n", .type = type, .opset = 18, .n_outputs = 1}};
    b.folder.pool = &b.pool;
    return &b;
}

static pg_const *input(bench *b, pg_dtype dtype, const void *data, int rank, const int64_t *dims) {
    pg_const *c = &b->in[b->def.n_inputs];
    *c = (pg_const){.dtype = dtype, .shape = {.rank = rank}, .data = data};
    memcpy(c->shape.dims, dims, (size_t)rank * sizeof *dims);
    b->inputs[b->def.n_inputs++] = (pg_op_input){true, c, c->shape};
    return c;
}

#define DIMS(...)                                                                                  \
    (int)(sizeof((int64_t[]){__VA_ARGS__}) / 8), (const int64_t[]) { __VA_ARGS__ }
#define SCALAR 0, NULL
#define INTS(b, ...)                                                                               \
    input(b, PG_I64, (const int64_t[]){__VA_ARGS__},                                               \
          DIMS((int64_t)(sizeof((int64_t[]){__VA_ARGS__}) / 8)))
#define INT(b, x) input(b, PG_I64, (const int64_t[]){x}, 0, (const int64_t[]){0})
#define FLOATS(b, ...)                                                                             \
    input(b, PG_F32, (const float[]){__VA_ARGS__},                                                 \
          DIMS((int64_t)(sizeof((float[]){__VA_ARGS__}) / 4)))

static void attr(bench *b, const char *name, int64_t value) {
    b->attrs[b->def.n_attrs++] = (pg_attr){.name = name, .type = PG_ATTR_INT, .i = value};
}

static void word(bench *b, const char *name, const char *value) {
    b->attrs[b->def.n_attrs++] = (pg_attr){.name = name, .type = PG_ATTR_STRING, .s = value};
}

static pg_err run(bench *b) {
    b->def.inputs = b->inputs;
    b->def.attrs = b->attrs;
    return pg_fold(&b->folder, &b->def, b->out, &b->diag);
}

static void check_shape(const pg_const *c, int rank, const int64_t *dims) {
    cr_assert_eq(c->shape.rank, rank);
    cr_assert(rank == 0 || memcmp(c->shape.dims, dims, (size_t)rank * sizeof *dims) == 0);
}

static void is_ints(bench *b, int k, int rank, const int64_t *dims, const int64_t *values) {
    cr_assert_eq(b->out[k].dtype, PG_I64, "%s", b->def.type);
    check_shape(&b->out[k], rank, dims);
    for (int64_t i = 0; i < pg_shape_count(&b->out[k].shape); i++)
        cr_assert_eq(b->out[k].i[i], values[i], "%s[%d]: %lld", b->def.type, (int)i,
                     (long long)b->out[k].i[i]);
}

#define GIVES(b, dims, ...)                                                                        \
    do {                                                                                           \
        pg_err got = run(b);                                                                       \
        cr_assert_eq(got, PG_OK, "%s: %s", (b)->def.type, (b)->diag.text);                         \
        is_ints(b, 0, dims, (const int64_t[]){__VA_ARGS__});                                       \
        pg_pool_clear(&(b)->pool);                                                                 \
    } while (0)

static void gives_floats(bench *b, int64_t n, const float *values) {
    cr_assert_eq(run(b), PG_OK, "%s", b->diag.text);
    cr_assert_eq(b->out[0].dtype, PG_F32);
    cr_assert_eq(pg_shape_count(&b->out[0].shape), n);
    for (int64_t i = 0; i < n; i++)
        cr_assert_float_eq(b->out[0].f[i], values[i], 1e-6, "%s[%d]: %g", b->def.type, (int)i,
                           (double)b->out[0].f[i]);
    pg_pool_clear(&b->pool);
}

static void refused(bench *b, const char *part) {
    cr_assert_eq(run(b), PG_EMODEL, "%s was not refused", b->def.type);
    cr_assert(strstr(b->diag.text, part), "'%s' does not say '%s'", b->diag.text, part);
    cr_assert(strstr(b->diag.text, "node 'n'") == NULL, "the caller names the node");
    pg_pool_clear(&b->pool);
}

Test(fold, moves_integers_exactly) {
    const int64_t big = INT64_MAX - 7;
    bench *b = start("Tile");
    INTS(b, big, -3);
    INTS(b, 2);
    GIVES(b, DIMS(4), big, -3, big, -3);
    b = start("Pad");
    INTS(b, 1, big);
    INTS(b, 1, 2);
    INT(b, INT64_MIN);
    GIVES(b, DIMS(5), INT64_MIN, 1, big, INT64_MIN, INT64_MIN);
    b = start("Pad");
    word(b, "mode", "reflect");
    INTS(b, 1, 2, 3);
    INTS(b, 2, 0);
    GIVES(b, DIMS(5), 3, 2, 1, 2, 3);
    b = start("Gather");
    INTS(b, 10, 11, 12);
    input(b, PG_I64, (const int64_t[]){2, 0, -1, 1}, DIMS(2, 2));
    GIVES(b, DIMS(2, 2), 12, 10, 12, 11);
    b = start("GatherND");
    input(b, PG_I64, (const int64_t[]){1, 2, 3, 4}, DIMS(2, 2));
    input(b, PG_I64, (const int64_t[]){1, 0, 0, -1}, DIMS(2, 2));
    GIVES(b, DIMS(2), 3, 2);
    b = start("GatherElements");
    INTS(b, 5, 6, 7);
    INTS(b, 2, 2, -3);
    GIVES(b, DIMS(3), 7, 7, 5);
    b = start("Expand");
    INT(b, 9);
    INTS(b, 2, 2);
    GIVES(b, DIMS(2, 2), 9, 9, 9, 9);
    b = start("Trilu");
    input(b, PG_I64, (const int64_t[]){1, 2, 3, 4}, DIMS(2, 2));
    GIVES(b, DIMS(2, 2), 1, 2, 0, 4);
}

Test(fold, empty_lists_are_allowed) {
    bench *b = start("Slice");
    INTS(b, 1, 2, 3);
    INTS(b, 2);
    INTS(b, 2);
    GIVES(b, DIMS(0), 0);
    b = start("Concat");
    attr(b, "axis", 0);
    input(b, PG_I64, NULL, DIMS(0));
    INTS(b, 4);
    GIVES(b, DIMS(1), 4);
    b = start("Gather");
    INTS(b, 1, 2);
    input(b, PG_I64, NULL, DIMS(0));
    GIVES(b, DIMS(0), 0);
    b = start("Transpose");
    input(b, PG_I64, NULL, DIMS(0, 2));
    GIVES(b, DIMS(2, 0), 0);
    b = start("Gather");
    input(b, PG_I64, NULL, DIMS(0));
    INT(b, 0);
    refused(b, "out of range");
}

Test(fold, split_gives_all_outputs) {
    bench *b = start("Split");
    b->def.n_outputs = 3;
    attr(b, "num_outputs", 3);
    INTS(b, 1, 2, 3, 4, 5);
    cr_assert_eq(run(b), PG_OK, "%s", b->diag.text);
    is_ints(b, 0, DIMS(2), (const int64_t[]){1, 2});
    is_ints(b, 1, DIMS(2), (const int64_t[]){3, 4});
    is_ints(b, 2, DIMS(1), (const int64_t[]){5});
    pg_pool_clear(&b->pool);
}

Test(fold, places_and_finds_elements) {
    bench *b = start("ScatterND");
    INTS(b, 1, 2, 3, 4);
    input(b, PG_I64, (const int64_t[]){3, -4}, DIMS(2, 1));
    INTS(b, 30, 10);
    GIVES(b, DIMS(4), 10, 2, 3, 30);
    b = start("ScatterND");
    word(b, "reduction", "add");
    INTS(b, 1, 2);
    input(b, PG_I64, (const int64_t[]){1, 1}, DIMS(2, 1));
    INTS(b, 5, 6);
    GIVES(b, DIMS(2), 1, 13);
    b = start("ScatterElements");
    attr(b, "axis", 1);
    input(b, PG_I64, (const int64_t[]){1, 2, 3, 4}, DIMS(2, 2));
    input(b, PG_I64, (const int64_t[]){1, -2}, DIMS(2, 1));
    input(b, PG_I64, (const int64_t[]){8, 9}, DIMS(2, 1));
    GIVES(b, DIMS(2, 2), 1, 8, 9, 4);
    b = start("NonZero");
    input(b, PG_I64, (const int64_t[]){0, 5, 6, 0}, DIMS(2, 2));
    GIVES(b, DIMS(2, 2), 0, 1, 1, 0);
    b = start("OneHot");
    INTS(b, 1, -1, 7);
    INT(b, 3);
    INTS(b, 0, 9);
    GIVES(b, DIMS(3, 3), 0, 9, 0, 0, 0, 9, 0, 0, 0);
    b = start("EyeLike");
    attr(b, "k", 1);
    input(b, PG_I64, (const int64_t[]){7, 7, 7, 7}, DIMS(2, 2));
    GIVES(b, DIMS(2, 2), 0, 1, 0, 0);
    b = start("ScatterND");
    INTS(b, 1, 2);
    input(b, PG_I64, (const int64_t[]){2}, DIMS(1, 1));
    INTS(b, 5);
    refused(b, "outside");
    b = start("ScatterND");
    INTS(b, 1, 2);
    input(b, PG_I64, (const int64_t[]){0}, DIMS(1, 1));
    INTS(b, 5, 6);
    refused(b, "updates");
    b = start("ScatterElements");
    INTS(b, 1, 2);
    INTS(b, 0, 1, 0);
    INTS(b, 5, 6);
    refused(b, "fit");
    b = start("OneHot");
    INTS(b, 1);
    INT(b, INT64_MAX);
    INTS(b, 0, 9);
    refused(b, "too large");
}

Test(fold, computes_with_integers) {
    bench *b = start("GreaterOrEqual");
    INTS(b, 1, 2, 3);
    INTS(b, 2);
    GIVES(b, DIMS(3), 0, 1, 1);
    b = start("LessOrEqual");
    INTS(b, 1, 2, 3);
    INTS(b, 2);
    GIVES(b, DIMS(3), 1, 1, 0);
    b = start("Xor");
    INTS(b, 0, 1, 0, 1);
    INTS(b, 0, 0, 1, 1);
    GIVES(b, DIMS(4), 0, 1, 1, 0);
    b = start("Mod");
    INTS(b, 7, -7, 7, -7);
    INTS(b, 3, 3, -3, -3);
    GIVES(b, DIMS(4), 1, 2, -2, -1);
    b = start("Mod");
    attr(b, "fmod", 1);
    INTS(b, 7, -7, 7, -7);
    INTS(b, 3, 3, -3, -3);
    GIVES(b, DIMS(4), 1, -1, 1, -1);
    b = start("Clip");
    INTS(b, -5, 0, 5);
    INT(b, -1);
    INT(b, 2);
    GIVES(b, DIMS(3), -1, 0, 2);
    b = start("Sign");
    INTS(b, -5, 0, 5);
    GIVES(b, DIMS(3), -1, 0, 1);
    b = start("Sum");
    INTS(b, 1);
    INTS(b, 2);
    INTS(b, 3);
    GIVES(b, DIMS(1), 6);
    b = start("Flatten");
    attr(b, "axis", -1);
    input(b, PG_I64, (const int64_t[]){1, 2, 3, 4}, DIMS(2, 1, 2));
    GIVES(b, DIMS(2, 2), 1, 2, 3, 4);
    b = start("CumSum");
    attr(b, "reverse", 1);
    attr(b, "exclusive", 1);
    input(b, PG_I64, (const int64_t[]){1, 2, 3, 4, 5, 6}, DIMS(2, 3));
    INT(b, -1);
    GIVES(b, DIMS(2, 3), 5, 3, 0, 11, 6, 0);
    b = start("CumSum");
    input(b, PG_I64, (const int64_t[]){1, 2, 3, 4, 5, 6}, DIMS(2, 3));
    INT(b, 0);
    GIVES(b, DIMS(2, 3), 1, 2, 3, 5, 7, 9);
}

Test(fold, reduces) {
    static const char *const types[] = {"ReduceSum", "ReduceProd", "ReduceMin", "ReduceMax",
                                        "ReduceMean"};
    static const int64_t results[][2] = {{6, 15}, {6, 120}, {1, 4}, {3, 6}, {2, 5}};
    for (int i = 0; i < 5; i++) {
        bench *b = start(types[i]);
        attr(b, "keepdims", 0);
        input(b, PG_I64, (const int64_t[]){1, 2, 3, 4, 5, 6}, DIMS(2, 3));
        INTS(b, -1);
        GIVES(b, DIMS(2), results[i][0], results[i][1]);
        b = start(types[i]);
        attr(b, "keepdims", 0);
        input(b, PG_F32, (const float[]){1, 2, 3, 4, 5, 6}, DIMS(2, 3));
        INTS(b, 1);
        gives_floats(b, 2, (const float[]){(float)results[i][0], (float)results[i][1]});
    }
    bench *b = start("ReduceSum");
    attr(b, "noop_with_empty_axes", 1);
    INTS(b, 1, 2);
    GIVES(b, DIMS(2), 1, 2);
}

Test(fold, integers_do_not_overflow) {
    static const struct {
        const char *type;
        int64_t a, b;
    } cases[] = {{"Add", INT64_MAX, 1},  {"Sub", INT64_MIN, 1},  {"Mul", INT64_MAX, 2},
                 {"Div", INT64_MIN, -1}, {"Mod", INT64_MIN, -1}, {"Div", 1, 0},
                 {"Mod", 1, 0},          {"Pow", 10, 19},        {"Pow", -2, INT64_MAX},
                 {"Pow", 0, -1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bench *b = start(cases[i].type);
        INT(b, cases[i].a);
        INT(b, cases[i].b);
        refused(b, "overflows");
    }
    static const struct {
        int64_t a, b, power;
    } powers[] = {{2, 62, (int64_t)1 << 62}, {-2, 63, INT64_MIN}, {1, INT64_MAX, 1},
                  {-1, INT64_MAX, -1},       {0, 0, 1},           {3, -1, 0},
                  {0, INT64_MAX, 0},         {-1, INT64_MIN, 1}};
    for (size_t i = 0; i < sizeof powers / sizeof *powers; i++) {
        bench *b = start("Pow");
        INT(b, powers[i].a);
        INT(b, powers[i].b);
        GIVES(b, SCALAR, powers[i].power);
    }
    bench *b = start("Neg");
    INTS(b, INT64_MIN);
    refused(b, "overflows");
    b = start("Abs");
    INTS(b, INT64_MIN);
    refused(b, "overflows");
    b = start("CumSum");
    INTS(b, INT64_MAX, 1);
    INT(b, 0);
    refused(b, "overflows");
    b = start("ReduceSum");
    INTS(b, INT64_MAX, 1);
    refused(b, "overflows");
}

Test(fold, runs_operators_on_floats) {
    bench *b = start("MatMul");
    input(b, PG_F32, (const float[]){1, 2, 3, 4}, DIMS(2, 2));
    input(b, PG_F32, (const float[]){1, 0, 1, 1}, DIMS(2, 2));
    gives_floats(b, 4, (const float[]){3, 2, 7, 4});
    b = start("Softmax");
    FLOATS(b, 0, 0);
    gives_floats(b, 2, (const float[]){0.5f, 0.5f});
    b = start("Clip");
    FLOATS(b, -1, 2);
    FLOATS(b, 0);
    FLOATS(b, 1);
    gives_floats(b, 2, (const float[]){0, 1});
    b = start("Erf");
    FLOATS(b, 0, 1);
    gives_floats(b, 2, (const float[]){0, 0.8427008f});
    b = start("Transpose");
    input(b, PG_F32, (const float[]){1, 2, 3, 4}, DIMS(2, 2));
    gives_floats(b, 4, (const float[]){1, 3, 2, 4});
    /* channels-last inside, plain outside */
    b = start("GlobalAveragePool");
    input(b, PG_F32, (const float[]){1, 2, 3, 4, 5, 6, 7, 8}, DIMS(1, 2, 2, 2));
    gives_floats(b, 2, (const float[]){2.5f, 6.5f});
    b = start("DequantizeLinear");
    input(b, PG_I64, (const int64_t[]){-128, 127, 3, 4}, DIMS(2, 2));
    FLOATS(b, 0.5f, 2);
    INTS(b, 0, 1)->elem = PG_ELEM_INT8;
    attr(b, "axis", 0);
    gives_floats(b, 4, (const float[]){-64, 63.5f, 4, 6});
    b = start("Relu");
    INTS(b, 1);
    refused(b, "integers");
    b = start("MatMul");
    FLOATS(b, 1, 2);
    FLOATS(b, 1, 2, 3);
    cr_assert_eq(run(b), PG_EMODEL);
    b = start("ConvInteger");
    INTS(b, 1);
    refused(b, "not supported");
}

Test(fold, casts_keep_the_type) {
    bench *b = start("Cast");
    attr(b, "to", PG_ELEM_INT8);
    FLOATS(b, -2.7f, 3.9f);
    cr_assert_eq(run(b), PG_OK);
    cr_assert_eq(b->out[0].elem, PG_ELEM_INT8);
    is_ints(b, 0, DIMS(2), (const int64_t[]){-2, 3});
    pg_pool_clear(&b->pool);
    b = start("CastLike");
    INTS(b, 2, 3);
    FLOATS(b, 1);
    gives_floats(b, 2, (const float[]){2, 3});
}
