// SPDX-License-Identifier: Apache-2.0
// The small messages between the ends of a pair, on the control links: heartbeats, the meeting, the
// handing over. The channel authenticates them; this is what they say. Layout: docs/frames.md.
//
// Every frame may be lost or come twice: whoever waits for an answer says it again with each
// heartbeat.
#ifndef END_FRAME_H
#define END_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "queues/epoch.h"
#include "queues/record.h"
#include "queues/state.h"

#define FRAME_MAX  (16 * 1024) // bytes
#define FRAME_TEXT 160
#define FRAME_MAP_BITS 16384U // of a piece of an intent map, at most
#define FRAME_MAP_NONE UINT64_MAX

enum frame_type {
    FRAME_BEAT = 1, // heartbeat, echo, grant, positions
    FRAME_MEET,     // Primary: proposes a session with its facts; Secondary: agrees with its own
    FRAME_STREAM,   // the leader: I stream from `seq` on (with `restart`: you start anew there)
    FRAME_READY,    // the follower: I accept frames of this session from `seq` on
    FRAME_DRAIN,    // switchover: have everything up to `seq` applied and settled, and say so
    FRAME_DRAINED,  //
    FRAME_HANDOVER, // switchover: be active from `seq` on. Behind the point of no return
    FRAME_REFUSE,   // switchover: no; `text`
    FRAME_GOODBYE,  // this run ends and holds no grant
    FRAME_COMMAND,  // an operator's command for the other end
    FRAME_REPLY,    // its answer
    FRAME_MAP_ASK,  // leader: what of your intent map of a volume is set, at or behind this region?
    FRAME_MAP_PIECE, // follower: a piece of it; where nothing is set is left out
    FRAME_YIELD,    // a split is resolved: the operator keeps the sender, the receiver has to stop serving
    FRAME_TYPE_END,
};

enum frame_answer { ANSWER_NONE, ANSWER_NO, ANSWER_YES };

// Flags of a beat and of a meeting.
#define FRAME_ACTIVE        0x0001 // serves, or would if it were not suspended, or has the public address still
#define FRAME_TAKING_OVER   0x0002
#define FRAME_WANTS_ECHO    0x0004 // answer at once
#define FRAME_GRANTED       0x0008 // passive: holds a grant
#define FRAME_READY_TO_MEET 0x0010
#define FRAME_FAILED        0x0020 // passive: cannot go on; the active cannot rely on it
#define FRAME_PAUSED        0x0040 // by the operator: active: nothing is sent; passive: nothing is applied
#define FRAME_LAGGING       0x0080
#define FRAME_PAIRED        0x0200 // active: the receiver has what the mode promises, nothing is acknowledged alone
#define FRAME_STOPPED       0x0400 // ended in order by the operator, until he resumes it
#define FRAME_SALVAGE_FULL  0x0800 // passive: nothing is applied, since its salvage takes nothing more
#define FRAME_SERVED        0x0100 // its durable role is active: it serves, or was the last of the two that did

struct frame_beat {
    uint64_t number;      // of this heartbeat in this run, rising from 1
    int64_t sent_ns;      // the sender's clock
    uint64_t echo_number; // the newest heartbeat of the receiver that the sender has got; 0 none
    int64_t echo_sent_ns; // and its sending time, by the receiver's clock
    enum frame_answer answer; // of the active, to the heartbeat that it echoes
    uint64_t honoured; // of the passive: the newest heartbeat with a "no" that it has got in this
                       // session
    uint64_t last_session; // the highest session number that the sender knows
    uint64_t durable;      // positions of the sender's own end
    uint64_t applied;
    uint64_t backlog;     // active: bytes that the peer has not confirmed
    struct state_proof proven; // active: when both ends were last proven equal; time 0: never
    uint64_t behind;      // active: bytes that a resync has to go over still
};

// What an end knows of itself when it meets the other.
struct frame_meet {
    bool proposal;    // by the Primary; else the Secondary's agreement
    bool unreadable;  // its state is damaged
    bool was_active;  // durable role
    bool serving;     // now (also when suspended)
    bool alone;       // durable: it acknowledged alone in its current epoch
    bool handed_over; // durable
    bool stopped;     // protection was ended in order
    bool hands_role;  // `strict`: was active and paired when its host stopped uncleanly
    bool promotable;  // passive: its replica is consistent and whole
    uint64_t
        held_from; // active: the first seq that its unsafe queue still has for this peer; 0: none
    uint64_t position;     // durable position in its current epoch; POSITION_UNKNOWN
    uint64_t inconsistent; // mask of volumes
    uint64_t pending;      // mask of volumes whose peer's replica needs a resync
    uint64_t map_void;     // mask of volumes that may differ anywhere, as far as this end knows
    uint64_t torn;         // mask of volumes of which the peer may hold something that this end has lost
    struct epoch_history history;
};
#define POSITION_UNKNOWN UINT64_MAX

// A piece of an intent map: `count` regions from `first` on, both multiples of 16 but at the volume's end. Nothing is set
// between `from`, which was asked for, and `first`. Ask next for `next`; FRAME_MAP_NONE: nothing is set behind it.
struct frame_map {
    uint16_t object;
    uint64_t from, first, next;
    uint32_t count;
    uint8_t bits[FRAME_MAP_BITS / 8];
};

struct frame {
    enum frame_type type;
    uint16_t flags;
    uint64_t run;     // of the sender
    uint64_t to_run;  // of the receiver, as far as known; 0 otherwise
    uint64_t session; // 0: none. In FRAME_MEET: the one proposed
    union {
        struct frame_beat beat;
        struct frame_meet meet;
        struct { // STREAM, READY, DRAIN, DRAINED, HANDOVER
            uint64_t seq;
            bool restart;
        } at;
        struct frame_map map; // MAP_ASK: object and from
        struct { // COMMAND, REPLY, REFUSE
            uint64_t id;
            uint32_t command;
            uint32_t flags;
            int32_t status;
            char text[FRAME_TEXT];
        } word;
    };
};

// Returns the number of bytes written (at most `limit`, which should be FRAME_MAX).
size_t frame_encode(const struct frame *frame, void *buffer, size_t limit);
// NULL, or the first rule that these bytes break; *ret_frame is only written on success.
const char *frame_decode(const void *data, size_t size, struct frame *ret_frame);

const char *frame_type_name(unsigned type);

#endif
