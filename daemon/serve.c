/* The daemon as a table of contents: configuration -> engine -> ready -> wait -> drain -> final. */
#include "daemon/serve.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "daemon/clock.h"
#include "daemon/engine.h"
#include "daemon/http.h"
#include "daemon/log.h"
#include "daemon/notify.h"
#include "daemon/signals.h"
#include "kernels/op.h"

/* Milliseconds from SIGTERM: queued frames may still start, computing ones may still end; the rest
 * of the five seconds is for the sockets' last messages. */
enum { QUEUED_MS = 2500, COMPUTING_MS = 4000, POLL_MS = 500, STUCK_DEFAULT_S = 60 };

typedef struct server {
    const pg_config *config;
    pg_engine *engine;
    pg_http *http;
    uint64_t fed; /* monotonic: when the watchdog last heard of us */
} server;

static void set_ready(server *s, bool ready) {
    pg_metrics_set_ready(s->engine->metrics, ready);
    pg_http_set_ready(s->http, ready);
}

static pg_err start(server *s, pg_diag *diag) {
    pg_err err = pg_engine_create(s->config, &s->engine, diag);
    if (err == PG_OK && s->config->http.host[0] != '\0')
        err = pg_http_start(&s->config->http, s->engine->metrics, s->engine->live, &s->http, diag);
    if (err == PG_OK)
        err = pg_engine_start(s->engine, diag);
    return err;
}

/* oneDNN's reference loops are a hundred times slower than what it has for usual shapes. */
static void warn_of_slow_nodes(const pg_model *model) {
    for (int i = 0; i < pg_model_op_count(model); i++) {
        const pg_op *op = pg_model_op(model, i);
        if (op->impl != NULL && strstr(op->impl, "ref:") != NULL)
            pg_log(PG_VERBOSITY_WARNING, NULL, "node '%s' runs a slow implementation: %s", op->node,
                   op->impl);
    }
}

static void announce(server *s) {
    const pg_model_info *model = pg_model_get_info(pg_explainer_model(s->engine->explainer));
    warn_of_slow_nodes(pg_explainer_model(s->engine->explainer));
    set_ready(s, true);
    pg_log(PG_VERBOSITY_INFO, NULL, "ready: %s, %d worker%s, method %s", model->path,
           s->config->workers, s->config->workers == 1 ? "" : "s", s->config->explain.method);
    pg_notify_ready("serving");
}

/* The watchdog is fed by what the threads do, not by the passing of time: at half its period, as
 * sd_watchdog_enabled(3) advises, and never while a thread hangs. */
static void watch(server *s, uint64_t period) {
    static pg_log_limit limit;
    uint64_t patience = period > 0 ? period : STUCK_DEFAULT_S * UINT64_C(1000000000);
    const char *stuck = pg_engine_stuck(s->engine, patience);
    uint64_t now = pg_clock_monotonic();
    if (stuck != NULL) {
        pg_log_limited(&limit, PG_VERBOSITY_ERROR, NULL, "thread %s makes no progress", stuck);
        if (period > 0)
            pg_notify_trigger();
    } else if (period > 0 && now - s->fed >= period / 2) {
        pg_notify_alive();
        s->fed = now;
    }
}

/* Often enough that a period of half a second or more is kept, and that a hang is seen in time. */
static int poll_ms(uint64_t period) {
    uint64_t quarter = period / 4000000;
    return quarter > 0 && quarter < POLL_MS ? (int)quarter : POLL_MS;
}

static void wait_for_stop(server *s) {
    uint64_t period = pg_notify_watchdog_period();
    while (true) {
        switch (pg_signals_wait(poll_ms(period))) {
        case PG_SIGNAL_STOP:
            return;
        case PG_SIGNAL_RELOAD:
            pg_log(PG_VERBOSITY_WARNING, NULL,
                   "SIGHUP: the configuration is read at start only; restart to change it");
            break;
        case PG_SIGNAL_NONE:
            break;
        }
        watch(s, period);
    }
}

/* Prints the last line on stderr, in one write. */
static void print_final(server *s) {
    pg_text text = {0};
    pg_metrics_render_final(s->engine->metrics, &text);
    size_t done = 0;
    while (!text.failed && done < text.size) {
        ssize_t n = write(STDERR_FILENO, text.data + done, text.size - done);
        if (n <= 0)
            break;
        done += (size_t)n;
    }
    pg_text_free(&text);
}

/* True: everything came to its end within the time. */
static bool drain(server *s) {
    uint64_t begin = pg_clock_monotonic();
    pg_log(PG_VERBOSITY_INFO, NULL, "stopping: what is queued is still explained");
    pg_notify_stopping();
    set_ready(s, false);
    pg_engine_close(s->engine);
    while (true) {
        uint64_t waited = (pg_clock_monotonic() - begin) / 1000000;
        if (pg_engine_join(s->engine, pg_clock_wall()))
            return true;
        if (waited > COMPUTING_MS)
            return false;
        if (waited > QUEUED_MS)
            pg_queue_abandon(s->engine->queue);
        if (pg_signals_wait(20) == PG_SIGNAL_STOP) {
            pg_log(PG_VERBOSITY_WARNING, NULL, "second signal: stopping at once");
            pg_metrics_settle(s->engine->metrics, PG_DROP_DRAINING);
            print_final(s);
            _exit(1);
        }
    }
}

/* A worker that is still computing cannot be interrupted and its memory cannot be freed; its frame
 * is counted, and the process ends around it. */
static _Noreturn void give_up(server *s) {
    uint64_t lost = pg_metrics_settle(s->engine->metrics, PG_DROP_DRAINING);
    pg_log(PG_VERBOSITY_WARNING, NULL, "%llu frames were not finished in time",
           (unsigned long long)lost);
    print_final(s);
    _exit(0);
}

static void stop(server *s, bool with_final) {
    pg_http_stop(&s->http);
    if (with_final)
        print_final(s);
    pg_engine_destroy(&s->engine);
}

pg_err pg_serve(const pg_config *config, pg_diag *diag) {
    server s = {.config = config};
    pg_log_init(config->log_level);
    pg_signals_block();
    pg_err err = start(&s, diag);
    if (err != PG_OK) {
        if (s.engine != NULL) {
            pg_engine_close(s.engine);
            pg_engine_join(s.engine, pg_clock_wall() + INT64_C(5000000000));
        }
        stop(&s, false);
        return err;
    }
    announce(&s);
    wait_for_stop(&s);
    if (!drain(&s))
        give_up(&s);
    stop(&s, true);
    return PG_OK;
}
