#include "pipeline/calibrate.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/mem.h"
#include "pipeline/channel_stats.h"
#include "pipeline/decode.h"
#include "pipeline/explainer.h"
#include "pipeline/file_io.h"
#include "pipeline/file_list.h"
#include "pipeline/frame_file.h"
#include "pipeline/preprocess.h"
#include "pipeline/sha256.h"

enum { PICTURE_FILE_MAX = 256 << 20 };

typedef struct job {
    const pg_calibrate_options *options;
    pg_calibrate_report *report;
    pg_model *model;
    const pg_model_info *info;
    pg_labels *labels;
    pg_file_list files;
    pg_decoder *decoder;
    pg_preprocess *preprocess;
    pg_head head;
    pg_pass pass;
    pg_channel_stats *stats;
    const float **gaps; /* [n_convs] */
} job;

/* Folder names are checked before the first picture is computed: a typing error in the last folder
 * must not cost an hour. */
static pg_err check_folders(const job *j, pg_diag *diag) {
    const char *previous = NULL;
    for (size_t i = 0; i < j->files.count; i++) {
        const pg_file_entry *file = &j->files.items[i];
        int64_t klass = -1;
        if (previous && strcmp(previous, file->folder) == 0)
            continue;
        previous = file->folder;
        if (file->folder[0] == '\0')
            return pg_fail(diag, PG_ECONFIG,
                           "%s: lies in no class folder; --labels predicted takes pictures without",
                           file->path);
        if (!pg_target_parse(file->folder, j->info->classes, j->labels, &klass) || klass < 0)
            return pg_fail(diag, PG_ECONFIG,
                           "%s: folder '%s' is neither a class index below %" PRId64
                           " nor a label%s",
                           j->options->data, file->folder, j->info->classes,
                           j->labels ? "" : " (no label file is configured)");
    }
    return PG_OK;
}

static pg_err open_model(job *j, pg_diag *diag) {
    const pg_explain_options *o = j->options->explain;
    pg_explain_options exact = *o; /* one statistics file serves both precisions */
    exact.precision = PG_PRECISION_F32;
    pg_err err = pg_explainer_open_model(&exact, NULL, &j->model, diag);
    if (err)
        return err;
    j->info = pg_model_get_info(j->model);
    if ((err = pg_head_create(&o->head, j->info, &j->head, diag)))
        return err;
    if (o->labels_path && o->labels_path[0] &&
        (err = pg_labels_load(o->labels_path, j->info->classes, &j->labels, diag)))
        return err;
    if (j->info->n_convs == 0)
        return pg_fail(diag, PG_EMODEL, "%s: has no convolutions to calibrate", o->model_path);
    return PG_OK;
}

static pg_err list_files(job *j, pg_diag *diag) {
    pg_err err = pg_file_list_read(j->options->data, &j->files, diag);
    if (err)
        return err;
    j->report->files = j->files.count;
    if (j->files.count == 0)
        return pg_fail(diag, PG_EINPUT, "%s: holds no .jpg, .jpeg, .png or .npy files",
                       j->options->data);
    return j->options->labels == PG_LABELS_FOLDER ? check_folders(j, diag) : PG_OK;
}

static pg_err make_ready(job *j, pg_diag *diag) {
    const pg_explain_options *o = j->options->explain;
    const pg_input_options how = pg_explainer_input(o, j->info);
    size_t n = (size_t)j->info->n_convs;
    j->gaps = pg_calloc(n, sizeof *j->gaps);
    bool *gap = pg_calloc(n, sizeof *gap);
    if (!j->gaps || !gap) {
        pg_free(gap);
        return pg_fail(diag, PG_ENOMEM, "no memory for calibration");
    }
    memset(gap, true, n * sizeof *gap);
    pg_err err = pg_model_prepare(j->model, gap, false, diag);
    pg_free(gap);
    if (err || (err = pg_pass_create(j->model, &j->head, o, NULL, NULL, &j->pass, diag)) ||
        (err = pg_decoder_create(o->max_pixels, &j->decoder, diag)) ||
        (err = pg_preprocess_create(&how, &j->info->input, &j->preprocess, diag)))
        return err;
    return pg_channel_stats_create(j->info->convs, j->info->n_convs, j->info->classes,
                                   j->info->sha256, &j->stats, diag);
}

static pg_err feed(job *j, const uint8_t *data, size_t size, pg_diag *diag) {
    pg_frame frame;
    pg_err err = pg_frame_of_file(data, size, &frame, diag);
    if (err)
        return err;
    pg_layout layout = j->pass.layout;
    float *input = j->pass.input;
    pg_drop reason = PG_DROP_NONE;
    if (frame.format == PG_FMT_F32CHW) {
        reason = pg_preprocess_tensor(j->preprocess, &frame, input, layout, diag);
    } else {
        pg_picture picture;
        reason = pg_decode(j->decoder, &frame, &picture, diag);
        if (!reason)
            reason = pg_preprocess_picture(j->preprocess, &picture, input, layout, diag);
    }
    return reason ? PG_EINPUT : PG_OK;
}

static pg_err take_sample(job *j, const pg_file_entry *file, pg_diag *diag) {
    pg_err err = pg_pass_forward(&j->pass, diag);
    if (err)
        return err;
    int64_t klass = pg_pass_argmax(j->pass.scores, j->pass.classes);
    if (j->options->labels == PG_LABELS_FOLDER)
        pg_target_parse(file->folder, j->info->classes, j->labels, &klass);
    for (int i = 0; i < j->info->n_convs; i++)
        j->gaps[i] = pg_session_gap(j->pass.session, i);
    return pg_channel_stats_add(j->stats, klass, j->gaps, diag);
}

/* One file. What is wrong with the file itself is counted; only trouble of our own ends the run. */
static pg_err take_file(job *j, const pg_file_entry *file, pg_diag *diag) {
    uint8_t *data = NULL;
    size_t size = 0;
    pg_diag why = {""};
    pg_err err = pg_file_read(file->path, PICTURE_FILE_MAX, &data, &size, &why);
    if (!err)
        err = feed(j, data, size, &why);
    if (!err)
        err = take_sample(j, file, &why);
    pg_free(data);
    if (!err) {
        j->report->samples++;
        return PG_OK;
    }
    if (err == PG_ENOMEM)
        return pg_fail(diag, err, "%s: %s", file->path, why.text);
    if (j->report->broken++ == 0)
        snprintf(j->report->first_broken, sizeof j->report->first_broken, "%.200s: %.300s",
                 file->path, why.text);
    return PG_OK;
}

static pg_err take_all(job *j, pg_diag *diag) {
    const pg_calibrate_options *o = j->options;
    uint64_t total = j->files.count;
    for (uint64_t i = 0; i <= total; i++) {
        if (o->progress && !o->progress(o->user, i, total))
            return pg_fail(diag, PG_EFAIL, "calibration was stopped; nothing is written");
        pg_err err = i < total ? take_file(j, &j->files.items[i], diag) : PG_OK;
        if (err)
            return err;
    }
    if (j->report->samples == 0)
        return pg_fail(diag, PG_EINPUT,
                       "%s: none of %" PRIu64 " files could be used; the first: %s", o->data, total,
                       j->report->first_broken);
    return PG_OK;
}

static void summarise(job *j) {
    pg_calibrate_report *r = j->report;
    r->classes = j->info->classes;
    r->convs = j->info->n_convs;
    for (int64_t k = 0; k < r->classes; k++) {
        uint64_t n = pg_channel_stats_count(j->stats, k);
        if (n == 0)
            continue;
        r->fewest = r->classes_seen == 0 || n < r->fewest ? n : r->fewest;
        r->most = n > r->most ? n : r->most;
        r->classes_seen++;
        r->classes_testable += pg_select_class_testable(j->stats, k);
    }
}

/* Reads the file back, as explain will: what cannot be loaded is better known now. */
static pg_err save(job *j, pg_diag *diag) {
    pg_err err = pg_channel_stats_save(j->stats, j->options->out, diag);
    if (err)
        return err;
    uint8_t digest[32];
    pg_channel_stats *again = NULL;
    err = pg_channel_stats_load(j->options->out, &again, digest, diag);
    pg_channel_stats_destroy(&again);
    if (!err)
        pg_sha256_hex(digest, j->report->sha256);
    return err;
}

static pg_err run(job *j, pg_diag *diag) {
    pg_err err;
    if ((err = open_model(j, diag)) || (err = list_files(j, diag)) || (err = make_ready(j, diag)) ||
        (err = take_all(j, diag)))
        return err;
    summarise(j);
    return save(j, diag);
}

pg_err pg_calibrate(const pg_calibrate_options *options, pg_calibrate_report *report,
                    pg_diag *diag) {
    *report = (pg_calibrate_report){.files = 0};
    job j = {.options = options, .report = report};
    pg_err err = run(&j, diag);
    pg_channel_stats_destroy(&j.stats);
    pg_pass_destroy(&j.pass);
    pg_head_destroy(&j.head);
    pg_preprocess_destroy(&j.preprocess);
    pg_decoder_destroy(&j.decoder);
    pg_file_list_free(&j.files);
    pg_labels_destroy(&j.labels);
    pg_model_destroy(&j.model);
    pg_free(j.gaps);
    return err;
}
