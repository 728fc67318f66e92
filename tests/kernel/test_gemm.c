/* Gemm and MatMul against plain double loops. */
#include "tests/support/op_check.h"

/* y[m,n] = sum_k a(m,k) b(k,n), with element steps for each operand. */
static void multiply(int64_t m, int64_t n, int64_t k, const float *a, int64_t am, int64_t ak,
                     const float *b, int64_t bk, int64_t bn, double scale, double *y) {
    for (int64_t r = 0; r < m; r++)
        for (int64_t c = 0; c < n; c++) {
            double sum = 0;
            for (int64_t i = 0; i < k; i++)
                sum += (double)a[r * am + i * ak] * b[i * bk + c * bn];
            y[r * n + c] = scale * sum;
        }
}

static void gemm_case(op_check *c, int64_t m, int64_t n, int64_t k, int trans_a, int trans_b,
                      float alpha, float beta) {
    (void)n;
    op_check_init(c, "Gemm", 13);
    op_check_attr_int(c, "transA", trans_a);
    op_check_attr_int(c, "transB", trans_b);
    op_check_attr_float(c, "alpha", alpha);
    op_check_attr_float(c, "beta", beta);
    op_check_input(c, trans_a ? SHAPE(k, m) : SHAPE(m, k));
}

static void check_gemm(int64_t m, int64_t n, int64_t k, int variant) {
    bool ta = variant & 1, tb = variant & 2, run_time_b = variant & 4;
    float alpha = 0.5f, beta = 2;
    op_check c;
    gemm_case(&c, m, n, k, ta, tb, alpha, beta);
    pg_shape b_shape = tb ? SHAPE(n, k) : SHAPE(k, n);
    const float *b = NULL;
    if (run_time_b)
        op_check_input(&c, b_shape);
    else
        b = op_check_const(&c, b_shape, NULL);
    const float *bias = op_check_const(&c, SHAPE(n), NULL);
    op_check_open(&c, PG_PLAIN);
    op_check_shape(&c, 0, SHAPE(m, n));
    b = run_time_b ? c.x[1] : b;
    double *y = op_check_own(&c, pg_malloc((size_t)(m * n) * sizeof *y));
    multiply(m, n, k, c.x[0], ta ? 1 : k, ta ? m : 1, b, tb ? 1 : n, tb ? k : 1, alpha, y);
    for (int64_t i = 0; i < m * n; i++)
        y[i] += beta * bias[i % n];
    op_check_forward(&c);
    op_check_dst(&c, 0, y, 2e-6);
    if (m * k + k * n < 3000)
        op_check_gradient(&c, 2e-3);
    op_check_close(&c);
}

Test(gemm, grid) {
    static const int64_t sizes[][3] = {{1, 10, 33}, {1, 1, 1},      {1, 7, 200},
                                       {3, 5, 4},   {4, 1, 9},      {2, 16, 1},
                                       {1, 100, 1}, {1, 1000, 512}, {1, 70, 3000}};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int variant = 0; variant < 8; variant++)
            check_gemm(sizes[i][0], sizes[i][1], sizes[i][2], variant);
}

/* A layer large enough for several threads and blocks: d_x against plain loops. */
Test(gemm, large_row_backward) {
    enum { N = 300, K = 20000 };
    op_check c;
    gemm_case(&c, 1, N, K, 0, 1, 1, 1);
    const float *w = op_check_const(&c, SHAPE(N, K), NULL);
    op_check_open(&c, PG_PLAIN);
    for (int n = 0; n < N; n++)
        c.d_y[0][n] = n % 3 ? c.d_y[0][n] : 0;
    double *d_x = op_check_own(&c, pg_malloc(K * sizeof *d_x));
    double *y = op_check_own(&c, pg_malloc(N * sizeof *y));
    multiply(1, K, N, c.d_y[0], N, 1, w, K, 1, 1, d_x);
    multiply(1, N, K, c.x[0], K, 1, w, 1, K, 1, y);
    op_check_forward(&c);
    op_check_dst(&c, 0, y, 1e-5);
    op_check_backward(&c);
    op_check_d_src(&c, 0, d_x, 1e-5);
    op_check_close(&c);
}

Test(gemm, bias_broadcasts) {
    static const pg_shape shapes[] = {{0, {0}},    {1, {1}},    {1, {4}},
                                      {2, {1, 4}}, {2, {3, 1}}, {2, {3, 4}}};
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        op_check c;
        gemm_case(&c, 3, 4, 5, 0, 0, 1, -1.5f);
        const float *b = op_check_const(&c, SHAPE(5, 4), NULL);
        const float *bias = op_check_const(&c, shapes[i], NULL);
        op_check_open(&c, PG_PLAIN);
        double y[12];
        multiply(3, 4, 5, c.x[0], 5, 1, b, 4, 1, 1, y);
        const int64_t *d = shapes[i].dims;
        int64_t rows = shapes[i].rank == 2 ? d[0] : 1;
        int64_t cols = shapes[i].rank ? d[shapes[i].rank - 1] : 1;
        for (int e = 0; e < 12; e++)
            y[e] += -1.5 * bias[(rows == 1 ? 0 : e / 4) * cols + (cols == 1 ? 0 : e % 4)];
        op_check_forward(&c);
        op_check_dst(&c, 0, y, 2e-6);
        op_check_close(&c);
    }
}

/* C computed at run time, beside a constant and a computed B, and behind a constant A. */
static void computed_c(int64_t m, pg_shape shape, int form) {
    enum { N = 4, K = 5 };
    bool a_const = form == 2, b_const = form == 1;
    op_check c;
    op_check_init(&c, "Gemm", 13);
    op_check_attr_float(&c, "alpha", 0.5f);
    op_check_attr_float(&c, "beta", -1.5f);
    const float *a = NULL, *b = NULL;
    if (a_const)
        a = op_check_const(&c, SHAPE(m, K), NULL);
    else
        op_check_input(&c, SHAPE(m, K));
    if (b_const)
        b = op_check_const(&c, SHAPE(K, N), NULL);
    else
        op_check_input(&c, SHAPE(K, N));
    op_check_input(&c, shape);
    op_check_open(&c, PG_PLAIN);
    a = a ? a : c.x[0];
    b = b ? b : c.x[a_const ? 0 : 1];
    double y[12];
    multiply(m, N, K, a, K, 1, b, N, 1, 0.5, y);
    int64_t rows = shape.rank == 2 ? shape.dims[0] : 1;
    int64_t cols = shape.rank ? shape.dims[shape.rank - 1] : 1;
    for (int64_t e = 0; e < m * N; e++)
        y[e] += -1.5 * (double)c.x[c.op->n_src - 1][(rows == 1 ? 0 : e / N) * cols +
                                                    (cols == 1 ? 0 : e % N)];
    op_check_forward(&c);
    op_check_dst(&c, 0, y, 2e-6);
    op_check_gradient(&c, 2e-3);
    op_check_close(&c);
}

Test(gemm, computed_c) {
    for (int64_t m = 1; m <= 3; m += 2)
        for (int form = 0; form < 3; form++) {
            const pg_shape shapes[] = {SHAPE0,      SHAPE(1),    SHAPE(4),
                                       SHAPE(1, 4), SHAPE(m, 1), SHAPE(m, 4)};
            for (int i = 0; i < 6; i++)
                computed_c(m, shapes[i], form);
        }
}

Test(gemm, refusals) {
    op_check c;
    gemm_case(&c, 3, 4, 5, 0, 0, 1, 1);
    op_check_const(&c, SHAPE(6, 4), NULL);
    op_check_refused(&c, "do not make a product");
    gemm_case(&c, 3, 4, 5, 0, 0, 1, 1);
    op_check_const(&c, SHAPE(5, 4), NULL);
    op_check_const(&c, SHAPE(3), NULL);
    op_check_refused(&c, "does not broadcast");
    gemm_case(&c, 3, 4, 5, 0, 0, 1, 1);
    op_check_const(&c, SHAPE(5, 4), NULL);
    op_check_input(&c, SHAPE(1, 3, 4));
    op_check_refused(&c, "does not broadcast");
    gemm_case(&c, 3, 4, 5, 0, 0, 1, 1);
    op_check_const_i64(&c, SHAPE(5, 4), (int64_t[20]){0});
    op_check_refused(&c, "not floating point");
    gemm_case(&c, 3, 4, 5, 0, 0, 1, 1);
    op_check_refused(&c, "needs two inputs");
}

/* ---- MatMul ---- */

typedef struct matmul_case {
    pg_shape a, b, y;
} matmul_case;

/* Element of a broadcast operand for output batch index `batch` counted over y's leading axes. */
static int64_t batch_offset(const pg_shape *operand, const pg_shape *y, int y_batch,
                            int64_t batch) {
    int have = operand->rank > 2 ? operand->rank - 2 : 0;
    int64_t step = 1, at = 0;
    for (int i = operand->rank > 1 ? operand->rank - 2 : 0; i < operand->rank; i++)
        step *= operand->dims[i];
    for (int i = y_batch - 1; i >= 0; i--) {
        int64_t index = batch % y->dims[i];
        batch /= y->dims[i];
        int axis = i - (y_batch - have);
        if (axis < 0)
            continue;
        at += operand->dims[axis] == 1 ? 0 : index * step;
        step *= operand->dims[axis];
    }
    return at;
}

static void check_matmul(const matmul_case *t, bool a_const, bool b_const) {
    op_check c;
    op_check_init(&c, "MatMul", 13);
    const float *a = NULL, *b = NULL;
    if (a_const)
        a = op_check_const(&c, t->a, NULL);
    else
        op_check_input(&c, t->a);
    if (b_const)
        b = op_check_const(&c, t->b, NULL);
    else
        op_check_input(&c, t->b);
    op_check_open(&c, PG_PLAIN);
    op_check_shape(&c, 0, t->y);
    a = a ? a : c.x[0];
    b = b ? b : c.x[a_const ? 0 : 1];
    int64_t m = t->a.rank > 1 ? t->a.dims[t->a.rank - 2] : 1, k = t->a.dims[t->a.rank - 1];
    int64_t n = t->b.rank > 1 ? t->b.dims[t->b.rank - 1] : 1;
    int64_t count = pg_shape_count(&t->y);
    int y_batch = t->y.rank - (t->a.rank > 1) - (t->b.rank > 1);
    double *y = op_check_own(&c, pg_malloc((size_t)count * sizeof *y));
    for (int64_t i = 0; i < count / (m * n); i++)
        multiply(m, n, k, a + batch_offset(&t->a, &t->y, y_batch, i), k, 1,
                 b + batch_offset(&t->b, &t->y, y_batch, i), n, 1, 1, y + i * m * n);
    op_check_forward(&c);
    op_check_dst(&c, 0, y, 2e-6);
    op_check_gradient(&c, 2e-3);
    op_check_close(&c);
}

Test(matmul, grid) {
    static const matmul_case cases[] = {
        {{2, {3, 4}}, {2, {4, 5}}, {2, {3, 5}}},
        {{2, {1, 40}}, {2, {40, 5}}, {2, {1, 5}}},
        {{4, {1, 3, 2, 6}}, {2, {6, 7}}, {4, {1, 3, 2, 7}}},
        {{3, {2, 3, 4}}, {3, {2, 4, 5}}, {3, {2, 3, 5}}},
        {{4, {1, 2, 3, 4}}, {4, {1, 2, 4, 3}}, {4, {1, 2, 3, 3}}},
        {{4, {2, 1, 3, 4}}, {3, {3, 4, 2}}, {4, {2, 3, 3, 2}}},
        {{3, {1, 3, 4}}, {3, {5, 4, 2}}, {3, {5, 3, 2}}},
        {{2, {3, 4}}, {3, {5, 4, 2}}, {3, {5, 3, 2}}},
        {{1, {6}}, {2, {6, 5}}, {1, {5}}},
        {{2, {5, 6}}, {1, {6}}, {1, {5}}},
        {{1, {6}}, {1, {6}}, {0, {0}}},
        {{3, {4, 2, 6}}, {1, {6}}, {2, {4, 2}}},
        {{1, {6}}, {3, {4, 6, 2}}, {2, {4, 2}}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        check_matmul(&cases[i], false, false);
        check_matmul(&cases[i], false, true);
        check_matmul(&cases[i], true, false);
    }
}

Test(matmul, refusals) {
    op_check c;
    op_check_init(&c, "MatMul", 13);
    op_check_input(&c, SHAPE(3, 4));
    op_check_input(&c, SHAPE(5, 4));
    op_check_refused(&c, "do not make a product");
    op_check_init(&c, "MatMul", 13);
    op_check_input(&c, SHAPE(2, 3, 4));
    op_check_input(&c, SHAPE(3, 4, 5));
    op_check_refused(&c, "do not make a product");
    op_check_init(&c, "MatMul", 13);
    op_check_input(&c, SHAPE(4, 4));
    op_check_input(&c, SHAPE0);
    op_check_refused(&c, "do not make a product");
    op_check_init(&c, "MatMul", 13);
    op_check_input(&c, SHAPE(1 << 20, 1 << 10, 1));
    op_check_input(&c, SHAPE(1, 1 << 20));
    op_check_refused(&c, "do not make a product");
}
