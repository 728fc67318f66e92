/* The header of a .npy file is a Python literal: {'descr': '<f4', 'fortran_order': False, 'shape':
 * (3, 224, 224), }. The reader below takes exactly this grammar, keys in any order, and refuses
 * everything else; it never evaluates anything. */
#include "pipeline/npy.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/file_io.h"

static const uint8_t MAGIC[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

typedef struct cursor {
    const char *at, *end;
} cursor;

static void skip_spaces(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\t'))
        c->at++;
}

/* Takes `token` after optional spaces. */
static bool take(cursor *c, const char *token) {
    skip_spaces(c);
    size_t length = strlen(token);
    if ((size_t)(c->end - c->at) < length || memcmp(c->at, token, length) != 0)
        return false;
    c->at += length;
    return true;
}

static bool take_number(cursor *c, int64_t *value) {
    skip_spaces(c);
    int64_t v = 0;
    const char *start = c->at;
    for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
        if (v > ((int64_t)1 << 40))
            return false;
        v = v * 10 + (*c->at - '0');
    }
    *value = v;
    return c->at > start;
}

static bool take_shape(cursor *c, pg_shape *shape) {
    shape->rank = 0;
    if (!take(c, "("))
        return false;
    while (!take(c, ")")) {
        if (shape->rank == PG_MAX_RANK || !take_number(c, &shape->dims[shape->rank++]))
            return false;
        if (!take(c, ",")) {
            /* (3) without a comma is not a tuple, but a lone dimension ends like any other */
            return take(c, ")");
        }
    }
    return true;
}

static bool parse_header(cursor c, bool *is_f4, bool *fortran, pg_shape *shape) {
    bool seen[3] = {false, false, false};
    if (!take(&c, "{"))
        return false;
    while (!take(&c, "}")) {
        if (!seen[0] && take(&c, "'descr':")) {
            seen[0] = true;
            *is_f4 = take(&c, "'<f4'");
            if (!*is_f4) {
                skip_spaces(&c);
                const char *close =
                    c.end - c.at > 1 ? memchr(c.at + 1, '\'', (size_t)(c.end - c.at - 1)) : NULL;
                if (c.at >= c.end || *c.at != '\'' || !close)
                    return true; /* a structured type: not float32, whatever else it says */
                c.at = close + 1;
            }
        } else if (!seen[1] && take(&c, "'fortran_order':")) {
            seen[1] = true;
            *fortran = take(&c, "True");
            if (!*fortran && !take(&c, "False"))
                return false;
        } else if (!seen[2] && take(&c, "'shape':")) {
            seen[2] = true;
            if (!take_shape(&c, shape))
                return false;
        } else {
            return false;
        }
        if (!take(&c, ",")) {
            if (!take(&c, "}"))
                return false;
            break;
        }
    }
    skip_spaces(&c);
    return seen[0] && seen[1] && seen[2] && c.at == c.end;
}

bool pg_npy_is(const uint8_t *data, size_t size) {
    return size >= sizeof MAGIC && memcmp(data, MAGIC, sizeof MAGIC) == 0;
}

pg_err pg_npy_parse(const uint8_t *data, size_t size, pg_npy *out, pg_diag *diag) {
    *out = (pg_npy){.values = NULL};
    if (!pg_npy_is(data, size))
        return pg_fail(diag, PG_EINPUT, "not a .npy file");
    if (size < 12)
        return pg_fail(diag, PG_EINPUT, "the .npy file is cut in its header");
    int major = data[6];
    if (major < 1 || major > 3)
        return pg_fail(diag, PG_EINPUT, ".npy version %d is not known", major);
    size_t prefix = major == 1 ? 10 : 12;
    size_t length = (size_t)data[8] | (size_t)data[9] << 8;
    if (major > 1)
        length |= (size_t)data[10] << 16 | (size_t)data[11] << 24;
    if (length > size - prefix)
        return pg_fail(diag, PG_EINPUT, "the .npy file is cut in its header");
    bool is_f4 = false, fortran = false;
    const char *text = (const char *)data + prefix;
    if (!parse_header((cursor){text, text + length}, &is_f4, &fortran, &out->shape))
        return pg_fail(diag, PG_EINPUT, "the header of the .npy file is malformed");
    if (!is_f4)
        return pg_fail(diag, PG_EINPUT, "the .npy file does not hold float32 ('<f4')");
    if (fortran)
        return pg_fail(diag, PG_EINPUT, "the .npy file is in Fortran order");
    int64_t count = pg_shape_count(&out->shape);
    if (out->shape.rank < 1 || count < 0)
        return pg_fail(diag, PG_EINPUT, "the shape of the .npy file is out of bounds");
    size_t have = size - prefix - length;
    if ((uint64_t)count * 4 != have)
        return pg_fail(diag, PG_EINPUT,
                       "the .npy file holds %zu bytes of values, its shape says "
                       "%" PRId64,
                       have, count * 4);
    out->values = data + prefix + length;
    out->bytes = have;
    return PG_OK;
}

pg_err pg_npy_parse_input(const uint8_t *data, size_t size, pg_npy *out, pg_diag *diag) {
    pg_err err = pg_npy_parse(data, size, out, diag);
    if (err)
        return err;
    pg_shape *s = &out->shape;
    if (s->rank == 4 && s->dims[0] == 1) {
        memmove(s->dims, s->dims + 1, 3 * sizeof s->dims[0]);
        s->rank = 3;
    }
    if (s->rank == 3 && (s->dims[0] == 3 || s->dims[0] == 1) && s->dims[1] > 0 && s->dims[2] > 0)
        return PG_OK;
    char shape[PG_SHAPE_TEXT];
    return pg_fail(diag, PG_EINPUT, "the .npy file has shape %s, wanted is [3,H,W] or [1,3,H,W]",
                   pg_shape_text(s, shape));
}

pg_err pg_npy_save(const char *path, const pg_shape *shape, const float *values, pg_diag *diag) {
    int64_t count = pg_shape_count(shape);
    pg_assert(count >= 0);
    char dims[PG_SHAPE_TEXT] = "";
    for (int i = 0, used = 0; i < shape->rank; i++)
        used += snprintf(dims + used, sizeof dims - (size_t)used, "%s%" PRId64 "%s", i ? " " : "",
                         shape->dims[i], i + 1 < shape->rank || i == 0 ? "," : "");
    char header[320];
    int text = snprintf(header, sizeof header,
                        "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", dims);
    /* NumPy aligns the values to 64 bytes with spaces and ends the header with a newline. */
    size_t length = ((size_t)text + 1 + 10 + 63) / 64 * 64 - 10;
    size_t bytes = (size_t)count * 4, total = 10 + length + bytes;
    uint8_t *file = pg_malloc(total);
    if (!file)
        return pg_fail(diag, PG_ENOMEM, "%s: no memory for %zu bytes", path, total);
    memcpy(file, MAGIC, 6);
    file[6] = 1;
    file[7] = 0;
    file[8] = (uint8_t)(length & 255);
    file[9] = (uint8_t)(length >> 8);
    memset(file + 10, ' ', length);
    memcpy(file + 10, header, (size_t)text);
    file[9 + length] = '\n';
    if (bytes)
        memcpy(file + 10 + length, values, bytes);
    pg_err err = pg_file_write(path, file, total, diag);
    pg_free(file);
    return err;
}
