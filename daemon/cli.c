/* Every command's help, parsing and messages come from the tables in cmd_*.c, so that what --help
 * says and what is understood cannot differ. Shortcuts such as --model are --set in disguise: there
 * is one list of settings. */
#include "daemon/cli.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/log.h"

static const pg_command *const commands[] = {
    &pg_command_explain, &pg_command_calibrate, &pg_command_inspect,      &pg_command_evaluate,
    &pg_command_bench,   &pg_command_serve,     &pg_command_check_config, &pg_command_version,
};

static const pg_cli_option option_config = {"--config", "FILE", NULL, "configuration file (YAML)"};
static const pg_cli_option option_set = {
    "--set", "KEY=VALUE", NULL,
    "one configuration value; KEY is a dotted path, VALUE is YAML; any number of times"};
static const pg_cli_option option_json = {"--json", NULL, NULL, "print one JSON object"};
static const pg_cli_option option_help = {"--help", NULL, NULL, "this text"};

volatile sig_atomic_t pg_cli_stop;

const pg_command *pg_cli_command(int index) {
    int n = (int)(sizeof commands / sizeof commands[0]);
    return index >= 0 && index < n ? commands[index] : NULL;
}

/* ---- help ---- */

static void print_option(const pg_cli_option *option) {
    char left[64];
    snprintf(left, sizeof left, "%s%s%s", option->name, option->value == NULL ? "" : " ",
             option->value == NULL ? "" : option->value);
    printf("  %-28s %s", left, option->prose);
    if (option->key != NULL)
        printf(" [%s]", option->key);
    putchar('\n');
}

void pg_cli_help(void) {
    puts("parchgradd explains what a convolutional network looks at, frame by frame.\n");
    puts("usage: parchgradd COMMAND [OPTION...]\n");
    for (int i = 0; pg_cli_command(i) != NULL; i++)
        printf("  %-14s %s\n", pg_cli_command(i)->name, pg_cli_command(i)->brief);
    puts("\n`parchgradd COMMAND --help` tells more. Exit status: 0 done, 1 failed while running,\n"
         "2 usage or configuration, 3 model refused, 4 input refused.");
}

void pg_cli_help_command(const pg_command *command) {
    printf("usage: parchgradd %s [OPTION...]", command->name);
    if (command->operand != NULL)
        printf(command->operand_optional ? " [%s]" : " %s", command->operand);
    printf("\n\n%s\n", command->brief);
    if (command->prose != NULL)
        printf("\n%s\n", command->prose);
    puts("\nOptions (in brackets the configuration key an option is short for):");
    for (const pg_cli_option *o = command->options; o != NULL && o->name != NULL; o++)
        print_option(o);
    if (command->configured) {
        print_option(&option_config);
        print_option(&option_set);
    }
    if (command->json)
        print_option(&option_json);
    print_option(&option_help);
}

/* ---- parsing ---- */

static const pg_cli_option *find_option(const pg_command *command, const char *text,
                                        size_t length) {
    for (const pg_cli_option *o = command->options; o != NULL && o->name != NULL; o++) {
        if (strlen(o->name) == length && strncmp(o->name, text, length) == 0)
            return o;
    }
    const pg_cli_option *const common[] = {&option_help, command->json ? &option_json : NULL,
                                           command->configured ? &option_config : NULL,
                                           command->configured ? &option_set : NULL};
    for (size_t i = 0; i < sizeof common / sizeof common[0]; i++) {
        if (common[i] != NULL && strlen(common[i]->name) == length &&
            strncmp(common[i]->name, text, length) == 0)
            return common[i];
    }
    return NULL;
}

/* --set KEY=VALUE */
static pg_err take_set(pg_cli *cli, const char *text, pg_diag *diag) {
    const char *equals = strchr(text, '=');
    int i = cli->n_sets;
    if (equals == NULL || equals == text)
        return pg_fail(diag, PG_ECONFIG, "--set wants KEY=VALUE, not '%s'", text);
    size_t length = (size_t)(equals - text);
    if (length >= sizeof cli->set_keys[i])
        return pg_fail(diag, PG_ECONFIG, "--set: the key is longer than any there is");
    memcpy(cli->set_keys[i], text, length);
    cli->set_keys[i][length] = '\0';
    snprintf(cli->set_names[i], sizeof cli->set_names[i], "--set %.*s",
             length > 100 ? 100 : (int)length, text);
    cli->sets[i] = (pg_config_set){cli->set_names[i], cli->set_keys[i], equals + 1, false};
    cli->n_sets++;
    return PG_OK;
}

static pg_err take_option(pg_cli *cli, const pg_cli_option *option, const char *value,
                          pg_diag *diag) {
    if (cli->n_given == PG_CLI_MAX || cli->n_sets == PG_CLI_MAX)
        return pg_fail(diag, PG_ECONFIG, "more than %d options", PG_CLI_MAX);
    cli->given[cli->n_given].option = option;
    cli->given[cli->n_given++].value = value;
    if (option == &option_config) {
        if (cli->config_path != NULL)
            return pg_fail(diag, PG_ECONFIG, "--config is given twice");
        cli->config_path = value;
    } else if (option == &option_set) {
        return take_set(cli, value, diag);
    } else if (option->key != NULL && option->value == NULL) {
        return take_set(cli, option->key, diag);
    } else if (option->key != NULL) {
        cli->sets[cli->n_sets++] = (pg_config_set){option->name, option->key, value, true};
    }
    cli->json |= option == &option_json;
    cli->help |= option == &option_help;
    return PG_OK;
}

static pg_err take_operand(pg_cli *cli, const char *text, pg_diag *diag) {
    if (cli->command->operand == NULL)
        return pg_fail(diag, PG_ECONFIG, "%s takes no argument such as '%s'", cli->command->name,
                       text);
    if (cli->operand != NULL)
        return pg_fail(diag, PG_ECONFIG, "%s takes one %s, and '%s' is a second",
                       cli->command->name, cli->command->operand, text);
    cli->operand = text;
    return PG_OK;
}

pg_err pg_cli_parse(const pg_command *command, int argc, char **argv, pg_cli *out, pg_diag *diag) {
    *out = (pg_cli){.command = command, .argv = argv};
    bool options = true;
    pg_err err = PG_OK;
    for (int i = 2; i < argc && err == PG_OK; i++) {
        const char *text = argv[i];
        if (!options || text[0] != '-' || text[1] == '\0') {
            err = take_operand(out, text, diag);
            continue;
        }
        if (strcmp(text, "--") == 0) {
            options = false;
            continue;
        }
        size_t length = strcspn(text, "=");
        const pg_cli_option *option =
            strcmp(text, "-h") == 0 ? &option_help : find_option(command, text, length);
        const char *value = text[length] == '=' ? text + length + 1 : NULL;
        if (option == NULL)
            return pg_fail(diag, PG_ECONFIG,
                           "%s: unknown option '%.*s'; `parchgradd %s --help` lists them",
                           command->name, (int)length, text, command->name);
        if (option->value == NULL && value != NULL)
            return pg_fail(diag, PG_ECONFIG, "%s takes no value", option->name);
        if (option->value != NULL && value == NULL) {
            if (i + 1 == argc)
                return pg_fail(diag, PG_ECONFIG, "%s wants a value: %s", option->name,
                               option->value);
            value = argv[++i];
        }
        err = take_option(out, option, value == NULL ? "" : value, diag);
    }
    if (err == PG_OK && !out->help && command->operand != NULL && !command->operand_optional &&
        out->operand == NULL && pg_cli_value(out, "--list-methods") == NULL)
        return pg_fail(diag, PG_ECONFIG, "%s wants an argument: %s", command->name,
                       command->operand);
    return err;
}

const char *pg_cli_value(const pg_cli *cli, const char *option) {
    const char *value = NULL;
    for (int i = 0; i < cli->n_given; i++) {
        if (strcmp(cli->given[i].option->name, option) == 0)
            value = cli->given[i].value;
    }
    return value;
}

pg_err pg_cli_number(const pg_cli *cli, const char *option, int min, int max, int fallback,
                     int *out, pg_diag *diag) {
    const char *text = pg_cli_value(cli, option);
    *out = fallback;
    if (text == NULL)
        return PG_OK;
    char *end;
    errno = 0;
    long value = strtol(text, &end, 10);
    if (end == text || *end != '\0' || errno != 0 || value < min || value > max)
        return pg_fail(diag, PG_ECONFIG, "%s must be a whole number between %d and %d, not '%s'",
                       option, min, max, text);
    *out = (int)value;
    return PG_OK;
}

pg_err pg_cli_config(const pg_cli *cli, const pg_config **out, pg_diag *diag) {
    pg_err err = pg_config_load(cli->config_path, cli->sets, cli->n_sets, out, diag);
    if (err == PG_OK)
        err = pg_config_check_files(*out, diag);
    if (err != PG_OK) {
        pg_config_destroy(out);
        return err;
    }
    int threads = (*out)->explain.threads;
    pg_team_start((*out)->wait, (*out)->pin, threads > 0 ? threads : pg_team_processors(),
                  cli->argv);
    pg_log_init((*out)->log_level);
    return PG_OK;
}

pg_err pg_cli_locate(const pg_config *config, pg_err err, pg_diag *diag) {
    if (err != PG_ECONFIG || diag == NULL)
        return err;
    for (int i = 0; pg_config_row_at(i) != NULL; i++) {
        const char *key = pg_config_row_at(i)->path;
        size_t length = strlen(key);
        if (strncmp(diag->text, key, length) == 0 && strchr(": ", diag->text[length]) != NULL)
            return pg_fail_in(diag, err, "%s", pg_config_where(config, key));
    }
    return err;
}

pg_err pg_cli_explainer(const pg_config *config, pg_explainer **out, pg_diag *diag) {
    return pg_cli_locate(config, pg_explainer_create(&config->explain, out, diag), diag);
}

/* ---- running ---- */

static void on_stop(int number) {
    if (pg_cli_stop)
        _exit(128 + number);
    pg_cli_stop = 1;
}

void pg_cli_catch_stop(void) {
    struct sigaction action = {.sa_handler = on_stop};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

static const pg_command *find_command(const char *name) {
    for (int i = 0; pg_cli_command(i) != NULL; i++) {
        if (strcmp(pg_cli_command(i)->name, name) == 0)
            return pg_cli_command(i);
    }
    return NULL;
}

static pg_err run(int argc, char **argv, pg_diag *diag) {
    if (argc < 2) {
        pg_cli_help();
        return pg_fail(diag, PG_ECONFIG, "a command is missing");
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        pg_cli_help();
        return PG_OK;
    }
    const pg_command *command = find_command(strcmp(name, "--version") == 0 ? "version" : name);
    if (command == NULL)
        return pg_fail(diag, PG_ECONFIG, "there is no command '%s'; `parchgradd --help` lists them",
                       name);
    pg_cli cli;
    pg_err err = pg_cli_parse(command, argc, argv, &cli, diag);
    if (err == PG_OK && cli.help) {
        pg_cli_help_command(command);
        return PG_OK;
    }
    return err == PG_OK ? command->run(&cli, diag) : err;
}

int pg_cli_main(int argc, char **argv) {
    static pg_diag diag;
    pg_err err = run(argc, argv, &diag);
    /* a full disk or a closed pipe shows only here */
    bool lost = fflush(stdout) != 0 || ferror(stdout);
    if (err == PG_OK && lost)
        err = pg_fail(&diag, PG_EFAIL, "cannot write to stdout");
    if (err != PG_OK)
        fprintf(stderr, "parchgradd: %s\n", diag.text);
    return pg_err_exit_status(err);
}
