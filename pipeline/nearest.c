#include "pipeline/nearest.h"

#include <string.h>

int pg_name_distance(const char *a, const char *b) {
    enum { MAX = 63 };
    int row[MAX + 1];
    int n = (int)strnlen(b, MAX);
    for (int j = 0; j <= n; j++)
        row[j] = j;
    for (int i = 1; i <= MAX && a[i - 1]; i++) {
        int diagonal = row[0];
        row[0] = i;
        for (int j = 1; j <= n; j++) {
            int change = diagonal + (a[i - 1] != b[j - 1]);
            int step = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = change < step ? change : step;
        }
    }
    return row[n];
}

void pg_nearest_offer(pg_nearest *n, int distance, const void *item) {
    if (n->count == PG_NEAREST_MAX && distance >= n->distances[PG_NEAREST_MAX - 1])
        return;
    int at = n->count < PG_NEAREST_MAX ? n->count++ : PG_NEAREST_MAX - 1;
    for (; at > 0 && n->distances[at - 1] > distance; at--) {
        n->distances[at] = n->distances[at - 1];
        n->items[at] = n->items[at - 1];
    }
    n->distances[at] = distance;
    n->items[at] = item;
}
