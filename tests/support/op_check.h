/* One operator on a test bench: build a node, run it forward and backward through the same seam
 * the sessions use, and compare with a reference written by the test.
 *
 *     op_check c;
 *     op_check_init(&c, "Conv", 17);                          type, opset
 *     op_check_attr_ints(&c, "strides", 2, (int64_t[]){2, 2});
 *     op_check_input(&c, SHAPE(1, 3, 9, 9));                  run-time input, random in [-1,1)
 *     op_check_const(&c, SHAPE(8, 3, 3, 3), NULL);            constant; NULL: random
 *     op_check_open(&c, PG_CHANNELS_LAST);                    create, prepare, bind
 *     op_check_forward(&c);
 *     op_check_dst(&c, 0, expected, 1e-5);                    expected: double, ONNX order
 *     op_check_gradient(&c, 2e-3);                            backward against differences
 *     op_check_close(&c);
 *
 * Values are always given and read in ONNX order; the bench converts to the operator's layout.
 * Inputs are added in ONNX order. Between init and open, set c.def.node, c.n_outputs, and between
 * create and prepare whatever the operator's own header offers (split op_check_open into
 * op_check_create and op_check_start). A refusal is op_check_refused(&c, "part of the sentence").
 *
 * What it checks on the way, so that no test has to: forward and backward allocate nothing, write
 * nothing beyond dst, d_src, saved and scratch, overwrite every element of dst and d_src, and
 * backward reads neither src nor dst unless keeps_src / keeps_dst say so (they are poisoned with
 * NaN). Tolerances are relative to the largest magnitude expected.
 */
#ifndef PG_TESTS_SUPPORT_OP_CHECK_H
#define PG_TESTS_SUPPORT_OP_CHECK_H

#include <criterion/criterion.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/op.h"

enum { OP_CHECK_MAX = 12, OP_CHECK_GUARD = 64 };

#define OP_CHECK_API __attribute__((unused)) static

/* SHAPE(1, 3, 8, 8): a pg_shape of that rank (at least 1). SHAPE0: a scalar. */
#define SHAPE(...)                                                                                 \
    ((pg_shape){(int)(sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t)), {__VA_ARGS__}})
#define SHAPE0 ((pg_shape){0, {0}})

typedef struct op_check {
    pg_op_def def;
    int n_outputs; /* what the node declares; 1 unless set */
    int dead_outputs; /* how many of them, at the end, nothing reads; 0 unless set */
    pg_op *op;
    pg_diag diag;
    pg_op_io io; /* c.io.prune may be set by the test */
    /* The run-time inputs, then outputs, in ONNX order, plain. The test may rewrite x[] between
     * runs: op_check_forward converts it again. */
    float *x[OP_CHECK_MAX];
    float *y[OP_CHECK_MAX];
    float *d_y[OP_CHECK_MAX]; /* the seed: random unless the test rewrites it */
    float *d_x[OP_CHECK_MAX];
    double kink; /* op_check_gradient skips elements whose one-sided differences disagree by more
                    than this share of the largest gradient; 0 (default): none */
    bool want[OP_CHECK_MAX]; /* d_src[i] is wanted; all true after create */
    /* private */
    pg_attr attrs[OP_CHECK_MAX];
    pg_op_input inputs[OP_CHECK_MAX];
    pg_const consts[OP_CHECK_MAX];
    const float *given[OP_CHECK_MAX];
    const float *src[OP_CHECK_MAX], *d_dst[OP_CHECK_MAX];
    float *dst[OP_CHECK_MAX], *d_src[OP_CHECK_MAX];
    void *owned[16 * OP_CHECK_MAX];
    int n_owned;
    uint64_t random;
    bool bound;
} op_check;

/* Deterministic noise in [-1, 1); each call continues the sequence. */
OP_CHECK_API float op_check_noise(op_check *c) {
    c->random = c->random * 6364136223846793005ull + 1442695040888963407ull;
    return (float)((double)(int64_t)(c->random >> 11) / 4503599627370496.0 - 1.0);
}

OP_CHECK_API void *op_check_own(op_check *c, void *block) {
    cr_assert(c->n_owned < 16 * OP_CHECK_MAX && block, "test bench: out of slots or memory");
    c->owned[c->n_owned++] = block;
    return block;
}

/* Zeros in double, for references. */
OP_CHECK_API double *op_check_doubles(op_check *c, int64_t n) {
    return op_check_own(c, pg_calloc((size_t)n + 1, sizeof(double)));
}

/* The same numbers in double; v NULL: zeros. */
OP_CHECK_API double *op_check_widen(op_check *c, const float *v, int64_t n) {
    double *d = op_check_doubles(c, n);
    for (int64_t i = 0; v && i < n; i++)
        d[i] = (double)v[i];
    return d;
}

OP_CHECK_API void op_check_fill(op_check *c, float *v, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        v[i] = op_check_noise(c);
    }
}

/* A float array with guard words behind it, all NaN; op_check_guard tells whether they survived. */
OP_CHECK_API float *op_check_array(op_check *c, int64_t n) {
    float *v = op_check_own(c, pg_malloc((size_t)(n + OP_CHECK_GUARD) * sizeof(float)));
    memset(v, 0xff, (size_t)(n + OP_CHECK_GUARD) * sizeof(float));
    return v;
}

OP_CHECK_API void op_check_guard(const float *v, int64_t n, const char *what) {
    for (const unsigned char *p = (const unsigned char *)(v + n);
         p < (const unsigned char *)(v + n + OP_CHECK_GUARD); p++) {
        cr_assert(*p == 0xff, "%s: written beyond its end", what);
    }
}

OP_CHECK_API void op_check_init(op_check *c, const char *type, int opset) {
    memset(c, 0, sizeof *c);
    c->def = (pg_op_def){.node = "node_under_test", .type = type, .opset = opset};
    c->n_outputs = 1;
    c->random = 42;
}

/* ---- attributes ---- */

OP_CHECK_API pg_attr *op_check_attr(op_check *c, const char *name, pg_attr_type type) {
    cr_assert(c->def.n_attrs < OP_CHECK_MAX);
    pg_attr *attr = &c->attrs[c->def.n_attrs++];
    *attr = (pg_attr){.name = name, .type = type};
    return attr;
}

OP_CHECK_API void op_check_attr_int(op_check *c, const char *name, int64_t value) {
    op_check_attr(c, name, PG_ATTR_INT)->i = value;
}

OP_CHECK_API void op_check_attr_float(op_check *c, const char *name, float value) {
    op_check_attr(c, name, PG_ATTR_FLOAT)->f = value;
}

OP_CHECK_API void op_check_attr_string(op_check *c, const char *name, const char *value) {
    op_check_attr(c, name, PG_ATTR_STRING)->s = value;
}

OP_CHECK_API void op_check_attr_ints(op_check *c, const char *name, size_t count,
                                     const int64_t *values) {
    int64_t *copy = op_check_own(c, pg_malloc((count + 1) * sizeof *copy));
    memcpy(copy, values, count * sizeof *copy);
    pg_attr *attr = op_check_attr(c, name, PG_ATTR_INTS);
    attr->ints = copy;
    attr->count = count;
}

/* ---- inputs, in ONNX order ---- */

OP_CHECK_API pg_op_input *op_check_slot(op_check *c) {
    cr_assert(c->def.n_inputs < OP_CHECK_MAX);
    return &c->inputs[c->def.n_inputs++];
}

/* A run-time input: random values. */
OP_CHECK_API void op_check_input(op_check *c, pg_shape shape) {
    *op_check_slot(c) = (pg_op_input){.present = true, .shape = shape};
}

/* A run-time input with the given values (ONNX order, borrowed until op_check_open). */
OP_CHECK_API void op_check_input_of(op_check *c, pg_shape shape, const float *values) {
    c->given[c->def.n_inputs] = values;
    op_check_input(c, shape);
}

OP_CHECK_API void op_check_absent(op_check *c) {
    *op_check_slot(c) = (pg_op_input){.present = false};
}

/* A float constant; values NULL: random. Returns the values, valid until op_check_close. */
OP_CHECK_API const float *op_check_const(op_check *c, pg_shape shape, const float *values) {
    int64_t n = pg_shape_count(&shape);
    float *copy = op_check_own(c, pg_malloc((size_t)(n + 1) * sizeof *copy));
    if (values) {
        memcpy(copy, values, (size_t)n * sizeof *copy);
    } else {
        op_check_fill(c, copy, n);
    }
    pg_const *k = &c->consts[c->def.n_inputs];
    *k = (pg_const){.dtype = PG_F32, .shape = shape, .f = copy};
    *op_check_slot(c) = (pg_op_input){.present = true, .constant = k, .shape = shape};
    return copy;
}

OP_CHECK_API void op_check_const_i64(op_check *c, pg_shape shape, const int64_t *values) {
    int64_t n = pg_shape_count(&shape);
    int64_t *copy = op_check_own(c, pg_malloc((size_t)(n + 1) * sizeof *copy));
    memcpy(copy, values, (size_t)n * sizeof *copy);
    pg_const *k = &c->consts[c->def.n_inputs];
    *k = (pg_const){.dtype = PG_I64, .shape = shape, .i = copy};
    *op_check_slot(c) = (pg_op_input){.present = true, .constant = k, .shape = shape};
}

/* ---- life ---- */

OP_CHECK_API void op_check_close(op_check *c) {
    if (c->bound && c->op->cls->unbind) {
        c->op->cls->unbind(c->op, &c->io.state);
    }
    pg_op_destroy(&c->op);
    while (c->n_owned > 0) {
        pg_free(c->owned[--c->n_owned]);
    }
}

OP_CHECK_API pg_err op_check_try_create(op_check *c) {
    c->def.attrs = c->attrs;
    c->def.inputs = c->inputs;
    c->def.n_outputs = c->n_outputs;
    c->def.n_read = c->n_outputs - c->dead_outputs;
    return pg_op_create(&c->def, &c->op, &c->diag);
}

/* Creation must fail with PG_EMODEL, leave no memory behind, name the node, and say `part`.
 * Closes the bench. */
OP_CHECK_API void op_check_refused(op_check *c, const char *part) {
    uint64_t live = pg_mem_get_stats().live_blocks;
    pg_err err = op_check_try_create(c);
    cr_assert(err == PG_EMODEL, "creation returned %d, expected PG_EMODEL", (int)err);
    cr_assert(c->op == NULL);
    cr_assert(pg_mem_get_stats().live_blocks == live, "a refused operator left memory behind");
    cr_assert(strstr(c->diag.text, part), "'%s' does not say '%s'", c->diag.text, part);
    cr_assert(strstr(c->diag.text, c->def.node), "'%s' does not name the node", c->diag.text);
    op_check_close(c);
}

OP_CHECK_API void op_check_create(op_check *c) {
    pg_err err = op_check_try_create(c);
    cr_assert(err == PG_OK, "create: %s", c->diag.text);
    cr_assert(c->op->n_src <= OP_CHECK_MAX && c->op->n_dst <= OP_CHECK_MAX);
    for (int i = 0; i < c->op->n_src; i++) {
        c->want[i] = true;
    }
}

OP_CHECK_API pg_layout op_check_layout(const op_check *c, const pg_desc *desc, pg_layout layout) {
    int highest = 0;
    for (int i = 0; i < c->op->n_src; i++) {
        highest = c->op->src[i].shape.rank > highest ? c->op->src[i].shape.rank : highest;
    }
    for (int i = 0; i < c->op->n_dst; i++) {
        highest = c->op->dst[i].shape.rank > highest ? c->op->dst[i].shape.rank : highest;
    }
    int rank = desc->shape.rank;
    if (rank < 3 || c->op->layouts == PG_LAYOUTS_PLAIN) {
        return PG_PLAIN;
    }
    if (c->op->layouts == PG_LAYOUTS_CHANNELS_LAST) {
        return PG_CHANNELS_LAST;
    }
    return rank == highest ? layout : PG_PLAIN;
}

/* Layouts, prepare, memory, bind. `layout` is what an operator with PG_LAYOUTS_SAME gets. */
OP_CHECK_API void op_check_start(op_check *c, pg_layout layout) {
    pg_op *op = c->op;
    for (int i = 0; i < op->n_src; i++) {
        op->src[i].layout = op_check_layout(c, &op->src[i], layout);
    }
    for (int i = 0; i < op->n_dst; i++) {
        op->dst[i].layout = op_check_layout(c, &op->dst[i], layout);
    }
    if (op->cls->prepare) {
        cr_assert(op->cls->prepare(op, &c->diag) == PG_OK, "prepare: %s", c->diag.text);
    }
    int given = 0;
    for (int i = 0; i < op->n_src; i++, given++) {
        int64_t n = pg_shape_count(&op->src[i].shape);
        while (!c->inputs[given].present || c->inputs[given].constant) {
            given++;
        }
        c->x[i] = op_check_array(c, n);
        c->d_x[i] = op_check_array(c, n);
        c->src[i] = op_check_array(c, n);
        c->d_src[i] = op_check_array(c, n);
        if (c->given[given]) {
            memcpy(c->x[i], c->given[given], (size_t)n * sizeof(float));
        } else {
            op_check_fill(c, c->x[i], n);
        }
    }
    for (int i = 0; i < op->n_dst; i++) {
        int64_t n = pg_shape_count(&op->dst[i].shape);
        c->y[i] = op_check_array(c, n);
        c->d_y[i] = op_check_array(c, n);
        c->dst[i] = op_check_array(c, n);
        c->d_dst[i] = op_check_array(c, n);
        op_check_fill(c, c->d_y[i], n);
    }
    for (int i = 0; i < op->n_src; i++) {
        c->d_src[i] = c->want[i] ? c->d_src[i] : NULL;
    }
    c->io.src = c->src;
    c->io.dst = c->dst;
    c->io.d_dst = c->d_dst;
    c->io.d_src = c->d_src;
    c->io.saved = op_check_array(c, (int64_t)((op->saved_bytes + 3) / 4));
    c->io.scratch = op_check_array(c, (int64_t)((op->scratch_bytes + 3) / 4));
    if (op->cls->bind) {
        cr_assert(op->cls->bind(op, &c->io, &c->io.state, &c->diag) == PG_OK, "bind: %s",
                  c->diag.text);
    }
    c->bound = true;
}

OP_CHECK_API void op_check_open(op_check *c, pg_layout layout) {
    op_check_create(c);
    op_check_start(c, layout);
}

OP_CHECK_API void op_check_private_guards(const op_check *c) {
    op_check_guard(c->io.saved, (int64_t)((c->op->saved_bytes + 3) / 4), "saved");
    op_check_guard(c->io.scratch, (int64_t)((c->op->scratch_bytes + 3) / 4), "scratch");
}

/* x -> src, forward, dst -> y. Fails on a NaN in y unless x holds one. */
OP_CHECK_API void op_check_forward(op_check *c) {
    pg_op *op = c->op;
    for (int i = 0; i < op->n_src; i++) {
        pg_layout_convert(&op->src[i].shape, PG_PLAIN, c->x[i], op->src[i].layout,
                          (float *)c->src[i]);
    }
    for (int i = 0; i < op->n_dst; i++) {
        memset(c->dst[i], 0xff, (size_t)pg_shape_count(&op->dst[i].shape) * sizeof(float));
    }
    memset(c->io.scratch, 0xff, op->scratch_bytes);
    uint64_t allocations = pg_mem_get_stats().allocations;
    cr_assert(op->cls->forward(op, &c->io) == PG_OK);
    cr_assert(pg_mem_get_stats().allocations == allocations, "forward allocated memory");
    op_check_private_guards(c);
    for (int i = 0; i < op->n_dst; i++) {
        op_check_guard(c->dst[i], pg_shape_count(&op->dst[i].shape), "dst");
        pg_layout_convert(&op->dst[i].shape, op->dst[i].layout, c->dst[i], PG_PLAIN, c->y[i]);
    }
}

/* d_y -> d_dst, backward, d_src -> d_x; after a forward. d_dst must come out unchanged. */
OP_CHECK_API void op_check_backward(op_check *c) {
    pg_op *op = c->op;
    cr_assert(op->cls->backward, "%s has no backward", op->type);
    for (int i = 0; i < op->n_dst; i++) {
        size_t bytes = (size_t)pg_shape_count(&op->dst[i].shape) * sizeof(float);
        pg_layout_convert(&op->dst[i].shape, PG_PLAIN, c->d_y[i], op->dst[i].layout,
                          (float *)c->d_dst[i]);
        if (!op->keeps_dst) {
            memset(c->dst[i], 0xff, bytes);
        }
    }
    for (int i = 0; i < op->n_src; i++) {
        size_t bytes = (size_t)pg_shape_count(&op->src[i].shape) * sizeof(float);
        if (c->d_src[i]) {
            memset(c->d_src[i], 0xff, bytes);
        }
        if (!op->keeps_src) {
            memset((float *)c->src[i], 0xff, bytes);
        }
    }
    memset(c->io.scratch, 0xff, op->scratch_bytes);
    uint64_t allocations = pg_mem_get_stats().allocations;
    cr_assert(op->cls->backward(op, &c->io) == PG_OK);
    cr_assert(pg_mem_get_stats().allocations == allocations, "backward allocated memory");
    op_check_private_guards(c);
    for (int i = 0; i < op->n_src; i++) {
        if (c->d_src[i]) {
            op_check_guard(c->d_src[i], pg_shape_count(&op->src[i].shape), "d_src");
            pg_layout_convert(&op->src[i].shape, op->src[i].layout, c->d_src[i], PG_PLAIN,
                              c->d_x[i]);
        }
    }
    for (int i = 0; i < op->n_dst; i++) {
        int64_t n = pg_shape_count(&op->dst[i].shape);
        float *again = pg_malloc((size_t)(n + 1) * sizeof *again);
        pg_layout_convert(&op->dst[i].shape, op->dst[i].layout, c->d_dst[i], PG_PLAIN, again);
        cr_assert(memcmp(again, c->d_y[i], (size_t)n * sizeof *again) == 0,
                  "backward modified d_dst, which other consumers read");
        pg_free(again);
    }
}

/* ---- comparisons ---- */

/* |got - expected| <= tol * max(|expected|, 1e-30) over all n elements; NaN fails. */
OP_CHECK_API void op_check_near(const float *got, const double *expected, int64_t n, double tol,
                                const char *what) {
    double scale = 1e-30;
    for (int64_t i = 0; i < n; i++) {
        scale = fmax(scale, fabs(expected[i]));
    }
    for (int64_t i = 0; i < n; i++) {
        double error = fabs((double)got[i] - expected[i]);
        cr_assert(error <= tol * scale, "%s[%lld]: got %.9g, expected %.9g (largest %.3g)", what,
                  (long long)i, (double)got[i], expected[i], scale);
    }
}

OP_CHECK_API void op_check_dst(const op_check *c, int i, const double *expected, double tol) {
    op_check_near(c->y[i], expected, pg_shape_count(&c->op->dst[i].shape), tol, "dst");
}

OP_CHECK_API void op_check_d_src(const op_check *c, int i, const double *expected, double tol) {
    op_check_near(c->d_x[i], expected, pg_shape_count(&c->op->src[i].shape), tol, "d_src");
}

OP_CHECK_API void op_check_shape(const op_check *c, int i, pg_shape expected) {
    char a[PG_SHAPE_TEXT], b[PG_SHAPE_TEXT];
    cr_assert(pg_shape_equal(&c->op->dst[i].shape, &expected), "output shape is %s, expected %s",
              pg_shape_text(&c->op->dst[i].shape, a), pg_shape_text(&expected, b));
}

/* <d_y, y(x)> in double, over all outputs. */
OP_CHECK_API double op_check_seeded(op_check *c) {
    op_check_forward(c);
    double sum = 0;
    for (int i = 0; i < c->op->n_dst; i++) {
        for (int64_t k = 0, n = pg_shape_count(&c->op->dst[i].shape); k < n; k++) {
            sum += (double)c->d_y[i][k] * c->y[i][k];
        }
    }
    return sum;
}

/* Runs forward and backward at x and compares every wanted d_src, element by element, with central
 * differences of <d_y, y>. Step 2^-6: f32 rounding leaves about 1e-4 of relative error for values
 * around 1, so a tolerance of 1e-3..5e-3 suits; shapes should stay below a few thousand elements.
 */
OP_CHECK_API void op_check_gradient(op_check *c, double tol) {
    const float step = 0x1p-6f;
    double middle = op_check_seeded(c);
    op_check_backward(c);
    for (int i = 0; i < c->op->n_src; i++) {
        if (!c->want[i]) {
            continue;
        }
        int64_t n = pg_shape_count(&c->op->src[i].shape), skipped = 0;
        double scale = 1e-6;
        for (int64_t k = 0; k < n; k++) {
            scale = fmax(scale, fabs((double)c->d_x[i][k]));
        }
        for (int64_t k = 0; k < n; k++) {
            float x = c->x[i][k], up = x + step, down = x - step;
            c->x[i][k] = up;
            double above = op_check_seeded(c);
            c->x[i][k] = down;
            double below = op_check_seeded(c);
            c->x[i][k] = x;
            double right = (above - middle) / ((double)up - x);
            double left = (middle - below) / ((double)x - down);
            if (c->kink > 0 && fabs(right - left) > c->kink * scale) {
                skipped++;
                continue;
            }
            double expected = (above - below) / ((double)up - down);
            cr_assert(fabs(c->d_x[i][k] - expected) <= tol * scale,
                      "d_src[%d][%lld]: got %.7g, differences say %.7g (largest %.3g)", i,
                      (long long)k, (double)c->d_x[i][k], expected, scale);
        }
        cr_assert(skipped * 4 <= n, "d_src[%d]: %lld of %lld elements sit on a kink", i,
                  (long long)skipped, (long long)n);
    }
}

#endif
