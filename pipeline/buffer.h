/* A block that grows when a larger frame than any before arrives, and never shrinks: how the frame
 * path reaches "no allocation after warm-up" with pictures of any size. */
#ifndef PG_PIPELINE_BUFFER_H
#define PG_PIPELINE_BUFFER_H

#include <stdbool.h>
#include <stddef.h>

#include "kernels/mem.h"

typedef struct pg_buffer {
    void *data;
    size_t capacity;
} pg_buffer;

/* Makes room for `size` bytes; the old contents are lost when it grows. False: no memory, and the
 * buffer is empty. */
static inline bool pg_buffer_reserve(pg_buffer *buffer, size_t size) {
    if (size <= buffer->capacity && buffer->data)
        return true;
    pg_free(buffer->data);
    buffer->data = pg_malloc(size);
    buffer->capacity = buffer->data ? size : 0;
    return buffer->data != NULL;
}

static inline void pg_buffer_free(pg_buffer *buffer) {
    pg_free(buffer->data);
    *buffer = (pg_buffer){NULL, 0};
}

#endif
