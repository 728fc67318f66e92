/* The command line: a table of commands, each with a table of options. One parser, one help text
 * made from the tables, one exit status (pg_err_exit_status). */
#ifndef PG_DAEMON_CLI_H
#define PG_DAEMON_CLI_H

#include <signal.h>
#include <stdbool.h>

#include "daemon/config.h"
#include "pipeline/pipeline.h"

typedef struct pg_command pg_command;

/* One option of a command. */
typedef struct pg_cli_option {
    const char *name;  /* "--out"; NULL ends a table */
    const char *value; /* what its value is called in help, NULL: a flag */
    const char *key;   /* short for --set KEY=value (taken literally), or NULL; of a flag KEY=VALUE */
    const char *prose;
} pg_cli_option;

enum { PG_CLI_MAX = 64 }; /* options on one command line; --set counts too */

/* A parsed command line. Everything is borrowed from argv. */
typedef struct pg_cli {
    const pg_command *command;
    struct {
        const pg_cli_option *option;
        const char *value;
    } given[PG_CLI_MAX];
    int n_given;
    pg_config_set sets[PG_CLI_MAX];
    char set_names[PG_CLI_MAX][128], set_keys[PG_CLI_MAX][256];
    int n_sets;
    const char *config_path; /* NULL: none */
    const char *operand;     /* the one positional argument, NULL: none */
    bool json, help;
    char **argv;
} pg_cli;

struct pg_command {
    const char *name;
    const char *operand; /* what the positional argument is called, NULL: takes none */
    bool operand_optional;
    bool configured;              /* takes --config and --set */
    bool json;                    /* takes --json */
    const char *brief;            /* for the list of commands */
    const char *prose;            /* for --help, may be NULL */
    const pg_cli_option *options; /* ended by name NULL; NULL: none */
    pg_err (*run)(const pg_cli *cli, pg_diag *diag);
};

extern const pg_command pg_command_explain, pg_command_calibrate, pg_command_inspect,
    pg_command_evaluate, pg_command_bench, pg_command_check_config, pg_command_serve, pg_command_version;

/* The commands in the order of the help text; NULL beyond the last. */
const pg_command *pg_cli_command(int index);

/* Parses argv[2..] for `command`. PG_ECONFIG. */
pg_err pg_cli_parse(const pg_command *command, int argc, char **argv, pg_cli *out, pg_diag *diag);

/* Prints help: of all commands, of one. */
void pg_cli_help(void);
void pg_cli_help_command(const pg_command *command);

/* The last value given for an option, NULL if it was not given; a flag's value is "". */
const char *pg_cli_value(const pg_cli *cli, const char *option);

/* A whole number between min and max given for an option, or `fallback`. PG_ECONFIG. */
pg_err pg_cli_number(const pg_cli *cli, const char *option, int min, int max, int fallback,
                     int *out, pg_diag *diag);

/* The configuration of --config and --set, files checked (pg_config_check_files), and engine.wait in
 * force. */
pg_err pg_cli_config(const pg_cli *cli, const pg_config **out, pg_diag *diag);

/* The explainer of a configuration; a refusal that begins with a key is given the key's line. */
pg_err pg_cli_explainer(const pg_config *config, pg_explainer **out, pg_diag *diag);

/* explain --list-methods (methods.c): the methods, what they cost, the keys they read. */
pg_err pg_methods_list(const pg_cli *cli, pg_diag *diag);

/* Puts "file:line:column: " before a PG_ECONFIG sentence that begins with a key of the
 * configuration, and returns `err` unchanged. */
pg_err pg_cli_locate(const pg_config *config, pg_err err, pg_diag *diag);

/* Runs argv as a command; returns the exit status. */
int pg_cli_main(int argc, char **argv);

/* Becomes nonzero at SIGINT or SIGTERM, after which long jobs stop; a second one ends the process.
 * Installed by commands that want to tidy up. */
extern volatile sig_atomic_t pg_cli_stop;
void pg_cli_catch_stop(void);

#endif
