// SPDX-License-Identifier: Apache-2.0
// The way out of the unsafe queue to the peer: a sender, its session, and whether the link takes
// anything now. Pure, and without a lock: whoever lets several threads use it holds one around each
// call (common/daemon/lane).
#ifndef END_OUTLET_H
#define END_OUTLET_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/base/error.h"
#include "queues/sender.h"

struct outlet;

struct outlet *outlet_new(unsigned reader); // of the unsafe queue. NULL: no memory
struct outlet *outlet_free(struct outlet *outlet);

// There is a queue, or (NULL) none any more. 0 or -ENOMEM.
int outlet_set_queue(struct outlet *outlet, struct unsafe *queue);
// A stream of `session` begins at `from` + 1. False when the queue cannot give that any more:
// between the meeting and this moment it may have let go of the reader; the end hears of that, and
// ends the session.
bool outlet_start(struct outlet *outlet, uint64_t session, uint64_t from, int64_t now_ns);
void outlet_stop(struct outlet *outlet);
bool outlet_running(const struct outlet *outlet);
uint64_t outlet_session(const struct outlet *outlet); // 0: none

// As sender_withhold(), of this queue.
void outlet_withhold(struct outlet *outlet, uint64_t seq);
void outlet_barrier(struct outlet *outlet);
void outlet_hasten(struct outlet *outlet); // nothing that is numbered by now lingers
// Sends what is due. A message that `send` does not take (it returns other than 0) comes again
// after outlet_unblock().
typedef int outlet_send_fn(void *user, const struct iovec *iov, int count);
void outlet_send(struct outlet *outlet, int64_t now_ns, outlet_send_fn *send, void *user);
// When to call outlet_send() again; INT64_MAX: when something is numbered, acknowledged or
// unblocked.
int64_t outlet_deadline(const struct outlet *outlet);
int64_t outlet_awaits_ns(const struct outlet *outlet); // sender_awaits_ns()
uint64_t outlet_pending(const struct outlet *outlet); // bytes that linger
bool outlet_blocked(const struct outlet *outlet);
void outlet_unblock(struct outlet *outlet);
void outlet_rewind(struct outlet *outlet,
                   int64_t now_ns); // the data path changed: what was sent may be lost

// As sender_ack(); -ESTALE while nothing runs.
int outlet_ack(struct outlet *outlet, const void *message, size_t size, int64_t now_ns,
               struct error *err);
// The peer's positions, and when durable moved last (0: never). False without a queue.
bool outlet_positions(const struct outlet *outlet, struct positions *ret_positions,
                      int64_t *ret_moved_ns);

#endif
