// SPDX-License-Identifier: Apache-2.0
// Where a volume lives: a regular file, a block device, or a LUN reached over iSCSI, all behind
// queues/block.h.
//
// A store belongs to one thread (its owner): it opens it, submits, kicks, works and frees. There
// are no locks. The only functions for other threads are store_busy() and store_resets().
//
// Promises, for every kind:
// - done() is called from block_kick(), store_work() or store_free(), never from within block_submit(). A callback
//   may submit and kick again; kick() does not nest, and a callback that always submits anew does not starve the
//   caller.
// - Nothing is allocated for a request by this room. Any offset, length and address is allowed; where the storage
//   wants alignment, the edges are read, merged and written here (that is what `block_size` tells the caller).
// - ZERO and DISCARD leave zeros. Where the storage cannot promise that, zeros are written.
// - A flush that failed is final: from then on every WRITE, ZERO, DISCARD and FLUSH ends with the error of that
//   flush, until the store is opened again. Flushes that wait at the same time share one sync, never one already
//   submitted.
// - A file or device carries an exclusive flock() on the open file description that does its I/O. The lock goes when
//   the last request of that description has ended, also for a process that was killed: whoever gets it knows that no
//   late write of its predecessor is on its way. For a LUN, logging in with the same initiator name and session id
//   makes the target end the predecessor's session first (session reinstatement).
// - A LUN that is away is not an error: requests wait for it, and store_state_text() says since when and why. What
//   was under way is sent again after the reconnect.
#ifndef STORE_STORE_H
#define STORE_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/awake.h"
#include "common/base/error.h"
#include "queues/block.h"

enum store_kind {
    STORE_FILE,
    STORE_DEVICE,
    STORE_ISCSI,
};

struct store_config {
    // A path, or iscsi://[USER[%PASSWORD]@]HOST[:PORT]/TARGET/LUN. "fault:CONTROL:REAL" is for
    // tests (fault.h).
    const char *path;
    uint64_t size;     // bytes that the volume must have; 0 takes what is there
    bool allow_larger; // a device or LUN may be larger than `size`; the rest is left alone
    bool direct;       // O_DIRECT; files and devices only
    bool read_only;    // opened for reading: writes fail with -EROFS, the lock is shared
    const char *user;  // CHAP; NULL takes what the URL says
    const char *password;
    const char
        *initiator; // iSCSI name of this end; must be its own. NULL: made from the host's name
    int timeout_ms; // how long open may wait for a LUN; 0 means 10 s
    bool sync_when_told; // files and devices: the syncs that flushes wait for are started by store_sync()
    awake_t *awake; // of the thread that owns it: paused in what may wait for the disk. May be NULL
};

struct store;

// Returns 0, or
//   -EAGAIN     the lock is held by somebody else: a predecessor whose I/O has not ended yet. Try
//   again soon -EBUSY      in use in a way that waiting will not end: mounted, or a virtual machine
//   writes to it -ENOENT, -EROFS, -EACCES, -EINVAL (wrong size, neither file nor device, bad URL,
//   ...), -ETIMEDOUT (LUN), others
// with a text that names the path and the remedy. Blocks for as long as opening a file takes, or
// for timeout_ms.
int store_open(const struct store_config *config, struct store **ret_store, struct error *err);

// Ends what is under way, then closes: I/O on a file is waited for, requests to a LUN and those not
// yet started end with -ECANCELED. done() is called for each. NULL-safe, returns NULL.
struct store *store_free(struct store *store);

struct block *store_block(struct store *store);
enum store_kind store_kind(const struct store *store);

// Readable when store_work() has something to do. Stays the same for the life of the store.
int store_fd(const struct store *store);
void store_work(struct store *store);
// CLOCK_BOOTTIME, ns: when store_work() wants to be called even if nothing is readable. INT64_MAX:
// never.
int64_t store_deadline_ns(const struct store *store);
// With sync_when_told, once a turn: starts the sync that flushes wait for. `idle`: the owner has
// nothing else to do. Then a sync that is sure to be short is done on this thread, which is spared
// two wake-ups; true: it has ended, and store_work() delivers it.
bool store_sync(struct store *store, bool idle);

// Any thread: whether requests are with the storage, or the owner is inside a system call that may
// wait for it. An owner thread that does not answer while this is true is waiting for a disk; it is
// not wedged.
bool store_busy(const struct store *store);

// Any thread: how often the target of a LUN may have lost writes that had been answered but not
// flushed (it has a volatile write cache and came back as after power on). 0 for everything else.
uint64_t store_resets(const struct store *store);

// One line for a person: "ok", or why requests wait or fail. Owner thread; valid until the next
// call into the store.
const char *store_state_text(struct store *store);
// Whether requests are being served now: false while a LUN is away and after a failed flush.
bool store_is_up(const struct store *store);

#define STORE_EXTENT_HOLE 0x1 // not allocated
#define STORE_EXTENT_ZERO 0x2 // known to read as zeros
// What is known about the bytes from `offset` on: *ret_flags for the first *ret_length (1 to
// `length`) of them. For ranges that no request under way touches. Quick, never waits for a remote:
// a LUN or device is all data (flags 0).
void store_extent(struct store *store, uint64_t offset, uint64_t length, unsigned *ret_flags,
                  uint64_t *ret_length);

#endif
