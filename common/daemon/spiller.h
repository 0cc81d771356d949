// SPDX-License-Identifier: Apache-2.0
// The thread that does the jobs of the unsafe queue's disk rung (queues/spill.h), one after the
// other, and the only one that uses their directory. A job that is done comes back as a letter.
#ifndef DAEMON_SPILLER_H
#define DAEMON_SPILLER_H

#include "common/base/error.h"
#include "common/daemon/mailbox.h"
#include "queues/spill.h"

struct spiller;

struct spilled_letter {
    struct letter letter; // of the kind asked for
    struct spill_job *job;
};

// `path`: an existing directory. `done` gets a letter of `kind` for each job.
int spiller_new(const char *path, struct mailbox *done, int kind, struct spiller **ret_spiller,
                struct error *err);
// Ends the thread behind the job that it is at; others are not begun. NULL-safe.
struct spiller *spiller_free(struct spiller *spiller);
struct disk *spiller_disk(struct spiller *spiller);
void spiller_post(struct spiller *spiller, struct spill_job *job);

#endif
