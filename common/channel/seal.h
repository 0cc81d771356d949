// SPDX-License-Identifier: Apache-2.0
// What makes a link secret and authentic: a TLS 1.3 handshake with a pre-shared key, carried over
// messages, and the sealing of each message with keys exported from it. The only file that knows
// GnuTLS is seal.c.
//
// Without a key (loopback only) the handshake is one exchange of a fixed text, and "sealed" means a
// checksum.
//
// A sealed message is only opened with the same counter and the same additional data as it was
// sealed with. The caller never gives a counter twice to seal_close() of one seal, and never
// accepts one twice.
//
// Threads: closing and opening use separate states: one thread may close while another one opens.
#ifndef CHANNEL_SEAL_H
#define CHANNEL_SEAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "common/base/error.h"

struct channel_key; // channel.h

#define SEAL_OVERHEAD      16   // bytes that sealing adds behind a message
#define SEAL_HANDSHAKE_MAX 4096 // bytes of one handshake message; a longer one is refused unread

struct seal;

// Begins a handshake. Both ends have to give the same `context` (what the keys are bound to). key
// NULL: unsealed. The key has to outlive the handshake.
int seal_new(const struct channel_key *key, bool initiator, const void *context,
             size_t context_size, struct seal **ret_seal, struct error *err);
struct seal *seal_free(struct seal *seal); // NULL-safe; wipes the keys

// Takes the peer's handshake message (none for the initiator's first step) and gives the answer to
// send, if any
// (*ret_size bytes in `out`, which has room for SEAL_HANDSHAKE_MAX). Returns 1 when this side is
// done and may seal and open, 0 when another message is awaited, -EPROTO when it failed for good
// (the answer then tells the peer).
int seal_step(struct seal *seal, const void *in, size_t in_size, void *out, size_t *ret_size,
              struct error *err);

// Seals the pieces of `iov` into `to`: their bytes and SEAL_OVERHEAD more. The one pass over the
// data.
int seal_close(struct seal *seal, uint64_t counter, const void *additional, size_t additional_size,
               const struct iovec *iov, int n, void *to);
// Opens `size` bytes in place; the plain text has size - SEAL_OVERHEAD. -EBADMSG: damaged, forged
// or not ours.
int seal_open(struct seal *seal, uint64_t counter, const void *additional, size_t additional_size,
              void *data, size_t size);

#endif
