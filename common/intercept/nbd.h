// SPDX-License-Identifier: Apache-2.0
// The NBD server of one pair: one unix socket a volume, all on the pair's front thread. While the
// end serves, requests are received straight into the unsafe queue's ring and handed to
// queues/updates; while it does not, every client is refused with a readable reason.
//
// Invariants: a payload is received once, into the place from which store, checksum and wire use
// it. A request that breaks a rule is answered with the right error and changes nothing. A client
// that vanishes half-way through a request leaves nothing behind; what it had submitted completes,
// unanswered.
#ifndef INTERCEPT_NBD_H
#define INTERCEPT_NBD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

#include "common/base/error.h"
#include "queues/unsafe.h"
#include "queues/updates.h"

struct nbd_export {
    const char *name;    // of the volume, and of the export
    const char *socket;  // path; a stale socket there is replaced
    uint64_t size;       // bytes
    uint32_t data_align; // what the store wants payloads, offsets and lengths aligned to (block.h);
                         // 1 where it copes
    uid_t owner;         // (uid_t)-1: as the daemon
    gid_t group;
    mode_t mode;
};

struct nbd_ops {
    // For block status: what is known of the bytes from `offset` on; see store_extent(). NULL: all
    // data.
    void (*extent)(void *user, uint16_t object, uint64_t offset, uint64_t length, bool *ret_hole,
                   bool *ret_zero, uint64_t *ret_length);
    // Whether ZERO and DISCARD of this object are fast (NBD_CMD_FLAG_FAST_ZERO is honoured only
    // then).
    bool (*zero_is_fast)(void *user, uint16_t object);
    // Something for the log: a client came or went, or broke a rule.
    void (*note)(void *user, uint16_t object, const char *text);
};

struct nbd;

// Listens at every export's socket (object = its index) and refuses until nbd_serve(). -EADDRINUSE:
// somebody listens there; -EEXIST: something else than a socket is at its place.
int nbd_open(const struct nbd_export *exports, size_t count, const struct nbd_ops *ops, void *user,
             struct nbd **ret_nbd, struct error *err);
// Closes clients and sockets and removes the socket files. Nothing of it may be under way at a
// store. While it serves, the queue must still be there.
struct nbd *nbd_free(struct nbd *nbd);

// From now on clients are served over this queue, until nbd_refuse(): it and `updates` have to stay
// until nbd_quiet().
void nbd_serve(struct nbd *nbd, struct unsafe *unsafe, struct updates *updates);
// From now on clients are refused with `why` (one sentence). Those that are connected are closed
// once their requests under way have ended, or when that takes longer than a few seconds;
// nbd_quiet() is true when none of them and no request is left. A request that ends with -ESHUTDOWN
// (gate closed) or -ECANCELED closes its client without an answer, here and at any other time: a
// client that reconnects sends it again to whoever serves then.
void nbd_refuse(struct nbd *nbd, const char *why);
bool nbd_quiet(const struct nbd *nbd);

// An epoll descriptor: readable when nbd_work() has something to do. A caller that has nothing else to poll with may add
// descriptors of its own, with nbd_other() as their `data.ptr`.
int nbd_fd(const struct nbd *nbd);
void *nbd_other(struct nbd *nbd);
// Waits until nbd_fd() is readable, or so long (NULL: forever). The next nbd_work() has then been told what there is, and
// does not look itself.
void nbd_wait(struct nbd *nbd, const struct timespec *timeout);
// Accepts, receives, submits; a bounded amount a call. The caller kicks updates afterwards.
void nbd_work(struct nbd *nbd);
// Sends the answers that have been given since; call after updates_kick(), updates_durable() and
// updates_set_gate(), once a turn. Cheap when there are none; not needed while it refuses.
void nbd_flush(struct nbd *nbd);
// The unsafe queue has room again (UPDATES_EVENT_ROOM).
void nbd_room(struct nbd *nbd);

struct nbd_stat {
    unsigned clients;
    uint64_t reads, writes, flushes, errors; // requests since nbd_open()
    uint64_t read_bytes, written_bytes;
};
void nbd_stat(const struct nbd *nbd, struct nbd_stat *ret_stat);

#endif
