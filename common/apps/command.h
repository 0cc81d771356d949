// SPDX-License-Identifier: Apache-2.0
// One run of a command: no shell, a session of its own, in its application's group, with a
// time-out. Used from the runner's thread only.
#ifndef APPS_COMMAND_H
#define APPS_COMMAND_H

#include <stdbool.h>
#include <stdint.h>

#include "common/apps/group.h"
#include "common/base/error.h"

struct command;

struct command_spec {
    const char *const *argv; // the first is the path; ends in NULL
    char *const *environment;
    struct group *group;
    int output_fd; // its stdout and stderr; stays the caller's
    int64_t timeout_ms;
};

int command_start(const struct command_spec *spec, struct command **ret_command, struct error *err);
// Stops caring: what still runs goes on. NULL-safe; returns NULL.
struct command *command_free(struct command *c);

int command_fd(const struct command *c);              // readable when it has ended
int64_t command_deadline_ns(const struct command *c); // command_work() wants to be called then
// True once it is over: it ended, or its time-out passed and it was killed.
bool command_work(struct command *c, int64_t now);
// How it ended: 0, or -errno and a sentence. -ETIMEDOUT: killed by the time-out.
int command_result(const struct command *c, struct error *err);
// SIGKILL to its process group, for a command whose result is not wanted any more.
void command_kill(struct command *c);
// It was frozen for so long: the time-out moves.
void command_shift(struct command *c, int64_t ns);
// May it be run? -EINVAL names what is wrong with argv. Looks at no file.
int command_check(const char *const *argv, struct error *err);

#endif
