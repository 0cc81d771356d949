// SPDX-License-Identifier: Apache-2.0
// One end of one pair, alive: the step function of common/end with everything that carries its
// actions out. Belongs to the control thread; owns the pair's front, stream and saver threads.
#ifndef DAEMON_ENDPOINT_H
#define DAEMON_ENDPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config/pair.h"
#include "common/control/status.h"
#include "common/end/end.h"
#include "guard/guard.h"

struct endpoint;
struct closer;
struct channel_bundler;
struct waypoints;

struct endpoint_config {
    struct pair_config *pair; // outlives the endpoint
    enum pair_end side;
    const char *host;
    const char *state_dir, *runtime_dir; // the daemon's
    struct channel_bundler *bundler;     // of all its ends; NULL: none
};

// How many of the process's channel sockets (CHANNEL_SOCKETS_MAX) an end of this pair takes.
unsigned endpoint_sockets(const struct pair_config *pair, enum pair_end side);
// Opens all that may have to wait for a disk, or takes long. On any thread: nobody else has it yet.
int endpoint_new(const struct endpoint_config *config, struct endpoint **ret_endpoint,
                 struct error *err);
// The rest, on the control thread, whose it is from here on: its end begins. `guard`: NULL: none could be started. On
// failure it can only be freed.
int endpoint_run(struct endpoint *endpoint, struct guard *guard, struct waypoints *waypoints, struct closer *closer,
                 struct error *err);
// Leaves applications, address and unsafe queue as they are. NULL-safe.
struct endpoint *endpoint_free(struct endpoint *endpoint);

const char *endpoint_pair(const struct endpoint *endpoint);
int endpoint_fd(const struct endpoint *endpoint); // an epoll descriptor
int64_t endpoint_deadline_ns(const struct endpoint *endpoint);
bool endpoint_touched(struct endpoint *endpoint); // whether the deadline may be another one than when this was asked last
// Takes in what has arrived for this end; with it may come heartbeats for others (channel_bundler_send()). To be called for
// all that are ready, or due, before endpoint_work() is for any.
void endpoint_take(struct endpoint *endpoint);
void endpoint_work(struct endpoint *endpoint); // the rest: timers

// The guard has something to say, or there is another one.
void endpoint_guard(struct endpoint *endpoint, struct guard *guard);
void endpoint_terminate(struct endpoint *endpoint);
bool endpoint_exited(const struct endpoint *endpoint);

// An operator's command. Returns 0 and the operation's number, or -errno with the reason in `text`.
// `overrides`: the vetoes (enum end_veto) that a takeover overrides by name.
int endpoint_command(struct endpoint *endpoint, enum end_command command, unsigned flags, uint32_t overrides,
                     uint64_t *ret_operation, char *text, size_t size);
void endpoint_status(struct endpoint *endpoint, struct pair_status *ret_status);
// The steps of this end's life, oldest first, at most `limit` of the newest.
size_t endpoint_history(const struct endpoint *endpoint, struct status_event *events, size_t limit);

#endif
