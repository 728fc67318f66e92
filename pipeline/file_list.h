/* The pictures of a folder, in a fixed order. */
#ifndef PG_PIPELINE_FILE_LIST_H
#define PG_PIPELINE_FILE_LIST_H

#include <stddef.h>

#include "kernels/err.h"

typedef struct pg_file_entry {
    char *path;
    char *folder; /* name of the folder of DIR it lies in, "" for DIR itself */
} pg_file_entry;

typedef struct pg_file_list {
    pg_file_entry *items;
    size_t count, room;
} pg_file_list;

/* Lists DIR and the folders in it (one level) for names ending in .jpg .jpeg .png .npy, sorted by
 * path; names that begin with a dot are passed over. PG_ECONFIG: DIR or a folder cannot be read. */
pg_err pg_file_list_read(const char *directory, pg_file_list *out, pg_diag *diag);
void pg_file_list_free(pg_file_list *list);

#endif
