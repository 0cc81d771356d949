// SPDX-License-Identifier: Apache-2.0
#include "common/address/wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/ethtool.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/sockios.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"

// Whether the cable is in, this instant. Drivers that cannot tell count as connected: IFF_RUNNING
// still has to be set.
static bool has_carrier(int fd, struct ifreq *request)
{
    struct ethtool_value value = {.cmd = ETHTOOL_GLINK};
    request->ifr_data = (char *)&value;
    return ioctl(fd, SIOCETHTOOL, request) < 0 || value.data != 0;
}

static int look(const char *interface, bool carrier, struct wire_link *ret_link, struct error *err)
{
    struct ifreq request = {0};
    struct wire_link link = {0};
    CLEANUP_CLOSE int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_sys(err, -errno, "cannot make a socket");
    if (strlen(interface) >= sizeof(request.ifr_name))
        return error_set(err, -ENODEV, "\"%s\" is too long for an interface", interface);
    memcpy(request.ifr_name, interface, strlen(interface));
    if (ioctl(fd, SIOCGIFINDEX, &request) < 0)
        return error_sys(err, -errno, "interface \"%s\"", interface);
    link.index = request.ifr_ifindex;
    if (ioctl(fd, SIOCGIFHWADDR, &request) < 0)
        return error_sys(err, -errno, "hardware address of %s", interface);
    if (request.ifr_hwaddr.sa_family != ARPHRD_ETHER)
        return error_set(err, -EOPNOTSUPP, "%s is not an Ethernet interface", interface);
    memcpy(link.mac, request.ifr_hwaddr.sa_data, sizeof(link.mac));
    if (carrier && ioctl(fd, SIOCGIFFLAGS, &request) < 0)
        return error_sys(err, -errno, "flags of %s", interface);
    // The kernel lets go of, and sets, IFF_RUNNING up to a second after the carrier; without it
    // nothing is sent.
    link.carrier = carrier && (request.ifr_flags & (IFF_UP | IFF_RUNNING)) == (IFF_UP | IFF_RUNNING) &&
                   has_carrier(fd, &request);
    *ret_link = link;
    return 0;
}

int wire_find(const char *interface, struct wire_link *ret_link, struct error *err)
{
    return look(interface, false, ret_link, err);
}

int wire_look(const char *interface, struct wire_link *ret_link, struct error *err)
{
    return look(interface, true, ret_link, err);
}

// Lets only solicitations and advertisements through, which have no extension headers.
static int filter_discovery(int fd)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14 + 6), // next header
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMPV6, 0, 4),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14 + 40), // ICMPv6 type
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 135, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 136, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 0xffff),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog program = {.len = ARRAY_LEN(code), .filter = code};
    return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0 ? -errno : 0;
}

// Advertisements that answer a probe go to all nodes; other machines' probes to the address's own
// group.
static int join_multicast(int fd, int index)
{
    struct packet_mreq all = {.mr_ifindex = index, .mr_type = PACKET_MR_ALLMULTI};
    return setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof(all)) < 0 ? -errno : 0;
}

// Of protocol 0: nothing arrives at it.
int wire_open_sender(struct error *err)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    return fd < 0 ? error_sys(err, -errno, "cannot make a packet socket (CAP_NET_RAW is needed)") : fd;
}

int wire_open(int index, uint8_t family, struct error *err)
{
    // Nothing arrives before the filter stands and the interface is chosen.
    CLEANUP_CLOSE int fd = wire_open_sender(err);
    if (fd < 0)
        return fd;
    int r = family == IP_V6 ? filter_discovery(fd) : 0;
    if (r == 0 && family == IP_V6)
        r = join_multicast(fd, index);
    if (r < 0)
        return error_sys(err, r, "cannot prepare a packet socket");
    wire_want_times(fd);
    struct sockaddr_ll at = {.sll_family = AF_PACKET,
                             .sll_protocol =
                                 htons(family == IP_V6 ? ETHERTYPE_IPV6 : ETHERTYPE_ARP),
                             .sll_ifindex = index};
    if (bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
        return error_sys(err, -errno, "cannot bind a packet socket to its interface");
    return TAKE_FD(fd);
}

int wire_send(int fd, const uint8_t *frame, size_t size)
{
    ssize_t n = send(fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : 0;
}

int wire_send_on(int fd, int index, const uint8_t *frame, size_t size)
{
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = index};
    ssize_t n = sendto(fd, frame, size, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&to, sizeof(to));
    return n < 0 ? -errno : 0;
}

// Received by and meant for this machine: not what it has sent itself, and not what is only passing
// by.
static bool is_for_us(const struct sockaddr_ll *from)
{
    return from->sll_pkttype == PACKET_HOST || from->sll_pkttype == PACKET_BROADCAST ||
           from->sll_pkttype == PACKET_MULTICAST;
}

void wire_want_times(int fd)
{
    int on = 1;
    (void)setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &on, sizeof(on)); // without: read time
}

// The kernel stamps with the wall clock. Only its distance from now is used: a step of that clock
// in between makes the receive time wrong by the step, but never later than now.
static int64_t time_of(struct msghdr *message)
{
    int64_t now = clock_boot_ns();
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        struct timespec stamp;
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_TIMESTAMPNS)
            continue;
        memcpy(&stamp, CMSG_DATA(c), sizeof(stamp));
        int64_t age = clock_real_ns() - (stamp.tv_sec * NS_PER_S + stamp.tv_nsec);
        return age > 0 ? now - age : now;
    }
    return now;
}

ssize_t wire_receive_timed(int fd, void *data, size_t size, struct sockaddr_storage *ret_from, int64_t *ret_received_ns)
{
    union {
        struct cmsghdr align;
        uint8_t bytes[256];
    } control;
    struct iovec part = {.iov_base = data, .iov_len = size};
    ssize_t n;
    struct msghdr message;
    do {
        *ret_from = (struct sockaddr_storage){0};
        message = (struct msghdr){.msg_name = ret_from,
                                  .msg_namelen = sizeof(*ret_from),
                                  .msg_iov = &part,
                                  .msg_iovlen = 1,
                                  .msg_control = &control,
                                  .msg_controllen = sizeof(control)};
        n = recvmsg(fd, &message, MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    *ret_received_ns = time_of(&message);
    return n;
}

int wire_receive(int fd, struct wire_news *ret_news)
{
    for (;;) {
        uint8_t frame[256];
        struct sockaddr_storage from;
        int64_t received_ns;
        ssize_t n = wire_receive_timed(fd, frame, sizeof(frame), &from, &received_ns);
        if (n < 0)
            return n == -EAGAIN ? 0 : (int)n;
        if (!is_for_us((const struct sockaddr_ll *)&from) || !packet_parse(frame, (size_t)n, &ret_news->news))
            continue;
        ret_news->received_ns = received_ns;
        return 1;
    }
}
