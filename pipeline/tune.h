/* Where a model's choices of implementation (kernels/conv_tune.h) are kept from one start to the
 * next: a small text file, named after everything the choices depend on (the model, the processor,
 * the number of threads, oneDNN's version), which also stands at its head. It is a cache: whatever
 * is wrong with it, or with its folder, the model is tuned again and nobody is told.
 */
#ifndef PG_PIPELINE_TUNE_H
#define PG_PIPELINE_TUNE_H

#include "kernels/conv_tune.h"
#include "pipeline/model.h"

enum { PG_TUNE_PATH_MAX = 4096 };

/* Zero-initialise. */
typedef struct pg_tune {
    pg_conv_tuner tuner;
    char path[PG_TUNE_PATH_MAX]; /* empty: nowhere */
    char head[1024];
} pg_tune;

/* The thread count in force is the one the model will use. dir NULL or "": $CACHE_DIRECTORY, else
 * $XDG_CACHE_HOME/parchgradd, else ~/.cache/parchgradd. */
void pg_tune_begin(pg_tune *tune, pg_tune_mode mode, const char *dir, const char *model_sha256);

/* Writes what is new, and frees. */
void pg_tune_end(pg_tune *tune);

#endif
