// SPDX-License-Identifier: Apache-2.0
#include "guard/off.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"

#define SAME_ADDRESS_MAX                                                                           \
    8 // times that one IPv4 address may be on the interface, with different prefixes

int off_open(struct off_sockets *ret_sockets)
{
    CLEANUP_CLOSE int query = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CLEANUP_CLOSE int netlink =
        query < 0 ? -1 : socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    if (netlink < 0 || connect(netlink, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
        return -errno;
    *ret_sockets = (struct off_sockets){.netlink = TAKE_FD(netlink), .query = TAKE_FD(query)};
    return 0;
}

void off_close(struct off_sockets *sockets)
{
    cleanup_close(&sockets->netlink);
    cleanup_close(&sockets->query);
}

// RTM_DELADDR with the address alone. The kernel matches IPv4 by it whatever the prefix, IPv6
// together with the prefix.
void off_prepare(const struct ip *ip, struct off_message *ret_message)
{
    struct {
        struct nlmsghdr header;
        struct ifaddrmsg body;
        struct rtattr attribute;
        uint8_t address[16];
    } m = {.header = {.nlmsg_type = RTM_DELADDR, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK},
           .body = {.ifa_family = ip->family == IP_V4 ? AF_INET : AF_INET6,
                    .ifa_prefixlen = ip->prefix},
           .attribute = {.rta_type = IFA_LOCAL, .rta_len = (uint16_t)RTA_LENGTH(ip_size(ip))}};
    _Static_assert(sizeof(m) <= OFF_MESSAGE_SIZE, "fits");
    _Static_assert(NLMSG_ALIGN(sizeof(m.body)) == sizeof(m.body),
                   "no padding before the attribute");
    memcpy(m.address, ip->bytes, ip_size(ip));
    ret_message->size = NLMSG_LENGTH(sizeof(m.body)) + RTA_LENGTH(ip_size(ip));
    m.header.nlmsg_len = (uint32_t)ret_message->size;
    memcpy(ret_message->bytes, &m, sizeof(m));
}

static void stamp(struct off_message *message, int index, uint32_t number)
{
    struct nlmsghdr *header = (struct nlmsghdr *)message->bytes;
    struct ifaddrmsg *body = NLMSG_DATA(header);
    header->nlmsg_seq = number;
    body->ifa_index = (uint32_t)index;
}

// The kernel has answered when send() returns. Answers to earlier requests are passed over.
static int take_answer(int fd, uint32_t number)
{
    uint8_t bytes[256];
    for (;;) {
        ssize_t n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        struct nlmsghdr header;
        struct nlmsgerr answer;
        if ((size_t)n < NLMSG_LENGTH(sizeof(answer)))
            continue;
        memcpy(&header, bytes, sizeof(header));
        memcpy(&answer, bytes + NLMSG_HDRLEN, sizeof(answer));
        if (header.nlmsg_seq == number && header.nlmsg_type == NLMSG_ERROR)
            return answer.error;
    }
}

// -EADDRNOTAVAIL when it is not, or no longer, there.
static int off_one(int fd, struct off_message *message, int index, uint32_t number)
{
    stamp(message, index, number);
    ssize_t n = send(fd, message->bytes, message->size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : take_answer(fd, number);
}

static int current_index(int query, const char *interface, int index)
{
    struct ifreq request = {0};
    size_t size = strnlen(interface, sizeof(request.ifr_name) - 1);
    memcpy(request.ifr_name, interface, size);
    return ioctl(query, SIOCGIFINDEX, &request) < 0 ? index : request.ifr_ifindex;
}

int off_all(struct off_sockets *sockets, const char *interface, int index,
            struct off_message *messages, size_t count, size_t *ret_removed)
{
    int first = 0;
    size_t removed = 0;
    if (count > 0)
        index = current_index(sockets->query, interface, index);
    for (size_t i = 0; i < count; i++) {
        int r = 0;
        for (int again = 0; r == 0 && again < SAME_ADDRESS_MAX; again++) {
            r = off_one(sockets->netlink, &messages[i], index, ++sockets->number);
            removed += r == 0;
        }
        bool gone = r == 0 || r == -EADDRNOTAVAIL || r == -ENODEV;
        first = first < 0 || gone ? first : r;
    }
    *ret_removed = removed;
    return first;
}
