/* TensorProto -> pg_const.
 *
 * A tensor may keep its elements in raw_data (little-endian, at any alignment) or in one of five
 * typed lists, packed or not; half and bfloat16 values travel as 16-bit patterns inside int32_data.
 * Whatever the form, the number of elements has to equal the product of the dimensions before any
 * memory is taken, so a file can never make us allocate more than a small multiple of its size.
 */
#include <string.h>

#include "pipeline/onnx_proto.h"

enum { FIELD_DIMS = 1, FIELD_TYPE = 2, FIELD_SEGMENT = 3, FIELD_FLOATS = 4, FIELD_INT32S = 5,
       FIELD_INT64S = 7, FIELD_NAME = 8, FIELD_RAW = 9, FIELD_DOUBLES = 10, FIELD_UINT64S = 11,
       FIELD_EXTERNAL = 13, FIELD_LOCATION = 14 };

typedef struct tensor {
    pg_span message, name, raw;
    bool has_raw, external, segmented;
    int64_t type;
    pg_shape shape;
    int64_t listed; /* elements in the typed list that belongs to `type` */
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

/* Size of one element in raw_data; 0: a type no operator here takes. */
static size_t raw_size(int64_t type) {
    switch (type) {
    case PG_ELEM_UINT8: case PG_ELEM_INT8: case PG_ELEM_BOOL:
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

/* First pass: everything but the typed lists, whose meaning depends on the type. */
static pg_err read_header(tensor *t, pg_diag *diag) {
    pg_wire wire = pg_wire_open(t->message);
    pg_wire_field f;
    bool dims_ok = true;
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
        else if (f.number == FIELD_EXTERNAL || (f.number == FIELD_LOCATION && f.value != 0))
            t->external = true;
    }
    if (wire.malformed || !pg_onnx_name_ok(t->name))
        return pg_fail(diag, PG_EMODEL, "a tensor's bytes are damaged");
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
            return pg_fail(diag, PG_EMODEL, "tensor '%.*s': its list of elements is damaged",
                           (int)t->name.size, (const char *)t->name.data);
        t->listed += count;
    }
    return PG_OK;
}

static pg_err check(tensor *t, int64_t *count, pg_diag *diag) {
    int size = (int)t->name.size;
    const char *name = (const char *)t->name.data;
    char text[PG_SHAPE_TEXT];
    if (t->external)
        return pg_fail(diag, PG_EMODEL,
                       "tensor '%.*s' keeps its data in another file; save the model as one file",
                       size, name);
    if (t->segmented)
        return pg_fail(diag, PG_EMODEL, "tensor '%.*s' is segmented, which is not supported", size,
                       name);
    if (raw_size(t->type) == 0)
        return pg_fail(diag, PG_EMODEL,
                       "tensor '%.*s' has element type %lld, which is not supported", size, name,
                       (long long)t->type);
    *count = pg_shape_count(&t->shape);
    if (*count < 0)
        return pg_fail(diag, PG_EMODEL, "tensor '%.*s' has impossible dimensions %s", size, name,
                       pg_shape_text(&t->shape, text));
    pg_err err = t->has_raw ? PG_OK : count_listed(t, diag);
    if (err != PG_OK)
        return err;
    if (t->has_raw ? (uint64_t)*count * raw_size(t->type) != t->raw.size : *count != t->listed)
        return pg_fail(diag, PG_EMODEL, "tensor '%.*s' says %s but holds %llu %s", size, name,
                       pg_shape_text(&t->shape, text),
                       (unsigned long long)(t->has_raw ? t->raw.size : (uint64_t)t->listed),
                       t->has_raw ? "bytes" : "elements");
    return PG_OK;
}

static void store(const tensor *t, int64_t at, uint64_t bits, void *out) {
    if (is_float(t->type))
        ((float *)out)[at] = to_float(t->type, bits);
    else
        ((int64_t *)out)[at] = to_int(t->type, bits);
}

static void convert_raw(const tensor *t, int64_t count, void *out) {
    const uint8_t *p = t->raw.data;
    size_t size = raw_size(t->type);
    if (t->type == PG_ELEM_FLOAT || t->type == PG_ELEM_INT64) { /* already what we keep */
        if (count > 0)
            memcpy(out, p, t->raw.size);
        return;
    }
    for (int64_t i = 0; i < count; i++, p += size)
        store(t, i,
              size == 1   ? *p
              : size == 2 ? pg_wire_u16(p)
              : size == 4 ? pg_wire_u32(p)
                          : pg_wire_u64(p),
              out);
}

static void convert_list(const tensor *t, void *out) {
    uint32_t wanted = list_field(t->type);
    pg_wire_type plain = list_wire(wanted);
    pg_wire wire = pg_wire_open(t->message);
    pg_wire_field f;
    int64_t at = 0;
    while (pg_wire_next(&wire, &f)) {
        if (f.number != wanted)
            continue;
        if (f.type == plain) {
            store(t, at++, f.value, out);
            continue;
        }
        pg_wire packed = pg_wire_open(f.bytes);
        uint64_t bits;
        if (plain == PG_WIRE_VARINT)
            while (pg_wire_varint(&packed, &bits))
                store(t, at++, bits, out);
        else
            for (size_t step = plain == PG_WIRE_FIXED32 ? 4 : 8; packed.at != packed.end;
                 packed.at += step)
                store(t, at++, step == 4 ? pg_wire_u32(packed.at) : pg_wire_u64(packed.at), out);
    }
}

pg_err pg_onnx_read_tensor(pg_span message, pg_pool *pool, pg_span *name, pg_const *out,
                           pg_diag *diag) {
    tensor t = {.message = message};
    int64_t count = 0;
    pg_err err = read_header(&t, diag);
    if (err == PG_OK)
        err = check(&t, &count, diag);
    if (err != PG_OK)
        return err;
    *name = t.name;
    *out = (pg_const){.dtype = is_float(t.type) ? PG_F32 : PG_I64,
                      .elem = (pg_elem_type)t.type,
                      .shape = t.shape};
    bool in_place = t.has_raw && ((t.type == PG_ELEM_FLOAT && (uintptr_t)t.raw.data % 4 == 0) ||
                                  (t.type == PG_ELEM_INT64 && (uintptr_t)t.raw.data % 8 == 0));
    if (in_place && count > 0) {
        out->data = t.raw.data;
        return PG_OK;
    }
    void *data = pg_pool_array(pool, (size_t)count, out->dtype == PG_F32 ? 4 : 8);
    if (data == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for tensor '%.*s'", (int)t.name.size,
                       (const char *)t.name.data);
    if (t.has_raw)
        convert_raw(&t, count, data);
    else
        convert_list(&t, data);
    out->data = data;
    return PG_OK;
}
