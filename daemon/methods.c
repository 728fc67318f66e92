/* `explain --list-methods`: every method with its price and its keys, before any of it is paid.
 * With a model, prices that depend on it are exact, and methods it cannot carry say why. */
#include <math.h>
#include <stdio.h>

#include "daemon/cli.h"
#include "daemon/json.h"
#include "daemon/wire.h"
#include "pipeline/explainer.h"

/* Nobody prunes yet, so that missing statistics refuse single methods and not the list. */
static pg_err open_explainer(const pg_config *config, pg_explain_options *options,
                             pg_explainer **out, pg_diag *diag) {
    options->method = "gradient";
    return pg_cli_locate(config, pg_explainer_create(options, out, diag), diag);
}

static void json_method(pg_json *json, const pg_saliency *method, pg_cost cost,
                        const char *refused) {
    char key[PG_WIRE_KEY];
    pg_json_open(json, NULL, '{');
    pg_json_string(json, "name", method->name);
    pg_json_number(json, "forwards", cost.forwards);
    pg_json_number(json, "backwards", cost.backwards);
    pg_json_bool(json, "parchgrad", method->prunes);
    pg_json_open(json, "params", '[');
    for (int i = 0; pg_wire_param(method->name, i, key); i++)
        pg_json_string(json, NULL, key);
    pg_json_close(json, ']');
    pg_json_string(json, "prose", method->prose);
    pg_json_string(json, "refused", refused);
    pg_json_close(json, '}');
}

static void print_number(double number) {
    if (isnan(number))
        printf("%9s", "?");
    else
        printf("%9.4g", number);
}

static void print_method(const pg_saliency *method, pg_cost cost, const char *refused) {
    printf("%-22s", method->name);
    print_number(cost.forwards);
    print_number(cost.backwards);
    printf("   %s", method->prose);
    if (method->params[0] != '\0')
        printf(" [%s]", method->params);
    puts("");
    if (refused != NULL)
        printf("%22s not here: %s\n", "", refused);
}

static void list(const pg_explainer *explainer, pg_json *json) {
    if (json == NULL)
        puts("method                 forwards backwards   what [and the keys it reads]");
    for (int i = 0; pg_saliency_at(i) != NULL; i++) {
        const pg_saliency *method = pg_saliency_at(i);
        pg_diag why = {""};
        bool refused = explainer->model != NULL &&
                       pg_explainer_check_method(explainer, method->name, &why) != PG_OK;
        pg_cost cost = method->kind->cost(method, explainer);
        if (json != NULL)
            json_method(json, method, cost, refused ? why.text : NULL);
        else
            print_method(method, cost, refused ? why.text : NULL);
    }
}

pg_err pg_methods_list(const pg_cli *cli, pg_diag *diag) {
    const pg_config *config = NULL;
    pg_err err = pg_config_load(cli->config_path, cli->sets, cli->n_sets, &config, diag);
    if (err != PG_OK)
        return err;
    pg_explain_options options = config->explain;
    pg_explainer bare = {.options = &options}, *opened = NULL;
    if (options.model_path[0] != '\0') {
        err = pg_config_check_files(config, diag);
        if (err == PG_OK)
            err = open_explainer(config, &options, &opened, diag);
    }
    pg_json json = {0};
    if (err == PG_OK && cli->json) {
        pg_json_open(&json, NULL, '{');
        pg_json_open(&json, "methods", '[');
    }
    if (err == PG_OK)
        list(opened == NULL ? &bare : opened, cli->json ? &json : NULL);
    if (err == PG_OK && cli->json) {
        pg_json_close(&json, ']');
        pg_json_close(&json, '}');
        if (!pg_json_print(&json))
            err = pg_fail(diag, PG_ENOMEM, "out of memory");
    }
    pg_explainer_destroy(&opened);
    pg_config_destroy(&config);
    return err;
}
