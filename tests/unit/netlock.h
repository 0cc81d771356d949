// SPDX-License-Identifier: Apache-2.0
// Holds the kernel's one lock for network interfaces and addresses, as whoever deletes some thousand interfaces does, for
// exactly as long as a test wants. It is the lock of the whole machine: not for long.
//
// How: a question about an interface is answered into memory while the kernel holds the lock, and a page of that memory is
// missing until this test supplies it (userfaultfd).
#ifndef TEST_NETLOCK_H
#define TEST_NETLOCK_H

struct netlock;

// Returns when the lock is held; NULL where this cannot be done here: to be skipped.
struct netlock *netlock_hold(void);
// NULL-safe; returns NULL.
struct netlock *netlock_release(struct netlock *lock);

#endif
