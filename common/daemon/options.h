// SPDX-License-Identifier: Apache-2.0
// The command line of a daemon.
#ifndef DAEMON_OPTIONS_H
#define DAEMON_OPTIONS_H

#include "common/base/log.h"
#include "common/config/pair.h"

struct options {
    const char *program;
    const char *config; // file or directory
    const char *state_dir, *runtime_dir;
    const char *guard; // the guard's binary
    char host[256];
    enum log_level level;
};

// Returns -1 to go on, or the exit status: 0 after --help and --version, 2 for a wrong command line
// (said on stderr).
int options_parse(struct options *options, enum pair_end kind, int argc, char **argv);

#endif
