/* YAML text -> a small tree, with every limit and refusal a configuration needs. Used by config.c
 * only; the only file that knows libyaml is config_yaml.c. */
#ifndef PG_DAEMON_CONFIG_YAML_H
#define PG_DAEMON_CONFIG_YAML_H

#include <stdbool.h>
#include <stddef.h>

#include "pipeline/pool.h"
#include "kernels/err.h"

typedef enum pg_yaml_kind { PG_YAML_SCALAR, PG_YAML_MAP, PG_YAML_LIST } pg_yaml_kind;

/* A value. Everything lives in the pool it was parsed into. */
typedef struct pg_yaml {
    pg_yaml_kind kind;
    const char *text;  /* scalar: without NUL bytes inside; else "" */
    bool plain;        /* scalar written without quotes: may be a number or a bool */
    const char *where; /* "file:line:column", or the option it came with */
    const char *key;   /* entry of a map: its key; else NULL */
    const char *key_where;
    struct pg_yaml *first, *last, *next; /* entries; the next entry of the same map or list */
    int count;                           /* entries */
} pg_yaml;

/* Parses one document. `name` starts messages ("name:line:column: sentence"). An empty document is
 * an empty map. PG_ECONFIG, PG_ENOMEM. */
pg_err pg_yaml_parse(pg_pool *pool, const char *name, const char *text, size_t size, pg_yaml **out,
                     pg_diag *diag);

/* The same for one value of the command line: every node's place is `option`. */
pg_err pg_yaml_parse_option(pg_pool *pool, const char *option, const char *text, pg_yaml **out,
                            pg_diag *diag);

/* A new node at the place `where`; NULL: out of memory. */
pg_yaml *pg_yaml_new(pg_pool *pool, pg_yaml_kind kind, const char *where);

/* Puts `entry` at the end of a map or list, or in the place of the entry with the same key. */
void pg_yaml_put(pg_yaml *parent, pg_yaml *entry);

/* The entry of a map, or NULL. */
pg_yaml *pg_yaml_get(const pg_yaml *map, const char *key);

/* `text` for a message: quoted, control characters replaced, cut when long. */
enum { PG_YAML_QUOTE = 80 };
const char *pg_yaml_quote(const char *text, char buffer[PG_YAML_QUOTE]);

#endif
