/* A table of names: each distinct name gets a small number, so that the graph compares and indexes
 * integers. The hash is seeded at random: a file cannot choose names that collide. */
#ifndef PG_PIPELINE_NAMES_H
#define PG_PIPELINE_NAMES_H

#include <stddef.h>
#include <stdint.h>

#include "pipeline/pool.h"

typedef struct pg_names {
    pg_pool *pool;      /* borrowed; holds the copies */
    const char **texts; /* [count] */
    uint64_t *hashes;   /* [count] */
    int *slots;         /* open addressing, id + 1, 0: free */
    size_t count, room, n_slots;
    uint64_t seed;
} pg_names;

/* Copies of names live in `pool`, as long as it does. */
void pg_names_init(pg_names *names, pg_pool *pool);
void pg_names_clear(pg_names *names);

/* The number of this name, entering it if it is new; -1 if memory is out. */
int pg_names_enter(pg_names *names, const char *text, size_t length);

/* The number of this name, or -1. */
int pg_names_find(const pg_names *names, const char *text, size_t length);

const char *pg_names_text(const pg_names *names, int id);

#endif
