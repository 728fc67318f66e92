/* The pictures below are 6 x 5 pixels, pixel(x, y, c) = (40 x + 17 y + 60 c) mod 256, written by
 * PIL 9.4 (JPEG at quality 50); *_pixels are what PIL decodes. The 16-bit one holds 256 v + 255 -
 * v. */
#include <criterion/criterion.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/decode.h"

static const uint8_t jpeg_rgb[] = {
    255, 216, 255, 224, 0,   16,  74,  70,  73,  70,  0,   1,   1,   0,   0,   1,   0,   1,   0,
    0,   255, 219, 0,   67,  0,   16,  11,  12,  14,  12,  10,  16,  14,  13,  14,  18,  17,  16,
    19,  24,  40,  26,  24,  22,  22,  24,  49,  35,  37,  29,  40,  58,  51,  61,  60,  57,  51,
    56,  55,  64,  72,  92,  78,  64,  68,  87,  69,  55,  56,  80,  109, 81,  87,  95,  98,  103,
    104, 103, 62,  77,  113, 121, 112, 100, 120, 92,  101, 103, 99,  255, 219, 0,   67,  1,   17,
    18,  18,  24,  21,  24,  47,  26,  26,  47,  99,  66,  56,  66,  99,  99,  99,  99,  99,  99,
    99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,
    99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,  99,
    99,  99,  99,  99,  99,  99,  255, 192, 0,   17,  8,   0,   5,   0,   6,   3,   1,   34,  0,
    2,   17,  1,   3,   17,  1,   255, 196, 0,   31,  0,   0,   1,   5,   1,   1,   1,   1,   1,
    1,   0,   0,   0,   0,   0,   0,   0,   0,   1,   2,   3,   4,   5,   6,   7,   8,   9,   10,
    11,  255, 196, 0,   181, 16,  0,   2,   1,   3,   3,   2,   4,   3,   5,   5,   4,   4,   0,
    0,   1,   125, 1,   2,   3,   0,   4,   17,  5,   18,  33,  49,  65,  6,   19,  81,  97,  7,
    34,  113, 20,  50,  129, 145, 161, 8,   35,  66,  177, 193, 21,  82,  209, 240, 36,  51,  98,
    114, 130, 9,   10,  22,  23,  24,  25,  26,  37,  38,  39,  40,  41,  42,  52,  53,  54,  55,
    56,  57,  58,  67,  68,  69,  70,  71,  72,  73,  74,  83,  84,  85,  86,  87,  88,  89,  90,
    99,  100, 101, 102, 103, 104, 105, 106, 115, 116, 117, 118, 119, 120, 121, 122, 131, 132, 133,
    134, 135, 136, 137, 138, 146, 147, 148, 149, 150, 151, 152, 153, 154, 162, 163, 164, 165, 166,
    167, 168, 169, 170, 178, 179, 180, 181, 182, 183, 184, 185, 186, 194, 195, 196, 197, 198, 199,
    200, 201, 202, 210, 211, 212, 213, 214, 215, 216, 217, 218, 225, 226, 227, 228, 229, 230, 231,
    232, 233, 234, 241, 242, 243, 244, 245, 246, 247, 248, 249, 250, 255, 196, 0,   31,  1,   0,
    3,   1,   1,   1,   1,   1,   1,   1,   1,   1,   0,   0,   0,   0,   0,   0,   1,   2,   3,
    4,   5,   6,   7,   8,   9,   10,  11,  255, 196, 0,   181, 17,  0,   2,   1,   2,   4,   4,
    3,   4,   7,   5,   4,   4,   0,   1,   2,   119, 0,   1,   2,   3,   17,  4,   5,   33,  49,
    6,   18,  65,  81,  7,   97,  113, 19,  34,  50,  129, 8,   20,  66,  145, 161, 177, 193, 9,
    35,  51,  82,  240, 21,  98,  114, 209, 10,  22,  36,  52,  225, 37,  241, 23,  24,  25,  26,
    38,  39,  40,  41,  42,  53,  54,  55,  56,  57,  58,  67,  68,  69,  70,  71,  72,  73,  74,
    83,  84,  85,  86,  87,  88,  89,  90,  99,  100, 101, 102, 103, 104, 105, 106, 115, 116, 117,
    118, 119, 120, 121, 122, 130, 131, 132, 133, 134, 135, 136, 137, 138, 146, 147, 148, 149, 150,
    151, 152, 153, 154, 162, 163, 164, 165, 166, 167, 168, 169, 170, 178, 179, 180, 181, 182, 183,
    184, 185, 186, 194, 195, 196, 197, 198, 199, 200, 201, 202, 210, 211, 212, 213, 214, 215, 216,
    217, 218, 226, 227, 228, 229, 230, 231, 232, 233, 234, 242, 243, 244, 245, 246, 247, 248, 249,
    250, 255, 218, 0,   12,  3,   1,   0,   2,   17,  3,   17,  0,   63,  0,   139, 80,  217, 107,
    165, 90,  199, 229, 134, 86,  98,  79,  56,  57,  3,   255, 0,   175, 69,  20,  86,  244, 33,
    25,  169, 74,  91,  221, 254, 108, 152, 227, 43,  80,  132, 99,  77,  217, 91,  178, 238, 127,
    255, 217,
};
static const uint8_t jpeg_cmyk[] = {
    255, 216, 255, 238, 0,   14,  65,  100, 111, 98,  101, 0,   100, 0,   0,   0,   0,   0,   255,
    219, 0,   67,  0,   16,  11,  12,  14,  12,  10,  16,  14,  13,  14,  18,  17,  16,  19,  24,
    40,  26,  24,  22,  22,  24,  49,  35,  37,  29,  40,  58,  51,  61,  60,  57,  51,  56,  55,
    64,  72,  92,  78,  64,  68,  87,  69,  55,  56,  80,  109, 81,  87,  95,  98,  103, 104, 103,
    62,  77,  113, 121, 112, 100, 120, 92,  101, 103, 99,  255, 192, 0,   20,  8,   0,   5,   0,
    6,   4,   67,  17,  0,   77,  17,  0,   89,  17,  0,   75,  17,  0,   255, 196, 0,   31,  0,
    0,   1,   5,   1,   1,   1,   1,   1,   1,   0,   0,   0,   0,   0,   0,   0,   0,   1,   2,
    3,   4,   5,   6,   7,   8,   9,   10,  11,  255, 196, 0,   181, 16,  0,   2,   1,   3,   3,
    2,   4,   3,   5,   5,   4,   4,   0,   0,   1,   125, 1,   2,   3,   0,   4,   17,  5,   18,
    33,  49,  65,  6,   19,  81,  97,  7,   34,  113, 20,  50,  129, 145, 161, 8,   35,  66,  177,
    193, 21,  82,  209, 240, 36,  51,  98,  114, 130, 9,   10,  22,  23,  24,  25,  26,  37,  38,
    39,  40,  41,  42,  52,  53,  54,  55,  56,  57,  58,  67,  68,  69,  70,  71,  72,  73,  74,
    83,  84,  85,  86,  87,  88,  89,  90,  99,  100, 101, 102, 103, 104, 105, 106, 115, 116, 117,
    118, 119, 120, 121, 122, 131, 132, 133, 134, 135, 136, 137, 138, 146, 147, 148, 149, 150, 151,
    152, 153, 154, 162, 163, 164, 165, 166, 167, 168, 169, 170, 178, 179, 180, 181, 182, 183, 184,
    185, 186, 194, 195, 196, 197, 198, 199, 200, 201, 202, 210, 211, 212, 213, 214, 215, 216, 217,
    218, 225, 226, 227, 228, 229, 230, 231, 232, 233, 234, 241, 242, 243, 244, 245, 246, 247, 248,
    249, 250, 255, 218, 0,   14,  4,   67,  0,   77,  0,   89,  0,   75,  0,   0,   63,  0,   109,
    149, 244, 94,  31,  208, 146, 239, 236, 223, 104, 223, 32,  143, 110, 253, 152, 200, 39,  57,
    193, 244, 168, 117, 232, 21,  116, 107, 11,  80,  171, 178, 70,  105, 9,   199, 57,  80,  0,
    255, 0,   208, 207, 233, 81,  234, 74,  183, 58,  195, 91,  16,  193, 45,  97,  84,  3,   118,
    65,  36,  6,   45,  142, 221, 64,  255, 0,   128, 138, 244, 10,  255, 217,
};
static const uint8_t png_rgb[] = {
    137, 80,  78,  71, 13,  10,  26,  10,  0,  0,   0,  13,  73,  72,  68,  82, 0,   0,   0,   6,
    0,   0,   0,   5,  8,   2,   0,   0,   0,  233, 58, 10,  177, 0,   0,   0,  20,  73,  68,  65,
    84,  120, 156, 99, 100, 176, 169, 208, 64, 5,   76, 130, 24,  128, 108, 33, 0,   189, 197, 7,
    222, 165, 168, 9,  142, 0,   0,   0,   0,  73,  69, 78,  68,  174, 66,  96, 130,
};
static const uint8_t png_palette[] = {
    137, 80,  78,  71,  13,  10,  26,  10,  0,   0,   0,   13,  73,  72,  68,  82,  0,
    0,   0,   6,   0,   0,   0,   5,   4,   3,   0,   0,   0,   148, 118, 128, 213, 0,
    0,   0,   24,  80,  76,  84,  69,  178, 238, 42,  143, 203, 71,  110, 170, 230, 82,
    142, 202, 168, 74,  134, 209, 13,  73,  36,  96,  156, 6,   66,  126, 228, 42,  224,
    152, 0,   0,   0,   25,  73,  68,  65,  84,  120, 156, 99,  40,  51,  98,  101, 40,
    83,  100, 101, 72,  86,  0,   225, 80,  6,   35,  134, 112, 0,   33,  97,  3,   51,
    152, 153, 94,  252, 0,   0,   0,   0,   73,  69,  78,  68,  174, 66,  96,  130,
};
static const uint8_t png_rgba[] = {
    137, 80,  78,  71,  13,  10,  26,  10,  0,   0,  0,   13,  73,  72,  68,  82,  0,
    0,   0,   6,   0,   0,   0,   5,   8,   6,   0,  0,   0,   102, 88,  157, 230, 0,
    0,   0,   27,  73,  68,  65,  84,  120, 156, 99, 100, 176, 169, 240, 213, 208, 208,
    96,  64,  199, 76,  130, 130, 130, 12,  216, 48, 21,  37,  0,   115, 17,  8,   43,
    17,  206, 104, 145, 0,   0,   0,   0,   73,  69, 78,  68,  174, 66,  96,  130,
};
static const uint8_t png_rgb16[] = {
    137, 80,  78,  71,  13,  10,  26,  10,  0,   0,   0,   13,  73,  72,  68,  82,  0,   0,   0,
    6,   0,   0,   0,   5,   16,  2,   0,   0,   0,   185, 170, 214, 242, 0,   0,   0,   196, 73,
    68,  65,  84,  120, 218, 1,   185, 0,   70,  255, 0,   0,   255, 60,  195, 120, 135, 40,  215,
    100, 155, 160, 95,  80,  175, 140, 115, 200, 55,  120, 135, 180, 75,  240, 15,  160, 95,  220,
    35,  24,  231, 200, 55,  4,   251, 64,  191, 0,   17,  238, 77,  178, 137, 118, 57,  198, 117,
    138, 177, 78,  97,  158, 157, 98,  217, 38,  137, 118, 197, 58,  1,   254, 177, 78,  237, 18,
    41,  214, 217, 38,  21,  234, 81,  174, 0,   34,  221, 94,  161, 154, 101, 74,  181, 134, 121,
    194, 61,  114, 141, 174, 81,  234, 21,  154, 101, 214, 41,  18,  237, 194, 61,  254, 1,   58,
    197, 234, 21,  38,  217, 98,  157, 0,   51,  204, 111, 144, 171, 84,  91,  164, 151, 104, 211,
    44,  131, 124, 191, 64,  251, 4,   171, 84,  231, 24,  35,  220, 211, 44,  15,  240, 75,  180,
    251, 4,   55,  200, 115, 140, 0,   68,  187, 128, 127, 188, 67,  108, 147, 168, 87,  228, 27,
    148, 107, 208, 47,  12,  243, 188, 67,  248, 7,   52,  203, 228, 27,  32,  223, 92,  163, 12,
    243, 72,  183, 132, 123, 103, 117, 89,  167, 7,   131, 114, 133, 0,   0,   0,   0,   73,  69,
    78,  68,  174, 66,  96,  130,
};
static const uint8_t png_gray[] = {
    137, 80,  78,  71,  13,  10,  26, 10,  0,   0,   0,   13,  73,  72,  68,  82,  0,
    0,   0,   6,   0,   0,   0,   5,  8,   0,   0,   0,   0,   67,  51,  194, 58,  0,
    0,   0,   44,  73,  68,  65,  84, 120, 218, 99,  96,  208, 8,   168, 88,  112, 130,
    65,  208, 50,  177, 115, 227, 77, 6,   37,  175, 162, 89,  135, 94,  49,  24,  71,
    55,  175, 190, 252, 155, 193, 37, 103, 202, 158, 39,  60,  0,   232, 97,  14,  181,
    179, 13,  60,  44,  0,   0,   0,  0,   73,  69,  78,  68,  174, 66,  96,  130,
};
static const uint8_t jpeg_pixels[] = {
    0,  98,  182, 0,   118, 151, 56,  164, 89,  145, 181, 94,  235, 159, 159, 159, 28, 68,
    0,  95,  185, 22,  130, 168, 104, 181, 113, 185, 193, 116, 255, 157, 165, 184, 32, 81,
    26, 81,  182, 87,  131, 180, 165, 182, 128, 233, 187, 125, 255, 135, 160, 233, 40, 107,
    55, 96,  186, 114, 146, 185, 175, 185, 124, 220, 175, 108, 229, 95,  119, 207, 30, 98,
    50, 130, 189, 102, 176, 185, 144, 204, 116, 176, 189, 99,  139, 75,  76,  120, 16, 65,
};
static const uint8_t palette_pixels[] = {
    6,  66,  126, 36,  96,  156, 82,  142, 202, 110, 170, 230, 178, 238, 42, 209, 13, 73,
    6,  66,  126, 36,  96,  156, 110, 170, 230, 143, 203, 71,  178, 238, 42, 209, 13, 73,
    36, 96,  156, 82,  142, 202, 110, 170, 230, 178, 238, 42,  178, 238, 42, 209, 13, 73,
    36, 96,  156, 82,  142, 202, 110, 170, 230, 178, 238, 42,  209, 13,  73, 209, 13, 73,
    82, 142, 202, 110, 170, 230, 178, 238, 42,  178, 238, 42,  209, 13,  73, 6,   66, 126,
};

#define BYTES(array) ((pg_bytes){array, sizeof array})

static pg_decoder *decoder;
static void set_up(void) { cr_assert_eq(pg_decoder_create(1000, &decoder, NULL), PG_OK); }
static void tear_down(void) { pg_decoder_destroy(&decoder); }
TestSuite(decode, .init = set_up, .fini = tear_down);

static pg_frame frame_of(pg_pixel_format format, int w, int h, pg_bytes bytes) {
    return (pg_frame){.format = format, .width = w, .height = h, .pixels = bytes};
}

static uint8_t pixel(int x, int y, int c) { return (uint8_t)(x * 40 + y * 17 + c * 60); }

/* `grey`: channel 0 in all three. */
static void expect_exact(pg_bytes bytes, bool grey) {
    pg_picture p;
    pg_diag diag = {""};
    pg_frame f = frame_of(PG_FMT_PNG, 6, 5, bytes);
    cr_assert_eq(pg_decode(decoder, &f, &p, &diag), PG_DROP_NONE, "%s", diag.text);
    cr_assert(p.width == 6 && p.height == 5 && p.channels == 3 && !p.bgr);
    for (int y = 0; y < 5; y++)
        for (int x = 0; x < 6; x++)
            for (int c = 0; c < 3; c++)
                cr_assert_eq(p.data[y * p.stride + 3 * x + c], pixel(x, y, grey ? 0 : c));
}

static void expect_bytes(pg_pixel_format format, pg_bytes bytes, const uint8_t *want) {
    pg_picture p;
    pg_diag diag = {""};
    pg_frame f = frame_of(format, 6, 5, bytes);
    cr_assert_eq(pg_decode(decoder, &f, &p, &diag), PG_DROP_NONE, "%s", diag.text);
    cr_assert_eq(p.stride, 18);
    cr_assert_eq(memcmp(p.data, want, 90), 0);
}

Test(decode, png_of_every_kind) {
    expect_exact(BYTES(png_rgb), false);
    expect_exact(BYTES(png_rgba), false);
    expect_exact(BYTES(png_rgb16), false);
    expect_exact(BYTES(png_gray), true);
    expect_bytes(PG_FMT_PNG, BYTES(png_palette), palette_pixels);
}

Test(decode, jpeg_as_pil) { expect_bytes(PG_FMT_JPEG, BYTES(jpeg_rgb), jpeg_pixels); }

static pg_drop try(pg_pixel_format format, int w, int h, int64_t stride, pg_bytes bytes) {
    pg_picture p;
    pg_diag diag = {""};
    pg_frame f = frame_of(format, w, h, bytes);
    f.stride = stride;
    pg_drop reason = pg_decode(decoder, &f, &p, &diag);
    cr_assert(reason == PG_DROP_NONE || diag.text[0] != 0, "no sentence for %s",
              pg_drop_label(reason));
    return reason;
}

Test(decode, size_must_be_the_frames) {
    cr_assert_eq(try(PG_FMT_JPEG, 0, 0, 0, BYTES(jpeg_rgb)), PG_DROP_NONE);
    cr_assert_eq(try(PG_FMT_JPEG, 5, 6, 0, BYTES(jpeg_rgb)), PG_DROP_BAD_SHAPE);
    cr_assert_eq(try(PG_FMT_PNG, 6, 0, 0, BYTES(png_rgb)), PG_DROP_BAD_SHAPE);
    cr_assert_eq(try(PG_FMT_PNG, 0, 0, 0, BYTES(png_rgb)), PG_DROP_NONE);
}

Test(decode, cmyk_is_refused) {
    cr_assert_eq(try(PG_FMT_JPEG, 6, 5, 0, BYTES(jpeg_cmyk)), PG_DROP_MALFORMED);
}

Test(decode, wrong_format_is_refused) {
    cr_assert_eq(try(PG_FMT_JPEG, 6, 5, 0, BYTES(png_rgb)), PG_DROP_MALFORMED);
    cr_assert_eq(try(PG_FMT_PNG, 6, 5, 0, BYTES(jpeg_rgb)), PG_DROP_MALFORMED);
    cr_assert_eq(try(PG_FMT_F32CHW, 6, 5, 0, BYTES(png_rgb)), PG_DROP_MALFORMED);
}

/* Only the header says 65500 x 65500: refused by it, before memory. */
Test(decode, too_large_before_memory) {
    uint8_t jpeg[sizeof jpeg_rgb], png[sizeof png_rgb];
    memcpy(jpeg, jpeg_rgb, sizeof jpeg);
    memcpy(png, png_rgb, sizeof png);
    for (size_t i = 0; i + 9 < sizeof jpeg; i++)
        if (jpeg[i] == 0xff && jpeg[i + 1] == 0xc0)
            memcpy(jpeg + i + 5, "\xff\xdc\xff\xdc", 4);
    memcpy(png + 16, "\0\0\xff\xdc\0\0\xff\xdc", 8);
    uint64_t before = pg_mem_get_stats().allocations;
    cr_assert_eq(try(PG_FMT_JPEG, 0, 0, 0, BYTES(jpeg)), PG_DROP_TOO_LARGE);
    cr_assert_eq(try(PG_FMT_PNG, 0, 0, 0, BYTES(png)), PG_DROP_TOO_LARGE);
    cr_assert_eq(pg_mem_get_stats().allocations, before);
}

/* A JPEG may end early only in its end marker; a PNG nowhere. A good picture is served right after.
 */
Test(decode, cut_anywhere) {
    for (size_t n = 0; n < sizeof jpeg_rgb - 2; n++) {
        uint8_t *copy = pg_malloc(n);
        memcpy(copy, jpeg_rgb, n);
        cr_assert_eq(try(PG_FMT_JPEG, 6, 5, 0, (pg_bytes){copy, n}), PG_DROP_MALFORMED, "%zu", n);
        pg_free(copy);
    }
    for (size_t n = 0; n < sizeof png_rgb; n++) {
        uint8_t *copy = pg_malloc(n);
        memcpy(copy, png_rgb, n);
        cr_assert_eq(try(PG_FMT_PNG, 6, 5, 0, (pg_bytes){copy, n}), PG_DROP_MALFORMED, "%zu", n);
        pg_free(copy);
    }
    expect_exact(BYTES(png_rgb), false);
    expect_bytes(PG_FMT_JPEG, BYTES(jpeg_rgb), jpeg_pixels);
}

/* Any one wrong byte: refused or decoded, never more. PNG has checksums: its critical chunks find
 * every flip. Only that of the empty end chunk is not looked at by every libpng (1.6.48 does not). */
Test(decode, flipped_anywhere) {
    static const uint8_t flips[] = {1, 0x80, 0xff};
    for (size_t i = 0; i < sizeof jpeg_rgb; i++)
        for (int k = 0; k < 3; k++) {
            uint8_t copy[sizeof jpeg_rgb];
            memcpy(copy, jpeg_rgb, sizeof copy);
            copy[i] ^= flips[k];
            try(PG_FMT_JPEG, 0, 0, 0, BYTES(copy));
        }
    const size_t end_checksum = 4;
    for (size_t i = 0; i < sizeof png_rgb - end_checksum; i++)
        for (int k = 0; k < 3; k++) {
            uint8_t copy[sizeof png_rgb];
            memcpy(copy, png_rgb, sizeof copy);
            copy[i] ^= flips[k];
            cr_assert_neq(try(PG_FMT_PNG, 6, 5, 0, BYTES(copy)), PG_DROP_NONE, "byte %zu", i);
        }
}

Test(decode, raw_sizes_and_strides) {
    static uint8_t data[64];
    pg_picture p;
    pg_frame f = frame_of(PG_FMT_BGR24, 3, 2, (pg_bytes){data, 18});
    cr_assert_eq(pg_decode(decoder, &f, &p, NULL), PG_DROP_NONE);
    cr_assert(p.data == data && p.stride == 9 && p.bgr && p.channels == 3);
    cr_assert_eq(try(PG_FMT_RGB24, 3, 2, 9, (pg_bytes){data, 18}), PG_DROP_NONE);
    cr_assert_eq(try(PG_FMT_RGB24, 3, 2, 12, (pg_bytes){data, 24}), PG_DROP_NONE);
    cr_assert_eq(try(PG_FMT_GRAY8, 3, 2, 0, (pg_bytes){data, 6}), PG_DROP_NONE);
    static const struct {
        int w, h;
        int64_t stride;
        size_t size;
        pg_drop want;
    } bad[] = {
        {3, 2, 8, 16, PG_DROP_BAD_SHAPE},         {3, 2, 12, 21, PG_DROP_BAD_SHAPE},
        {3, 2, 0, 17, PG_DROP_BAD_SHAPE},         {3, 2, 0, 19, PG_DROP_BAD_SHAPE},
        {0, 2, 0, 0, PG_DROP_BAD_SHAPE},          {3, -2, 0, 18, PG_DROP_BAD_SHAPE},
        {3, 2, -9, 18, PG_DROP_BAD_SHAPE},        {65536, 1, 0, 196608, PG_DROP_TOO_LARGE},
        {3, 2, INT64_MAX, 18, PG_DROP_BAD_SHAPE}, {3, 2, INT64_MAX / 2 + 10, 18, PG_DROP_BAD_SHAPE},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        cr_assert_eq(
            try(PG_FMT_RGB24, bad[i].w, bad[i].h, bad[i].stride, (pg_bytes){data, bad[i].size}),
            bad[i].want, "case %zu", i);
}

Test(decode, allocates_only_to_grow) {
    expect_exact(BYTES(png_rgb), false);
    uint64_t before = pg_mem_get_stats().allocations;
    for (int i = 0; i < 3; i++) {
        expect_exact(BYTES(png_rgb), false);
        expect_exact(BYTES(png_rgb16), false);
        expect_bytes(PG_FMT_JPEG, BYTES(jpeg_rgb), jpeg_pixels);
    }
    cr_assert_eq(pg_mem_get_stats().allocations, before);
}
