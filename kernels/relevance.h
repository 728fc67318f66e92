/* Layer-wise relevance propagation (LRP) through one linear layer z = W x + b: how the relevance R
 * of its output is handed out to its input. method.md section 7; the rules are those of zennit
 * 0.5.1.
 *
 * Every rule but Flat is one or two terms of the same form. With x' made of x, W' and b' of W and
 * b,
 *
 *     R_in = sum over terms of  x' * W'^T s,    s = factor R / stab(W' x' + b')    where z has
 * `sign` stab(d) = d + epsilon, or d - epsilon where d < 0
 *
 *   rule       x'         W'                        b'           factor, sign
 *   Epsilon    x          W                         b            1
 *   ZPlus      x+, x-     W+, W-                    b+           1           (AlphaBeta 1, 0)
 *   AlphaBeta  x+, x-     W+, W-                    b+           2
 *              x+, x-     W-, W+                    b-           -1
 *   Gamma      x+, x-     W + g W+, W + g W-        b + g b+     1, where z > 0
 *              x+, x-     W + g W-, W + g W+        b + g b-     1, where z < 0
 *   ZBox       x, -1      W, low W+ + high W-       0            1           (low <= x <= high)
 *   WSquare    1          W^2                       b^2          1
 *   Flat       1          1                         0            1
 *
 * Two x' are one input of twice the channels; where x is never negative its half x- falls away. A
 * term costs one forward and one backward pass of the layer. Flat costs next to nothing: what it
 * hands out depends on the place alone.
 *
 * Shared by the sessions: the modified weights, packed for both directions. Per session: the
 * library's handles on fixed pointers. */
#ifndef PG_KERNELS_RELEVANCE_H
#define PG_KERNELS_RELEVANCE_H

#include "kernels/conv_path.h"

typedef enum pg_lrp_rule {
    PG_LRP_EPSILON,
    PG_LRP_ZPLUS,
    PG_LRP_ALPHA_BETA,
    PG_LRP_GAMMA,
    PG_LRP_ZBOX,
    PG_LRP_FLAT,
    PG_LRP_WSQUARE,
} pg_lrp_rule;

/* The stabiliser of every rule but Epsilon, whose own is a parameter. */
#define PG_LRP_STABILISER 1e-6f

/* A linear layer as its operator has it, between create and prepare: what was folded into it (batch
 * normalisation) is in weights and bias. A fully connected layer is a convolution of 1x1. */
typedef struct pg_linear {
    pg_conv_geometry geometry;
    float *weights;    /* [out_c, in_c / groups, k_h, k_w] */
    float *bias;       /* [out_c]; NULL: none */
    bool library_only; /* pg_conv_path_spec */
} pg_linear;
void pg_linear_free(pg_linear *linear); /* and zeroes */

struct pg_conv_tuner; /* conv_tune.h */

typedef struct pg_relevance_spec {
    pg_lrp_rule rule;
    float epsilon;               /* Epsilon */
    float gamma;                 /* Gamma */
    bool signed_input;           /* x may be negative */
    bool positive_only;          /* Gamma: relevance comes only from outputs above 0 */
    bool rectified;              /* an activation makes 0 of z < 0 in y */
    const float *low, *high;     /* [in_c], ZBox */
    struct pg_conv_tuner *tuner; /* chooses how the multiplications are done; NULL: the default */
} pg_relevance_spec;

enum { PG_RELEVANCE_TERMS = 2 };

/* Where x' differs from x. */
typedef enum pg_relevance_input {
    PG_RELEVANCE_X,
    PG_RELEVANCE_SPLIT, /* x+ and x- */
    PG_RELEVANCE_BOX,   /* x and -1 */
    PG_RELEVANCE_ONES,
} pg_relevance_input;

typedef struct pg_relevance_term {
    float factor;
    int sign;     /* of z: 1 and -1; 0: both */
    bool at_zero; /* sign -1: also where y is 0 */
    pg_conv_path forward, backward;
} pg_relevance_term;

/* Zero-initialise. Private but for the two sizes. */
typedef struct pg_relevance {
    size_t scratch_bytes; /* execute needs */
    size_t weight_bytes;  /* shared */
    pg_lrp_rule rule;
    float stabiliser;
    pg_relevance_input input;
    pg_conv_geometry geometry; /* of the layer */
    int64_t wide;              /* channels of x' */
    int terms;                 /* 0: Flat */
    pg_relevance_term term[PG_RELEVANCE_TERMS];
    size_t x, share, d_x,
        path; /* where in scratch: x', denominators and s, W'^T s, the library's */
} pg_relevance;

/* `linear` is read, not kept. On failure *out is free and diag says why. */
pg_err pg_relevance_make(const pg_linear *linear, const pg_relevance_spec *spec, pg_relevance *out,
                         pg_diag *diag);
void pg_relevance_free(pg_relevance *relevance); /* and zeroes */

/* What one session works on: channels-last, fixed. */
typedef struct pg_relevance_io {
    const float *x; /* [in_h, in_w, in_c] the layer's input */
    const float *y; /* [out_h, out_w, out_c] its output, behind the activation (Gamma: its sign) */
    const float *r; /* relevance of the output */
    float *r_in;    /* relevance of the input, overwritten */
    char *scratch;  /* scratch_bytes, aligned to PG_MEM_ALIGN */
} pg_relevance_io;

/* Zero-initialise; private. */
typedef struct pg_relevance_run {
    pg_conv_run forward[PG_RELEVANCE_TERMS], backward[PG_RELEVANCE_TERMS];
} pg_relevance_run;

pg_err pg_relevance_bind(const pg_relevance *relevance, const pg_relevance_io *io,
                         pg_relevance_run *run, pg_diag *diag);
void pg_relevance_unbind(pg_relevance_run *run); /* and zeroes */

/* r_in from r. Allocates nothing. */
pg_err pg_relevance_execute(const pg_relevance *relevance, const pg_relevance_run *run,
                            const pg_relevance_io *io);

/* ---- what rules without weights (Norm) have in common with them; large arrays in parallel ---- */

/* s = factor * r / stab(z). s may be r or z. */
void pg_relevance_share(int64_t count, float factor, float stabiliser, const float *r,
                        const float *z, float *s);

/* Addition z = a + b in one pass: r_a = a s, r_b = b s with s = r / stab(z). r_a or r_b may be NULL
 * (nobody asks), and either may be r. */
void pg_relevance_divide(int64_t count, float stabiliser, const float *r,
                         const float *const part[2], float *const r_part[2]);

/* r = r * x. */
void pg_relevance_weigh(int64_t count, const float *x, float *r);

#endif
