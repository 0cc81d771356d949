// SPDX-License-Identifier: Apache-2.0
#include "common/address/echo.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/icmp.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <stddef.h>
#include <string.h>

#include "common/address/wire.h"
#include "common/base/bytes.h"
#include "common/base/cleanup.h"

// Header and body are the same for both families, apart from type and checksum.
struct echo_message {
    uint8_t type, code, checksum[2], id[2], sequence[2];
    struct le64 cookie, number;
};
_Static_assert(sizeof(struct echo_message) == 24, "no padding");

#define IP4_HEADER_MIN 20

static int pass_replies_only(int fd, uint8_t family)
{
    int r = 0;
    if (family == IP_V4) {
        struct icmp_filter filter = {.data = ~(1U << ICMP_ECHOREPLY)};
        r = setsockopt(fd, SOL_RAW, ICMP_FILTER, &filter, sizeof(filter));
    } else {
        struct icmp6_filter filter;
        ICMP6_FILTER_SETBLOCKALL(&filter);
        ICMP6_FILTER_SETPASS(ICMP6_ECHO_REPLY, &filter);
        r = setsockopt(fd, IPPROTO_ICMPV6, ICMP6_FILTER, &filter, sizeof(filter));
    }
    return r < 0 ? -errno : 0;
}

// The id that an ask with this cookie carries: the kernel compares it, echo_receive() the rest.
static uint16_t id_of(uint64_t cookie)
{
    return (uint16_t)cookie;
}

// A raw socket of IPv4 sees the IP header before the message, one of IPv6 does not.
static int pass_own_only(int fd, uint8_t family, uint64_t cookie)
{
    struct sock_filter code[] = {
        family == IP_V4 ? (struct sock_filter)BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 0)
                        : (struct sock_filter)BPF_STMT(BPF_LDX | BPF_W | BPF_IMM, 0),
        BPF_STMT(BPF_LD | BPF_H | BPF_IND, offsetof(struct echo_message, id)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, id_of(cookie), 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0 ? -errno : 0;
}

int echo_open(const char *interface, uint8_t family, uint64_t cookie, struct error *err)
{
    CLEANUP_CLOSE int fd =
        socket(family == IP_V4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC,
               family == IP_V4 ? IPPROTO_ICMP : IPPROTO_ICMPV6);
    if (fd < 0)
        return error_sys(err, -errno, "cannot make an ICMP socket (CAP_NET_RAW is needed)");
    int r = pass_replies_only(fd, family);
    if (r == 0)
        r = pass_own_only(fd, family, cookie);
    if (r < 0)
        return error_sys(err, r, "cannot prepare an ICMP socket");
    if (setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, interface, (socklen_t)strlen(interface)) < 0)
        return error_sys(err, -errno, "cannot bind an ICMP socket to %s", interface);
    wire_want_times(fd);
    return TAKE_FD(fd);
}

// RFC 1071. (For IPv6 the kernel puts it in.)
static void seal_icmp4(struct echo_message *m)
{
    uint8_t raw[sizeof(*m)];
    uint32_t sum = 0;
    memcpy(raw, m, sizeof(raw));
    for (size_t i = 0; i < sizeof(raw); i += 2)
        sum += (uint32_t)raw[i] << 8 | raw[i + 1];
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    m->checksum[0] = (uint8_t)(~sum >> 8);
    m->checksum[1] = (uint8_t)~sum;
}

int echo_send(int fd, const struct ip *to, int interface_index, uint64_t cookie, uint64_t number)
{
    struct sockaddr_storage at;
    socklen_t size = ip_to_sockaddr(to, 0, interface_index, &at);
    struct echo_message m = {
        .type = to->family == IP_V4 ? ICMP_ECHO : ICMP6_ECHO_REQUEST,
        .id = {(uint8_t)(id_of(cookie) >> 8), (uint8_t)id_of(cookie)},
        .sequence = {(uint8_t)(number >> 8), (uint8_t)number},
        .cookie = le64_make(cookie),
        .number = le64_make(number),
    };
    if (to->family == IP_V4)
        seal_icmp4(&m);
    ssize_t n =
        sendto(fd, &m, sizeof(m), MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&at, size);
    return n < 0 ? -errno : 0;
}

static void take_from(const struct sockaddr_storage *from, uint8_t family, struct ip *ret_ip)
{
    struct ip ip = {.family = family, .prefix = family == IP_V4 ? 32 : 128};
    if (family == IP_V4)
        memcpy(ip.bytes, &((const struct sockaddr_in *)from)->sin_addr, 4);
    else
        memcpy(ip.bytes, &((const struct sockaddr_in6 *)from)->sin6_addr, 16);
    *ret_ip = ip;
}

// IPv4 raw sockets deliver the IP header too.
static bool parse(const uint8_t *data, size_t size, uint8_t family, uint64_t cookie,
                  uint64_t *ret_number)
{
    struct echo_message m;
    struct byte_reader r = byte_reader(data, size);
    if (family == IP_V4)
        (void)byte_take(&r, size > 0 ? MAX((data[0] & 15U) * 4U, IP4_HEADER_MIN) : 1);
    byte_copy(&r, &m, sizeof(m));
    if (r.bad || m.type != (family == IP_V4 ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY) || m.code != 0)
        return false;
    *ret_number = le64_get(m.number);
    return le64_get(m.cookie) == cookie;
}

int echo_receive(int fd, uint8_t family, uint64_t cookie, struct echo *ret_echo)
{
    for (;;) {
        uint8_t data[256];
        struct sockaddr_storage from;
        struct echo echo = {.cookie = cookie};
        ssize_t n = wire_receive_timed(fd, data, sizeof(data), &from, &echo.received_ns);
        if (n < 0)
            return n == -EAGAIN ? 0 : (int)n;
        if (!parse(data, (size_t)n, family, cookie, &echo.number))
            continue;
        take_from(&from, family, &echo.from);
        *ret_echo = echo;
        return 1;
    }
}
