/* Every character there is, and what only looks like one. */
#include <criterion/criterion.h>

#include "pipeline/utf8.h"

/* `code` in n bytes, whether it needs them or not. */
static void encode(uint32_t code, size_t n, uint8_t out[4]) {
    static const uint8_t lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    for (size_t i = n; i-- > 1; code >>= 6)
        out[i] = (uint8_t)(0x80 | (code & 0x3f));
    out[0] = (uint8_t)(lead[n] | code);
}

static size_t needed(uint32_t code) {
    return code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
}

Test(utf8, every_character) {
    static const uint32_t beyond[5] = {0, 0x80, 0x800, 0x10000, 0x200000};
    for (size_t n = 1; n <= 4; n++)
        for (uint32_t code = 0; code < beyond[n]; code++) {
            uint8_t text[4];
            uint32_t got = 0;
            encode(code, n, text);
            bool good = n == needed(code) && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff);
            cr_assert_eq(pg_utf8_step(text, n, &got), good ? n : 0, "U+%04X in %zu bytes", code, n);
            cr_assert(!good || got == code);
            cr_assert_eq(pg_utf8_step(text, n - 1 + (n == 1), NULL), n == 1 ? 1 : 0, "cut off");
        }
}

Test(utf8, bytes_that_begin_or_go_on_nothing) {
    for (unsigned b = 0x80; b < 0x100; b++) {
        uint8_t text[4] = {(uint8_t)b, 'a', 'a', 'a'};
        cr_assert_eq(pg_utf8_step(text, 4, NULL), 0);
    }
}

Test(utf8, texts) {
    static const struct {
        const char *text;
        bool ok, printable;
    } rows[] = {{"", true, true},           {"caf\xc3\xa9", true, true}, {"a\tb", true, false},
                {"a\x7f", true, false},     {"\xc2\x9f", true, false},   {"\xc2\xa0", true, true},
                {"caf\xe9", false, false},  {"caf\xc3", false, false},   {"\xf0\x9f\x98\x80", true, true},
                {"\xed\xa0\x80", false, false}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const uint8_t *text = (const uint8_t *)rows[i].text;
        cr_assert_eq(pg_utf8_ok(text, strlen(rows[i].text)), rows[i].ok, "row %zu", i);
        cr_assert_eq(pg_utf8_printable(text, strlen(rows[i].text)), rows[i].printable, "row %zu", i);
    }
}
