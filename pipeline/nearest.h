/* Which names are nearest to one that does not exist: for messages. */
#ifndef PG_PIPELINE_NEAREST_H
#define PG_PIPELINE_NEAREST_H

#include "kernels/err.h"

enum { PG_NEAREST_MAX = 5 };

typedef struct pg_nearest {
    const char *wanted;
    const char *names[PG_NEAREST_MAX]; /* borrowed, nearest first */
    int distances[PG_NEAREST_MAX];
    int count;
} pg_nearest;

/* Levenshtein distance of the first 63 characters. */
int pg_name_distance(const char *a, const char *b);

void pg_nearest_begin(pg_nearest *nearest, const char *wanted); /* borrowed */
void pg_nearest_offer(pg_nearest *nearest,
                      const char *name); /* NULL, "" and repetitions are ignored */
/* Appends "; the nearest names are 'a', 'b'", or nothing. */
void pg_nearest_append(const pg_nearest *nearest, pg_diag *diag);

#endif
