/* The configuration: a YAML file and `--set` options turned into one constant struct.
 *
 * Every key is a row of config.def (path, type, default, range, unit, prose); conf/parchgradd.yaml
 * shows all of them with their defaults, and a test compares the two. Nothing is guessed: unknown
 * keys, duplicates, wrong types, values out of range and keys without a value are errors that name
 * file, line and column. */
#ifndef PG_DAEMON_CONFIG_H
#define PG_DAEMON_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/team_pin.h"
#include "daemon/team_start.h"
#include "kernels/err.h"
#include "pipeline/options.h"

/* What bounds a configuration file, which is hostile input like any other. */
enum {
    PG_CONFIG_MAX_BYTES = 256 * 1024,
    PG_CONFIG_MAX_DEPTH = 8,
    PG_CONFIG_MAX_EVENTS = 10000,
};

typedef enum pg_ingest_type { PG_INGEST_SUB, PG_INGEST_PULL, PG_INGEST_REP } pg_ingest_type;
typedef enum pg_dialect { PG_DIALECT_NATIVE } pg_dialect;

/* One entry of `ingest`: a socket frames come from. */
typedef struct pg_ingest_config {
    const char *endpoint; /* "tcp://..." or "ipc://..." */
    bool bind;            /* true: bind, false: connect */
    pg_ingest_type type;
    pg_dialect dialect;
    pg_string_list topics; /* prefixes a sub subscribes to; at least one entry, "" means all */
    int hwm;               /* messages that may wait in the socket */
} pg_ingest_config;

typedef enum pg_policy { PG_POLICY_NEWEST, PG_POLICY_FIFO, PG_POLICY_BLOCK } pg_policy;

/* What holds for the frames of one stream. */
typedef struct pg_stream_config {
    const char *id; /* NULL for the defaults */
    pg_policy policy;
    int depth;          /* frames a fifo or block queue holds */
    double max_age;     /* seconds; 0: no limit */
    const char *target; /* "": explain.target */
    const char *method; /* "": explain.method */
    double deadline;    /* seconds; 0: explain.deadline */
} pg_stream_config;

typedef struct pg_publish_config {
    const char *bind; /* "": nothing is published */
    bool overlay;     /* send the overlay JPEG as the fourth part */
    int hwm;          /* ZMQ_SNDHWM */
    int send_buffer;  /* ZMQ_SNDBUF, bytes */
} pg_publish_config;

typedef struct pg_rpc_config {
    const char *bind; /* "": no rpc endpoint */
    int depth;        /* requests that may wait */
} pg_rpc_config;

typedef struct pg_limits_config {
    int streams;          /* streams served at once */
    double stream_idle;   /* seconds without a frame until a stream gives its place up */
    uint64_t frame_bytes; /* the pixel part of a frame */
    uint64_t pixels;      /* width x height of a frame (explain.max_pixels is the same figure) */
    uint64_t meta_bytes;  /* header `meta` */
    uint64_t model_bytes; /* the model file (explain.max_file_bytes is the same figure) */
    uint64_t session_bytes; /* one worker's arena (explain.max_session_bytes likewise) */
} pg_limits_config;

typedef struct pg_http_config {
    const char *host; /* "": no HTTP. An IPv6 address stands without its brackets */
    uint16_t port;    /* 0: any free port */
} pg_http_config;

/* The same four levels as syslog's err, warning, info, debug. */
typedef enum pg_verbosity {
    PG_VERBOSITY_ERROR,
    PG_VERBOSITY_WARNING,
    PG_VERBOSITY_INFO,
    PG_VERBOSITY_DEBUG,
} pg_verbosity;

/* Strings are never NULL unless said; everything is owned by the configuration. */
typedef struct pg_config {
    const char *file; /* as given; "" when no file was read */
    pg_explain_options explain;
    const pg_ingest_config *ingest;
    int n_ingest;
    pg_publish_config publish;
    pg_rpc_config rpc;
    pg_stream_config stream_default;
    const pg_stream_config *streams; /* the named ones, sorted by id */
    int n_streams;
    pg_limits_config limits;
    int workers;
    pg_http_config http;
    pg_team_wait wait;
    pg_team_pin pin;
    pg_verbosity log_level;
} pg_config;

/* One value given on the command line, over the file's. */
typedef struct pg_config_set {
    const char *option; /* what messages call it: "--set model.path", "--model" */
    const char *key;    /* dotted path; list entries by index, one past the end appends:
                           "ingest[0].hwm" */
    const char *value;  /* YAML; replaces the key's value as a whole */
    bool literal;       /* the value is the text itself, not YAML (paths) */
} pg_config_set;

/* Reads `path` (NULL: defaults only), then applies `sets` in order. On success the caller owns
 * *out. PG_ECONFIG with "file:line:column: sentence" or "option: sentence"; PG_ENOMEM. */
pg_err pg_config_load(const char *path, const pg_config_set *sets, int n_sets,
                      const pg_config **out, pg_diag *diag);

/* The same from memory; `name` stands where the file's name would in messages. */
pg_err pg_config_parse(const char *name, const char *text, size_t size, const pg_config_set *sets,
                       int n_sets, const pg_config **out, pg_diag *diag);

/* Destroys and nulls; accepts NULL. */
void pg_config_destroy(const pg_config **config);

/* The settings of a stream: its own entry, else the defaults (whose `id` is NULL). */
const pg_stream_config *pg_config_stream(const pg_config *config, const char *id);

/* Where the value of a key came from: "file:line:column", "--set model.path", or "default". Keys of
 * list entries carry their index: "ingest[0].bind". Borrowed from the configuration. */
const char *pg_config_where(const pg_config *config, const char *key);

/* The value of a scalar key as it was read, or the default: its text, and the number it stands for
 * (NaN: none). False: no such key, or a list or map. */
bool pg_config_scalar(const pg_config *config, const char *key, const char **text, double *number);

/* Refuses what only the file system can tell: model.path missing, files that cannot be opened
 * (model, labels, statistics). PG_ECONFIG with the line of the key. */
pg_err pg_config_check_files(const pg_config *config, pg_diag *diag);

/* Further checks for `serve` and `check-config`: there must be somewhere frames come from. */
pg_err pg_config_check_serve(const pg_config *config, pg_diag *diag);

/* ---- the table itself, for the command line, the documentation and the tests ---- */

typedef enum pg_config_type {
    PG_CONFIG_BOOL,
    PG_CONFIG_INT,
    PG_CONFIG_NUMBER,
    PG_CONFIG_STRING,
    PG_CONFIG_TEXT,  /* a string or a number, kept as text (class indices and names) */
    PG_CONFIG_ENUM,  /* one of `choices` */
    PG_CONFIG_OTHER, /* read by a function of its own; `prose` says what it takes */
} pg_config_type;

typedef struct pg_config_row {
    const char *path; /* "ingest[].hwm", "streams.*.policy" for entries */
    pg_config_type type;
    const char *fallback; /* the default as YAML; NULL: none */
    double min, max;      /* of numbers */
    const char *unit;     /* "" without one */
    const char *choices;  /* "a|b|c" for enumerations, else "" */
    bool reloadable;
    const char *prose;
} pg_config_row;

/* Row `index` of the table, NULL beyond the last. */
const pg_config_row *pg_config_row_at(int index);

#endif
