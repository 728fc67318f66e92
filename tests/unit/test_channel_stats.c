#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/mem.h"
#include "pipeline/channel_stats.h"
#include "pipeline/file_io.h"
#include "pipeline/sha256.h"

enum { CLASSES = 5 };
static const pg_conv_info convs[2] = {{.name = "/a/Conv", .channels = 3},
                                      {.name = "b", .channels = 2}};
static const uint8_t digest[32] = {1, 2, 3};
static char path[64];

static void set_up(void) { snprintf(path, sizeof path, "/tmp/test_stats.%d", (int)getpid()); }
static void tear_down(void) { unlink(path); }
TestSuite(channel_stats, .init = set_up, .fini = tear_down);

static pg_channel_stats *make(void) {
    pg_channel_stats *s = NULL;
    cr_assert_eq(pg_channel_stats_create(convs, 2, CLASSES, digest, &s, NULL), PG_OK);
    return s;
}

/* Sample i: class i mod 3 + (i mod 7 == 0), values that differ by class; channel 2 never varies. */
static int64_t class_of(int i) { return i % 3 + (i % 7 == 0); }
static float value_of(int i, int channel) {
    if (channel == 2)
        return 0.3f;
    return 1000.f + (float)((i * 37 + channel * 11) % 101) / 64 + (float)class_of(i) * 0.5f;
}

static void add(pg_channel_stats *s, int from, int to) {
    for (int i = from; i < to; i++) {
        float a[3], b[2];
        for (int c = 0; c < 3; c++)
            a[c] = value_of(i, c);
        for (int c = 0; c < 2; c++)
            b[c] = value_of(i, 3 + c);
        const float *gaps[2] = {a, b};
        cr_assert_eq(pg_channel_stats_add(s, class_of(i), gaps, NULL), PG_OK);
    }
}

/* Two passes over the same values: who = class, or -1 all, or -2 - class all others. */
static pg_sample by_hand(int n, int channel, int who) {
    double count = 0, sum = 0, squares = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < n; i++) {
            bool in = who == -1 || (who >= 0 ? class_of(i) == who : class_of(i) != -2 - who);
            if (in && pass == 0) {
                count++;
                sum += (double)value_of(i, channel);
            } else if (in) {
                double d = (double)value_of(i, channel) - sum / count;
                squares += d * d;
            }
        }
    return (pg_sample){count, count > 0 ? sum / count : 0, count > 1 ? squares / (count - 1) : 0};
}

static void expect(pg_sample got, pg_sample want, const char *what) {
    cr_assert_eq(got.count, want.count, "%s", what);
    cr_assert(fabs(got.mean - want.mean) <= 1e-12 * fabs(want.mean), "%s", what);
    cr_assert(fabs(got.variance - want.variance) <= 1e-9 * want.variance, "%s: %.17g not %.17g",
              what, got.variance, want.variance);
}

static void expect_all(const pg_channel_stats *s, int n) {
    for (int channel = 0; channel < 5; channel++) {
        int conv = channel >= 3, c = conv ? channel - 3 : channel;
        expect(pg_channel_stats_all(s, conv, c), by_hand(n, channel, -1), "all");
        for (int k = 0; k < CLASSES; k++) {
            expect(pg_channel_stats_class(s, k, conv, c), by_hand(n, channel, k), "class");
            expect(pg_channel_stats_rest(s, k, conv, c), by_hand(n, channel, -2 - k), "rest");
        }
    }
    cr_assert_eq(pg_channel_stats_count(s, -1), (uint64_t)n);
}

Test(channel_stats, mean_and_variance) {
    pg_channel_stats *s = make();
    add(s, 0, 500);
    cr_assert_eq(pg_channel_stats_seal(s, NULL), PG_OK);
    expect_all(s, 500);
    cr_assert_eq(pg_channel_stats_all(s, 0, 2).variance, 0, "a constant has no spread at all");
    pg_channel_stats_destroy(&s);
}

/* The class holds nearly all of the spread: all minus class would leave nothing but rounding. */
Test(channel_stats, rest_survives_cancellation) {
    pg_channel_stats *s = make();
    for (int i = 0; i < 40; i++) {
        float a[3] = {i < 20 ? 1e5f * (float)(i % 5) : 1 + (float)(i % 2) / 1024, 0, 0}, b[2] = {0};
        const float *gaps[2] = {a, b};
        cr_assert_eq(pg_channel_stats_add(s, i < 20 ? 0 : 1 + i % 2, gaps, NULL), PG_OK);
    }
    pg_channel_stats_seal(s, NULL);
    pg_sample rest = pg_channel_stats_rest(s, 0, 0, 0);
    double d = 0.5 / 1024;
    cr_assert_eq(rest.count, 20);
    cr_assert(fabs(rest.mean - (1 + d)) < 1e-12);
    cr_assert(fabs(rest.variance - d * d * 20 / 19) < 1e-9 * d * d);
    pg_channel_stats_destroy(&s);
}

Test(channel_stats, merging_is_one_pass) {
    pg_channel_stats *a = make(), *b = make();
    add(a, 0, 123);
    add(b, 123, 500);
    cr_assert_eq(pg_channel_stats_merge(a, b, NULL), PG_OK);
    pg_channel_stats_seal(a, NULL);
    expect_all(a, 500);
    pg_channel_stats *other = NULL;
    const uint8_t foreign[32] = {9};
    pg_channel_stats_create(convs, 2, CLASSES, foreign, &other, NULL);
    cr_assert_eq(pg_channel_stats_merge(a, other, NULL), PG_EMODEL);
    pg_channel_stats_destroy(&a);
    pg_channel_stats_destroy(&b);
    pg_channel_stats_destroy(&other);
}

Test(channel_stats, refuses_what_is_not_finite) {
    pg_channel_stats *s = make();
    float a[3] = {1, 2, 3}, b[2] = {4, NAN};
    const float *gaps[2] = {a, b};
    cr_assert_eq(pg_channel_stats_add(s, 0, gaps, NULL), PG_EINPUT);
    cr_assert_eq(pg_channel_stats_count(s, 0), 0);
    pg_channel_stats_destroy(&s);
}

/* ---- the file ---- */

static uint8_t *written(size_t *size) {
    pg_channel_stats *s = make();
    add(s, 0, 50);
    cr_assert_eq(pg_channel_stats_save(s, path, NULL), PG_OK);
    pg_channel_stats_destroy(&s);
    uint8_t *data = NULL;
    cr_assert_eq(pg_file_read(path, 1 << 20, &data, size, NULL), PG_OK);
    return data;
}

static pg_err load(const uint8_t *data, size_t size, pg_diag *diag) {
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(data, 1, size, f) == size && fclose(f) == 0);
    pg_channel_stats *s = NULL;
    *diag = (pg_diag){""};
    pg_err err = pg_channel_stats_load(path, &s, NULL, diag);
    cr_assert((err == PG_OK) == (s != NULL));
    pg_channel_stats_destroy(&s);
    return err;
}

Test(channel_stats, file_keeps_everything) {
    size_t size;
    uint8_t *data = written(&size), sha[32], want[32];
    pg_channel_stats *s = NULL;
    cr_assert_eq(pg_channel_stats_load(path, &s, sha, NULL), PG_OK);
    expect_all(s, 50);
    pg_sha256_of(data, size, want);
    cr_assert_eq(memcmp(sha, want, 32), 0);
    pg_channel_stats_destroy(&s);
    pg_free(data);
}

Test(channel_stats, cut_at_every_byte) {
    size_t size;
    uint8_t *data = written(&size);
    pg_diag diag;
    for (size_t n = 0; n < size; n++) {
        cr_assert_eq(load(data, n, &diag), PG_EMODEL, "cut at %zu", n);
        cr_assert(strstr(diag.text, "cut"), "cut at %zu: %s", n, diag.text);
        cr_assert(strstr(diag.text, path));
    }
    cr_assert_eq(load(data, size, &diag), PG_OK);
    pg_free(data);
}

Test(channel_stats, every_bit_flipped) {
    size_t size;
    uint8_t *data = written(&size);
    pg_diag diag;
    for (size_t bit = 0; bit < 8 * size; bit++) {
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        cr_assert_eq(load(data, size, &diag), PG_EMODEL, "bit %zu", bit);
        if (bit / 8 >= 32)
            cr_assert(strstr(diag.text, "checksum"), "bit %zu: %s", bit, diag.text);
        data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    pg_free(data);
}

static void sign(uint8_t *data, size_t size) { pg_sha256_of(data, size - 32, data + size - 32); }

Test(channel_stats, says_what_is_wrong) {
    size_t size;
    uint8_t *data = written(&size), *longer = pg_calloc(size + 1, 1);
    pg_diag diag;
    memcpy(longer, data, size);
    cr_assert_eq(load(longer, size + 1, &diag), PG_EMODEL);
    cr_assert(strstr(diag.text, "damaged"));
    cr_assert_eq(load((const uint8_t *)"\x89PNG\r\n\x1a\n 0123456789", 20, &diag), PG_EMODEL);
    cr_assert(strstr(diag.text, "not a statistics file"));
    data[8] = 2;
    sign(data, size);
    cr_assert_eq(load(data, size, &diag), PG_EMODEL);
    cr_assert(strstr(diag.text, "newer"), "%s", diag.text);
    data[8] = 1;
    sign(data, size);
    cr_assert_eq(load(data, size, &diag), PG_OK);
    /* a right checksum over wrong numbers: every header field and the first rows at their ends */
    for (size_t i = 12; i < 200 && i + 4 < size - 32; i++) {
        uint8_t kept[4];
        memcpy(kept, data + i, 4);
        if (i >= 16 && i < 24)
            continue;
        memset(data + i, 0xff, 4);
        sign(data, size);
        load(data, size, &diag);
        memcpy(data + i, kept, 4);
    }
    cr_assert_eq(unlink(path), 0);
    pg_channel_stats *s = NULL;
    cr_assert_eq(pg_channel_stats_load(path, &s, NULL, &diag), PG_ECONFIG);
    pg_free(data);
    pg_free(longer);
}

Test(channel_stats, of_another_model) {
    pg_channel_stats *s = make();
    pg_model_info info = {.classes = CLASSES, .n_convs = 2, .convs = convs, .sha256_hex = "ff"};
    pg_diag diag = {""};
    cr_assert_eq(pg_channel_stats_check_model(s, &info, &diag), PG_EMODEL);
    cr_assert(strstr(diag.text, "another model"));
    memcpy(info.sha256, digest, 32);
    cr_assert_eq(pg_channel_stats_check_model(s, &info, &diag), PG_OK);
    info.n_convs = 1;
    cr_assert_eq(pg_channel_stats_check_model(s, &info, &diag), PG_EMODEL);
    pg_channel_stats_destroy(&s);
}

Test(channel_stats, no_memory_at_any_call) {
    size_t size;
    pg_free(written(&size));
    for (int n = 0; n < 40; n++) {
        pg_channel_stats *s = NULL;
        uint64_t before = pg_mem_get_stats().live_blocks;
        pg_mem_fail(n, 1);
        pg_err err = pg_channel_stats_load(path, &s, NULL, NULL);
        pg_mem_fail(0, 0);
        cr_assert((err == PG_OK) == (s != NULL));
        pg_channel_stats_destroy(&s);
        cr_assert_eq(pg_mem_get_stats().live_blocks, before);
        if (err == PG_OK)
            return;
    }
    cr_assert_fail("never succeeds");
}
