#include "pipeline/tune.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kernels/mem.h"
#include "pipeline/file_io.h"
#include "pipeline/sha256.h"

enum { FORMAT = 6, FILE_MAX = 1 << 20 };
static const uint64_t BUDGET_NS = 2000000000; /* of measuring, per model */

/* ---- where ---- */

/* The folder, made if its parent is there or can be made. */
static bool folder(const char *dir, char out[PG_TUNE_PATH_MAX]) {
    const char *service = getenv("CACHE_DIRECTORY"), *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    int n = 0;
    if (dir != NULL && dir[0] != '\0')
        n = snprintf(out, PG_TUNE_PATH_MAX, "%s", dir);
    else if (service != NULL && service[0] == '/') /* systemd: a list separated by colons */
        n = snprintf(out, PG_TUNE_PATH_MAX, "%.*s", (int)strcspn(service, ":"), service);
    else if (cache != NULL && cache[0] == '/')
        n = snprintf(out, PG_TUNE_PATH_MAX, "%s/parchgradd", cache);
    else if (home != NULL && home[0] == '/')
        n = snprintf(out, PG_TUNE_PATH_MAX, "%s/.cache/parchgradd", home);
    if (n <= 0 || n >= PG_TUNE_PATH_MAX - 80)
        return false;
    char *slash = strrchr(out, '/');
    if (slash != NULL && slash != out) {
        *slash = '\0';
        (void)mkdir(out, 0700);
        *slash = '/';
    }
    (void)mkdir(out, 0700);
    return true;
}

static void read_processor(char out[256]) {
    char line[512];
    snprintf(out, 256, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "re");
    while (f != NULL && fgets(line, sizeof line, f) != NULL)
        if (strncmp(line, "model name", 10) == 0 && strchr(line, ':') != NULL) {
            snprintf(out, 256, "%.*s", (int)strcspn(strchr(line, ':') + 1, "\n"),
                     strchr(line, ':') + 1);
            break;
        }
    if (f != NULL)
        (void)fclose(f);
}

static void write_head(pg_tune *tune, const char *model_sha256) {
    char library[PG_CONV_KEY_MAX], processor[256];
    pg_conv_tuner_library(library);
    read_processor(processor);
    snprintf(tune->head, sizeof tune->head,
             "parchgradd tune %d\nmodel %s\nlibrary %s\nprocessor %s\n", FORMAT, model_sha256,
             library, processor);
}

/* ---- reading: the head, then "key: way" lines ---- */

/* text is NUL-terminated and changed. False: something is wrong with it. */
static bool parse(pg_tune *tune, char *text, size_t size) {
    size_t head = strlen(tune->head);
    if (strlen(text) != size || size < head || memcmp(text, tune->head, head) != 0)
        return false;
    for (char *line = text + head, *end; *line != '\0'; line = end + 1) {
        end = strchr(line, '\n');
        char *colon = strchr(line, ':');
        if (end == NULL || colon == NULL || colon > end || colon[1] != ' ')
            return false;
        *end = *colon = '\0';
        if (!pg_conv_tuner_know(&tune->tuner, line, colon + 2))
            return false;
    }
    return true;
}

static void read_choices(pg_tune *tune) {
    uint8_t *data = NULL;
    size_t size = 0;
    pg_diag ignored;
    if (pg_file_read(tune->path, FILE_MAX, &data, &size, &ignored) != PG_OK)
        return;
    char *text = pg_strndup((const char *)data, size);
    if (text == NULL || !parse(tune, text, size))
        pg_conv_tuner_free(&tune->tuner);
    pg_free(text);
    pg_free(data);
}

void pg_tune_begin(pg_tune *tune, pg_tune_mode mode, const char *dir, const char *model_sha256) {
    if (mode == PG_TUNE_OFF)
        return;
    write_head(tune, model_sha256);
    char base[PG_TUNE_PATH_MAX], hex[65];
    uint8_t digest[32];
    pg_sha256 sha;
    pg_sha256_init(&sha);
    pg_sha256_update(&sha, tune->head, strlen(tune->head));
    pg_sha256_final(&sha, digest);
    pg_sha256_hex(digest, hex);
    if (folder(dir, base))
        snprintf(tune->path, sizeof tune->path, "%.*s/%.32s.tune", PG_TUNE_PATH_MAX - 64, base,
                 hex);
    if (mode == PG_TUNE_CACHED && tune->path[0] != '\0')
        read_choices(tune);
    tune->tuner.active = true;
    tune->tuner.budget_ns = BUDGET_NS;
}

/* ---- writing ---- */

static void write_choices(const pg_tune *tune) {
    size_t room = strlen(tune->head) + (size_t)tune->tuner.count * (PG_CONV_KEY_MAX + 32) + 1;
    char *text = pg_malloc(room);
    if (text == NULL)
        return;
    size_t used = (size_t)snprintf(text, room, "%s", tune->head);
    for (int i = 0; i < tune->tuner.count; i++) {
        const char *key, *way;
        pg_conv_tuner_entry(&tune->tuner, i, &key, &way);
        used += (size_t)snprintf(text + used, room - used, "%s: %s\n", key, way);
    }
    pg_diag ignored;
    (void)pg_file_write(tune->path, text, used, &ignored);
    pg_free(text);
}

void pg_tune_end(pg_tune *tune) {
    if (tune->tuner.changed && tune->path[0] != '\0')
        write_choices(tune);
    pg_conv_tuner_free(&tune->tuner);
}
