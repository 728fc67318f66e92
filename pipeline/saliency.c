#include "pipeline/saliency.h"

#include <string.h>

static const pg_saliency methods[] = {
#define PG_SALIENCY(name, prunes, run, prose) {name, prunes, run, prose},
#include "pipeline/saliency.def"
#undef PG_SALIENCY
};
enum { METHODS = sizeof methods / sizeof methods[0] };

const pg_saliency *pg_saliency_at(int index) {
    return index >= 0 && index < METHODS ? &methods[index] : NULL;
}

const pg_saliency *pg_saliency_find(const char *name) {
    for (int i = 0; i < METHODS; i++)
        if (strcmp(methods[i].name, name) == 0)
            return &methods[i];
    return NULL;
}
