#include "daemon/cli.h"
#include "daemon/serve.h"

static pg_err run(const pg_cli *cli, pg_diag *diag) {
    const pg_config *config = NULL;
    pg_err err = pg_cli_config(cli, &config, diag);
    if (err == PG_OK)
        err = pg_config_check_serve(config, diag);
    if (err == PG_OK)
        err = pg_cli_locate(config, pg_serve(config, diag), diag);
    pg_config_destroy(&config);
    return err;
}

static const pg_cli_option options[] = {
    {"--retune", NULL, "engine.tune=always", "measure again which implementations are fastest"},
    {0},
};

const pg_command pg_command_serve = {
    .name = "serve",
    .options = options,
    .configured = true,
    .brief = "Explain live streams until told to stop.",
    .prose =
        "Frames come in as `ingest` says, results go out as `publish` says; metrics, health and\n"
        "a live page stand at `http.listen`. SIGTERM drains and ends within five seconds.",
    .run = run,
};
