// SPDX-License-Identifier: Apache-2.0
// Messages with descriptors between daemon and guard, over a SOCK_SEQPACKET unix socket.
#ifndef GUARD_PASS_H
#define GUARD_PASS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/base/error.h"

#define PASS_INQUIRIES_MAX 128 // sockets at management addresses
#define PASS_FDS_MAX       (1 + PASS_INQUIRIES_MAX)

// The guard's first message on a connection. It stays as it is in every version, so that any daemon
// understands it.
struct pass_hello {
    uint64_t magic;   // PLAN_MAGIC
    uint32_t version; // PLAN_VERSION
    uint32_t size;    // of the plan
    int32_t status;   // 0, or -EBUSY: another daemon is attached
    int32_t pid;      // of the guard
};

enum pass_kind {
    PASS_WAKE = 'w',    // daemon to guard: look at the plan
    PASS_INQUIRY = 'i', // daemon to guard: the responder's socket comes along
    PASS_NOTICE = 'n',  // guard to daemon: look at the plan
};

// Sends without blocking. 0 or -errno.
int pass_send(int fd, const void *data, size_t size, const int *fds, size_t fd_count);
// Receives one message. Returns its size, 0 at the end of the connection, or -errno (-EAGAIN:
// nothing waits). *ret_fd_count descriptors are the caller's from then on.
ssize_t pass_receive(int fd, void *data, size_t size, int fds[PASS_FDS_MAX], size_t *ret_fd_count);

// A socket address in a directory of any length: goes through /proc/self/fd. `listening` makes a
// listener (mode 0600, an old one is removed), otherwise connects. Returns the fd or -errno.
int pass_open(const char *dir, const char *name, int listening);

#endif
