/* All heap memory of the program comes from here: aligned, counted, and able to fail on command.
 *
 * The counters are what the promise "no allocation per frame after warm-up" is measured with; the
 * fault hook is how tests reach the out-of-memory paths. Thread-safe.
 */
#ifndef PG_KERNELS_MEM_H
#define PG_KERNELS_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { PG_MEM_ALIGN = 64 }; /* one cache line, one AVX-512 register */

/* Returns `size` bytes aligned to PG_MEM_ALIGN, or NULL. A size of 0 returns a unique pointer. The
 * caller owns the block and gives it back with pg_free. Contents: undefined / zero. */
void *pg_malloc(size_t size);
void *pg_calloc(size_t count, size_t size); /* NULL also when count * size overflows */

/* Grows or shrinks a block (NULL: allocates), keeping min(old, new) bytes. On failure returns NULL
 * and the old block stays valid. */
void *pg_realloc(void *block, size_t size);

/* Returns a copy of the string, or NULL. */
char *pg_strdup(const char *text);
char *pg_strndup(const char *text, size_t length); /* copies `length` bytes and terminates */

/* Gives a block back. NULL is allowed. */
void pg_free(void *block);

/* Hands pages that hold nothing but freed blocks back to the system, which the C library keeps for
 * later. Worth its milliseconds after work that took much more than stays. */
void pg_mem_trim(void);

/* What has been asked of this module since the program started. */
typedef struct pg_mem_stats {
    uint64_t allocations; /* successful pg_malloc, pg_calloc, pg_realloc, pg_strdup calls */
    uint64_t live_blocks; /* not yet freed */
    uint64_t live_bytes;  /* as asked for, without headers */
    uint64_t peak_bytes;
} pg_mem_stats;
pg_mem_stats pg_mem_get_stats(void);

/* Test hook: from now on peak_bytes is the peak since this call. */
void pg_mem_reset_peak(void);

/* A budget for what the calling thread takes and does not give back: beyond it, its allocations
 * return NULL like any that fail. This is how reading a hostile file is bounded, whatever the file
 * makes us build. `more` raises a running budget; `end` ends it, returns what is left and tells
 * whether anything was refused. One at a time. */
void pg_mem_budget_begin(size_t bytes);
void pg_mem_budget_more(size_t bytes);
size_t pg_mem_budget_end(bool *exceeded);

/* Test hook: lets the next `after` allocations succeed, then makes `count` of them return NULL
 * (count < 0: all of them). pg_mem_fail(0, 0) switches it off. */
void pg_mem_fail(int64_t after, int64_t count);

#endif
