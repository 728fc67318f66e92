#include "daemon/engine.h"

#include <string.h>

#include "daemon/clock.h"
#include "daemon/log.h"
#include "daemon/team_pin.h"
#include "kernels/mem.h"
#include "kernels/threads.h"

int64_t pg_engine_max_message(const pg_config *config) {
    uint64_t frame = config->limits.frame_bytes;
    const uint64_t room = UINT64_C(64) << 20;
    return frame > (uint64_t)INT64_MAX / 4 ? INT64_MAX : (int64_t)(2 * frame + room);
}

void pg_engine_log_drop(const char *stream, pg_drop reason, const pg_diag *diag) {
    static pg_log_limit limits[PG_DROP_COUNT];
    pg_log_limited(&limits[reason], PG_VERBOSITY_WARNING, stream, "frame dropped: %s%s%s",
                   pg_drop_label(reason), diag->text[0] != '\0' ? ": " : "", diag->text);
}

static bool has_rpc(const pg_config *config) { return config->rpc.bind[0] != '\0'; }

static pg_err build(pg_engine *e, pg_diag *diag) {
    const pg_config *config = e->config;
    pg_err err = pg_explainer_create(&config->explain, &e->explainer, diag);
    pg_threads_release(); /* from here on the workers' teams compute, and nobody inherits a place */
    pg_team_unbind();
    if (err == PG_OK)
        err = pg_metrics_create(&e->metrics, diag);
    if (err == PG_OK)
        err = pg_live_create(e->metrics, &e->live, diag);
    if (err == PG_OK)
        err = pg_queue_create(config, e->metrics, e->live, config->n_ingest + has_rpc(config),
                              &e->queue, diag);
    if (err == PG_OK)
        err = pg_transport_create(&e->transport, diag);
    if (err != PG_OK)
        return err;
    e->max_threads = 2 + config->workers + config->n_ingest;
    e->threads = pg_calloc((size_t)e->max_threads, sizeof *e->threads);
    if (e->threads == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for %d threads", e->max_threads);
    pg_metrics_set_workers(e->metrics, config->workers);
    pg_metrics_set_model(e->metrics,
                         pg_model_get_info(pg_explainer_model(e->explainer))->sha256_hex,
                         pg_explainer_stats_sha256(e->explainer), config->explain.method);
    return PG_OK;
}

/* Settings of streams that only the model can tell right from wrong. */
static pg_err check_streams(pg_engine *e, pg_diag *diag) {
    for (int i = -1; i < e->config->n_streams; i++) {
        const pg_stream_config *s = i < 0 ? &e->config->stream_default : &e->config->streams[i];
        int64_t klass;
        if (s->target[0] != '\0' && !pg_explainer_parse_target(e->explainer, s->target, &klass))
            return pg_fail(diag, PG_ECONFIG, "streams.%s.target: the model has no class '%s'",
                           i < 0 ? "default" : s->id, s->target);
    }
    return PG_OK;
}

pg_err pg_engine_create(const pg_config *config, pg_engine **out, pg_diag *diag) {
    *out = pg_calloc(1, sizeof **out);
    if (*out == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the engine");
    (*out)->config = config;
    pg_err err = build(*out, diag);
    if (err == PG_OK)
        err = check_streams(*out, diag);
    if (err != PG_OK)
        pg_engine_destroy(out);
    return err;
}

static pg_err start(pg_engine *e, const char *name, int index, pg_thread_body body, pg_diag *diag) {
    pg_assert(e->n_threads < e->max_threads);
    return pg_thread_start(&e->threads[e->n_threads++], name, index, body, e, diag);
}

/* Consumers before producers: nothing is received that could not go anywhere. */
pg_err pg_engine_start(pg_engine *e, pg_diag *diag) {
    pg_err err = start(e, "publish", 0, pg_publish_run, diag);
    for (int i = 0; err == PG_OK && i < e->config->workers; i++)
        err = start(e, "worker", i, pg_worker_run, diag);
    if (err == PG_OK && has_rpc(e->config))
        err = start(e, "rpc", 0, pg_rpc_run, diag);
    for (int i = 0; err == PG_OK && i < e->config->n_ingest; i++)
        err = start(e, "ingest", i, pg_ingest_run, diag);
    return err;
}

void pg_engine_close(pg_engine *e) { pg_queue_close(e->queue); }

bool pg_engine_join(pg_engine *e, int64_t deadline) {
    bool all = true;
    for (int i = 0; i < e->n_threads; i++)
        all = pg_thread_join(&e->threads[i], deadline) && all;
    return all;
}

const char *pg_engine_stuck(pg_engine *e, uint64_t limit_ns) {
    const char *stuck = NULL;
    uint64_t now = pg_clock_monotonic();
    for (int i = 0; i < e->n_threads; i++)
        if (pg_thread_is_stuck(&e->threads[i], now, limit_ns))
            stuck = e->threads[i].name;
    return stuck;
}

void pg_engine_destroy(pg_engine **engine) {
    pg_engine *e = *engine;
    if (e == NULL)
        return;
    pg_free(e->threads);
    pg_queue_destroy(&e->queue);
    pg_transport_destroy(&e->transport);
    pg_live_destroy(&e->live);
    pg_metrics_destroy(&e->metrics);
    pg_explainer_destroy(&e->explainer);
    pg_free(e);
    *engine = NULL;
}
