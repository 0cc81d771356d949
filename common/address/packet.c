// SPDX-License-Identifier: Apache-2.0
#include "common/address/packet.h"

#include <arpa/inet.h>
#include <net/ethernet.h>
#include <netinet/in.h>
#include <string.h>

#include "common/base/bytes.h"

#define ARP_REQUEST      1
#define ARP_REPLY        2
#define ND_SOLICIT       135
#define ND_ADVERTISE     136
#define ND_OPTION_SOURCE 1
#define ND_OPTION_TARGET 2
#define ND_OVERRIDE      0x20 // of the first flag byte
#define ND_HOPS          255  // proves that no router has forwarded it

// The layouts, in network byte order. All members are bytes or pairs of them, so there is no
// padding.
struct arp_packet {
    uint8_t hardware[2], protocol[2], hardware_size, protocol_size, operation[2];
    uint8_t sender_mac[6], sender_ip[4], target_mac[6], target_ip[4];
};

struct ip6_header {
    uint8_t version_class_flow[4], payload_size[2], next, hops, source[16], destination[16];
};

struct nd_packet {
    uint8_t type, code, checksum[2], flags[4], target[16];
};

struct nd_option {
    uint8_t type, size_in_8, mac[6];
};

_Static_assert(sizeof(struct arp_packet) == 28, "as RFC 826 has it");
_Static_assert(sizeof(struct ip6_header) == 40, "as RFC 8200 has it");
_Static_assert(sizeof(struct nd_packet) == 24, "as RFC 4861 has it");
_Static_assert(sizeof(struct ether_header) == 14, "as Ethernet has it");

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
static const uint8_t arp_start[6] = {0, 1, 8, 0, 6, 4}; // Ethernet, IPv4 and their sizes

static void put_ethernet(struct byte_writer *w, const uint8_t *to, const uint8_t *from,
                         uint16_t type)
{
    uint8_t raw[2] = {(uint8_t)(type >> 8), (uint8_t)type};
    byte_put(w, to, 6);
    byte_put(w, from, 6);
    byte_put(w, raw, 2);
}

static size_t make_arp(uint8_t *frame, uint8_t operation, const uint8_t *to,
                       const struct arp_packet *body)
{
    struct byte_writer w = byte_writer(frame, FRAME_SIZE);
    struct arp_packet arp = *body;
    memcpy(arp.hardware, arp_start, sizeof(arp_start));
    arp.operation[0] = 0;
    arp.operation[1] = operation;
    put_ethernet(&w, to, arp.sender_mac, ETHERTYPE_ARP);
    byte_put(&w, &arp, sizeof(arp));
    ENSURE(!w.bad);
    return w.used;
}

static uint32_t sum16(uint32_t sum, const void *data, size_t size)
{
    const uint8_t *at = data;
    for (size_t i = 0; i + 1 < size; i += 2)
        sum += (uint32_t)at[i] << 8 | at[i + 1];
    return sum;
}

// RFC 4443: over a pseudo header of source, destination, length and protocol, and the message.
static void seal_icmp6(const struct ip6_header *ip, struct nd_packet *nd,
                       const struct nd_option *option)
{
    uint32_t sum = sum16(0, ip->source, 32);
    sum += ((uint32_t)ip->payload_size[0] << 8 | ip->payload_size[1]) + IPPROTO_ICMPV6;
    sum = sum16(sum, nd, sizeof(*nd));
    sum = sum16(sum, option, option ? sizeof(*option) : 0);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    nd->checksum[0] = (uint8_t)(~sum >> 8);
    nd->checksum[1] = (uint8_t)~sum;
}

// An ICMPv6 message from `source` to `destination`; a multicast destination implies its Ethernet
// address.
static size_t make_nd(uint8_t *frame, const uint8_t *mac, const uint8_t *to,
                      const uint8_t source[16], const uint8_t destination[16], struct nd_packet nd,
                      const struct nd_option *option)
{
    struct byte_writer w = byte_writer(frame, FRAME_SIZE);
    uint8_t group[6] = {0x33,           0x33, destination[12], destination[13], destination[14],
                        destination[15]};
    size_t size = sizeof(nd) + (option ? sizeof(*option) : 0);
    struct ip6_header ip = {.version_class_flow = {0x60},
                            .payload_size = {0, (uint8_t)size},
                            .next = IPPROTO_ICMPV6,
                            .hops = ND_HOPS};
    memcpy(ip.source, source, 16);
    memcpy(ip.destination, destination, 16);
    seal_icmp6(&ip, &nd, option);
    put_ethernet(&w, to ? to : group, mac, ETHERTYPE_IPV6);
    byte_put(&w, &ip, sizeof(ip));
    byte_put(&w, &nd, sizeof(nd));
    if (option)
        byte_put(&w, option, sizeof(*option));
    ENSURE(!w.bad);
    return w.used;
}

static size_t ask_nd(uint8_t *frame, const uint8_t *mac, const uint8_t source[16],
                     const struct ip *target, const uint8_t *to)
{
    static const uint8_t zero[16];
    uint8_t group[16] = {0xff, 0x02, [11] = 1, [12] = 0xff};
    memcpy(group + 13, target->bytes + 13, 3);
    struct nd_packet nd = {.type = ND_SOLICIT};
    struct nd_option option = {.type = ND_OPTION_SOURCE, .size_in_8 = 1};
    memcpy(nd.target, target->bytes, 16);
    memcpy(option.mac, mac, 6);
    bool probe = memcmp(source, zero, 16) == 0; // which must not carry its hardware address
    return make_nd(frame, mac, to, source, to ? target->bytes : group, nd, probe ? NULL : &option);
}

size_t packet_ask(uint8_t frame[FRAME_SIZE], const uint8_t mac[MAC_ADDRESS_SIZE],
                  const struct ip *sender, const struct ip *target, const uint8_t *to)
{
    static const struct ip none;
    const struct ip *from = sender ? sender : &none;
    if (target->family == IP_V6)
        return ask_nd(frame, mac, from->bytes, target, to);
    struct arp_packet arp = {0};
    memcpy(arp.sender_mac, mac, 6);
    memcpy(arp.sender_ip, from->bytes, 4);
    memcpy(arp.target_ip, target->bytes, 4);
    return make_arp(frame, ARP_REQUEST, to ? to : everybody, &arp);
}

size_t packet_announce(uint8_t frame[FRAME_SIZE], const uint8_t mac[MAC_ADDRESS_SIZE],
                       const struct ip *ip, bool as_answer)
{
    static const uint8_t all_nodes[16] = {0xff, 0x02, [15] = 1};
    if (ip->family == IP_V4) {
        struct arp_packet arp = {0};
        memcpy(arp.sender_mac, mac, 6);
        memcpy(arp.sender_ip, ip->bytes, 4);
        memcpy(arp.target_mac, as_answer ? mac : arp.target_mac, as_answer ? 6 : 0);
        memcpy(arp.target_ip, ip->bytes, 4);
        return make_arp(frame, as_answer ? ARP_REPLY : ARP_REQUEST, everybody, &arp);
    }
    struct nd_packet nd = {.type = ND_ADVERTISE, .flags = {ND_OVERRIDE}};
    struct nd_option option = {.type = ND_OPTION_TARGET, .size_in_8 = 1};
    memcpy(nd.target, ip->bytes, 16);
    memcpy(option.mac, mac, 6);
    return make_nd(frame, mac, NULL, ip->bytes, all_nodes, nd, &option);
}

static struct ip make_ip(uint8_t family, const uint8_t *bytes)
{
    struct ip ip = {.family = family};
    memcpy(ip.bytes, bytes, ip_size(&ip));
    ip.prefix = (uint8_t)(ip_size(&ip) * 8);
    return ip;
}

static bool is_zero(const struct ip *ip)
{
    static const uint8_t zero[16];
    return memcmp(ip->bytes, zero, 16) == 0;
}

static bool parse_arp(struct byte_reader *r, struct frame_news *ret_news)
{
    struct arp_packet arp;
    byte_copy(r, &arp, sizeof(arp));
    if (r->bad || memcmp(arp.hardware, arp_start, sizeof(arp_start)) != 0 || arp.operation[0] != 0)
        return false;
    if (arp.operation[1] != ARP_REQUEST && arp.operation[1] != ARP_REPLY)
        return false;
    struct frame_news news = {.answer = arp.operation[1] == ARP_REPLY};
    news.sender = make_ip(IP_V4, arp.sender_ip);
    news.target = make_ip(IP_V4, arp.target_ip);
    news.sender_zero = is_zero(&news.sender);
    memcpy(news.mac, arp.sender_mac, 6);
    *ret_news = news;
    return true;
}

// The hardware address of an option of this type, if there is one; otherwise `mac` stays what it
// was.
static bool take_option(struct byte_reader *r, uint8_t type, uint8_t mac[6])
{
    while (r->left >= sizeof(struct nd_option)) {
        struct nd_option option;
        byte_copy(r, &option, sizeof(option));
        if (option.size_in_8 == 0)
            return false;
        if (option.type == type && option.size_in_8 == 1)
            memcpy(mac, option.mac, 6);
        (void)byte_take(r, (option.size_in_8 - 1U) * 8U);
    }
    return !r->bad;
}

static bool parse_nd(struct byte_reader *r, const uint8_t *from, struct frame_news *ret_news)
{
    struct ip6_header ip;
    struct nd_packet nd;
    byte_copy(r, &ip, sizeof(ip));
    size_t size = (size_t)ip.payload_size[0] << 8 | ip.payload_size[1];
    if (r->bad || ip.next != IPPROTO_ICMPV6 || ip.hops != ND_HOPS || size > r->left)
        return false;
    r->left = size; // Ethernet may have padded it
    byte_copy(r, &nd, sizeof(nd));
    if (r->bad || nd.code != 0 || (nd.type != ND_SOLICIT && nd.type != ND_ADVERTISE))
        return false;
    struct frame_news news = {.answer = nd.type == ND_ADVERTISE};
    memcpy(news.mac, from, 6);
    if (!take_option(r, news.answer ? ND_OPTION_TARGET : ND_OPTION_SOURCE, news.mac))
        return false;
    news.target = make_ip(IP_V6, nd.target);
    news.sender = news.answer ? news.target : make_ip(IP_V6, ip.source);
    news.sender_zero = is_zero(&news.sender);
    *ret_news = news;
    return true;
}

bool packet_parse(const uint8_t *frame, size_t size, struct frame_news *ret_news)
{
    struct byte_reader r = byte_reader(frame, size);
    struct ether_header ethernet;
    byte_copy(&r, &ethernet, sizeof(ethernet));
    if (r.bad)
        return false;
    switch (ntohs(ethernet.ether_type)) {
    case ETHERTYPE_ARP:
        return parse_arp(&r, ret_news);
    case ETHERTYPE_IPV6:
        return parse_nd(&r, ethernet.ether_shost, ret_news);
    default:
        return false;
    }
}
