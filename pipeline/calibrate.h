/* Calibration: one streaming pass over a labelled folder, or over any pictures with the model's own
 * predictions as labels (method.md section 5). Memory does not grow with the number of pictures'
 * pixels, only with the number of their names. */
#ifndef PG_PIPELINE_CALIBRATE_H
#define PG_PIPELINE_CALIBRATE_H

#include "pipeline/options.h"

#include "kernels/err.h"

typedef enum pg_label_source {
    PG_LABELS_FOLDER,    /* DIR/<class index or label>/picture */
    PG_LABELS_PREDICTED, /* the top class of each picture; pictures in DIR or in folders of it */
} pg_label_source;

typedef struct pg_calibrate_options {
    const pg_explain_options *explain; /* model, labels, input */
    const char *data;                  /* DIR */
    const char *out;                   /* the statistics file to write */
    pg_label_source labels;
    /* Called before the first and after every picture; false stops (PG_EFAIL, nothing is written).
     * May be NULL. */
    bool (*progress)(void *user, uint64_t done, uint64_t total);
    void *user;
} pg_calibrate_options;

typedef struct pg_calibrate_report {
    uint64_t files;         /* .jpg .jpeg .png .npy found */
    uint64_t samples;       /* taken in */
    uint64_t broken;        /* refused: counted, not fatal */
    char first_broken[512]; /* which, and why; "" for none */
    int64_t classes;        /* of the model */
    int64_t classes_seen;
    int64_t classes_testable; /* with at least two samples, and two of other classes */
    uint64_t fewest, most;    /* samples of a seen class */
    int convs;
    char sha256[65]; /* of the file written */
} pg_calibrate_report;

/* PG_ECONFIG: DIR cannot be read, or a folder's name is no class; PG_EMODEL; PG_EINPUT: no usable
 * picture at all; PG_EFAIL: stopped, or the file could not be written. */
pg_err pg_calibrate(const pg_calibrate_options *options, pg_calibrate_report *report,
                    pg_diag *diag);

#endif
