// SPDX-License-Identifier: Apache-2.0
// Raw access to the neighbours on one interface's link: packet sockets that see ARP, or IPv6
// neighbour discovery, and nothing else (a filter in the kernel keeps the rest of the traffic away
// from us). Needs CAP_NET_RAW.
#ifndef ADDRESS_WIRE_H
#define ADDRESS_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/address/packet.h"
#include "common/base/error.h"

struct wire_link {
    int index;
    uint8_t mac[MAC_ADDRESS_SIZE];
    bool carrier; // up, and something is connected
};

// Looks the interface up, all but its carrier: never waits for the kernel's network lock. -EOPNOTSUPP where it is not of
// Ethernet's kind.
int wire_find(const char *interface, struct wire_link *ret_link, struct error *err);
// The same with the carrier: may wait while somebody changes the machine's network.
int wire_look(const char *interface, struct wire_link *ret_link, struct error *err);

// A non-blocking socket for ARP (IP_V4) or neighbour discovery (IP_V6) on this interface. Returns
// the fd or -errno. Closing one waits for the kernel: see closer.h.
int wire_open(int index, uint8_t family, struct error *err);
int wire_send(int fd, const uint8_t *frame, size_t size); // 0 or -errno

// One that only sends, on any interface. To be closed like the others.
int wire_open_sender(struct error *err);
int wire_send_on(int fd, int index, const uint8_t *frame, size_t size); // 0 or -errno

struct wire_news {
    struct frame_news news;
    int64_t received_ns; // CLOCK_BOOTTIME, when the kernel received it
};

// The next question or answer of somebody else. Returns 1, 0 when nothing more waits, or -errno.
int wire_receive(int fd, struct wire_news *ret_news);

// Asks the kernel for receive times on a socket, and receives one message with its own: from a packet socket or any other one.
// Returns its size, -EAGAIN when none waits, or another -errno. *ret_received_ns is now for a message without a time.
void wire_want_times(int fd);
ssize_t wire_receive_timed(int fd, void *data, size_t size, struct sockaddr_storage *ret_from, int64_t *ret_received_ns);

#endif
