/* Numbers about a map that need its magnitudes in order. Of floats that are not negative the bit
 * patterns order like the numbers, so they are sorted by digits. A round over the leading digit
 * deals the map into buckets that lie in order; each of them then fits the nearest cache, where two
 * more rounds put it in order. The calling thread's team shares the parts of the map in the first
 * round, and the buckets after it. What equals is the same bits, hence the result does not depend
 * on who did what. */
#include "pipeline/map.h"

#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/simd.h"
#include "kernels/vmath.h"

enum {
    UPPER_BITS = 11, /* the exponent and three bits more: 8 buckets an octave */
    LOWER_BITS = 10, /* of each of the two digits below; the sign is none of them */
    UPPER = 1 << UPPER_BITS,
    LOWER = 1 << LOWER_BITS,
    FEW = 48,               /* values sooner put in order by insertion than by counting digits */
    PARTS = 4,              /* most parts of a map: each counts for itself */
    PARALLEL_FROM = 1 << 14 /* pixels; below, a team costs more than it saves */
};

typedef struct sorting {
    const float *map;
    float *values, *room; /* [count] each */
    uint32_t count, parts;
    uint32_t place[PARTS][UPPER]; /* how many have this digit, then where the next of them goes */
} sorting;

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static uint32_t upper_digit(float magnitude) { return bits_of(magnitude) >> 2 * LOWER_BITS; }

static uint32_t part_begin(const sorting *s, uint32_t part) {
    return (uint32_t)((uint64_t)s->count * part / s->parts);
}

static void count_part(sorting *s, uint32_t part) {
    uint32_t *place = s->place[part], end = part_begin(s, part + 1);
    const float *map = s->map;
    memset(place, 0, sizeof s->place[part]);
    for (uint32_t i = part_begin(s, part); i < end; i++)
        place[upper_digit(fabsf(map[i]))]++;
}

static void deal_part(sorting *s, uint32_t part) {
    uint32_t *place = s->place[part], end = part_begin(s, part + 1);
    const float *map = s->map;
    float *values = s->values;
    for (uint32_t i = part_begin(s, part); i < end; i++) {
        float magnitude = fabsf(map[i]);
        values[place[upper_digit(magnitude)]++] = magnitude;
    }
}

/* Counts become the places where each part's share of each bucket begins. */
static void assign_places(sorting *s) {
    uint32_t sum = 0;
    for (uint32_t d = 0; d < UPPER; d++)
        for (uint32_t part = 0; part < s->parts; part++) {
            uint32_t count = s->place[part][d];
            s->place[part][d] = sum;
            sum += count;
        }
}

static void insert(float *values, uint32_t count) {
    for (uint32_t i = 1; i < count; i++) {
        float value = values[i];
        uint32_t k = i;
        for (; k > 0 && values[k - 1] > value; k--)
            values[k] = values[k - 1];
        values[k] = value;
    }
}

/* By the lowest digit to `room`, by the middle one back to `values`. */
static void sort_bucket(float *values, float *room, uint32_t count) {
    uint32_t low[LOWER] = {0}, middle[LOWER] = {0}, before_low = 0, before_middle = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bits = bits_of(values[i]);
        low[bits & (LOWER - 1)]++;
        middle[bits >> LOWER_BITS & (LOWER - 1)]++;
    }
    for (uint32_t d = 0; d < LOWER; d++) {
        uint32_t l = low[d], m = middle[d];
        low[d] = before_low;
        middle[d] = before_middle;
        before_low += l;
        before_middle += m;
    }
    for (uint32_t i = 0; i < count; i++)
        room[low[bits_of(values[i]) & (LOWER - 1)]++] = values[i];
    for (uint32_t i = 0; i < count; i++)
        values[middle[bits_of(room[i]) >> LOWER_BITS & (LOWER - 1)]++] = room[i];
}

/* The buckets that begin in a part. A bucket ends where the last part's next value would go. */
static void sort_part(const sorting *s, uint32_t part) {
    const uint32_t *ends = s->place[s->parts - 1];
    uint32_t first = part_begin(s, part), last = part_begin(s, part + 1);
    for (uint32_t d = 0, begin = 0; d < UPPER && begin < last; begin = ends[d++]) {
        uint32_t count = ends[d] - begin;
        if (begin < first)
            continue;
        if (count <= FEW)
            insert(s->values + begin, count);
        else
            sort_bucket(s->values + begin, s->room + begin, count);
    }
}

const float *pg_map_sort(pg_map_scratch *scratch, const float *map) {
    uint32_t count = (uint32_t)(scratch->height * scratch->width);
    int team = count > PARALLEL_FROM ? omp_get_max_threads() : 1;
    sorting s = {.map = map,
                 .values = scratch->values,
                 .room = scratch->values + count,
                 .count = count,
                 .parts = (uint32_t)(team < PARTS ? team : PARTS)};
#pragma omp parallel for schedule(static) if (s.parts > 1)
    for (uint32_t part = 0; part < s.parts; part++)
        count_part(&s, part);
    assign_places(&s);
#pragma omp parallel for schedule(static) if (s.parts > 1)
    for (uint32_t part = 0; part < s.parts; part++)
        deal_part(&s, part);
#pragma omp parallel for schedule(static) if (s.parts > 1)
    for (uint32_t part = 0; part < s.parts; part++)
        sort_part(&s, part);
    return s.values;
}

double pg_map_percentile(const float *sorted, int64_t count, double p) {
    p = p < 0 ? 0 : p > 100 ? 100 : p;
    double at = p / 100 * (double)(count - 1);
    int64_t low = (int64_t)at;
    if (low >= count - 1)
        return (double)sorted[count - 1];
    double part = at - (double)low;
    return (double)sorted[low] * (1 - part) + (double)sorted[low + 1] * part;
}

/* Of one part of the sorted values, the first of which has rank `rank` (1: the least). */
typedef struct sums {
    double sum, ranked;   /* of x, of rank x */
    double share, logged; /* of v = x / largest, of v ln v: the entropy knows no scale */
} sums;

PG_CLONES static void add_up(const float *sorted, int64_t count, int64_t rank, float largest,
                             sums *out) {
    double sum = 0, ranked = 0, share = 0, logged = 0;
#pragma omp simd reduction(+ : sum, ranked, share, logged)
    for (int64_t i = 0; i < count; i++) {
        float v = sorted[i] / largest;
        float x = v > 1e-30f ? v : 1.0f; /* below, v ln v is nothing beside the largest's own 1 */
        sum += (double)sorted[i];
        ranked += (double)(int)(rank + i) * (double)sorted[i];
        share += (double)v;
        logged += (double)v * (double)pg_logf(x);
    }
    *out = (sums){sum, ranked, share, logged};
}

/* Always in the same parts, so that the sums are the same for any number of threads. */
pg_map_spread pg_map_measure(const float *sorted, int64_t count) {
    enum { SHARES = 16 };
    sums parts[SHARES], all = {0};
    float largest = sorted[count - 1];
    if (!(largest > 0))
        return (pg_map_spread){0, 0};
#pragma omp parallel for schedule(static) if (count > PARALLEL_FROM)
    for (int64_t p = 0; p < SHARES; p++) {
        int64_t begin = count * p / SHARES, end = count * (p + 1) / SHARES;
        add_up(sorted + begin, end - begin, begin + 1, largest, &parts[p]);
    }
    for (int p = 0; p < SHARES; p++) {
        all.sum += parts[p].sum;
        all.ranked += parts[p].ranked;
        all.share += parts[p].share;
        all.logged += parts[p].logged;
    }
    double n = (double)count;
    double entropy = count > 1 ? (log(all.share) - all.logged / all.share) / log(n) : 0;
    return (pg_map_spread){.entropy = entropy < 0   ? 0
                                      : entropy > 1 ? 1
                                                    : entropy,
                           .gini = 2 * all.ranked / (n * all.sum) - (n + 1) / n};
}
