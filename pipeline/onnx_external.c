#include "pipeline/onnx_external.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/mem.h"
#include "pipeline/file_io.h"

static int open_folder(const char *path) {
    const char *slash = strrchr(path, '/');
    size_t length = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    char *folder = length == 0 ? pg_strdup(".") : pg_strndup(path, length);
    int fd = folder == NULL ? -1 : open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    pg_free(folder);
    return fd;
}

void pg_onnx_external_open(pg_onnx_external *external, const char *path, pg_span model,
                           uint64_t limit, pg_pool *load) {
    *external = (pg_onnx_external){
        .open = true, .folder = path != NULL ? open_folder(path) : -1, .limit = limit};
    pg_names_init(&external->names, load);
    pg_sha256_init(&external->sha);
    pg_sha256_update(&external->sha, model.data, model.size);
}

void pg_onnx_external_digest(pg_onnx_external *external, uint8_t digest[PG_SHA256_BYTES]) {
    pg_sha256_final(&external->sha, digest);
}

void pg_onnx_external_close(pg_onnx_external *external) {
    if (!external->open)
        return;
    for (size_t i = 0; i < external->names.count; i++)
        pg_free((void *)external->files[i].data);
    pg_free(external->files);
    pg_names_clear(&external->names);
    if (external->folder >= 0)
        close(external->folder);
    *external = (pg_onnx_external){.folder = -1};
}

/* ---- one file ---- */

/* Every component must be a plain name: with that, and no link followed, there is no way out. */
static bool path_ok(pg_span path) {
    if (path.size == 0 || !pg_onnx_name_ok(path))
        return false;
    for (size_t start = 0; start <= path.size;) {
        const uint8_t *part = path.data + start;
        const uint8_t *slash = memchr(part, '/', path.size - start);
        size_t size = slash != NULL ? (size_t)(slash - part) : path.size - start;
        if (size == 0 || (size <= 2 && memcmp(part, "..", size) == 0))
            return false;
        start += size + 1;
    }
    return true;
}

/* Opens it below `folder`, component by component, following no link; -1 with errno. */
static int open_below(int folder, char *path) {
    int at = folder;
    for (char *slash; at >= 0 && (slash = strchr(path, '/')) != NULL; path = slash + 1) {
        *slash = '\0';
        int next = openat(at, path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (at != folder)
            close(at);
        at = next;
    }
    if (at < 0)
        return -1;
    /* O_NONBLOCK: opening a named pipe must not wait for a writer */
    int fd = openat(at, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    int kept = errno;
    if (at != folder)
        close(at);
    errno = kept;
    return fd;
}

static pg_err read_open(pg_onnx_external *x, int fd, const char *path, pg_span *out,
                        pg_diag *diag) {
    struct stat info;
    if (fstat(fd, &info) != 0)
        return pg_fail(diag, PG_EFAIL, "%s: %s", path, strerror(errno));
    if (S_ISREG(info.st_mode) && info.st_nlink != 1)
        return pg_fail(diag, PG_EMODEL, "%s: has a second name (a hard link)", path);
    if ((uint64_t)info.st_size <= x->limit)
        pg_mem_budget_more((PG_ONNX_LOAD_FACTOR + 1) * (size_t)info.st_size);
    uint8_t *data;
    size_t size;
    pg_err err = pg_file_read_open(fd, path, x->limit, &data, &size, diag);
    if (err != PG_OK)
        return err == PG_ECONFIG || err == PG_EINPUT ? PG_EMODEL : err;
    x->limit -= size;
    x->bytes += size;
    uint8_t sizes[8];
    for (int i = 0; i < 8; i++)
        sizes[i] = (uint8_t)((uint64_t)size >> (8 * i));
    pg_sha256_update(&x->sha, sizes, sizeof sizes);
    pg_sha256_update(&x->sha, data, size);
    *out = (pg_span){data, size};
    return PG_OK;
}

static pg_err read_file(pg_onnx_external *x, const char *path, pg_span *out, pg_diag *diag) {
    char *copy = pg_strdup(path);
    if (copy == NULL)
        return pg_fail(diag, PG_ENOMEM, "no memory for the model");
    int fd = open_below(x->folder, copy);
    int why = errno;
    pg_free(copy);
    if (fd < 0)
        return pg_fail(diag, PG_EMODEL, "%s: %s", path,
                       why == ELOOP ? "is a symbolic link" : strerror(why));
    pg_err err = read_open(x, fd, path, out, diag);
    close(fd);
    return err;
}

static bool make_room(pg_onnx_external *x) {
    if (x->names.count < x->room)
        return true;
    size_t room = x->room == 0 ? 8 : x->room * 2;
    pg_span *files = pg_realloc(x->files, room * sizeof *files);
    if (files == NULL)
        return false;
    x->files = files;
    x->room = room;
    return true;
}

static pg_err find_file(pg_onnx_external *x, pg_span path, pg_span *out, pg_diag *diag) {
    int number = pg_names_find(&x->names, (const char *)path.data, path.size);
    if (number >= 0) {
        *out = x->files[number];
        return PG_OK;
    }
    char *text = pg_strndup((const char *)path.data, path.size);
    if (text == NULL || !make_room(x)) {
        pg_free(text);
        return pg_fail(diag, PG_ENOMEM, "no memory for the model");
    }
    pg_err err = read_file(x, text, out, diag);
    pg_free(text);
    if (err != PG_OK)
        return err;
    number = pg_names_enter(&x->names, (const char *)path.data, path.size);
    if (number < 0) {
        pg_free((void *)out->data);
        return pg_fail(diag, PG_ENOMEM, "no memory for the model");
    }
    x->files[number] = *out;
    return PG_OK;
}

/* ---- a part of it ---- */

/* Up to 18 decimal digits, so that no sum overflows; nothing else. */
static bool number_of(pg_span text, uint64_t *out) {
    *out = 0;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return false;
        *out = *out * 10 + (uint64_t)(text.data[i] - '0');
    }
    return text.size <= 18;
}

pg_err pg_onnx_external_read(pg_onnx_external *x, const pg_onnx_location *location, pg_span *out,
                             pg_diag *diag) {
    uint64_t offset, length;
    pg_span file;
    if (!path_ok(location->path))
        return pg_fail(diag, PG_EMODEL,
                       "its data is said to lie in a file that is not a plain path "
                       "below the model's folder");
    if (!number_of(location->offset, &offset) || !number_of(location->length, &length))
        return pg_fail(diag, PG_EMODEL, "the place of its external data is not a number");
    if (x->folder < 0)
        return pg_fail(diag, PG_EMODEL,
                       "its data lies in another file, but the model has no folder");
    pg_err err = find_file(x, location->path, &file, diag);
    if (err != PG_OK)
        return err;
    uint64_t rest = offset <= file.size ? file.size - offset : 0;
    if (location->length.size == 0)
        length = rest;
    if (offset > file.size || length > rest)
        return pg_fail(diag, PG_EMODEL,
                       "%.*s: has %zu bytes, but bytes %" PRIu64 " to %" PRIu64 " are asked for",
                       (int)location->path.size, (const char *)location->path.data, file.size,
                       offset, offset + length);
    *out = (pg_span){file.data + offset, (size_t)length};
    return PG_OK;
}
