/* Where packed weights lie, by looking there: every weight of every way a convolution can take, and
 * rows that were picked out beside rows that the library packed. */
#include <criterion/criterion.h>
#include <string.h>

#include "conv_path_case.h"
#include "kernels/conv_lines.h"
#include "kernels/mem.h"

/* in_c in_h in_w out_c k_h k_w groups, strides, dilations, top left bottom right: channels with a
 * rest of 8, of 16, and of the wider blocks that pointwise convolutions use */
static const conv_case more[] = {
    {64, 7, 7, 128, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {512, 7, 7, 64, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0},
    {24, 9, 8, 40, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1},
    {17, 9, 12, 33, 5, 3, 1, 1, 1, 2, 1, 4, 0, 3, 2},
    {33, 8, 8, 50, 3, 2, 1, 2, 1, 1, 1, 1, 0, 1, 1},
};
enum { MORE = sizeof more / sizeof more[0], CASES = CONV_GRID + MORE };

static const conv_case *conv_at(int i) {
    return i < CONV_GRID ? &conv_grid[i] : &more[i - CONV_GRID];
}

/* Different from each other, and from the padding's zeros. */
static float *weights_of(const pg_conv_geometry *g) {
    int64_t n = g->out_c * g->in_c / g->groups * g->k_h * g->k_w;
    float *w = pg_malloc((size_t)n * sizeof *w);
    for (int64_t i = 0; i < n; i++)
        w[i] = (float)(i + 1);
    return w;
}

static void check_places(const pg_conv_geometry *g, const float *w, const pg_conv_path *path,
                         const pg_conv_lines *lines) {
    const float *packed = path->weights;
    cr_assert(lines->n_out == g->out_c && lines->n_in * PG_CONV_LINE >= g->in_c);
    cr_assert_eq(lines->n_taps, g->k_h * g->k_w);
    for (int64_t o = 0; o < lines->n_out; o++)
        for (int64_t i = 0; i < lines->n_in * PG_CONV_LINE; i++)
            for (int64_t t = 0; t < lines->n_taps; t++) {
                int64_t at =
                    lines->out[o] + lines->in[i / PG_CONV_LINE] + lines->tap[t] + i % PG_CONV_LINE;
                cr_assert(at >= 0 && (size_t)at < path->packed_bytes / sizeof *packed);
                float expected = i < g->in_c ? w[(o * g->in_c + i) * lines->n_taps + t] : 0;
                cr_assert_eq(packed[at], expected, "%s: [%lld, %lld, %lld]", path->impl,
                             (long long)o, (long long)i, (long long)t);
            }
}

/* With AVX2 and AVX-512 backward of a dense convolution has lines in its default way, and flipped.
 */
static bool must_have(const pg_conv_geometry *g, const pg_conv_path *path) {
    return g->groups == 1 && strstr(path->impl, "avx") && !strstr(path->impl, "wino");
}

Test(conv_lines, every_weight_is_where_they_say) {
    int with = 0, flipped = 0, vectors = 0, own = 0;
    for (int i = 0; i < CASES; i++) {
        pg_conv_geometry g = conv_path_case(conv_at(i));
        float *w = weights_of(&g);
        for (int k = 0; k < PG_CONV_WAYS; k++) {
            pg_conv_path_spec spec = {
                .geometry = &g, .backward = true, .weights = w, .way = &pg_conv_ways[k]};
            pg_conv_path path = {0};
            pg_conv_lines lines = {0};
            if (pg_conv_path_make(&spec, &path, NULL) != PG_OK)
                continue;
            bool has = pg_conv_lines_make(&path, &g, &lines);
            if (has)
                check_places(&g, w, &path, &lines);
            if (must_have(&g, &path))
                cr_assert(has, "shape %d, %s: %s", i, pg_conv_ways[k].name, path.impl);
            with += has;
            flipped += has && path.flipped;
            vectors += must_have(&g, &path);
            cr_assert(!has || !strstr(path.impl, "wino"));
            own += has && path.own;
            pg_conv_lines_free(&lines);
            pg_conv_path_free(&path);
        }
        pg_free(w);
    }
    cr_assert(vectors == 0 || (flipped > 20 && with > 2 * flipped), "%d ways, %d flipped", with,
              flipped); /* the grid has tried something */
    cr_assert(own > 10 || !__builtin_cpu_supports("avx512bw"), "%d of our own", own);
}

/* Channels last to first, and then of nothing: what the library makes of the same rows. */
static void check_pick(const pg_conv_geometry *full, const float *w, int64_t count) {
    enum { ROOM = 16 };
    pg_conv_geometry few = *full;
    few.out_c = ROOM;
    pg_conv_path_spec spec = {.geometry = full, .backward = true, .weights = w},
                      less = {.geometry = &few, .backward = true};
    pg_conv_path from = {0}, to = {0};
    pg_conv_lines from_lines = {0}, to_lines = {0};
    cr_assert_eq(pg_conv_path_make(&spec, &from, NULL), PG_OK);
    cr_assert_eq(pg_conv_path_make(&less, &to, NULL), PG_OK);
    if (pg_conv_lines_make(&from, full, &from_lines) && pg_conv_lines_make(&to, &few, &to_lines) &&
        from_lines.n_in >= to_lines.n_in) {
        int64_t row = full->in_c * full->k_h * full->k_w;
        float *rows = pg_calloc((size_t)(ROOM * row), sizeof *rows);
        float *packed = pg_malloc(to.packed_bytes), *expected = pg_malloc(to.packed_bytes);
        void *scratch = pg_malloc(to.scratch_bytes + 1);
        int32_t channel[ROOM];
        for (int64_t k = 0; k < count; k++) {
            channel[k] = (int32_t)(full->out_c - 1 - k);
            memcpy(rows + k * row, w + channel[k] * row, (size_t)row * sizeof *rows);
        }
        pg_conv_run run = {0};
        cr_assert_eq(pg_conv_run_make(&to, w, scratch, scratch, &run, NULL), PG_OK);
        cr_assert_eq(pg_conv_run_pack(&to, &run, rows, expected), PG_OK);
        memset(packed, 0xff, to.packed_bytes);
        pg_conv_lines_pick(&from_lines, from.weights, channel, count, &to_lines, packed);
        cr_assert_eq(memcmp(packed, expected, to.packed_bytes), 0, "%s to %s, %lld", from.impl,
                     to.impl, (long long)count);
        pg_conv_run_free(&run);
        pg_free(rows);
        pg_free(packed);
        pg_free(expected);
        pg_free(scratch);
    }
    pg_conv_lines_free(&from_lines);
    pg_conv_lines_free(&to_lines);
    pg_conv_path_free(&from);
    pg_conv_path_free(&to);
}

Test(conv_lines, picked_rows_are_as_the_library_packs_them) {
    for (int i = 0; i < CASES; i++) {
        pg_conv_geometry g = conv_path_case(conv_at(i));
        if (g.groups != 1 || g.out_c < 16)
            continue;
        float *w = weights_of(&g);
        check_pick(&g, w, 16);
        check_pick(&g, w, 5);
        pg_free(w);
    }
}
