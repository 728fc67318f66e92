#include "daemon/pool.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"

enum { PG_POOL_CHUNK = 16 * 1024 };

typedef struct pg_pool_chunk {
    struct pg_pool_chunk *next;
    size_t used, size; /* of bytes */
    alignas(max_align_t) char bytes[];
} pg_pool_chunk;

struct pg_pool {
    pg_pool_chunk *chunks; /* the first one is being filled */
};

pg_pool *pg_pool_create(void) {
    return pg_calloc(1, sizeof(pg_pool));
}

void pg_pool_destroy(pg_pool **pool) {
    if (*pool == NULL)
        return;
    while ((*pool)->chunks != NULL) {
        pg_pool_chunk *chunk = (*pool)->chunks;
        (*pool)->chunks = chunk->next;
        pg_free(chunk);
    }
    pg_free(*pool);
    *pool = NULL;
}

void *pg_pool_alloc(pg_pool *pool, size_t size) {
    const size_t align = alignof(max_align_t);
    if (size > SIZE_MAX / 2)
        return NULL;
    size = (size + align - 1) / align * align;
    pg_pool_chunk *chunk = pool->chunks;
    if (chunk == NULL || chunk->size - chunk->used < size) {
        size_t bytes = size > PG_POOL_CHUNK ? size : PG_POOL_CHUNK;
        chunk = pg_calloc(1, sizeof *chunk + bytes);
        if (chunk == NULL)
            return NULL;
        chunk->size = bytes;
        chunk->next = pool->chunks;
        pool->chunks = chunk;
    }
    void *block = chunk->bytes + chunk->used;
    chunk->used += size;
    return block;
}

char *pg_pool_text(pg_pool *pool, const char *text, size_t length) {
    char *copy = pg_pool_alloc(pool, length + 1);
    if (copy != NULL)
        memcpy(copy, text, length);
    return copy;
}

char *pg_pool_format(pg_pool *pool, const char *format, ...) {
    va_list args;
    va_start(args, format);
    int length = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = length < 0 ? NULL : pg_pool_alloc(pool, (size_t)length + 1);
    if (text == NULL)
        return NULL;
    va_start(args, format);
    vsnprintf(text, (size_t)length + 1, format, args);
    va_end(args);
    return text;
}
