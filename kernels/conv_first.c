/* The gradient of a network's first convolution with respect to the picture, which has one or three
 * channels: a library that computes with sixteen at a time does five times the work. Here the
 * vectors lie along a row of the picture instead.
 *
 * d_src[y, x, i] is the sum of d_dst[r, q, o] w[o, i, a, b] over all o and all taps (a, b) that
 * connect (r, q) with (y, x):  y = r stride - top + a dilation,  x = q stride - left + b dilation.
 *
 * Columns x = m stride + phase of one phase are met by the same b, each at q = m + shift(b). So a
 * vector holds sixteen neighbouring m, a weight is one number for all of them, and what is loaded
 * is sixteen neighbouring q of one channel. For that, rows of d_dst are turned into planes [out_c,
 * columns] with zeros on both sides, where columns outside the map find what they are to add. A
 * ring of planes holds the rows that one row of the picture needs; the next row of the picture
 * needs most of them again.
 *
 * With three channels and seven vectors (112 columns) 21 sums stay in registers while 7 vectors and
 * 3 weights are loaded for each tap. */
#include "kernels/conv_kernel.h"

#include <omp.h>
#include <string.h>

#include "kernels/simd.h"
#include "kernels/vector.h"

enum {
    VECTORS = 7,        /* in registers at a time: with 32 of 512 bits */
    VECTORS_NARROW = 2, /* with 16 of 256 bits */
    CHANNELS = 3,
    TAPS = 32, /* along an axis, at most */
    RING_FLOATS = 1 << 20
};

typedef struct axis {
    int64_t in, out, k, stride, dilation, pad;
} axis;

typedef struct kernel {
    axis y, x;
    int64_t in_c, out_c;
    int64_t lead, pitch; /* a plane's row: `lead` zeros, the map's columns, zeros up to `pitch` */
    int64_t slots;       /* planes in the ring */
    const float *weights, *d_dst;
    float *d_src;
} kernel;

static int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; } /* a >= 0 */
static int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static int64_t reach_of(const axis *a) { return (a->k - 1) * a->dilation; }

static kernel describe(const pg_conv_geometry *g) {
    const pg_dnnl_conv *c = &g->dnnl;
    kernel k = {.in_c = g->in_c, .out_c = g->out_c};
    k.y = (axis){g->in_h, g->out_h, g->k_h, c->strides[0], c->dilates[0] + 1, c->pad_begin[0]};
    k.x = (axis){g->in_w, g->out_w, g->k_w, c->strides[1], c->dilates[1] + 1, c->pad_begin[1]};
    int64_t last_shift = (k.x.stride - 1 + k.x.pad) / k.x.stride;
    int64_t read = round_up(ceil_div(k.x.in, k.x.stride), PG_LANES) + last_shift;
    k.lead = round_up(ceil_div(reach_of(&k.x), k.x.stride), PG_LANES);
    /* An odd number of cache lines, or planes would meet in few of the cache's sets. */
    k.pitch = (k.lead + round_up(larger(read, k.x.out), PG_LANES)) | PG_LANES;
    k.slots = smaller(reach_of(&k.y) / k.y.stride + 1, k.y.out);
    return k;
}

static int64_t ring_floats(const kernel *k) { return k->slots * k->out_c * k->pitch; }

static bool takes(const pg_conv_path_spec *spec) {
    const pg_conv_geometry *g = spec->geometry;
    if (!spec->backward || g->groups != 1 || (g->in_c != 1 && g->in_c != CHANNELS) ||
        g->k_h > TAPS || g->k_w > TAPS)
        return false;
    kernel k = describe(g); /* a ring is to stay in the second-level cache */
    return reach_of(&k.x) <= RING_FLOATS && k.x.pad <= RING_FLOATS && k.pitch <= RING_FLOATS &&
           k.slots * k.pitch <= RING_FLOATS / k.out_c;
}

static size_t scratch_bytes(const pg_conv_geometry *g, bool backward) {
    (void)backward; /* there is no other */
    kernel k = describe(g);
    return (size_t)omp_get_max_threads() * (size_t)ring_floats(&k) * sizeof(float);
}

static size_t packed_bytes(const pg_conv_geometry *g, bool backward) {
    (void)backward;
    return (size_t)(g->out_c * g->in_c * g->k_h * g->k_w) * sizeof(float);
}

/* [k_h, out_c, k_w, in_c] from [out_c, in_c, k_h, k_w]. */
static void pack(const pg_conv_geometry *g, bool backward, const float *plain, float *packed) {
    (void)backward;
    for (int64_t o = 0; o < g->out_c; o++)
        for (int64_t i = 0; i < g->in_c; i++)
            for (int64_t a = 0; a < g->k_h; a++)
                for (int64_t b = 0; b < g->k_w; b++)
                    packed[((a * g->out_c + o) * g->k_w + b) * g->in_c + i] = *plain++;
}

/* ---- rows to planes ---- */

/* Rows that lie n apart swap the parts off the diagonal of their square of 2n: done with n = 8, 4,
 * 2 and 1, that transposes sixteen rows. */
#define SWAP(n, first, second)                                                                     \
    for (int i = 0; i < PG_LANES; i++)                                                             \
        if (!(i & (n))) {                                                                          \
            pg_vec a = v[i], b = v[i + (n)];                                                       \
            v[i] = __builtin_shufflevector(a, b, first);                                           \
            v[i + (n)] = __builtin_shufflevector(a, b, second);                                    \
        }

/* rows <= 16 places of channels <= 16 channels at `from`, to columns of as many planes. */
static inline __attribute__((always_inline)) void
transpose(const kernel *k, int64_t rows, int64_t channels, const float *from, float *to) {
    pg_vec v[PG_LANES];
    for (int64_t i = 0; i < PG_LANES; i++) {
        const float *place = from + i * k->out_c;
        v[i] = (pg_vec){0};
        if (i < rows && channels == PG_LANES)
            v[i] = *(const pg_vec_anywhere *)place;
        for (int64_t c = 0; i < rows && channels < PG_LANES && c < channels; c++)
            v[i][c] = place[c];
    }
    SWAP(8, PG_FIRST_8, PG_SECOND_8)
    SWAP(4, PG_FIRST_4, PG_SECOND_4)
    SWAP(2, PG_FIRST_2, PG_SECOND_2)
    SWAP(1, PG_FIRST_1, PG_SECOND_1)
    for (int64_t c = 0; c < channels; c++)
        *(pg_vec_anywhere *)(to + c * k->pitch) = v[c];
}

/* Row r of d_dst to the planes [out_c, pitch]. */
static inline __attribute__((always_inline)) void fill_planes(const kernel *k, int64_t r,
                                                              float *planes) {
    const float *row = k->d_dst + r * k->x.out * k->out_c;
    int64_t end = k->lead + round_up(k->x.out, PG_LANES);
    for (int64_t o = 0; o < k->out_c; o++) {
        memset(planes + o * k->pitch, 0, (size_t)k->lead * sizeof(float));
        memset(planes + o * k->pitch + end, 0, (size_t)(k->pitch - end) * sizeof(float));
    }
    for (int64_t q = 0; q < k->x.out; q += PG_LANES)
        for (int64_t o = 0; o < k->out_c; o += PG_LANES)
            transpose(k, smaller(PG_LANES, k->x.out - q), smaller(PG_LANES, k->out_c - o),
                      row + q * k->out_c + o, planes + o * k->pitch + k->lead + q);
}

/* ---- one row of the picture ---- */

/* The taps that meet a row, and those that meet a phase of its columns. */
typedef struct taps {
    const float *planes[TAPS], *weights[TAPS]; /* by row tap */
    int64_t offset[TAPS], shift[TAPS];         /* by column tap: of its weights, of its columns */
    int rows, columns;
} taps;

/* Columns m .. m + 16 n of one phase, `count` of which exist; in_c and n are known where this is
 * inlined. */
static inline __attribute__((always_inline)) void
add_taps(const kernel *k, const taps *t, int in_c, int n, int64_t m, int64_t count, float *d_src) {
    pg_vec sum[CHANNELS][VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < in_c; i++)
#pragma GCC unroll 8
        for (int v = 0; v < n; v++)
            sum[i][v] = (pg_vec){0};
    for (int a = 0; a < t->rows; a++)
        for (int64_t o = 0; o < k->out_c; o++) {
            const float *plane = t->planes[a] + o * k->pitch + k->lead + m;
            const float *weights = t->weights[a] + o * k->x.k * in_c;
            for (int b = 0; b < t->columns; b++) {
                const float *g = plane + t->shift[b], *w = weights + t->offset[b];
                pg_vec d[VECTORS];
#pragma GCC unroll 8
                for (int v = 0; v < n; v++)
                    d[v] = *(const pg_vec_anywhere *)(g + v * PG_LANES);
#pragma GCC unroll 8
                for (int i = 0; i < in_c; i++)
#pragma GCC unroll 8
                    for (int v = 0; v < n; v++)
                        sum[i][v] += d[v] * w[i];
            }
        }
    float out[CHANNELS][VECTORS * PG_LANES]; /* sums that are indexed would not be in registers */
#pragma GCC unroll 8
    for (int i = 0; i < in_c; i++)
#pragma GCC unroll 8
        for (int v = 0; v < n; v++)
            *(pg_vec_anywhere *)&out[i][v * PG_LANES] = sum[i][v];
    count = smaller(count, n * PG_LANES);
    for (int64_t j = 0; j < count; j++)
        for (int i = 0; i < in_c; i++)
            d_src[j * k->x.stride * in_c + i] = out[i][j];
}

#define CASE(n)                                                                                    \
    case n:                                                                                        \
        if (k->in_c == 1)                                                                          \
            add_taps(k, t, 1, n, m, count, d_src);                                                 \
        else                                                                                       \
            add_taps(k, t, CHANNELS, n, m, count, d_src);                                          \
        break;

static inline __attribute__((always_inline)) void
add_block(const kernel *k, const taps *t, int n, int64_t m, int64_t count, float *d_src) {
    switch (n) {
        CASE(1)
        CASE(2)
        CASE(3)
        CASE(4)
        CASE(5)
        CASE(6)
        CASE(7)
    }
}

/* The columns of row y of the picture, phase by phase, in blocks of vectors of about equal size. */
static inline __attribute__((always_inline)) void fill_row(const kernel *k, int vectors, int64_t y,
                                                           taps *t) {
    for (int64_t phase = 0; phase < smaller(k->x.stride, k->x.in); phase++) {
        t->columns = 0;
        for (int64_t b = 0; b < k->x.k; b++) {
            int64_t distance = phase + k->x.pad - b * k->x.dilation;
            if (distance % k->x.stride != 0)
                continue;
            t->offset[t->columns] = b * k->in_c;
            t->shift[t->columns++] = distance / k->x.stride;
        }
        float *d_src = k->d_src + (y * k->x.in + phase) * k->in_c;
        int64_t count = ceil_div(k->x.in - phase, k->x.stride), all = ceil_div(count, PG_LANES);
        int64_t n = ceil_div(all, ceil_div(all, vectors));
        for (int64_t v = 0; v < all; v += n)
            add_block(k, t, (int)smaller(n, all - v), v * PG_LANES, count - v * PG_LANES,
                      d_src + v * PG_LANES * k->x.stride * k->in_c);
    }
}

PG_FMA_CLONES static void fill_rows(const kernel *k, int vectors, int64_t first, int64_t last,
                                    float *ring) {
    int64_t ready = 0; /* rows of d_dst before it are in the ring, or no longer needed */
    taps t;
    for (int64_t y = first; y < last; y++) {
        t.rows = 0;
        int64_t from = larger(y + k->y.pad - reach_of(&k->y), 0);
        ready = larger(ready, ceil_div(from, k->y.stride));
        for (; ready < k->y.out && ready * k->y.stride <= y + k->y.pad; ready++)
            fill_planes(k, ready, ring + ready % k->slots * k->out_c * k->pitch);
        for (int64_t a = 0; a < k->y.k; a++) {
            int64_t distance = y + k->y.pad - a * k->y.dilation, r = distance / k->y.stride;
            if (distance < 0 || distance % k->y.stride != 0 || r >= k->y.out)
                continue;
            t.planes[t.rows] = ring + r % k->slots * k->out_c * k->pitch;
            t.weights[t.rows++] = k->weights + a * k->out_c * k->x.k * k->in_c;
        }
        fill_row(k, vectors, y, &t);
    }
}

static void run(const pg_conv_path *path, const pg_conv_call *call) {
    kernel k = describe(&path->geometry);
    k.weights = call->weights;
    k.d_dst = call->in;
    k.d_src = call->out;
    int vectors = VECTORS_NARROW;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f"))
        vectors = VECTORS;
#endif
#pragma omp parallel
    {
        int64_t threads = omp_get_num_threads(), me = omp_get_thread_num(), rows = k.y.in;
        fill_rows(&k, vectors, rows * me / threads, rows * (me + 1) / threads,
                  (float *)call->scratch + me * ring_floats(&k));
    }
}

const pg_conv_kernel pg_conv_first = {
    .name = "own:picture",
    .takes = takes,
    .packed_bytes = packed_bytes,
    .scratch_bytes = scratch_bytes,
    .pack = pack,
    .run = run,
};
