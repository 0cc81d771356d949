// SPDX-License-Identifier: Apache-2.0
// What the data threads of a pair let the control thread see at any time: single numbers, each
// written by one thread, none of them a basis for a decision that another one of them could
// contradict.
#ifndef DAEMON_FIGURES_H
#define DAEMON_FIGURES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/base/awake.h"
#include "queues/record.h"

struct figures {
    // Written by the front thread.
    _Atomic uint64_t numbered;  // last seq given
    _Atomic uint64_t held_from; // first seq that the unsafe queue has for the peer; 0: none
    _Atomic uint64_t queue_records, queue_bytes, queue_limit;
    _Atomic uint64_t queue_spilled; // bytes of it on disk
    _Atomic int64_t queue_oldest_ns;      // when the oldest record was numbered (CLOCK_BOOTTIME); 0: none
    _Atomic uint64_t waiting_for;         // lowest seq that an answer waits for; 0: none
    _Atomic int64_t waiting_ns;           // since when (CLOCK_BOOTTIME); 0: none waits
    awake_t front_awake_ns; // the front thread's
    _Atomic int front_tid;
    _Atomic bool front_busy;        // it is inside, or waits for, an I/O
    _Atomic uint64_t resync_done, resync_total, resync_sent;
    _Atomic uint64_t out_of_sync[RECORD_OBJECTS_MAX]; // bytes, by volume
    _Atomic int64_t resync_began_ns;
    _Atomic int64_t least_ns; // since when not less was out of sync (CLOCK_BOOTTIME); 0: nothing is
    _Atomic uint64_t verify_done, verify_total; // total 0: none is under way
    _Atomic int64_t verify_began_ns;
    _Atomic unsigned clients;
    // Written by the stream thread, or under the lane's lock.
    _Atomic uint64_t received, durable, applied, settled;
    _Atomic int64_t moved_ns;  // when durable moved last
    _Atomic bool stream_up;    // the data link stands
    _Atomic int64_t stream_ns; // when it was seen up last, while it does not
    _Atomic int64_t stream_awake_ns;
    _Atomic int stream_tid;
    _Atomic bool stream_busy;
    _Atomic bool replica_full;     // the safe queue takes nothing for now
    _Atomic uint64_t replica_durable, replica_applied, replica_settled;
    _Atomic uint64_t safe_records, safe_bytes, safe_limit;
    _Atomic int64_t safe_oldest_ns; // likewise
    _Atomic uint64_t replay_rate; // bytes a second, measured; 0: not yet
    _Atomic bool salvage_full;       // it takes nothing more: nothing is applied
    _Atomic uint64_t salvage_bytes;  // of its files
    _Atomic uint64_t salvaging;      // mask of volumes of which something may still have to be kept
    // Written by the control thread.
    _Atomic int64_t lease_ns; // the front thread answers nothing after it
};

#endif
