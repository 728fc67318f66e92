/* config.def as an array, and its public view. */
#include <math.h>
#include <string.h>

#include "daemon/config_impl.h"

#define PG_BASE_MAIN            pg_config
#define PG_BASE_INGEST          pg_ingest_config
#define PG_BASE_STREAM          pg_stream_config
#define PG_MEMBER(base, member) offsetof(base, member), sizeof(((base *)NULL)->member)

#define PG_KEY(scope, path, type, reader, member, fallback, min, max, unit, choices, reload,       \
               prose)                                                                              \
    {{path, type, fallback, min, max, unit, choices, reload, prose},                               \
     PG_SCOPE_##scope,                                                                             \
     pg_config_read_##reader,                                                                      \
     PG_MEMBER(PG_BASE_##scope, member)},
#define PG_BOOL(scope, path, member, fallback, reload, prose)                                      \
    PG_KEY(scope, path, PG_CONFIG_BOOL, bool, member, fallback, 0, 1, "", "", reload, prose)
#define PG_INT(scope, path, member, fallback, min, max, unit, reload, prose)                       \
    PG_KEY(scope, path, PG_CONFIG_INT, int, member, fallback, min, max, unit, "", reload, prose)
#define PG_NUMBER(scope, path, member, fallback, min, max, unit, reload, prose)                    \
    PG_KEY(scope, path, PG_CONFIG_NUMBER, number, member, fallback, min, max, unit, "", reload,    \
           prose)
#define PG_STRING(scope, path, member, fallback, reload, prose)                                    \
    PG_KEY(scope, path, PG_CONFIG_STRING, string, member, fallback, 0, 0, "", "", reload, prose)
#define PG_TEXT(scope, path, member, fallback, reload, prose)                                      \
    PG_KEY(scope, path, PG_CONFIG_TEXT, string, member, fallback, 0, 0, "", "", reload, prose)
#define PG_ENUM(scope, path, member, fallback, choices, reload, prose)                             \
    PG_KEY(scope, path, PG_CONFIG_ENUM, enum, member, fallback, 0, 0, "", choices, reload, prose)
#define PG_OTHER(scope, path, reader, fallback, reload, prose)                                     \
    {{path, PG_CONFIG_OTHER, fallback, 0, 0, "", "", reload, prose},                               \
     PG_SCOPE_##scope,                                                                             \
     pg_config_read_##reader,                                                                      \
     0,                                                                                            \
     0},

static const pg_key keys[] = {
#include "daemon/config.def"
};
enum { N_KEYS = sizeof keys / sizeof keys[0] };

const pg_key *pg_config_keys(int *count) {
    *count = N_KEYS;
    return keys;
}

const pg_config_row *pg_config_row_at(int index) {
    return index >= 0 && index < N_KEYS ? &keys[index].row : NULL;
}
