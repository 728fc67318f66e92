#include "pipeline/saliency.h"

#include <string.h>

#define PG_SALIENCY(name, kind, prunes, variant, params, prose)                                    \
    extern const pg_saliency_kind pg_saliency_##kind;
#include "pipeline/saliency.def"
#undef PG_SALIENCY

static const pg_saliency methods[PG_SALIENCY_COUNT] = {
#define PG_SALIENCY(name, kind, prunes, variant, params, prose)                                    \
    {name, &pg_saliency_##kind, prunes, variant, params, prose},
#include "pipeline/saliency.def"
#undef PG_SALIENCY
};

const pg_saliency *pg_saliency_at(int index) {
    return index >= 0 && index < PG_SALIENCY_COUNT ? &methods[index] : NULL;
}

int pg_saliency_index(const pg_saliency *method) { return (int)(method - methods); }

const pg_saliency *pg_saliency_find(const char *name) {
    for (int i = 0; i < PG_SALIENCY_COUNT; i++)
        if (strcmp(methods[i].name, name) == 0)
            return &methods[i];
    return NULL;
}

pg_cost pg_saliency_one_pass(const pg_saliency *method, const pg_explainer *explainer) {
    (void)method, (void)explainer;
    return (pg_cost){.forwards = 1, .backwards = 1};
}
