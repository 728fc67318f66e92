/* parchgrad.compat: departures from the method that the authors' code takes, to compare with its
 * maps. compat.def lists them and says which it does not follow. */
#ifndef PG_PIPELINE_COMPAT_H
#define PG_PIPELINE_COMPAT_H

enum {
#define PG_COMPAT(name, prose) pg_compat_bit_##name,
#include "pipeline/compat.def"
#undef PG_COMPAT
    PG_COMPAT_COUNT
};

/* A set of switches, as in pg_prune_options.compat: PG_COMPAT_width | PG_COMPAT_floor | ... */
enum {
#define PG_COMPAT(name, prose) PG_COMPAT_##name = 1 << pg_compat_bit_##name,
#include "pipeline/compat.def"
#undef PG_COMPAT
    PG_COMPAT_NONE = 0,
    PG_COMPAT_REFERENCE = (1 << PG_COMPAT_COUNT) - 1
};

/* Name of a switch, 0 .. PG_COMPAT_COUNT - 1; its bit is 1 << index. */
const char *pg_compat_name(int index);

#endif
