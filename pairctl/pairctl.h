// SPDX-License-Identifier: Apache-2.0
// pairctl's parts: what was typed (options.c, grammar.c), the ends on this machine (ends.c), and
// the commands.
//
// Exit statuses are part of the outside contract: 0 done, 1 refused or failed with the reason on
// stderr, 2 usage.
#ifndef PAIRCTL_PAIRCTL_H
#define PAIRCTL_PAIRCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "common/config/pair.h"
#include "common/config/places.h"
#include "common/control/control.h"
#include "common/control/status.h"

#define EXIT_DONE   0
#define EXIT_FAILED 1
#define EXIT_USAGE  2

#define CALL_TIMEOUT_MS 5000 // for one answer of a daemon, which answers at once

// What was typed. Options that a command does not know are refused before it runs.
struct options {
    const char *pair;
    const char *end; // "primary", "secondary": only that end
    const char *runtime_dir;
    const char *state_dir;
    const char *host;
    const char *keep;
    double timeout_s; // 0: none
    bool json;
    bool watch;
    const char *force; // "true": whatever stands; else names of vetoes; NULL: not given
    bool accept_inconsistent;
    bool replay;
    bool image;
    bool repair;
    bool help;
    bool version;
};

enum option_bit {
    OPTION_JSON = 1 << 0,
    OPTION_WATCH = 1 << 1,
    OPTION_FORCE = 1 << 2,
    OPTION_ACCEPT = 1 << 3,
    OPTION_REPLAY = 1 << 4,
    OPTION_TIMEOUT = 1 << 5,
    OPTION_KEEP = 1 << 6,
    OPTION_HOST = 1 << 7,
    OPTION_STATE = 1 << 9,
    OPTION_IMAGE = 1 << 10,
    OPTION_REPAIR = 1 << 11,
    OPTION_PLACE = 1 << 8, // --pair, --end, --runtime-dir: commands that ask a daemon
};

// Which end is asked where this machine has both of a pair.
enum preference { PREFER_ACTIVE, PREFER_PASSIVE };

struct command;
struct invocation {
    const struct command *command;
    struct options options;
    const char *args[8];
    size_t arg_count;
};
#define ARGS_MAX 8

struct command {
    const char *name;
    const char *usage; // behind the name
    size_t args_min, args_max;
    unsigned options; // of enum option_bit
    enum preference preference;
    int (*run)(const struct invocation *call); // returns an exit status
    const char *help;
};

// options.c. Returns 0, or EXIT_USAGE after having said on stderr what is wrong.
int options_parse(int argc, char **argv, struct invocation *ret_call);

// grammar.c
const struct command *grammar_find(const char *name);
void grammar_print_help(FILE *out);
void grammar_print_command(const struct command *command, FILE *out);

// ends.c: the ends that the daemons of this machine run.
struct end {
    char socket[PLACES_SOCKET_MAX];
    struct pair_status status;
};
struct ends {
    struct end *items;
    size_t count;
    size_t daemons;     // that answered
    size_t broken;      // that are there but did not
    char problem[2048]; // why the others did not, for a person
};
// Fills *ret with what the daemons say, narrowed to --pair and --end. Returns 0 also when nobody
// answers.
int ends_gather(const struct options *options, struct ends *ret, struct error *err);
void ends_done(struct ends *ends);
// The one end that a command is for. Returns NULL after having said why on stderr; *ret_exit says
// with which status.
const struct end *ends_choose(const struct ends *ends, const struct invocation *call,
                              int *ret_exit);
// Prints why there is nothing, to stderr.
void ends_complain(const struct ends *ends, const struct options *options);

// The commands.
int command_status(const struct invocation *call);  // status.c
int command_history(const struct invocation *call); // history.c
int command_wait(const struct invocation *call);    // wait.c
int command_shutdown(const struct invocation *call); // remote.c: for every end of this machine
int command_remote(const struct invocation *call);  // remote.c: all that a daemon carries out
int command_salvage(const struct invocation *call); // salvage.c
int command_check(const struct invocation *call);   // local.c
int command_keygen(const struct invocation *call);  // local.c
int command_fsck(const struct invocation *call);    // fsck.c

// show.c
void show_ends(const struct ends *ends, bool colour, FILE *out);
void show_progress(const struct status_resync *resync, FILE *out);

// format.c: for people. All return `buffer`.
#define FORMAT_SIZE 64
const char *format_bytes(uint64_t bytes, char buffer[FORMAT_SIZE]);
const char *format_ms(int64_t ms, char buffer[FORMAT_SIZE]);
const char *format_time(int64_t real_ms, char buffer[FORMAT_SIZE]);
// Nothing that a terminal would obey.
const char *format_clean(const char *text, char *buffer, size_t size);
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
void pause_ms(int64_t ms);

// Finds the end that the command is for and calls `run` with it. Returns run's exit status, or that of the failure,
// which is said.
int ends_run(const struct invocation *call,
             int (*run)(const struct invocation *call, const struct end *end));

#endif
