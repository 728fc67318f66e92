#include <criterion/criterion.h>
#include <string.h>

#include "pipeline/onnx_proto.h"
#include "pipeline/onnx_wire.h"

static pg_wire open_bytes(const void *bytes, size_t size) {
    return pg_wire_open((pg_span){bytes, size});
}

Test(onnx_wire, reads_every_wire_type) {
    static const uint8_t bytes[] = {0x08, 0x96, 0x01,                   /* 1: varint 150 */
                                    0x12, 2,    'h',  'i',              /* 2: bytes "hi" */
                                    0x1d, 0,    0,    0x80, 0x3f,       /* 3: fixed32 1.0f */
                                    0x21, 1,    2,    3,    4,    5, 6, 7, 8}; /* 4: fixed64 */
    pg_wire wire = open_bytes(bytes, sizeof bytes);
    pg_wire_field f;
    cr_assert(pg_wire_next(&wire, &f));
    cr_assert(f.number == 1 && f.type == PG_WIRE_VARINT && f.value == 150);
    cr_assert(pg_wire_next(&wire, &f));
    cr_assert(f.number == 2 && f.bytes.size == 2 && memcmp(f.bytes.data, "hi", 2) == 0);
    cr_assert(pg_wire_next(&wire, &f));
    cr_assert(f.number == 3 && pg_wire_f32((uint32_t)f.value) == 1.0f);
    cr_assert(pg_wire_next(&wire, &f));
    cr_assert(f.number == 4 && f.value == 0x0807060504030201u);
    cr_assert(!pg_wire_next(&wire, &f) && !wire.malformed);
}

/* Every prefix of a message either ends between two fields or is malformed. */
Test(onnx_wire, every_truncation_is_noticed) {
    static const uint8_t bytes[] = {0x08, 0x96, 0x01, 0x12, 2, 'h', 'i', 0x1d, 0, 0, 0x80, 0x3f};
    for (size_t size = 0; size <= sizeof bytes; size++) {
        pg_wire wire = open_bytes(bytes, size);
        pg_wire_field f;
        while (pg_wire_next(&wire, &f))
            ;
        bool whole = size == 0 || size == 3 || size == 7 || size == 12;
        cr_assert_eq(wire.malformed, !whole, "at %zu bytes", size);
    }
}

Test(onnx_wire, refuses_groups_field_zero_and_long_varints) {
    static const uint8_t group[] = {0x0b, 0x0c}, zero[] = {0x00, 0x01};
    static const uint8_t endless[] = {0x08, 0x80, 0x80, 0x80, 0x80, 0x80,
                                      0x80, 0x80, 0x80, 0x80, 0x80, 0x01};
    static const uint8_t wide[] = {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2};
    static const uint8_t huge[] = {0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1};
    const struct { const uint8_t *data; size_t size; } cases[] = {
        {group, sizeof group}, {zero, sizeof zero}, {endless, sizeof endless},
        {wide, sizeof wide}, {huge, sizeof huge}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pg_wire wire = open_bytes(cases[i].data, cases[i].size);
        pg_wire_field f;
        cr_assert(!pg_wire_next(&wire, &f) && wire.malformed, "case %zu", i);
    }
}

Test(onnx_wire, packed_and_single_numbers) {
    static const uint8_t packed[] = {0x0a, 3, 0x96, 0x01, 7}, single[] = {0x08, 9};
    uint64_t out[2] = {0};
    pg_wire_field f;
    pg_wire wire = open_bytes(packed, sizeof packed);
    cr_assert(pg_wire_next(&wire, &f));
    cr_assert_eq(pg_wire_count(&f, PG_WIRE_VARINT), 2);
    pg_wire_numbers(&f, PG_WIRE_VARINT, out);
    cr_assert(out[0] == 150 && out[1] == 7);
    cr_assert_eq(pg_wire_count(&f, PG_WIRE_FIXED32), -1, "three bytes are no fixed32");
    wire = open_bytes(single, sizeof single);
    cr_assert(pg_wire_next(&wire, &f));
    cr_assert_eq(pg_wire_count(&f, PG_WIRE_VARINT), 1);
    cr_assert_eq(pg_wire_count(&f, PG_WIRE_FIXED64), -1);
}

static pg_err tensor(const uint8_t *bytes, size_t size, pg_pool *pool, pg_const *out) {
    pg_span name;
    pg_diag diag = {{0}};
    return pg_onnx_read_tensor((pg_span){bytes, size}, pool, NULL, &name, out, &diag);
}

Test(onnx_tensor, raw_and_listed_half_and_bool) {
    pg_pool pool = {0};
    pg_const c;
    /* dims [2], type FLOAT16, raw 1.0 and the smallest subnormal */
    static const uint8_t half[] = {0x08, 2, 0x10, 10, 0x4a, 4, 0x00, 0x3c, 0x01, 0x00};
    cr_assert_eq(tensor(half, sizeof half, &pool, &c), PG_OK);
    cr_assert(c.dtype == PG_F32 && c.f[0] == 1.0f && c.f[1] == 0x1p-24f);
    /* the same, as 16-bit patterns in int32_data, packed; type BFLOAT16 */
    static const uint8_t brain[] = {0x08, 1, 0x10, 16, 0x2a, 3, 0x80, 0xff, 0x00};
    cr_assert_eq(tensor(brain, sizeof brain, &pool, &c), PG_OK);
    cr_assert(c.f[0] == 1.0f); /* 0x3f80 */
    /* a scalar int64 of -1 in int64_data, not packed */
    static const uint8_t minus[] = {0x10, 7,    0x38, 0xff, 0xff, 0xff, 0xff,
                                    0xff, 0xff, 0xff, 0xff, 0xff, 0x01};
    cr_assert_eq(tensor(minus, sizeof minus, &pool, &c), PG_OK);
    cr_assert(c.dtype == PG_I64 && c.shape.rank == 0 && c.i[0] == -1);
    pg_pool_clear(&pool);
}

Test(onnx_tensor, wrong_sizes_are_refused) {
    pg_pool pool = {0};
    pg_const c;
    static const uint8_t few[] = {0x08, 2, 0x10, 1, 0x4a, 4, 0, 0, 0, 0};
    static const uint8_t negative[] = {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                       0xff, 0xff, 0x01, 0x10, 1,    0x4a, 0};
    static const uint8_t overflow[] = {0x0a, 10,   0x80, 0x80, 0x80, 0x80, 0x10, 0x80,
                                       0x80, 0x80, 0x80, 0x10, 0x10, 1,    0x4a, 0};
    static const uint8_t text[] = {0x08, 1, 0x10, 8, 0x4a, 0};
    static const uint8_t external[] = {0x08, 1, 0x10, 1, 0x70, 1};
    cr_assert_eq(tensor(few, sizeof few, &pool, &c), PG_EMODEL);
    cr_assert_eq(tensor(negative, sizeof negative, &pool, &c), PG_EMODEL);
    cr_assert_eq(tensor(overflow, sizeof overflow, &pool, &c), PG_EMODEL);
    cr_assert_eq(tensor(text, sizeof text, &pool, &c), PG_EMODEL);
    cr_assert_eq(tensor(external, sizeof external, &pool, &c), PG_EMODEL);
    pg_pool_clear(&pool);
}

Test(onnx_names, control_characters_and_bad_utf8_are_no_names) {
    const struct { const char *text; bool ok; } cases[] = {
        {"layer1/conv", true}, {"caf\xc3\xa9", true}, {"a\nb", false}, {"\x1b[31m", false},
        {"\xc3", false},       {"\xc0\xaf", false},   {"\xed\xa0\x80", false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_assert_eq(pg_onnx_name_ok((pg_span){(const uint8_t *)cases[i].text,
                                               strlen(cases[i].text)}),
                     cases[i].ok, "case %zu", i);
}
