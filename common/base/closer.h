// SPDX-License-Identifier: Apache-2.0
// A thread that closes descriptors, for those whose close() waits: the kernel lets go of a packet socket only after a
// grace period of all processors, which takes ten to some hundred milliseconds. A loop that heartbeats depend on must
// not stand still for that.
//
// Any thread may hand descriptors over. They are closed in the order in which they came.
#ifndef BASE_CLOSER_H
#define BASE_CLOSER_H

struct closer;

// 0 or -errno.
int closer_new(struct closer **ret_closer);
// Waits until everything has been closed that was handed over. NULL-safe; NULL.
struct closer *closer_free(struct closer *closer);

// Takes `fd` over (-1: nothing to do). Without a closer (NULL), or behind thousands that still wait, it is closed here.
void closer_close(struct closer *closer, int fd);

#endif
