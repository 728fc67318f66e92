/* ParchGrad's pass for registers of sixteen floats. Where the gradient is at hand (small maps, a
 * gradient in rows) the work counts, most of it that of adding up the lanes of a vector for each
 * row: so every row leaves one vector of sums, and sixteen of them are added up together. A sum's
 * order depends on the channels alone. */
#include "kernels/channel_split_impl.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "kernels/vector.h"

#define WIDE   __attribute__((target("avx512f")))
#define INLINE static inline __attribute__((always_inline)) WIDE

enum { ROWS = PG_LANES /* added up together */ };

/* Values k < width: g[from[k]] where y[channel[k]] lies inside the activation's range, else 0. */
typedef struct row {
    const float *g, *y;            /* without y: no activation */
    const int32_t *from, *channel; /* without: k itself */
    int64_t width;
    const float *high, *low; /* [width] weights in two sums; without low: in one */
    float *out;              /* [width] */
} row;

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* ---- vectors ---- */

/* n of them, or all that a vector has; then zeros. A vector that is indexed would not be in a
 * register. */
INLINE void load(const float *from, int64_t n, pg_vec *v) {
    if (n >= PG_LANES) {
        *v = *(const pg_vec_anywhere *)from;
        return;
    }
    float lanes[PG_LANES] = {0};
    for (int64_t i = 0; i < n; i++)
        lanes[i] = from[i];
    *v = *(const pg_vec_anywhere *)lanes;
}

/* The same of from[at[i]]. */
INLINE void pick(const float *from, const int32_t *at, int64_t n, pg_vec *v) {
    if (n >= PG_LANES) {
        *v = (pg_vec)_mm512_i32gather_ps(_mm512_loadu_si512(at), from, (int)sizeof *from);
        return;
    }
    float lanes[PG_LANES] = {0};
    for (int64_t i = 0; i < n; i++)
        lanes[i] = from[at[i]];
    *v = *(const pg_vec_anywhere *)lanes;
}

INLINE void store(const pg_vec *v, int64_t n, float *to) {
    float lanes[PG_LANES];
    if (n >= PG_LANES) {
        *(pg_vec_anywhere *)to = *v;
        return;
    }
    *(pg_vec_anywhere *)lanes = *v;
    for (int64_t i = 0; i < n; i++)
        to[i] = lanes[i];
}

#define FOLD(n, first, second)                                                                     \
    for (int i = 0; i < (n); i++) {                                                                \
        pg_vec a = v[i], b = v[i + (n)];                                                           \
        v[i] = __builtin_shufflevector(a, b, first) + __builtin_shufflevector(a, b, second);       \
    }

/* Sums of the lanes of each row, to out[rows]. */
INLINE void add_up(pg_vec v[ROWS], int64_t rows, double *out) {
    FOLD(8, PG_FIRST_8, PG_SECOND_8)
    FOLD(4, PG_FIRST_4, PG_SECOND_4)
    FOLD(2, PG_FIRST_2, PG_SECOND_2)
    FOLD(1, PG_FIRST_1, PG_SECOND_1)
    const float *sums = (const float *)v;
    for (int64_t r = 0; r < rows; r++)
        out[r] = (double)sums[r];
}

#undef FOLD

/* ---- a row ---- */

/* What a row is asked for: known where this is inlined, so that loops have no questions. */
typedef struct kind {
    bool y, from, channel, low, out; /* whether the row has it */
} kind;

enum { AHEAD = 1024 /* floats of y, which nobody has read for long: from memory */ };

/* Values [k, k + n), n <= PG_LANES. */
INLINE void sum_vector(const row *r, kind has, int64_t k, int64_t n, const pg_vec *lo,
                       const pg_vec *hi, pg_vec *highs, pg_vec *lows) {
    pg_vec v, y, weight;
    if (has.from)
        pick(r->g, r->from + k, n, &v);
    else
        load(r->g + k, n, &v);
    if (has.y) {
        if (has.channel) {
            pick(r->y, r->channel + k, n, &y);
        } else {
            load(r->y + k, n, &y);
            __builtin_prefetch(r->y + k + AHEAD);
        }
        v = (pg_vec)((y > *lo) & (y < *hi) & (pg_vec_mask)v);
    }
    if (has.out)
        store(&v, n, r->out + k);
    load(r->high + k, n, &weight);
    *highs += v * weight;
    if (has.low) {
        load(r->low + k, n, &weight);
        *lows += v * weight;
    }
}

/* The row's values to r->out, and into the lanes of two sums. */
INLINE void sum_row(const row *r, kind has, const pg_act_range *act, pg_vec *highs, pg_vec *lows) {
    const pg_vec lo = act->lo - (pg_vec){0}, hi = act->hi - (pg_vec){0};
    pg_vec h = {0}, l = {0};
    int64_t k = 0;
    for (; k + PG_LANES <= r->width; k += PG_LANES)
        sum_vector(r, has, k, PG_LANES, &lo, &hi, &h, &l);
    if (k < r->width)
        sum_vector(r, has, k, r->width - k, &lo, &hi, &h, &l);
    *highs = h;
    if (has.low)
        *lows = l;
}

/* ---- ranges of rows ---- */

INLINE void all_rows(int64_t first, int64_t last, const pg_split_source *s, bool y,
                     const float *high, const float *low, float *out, double *s_high,
                     double *s_low) {
    pg_vec highs[ROWS] = {{0}}, lows[ROWS] = {{0}};
    for (int64_t p = first; p < last; p += ROWS) {
        int64_t rows = smaller(ROWS, last - p);
        for (int64_t r = 0, at = p * s->channels; r < rows; r++, at += s->channels) {
            const row whole = {.g = s->d_dst + at,
                               .y = y ? s->dst + at : NULL,
                               .width = s->channels,
                               .high = high,
                               .low = low,
                               .out = y ? out + at : NULL};
            sum_row(&whole, (kind){.y = y, .low = true, .out = y}, &s->act, &highs[r], &lows[r]);
        }
        add_up(highs, rows, s_high + p);
        add_up(lows, rows, s_low + p);
    }
}

WIDE static void all_range(int64_t first, int64_t last, const pg_split_source *s, const float *high,
                           const float *low, float *out, double *s_high, double *s_low) {
    if (s->dst)
        all_rows(first, last, s, true, high, low, out, s_high, s_low);
    else
        all_rows(first, last, s, false, high, low, out, s_high, s_low);
}

INLINE void keep_rows(int64_t first, int64_t last, const pg_split_source *s, bool has_y,
                      const float *low, const pg_split_pick *pick, bool has_all, float *all,
                      float *out, double *s_high, double *s_low) {
    const kind of_whole = {.y = has_y, .out = has_all};
    const kind of_picked = {
        .y = has_y && !has_all, .from = true, .channel = has_y && !has_all, .out = true};
    pg_vec highs[ROWS] = {{0}}, lows[ROWS] = {{0}};
    for (int64_t p = first; p < last; p += ROWS) {
        int64_t rows = smaller(ROWS, last - p);
        for (int64_t r = 0, at = p * s->channels; r < rows; r++, at += s->channels) {
            const row whole = {.g = s->d_dst + at,
                               .y = has_y ? s->dst + at : NULL,
                               .width = s->channels,
                               .high = low,
                               .out = has_all ? all + at : NULL};
            sum_row(&whole, of_whole, &s->act, &lows[r], NULL);
            const row picked = {.g = has_all ? all + at : whole.g,
                                .y = whole.y,
                                .from = pick->from,
                                .channel = pick->channel,
                                .width = pick->width,
                                .high = pick->high,
                                .out = out + (p + r) * pick->width};
            sum_row(&picked, of_picked, &s->act, &highs[r], NULL);
        }
        add_up(highs, rows, s_high + p);
        add_up(lows, rows, s_low + p);
    }
}

WIDE static void keep_range(int64_t first, int64_t last, const pg_split_source *s, const float *low,
                            const pg_split_pick *pick, float *all, float *out, double *s_high,
                            double *s_low) {
    if (s->dst && all)
        keep_rows(first, last, s, true, low, pick, true, all, out, s_high, s_low);
    else if (s->dst)
        keep_rows(first, last, s, true, low, pick, false, NULL, out, s_high, s_low);
    else if (all)
        keep_rows(first, last, s, false, low, pick, true, all, out, s_high, s_low);
    else
        keep_rows(first, last, s, false, low, pick, false, NULL, out, s_high, s_low);
}

INLINE void live_rows(int64_t first, int64_t last, const pg_split_source *s, bool y, bool from,
                      const pg_split_pick *pick, float *out, double *s_high, double *s_low) {
    const kind has = {.y = y, .from = from, .channel = y, .low = true, .out = true};
    pg_vec highs[ROWS] = {{0}}, lows[ROWS] = {{0}};
    for (int64_t p = first; p < last; p += ROWS) {
        int64_t rows = smaller(ROWS, last - p);
        for (int64_t r = 0; r < rows; r++) {
            const row picked = {.g = s->d_dst + (p + r) * pick->pitch,
                                .y = y ? s->dst + (p + r) * s->channels : NULL,
                                .from = pick->from,
                                .channel = pick->channel,
                                .width = pick->width,
                                .high = pick->high,
                                .low = pick->low,
                                .out = out + (p + r) * pick->width};
            sum_row(&picked, has, &s->act, &highs[r], &lows[r]);
        }
        add_up(highs, rows, s_high + p);
        add_up(lows, rows, s_low + p);
    }
}

WIDE static void live_range(int64_t first, int64_t last, const pg_split_source *s,
                            const pg_split_pick *pick, float *out, double *s_high, double *s_low) {
    if (s->dst && pick->from)
        live_rows(first, last, s, true, true, pick, out, s_high, s_low);
    else if (s->dst)
        live_rows(first, last, s, true, false, pick, out, s_high, s_low);
    else if (pick->from)
        live_rows(first, last, s, false, true, pick, out, s_high, s_low);
    else
        live_rows(first, last, s, false, false, pick, out, s_high, s_low);
}

const pg_split_ranges *pg_split_wide(void) {
    static const pg_split_ranges ranges = {
        .all = all_range, .keep = keep_range, .live = live_range};
    return __builtin_cpu_supports("avx512f") ? &ranges : NULL;
}

#else

const pg_split_ranges *pg_split_wide(void) { return NULL; }

#endif
