// SPDX-License-Identifier: Apache-2.0
// What happens when two ends meet: one decision table over what both know of themselves. Both ends
// evaluate it on the same two sets of facts, so they come to the same row.
#ifndef END_MEET_H
#define END_MEET_H

#include <stdbool.h>

#include "common/end/frame.h"

enum meet_row {
    MEET_NONE,       // has not met yet
    MEET_UNREADABLE, // one state is damaged: nothing is overwritten until the operator decides
    MEET_FIRST,      // both empty: the Primary opens the first epoch and mirrors
    MEET_ONE_EMPTY,  // one is empty: it is mirrored in full from the other
    MEET_RESUME, // the follower's position is on the leader's line, and the leader still has what
                 // follows
    MEET_BY_MAP, // it is on the line, but what follows is gone
    MEET_YIELD,  // the follower was active, acknowledged nothing alone since the fork, and holds
                 // what nobody else has
    MEET_SPLIT,  // both have acknowledged on their own since the fork
    MEET_HANDED, // strict: the end that was active hands its role to the passive one
    MEET_NO_LEADER, // neither was active (or the active one was stopped by the operator): both wait
    MEET_BUSY,      // one of them is in a transition that must end first
    MEET_ROW_COUNT,
};

struct meeting {
    enum meet_row row;
    bool primary_leads;   // who is or becomes active; meaningful for FIRST, ONE_EMPTY, RESUME,
                          // BY_MAP, YIELD, HANDED
    uint64_t stream_from; // RESUME: first seq that the follower lacks
};

// `primary` and `secondary` are the facts of the two ends.
struct meeting meet_decide(const struct frame_meet *primary, const struct frame_meet *secondary);

const char *meet_row_text(enum meet_row row); // one sentence for the status and the log

#endif
