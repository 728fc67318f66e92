/* One reader per type. What was written in quotes is a string and nothing else; what was written
 * without is a number, true or false if it looks like one. YAML 1.1's yes, no, on, off, octal and
 * sexagesimal numbers are not read: nobody remembers them. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_impl.h"

static const char *kind_name(const pg_yaml *node) {
    return node->kind == PG_YAML_MAP ? "a map" : "a list";
}

static pg_err wrong_type(const char *path, const pg_yaml *node, const char *wanted, pg_diag *diag) {
    char quoted[PG_YAML_QUOTE];
    if (node->kind != PG_YAML_SCALAR)
        return pg_fail(diag, PG_ECONFIG, "%s: %s must be %s, not %s", node->where, path, wanted,
                       kind_name(node));
    return pg_fail(diag, PG_ECONFIG, "%s: %s must be %s, not %s%s", node->where, path, wanted,
                   node->plain ? "" : "the string ", pg_yaml_quote(node->text, quoted));
}

pg_err pg_config_read_bool(pg_config_impl *impl, const pg_key *key, const char *path,
                           const pg_yaml *node, void *base, pg_diag *diag) {
    (void)impl;
    bool yes = node->kind == PG_YAML_SCALAR && node->plain && strcmp(node->text, "true") == 0;
    bool no = node->kind == PG_YAML_SCALAR && node->plain && strcmp(node->text, "false") == 0;
    if (!yes && !no)
        return wrong_type(path, node, "true or false", diag);
    *(bool *)((char *)base + key->offset) = yes;
    return PG_OK;
}

/* Stores a non-negative whole number in a member of 1, 4 or 8 bytes. */
static void store_whole(void *base, const pg_key *key, uint64_t value) {
    char *to = (char *)base + key->offset;
    if (key->size == 1)
        *(bool *)to = value != 0;
    else if (key->size == 4)
        memcpy(to, &(uint32_t){(uint32_t)value}, 4);
    else
        memcpy(to, &value, 8);
}

pg_err pg_config_read_int(pg_config_impl *impl, const pg_key *key, const char *path,
                          const pg_yaml *node, void *base, pg_diag *diag) {
    (void)impl;
    size_t digits = strspn(node->text + (node->text[0] == '-'), "0123456789");
    if (node->kind != PG_YAML_SCALAR || !node->plain || digits == 0 ||
        node->text[digits + (node->text[0] == '-')] != '\0')
        return wrong_type(path, node, "a whole number", diag);
    double value = strtod(node->text, NULL);
    if (value < key->row.min || value > key->row.max)
        return pg_fail(diag, PG_ECONFIG, "%s: %s must be between %.0f and %.0f%s%s, not %.40s",
                       node->where, path, key->row.min, key->row.max,
                       key->row.unit[0] == '\0' ? "" : " ", key->row.unit, node->text);
    store_whole(base, key, strtoull(node->text, NULL, 10));
    return PG_OK;
}

bool pg_config_number(const pg_yaml *node, double *out) {
    if (node->kind != PG_YAML_SCALAR || !node->plain || node->text[0] == '\0')
        return false;
    const char *text = node->text;
    if (strcmp(text, "inf") == 0 || strcmp(text, ".inf") == 0) {
        *out = INFINITY;
        return true;
    }
    if (strspn(text, "0123456789+-.eE") != strlen(text) || strpbrk(text, "0123456789") == NULL)
        return false;
    char *end;
    *out = strtod(text, &end);
    return *end == '\0';
}

pg_err pg_config_read_number(pg_config_impl *impl, const pg_key *key, const char *path,
                             const pg_yaml *node, void *base, pg_diag *diag) {
    (void)impl;
    double value;
    if (!pg_config_number(node, &value))
        return wrong_type(path, node, isinf(key->row.max) ? "a number or inf" : "a number", diag);
    if (!(value >= key->row.min && value <= key->row.max)) {
        const char *unit = key->row.unit;
        return pg_fail(diag, PG_ECONFIG, "%s: %s must be between %.10g and %.10g%s%s, not %.40s",
                       node->where, path, key->row.min, key->row.max, unit[0] == '\0' ? "" : " ",
                       unit, node->text);
    }
    if (key->size == sizeof(float))
        *(float *)(void *)((char *)base + key->offset) = (float)value;
    else
        *(double *)(void *)((char *)base + key->offset) = value;
    return PG_OK;
}

/* A string; `numbers`: also what looks like a number. */
static pg_err text_of(const char *path, const pg_yaml *node, bool numbers, const char **out,
                      pg_diag *diag) {
    double number;
    bool looks = pg_config_number(node, &number) && !isinf(number);
    bool boolean = node->kind == PG_YAML_SCALAR && node->plain &&
                   (strcmp(node->text, "true") == 0 || strcmp(node->text, "false") == 0);
    if (node->kind != PG_YAML_SCALAR || boolean || (looks && !numbers))
        return wrong_type(path, node, looks || boolean ? "a string (in quotes)" : "a string", diag);
    if (strlen(node->text) > 4096)
        return pg_fail(diag, PG_ECONFIG, "%s: %s is longer than 4096 bytes", node->where, path);
    *out = node->text;
    return PG_OK;
}

pg_err pg_config_read_string(pg_config_impl *impl, const pg_key *key, const char *path,
                             const pg_yaml *node, void *base, pg_diag *diag) {
    (void)impl;
    return text_of(path, node, key->row.type == PG_CONFIG_TEXT,
                   (const char **)(void *)((char *)base + key->offset), diag);
}

pg_err pg_config_read_enum(pg_config_impl *impl, const pg_key *key, const char *path,
                           const pg_yaml *node, void *base, pg_diag *diag) {
    (void)impl;
    uint64_t index = 0;
    size_t length = strlen(node->text);
    for (const char *choice = key->row.choices; node->kind == PG_YAML_SCALAR; index++) {
        size_t n = strcspn(choice, "|");
        if (n == length && strncmp(choice, node->text, n) == 0) {
            store_whole(base, key, index);
            return PG_OK;
        }
        if (choice[n] == '\0')
            break;
        choice += n + 1;
    }
    char wanted[256] = "";
    bool single = strchr(key->row.choices, '|') == NULL;
    if (!single)
        strcat(wanted, "one of ");
    for (const char *c = key->row.choices; *c != '\0'; c++)
        strncat(wanted, *c == '|' ? ", " : (char[]){*c, '\0'}, sizeof wanted - strlen(wanted) - 1);
    return wrong_type(path, node, wanted, diag);
}

pg_err pg_config_strings(pg_config_impl *impl, const char *path, const pg_yaml *node,
                         pg_string_list *out, pg_diag *diag) {
    if (node->kind != PG_YAML_LIST)
        return wrong_type(path, node, "a list of strings", diag);
    const char **items = pg_pool_array(&impl->pool, (size_t)node->count + 1, sizeof *items);
    if (items == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory while reading the configuration");
    int n = 0;
    for (const pg_yaml *entry = node->first; entry != NULL; entry = entry->next, n++) {
        pg_err err = text_of(path, entry, false, &items[n], diag);
        if (err != PG_OK)
            return err;
    }
    *out = (pg_string_list){items, n};
    return PG_OK;
}
