/* Wire format 1 against the byte vectors that the Python and Go tests read too. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/wire.h"
#include "kernels/mem.h"
#include "pipeline/compat.h"

static const pg_wire_limits limits = {.frame_bytes = 65536, .meta_bytes = 4096};

/* ---- vectors ---- */

static void vector_path(char *out, size_t size, const char *name) {
    snprintf(out, size, "clients/vectors/%s", name);
}

typedef struct message {
    uint8_t *bytes;
    pg_bytes parts[8];
    int count;
} message;

static message load(const char *name) {
    char path[1024];
    vector_path(path, sizeof path, name);
    FILE *file = fopen(path, "rb");
    cr_assert_not_null(file, "%s", path);
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    /* exactly as large as the file, so that a sanitizer sees one byte too many */
    message m = {.bytes = malloc(size)};
    cr_assert_eq(fread(m.bytes, 1, size, file), size);
    fclose(file);
    for (size_t at = 0; at < size;) {
        uint32_t n;
        memcpy(&n, m.bytes + at, 4);
        at += 4;
        cr_assert(m.count < 8 && n <= size - at);
        m.parts[m.count++] = (pg_bytes){m.bytes + at, n};
        at += n;
    }
    return m;
}

static bool json_text(const char *line, const char *key, char *out, size_t size) {
    char pattern[64];
    snprintf(pattern, sizeof pattern, "\"%s\": \"", key);
    const char *at = strstr(line, pattern);
    if (at == NULL)
        return false;
    at += strlen(pattern);
    snprintf(out, size, "%.*s", (int)strcspn(at, "\""), at);
    return true;
}

static bool json_number(const char *line, const char *key, char *out, size_t size) {
    char pattern[64];
    snprintf(pattern, sizeof pattern, "\"%s\": ", key);
    const char *at = strstr(line, pattern);
    if (at == NULL || strchr("\"[{", at[strlen(pattern)]) != NULL)
        return false;
    at += strlen(pattern);
    snprintf(out, size, "%.*s", (int)strcspn(at, ",}"), at);
    return true;
}

static void expect_u64(const char *line, const char *key, uint64_t actual) {
    char text[64];
    if (json_number(line, key, text, sizeof text))
        cr_expect_eq(actual, strtoull(text, NULL, 10), "%s is %llu in %s", key,
                     (unsigned long long)actual, line);
}

static void expect_hex(const char *line, const char *key, pg_bytes actual) {
    char text[1024], hex[1024] = "";
    if (!json_text(line, key, text, sizeof text))
        return;
    for (size_t i = 0; i < actual.size && 2 * i + 2 < sizeof hex; i++)
        sprintf(hex + 2 * i, "%02x", actual.data[i]);
    cr_expect_str_eq(hex, text, "%s in %s", key, line);
}

static void expect_frame(const char *line, const pg_frame *f) {
    static const char *const formats[] = {"bgr24", "rgb24", "gray8", "jpeg", "png", "f32chw"};
    char text[256];
    expect_u64(line, "seq", f->seq);
    expect_u64(line, "ts", (uint64_t)f->ts_ns);
    expect_u64(line, "w", (uint64_t)f->width);
    expect_u64(line, "h", (uint64_t)f->height);
    expect_u64(line, "stride", (uint64_t)f->stride);
    expect_u64(line, "pixel_bytes", f->pixels.size);
    expect_u64(line, "label", (uint64_t)f->label);
    expect_u64(line, "target", (uint64_t)f->target_class);
    expect_u64(line, "decision_class", (uint64_t)f->decision_class);
    expect_hex(line, "boot", (pg_bytes){f->boot, PG_BOOT_BYTES});
    expect_hex(line, "meta_hex", f->meta);
    expect_hex(line, "trace_hex", f->trace);
    cr_assert(json_text(line, "fmt", text, sizeof text));
    cr_expect_str_eq(text, formats[f->format]);
    if (json_text(line, "target", text, sizeof text))
        cr_expect_str_eq(text, f->target_name);
    if (json_text(line, "method", text, sizeof text))
        cr_expect_str_eq(text, f->method);
    if (strstr(line, "\"roi\"") != NULL)
        cr_expect(f->has_roi && f->roi[0] == 10 && f->roi[1] == 20.5 && f->roi[3] == 50);
}

Test(wire, every_vector_of_a_frame) {
    char path[1024], line[4096], file[128], drop[64], stream[256];
    vector_path(path, sizeof path, "vectors.json");
    FILE *json = fopen(path, "r");
    cr_assert_not_null(json, "%s", path);
    int seen = 0;
    while (fgets(line, sizeof line, json) != NULL) {
        if (!json_text(line, "drop", drop, sizeof drop))
            continue;
        cr_assert(json_text(line, "file", file, sizeof file));
        cr_assert(json_text(line, "stream", stream, sizeof stream));
        message m = load(file);
        pg_frame frame;
        pg_diag diag = {0};
        bool header_read;
        pg_drop got = pg_wire_decode(m.parts, m.count, &limits, &frame, &header_read, &diag);
        cr_expect_str_eq(pg_drop_label(got), drop, "%s: %s (%s)", file, pg_drop_label(got),
                         diag.text);
        cr_expect_str_eq(frame.stream, stream, "%s", file);
        cr_expect(got == PG_DROP_NONE || diag.text[0] != '\0', "%s: no sentence", file);
        if (got == PG_DROP_NONE)
            expect_frame(line, &frame);
        free(m.bytes);
        seen++;
    }
    fclose(json);
    cr_assert_geq(seen, 80);
}

/* Every good vector cut at every place, and with every bit flipped: never a crash, never an
 * allocation, and never a frame whose pixels are not inside the message. */
Test(wire, mutations_of_good_frames) {
    static const char *const good[] = {"frame_bgr24.bin", "frame_jpeg_all_keys.bin",
                                       "frame_f32chw.bin", "frame_meta_8_deep.bin"};
    uint64_t before = pg_mem_get_stats().allocations;
    for (size_t g = 0; g < sizeof good / sizeof *good; g++) {
        message m = load(good[g]);
        pg_bytes parts[3] = {m.parts[0], m.parts[1], m.parts[2]};
        pg_frame frame;
        bool header_read;
        for (size_t cut = 0; cut < m.parts[1].size; cut++) {
            uint8_t *copy = malloc(cut + 1);
            memcpy(copy, m.parts[1].data, cut);
            parts[1] = (pg_bytes){copy, cut};
            cr_expect_eq(pg_wire_decode(parts, 3, &limits, &frame, &header_read, NULL),
                         PG_DROP_MALFORMED, "%s cut at %zu", good[g], cut);
            free(copy);
        }
        parts[1] = m.parts[1];
        for (size_t bit = 0; bit < 8 * m.parts[1].size; bit++) {
            uint8_t *byte = (uint8_t *)m.parts[1].data + bit / 8;
            *byte ^= (uint8_t)(1u << bit % 8);
            pg_drop drop = pg_wire_decode(parts, 3, &limits, &frame, &header_read, NULL);
            if (drop == PG_DROP_NONE)
                cr_expect(frame.width > 0 && frame.height > 0 && frame.stride >= 0);
            *byte ^= (uint8_t)(1u << bit % 8);
        }
        free(m.bytes);
    }
    cr_expect_eq(pg_mem_get_stats().allocations, before);
}

Test(wire, check_bounds_depth_and_nodes) {
    uint8_t deep[64];
    memset(deep, 0x91, sizeof deep);
    deep[8] = 0xc0;
    cr_expect(pg_wire_check((pg_bytes){deep, 9}, 8));
    cr_expect_not(pg_wire_check((pg_bytes){deep, 9}, 7));
    size_t many = PG_WIRE_NODES_MAX + 8;
    uint8_t *wide = malloc(many + 5);
    memcpy(wide, "\xdd\x00\x00", 3);
    wide[3] = (uint8_t)(many >> 8);
    wide[4] = (uint8_t)many;
    memset(wide + 5, 0xc0, many);
    cr_expect_not(pg_wire_check((pg_bytes){wide, many + 5}, 8));
    free(wide);
    cr_expect_not(pg_wire_check((pg_bytes){NULL, 0}, 8));
}

/* ---- results ---- */

static pg_explanation explanation(const float *map, int64_t h, int64_t w) {
    static const pg_layer_result layers[] = {{.name = "/conv", .kept = 3, .total = 4, .beta = 1.5f,
                                              .share = 0.5f}};
    pg_explanation e = {.n_top = 1, .why = "top1", .method = "parchgrad", .height = h, .width = w,
                        .map = map, .n_layers = 1, .layers = layers, .total_ns = 1000};
    e.top[0] = e.explained = (pg_top){.klass = 5, .name = "five", .probability = 0.5f};
    e.quality.mass_in_roi = NAN;
    e.transform[0] = e.transform[4] = 1;
    return e;
}

Test(wire, map_is_stored_within_half_a_step) {
    float positive[6] = {0, 0.1f, 0.5f, 3.0f, 2.9f, 0.01f}, mixed[4] = {-2, 0, 1, 2}, none[2] = {0};
    pg_wire_buffer buffer = {0};
    double scale;
    int zero;
    pg_explanation e = explanation(positive, 2, 3);
    cr_assert_eq(pg_wire_encode_map(&e, &buffer, &scale, &zero), PG_OK);
    cr_expect_eq(zero, 0);
    cr_expect_eq(buffer.data[3], 255);
    for (int i = 0; i < 6; i++)
        cr_expect_float_eq((buffer.data[i] - zero) * scale, (double)positive[i], scale * 0.51);
    e = explanation(mixed, 2, 2);
    cr_assert_eq(pg_wire_encode_map(&e, &buffer, &scale, &zero), PG_OK);
    cr_expect_eq(buffer.data[1], zero, "nothing stays nothing");
    for (int i = 0; i < 4; i++)
        cr_expect_float_eq((buffer.data[i] - zero) * scale, (double)mixed[i], scale * 0.51);
    e = explanation(none, 1, 2);
    cr_assert_eq(pg_wire_encode_map(&e, &buffer, &scale, &zero), PG_OK);
    cr_expect(buffer.data[0] == 0 && isfinite(scale) && scale > 0);
    pg_wire_buffer_free(&buffer);
}

Test(wire, header_is_one_value_and_takes_the_late_figures) {
    float map[4] = {0};
    pg_explanation e = explanation(map, 2, 2);
    pg_explain_options options = {0};
    pg_wire_context context = {&options, "ab", "", "f32", NULL};
    pg_frame frame = {.seq = UINT64_MAX, .ts_ns = 1, .has_decision = true, .decision_class = 5,
                      .meta = {(const uint8_t *)"\x93\x01\x02\x03", 4}};
    pg_wire_buffer buffer = {0};
    pg_wire_patches patches;
    cr_assert_eq(pg_wire_encode_header(&frame, &e, &context, 1, 0, &buffer, &patches), PG_OK);
    cr_expect(pg_wire_check((pg_bytes){buffer.data, buffer.size}, 5));
    cr_expect_not_null(memmem(buffer.data, buffer.size, "\xa4meta\x93\x01\x02\x03", 9));
    cr_expect_not_null(memmem(buffer.data, buffer.size, "\xa6" "agrees\xc3", 8));
    pg_wire_patch(&buffer, &patches, 0x0102030405060708, 2, 3);
    cr_expect_not_null(memmem(buffer.data, buffer.size, "\xa3" "age\xcf\1\2\3\4\5\6\7\10", 13));
    cr_expect(pg_wire_check((pg_bytes){buffer.data, buffer.size}, 5));
    uint64_t before = pg_mem_get_stats().allocations;
    cr_assert_eq(pg_wire_encode_header(&frame, &e, &context, 1, 0, &buffer, &patches), PG_OK);
    cr_expect_eq(pg_mem_get_stats().allocations, before, "the buffer is used again");
    pg_wire_buffer_free(&buffer);
}

Test(wire, params_tell_which_compat_switches_are_on) {
    static const char told[] = "\xa6" "compat\x92\xa5" "floor\xa4seed";
    float map[4] = {0};
    pg_explanation e = explanation(map, 2, 2);
    pg_explain_options options = {.prune.gamma = INFINITY};
    pg_wire_context context = {&options, "ab", "", "f32", NULL};
    pg_frame frame = {0};
    pg_wire_buffer buffer = {0};
    pg_wire_patches patches;
    e.method = "parchgrad";
    for (int on = 0; on < 2; on++) {
        options.prune.compat = on ? PG_COMPAT_seed | PG_COMPAT_floor : PG_COMPAT_NONE;
        cr_assert_eq(pg_wire_encode_header(&frame, &e, &context, 1, 0, &buffer, &patches), PG_OK);
        cr_expect(pg_wire_check((pg_bytes){buffer.data, buffer.size}, 5));
        cr_expect_eq(memmem(buffer.data, buffer.size, told, sizeof told - 1) != NULL, on);
        cr_expect_eq(memmem(buffer.data, buffer.size, "compat", 6) != NULL, on);
    }
    pg_wire_buffer_free(&buffer);
}

Test(wire, encoding_survives_lack_of_memory) {
    float map[4] = {0};
    pg_explanation e = explanation(map, 2, 2);
    pg_explain_options options = {0};
    pg_wire_context context = {&options, "ab", "", "f32", NULL};
    pg_frame frame = {0};
    pg_wire_buffer buffer = {0};
    pg_wire_patches patches;
    double scale;
    int zero;
    pg_mem_fail(0, -1);
    cr_expect_eq(pg_wire_encode_header(&frame, &e, &context, 1, 0, &buffer, &patches), PG_ENOMEM);
    cr_expect_eq(pg_wire_encode_map(&e, &buffer, &scale, &zero), PG_ENOMEM);
    cr_expect_eq(pg_wire_encode_error(PG_DROP_STALE, "late", &buffer), PG_ENOMEM);
    pg_mem_fail(0, 0);
    pg_wire_buffer_free(&buffer);
}
