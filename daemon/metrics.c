#include "daemon/metrics.h"

#include <dirent.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/log.h"
#include "daemon/wire.h"
#include "kernels/mem.h"

enum { BUCKETS = 16 };

/* Upper bounds in seconds; the last bucket, +Inf, is `count`. */
static const double bounds[BUCKETS] = {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025,
                                       0.05,   0.1,     0.25,   0.5,   1.0,    2.5,   5.0,  10.0};

typedef struct histogram {
    uint64_t bucket[BUCKETS]; /* not cumulative */
    uint64_t count, sum_ns;
} histogram;

struct pg_counters {
    pg_counts counts;
    pg_counters *next, *previous;
};

struct pg_metrics {
    pthread_mutex_t lock;
    pg_counters *first;
    int n_streams; /* all rows, `_unknown` and `_other` too */
    pg_counters *unknown, *other;
    histogram stage[PG_STAGE_COUNT], age;
    char model[65], stats[65], method[64];
    _Atomic bool ready;
    _Atomic int workers;

    pthread_mutex_t render_lock; /* of the copy below; taken before `lock` */
    pg_counts *copy;
    int copy_capacity;
};

static const struct {
    const char *name, *type, *help;
} rows[] = {
#define PG_METRIC(symbol, name, type, help) {name, type, help},
#include "daemon/metrics.def"
#undef PG_METRIC
};
enum {
#define PG_METRIC(symbol, name, type, help) M_##symbol,
#include "daemon/metrics.def"
#undef PG_METRIC
};

pg_err pg_metrics_create(pg_metrics **out, pg_diag *diag) {
    pg_metrics *m = *out = pg_calloc(1, sizeof *m);
    if (m == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for metrics");
    pthread_mutex_init(&m->lock, NULL);
    pthread_mutex_init(&m->render_lock, NULL);
    m->other = pg_metrics_open(m, PG_STREAM_OTHER);
    m->unknown = pg_metrics_open(m, PG_STREAM_UNKNOWN);
    if (m->other == NULL || m->unknown == NULL) {
        pg_metrics_destroy(out);
        return pg_fail(diag, PG_ENOMEM, "no memory for metrics");
    }
    return PG_OK;
}

void pg_metrics_destroy(pg_metrics **metrics) {
    pg_metrics *m = *metrics;
    if (m == NULL)
        return;
    while (m->first != NULL) {
        pg_counters *next = m->first->next;
        pg_free(m->first);
        m->first = next;
    }
    pg_free(m->copy);
    pthread_mutex_destroy(&m->lock);
    pthread_mutex_destroy(&m->render_lock);
    pg_free(m);
    *metrics = NULL;
}

pg_counters *pg_metrics_open(pg_metrics *m, const char *stream) {
    pg_counters *c = pg_calloc(1, sizeof *c);
    if (c == NULL)
        return NULL;
    snprintf(c->counts.stream, sizeof c->counts.stream, "%s", stream);
    pthread_mutex_lock(&m->lock);
    c->next = m->first;
    if (m->first != NULL)
        m->first->previous = c;
    m->first = c;
    m->n_streams++;
    pthread_mutex_unlock(&m->lock);
    return c;
}

void pg_metrics_close(pg_metrics *m, pg_counters **counters) {
    pg_counters *c = *counters;
    pthread_mutex_lock(&m->lock);
    pg_assert(c->counts.in_flight == 0);
    pg_counts *into = &m->other->counts;
    into->received += c->counts.received;
    into->published += c->counts.published;
    into->gap += c->counts.gap;
    into->clock_skew += c->counts.clock_skew;
    for (int i = 0; i < PG_DROP_COUNT; i++)
        into->dropped[i] += c->counts.dropped[i];
    if (c->previous != NULL)
        c->previous->next = c->next;
    else
        m->first = c->next;
    if (c->next != NULL)
        c->next->previous = c->previous;
    m->n_streams--;
    pthread_mutex_unlock(&m->lock);
    pg_free(c);
    *counters = NULL;
}

pg_counters *pg_metrics_unknown(pg_metrics *m) { return m->unknown; }
pg_counters *pg_metrics_other(pg_metrics *m) { return m->other; }

void pg_metrics_received(pg_metrics *m, pg_counters *c, int64_t arrival_ns) {
    pthread_mutex_lock(&m->lock);
    c->counts.received++;
    c->counts.in_flight++;
    c->counts.last_frame_ns = arrival_ns;
    pthread_mutex_unlock(&m->lock);
}

void pg_metrics_dropped(pg_metrics *m, pg_counters *c, pg_drop reason) {
    pthread_mutex_lock(&m->lock);
    pg_assert(c->counts.in_flight > 0 && reason > PG_DROP_NONE && reason < PG_DROP_COUNT);
    c->counts.in_flight--;
    c->counts.dropped[reason]++;
    pthread_mutex_unlock(&m->lock);
}

static void observe(histogram *h, uint64_t ns) {
    double seconds = (double)ns * 1e-9;
    h->count++;
    h->sum_ns += ns;
    for (int i = 0; i < BUCKETS; i++)
        if (seconds <= bounds[i]) {
            h->bucket[i]++;
            return;
        }
}

void pg_metrics_published(pg_metrics *m, pg_counters *c, uint64_t age_ns, const uint64_t *timing) {
    pthread_mutex_lock(&m->lock);
    pg_assert(c->counts.in_flight > 0);
    c->counts.in_flight--;
    c->counts.published++;
    observe(&m->age, age_ns);
    for (int s = 0; s < PG_STAGE_COUNT; s++)
        observe(&m->stage[s], timing[s]);
    pthread_mutex_unlock(&m->lock);
}

void pg_metrics_gap(pg_metrics *m, pg_counters *c, uint64_t missing) {
    pthread_mutex_lock(&m->lock);
    c->counts.gap += missing;
    pthread_mutex_unlock(&m->lock);
}

void pg_metrics_clock_skew(pg_metrics *m, pg_counters *c) {
    pthread_mutex_lock(&m->lock);
    c->counts.clock_skew++;
    pthread_mutex_unlock(&m->lock);
}

void pg_metrics_read(pg_metrics *m, pg_counters *c, pg_counts *out) {
    pthread_mutex_lock(&m->lock);
    *out = c->counts;
    pthread_mutex_unlock(&m->lock);
}

void pg_metrics_set_ready(pg_metrics *m, bool ready) { atomic_store(&m->ready, ready); }
void pg_metrics_set_workers(pg_metrics *m, int workers) { atomic_store(&m->workers, workers); }

void pg_metrics_set_model(pg_metrics *m, const char *model_sha256, const char *stats_sha256,
                          const char *method) {
    pthread_mutex_lock(&m->lock);
    snprintf(m->model, sizeof m->model, "%s", model_sha256);
    snprintf(m->stats, sizeof m->stats, "%s", stats_sha256);
    snprintf(m->method, sizeof m->method, "%s", method);
    pthread_mutex_unlock(&m->lock);
}

uint64_t pg_metrics_settle(pg_metrics *m, pg_drop reason) {
    uint64_t settled = 0;
    pthread_mutex_lock(&m->lock);
    for (pg_counters *c = m->first; c != NULL; c = c->next) {
        settled += c->counts.in_flight;
        c->counts.dropped[reason] += c->counts.in_flight;
        c->counts.in_flight = 0;
    }
    pthread_mutex_unlock(&m->lock);
    return settled;
}

/* ---- rendering ---- */

typedef struct snapshot {
    const pg_counts *streams;
    int n_streams;
    histogram stage[PG_STAGE_COUNT], age;
    char model[65], stats[65], method[64];
} snapshot;

/* Copies everything at one moment. The copy's memory is enlarged outside the counters' lock, which
 * the frames wait for. */
static bool take_snapshot(pg_metrics *m, snapshot *s) {
    pthread_mutex_lock(&m->lock);
    while (m->n_streams > m->copy_capacity) {
        int capacity = 2 * m->n_streams;
        pthread_mutex_unlock(&m->lock);
        pg_counts *grown = pg_realloc(m->copy, (size_t)capacity * sizeof *grown);
        if (grown == NULL)
            return false;
        m->copy = grown;
        m->copy_capacity = capacity;
        pthread_mutex_lock(&m->lock);
    }
    s->streams = m->copy;
    s->n_streams = 0;
    for (pg_counters *c = m->first; c != NULL; c = c->next)
        m->copy[s->n_streams++] = c->counts;
    memcpy(s->stage, m->stage, sizeof s->stage);
    s->age = m->age;
    memcpy(s->model, m->model, sizeof s->model);
    memcpy(s->stats, m->stats, sizeof s->stats);
    memcpy(s->method, m->method, sizeof s->method);
    pthread_mutex_unlock(&m->lock);
    return true;
}

static const char *head(pg_text *out, int row) {
    pg_text_add(out, "# HELP %s %s\n# TYPE %s %s\n", rows[row].name, rows[row].help, rows[row].name,
                rows[row].type);
    return rows[row].name;
}

static void label(const char *text, char out[2 * PG_STREAM_MAX + 1]) {
    for (; *text != '\0'; text++) {
        if (*text == '\\' || *text == '"')
            *out++ = '\\';
        *out++ = *text;
    }
    *out = '\0';
}

typedef uint64_t (*field_fn)(const pg_counts *c);
static uint64_t get_received(const pg_counts *c) { return c->received; }
static uint64_t get_published(const pg_counts *c) { return c->published; }
static uint64_t get_in_flight(const pg_counts *c) { return c->in_flight; }
static uint64_t get_gap(const pg_counts *c) { return c->gap; }
static uint64_t get_clock_skew(const pg_counts *c) { return c->clock_skew; }

static void add_field(pg_text *out, const snapshot *s, int row, field_fn get) {
    const char *name = head(out, row);
    for (int i = 0; i < s->n_streams; i++) {
        char stream[2 * PG_STREAM_MAX + 1];
        label(s->streams[i].stream, stream);
        pg_text_add(out, "%s{stream=\"%s\"} %llu\n", name, stream,
                    (unsigned long long)get(&s->streams[i]));
    }
}

static void add_dropped(pg_text *out, const snapshot *s) {
    const char *name = head(out, M_DROPPED);
    for (int i = 0; i < s->n_streams; i++) {
        char stream[2 * PG_STREAM_MAX + 1];
        label(s->streams[i].stream, stream);
        for (int r = PG_DROP_NONE + 1; r < PG_DROP_COUNT; r++)
            if (s->streams[i].dropped[r] > 0)
                pg_text_add(out, "%s{stream=\"%s\",reason=\"%s\"} %llu\n", name, stream,
                            pg_drop_label((pg_drop)r),
                            (unsigned long long)s->streams[i].dropped[r]);
    }
}

static void add_last_frame(pg_text *out, const snapshot *s) {
    const char *name = head(out, M_LAST_FRAME);
    for (int i = 0; i < s->n_streams; i++) {
        char stream[2 * PG_STREAM_MAX + 1];
        label(s->streams[i].stream, stream);
        if (s->streams[i].last_frame_ns > 0)
            pg_text_add(out, "%s{stream=\"%s\"} %.3f\n", name, stream,
                        (double)s->streams[i].last_frame_ns * 1e-9);
    }
}

static void add_histogram(pg_text *out, const char *name, const char *stage, const histogram *h) {
    char labels[64] = "", alone[64] = "";
    if (stage != NULL) {
        snprintf(labels, sizeof labels, "stage=\"%s\",", stage);
        snprintf(alone, sizeof alone, "{stage=\"%s\"}", stage);
    }
    uint64_t below = 0;
    for (int i = 0; i < BUCKETS; i++) {
        below += h->bucket[i];
        pg_text_add(out, "%s_bucket{%sle=\"%g\"} %llu\n", name, labels, bounds[i],
                    (unsigned long long)below);
    }
    pg_text_add(out, "%s_bucket{%sle=\"+Inf\"} %llu\n", name, labels, (unsigned long long)h->count);
    pg_text_add(out, "%s_sum%s %.9f\n", name, alone, (double)h->sum_ns * 1e-9);
    pg_text_add(out, "%s_count%s %llu\n", name, alone, (unsigned long long)h->count);
}

static void add_number(pg_text *out, int row, double number) {
    const char *name = head(out, row);
    pg_text_add(out, "%s %.17g\n", name, number);
}

static void add_daemon(pg_text *out, pg_metrics *m, const snapshot *s) {
    add_number(out, M_STREAMS, s->n_streams - 2);
    add_number(out, M_WORKERS, atomic_load(&m->workers));
    add_number(out, M_READY, atomic_load(&m->ready) ? 1 : 0);
    add_number(out, M_GENERATION, 1);
    const char *name = head(out, M_MODEL_INFO);
    pg_text_add(out, "%s{sha256=\"%s\",stats=\"%s\",method=\"%s\"} 1\n", name, s->model, s->stats,
                s->method);
    name = head(out, M_BUILD_INFO);
    pg_text_add(out, "%s{version=\"%s\"} 1\n", name, PG_VERSION);
    pg_mem_stats mem = pg_mem_get_stats();
    add_number(out, M_LOG_SUPPRESSED, (double)pg_log_suppressed());
    add_number(out, M_ALLOCATIONS, (double)mem.allocations);
    add_number(out, M_MEMORY_LIVE, (double)mem.live_bytes);
}

/* Fields of /proc/self/stat, counted as in proc(5) from 3 (state), which follows the program's
 * name in parentheses. */
enum { STAT_THREADS = 20, STAT_START = 22, STAT_VIRTUAL = 23, STAT_RSS = 24, STAT_FIELDS = 25 };

static bool read_stat(double field[STAT_FIELDS]) {
    char text[1024] = "";
    FILE *file = fopen("/proc/self/stat", "re");
    if (file == NULL)
        return false;
    size_t n = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[n] = '\0';
    char *at = strrchr(text, ')'), *save = NULL;
    if (at == NULL)
        return false;
    int i = 3;
    for (char *word = strtok_r(at + 1, " ", &save); word != NULL && i < STAT_FIELDS;
         word = strtok_r(NULL, " ", &save), i++)
        sscanf(word, "%lf", &field[i]);
    return i == STAT_FIELDS;
}

static double boot_time(void) {
    double up = 0;
    FILE *file = fopen("/proc/uptime", "re");
    if (file == NULL)
        return 0;
    if (fscanf(file, "%lf", &up) != 1)
        up = 0;
    fclose(file);
    return (double)pg_clock_wall() * 1e-9 - up;
}

static int count_fds(void) {
    DIR *folder = opendir("/proc/self/fd");
    int n = -3; /* ".", "..", and the folder itself */
    if (folder == NULL)
        return 0;
    while (readdir(folder) != NULL)
        n++;
    closedir(folder);
    return n;
}

static void add_process(pg_text *out) {
    struct rusage usage;
    struct rlimit files;
    double stat[STAT_FIELDS] = {0};
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        add_number(out, M_CPU, (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                                   1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec));
    if (read_stat(stat)) {
        add_number(out, M_RSS, stat[STAT_RSS] * (double)sysconf(_SC_PAGESIZE));
        add_number(out, M_VIRTUAL, stat[STAT_VIRTUAL]);
        add_number(out, M_THREADS, stat[STAT_THREADS]);
        add_number(out, M_START, boot_time() + stat[STAT_START] / (double)sysconf(_SC_CLK_TCK));
    }
    add_number(out, M_OPEN_FDS, count_fds());
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        add_number(out, M_MAX_FDS, (double)files.rlim_cur);
}

void pg_metrics_render(pg_metrics *m, pg_text *out) {
    pthread_mutex_lock(&m->render_lock);
    snapshot s;
    if (take_snapshot(m, &s)) {
        add_field(out, &s, M_RECEIVED, get_received);
        add_field(out, &s, M_PUBLISHED, get_published);
        add_dropped(out, &s);
        add_field(out, &s, M_IN_FLIGHT, get_in_flight);
        add_field(out, &s, M_GAP, get_gap);
        add_field(out, &s, M_CLOCK_SKEW, get_clock_skew);
        add_last_frame(out, &s);
        const char *name = head(out, M_STAGE);
        for (int i = 0; i < PG_STAGE_COUNT; i++)
            add_histogram(out, name, pg_stage_name((pg_stage)i), &s.stage[i]);
        name = head(out, M_AGE);
        add_histogram(out, name, NULL, &s.age);
        add_daemon(out, m, &s);
        add_process(out);
    } else {
        out->failed = true;
    }
    pthread_mutex_unlock(&m->render_lock);
}

static void add_final(pg_text *out, const snapshot *s, const char *key, field_fn get) {
    pg_text_add(out, "\"%s\": {", key);
    const char *comma = "";
    for (int i = 0; i < s->n_streams; i++) {
        pg_text_add(out, "%s", comma);
        pg_text_add_json(out, s->streams[i].stream);
        pg_text_add(out, ": %llu", (unsigned long long)get(&s->streams[i]));
        comma = ", ";
    }
    pg_text_add(out, "}, ");
}

static void add_final_dropped(pg_text *out, const snapshot *s) {
    pg_text_add(out, "\"dropped\": {");
    const char *comma = "";
    for (int i = 0; i < s->n_streams; i++) {
        pg_text_add(out, "%s", comma);
        pg_text_add_json(out, s->streams[i].stream);
        pg_text_add(out, ": {");
        comma = ", ";
        const char *inner = "";
        for (int r = PG_DROP_NONE + 1; r < PG_DROP_COUNT; r++) {
            if (s->streams[i].dropped[r] == 0)
                continue;
            pg_text_add(out, "%s\"%s\": %llu", inner, pg_drop_label((pg_drop)r),
                        (unsigned long long)s->streams[i].dropped[r]);
            inner = ", ";
        }
        pg_text_add(out, "}");
    }
    pg_text_add(out, "}");
}

void pg_metrics_render_final(pg_metrics *m, pg_text *out) {
    pthread_mutex_lock(&m->render_lock);
    snapshot s;
    if (take_snapshot(m, &s)) {
        pg_text_add(out, "{\"final\": {");
        add_final(out, &s, "received", get_received);
        add_final(out, &s, "published", get_published);
        add_final_dropped(out, &s);
        pg_text_add(out, "}}\n");
    } else {
        out->failed = true;
    }
    pthread_mutex_unlock(&m->render_lock);
}
