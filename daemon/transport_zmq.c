/* The only file with zmq.h. Choices that were measured, not guessed:
 * - no heartbeats: libzmq 4.3.4 aborts when they are on and a receiver stops reading;
 * - ZMQ_MAXMSGSIZE far above any frame: libzmq cuts the connection at an oversize message and the
 *   good frames behind it are lost with it, uncounted; the size limit that counts is wire.c's;
 * - small high-water marks and send buffers: what waits there grows old unseen;
 * - the lock file: the second bind of an ipc path succeeds and the first daemon goes deaf. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>
#include <zmq.h>

#include "daemon/transport.h"
#include "kernels/mem.h"

struct pg_transport {
    void *context;
};

struct pg_socket {
    void *handle;
    int lock_fd; /* -1: none */
    char endpoint[512];
};

_Static_assert(sizeof(zmq_msg_t) <= sizeof(((pg_parts *)0)->owner[0]), "room for a zmq_msg_t");

static zmq_msg_t *message_at(pg_parts *parts, int i) {
    return (zmq_msg_t *)(void *)parts->owner[i].opaque;
}

void pg_parts_release(pg_parts *parts) {
    for (int i = 0; i < parts->kept; i++)
        zmq_msg_close(message_at(parts, i));
    parts->kept = parts->count = 0;
}

pg_err pg_transport_create(pg_transport **out, pg_diag *diag) {
    *out = pg_calloc(1, sizeof **out);
    if (*out == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the transport");
    (*out)->context = zmq_ctx_new();
    if ((*out)->context == NULL) {
        pg_transport_destroy(out);
        return pg_fail(diag, PG_EFAIL, "zmq_ctx_new: %s", zmq_strerror(errno));
    }
    return PG_OK;
}

void pg_transport_destroy(pg_transport **transport) {
    if (*transport == NULL)
        return;
    if ((*transport)->context != NULL)
        while (zmq_ctx_term((*transport)->context) != 0 && errno == EINTR) {
        }
    pg_free(*transport);
    *transport = NULL;
}

static int zmq_type(pg_socket_kind kind) {
    switch (kind) {
    case PG_SOCKET_SUB:
        return ZMQ_SUB;
    case PG_SOCKET_PULL:
        return ZMQ_PULL;
    case PG_SOCKET_REP:
        return ZMQ_REP;
    case PG_SOCKET_PUB:
        return ZMQ_PUB;
    case PG_SOCKET_ROUTER:
        break;
    }
    return ZMQ_ROUTER;
}

static bool set_int(void *handle, int option, int number) {
    return zmq_setsockopt(handle, option, &number, sizeof number) == 0;
}

static bool set_options(void *handle, const pg_socket_options *o) {
    bool ok = set_int(handle, ZMQ_LINGER, o->linger_ms) &&
              set_int(handle, ZMQ_IPV6, strchr(o->endpoint, '[') != NULL) &&
              set_int(handle, ZMQ_HANDSHAKE_IVL, 5000) &&
              set_int(handle, ZMQ_RECONNECT_IVL_MAX, 5000) &&
              set_int(handle, ZMQ_CONNECT_TIMEOUT, 3000) &&
              set_int(handle, ZMQ_TCP_KEEPALIVE, 1);
    if (o->max_message > 0)
        ok = ok && zmq_setsockopt(handle, ZMQ_MAXMSGSIZE, &o->max_message,
                                  sizeof o->max_message) == 0;
    if (o->hwm > 0)
        ok = ok && set_int(handle, ZMQ_RCVHWM, o->hwm);
    if (o->hwm > 0 && o->kind != PG_SOCKET_ROUTER) /* a full ROUTER loses replies without a word */
        ok = ok && set_int(handle, ZMQ_SNDHWM, o->hwm);
    if (o->send_buffer > 0)
        ok = ok && set_int(handle, ZMQ_SNDBUF, o->send_buffer);
    if (o->kind != PG_SOCKET_SUB)
        return ok;
    if (o->topics.count == 0)
        return ok && zmq_setsockopt(handle, ZMQ_SUBSCRIBE, "", 0) == 0;
    for (int i = 0; i < o->topics.count; i++)
        ok = ok && zmq_setsockopt(handle, ZMQ_SUBSCRIBE, o->topics.items[i],
                                  strlen(o->topics.items[i])) == 0;
    return ok;
}

/* The lock dies with the process, however it dies; the file stays and does no harm. */
static pg_err lock_ipc(pg_socket *socket, const char *endpoint, pg_diag *diag) {
    static const char scheme[] = "ipc://";
    if (strncmp(endpoint, scheme, sizeof scheme - 1) != 0 || endpoint[sizeof scheme - 1] == '@')
        return PG_OK;
    char path[512];
    int n = snprintf(path, sizeof path, "%s.lock", endpoint + sizeof scheme - 1);
    if (n < 0 || (size_t)n >= sizeof path)
        return pg_fail(diag, PG_ECONFIG, "%s: the path is too long", endpoint);
    socket->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (socket->lock_fd < 0)
        return pg_fail(diag, PG_ECONFIG, "%s: cannot create the lock file %s: %s", endpoint, path,
                       strerror(errno));
    if (flock(socket->lock_fd, LOCK_EX | LOCK_NB) != 0)
        return pg_fail(diag, PG_ECONFIG, "%s: another process serves this endpoint (it holds %s)",
                       endpoint, path);
    return PG_OK;
}

static pg_err attach(pg_socket *socket, const pg_socket_options *o, pg_diag *diag) {
    pg_err err = o->bind ? lock_ipc(socket, o->endpoint, diag) : PG_OK;
    if (err != PG_OK)
        return err;
    int failed = o->bind ? zmq_bind(socket->handle, o->endpoint)
                         : zmq_connect(socket->handle, o->endpoint);
    if (failed)
        return pg_fail(diag, PG_ECONFIG, "cannot %s %s: %s", o->bind ? "bind" : "connect to",
                       o->endpoint, zmq_strerror(errno));
    size_t size = sizeof socket->endpoint;
    if (zmq_getsockopt(socket->handle, ZMQ_LAST_ENDPOINT, socket->endpoint, &size) != 0)
        snprintf(socket->endpoint, sizeof socket->endpoint, "%s", o->endpoint);
    return PG_OK;
}

pg_err pg_socket_open(pg_transport *transport, const pg_socket_options *options, pg_socket **out,
                      pg_diag *diag) {
    *out = pg_calloc(1, sizeof **out);
    if (*out == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for a socket");
    (*out)->lock_fd = -1;
    (*out)->handle = zmq_socket(transport->context, zmq_type(options->kind));
    pg_err err = PG_OK;
    if ((*out)->handle == NULL || !set_options((*out)->handle, options))
        err = pg_fail(diag, PG_EFAIL, "%s: cannot set up the socket: %s", options->endpoint,
                      zmq_strerror(errno));
    else
        err = attach(*out, options, diag);
    if (err != PG_OK)
        pg_socket_close(out);
    return err;
}

void pg_socket_close(pg_socket **socket) {
    if (*socket == NULL)
        return;
    if ((*socket)->handle != NULL)
        zmq_close((*socket)->handle);
    if ((*socket)->lock_fd >= 0)
        close((*socket)->lock_fd);
    pg_free(*socket);
    *socket = NULL;
}

const char *pg_socket_endpoint(const pg_socket *socket) { return socket->endpoint; }

bool pg_socket_wait(pg_socket *socket, int wake_fd, int timeout_ms) {
    zmq_pollitem_t items[2] = {{.socket = socket->handle, .events = ZMQ_POLLIN},
                               {.fd = wake_fd, .events = ZMQ_POLLIN}};
    zmq_poll(items, wake_fd >= 0 ? 2 : 1, timeout_ms);
    return (items[0].revents & ZMQ_POLLIN) != 0;
}

static bool receive_part(pg_socket *socket, zmq_msg_t *message) {
    int size;
    do
        size = zmq_msg_recv(message, socket->handle, ZMQ_DONTWAIT);
    while (size < 0 && errno == EINTR);
    return size >= 0;
}

bool pg_socket_receive(pg_socket *socket, pg_parts *parts) {
    parts->kept = parts->count = 0;
    bool more = true;
    while (more) {
        zmq_msg_t spare, *message = &spare;
        bool keep = parts->kept < PG_PARTS_MAX;
        if (keep)
            message = message_at(parts, parts->kept);
        zmq_msg_init(message);
        if (!receive_part(socket, message)) {
            zmq_msg_close(message);
            pg_parts_release(parts);
            return false;
        }
        parts->count++;
        more = zmq_msg_more(message);
        if (!keep) {
            zmq_msg_close(message);
            continue;
        }
        parts->part[parts->kept++] = (pg_bytes){zmq_msg_data(message), zmq_msg_size(message)};
    }
    return true;
}

bool pg_socket_send(pg_socket *socket, const pg_bytes *parts, int count) {
    for (int i = 0; i < count; i++) {
        int flags = ZMQ_DONTWAIT | (i + 1 < count ? ZMQ_SNDMORE : 0), sent;
        do
            sent = zmq_send(socket->handle, parts[i].data, parts[i].size, flags);
        while (sent < 0 && errno == EINTR);
        if (sent < 0)
            return false;
    }
    return true;
}
