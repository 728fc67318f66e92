/* What a picture is called, what it shows and where its object lies comes from its file's name, its
 * folder and a list of boxes; of a recorded frame from its header. What the producer wanted
 * explained, and how, is left out: evaluate asks its own questions. */
#include "daemon/pictures.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/recording.h"
#include "kernels/mem.h"
#include "pipeline/file_io.h"
#include "pipeline/file_list.h"
#include "pipeline/frame_file.h"

enum { PICTURE_FILE_MAX = 256 << 20, BOXES_FILE_MAX = 64 << 20 };

struct pg_pictures {
    const char *data;
    pg_file_list files;
    pg_recording *recording; /* NULL: files */
    uint8_t *bytes;          /* of the last file */
    bool predicted;          /* labels are not looked at */
    uint8_t *boxes;          /* the file, lines ended by NUL; NULL: none */
    size_t boxes_size;
};

/* ---- opening ---- */

static bool in_folders(const pg_file_list *files) {
    for (size_t i = 0; i < files->count; i++)
        if (files->items[i].folder[0] == '\0')
            return false;
    return true;
}

static pg_err choose_labels(pg_pictures *p, const char *labels, pg_diag *diag) {
    bool folder = labels && strcmp(labels, "folder") == 0;
    if (labels && !folder && strcmp(labels, "predicted") != 0)
        return pg_fail(diag, PG_ECONFIG, "--labels is folder or predicted, not '%s'", labels);
    if (folder && p->recording)
        return pg_fail(diag, PG_ECONFIG,
                       "--labels folder: %s is a recording, whose frames say it themselves",
                       p->data);
    p->predicted = labels ? !folder : !p->recording && !in_folders(&p->files);
    return PG_OK;
}

static pg_err read_boxes(pg_pictures *p, const char *path, pg_diag *diag) {
    if (path == NULL)
        return PG_OK;
    pg_err err = pg_file_read(path, BOXES_FILE_MAX, &p->boxes, &p->boxes_size, diag);
    for (size_t i = 0; err == PG_OK && i < p->boxes_size; i++)
        if (p->boxes[i] == '\n' || p->boxes[i] == '\r')
            p->boxes[i] = '\0';
    if (err == PG_OK && p->boxes_size > 0 && p->boxes[p->boxes_size - 1] != '\0')
        return pg_fail(diag, PG_ECONFIG, "%s: the last line does not end", path);
    return err;
}

static pg_err open_files(pg_pictures *p, const char *stream, pg_diag *diag) {
    if (stream)
        return pg_fail(diag, PG_ECONFIG, "--stream: %s is a folder, not a recording", p->data);
    pg_err err = pg_file_list_read(p->data, &p->files, diag);
    if (!err && p->files.count == 0)
        err = pg_fail(diag, PG_EINPUT, "%s: holds no .jpg, .jpeg, .png or .npy files", p->data);
    return err;
}

static pg_err open_all(pg_pictures *p, const pg_pictures_options *o, pg_diag *diag) {
    struct stat info;
    bool folder = stat(p->data, &info) != 0 || S_ISDIR(info.st_mode); /* none: the list says why */
    pg_err err = folder ? open_files(p, o->stream, diag)
                        : pg_recording_open(p->data, o->stream, &o->limits, &p->recording, diag);
    if (err || (err = choose_labels(p, o->labels, diag)))
        return err;
    return read_boxes(p, o->boxes, diag);
}

pg_err pg_pictures_open(const pg_pictures_options *options, pg_pictures **out, pg_diag *diag) {
    pg_pictures *p = *out = pg_calloc(1, sizeof *p);
    if (p == NULL)
        return pg_fail(diag, PG_ENOMEM, "out of memory");
    p->data = options->data;
    pg_err err = open_all(p, options, diag);
    if (err)
        pg_pictures_close(out);
    return err;
}

void pg_pictures_close(pg_pictures **pictures) {
    pg_pictures *p = *pictures;
    if (p == NULL)
        return;
    pg_file_list_free(&p->files);
    pg_recording_close(&p->recording);
    pg_free(p->bytes);
    pg_free(p->boxes);
    pg_free(p);
    *pictures = NULL;
}

size_t pg_pictures_count(const pg_pictures *p) {
    return p->recording ? pg_recording_count(p->recording) : p->files.count;
}

bool pg_pictures_are_frames(const pg_pictures *p) { return p->recording != NULL; }

/* ---- one of them ---- */

/* The line of the boxes' file that names this picture. */
static bool find_box(const pg_pictures *p, const char *name, double box[4]) {
    const char *end = (const char *)p->boxes + p->boxes_size;
    size_t length = strlen(name);
    for (const char *line = (const char *)p->boxes; line && line < end; line += strlen(line) + 1)
        if (strncmp(line, name, length) == 0 && line[length] == ',' &&
            sscanf(line + length + 1, "%lf ,%lf ,%lf ,%lf", &box[0], &box[1], &box[2], &box[3]) ==
                4)
            return true;
    return false;
}

static pg_err read_file(pg_pictures *p, const pg_file_entry *file, pg_frame *frame, pg_diag *diag) {
    size_t size = 0;
    pg_free(p->bytes);
    p->bytes = NULL;
    pg_err err = pg_file_read(file->path, PICTURE_FILE_MAX, &p->bytes, &size, diag);
    err = err ? err : pg_frame_of_file(p->bytes, size, frame, diag);
    return err == PG_ECONFIG ? PG_EINPUT
                             : err; /* gone or not to be read: this file's own trouble */
}

static pg_err from_folder(pg_pictures *p, size_t index, const pg_explainer *explainer,
                          pg_picture *out, pg_diag *diag) {
    const pg_file_entry *file = &p->files.items[index];
    const char *slash = strrchr(file->path, '/');
    snprintf(out->name, sizeof out->name, "%.200s", slash ? slash + 1 : file->path);
    if (!p->predicted &&
        !(pg_explainer_parse_target(explainer, file->folder, &out->label) && out->label >= 0))
        return pg_fail(diag, PG_ECONFIG, "%s: folder '%s' is neither a class index nor a label",
                       p->data, file->folder);
    return read_file(p, file, &out->frame, diag);
}

static pg_err from_recording(pg_pictures *p, size_t index, pg_picture *out, pg_diag *diag) {
    pg_frame *frame = &out->frame;
    pg_err err = pg_recording_read(p->recording, index, frame, diag);
    if (err) {
        snprintf(out->name, sizeof out->name, "frame %zu of the stream", index + 1);
        return err;
    }
    snprintf(out->name, sizeof out->name, "%" PRIu64, frame->seq);
    frame->target_class = -1;
    frame->target_name[0] = frame->method[0] = '\0';
    if (!p->predicted)
        out->label = frame->label;
    if (frame->has_roi) {
        memcpy(out->place, frame->roi, sizeof out->place);
        out->box = out->place;
    }
    return PG_OK;
}

pg_err pg_pictures_read(pg_pictures *p, size_t index, const pg_explainer *explainer,
                        pg_picture *out, pg_diag *diag) {
    *out = (pg_picture){.label = -1};
    pg_err err = p->recording ? from_recording(p, index, out, diag)
                              : from_folder(p, index, explainer, out, diag);
    if (!err && find_box(p, out->name, out->place))
        out->box = out->place;
    return err;
}
