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

void pg_nearest_begin(pg_nearest *n, const char *wanted) { *n = (pg_nearest){.wanted = wanted}; }

void pg_nearest_offer(pg_nearest *n, const char *name) {
    if (name == NULL || name[0] == '\0')
        return;
    for (int i = 0; i < n->count; i++)
        if (strcmp(n->names[i], name) == 0)
            return;
    int d = pg_name_distance(n->wanted, name);
    if (n->count == PG_NEAREST_MAX && d >= n->distances[PG_NEAREST_MAX - 1])
        return;
    int at = n->count < PG_NEAREST_MAX ? n->count++ : PG_NEAREST_MAX - 1;
    for (; at > 0 && n->distances[at - 1] > d; at--) {
        n->distances[at] = n->distances[at - 1];
        n->names[at] = n->names[at - 1];
    }
    n->distances[at] = d;
    n->names[at] = name;
}

void pg_nearest_append(const pg_nearest *n, pg_diag *diag) {
    for (int i = 0; i < n->count; i++)
        pg_diag_append(diag, "%s'%s'", i ? ", " : "; the nearest names are ", n->names[i]);
}
