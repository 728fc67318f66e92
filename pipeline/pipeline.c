#include "pipeline/pipeline.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/cam.h"
#include "pipeline/decode.h"
#include "pipeline/explainer.h"
#include "pipeline/image_write.h"
#include "pipeline/map.h"
#include "pipeline/preprocess.h"

enum { OVERLAY_QUALITY = 85 };

struct pg_pipeline {
    const pg_explainer *explainer;
    int64_t channels, height, width;
    pg_decoder *decoder;
    pg_preprocess *preprocess;
    pg_pass pass;
    pg_map_scratch scratch;
    const pg_saliency *method;      /* of the last run */
    pg_attribution attribution;     /* its work */
    void *state[PG_SALIENCY_COUNT]; /* of each method that has run here */
    bool opened[PG_SALIENCY_COUNT];
    float *plain;       /* [C,H,W] */
    float *map;         /* [H,W] */
    float *heat;        /* [H,W] what of it the overlay shows */
    uint8_t *overlay;   /* [H,W,3] */
    pg_jpeg_writer *jpeg;
    const float *sorted; /* its magnitudes, in scratch until the next sort; NULL: no map */
    bool has_plain, has_overlay;
};

const char *pg_stage_name(pg_stage stage) {
    static const char *const names[PG_STAGE_COUNT] = {"decode",   "preprocess", "forward", "select",
                                                      "backward", "map",        "publish"};
    return stage >= 0 && stage < PG_STAGE_COUNT ? names[stage] : "unknown";
}

/* ---- create ---- */

static pg_err alloc_maps(pg_pipeline *p, pg_diag *diag) {
    size_t area = (size_t)(p->height * p->width), count = area * (size_t)p->channels;
    p->attribution.room = pg_calloc(count, sizeof *p->attribution.room);
    p->plain = pg_calloc(count, sizeof *p->plain);
    p->map = pg_calloc(area, sizeof *p->map);
    p->heat = pg_calloc(area, sizeof *p->heat);
    p->overlay = pg_calloc(area, 3);
    if (!p->attribution.room || !p->plain || !p->map || !p->heat || !p->overlay)
        return pg_fail(diag, PG_ENOMEM, "no memory for maps");
    return PG_OK;
}

static pg_err fill(pg_pipeline *p, pg_clock_fn now, pg_diag *diag) {
    const pg_explainer *e = p->explainer;
    const pg_shape *input = &e->info->input;
    p->channels = input->dims[1];
    p->height = input->dims[2];
    p->width = input->dims[3];
    const pg_explain_options *o = e->options;
    const pg_input_options how = pg_explainer_input(o, e->info);
    pg_err err;
    if ((err = pg_decoder_create(o->max_pixels, &p->decoder, diag)) ||
        (err = pg_preprocess_create(&how, input, &p->preprocess, diag)) ||
        (err = pg_map_scratch_create(p->height, p->width, o->smooth, &p->scratch, diag)) ||
        (err = pg_jpeg_writer_create(p->width, p->height, &p->jpeg, diag)) ||
        (err = alloc_maps(p, diag)))
        return err;
    return pg_pass_create(e->model, &e->head, o, e->can_prune ? &e->source : NULL, now, &p->pass,
                          diag);
}

pg_err pg_pipeline_create(const pg_explainer *explainer, pg_clock_fn now, pg_pipeline **out,
                          pg_diag *diag) {
    *out = NULL;
    pg_pipeline *p = pg_calloc(1, sizeof *p);
    if (!p)
        return pg_fail(diag, PG_ENOMEM, "no memory for a pipeline");
    p->explainer = explainer;
    pg_err err = fill(p, now, diag);
    if (err)
        pg_pipeline_destroy(&p);
    *out = p;
    return err;
}

void pg_pipeline_destroy(pg_pipeline **pipeline) {
    pg_pipeline *p = *pipeline;
    if (!p)
        return;
    for (int i = 0; i < PG_SALIENCY_COUNT; i++)
        if (p->state[i])
            pg_saliency_at(i)->kind->close(&p->state[i]);
    pg_pass_destroy(&p->pass);
    pg_map_scratch_destroy(&p->scratch);
    pg_jpeg_writer_destroy(&p->jpeg);
    pg_preprocess_destroy(&p->preprocess);
    pg_decoder_destroy(&p->decoder);
    pg_free(p->attribution.room);
    pg_free(p->plain);
    pg_free(p->map);
    pg_free(p->heat);
    pg_free(p->overlay);
    pg_free(p);
    *pipeline = NULL;
}

/* ---- the stages of one frame ---- */

static pg_drop drop(pg_diag *diag, pg_drop reason, const char *sentence) {
    pg_fail(diag, PG_EINPUT, "%s", sentence);
    return reason;
}

static pg_drop read_frame(pg_pipeline *p, const pg_frame *frame, pg_explanation *out,
                          pg_diag *diag) {
    if (frame->format == PG_FMT_F32CHW) {
        pg_drop reason =
            pg_preprocess_tensor(p->preprocess, frame, p->pass.input, p->pass.layout, diag);
        out->frame_width = frame->width;
        out->frame_height = frame->height;
        pg_pass_mark(&p->pass, PG_STAGE_PREPROCESS);
        return reason;
    }
    pg_picture picture;
    pg_drop reason = pg_decode(p->decoder, frame, &picture, diag);
    if (reason)
        return reason;
    out->frame_width = picture.width;
    out->frame_height = picture.height;
    pg_pass_mark(&p->pass, PG_STAGE_DECODE);
    reason = pg_preprocess_picture(p->preprocess, &picture, p->pass.input, p->pass.layout, diag);
    pg_pass_mark(&p->pass, PG_STAGE_PREPROCESS);
    return reason;
}

/* The frame's own wish, the stream's, the configuration's: in this order. klass -1: top1. */
static pg_drop choose_target(const pg_pipeline *p, const pg_frame *frame, const char *target,
                             int64_t *klass, const char **why, pg_diag *diag) {
    const pg_explainer *e = p->explainer;
    const char *text = NULL;
    *klass = e->target;
    *why = "config";
    if (frame->target_class >= 0) {
        *klass = frame->target_class;
        *why = "frame";
    } else if (frame->target_name[0]) {
        text = frame->target_name;
        *why = "frame";
    } else if (target && target[0]) {
        text = target;
        *why = "stream";
    }
    if (*klass >= p->pass.classes || (text && !pg_explainer_parse_target(e, text, klass))) {
        if (text)
            pg_fail(diag, PG_EINPUT, "target '%s' is no class of the model", text);
        else
            pg_fail(diag, PG_EINPUT, "target class %" PRId64 " is not below %" PRId64, *klass,
                    p->pass.classes);
        return PG_DROP_BAD_TARGET;
    }
    if (*klass < 0)
        *why = "top1";
    return PG_DROP_NONE;
}

/* The same for the method. What has run here once was checked then. */
static pg_drop choose_method(const pg_pipeline *p, const pg_frame *frame, const pg_wish *wish,
                             const pg_saliency **out, pg_diag *diag) {
    const char *name = frame->method[0] ? frame->method : wish ? wish->method : NULL;
    *out = name && name[0] ? pg_saliency_find(name) : p->explainer->method;
    bool known = *out && p->opened[pg_saliency_index(*out)];
    return known || !pg_explainer_check_method(p->explainer, name, diag) ? PG_DROP_NONE
                                                                         : PG_DROP_BAD_METHOD;
}

static pg_top top_of(const pg_pipeline *p, pg_head_scale scale, int64_t klass) {
    const pg_head *head = p->pass.head;
    const char *name = head->what == PG_EXPLAIN_COSINE ? "cosine"
                       : head->what == PG_EXPLAIN_NORM ? "norm"
                                                       : pg_explainer_label(p->explainer, klass);
    return (pg_top){klass, name, pg_head_probability(head, scale, p->pass.scores[klass])};
}

/* Classes by probability; ties go to the lower index. */
static void list_top(const pg_pipeline *p, pg_explanation *out) {
    const float *scores = p->pass.scores;
    int64_t classes = p->pass.classes, best[PG_TOP_MAX] = {0};
    int want = p->explainer->options->top, n = 0;
    for (int64_t k = 0; k < classes; k++) {
        if (n == want && scores[k] <= scores[best[n - 1]])
            continue;
        int at = n < want ? n++ : n - 1;
        for (; at > 0 && scores[best[at - 1]] < scores[k]; at--)
            best[at] = best[at - 1];
        best[at] = k;
    }
    pg_head_scale scale = pg_head_scale_of(p->pass.head, scores);
    out->n_top = n;
    for (int i = 0; i < n; i++)
        out->top[i] = top_of(p, scale, best[i]);
    out->explained = top_of(p, scale, p->pass.klass);
}

/* The attribution: reduced to one value per position, enlarged to the picture's size, smoothed. */
static void draw_map(pg_pipeline *p, pg_reduce reduce, float *map) {
    const pg_attribution *a = &p->attribution;
    int64_t area = p->height * p->width, small_area = a->height * a->width;
    bool whole = small_area == area;
    float *small = whole ? map : p->scratch.values; /* which has twice the room */
    pg_assert(small_area <= 2 * area);
    if (a->finish == PG_FINISH_NONE)
        pg_map_reduce(reduce, a->values, a->layout, a->channels, small_area, small);
    else
        memcpy(small, a->values, (size_t)small_area * sizeof *small);
    if (a->finish == PG_FINISH_CAM)
        pg_cam_scale(small_area, small);
    if (!whole)
        pg_map_enlarge(small, a->height, a->width, false, map, p->height, p->width);
    if (a->finish != PG_FINISH_NONE)
        pg_cam_scale(area, map);
    pg_map_smooth(&p->scratch, map);
}

static pg_drop make_map(pg_pipeline *p, const pg_frame *frame, pg_explanation *out, pg_diag *diag) {
    const pg_attribution *a = &p->attribution;
    int64_t area = p->height * p->width;
    draw_map(p, p->explainer->options->reduce, p->map);
    if (!pg_map_finite(p->map, area))
        return drop(diag, PG_DROP_INFER_ERROR, "the map holds numbers that are not finite");
    const float *sorted = p->sorted = pg_map_sort(&p->scratch, p->map);
    pg_preprocess_transform(p->preprocess, out->transform);
    pg_quality *q = &out->quality;
    pg_map_spread spread = pg_map_measure(sorted, area);
    q->entropy = spread.entropy;
    q->gini = spread.gini;
    q->mass_in_roi = frame->has_roi
                         ? pg_map_mass_in(p->map, p->height, p->width, out->transform, frame->roi)
                         : (double)NAN;
    q->degenerate = a->degenerate || !(sorted[area - 1] > 0) ||
                    (p->pass.pruned && pg_prune_degenerate(p->pass.prune));
    return PG_DROP_NONE;
}

static void describe(pg_pipeline *p, const pg_saliency *method, pg_explanation *out) {
    const pg_pass *pass = &p->pass;
    out->classes = pass->classes;
    out->logits = pass->scores;
    out->output = pass->output;
    out->method = method->name;
    const pg_attribution *a = &p->attribution;
    out->figures = (pg_method_result){a->samples, a->planned, a->std_error, a->delta, a->relevance};
    out->concepts = a->concepts;
    out->attribution[0] = a->channels, out->attribution[1] = a->height;
    out->attribution[2] = a->width;
    out->select = pass->rule;
    out->height = p->height;
    out->width = p->width;
    out->map = p->map;
    if (pass->pruned) {
        out->n_layers = p->explainer->layers.count;
        out->layers = pg_prune_results(pass->prune);
    }
    memcpy(out->timing_ns, pass->timing_ns, sizeof out->timing_ns);
    for (int i = 0; i < PG_STAGE_COUNT; i++) /* the marks leave no gaps */
        out->total_ns += pass->timing_ns[i];
}

static pg_err run_method(pg_pipeline *p, const pg_saliency *method, pg_diag *diag) {
    int index = pg_saliency_index(method);
    if (!p->opened[index] && method->kind->open) {
        pg_err err = method->kind->open(method, p->explainer, &p->pass, &p->state[index], diag);
        if (err)
            return err;
    }
    p->opened[index] = true;
    p->method = method;
    p->attribution = (pg_attribution){.room = p->attribution.room,
                                      .values = p->attribution.room,
                                      .layout = p->pass.layout,
                                      .channels = p->channels,
                                      .height = p->height,
                                      .width = p->width,
                                      .std_error = (double)NAN,
                                      .delta = (double)NAN,
                                      .relevance = (double)NAN};
    return method->kind->run(method, &p->pass, p->state[index], &p->attribution, diag);
}

static pg_drop explain(pg_pipeline *p, const pg_frame *frame, const pg_saliency *method,
                       int64_t klass, pg_explanation *out, pg_diag *diag) {
    if (pg_pass_forward(&p->pass, diag))
        return PG_DROP_INFER_ERROR;
    p->pass.klass = klass >= 0 ? klass : pg_pass_argmax(p->pass.scores, p->pass.classes);
    list_top(p, out);
    if (run_method(p, method, diag))
        return PG_DROP_INFER_ERROR;
    pg_drop reason = make_map(p, frame, out, diag);
    pg_pass_mark(&p->pass, PG_STAGE_MAP);
    return reason;
}

/* Until when the frame may be computed on; 0: for ever. */
static uint64_t deadline_of(const pg_pipeline *p, const pg_wish *wish) {
    double seconds = wish && wish->deadline > 0 ? wish->deadline : p->explainer->options->deadline;
    return seconds > 0 && p->pass.now ? p->pass.mark + (uint64_t)(seconds * 1e9) : 0;
}

void pg_pipeline_watch(pg_pipeline *p, void (*progress)(void *user, int done, int planned),
                       void *user) {
    p->pass.progress = progress;
    p->pass.progress_user = user;
}

pg_drop pg_pipeline_run(pg_pipeline *p, const pg_frame *frame, const pg_wish *wish,
                        pg_explanation *out, pg_diag *diag) {
    *out = (pg_explanation){.n_top = 0};
    p->sorted = NULL;
    p->has_plain = p->has_overlay = false;
    const pg_saliency *method;
    int64_t klass = -1;
    pg_pass_start(&p->pass);
    p->pass.frame = frame;
    p->pass.deadline = deadline_of(p, wish);
    pg_drop reason = choose_method(p, frame, wish, &method, diag);
    if (!reason)
        reason = choose_target(p, frame, wish ? wish->target : NULL, &klass, &out->why, diag);
    if (!reason)
        reason = read_frame(p, frame, out, diag);
    if (!reason)
        reason = explain(p, frame, method, klass, out, diag);
    if (!reason)
        describe(p, method, out);
    return reason;
}

/* ---- on demand ---- */

const float *pg_pipeline_input(const pg_pipeline *p, pg_layout *layout) {
    *layout = p->pass.layout;
    return p->pass.input;
}

const float *pg_pipeline_attribution(pg_pipeline *p) {
    const pg_attribution *a = &p->attribution;
    pg_shape shape = {4, {1, a->channels, a->height, a->width}};
    if (!p->has_plain)
        pg_layout_convert(&shape, a->layout, a->values, PG_PLAIN, p->plain);
    p->has_plain = true;
    return p->plain;
}

/* The map's heat. A reduced map may have lost its signs, so it is drawn again with them. */
static void draw_heat(pg_pipeline *p) {
    pg_show show = p->method->kind->show;
    int64_t area = p->height * p->width;
    if (show == PG_SHOW_POSITIVE)
        draw_map(p, PG_REDUCE_SUM, p->heat);
    else
        memcpy(p->heat, p->map, (size_t)area * sizeof *p->heat);
    pg_map_heat(show, area, p->heat);
}

const uint8_t *pg_pipeline_overlay(pg_pipeline *p) {
    int64_t area = p->height * p->width;
    if (!p->has_overlay && p->sorted) {
        draw_heat(p);
        const float *sorted = p->method->kind->show == PG_SHOW_MAGNITUDE
                                  ? p->sorted
                                  : pg_map_sort(&p->scratch, p->heat);
        double full = pg_map_percentile(sorted, area, p->explainer->options->percentile);
        if (!(full > 0)) /* a map of a few spots: the percentile of the rest is 0 */
            full = (double)sorted[area - 1];
        pg_map_overlay(p->heat, full, pg_preprocess_rgb(p->preprocess), area, p->overlay);
        p->has_overlay = true;
    }
    return p->overlay;
}

pg_bytes pg_pipeline_overlay_jpeg(pg_pipeline *p) {
    return pg_jpeg_write(p->jpeg, pg_pipeline_overlay(p), OVERLAY_QUALITY);
}
