/* A recording has no index: lengths lead from part to part. One walk over them finds every frame
 * and everything that can be wrong with the file as a whole; what is wrong inside a frame is found
 * when it is read, and costs that frame only. Nothing is believed: a length beyond the wire's own
 * limits means that the walk has lost its way. */
#include "daemon/recording.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/mem.h"

static const char MAGIC[8] = {'P', 'G', 'F', 'R', 'A', 'M', 'E', '1'};
enum { LENGTH = 4 }; /* bytes of a length, little-endian */

typedef struct entry {
    uint64_t at;                   /* of the first part's length */
    uint32_t sizes[PG_WIRE_PARTS]; /* of the parts */
} entry;

struct pg_recording {
    int fd;
    uint64_t bytes;
    const char *path; /* borrowed */
    pg_wire_limits limits;
    char stream[PG_STREAM_MAX + 1];
    entry *items;
    size_t count, room;
    pg_wire_buffer buffer; /* the last frame */
};

/* False: an error (errno), or the file ends before (errno 0). */
static bool read_at(int fd, uint64_t at, void *to, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = pread(fd, (uint8_t *)to + done, size - done, (off_t)(at + done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            errno = n < 0 ? errno : 0;
            return false;
        }
        done += (size_t)n;
    }
    return true;
}

static pg_err cannot_read(const pg_recording *r, pg_diag *diag) {
    return pg_fail(diag, PG_EFAIL, "%s: %s", r->path,
                   errno ? strerror(errno) : "is shorter than it was a moment ago");
}

static uint64_t end_of(const entry *e) {
    uint64_t end = e->at;
    for (int p = 0; p < PG_WIRE_PARTS; p++)
        end += LENGTH + (uint64_t)e->sizes[p];
    return end;
}

/* ---- the walk ---- */

static pg_err cut_off(const pg_recording *r, size_t number, const entry *e, pg_diag *diag) {
    return pg_fail(diag, PG_EINPUT,
                   "%s: the recording is cut off in frame %zu, which begins at byte %" PRIu64
                   " of %" PRIu64 "; a copy of its first %" PRIu64 " bytes is whole",
                   r->path, number, e->at, r->bytes, e->at);
}

/* The lengths of the frame at e->at; `number` counts the file's frames from 1. */
static pg_err walk_frame(const pg_recording *r, size_t number, entry *e, pg_diag *diag) {
    const uint64_t most[PG_WIRE_PARTS] = {
        PG_STREAM_MAX, PG_WIRE_HEADER_BYTES + 2 * r->limits.meta_bytes, r->limits.frame_bytes};
    static const char *const names[PG_WIRE_PARTS] = {"a stream id", "a header", "a pixel part"};
    uint64_t at = e->at;
    for (int p = 0; p < PG_WIRE_PARTS; p++) {
        uint8_t b[LENGTH];
        if (r->bytes - at < LENGTH)
            return cut_off(r, number, e, diag);
        if (!read_at(r->fd, at, b, LENGTH))
            return cannot_read(r, diag);
        uint32_t size = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        if (size > most[p])
            return pg_fail(diag, PG_EINPUT,
                           "%s: frame %zu, at byte %" PRIu64 ", has %s of %" PRIu32
                           " bytes where at most %" PRIu64 " may be: the file is damaged%s",
                           r->path, number, e->at, names[p], size, most[p],
                           p == 2 ? ", or limits.frame_bytes too small" : "");
        at += LENGTH;
        if (r->bytes - at < size)
            return cut_off(r, number, e, diag);
        at += size;
        e->sizes[p] = size;
    }
    return PG_OK;
}

static pg_err append(pg_recording *r, const entry *e, pg_diag *diag) {
    if (r->count == r->room) {
        size_t room = r->room ? 2 * r->room : 256;
        entry *grown = pg_realloc(r->items, room * sizeof *grown);
        if (grown == NULL)
            return pg_fail(diag, PG_ENOMEM, "%s: no memory for its list of frames", r->path);
        r->items = grown;
        r->room = room;
    }
    r->items[r->count++] = *e;
    return PG_OK;
}

/* Takes the frame if it is of the stream. `chosen`: the caller named that; else the first frame's.
 */
static pg_err take(pg_recording *r, size_t number, const entry *e, bool chosen, pg_diag *diag) {
    char stream[PG_STREAM_MAX + 1] = "";
    if (!read_at(r->fd, e->at + LENGTH, stream, e->sizes[0]))
        return cannot_read(r, diag);
    if (!pg_wire_stream_id_valid((const uint8_t *)stream, e->sizes[0]))
        return pg_fail(diag, PG_EINPUT,
                       "%s: frame %zu, at byte %" PRIu64 ", has no valid stream id: the file is "
                       "damaged",
                       r->path, number, e->at);
    if (r->stream[0] == '\0')
        memcpy(r->stream, stream, sizeof stream);
    if (strcmp(stream, r->stream) == 0)
        return append(r, e, diag);
    return chosen ? PG_OK
                  : pg_fail(diag, PG_ECONFIG,
                            "%s: holds several streams, '%s' and '%s' among them: choose one with "
                            "--stream",
                            r->path, r->stream, stream);
}

static pg_err walk(pg_recording *r, bool chosen, pg_diag *diag) {
    char magic[sizeof MAGIC];
    if (r->bytes < sizeof magic || !read_at(r->fd, 0, magic, sizeof magic) ||
        memcmp(magic, MAGIC, sizeof magic) != 0)
        return pg_fail(
            diag, PG_EINPUT,
            "%s: is no recording, which begins with %.8s; `parchgrad record` makes one of "
            "a video or a camera",
            r->path, MAGIC);
    entry e = {.at = sizeof magic};
    size_t number = 0;
    for (; e.at < r->bytes; e.at = end_of(&e)) {
        pg_err err = walk_frame(r, ++number, &e, diag);
        if (err || (err = take(r, number, &e, chosen, diag)))
            return err;
    }
    if (number == 0)
        return pg_fail(diag, PG_EINPUT, "%s: the recording holds no frame", r->path);
    return r->count > 0
               ? PG_OK
               : pg_fail(diag, PG_ECONFIG, "%s: holds no frame of stream '%s'", r->path, r->stream);
}

/* ---- life ---- */

static pg_err open_file(pg_recording *r, pg_diag *diag) {
    struct stat info;
    r->fd = open(r->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe must not wait */
    if (r->fd < 0 || fstat(r->fd, &info) != 0)
        return pg_fail(diag, PG_ECONFIG, "%s: %s", r->path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return pg_fail(diag, PG_ECONFIG, "%s: is neither a folder nor a file", r->path);
    r->bytes = (uint64_t)info.st_size;
    return PG_OK;
}

pg_err pg_recording_open(const char *path, const char *stream, const pg_wire_limits *limits,
                         pg_recording **out, pg_diag *diag) {
    pg_recording *r = *out = pg_calloc(1, sizeof *r);
    if (r == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for a recording");
    r->fd = -1;
    r->path = path;
    r->limits = *limits;
    pg_err err = open_file(r, diag);
    if (!err && stream && strlen(stream) > PG_STREAM_MAX)
        err = pg_fail(diag, PG_ECONFIG, "--stream: no id has more than %d bytes", PG_STREAM_MAX);
    if (!err && stream)
        memcpy(r->stream, stream, strlen(stream) + 1);
    if (!err)
        err = walk(r, stream != NULL, diag);
    if (err)
        pg_recording_close(out);
    return err;
}

void pg_recording_close(pg_recording **recording) {
    pg_recording *r = *recording;
    if (r == NULL)
        return;
    if (r->fd >= 0)
        close(r->fd);
    pg_free(r->items);
    pg_wire_buffer_free(&r->buffer);
    pg_free(r);
    *recording = NULL;
}

size_t pg_recording_count(const pg_recording *r) { return r->count; }

pg_err pg_recording_read(pg_recording *r, size_t index, pg_frame *frame, pg_diag *diag) {
    const entry *e = &r->items[index];
    size_t size = (size_t)(end_of(e) - e->at), at = 0;
    if (!pg_wire_buffer_reserve(&r->buffer, size))
        return pg_fail(diag, PG_ENOMEM, "no memory for a frame of %zu bytes", size);
    if (!read_at(r->fd, e->at, r->buffer.data, size)) /* PG_EFAIL: not this frame's fault */
        return cannot_read(r, diag);
    pg_bytes parts[PG_WIRE_PARTS];
    for (int p = 0; p < PG_WIRE_PARTS; p++) {
        parts[p] = (pg_bytes){r->buffer.data + at + LENGTH, e->sizes[p]};
        at += LENGTH + (size_t)e->sizes[p];
    }
    bool header_read;
    return pg_wire_decode(parts, PG_WIRE_PARTS, &r->limits, frame, &header_read, diag) ? PG_EINPUT
                                                                                       : PG_OK;
}
