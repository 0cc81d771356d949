// SPDX-License-Identifier: Apache-2.0
// The way of the records to one peer: which batch goes next and when, what its acknowledgements
// mean, and what is sent again. It holds one reader of the unsafe queue; it sends nothing itself.
//
//   sender_next()   gives the next batch, gathered where it lies; the caller sends it and says sender_sent(), or
//                   sender_blocked() when the channel takes nothing now (the same batch comes again)
//   sender_ack()    takes an acknowledgement: positions, releases, what to send again (go back to received + 1)
//
// Threads: any, under one mutex of the caller's, which is held from sender_next() until
// sender_sent() or sender_blocked(). Times are CLOCK_BOOTTIME ns and come from the caller.
#ifndef QUEUES_SENDER_H
#define QUEUES_SENDER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/base/error.h"
#include "queues/batch.h"
#include "queues/unsafe.h"

#define SENDER_LINGER_NS INT64_C(300000) // how long a record may wait for company
#define SENDER_SILENCE_NS                                                                          \
    INT64_C(1000000000)         // without progress while something is outstanding: send it again
#define SENDER_RECORDS_MAX 1000                // of one batch; with two more pieces it stays below what a channel gathers
_Static_assert(SENDER_RECORDS_MAX <= BATCH_RECORDS_MAX, "what the other end accepts");

struct sender;

struct positions {
    uint64_t numbered, received, durable, applied, settled;
};

struct sender_config {
    int64_t linger_ns;  // 0: SENDER_LINGER_NS
    int64_t silence_ns; // 0: SENDER_SILENCE_NS
};

struct sender_message {
    const struct iovec *iov; // the whole message: batch header, record headers, payloads
    int iov_count;
    size_t bytes;
    uint64_t first_seq;
    uint32_t records; // 0 with a barrier alone
    bool barrier;
};

// For reader `reader` of the queue, which is attached before sender_start(). NULL: no memory.
struct sender *sender_new(struct unsafe *unsafe, unsigned reader,
                          const struct sender_config *config);
struct sender *sender_free(struct sender *sender);

// A session begins: the peer has everything up to `from` durable; what it may have received beyond
// that its first acknowledgement tells. Releases up to `from`. Needs released(reader) <= from <=
// numbered.
void sender_start(struct sender *sender, uint64_t session, uint64_t from, int64_t now_ns);
// The session is over: nothing is sent, nothing accepted, until the next start. Positions stay
// readable.
void sender_stop(struct sender *sender);
bool sender_running(const struct sender *sender);

// What is numbered by now has lingered long enough: it goes with the next batches.
void sender_hasten(struct sender *sender);

// Nothing from `seq` on is sent for now, which was not numbered yet, whatever sessions come and go. UINT64_MAX: everything
// is sent.
void sender_withhold(struct sender *sender, uint64_t seq);

// Everything numbered by now shall become durable as soon as possible: it is sent without
// lingering, the last batch with a barrier. Returns its number; it is done when
// sender_barrier_done() has reached it.
uint64_t sender_barrier(struct sender *sender);
uint64_t sender_barrier_done(const struct sender *sender);

// The next batch, if one is due. Returns false when there is none: ask again when more was
// numbered, or at sender_deadline(). The message lives until the next call of any function here.
bool sender_next(struct sender *sender, int64_t now_ns, struct sender_message *ret_message);
void sender_sent(struct sender *sender, int64_t now_ns);
void sender_blocked(struct sender *sender);
// When sender_next() wants to be asked again, as of its last answer (INT64_MAX: only when something
// happens).
int64_t sender_deadline(const struct sender *sender);
// Since when what was sent has been without any acknowledgement that moved something; INT64_MAX: nothing is outstanding.
int64_t sender_awaits_ns(const struct sender *sender);
// Bytes of payload that wait for company, as of the same answer.
uint64_t sender_pending(const struct sender *sender);

// The path failed over: what was sent since the last acknowledgement may be lost. Goes on from
// received + 1.
void sender_rewind(struct sender *sender, int64_t now_ns);

// Takes an acknowledgement message from the peer. Returns
//   0        taken (an old one that says less than is known is taken, too, and changes nothing)
//   -ESTALE  of another session: ignored
//   -EPROTO  malformed or impossible (beyond what was sent, moving both ways): nothing changed, err
//   says why -EIO     the peer cannot go on: err has its errno; positions were taken, and nothing
//   more is sent
int sender_ack(struct sender *sender, const void *message, size_t size, int64_t now_ns,
               struct error *err);
// The peer's safe queue is full for now.
bool sender_peer_full(const struct sender *sender);

void sender_positions(const struct sender *sender, struct positions *ret_positions);

#endif
