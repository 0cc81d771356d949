// SPDX-License-Identifier: Apache-2.0
// What an end must remember through a crash: the format. Kept in two checksummed copies (common/base/twin.h). It lies here
// because it is made of the epoch history, and because daemon and `pairctl fsck` read it with the same code.
#ifndef QUEUES_STATE_H
#define QUEUES_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "queues/epoch.h"
#include "queues/salvage.h"

#define STATE_SIZE_MAX (16 * 1024)

enum state_role { ROLE_NONE, ROLE_PASSIVE, ROLE_ACTIVE };
enum state_intent { INTENT_NONE, INTENT_TAKEOVER, INTENT_HANDED_OVER };

// When both ends were last proven equal, on every volume: the last position that was compared.
struct state_proof {
    uint64_t time;  // CLOCK_REALTIME ns; 0: never
    uint64_t epoch; // id
    uint64_t seq;
    uint32_t number; // of the epoch, for people
};

struct end_state {
    enum state_role role;     // NONE: this end was never part of a running pair
    enum state_intent intent; // TAKEOVER whose epoch is not in the history is void for the next run
    bool alone;               // active: acknowledges (or was free to) without its peer
    bool stopped;             // ended in order by the operator
    bool clean;               // passive or stopped: its position is exact
    uint64_t bound;           // active: no seq above it was ever given
    uint64_t
        position; // not active: its last seq, where it has no safe queue (handed over, stopped)
    uint64_t inconsistent; // mask: volumes of this replica that are in mid-resync
    uint64_t pending;      // active: mask of volumes whose peer needs a resync
    uint64_t session;      // highest session number seen
    uint64_t lost;         // mask: volumes of this replica that may have lost what it had settled
    uint64_t map_void;     // mask: intent maps of this end that count as wholly set, whatever their files say
    uint64_t salvage; // mask: volumes of this replica of which this end held something alone: what they hold is salvaged
                      // before it is overwritten
    enum salvage_cause salvage_cause; // and these two say why, and which epoch this end gave up; 0 where the mask is
    struct epoch salvaged;
    uint64_t salvage_whole; // mask, of `salvage`: this end may hold something alone anywhere, not only where its map says
    uint64_t torn; // active: mask of volumes whose store may have lost, or never got, what the peer was sent, or has sent
    uint64_t held;         // active: mask of pending volumes that a verify found to differ: resynced when told to
    struct state_proof proven;
    struct epoch_history history;
};

size_t state_encode(const struct end_state *state, void *buffer, size_t limit);
// NULL, or the first rule that these bytes break.
const char *state_decode(const void *data, size_t size, struct end_state *ret_state);

#endif
