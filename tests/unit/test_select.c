#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/compat.h"
#include "pipeline/select.h"

enum { N = 3, CLASSES = 4, WIDE = 12 };
static const pg_conv_info convs[N] = {
    {.name = "/features/0/Conv", .output = "c0", .channels = WIDE},
    {.name = "/features/3/Conv", .output = "c1", .channels = WIDE},
    {.name = "/head[0]/Conv", .output = "c2", .channels = WIDE},
};
static const uint8_t digest[32];

static pg_prune_options options;
static pg_layers layers;
static pg_channel_stats *stats;
static pg_select_source source;

/* Channel c of convolution v stands out in class (c + v) mod 4, by more the higher c is; channel 5
 * is the same in every sample, channel 7 stands out in no class. */
static float value_of(int sample, int conv, int c) {
    if (c == 5)
        return 2;
    float noise = (float)((sample * 29 + c * 17 + conv * 7) % 31) / 31;
    return noise + (c != 7 && (c + conv) % 4 == sample % 4 ? 0.25f * (float)(c + 1) : 0);
}

static void add(int from, int to) {
    for (int i = from; i < to; i++) {
        float values[N][WIDE];
        const float *gaps[N];
        for (int v = 0; v < N; v++) {
            gaps[v] = values[v];
            for (int c = 0; c < WIDE; c++)
                values[v][c] = value_of(i, v, c);
        }
        cr_assert_eq(pg_channel_stats_add(stats, i % 4, gaps, NULL), PG_OK);
    }
    cr_assert_eq(pg_channel_stats_seal(stats, NULL), PG_OK);
}

static void set_up(void) {
    options = (pg_prune_options){.quantile = 0.25, .gamma = INFINITY, .layers_ratio = 1};
    cr_assert_eq(pg_layers_choose(&options, convs, N, &layers, NULL), PG_OK);
    cr_assert_eq(pg_channel_stats_create(convs, N, CLASSES, digest, &stats, NULL), PG_OK);
    add(0, 200);
    source = (pg_select_source){&options, stats, convs, N, &layers};
}
static void tear_down(void) {
    pg_layers_free(&layers);
    pg_channel_stats_destroy(&stats);
}
TestSuite(select, .init = set_up, .fini = tear_down);

static const char *show(const uint8_t *keep, int64_t n) {
    static char text[64];
    for (int64_t i = 0; i < n; i++)
        text[i] = keep[i] ? '#' : '.';
    text[n] = 0;
    return text;
}

/* Each convolution has its own answer: class 1 of convolution v owns the channels c with (c + v)
 * mod 4 = 1. Statistics of the last one used for all would give three times the same. */
Test(select, class_wise_per_layer) {
    static const char *const want[N] = {".#.......#..", "....#...#...", "...#.......#"};
    options.quantile = 2.0 / WIDE;
    for (int v = 0; v < N; v++) {
        uint8_t keep[WIDE];
        pg_rank ranks[WIDE];
        cr_assert_eq(pg_select_by_class(&source, v, 1, NULL, ranks, keep), 2);
        cr_assert_str_eq(show(keep, WIDE), want[v], "convolution %d: %s", v, show(keep, WIDE));
    }
}

/* Welch against pooled: channel 0 has few, widely spread samples of high mean in the class, channel
 * 1 a small, certain difference. A pooled variance, blind to whose spread it is, ranks them the
 * other way round. */
Test(select, class_wise_is_welch) {
    const pg_conv_info conv = {.name = "x", .channels = 2};
    pg_channel_stats *s = NULL;
    cr_assert_eq(pg_channel_stats_create(&conv, 1, 2, digest, &s, NULL), PG_OK);
    for (int i = 0; i < 400; i++) {
        bool own = i % 100 == 0; /* four samples */
        float gap[2] = {own ? 1.6f * (float)(i / 100) : 0.3f * (float)(i % 7) - 0.9f,
                        own ? 0.45f + 0.01f * (float)(i / 100) : 0.1f * (float)(i % 7) - 0.3f};
        const float *gaps[1] = {gap};
        cr_assert_eq(pg_channel_stats_add(s, own ? 1 : 0, gaps, NULL), PG_OK);
    }
    pg_channel_stats_seal(s, NULL);
    int which[1] = {0};
    int64_t offset[2] = {0, 2};
    pg_layers one = {1, which, offset, 2};
    options.quantile = 0.5;
    pg_select_source single = {&options, s, &conv, 1, &one};
    pg_rank ranks[2];
    uint8_t keep[2];
    cr_assert_eq(pg_select_by_class(&single, 0, 1, NULL, ranks, keep), 1);
    cr_assert(keep[1] && !keep[0]);
    options.compat = PG_COMPAT_student;
    cr_assert_eq(pg_select_by_class(&single, 0, 1, NULL, ranks, keep), 1);
    cr_assert(keep[0] && !keep[1]);
    pg_channel_stats_destroy(&s);
}

Test(select, instance_wise) {
    float gap[WIDE];
    uint8_t keep[WIDE];
    pg_rank ranks[WIDE];
    for (int c = 0; c < WIDE; c++) {
        pg_sample all = pg_channel_stats_all(stats, 1, c);
        double z = c == 2 ? 9 : c == 8 ? 60 : c == 7 ? 3 : -1;
        gap[c] = (float)(all.mean + z * sqrt(all.variance));
    }
    gap[5] = 1000; /* dead in calibration: whatever it does now, it is not ranked */
    cr_assert_eq(pg_select_by_instance(&source, 1, 0, gap, ranks, keep), 3);
    cr_assert_str_eq(show(keep, WIDE), "..#....##...");
    options.use_level = true;
    options.level = 1e-4; /* z = 3.72 */
    cr_assert_eq(pg_select_by_instance(&source, 1, 0, gap, ranks, keep), 2);
    cr_assert_str_eq(show(keep, WIDE), "..#.....#...");
    options.level = 1e-300;
    cr_assert_eq(pg_select_by_instance(&source, 1, 0, gap, ranks, keep), 1);
    gap[8] = gap[2] = gap[7] = 0;
    options.level = 1e-4;
    cr_assert_eq(pg_select_by_instance(&source, 1, 0, gap, ranks, keep), 0);
}

Test(select, quota) {
    cr_assert_eq(pg_select_quota(0.1, 64), 6);
    cr_assert_eq(pg_select_quota(0.1, 9), 1);
    cr_assert_eq(pg_select_quota(0.001, 64), 1);
    cr_assert_eq(pg_select_quota(1, 64), 64);
    cr_assert_eq(pg_select_quota(0.3, 10), 3);
}

/* p = 0 in double for all of them: only the logarithm, and then t, can tell. */
Test(select, best_by_log_p_then_t_then_channel) {
    pg_rank ranks[6] = {{-900, 1, 0}, {-1000, 5, 1}, {-1000, 7, 2},
                        {-800, 9, 3}, {-1000, 5, 4}, {-INFINITY, INFINITY, 5}};
    uint8_t keep[6];
    options.quantile = 0.5;
    cr_assert_eq(pg_select_best(&options, 6, ranks, 6, PG_TIES_BROKEN, keep), 3);
    cr_assert_str_eq(show(keep, 6), ".##..#");
}

/* p = 0 in float for more channels than wanted: the authors keep them all (<=), or, by the other
 * rule (<), none. */
Test(select, compat_ties) {
    const pg_rank ranks[6] = {{-INFINITY, 1, 0}, {-INFINITY, 5, 1}, {-3, 7, 2},
                              {-2, 9, 3},        {-INFINITY, 5, 4}, {-1, 2, 5}};
    static const struct {
        double quantile;
        pg_ties ties;
        const char *keep;
    } cases[] = {
        {0.2, PG_TIES_BROKEN, ".#...."}, {0.2, PG_TIES_KEPT, "##..#."},
        {0.2, PG_TIES_DROPPED, "......"}, {0.7, PG_TIES_KEPT, "###.#."},
        {0.7, PG_TIES_DROPPED, "##..#."}, {1, PG_TIES_KEPT, "######"},
        {1, PG_TIES_DROPPED, "#####."},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        pg_rank copy[6];
        uint8_t keep[6];
        memcpy(copy, ranks, sizeof copy);
        options.quantile = cases[i].quantile;
        int64_t kept = pg_select_best(&options, 6, copy, 6, cases[i].ties, keep), count = 0;
        for (int c = 0; c < 6; c++)
            count += keep[c];
        cr_expect_str_eq(show(keep, 6), cases[i].keep, "%zu: %s", i, show(keep, 6));
        cr_expect_eq(kept, count);
    }
}

/* k - 1 channels, and only by the rule whose switch it is. */
Test(select, compat_rules) {
    float gap[WIDE];
    uint8_t keep[WIDE];
    pg_rank ranks[WIDE];
    for (int c = 0; c < WIDE; c++) {
        pg_sample all = pg_channel_stats_all(stats, 1, c);
        gap[c] = (float)(all.mean + c * sqrt(all.variance));
    }
    options.compat = PG_COMPAT_strict;
    cr_assert_eq(pg_select_by_instance(&source, 1, 0, gap, ranks, keep), 2);
    cr_assert_str_eq(show(keep, WIDE), "..........##");
    options.quantile = 1e-3;
    cr_assert_eq(pg_select_by_instance(&source, 1, 0, gap, ranks, keep), 0);
    options.compat = PG_COMPAT_student; /* another rule's */
    cr_assert_eq(pg_select_by_instance(&source, 1, 0, gap, ranks, keep), 1);
}

Test(select, fewer_alive_than_wanted) {
    pg_rank ranks[2] = {{-3, 1, 4}, {-1, 1, 0}};
    uint8_t keep[10];
    options.quantile = 0.5;
    cr_assert_eq(pg_select_best(&options, 10, ranks, 2, PG_TIES_BROKEN, keep), 2);
    cr_assert_str_eq(show(keep, 10), "#...#.....");
    cr_assert_eq(pg_select_best(&options, 10, ranks, 0, PG_TIES_BROKEN, keep), 0);
}

Test(select, random_is_a_function_of_the_seed) {
    uint8_t a[WIDE], b[WIDE];
    pg_rank ranks[WIDE];
    int64_t differ = 0, sums[WIDE] = {0};
    for (options.seed = 0; options.seed < 400; options.seed++) {
        cr_assert_eq(pg_select_at_random(&source, 0, 0, NULL, ranks, a), 3);
        pg_select_at_random(&source, 0, 2, NULL, ranks, b);
        cr_assert_eq(memcmp(a, b, WIDE), 0);
        pg_select_at_random(&source, 1, 0, NULL, ranks, b);
        differ += memcmp(a, b, WIDE) != 0;
        for (int c = 0; c < WIDE; c++)
            sums[c] += a[c];
    }
    cr_assert(differ > 380);
    for (int c = 0; c < WIDE; c++) /* 100 expected, standard deviation 8.7 */
        cr_assert(sums[c] > 60 && sums[c] < 140, "channel %d: %d", c, (int)sums[c]);
}

Test(select, list_by_glob_and_output) {
    const int64_t some[] = {3, 11, 3}, bad[] = {12};
    pg_channel_list lists[2] = {{"/features/*", some, 3}, {"c2", some, 1}};
    uint8_t keep[WIDE];
    pg_diag diag = {""};
    options.select = PG_SELECT_LIST;
    cr_assert_eq(pg_select_list_check(&source, &diag), PG_ECONFIG);
    options.lists = lists;
    options.n_lists = 2;
    cr_assert_eq(pg_select_list_check(&source, &diag), PG_OK);
    cr_assert_eq(pg_select_by_list(&source, 0, 0, NULL, NULL, keep), 2);
    cr_assert_str_eq(show(keep, WIDE), "...#.......#");
    cr_assert_eq(pg_select_by_list(&source, 2, 0, NULL, NULL, keep), 1);
    lists[1].channels = bad;
    cr_assert_eq(pg_select_list_check(&source, &diag), PG_ECONFIG);
    cr_assert(strstr(diag.text, "12") && strstr(diag.text, "0 to 11"), "%s", diag.text);
    lists[1].layer = "/feature/3/Conv";
    cr_assert_eq(pg_select_list_check(&source, &diag), PG_ECONFIG);
    cr_assert(strstr(diag.text, "/features/3/Conv"), "%s", diag.text);
}

Test(select, without_statistics_says_what_to_do) {
    pg_selector *s = NULL;
    pg_diag diag = {""};
    source.stats = NULL;
    options.select = PG_SELECT_CLASS;
    cr_assert_eq(pg_selector_create(&source, &s, &diag), PG_ECONFIG);
    cr_assert(strstr(diag.text, "parchgradd calibrate"));
}

static float frame_gap[WIDE];
static const float *gap_of(void *user, int conv) {
    (void)user;
    (void)conv;
    return frame_gap;
}

Test(select, selector_remembers_and_falls_back) {
    pg_selector *s = NULL;
    pg_selection now;
    options.select = PG_SELECT_CLASS;
    cr_assert_eq(pg_selector_create(&source, &s, NULL), PG_OK);
    uint8_t first[N * WIDE];
    pg_selector_run(s, 1, gap_of, NULL, &now);
    cr_assert_str_eq(now.rule, "class");
    cr_assert(now.lasting);
    memcpy(first, now.keep, sizeof first);
    uint64_t before = pg_mem_get_stats().allocations;
    for (int64_t k = 0; k < 4; k++)
        pg_selector_run(s, k, gap_of, NULL, &now);
    cr_assert_neq(memcmp(first, now.keep, sizeof first), 0);
    pg_selector_run(s, 1, gap_of, NULL, &now);
    cr_assert_eq(memcmp(first, now.keep, sizeof first), 0);
    cr_assert_eq(pg_mem_get_stats().allocations, before);
    pg_selector_destroy(&s);

    pg_channel_stats_destroy(&stats); /* class 3 is seen once, too little to be tested */
    pg_channel_stats_create(convs, N, CLASSES, digest, &stats, NULL);
    add(0, 4);
    source.stats = stats;
    cr_assert_eq(pg_selector_create(&source, &s, NULL), PG_OK);
    pg_selector_run(s, 3, gap_of, NULL, &now);
    cr_assert_str_eq(now.rule, "instance");
    cr_assert(!now.lasting, "the mask is this frame's");
    pg_selector_destroy(&s);
}

static int64_t expected(pg_select select, int layer) {
    options.select = select;
    return pg_select_expects(&source, layer);
}

Test(select, reads_the_frame_where_a_class_has_no_test) {
    static const struct {
        pg_select select;
        int64_t classes;
        bool reads;
    } cases[] = {{PG_SELECT_CLASS, CLASSES, false},   {PG_SELECT_CLASS, CLASSES + 1, true},
                 {PG_SELECT_INSTANCE, CLASSES, true}, {PG_SELECT_LIST, CLASSES + 1, false},
                 {PG_SELECT_RANDOM, CLASSES, false},  {PG_SELECT_NONE, CLASSES, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        options.select = cases[i].select;
        cr_assert_eq(pg_select_reads_gap(&source, cases[i].classes), cases[i].reads, "case %zu", i);
    }
}

Test(select, expects_what_a_frame_will_keep) {
    const int64_t channels[] = {2, 5, 7, 2};
    const pg_channel_list list = {"c1", channels, 4};
    options.lists = &list;
    options.n_lists = 1;
    for (int use_level = 0; use_level < 2; use_level++) {
        options.use_level = use_level;
        options.level = 0.05;
        options.quantile = 0.5;
        cr_assert_eq(expected(PG_SELECT_CLASS, 0), use_level ? 3 : 6);
        cr_assert_eq(expected(PG_SELECT_INSTANCE, 2), use_level ? 3 : 6);
        cr_assert_eq(expected(PG_SELECT_RANDOM, 1), 6, "there is no p to compare with a level");
        cr_assert_eq(expected(PG_SELECT_LIST, 1), 4, "at most: one is named twice");
        cr_assert_eq(expected(PG_SELECT_LIST, 0), 0);
        cr_assert_eq(expected(PG_SELECT_NONE, 0), WIDE);
    }
}

static pg_err choose(pg_layers *out, pg_diag *diag) {
    *diag = (pg_diag){""};
    return pg_layers_choose(&options, convs, N, out, diag);
}

Test(select, layers) {
    pg_layers l;
    pg_diag diag;
    options.layers_ratio = -1;
    options.layers_default = true;
    cr_assert_eq(choose(&l, &diag), PG_OK);
    cr_assert(l.count == 1 && l.convs[0] == 2 && l.channels == WIDE); /* floor(3 / 2) */
    pg_layers_free(&l);
    options.layers_default = false;
    options.layers_ratio = 0.7; /* floor(2.1) */
    cr_assert_eq(choose(&l, &diag), PG_OK);
    cr_assert(l.count == 2 && l.convs[0] == 1 && l.offset[1] == WIDE);
    pg_layers_free(&l);
    options.layers_ratio = 1.5;
    cr_assert_eq(choose(&l, &diag), PG_ECONFIG);
    options.layers_ratio = -1;
    const char *names[] = {"/head[0]/Conv", "c0"}; /* brackets are meant literally too */
    options.layers = (pg_string_list){names, 2};
    cr_assert_eq(choose(&l, &diag), PG_OK);
    cr_assert(l.count == 2 && l.convs[0] == 0 && l.convs[1] == 2);
    pg_layers_free(&l);
    names[1] = "/features/4/*";
    cr_assert_eq(choose(&l, &diag), PG_ECONFIG);
    cr_assert(strstr(diag.text, "/features/4/*") && strstr(diag.text, "/features/3/Conv"));
}
