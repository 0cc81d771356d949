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
    const char *rule;     // name of the rule of the table that decided; NULL: has not met yet
    bool primary_leads;   // who is or becomes active; meaningful for FIRST, ONE_EMPTY, RESUME,
                          // BY_MAP, YIELD, HANDED
    uint64_t stream_from; // RESUME: first seq that the follower lacks
};

// `primary` and `secondary` are the facts of the two ends.
struct meeting meet_decide(const struct frame_meet *primary, const struct frame_meet *secondary);

const char *meet_row_text(enum meet_row row); // one sentence for the status and the log

// ---- the table ----

// How the histories stand to each other.
enum meet_relation {
    MEET_BOTH_EMPTY = 0x01,
    MEET_EMPTY = 0x02, // exactly one; the other one is "ahead"
    MEET_SAME = 0x04,  // of one epoch; the one that was active is "ahead"
    MEET_AHEAD = 0x08, // one contains the other's epoch, and has later ones
    MEET_APART = 0x10, // neither contains the other's
};
#define MEET_RELATIONS 0x1f

// What else counts.
enum meet_fact {
    FACT_UNREADABLE = 0x01, // a state is damaged
    FACT_STOPPED = 0x02,    // one was ended in order by the operator
    FACT_LEADS = 0x04,      // the one ahead serves, or was the last of the two that did
    FACT_BOTH = 0x08,       // of one epoch: both were active
    FACT_HANDS = 0x10,      // of one epoch: the one that was active hands its role to a promotable one
    FACT_ON_LINE = 0x20,    // the other one's position is on the line of the one ahead
    FACT_HELD = 0x40,       // whose queue still has what follows that position
    FACT_ALONE = 0x80,      // the other one was active, and has acknowledged alone
};
#define MEET_FACTS 0xff

// A rule holds for these relations where all of `with` and none of `without` is so. Of what can be, exactly one does.
struct meet_rule {
    const char *name;
    unsigned relations, with, without;
    enum meet_row row;
};
extern const struct meet_rule meet_rules[];
extern const unsigned meet_rule_count;

#endif
