/* A worker: takes a frame, explains it, writes the result into a slot that another thread sends.
 * Only the times that are known when it is sent are left open. */
#include <stdio.h>
#include <string.h>

#include "daemon/clock.h"
#include "daemon/engine.h"
#include "daemon/log.h"

static void fill_facts(pg_facts *facts, const pg_message *m, const pg_explanation *e) {
    *facts = (pg_facts){.seq = m->frame.seq,
                        .ts_ns = m->base_ns,
                        .klass = e->explained.klass,
                        .probability = e->explained.probability,
                        .total_ns = e->total_ns,
                        .degenerate = e->quality.degenerate};
    snprintf(facts->name, sizeof facts->name, "%s", e->explained.name ? e->explained.name : "");
    snprintf(facts->method, sizeof facts->method, "%s", e->method);
}

/* An overlay costs a JPEG; it is made only where it goes somewhere. */
static pg_err fill_overlay(pg_engine *engine, pg_pipeline *pipeline, pg_result *slot) {
    slot->overlay.size = 0;
    if (!engine->config->publish.overlay && !pg_live_is_viewed(engine->live))
        return PG_OK;
    pg_bytes jpeg = pg_pipeline_overlay_jpeg(pipeline);
    if (!pg_wire_buffer_reserve(&slot->overlay, jpeg.size))
        return PG_ENOMEM;
    if (jpeg.size > 0)
        memcpy(slot->overlay.data, jpeg.data, jpeg.size);
    slot->overlay.size = jpeg.size;
    return PG_OK;
}

static pg_err fill_slot(pg_engine *engine, pg_pipeline *pipeline, const pg_message *m,
                        const pg_explanation *e, pg_result *slot) {
    const pg_model_info *model = pg_model_get_info(pg_explainer_model(engine->explainer));
    pg_wire_context context = {.options = pg_explainer_options(engine->explainer),
                               .model_sha256 = model->sha256_hex,
                               .stats_sha256 = pg_explainer_stats_sha256(engine->explainer),
                               .precision = pg_precision_name(model->precision),
                               .config = engine->config};
    double scale;
    int zero;
    pg_err err = pg_wire_encode_map(e, &slot->map, &scale, &zero);
    if (err == PG_OK)
        err = pg_wire_encode_header(&m->frame, e, &context, scale, zero, &slot->header,
                                    &slot->patches);
    if (err == PG_OK)
        err = fill_overlay(engine, pipeline, slot);
    memcpy(slot->timing_ns, e->timing_ns, sizeof slot->timing_ns);
    slot->total_ns = e->total_ns;
    fill_facts(&slot->facts, m, e);
    return err;
}

static void explain(pg_thread *thread, pg_pipeline *pipeline, const pg_message *m,
                    pg_result *slot) {
    pg_engine *engine = thread->context;
    const pg_stream_config *settings = pg_config_stream(engine->config, m->frame.stream);
    pg_diag *diag = &thread->diag;
    diag->text[0] = '\0';
    pg_wish wish = {settings->method, settings->target, settings->deadline};
    pg_explanation e;
    pg_drop drop = pg_pipeline_run(pipeline, &m->frame, &wish, &e, diag);
    slot->explained_at = pg_clock_monotonic();
    if (drop == PG_DROP_NONE && fill_slot(engine, pipeline, m, &e, slot) != PG_OK) {
        pg_fail(diag, PG_ENOMEM, "no memory for the result");
        drop = PG_DROP_INFER_ERROR;
    }
    if (drop == PG_DROP_NONE) {
        pg_queue_finish(engine->queue, slot);
        return;
    }
    pg_engine_log_drop(m->frame.stream, drop, diag);
    if (m->reply.wanted && pg_wire_encode_error(drop, diag->text, &slot->header) != PG_OK)
        slot->header.size = 0;
    pg_queue_fail(engine->queue, slot, drop);
}

pg_err pg_worker_run(pg_thread *thread) {
    pg_engine *engine = thread->context;
    pg_pipeline *pipeline;
    pg_err err = pg_pipeline_create(engine->explainer, pg_clock_monotonic, &pipeline,
                                    &thread->diag);
    if (err != PG_OK)
        return err;
    if (pg_team_pin_set(engine->config->pin, thread->index, engine->config->workers,
                        &thread->diag) != PG_OK &&
        thread->index == 0) /* the others would say the same */
        pg_log(PG_VERBOSITY_WARNING, NULL, "%s", thread->diag.text);
    pg_thread_ready(thread);
    while (true) {
        thread->beat++;
        pg_result *slot;
        pg_message *m = pg_queue_pop(engine->queue, thread->index, PG_TURN_MS, &slot);
        if (m != NULL) {
            explain(thread, pipeline, m, slot);
            pg_queue_give(engine->queue, m);
        } else if (pg_queue_is_closed(engine->queue) && pg_queue_is_empty(engine->queue)) {
            break;
        }
    }
    pg_pipeline_destroy(&pipeline);
    return PG_OK;
}
