// SPDX-License-Identifier: Apache-2.0
// A pair's public addresses: switched on and off, and asked for, on a thread of its own; and those that a former run has put
// on and this one is not configured with, taken off. The kernel has one lock for the
// network of the whole machine, and whoever deletes some thousand interfaces holds it for seconds: the heartbeats of all
// pairs of a daemon cannot wait for that.
//
// Only the newest wish counts: one that was not begun is forgotten, and what was begun is finished, and undone by the next
// one. A switch-on that ends behind the guard's deadline is undone at once: the guard may have acted while it waited for the
// lock.
//
// Belongs to the control thread.
#ifndef DAEMON_SWITCHBOARD_H
#define DAEMON_SWITCHBOARD_H

#include <stdbool.h>
#include <stdint.h>

#include "common/address/claims.h"
#include "common/address/probe.h"
#include "common/base/error.h"
#include "common/daemon/mailbox.h"

struct switchboard;

struct switchboard_config {
    struct claims claims; // the interface of the public network, and the addresses: none, where only former ones are left
    struct closer *closer;   // NULL: none
    struct mailbox *reports; // -> SWITCHBOARD_DONE
};

int switchboard_new(const struct switchboard_config *config, struct switchboard **ret_board, struct error *err);
// Waits until what was begun is done, and off if that is the newest wish. NULL-safe.
struct switchboard *switchboard_free(struct switchboard *board);

// -> SWITCHBOARD_DONE with the ticket that this returns, unless there has been another wish meanwhile.
uint64_t switchboard_switch(struct switchboard *board, bool on);
// Takes off what a former run has left -> SWITCHBOARD_LEFT. Switching off does so too.
void switchboard_leave(struct switchboard *board);
// CLOCK_BOOTTIME from which on nothing may be switched on; INT64_MAX: none.
void switchboard_limit(struct switchboard *board, int64_t deadline_ns);

// Asks whether somebody else has one of the addresses, as probe.h does. Of one that is still under way nothing is heard any
// more.
void switchboard_ask(struct switchboard *board);
enum probe_state switchboard_answer(struct switchboard *board, struct probe_answer *ret_answer);
void switchboard_ask_no_more(struct switchboard *board);

enum { SWITCHBOARD_DONE = 300, SWITCHBOARD_LEFT };
struct switchboard_report {
    struct letter letter;
    uint64_t ticket; // DONE, as is `on`
    bool on;
    int status; // 0 or -errno, with the reason below. 0 with a text: done, and something else is to be told
    char text[sizeof(((struct error *)0)->text)];
};

#endif
