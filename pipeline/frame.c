#include "pipeline/frame.h"

const char *pg_drop_label(pg_drop drop) {
    switch (drop) {
#define PG_DROP(symbol, label, prose)                                                              \
    case PG_DROP_##symbol:                                                                         \
        return label;
#include "pipeline/drop.def"
#undef PG_DROP
    case PG_DROP_NONE:
    case PG_DROP_COUNT:
        break;
    }
    return "none";
}
