/* The counters: the accounting equation at every scrape, and the text format. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/metrics.h"

static uint64_t total_dropped(const pg_counts *c) {
    uint64_t sum = 0;
    for (int r = 0; r < PG_DROP_COUNT; r++)
        sum += c->dropped[r];
    return sum;
}

typedef struct load {
    pg_metrics *metrics;
    pg_counters *counters;
    _Atomic bool stop;
} load;

static void *work(void *argument) {
    load *l = argument;
    const uint64_t timing[PG_STAGE_COUNT] = {1000, 2000};
    for (uint64_t i = 0; !atomic_load(&l->stop); i++) {
        pg_metrics_received(l->metrics, l->counters, 1);
        if (i % 3 == 0)
            pg_metrics_dropped(l->metrics, l->counters, PG_DROP_STALE);
        else
            pg_metrics_published(l->metrics, l->counters, 5000000, timing);
    }
    return NULL;
}

/* Value of the sample that starts with `sample`. */
static double sample(const char *text, const char *name) {
    const char *at = text;
    while ((at = strstr(at, name)) != NULL && at != text && at[-1] != '\n')
        at++;
    return at == NULL ? -1 : atof(at + strlen(name));
}

Test(metrics, equation_holds_at_every_scrape_under_load) {
    load l = {0};
    cr_assert_eq(pg_metrics_create(&l.metrics, NULL), PG_OK);
    l.counters = pg_metrics_open(l.metrics, "cam \"0\"");
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, work, &l);
    pg_text text = {0};
    for (int i = 0; i < 200; i++) {
        pg_counts c;
        pg_metrics_read(l.metrics, l.counters, &c);
        cr_expect_eq(c.received, c.published + total_dropped(&c) + c.in_flight);
        pg_text_clear(&text);
        pg_metrics_render(l.metrics, &text);
        double received = sample(text.data, "parchgradd_frames_received_total{stream=\"cam \\\"0\\\"\"} ");
        double published = sample(text.data, "parchgradd_frames_published_total{stream=\"cam \\\"0\\\"\"} ");
        double in_flight = sample(text.data, "parchgradd_frames_in_flight{stream=\"cam \\\"0\\\"\"} ");
        double dropped = sample(
            text.data, "parchgradd_frames_dropped_total{stream=\"cam \\\"0\\\"\",reason=\"stale\"} ");
        cr_expect_geq(received, 0);
        cr_expect_eq(received, published + in_flight + (dropped < 0 ? 0 : dropped));
    }
    atomic_store(&l.stop, true);
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    pg_text_free(&text);
    pg_metrics_destroy(&l.metrics);
}

Test(metrics, histogram_is_cumulative_and_complete) {
    pg_metrics *m;
    cr_assert_eq(pg_metrics_create(&m, NULL), PG_OK);
    pg_counters *c = pg_metrics_open(m, "cam0");
    const uint64_t ages[] = {50000, 30000000, 40000000, UINT64_C(30000000000)};
    for (int i = 0; i < 4; i++) {
        const uint64_t timing[PG_STAGE_COUNT] = {[PG_STAGE_FORWARD] = 50000000};
        pg_metrics_received(m, c, 1);
        pg_metrics_published(m, c, ages[i], timing);
    }
    pg_text text = {0};
    pg_metrics_render(m, &text);
    const char *name = "parchgradd_frame_age_seconds_bucket{le=\"";
    char wanted[128];
    snprintf(wanted, sizeof wanted, "%s0.025\"} ", name);
    cr_expect_eq(sample(text.data, wanted), 1);
    snprintf(wanted, sizeof wanted, "%s0.05\"} ", name);
    cr_expect_eq(sample(text.data, wanted), 3);
    snprintf(wanted, sizeof wanted, "%s+Inf\"} ", name);
    cr_expect_eq(sample(text.data, wanted), 4);
    cr_expect_eq(sample(text.data, "parchgradd_stage_duration_seconds_bucket{stage=\"forward\",le=\"0.05\"} "), 4);
    cr_expect_eq(sample(text.data, "parchgradd_stage_duration_seconds_bucket{stage=\"forward\",le=\"0.025\"} "), 0);
    cr_expect_geq(sample(text.data, "process_resident_memory_bytes "), 1e6);
    pg_text_free(&text);
    pg_metrics_destroy(&m);
}

Test(metrics, a_stream_that_leaves_takes_nothing_from_the_totals) {
    pg_metrics *m;
    cr_assert_eq(pg_metrics_create(&m, NULL), PG_OK);
    pg_counters *c = pg_metrics_open(m, "gone");
    pg_metrics_received(m, c, 1);
    pg_metrics_dropped(m, c, PG_DROP_MALFORMED);
    pg_metrics_gap(m, c, 7);
    pg_metrics_close(m, &c);
    pg_counts other;
    pg_metrics_read(m, pg_metrics_other(m), &other);
    cr_expect(other.received == 1 && other.dropped[PG_DROP_MALFORMED] == 1 && other.gap == 7);
    pg_text text = {0};
    pg_metrics_render_final(m, &text);
    cr_expect_null(strstr(text.data, "gone"));
    cr_expect_not_null(strstr(text.data, "\"dropped\": {"));
    cr_expect_not_null(strstr(text.data, "\"_other\": {\"malformed\": 1}"));
    pg_text_free(&text);
    pg_metrics_destroy(&m);
}
