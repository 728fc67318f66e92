/* A pool: many small allocations with one end. Everything a load reads (names, attributes,
 * constants) is taken from pools, so that every error path frees it with one call. */
#ifndef PG_PIPELINE_POOL_H
#define PG_PIPELINE_POOL_H

#include <stdbool.h>
#include <stddef.h>

struct pg_pool_chunk;

/* Zero-initialise. Not thread-safe. */
typedef struct pg_pool {
    struct pg_pool_chunk *chunks;
    size_t bytes;  /* taken from the heap */
    size_t limit;  /* of bytes; 0: none */
    bool exceeded; /* a request was refused because of it */
} pg_pool;

/* Returns `size` zeroed bytes aligned to 64, owned by the pool, or NULL. */
void *pg_pool_take(pg_pool *pool, size_t size);

/* The same for an array; NULL also when count * size overflows. */
void *pg_pool_array(pg_pool *pool, size_t count, size_t size);

/* A NUL-terminated copy of `length` bytes, or NULL. */
char *pg_pool_text(pg_pool *pool, const char *text, size_t length);

/* Frees everything the pool handed out; the pool is empty and usable again, its limit unchanged. */
void pg_pool_clear(pg_pool *pool);

#endif
