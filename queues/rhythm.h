// SPDX-License-Identifier: Apache-2.0
// Foresees flushes. Who writes a log flushes after each write, or after every two or three: then the peer may be asked to
// make a record durable as soon as it is numbered, before the client has its answer and comes with the flush. Foreseen
// wrongly it costs the peer one sync, and nothing is foreseen until the rhythm has been kept RHYTHM_TIMES times again.
// It never stands for the flush: that is answered as ever.
//
// Belongs to its owner's thread; a zeroed one is ready.
#ifndef QUEUES_RHYTHM_H
#define QUEUES_RHYTHM_H

#include <stdbool.h>
#include <stdint.h>

#define RHYTHM_TIMES 4

struct rhythm {
    uint64_t flushed; // the last seq in front of the newest flush
    uint64_t step;    // how many were numbered between that and the one before
    unsigned times;   // flushes in a row, before the newest, that had come after as many
};

// A client's flush has arrived; `numbered` is the last seq given. One that has nothing new before it does not count.
void rhythm_flush(struct rhythm *rhythm, uint64_t numbered);
// A client's write got this seq. True: a flush is likely to come behind it.
bool rhythm_write(struct rhythm *rhythm, uint64_t seq);

#endif
