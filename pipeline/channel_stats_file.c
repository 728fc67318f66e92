/* The file, little-endian:
 *
 *   magic "PGSTATS\n" | u32 version | u32 convolutions | u64 bytes of the whole file
 *   u32 classes | u32 classes seen | model sha256 [32]
 *   per convolution: u32 length of name, name, u32 channels
 *   per class seen, ascending: u32 class, u32 0, u64 count, f64 mean [channels], f64 m2 [channels]
 *   sha256 of everything before [32]
 *
 * The length in front tells a cut file from a damaged one; the digest at the end finds every
 * flipped bit, before a single number is believed. */
#include "pipeline/channel_stats_file.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/file_io.h"

enum {
    VERSION = 1,
    HEADER_BYTES = 64,
    ROW_HEADER_BYTES = 16,
    NAME_MAX_BYTES = 65536,
    CONVS_MAX = 65536,
    CHANNELS_MAX = 1 << 24, /* of one convolution */
    CLASSES_MAX = 1 << 24,
};
static const char MAGIC[8] = {'P', 'G', 'S', 'T', 'A', 'T', 'S', '\n'};
static const uint64_t FILE_MAX = (uint64_t)8 << 30;

/* ---- writing ---- */

static uint8_t *put(uint8_t *at, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; i++)
        *at++ = (uint8_t)(value >> (8 * i));
    return at;
}

static uint8_t *put_doubles(uint8_t *at, const double *values, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        uint64_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        at = put(at, bits, 8);
    }
    return at;
}

static uint64_t file_bytes(const pg_channel_stats *s, uint32_t *seen) {
    uint64_t bytes = HEADER_BYTES + PG_SHA256_BYTES;
    *seen = 0;
    for (int i = 0; i < s->n_convs; i++)
        bytes += 8 + strlen(s->convs[i].name);
    for (int64_t k = 0; k < s->classes; k++)
        *seen += s->rows[k].count > 0;
    return bytes + *seen * (ROW_HEADER_BYTES + 16 * (uint64_t)s->channels);
}

static void encode(const pg_channel_stats *s, uint8_t *file, uint64_t bytes, uint32_t seen) {
    uint8_t *at = file;
    memcpy(at, MAGIC, sizeof MAGIC);
    at = put(at + sizeof MAGIC, VERSION, 4);
    at = put(at, (uint64_t)s->n_convs, 4);
    at = put(at, bytes, 8);
    at = put(at, (uint64_t)s->classes, 4);
    at = put(at, seen, 4);
    memcpy(at, s->model_sha256, 32);
    at += 32;
    for (int i = 0; i < s->n_convs; i++) {
        size_t length = strlen(s->convs[i].name);
        at = put(at, length, 4);
        memcpy(at, s->convs[i].name, length);
        at = put(at + length, (uint64_t)s->convs[i].channels, 4);
    }
    for (int64_t k = 0; k < s->classes; k++) {
        if (s->rows[k].count == 0)
            continue;
        at = put(at, (uint64_t)k, 8);
        at = put(at, s->rows[k].count, 8);
        at = put_doubles(at, s->rows[k].values, 2 * s->channels);
    }
    pg_sha256_of(file, (size_t)(at - file), at);
    pg_assert((uint64_t)(at - file) + PG_SHA256_BYTES == bytes);
}

pg_err pg_channel_stats_save(const pg_channel_stats *s, const char *path, pg_diag *diag) {
    uint32_t seen = 0;
    uint64_t bytes = file_bytes(s, &seen);
    if (bytes > FILE_MAX)
        return pg_fail(diag, PG_EFAIL, "%s: the statistics would exceed 8 GiB", path);
    uint8_t *file = pg_malloc(bytes);
    if (!file)
        return pg_fail(diag, PG_ENOMEM, "%s: no memory for %" PRIu64 " bytes", path, bytes);
    encode(s, file, bytes, seen);
    pg_err err = pg_file_write(path, file, bytes, diag);
    pg_free(file);
    return err;
}

/* ---- reading ---- */

typedef struct reader {
    const uint8_t *at;
    size_t left;
} reader;

/* An unsigned number of `bytes` bytes; false at the end. */
static bool get(reader *r, int bytes, uint64_t *value) {
    if (r->left < (size_t)bytes)
        return false;
    *value = 0;
    for (int i = 0; i < bytes; i++)
        *value |= (uint64_t)r->at[i] << (8 * i);
    r->at += bytes;
    r->left -= (size_t)bytes;
    return true;
}

typedef struct header {
    uint64_t version, n_convs, bytes, classes, seen;
    const uint8_t *model_sha256;
} header;

/* What can be told before the digest is checked; in this order, so that each case gets the
 * sentence that helps. */
static pg_err read_header(const uint8_t *data, size_t size, header *h, pg_diag *diag) {
    if (size < sizeof MAGIC || memcmp(data, MAGIC, sizeof MAGIC) != 0)
        return pg_fail(diag, PG_EMODEL, "is not a statistics file of parchgradd%s",
                       size < sizeof MAGIC ? ", or cut within its first bytes" : "");
    reader r = {data + sizeof MAGIC, size - sizeof MAGIC};
    if (!get(&r, 4, &h->version))
        return pg_fail(diag, PG_EMODEL, "the statistics file is cut: only %zu bytes", size);
    if (h->version > VERSION)
        return pg_fail(diag, PG_EMODEL,
                       "the statistics file has format version %" PRIu64 ", this program reads up "
                       "to %d: it was written by a newer parchgradd, or is damaged",
                       h->version, VERSION);
    if (!get(&r, 4, &h->n_convs) || !get(&r, 8, &h->bytes) || !get(&r, 4, &h->classes) ||
        !get(&r, 4, &h->seen) || size < HEADER_BYTES + PG_SHA256_BYTES || size < h->bytes)
        return pg_fail(diag, PG_EMODEL, "the statistics file is cut: %zu bytes are left of it",
                       size);
    if (size > h->bytes)
        return pg_fail(diag, PG_EMODEL,
                       "the statistics file is damaged: %zu bytes, but its header says %" PRIu64,
                       size, h->bytes);
    uint8_t digest[PG_SHA256_BYTES];
    pg_sha256_of(data, size - PG_SHA256_BYTES, digest);
    if (memcmp(digest, data + size - PG_SHA256_BYTES, sizeof digest) != 0)
        return pg_fail(diag, PG_EMODEL, "the statistics file is damaged: its checksum is wrong");
    if (h->version != VERSION || h->n_convs > CONVS_MAX || h->classes > CLASSES_MAX)
        return pg_fail(diag, PG_EMODEL, "the statistics file holds numbers out of bounds");
    h->model_sha256 = r.at;
    return PG_OK;
}

static bool read_convs(pg_channel_stats *s, reader *r) {
    for (int i = 0; i < s->n_convs; i++) {
        uint64_t length = 0, channels = 0;
        if (!get(r, 4, &length) || length > NAME_MAX_BYTES || length > r->left)
            return false;
        s->convs[i].name = pg_strndup((const char *)r->at, length);
        r->at += length;
        r->left -= length;
        if (!s->convs[i].name || !get(r, 4, &channels) || channels < 1 || channels > CHANNELS_MAX)
            return false;
        s->convs[i].channels = (int64_t)channels;
        s->convs[i].offset = s->channels;
        s->channels += (int64_t)channels;
    }
    return true;
}

/* The caller has checked that 16 bytes per channel are left. */
static bool read_values(pg_channel_stats *s, reader *r, double *values) {
    for (int64_t j = 0; j < 2 * s->channels; j++) {
        uint64_t bits = 0;
        get(r, 8, &bits);
        memcpy(&values[j], &bits, sizeof bits);
        if (!isfinite(values[j]) || (j >= s->channels && values[j] < 0))
            return false;
    }
    return true;
}

static bool read_rows(pg_channel_stats *s, reader *r, uint64_t seen) {
    uint64_t row_bytes = 16 * (uint64_t)s->channels;
    int64_t previous = -1;
    for (uint64_t i = 0; i < seen; i++) {
        uint64_t klass = 0, count = 0;
        if (!get(r, 8, &klass) || !get(r, 8, &count) || r->left < row_bytes ||
            klass >= (uint64_t)s->classes || (int64_t)klass <= previous || count < 1 ||
            count > (uint64_t)1 << 48)
            return false;
        previous = (int64_t)klass;
        pg_stats_row *row = pg_stats_row_of(s, previous);
        if (!row || !read_values(s, r, row->values))
            return false;
        row->count = count;
    }
    return r->left == 0;
}

static pg_err decode(const uint8_t *data, size_t size, pg_channel_stats **out, pg_diag *diag) {
    header h = {0};
    pg_err err = read_header(data, size, &h, diag);
    if (err)
        return err;
    err = pg_stats_alloc((int)h.n_convs, (int64_t)h.classes, h.model_sha256, out, diag);
    if (err)
        return err;
    reader r = {data + HEADER_BYTES, size - HEADER_BYTES - PG_SHA256_BYTES};
    if (!read_convs(*out, &r) || !read_rows(*out, &r, h.seen))
        return pg_fail(diag, PG_EMODEL,
                       "the statistics file has a right checksum, but holds numbers out of bounds");
    return pg_channel_stats_seal(*out, diag);
}

pg_err pg_channel_stats_load(const char *path, pg_channel_stats **out, uint8_t sha256[32],
                             pg_diag *diag) {
    uint8_t *data = NULL;
    size_t size = 0;
    *out = NULL;
    pg_err err = pg_file_read(path, FILE_MAX, &data, &size, diag);
    if (err)
        return err == PG_EINPUT ? PG_EMODEL : err;
    err = decode(data, size, out, diag);
    if (!err && sha256)
        pg_sha256_of(data, size, sha256);
    pg_free(data);
    if (!err)
        return PG_OK;
    pg_channel_stats_destroy(out);
    return pg_fail_in(diag, err, "%s", path);
}
