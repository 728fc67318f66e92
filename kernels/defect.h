/* Defects planted on purpose, to prove that the tests would notice them. pg_defect("name") is a
 * constant false in every build that ships; with -DPG_PLANT_DEFECTS=ON it is true while the
 * environment variable PG_DEFECT holds that name. */
#ifndef PG_KERNELS_DEFECT_H
#define PG_KERNELS_DEFECT_H

#ifdef PG_PLANT_DEFECTS

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static inline bool pg_defect(const char *name) {
    const char *planted = getenv("PG_DEFECT");
    return planted && strcmp(planted, name) == 0;
}

#else

#define pg_defect(name) 0

#endif
#endif
