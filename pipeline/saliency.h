/* Saliency methods: each composes passes through the network into one signed attribution. To add
 * one: a file saliency_<name>.c, a declaration here, a row in saliency.def. */
#ifndef PG_PIPELINE_SALIENCY_H
#define PG_PIPELINE_SALIENCY_H

#include "pipeline/pass.h"

typedef struct pg_saliency pg_saliency;

/* Forward has run and the class is known. Writes the attribution in the shape and layout of the
 * network's input. */
typedef pg_err (*pg_saliency_run)(const pg_saliency *method, pg_pass *pass, float *attribution,
                                  pg_diag *diag);

struct pg_saliency {
    const char *name;
    bool prunes;
    pg_saliency_run run;
    const char *prose;
};

pg_err pg_saliency_gradient(const pg_saliency *method, pg_pass *pass, float *attribution,
                            pg_diag *diag);
pg_err pg_saliency_inputgrad(const pg_saliency *method, pg_pass *pass, float *attribution,
                             pg_diag *diag);

/* The row of that name, NULL if there is none. */
const pg_saliency *pg_saliency_find(const char *name);

/* The rows, for help texts and tests; NULL beyond the last. */
const pg_saliency *pg_saliency_at(int index);

#endif
