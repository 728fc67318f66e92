#include "pipeline/labels.h"

#include <stdbool.h>
#include <inttypes.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/file_io.h"
#include "pipeline/utf8.h"

enum { LABEL_FILE_MAX = 16 << 20 };

struct pg_labels {
    char *text;         /* the file, line ends replaced by NUL */
    const char **names; /* [count], into text */
    int64_t count;
};

/* Names travel in headers and logs: text only. Returns the offending line (from 1) or 0. */
static int64_t bad_line(const uint8_t *s, size_t size) {
    int64_t line = 1;
    for (size_t i = 0; i < size;) {
        size_t n = pg_utf8_step(s + i, size - i, NULL);
        bool line_end = s[i] == '\n' || (s[i] == '\r' && i + 1 < size && s[i + 1] == '\n');
        if (n == 0 || s[i] == 0x7f || (s[i] < 0x20 && s[i] != '\t' && !line_end))
            return line;
        line += s[i] == '\n';
        i += n;
    }
    return 0;
}

static int64_t count_lines(const uint8_t *s, size_t size) {
    int64_t lines = 0;
    for (size_t i = 0; i < size; i++)
        lines += s[i] == '\n';
    return lines + (size > 0 && s[size - 1] != '\n');
}

static pg_err split(pg_labels *labels, const uint8_t *data, size_t size) {
    labels->text = pg_strndup((const char *)data, size);
    labels->names = pg_calloc((size_t)labels->count + 1, sizeof *labels->names);
    if (!labels->text || !labels->names)
        return PG_ENOMEM;
    char *at = labels->text, *end = at + size;
    for (int64_t i = 0; i < labels->count; i++) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop ? stop : end;
        labels->names[i] = at;
        if (stop > at && stop[-1] == '\r')
            stop[-1] = '\0';
        *stop = '\0';
        at = stop + (stop < end);
    }
    return PG_OK;
}

static pg_err parse(const char *path, const uint8_t *data, size_t size, int64_t classes,
                    pg_labels *labels, pg_diag *diag) {
    if (size >= 3 && memcmp(data, "\xef\xbb\xbf", 3) == 0) {
        data += 3;
        size -= 3;
    }
    int64_t bad = bad_line(data, size);
    if (bad)
        return pg_fail(diag, PG_ECONFIG, "%s:%" PRId64 ": not plain UTF-8 text", path, bad);
    labels->count = count_lines(data, size);
    if (labels->count != classes)
        return pg_fail(diag, PG_ECONFIG,
                       "%s: has %" PRId64 " lines, but the model has %" PRId64 " classes", path,
                       labels->count, classes);
    if (split(labels, data, size))
        return pg_fail(diag, PG_ENOMEM, "%s: no memory", path);
    return PG_OK;
}

pg_err pg_labels_load(const char *path, int64_t classes, pg_labels **out, pg_diag *diag) {
    uint8_t *data = NULL;
    size_t size = 0;
    *out = NULL;
    pg_err err = pg_file_read(path, LABEL_FILE_MAX, &data, &size, diag);
    if (err)
        return err == PG_EINPUT ? PG_ECONFIG : err;
    pg_labels *labels = pg_calloc(1, sizeof *labels);
    err = labels ? parse(path, data, size, classes, labels, diag)
                 : pg_fail(diag, PG_ENOMEM, "%s: no memory", path);
    pg_free(data);
    if (err)
        pg_labels_destroy(&labels);
    *out = labels;
    return err;
}

void pg_labels_destroy(pg_labels **labels) {
    if (!*labels)
        return;
    pg_free((*labels)->names);
    pg_free((*labels)->text);
    pg_free(*labels);
    *labels = NULL;
}

const char *pg_labels_name(const pg_labels *labels, int64_t klass) {
    if (!labels || klass < 0 || klass >= labels->count || labels->names[klass][0] == '\0')
        return NULL;
    return labels->names[klass];
}

int64_t pg_labels_find(const pg_labels *labels, const char *name) {
    if (!labels || name[0] == '\0')
        return -1;
    for (int64_t i = 0; i < labels->count; i++)
        if (strcmp(labels->names[i], name) == 0)
            return i;
    return -1;
}
