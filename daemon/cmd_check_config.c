#include <stdio.h>

#include "daemon/cli.h"
#include "daemon/json.h"

static const char *note_for(const pg_config *config) {
    if (pg_config_check_serve(config, NULL) != PG_OK)
        return "neither ingest nor rpc.bind is set: serve would refuse";
    if (config->publish.bind[0] == '\0' && config->n_ingest > 0)
        return "publish.bind is not set: results of streams go nowhere";
    return NULL;
}

static pg_err report(const pg_cli *cli, const pg_config *config, const pg_explainer *explainer,
                     pg_diag *diag) {
    const pg_model_info *model = pg_model_get_info(pg_explainer_model(explainer));
    const char *note = note_for(config);
    if (!cli->json) {
        printf("%s: good; %s, %lld classes, method %s\n",
               config->file[0] == '\0' ? "configuration" : config->file, model->path,
               (long long)model->classes, config->explain.method);
        if (note != NULL)
            printf("note: %s\n", note);
        return PG_OK;
    }
    pg_json json = {0};
    pg_json_open(&json, NULL, '{');
    pg_json_string(&json, "file", config->file);
    pg_json_bool(&json, "good", true);
    pg_json_string(&json, "model", model->sha256_hex);
    pg_json_int(&json, "classes", model->classes);
    pg_json_string(&json, "method", config->explain.method);
    pg_json_string(&json, "note", note);
    pg_json_close(&json, '}');
    return pg_json_print(&json) ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
}

static pg_err run(const pg_cli *cli, pg_diag *diag) {
    pg_cli both = *cli;
    if (both.operand != NULL && both.config_path != NULL)
        return pg_fail(diag, PG_ECONFIG, "check-config takes FILE or --config FILE, not both");
    if (both.operand != NULL)
        both.config_path = both.operand;
    if (both.config_path == NULL)
        return pg_fail(diag, PG_ECONFIG, "check-config wants an argument: FILE");
    const pg_config *config = NULL;
    pg_explainer *explainer = NULL;
    pg_err err = pg_cli_config(&both, &config, diag);
    if (err == PG_OK)
        err = pg_cli_explainer(config, &explainer, diag);
    if (err == PG_OK)
        err = report(cli, config, explainer, diag);
    pg_explainer_destroy(&explainer);
    pg_config_destroy(&config);
    return err;
}

const pg_command pg_command_check_config = {
    .name = "check-config",
    .operand = "FILE",
    .operand_optional = true,
    .configured = true,
    .json = true,
    .brief = "Check a configuration, with the model, labels and statistics it names.",
    .run = run,
};
