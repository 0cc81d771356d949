// SPDX-License-Identifier: Apache-2.0
// What is asked of a daemon's ends at its control socket: status, history, and an operator's commands.
//
// Belongs to the control thread.
#ifndef DAEMON_REQUESTS_H
#define DAEMON_REQUESTS_H

#include "common/control/control.h"
#include "common/daemon/ends.h"

struct requests {
    struct ends *ends;
    // Says why there is no end of this pair.
    void (*refuse)(void *user, const char *pair, struct control_reply *reply);
    void *user;
};

// For control_server_open(); `user` is a struct requests. A command may have made an end due, or have ended it.
void requests_answer(void *user, const struct control_request *request, struct control_reply *reply);

#endif
