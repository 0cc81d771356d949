// SPDX-License-Identifier: Apache-2.0
#include "common/address/ip.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int parse_prefix(const char *text, const char *digits, unsigned limit, uint8_t *ret_prefix,
                        struct error *err)
{
    char *end = NULL;
    errno = 0;
    unsigned long n =
        digits[0] >= '0' && digits[0] <= '9' ? strtoul(digits, &end, 10) : limit + 1UL;
    if (errno || n > limit || *end != '\0')
        return error_set(err, -EINVAL, "\"%s\": the prefix must be a number from 0 to %u", text,
                         limit);
    *ret_prefix = (uint8_t)n;
    return 0;
}

int ip_parse(const char *text, struct ip *ret_ip, struct error *err)
{
    char bare[IP_TEXT_SIZE];
    const char *slash = strchr(text, '/');
    size_t size = slash ? (size_t)(slash - text) : strlen(text);
    struct ip ip = {0};
    if (size < sizeof(bare)) {
        memcpy(bare, text, size);
        bare[size] = '\0';
        if (inet_pton(AF_INET, bare, ip.bytes) == 1)
            ip.family = IP_V4;
        else if (inet_pton(AF_INET6, bare, ip.bytes) == 1)
            ip.family = IP_V6;
    }
    if (!ip.family)
        return error_set(err, -EINVAL, "\"%.80s\" is not an IPv4 or IPv6 address", text);
    ip.prefix = (uint8_t)(ip_size(&ip) * 8);
    if (slash) {
        int r = parse_prefix(text, slash + 1, ip.prefix, &ip.prefix, err);
        if (r < 0)
            return r;
    }
    *ret_ip = ip;
    return 0;
}

char *ip_format_bare(const struct ip *ip, char text[IP_TEXT_SIZE])
{
    int family = ip->family == IP_V4 ? AF_INET : AF_INET6;
    if (!ip->family || !inet_ntop(family, ip->bytes, text, IP_TEXT_SIZE))
        snprintf(text, IP_TEXT_SIZE, "none");
    return text;
}

char *ip_format(const struct ip *ip, char text[IP_TEXT_SIZE])
{
    ip_format_bare(ip, text);
    if (ip->family && ip->prefix < ip_size(ip) * 8) {
        size_t used = strlen(text);
        snprintf(text + used, IP_TEXT_SIZE - used, "/%u", ip->prefix);
    }
    return text;
}

size_t ip_size(const struct ip *ip)
{
    return ip->family == IP_V4 ? 4 : 16;
}

bool ip_equal(const struct ip *a, const struct ip *b)
{
    return a->family == b->family && memcmp(a->bytes, b->bytes, ip_size(a)) == 0;
}

bool ip_within(const struct ip *ip, const struct ip *net)
{
    if (ip->family != net->family)
        return false;
    size_t whole = net->prefix / 8;
    unsigned rest = net->prefix % 8;
    ENSURE(whole <= ip_size(ip));
    if (memcmp(ip->bytes, net->bytes, whole) != 0)
        return false;
    return rest == 0 || (ip->bytes[whole] ^ net->bytes[whole]) >> (8 - rest) == 0;
}

bool ip_is_link_local(const struct ip *ip)
{
    return ip->family == IP_V6 && ip->bytes[0] == 0xfe && (ip->bytes[1] & 0xc0) == 0x80;
}

socklen_t ip_to_sockaddr(const struct ip *ip, uint16_t port, int interface_index,
                         struct sockaddr_storage *ret_address)
{
    memset(ret_address, 0, sizeof(*ret_address));
    if (ip->family == IP_V4) {
        struct sockaddr_in *in = (struct sockaddr_in *)ret_address;
        in->sin_family = AF_INET;
        in->sin_port = htons(port);
        memcpy(&in->sin_addr, ip->bytes, 4);
        return sizeof(*in);
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret_address;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(port);
    in6->sin6_scope_id = ip_is_link_local(ip) ? (uint32_t)interface_index : 0;
    memcpy(&in6->sin6_addr, ip->bytes, 16);
    return sizeof(*in6);
}
