/* Every element type in each of its three forms: raw_data, a packed list, a list of single fields.
 * The bytes are written here from the description in onnx.proto, not by the code under test. */
#include <criterion/criterion.h>
#include <string.h>

#include "pipeline/onnx_proto.h"

typedef struct bytes {
    uint8_t data[256];
    size_t size;
} bytes;

static void put(bytes *b, const void *data, size_t size) {
    memcpy(b->data + b->size, data, size);
    b->size += size;
}

static void put_varint(bytes *b, uint64_t value) {
    for (; value > 127; value >>= 7)
        put(b, &(uint8_t){(uint8_t)(value | 128)}, 1);
    put(b, &(uint8_t){(uint8_t)value}, 1);
}

static void put_bytes(bytes *b, unsigned field, const void *data, size_t size) {
    put_varint(b, field << 3 | 2);
    put_varint(b, size);
    put(b, data, size);
}

enum { RAW, PACKED, SINGLE };

/* Two elements of each type. `entries` are the bits of raw_data's entries, of `size` bytes each; in
 * a list, signed types are sign-extended. `wire` is the list's wire type. */
static const struct row {
    const char *name;
    int type;
    size_t size;
    int n_entries;
    uint64_t entries[2];
    unsigned list;
    pg_wire_type wire;
    bool is_signed, is_float;
    double values[2];
} rows[] = {
    {"float", 1, 4, 2, {0x3fc00000, 0xc0000000}, 4, PG_WIRE_FIXED32, false, true, {1.5, -2}},
    {"uint8", 2, 1, 2, {200, 1}, 5, PG_WIRE_VARINT, false, false, {200, 1}},
    {"int8", 3, 1, 2, {0x80, 5}, 5, PG_WIRE_VARINT, true, false, {-128, 5}},
    {"uint16", 4, 2, 2, {60000, 1}, 5, PG_WIRE_VARINT, false, false, {60000, 1}},
    {"int16", 5, 2, 2, {0x8000, 7}, 5, PG_WIRE_VARINT, true, false, {-32768, 7}},
    {"int32", 6, 4, 2, {0xffffffff, 7}, 5, PG_WIRE_VARINT, true, false, {-1, 7}},
    {"int64", 7, 8, 2, {UINT64_MAX, 7}, 7, PG_WIRE_VARINT, true, false, {-1, 7}},
    {"bool", 9, 1, 2, {1, 0}, 5, PG_WIRE_VARINT, false, false, {1, 0}},
    {"float16", 10, 2, 2, {0x3e00, 0xc000}, 5, PG_WIRE_VARINT, false, true, {1.5, -2}},
    {"double", 11, 8, 2, {0x3ff8000000000000, 0xc000000000000000}, 10, PG_WIRE_FIXED64, false, true,
     {1.5, -2}},
    {"uint32", 12, 4, 2, {4000000000, 1}, 11, PG_WIRE_VARINT, false, false, {4e9, 1}},
    {"uint64", 13, 8, 2, {5000000000, 1}, 11, PG_WIRE_VARINT, false, false, {5e9, 1}},
    {"bfloat16", 16, 2, 2, {0x3fc0, 0xc000}, 5, PG_WIRE_VARINT, false, true, {1.5, -2}},
    {"uint4", 21, 1, 1, {0x2f}, 5, PG_WIRE_VARINT, false, false, {15, 2}},
    {"int4", 22, 1, 1, {0x2f}, 5, PG_WIRE_VARINT, false, false, {-1, 2}},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static uint64_t extended(const struct row *row, uint64_t bits) {
    unsigned unused = 64 - 8 * (unsigned)row->size;
    return row->is_signed ? (uint64_t)((int64_t)(bits << unused) >> unused) : bits;
}

static void put_entry(bytes *b, const struct row *row, uint64_t bits) {
    if (row->wire == PG_WIRE_VARINT)
        put_varint(b, extended(row, bits));
    else
        put(b, &bits, row->size);
}

static bytes encode(const struct row *row, int form) {
    bytes b = {.size = 0}, list = {.size = 0};
    put(&b, (uint8_t[]){0x08, 2, 0x10, (uint8_t)row->type}, 4); /* dims [2], data_type */
    for (int i = 0; i < row->n_entries; i++) {
        if (form == RAW) {
            put(&list, &row->entries[i], row->size);
        } else if (form == PACKED) {
            put_entry(&list, row, row->entries[i]);
        } else {
            put_varint(&b, row->list << 3 | row->wire);
            put_entry(&b, row, row->entries[i]);
        }
    }
    if (form != SINGLE)
        put_bytes(&b, form == RAW ? 9 : row->list, list.data, list.size);
    return b;
}

static pg_err read_tensor(const bytes *b, pg_pool *pool, pg_const *out, pg_diag *diag) {
    pg_span name;
    return pg_onnx_read_tensor((pg_span){b->data, b->size}, pool, NULL, &name, out, diag);
}

Test(onnx_tensor, every_type_in_every_form) {
    pg_pool pool = {0};
    for (int r = 0; r < N_ROWS; r++)
        for (int form = RAW; form <= SINGLE; form++) {
            bytes b = encode(&rows[r], form);
            pg_const c;
            pg_diag diag = {{0}};
            cr_assert_eq(read_tensor(&b, &pool, &c, &diag), PG_OK, "%s, form %d: %s", rows[r].name,
                         form, diag.text);
            cr_assert_eq(c.dtype, rows[r].is_float ? PG_F32 : PG_I64);
            for (int i = 0; i < 2; i++) {
                double value = rows[r].is_float ? (double)c.f[i] : (double)c.i[i];
                cr_assert_eq(value, rows[r].values[i], "%s, form %d: %g", rows[r].name, form,
                             value);
            }
        }
    pg_pool_clear(&pool);
}

/* One entry too few, in every form: 4-bit types come in pairs. */
Test(onnx_tensor, too_few_elements_of_every_type) {
    pg_pool pool = {0};
    for (int r = 0; r < N_ROWS; r++)
        for (int form = RAW; form <= SINGLE; form++) {
            struct row row = rows[r];
            row.n_entries--;
            bytes b = encode(&row, form);
            pg_const c;
            pg_diag diag = {{0}};
            cr_assert_eq(read_tensor(&b, &pool, &c, &diag), PG_EMODEL, "%s, form %d", row.name,
                         form);
            cr_assert(strstr(diag.text, "says [2] but holds"), "%s: %s", row.name, diag.text);
        }
    pg_pool_clear(&pool);
}

/* An odd number of 4-bit elements: the high half of the last byte is nobody's. */
Test(onnx_tensor, odd_number_of_halves) {
    pg_pool pool = {0};
    pg_const c;
    pg_diag diag = {{0}};
    bytes b = {{0x08, 3, 0x10, 22, 0x4a, 2, 0x91, 0xf7}, 8};
    cr_assert_eq(read_tensor(&b, &pool, &c, &diag), PG_OK, "%s", diag.text);
    cr_assert(c.i[0] == 1 && c.i[1] == -7 && c.i[2] == 7);
    pg_pool_clear(&pool);
}

/* Not a number in each float type is refused, infinity is not. */
Test(onnx_tensor, nan_is_refused_infinity_is_not) {
    static const struct { int type; uint64_t nan, infinity; } specials[] = {
        {1, 0x7fc00000, 0xff800000}, {10, 0x7e01, 0xfc00}, {16, 0x7fc1, 0xff80},
        {11, 0x7ff8000000000001, 0xfff0000000000000}};
    pg_pool pool = {0};
    for (int r = 0; r < N_ROWS; r++)
        for (int k = 0; k < 4; k++) {
            if (rows[r].type != specials[k].type)
                continue;
            struct row row = rows[r];
            pg_const c;
            pg_diag diag = {{0}};
            row.entries[1] = specials[k].nan;
            bytes b = encode(&row, RAW);
            cr_assert_eq(read_tensor(&b, &pool, &c, &diag), PG_EMODEL);
            cr_assert(strstr(diag.text, "holds a NaN"));
            row.entries[1] = specials[k].infinity;
            b = encode(&row, RAW);
            cr_assert_eq(read_tensor(&b, &pool, &c, &diag), PG_OK);
            cr_assert(c.f[1] < -1e38f);
        }
    pg_pool_clear(&pool);
}
