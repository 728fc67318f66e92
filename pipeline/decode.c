#include "pipeline/decode.h"

#include <inttypes.h>
#include <string.h>
#include <turbojpeg.h>

#include "kernels/mem.h"
#include "pipeline/buffer.h"
#include "pipeline/decode_png.h"

struct pg_decoder {
    uint64_t max_pixels;
    tjhandle jpeg;
    pg_png_reader png;
    pg_buffer rgb; /* [h, w, 3] */
};

pg_err pg_decoder_create(uint64_t max_pixels, pg_decoder **out, pg_diag *diag) {
    *out = NULL;
    pg_decoder *decoder = pg_calloc(1, sizeof *decoder);
    if (!decoder)
        return pg_fail(diag, PG_ENOMEM, "no memory for a decoder");
    decoder->max_pixels = max_pixels ? max_pixels : (uint64_t)64 << 20;
    decoder->jpeg = tjInitDecompress();
    if (!decoder->jpeg) {
        pg_decoder_destroy(&decoder);
        return pg_fail(diag, PG_ENOMEM, "no memory for a JPEG decoder");
    }
    *out = decoder;
    return PG_OK;
}

void pg_decoder_destroy(pg_decoder **decoder) {
    if (!*decoder)
        return;
    if ((*decoder)->jpeg)
        tjDestroy((*decoder)->jpeg);
    pg_png_reader_free(&(*decoder)->png);
    pg_buffer_free(&(*decoder)->rgb);
    pg_free(*decoder);
    *decoder = NULL;
}

bool pg_bytes_are_jpeg(pg_bytes bytes) {
    return bytes.size >= 3 && memcmp(bytes.data, "\xff\xd8\xff", 3) == 0;
}

bool pg_bytes_are_png(pg_bytes bytes) {
    return bytes.size >= 8 && memcmp(bytes.data, "\x89PNG\r\n\x1a\n", 8) == 0;
}

static pg_drop drop(pg_diag *diag, pg_drop reason, const char *sentence) {
    pg_fail(diag, PG_EINPUT, "%s", sentence);
    return reason;
}

/* What the picture's own header says, against the frame's and against the limits: before memory. */
static pg_drop check_size(const pg_decoder *decoder, const pg_frame *frame, int64_t width,
                          int64_t height, pg_diag *diag) {
    if (width < 1 || height < 1)
        return drop(diag, PG_DROP_MALFORMED, "the picture has no pixels");
    if (width > PG_SIDE_MAX || height > PG_SIDE_MAX ||
        (uint64_t)width * (uint64_t)height > decoder->max_pixels) {
        pg_fail(diag, PG_EINPUT,
                "the picture has %" PRId64 " x %" PRId64 " pixels, limits.pixels is %" PRIu64,
                width, height, decoder->max_pixels);
        return PG_DROP_TOO_LARGE;
    }
    bool told = frame->width != 0 || frame->height != 0;
    if (told && (frame->width != width || frame->height != height)) {
        pg_fail(diag, PG_EINPUT,
                "the frame says %" PRId64 " x %" PRId64 ", its picture is %" PRId64 " x %" PRId64,
                frame->width, frame->height, width, height);
        return PG_DROP_BAD_SHAPE;
    }
    return PG_DROP_NONE;
}

/* TurboJPEG 2.1 leaves a failed header half read and would go on inside it with the next picture:
 * after any failure the handle is replaced. */
static pg_drop broken_jpeg(pg_decoder *decoder, pg_diag *diag) {
    pg_fail(diag, PG_EINPUT, "broken JPEG: %s", tjGetErrorStr2(decoder->jpeg));
    tjDestroy(decoder->jpeg);
    decoder->jpeg = tjInitDecompress();
    return PG_DROP_MALFORMED;
}

static pg_drop decode_jpeg(pg_decoder *decoder, const pg_frame *frame, pg_picture *out,
                           pg_diag *diag) {
    int width = 0, height = 0, subsampling = 0, colours = 0;
    if (!decoder->jpeg && !(decoder->jpeg = tjInitDecompress()))
        return drop(diag, PG_DROP_INFER_ERROR, "no memory for a JPEG decoder");
    if (tjDecompressHeader3(decoder->jpeg, frame->pixels.data, (unsigned long)frame->pixels.size,
                            &width, &height, &subsampling, &colours) != 0)
        return broken_jpeg(decoder, diag);
    pg_drop reason = check_size(decoder, frame, width, height, diag);
    if (reason)
        return reason;
    if (colours == TJCS_CMYK || colours == TJCS_YCCK)
        return drop(diag, PG_DROP_MALFORMED, "CMYK JPEG pictures are not taken");
    if (!pg_buffer_reserve(&decoder->rgb, (size_t)width * (size_t)height * 3))
        return drop(diag, PG_DROP_INFER_ERROR, "no memory for the decoded picture");
    int flags = TJFLAG_STOPONWARNING | TJFLAG_LIMITSCANS | TJFLAG_ACCURATEDCT;
    if (tjDecompress2(decoder->jpeg, frame->pixels.data, (unsigned long)frame->pixels.size,
                      decoder->rgb.data, width, width * 3, height, TJPF_RGB, flags) != 0)
        return broken_jpeg(decoder, diag);
    *out = (pg_picture){decoder->rgb.data, width, height, (int64_t)width * 3, 3, false};
    return PG_DROP_NONE;
}

static pg_drop decode_png(pg_decoder *decoder, const pg_frame *frame, pg_picture *out,
                          pg_diag *diag) {
    uint32_t width = 0, height = 0;
    if (!pg_png_size(frame->pixels, &width, &height))
        return drop(diag, PG_DROP_MALFORMED, "broken PNG: no header");
    pg_drop reason = check_size(decoder, frame, width, height, diag);
    if (reason)
        return reason;
    if (!pg_buffer_reserve(&decoder->rgb, (size_t)width * height * 3))
        return drop(diag, PG_DROP_INFER_ERROR, "no memory for the decoded picture");
    pg_err err = pg_png_read(&decoder->png, frame->pixels, decoder->rgb.data, diag);
    if (err)
        return err == PG_ENOMEM ? PG_DROP_INFER_ERROR : PG_DROP_MALFORMED;
    *out = (pg_picture){decoder->rgb.data, width, height, (int64_t)width * 3, 3, false};
    return PG_DROP_NONE;
}

static pg_drop look_at_raw(const pg_frame *frame, pg_picture *out, pg_diag *diag) {
    int channels = frame->format == PG_FMT_GRAY8 ? 1 : 3;
    int64_t width = frame->width, height = frame->height;
    if (width < 1 || height < 1)
        return drop(diag, PG_DROP_BAD_SHAPE, "width and height must be at least 1");
    if (width > PG_SIDE_MAX || height > PG_SIDE_MAX) {
        pg_fail(diag, PG_EINPUT, "%" PRId64 " x %" PRId64 " pixels: a side may have %d", width,
                height, PG_SIDE_MAX);
        return PG_DROP_TOO_LARGE;
    }
    int64_t stride = frame->stride ? frame->stride : width * channels;
    if (stride < width * channels || stride > INT64_MAX / height ||
        (uint64_t)(stride * height) != frame->pixels.size) {
        pg_fail(diag, PG_EINPUT,
                "%" PRId64 " x %" PRId64 " pixels of %d bytes with stride %" PRId64
                " do not fit %zu bytes",
                width, height, channels, stride, frame->pixels.size);
        return PG_DROP_BAD_SHAPE;
    }
    *out = (pg_picture){frame->pixels.data,           width, height, stride, channels,
                        frame->format == PG_FMT_BGR24};
    return PG_DROP_NONE;
}

pg_drop pg_decode(pg_decoder *decoder, const pg_frame *frame, pg_picture *out, pg_diag *diag) {
    *out = (pg_picture){.data = NULL};
    switch (frame->format) {
    case PG_FMT_JPEG:
        return decode_jpeg(decoder, frame, out, diag);
    case PG_FMT_PNG:
        return decode_png(decoder, frame, out, diag);
    case PG_FMT_BGR24:
    case PG_FMT_RGB24:
    case PG_FMT_GRAY8:
        return look_at_raw(frame, out, diag);
    case PG_FMT_F32CHW:
        break;
    }
    return drop(diag, PG_DROP_MALFORMED, "the pixel format is not one of a picture");
}
