#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "daemon/cli.h"
#include "daemon/json.h"
#include "daemon/progress.h"
#include "pipeline/calibrate.h"

static const pg_cli_option options[] = {
    {"--model", "FILE", "model.path", "the network, an ONNX file"},
    {"--data", "DIR", NULL, "pictures: one folder per class (its index or name), or any"},
    {"--out", "FILE", NULL, "where the statistics go"},
    {"--labels", "folder|predicted", NULL,
     "what class a picture is: its folder's, or the network's own"},
    {0},
};

static bool on_progress(void *user, uint64_t done, uint64_t total) {
    pg_progress_update(user, done, total);
    return !pg_cli_stop;
}

static pg_err print_json(const pg_calibrate_report *r, const char *out, pg_diag *diag) {
    pg_json json = {0};
    pg_json_open(&json, NULL, '{');
    pg_json_string(&json, "out", out);
    pg_json_string(&json, "sha256", r->sha256);
    pg_json_int(&json, "files", (int64_t)r->files);
    pg_json_int(&json, "samples", (int64_t)r->samples);
    pg_json_int(&json, "broken", (int64_t)r->broken);
    pg_json_string(&json, "first_broken", r->first_broken[0] == '\0' ? NULL : r->first_broken);
    pg_json_int(&json, "classes", r->classes);
    pg_json_int(&json, "classes_seen", r->classes_seen);
    pg_json_int(&json, "classes_testable", r->classes_testable);
    pg_json_int(&json, "fewest", (int64_t)r->fewest);
    pg_json_int(&json, "most", (int64_t)r->most);
    pg_json_int(&json, "convolutions", r->convs);
    pg_json_close(&json, '}');
    return pg_json_print(&json) ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
}

static void print_text(const pg_calibrate_report *r, const char *out) {
    printf("%s: %" PRIu64 " pictures, %d convolutions\n", out, r->samples, r->convs);
    printf("classes: %" PRId64 " of %" PRId64 " seen, with %" PRIu64 " to %" PRIu64
           " pictures; %" PRId64 " have enough for class-wise selection\n",
           r->classes_seen, r->classes, r->fewest, r->most, r->classes_testable);
    if (r->broken > 0)
        printf("%" PRIu64 " of %" PRIu64 " files could not be used, the first: %s\n", r->broken,
               r->files, r->first_broken);
}

static pg_err run(const pg_cli *cli, pg_diag *diag) {
    const char *labels = pg_cli_value(cli, "--labels");
    pg_calibrate_options options_of = {.data = pg_cli_value(cli, "--data"),
                                       .out = pg_cli_value(cli, "--out")};
    if (options_of.data == NULL || options_of.out == NULL)
        return pg_fail(diag, PG_ECONFIG, "calibrate wants --data DIR and --out FILE");
    if (labels != NULL && strcmp(labels, "predicted") == 0)
        options_of.labels = PG_LABELS_PREDICTED;
    else if (labels != NULL && strcmp(labels, "folder") != 0)
        return pg_fail(diag, PG_ECONFIG, "--labels is folder or predicted, not '%s'", labels);
    const pg_config *config = NULL;
    pg_err err = pg_cli_config(cli, &config, diag);
    if (err != PG_OK)
        return err;
    pg_progress progress;
    pg_progress_start(&progress, "calibrating");
    pg_cli_catch_stop();
    options_of.explain = &config->explain;
    options_of.progress = on_progress;
    options_of.user = &progress;
    pg_calibrate_report report = {0};
    err = pg_cli_locate(config, pg_calibrate(&options_of, &report, diag), diag);
    pg_progress_end(&progress);
    pg_config_destroy(&config);
    if (err != PG_OK)
        return err;
    if (cli->json)
        return print_json(&report, options_of.out, diag);
    print_text(&report, options_of.out);
    return PG_OK;
}

const pg_command pg_command_calibrate = {
    .name = "calibrate",
    .configured = true,
    .json = true,
    .brief = "Measure the channel statistics that ParchGrad selects by.",
    .prose =
        "DIR holds JPEG, PNG or .npy files (float32 [3,H,W], already what the network takes) in\n"
        "one folder per class; with --labels predicted in any folders, or none.",
    .options = options,
    .run = run,
};
