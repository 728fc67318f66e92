#include "pipeline/image_write.h"

#include <png.h>
#include <string.h>
#include <strings.h>
#include <turbojpeg.h>

#include "kernels/mem.h"
#include "pipeline/file_io.h"

struct pg_jpeg_writer {
    tjhandle handle;
    int width, height;
    unsigned char *data;
    unsigned long capacity;
};

pg_err pg_jpeg_writer_create(int64_t width, int64_t height, pg_jpeg_writer **out, pg_diag *diag) {
    *out = NULL;
    if (width < 1 || height < 1 || width > 65535 || height > 65535)
        return pg_fail(diag, PG_EFAIL, "a JPEG picture has 1 to 65535 pixels a side");
    pg_jpeg_writer *writer = pg_calloc(1, sizeof *writer);
    if (!writer)
        return pg_fail(diag, PG_ENOMEM, "no memory for a JPEG encoder");
    writer->width = (int)width;
    writer->height = (int)height;
    writer->capacity = tjBufSize((int)width, (int)height, TJSAMP_420);
    writer->data = pg_malloc(writer->capacity);
    writer->handle = tjInitCompress();
    if (!writer->data || !writer->handle) {
        pg_jpeg_writer_destroy(&writer);
        return pg_fail(diag, PG_ENOMEM, "no memory for a JPEG encoder");
    }
    *out = writer;
    return PG_OK;
}

void pg_jpeg_writer_destroy(pg_jpeg_writer **writer) {
    if (!*writer)
        return;
    if ((*writer)->handle)
        tjDestroy((*writer)->handle);
    pg_free((*writer)->data);
    pg_free(*writer);
    *writer = NULL;
}

pg_bytes pg_jpeg_write(pg_jpeg_writer *writer, const uint8_t *rgb, int quality) {
    unsigned long size = writer->capacity;
    if (tjCompress2(writer->handle, rgb, writer->width, 0, writer->height, TJPF_RGB, &writer->data,
                    &size, TJSAMP_420, quality, TJFLAG_NOREALLOC) != 0)
        return (pg_bytes){NULL, 0};
    return (pg_bytes){writer->data, size};
}

pg_err pg_png_write(const uint8_t *rgb, int64_t width, int64_t height, uint8_t **data, size_t *size,
                    pg_diag *diag) {
    *data = NULL;
    png_image image = {.version = PNG_IMAGE_VERSION,
                       .width = (png_uint_32)width,
                       .height = (png_uint_32)height,
                       .format = PNG_FORMAT_RGB};
    png_alloc_size_t bound = PNG_IMAGE_PNG_SIZE_MAX(image);
    uint8_t *block = pg_malloc(bound);
    if (!block)
        return pg_fail(diag, PG_ENOMEM, "no memory to write a PNG picture");
    if (!png_image_write_to_memory(&image, block, &bound, 0, rgb, 0, NULL)) {
        pg_free(block);
        return pg_fail(diag, PG_EFAIL, "writing a PNG picture: %s", image.message);
    }
    *data = block;
    *size = bound;
    return PG_OK;
}

static pg_err save_png(const char *path, const uint8_t *rgb, int64_t width, int64_t height,
                       pg_diag *diag) {
    uint8_t *data = NULL;
    size_t size = 0;
    pg_err err = pg_png_write(rgb, width, height, &data, &size, diag);
    if (!err)
        err = pg_file_write(path, data, size, diag);
    pg_free(data);
    return err;
}

static pg_err save_jpeg(const char *path, const uint8_t *rgb, int64_t width, int64_t height,
                        pg_diag *diag) {
    pg_jpeg_writer *writer = NULL;
    pg_err err = pg_jpeg_writer_create(width, height, &writer, diag);
    if (err)
        return err;
    pg_bytes jpeg = pg_jpeg_write(writer, rgb, 92);
    err = jpeg.data ? pg_file_write(path, jpeg.data, jpeg.size, diag)
                    : pg_fail(diag, PG_EFAIL, "%s: cannot encode the picture as JPEG", path);
    pg_jpeg_writer_destroy(&writer);
    return err;
}

pg_err pg_image_save(const char *path, const uint8_t *rgb, int64_t width, int64_t height,
                     pg_diag *diag) {
    const char *dot = strrchr(path, '.');
    if (dot && strcasecmp(dot, ".png") == 0)
        return save_png(path, rgb, width, height, diag);
    if (dot && (strcasecmp(dot, ".jpg") == 0 || strcasecmp(dot, ".jpeg") == 0))
        return save_jpeg(path, rgb, width, height, diag);
    return pg_fail(diag, PG_ECONFIG, "%s: the name must end in .png, .jpg or .jpeg", path);
}
