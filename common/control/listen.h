// SPDX-License-Identifier: Apache-2.0
// The daemon's end of the control sockets: a unix stream socket that speaks nanomsg's IPC mapping,
// replier's side, with any number of requesters. Not nanomsg's own, which ends the process when a
// client's bytes break the mapping. Private to common/control.
//
// Invariants: a client has one buffer for what it sends and one for what it gets, both bounded; a
// client that breaks the mapping is dropped, and so is the one that was quiet longest when there
// are too many. Nothing blocks.
#ifndef CONTROL_LISTEN_H
#define CONTROL_LISTEN_H

#include <stddef.h>

#include "common/base/error.h"

struct control_listener;

struct control_listener_ops {
    // One whole request. It may be answered, at once and once, with control_listener_reply().
    void (*message)(void *user, const char *message, size_t size);
    // A client was dropped; `why` is a phrase.
    void (*dropped)(void *user, const char *why);
};

int control_listener_open(const char *path, const struct control_listener_ops *ops, void *user,
                          struct control_listener **ret_listener, struct error *err);
int control_listener_fd(const struct control_listener *listener); // readable: call _work()
void control_listener_work(struct control_listener *listener);
// To whoever sent the message that is being handled. -EMSGSIZE: nothing was sent.
int control_listener_reply(struct control_listener *listener, const char *message, size_t size);
struct control_listener *control_listener_free(struct control_listener *listener);

#endif
