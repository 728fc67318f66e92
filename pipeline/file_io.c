#include "pipeline/file_io.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/mem.h"

/* Reads until `size` bytes or the end; returns what was read, -1 on error. */
static ssize_t read_all(int fd, uint8_t *data, size_t size) {
    size_t done = 0;
    while (done < size) {
        ssize_t n = read(fd, data + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        if (n == 0)
            break;
        done += (size_t)n;
    }
    return (ssize_t)done;
}

pg_err pg_file_read_open(int fd, const char *path, uint64_t limit, uint8_t **data, size_t *size,
                         pg_diag *diag) {
    struct stat info;
    if (fstat(fd, &info) != 0)
        return pg_fail(diag, PG_EFAIL, "%s: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return pg_fail(diag, PG_ECONFIG, "%s: is not a regular file", path);
    if ((uint64_t)info.st_size > limit)
        return pg_fail(diag, PG_EINPUT, "%s: %lld bytes exceed the limit of %llu", path,
                       (long long)info.st_size, (unsigned long long)limit);
    size_t want = (size_t)info.st_size;
    uint8_t *block = pg_malloc(want ? want : 1);
    if (!block)
        return pg_fail(diag, PG_ENOMEM, "%s: no memory for %zu bytes", path, want);
    ssize_t got = read_all(fd, block, want);
    if (got < 0) {
        pg_free(block);
        return pg_fail(diag, PG_EFAIL, "%s: %s", path, strerror(errno));
    }
    *data = block;
    *size = (size_t)got;
    return PG_OK;
}

pg_err pg_file_read(const char *path, uint64_t limit, uint8_t **data, size_t *size, pg_diag *diag) {
    /* O_NONBLOCK: opening a named pipe must not wait for a writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return pg_fail(diag, PG_ECONFIG, "%s: %s", path, strerror(errno));
    pg_err err = pg_file_read_open(fd, path, limit, data, size, diag);
    close(fd);
    return err;
}

static int write_all(int fd, const uint8_t *data, size_t size) {
    while (size) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

/* The rename itself is durable only when the directory is on disk too. */
static int sync_directory(const char *path) {
    char directory[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash)
        snprintf(directory, sizeof directory, ".");
    else
        snprintf(directory, sizeof directory, "%.*s", slash == path ? 1 : (int)(slash - path),
                 path);
    int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int result = fsync(fd);
    if (result != 0 && (errno == EINVAL || errno == EROFS))
        result = 0; /* file systems that have nothing to sync here say so */
    int kept = errno;
    close(fd);
    errno = kept;
    return result;
}

pg_err pg_file_write(const char *path, const void *data, size_t size, pg_diag *diag) {
    char temporary[PATH_MAX];
    int n = snprintf(temporary, sizeof temporary, "%s.tmp", path);
    if (n < 0 || (size_t)n >= sizeof temporary)
        return pg_fail(diag, PG_EFAIL, "%s: the name is too long", path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return pg_fail(diag, PG_EFAIL, "%s: %s", temporary, strerror(errno));
    int failed = write_all(fd, data, size) != 0 || fsync(fd) != 0;
    int why = errno;
    if (close(fd) != 0 && !failed) {
        failed = 1;
        why = errno;
    }
    if (!failed && rename(temporary, path) != 0) {
        failed = 1;
        why = errno;
    }
    if (failed) {
        unlink(temporary);
        return pg_fail(diag, PG_EFAIL, "%s: %s", path, strerror(why));
    }
    if (sync_directory(path) != 0)
        return pg_fail(diag, PG_EFAIL, "%s: written, but its directory: %s", path, strerror(errno));
    return PG_OK;
}
