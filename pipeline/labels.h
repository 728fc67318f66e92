/* Class names: a text file with one name per line, line 1 is class 0. */
#ifndef PG_PIPELINE_LABELS_H
#define PG_PIPELINE_LABELS_H

#include <stdint.h>

#include "kernels/err.h"

typedef struct pg_labels pg_labels;

/* UTF-8, LF or CRLF, empty lines are classes without a name. PG_ECONFIG naming file and line: not
 * readable, bytes that are no UTF-8, control characters, a number of lines other than `classes`. */
pg_err pg_labels_load(const char *path, int64_t classes, pg_labels **out, pg_diag *diag);
void pg_labels_destroy(pg_labels **labels); /* accepts NULL */

/* The name of a class; NULL for an unnamed class, a class out of range, and NULL labels. */
const char *pg_labels_name(const pg_labels *labels, int64_t klass);

/* The first class of that name, -1 if none (or NULL labels). */
int64_t pg_labels_find(const pg_labels *labels, const char *name);

#endif
