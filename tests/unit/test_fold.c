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
    pg_op_def def = {.node = "n", .type = type, .opset = 13, .attrs = attrs, .n_attrs = n_attrs,
                     .inputs = inputs, .n_inputs = n, .n_outputs = 1};
    pg_folder folder = {.pool = pool};
    pg_diag diag = {{0}};
    return pg_fold(&folder, &def, out, &diag);
}

Test(fold, slice_with_negative_step_and_clamping) {
    static const int64_t data[] = {0, 1, 2, 3, 4}, start[] = {10}, end[] = {INT64_MIN}, axis[] = {0},
                         step[] = {-2};
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

Test(fold, reduction_over_no_axes_is_over_all_unless_it_is_none) {
    static const int64_t data[] = {1, 2, 3};
    pg_const in[] = {ints(data, 1, 3), ints(NULL, 1, 0)};
    pg_attr noop = {.name = "noop_with_empty_axes", .type = PG_ATTR_INT, .i = 1};
    pg_pool pool = {0};
    pg_const out;
    cr_assert_eq(fold("ReduceSum", NULL, 0, in, 2, &pool, &out), PG_OK);
    cr_assert(out.shape.dims[0] == 1 && out.i[0] == 6);
    cr_assert_eq(fold("ReduceSum", &noop, 1, in, 2, &pool, &out), PG_OK);
    cr_assert(out.shape.dims[0] == 3 && out.i[2] == 3);
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
    pg_op_def def = {.node = "n", .type = "Shape", .opset = 13, .inputs = &input, .n_inputs = 1,
                     .n_outputs = 1};
    pg_pool pool = {0};
    pg_folder folder = {.pool = &pool};
    pg_const out;
    cr_assert(pg_fold_needs_shape_only("Shape"));
    cr_assert_eq(pg_fold(&folder, &def, &out, NULL), PG_OK);
    cr_assert(out.shape.dims[0] == 4 && out.i[3] == 9);
    pg_pool_clear(&pool);
}
