/* What a deadline leaves time for, on a clock that the test turns. Passes themselves are tried with
 * models, in tests/e2e. */
#include <criterion/criterion.h>

#include <limits.h>

#include "pipeline/pass.h"

static uint64_t clock_ns;
static uint64_t now(void) { return clock_ns; }

static const pg_cost both = {.forwards = 1, .backwards = 1}, forward = {.forwards = 1};

Test(pass, steps_that_fit) {
    pg_pass pass = {.now = now, .deadline = 1000000, .forward_ns = 10000, .backward_ns = 20000};
    clock_ns = 0;
    cr_expect_eq(pg_pass_fit(&pass, both), 33);
    cr_expect_eq(pg_pass_fit(&pass, forward), 100);
    cr_expect_eq(pg_pass_fit(&pass, (pg_cost){.forwards = 0.5}), 200);
    clock_ns = 970000;
    cr_expect_eq(pg_pass_fit(&pass, both), 1);
    clock_ns = 970001;
    cr_expect_eq(pg_pass_fit(&pass, both), 0);
    cr_expect_eq(pg_pass_fit(&pass, forward), 2);
    clock_ns = 2000000;
    cr_expect_eq(pg_pass_fit(&pass, both), 0);
}

Test(pass, nothing_known_or_asked) {
    pg_pass pass = {.now = now, .forward_ns = 10000};
    clock_ns = 0;
    cr_expect_eq(pg_pass_fit(&pass, both), INT_MAX, "no deadline");
    pass.deadline = 300000;
    cr_expect_eq(pg_pass_fit(&pass, both), 10, "no backward yet: twice a forward");
    cr_expect_eq(pg_pass_fit(&pass, (pg_cost){.forwards = 1e-9}), INT_MAX);
    pass.now = NULL;
    cr_expect_eq(pg_pass_fit(&pass, both), INT_MAX, "no clock");
}

static int seen_done, seen_planned;
static void watch(void *user, int done, int planned) {
    *(int *)user += 1;
    seen_done = done;
    seen_planned = planned;
}

Test(pass, progress_reaches_whoever_watches) {
    int calls = 0;
    pg_pass pass = {.progress = watch, .progress_user = &calls};
    pg_pass_progress(&pass, 3, 9);
    cr_expect(calls == 1 && seen_done == 3 && seen_planned == 9);
    pass.progress = NULL;
    pg_pass_progress(&pass, 4, 9);
    cr_expect_eq(calls, 1);
}
