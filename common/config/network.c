// SPDX-License-Identifier: Apache-2.0
#include "common/config/network.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/error.h"

struct binary {
    int family;
    unsigned prefix; // bits
    unsigned char bytes[sizeof(struct in6_addr)];
};

// Of "ADDRESS" or "ADDRESS/PREFIX" in the form that value.c let through.
static struct binary binary_of(const char *text)
{
    struct binary b = {.family = strchr(text, ':') ? AF_INET6 : AF_INET};
    b.prefix = b.family == AF_INET ? 32 : 128;
    char address[INET6_ADDRSTRLEN];
    size_t length = strcspn(text, "/");
    ENSURE(length < sizeof(address));
    memcpy(address, text, length);
    address[length] = '\0';
    ENSURE(inet_pton(b.family, address, b.bytes) == 1);
    if (text[length])
        b.prefix = (unsigned)atoi(text + length + 1);
    return b;
}

static bool bit(const struct binary *b, unsigned i)
{
    return (b->bytes[i / 8] >> (7 - i % 8)) & 1;
}

bool network_is_loopback(const char *address)
{
    return network_holds("127.0.0.1/8", address) || network_holds("::1/128", address);
}

bool network_same_family(const char *a, const char *b)
{
    return binary_of(a).family == binary_of(b).family;
}

bool network_holds(const char *network, const char *address)
{
    struct binary n = binary_of(network), a = binary_of(address);
    if (n.family != a.family)
        return false;
    for (unsigned i = 0; i < n.prefix; i++) {
        if (bit(&n, i) != bit(&a, i))
            return false;
    }
    return true;
}

bool network_is_address(const char *network, const char *address)
{
    struct binary n = binary_of(network), a = binary_of(address);
    return n.family == a.family && memcmp(n.bytes, a.bytes, sizeof(n.bytes)) == 0;
}

bool network_is_reserved(const char *network)
{
    struct binary n = binary_of(network);
    if (n.family != AF_INET || n.prefix >= 31)
        return false;
    unsigned ones = 0;
    for (unsigned i = n.prefix; i < 32; i++)
        ones += bit(&n, i);
    return ones == 0 || ones == 32 - n.prefix;
}
