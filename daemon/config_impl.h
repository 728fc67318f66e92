/* Inside of the configuration: what config.c (walking), config_read.c (reading one value) and
 * config_check.c (what only several keys together tell) share. */
#ifndef PG_DAEMON_CONFIG_IMPL_H
#define PG_DAEMON_CONFIG_IMPL_H

#include "daemon/config.h"
#include "daemon/config_yaml.h"

typedef struct pg_config_impl {
    pg_config config; /* first: the public face of the same object */
    pg_pool pool;     /* owns every string, list and node */
    pg_yaml *root;    /* file and options merged */
} pg_config_impl;

typedef enum pg_scope { PG_SCOPE_MAIN, PG_SCOPE_INGEST, PG_SCOPE_STREAM } pg_scope;

typedef struct pg_key pg_key;

/* Reads `node`, the value of `key` (called `path` in messages), into `base`, the struct of the
 * key's scope. */
typedef pg_err (*pg_key_read)(pg_config_impl *impl, const pg_key *key, const char *path,
                              const pg_yaml *node, void *base, pg_diag *diag);

struct pg_key {
    pg_config_row row; /* the public part */
    pg_scope scope;
    pg_key_read read;
    size_t offset, size; /* of the member in the scope's struct; not for PG_CONFIG_OTHER */
};

/* config_table.c: the rows of config.def in order. */
const pg_key *pg_config_keys(int *count);

/* config.c: reads a map in which every key must be a row of `scope` under `prefix` ("" or
 * "model."). `path` is the prefix as messages show it ("ingest[0]."). With `defaults`, rows that
 * are not there get their fallback. */
pg_err pg_config_read_map(pg_config_impl *impl, pg_scope scope, const char *prefix,
                          const char *path, const pg_yaml *map, void *base, bool defaults,
                          pg_diag *diag);

/* config_read.c: one reader per type. */
pg_err pg_config_read_bool(pg_config_impl *impl, const pg_key *key, const char *path,
                           const pg_yaml *node, void *base, pg_diag *diag);
pg_err pg_config_read_int(pg_config_impl *impl, const pg_key *key, const char *path,
                          const pg_yaml *node, void *base, pg_diag *diag);
pg_err pg_config_read_number(pg_config_impl *impl, const pg_key *key, const char *path,
                             const pg_yaml *node, void *base, pg_diag *diag);
pg_err pg_config_read_string(pg_config_impl *impl, const pg_key *key, const char *path,
                             const pg_yaml *node, void *base, pg_diag *diag);
pg_err pg_config_read_enum(pg_config_impl *impl, const pg_key *key, const char *path,
                           const pg_yaml *node, void *base, pg_diag *diag);
/* True if a plain scalar is a number (inf included); NaN is none. */
bool pg_config_number(const pg_yaml *node, double *out);
/* A list of strings, each of 0 .. 4096 bytes. */
pg_err pg_config_strings(pg_config_impl *impl, const char *path, const pg_yaml *node,
                         pg_string_list *out, pg_diag *diag);

/* config_other.c: the readers named by PG_OTHER. */
#define PG_CONFIG_READER(name)                                                                     \
    pg_err pg_config_read_##name(pg_config_impl *impl, const pg_key *key, const char *path,        \
                                 const pg_yaml *node, void *base, pg_diag *diag)
PG_CONFIG_READER(class_axis);
PG_CONFIG_READER(inputs);
PG_CONFIG_READER(region);
PG_CONFIG_READER(mean);
PG_CONFIG_READER(std);
PG_CONFIG_READER(size);
PG_CONFIG_READER(level);
PG_CONFIG_READER(layers);
PG_CONFIG_READER(list);
PG_CONFIG_READER(compat);
PG_CONFIG_READER(methods);
PG_CONFIG_READER(crp_channels);
PG_CONFIG_READER(baseline);
/* config_sockets.c */
PG_CONFIG_READER(ingest);
PG_CONFIG_READER(bind);
PG_CONFIG_READER(connect);
PG_CONFIG_READER(topics);
PG_CONFIG_READER(publish_bind);
PG_CONFIG_READER(rpc_bind);
PG_CONFIG_READER(streams);
PG_CONFIG_READER(http_listen);

/* config_check.c: what several keys together must satisfy. */
pg_err pg_config_check(pg_config_impl *impl, pg_diag *diag);

/* The node a dotted key came from, or NULL. */
const pg_yaml *pg_config_find(const pg_config_impl *impl, const char *key);

#endif
