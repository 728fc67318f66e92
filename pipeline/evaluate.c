/* An evaluator asks a method for its map of a picture, and then again: of the picture with a little
 * noise, by a network with shuffled layers, of a mosaic. What the map says of the network's
 * decision is evaluate_perturb.c's. All of one picture is asked under its own stream and seq, so
 * that methods that sample draw the same each time, and what differs is not their noise. */
#include "pipeline/evaluate_impl.h"

#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/philox.h"

static const double NOISE_SHARE = 0.02; /* of the input's range */
enum { NOISE_COPIES = 3, BLUR_SIGMA = 10, SHUFFLED_LAYERS = 2 };

const pg_metric_row *pg_metric_at(pg_metric metric) {
    static const pg_metric_row rows[PG_METRIC_COUNT] = {
#define PG_METRIC(symbol, name, better, prose) {name, prose, better},
#include "pipeline/evaluate.def"
#undef PG_METRIC
    };
    return &rows[metric];
}

/* ---- life ---- */

static bool is_control(const char *method) { return strcmp(method, PG_EVALUATE_RANDOM) == 0; }

static pg_err check_methods(const pg_evaluator *e, pg_diag *diag) {
    for (int i = 0; i < e->n_methods; i++) {
        pg_err err = is_control(e->methods[i])
                         ? PG_OK
                         : pg_explainer_check_method(e->explainer, e->methods[i], diag);
        if (err)
            return err;
    }
    return PG_OK;
}

static pg_err alloc(pg_evaluator *e, pg_diag *diag) {
    size_t area = (size_t)e->area, count = area * (size_t)e->channels, n = (size_t)e->n_methods;
    e->input = pg_calloc(count, sizeof *e->input);
    e->changed = pg_calloc(count, sizeof *e->changed);
    e->blurred = pg_calloc(count, sizeof *e->blurred);
    e->map = pg_calloc(area, sizeof *e->map);
    e->previous = pg_calloc(area * n, sizeof *e->previous);
    e->has_previous = pg_calloc(n, sizeof *e->has_previous);
    if (!e->input || !e->changed || !e->blurred || !e->map || !e->previous || !e->has_previous)
        return pg_fail(diag, PG_ENOMEM, "no memory for evaluation");
    pg_err err = pg_rank_create(e->area, &e->rank, diag);
    return err ? err : pg_map_scratch_create(e->height, e->width, BLUR_SIGMA, &e->blur, diag);
}

static pg_err fill(pg_evaluator *e, pg_clock_fn now, pg_diag *diag) {
    const pg_explain_options *o = e->options->explain;
    pg_err err;
    if ((err = pg_explainer_create(o, &e->explainer, diag)) || (err = check_methods(e, diag)))
        return err;
    const int64_t *in = e->explainer->info->input.dims;
    e->channels = in[1];
    e->height = in[2];
    e->width = in[3];
    e->area = e->height * e->width;
    if ((err = alloc(e, diag)) ||
        (err = pg_pipeline_create(e->explainer, now, &e->pipeline, diag)) ||
        (err = pg_pass_create(e->explainer->model, &e->explainer->head, o, NULL, now, &e->probe,
                              diag)))
        return err;
    if (!e->options->randomise)
        return PG_OK;
    e->shuffled_options = *o;
    e->shuffled_options.shuffled_layers = SHUFFLED_LAYERS;
    err = pg_explainer_create(&e->shuffled_options, &e->shuffled, diag);
    return err ? err : pg_pipeline_create(e->shuffled, now, &e->shuffled_pipeline, diag);
}

pg_err pg_evaluator_create(const pg_evaluate_options *options, const char *const *methods,
                           int n_methods, pg_clock_fn now, pg_evaluator **out, pg_diag *diag) {
    pg_evaluator *e = *out = pg_calloc(1, sizeof *e);
    if (e == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for evaluation");
    e->options = options;
    e->methods = methods;
    e->n_methods = n_methods;
    pg_err err = fill(e, now, diag);
    if (err)
        pg_evaluator_destroy(out);
    return err;
}

void pg_evaluator_destroy(pg_evaluator **evaluator) {
    pg_evaluator *e = *evaluator;
    if (e == NULL)
        return;
    pg_pass_destroy(&e->probe);
    pg_pipeline_destroy(&e->pipeline);
    pg_pipeline_destroy(&e->shuffled_pipeline);
    pg_explainer_destroy(&e->explainer);
    pg_explainer_destroy(&e->shuffled);
    pg_rank_destroy(&e->rank);
    pg_map_scratch_destroy(&e->blur);
    pg_free(e->input);
    pg_free(e->changed);
    pg_free(e->blurred);
    pg_free(e->map);
    pg_free(e->previous);
    pg_free(e->has_previous);
    pg_free(e);
    *evaluator = NULL;
}

const pg_explainer *pg_evaluator_explainer(const pg_evaluator *e) { return e->explainer; }
const float *pg_evaluate_input(const pg_evaluator *e) { return e->input; }

pg_bytes pg_evaluate_overlay(const pg_evaluator *e) { return e->overlay; }

/* ---- maps ---- */

/* Uniform random numbers instead of a map, a function of the picture's top pixel values only
 * through its number: the control is the same in every run. */
static void random_map(pg_evaluator *e, uint64_t seq) {
    for (int64_t i = 0; i < e->area; i++) {
        const uint32_t counter[4] = {(uint32_t)i, (uint32_t)seq, 0, 0}, key[2] = {7, 7};
        uint32_t words[4];
        pg_philox(counter, key, words);
        e->map[i] = (float)(words[0] >> 8) * 0x1p-24f;
    }
}

static pg_frame frame_of(const pg_evaluator *e, const float *input, int64_t klass) {
    size_t bytes = (size_t)(e->area * e->channels) * sizeof *input;
    pg_frame frame = {.format = PG_FMT_F32CHW,
                      .seq = e->seq,
                      .height = e->height,
                      .width = e->width,
                      .target_class = klass,
                      .label = -1,
                      .pixels = {(const uint8_t *)input, bytes}};
    memcpy(frame.stream, e->stream, sizeof frame.stream);
    return frame;
}

static const char *method_of(const pg_evaluator *e, int method) {
    return is_control(e->methods[method]) ? "gradient" : e->methods[method];
}

static pg_err explain(pg_pipeline *pipeline, const pg_frame *frame, const char *method,
                      pg_explanation *out, pg_diag *diag) {
    pg_drop drop = pg_pipeline_run(pipeline, frame, &(pg_wish){.method = method}, out, diag);
    return drop == PG_DROP_NONE ? PG_OK : drop == PG_DROP_INFER_ERROR ? PG_EFAIL : PG_EINPUT;
}

static double relative_change(const pg_evaluator *e, const float *map) {
    double change = 0, size = 0;
    for (int64_t i = 0; i < e->area; i++) {
        double a = (double)e->map[i], d = (double)map[i] - a;
        change += d * d;
        size += a * a;
    }
    return size > 0 ? sqrt(change / size) : (double)NAN;
}

/* The largest change of the map under a few small disturbances (max-sensitivity, Yeh et al. 2019).
 */
static pg_err disturb(pg_evaluator *e, int method, pg_evaluation *out, pg_diag *diag) {
    float least = INFINITY, most = -INFINITY;
    int64_t count = e->area * e->channels;
    for (int64_t i = 0; i < count; i++) {
        least = fminf(least, e->input[i]);
        most = fmaxf(most, e->input[i]);
    }
    double worst = 0;
    for (uint32_t n = 0; n < NOISE_COPIES; n++) {
        for (int64_t i = 0; i < count; i++) {
            const uint32_t counter[4] = {(uint32_t)i, n, 1, 0}, key[2] = {7, 7};
            uint32_t words[4];
            pg_philox(counter, key, words);
            double u = (double)words[0] * 0x1p-31 - 1;
            e->changed[i] = e->input[i] + (float)(u * NOISE_SHARE * (double)(most - least));
        }
        pg_explanation other;
        pg_frame frame = frame_of(e, e->changed, out->klass);
        pg_err err = explain(e->pipeline, &frame, e->methods[method], &other, diag);
        if (err)
            return err;
        worst = fmax(worst, relative_change(e, other.map));
    }
    out->values[PG_METRIC_NOISE] = worst;
    return PG_OK;
}

static pg_err compare_shuffled(pg_evaluator *e, int method, pg_evaluation *out, pg_diag *diag) {
    pg_explanation other;
    pg_frame frame = frame_of(e, e->input, out->klass);
    pg_err err = explain(e->shuffled_pipeline, &frame, e->methods[method], &other, diag);
    if (!err)
        out->values[PG_METRIC_RANDOMISED] = pg_rank_spearman(&e->rank, e->map, other.map);
    return err;
}

static void compare_previous(pg_evaluator *e, int method, pg_evaluation *out) {
    float *before = e->previous + method * e->area;
    if (e->has_previous[method])
        out->values[PG_METRIC_STABILITY] = pg_rank_spearman(&e->rank, e->map, before);
    memcpy(before, e->map, (size_t)e->area * sizeof *before);
    e->has_previous[method] = true;
}

/* ---- boxes ---- */

/* The box's part of the picture the network sees, as a share; the box is clipped to it. */
static double box_share(const pg_evaluator *e, const double transform[6], const double box[4]) {
    double x0 = fmax((box[0] - transform[2]) / transform[0], 0);
    double y0 = fmax((box[1] - transform[5]) / transform[4], 0);
    double x1 = fmin((box[0] + box[2] - transform[2]) / transform[0], (double)e->width);
    double y1 = fmin((box[1] + box[3] - transform[5]) / transform[4], (double)e->height);
    return x1 > x0 && y1 > y0 ? (x1 - x0) * (y1 - y0) / (double)e->area : 0;
}

static void measure_box(const pg_evaluator *e, const pg_explanation *r, const double *box,
                        pg_evaluation *out) {
    double share = box ? box_share(e, r->transform, box) : 0;
    if (!(share > 0)) /* unknown, or outside of what the network sees */
        return;
    double inside = pg_map_mass_in(e->map, e->height, e->width, r->transform, box);
    out->values[PG_METRIC_MU_IN] = inside;
    out->values[PG_METRIC_MU_IN_W] = inside / share;
}

/* ---- one picture ---- */

static void describe(const pg_explanation *r, pg_evaluation *out) {
    out->klass = r->explained.klass;
    out->probability = r->explained.probability;
    out->recognised = r->top[0].klass == out->klass;
    out->values[PG_METRIC_ENTROPY] = r->quality.entropy;
    out->values[PG_METRIC_GINI] = r->quality.gini;
    out->values[PG_METRIC_MILLISECONDS] = (double)r->total_ns * 1e-6;
}

/* The same of the control's map, which took no time to speak of. */
static void describe_random(pg_evaluator *e, pg_evaluation *out) {
    pg_map_spread spread = pg_map_measure(pg_map_sort(&e->blur, e->map), e->area);
    out->values[PG_METRIC_ENTROPY] = spread.entropy;
    out->values[PG_METRIC_GINI] = spread.gini;
    out->values[PG_METRIC_MILLISECONDS] = (double)NAN;
}

pg_err pg_evaluate(pg_evaluator *e, int method, const pg_frame *frame, int64_t label,
                   const double *box, pg_evaluation *out, pg_diag *diag) {
    pg_explanation r;
    pg_frame asked = *frame;
    asked.target_class = label;
    e->seq = frame->seq;
    memcpy(e->stream, frame->stream, sizeof e->stream);
    *out = (pg_evaluation){.klass = label};
    for (int i = 0; i < PG_METRIC_COUNT; i++)
        out->values[i] = (double)NAN;
    pg_err err = explain(e->pipeline, &asked, method_of(e, method), &r, diag);
    if (err)
        return err;
    e->control = is_control(e->methods[method]);
    describe(&r, out);
    const pg_top top = r.top[0];
    memcpy(e->map, r.map, (size_t)e->area * sizeof *e->map);
    pg_layout layout;
    const float *input = pg_pipeline_input(e->pipeline, &layout);
    pg_layout_convert(&e->explainer->info->input, layout, input, PG_PLAIN, e->input);
    e->overlay = e->control ? (pg_bytes){NULL, 0} : pg_pipeline_overlay_jpeg(e->pipeline);
    if (e->control) {
        random_map(e, frame->seq);
        describe_random(e, out);
    }
    measure_box(e, &r, box, out);
    if (e->options->sequence)
        compare_previous(e, method, out);
    if ((err = pg_evaluate_perturb(e, &top, out, diag)) || e->control)
        return err;
    if (e->shuffled && (err = compare_shuffled(e, method, out, diag)))
        return err;
    return disturb(e, method, out, diag);
}

/* ---- grid pointing ---- */

/* Cell (row, col) of the n by n mosaic in e->changed: the mean over blocks of n by n pixels. */
static void shrink_into(pg_evaluator *e, int n, int row, int col, const float *input) {
    int64_t h = e->height / n, w = e->width / n;
    for (int64_t c = 0; c < e->channels; c++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++) {
                double sum = 0;
                for (int64_t i = 0; i < n * n; i++)
                    sum += (double)input[c * e->area + (y * n + i / n) * e->width + x * n + i % n];
                e->changed[c * e->area + (row * h + y) * e->width + col * w + x] =
                    (float)(sum / (n * n));
            }
}

/* The positive attribution's part in a cell: of the sum over colours, or of the map where a method
 * makes nothing else. */
static double share_of_cell(pg_evaluator *e, int n, int cell, const pg_explanation *r) {
    bool whole = r->attribution[1] == e->height && r->attribution[2] == e->width;
    const float *a = whole ? pg_pipeline_attribution(e->pipeline) : r->map;
    int64_t planes = whole ? r->attribution[0] : 1, h = e->height / n, w = e->width / n;
    double inside = 0, all = 0;
    for (int64_t i = 0; i < e->area; i++) {
        double v = 0;
        for (int64_t c = 0; c < planes; c++)
            v += (double)a[c * e->area + i];
        v = v > 0 ? v : 0;
        all += v;
        inside += i / e->width / h == cell / n && i % e->width / w == cell % n ? v : 0;
    }
    return all > 0 ? inside / all : 0;
}

pg_err pg_evaluate_grid(pg_evaluator *e, int method, int n, const float *const *inputs,
                        const int64_t *klass, double *share, pg_diag *diag) {
    *share = 1.0 / (n * n);
    if (is_control(e->methods[method]))
        return PG_OK;
    memset(e->changed, 0, (size_t)(e->area * e->channels) * sizeof *e->changed);
    for (int i = 0; i < n * n; i++)
        shrink_into(e, n, i / n, i % n, inputs[i]);
    double sum = 0;
    for (int i = 0; i < n * n; i++) {
        pg_explanation r;
        pg_frame frame = frame_of(e, e->changed, klass[i]);
        pg_err err = explain(e->pipeline, &frame, e->methods[method], &r, diag);
        if (err)
            return err;
        sum += share_of_cell(e, n, i, &r);
    }
    *share = sum / (n * n);
    return PG_OK;
}
