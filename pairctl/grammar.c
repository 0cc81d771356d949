// SPDX-License-Identifier: Apache-2.0
// All commands, as one list.
#include <string.h>

#include "common/base/cleanup.h"
#include "pairctl/pairctl.h"

#define REMOTE (OPTION_PLACE | OPTION_JSON | OPTION_TIMEOUT)

static const struct command commands[] = {
    {"status", "[--json] [--watch]", 0, 0, OPTION_PLACE | OPTION_JSON | OPTION_WATCH, PREFER_ACTIVE,
     command_status, "Show roles, synchronization, queues and what a takeover now would lose."},
    {"switch", "", 0, 0, REMOTE, PREFER_ACTIVE, command_remote,
     "Hand the active role to the peer in order, with nothing lost."},
    {"takeover", "[--force[=VETO,...] | --accept-inconsistent]", 0, 0, REMOTE | OPTION_FORCE | OPTION_ACCEPT,
     PREFER_PASSIVE, command_remote, "Make the passive end active because the active one is gone."},
    {"pause", "[--replay]", 0, 0, REMOTE | OPTION_REPLAY, PREFER_ACTIVE, command_remote,
     "Stop sending updates; with --replay stop applying them at the passive end."},
    {"resume", "[--replay]", 0, 0, REMOTE | OPTION_REPLAY, PREFER_ACTIVE, command_remote,
     "End a pause, or what stop did."},
    {"resync", "", 0, 0, REMOTE, PREFER_ACTIVE, command_remote, "Compare and repair the replica."},
    {"verify", "[--repair]", 0, 0, REMOTE | OPTION_REPAIR, PREFER_ACTIVE, command_remote,
     "Compare both ends' volumes block by block while the application goes on; with --repair mend what differs."},
    {"resolve", "--keep primary|secondary", 0, 0, REMOTE | OPTION_KEEP, PREFER_ACTIVE,
     command_remote, "End a split by naming the end whose data is kept."},
    {"salvage", "list | show NAME | export NAME DIR [--image] | drop NAME", 1, 3,
     OPTION_PLACE | OPTION_JSON | OPTION_STATE | OPTION_IMAGE, PREFER_PASSIVE, command_salvage,
     "Look at, copy out or remove what an end held and nobody else has."},
    {"history", "[--json]", 0, 0, OPTION_PLACE | OPTION_JSON, PREFER_ACTIVE, command_history,
     "Show what happened to an end, step by step."},
    {"stop", "", 0, 0, REMOTE, PREFER_ACTIVE, command_remote,
     "End protection in order: applications stopped, queues drained, both ends know."},
    {"shutdown", "", 0, 0, REMOTE, PREFER_ACTIVE, command_shutdown,
     "Before this machine goes down: do what each pair file says, for every end here that is active."},
    {"wait", "STATE [--timeout SECONDS]", 1, 1, OPTION_PLACE | OPTION_TIMEOUT, PREFER_ACTIVE,
     command_wait, "Wait until an end is in this state."},
    {"check", "FILE...", 1, ARGS_MAX, OPTION_JSON | OPTION_HOST, PREFER_ACTIVE, command_check,
     "Check pair files, or a directory of them, without a daemon."},
    {"keygen", "FILE", 1, 1, 0, PREFER_ACTIVE, command_keygen,
     "Write a new key for a channel; never over a file."},
    {"fsck", "[--json] [--force] DIR", 1, 1, OPTION_PLACE | OPTION_JSON | OPTION_FORCE, PREFER_ACTIVE, command_fsck,
     "Look at a stopped end's state and queues for damage, and say what a start would do."},
};

const struct command *grammar_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

void grammar_print_command(const struct command *command, FILE *out)
{
    (void)fprintf(out, "Usage: pairctl %s%s %s\n\n  %s\n",
                  command->options & OPTION_PLACE ? "[-p PAIR] " : "", command->name,
                  command->usage, command->help);
}

void grammar_print_help(FILE *out)
{
    (void)fputs("Usage: pairctl [-p PAIR] COMMAND\n\nCommands:\n", out);
    for (size_t i = 0; i < ARRAY_LEN(commands); i++)
        (void)fprintf(out, "  %s %s\n        %s\n", commands[i].name, commands[i].usage,
                      commands[i].help);
    (void)fputs("\nOptions:\n"
                "  -p, --pair PAIR      the pair; needed only where there are several\n"
                "  --end END            primary or secondary, where this machine has both\n"
                "  --runtime-dir DIR    where the daemons' sockets are (" PLACES_RUNTIME_DIR ")\n"
                "  --json               output for programs\n"
                "  --state-dir DIR      salvage: where the ends keep their state (" PLACES_STATE_DIR ")\n"
                "  --image              salvage export: as images of the volumes\n"
                "  --timeout SECONDS    give up waiting; by default never\n"
                "  --host NAME          check: this machine's name, to look at its disks too\n"
                "  -h, --help           this text; behind a command: its own\n"
                "  -V, --version        the version\n\n"
                "Exit status: 0 done, 1 refused or failed (the reason is on stderr), 2 usage.\n",
                out);
}
