/* Which of many things have the names nearest to one that does not exist: for messages. */
#ifndef PG_PIPELINE_NEAREST_H
#define PG_PIPELINE_NEAREST_H

enum { PG_NEAREST_MAX = 5 };

/* Zero-initialise. */
typedef struct pg_nearest {
    const void *
        items[PG_NEAREST_MAX]; /* borrowed, nearest first; of equally near ones the first offered */
    int distances[PG_NEAREST_MAX];
    int count;
} pg_nearest;

/* Levenshtein distance of the first 63 characters. */
int pg_name_distance(const char *a, const char *b);

void pg_nearest_offer(pg_nearest *nearest, int distance, const void *item);

#endif
