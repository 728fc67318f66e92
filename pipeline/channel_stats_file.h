/* Inside of the channel statistics, shared by the arithmetic and the file. */
#ifndef PG_PIPELINE_CHANNEL_STATS_FILE_H
#define PG_PIPELINE_CHANNEL_STATS_FILE_H

#include "pipeline/channel_stats.h"
#include "pipeline/sha256.h"

typedef struct pg_stats_conv {
    char *name;
    int64_t channels, offset; /* offset: its first channel in a row */
} pg_stats_conv;

typedef struct pg_stats_row {
    uint64_t count;
    double *values; /* mean [channels], then squared deviations [channels]; NULL: never seen */
} pg_stats_row;

struct pg_channel_stats {
    uint8_t model_sha256[32];
    int n_convs;
    pg_stats_conv *convs; /* [n_convs] */
    int64_t channels;     /* of all convolutions */
    int64_t classes;
    pg_stats_row *rows; /* [classes + 1]: one per class, then all samples */
};

/* Statistics without convolutions filled in. */
pg_err pg_stats_alloc(int n_convs, int64_t classes, const uint8_t sha256[32],
                      pg_channel_stats **out, pg_diag *diag);

/* The row of a class with its memory, NULL without memory. */
pg_stats_row *pg_stats_row_of(pg_channel_stats *stats, int64_t klass);

#endif
