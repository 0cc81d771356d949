// SPDX-License-Identifier: Apache-2.0
// Takes addresses off an interface with messages that were made beforehand: nothing is allocated,
// nothing looked up but the interface's index.
#ifndef GUARD_OFF_H
#define GUARD_OFF_H

#include <stddef.h>
#include <stdint.h>

#include "common/address/ip.h"

#define OFF_MESSAGE_SIZE 64

struct off_message {
    uint8_t bytes[OFF_MESSAGE_SIZE];
    size_t size;
};

// The two sockets that off_all() needs; made once. Returns 0 or -errno.
struct off_sockets {
    int netlink;
    int query;       // any socket, for the interface's index
    uint32_t number; // of the last request
};
int off_open(struct off_sockets *ret_sockets);
void off_close(struct off_sockets *sockets);

void off_prepare(const struct ip *ip, struct off_message *ret_message);
// Removes each of them; the interface is looked up by its name, `index` is for when that fails.
// Tries all, returns the first error; what is not there is none. *ret_removed: how many were there.
int off_all(struct off_sockets *sockets, const char *interface, int index,
            struct off_message *messages, size_t count, size_t *ret_removed);

#endif
