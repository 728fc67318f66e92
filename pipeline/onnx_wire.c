#include "pipeline/onnx_wire.h"

#include <string.h>

#include "pipeline/utf8.h"

uint16_t pg_wire_u16(const uint8_t *data) {
    return (uint16_t)(data[0] | data[1] << 8);
}

uint32_t pg_wire_u32(const uint8_t *data) {
    return (uint32_t)data[0] | (uint32_t)data[1] << 8 | (uint32_t)data[2] << 16 |
           (uint32_t)data[3] << 24;
}

uint64_t pg_wire_u64(const uint8_t *data) {
    return (uint64_t)pg_wire_u32(data) | (uint64_t)pg_wire_u32(data + 4) << 32;
}

float pg_wire_f32(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double pg_wire_f64(uint64_t bits) {
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

bool pg_onnx_name_ok(pg_span name) {
    return name.size <= PG_ONNX_MAX_NAME && pg_utf8_printable(name.data, name.size);
}

pg_wire pg_wire_open(pg_span message) {
    return (pg_wire){message.data, message.size == 0 ? message.data : message.data + message.size,
                     false};
}

static bool malformed(pg_wire *wire) {
    wire->malformed = true;
    wire->at = wire->end;
    return false;
}

/* At most ten bytes; bits beyond the 64th must be zero, or two files could mean the same value. */
bool pg_wire_varint(pg_wire *wire, uint64_t *value) {
    uint64_t result = 0;
    if (wire->at == wire->end)
        return false;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (wire->at == wire->end)
            return malformed(wire);
        uint8_t byte = *wire->at++;
        if (shift == 63 && byte > 1)
            return malformed(wire);
        result |= (uint64_t)(byte & 0x7f) << shift;
        if (byte < 0x80) {
            *value = result;
            return true;
        }
    }
    return malformed(wire);
}

static bool take_fixed(pg_wire *wire, size_t size, uint64_t *value) {
    if ((size_t)(wire->end - wire->at) < size)
        return malformed(wire);
    *value = size == 4 ? pg_wire_u32(wire->at) : pg_wire_u64(wire->at);
    wire->at += size;
    return true;
}

static bool take_bytes(pg_wire *wire, pg_span *bytes) {
    uint64_t size;
    if (!pg_wire_varint(wire, &size) || size > (uint64_t)(wire->end - wire->at))
        return malformed(wire);
    *bytes = (pg_span){wire->at, (size_t)size};
    wire->at += size;
    return true;
}

bool pg_wire_next(pg_wire *wire, pg_wire_field *field) {
    uint64_t key;
    if (!pg_wire_varint(wire, &key))
        return false;
    *field = (pg_wire_field){.number = (uint32_t)(key >> 3), .type = (pg_wire_type)(key & 7)};
    if (key > UINT32_MAX || field->number == 0)
        return malformed(wire);
    switch (field->type) {
    case PG_WIRE_VARINT:
        return pg_wire_varint(wire, &field->value) || malformed(wire);
    case PG_WIRE_FIXED64:
        return take_fixed(wire, 8, &field->value);
    case PG_WIRE_FIXED32:
        return take_fixed(wire, 4, &field->value);
    case PG_WIRE_BYTES:
        return take_bytes(wire, &field->bytes);
    }
    return malformed(wire);
}

static size_t fixed_size(pg_wire_type plain) {
    return plain == PG_WIRE_FIXED32 ? 4 : 8;
}

int64_t pg_wire_count(const pg_wire_field *field, pg_wire_type plain) {
    if (field->type == plain)
        return 1;
    if (field->type != PG_WIRE_BYTES)
        return -1;
    if (plain != PG_WIRE_VARINT) {
        size_t size = fixed_size(plain);
        return field->bytes.size % size == 0 ? (int64_t)(field->bytes.size / size) : -1;
    }
    pg_wire packed = pg_wire_open(field->bytes);
    int64_t count = 0;
    uint64_t ignored;
    while (pg_wire_varint(&packed, &ignored))
        count++;
    return packed.malformed ? -1 : count;
}

void pg_wire_numbers(const pg_wire_field *field, pg_wire_type plain, uint64_t *out) {
    if (field->type == plain) {
        *out = field->value;
        return;
    }
    pg_wire packed = pg_wire_open(field->bytes);
    if (plain == PG_WIRE_VARINT)
        while (pg_wire_varint(&packed, out))
            out++;
    else
        while (packed.at != packed.end && take_fixed(&packed, fixed_size(plain), out))
            out++;
}
