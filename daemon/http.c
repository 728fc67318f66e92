/* One thread of libmicrohttpd serves all connections, of which there are at most a few dozen, so
 * nothing here can hold up a frame. No request has a body; nothing a client sends is kept. */
#include "daemon/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "daemon/log.h"
#include "daemon/web.h"
#include "kernels/mem.h"

enum { CONNECTIONS_MAX = 64, IDLE_SECONDS = 10, CONNECTION_BYTES = 16384 };

struct pg_http {
    struct MHD_Daemon *server;
    pg_metrics *metrics;
    pg_live *live;
    pg_text text; /* of the thread that serves */
    _Atomic bool ready;
};

typedef struct answer {
    unsigned status;
    const char *type;
    const void *data;
    size_t size;
    uint8_t *owned; /* freed after it was copied; NULL: none */
} answer;

static answer plain(unsigned status, const char *text) {
    return (answer){status, "text/plain; charset=utf-8", text, strlen(text), NULL};
}

static answer printed(pg_http *h, const char *type) {
    if (h->text.failed)
        return plain(MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory\n");
    return (answer){MHD_HTTP_OK, type, h->text.data, h->text.size, NULL};
}

/* "/overlay/<stream>.jpg", the stream percent-decoded by the library. */
static answer overlay(pg_http *h, const char *name) {
    char stream[PG_STREAM_MAX + 1];
    size_t size = strlen(name);
    const size_t suffix = 4;
    if (size <= suffix || size - suffix > PG_STREAM_MAX ||
        strcmp(name + size - suffix, ".jpg") != 0)
        return plain(MHD_HTTP_NOT_FOUND, "not found\n");
    memcpy(stream, name, size - suffix);
    stream[size - suffix] = '\0';
    uint8_t *jpeg;
    size_t bytes;
    pg_live_viewed(h->live);
    if (!pg_live_overlay(h->live, stream, &jpeg, &bytes))
        return plain(MHD_HTTP_NOT_FOUND, "no overlay of this stream yet\n");
    return (answer){MHD_HTTP_OK, "image/jpeg", jpeg, bytes, jpeg};
}

static answer route(pg_http *h, const char *url) {
    static const char overlays[] = "/overlay/";
    pg_text_clear(&h->text);
    if (strcmp(url, "/") == 0) {
        pg_live_viewed(h->live);
        return (answer){MHD_HTTP_OK, "text/html; charset=utf-8", pg_web_page, pg_web_page_size(), NULL};
    }
    if (strcmp(url, "/streams") == 0) {
        pg_live_viewed(h->live);
        pg_live_render(h->live, &h->text);
        return printed(h, "application/json");
    }
    if (strncmp(url, overlays, sizeof overlays - 1) == 0)
        return overlay(h, url + sizeof overlays - 1);
    if (strcmp(url, "/metrics") == 0) {
        pg_metrics_render(h->metrics, &h->text);
        return printed(h, "text/plain; version=0.0.4; charset=utf-8");
    }
    if (strcmp(url, "/healthz") == 0)
        return plain(MHD_HTTP_OK, "ok\n");
    if (strcmp(url, "/readyz") == 0)
        return atomic_load(&h->ready) ? plain(MHD_HTTP_OK, "ready\n")
                                      : plain(MHD_HTTP_SERVICE_UNAVAILABLE, "not ready\n");
    return plain(MHD_HTTP_NOT_FOUND, "not found\n");
}

static enum MHD_Result serve(void *context, struct MHD_Connection *connection, const char *url,
                             const char *method, const char *version, const char *upload,
                             size_t *upload_size, void **state) {
    (void)version, (void)upload, (void)upload_size;
    static int seen;
    if (*state == NULL) { /* first the headers: the answer comes at the second call */
        *state = &seen;
        return MHD_YES;
    }
    bool allowed = strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0;
    answer a = allowed ? route(context, url)
                       : plain(MHD_HTTP_METHOD_NOT_ALLOWED, "GET and HEAD only\n");
    struct MHD_Response *response =
        MHD_create_response_from_buffer(a.size, (void *)(uintptr_t)a.data, MHD_RESPMEM_MUST_COPY);
    pg_free(a.owned);
    if (response == NULL)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", a.type);
    MHD_add_response_header(response, "Cache-Control", "no-store");
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Content-Security-Policy",
                            "default-src 'none'; img-src 'self' blob: data:; connect-src 'self'; "
                            "style-src 'unsafe-inline'; script-src 'unsafe-inline'");
    if (!allowed)
        MHD_add_response_header(response, "Allow", "GET, HEAD");
    enum MHD_Result queued = MHD_queue_response(connection, a.status, response);
    MHD_destroy_response(response);
    return queued;
}

static void log_library(void *context, const char *format, va_list args) {
    (void)context;
    static pg_log_limit limit;
    char line[256];
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = '\0';
    pg_log_limited(&limit, PG_VERBOSITY_DEBUG, NULL, "http: %s", line);
}

static pg_err listen_on(pg_http *h, const struct addrinfo *address) {
    unsigned flags = MHD_USE_AUTO | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_ERROR_LOG;
    if (address->ai_family == AF_INET6)
        flags |= MHD_USE_IPv6;
    h->server = MHD_start_daemon(
        flags, 0, NULL, NULL, serve, h, MHD_OPTION_EXTERNAL_LOGGER, log_library, NULL,
        MHD_OPTION_SOCK_ADDR, address->ai_addr, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)CONNECTION_BYTES, MHD_OPTION_END);
    return h->server != NULL ? PG_OK : PG_ECONFIG;
}

pg_err pg_http_start(const pg_http_config *config, pg_metrics *metrics, pg_live *live,
                     pg_http **out, pg_diag *diag) {
    pg_http *h = *out = pg_calloc(1, sizeof *h);
    if (h == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for HTTP");
    h->metrics = metrics;
    h->live = live;
    char port[8];
    snprintf(port, sizeof port, "%u", config->port);
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *address = NULL;
    int failed = getaddrinfo(config->host, port, &hints, &address);
    pg_err err = PG_OK;
    if (failed)
        err = pg_fail(diag, PG_ECONFIG, "http.listen: %s: %s", config->host, gai_strerror(failed));
    else if (listen_on(h, address) != PG_OK)
        err = pg_fail(diag, PG_ECONFIG, "http.listen: cannot listen on %s port %u: %s",
                      config->host, config->port, strerror(errno));
    if (address != NULL)
        freeaddrinfo(address);
    if (err != PG_OK) {
        pg_http_stop(out);
        return err;
    }
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(h->server, MHD_DAEMON_INFO_BIND_PORT);
    bool v6 = strchr(config->host, ':') != NULL;
    pg_log(PG_VERBOSITY_INFO, NULL, "live page on http://%s%s%s:%u/", v6 ? "[" : "", config->host,
           v6 ? "]" : "", info != NULL ? info->port : config->port);
    return PG_OK;
}

void pg_http_set_ready(pg_http *http, bool ready) {
    if (http != NULL)
        atomic_store(&http->ready, ready);
}

void pg_http_stop(pg_http **http) {
    if (*http == NULL)
        return;
    if ((*http)->server != NULL)
        MHD_stop_daemon((*http)->server);
    pg_text_free(&(*http)->text);
    pg_free(*http);
    *http = NULL;
}
