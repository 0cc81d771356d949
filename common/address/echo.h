// SPDX-License-Identifier: Apache-2.0
// ICMP echo (ping) of both families over raw sockets, bound to one interface.
#ifndef ADDRESS_ECHO_H
#define ADDRESS_ECHO_H

#include <stdint.h>

#include "common/address/ip.h"

// A non-blocking socket that receives nothing but echo replies, and of those hardly any but to asks
// with this cookie: where many on this machine ask, none is woken by the others' replies. Returns
// the fd or -errno.
int echo_open(const char *interface, uint8_t family, uint64_t cookie, struct error *err);

// What an echo carries and its reply brings back. `cookie` keeps other pinging programs' replies
// apart.
struct echo {
    uint64_t cookie;
    uint64_t number;
    struct ip from;      // of a reply: who sent it
    int64_t received_ns; // of a reply: CLOCK_BOOTTIME, when the kernel received it
};

int echo_send(int fd, const struct ip *to, int interface_index, uint64_t cookie, uint64_t number);
// The next reply that carries `cookie`. Returns 1, 0 when nothing more waits, or -errno.
int echo_receive(int fd, uint8_t family, uint64_t cookie, struct echo *ret_echo);

#endif
