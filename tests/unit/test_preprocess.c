/* Expected pixels: PIL 9.4 and torchvision 0.14 on pixel(x, y, c) = (5 x x + 37 y + 91 c + 11 x y)
 * mod 256: Resize(resize) and CenterCrop((h, w)) of a PIL image; resize 0: Resize to just cover the
 * crop; without crop: Resize((h, w)). They must come out to the bit. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "kernels/threads.h"
#include "pipeline/preprocess.h"

static const struct {
    int w, h, resize;
    bool crop;
    int out_w, out_h;
    const char *hex;
} cases[] = {
    {23, 17, 9, true, 7, 7,
     "9989a08d89707955946d6f98777d8a72796d986e729a97988b68717652a18462a475817e8382755c9f6b"
     "71709e60839672699289736e79737d609a6a9e5fa27d816d8f8a697b66808e8b647976809f6986ab4663"
     "758282826a6f857b7b856f8a72976051ab5b56b16b75788585876f819a76967489775a7d7d5685895eb2"
     "76777c8881765e9f8a839570538179669290995174"},
    {16, 40, 12, true, 6, 8,
     "64679ea65e737dac7d65c07881b9717cb67a7092635a9eb345999e409b994e86a76680b77a558ec39e79"
     "b59c775cac87718c6798735958974189873f929850698f74944c79617a81a38f6c833b7f9860704b7e95"
     "61828b775e5e817fb749a47f817f5aaa858367829d8886618ba87ab26a748671a4a08b787977a38fa781"
     "906ea566876d814c72af7a6d8b664d736497"},
    {5, 4, 10, true, 9, 9,
     "035eb90560bb0b66c1116cc71974cf247fda2e89da3d987e4ca7220762bd0a65c0106bbd1772b81f7abc"
     "2b86c73590c9449f7854af271974cf1d78d32580ab2e897e38936e45a07b52ad8363be5e74cf3a2a85e0"
     "2f8ae53a9599449f4450ab1f5fba2f6ec93c81dc4493ee4c3b96a4429dac4faa755bb63669b31f79a52f"
     "8a98409ead54b3c1694ca74f56b15863be4971cc3781b737947e4aa64e5cbd6473d37b895db81369c41f"
     "78ca2e88ce3e9aab50ae5f64c11d78cf3590dd4ea96fca257cd7328db8439f9455b37369c8537ed93a95"
     "be54afa36ec980db368ee944a2a658b55a6bcb3a81e24798f156b1ad72cd698ee9"},
    {31, 14, 0, false, 8, 8,
     "378c948385738f89837c83686a727c8288685fae77708f69839a5b908289746b917a767a82788bac607b"
     "a3776575788689838d8f7e857d5d9979807b677b93c7348f9661978e7c6f87749275719c796f8b768873"
     "9e5795c8469a778473727277717d7571847884766e846b89b92b7ba8539a7b727669817f828572867673"
     "8a6f748c9a5c8e924d81648e827d829787737e958379837c7f85894e72926697877f7f7e768b7e7c7a7b"
     "7f7687837c7d928d61996d5b7e759280998f7796777d8988"},
    {20, 10, 5, true, 8, 8,
     "000000000000000000000000000000000000000000000000519a758799668e6d847d81979d9373778064"
     "798774766c759d7c7b96919c8f7e6d74539a75789b72797c87727574877e7689a49786998067827958a7"
     "827190777e817c97625584977f7a7d6c778e658c8f7e698087726d74837e797487ba3d94838c7d7f7a71"
     "967e6c826b73847f71937b84a07b689f6755000000000000000000000000000000000000000000000000"
     "000000000000000000000000000000000000000000000000"},
    {300, 200, 0, true, 5, 5,
     "807d807e7f7e807e7f7f7d80817d807f7e807f807e7f807f80807e7f807f7e7f7f7f807e807e82817e7f"
     "817f7e807d81807f7f807e7f7d7f81807f7f807f817e817f7e807f7d80807f7f7f"},
    {7, 7, 20, true, 7, 7,
     "005bb60560bb146fca2d88e350ab067dd833b40f6a2580db3590eb4faa0573ce29a1fc57d9348f1b76d1"
     "4aa50065c01b8ae540b9146ff24da83590eb82dd386fca2595f04bc5207bff5ab5439ef991ec47e9449f"
     "94ef4ac5207b005bb645a0fb94ef4aed48a350ab06b9146ff550ab3b96f18be641e5409b49a4ffb7126d"
     "de39942580db76d12cd12c873691eca5005b1e79d4"},
    {9, 6, 6, true, 6, 6,
     "146fca2d88e350ab067dd833b40f6af550ab4faa0573ce29a1fc57d9348f1b76d167c21d8ae540b9146f"
     "f24da83590eb82dd38d9348fc5207bff5ab5439ef991ec47e9449f4ba601005bb645a0fb94ef4aed48a3"
     "50ab06bd18733b96f18be641e5409b49a4ffb7126d2f8ae5"},
    {40, 30, 0, true, 8, 4,
     "7d7f817c77817d7a7a9b5e7f9961907a7c796f8a887f8082797f7f7d857c777b7c7b7f827f8381808483"
     "787a857c847c7f7e7c778e7c707e82827d7c8c817a817d838d7678807880808181857b7c847778857d84"
     "887d7d838285887a7e84867c"},
};

static uint8_t pixel(int x, int y, int c) {
    return (uint8_t)((x * x * 5 + y * 37 + c * 91 + x * y * 11) % 256);
}

static pg_input_options options_of(int resize, bool crop) {
    return (pg_input_options){.mean = {0.485f, 0.456f, 0.406f},
                              .std = {0.229f, 0.224f, 0.225f},
                              .scale = 1 / 255.0f,
                              .resize = resize,
                              .crop = crop};
}

static pg_preprocess *make(const pg_input_options *options, int channels, int h, int w) {
    pg_preprocess *p = NULL;
    pg_shape shape = {.rank = 4, .dims = {1, channels, h, w}};
    cr_assert_eq(pg_preprocess_create(options, &shape, &p, NULL), PG_OK);
    return p;
}

static uint8_t *draw(int w, int h, int64_t stride, bool bgr) {
    uint8_t *data = pg_malloc((size_t)(stride * h));
    memset(data, 0xee, (size_t)(stride * h));
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++)
                data[y * stride + x * 3 + (bgr ? 2 - c : c)] = pixel(x, y, c);
    return data;
}

static int hex_at(const char *hex, int64_t i) {
    char two[3] = {hex[2 * i], hex[2 * i + 1], 0};
    return (int)strtol(two, NULL, 16);
}

Test(preprocess, is_torchvision) {
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int bgr = 0; bgr < 2; bgr++) {
            int w = cases[i].w, h = cases[i].h, ow = cases[i].out_w, oh = cases[i].out_h;
            pg_input_options options = options_of(cases[i].resize, cases[i].crop);
            pg_preprocess *p = make(&options, 3, oh, ow);
            int64_t stride = 3 * w + 5 * bgr;
            uint8_t *data = draw(w, h, stride, bgr);
            pg_picture picture = {data, w, h, stride, 3, bgr};
            float *plain = pg_malloc(sizeof(float) * 3 * (size_t)(ow * oh));
            float *last = pg_malloc(sizeof(float) * 3 * (size_t)(ow * oh));
            cr_assert_eq(pg_preprocess_picture(p, &picture, plain, PG_PLAIN, NULL), PG_DROP_NONE);
            cr_assert_eq(pg_preprocess_picture(p, &picture, last, PG_CHANNELS_LAST, NULL),
                         PG_DROP_NONE);
            const uint8_t *rgb = pg_preprocess_rgb(p);
            cr_assert_eq(strlen(cases[i].hex), (size_t)(ow * oh * 6));
            for (int64_t k = 0; k < ow * oh * 3; k++) {
                int want = hex_at(cases[i].hex, k), c = (int)(k % 3);
                cr_assert_eq(rgb[k], want, "case %zu byte %d: %d, not %d", i, (int)k, rgb[k], want);
                float value = ((float)want / 255.0f - options.mean[c]) / options.std[c];
                cr_assert(fabsf(last[k] - value) < 1e-6f);
                cr_assert_eq(plain[c * ow * oh + k / 3], last[k]);
            }
            pg_free(data);
            pg_free(plain);
            pg_free(last);
            pg_preprocess_destroy(&p);
        }
}

/* A white pixel in the frame is found again through the transform. */
Test(preprocess, transform_leads_back) {
    pg_input_options options = options_of(32, true);
    pg_preprocess *p = make(&options, 3, 24, 24);
    uint8_t *data = pg_calloc(128 * 64, 3);
    for (int y = 40; y < 44; y++)
        memset(data + (y * 128 + 70) * 3, 255, 12);
    float dst[3 * 24 * 24];
    pg_picture picture = {data, 128, 64, 128 * 3, 3, false};
    cr_assert_eq(pg_preprocess_picture(p, &picture, dst, PG_PLAIN, NULL), PG_DROP_NONE);
    double sum = 0, x = 0, y = 0, t[6];
    for (int i = 0; i < 24 * 24; i++) {
        double v = pg_preprocess_rgb(p)[3 * i];
        sum += v;
        x += v * (i % 24 + 0.5);
        y += v * (i / 24 + 0.5);
    }
    pg_preprocess_transform(p, t);
    cr_assert(fabs(t[0] * x / sum + t[1] * y / sum + t[2] - 72) < 0.1);
    cr_assert(fabs(t[3] * x / sum + t[4] * y / sum + t[5] - 42) < 0.1);
    pg_free(data);
    pg_preprocess_destroy(&p);
}

Test(preprocess, grey_in_and_out) {
    pg_input_options options = options_of(0, true);
    pg_preprocess *three = make(&options, 3, 4, 4), *one = make(&options, 1, 4, 4);
    uint8_t grey[16], rgb[48];
    for (int i = 0; i < 16; i++) {
        grey[i] = (uint8_t)(i * 16 + 3);
        memset(rgb + 3 * i, grey[i], 3);
    }
    float a[48], b[48], c[16], d[16];
    pg_picture as_grey = {grey, 4, 4, 4, 1, false}, as_rgb = {rgb, 4, 4, 12, 3, false};
    pg_preprocess_picture(three, &as_grey, a, PG_PLAIN, NULL);
    pg_preprocess_picture(three, &as_rgb, b, PG_PLAIN, NULL);
    pg_preprocess_picture(one, &as_grey, c, PG_PLAIN, NULL);
    pg_preprocess_picture(one, &as_rgb, d, PG_PLAIN, NULL);
    cr_assert_eq(memcmp(a, b, sizeof a), 0);
    cr_assert_eq(memcmp(c, d, sizeof c), 0);
    cr_assert_eq(memcmp(a, c, sizeof c), 0);
    pg_preprocess_destroy(&three);
    pg_preprocess_destroy(&one);
}

Test(preprocess, tensors) {
    pg_input_options options = options_of(0, true);
    pg_preprocess *p = make(&options, 3, 2, 2);
    float values[12], plain[12], last[12];
    for (int i = 0; i < 12; i++)
        values[i] = (float)i / 4 - 1;
    uint8_t bytes[49]; /* one byte off: a message gives no alignment */
    memcpy(bytes + 1, values, 48);
    pg_frame f = {.format = PG_FMT_F32CHW, .width = 2, .height = 2, .pixels = {bytes + 1, 48}};
    cr_assert_eq(pg_preprocess_tensor(p, &f, plain, PG_PLAIN, NULL), PG_DROP_NONE);
    cr_assert_eq(memcmp(plain, values, 48), 0);
    cr_assert_eq(pg_preprocess_tensor(p, &f, last, PG_CHANNELS_LAST, NULL), PG_DROP_NONE);
    cr_assert_eq(last[3 * 1 + 2], values[2 * 4 + 1]);
    double pixel_value = ((double)values[5] * 0.224 + 0.456) * 255;
    cr_assert(fabs(pg_preprocess_rgb(p)[3 * 1 + 1] - pixel_value) <= 0.51);
    f.stride = 8;
    cr_assert_eq(pg_preprocess_tensor(p, &f, plain, PG_PLAIN, NULL), PG_DROP_NONE);
    f.stride = 12;
    cr_assert_eq(pg_preprocess_tensor(p, &f, plain, PG_PLAIN, NULL), PG_DROP_BAD_SHAPE);
    f.stride = 0;
    f.pixels.size = 44;
    cr_assert_eq(pg_preprocess_tensor(p, &f, plain, PG_PLAIN, NULL), PG_DROP_BAD_SHAPE);
    f.pixels.size = 48;
    f.width = 1;
    cr_assert_eq(pg_preprocess_tensor(p, &f, plain, PG_PLAIN, NULL), PG_DROP_BAD_SHAPE);
    f.width = 2;
    const float bad[3] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++) {
        memcpy(bytes + 1 + 20, &bad[i], 4);
        cr_assert_eq(pg_preprocess_tensor(p, &f, plain, PG_PLAIN, NULL), PG_DROP_MALFORMED);
    }
    pg_preprocess_destroy(&p);
}

enum { SIDE = 150, AREA = SIDE * SIDE }; /* large enough for a team */

static float wanted_of(const pg_input_options *o, int c, int value) {
    return (float)(((double)value * (double)o->scale - (double)o->mean[c]) / (double)o->std[c]);
}

/* A picture of the network's own size, in either layout and by any team: to the byte what was sent.
 */
Test(preprocess, leaves_pictures_of_its_size) {
    static float plain[3 * AREA], last[3 * AREA];
    for (int bgr = 0; bgr < 2; bgr++) /* of the picture and of the network */
        for (int threads = 1; threads <= 3; threads++) {
            pg_threads_set(threads);
            pg_input_options options = options_of(0, true);
            options.bgr = bgr;
            pg_preprocess *p = make(&options, 3, SIDE, SIDE);
            uint8_t *data = draw(SIDE, SIDE, 3 * SIDE + 7, bgr);
            pg_picture picture = {data, SIDE, SIDE, 3 * SIDE + 7, 3, bgr};
            cr_assert_eq(pg_preprocess_picture(p, &picture, plain, PG_PLAIN, NULL), PG_DROP_NONE);
            cr_assert_eq(pg_preprocess_picture(p, &picture, last, PG_CHANNELS_LAST, NULL),
                         PG_DROP_NONE);
            for (int i = 0; i < AREA; i++)
                for (int c = 0; c < 3; c++) {
                    int value = pixel(i % SIDE, i / SIDE, c), to = bgr ? 2 - c : c;
                    cr_assert_eq(pg_preprocess_rgb(p)[3 * i + c], value);
                    cr_assert_eq(last[3 * i + to], wanted_of(&options, to, value));
                    cr_assert_eq(plain[to * AREA + i], last[3 * i + to]);
                }
            pg_free(data);
            pg_preprocess_destroy(&p);
        }
}

Test(preprocess, resizes_alike_with_any_team) {
    static float one[3 * AREA], many[3 * AREA];
    static uint8_t rgb[3 * AREA];
    pg_input_options options = options_of(160, true);
    pg_preprocess *p = make(&options, 3, SIDE, SIDE);
    uint8_t *data = draw(331, 217, 3 * 331, false);
    pg_picture picture = {data, 331, 217, 3 * 331, 3, false};
    pg_threads_set(1);
    pg_preprocess_picture(p, &picture, one, PG_CHANNELS_LAST, NULL);
    memcpy(rgb, pg_preprocess_rgb(p), sizeof rgb);
    for (int threads = 2; threads <= 4; threads++) {
        pg_threads_set(threads);
        memset(many, 0, sizeof many);
        pg_preprocess_picture(p, &picture, many, PG_CHANNELS_LAST, NULL);
        cr_assert_eq(memcmp(many, one, sizeof one), 0);
        cr_assert_eq(memcmp(pg_preprocess_rgb(p), rgb, sizeof rgb), 0);
    }
    pg_free(data);
    pg_preprocess_destroy(&p);
}

/* Tensors come back as pictures, and a picture after a tensor is its own. */
Test(preprocess, draws_tensors) {
    static float values[3 * AREA], dst[3 * AREA];
    for (int i = 0; i < 3 * AREA; i++) /* some beyond black and white */
        values[i] = (float)((i * 7919L) % 1009) / 168 - 3;
    for (int channels = 1; channels <= 3; channels += 2)
        for (int bgr = 0; bgr < 2; bgr++)
            for (int last = 0; last < 2; last++) {
                pg_threads_set(1 + (bgr + last) % 3);
                pg_input_options options = options_of(0, true);
                options.bgr = bgr;
                pg_preprocess *p = make(&options, channels, SIDE, SIDE);
                pg_frame f = {
                    .format = PG_FMT_F32CHW,
                    .width = SIDE,
                    .height = SIDE,
                    .pixels = {(uint8_t *)values, sizeof(float) * AREA * (size_t)channels}};
                pg_layout layout = last ? PG_CHANNELS_LAST : PG_PLAIN;
                cr_assert_eq(pg_preprocess_tensor(p, &f, dst, layout, NULL), PG_DROP_NONE);
                const uint8_t *rgb = pg_preprocess_rgb(p);
                for (int i = 0; i < AREA; i++)
                    for (int c = 0; c < 3; c++) {
                        int k = channels == 1 ? 0 : bgr ? 2 - c : c;
                        float v = values[k * AREA + i];
                        cr_assert_eq(dst[last ? channels * i + k : k * AREA + i], v);
                        double want = ((double)v * options.std[k] + options.mean[k]) * 255;
                        want = fmin(fmax(want, 0), 255);
                        cr_assert(fabs(rgb[3 * i + c] - want) <= 0.51);
                    }
                uint8_t *data = draw(SIDE, SIDE, 3 * SIDE, false);
                pg_picture picture = {data, SIDE, SIDE, 3 * SIDE, 3, false};
                cr_assert_eq(pg_preprocess_tensor(p, &f, dst, layout, NULL), PG_DROP_NONE);
                cr_assert_eq(pg_preprocess_picture(p, &picture, dst, layout, NULL), PG_DROP_NONE);
                cr_assert_eq(memcmp(pg_preprocess_rgb(p), data, 3 * AREA), 0);
                pg_free(data);
                pg_preprocess_destroy(&p);
            }
}

Test(preprocess, names_the_value_that_is_not_finite) {
    static float values[3 * AREA], dst[3 * AREA];
    pg_input_options options = options_of(0, true);
    pg_preprocess *p = make(&options, 3, SIDE, SIDE);
    pg_frame f = {.format = PG_FMT_F32CHW,
                  .width = SIDE,
                  .height = SIDE,
                  .pixels = {(uint8_t *)values, sizeof values}};
    static const int places[] = {0, AREA + 5, 3 * AREA - 1};
    for (int last = 0; last < 2; last++)
        for (int i = 0; i < 3; i++) {
            char want[64];
            pg_diag diag = {""};
            values[places[i]] = i == 1 ? -INFINITY : NAN;
            snprintf(want, sizeof want, "value %d is not finite", places[i]);
            cr_assert_eq(
                pg_preprocess_tensor(p, &f, dst, last ? PG_CHANNELS_LAST : PG_PLAIN, &diag),
                PG_DROP_MALFORMED);
            cr_assert(strstr(diag.text, want), "%s", diag.text);
            values[places[i]] = 0;
        }
    pg_preprocess_destroy(&p);
}

Test(preprocess, extreme_proportions_stay_small) {
    pg_input_options options = options_of(256, true);
    pg_preprocess *p = make(&options, 3, 224, 224);
    uint8_t *data = pg_calloc(65535, 3);
    float *dst = pg_malloc(3 * 224 * 224 * sizeof *dst);
    pg_picture wide = {data, 65535, 1, 65535 * 3, 3, false};
    pg_picture high = {data, 1, 65535, 3, 3, false};
    uint64_t before = pg_mem_get_stats().live_bytes;
    cr_assert_eq(pg_preprocess_picture(p, &wide, dst, PG_PLAIN, NULL), PG_DROP_NONE);
    cr_assert_eq(pg_preprocess_picture(p, &high, dst, PG_PLAIN, NULL), PG_DROP_NONE);
    cr_assert(pg_mem_get_stats().peak_bytes < before + (8 << 20));
    pg_free(data);
    pg_free(dst);
    pg_preprocess_destroy(&p);
}

Test(preprocess, allocates_only_to_grow) {
    pg_input_options options = options_of(16, true);
    pg_preprocess *p = make(&options, 3, 8, 8);
    float dst[192];
    uint8_t *data = draw(90, 60, 270, false);
    pg_picture large = {data, 90, 60, 270, 3, false}, small = {data, 30, 50, 270, 3, false};
    pg_preprocess_picture(p, &large, dst, PG_PLAIN, NULL);
    uint64_t before = pg_mem_get_stats().allocations;
    pg_preprocess_picture(p, &small, dst, PG_PLAIN, NULL);
    pg_preprocess_picture(p, &large, dst, PG_PLAIN, NULL);
    cr_assert_eq(pg_mem_get_stats().allocations, before);
    pg_free(data);
    pg_preprocess_destroy(&p);
}
