#include "pipeline/compat.h"

#include "kernels/err.h"

const char *pg_compat_name(int index) {
    static const char *const names[PG_COMPAT_COUNT] = {
#define PG_COMPAT(name, prose) #name,
#include "pipeline/compat.def"
#undef PG_COMPAT
    };
    pg_assert(index >= 0 && index < PG_COMPAT_COUNT);
    return names[index];
}
