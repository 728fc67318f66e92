/* A mutator that knows what an ONNX file is made of.
 *
 * Random bytes hardly ever get past the length prefixes of nested messages. This one takes the file
 * apart along the schema, changes one field (drops it, doubles it, replaces it by a like one from
 * elsewhere in the file, bends its number or its bytes) and writes the file again with lengths that
 * are right. So names get rewired, nodes swapped and dimensions bent in files that still parse.
 * A part of the cases goes to libFuzzer's own mutator all the same: it tests the parser.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/onnx_wire.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

enum { LEAF, MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, VALUE, TYPE, TENSOR_TYPE, SHAPE, DIM, OPSET, ENTRY };

/* Which fields of a message are messages, and which. */
static const struct { int message; uint32_t field; int inner; } schema[] = {
    {MODEL, 7, GRAPH},      {MODEL, 8, OPSET},   {GRAPH, 1, NODE},       {GRAPH, 5, TENSOR},
    {GRAPH, 11, VALUE},     {GRAPH, 12, VALUE},  {GRAPH, 13, VALUE},     {NODE, 5, ATTRIBUTE},
    {ATTRIBUTE, 5, TENSOR}, {TENSOR, 13, ENTRY}, {VALUE, 2, TYPE},       {TYPE, 1, TENSOR_TYPE},
    {TENSOR_TYPE, 2, SHAPE}, {SHAPE, 1, DIM}};

static int inner_of(int message, uint32_t field) {
    for (size_t i = 0; i < sizeof schema / sizeof *schema; i++)
        if (schema[i].message == message && schema[i].field == field)
            return schema[i].inner;
    return LEAF;
}

/* ---- pseudo-random choices ---- */

static uint64_t state;

static uint32_t pick(uint32_t count) { /* xorshift64* */
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (uint32_t)((state * 0x2545f4914f6cdd1du) >> 32) % count;
}

static uint64_t bend(uint64_t value) {
    static const uint64_t odd[] = {0, 1, 2, 3, 7, 8, 16, 255, 1 << 16, (uint64_t)1 << 31, INT32_MAX,
                                   (uint64_t)1 << 40, INT64_MAX, (uint64_t)1 << 63, UINT64_MAX,
                                   UINT64_MAX - 1, (uint64_t)-8, UINT32_MAX};
    switch (pick(4)) {
    case 0:
        return value + 1;
    case 1:
        return value - 1;
    case 2:
        return value ^ (uint64_t)1 << pick(64);
    default:
        return odd[pick(sizeof odd / sizeof *odd)];
    }
}

/* ---- writing ---- */

typedef struct out {
    uint8_t *data;
    size_t size, room;
    bool full;
} out;

static void put(out *o, const void *data, size_t size) {
    if (size > o->room - o->size) {
        o->full = true;
        return;
    }
    if (size > 0)
        memcpy(o->data + o->size, data, size);
    o->size += size;
}

static void put_varint(out *o, uint64_t value) {
    uint8_t bytes[10];
    size_t size = 0;
    do {
        bytes[size++] = (uint8_t)((value & 0x7f) | (value > 0x7f ? 0x80 : 0));
        value >>= 7;
    } while (value > 0);
    put(o, bytes, size);
}

static void put_field(out *o, const pg_wire_field *f) {
    put_varint(o, (uint64_t)f->number << 3 | f->type);
    switch (f->type) {
    case PG_WIRE_VARINT:
        put_varint(o, f->value);
        break;
    case PG_WIRE_FIXED64:
        put(o, &f->value, 8);
        break;
    case PG_WIRE_FIXED32:
        put(o, &f->value, 4);
        break;
    case PG_WIRE_BYTES:
        put_varint(o, f->bytes.size);
        put(o, f->bytes.data, f->bytes.size);
    }
}

/* ---- one change ---- */

typedef struct change {
    int target;     /* number of the field in order of the walk */
    int at;         /* fields met so far */
    int kind;       /* message the target was found in */
    pg_wire_field found, donor;
    int likes;      /* like fields met while looking for a donor */
} change;

/* First walk: finds the target. Second: chooses one like it, fairly, as donor. */
static void walk(pg_span bytes, int message, change *c, bool donors) {
    pg_wire wire = pg_wire_open(bytes);
    pg_wire_field f;
    while (pg_wire_next(&wire, &f)) {
        int index = c->at++;
        if (!donors && index == c->target) {
            c->found = f;
            c->kind = message;
        }
        if (donors && message == c->kind && f.number == c->found.number &&
            f.type == c->found.type && index != c->target && pick((uint32_t)++c->likes) == 0)
            c->donor = f;
        int inner = f.type == PG_WIRE_BYTES ? inner_of(message, f.number) : LEAF;
        if (inner != LEAF)
            walk(f.bytes, inner, c, donors);
    }
}

/* Bytes that are no message: a name, raw data, a packed list. */
static void put_bent_bytes(out *o, pg_wire_field f) {
    uint8_t copy[4096];
    size_t size = f.bytes.size < sizeof copy ? f.bytes.size : sizeof copy;
    if (size > 0)
        memcpy(copy, f.bytes.data, size);
    f.bytes = (pg_span){copy, LLVMFuzzerMutate(copy, size, sizeof copy)};
    put_field(o, &f);
}

static void put_changed(out *o, const pg_wire_field *f, const change *c) {
    pg_wire_field bent = *f;
    uint32_t how = pick(8);
    if (how == 0)
        return;
    if (how == 1 || how == 2) {
        put_field(o, f);
        put_field(o, f);
    } else if (how <= 5 && c->likes > 0) {
        put_field(o, &c->donor);
    } else if (f->type != PG_WIRE_BYTES) {
        bent.value = bend(f->value);
        put_field(o, &bent);
    } else if (how == 6) {
        bent.number = 1 + pick(21);
        put_field(o, &bent);
    } else {
        put_bent_bytes(o, bent);
    }
}

static void rewrite(pg_span bytes, int message, change *c, out *o) {
    pg_wire wire = pg_wire_open(bytes);
    pg_wire_field f;
    while (pg_wire_next(&wire, &f)) {
        bool target = c->at++ == c->target;
        int inner = f.type == PG_WIRE_BYTES ? inner_of(message, f.number) : LEAF;
        if (target) {
            put_changed(o, &f, c);
        } else if (inner == LEAF) {
            put_field(o, &f);
        } else {
            out part = {.data = malloc(o->room), .room = o->room};
            rewrite(f.bytes, inner, c, &part);
            o->full = o->full || part.full;
            f.bytes = (pg_span){part.data, part.size};
            put_field(o, &f);
            free(part.data);
        }
    }
}

static bool change_once(out *from, out *to) {
    pg_span file = {from->data, from->size};
    change c = {.target = -1};
    walk(file, MODEL, &c, false);
    if (c.at == 0)
        return false;
    c.target = (int)pick((uint32_t)c.at);
    c.at = 0;
    walk(file, MODEL, &c, false);
    c.at = 0;
    walk(file, MODEL, &c, true);
    c.at = 0;
    *to = (out){.data = to->data, .room = to->room};
    rewrite(file, MODEL, &c, to);
    return !to->full && to->size > 0;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    state = seed * 0x9e3779b97f4a7c15u + 1;
    if (pick(8) == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    out a = {.data = malloc(max_size), .room = max_size}, b = {.data = malloc(max_size), .room = max_size};
    put(&a, data, size);
    bool changed = false;
    for (uint32_t left = 1 + pick(4); left > 0 && change_once(&a, &b); left--) {
        out swap = a;
        a = b;
        b = swap;
        changed = true;
    }
    if (changed)
        memcpy(data, a.data, size = a.size);
    else
        size = LLVMFuzzerMutate(data, size, max_size);
    free(a.data);
    free(b.data);
    return size;
}
