/* With S_H, S_L the sums of the two groups' gradients, M and N their variances, factors h and l for
 * the groups are sought such that
 *
 *   std(h S_H) = gamma std(l S_L)               (infinite gamma: l = 0)
 *   Var(h S_H) + Var(l S_L) = M + N             (exact: Var(h S_H + l S_L) = Var(S_H + S_L))
 *
 * that is h = g beta, l = beta with g = gamma sqrt(N / M). Every quotient below is one of
 * variances of the same gradient, so a scaled seed changes none of them.
 */
#include "pipeline/prune.h"

#include <math.h>
#include <string.h>

#include "kernels/defect.h"
#include "kernels/mem.h"
#include "pipeline/compat.h"

/* Below this share of what it is compared with, a variance is rounding error. */
static const double FLOOR = 1e-12;
static const double COMPAT_FLOOR = 1e-13; /* added to variances, whatever their scale */

static double significant(double variance, double mean_square) {
    return variance > FLOOR * mean_square ? variance : 0;
}

/* M or N. */
static double measure_of(unsigned compat, int64_t positions, double variance, double mean_square) {
    double v = compat & PG_COMPAT_floor ? variance : significant(variance, mean_square);
    if (compat & PG_COMPAT_width && positions == 1)
        v = sqrt(v); /* |S|: variance is S^2 there */
    return compat & PG_COMPAT_floor ? v + COMPAT_FLOOR : v;
}

static pg_prune_factors left_alone(double share) {
    return (pg_prune_factors){.high = 1, .low = 1, .beta = 1, .share = share, .degenerate = true};
}

pg_prune_factors pg_prune_weigh(const pg_prune_options *options, const pg_group_moments *moments) {
    unsigned compat = options->compat;
    double m = measure_of(compat, moments->positions, moments->var_high, moments->mean_square_high);
    double n = measure_of(compat, moments->positions, moments->var_low, moments->mean_square_low);
    double sum = m + n;
    if (!(sum > 0) || !isfinite(sum))
        return left_alone(0);
    double share = m / sum;
    bool finite = isfinite(options->gamma);
    if (!(compat & PG_COMPAT_floor) && (share < FLOOR || (finite && n / sum < FLOOR)))
        return left_alone(share);
    double g = finite ? options->gamma * sqrt(n / m) : 1, l = finite ? 1 : 0;
    double before = sum, after = g * g * m + l * n;
    if (options->conserve == PG_CONSERVE_EXACT) {
        before += 2 * moments->cov;
        after += 2 * g * l * moments->cov;
        if (after < FLOOR * sum)
            return left_alone(share);
    }
    double beta = 1;
    if (options->conserve != PG_CONSERVE_OFF)
        beta = sqrt(before > 0 ? before / after : 0);
    if (pg_defect("no-sqrt"))
        beta *= beta;
    return (pg_prune_factors){.high = g * beta, .low = l * beta, .beta = beta, .share = share};
}

/* ---- one pass ---- */

typedef struct slot {
    pg_prune *prune;
    pg_layer_result *result;
} slot;

struct pg_prune {
    const pg_prune_options *options;
    const pg_layers *layers;
    int n_convs;
    pg_conv_prune *convs;     /* [n_convs] */
    slot *slots;              /* [layers] */
    pg_layer_result *results; /* [layers] */
    bool degenerate;
};

static bool weigh(void *user, const pg_group_moments *moments, float *scale_high,
                  float *scale_low) {
    const slot *s = user;
    pg_prune_factors f = pg_prune_weigh(s->prune->options, moments);
    s->result->beta = (float)f.beta;
    s->result->share = (float)f.share;
    s->result->degenerate = f.degenerate;
    s->prune->degenerate |= f.degenerate;
    *scale_high = (float)f.high;
    *scale_low = (float)f.low;
    return !f.degenerate;
}

pg_err pg_prune_create(const pg_prune_options *options, const pg_conv_info *convs, int n_convs,
                       const pg_layers *layers, pg_prune **out, pg_diag *diag) {
    *out = NULL;
    pg_prune *p = pg_calloc(1, sizeof *p);
    if (!p)
        return pg_fail(diag, PG_ENOMEM, "no memory for pruning");
    p->options = options;
    p->layers = layers;
    p->n_convs = n_convs;
    p->convs = pg_calloc((size_t)n_convs + 1, sizeof *p->convs);
    p->slots = pg_calloc((size_t)layers->count + 1, sizeof *p->slots);
    p->results = pg_calloc((size_t)layers->count + 1, sizeof *p->results);
    if (!p->convs || !p->slots || !p->results) {
        pg_prune_destroy(&p);
        return pg_fail(diag, PG_ENOMEM, "no memory for pruning");
    }
    for (int i = 0; i < layers->count; i++) {
        int conv = layers->convs[i];
        p->slots[i] = (slot){p, &p->results[i]};
        p->results[i] = (pg_layer_result){
            .name = convs[conv].name, .conv = conv, .total = (int)convs[conv].channels};
    }
    *out = p;
    return PG_OK;
}

void pg_prune_destroy(pg_prune **prune) {
    if (!*prune)
        return;
    pg_free((*prune)->convs);
    pg_free((*prune)->slots);
    pg_free((*prune)->results);
    pg_free(*prune);
    *prune = NULL;
}

const pg_conv_prune *pg_prune_begin(pg_prune *p, const pg_selection *selection) {
    p->degenerate = false;
    memset(p->convs, 0, (size_t)p->n_convs * sizeof *p->convs);
    for (int i = 0; i < p->layers->count; i++) {
        pg_layer_result *r = &p->results[i];
        int64_t kept = selection->kept[i];
        bool alone = kept == 0 || kept == r->total;
        /* What stands here stays where the pass never asks: H or L empty, off the gradient's path.
         */
        r->kept = kept == 0 ? r->total : (int)kept;
        r->keep = alone ? NULL : selection->keep + p->layers->offset[i];
        r->beta = 1;
        r->share = alone ? 1 : 0;
        r->degenerate = true;
        if (!alone)
            p->convs[r->conv] =
                (pg_conv_prune){.keep = r->keep,
                                .lasting = selection->lasting,
                                .weigh = weigh,
                                .user = &p->slots[i]};
    }
    return p->convs;
}

const pg_layer_result *pg_prune_results(const pg_prune *p) { return p->results; }
bool pg_prune_degenerate(const pg_prune *p) { return p->degenerate; }
