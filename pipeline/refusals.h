/* What of a model file this program cannot do: every such node with the reason and, where one is
 * known, what would have to change. Filled by the importer; the sentence of the error lists as many
 * as fit, `inspect` shows all that are kept. */
#ifndef PG_PIPELINE_REFUSALS_H
#define PG_PIPELINE_REFUSALS_H

#include <stdbool.h>

#include "kernels/err.h"
#include "pipeline/pool.h"

/* Further ones are counted, not kept: a file can hold as many as it likes. */
enum { PG_REFUSALS_KEPT = 1000 };

typedef struct pg_refusal {
    const char *node, *type;
    const char *reason; /* a sentence without node and type */
    const char *advice; /* what would have to change; "" where nothing is known */
} pg_refusal;

/* Zero-initialise. */
typedef struct pg_refusals {
    pg_pool pool;
    pg_refusal *items; /* [kept] */
    int kept, count;
} pg_refusals;

/* Copies everything. `reason` may be prefixed with "node 'n' (Type): ", as operators write it; the
 * prefix is taken off. `advice` NULL: the one of
 * unsupported.def for the type, if it has one. False: out of
 * memory. */
bool pg_refusals_add(pg_refusals *refusals, const char *node, const char *type, const char *reason,
                     const char *advice);

/* What unsupported.def advises for a type, "" where it has no row. */
const char *pg_refusals_advice(const char *type);

/* "2 nodes are not supported: Loop (node 'a'); node 'b' (Conv): its weights ...", PG_EMODEL. */
pg_err pg_refusals_fail(const pg_refusals *refusals, pg_diag *diag);

void pg_refusals_clear(pg_refusals *refusals);

#endif
