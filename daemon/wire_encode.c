/* Writing explanations, with msgpack's packer into a buffer that is kept from result to result. */
#include <math.h>
#include <msgpack.h>
#include <string.h>

#include "daemon/wire.h"
#include "kernels/mem.h"
#include "kernels/simd.h"
#include "pipeline/compat.h"
#include "pipeline/saliency.h"

bool pg_wire_buffer_reserve(pg_wire_buffer *buffer, size_t size) {
    if (size <= buffer->capacity)
        return true;
    size_t capacity = buffer->capacity < 1024 ? 1024 : buffer->capacity;
    while (capacity < size) {
        if (capacity > SIZE_MAX / 2)
            return false;
        capacity *= 2;
    }
    uint8_t *data = pg_realloc(buffer->data, capacity);
    if (data == NULL)
        return false;
    buffer->data = data;
    buffer->capacity = capacity;
    return true;
}

void pg_wire_buffer_free(pg_wire_buffer *buffer) {
    pg_free(buffer->data);
    *buffer = (pg_wire_buffer){0};
}

/* The packer's callback: 0 is success. After a failure nothing more is written, so that the caller
 * checks once, at the end. */
typedef struct writer {
    pg_wire_buffer *buffer;
    bool failed;
} writer;

static int append(void *data, const char *bytes, size_t size) {
    writer *w = data;
    pg_wire_buffer *b = w->buffer;
    if (w->failed || size > SIZE_MAX - b->size || !pg_wire_buffer_reserve(b, b->size + size)) {
        w->failed = true;
        return -1;
    }
    memcpy(b->data + b->size, bytes, size);
    b->size += size;
    return 0;
}

static void put_text(msgpack_packer *p, const char *text) {
    if (text == NULL) {
        msgpack_pack_nil(p);
        return;
    }
    size_t size = strlen(text);
    msgpack_pack_str(p, size);
    msgpack_pack_str_body(p, text, size);
}

static void put_bool(msgpack_packer *p, bool truth) {
    if (truth)
        msgpack_pack_true(p);
    else
        msgpack_pack_false(p);
}

static void put_real(msgpack_packer *p, double number) {
    if (isnan(number))
        msgpack_pack_nil(p);
    else
        msgpack_pack_double(p, number);
}

static void put_key_real(msgpack_packer *p, const char *key, double number) {
    put_text(p, key);
    put_real(p, number);
}

static void put_key_text(msgpack_packer *p, const char *key, const char *text) {
    put_text(p, key);
    put_text(p, text);
}

static void put_key_int(msgpack_packer *p, const char *key, int64_t number) {
    put_text(p, key);
    msgpack_pack_int64(p, number);
}

static void put_raw(msgpack_packer *p, writer *w, const char *key, pg_bytes value) {
    put_text(p, key);
    append(w, (const char *)value.data, value.size);
}

/* A number of 9 bytes whatever its size; returns where its 8 bytes will stand. */
static size_t put_later(msgpack_packer *p, writer *w, const char *key) {
    put_text(p, key);
    size_t at = w->buffer->size + 1;
    msgpack_pack_fix_uint64(p, 0);
    return at;
}

static void put_frame(msgpack_packer *p, writer *w, const pg_frame *f) {
    put_key_int(p, "v", 1);
    put_text(p, "seq");
    msgpack_pack_uint64(p, f->seq);
    put_text(p, "boot");
    msgpack_pack_bin(p, PG_BOOT_BYTES);
    msgpack_pack_bin_body(p, f->boot, PG_BOOT_BYTES);
    put_key_int(p, "ts", f->ts_ns);
    if (f->meta.data != NULL)
        put_raw(p, w, "meta", f->meta);
    if (f->trace.data != NULL)
        put_raw(p, w, "trace", f->trace);
}

static void put_classes(msgpack_packer *p, const pg_explanation *e) {
    put_text(p, "top");
    msgpack_pack_array(p, (size_t)e->n_top);
    for (int i = 0; i < e->n_top; i++) {
        msgpack_pack_array(p, 3);
        msgpack_pack_int64(p, e->top[i].klass);
        put_text(p, e->top[i].name);
        put_real(p, (double)e->top[i].probability);
    }
    put_text(p, "explained");
    msgpack_pack_map(p, 3);
    put_key_int(p, "class", e->explained.klass);
    put_key_text(p, "name", e->explained.name);
    put_key_text(p, "why", e->why);
}

bool pg_wire_param(const char *method, int index, char key[PG_WIRE_KEY]) {
    const pg_saliency *row = pg_saliency_find(method);
    const char *at = row == NULL ? "" : row->params;
    for (int i = 0; i < index; i++) {
        at += strcspn(at, " ");
        at += strspn(at, " ");
    }
    size_t length = strcspn(at, " ");
    if (length == 0 || length >= PG_WIRE_KEY)
        return false;
    memcpy(key, at, length);
    key[length] = '\0';
    return true;
}

/* The keys the method reads, as the configuration has them; without a packer they are counted. */
static int put_keys(msgpack_packer *p, const char *method, const pg_config *config) {
    char key[PG_WIRE_KEY];
    int count = 0;
    for (int i = 0; config != NULL && pg_wire_param(method, i, key); i++) {
        const char *text;
        double number;
        if (!pg_config_scalar(config, key, &text, &number))
            continue;
        count++;
        if (p != NULL && isnan(number))
            put_key_text(p, key, text);
        else if (p != NULL && number == floor(number) && fabs(number) < 1e15)
            put_key_int(p, key, (int64_t)number);
        else if (p != NULL)
            put_key_real(p, key, number);
    }
    return count;
}

/* Switches of parchgrad.compat that are on, if any. */
static void put_compat(msgpack_packer *p, unsigned compat) {
    if (compat == PG_COMPAT_NONE)
        return;
    put_text(p, "compat");
    msgpack_pack_array(p, (size_t)__builtin_popcount(compat));
    for (int i = 0; i < PG_COMPAT_COUNT; i++)
        if (compat & 1u << i)
            put_text(p, pg_compat_name(i));
}

static void put_params(msgpack_packer *p, const pg_explanation *e, const pg_wire_context *c) {
    static const char *const reduces[] = {"mean_abs", "max_abs", "sum_abs", "sum"};
    static const char *const selects[] = {"class", "instance", "list", "random", "none"};
    static const char *const conserves[] = {"approx", "exact", "off"};
    const pg_explain_options *o = c->options;
    const pg_saliency *method = pg_saliency_find(e->method);
    bool prunes = method != NULL && method->prunes;
    put_text(p, "params");
    int of_pruning = !prunes ? 0 : o->prune.compat == PG_COMPAT_NONE ? 4 : 5;
    msgpack_pack_map(p, (size_t)(2 + of_pruning + put_keys(NULL, e->method, c->config)));
    put_keys(p, e->method, c->config);
    put_key_text(p, "reduce", reduces[o->reduce]);
    put_key_real(p, "smooth", o->smooth);
    if (!prunes)
        return;
    put_key_text(p, "select", selects[o->prune.select]);
    if (o->prune.use_level)
        put_key_real(p, "level", o->prune.level);
    else
        put_key_real(p, "quantile", o->prune.quantile);
    put_key_real(p, "gamma", o->prune.gamma);
    put_key_text(p, "conserve", conserves[o->prune.conserve]);
    put_compat(p, o->prune.compat);
}

static void put_map(msgpack_packer *p, const pg_explanation *e, double scale, int zero) {
    put_text(p, "map");
    msgpack_pack_map(p, 6);
    put_key_int(p, "w", e->width);
    put_key_int(p, "h", e->height);
    put_key_text(p, "dtype", "u8");
    put_key_real(p, "scale", scale);
    put_key_int(p, "zero", zero);
    put_text(p, "transform");
    msgpack_pack_array(p, 6);
    for (int i = 0; i < 6; i++)
        msgpack_pack_double(p, e->transform[i]);
}

/* Figures of a method that has them. */
static void put_figures(msgpack_packer *p, const pg_method_result *f) {
    if (f->planned > 0) {
        put_key_int(p, "samples", f->samples);
        put_key_int(p, "planned", f->planned);
    }
    if (!isnan(f->std_error))
        put_key_real(p, "std_error", f->std_error);
    if (!isnan(f->delta))
        put_key_real(p, "delta", f->delta);
    if (!isnan(f->relevance))
        put_key_real(p, "relevance", f->relevance);
}

static void put_quality(msgpack_packer *p, const pg_quality *q, const pg_method_result *f) {
    int figures =
        (f->planned > 0 ? 2 : 0) + !isnan(f->std_error) + !isnan(f->delta) + !isnan(f->relevance);
    put_text(p, "quality");
    msgpack_pack_map(p, (size_t)(4 + figures));
    put_figures(p, f);
    put_key_real(p, "entropy", q->entropy);
    put_key_real(p, "gini", q->gini);
    put_key_real(p, "mass_in_roi", q->mass_in_roi);
    put_text(p, "degenerate");
    put_bool(p, q->degenerate);
}

/* The most relevant channels of CRP's layer. */
static void put_concepts(msgpack_packer *p, const pg_concepts *c) {
    put_text(p, "concepts");
    msgpack_pack_map(p, 2);
    put_key_text(p, "layer", c->layer);
    put_text(p, "top");
    msgpack_pack_array(p, (size_t)c->n_top);
    for (int i = 0; i < c->n_top; i++) {
        msgpack_pack_array(p, 2);
        msgpack_pack_int64(p, c->top[i]);
        put_real(p, c->relevance[c->top[i]]);
    }
}

static void put_layers(msgpack_packer *p, const pg_explanation *e) {
    put_text(p, "prune");
    msgpack_pack_map(p, 1);
    put_text(p, "layers");
    msgpack_pack_array(p, (size_t)e->n_layers);
    for (int i = 0; i < e->n_layers; i++) {
        const pg_layer_result *l = &e->layers[i];
        msgpack_pack_map(p, 6);
        put_key_text(p, "name", l->name);
        put_key_int(p, "kept", l->kept);
        put_key_int(p, "total", l->total);
        put_key_real(p, "beta", (double)l->beta);
        put_key_real(p, "share", (double)l->share);
        put_text(p, "degenerate");
        put_bool(p, l->degenerate);
    }
}

static void put_timing(msgpack_packer *p, writer *w, const pg_explanation *e,
                       pg_wire_patches *patches) {
    put_text(p, "timing");
    msgpack_pack_map(p, PG_STAGE_COUNT + 1);
    for (int s = 0; s < PG_STAGE_PUBLISH; s++) {
        put_text(p, pg_stage_name((pg_stage)s));
        msgpack_pack_uint64(p, e->timing_ns[s]);
    }
    patches->publish = put_later(p, w, pg_stage_name(PG_STAGE_PUBLISH));
    patches->total = put_later(p, w, "total");
}

pg_err pg_wire_encode_header(const pg_frame *frame, const pg_explanation *explanation,
                             const pg_wire_context *context, double scale, int zero,
                             pg_wire_buffer *buffer, pg_wire_patches *patches) {
    writer w = {.buffer = buffer};
    msgpack_packer p;
    msgpack_packer_init(&p, &w, append);
    buffer->size = 0;
    int optional = (frame->meta.data != NULL) + (frame->trace.data != NULL) + frame->has_decision +
                   (explanation->concepts != NULL);
    msgpack_pack_map(&p, (size_t)(14 + optional));
    put_frame(&p, &w, frame);                            /* v seq boot ts */
    put_classes(&p, explanation);                        /* top explained */
    put_key_text(&p, "method", explanation->method);
    put_params(&p, explanation, context);
    put_map(&p, explanation, scale, zero);
    put_quality(&p, &explanation->quality, &explanation->figures);
    if (explanation->concepts != NULL)
        put_concepts(&p, explanation->concepts);
    put_layers(&p, explanation);
    put_timing(&p, &w, explanation, patches);
    patches->age = put_later(&p, &w, "age");
    put_text(&p, "model");
    msgpack_pack_map(&p, 3);
    put_key_text(&p, "sha256", context->model_sha256);
    put_key_text(&p, "stats", context->stats_sha256);
    put_key_text(&p, "precision", context->precision);
    if (frame->has_decision) {
        put_text(&p, "agrees");
        put_bool(&p, explanation->n_top > 0 &&
                         explanation->top[0].klass == frame->decision_class);
    }
    return w.failed ? PG_ENOMEM : PG_OK;
}

static void patch(pg_wire_buffer *buffer, size_t at, uint64_t number) {
    pg_assert(at > 0 && at + 8 <= buffer->size && buffer->data[at - 1] == 0xcf);
    for (int i = 0; i < 8; i++)
        buffer->data[at + (size_t)i] = (uint8_t)(number >> (56 - 8 * i));
}

void pg_wire_patch(pg_wire_buffer *buffer, const pg_wire_patches *patches, uint64_t age,
                   uint64_t publish, uint64_t total) {
    patch(buffer, patches->age, age);
    patch(buffer, patches->publish, publish);
    patch(buffer, patches->total, total);
}

PG_CLONES static void find_ends(const float *map, size_t n, float *low, float *high) {
    float l = 0, h = 0;
    for (size_t i = 0; i < n; i++) {
        l = map[i] < l ? map[i] : l;
        h = map[i] > h ? map[i] : h;
    }
    *low = l;
    *high = h;
}

PG_CLONES static void to_bytes(const float *map, size_t n, float factor, float offset,
                               uint8_t *out) {
    for (size_t i = 0; i < n; i++) {
        float v = map[i] * factor + offset;
        v = v > 0 ? v : 0;
        out[i] = (uint8_t)(int32_t)(v < 255 ? v : 255);
    }
}

pg_err pg_wire_encode_map(const pg_explanation *explanation, pg_wire_buffer *buffer, double *scale,
                          int *zero) {
    size_t n = (size_t)explanation->width * (size_t)explanation->height;
    const float *map = explanation->map;
    buffer->size = 0;
    if (!pg_wire_buffer_reserve(buffer, n))
        return PG_ENOMEM;
    float low, high;
    find_ends(map, n, &low, &high);
    float top = high > -low ? high : -low;
    *zero = low < 0 ? 128 : 0;
    *scale = top > 0 ? (double)top / (255 - *zero) : 1.0;
    float factor = (float)(1.0 / *scale), offset = (float)*zero + 0.5f;
    if (!isfinite(factor)) /* a map so faint that its step has no reciprocal: nothing to see */
        factor = 0;
    to_bytes(map, n, factor, offset, buffer->data);
    buffer->size = n;
    return PG_OK;
}

pg_err pg_wire_encode_error(pg_drop drop, const char *message, pg_wire_buffer *buffer) {
    writer w = {.buffer = buffer};
    msgpack_packer p;
    msgpack_packer_init(&p, &w, append);
    buffer->size = 0;
    msgpack_pack_map(&p, 2);
    put_key_int(&p, "v", 1);
    put_text(&p, "error");
    msgpack_pack_map(&p, 2);
    put_key_text(&p, "reason", pg_drop_label(drop));
    put_key_text(&p, "message", message);
    return w.failed ? PG_ENOMEM : PG_OK;
}
