// SPDX-License-Identifier: Apache-2.0
// Makes the states of all ends durable on a thread of its own, in the order in which they were
// asked for: the control loop never waits for a disk.
#ifndef DAEMON_SAVER_H
#define DAEMON_SAVER_H

#include <stdint.h>

#include "common/base/error.h"
#include "common/daemon/mailbox.h"
#include "queues/state.h"

struct saver;

// For one end. `path`: of the state's two copies. *ret_state is what was read: all zero when
// nothing was ever saved. -EUCLEAN: unreadable; the saver is there all the same.
int saver_new(const char *path, struct mailbox *reports, struct saver **ret_saver,
              struct end_state *ret_state, struct error *err);
struct saver *saver_free(struct saver *saver); // after what was asked for is saved; NULL-safe

// -> SAVER_SAVED with `ticket`.
void saver_save(struct saver *saver, uint64_t ticket, const struct end_state *state);

enum { SAVER_SAVED = 200 };
struct saver_report {
    struct letter letter;
    uint64_t ticket;
    int status; // 0 or -errno
};

#endif
