// SPDX-License-Identifier: Apache-2.0
// An IPv4 or IPv6 address with its prefix length, as a plain value.
#ifndef ADDRESS_IP_H
#define ADDRESS_IP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "common/base/error.h"

struct ip {
    uint8_t family;    // IP_V4 or IP_V6; 0: no address
    uint8_t prefix;    // 0..32 or 0..128
    uint8_t bytes[16]; // network order; IPv4 uses the first four, the others are zero
};

#define IP_V4        4
#define IP_V6        6
#define IP_TEXT_SIZE 64

// "192.0.2.1/24", "2001:db8::1/64"; without "/N" the prefix is the whole address.
int ip_parse(const char *text, struct ip *ret_ip, struct error *err);
// With "/N" unless the prefix is the whole address. Returns `text`.
char *ip_format(const struct ip *ip, char text[IP_TEXT_SIZE]);
// The same without a prefix.
char *ip_format_bare(const struct ip *ip, char text[IP_TEXT_SIZE]);

size_t ip_size(const struct ip *ip);                       // 4 or 16
bool ip_equal(const struct ip *a, const struct ip *b);     // the address alone, whatever the prefix
bool ip_within(const struct ip *ip, const struct ip *net); // in the subnet net/net->prefix
bool ip_is_link_local(const struct ip *ip);                // IPv6 fe80::/10

// For a socket. `interface_index` becomes the scope of a link-local IPv6 address. Returns the
// length.
socklen_t ip_to_sockaddr(const struct ip *ip, uint16_t port, int interface_index,
                         struct sockaddr_storage *ret_address);

#endif
