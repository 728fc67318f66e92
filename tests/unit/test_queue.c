/* Policies, fairness, order, limits and accounting of the queue. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/queue.h"
#include "kernels/mem.h"

typedef struct fixture {
    pg_config config;
    pg_metrics *metrics;
    pg_live *live;
    pg_queue *queue;
} fixture;

static fixture make(pg_policy policy, int depth, int workers) {
    fixture f = {.config = {.workers = workers,
                            .stream_default = {.policy = policy, .depth = depth, .target = "", .method = ""},
                            .publish = {.bind = ""},
                            .rpc = {.bind = "x", .depth = 2},
                            .limits = {.streams = 3, .stream_idle = 600}}};
    return f;
}

static void open_fixture(fixture *f) {
    cr_assert_eq(pg_metrics_create(&f->metrics, NULL), PG_OK);
    cr_assert_eq(pg_live_create(f->metrics, &f->live, NULL), PG_OK);
    cr_assert_eq(pg_queue_create(&f->config, f->metrics, f->live, 4, &f->queue, NULL), PG_OK);
}

static void close_fixture(fixture *f) {
    pg_queue_destroy(&f->queue);
    pg_live_destroy(&f->live);
    pg_metrics_destroy(&f->metrics);
}

static pg_drop push_at(fixture *f, const char *stream, uint64_t seq, int64_t ts, bool request,
                       uint8_t boot) {
    static _Atomic uint64_t beat;
    pg_message *m = pg_queue_take(f->queue);
    m->frame = (pg_frame){.seq = seq, .ts_ns = ts, .arrival_ns = pg_clock_wall(), .boot = {boot}};
    snprintf(m->frame.stream, sizeof m->frame.stream, "%s", stream);
    m->reply.wanted = request;
    pg_drop drop = pg_queue_push(f->queue, m, PG_DROP_NONE, true, &beat);
    if (drop != PG_DROP_NONE)
        pg_queue_give(f->queue, m);
    return drop;
}

static pg_drop push(fixture *f, const char *stream, uint64_t seq) {
    return push_at(f, stream, seq, pg_clock_wall(), false, 1);
}

/* Pops one frame; its seq, or UINT64_MAX for none. */
static uint64_t pop(fixture *f, int worker, pg_result **slot, char *stream) {
    pg_message *m = pg_queue_pop(f->queue, worker, 0, slot);
    if (m == NULL)
        return UINT64_MAX;
    uint64_t seq = m->frame.seq;
    (*slot)->facts.seq = seq;
    if (stream != NULL)
        strcpy(stream, m->frame.stream);
    pg_queue_give(f->queue, m);
    return seq;
}

/* One figure of the final line's lists: which = "received", "published", ... */
static uint64_t metric(fixture *f, const char *sample) {
    pg_text text = {0};
    pg_metrics_render(f->metrics, &text);
    const char *at = strstr(text.data, sample);
    unsigned long long n = 0;
    if (at != NULL)
        sscanf(at + strlen(sample), " %llu", &n);
    pg_text_free(&text);
    return n;
}

Test(queue, newest_replaces_what_waits) {
    fixture f = make(PG_POLICY_NEWEST, 8, 1);
    open_fixture(&f);
    for (uint64_t seq = 0; seq < 5; seq++)
        cr_expect_eq(push(&f, "cam0", seq), PG_DROP_NONE);
    pg_result *slot;
    cr_expect_eq(pop(&f, 0, &slot, NULL), 4);
    cr_expect_eq(metric(&f, "dropped_total{stream=\"cam0\",reason=\"superseded\"}"), 4);
    cr_expect_eq(metric(&f, "in_flight{stream=\"cam0\"}"), 1);
    pg_queue_fail(f.queue, slot, PG_DROP_INFER_ERROR);
    cr_expect_eq(metric(&f, "in_flight{stream=\"cam0\"}"), 0);
    close_fixture(&f);
}

Test(queue, fifo_drops_the_oldest) {
    fixture f = make(PG_POLICY_FIFO, 3, 1);
    open_fixture(&f);
    for (uint64_t seq = 0; seq < 5; seq++)
        push(&f, "cam0", seq);
    pg_result *slot;
    for (uint64_t seq = 2; seq < 5; seq++) {
        cr_expect_eq(pop(&f, 0, &slot, NULL), seq);
        pg_queue_finish(f.queue, slot);
        pg_queue_done(f.queue, pg_queue_next(f.queue, 0), 0);
    }
    cr_expect_eq(metric(&f, "reason=\"queue_full\"}"), 2);
    cr_expect_eq(metric(&f, "published_total{stream=\"cam0\"}"), 3);
    close_fixture(&f);
}

static void *push_blocked(void *argument) {
    fixture *f = argument;
    for (uint64_t seq = 0; seq < 20; seq++)
        push(f, "cam0", seq);
    return NULL;
}

Test(queue, block_loses_nothing, .timeout = 20) {
    fixture f = make(PG_POLICY_BLOCK, 2, 1);
    open_fixture(&f);
    pthread_t thread;
    pthread_create(&thread, NULL, push_blocked, &f);
    for (uint64_t seq = 0; seq < 20; seq++) {
        pg_result *slot;
        pg_message *m = NULL;
        while (m == NULL)
            m = pg_queue_pop(f.queue, 0, 100, &slot);
        cr_expect_eq(m->frame.seq, seq);
        pg_queue_give(f.queue, m);
        pg_queue_finish(f.queue, slot);
        pg_queue_done(f.queue, pg_queue_next(f.queue, 0), 0);
    }
    pthread_join(thread, NULL);
    cr_expect_eq(metric(&f, "published_total{stream=\"cam0\"}"), 20);
    close_fixture(&f);
}

Test(queue, closing_wakes_a_blocked_receiver, .timeout = 20) {
    fixture f = make(PG_POLICY_BLOCK, 2, 1);
    open_fixture(&f);
    pthread_t thread;
    pthread_create(&thread, NULL, push_blocked, &f);
    usleep(50000);
    pg_queue_close(f.queue);
    pthread_join(thread, NULL);
    cr_expect_eq(metric(&f, "reason=\"draining\"}"), 18);
    close_fixture(&f);
}

Test(queue, streams_take_turns) {
    fixture f = make(PG_POLICY_FIFO, 8, 4);
    open_fixture(&f);
    for (uint64_t seq = 0; seq < 4; seq++)
        push(&f, "loud", seq);
    push(&f, "quiet", 0);
    char first[129], second[129];
    pg_result *slot;
    pop(&f, 0, &slot, first);
    pop(&f, 1, &slot, second);
    cr_expect_str_eq(first, "loud");
    cr_expect_str_eq(second, "quiet");
    close_fixture(&f);
}

Test(queue, results_leave_in_order_of_acceptance) {
    fixture f = make(PG_POLICY_FIFO, 8, 3);
    open_fixture(&f);
    for (uint64_t seq = 0; seq < 4; seq++)
        push(&f, "cam0", seq);
    pg_result *slot[4];
    for (int i = 0; i < 4; i++)
        cr_expect_eq(pop(&f, i % 3, &slot[i], NULL), (uint64_t)i);
    pg_queue_finish(f.queue, slot[3]);
    pg_queue_finish(f.queue, slot[1]);
    cr_expect_null(pg_queue_next(f.queue, 0), "0 is not done");
    pg_queue_finish(f.queue, slot[0]);
    cr_expect_eq(pg_queue_next(f.queue, 0), slot[0]);
    cr_expect_eq(pg_queue_next(f.queue, 0), slot[1]);
    cr_expect_null(pg_queue_next(f.queue, 0), "2 is not done");
    pg_queue_fail(f.queue, slot[2], PG_DROP_INFER_ERROR);
    cr_expect_eq(pg_queue_next(f.queue, 0), slot[3]);
    close_fixture(&f);
}

Test(queue, a_worker_waits_for_a_free_slot) {
    fixture f = make(PG_POLICY_FIFO, 8, 1);
    open_fixture(&f);
    for (uint64_t seq = 0; seq < 3; seq++)
        push(&f, "cam0", seq);
    pg_result *slot;
    cr_expect_eq(pop(&f, 0, &slot, NULL), 0);
    pg_queue_finish(f.queue, slot);
    cr_expect_eq(pop(&f, 0, &slot, NULL), 1);
    cr_expect_eq(pop(&f, 0, &slot, NULL), UINT64_MAX, "both slots are taken");
    pg_queue_done(f.queue, pg_queue_next(f.queue, 0), 0);
    cr_expect_eq(pop(&f, 0, &slot, NULL), 2);
    close_fixture(&f);
}

Test(queue, old_frames_are_stale_and_future_ones_count_from_arrival) {
    fixture f = make(PG_POLICY_FIFO, 8, 1);
    f.config.stream_default.max_age = 0.5;
    open_fixture(&f);
    int64_t now = pg_clock_wall();
    push_at(&f, "cam0", 0, now - 2000000000, false, 1);
    push_at(&f, "cam0", 1, now + 60000000000, false, 1);
    pg_result *slot;
    cr_expect_eq(pop(&f, 0, &slot, NULL), UINT64_MAX);
    cr_expect_eq(pop(&f, 0, &slot, NULL), 1);
    cr_expect_leq(slot->base_ns, pg_clock_wall());
    cr_expect_eq(metric(&f, "reason=\"stale\"}"), 1);
    cr_expect_eq(metric(&f, "clock_skew_total{stream=\"cam0\"}"), 1);
    close_fixture(&f);
}

Test(queue, sequence_numbers_gaps_and_boots) {
    fixture f = make(PG_POLICY_FIFO, 8, 1);
    open_fixture(&f);
    int64_t now = pg_clock_wall();
    cr_expect_eq(push(&f, "cam0", 100), PG_DROP_NONE, "the first makes no gap");
    cr_expect_eq(push(&f, "cam0", 103), PG_DROP_NONE);
    cr_expect_eq(metric(&f, "gap_total{stream=\"cam0\"}"), 2);
    cr_expect_eq(push(&f, "cam0", 103), PG_DROP_OUT_OF_ORDER);
    cr_expect_eq(push(&f, "cam0", 50), PG_DROP_OUT_OF_ORDER);
    cr_expect_eq(push(&f, "cam0", 103 + (UINT64_C(1) << 32)), PG_DROP_NONE);
    cr_expect_eq(metric(&f, "gap_total{stream=\"cam0\"}"), 2, "a jump, not a loss");
    cr_expect_eq(push_at(&f, "cam0", 0, now, false, 2), PG_DROP_NONE, "a new boot starts anew");
    cr_expect_eq(push(&f, "cam0", 104), PG_DROP_OUT_OF_ORDER, "the old boot is not forgotten");
    cr_expect_eq(push_at(&f, "cam0", 3, now, false, 2), PG_DROP_NONE);
    cr_expect_eq(metric(&f, "gap_total{stream=\"cam0\"}"), 4, "2 more of the new boot");
    cr_expect_eq(push_at(&f, "cam0", 0, now, true, 2), PG_DROP_NONE, "requests have no order");
    close_fixture(&f);
}

Test(queue, further_streams_find_no_place) {
    fixture f = make(PG_POLICY_NEWEST, 8, 1);
    open_fixture(&f);
    cr_expect_eq(push(&f, "a", 0), PG_DROP_NONE);
    cr_expect_eq(push(&f, "b", 0), PG_DROP_NONE);
    cr_expect_eq(push(&f, "c", 0), PG_DROP_NONE);
    cr_expect_eq(push(&f, "d", 0), PG_DROP_TOO_MANY_STREAMS);
    cr_expect_eq(metric(&f, "stream=\"_other\",reason=\"too_many_streams\"}"), 1);
    /* with nothing in flight and no patience, the idlest gives its place up */
    pg_result *slot;
    for (int i = 0; i < 3; i++) {
        pop(&f, 0, &slot, NULL);
        pg_queue_fail(f.queue, slot, PG_DROP_INFER_ERROR);
    }
    f.config.limits.stream_idle = -1;
    cr_expect_eq(push(&f, "d", 1), PG_DROP_NONE);
    cr_expect_eq(metric(&f, "received_total{stream=\"_other\"}"), 2, "a's count moved there");
    close_fixture(&f);
}

Test(queue, requests_have_a_queue_of_their_own) {
    fixture f = make(PG_POLICY_NEWEST, 8, 2);
    open_fixture(&f);
    int64_t now = pg_clock_wall();
    push(&f, "cam0", 0);
    cr_expect_eq(push_at(&f, "req", 7, now, true, 1), PG_DROP_NONE);
    cr_expect_eq(push_at(&f, "req", 8, now, true, 1), PG_DROP_NONE);
    cr_expect_eq(push_at(&f, "req", 9, now, true, 1), PG_DROP_QUEUE_FULL);
    pg_result *slot;
    char stream[129];
    int requests = 0;
    for (int i = 0; i < 2; i++) {
        pop(&f, i, &slot, stream);
        requests += strcmp(stream, "req") == 0;
        if (slot->reply.wanted) {
            pg_queue_finish(f.queue, slot);
            cr_expect_eq(pg_queue_next_reply(f.queue), slot);
            pg_queue_done(f.queue, slot, 0);
        }
    }
    cr_expect_eq(requests, 1, "streams and requests take turns");
    pg_queue_close(f.queue);
    pg_queue_abandon(f.queue);
    pg_message *left = pg_queue_take_request(f.queue);
    cr_assert_not_null(left);
    pg_queue_give(f.queue, left);
    cr_expect_eq(metric(&f, "stream=\"req\",reason=\"draining\"}"), 1);
    close_fixture(&f);
}

static pg_result *serve_one(fixture *f, uint64_t seq) {
    pg_result *slot;
    push(f, "cam0", seq);
    cr_assert_eq(pop(f, 0, &slot, NULL), seq);
    cr_assert(pg_wire_buffer_reserve(&slot->header, 100));
    pg_queue_finish(f->queue, slot);
    pg_queue_done(f->queue, pg_queue_next(f->queue, 0), 0);
    return slot;
}

Test(queue, both_buffers_of_a_worker_grow_with_its_first_frames) {
    fixture f = make(PG_POLICY_NEWEST, 8, 1);
    open_fixture(&f);
    cr_expect_neq(serve_one(&f, 0), serve_one(&f, 1));
    uint64_t before = pg_mem_get_stats().allocations;
    for (uint64_t seq = 2; seq < 10; seq++)
        serve_one(&f, seq);
    cr_expect_eq(pg_mem_get_stats().allocations, before);
    close_fixture(&f);
}

Test(queue, nothing_is_allocated_once_the_stream_is_known) {
    fixture f = make(PG_POLICY_NEWEST, 8, 1);
    open_fixture(&f);
    push(&f, "cam0", 0);
    uint64_t before = pg_mem_get_stats().allocations;
    for (uint64_t seq = 1; seq < 1000; seq++) {
        push(&f, "cam0", seq);
        pg_result *slot;
        if (seq % 2 == 0 && pop(&f, 0, &slot, NULL) != UINT64_MAX) {
            pg_queue_finish(f.queue, slot);
            pg_queue_done(f.queue, pg_queue_next(f.queue, 0), 0);
        }
    }
    cr_expect_eq(pg_mem_get_stats().allocations, before);
    close_fixture(&f);
}
