#include <criterion/criterion.h>

#include "kernels/mem.h"
#include "pipeline/plan.h"

static bool meet(const pg_block *a, const pg_block *b) {
    return a->first <= b->last && b->first <= a->last;
}

static void check(const pg_block *blocks, int count, size_t total) {
    for (int i = 0; i < count; i++) {
        cr_assert(blocks[i].offset % PG_MEM_ALIGN == 0);
        cr_assert(blocks[i].offset + blocks[i].bytes <= total);
        for (int k = 0; k < i; k++)
            if (meet(&blocks[i], &blocks[k]))
                cr_assert(blocks[i].offset >= blocks[k].offset + blocks[k].bytes ||
                              blocks[k].offset >= blocks[i].offset + blocks[i].bytes,
                          "blocks %d and %d overlap", k, i);
    }
}

Test(plan, blocks_that_never_meet_share_bytes) {
    pg_block blocks[] = {{1024, 0, 1, 0}, {1024, 1, 2, 0}, {1024, 2, 3, 0}, {1024, 3, 4, 0}};
    size_t total = pg_plan_offsets(blocks, 4);
    cr_assert_eq(total, 2048, "a chain needs two buffers");
    check(blocks, 4, total);
}

Test(plan, a_hole_is_filled_by_the_best_fit) {
    pg_block blocks[] = {{4096, 0, 1, 0}, {64, 0, 9, 0},   {1024, 0, 1, 0},
                         {64, 0, 9, 0},   {1024, 2, 3, 0}, {4096, 2, 3, 0}};
    size_t total = pg_plan_offsets(blocks, 6);
    cr_assert_eq(total, 4096 + 64 + 1024 + 64);
    check(blocks, 6, total);
}

Test(plan, random_lives_never_overlap) {
    enum { COUNT = 400 };
    uint32_t state = 12345;
    for (int round = 0; round < 20; round++) {
        pg_block blocks[COUNT];
        size_t sum = 0;
        for (int i = 0; i < COUNT; i++) {
            state = state * 1664525u + 1013904223u;
            int first = (int)(state >> 8) % 100, length = (int)(state >> 20) % 30;
            blocks[i] = (pg_block){state % 5000, first, first + length, 0};
            sum += blocks[i].bytes + PG_MEM_ALIGN;
        }
        size_t total = pg_plan_offsets(blocks, COUNT);
        cr_assert(total < sum / 2, "nothing was shared");
        check(blocks, COUNT, total);
    }
}

/* Thousands of holes at once, more than the planner remembers: half of the blocks die between
 * neighbours that live on, then small and large ones come. */
Test(plan, more_holes_than_are_remembered) {
    enum { COUNT = 8000 };
    static pg_block blocks[COUNT];
    uint32_t state = 99;
    for (int i = 0; i < COUNT; i++) {
        state = state * 1664525u + 1013904223u;
        int first = i < COUNT / 2 ? 0 : 2 + i % 50;
        blocks[i] = (pg_block){64 + state % 5000, first, first == 0 && i % 2 ? 1 : 60, 0};
    }
    size_t total = pg_plan_offsets(blocks, COUNT);
    check(blocks, COUNT, total);
}
