/* Where to start reading: daemon/cli.c has the table of commands, cmd_<name>.c each command. */
#include "daemon/cli.h"

int main(int argc, char **argv) { return pg_cli_main(argc, argv); }
