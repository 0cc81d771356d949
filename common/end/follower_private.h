// SPDX-License-Identifier: Apache-2.0
// The inside of a follower: follower.c (the replica), follower_salvage.c (what is kept before it is overwritten).
#ifndef END_FOLLOWER_PRIVATE_H
#define END_FOLLOWER_PRIVATE_H

#include "common/end/follower.h"

struct follower {
    struct follower_config config;
    struct follower_ops ops;
    void *user;
    struct replica *replica; // NULL: closed
    // A session to follow as soon as the stores open.
    bool waiting, restart;
    bool damage_told; // the end knows that the queue is damaged
    uint64_t session, seq;
    struct epoch epoch;
    int64_t retry_ns, give_up_ns;
    // Salvage.
    uint64_t salvage_objects; // mask of volumes, as the end has ordered or as the replica has left it
    enum salvage_cause salvage_cause;
    struct epoch salvaged;    // that this end gave up
    struct salvage *salvage;  // NULL: not open
    bool salvage_over;        // everything is kept: to be closed for good
    bool salvage_refused;     // it takes nothing more: to be closed, and tried again
    bool salvage_full;        // as it is shown
    int64_t salvage_retry_ns; // not to be opened before
    struct salvage_config salvage_next; // what its next opening has to know of the former one
    uint64_t salvage_used;
    // What this end has written alone, as far as that is known: nothing is overwritten before it is.
    uint64_t own_ticket, own_epoch, own_awaited; // mask: of these volumes the answer is awaited
    struct own_map {
        uint32_t region;
        uint64_t regions;
        uint8_t *bits; // NULL: anything
    } own[RECORD_OBJECTS_MAX];
};

void follower_note(struct follower *f, const char *format, ...) __attribute__((format(printf, 2, 3)));

// follower_salvage.c
void keeper_begin(struct follower *f, int64_t now); // the replica was opened
void keeper_full(struct follower *f, const struct error *error);
void keeper_turn(struct follower *f, int64_t now);
void keeper_close(struct follower *f); // with the replica, at which nothing is under way
int64_t keeper_deadline(const struct follower *f);
void keeper_forget_maps(struct follower *f);

#endif
