#include <stdio.h>

#include "daemon/cli.h"
#include "daemon/json.h"

static pg_err run(const pg_cli *cli, pg_diag *diag) {
    if (!cli->json) {
        printf("parchgradd %s\n", PG_VERSION);
        return PG_OK;
    }
    pg_json json = {0};
    pg_json_open(&json, NULL, '{');
    pg_json_string(&json, "version", PG_VERSION);
    pg_json_int(&json, "wire", 1);
    pg_json_close(&json, '}');
    return pg_json_print(&json) ? PG_OK : pg_fail(diag, PG_ENOMEM, "out of memory");
}

const pg_command pg_command_version = {
    .name = "version",
    .json = true,
    .brief = "Print the version.",
    .run = run,
};
