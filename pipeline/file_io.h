/* Whole files: read with a bound, written so that a crash leaves the old or the new one. */
#ifndef PG_PIPELINE_FILE_IO_H
#define PG_PIPELINE_FILE_IO_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/err.h"

/* Reads a regular file of at most `limit` bytes; the caller gives *data back with pg_free.
 * PG_ECONFIG: it cannot be opened or is not a regular file. PG_EINPUT: larger than the limit.
 * PG_EFAIL: reading failed. */
pg_err pg_file_read(const char *path, uint64_t limit, uint8_t **data, size_t *size, pg_diag *diag);

/* The same of an open descriptor, which stays the caller's; `path` is for messages. */
pg_err pg_file_read_open(int fd, const char *path, uint64_t limit, uint8_t **data, size_t *size,
                         pg_diag *diag);

/* Writes path.tmp, fsync, rename to path, fsync of the directory. PG_EFAIL with the reason; the
 * old file is then untouched and no temporary file is left. */
pg_err pg_file_write(const char *path, const void *data, size_t size, pg_diag *diag);

#endif
