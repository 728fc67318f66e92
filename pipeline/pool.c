#include "pipeline/pool.h"

#include <stdint.h>
#include <string.h>

#include "kernels/mem.h"

/* Requests above CHUNK / 4 get a chunk of their own, so at most a quarter of a chunk is wasted. */
enum { CHUNK = 64 * 1024, SMALL_ALIGN = 16 };

struct pg_pool_chunk {
    struct pg_pool_chunk *next;
    size_t used, size; /* of data */
    _Alignas(PG_MEM_ALIGN) unsigned char data[];
};

static struct pg_pool_chunk *add_chunk(pg_pool *pool, size_t size) {
    if (size > SIZE_MAX - sizeof(struct pg_pool_chunk))
        return NULL;
    size_t total = sizeof(struct pg_pool_chunk) + size;
    if (pool->limit != 0 && total > pool->limit - pool->bytes) {
        pool->exceeded = true;
        return NULL;
    }
    struct pg_pool_chunk *chunk = pg_malloc(total);
    if (chunk == NULL)
        return NULL;
    pool->bytes += total;
    chunk->used = 0;
    chunk->size = size;
    chunk->next = pool->chunks;
    pool->chunks = chunk;
    return chunk;
}

/* A chunk with room for `size` bytes. A large request's own chunk goes second in the list, so that
 * the one being filled stays first. */
static struct pg_pool_chunk *chunk_for(pg_pool *pool, size_t size) {
    struct pg_pool_chunk *current = pool->chunks;
    if (size <= CHUNK / 4)
        return add_chunk(pool, CHUNK);
    struct pg_pool_chunk *own = add_chunk(pool, size);
    if (own != NULL && current != NULL) {
        own->next = current->next;
        current->next = own;
        pool->chunks = current;
    }
    return own;
}

void *pg_pool_take(pg_pool *pool, size_t size) {
    size_t align = size >= PG_MEM_ALIGN ? PG_MEM_ALIGN : SMALL_ALIGN;
    struct pg_pool_chunk *chunk = pool->chunks;
    size_t at = chunk == NULL ? 0 : (chunk->used + align - 1) / align * align;
    if (chunk == NULL || at > chunk->size || size > chunk->size - at) {
        chunk = chunk_for(pool, size);
        if (chunk == NULL)
            return NULL;
        at = 0;
    }
    chunk->used = at + size;
    return memset(chunk->data + at, 0, size);
}

void *pg_pool_array(pg_pool *pool, size_t count, size_t size) {
    if (size != 0 && count > SIZE_MAX / size)
        return NULL;
    return pg_pool_take(pool, count * size);
}

char *pg_pool_text(pg_pool *pool, const char *text, size_t length) {
    if (length == SIZE_MAX)
        return NULL;
    char *copy = pg_pool_take(pool, length + 1);
    if (copy != NULL && length > 0)
        memcpy(copy, text, length);
    return copy;
}

void pg_pool_clear(pg_pool *pool) {
    while (pool->chunks != NULL) {
        struct pg_pool_chunk *next = pool->chunks->next;
        pg_free(pool->chunks);
        pool->chunks = next;
    }
    pool->bytes = 0;
}
