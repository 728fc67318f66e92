/* A tensor may keep its elements in raw_data (little-endian, at any alignment), in another file in
 * the same form, or in one of five typed lists, packed or not; half and bfloat16 values travel as
 * 16-bit patterns inside int32_data. Two 4-bit elements share a byte or a list entry, low bits
 * first. Whatever the form, the number of elements has to equal the product of the dimensions before any
 * memory is taken, so a file can never make us allocate more than a small multiple of its size.
 */
#include "pipeline/onnx_tensor.h"

#include <string.h>

enum { FIELD_DIMS = 1, FIELD_TYPE = 2, FIELD_SEGMENT = 3, FIELD_FLOATS = 4, FIELD_INT32S = 5,
       FIELD_INT64S = 7, FIELD_NAME = 8, FIELD_RAW = 9, FIELD_DOUBLES = 10, FIELD_UINT64S = 11,
       FIELD_EXTERNAL = 13, FIELD_LOCATION = 14 };

typedef struct tensor {
    pg_span message, name, raw;
    pg_onnx_location location;
    bool has_raw, external, segmented;
    int64_t type;
    pg_shape shape;
    int64_t listed; /* entries of the typed list that belongs to `type` */
} tensor;

static float half_to_float(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = (h >> 10) & 31, fraction = h & 0x3ff;
    if (exponent == 31)
        return pg_wire_f32(sign | 0x7f800000 | fraction << 13);
    if (exponent != 0)
        return pg_wire_f32(sign | (exponent + 112) << 23 | fraction << 13);
    float tiny = (float)fraction * 0x1p-24f;
    return sign ? -tiny : tiny;
}

static bool is_half_byte(int64_t type) { return type == PG_ELEM_UINT4 || type == PG_ELEM_INT4; }

/* Bytes of one entry of raw_data (an element, or two of 4 bits); 0: a type nothing here takes. */
static size_t raw_size(int64_t type) {
    switch (type) {
    case PG_ELEM_UINT8: case PG_ELEM_INT8: case PG_ELEM_BOOL: case PG_ELEM_UINT4: case PG_ELEM_INT4:
        return 1;
    case PG_ELEM_UINT16: case PG_ELEM_INT16: case PG_ELEM_FLOAT16: case PG_ELEM_BFLOAT16:
        return 2;
    case PG_ELEM_FLOAT: case PG_ELEM_INT32: case PG_ELEM_UINT32:
        return 4;
    case PG_ELEM_INT64: case PG_ELEM_DOUBLE: case PG_ELEM_UINT64:
        return 8;
    default:
        return 0;
    }
}

static uint32_t list_field(int64_t type) {
    switch (type) {
    case PG_ELEM_FLOAT:
        return FIELD_FLOATS;
    case PG_ELEM_INT64:
        return FIELD_INT64S;
    case PG_ELEM_DOUBLE:
        return FIELD_DOUBLES;
    case PG_ELEM_UINT32: case PG_ELEM_UINT64:
        return FIELD_UINT64S;
    default:
        return FIELD_INT32S;
    }
}

static pg_wire_type list_wire(uint32_t field) {
    return field == FIELD_FLOATS    ? PG_WIRE_FIXED32
           : field == FIELD_DOUBLES ? PG_WIRE_FIXED64
                                    : PG_WIRE_VARINT;
}

static bool is_float(int64_t type) {
    return type == PG_ELEM_FLOAT || type == PG_ELEM_FLOAT16 || type == PG_ELEM_BFLOAT16 ||
           type == PG_ELEM_DOUBLE;
}

/* One element, given as the bits of its raw form or of its list entry (sign-extended varints). */
static float to_float(int64_t type, uint64_t bits) {
    switch (type) {
    case PG_ELEM_FLOAT16:
        return half_to_float((uint16_t)bits);
    case PG_ELEM_BFLOAT16:
        return pg_wire_f32((uint32_t)(uint16_t)bits << 16);
    case PG_ELEM_DOUBLE:
        return (float)pg_wire_f64(bits);
    default:
        return pg_wire_f32((uint32_t)bits);
    }
}

static int64_t to_int(int64_t type, uint64_t bits) {
    switch (type) {
    case PG_ELEM_BOOL:
        return (uint8_t)bits != 0;
    case PG_ELEM_UINT8:
        return (uint8_t)bits;
    case PG_ELEM_INT8:
        return (int8_t)(uint8_t)bits;
    case PG_ELEM_UINT16:
        return (uint16_t)bits;
    case PG_ELEM_INT16:
        return (int16_t)(uint16_t)bits;
    case PG_ELEM_INT32:
        return (int32_t)(uint32_t)bits;
    case PG_ELEM_UINT32:
        return (uint32_t)bits;
    case PG_ELEM_UINT4:
        return (int64_t)(bits & 15);
    case PG_ELEM_INT4:
        return (int64_t)((bits & 15) ^ 8) - 8;
    default:
        return (int64_t)bits;
    }
}

static bool add_dims(tensor *t, const pg_wire_field *field) {
    int64_t count = pg_wire_count(field, PG_WIRE_VARINT);
    if (count < 0 || t->shape.rank + count > PG_MAX_RANK)
        return false;
    uint64_t dims[PG_MAX_RANK];
    pg_wire_numbers(field, PG_WIRE_VARINT, dims);
    for (int64_t i = 0; i < count; i++)
        t->shape.dims[t->shape.rank++] = (int64_t)dims[i];
    return true;
}

/* One StringStringEntryProto of external_data; unknown keys (a checksum) are left alone. */
static bool add_location(tensor *t, pg_span message) {
    pg_wire wire = pg_wire_open(message);
    pg_wire_field f;
    pg_span key = {0}, value = {0};
    while (pg_wire_next(&wire, &f))
        if (f.type == PG_WIRE_BYTES && f.number <= 2)
            *(f.number == 1 ? &key : &value) = f.bytes;
    if (key.size == 8 && memcmp(key.data, "location", 8) == 0)
        t->location.path = value;
    else if (key.size == 6 && memcmp(key.data, "offset", 6) == 0)
        t->location.offset = value;
    else if (key.size == 6 && memcmp(key.data, "length", 6) == 0)
        t->location.length = value;
    return !wire.malformed;
}

/* First pass: everything but the typed lists, whose meaning depends on the type. */
static pg_err read_header(tensor *t, pg_diag *diag) {
    pg_wire wire = pg_wire_open(t->message);
    pg_wire_field f;
    bool dims_ok = true, location_ok = true;
    while (pg_wire_next(&wire, &f)) {
        bool bytes = f.type == PG_WIRE_BYTES, varint = f.type == PG_WIRE_VARINT;
        if (f.number == FIELD_NAME && bytes)
            t->name = f.bytes;
        else if (f.number == FIELD_DIMS)
            dims_ok = dims_ok && add_dims(t, &f);
        else if (f.number == FIELD_TYPE && varint)
            t->type = (int64_t)f.value;
        else if (f.number == FIELD_RAW && bytes)
            t->raw = f.bytes, t->has_raw = true;
        else if (f.number == FIELD_SEGMENT)
            t->segmented = true;
        else if (f.number == FIELD_EXTERNAL && bytes)
            location_ok = location_ok && add_location(t, f.bytes);
        else if (f.number == FIELD_LOCATION && varint)
            t->external = f.value != 0;
    }
    if (wire.malformed || !location_ok || !pg_onnx_name_ok(t->name))
        return pg_fail(diag, PG_EMODEL, "a tensor or its name is damaged");
    if (!dims_ok)
        return pg_fail(diag, PG_EMODEL, "tensor '%.*s' has more than %d dimensions",
                       (int)t->name.size, (const char *)t->name.data, PG_MAX_RANK);
    return PG_OK;
}

static pg_err count_listed(tensor *t, pg_diag *diag) {
    pg_wire wire = pg_wire_open(t->message);
    pg_wire_field f;
    uint32_t wanted = list_field(t->type);
    while (pg_wire_next(&wire, &f)) {
        if (f.number != wanted)
            continue;
        int64_t count = pg_wire_count(&f, list_wire(wanted));
        if (count < 0)
            return pg_fail(diag, PG_EMODEL, "has a damaged list of elements");
        t->listed += count;
    }
    return PG_OK;
}

static pg_err tensor_fail(const tensor *t, pg_diag *diag) {
    return pg_fail_in(diag, PG_EMODEL, "tensor '%.*s'", (int)t->name.size,
                      (const char *)t->name.data);
}

/* The bytes of raw_data where they are: in this file or another. */
static pg_err find_raw(tensor *t, pg_onnx_external *external, pg_diag *diag) {
    if (!t->external)
        return PG_OK;
    t->has_raw = true;
    if (external == NULL)
        return pg_fail(diag, PG_EMODEL, "keeps its data in another file, which cannot be here");
    return pg_onnx_external_read(external, &t->location, &t->raw, diag);
}

static pg_err check(tensor *t, pg_onnx_external *external, int64_t *count, pg_diag *diag) {
    char text[PG_SHAPE_TEXT];
    if (t->segmented)
        return pg_fail(diag, PG_EMODEL, "is segmented, which is not supported");
    if (raw_size(t->type) == 0)
        return pg_fail(diag, PG_EMODEL, "has element type %lld, which is not supported",
                       (long long)t->type);
    *count = pg_shape_count(&t->shape);
    if (*count < 0)
        return pg_fail(diag, PG_EMODEL, "has impossible dimensions %s",
                       pg_shape_text(&t->shape, text));
    pg_err err = find_raw(t, external, diag);
    if (err == PG_OK && !t->has_raw)
        err = count_listed(t, diag);
    if (err != PG_OK)
        return err;
    int64_t entries = is_half_byte(t->type) ? (*count + 1) / 2 : *count;
    if (t->has_raw ? (uint64_t)entries * raw_size(t->type) != t->raw.size : entries != t->listed)
        return pg_fail(diag, PG_EMODEL, "says %s but holds %llu %s", pg_shape_text(&t->shape, text),
                       (unsigned long long)(t->has_raw ? t->raw.size : (uint64_t)t->listed),
                       t->has_raw ? "bytes" : "elements");
    return PG_OK;
}

/* Entry `at` of raw_data or of the list. */
static void store(const tensor *t, int64_t count, int64_t at, uint64_t bits, void *out) {
    int64_t *ints = out;
    if (is_float(t->type)) {
        ((float *)out)[at] = to_float(t->type, bits);
    } else if (is_half_byte(t->type)) {
        ints[2 * at] = to_int(t->type, bits);
        if (2 * at + 1 < count)
            ints[2 * at + 1] = to_int(t->type, bits >> 4);
    } else {
        ints[at] = to_int(t->type, bits);
    }
}

static void convert_raw(const tensor *t, int64_t count, void *out) {
    const uint8_t *p = t->raw.data;
    size_t size = raw_size(t->type);
    if (t->type == PG_ELEM_FLOAT || t->type == PG_ELEM_INT64) { /* already what we keep */
        if (count > 0)
            memcpy(out, p, t->raw.size);
        return;
    }
    int64_t entries = (int64_t)(t->raw.size / size);
    for (int64_t i = 0; i < entries; i++, p += size)
        store(t, count, i,
              size == 1   ? *p
              : size == 2 ? pg_wire_u16(p)
              : size == 4 ? pg_wire_u32(p)
                          : pg_wire_u64(p),
              out);
}

static void convert_list(const tensor *t, int64_t count, void *out) {
    uint32_t wanted = list_field(t->type);
    pg_wire_type plain = list_wire(wanted);
    pg_wire wire = pg_wire_open(t->message);
    pg_wire_field f;
    int64_t at = 0;
    while (pg_wire_next(&wire, &f)) {
        if (f.number != wanted)
            continue;
        if (f.type == plain) {
            store(t, count, at++, f.value, out);
            continue;
        }
        pg_wire packed = pg_wire_open(f.bytes);
        uint64_t bits;
        if (plain == PG_WIRE_VARINT)
            while (pg_wire_varint(&packed, &bits))
                store(t, count, at++, bits, out);
        else
            for (size_t step = plain == PG_WIRE_FIXED32 ? 4 : 8; packed.at != packed.end;
                 packed.at += step)
                store(t, count, at++, step == 4 ? pg_wire_u32(packed.at) : pg_wire_u64(packed.at),
                      out);
    }
}

/* Where the value lies as we keep it: in place, if it can be used as it is. */
static pg_err find_value(const tensor *t, int64_t count, pg_pool *pool, pg_const *out,
                         pg_diag *diag) {
    bool in_place = t->has_raw && ((t->type == PG_ELEM_FLOAT && (uintptr_t)t->raw.data % 4 == 0) ||
                                   (t->type == PG_ELEM_INT64 && (uintptr_t)t->raw.data % 8 == 0));
    if (in_place && count > 0) {
        out->data = t->raw.data;
        return PG_OK;
    }
    void *data = pg_pool_array(pool, (size_t)count, out->dtype == PG_F32 ? 4 : 8);
    if (data == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for tensor '%.*s'", (int)t->name.size,
                       (const char *)t->name.data);
    if (t->has_raw)
        convert_raw(t, count, data);
    else
        convert_list(t, count, data);
    out->data = data;
    return PG_OK;
}

static bool has_nan(const float *values, int64_t count) {
    int found = 0;
    for (int64_t i = 0; i < count; i++)
        found |= values[i] != values[i];
    return found != 0;
}

pg_err pg_onnx_read_tensor(pg_span message, pg_pool *pool, pg_onnx_external *external,
                           pg_span *name, pg_const *out, pg_diag *diag) {
    tensor t = {.message = message};
    int64_t count = 0;
    pg_err err = read_header(&t, diag);
    if (err != PG_OK)
        return err;
    err = check(&t, external, &count, diag);
    if (err != PG_OK)
        return err == PG_EMODEL ? tensor_fail(&t, diag) : err;
    *name = t.name;
    *out = (pg_const){.dtype = is_float(t.type) ? PG_F32 : PG_I64,
                      .elem = (pg_elem_type)t.type,
                      .shape = t.shape};
    err = find_value(&t, count, pool, out, diag);
    if (err == PG_OK && out->dtype == PG_F32 && has_nan(out->f, count)) {
        pg_fail(diag, PG_EMODEL, "holds a NaN");
        return tensor_fail(&t, diag);
    }
    return err;
}
