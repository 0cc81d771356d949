// SPDX-License-Identifier: Apache-2.0
// When an update is answered: the table of the modes.
//
//   mode    a write, FUA aside       a flush, and a FUA write once it is numbered
//   async   when numbered            after the local flush
//   sync    when numbered            after the local flush, and when durable >= the last seq given at its arrival
//   strict  when durable >= its seq  as sync
//
// While the gate says ALONE no answer waits for the peer; while it says HELD there are no answers at all. What an
// answer waits for is decided when it is given, not when it was asked for: an answer that could have been given alone
// and was not waits again when the end is paired again.
//
// One thread; nothing is allocated: the updates themselves are linked.
#ifndef QUEUES_ANSWER_H
#define QUEUES_ANSWER_H

#include <stdbool.h>
#include <stdint.h>

enum updates_mode { UPDATES_ASYNC, UPDATES_SYNC, UPDATES_STRICT };

enum updates_gate {
    UPDATES_CLOSED, // requests are refused (ESHUTDOWN), also those that wait
    UPDATES_HELD,   // taken in, neither submitted nor answered
    UPDATES_PAIRED, // answered as the mode says
    UPDATES_ALONE,  // answered without the peer
};

struct answer {
    struct answer *next, *previous;
    uint64_t seq;    // what durable must reach while paired; 0: nothing
    int status;      // what will be answered
    bool local_done; // the store has done its part
    bool linked;
};

struct answer_list {
    struct answer *first, *last;
};

struct answers {
    enum updates_mode mode;
    enum updates_gate gate;
    uint64_t durable;
    struct answer_list ready;   // in the order in which they became so
    struct answer_list waiting; // for durable, in order of seq
};

void answers_init(struct answers *answers, enum updates_mode mode);

// The seq that a write numbered `seq` waits for, and a flush that arrives when `numbered` is the last seq given.
uint64_t answers_write_seq(const struct answers *answers, uint64_t seq);
uint64_t answers_flush_seq(const struct answers *answers, uint64_t numbered);

// Adds an answer. With local_done false (a flush) answers_local_done() follows.
void answers_add(struct answers *answers, struct answer *answer, uint64_t seq, int status,
                 bool local_done);
void answers_local_done(struct answers *answers, struct answer *answer, int status);

void answers_set_durable(struct answers *answers, uint64_t durable); // a lower one is ignored
void answers_set_gate(struct answers *answers, enum updates_gate gate);

// The next answer that may be given now, unlinked; NULL when there is none.
struct answer *answers_take(struct answers *answers);

// The lowest seq that somebody waits for; 0 when nobody does.
uint64_t answers_waiting_for(const struct answers *answers);

#endif
