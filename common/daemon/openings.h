// SPDX-License-Identifier: Apache-2.0
// Ends that are being opened, each on a thread of its own: one whose disk hangs holds up neither the other ends nor the
// heartbeats of those that run.
//
// Belongs to the control thread. What is opened belongs to its thread until openings_take() gives it out.
#ifndef DAEMON_OPENINGS_H
#define DAEMON_OPENINGS_H

#include "common/daemon/endpoint.h"

struct openings;

struct opened {
    size_t index;              // as it was given to openings_start()
    struct endpoint *endpoint; // NULL: it failed, with the reason in `error`
    struct error error;
};

struct openings *openings_new(void); // NULL: no memory, or no descriptor
// Waits for those under way, at most so long. True when all have ended; false: what they were given is still in use, for as
// long as this process lives. NULL-safe.
bool openings_free(struct openings *openings, int64_t patience_ns);

int openings_fd(const struct openings *openings); // readable when one has ended
int openings_start(struct openings *openings, size_t index, const struct endpoint_config *config, struct error *err);
bool openings_take(struct openings *openings, struct opened *ret_opened); // false: none has ended
size_t openings_count(const struct openings *openings);                   // under way
bool openings_has(const struct openings *openings, size_t index);

#endif
