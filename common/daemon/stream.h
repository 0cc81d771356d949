// SPDX-License-Identifier: Apache-2.0
// The stream thread of a pair's end. On the active end it drives the lane and takes
// acknowledgements; on the passive one it owns the replica: safe queue, stores, replay. Both share
// the data side of the channel, which is this thread's.
#ifndef DAEMON_STREAM_H
#define DAEMON_STREAM_H

#include <stdbool.h>
#include <stdint.h>

#include "common/config/pair.h"
#include "common/daemon/figures.h"
#include "common/daemon/front.h"
#include "common/daemon/lane.h"
#include "common/daemon/mailbox.h"
#include "common/end/end.h"

struct stream;

struct stream_config {
    const struct pair_config *pair;
    enum pair_end side;
    const char *safe_path; // directory of the safe queue
    const char *salvage_path;
    uint64_t pair_id;
    struct channel *channel;
    struct figures *figures;
    struct lane *lane;
    struct mailbox *box; // this thread's own; made by the caller, since the lane rings it
    struct mailbox *reports;
    struct front *front;
};

int stream_new(const struct stream_config *config, struct stream **ret_stream, struct error *err);
struct stream *stream_free(struct stream *stream); // ends the thread; NULL-safe

// Letters to the stream thread.
void stream_open(struct stream *stream); // opens the replica -> STREAM_OPENED
// Closes replica and stores -> STREAM_CLOSED. With `forget` the safe queue is durably emptied, too:
// this end becomes active, and records of its passive time must never be replayed over what is
// written from now on.
void stream_close(struct stream *stream, const struct epoch *forget, uint64_t next_seq);
// Before an opening or a session: what the volumes of state->salvage hold is kept before it is overwritten.
void stream_salvage(struct stream *stream, const struct end_state *state);
void stream_follow(struct stream *stream, uint64_t session, bool restart, uint64_t seq,
                   const struct epoch *epoch);
void stream_consent(struct stream *stream, uint64_t seq);
void stream_finish(struct stream *stream);
void stream_lost(struct stream *stream, uint16_t object, uint64_t from, uint64_t session);
void stream_discard(struct stream *stream);
void stream_replay(struct stream *stream, bool on);

enum stream_report_kind {
    STREAM_EVENT = 100, // for the end
    STREAM_NOTE,        // for the log
    STREAM_OPENED,      // `ok`: the replica is open, holds up to `seq`; else `text`
    STREAM_CLOSED,      // `ok`; else `text`
};
struct stream_report {
    struct letter letter;
    struct end_event event;
    struct epoch epoch; // event.replica.epoch points here
    struct frame_map piece; // event.map.piece points here
    bool ok;
    bool damaged; // OPENED: the safe queue is
    uint64_t seq;
    uint64_t base; // OPENED: as follower_open() says
    char text[400]; // event.replica.text points here
};

#endif
