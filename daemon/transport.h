/* The seam to the messaging library: sockets that carry messages of several parts. Implemented by
 * transport_zmq.c; nothing above knows ZeroMQ. A socket belongs to the thread that opened it. */
#ifndef PG_DAEMON_TRANSPORT_H
#define PG_DAEMON_TRANSPORT_H

#include "daemon/config.h"
#include "pipeline/frame.h"

enum {
    PG_PARTS_MAX = 6,    /* kept of one message: identity, delimiter, a frame, one too many */
    PG_IDENTITY_MAX = 256,
};

/* A received message: the parts stay where the library put them and are borrowed from here until
 * pg_parts_release. `count` counts all that arrived, kept or not. */
typedef struct pg_parts {
    struct {
        _Alignas(8) unsigned char opaque[64];
    } owner[PG_PARTS_MAX];
    pg_bytes part[PG_PARTS_MAX];
    int kept, count;
} pg_parts;

/* Gives the parts back to the library. Any thread; harmless on an empty message. */
void pg_parts_release(pg_parts *parts);

typedef enum pg_socket_kind {
    PG_SOCKET_SUB,
    PG_SOCKET_PULL,
    PG_SOCKET_REP,
    PG_SOCKET_PUB,
    PG_SOCKET_ROUTER,
} pg_socket_kind;

typedef struct pg_socket_options {
    pg_socket_kind kind;
    bool bind;             /* else connect */
    const char *endpoint;  /* "tcp://host:port", "ipc://path" */
    pg_string_list topics; /* sub: prefixes; none: everything */
    int hwm;               /* messages that may wait, both ways, but router: only in; 0: the
                              library's default */
    int send_buffer;       /* kernel buffer in bytes; 0: the system's default */
    int64_t max_message;   /* bytes of one part at which the peer is cut off */
    int linger_ms;         /* how long unsent messages may hold up the end */
} pg_socket_options;

typedef struct pg_transport pg_transport; /* the library's context; one per process */
typedef struct pg_socket pg_socket;

/* PG_ENOMEM, PG_EFAIL. Destroy waits for unsent messages as long as the sockets' linger_ms. */
pg_err pg_transport_create(pg_transport **out, pg_diag *diag);
void pg_transport_destroy(pg_transport **transport);

/* Opens, binds or connects. Binding an ipc path also takes a lock file beside it ("path.lock"),
 * held until the process dies, because the library silently steals a path in use. PG_ECONFIG: the
 * endpoint cannot be had, and the sentence says why. */
pg_err pg_socket_open(pg_transport *transport, const pg_socket_options *options, pg_socket **out,
                      pg_diag *diag);
void pg_socket_close(pg_socket **socket);

/* The endpoint as bound (a port of 0 resolved). Borrowed. */
const char *pg_socket_endpoint(const pg_socket *socket);

/* Waits until a message can be received, `wake_fd` (-1: none) is readable, or the time is over.
 * Returns whether a message is there. */
bool pg_socket_wait(pg_socket *socket, int wake_fd, int timeout_ms);

/* Takes one message, if there is one. False: none, or the socket is at its end. */
bool pg_socket_receive(pg_socket *socket, pg_parts *parts);

/* Sends the parts as one message without waiting; copies them. False: it could not be queued. */
bool pg_socket_send(pg_socket *socket, const pg_bytes *parts, int count);

#endif
