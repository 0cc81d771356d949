// SPDX-License-Identifier: Apache-2.0
// The Ethernet frames with which neighbours are asked and answered: ARP (RFC 826, RFC 5227) and
// IPv6 neighbour discovery (RFC 4861). Pure encoding and decoding; whatever is not such a frame is
// refused, byte counts are checked.
#ifndef ADDRESS_PACKET_H
#define ADDRESS_PACKET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/address/ip.h"

#define MAC_ADDRESS_SIZE 6
#define FRAME_SIZE       128 // room for any frame made here

// Who has `target`? `sender` with only zero bytes (or NULL) is the form of a probe. `to` NULL:
// everybody (broadcast, or the target's multicast group); otherwise that machine alone. Returns the
// frame's size.
size_t packet_ask(uint8_t frame[FRAME_SIZE], const uint8_t mac[MAC_ADDRESS_SIZE],
                  const struct ip *sender, const struct ip *target, const uint8_t *to);
// "`ip` is at `mac`", to everybody: ARP in request form (`as_answer` false) or in reply form; for
// IPv6 always an unsolicited advertisement with the override flag.
size_t packet_announce(uint8_t frame[FRAME_SIZE], const uint8_t mac[MAC_ADDRESS_SIZE],
                       const struct ip *ip, bool as_answer);

struct frame_news {
    bool answer; // an ARP reply or a neighbour advertisement; otherwise a request or a solicitation
    bool sender_zero;              // of a probe
    struct ip sender;              // who says it; for an advertisement the address that it is about
    struct ip target;              // whom it is about
    uint8_t mac[MAC_ADDRESS_SIZE]; // of the sender
};

// False if the frame is of another kind, short, or malformed.
bool packet_parse(const uint8_t *frame, size_t size, struct frame_news *ret_news);

#endif
