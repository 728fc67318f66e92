#include "pipeline/file_list.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "kernels/mem.h"

static bool is_picture(const char *name) {
    static const char *const ends[] = {".jpg", ".jpeg", ".png", ".npy"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof ends / sizeof ends[0]; i++)
        if (strcasecmp(dot, ends[i]) == 0)
            return true;
    return false;
}

static pg_err append(pg_file_list *list, const char *path, const char *folder, pg_diag *diag) {
    if (list->count == list->room) {
        size_t room = list->room ? 2 * list->room : 256;
        pg_file_entry *grown = pg_realloc(list->items, room * sizeof *grown);
        if (!grown)
            return pg_fail(diag, PG_ENOMEM, "no memory for the list of files");
        list->items = grown;
        list->room = room;
    }
    pg_file_entry *entry = &list->items[list->count];
    *entry = (pg_file_entry){pg_strdup(path), pg_strdup(folder)};
    list->count++;
    if (!entry->path || !entry->folder)
        return pg_fail(diag, PG_ENOMEM, "no memory for the list of files");
    return PG_OK;
}

static pg_err scan(const char *directory, const char *folder, pg_file_list *list, pg_diag *diag);

static pg_err visit(const char *directory, const char *folder, const char *name, pg_file_list *list,
                    pg_diag *diag) {
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", directory, name);
    if (n < 0 || (size_t)n >= sizeof path)
        return pg_fail(diag, PG_ECONFIG, "%s/%s: the name is too long", directory, name);
    struct stat info;
    if (stat(path, &info) != 0)
        return PG_OK; /* a dangling link, or gone since */
    if (S_ISDIR(info.st_mode))
        return folder[0] ? PG_OK : scan(path, name, list, diag);
    return S_ISREG(info.st_mode) && is_picture(name) ? append(list, path, folder, diag) : PG_OK;
}

/* `folder` "": DIR itself, whose folders are entered too. */
static pg_err scan(const char *directory, const char *folder, pg_file_list *list, pg_diag *diag) {
    DIR *dir = opendir(directory);
    if (!dir)
        return pg_fail(diag, PG_ECONFIG, "%s: %s", directory, strerror(errno));
    pg_err err = PG_OK;
    for (struct dirent *entry; !err && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            err = visit(directory, folder, entry->d_name, list, diag);
    closedir(dir);
    return err;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const pg_file_entry *)a)->path, ((const pg_file_entry *)b)->path);
}

pg_err pg_file_list_read(const char *directory, pg_file_list *out, pg_diag *diag) {
    *out = (pg_file_list){.count = 0};
    pg_err err = scan(directory, "", out, diag);
    if (err)
        pg_file_list_free(out);
    else if (out->count)
        qsort(out->items, out->count, sizeof *out->items, by_path);
    return err;
}

void pg_file_list_free(pg_file_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        pg_free(list->items[i].path);
        pg_free(list->items[i].folder);
    }
    pg_free(list->items);
    *list = (pg_file_list){.count = 0};
}
