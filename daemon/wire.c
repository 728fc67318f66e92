/* Reading frames. No library: a decoder that builds objects must believe a declared length before
 * it has seen the bytes (160 bytes can make one reserve 128 GiB), so the header is read in place.
 * First pg_wire_check walks it once with fixed bounds; what follows may then trust the structure,
 * and only types, ranges and sizes are left to check. */
#include "daemon/wire.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "pipeline/utf8.h"

typedef enum kind { K_NIL, K_BOOL, K_UINT, K_NEGATIVE, K_FLOAT, K_STR, K_BIN, K_EXT, K_ARRAY, K_MAP } kind;

typedef struct value {
    kind kind;
    uint64_t number;    /* K_UINT, K_BOOL */
    int64_t negative;   /* K_NEGATIVE */
    double real;        /* K_FLOAT */
    const uint8_t *data; /* K_STR, K_BIN */
    uint64_t size;      /* bytes, or items, or pairs */
} value;

typedef struct cursor {
    const uint8_t *at, *end;
} cursor;

static bool read_number(cursor *c, int bytes, uint64_t *out) {
    if (c->end - c->at < bytes)
        return false;
    uint64_t n = 0;
    for (int i = 0; i < bytes; i++)
        n = n << 8 | *c->at++;
    *out = n;
    return true;
}

static bool read_signed(cursor *c, int bytes, value *v) {
    uint64_t n;
    if (!read_number(c, bytes, &n))
        return false;
    uint64_t sign = UINT64_C(1) << (8 * bytes - 1);
    if ((n & sign) == 0) {
        *v = (value){.kind = K_UINT, .number = n};
        return true;
    }
    /* n - 2^bits, computed without leaving the unsigned numbers until it fits */
    int64_t negative = -1 - (int64_t)(~n & (sign - 1));
    *v = (value){.kind = K_NEGATIVE, .negative = negative};
    return true;
}

static bool read_real(cursor *c, int bytes, value *v) {
    uint64_t n;
    if (!read_number(c, bytes, &n))
        return false;
    v->kind = K_FLOAT;
    if (bytes == 8) {
        memcpy(&v->real, &n, sizeof v->real);
    } else {
        uint32_t half = (uint32_t)n;
        float f;
        memcpy(&f, &half, sizeof f);
        v->real = (double)f;
    }
    return true;
}

/* A length of `bytes` bytes, then so many bytes of payload (and `extra`: the type of an ext). */
static bool read_blob(cursor *c, kind k, int bytes, uint64_t size, uint64_t extra, value *v) {
    if (bytes > 0 && !read_number(c, bytes, &size))
        return false;
    uint64_t left = (uint64_t)(c->end - c->at);
    if (size > left || extra > left - size)
        return false;
    *v = (value){.kind = k, .data = c->at, .size = size};
    c->at += size + extra;
    return true;
}

/* A count; every item takes at least a byte, so more items than bytes left are a lie. */
static bool read_count(cursor *c, kind k, int bytes, uint64_t count, value *v) {
    if (bytes > 0 && !read_number(c, bytes, &count))
        return false;
    uint64_t items = k == K_MAP ? 2 * count : count; /* count < 2^32: no overflow */
    if (items > (uint64_t)(c->end - c->at))
        return false;
    *v = (value){.kind = k, .size = count};
    return true;
}

/* Reads one value; of arrays and maps only the head. */
static bool read_value(cursor *c, value *v) {
    *v = (value){.kind = K_NIL};
    if (c->at == c->end)
        return false;
    uint8_t b = *c->at++;
    if (b <= 0x7f || b >= 0xe0) {
        *v = b <= 0x7f ? (value){.kind = K_UINT, .number = b}
                       : (value){.kind = K_NEGATIVE, .negative = (int8_t)b};
        return true;
    }
    if (b <= 0x8f)
        return read_count(c, K_MAP, 0, b & 15, v);
    if (b <= 0x9f)
        return read_count(c, K_ARRAY, 0, b & 15, v);
    if (b <= 0xbf)
        return read_blob(c, K_STR, 0, b & 31, 0, v);
    switch (b) {
    case 0xc0:
        return true;
    case 0xc2:
    case 0xc3:
        *v = (value){.kind = K_BOOL, .number = b & 1};
        return true;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        return read_blob(c, K_BIN, 1 << (b - 0xc4), 0, 0, v);
    case 0xc7:
    case 0xc8:
    case 0xc9:
        return read_blob(c, K_EXT, 1 << (b - 0xc7), 0, 1, v);
    case 0xca:
    case 0xcb:
        return read_real(c, b == 0xca ? 4 : 8, v);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        v->kind = K_UINT;
        return read_number(c, 1 << (b - 0xcc), &v->number);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3:
        return read_signed(c, 1 << (b - 0xd0), v);
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
        return read_blob(c, K_EXT, 0, UINT64_C(1) << (b - 0xd4), 1, v);
    case 0xd9:
    case 0xda:
    case 0xdb:
        return read_blob(c, K_STR, 1 << (b - 0xd9), 0, 0, v);
    case 0xdc:
    case 0xdd:
        return read_count(c, K_ARRAY, b == 0xdc ? 2 : 4, 0, v);
    case 0xde:
    case 0xdf:
        return read_count(c, K_MAP, b == 0xde ? 2 : 4, 0, v);
    default: /* 0xc1 is never used */
        return false;
    }
}

enum { DEPTH_LIMIT = 32 };

/* Walks over one whole value. `left[d]` is what the container at depth d still owes. */
static bool skip_value(cursor *c, int max_depth, int *nodes) {
    uint64_t left[DEPTH_LIMIT + 1];
    int depth = 0;
    left[0] = 1;
    if (max_depth > DEPTH_LIMIT)
        max_depth = DEPTH_LIMIT;
    while (true) {
        while (left[depth] == 0) {
            if (depth == 0)
                return true;
            depth--;
        }
        left[depth]--;
        value v;
        if (++*nodes > PG_WIRE_NODES_MAX || !read_value(c, &v))
            return false;
        if (v.kind == K_STR && !pg_utf8_ok(v.data, v.size)) /* it would break readers of `meta` */
            return false;
        if (v.kind == K_ARRAY || v.kind == K_MAP) {
            if (depth == max_depth)
                return false;
            left[++depth] = v.kind == K_MAP ? 2 * v.size : v.size;
        }
    }
}

bool pg_wire_check(pg_bytes bytes, int max_depth) {
    if (bytes.size == 0)
        return false;
    cursor c = {bytes.data, bytes.data + bytes.size};
    int nodes = 0;
    return skip_value(&c, max_depth, &nodes) && c.at == c.end;
}

/* ---- stream ids ---- */

bool pg_wire_stream_id_valid(const uint8_t *text, size_t size) {
    static const char alert[] = "alert.", status[] = "status";
    if (size == 0 || size > PG_STREAM_MAX || text[0] == '_')
        return false;
    if (size >= sizeof alert - 1 && memcmp(text, alert, sizeof alert - 1) == 0)
        return false;
    if (size == sizeof status - 1 && memcmp(text, status, size) == 0)
        return false;
    return pg_utf8_printable(text, size);
}

bool pg_wire_read_stream(const pg_bytes *parts, int n_parts, char stream[PG_STREAM_MAX + 1]) {
    if (n_parts < 1 || !pg_wire_stream_id_valid(parts[0].data, parts[0].size)) {
        memcpy(stream, PG_STREAM_UNKNOWN, sizeof PG_STREAM_UNKNOWN);
        return false;
    }
    memcpy(stream, parts[0].data, parts[0].size);
    stream[parts[0].size] = '\0';
    return true;
}

/* ---- header ---- */

/* The keys, in the order of `seen` bits; the first PG_MANDATORY are mandatory. */
enum {
    KEY_V,
    KEY_SEQ,
    KEY_BOOT,
    KEY_TS,
    KEY_FMT,
    KEY_W,
    KEY_H,
    MANDATORY,
    KEY_STRIDE = MANDATORY,
    KEY_TARGET,
    KEY_METHOD,
    KEY_DECISION,
    KEY_ROI,
    KEY_LABEL,
    KEY_TRACE,
    KEY_META,
    KEY_COUNT
};
static const char *const key_names[KEY_COUNT] = {"v",        "seq", "boot",   "ts",     "fmt",
                                                 "w",        "h",   "stride", "target", "method",
                                                 "decision", "roi", "label",  "trace",  "meta"};
static const char *const format_names[] = {
    [PG_FMT_BGR24] = "bgr24", [PG_FMT_RGB24] = "rgb24", [PG_FMT_GRAY8] = "gray8",
    [PG_FMT_JPEG] = "jpeg",   [PG_FMT_PNG] = "png",     [PG_FMT_F32CHW] = "f32chw"};

/* What one header says; sizes stay unsigned until they are checked against the pixels. */
typedef struct header {
    pg_frame *frame;
    const pg_wire_limits *limits;
    uint64_t width, height, stride;
    bool has_stride, bad_target, bad_method;
} header;

static bool is_text(const value *v, const char *text) {
    return v->kind == K_STR && v->size == strlen(text) && memcmp(v->data, text, v->size) == 0;
}

static bool as_int64(const value *v, int64_t *out) {
    if (v->kind == K_UINT && v->number <= INT64_MAX)
        *out = (int64_t)v->number;
    else if (v->kind == K_NEGATIVE)
        *out = v->negative;
    else
        return false;
    return true;
}

static bool as_finite(const value *v, double *out) {
    if (v->kind == K_FLOAT)
        *out = v->real;
    else if (v->kind == K_UINT)
        *out = (double)v->number;
    else if (v->kind == K_NEGATIVE)
        *out = (double)v->negative;
    else
        return false;
    return isfinite(*out);
}

static bool take_format(const value *v, pg_pixel_format *format) {
    for (size_t i = 0; i < sizeof format_names / sizeof *format_names; i++)
        if (is_text(v, format_names[i])) {
            *format = (pg_pixel_format)i;
            return true;
        }
    return false;
}

static bool take_target(header *h, const value *v) {
    if (v->kind == K_NEGATIVE || (v->kind == K_UINT && v->number > INT64_MAX)) {
        h->bad_target = true;
    } else if (v->kind == K_UINT) {
        h->frame->target_class = (int64_t)v->number;
    } else if (v->kind == K_STR) {
        if (v->size == 0 || v->size > PG_TARGET_MAX || memchr(v->data, 0, v->size) != NULL) {
            h->bad_target = true;
            return true;
        }
        memcpy(h->frame->target_name, v->data, v->size);
        h->frame->target_name[v->size] = '\0';
    } else {
        return false;
    }
    return true;
}

static bool take_method(header *h, const value *v) {
    if (v->kind != K_STR)
        return false;
    h->bad_method = v->size == 0 || v->size > PG_METHOD_MAX || memchr(v->data, 0, v->size) != NULL;
    if (!h->bad_method) {
        memcpy(h->frame->method, v->data, v->size);
        h->frame->method[v->size] = '\0';
    }
    return true;
}

static bool take_decision(pg_frame *frame, const value *v, cursor c) {
    if (v->kind != K_MAP)
        return false;
    frame->decision_score = NAN;
    int nodes = 0;
    for (uint64_t i = 0; i < v->size; i++) {
        value key, item;
        read_value(&c, &key);
        if (key.kind != K_STR)
            return false;
        cursor at = c;
        read_value(&at, &item);
        if (is_text(&key, "class")) {
            if (frame->has_decision || !as_int64(&item, &frame->decision_class))
                return false;
            frame->has_decision = true;
        } else if (is_text(&key, "score")) {
            if (!as_finite(&item, &frame->decision_score))
                return false;
        } else if (is_text(&key, "model") && item.kind != K_STR) {
            return false;
        }
        skip_value(&c, DEPTH_LIMIT, &nodes);
    }
    return frame->has_decision;
}

static bool take_roi(pg_frame *frame, const value *v, cursor c) {
    if (v->kind != K_ARRAY || v->size != 4)
        return false;
    for (int i = 0; i < 4; i++) {
        value item;
        read_value(&c, &item);
        if (!as_finite(&item, &frame->roi[i]))
            return false;
    }
    frame->has_roi = true;
    return true;
}

/* `span`: the value's own bytes; `v`: its head; `inside`: behind the head. */
static bool take_key(header *h, int key, const value *v, pg_bytes span, cursor inside) {
    pg_frame *f = h->frame;
    switch (key) {
    case KEY_V:
        return v->kind == K_UINT && v->number == 1;
    case KEY_SEQ:
        f->seq = v->number;
        return v->kind == K_UINT;
    case KEY_BOOT:
        if (v->kind != K_BIN || v->size != PG_BOOT_BYTES)
            return false;
        memcpy(f->boot, v->data, PG_BOOT_BYTES);
        return true;
    case KEY_TS:
        return as_int64(v, &f->ts_ns) && f->ts_ns > 0;
    case KEY_FMT:
        return take_format(v, &f->format);
    case KEY_W:
        h->width = v->number;
        return v->kind == K_UINT;
    case KEY_H:
        h->height = v->number;
        return v->kind == K_UINT;
    case KEY_STRIDE:
        h->stride = v->number;
        h->has_stride = true;
        return v->kind == K_UINT;
    case KEY_TARGET:
        return take_target(h, v);
    case KEY_METHOD:
        return take_method(h, v);
    case KEY_DECISION:
        return take_decision(f, v, inside);
    case KEY_ROI:
        return take_roi(f, v, inside);
    case KEY_LABEL:
        return as_int64(v, &f->label);
    case KEY_TRACE:
        f->trace = span;
        return v->kind == K_STR && span.size <= h->limits->meta_bytes;
    case KEY_META: {
        f->meta = span;
        return span.size <= h->limits->meta_bytes && pg_wire_check(span, PG_WIRE_META_DEPTH);
    }
    default:
        return true;
    }
}

static int find_key(const value *name) {
    for (int k = 0; k < KEY_COUNT; k++)
        if (is_text(name, key_names[k]))
            return k;
    return KEY_COUNT;
}

static bool fail(pg_diag *diag, const char *what, const char *key) {
    pg_fail(diag, PG_EINPUT, "header %s%s%s", what, key[0] ? " " : "", key);
    return false;
}

static bool read_header(pg_bytes bytes, header *h, pg_diag *diag) {
    /* the header map is one level around meta */
    if (!pg_wire_check(bytes, PG_WIRE_META_DEPTH + 1))
        return fail(diag, "is not one well-formed msgpack value within the limits", "");
    cursor c = {bytes.data, bytes.data + bytes.size};
    value map;
    read_value(&c, &map);
    if (map.kind != K_MAP)
        return fail(diag, "is not a map", "");
    unsigned seen = 0;
    int nodes = 0;
    for (uint64_t i = 0; i < map.size; i++) {
        value name, v;
        read_value(&c, &name);
        if (name.kind != K_STR)
            return fail(diag, "has a key that is not a string", "");
        cursor inside = c;
        const uint8_t *start = c.at;
        read_value(&inside, &v);
        skip_value(&c, DEPTH_LIMIT, &nodes);
        int key = find_key(&name);
        if (key == KEY_COUNT)
            continue;
        if (seen & 1u << key)
            return fail(diag, "has twice the key", key_names[key]);
        seen |= 1u << key;
        if (!take_key(h, key, &v, (pg_bytes){start, (size_t)(c.at - start)}, inside))
            return fail(diag, "has a wrong type or value at key", key_names[key]);
    }
    for (int key = 0; key < MANDATORY; key++)
        if (!(seen & 1u << key))
            return fail(diag, "lacks the key", key_names[key]);
    return true;
}

/* ---- sizes ---- */

static bool fits(uint64_t stride, uint64_t rows, size_t bytes) {
    uint64_t product;
    return !__builtin_mul_overflow(stride, rows, &product) && product == bytes;
}

static bool shape_fits(const header *h, size_t bytes) {
    /* Nothing legitimate is wider; below this no product of two sizes and 12 overflows. */
    const uint64_t side_max = UINT64_C(1) << 28;
    uint64_t w = h->width, rows = h->height;
    if (w == 0 || rows == 0 || w > side_max || rows > side_max || bytes == 0)
        return false;
    switch (h->frame->format) {
    case PG_FMT_JPEG:
    case PG_FMT_PNG:
        return true; /* decoding compares w and h with the picture's own */
    case PG_FMT_F32CHW:
        return fits(w * 4, rows, bytes) || fits(w * 12, rows, bytes);
    case PG_FMT_BGR24:
    case PG_FMT_RGB24:
    case PG_FMT_GRAY8:
        break;
    }
    uint64_t row = h->frame->format == PG_FMT_GRAY8 ? w : 3 * w;
    uint64_t stride = h->has_stride ? h->stride : row;
    return stride >= row && fits(stride, rows, bytes);
}

static pg_drop check_sizes(header *h, pg_bytes pixels, pg_diag *diag) {
    pg_frame *f = h->frame;
    if (pixels.size > h->limits->frame_bytes) {
        pg_fail(diag, PG_EINPUT, "the pixel part has %zu bytes, limits.frame_bytes is %llu",
                pixels.size, (unsigned long long)h->limits->frame_bytes);
        return PG_DROP_TOO_LARGE;
    }
    if (!shape_fits(h, pixels.size)) {
        pg_fail(diag, PG_EINPUT, "%zu bytes of pixels do not fit %s, w %llu, h %llu, stride %llu",
                pixels.size, format_names[f->format], (unsigned long long)h->width,
                (unsigned long long)h->height, (unsigned long long)h->stride);
        return PG_DROP_BAD_SHAPE;
    }
    bool rows = f->format == PG_FMT_BGR24 || f->format == PG_FMT_RGB24 || f->format == PG_FMT_GRAY8;
    f->stride = rows && h->has_stride ? (int64_t)h->stride : 0;
    f->width = (int64_t)h->width;
    f->height = (int64_t)h->height;
    if (h->bad_target) {
        pg_fail(diag, PG_EINPUT, "the target is a negative class, or no name a class can have");
        return PG_DROP_BAD_TARGET;
    }
    if (h->bad_method) {
        pg_fail(diag, PG_EINPUT, "the method is no name a method can have");
        return PG_DROP_BAD_METHOD;
    }
    return PG_DROP_NONE;
}

pg_drop pg_wire_decode(const pg_bytes *parts, int n_parts, const pg_wire_limits *limits,
                       pg_frame *frame, bool *header_read, pg_diag *diag) {
    memset(frame, 0, sizeof *frame);
    frame->target_class = -1;
    frame->label = -1;
    *header_read = false;
    if (!pg_wire_read_stream(parts, n_parts, frame->stream)) {
        pg_fail(diag, PG_EINPUT, "the first part is not a stream id");
        return PG_DROP_MALFORMED;
    }
    if (n_parts != PG_WIRE_PARTS) {
        pg_fail(diag, PG_EINPUT, "the message has %d parts, not %d", n_parts, PG_WIRE_PARTS);
        return PG_DROP_MALFORMED;
    }
    uint64_t room = PG_WIRE_HEADER_BYTES + 2 * limits->meta_bytes; /* meta and trace */
    if (parts[1].size > room) {
        pg_fail(diag, PG_EINPUT, "the header has %zu bytes: at most %" PRIu64 " may",
                parts[1].size, room);
        return PG_DROP_MALFORMED;
    }
    header h = {.frame = frame, .limits = limits};
    if (!read_header(parts[1], &h, diag))
        return PG_DROP_MALFORMED;
    *header_read = true;
    frame->pixels = parts[2];
    return check_sizes(&h, parts[2], diag);
}
