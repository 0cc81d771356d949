// SPDX-License-Identifier: Apache-2.0
// The guard's loop: watches the deadlines of the plan and does what the plan says.
#ifndef GUARD_SERVE_H
#define GUARD_SERVE_H

#include "common/base/error.h"

struct server;

// Makes the plan and the socket in `dir`, and everything else that is needed later. `note_fd` (a
// non-blocking pipe, or -1) is told, a line a time, what was done; a full one loses lines and
// delays nothing.
int server_make(const char *dir, const char *name, int note_fd, struct server **ret_server,
                struct error *err);
// Returns when the daemon has said so, or when it is gone and there is nothing left to guard.
void server_run(struct server *server);
struct server *server_free(struct server *server); // NULL-safe; returns NULL

#endif
