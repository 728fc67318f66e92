#include "pipeline/utf8.h"

size_t pg_utf8_step(const uint8_t *text, size_t left, uint32_t *code) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t b = text[0];
    uint32_t c = b;
    size_t n = b < 0x80 ? 1 : b < 0xc2 ? 0 : b < 0xe0 ? 2 : b < 0xf0 ? 3 : b < 0xf5 ? 4 : 0;
    if (n == 0 || n > left)
        return 0;
    if (n > 1)
        c &= 0xffu >> (n + 1);
    for (size_t i = 1; i < n; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (text[i] & 0x3fu);
    }
    if (c < smallest[n] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
        return 0;
    if (code)
        *code = c;
    return n;
}

static bool all(const uint8_t *text, size_t size, bool printable) {
    uint32_t c;
    for (size_t at = 0, step; at < size; at += step) {
        step = pg_utf8_step(text + at, size - at, &c);
        if (step == 0 || (printable && (c < 0x20 || (c >= 0x7f && c < 0xa0))))
            return false;
    }
    return true;
}

bool pg_utf8_ok(const uint8_t *text, size_t size) { return all(text, size, false); }
bool pg_utf8_printable(const uint8_t *text, size_t size) { return all(text, size, true); }
