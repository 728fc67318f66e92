/* Activations that exporters write as products.
 *
 * A product is taken apart into its run-time factors and one scalar, through every multiplication,
 * division by a constant and small power on the way, so that the order in which an exporter wrote
 * them does not matter:
 *
 *   HardSigmoid   clip(x + 3, 0, 6)                                       times 1/6
 *   Swish         x  sigmoid(x)                                           times 1
 *   HardSwish     x  hardsigmoid(x)                                       times 1
 *                 x  clip(x + 3, 0, 6)                                    times 1/6
 *   Mish          x  tanh(softplus(x))                                    times 1
 *   Gelu          x  (1 + erf(x / sqrt 2))                                times 1/2
 *   Gelu, tanh    x  (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))            times 1/2
 *                 x  (1 + tanh(sqrt(2/pi) x (1 + 0.044715 x^2)))          times 1/2
 */
#include <math.h>
#include <string.h>

#include "pipeline/optimise_impl.h"

enum { FACTORS = 3, DEPTH = 8 };

typedef struct product {
    int factors[FACTORS]; /* values */
    int n;
    double scale;
} product;

static bool multiply_by(const pg_rewriter *r, int value, int depth, product *p);

/* Takes `node` apart, times what is in p already. False, with p spoilt: it is no product, or one of
 * too many factors. */
static bool multiply_by_node(const pg_rewriter *r, const pg_node *node, int depth, product *p) {
    double c;
    bool mul = pg_node_is(node, "Mul");
    if (mul && node->op->n_src == 2)
        return multiply_by(r, node->src[0], depth, p) && multiply_by(r, node->src[1], depth, p);
    if (node->op->n_src != 1)
        return false;
    if (pg_node_is(node, "Pow")) {
        bool small = pg_scalar_input(node, 1, &c) && (c == 2 || c == 3);
        for (int k = 0; small && k < (int)c; k++)
            small = multiply_by(r, node->src[0], 0, p);
        return small;
    }
    if (pg_scalar_input(node, 1, &c) || (mul && pg_scalar_input(node, 0, &c))) {
        p->scale *= mul ? c : 1 / c;
        return (mul || pg_node_is(node, "Div")) && multiply_by(r, node->src[0], depth, p);
    }
    return false;
}

static bool multiply_by(const pg_rewriter *r, int value, int depth, product *p) {
    static const char *const types[] = {"Mul", "Div", "Pow"};
    for (int i = 0; depth > 0 && i < 3; i++) {
        const pg_node *node = pg_maker_for_one(r, value, types[i]);
        product inside = *p;
        if (node == NULL || !multiply_by_node(r, node, depth - 1, &inside))
            continue;
        *p = inside;
        return true;
    }
    if (p->n == FACTORS)
        return false;
    p->factors[p->n++] = value;
    return true;
}

/* The value is scale * x^power. */
static bool is_monomial(const pg_rewriter *r, int value, int x, int power, double scale) {
    product p = {.scale = 1};
    if (value < 0 || !multiply_by(r, value, DEPTH, &p) || p.n != power)
        return false;
    for (int i = 0; i < p.n; i++)
        if (p.factors[i] != x)
            return false;
    return pg_near(p.scale, scale);
}

/* ---- gates: functions of x that something is multiplied by ---- */

/* x, if the value is clip(x + 3, 0, 6). */
static int through_hard_gate(const pg_rewriter *r, int value) {
    float lo, hi;
    const pg_node *clip = pg_maker_for_one(r, value, "Clip");
    if (clip == NULL || !pg_clip_bounds(clip, &lo, &hi) || lo != 0 || hi != 6)
        return -1;
    return pg_through_scalar(r, clip->src[0], "Add", 3);
}

static bool is_hard_sigmoid(const pg_rewriter *r, int value, int x) {
    float alpha, beta;
    const pg_node *node = pg_maker_for_one(r, value, "HardSigmoid");
    return node != NULL && node->src[0] == x &&
           pg_def_float(node->def, "alpha", 0.2f, &alpha, NULL) == PG_OK &&
           pg_def_float(node->def, "beta", 0.5f, &beta, NULL) == PG_OK &&
           pg_near((double)alpha, 1.0 / 6) && beta == 0.5f;
}

static bool is_gelu_gate(const pg_rewriter *r, int value, int x) {
    int inner = pg_through(r, pg_through_scalar(r, value, "Add", 1), "Erf");
    return is_monomial(r, inner, x, 1, sqrt(0.5));
}

/* sqrt(2/pi) (x + 0.044715 x^3), or with one x before the bracket. */
static bool is_tanh_polynomial(const pg_rewriter *r, int value, int x) {
    const double outer = 0.79788456080286536, cubic = 0.044715;
    product p = {.scale = 1};
    if (value < 0 || !multiply_by(r, value, DEPTH, &p) || !pg_near(p.scale, outer))
        return false;
    if (p.n == 2) {
        int bracket = p.factors[0] == x ? p.factors[1] : p.factors[0];
        return (p.factors[0] == x || p.factors[1] == x) &&
               is_monomial(r, pg_through_scalar(r, bracket, "Add", 1), x, 2, cubic);
    }
    const pg_node *sum = p.n == 1 ? pg_maker_for_one(r, p.factors[0], "Add") : NULL;
    if (sum == NULL || sum->op->n_src != 2)
        return false;
    return (sum->src[0] == x && is_monomial(r, sum->src[1], x, 3, cubic)) ||
           (sum->src[1] == x && is_monomial(r, sum->src[0], x, 3, cubic));
}

static bool is_gelu_tanh_gate(const pg_rewriter *r, int value, int x) {
    int inner = pg_through(r, pg_through_scalar(r, value, "Add", 1), "Tanh");
    return is_tanh_polynomial(r, inner, x);
}

/* ---- the rule ---- */

static const pg_attr hard_sigmoid_attrs[] = {
    {.name = "alpha", .type = PG_ATTR_FLOAT, .f = 1.0f / 6},
    {.name = "beta", .type = PG_ATTR_FLOAT, .f = 0.5f},
};
static const pg_attr tanh_attrs[] = {{.name = "approximate", .type = PG_ATTR_STRING, .s = "tanh"}};

/* What x times gate times scale is; no type: nothing known. */
static pg_replacement gated(const pg_rewriter *r, int x, int gate, double scale) {
    pg_replacement out = {.x = x};
    if (pg_near(scale, 1)) {
        if (pg_through(r, gate, "Sigmoid") == x)
            out.type = "Swish";
        else if (is_hard_sigmoid(r, gate, x))
            out.type = "HardSwish";
        else if (pg_through(r, pg_through(r, gate, "Tanh"), "Softplus") == x)
            out.type = "Mish";
    } else if (pg_near(scale, 1.0 / 6) && through_hard_gate(r, gate) == x) {
        out.type = "HardSwish";
    } else if (pg_near(scale, 0.5) && is_gelu_gate(r, gate, x)) {
        out.type = "Gelu";
    } else if (pg_near(scale, 0.5) && is_gelu_tanh_gate(r, gate, x)) {
        out.type = "Gelu";
        out.attrs = tanh_attrs;
        out.n_attrs = 1;
    }
    return out;
}

pg_err pg_rule_product(pg_rewriter *r, pg_node *node, pg_diag *diag) {
    product p = {.scale = 1};
    pg_replacement with = {0};
    if (!multiply_by_node(r, node, DEPTH, &p))
        return PG_OK;
    if (p.n == 1 && pg_near(p.scale, 1.0 / 6)) {
        with = (pg_replacement){.type = "HardSigmoid", .x = through_hard_gate(r, p.factors[0]),
                                .attrs = hard_sigmoid_attrs, .n_attrs = 2};
    } else if (p.n == 2 && p.factors[0] != p.factors[1]) {
        with = gated(r, p.factors[0], p.factors[1], p.scale);
        if (with.type == NULL)
            with = gated(r, p.factors[1], p.factors[0], p.scale);
    }
    return with.type != NULL && with.x >= 0 ? pg_replace(r, node, &with, diag) : PG_OK;
}
