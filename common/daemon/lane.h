// SPDX-License-Identifier: Apache-2.0
// The way from the unsafe queue onto the data link: an outlet (common/end) under its one mutex. The
// control thread starts and stops it. Who sends:
//
//   a flush                 the front thread, at once
//   now and then a write    the front thread, when it has lingered: not worth waking anybody
//   a stream of writes      the stream thread, which is woken once (when there is much, or the front thread has just
//                           sent what had lingered) and then comes by itself every LANE_PACE_NS, with a batch of
//                           all that was numbered meanwhile; sealing and sending run beside the front thread's
//                           work. It goes to sleep when a round finds nothing new
//
// Lock: `lock` guards the outlet. It is held while a batch is sealed and handed to
// the channel (never across anything that waits), so it is contended only when two threads send at
// the same moment. While the stream thread comes by itself the front thread does not take it but for a flush.
#ifndef DAEMON_LANE_H
#define DAEMON_LANE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/channel/channel.h"
#include "common/daemon/figures.h"
#include "common/daemon/mailbox.h"
#include "queues/sender.h"

struct lane;

// `wake`: the stream thread's mailbox, rung when it sleeps and something was numbered.
struct lane *lane_new(struct channel *channel, struct figures *figures, struct mailbox *wake);
struct lane *lane_free(struct lane *lane);

// The front thread has a queue, or (NULL) is about to free it.
int lane_set_queue(struct lane *lane, struct unsafe *queue);
// The front thread's mailbox (or NULL, before it is freed): rung when the queue has to read something
// back from disk for the stream.
void lane_set_front(struct lane *lane, struct mailbox *front);
// The front thread: between hold and let go nobody reads the queue, and nothing else here is called.
void lane_hold(struct lane *lane, bool hold);
// The control thread: a stream of `session` begins at `from` + 1, or ends.
void lane_start(struct lane *lane, uint64_t session, uint64_t from);
void lane_stop(struct lane *lane);
// Likewise: nothing from `seq` on is sent for now (UINT64_MAX: everything is).
void lane_withhold(struct lane *lane, uint64_t seq);

// The front thread, after numbering; `barrier`: an answer waits for it. Sends what is due. A few
// records that linger are not worth waking the stream thread: then the front thread comes again by
// itself, at the time (CLOCK_BOOTTIME ns) that is returned. INT64_MAX: the stream thread comes.
int64_t lane_push(struct lane *lane, bool barrier);
// The stream thread: sends what is due. Returns when to come again (CLOCK_BOOTTIME; INT64_MAX: when
// rung or when the channel takes messages again).
int64_t lane_work(struct lane *lane, int64_t now);
bool lane_blocked(struct lane *lane); // waits for channel_data_send_fd()
void lane_unblock(struct lane *lane);
void lane_rewind(struct lane *lane); // the data path changed
// An acknowledgement has come. -EPROTO and -EIO as sender_ack().
int lane_ack(struct lane *lane, const void *message, size_t size, struct error *err);
// What the peer has settled in the stream that is under way; false: none is.
bool lane_settled(struct lane *lane, uint64_t *ret_session, uint64_t *ret_seq);
bool lane_running(struct lane *lane); // the front thread asks in every turn: without the lock

#endif
