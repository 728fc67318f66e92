/* The wire format of ONNX files (protocol buffers), read in place.
 *
 * A message is a run of fields, each a number, a wire type and a value. The reader hands out one
 * field at a time; length-delimited values point into the caller's bytes. It never allocates, never
 * reads outside the message, and does not recurse: a caller descends by starting a new reader on a
 * field's bytes, so nesting is bounded by what the caller knows, not by what a file says.
 * Groups (deprecated, unused by ONNX) are malformed here.
 */
#ifndef PG_PIPELINE_ONNX_WIRE_H
#define PG_PIPELINE_ONNX_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum pg_wire_type {
    PG_WIRE_VARINT = 0,
    PG_WIRE_FIXED64 = 1,
    PG_WIRE_BYTES = 2,
    PG_WIRE_FIXED32 = 5,
} pg_wire_type;

/* A span of the file. */
typedef struct pg_span {
    const uint8_t *data;
    size_t size;
} pg_span;

typedef struct pg_wire {
    const uint8_t *at, *end;
    bool malformed; /* set once, stays */
} pg_wire;

typedef struct pg_wire_field {
    uint32_t number;
    pg_wire_type type;
    uint64_t value; /* varint and fixed; 0 for bytes */
    pg_span bytes;  /* PG_WIRE_BYTES only */
} pg_wire_field;

enum { PG_ONNX_MAX_NAME = 4096 }; /* bytes */

/* True if the bytes may be a name: printable UTF-8, not too long. */
bool pg_onnx_name_ok(pg_span name);

pg_wire pg_wire_open(pg_span message);

/* Reads the next field. False at the end of the message or where it is malformed; then
 * `wire->malformed` tells which. */
bool pg_wire_next(pg_wire *wire, pg_wire_field *field);

/* Reads one varint of a packed field. False at the end or where malformed. */
bool pg_wire_varint(pg_wire *wire, uint64_t *value);

/* How many numbers a field holds that may be packed or not: 1, or the count of the packed span;
 * -1 if malformed or of another wire type. `plain` is the unpacked wire type of the element
 * (varint, fixed32 or fixed64). */
int64_t pg_wire_count(const pg_wire_field *field, pg_wire_type plain);

/* Writes those numbers, as 64-bit patterns, to out[0..count). The count must be pg_wire_count's. */
void pg_wire_numbers(const pg_wire_field *field, pg_wire_type plain, uint64_t *out);

/* Unaligned little-endian loads. */
uint16_t pg_wire_u16(const uint8_t *data);
uint32_t pg_wire_u32(const uint8_t *data);
uint64_t pg_wire_u64(const uint8_t *data);
float pg_wire_f32(uint32_t bits);
double pg_wire_f64(uint64_t bits);

#endif
