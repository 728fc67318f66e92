/* A pool: many small blocks that live and die together (a configuration's strings and lists). */
#ifndef PG_DAEMON_POOL_H
#define PG_DAEMON_POOL_H

#include <stddef.h>

typedef struct pg_pool pg_pool;

/* NULL: out of memory. */
pg_pool *pg_pool_create(void);

/* Gives back the pool and everything taken from it; accepts NULL. */
void pg_pool_destroy(pg_pool **pool);

/* Zeroed bytes, aligned for any type; NULL: out of memory. Valid until the pool is destroyed. */
void *pg_pool_alloc(pg_pool *pool, size_t size);

/* A terminated copy of `length` bytes; NULL: out of memory. */
char *pg_pool_text(pg_pool *pool, const char *text, size_t length);

/* A formatted string; NULL: out of memory. */
char *pg_pool_format(pg_pool *pool, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
