/* From a tree of YAML values to the constant struct, in five steps:
 *
 *   read     the file, within limits (config_yaml.c)
 *   merge    each option of the command line replaces one value of the tree
 *   walk     every key of the tree must be a row of config.def; its reader checks and stores
 *   default  rows that were not there are read from their fallback by the same reader
 *   check    what only several keys together can tell (config_check.c)
 *
 * One tree, one table and one reader per type: a default, a line of the file and a `--set` cannot
 * be treated differently. */
#include "daemon/config.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_impl.h"
#include "kernels/mem.h"
#include "pipeline/file_io.h"
#include "pipeline/nearest.h"

enum { PG_PATH_MAX = 512 }; /* of a dotted path in messages */

/* ---- unknown keys ---- */

/* The component of a row's path that stands where a key under `prefix` would, or NULL. */
static bool component(const char *row, const char *prefix, char name[PG_PATH_MAX]) {
    size_t length = strlen(prefix);
    if (strncmp(row, prefix, length) != 0)
        return false;
    size_t n = strcspn(row + length, ".[");
    snprintf(name, PG_PATH_MAX, "%.*s", (int)n, row + length);
    return true;
}

/* The nearest known key: among the neighbours first, then anywhere by its last component. */
static void propose(pg_scope scope, const char *prefix, const char *path, const char *word,
                    char out[PG_PATH_MAX]) {
    enum { LONGEST = 40 }; /* of a word that may be a slip of the pen */
    int n, best = strlen(word) > LONGEST ? -1 : 1 + (int)strlen(word) / 3;
    const pg_key *keys = pg_config_keys(&n);
    char name[PG_PATH_MAX];
    out[0] = '\0';
    for (int i = 0; i < n; i++) {
        if (keys[i].scope != scope || !component(keys[i].row.path, prefix, name))
            continue;
        int d = pg_name_distance(word, name);
        if (d <= best) {
            best = d - 1;
            snprintf(out, PG_PATH_MAX, "%.200s%.200s", path, name);
        }
    }
    for (int i = 0; i < n && out[0] == '\0'; i++) {
        const char *last = strrchr(keys[i].row.path, '.');
        if (strcmp(last == NULL ? keys[i].row.path : last + 1, word) == 0)
            snprintf(out, PG_PATH_MAX, "%s", keys[i].row.path);
    }
}

static pg_err unknown(pg_scope scope, const char *prefix, const char *path, const pg_yaml *entry,
                      pg_diag *diag) {
    char full[PG_PATH_MAX], quoted[PG_YAML_QUOTE], proposal[PG_PATH_MAX];
    snprintf(full, sizeof full, "%s%s", path, entry->key);
    pg_fail(diag, PG_ECONFIG, "%s: unknown key %s", entry->key_where, pg_yaml_quote(full, quoted));
    propose(scope, prefix, path, entry->key, proposal);
    if (proposal[0] != '\0')
        pg_diag_append(diag, "; did you mean '%s'?", proposal);
    return PG_ECONFIG;
}

/* ---- walking ---- */

static const pg_key *find_row(pg_scope scope, const char *path) {
    int n;
    const pg_key *keys = pg_config_keys(&n);
    for (int i = 0; i < n; i++) {
        if (keys[i].scope == scope && strcmp(keys[i].row.path, path) == 0)
            return &keys[i];
    }
    return NULL;
}

/* True if rows begin with "path.". */
static bool is_section(pg_scope scope, const char *path) {
    int n;
    const pg_key *keys = pg_config_keys(&n);
    size_t length = strlen(path);
    for (int i = 0; i < n; i++) {
        if (keys[i].scope == scope && strncmp(keys[i].row.path, path, length) == 0 &&
            keys[i].row.path[length] == '.')
            return true;
    }
    return false;
}

static pg_err walk(pg_config_impl *impl, pg_scope scope, const char *prefix, const char *path,
                   const pg_yaml *map, void *base, bool *seen, pg_diag *diag) {
    int n;
    const pg_key *keys = pg_config_keys(&n);
    if (map->kind != PG_YAML_MAP && path[0] == '\0')
        return pg_fail(diag, PG_ECONFIG, "%s: a configuration is a map of keys to values",
                       map->where);
    if (map->kind != PG_YAML_MAP)
        return pg_fail(diag, PG_ECONFIG, "%s: %.*s must be a map of keys to values", map->where,
                       (int)strlen(path) - 1, path);
    for (const pg_yaml *entry = map->first; entry != NULL; entry = entry->next) {
        char row_path[PG_PATH_MAX], full[PG_PATH_MAX];
        int a = snprintf(row_path, sizeof row_path, "%s%s", prefix, entry->key);
        int b = snprintf(full, sizeof full, "%s%s", path, entry->key);
        bool fits = a < PG_PATH_MAX - 1 && b < PG_PATH_MAX - 1;
        const pg_key *key = fits ? find_row(scope, row_path) : NULL;
        pg_err err;
        if (key != NULL) {
            seen[key - keys] = true;
            err = key->read(impl, key, full, entry, base, diag);
        } else if (fits && is_section(scope, row_path)) {
            strcat(row_path, ".");
            strcat(full, ".");
            err = walk(impl, scope, row_path, full, entry, base, seen, diag);
        } else {
            err = unknown(scope, prefix, path, entry, diag);
        }
        if (err != PG_OK)
            return err;
    }
    return PG_OK;
}

pg_err pg_config_read_map(pg_config_impl *impl, pg_scope scope, const char *prefix,
                          const char *path, const pg_yaml *map, void *base, bool defaults,
                          pg_diag *diag) {
    int n;
    const pg_key *keys = pg_config_keys(&n);
    bool seen[128] = {false};
    pg_assert(n <= 128);
    pg_err err = walk(impl, scope, prefix, path, map, base, seen, diag);
    for (int i = 0; i < n && err == PG_OK && defaults; i++) {
        if (keys[i].scope != scope || seen[i] || keys[i].row.fallback == NULL)
            continue;
        pg_yaml *node = NULL;
        err = pg_yaml_parse_option(&impl->pool, "default", keys[i].row.fallback, &node, diag);
        if (err == PG_OK)
            err = keys[i].read(impl, &keys[i], keys[i].row.path, node, base, diag);
    }
    return err;
}

/* ---- options of the command line ---- */

/* Cuts the first component off `path`: its length, and where the next one begins (NULL: it was the
 * last). Below `streams` and `parchgrad.list` the keys are the user's own words and may contain
 * dots: there only a setting's name after the last dot is split off. */
static size_t first_component(const char *path, bool own_words, const char **rest) {
    size_t length = strcspn(path, ".");
    if (own_words) {
        const char *last = strrchr(path, '.');
        char row[PG_PATH_MAX];
        length = strlen(path);
        if (last != NULL) {
            snprintf(row, sizeof row, "streams.*%s", last);
            if (find_row(PG_SCOPE_STREAM, row) != NULL)
                length = (size_t)(last - path);
        }
    }
    *rest = path[length] == '.' ? path + length + 1 : NULL;
    return length;
}

/* "name[3]" -> 3, and the name's length; -1: no index. -2: not an index. */
static int list_index(const char *text, size_t *length) {
    const char *open = memchr(text, '[', *length);
    if (open == NULL)
        return -1;
    char *end;
    unsigned long index = strtoul(open + 1, &end, 10);
    if (end == open + 1 || end != text + *length - 1 || *end != ']' || index > 1000)
        return -2;
    *length = (size_t)(open - text);
    return (int)index;
}

static pg_err no_memory(pg_diag *diag) {
    return pg_fail(diag, PG_ENOMEM, "out of memory while reading the configuration");
}

/* Puts `value` (or, if NULL, an empty map or list) under `name`; returns what stands there then. */
static pg_yaml *put(pg_config_impl *impl, pg_yaml *map, const char *name, size_t length,
                    const char *where, pg_yaml *value, pg_yaml_kind kind) {
    char *key = pg_pool_text(&impl->pool, name, length);
    if (key == NULL)
        return NULL;
    pg_yaml *old = pg_yaml_get(map, key);
    if (value == NULL && old != NULL && old->kind == kind)
        return old;
    if (value == NULL)
        value = pg_yaml_new(&impl->pool, kind, where);
    if (value == NULL)
        return NULL;
    value->key = key;
    value->key_where = where;
    pg_yaml_put(map, value);
    return value;
}

/* Entry `index` of a list, appended if it is one past the end; NULL: out of range or memory. */
static pg_yaml *list_entry(pg_config_impl *impl, pg_yaml *list, int index, const char *where) {
    if (index == list->count) {
        pg_yaml *entry = pg_yaml_new(&impl->pool, PG_YAML_MAP, where);
        if (entry != NULL)
            pg_yaml_put(list, entry);
        return entry;
    }
    pg_yaml *entry = list->first;
    for (int i = 0; i < index && entry != NULL; i++)
        entry = entry->next;
    return entry;
}

static pg_err merge(pg_config_impl *impl, const pg_config_set *set, pg_diag *diag) {
    pg_yaml *value = NULL;
    const char *where = pg_pool_text(&impl->pool, set->option, strlen(set->option));
    if (where == NULL)
        return no_memory(diag);
    if (set->literal) {
        value = pg_yaml_new(&impl->pool, PG_YAML_SCALAR, where);
        if (value != NULL)
            value->text = pg_pool_text(&impl->pool, set->value, strlen(set->value));
    } else {
        pg_err err = pg_yaml_parse_option(&impl->pool, where, set->value, &value, diag);
        if (err != PG_OK)
            return err;
        if (set->value[strspn(set->value, " \t\r\n")] == '\0')
            return pg_fail(diag, PG_ECONFIG, "%s: there is no value after '='", where);
    }
    if (value == NULL || value->text == NULL)
        return no_memory(diag);

    pg_yaml *map = impl->root;
    if (map->kind != PG_YAML_MAP)
        return PG_OK; /* the walk will say so */
    const char *rest = set->key;
    bool own_words = false;
    for (int depth = 0; rest != NULL; depth++) {
        const char *name = rest;
        size_t length = first_component(name, own_words, &rest);
        int index = own_words ? -1 : list_index(name, &length);
        if (length == 0 || index == -2 || depth == PG_CONFIG_MAX_DEPTH)
            return pg_fail(diag, PG_ECONFIG, "%s: not the path of a key", where);
        own_words = strncmp(set->key, "streams.", 8) == 0 ||
                    (depth == 1 && strncmp(set->key, "parchgrad.list.", 15) == 0);
        pg_yaml_kind kind = index >= 0 ? PG_YAML_LIST : PG_YAML_MAP;
        bool last = rest == NULL && index < 0;
        map = put(impl, map, name, length, where, last ? value : NULL, kind);
        if (map == NULL)
            return no_memory(diag);
        if (index >= 0 && rest == NULL)
            return pg_fail(diag, PG_ECONFIG, "%s: name a key of the entry, as in '%s.hwm'", where,
                           set->key);
        if (index >= 0)
            map = list_entry(impl, map, index, where);
        if (map == NULL)
            return pg_fail(diag, PG_ECONFIG, "%s: the list has no entry before this one", where);
        if (index >= 0 && map->kind != PG_YAML_MAP)
            return pg_fail(diag, PG_ECONFIG, "%s: that entry holds no keys", where);
    }
    return PG_OK;
}

/* ---- the whole ---- */

static pg_err build(pg_config_impl *impl, const char *name, const char *text, size_t size,
                    const pg_config_set *sets, int n_sets, pg_diag *diag) {
    pg_err err = pg_yaml_parse(&impl->pool, name, text, size, &impl->root, diag);
    for (int i = 0; i < n_sets && err == PG_OK; i++)
        err = merge(impl, &sets[i], diag);
    if (err == PG_OK)
        err =
            pg_config_read_map(impl, PG_SCOPE_MAIN, "", "", impl->root, &impl->config, true, diag);
    if (err == PG_OK)
        err = pg_config_check(impl, diag);
    return err;
}

pg_err pg_config_parse(const char *name, const char *text, size_t size, const pg_config_set *sets,
                       int n_sets, const pg_config **out, pg_diag *diag) {
    *out = NULL;
    pg_config_impl *impl = pg_calloc(1, sizeof *impl);
    if (impl == NULL)
        return no_memory(diag);
    impl->config.file = pg_pool_text(&impl->pool, name, strlen(name));
    pg_err err = impl->config.file == NULL
                     ? no_memory(diag)
                     : build(impl, impl->config.file, text, size, sets, n_sets, diag);
    const pg_config *config = &impl->config;
    if (err != PG_OK)
        pg_config_destroy(&config);
    *out = config;
    return err;
}

pg_err pg_config_load(const char *path, const pg_config_set *sets, int n_sets,
                      const pg_config **out, pg_diag *diag) {
    *out = NULL;
    if (path == NULL)
        return pg_config_parse("", "", 0, sets, n_sets, out, diag);
    uint8_t *text = NULL;
    size_t size = 0;
    pg_err err = pg_file_read(path, PG_CONFIG_MAX_BYTES, &text, &size, diag);
    if (err == PG_EINPUT)
        return pg_fail(diag, PG_ECONFIG, "%s:1:1: larger than %d KiB", path,
                       PG_CONFIG_MAX_BYTES / 1024);
    if (err == PG_OK)
        err = pg_config_parse(path, (const char *)text, size, sets, n_sets, out, diag);
    pg_free(text);
    return err;
}

void pg_config_destroy(const pg_config **config) {
    if (*config == NULL)
        return;
    pg_config_impl *impl = (pg_config_impl *)(uintptr_t)*config;
    pg_pool_clear(&impl->pool);
    pg_free(impl);
    *config = NULL;
}

const pg_stream_config *pg_config_stream(const pg_config *config, const char *id) {
    int low = 0, high = config->n_streams;
    while (low < high) {
        int middle = (low + high) / 2;
        int order = strcmp(config->streams[middle].id, id);
        if (order == 0)
            return &config->streams[middle];
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return &config->stream_default;
}

const pg_yaml *pg_config_find(const pg_config_impl *impl, const char *key) {
    const pg_yaml *node = impl->root;
    const char *rest = key;
    bool own_words = false;
    while (rest != NULL && node != NULL && node->kind == PG_YAML_MAP) {
        const char *name = rest;
        size_t length = first_component(name, own_words, &rest);
        own_words = strncmp(key, "streams.", 8) == 0;
        int index = list_index(name, &length);
        const pg_yaml *entry = node->first;
        while (entry != NULL && (strncmp(entry->key, name, length) != 0 || entry->key[length]))
            entry = entry->next;
        node = entry;
        if (index >= 0 && node != NULL && node->kind == PG_YAML_LIST) {
            const pg_yaml *item = node->first;
            for (int i = 0; i < index && item != NULL; i++)
                item = item->next;
            node = item;
        }
    }
    return rest == NULL ? node : NULL;
}

/* The default of a key as a node, which quotes of an empty string are the only punctuation of. */
static pg_yaml standing(const char *key) {
    pg_yaml node = {.kind = PG_YAML_LIST};
    for (int i = 0; pg_config_row_at(i) != NULL; i++) {
        const char *text = pg_config_row_at(i)->fallback;
        if (strcmp(pg_config_row_at(i)->path, key) != 0 || text == NULL || strchr("[{", text[0]))
            continue;
        node = (pg_yaml){.kind = PG_YAML_SCALAR, .plain = true, .text = text};
        if (strcmp(text, "''") == 0)
            node.text = "";
    }
    return node;
}

bool pg_config_scalar(const pg_config *config, const char *key, const char **text, double *number) {
    const pg_config_impl *impl = (const pg_config_impl *)(const void *)config;
    const pg_yaml *found = pg_config_find(impl, key), fallback = standing(key);
    const pg_yaml *node = found == NULL ? &fallback : found;
    *text = node->text;
    if (!pg_config_number(node, number))
        *number = (double)NAN;
    return node->kind == PG_YAML_SCALAR;
}

const char *pg_config_where(const pg_config *config, const char *key) {
    const pg_config_impl *impl = (const pg_config_impl *)(const void *)config;
    const pg_yaml *node = pg_config_find(impl, key);
    return node == NULL ? "default" : node->where;
}
