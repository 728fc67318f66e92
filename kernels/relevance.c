/* The rules of relevance.h. A rule is a row of numbers: by what the positive and the negative
 * elements of W and b are multiplied in each half of W' and in b'. The multiplications are oneDNN's
 * (conv_path.h); the rest is one pass over the output for s and one over the input for R_in. */
#include "kernels/relevance.h"

#include <math.h>
#include <string.h>

#include "kernels/channel_ops.h"
#include "kernels/conv_tune.h"
#include "kernels/mem.h"
#include "kernels/simd.h"
#include "kernels/window.h"

void pg_linear_free(pg_linear *linear) {
    pg_free(linear->weights);
    pg_free(linear->bias);
    memset(linear, 0, sizeof *linear);
}

/* ---- the table ---- */

/* f(w) = positive * w where w > 0, negative * w elsewhere. */
typedef struct slopes {
    float positive, negative;
} slopes;

typedef struct term_row {
    slopes weights, weights_low; /* the two halves of W'; ZBox: see weight_of */
    slopes bias;
    float factor;
    int sign;
} term_row;

typedef struct rule_row {
    int terms;
    term_row term[PG_RELEVANCE_TERMS];
} rule_row;

static const slopes all = {1, 1}, positive = {1, 0}, negative = {0, 1}, none = {0, 0};

static rule_row row_of(const pg_relevance_spec *spec) {
    const slopes high = {1 + spec->gamma, 1}, low = {1, 1 + spec->gamma};
    switch (spec->rule) {
    case PG_LRP_EPSILON:
        return (rule_row){1, {{all, none, all, 1, 0}}};
    case PG_LRP_ZPLUS:
        return (rule_row){1, {{positive, negative, positive, 1, 0}}};
    case PG_LRP_ALPHA_BETA:
        return (rule_row){
            2, {{positive, negative, positive, 2, 0}, {negative, positive, negative, -1, 0}}};
    case PG_LRP_GAMMA:
        return (rule_row){spec->positive_only ? 1 : 2,
                          {{high, low, high, 1, 1}, {low, high, low, 1, -1}}};
    case PG_LRP_ZBOX:
        return (rule_row){1, {{all, all, none, 1, 0}}};
    case PG_LRP_WSQUARE:
        return (rule_row){1, {{all, none, all, 1, 0}}};
    case PG_LRP_FLAT:
        break;
    }
    return (rule_row){0, {{none, none, none, 0, 0}}};
}

static pg_relevance_input input_of(const pg_relevance_spec *spec) {
    switch (spec->rule) {
    case PG_LRP_ZPLUS:
    case PG_LRP_ALPHA_BETA:
    case PG_LRP_GAMMA:
        return spec->signed_input ? PG_RELEVANCE_SPLIT : PG_RELEVANCE_X;
    case PG_LRP_ZBOX:
        return PG_RELEVANCE_BOX;
    case PG_LRP_WSQUARE:
    case PG_LRP_FLAT:
        return PG_RELEVANCE_ONES;
    case PG_LRP_EPSILON:
        break;
    }
    return PG_RELEVANCE_X;
}

static float apply(slopes f, float v) { return v > 0 ? f.positive * v : f.negative * v; }

/* ---- W' and b' ---- */

/* Rows of one group of x' hold its channels twice, x+ before x- (x before -1). */
static void make_weights(const pg_linear *linear, const pg_relevance_spec *spec,
                         const term_row *row, bool two, float *out) {
    const pg_conv_geometry *g = &linear->geometry;
    int64_t group = g->in_c / g->groups, taps = g->k_h * g->k_w, half = group * taps;
    for (int64_t o = 0; o < g->out_c; o++) {
        const float *w = linear->weights + o * half;
        float *to = out + o * half * (two ? 2 : 1);
        int64_t first = o / (g->out_c / g->groups) * group; /* input channel */
        for (int64_t i = 0; i < half; i++) {
            float v = spec->rule == PG_LRP_WSQUARE ? w[i] * w[i] : w[i];
            int64_t c = first + i / taps;
            to[i] = apply(row->weights, v);
            if (two && spec->rule == PG_LRP_ZBOX)
                to[half + i] = v * (v > 0 ? spec->low[c] : spec->high[c]);
            else if (two)
                to[half + i] = apply(row->weights_low, v);
        }
    }
}

static void make_bias(const pg_linear *linear, const pg_relevance_spec *spec, const term_row *row,
                      float *out) {
    for (int64_t o = 0; o < linear->geometry.out_c; o++) {
        float b = linear->bias[o];
        out[o] = spec->rule == PG_LRP_WSQUARE ? b * b : apply(row->bias, b);
    }
}

/* W' x' + b' is never negative where it is asked for: a ReLU does not change it. */
static bool is_positive(const pg_relevance_spec *spec, const term_row *row) {
    bool split =
        spec->rule == PG_LRP_ZPLUS || spec->rule == PG_LRP_ALPHA_BETA || spec->rule == PG_LRP_GAMMA;
    return split && row->weights.positive > row->weights.negative;
}

/* Half of x' is 0 where it is x+ and x-, and about that behind a ReLU; and so is s, where relevance
 * came to a ReLU. How many there are in a sum of two branches nobody knows; with few of them 1x1
 * convolutions lose little. */
static void expect_zeros(const pg_relevance_spec *spec, const pg_relevance *of,
                         pg_conv_path_spec *path) {
    const pg_conv_geometry *g = path->geometry;
    bool rectified = of->input == PG_RELEVANCE_X && !spec->signed_input;
    path->sparse =
        (g->k_h == 1 && g->k_w == 1) ||
        (path->backward ? spec->positive_only : rectified || of->input == PG_RELEVANCE_SPLIT);
}

/* With the ReLU of the layer itself, which costs nothing, it is the tuner's same question. Exact: s is
 * a million times its neighbours where z is 0, and what of that Winograd's rounding spread to them
 * would not be multiplied by 0. */
static pg_err make_term(const pg_linear *linear, const pg_relevance_spec *spec, const term_row *row,
                        const pg_relevance *of, pg_relevance_term *term, pg_diag *diag) {
    pg_conv_geometry g = linear->geometry;
    bool two = of->wide > g.in_c;
    size_t row_size = (size_t)(of->wide / g.groups * g.k_h * g.k_w);
    float *weights = pg_malloc((size_t)g.out_c * row_size * sizeof *weights);
    float *bias = linear->bias ? pg_malloc((size_t)g.out_c * sizeof *bias) : NULL;
    g.in_c = of->wide;
    term->factor = row->factor;
    term->sign = row->sign;
    term->at_zero = row->sign < 0 && spec->rectified;
    pg_err err = weights && (bias || !linear->bias)
                     ? PG_OK
                     : pg_fail(diag, PG_ENOMEM, "no memory for the weights of a relevance rule");
    if (!err) {
        make_weights(linear, spec, row, two, weights);
        if (bias)
            make_bias(linear, spec, row, bias);
        pg_conv_path_spec path = {.geometry = &g,
                                  .weights = weights,
                                  .bias = bias,
                                  .act = spec->rectified && is_positive(spec, row) ? PG_ACT_RELU
                                                                                   : PG_ACT_NONE,
                                  .lo = 0,
                                  .hi = INFINITY,
                                  .library_only = linear->library_only,
                                  .exact = true};
        expect_zeros(spec, of, &path);
        err = pg_conv_tuner_make(spec->tuner, &path, &term->forward, diag);
        path.backward = true;
        expect_zeros(spec, of, &path);
        if (!err)
            err = pg_conv_tuner_make(spec->tuner, &path, &term->backward, diag);
    }
    pg_free(weights);
    pg_free(bias);
    return err;
}

/* ---- make ---- */

static size_t take(size_t *end, int64_t floats) {
    size_t start = *end, bytes = (size_t)floats * sizeof(float);
    *end += (bytes + PG_MEM_ALIGN - 1) / PG_MEM_ALIGN * PG_MEM_ALIGN;
    return start;
}

/* R_in can be made in place of W'^T s where that is all of it. */
static bool in_place(const pg_relevance *r) { return r->terms == 1 && r->wide == r->geometry.in_c; }

static void plan_scratch(pg_relevance *r) {
    const pg_conv_geometry *g = &r->geometry;
    int64_t in = g->in_h * g->in_w, out = g->out_h * g->out_w;
    size_t end = 0, path = 0;
    if (r->terms == 0) {
        r->share = take(&end, (in + g->in_w) * g->groups);
        r->scratch_bytes = end;
        return;
    }
    if (r->input != PG_RELEVANCE_X)
        r->x = take(&end, in * r->wide);
    r->share = take(&end, out * g->out_c);
    if (!in_place(r))
        r->d_x = take(&end, in * r->wide);
    r->path = end;
    for (int t = 0; t < r->terms; t++) {
        size_t one = r->term[t].forward.scratch_bytes, other = r->term[t].backward.scratch_bytes;
        path = one > path ? one : path;
        path = other > path ? other : path;
    }
    r->scratch_bytes = end + path;
}

pg_err pg_relevance_make(const pg_linear *linear, const pg_relevance_spec *spec, pg_relevance *out,
                         pg_diag *diag) {
    rule_row rule = row_of(spec);
    *out = (pg_relevance){.rule = spec->rule, .input = input_of(spec), .terms = rule.terms};
    out->geometry = linear->geometry;
    out->stabiliser = spec->rule == PG_LRP_EPSILON ? spec->epsilon : PG_LRP_STABILISER;
    bool two = out->input == PG_RELEVANCE_SPLIT || out->input == PG_RELEVANCE_BOX;
    out->wide = linear->geometry.in_c * (two ? 2 : 1);
    pg_err err = PG_OK;
    for (int t = 0; !err && t < out->terms; t++) {
        err = make_term(linear, spec, &rule.term[t], out, &out->term[t], diag);
        out->weight_bytes += out->term[t].forward.weight_bytes + out->term[t].backward.weight_bytes;
    }
    if (err)
        pg_relevance_free(out);
    else
        plan_scratch(out);
    return err;
}

void pg_relevance_free(pg_relevance *relevance) {
    for (int t = 0; t < PG_RELEVANCE_TERMS; t++) {
        pg_conv_path_free(&relevance->term[t].forward);
        pg_conv_path_free(&relevance->term[t].backward);
    }
    memset(relevance, 0, sizeof *relevance);
}

/* ---- bind ---- */

static float *at(const pg_relevance_io *io, size_t offset) {
    return (float *)(void *)(io->scratch + offset);
}

pg_err pg_relevance_bind(const pg_relevance *relevance, const pg_relevance_io *io,
                         pg_relevance_run *run, pg_diag *diag) {
    const float *x = relevance->input == PG_RELEVANCE_X ? io->x : at(io, relevance->x);
    float *d_x = in_place(relevance) ? io->r_in : at(io, relevance->d_x);
    float *share = at(io, relevance->share);
    void *path = io->scratch + relevance->path;
    pg_err err = PG_OK;
    for (int t = 0; !err && t < relevance->terms; t++) {
        const pg_relevance_term *term = &relevance->term[t];
        err = pg_conv_run_make(&term->forward, x, share, path, &run->forward[t], diag);
        if (!err)
            err = pg_conv_run_make(&term->backward, share, d_x, path, &run->backward[t], diag);
    }
    if (err)
        pg_relevance_unbind(run);
    return err;
}

void pg_relevance_unbind(pg_relevance_run *run) {
    for (int t = 0; t < PG_RELEVANCE_TERMS; t++) {
        pg_conv_run_free(&run->forward[t]);
        pg_conv_run_free(&run->backward[t]);
    }
    memset(run, 0, sizeof *run);
}

/* ---- loops: a serial one over a range, compiled per instruction set, dealt to the threads ---- */

enum { RANGE = 16384 }; /* elements; below it a second thread costs more than it brings */

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

static inline float stabilised(float z, float epsilon) { return z < 0 ? z - epsilon : z + epsilon; }

PG_CLONES static void share_range(int64_t n, float factor, float epsilon, const float *r,
                                  const float *z, float *s) {
    for (int64_t i = 0; i < n; i++)
        s[i] = factor * r[i] / stabilised(z[i], epsilon);
}

/* The same where y has the sign, or `at_zero` is 0. */
PG_CLONES static void share_signed_range(int64_t n, float sign, bool at_zero, float epsilon,
                                         const float *r, const float *y, const float *z, float *s) {
    for (int64_t i = 0; i < n; i++)
        s[i] = sign * y[i] > 0 || (at_zero && y[i] == 0) ? r[i] / stabilised(z[i], epsilon) : 0;
}

PG_CLONES static void weigh_range(int64_t n, const float *x, float *r) {
    for (int64_t i = 0; i < n; i++)
        r[i] *= x[i];
}

/* r = x d, or r += x d. */
PG_CLONES static void product_range(int64_t n, bool add, const float *x, const float *d,
                                    float *restrict r) {
    if (add)
        for (int64_t i = 0; i < n; i++)
            r[i] += x[i] * d[i];
    else
        for (int64_t i = 0; i < n; i++)
            r[i] = x[i] * d[i];
}

PG_CLONES static void split_row(int64_t n, const float *x, float *high, float *low) {
    for (int64_t i = 0; i < n; i++) {
        high[i] = x[i] > 0 ? x[i] : 0;
        low[i] = x[i] > 0 ? 0 : x[i];
    }
}

void pg_relevance_share(int64_t count, float factor, float stabiliser, const float *r,
                        const float *z, float *s) {
#pragma omp parallel for schedule(static) if (count > RANGE)
    for (int64_t i = 0; i < count; i += RANGE)
        share_range(smaller(RANGE, count - i), factor, stabiliser, r + i, z + i, s + i);
}

/* s of an addition. */
PG_CLONES static void share_sum_range(int64_t n, float epsilon, const float *r, const float *a,
                                      const float *b, float *s) {
    for (int64_t i = 0; i < n; i++)
        s[i] = r[i] / stabilised(a[i] + b[i], epsilon);
}

/* In pieces that stay in the first cache. */
static void divide_range(int64_t n, float epsilon, const float *r, const float *const part[2],
                         float *const r_part[2], int64_t at) {
    enum { PIECE = 512 };
    float s[PIECE];
    for (int64_t end = at + n; at < end; at += PIECE) {
        int64_t m = smaller(PIECE, end - at);
        share_sum_range(m, epsilon, r + at, part[0] + at, part[1] + at, s);
        for (int k = 0; k < 2; k++)
            if (r_part[k])
                product_range(m, false, part[k] + at, s, r_part[k] + at);
    }
}

void pg_relevance_divide(int64_t count, float stabiliser, const float *r,
                         const float *const part[2], float *const r_part[2]) {
#pragma omp parallel for schedule(static) if (count > RANGE)
    for (int64_t i = 0; i < count; i += RANGE)
        divide_range(smaller(RANGE, count - i), stabiliser, r, part, r_part, i);
}

void pg_relevance_weigh(int64_t count, const float *x, float *r) {
#pragma omp parallel for schedule(static) if (count > RANGE)
    for (int64_t i = 0; i < count; i += RANGE)
        weigh_range(smaller(RANGE, count - i), x + i, r + i);
}

/* ---- execute ---- */

/* Rows of one position and group: x' [two, group] from x [group]. */
static void make_x(const pg_relevance *r, const pg_relevance_io *io) {
    const pg_conv_geometry *g = &r->geometry;
    int64_t rows = g->in_h * g->in_w * g->groups, group = g->in_c / g->groups;
    float *to = at(io, r->x);
#pragma omp parallel for schedule(static) if (rows * group > RANGE)
    for (int64_t i = 0; i < rows; i++) {
        const float *x = io->x + i * group;
        if (r->input == PG_RELEVANCE_SPLIT) {
            split_row(group, x, to + 2 * i * group, to + (2 * i + 1) * group);
        } else if (r->input == PG_RELEVANCE_BOX) {
            memcpy(to + 2 * i * group, x, (size_t)group * sizeof *x);
            for (int64_t c = 0; c < group; c++)
                to[(2 * i + 1) * group + c] = -1;
        } else {
            for (int64_t c = 0; c < group; c++)
                to[i * group + c] = 1;
        }
    }
}

static void share(const pg_relevance *r, const pg_relevance_term *term, const pg_relevance_io *io) {
    int64_t count = r->geometry.out_h * r->geometry.out_w * r->geometry.out_c;
    float *s = at(io, r->share);
    if (term->sign == 0) {
        pg_relevance_share(count, term->factor, r->stabiliser, io->r, s, s);
        return;
    }
#pragma omp parallel for schedule(static) if (count > RANGE)
    for (int64_t i = 0; i < count; i += RANGE)
        share_signed_range(smaller(RANGE, count - i), (float)term->sign, term->at_zero,
                           r->stabiliser, io->r + i, io->y + i, s + i, s + i);
}

/* R_in = x' * W'^T s, or += for all terms but the first. */
static void collect(const pg_relevance *r, const pg_relevance_io *io, bool add) {
    const pg_conv_geometry *g = &r->geometry;
    int64_t count = g->in_h * g->in_w * g->in_c;
    if (in_place(r)) {
        if (r->input == PG_RELEVANCE_X)
            pg_relevance_weigh(count, io->x, io->r_in);
        return;
    }
    const float *x = r->input == PG_RELEVANCE_X ? io->x : at(io, r->x), *d = at(io, r->d_x);
    int64_t group = g->in_c / g->groups, rows = g->in_h * g->in_w * g->groups;
    int64_t halves = r->wide / g->in_c;
#pragma omp parallel for schedule(static) if (count > RANGE)
    for (int64_t i = 0; i < rows; i++)
        for (int64_t h = 0; h < halves; h++)
            product_range(group, add || h > 0, x + (halves * i + h) * group,
                          d + (halves * i + h) * group, io->r_in + i * group);
}

static pg_window window_of(const pg_conv_geometry *g, int axis) {
    return (pg_window){.in = axis == 0 ? g->in_h : g->in_w,
                       .out = axis == 0 ? g->out_h : g->out_w,
                       .kernel = axis == 0 ? g->k_h : g->k_w,
                       .stride = g->dnnl.strides[axis],
                       .dilation = g->dnnl.dilates[axis] + 1,
                       .begin = g->dnnl.pad_begin[axis]};
}

/* Eight partial sums: what lets a compiler vectorise a sum whose order it may not change. */
PG_CLONES static double total_of(int64_t n, const float *r) {
    double part[8] = {0};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (int k = 0; k < 8; k++)
            part[k] += (double)r[i + k];
    for (int k = 0; i < n; i++, k++)
        part[k] += (double)r[i];
    return ((part[0] + part[4]) + (part[1] + part[5])) +
           ((part[2] + part[6]) + (part[3] + part[7]));
}

/* What one line of windows, each of which sees `rows` lines of the input, hands to each of these
 * lines: a window's relevance goes in equal shares to all places it sees. */
static void spread(const pg_relevance *r, const float *r_out, int64_t rows, float *line) {
    const pg_conv_geometry *g = &r->geometry;
    const pg_window w = window_of(g, 1);
    int64_t channels = g->out_c / g->groups;
    memset(line, 0, (size_t)(g->in_w * g->groups) * sizeof *line);
    for (int64_t ox = 0; ox < g->out_w; ox++) {
        int64_t first, last;
        pg_window_inside(&w, ox, &first, &last);
        double seen = (double)(rows * (last - first) * (g->in_c / g->groups));
        for (int64_t k = 0; k < g->groups; k++) {
            double total = total_of(channels, r_out + ox * g->out_c + k * channels);
            float each = (float)(total / (seen + (double)r->stabiliser));
            for (int64_t kx = first; kx < last; kx++)
                line[pg_window_at(&w, ox, kx) * g->groups + k] += each;
        }
    }
}

/* All channels of a group get the same. */
static void flat(const pg_relevance *r, const pg_relevance_io *io) {
    const pg_conv_geometry *g = &r->geometry;
    const pg_window w = window_of(g, 0);
    int64_t width = g->in_w * g->groups, rows = g->in_h * width, channels = g->in_c / g->groups;
    float *sums = at(io, r->share), *line = sums + rows; /* [in_h, in_w, groups], [in_w, groups] */
    memset(sums, 0, (size_t)rows * sizeof *sums);
    for (int64_t oy = 0; oy < g->out_h; oy++) {
        int64_t first, last;
        pg_window_inside(&w, oy, &first, &last);
        spread(r, io->r + oy * g->out_w * g->out_c, last - first, line);
        for (int64_t ky = first; ky < last; ky++)
            pg_channel_add(width, line, sums + pg_window_at(&w, oy, ky) * width);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < channels; c++)
            io->r_in[i * channels + c] = sums[i];
}

pg_err pg_relevance_execute(const pg_relevance *relevance, const pg_relevance_run *run,
                            const pg_relevance_io *io) {
    if (relevance->terms == 0) {
        flat(relevance, io);
        return PG_OK;
    }
    if (relevance->input != PG_RELEVANCE_X)
        make_x(relevance, io);
    pg_err err = PG_OK;
    for (int t = 0; !err && t < relevance->terms; t++) {
        const pg_relevance_term *term = &relevance->term[t];
        err = pg_conv_run_execute(&term->forward, &run->forward[t]);
        if (err)
            return err;
        share(relevance, term, io);
        err = pg_conv_run_execute(&term->backward, &run->backward[t]);
        if (!err)
            collect(relevance, io, t > 0);
    }
    return err;
}
