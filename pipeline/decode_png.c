#include "pipeline/decode_png.h"

#include <png.h>
#include <setjmp.h>
#include <string.h>

/* Room for zlib's window and state, libpng's structs and small chunks; per pixel of a row: the row
 * and the one above it at up to 8 bytes each, and slack for an interlaced row. */
enum { ARENA_FIXED = 512 << 10, ARENA_PER_PIXEL = 32, BLOCK_ALIGN = 32 };

typedef struct source {
    const uint8_t *at;
    size_t left;
} source;

void pg_png_reader_free(pg_png_reader *reader) { pg_buffer_free(&reader->arena); }

static uint32_t big_endian(const uint8_t *b) {
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

bool pg_png_size(pg_bytes bytes, uint32_t *width, uint32_t *height) {
    static const uint8_t start[16] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n',
                                      0,    0,   0,   13,  'I',  'H',  'D',  'R'};
    if (bytes.size < 33 || memcmp(bytes.data, start, sizeof start) != 0)
        return false;
    *width = big_endian(bytes.data + 16);
    *height = big_endian(bytes.data + 20);
    return true;
}

/* Blocks are handed out in a row; giving back the newest one makes its room free again, which is
 * all that a picture with a thousand small chunks needs. */
static png_voidp take(png_structp png, png_alloc_size_t size) {
    pg_png_reader *reader = png_get_mem_ptr(png);
    if (size > reader->arena.capacity)
        return NULL;
    size_t rounded = (size + BLOCK_ALIGN - 1) / BLOCK_ALIGN * BLOCK_ALIGN;
    if (rounded > reader->arena.capacity - reader->used)
        return NULL;
    reader->last = reader->used;
    reader->used += rounded;
    return (char *)reader->arena.data + reader->last;
}

static void give_back(png_structp png, png_voidp block) {
    pg_png_reader *reader = png_get_mem_ptr(png);
    if (block == (char *)reader->arena.data + reader->last && reader->used > reader->last)
        reader->used = reader->last;
}

static void read_bytes(png_structp png, png_bytep data, size_t length) {
    source *from = png_get_io_ptr(png);
    if (length > from->left)
        png_error(png, "the file is cut");
    memcpy(data, from->at, length);
    from->at += length;
    from->left -= length;
}

static void on_error(png_structp png, png_const_charp message) {
    pg_diag *diag = png_get_error_ptr(png);
    pg_fail(diag, PG_EINPUT, "broken PNG: %s", message);
    png_longjmp(png, 1);
}

static void on_warning(png_structp png, png_const_charp message) {
    (void)png;
    (void)message;
}

static void set_up(png_structp png, png_infop info) {
    png_set_user_limits(png, PNG_UINT_31_MAX, PNG_UINT_31_MAX); /* checked by the caller */
    png_set_chunk_cache_max(png, 16);
    png_set_chunk_malloc_max(png, 64 << 10);
    /* Texts, profiles, EXIF and the rest do not matter here: skipped unread. */
    png_set_keep_unknown_chunks(png, PNG_HANDLE_CHUNK_NEVER, NULL, -1);
    png_read_info(png, info);
    png_set_expand(png);
    png_set_strip_16(png);
    png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
}

static void read_rows(png_structp png, png_infop info, uint32_t width, uint32_t height,
                      uint8_t *rgb) {
    int passes = png_set_interlace_handling(png);
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) != (size_t)width * 3)
        png_error(png, "unexpected pixel layout");
    for (int pass = 0; pass < passes; pass++)
        for (uint32_t y = 0; y < height; y++)
            png_read_row(png, rgb + (size_t)y * width * 3, NULL);
    png_read_end(png, NULL);
}

/* Everything after this setjmp may jump back to it; no local is changed in between. */
static pg_err read_guarded(png_structp png, png_infop info, source *from, uint8_t *rgb,
                           uint32_t width, uint32_t height) {
    if (setjmp(png_jmpbuf(png)))
        return PG_EINPUT;
    png_set_read_fn(png, from, read_bytes);
    set_up(png, info);
    read_rows(png, info, width, height, rgb);
    return PG_OK;
}

pg_err pg_png_read(pg_png_reader *reader, pg_bytes bytes, uint8_t *rgb, pg_diag *diag) {
    uint32_t width = 0, height = 0;
    if (!pg_png_size(bytes, &width, &height))
        return pg_fail(diag, PG_EINPUT, "broken PNG: no header");
    if (!pg_buffer_reserve(&reader->arena, ARENA_FIXED + (size_t)width * ARENA_PER_PIXEL))
        return pg_fail(diag, PG_ENOMEM, "no memory to decode a PNG picture");
    reader->used = reader->last = 0;
    pg_diag own = {""};
    png_structp png = png_create_read_struct_2(PNG_LIBPNG_VER_STRING, diag ? diag : &own, on_error,
                                               on_warning, reader, take, give_back);
    if (!png)
        return pg_fail(diag, PG_ENOMEM, "no memory to decode a PNG picture");
    png_infop info = png_create_info_struct(png);
    source from = {bytes.data, bytes.size};
    pg_err err = info ? read_guarded(png, info, &from, rgb, width, height)
                      : pg_fail(diag, PG_ENOMEM, "no memory to decode a PNG picture");
    png_destroy_read_struct(&png, &info, NULL);
    return err;
}
