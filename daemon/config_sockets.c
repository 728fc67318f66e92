/* Readers of endpoints, sockets and streams. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/config_impl.h"
#include "daemon/wire.h"

static pg_err no_memory(pg_diag *diag) {
    return pg_fail(diag, PG_ENOMEM, "out of memory while reading the configuration");
}

/* Digits of a port 1 .. 65535 up to the end of the text (0 allowed on request). */
static bool port_of(const char *text, bool zero, uint16_t *out) {
    size_t digits = strspn(text, "0123456789");
    unsigned long port = digits >= 1 && digits <= 5 ? strtoul(text, NULL, 10) : 65536;
    *out = (uint16_t)port;
    return text[digits] == '\0' && port <= 65535 && (zero || port > 0);
}

/* tcp://host:port or ipc://path, as far as it can be told without trying. */
static bool endpoint_valid(const char *text, bool bind) {
    enum { IPC_PATH_MAX = 107 }; /* sun_path without its NUL */
    if (strncmp(text, "ipc://", 6) == 0)
        return text[6] != '\0' && strlen(text + 6) <= IPC_PATH_MAX;
    const char *colon = strrchr(text, ':');
    uint16_t port;
    if (strncmp(text, "tcp://", 6) != 0 || colon <= text + 6 || strlen(text) > 255)
        return false;
    if (bind && strcmp(colon, ":*") == 0)
        return true;
    bool any = strncmp(text + 6, "*:", 2) == 0;
    return port_of(colon + 1, false, &port) && (bind || !any);
}

static pg_err endpoint(const char *path, const pg_yaml *node, bool bind, bool may_be_empty,
                       const char **out, pg_diag *diag) {
    bool ok = node->kind == PG_YAML_SCALAR &&
              (endpoint_valid(node->text, bind) || (may_be_empty && node->text[0] == '\0'));
    if (!ok) {
        char quoted[PG_YAML_QUOTE];
        return pg_fail(
            diag, PG_ECONFIG, "%s: %s must be an endpoint, tcp://%s:port or ipc://path, not %s",
            node->where, path, bind ? "*" : "host",
            node->kind == PG_YAML_SCALAR ? pg_yaml_quote(node->text, quoted) : "a list or map");
    }
    *out = node->text;
    return PG_OK;
}

PG_CONFIG_READER(publish_bind) {
    (void)impl, (void)key;
    return endpoint(path, node, true, true, &((pg_config *)base)->publish.bind, diag);
}

PG_CONFIG_READER(rpc_bind) {
    (void)impl, (void)key;
    return endpoint(path, node, true, true, &((pg_config *)base)->rpc.bind, diag);
}

static pg_err ingest_endpoint(const char *path, const pg_yaml *node, bool bind, void *base,
                              pg_diag *diag) {
    pg_ingest_config *ingest = base;
    if (ingest->endpoint != NULL)
        return pg_fail(diag, PG_ECONFIG, "%s: a socket has bind or connect, not both",
                       node->key_where);
    ingest->bind = bind;
    return endpoint(path, node, bind, false, &ingest->endpoint, diag);
}

PG_CONFIG_READER(bind) {
    (void)impl, (void)key;
    return ingest_endpoint(path, node, true, base, diag);
}

PG_CONFIG_READER(connect) {
    (void)impl, (void)key;
    return ingest_endpoint(path, node, false, base, diag);
}

PG_CONFIG_READER(topics) {
    (void)key;
    pg_ingest_config *ingest = base;
    pg_err err = pg_config_strings(impl, path, node, &ingest->topics, diag);
    if (err == PG_OK && ingest->topics.count == 0)
        return pg_fail(diag, PG_ECONFIG, "%s: %s is empty: nothing would be heard; '' hears all",
                       node->where, path);
    return err;
}

PG_CONFIG_READER(ingest) {
    (void)key;
    pg_config *config = base;
    if (node->kind != PG_YAML_LIST)
        return pg_fail(diag, PG_ECONFIG, "%s: %s must be a list of sockets: '- bind: tcp://*:5555'",
                       node->where, path);
    pg_ingest_config *list = pg_pool_array(&impl->pool, (size_t)node->count + 1, sizeof *list);
    if (list == NULL)
        return no_memory(diag);
    int n = 0;
    for (const pg_yaml *entry = node->first; entry != NULL; entry = entry->next, n++) {
        char prefix[32] = "";
        snprintf(prefix, sizeof prefix, "ingest[%d].", n);
        pg_err err = pg_config_read_map(impl, PG_SCOPE_INGEST, "ingest[].", prefix, entry, &list[n],
                                        true, diag);
        if (err != PG_OK)
            return err;
        if (list[n].endpoint == NULL)
            return pg_fail(diag, PG_ECONFIG, "%s: ingest[%d] has neither bind nor connect",
                           entry->where, n);
        const pg_yaml *topics = pg_yaml_get(entry, "topics");
        if (topics != NULL && list[n].type != PG_INGEST_SUB)
            return pg_fail(diag, PG_ECONFIG, "%s: only type sub has topics", topics->key_where);
    }
    config->ingest = list;
    config->n_ingest = n;
    return PG_OK;
}

static int by_id(const void *a, const void *b) {
    return strcmp(((const pg_stream_config *)a)->id, ((const pg_stream_config *)b)->id);
}

/* One entry of `streams`; `settings` already holds what it starts from. */
static pg_err read_stream(pg_config_impl *impl, const pg_yaml *entry, pg_stream_config *settings,
                          bool defaults, pg_diag *diag) {
    char prefix[PG_STREAM_MAX + 16];
    char quoted[PG_YAML_QUOTE];
    if (!pg_wire_stream_id_valid((const uint8_t *)entry->key, strlen(entry->key)))
        return pg_fail(diag, PG_ECONFIG,
                       "%s: %s cannot be a stream id: 1 to %d bytes, no control characters, not "
                       "'status', not beginning with '_' or 'alert.'",
                       entry->key_where, pg_yaml_quote(entry->key, quoted), PG_STREAM_MAX);
    snprintf(prefix, sizeof prefix, "streams.%s.", entry->key);
    return pg_config_read_map(impl, PG_SCOPE_STREAM, "streams.*.", prefix, entry, settings,
                              defaults, diag);
}

PG_CONFIG_READER(streams) {
    (void)key;
    pg_config *config = base;
    if (node->kind != PG_YAML_MAP)
        return pg_fail(diag, PG_ECONFIG, "%s: %s must map stream ids (or default) to settings",
                       node->where, path);
    pg_yaml none = {.kind = PG_YAML_MAP, .text = "", .where = node->where, .key = "default"};
    const pg_yaml *common = pg_yaml_get(node, "default");
    pg_err err =
        read_stream(impl, common == NULL ? &none : common, &config->stream_default, true, diag);
    pg_stream_config *list = pg_pool_array(&impl->pool, (size_t)node->count + 1, sizeof *list);
    if (list == NULL)
        return no_memory(diag);
    int n = 0;
    for (const pg_yaml *entry = node->first; err == PG_OK && entry != NULL; entry = entry->next) {
        if (entry == common)
            continue;
        list[n] = config->stream_default;
        list[n].id = entry->key;
        err = read_stream(impl, entry, &list[n++], false, diag);
    }
    qsort(list, (size_t)n, sizeof *list, by_id);
    config->streams = list;
    config->n_streams = n;
    return err;
}

PG_CONFIG_READER(http_listen) {
    (void)key;
    pg_http_config *http = &((pg_config *)base)->http;
    const char *text = node->text;
    http->host = "";
    if (node->kind == PG_YAML_SCALAR && !node->plain && text[0] == '\0')
        return PG_OK;
    const char *colon = strrchr(text, ':');
    bool ok = colon != NULL && colon > text && strlen(text) < 256 &&
              port_of(colon + 1, true, &http->port);
    bool bracketed = ok && text[0] == '[' && colon[-1] == ']' && colon - text > 2;
    if (ok && !bracketed)
        ok = memchr(text, ':', (size_t)(colon - text)) == NULL && text[0] != '[';
    if (!ok) {
        char quoted[PG_YAML_QUOTE];
        return pg_fail(diag, PG_ECONFIG, "%s: %s must be host:port, as in 127.0.0.1:9090, not %s",
                       node->where, path, pg_yaml_quote(text, quoted));
    }
    size_t skip = bracketed ? 1 : 0;
    http->host = pg_pool_text(&impl->pool, text + skip, (size_t)(colon - text) - 2 * skip);
    return http->host == NULL ? no_memory(diag) : PG_OK;
}
