/* The picture is never resized as a whole: only the pixels of the crop are computed, so a picture
 * of extreme proportions costs no more memory than its rows times the crop's width. */
#include "pipeline/preprocess.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/simd.h"
#include "pipeline/resample.h"

enum { RANGE = 1 << 12 }; /* pixels a thread takes at a time */

struct pg_preprocess {
    pg_input_options options;
    int64_t channels, height, width;
    float value[3][256]; /* what pixel value p becomes in channel c of the network */
    pg_axis across, down;
    pg_buffer rows;      /* [rows, W, 3] after the first axis */
    uint8_t *rgb;        /* [H, W, 3]; of a tensor only when somebody asks */
    const float *tensor; /* the network's input that rgb is to be drawn from; NULL: it is there */
    pg_layout layout;    /* of tensor */
    double transform[6];
};

pg_err pg_preprocess_create(const pg_input_options *options, const pg_shape *input,
                            pg_preprocess **out, pg_diag *diag) {
    *out = NULL;
    pg_assert(input->rank == 4 && (input->dims[1] == 3 || input->dims[1] == 1));
    if (!(options->scale > 0) || !isfinite(options->scale))
        return pg_fail(diag, PG_ECONFIG, "model.input.scale must be a positive number");
    for (int c = 0; c < 3; c++)
        if (!(options->std[c] > 0) || !isfinite(options->std[c]) || !isfinite(options->mean[c]))
            return pg_fail(diag, PG_ECONFIG,
                           "model.input.mean must be finite and model.input.std positive");
    pg_preprocess *p = pg_calloc(1, sizeof *p);
    if (!p)
        return pg_fail(diag, PG_ENOMEM, "no memory for preprocessing");
    p->options = *options;
    p->channels = input->dims[1];
    p->height = input->dims[2];
    p->width = input->dims[3];
    for (int c = 0; c < 3; c++)
        for (int v = 0; v < 256; v++)
            p->value[c][v] =
                (float)(((double)v * (double)options->scale - (double)options->mean[c]) /
                        (double)options->std[c]);
    p->rgb = pg_calloc((size_t)(p->height * p->width), 3);
    if (!p->rgb) {
        pg_preprocess_destroy(&p);
        return pg_fail(diag, PG_ENOMEM, "no memory for preprocessing");
    }
    *out = p;
    return PG_OK;
}

void pg_preprocess_destroy(pg_preprocess **preprocess) {
    pg_preprocess *p = *preprocess;
    if (!p)
        return;
    pg_axis_free(&p->across);
    pg_axis_free(&p->down);
    pg_buffer_free(&p->rows);
    pg_free(p->rgb);
    pg_free(p);
    *preprocess = NULL;
}

/* Where CenterCrop begins: Python's round() of half the surplus, which sends halves to the even
 * number; a picture smaller than the crop is padded, the smaller half first. */
static int64_t crop_offset(int64_t size, int64_t crop) {
    if (size < crop)
        return -((crop - size) / 2);
    int64_t surplus = size - crop, half = surplus / 2;
    return surplus % 2 ? half + half % 2 : half;
}

static bool plan(pg_preprocess *p, int64_t w, int64_t h) {
    int64_t sw = p->width, sh = p->height;
    bool as_is = w == p->width && h == p->height;
    if (!as_is && p->options.crop) {
        int64_t side = p->options.resize;
        if (side > 0) {
            sw = w <= h ? side : side * w / h;
            sh = w <= h ? side * h / w : side;
        } else if (h * p->width <= w * p->height) { /* just cover the input */
            sw = w * p->height / h;
        } else {
            sh = h * p->width / w;
        }
    }
    int64_t x0 = crop_offset(sw, p->width), y0 = crop_offset(sh, p->height);
    double a = (double)w / (double)sw, e = (double)h / (double)sh;
    const double transform[6] = {a, 0, (double)x0 * a, 0, e, (double)y0 * e};
    memcpy(p->transform, transform, sizeof transform);
    return pg_axis_plan(&p->across, w, sw, x0, p->width) &&
           pg_axis_plan(&p->down, h, sh, y0, p->height);
}

/* `count` pixels from `begin` on. */
static void normalise_some(const pg_preprocess *p, int64_t begin, int64_t count, float *dst,
                           pg_layout layout) {
    const uint8_t *rgb = p->rgb + 3 * begin;
    if (p->channels == 1) {
        for (int64_t i = 0; i < count; i++, rgb += 3) /* ITU-R 601 as PIL computes it */
            dst[begin + i] =
                p->value[0][(rgb[0] * 19595 + rgb[1] * 38470 + rgb[2] * 7471 + 0x8000) >> 16];
        return;
    }
    int64_t pixel = layout == PG_PLAIN ? 1 : 3,
            plane = layout == PG_PLAIN ? p->height * p->width : 1;
    float *a = dst + begin * pixel, *b = a + plane, *c = b + plane;
    int red = p->options.bgr ? 2 : 0;
    for (int64_t i = 0; i < count; i++) {
        a[i * pixel] = p->value[0][rgb[3 * i + red]];
        b[i * pixel] = p->value[1][rgb[3 * i + 1]];
        c[i * pixel] = p->value[2][rgb[3 * i + 2 - red]];
    }
}

static void normalise(const pg_preprocess *p, float *dst, pg_layout layout) {
    int64_t area = p->height * p->width;
#pragma omp parallel for schedule(static) if (area > RANGE)
    for (int64_t i = 0; i < area; i += RANGE)
        normalise_some(p, i, area - i < RANGE ? area - i : RANGE, dst, layout);
}

pg_drop pg_preprocess_picture(pg_preprocess *p, const pg_picture *picture, float *dst,
                              pg_layout layout, pg_diag *diag) {
    int64_t begin = 0, end = 0;
    p->tensor = NULL;
    if (!plan(p, picture->width, picture->height)) {
        pg_fail(diag, PG_ENOMEM, "no memory to resize the picture");
        return PG_DROP_INFER_ERROR;
    }
    pg_axis_range(&p->down, &begin, &end);
    if (!pg_buffer_reserve(&p->rows, (size_t)((end - begin) * p->width * 3))) {
        pg_fail(diag, PG_ENOMEM, "no memory to resize the picture");
        return PG_DROP_INFER_ERROR;
    }
    pg_resample_rows(&p->across, picture->data + begin * picture->stride, picture->stride,
                     picture->channels, picture->bgr, end - begin, p->rows.data);
    pg_resample_columns(&p->down, p->rows.data, begin, p->width * 3, p->rgb);
    normalise(p, dst, layout);
    return PG_DROP_NONE;
}

static pg_drop check_tensor(const pg_preprocess *p, const pg_frame *frame, pg_diag *diag) {
    uint64_t bytes = (uint64_t)(p->channels * p->height * p->width) * sizeof(float);
    bool packed = frame->stride == 0 || frame->stride == p->width * (int64_t)sizeof(float);
    if (frame->width == p->width && frame->height == p->height && packed &&
        frame->pixels.size == bytes)
        return PG_DROP_NONE;
    pg_fail(diag, PG_EINPUT,
            "f32chw of %" PRId64 " x %" PRId64 " in %zu bytes; the model takes %" PRId64
            " x %" PRId64 " with %" PRId64 " channels, packed: %" PRIu64 " bytes",
            frame->width, frame->height, frame->pixels.size, p->width, p->height, p->channels,
            bytes);
    return PG_DROP_BAD_SHAPE;
}

/* `count` numbers as they are; the message gives no alignment. False: one is not finite. */
PG_CLONES static bool take_plain(const uint8_t *from, int64_t count, float *to) {
    int bad = 0;
    for (int64_t i = 0; i < count; i++) {
        float v;
        memcpy(&v, from + (size_t)i * sizeof v, sizeof v);
        bad |= v - v != 0;
        to[i] = v;
    }
    return !bad;
}

/* Pixels of three planes of `plane` bytes, side by side. */
PG_CLONES static bool take_last(const uint8_t *from, int64_t plane, int64_t count, float *to) {
    int bad = 0;
    for (int64_t i = 0; i < count; i++) {
        float a, b, c;
        memcpy(&a, from + (size_t)i * sizeof a, sizeof a);
        memcpy(&b, from + plane + (size_t)i * sizeof b, sizeof b);
        memcpy(&c, from + 2 * plane + (size_t)i * sizeof c, sizeof c);
        bad |= (a - a != 0) | (b - b != 0) | (c - c != 0);
        to[3 * i] = a;
        to[3 * i + 1] = b;
        to[3 * i + 2] = c;
    }
    return !bad;
}

static bool take_tensor(const pg_preprocess *p, const uint8_t *from, float *to, pg_layout layout) {
    int64_t area = p->height * p->width, channels = p->channels;
    bool plain = layout == PG_PLAIN || channels == 1, finite = true;
    int64_t count = plain ? channels * area : area, value = sizeof *to;
#pragma omp parallel for schedule(static) reduction(&& : finite) if (count > RANGE)
    for (int64_t i = 0; i < count; i += RANGE) {
        int64_t n = count - i < RANGE ? count - i : RANGE;
        bool good = plain ? take_plain(from + i * value, n, to + i)
                          : take_last(from + i * value, area * value, n, to + 3 * i);
        finite = finite && good;
    }
    return finite;
}

static pg_drop refuse_value(const pg_frame *frame, pg_diag *diag) {
    int64_t i = 0;
    for (float v = 0; isfinite(v); i++)
        memcpy(&v, frame->pixels.data + (size_t)i * sizeof v, sizeof v);
    pg_fail(diag, PG_EINPUT, "f32chw: value %" PRId64 " is not finite", i - 1);
    return PG_DROP_MALFORMED;
}

pg_drop pg_preprocess_tensor(pg_preprocess *p, const pg_frame *frame, float *dst, pg_layout layout,
                             pg_diag *diag) {
    pg_drop reason = check_tensor(p, frame, diag);
    if (reason)
        return reason;
    if (!take_tensor(p, frame->pixels.data, dst, layout))
        return refuse_value(frame, diag);
    p->tensor = dst;
    p->layout = layout;
    static const double same[6] = {1, 0, 0, 0, 1, 0};
    memcpy(p->transform, same, sizeof same);
    return PG_DROP_NONE;
}

/* A pixel is scale value + shift, cut to a whole number. */
static void draw_tensor(pg_preprocess *p) {
    const pg_input_options *o = &p->options;
    int64_t area = p->height * p->width;
    int64_t pixel = p->layout == PG_PLAIN ? 1 : p->channels,
            plane = p->layout == PG_PLAIN ? area : 1;
    for (int c = 0; c < 3; c++) {
        int from = p->channels == 1 ? 0 : o->bgr ? 2 - c : c;
        const float *value = p->tensor + from * plane;
        float scale = o->std[from] / o->scale, shift = o->mean[from] / o->scale + 0.5f;
        for (int64_t i = 0; i < area; i++) {
            float v = value[i * pixel] * scale + shift;
            v = v > 0 ? v : 0;
            p->rgb[3 * i + c] = (uint8_t)(v < 255 ? v : 255);
        }
    }
}

const uint8_t *pg_preprocess_rgb(pg_preprocess *p) {
    if (p->tensor)
        draw_tensor(p);
    p->tensor = NULL;
    return p->rgb;
}

void pg_preprocess_transform(const pg_preprocess *p, double transform[6]) {
    memcpy(transform, p->transform, sizeof p->transform);
}
