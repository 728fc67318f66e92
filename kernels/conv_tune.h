/* Which way (pg_conv_ways) a convolution takes, found by running each briefly. Choices are kept by
 * the convolution's shape, so that equal ones are measured once, and may come from and go to a file
 * (pipeline/tune.h).
 */
#ifndef PG_KERNELS_CONV_TUNE_H
#define PG_KERNELS_CONV_TUNE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/err.h"

struct pg_conv_path; /* conv_path.h */
struct pg_conv_path_spec;

enum { PG_CONV_KEY_MAX = 160, PG_CONV_CHOICES_MAX = 4096 };

/* Zero-initialise: then every path is the default one. */
typedef struct pg_conv_tuner {
    bool active;
    uint64_t budget_ns; /* for measuring; when it is used up, what is not known stays the default */
    struct pg_conv_choice *choices; /* private: pg_conv_tuner_entry */
    int count, room;
    bool changed; /* by measuring */
} pg_conv_tuner;

/* As pg_conv_path_make, the way being the tuner's choice (spec->way is ignored). A way that turns
 * out not to be possible gives way to the default. tuner NULL, or bfloat16: the default. */
pg_err pg_conv_tuner_make(pg_conv_tuner *tuner, const struct pg_conv_path_spec *spec,
                          struct pg_conv_path *path, pg_diag *diag);

/* Adds what a file says. False: no such way, a key that is none, or too many. */
bool pg_conv_tuner_know(pg_conv_tuner *tuner, const char *key, const char *way);

/* Choice `index` < count as text. */
void pg_conv_tuner_entry(const pg_conv_tuner *tuner, int index, const char **key, const char **way);

/* What else choices depend on, in one line: the library's version, instruction set, threads. */
void pg_conv_tuner_library(char text[PG_CONV_KEY_MAX]);

void pg_conv_tuner_free(pg_conv_tuner *tuner); /* and zeroes */

#endif
