/* Relevance through a linear layer against its definition in double loops: every rule of zennit
 * 0.5.1 as its documentation has it, term by term, over the shapes the convolution itself is tested
 * on. Relevance is laid only on outputs whose denominators are not small differences of large
 * terms: there a float32 denominator has no digits, whatever computes it. */
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "conv_reference.h"
#include "kernels/mem.h"
#include "kernels/relevance.h"

typedef struct bench {
    conv_case k;
    int64_t x_n, z_n, w_n;
    pg_linear linear;
    float *x, *y, *r;          /* channels-last; r [z_n] */
    double *dx, *dw, *db, *dr; /* the same in ONNX order and double */
    double *z, *r_in;
    float *low, *high;
} bench;

static uint64_t seed;

static double any(double lo, double hi) {
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (double)(float)(lo + (hi - lo) * (double)(seed >> 11) / (double)(1ull << 53));
}

static double *doubles(int64_t n) { return pg_calloc((size_t)n, sizeof(double)); }
static float *floats(int64_t n) { return pg_calloc((size_t)n, sizeof(float)); }

/* Element i of [C,spatial] as it lies channels-last. */
static int64_t last(int64_t i, int64_t c, int64_t spatial) { return i % spatial * c + i / spatial; }

static void open(bench *b, const conv_case *k, bool signed_input, bool with_bias) {
    memset(b, 0, sizeof *b);
    b->k = *k;
    int64_t in = k->in_h * k->in_w, out = conv_out_h(k) * conv_out_w(k);
    b->x_n = k->in_c * in;
    b->z_n = k->out_c * out;
    b->w_n = k->out_c * k->in_c / k->groups * k->k_h * k->k_w;
    b->linear = (pg_linear){.geometry = {.groups = k->groups,
                                         .in_c = k->in_c,
                                         .in_h = k->in_h,
                                         .in_w = k->in_w,
                                         .out_c = k->out_c,
                                         .out_h = conv_out_h(k),
                                         .out_w = conv_out_w(k),
                                         .k_h = k->k_h,
                                         .k_w = k->k_w,
                                         .dnnl = {.strides = {k->stride_h, k->stride_w},
                                                  .dilates = {k->dilation_h - 1, k->dilation_w - 1},
                                                  .pad_begin = {k->top, k->left},
                                                  .pad_end = {k->bottom, k->right}}}};
    b->linear.weights = floats(b->w_n);
    b->linear.bias = with_bias ? floats(k->out_c) : NULL;
    b->x = floats(b->x_n), b->y = floats(b->z_n), b->r = floats(b->z_n);
    b->dx = doubles(b->x_n), b->dw = doubles(b->w_n), b->db = doubles(k->out_c);
    b->dr = doubles(b->z_n), b->z = doubles(b->z_n), b->r_in = doubles(b->x_n);
    b->low = floats(k->in_c), b->high = floats(k->in_c);
    for (int64_t i = 0; i < b->w_n; i++)
        b->linear.weights[i] = (float)(b->dw[i] = any(-1, 1));
    for (int64_t i = 0; with_bias && i < k->out_c; i++)
        b->linear.bias[i] = (float)(b->db[i] = any(-.5, .5));
    for (int64_t i = 0; i < b->x_n; i++) {
        b->dx[i] = any(-1, 1);
        if (!signed_input && b->dx[i] < 0)
            b->dx[i] = 0; /* as behind a ReLU: half of it */
        b->x[last(i, k->in_c, in)] = (float)b->dx[i];
    }
    for (int64_t c = 0; c < k->in_c; c++) {
        b->low[c] = (float)any(-2.2, -1.1);
        b->high[c] = (float)any(1.1, 2.2);
    }
}

static void close_bench(bench *b) {
    pg_linear_free(&b->linear);
    void *all[] = {b->x, b->y, b->r, b->dx, b->dw, b->db, b->dr, b->z, b->r_in, b->low, b->high};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        pg_free(all[i]);
}

/* ---- the definition ---- */

typedef struct form { /* one of zennit's products: an input, weights and a bias */
    double *x, *w, *b;
} form;

static void walk_forward(bench *b, const form *f, double *out) {
    int64_t spatial = conv_out_h(&b->k) * conv_out_w(&b->k);
    conv_arrays a = {.x = f->x, .w = f->w, .out = out};
    for (int64_t i = 0; i < b->z_n; i++)
        out[i] += f->b[i / spatial];
    conv_walk(&b->k, conv_visit_forward, &a);
}

static void visit_back(void *user, int64_t out, int64_t weight, int64_t in) {
    conv_arrays *a = user;
    a->out[in] += a->w[weight] * a->g[out];
}

static double stab(double d) { return d < 0 ? d - 1e-6 : d + 1e-6; }

static double clamp_pos(double v) { return v > 0 ? v : 0; }
static double clamp_neg(double v) { return v < 0 ? v : 0; }
static double same(double v) { return v; }
static double zero(double v) { return 0 * v; }
static double one(double v) { return 0 * v + 1; }
static double square(double v) { return v * v; }
static double gamma_high(double v) { return v + .25 * clamp_pos(v); }
static double gamma_low(double v) { return v + .25 * clamp_neg(v); }

typedef double map(double);

static form make_form(bench *b, map *x, map *w, map *bias) {
    form f = {doubles(b->x_n), doubles(b->w_n), doubles(b->k.out_c)};
    for (int64_t i = 0; i < b->x_n; i++)
        f.x[i] = x(b->dx[i]);
    for (int64_t i = 0; i < b->w_n; i++)
        f.w[i] = w(b->dw[i]);
    for (int64_t i = 0; i < b->k.out_c; i++)
        f.b[i] = bias(b->db[i]);
    return f;
}

/* `parts` products share a denominator, their sum; `sign`: where z has it. Adds `factor` times what
 * they hand out to r_in and forgets them. Called with `lay` first: takes relevance off outputs with
 * ill-conditioned denominators instead. */
static void group(bench *b, form *f, int parts, double factor, int sign, bool lay) {
    double *d = doubles(b->z_n), *size = doubles(b->z_n), *s = doubles(b->z_n);
    for (int p = 0; p < parts; p++) {
        walk_forward(b, &f[p], d);
        form abs = {doubles(b->x_n), doubles(b->w_n), doubles(b->k.out_c)};
        for (int64_t i = 0; i < b->x_n; i++)
            abs.x[i] = fabs(f[p].x[i]);
        for (int64_t i = 0; i < b->w_n; i++)
            abs.w[i] = fabs(f[p].w[i]);
        for (int64_t i = 0; i < b->k.out_c; i++)
            abs.b[i] = fabs(f[p].b[i]);
        walk_forward(b, &abs, size);
        pg_free(abs.x), pg_free(abs.w), pg_free(abs.b);
    }
    for (int64_t i = 0; i < b->z_n; i++) {
        if (lay && fabs(d[i]) < .05 * size[i])
            b->dr[i] = 0;
        bool in = sign == 0 || (sign > 0 ? b->z[i] > 0 : b->z[i] < 0);
        s[i] = in ? factor * b->dr[i] / stab(d[i]) : 0;
    }
    for (int p = 0; p < parts && !lay; p++) {
        double *back = doubles(b->x_n);
        conv_arrays a = {.w = f[p].w, .g = s, .out = back};
        conv_walk(&b->k, visit_back, &a);
        for (int64_t i = 0; i < b->x_n; i++)
            b->r_in[i] += f[p].x[i] * back[i];
        pg_free(back);
    }
    for (int p = 0; p < parts; p++)
        pg_free(f[p].x), pg_free(f[p].w), pg_free(f[p].b);
    pg_free(d), pg_free(size), pg_free(s);
}

#define FORM(x, w, bias) make_form(b, x, w, bias)

/* ZBox subtracts: x W - low W+ - high W-. */
static form box(bench *b, const float *bound, map *w) {
    form f = make_form(b, zero, w, zero);
    for (int64_t i = 0; i < b->x_n; i++)
        f.x[i] = -(double)bound[i / (b->k.in_h * b->k.in_w)];
    return f;
}

static void rule(bench *b, pg_lrp_rule which, bool lay) {
    switch (which) {
    case PG_LRP_EPSILON: {
        form f = make_form(b, same, same, same);
        group(b, &f, 1, 1, 0, lay);
        return;
    }
    case PG_LRP_ZPLUS: {
        form f[] = {FORM(clamp_pos, clamp_pos, clamp_pos), FORM(clamp_neg, clamp_neg, zero)};
        group(b, f, 2, 1, 0, lay);
        return;
    }
    case PG_LRP_ALPHA_BETA: {
        form f[] = {FORM(clamp_pos, clamp_pos, clamp_pos), FORM(clamp_neg, clamp_neg, zero)};
        group(b, f, 2, 2, 0, lay);
        form g[] = {FORM(clamp_pos, clamp_neg, clamp_neg), FORM(clamp_neg, clamp_pos, zero)};
        group(b, g, 2, -1, 0, lay);
        return;
    }
    case PG_LRP_GAMMA: {
        form f[] = {FORM(clamp_pos, gamma_high, gamma_high), FORM(clamp_neg, gamma_low, zero)};
        group(b, f, 2, 1, 1, lay);
        form g[] = {FORM(clamp_pos, gamma_low, gamma_low), FORM(clamp_neg, gamma_high, zero)};
        group(b, g, 2, 1, -1, lay);
        return;
    }
    case PG_LRP_ZBOX: {
        form f[] = {FORM(same, same, zero), box(b, b->low, clamp_pos), box(b, b->high, clamp_neg)};
        group(b, f, 3, 1, 0, lay);
        return;
    }
    case PG_LRP_FLAT: {
        form f = make_form(b, one, one, zero);
        group(b, &f, 1, 1, 0, lay);
        return;
    }
    case PG_LRP_WSQUARE: {
        form f = make_form(b, one, square, square);
        group(b, &f, 1, 1, 0, lay);
        return;
    }
    }
}

/* ---- the comparison ---- */

/* Relevance of the input, relative error by L2; its bound is the float32 sums' rounding, amplified
 * by at most 20 where relevance lies. */
static double error_of(bench *b, const pg_relevance_spec *spec) {
    int64_t in = b->k.in_h * b->k.in_w, out = conv_out_h(&b->k) * conv_out_w(&b->k);
    form plain = make_form(b, same, same, same);
    walk_forward(b, &plain, b->z);
    pg_free(plain.x), pg_free(plain.w), pg_free(plain.b);
    for (int64_t i = 0; i < b->z_n; i++)
        b->dr[i] = spec->positive_only && b->z[i] <= 0 ? 0 : any(-1, 1);
    rule(b, spec->rule, true);
    rule(b, spec->rule, false);
    for (int64_t i = 0; i < b->z_n; i++) {
        b->r[last(i, b->k.out_c, out)] = (float)b->dr[i];
        double y = (spec->positive_only || spec->rectified) && b->z[i] < 0 ? 0 : b->z[i];
        b->y[last(i, b->k.out_c, out)] = (float)y;
    }
    pg_relevance relevance = {0};
    pg_relevance_run run = {0};
    pg_diag diag = {""};
    cr_assert_eq(pg_relevance_make(&b->linear, spec, &relevance, &diag), PG_OK, "%s", diag.text);
    float *r_in = floats(b->x_n);
    pg_relevance_io io = {b->x, b->y, b->r, r_in, pg_calloc(1, relevance.scratch_bytes)};
    cr_assert_eq(pg_relevance_bind(&relevance, &io, &run, &diag), PG_OK, "%s", diag.text);
    double error = 0, norm = 0;
    for (int turn = 0; turn < 2; turn++) { /* the second finds the scratch used */
        uint64_t allocations = pg_mem_get_stats().allocations;
        cr_assert_eq(pg_relevance_execute(&relevance, &run, &io), PG_OK);
        cr_assert_eq(pg_mem_get_stats().allocations, allocations);
    }
    for (int64_t i = 0; i < b->x_n; i++) {
        double e = (double)r_in[last(i, b->k.in_c, in)] - b->r_in[i];
        error += e * e;
        norm += b->r_in[i] * b->r_in[i];
    }
    pg_relevance_unbind(&run);
    pg_relevance_free(&relevance);
    pg_free(r_in);
    pg_free(io.scratch);
    return norm > 0 ? sqrt(error / norm) : sqrt(error);
}

typedef enum output { Z, RECTIFIED, POSITIVE_ONLY } output;

static void check(pg_lrp_rule which, bool signed_input, output y) {
    uint64_t state = 5;
    for (int64_t i = 0; i < CONV_GRID + 20; i++) {
        conv_case k = i < CONV_GRID ? conv_grid[i] : conv_any(&state);
        bench b;
        seed = 1000 + (uint64_t)i;
        open(&b, &k, signed_input, i % 3 != 0);
        pg_relevance_spec spec = {.rule = which,
                                  .epsilon = 1e-6f,
                                  .gamma = .25f,
                                  .signed_input = signed_input,
                                  .positive_only = y == POSITIVE_ONLY,
                                  .rectified = y == RECTIFIED,
                                  .low = b.low,
                                  .high = b.high};
        double error = error_of(&b, &spec);
        cr_expect_lt(error, 2e-5, "shape %lld: relative error %g", (long long)i, error);
        close_bench(&b);
    }
}

Test(relevance, epsilon) {
    check(PG_LRP_EPSILON, false, Z);
    check(PG_LRP_EPSILON, true, Z);
}
Test(relevance, zplus) {
    check(PG_LRP_ZPLUS, false, Z);
    check(PG_LRP_ZPLUS, true, Z);
}
Test(relevance, alpha_beta) {
    check(PG_LRP_ALPHA_BETA, false, Z);
    check(PG_LRP_ALPHA_BETA, true, Z);
}
Test(relevance, gamma) {
    check(PG_LRP_GAMMA, false, Z);
    check(PG_LRP_GAMMA, true, Z);
    check(PG_LRP_GAMMA, true, RECTIFIED);
    check(PG_LRP_GAMMA, false, POSITIVE_ONLY);
    check(PG_LRP_GAMMA, true, POSITIVE_ONLY);
}
Test(relevance, zbox) { check(PG_LRP_ZBOX, true, Z); }
Test(relevance, flat) { check(PG_LRP_FLAT, true, Z); }
Test(relevance, wsquare) { check(PG_LRP_WSQUARE, true, Z); }

/* A share divides by the stabilised value, also where that is 0 or tiny, and on either side. */
Test(relevance, share) {
    enum { N = 40001 };
    float *r = floats(N), *z = floats(N), *s = floats(N), *x = floats(N);
    static const float edges[] = {0, -0.0f, 1e-7f, -1e-7f, 1e-6f, -1e-6f, 3, -3};
    for (int64_t i = 0; i < N; i++) {
        r[i] = (float)any(-1, 1), x[i] = (float)any(-1, 1);
        z[i] = i % 5 ? (float)any(-2, 2) : edges[i / 5 % 8];
    }
    pg_relevance_share(N, 2, 1e-6f, r, z, s);
    for (int64_t i = 0; i < N; i++) {
        double d = 2 * (double)r[i] / stab((double)z[i]);
        cr_assert(fabs((double)s[i] - d) <= 3e-7 * fabs(d), "%lld: %g, not %g", (long long)i,
                  (double)s[i], d);
    }
    memcpy(s, r, N * sizeof *s);
    pg_relevance_weigh(N, x, s);
    for (int64_t i = 0; i < N; i++)
        cr_assert_eq(s[i], r[i] * x[i]);
    pg_free(r), pg_free(z), pg_free(s), pg_free(x);
}

/* An addition's parts, one of them in the place of r, one that nobody asks for; a tail behind whole
 * pieces. */
Test(relevance, divide) {
    enum { N = 3 * 16384 + 515 };
    float *r = floats(N), *z = floats(N), *a = floats(N), *b = floats(N), *r_a = floats(N);
    double *s = doubles(N);
    for (int64_t i = 0; i < N; i++) {
        a[i] = (float)any(-1, 1), b[i] = i % 7 == 0 ? -a[i] : (float)any(-1, 1);
        r[i] = (float)any(-1, 1), z[i] = a[i] + b[i];
        s[i] = (double)(r[i] / (z[i] < 0 ? z[i] - 1e-3f : z[i] + 1e-3f));
    }
    const float *const parts[] = {a, b};
    pg_relevance_divide(N, 1e-3f, r, parts, (float *const[]){r_a, NULL});
    for (int64_t i = 0; i < N; i++)
        cr_assert_float_eq(r_a[i], s[i] * (double)a[i], 1e-6 * fabs(s[i]));
    pg_relevance_divide(N, 1e-3f, r, parts, (float *const[]){r_a, r});
    for (int64_t i = 0; i < N; i++) {
        cr_assert_float_eq(r_a[i], s[i] * (double)a[i], 1e-6 * fabs(s[i]));
        cr_assert_float_eq(r[i], s[i] * (double)b[i], 1e-6 * fabs(s[i]));
    }
    pg_free(r), pg_free(z), pg_free(a), pg_free(b), pg_free(r_a), pg_free(s);
}

Test(relevance, out_of_memory) {
    bench b;
    seed = 1;
    open(&b, &conv_grid[0], true, true);
    pg_relevance_spec spec = {.rule = PG_LRP_ALPHA_BETA, .signed_input = true};
    for (int64_t after = 0; after < 6; after++) {
        pg_relevance relevance = {0};
        uint64_t live = pg_mem_get_stats().live_blocks;
        pg_mem_fail(after, -1);
        pg_err err = pg_relevance_make(&b.linear, &spec, &relevance, NULL);
        pg_mem_fail(0, 0);
        cr_assert_eq(err, PG_ENOMEM);
        cr_assert_eq(pg_mem_get_stats().live_blocks, live);
    }
    close_bench(&b);
}
