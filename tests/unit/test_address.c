// SPDX-License-Identifier: Apache-2.0
// common/address: addresses on and off, what neighbours are told and asked, waypoints and the
// inquiry; all on real interfaces, in network namespaces of the test's own.
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/address/address.h"
#include "common/address/announcer.h"
#include "common/address/packet.h"
#include "common/address/inquiry.h"
#include "common/address/probe.h"
#include "common/address/waypoint.h"
#include "common/address/wire.h"
#include "common/base/cleanup.h"
#include "common/base/random.h"
#include "tests/unit/netns.h"

#define PATIENCE_NS (120 * NS_PER_S) // for states that come much sooner

static struct netns ns;
static struct error err;

static struct ip ip_of(const char *text)
{
    struct ip ip;
    assert_int_equal(ip_parse(text, &ip, &err), 0);
    return ip;
}

// Sleeps until `fd` is readable or `deadline_ns` has come.
static void await(int fd, int64_t deadline_ns)
{
    int64_t left = deadline_ns - clock_boot_ns();
    struct pollfd p = {.fd = fd, .events = POLLIN};
    if (left > 0)
        (void)poll(&p, 1, (int)MIN(left / NS_PER_MS + 1, 100));
}

// --- Values ---

static void addresses_are_parsed_and_formatted(void **state)
{
    static const char *const good[] = {"192.0.2.1/24",   "10.0.0.1", "0.0.0.0/0",
                                       "2001:db8::1/64", "fe80::1",  "::/0"};
    static const char *const bad[] = {"",          "192.0.2",    "192.0.2.1/33", "192.0.2.1/",
                                      "::1/129",   "::1/x",      "::1/-1",       "1.2.3.4/ 8",
                                      "host.test", "1.2.3.4/8x", "/24"};
    char text[IP_TEXT_SIZE], longer[300];
    struct ip ip = {0};
    for (size_t i = 0; i < ARRAY_LEN(good); i++) {
        ip = ip_of(good[i]);
        assert_string_equal(ip_format(&ip, text), good[i]);
    }
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(ip_parse(bad[i], &ip, &err), -EINVAL);
    memset(longer, '1', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    assert_int_equal(ip_parse(longer, &ip, &err), -EINVAL);
}

static void subnets_are_compared_by_bits(void **state)
{
    struct ip net = ip_of("10.1.128.0/17"), in = ip_of("10.1.255.9"), out = ip_of("10.1.127.9");
    struct ip net6 = ip_of("2001:db8::/60"), in6 = ip_of("2001:db8:0:f::1"),
              out6 = ip_of("2001:db8:0:10::1");
    assert_true(ip_within(&in, &net));
    assert_false(ip_within(&out, &net));
    assert_true(ip_within(&in6, &net6));
    assert_false(ip_within(&out6, &net6));
    assert_false(ip_within(&in, &net6));
    struct ip local = ip_of("fe80::1");
    assert_true(ip_is_link_local(&local));
}

static void frames_of_other_kinds_are_refused(void **state)
{
    uint8_t frame[FRAME_SIZE], mac[6] = {2, 0, 0, 0, 0, 1};
    static const char *const texts[] = {"192.0.2.1", "2001:db8::1"};
    struct frame_news news;
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct ip ip = ip_of(texts[i]);
        size_t size = packet_announce(frame, mac, &ip, true);
        assert_true(packet_parse(frame, size, &news));
        assert_true(news.answer);
        assert_true(ip_equal(&news.sender, &ip));
        assert_memory_equal(news.mac, mac, 6);
        for (size_t cut = 0; cut < size; cut++)
            assert_false(packet_parse(frame, cut, &news));
    }
    for (int i = 0; i < 20000; i++) { // whatever comes, nothing is read beyond the end
        random_bytes(frame, sizeof(frame));
        memcpy(frame + 12, i & 1 ? "\x08\x06" : "\x86\xdd", 2);
        memcpy(frame + 20, i & 1 ? frame + 20 : (const uint8_t *)"\x3a\xff", 2);
        (void)packet_parse(frame, (size_t)(frame[0] % FRAME_SIZE), &news);
    }
}

// --- Addresses ---

static bool is_on(const char *interface, const char *text)
{
    bool present = false;
    struct ip ip = ip_of(text);
    assert_int_equal(address_present(interface, &ip, &present, &err), 0);
    return present;
}

static void address_goes_on_and_off(void **state)
{
    static const char *const texts[] = {"192.0.2.10/24", "2001:db8::10/64"};
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct ip ip = ip_of(texts[i]);
        assert_false(is_on("a", texts[i]));
        assert_int_equal(address_add("a", &ip, &err), 0);
        assert_int_equal(address_add("a", &ip, &err), 0);
        assert_true(is_on("a", texts[i]));
        assert_int_equal(address_remove("a", &ip, &err), 0);
        assert_int_equal(address_remove("a", &ip, &err), 0);
        assert_false(is_on("a", texts[i]));
    }
    struct ip ip = ip_of(texts[0]);
    assert_int_equal(address_add("nosuch", &ip, &err), -ENODEV);
    assert_non_null(strstr(err.text, "nosuch"));
    assert_int_equal(address_remove("../a", &ip, &err), -ENODEV);
}

static void added_ipv6_address_is_usable_at_once(void **state)
{
    struct ip ip = ip_of("2001:db8::10/64");
    assert_int_equal(address_add("a", &ip, &err), 0);
    netns_here("! ip -6 addr show dev a to 2001:db8::10 | grep -q tentative");
    assert_int_equal(address_remove("a", &ip, &err), 0);
}

static void leftovers_are_removed_whatever_their_prefix(void **state)
{
    struct ip ips[] = {ip_of("192.0.2.10/24"), ip_of("192.0.2.11/24"), ip_of("2001:db8::10/64")};
    size_t removed = 0;
    netns_here("ip addr add 192.0.2.10/32 dev a");
    netns_here("ip addr add 192.0.2.10/24 dev a");
    netns_here("ip addr add 2001:db8::10/128 dev a nodad");
    netns_here("ip addr add 192.0.2.77/24 dev a");
    assert_int_equal(address_remove_all("a", ips, ARRAY_LEN(ips), &removed, &err), 0);
    assert_int_equal(removed, 2);
    assert_false(is_on("a", "192.0.2.10"));
    assert_false(is_on("a", "2001:db8::10"));
    assert_true(is_on("a", "192.0.2.77"));
    assert_int_equal(address_remove_all("a", ips, ARRAY_LEN(ips), &removed, &err), 0);
    assert_int_equal(removed, 0);
    netns_here("ip addr flush dev a scope global");
}

// The host's own address, added after ours, is a secondary of it to the kernel, which would take
// both away.
static void removal_leaves_the_hosts_own_addresses(void **state)
{
    struct ip ip = ip_of("192.0.2.10/24");
    assert_int_equal(address_add("a", &ip, &err), 0);
    netns_here("ip addr add 192.0.2.1/24 dev a");
    netns_here("ip addr add 192.0.2.2/24 dev a");
    assert_int_equal(address_remove("a", &ip, &err), 0);
    assert_true(is_on("a", "192.0.2.1"));
    assert_true(is_on("a", "192.0.2.2"));
    assert_false(is_on("a", "192.0.2.10"));
    netns_here("ip addr flush dev a scope global");
}

// --- Announcements ---

static int listen_there(uint8_t family)
{
    struct wire_link link;
    netns_enter_there(&ns);
    assert_int_equal(wire_look("b", &link, &err), 0);
    int fd = wire_open(link.index, family, &err);
    netns_enter_here(&ns);
    assert_true(fd >= 0);
    return fd;
}

// The kernel joins the group in which the address is asked for a moment later, by itself: until
// then it hears no such question.
static void hold_ipv6_there(void)
{
    netns_there(&ns, "ip addr add 2001:db8::10/64 dev b nodad");
    netns_there(&ns, "sh -c \"until ip -6 maddr show dev b | grep -q ff02::1:ff00:10; do sleep "
                     "0.05; done\"");
}

struct seen {
    int asks, answers;
};

// Counts what has arrived at `fd` and says that `ip` is at `mac`.
static void count_announcements(int fd, const struct ip *ip, const uint8_t *mac, struct seen *seen)
{
    struct wire_news n;
    while (wire_receive(fd, &n) > 0) {
        if (!ip_equal(&n.news.sender, ip) || !ip_equal(&n.news.target, ip))
            continue;
        assert_memory_equal(n.news.mac, mac, 6);
        *(n.news.answer ? &seen->answers : &seen->asks) += 1;
    }
}

static void neighbours_are_told_repeatedly(void **state)
{
    struct ip ips[] = {ip_of("192.0.2.10/24"), ip_of("192.0.2.11/24"), ip_of("2001:db8::10/64")};
    struct seen v4 = {0}, v6 = {0};
    struct wire_link link;
    struct announcer *announcer = NULL;
    int fd4 = listen_there(IP_V4), fd6 = listen_there(IP_V6);
    assert_int_equal(wire_look("a", &link, &err), 0);
    assert_int_equal(announcer_start("a", ips, ARRAY_LEN(ips), NULL, &announcer, &err), 0);
    int64_t give_up = clock_boot_ns() + PATIENCE_NS;
    while ((v4.asks < 4 || v4.answers < 4 || v6.answers < 4) && clock_boot_ns() < give_up) {
        await(fd4, announcer_deadline_ns(announcer));
        assert_int_equal(announcer_work(announcer, &err), 0);
        count_announcements(fd4, &ips[1], link.mac, &v4);
        count_announcements(fd6, &ips[2], link.mac, &v6);
    }
    assert_true(v4.asks >= 4 && v4.answers >= 4 && v6.answers >= 4);
    assert_int_equal(v6.asks, 0);
    assert_false(announcer_done(announcer));
    announcer = announcer_free(announcer);
    assert_null(announcer);
    (void)close(fd4);
    (void)close(fd6);
    assert_int_equal(announcer_start("lo", ips, 1, NULL, &announcer, &err), -EOPNOTSUPP);
    assert_int_equal(announcer_start("lo", NULL, 0, NULL, &announcer, &err), 0);
    assert_true(announcer_done(announcer));
    announcer_free(announcer);
}

// The kernel on the other side, which knew another place for the address, believes it.
static void announcement_moves_the_neighbours_entry(void **state)
{
    struct ip ip = ip_of("192.0.2.10/24");
    struct announcer *announcer = NULL;
    struct wire_link link;
    netns_there(&ns, "ip addr add 192.0.2.99/24 dev b");
    netns_there(&ns, "ip neigh replace 192.0.2.10 lladdr 02:00:00:00:00:77 nud stale dev b");
    assert_int_equal(wire_look("a", &link, &err), 0);
    assert_int_equal(announcer_start("a", &ip, 1, NULL, &announcer, &err), 0);
    announcer_free(announcer);
    netns_there(&ns, "ip neigh show 192.0.2.10 | grep -q %02x:%02x:%02x:%02x:%02x:%02x",
                link.mac[0], link.mac[1], link.mac[2], link.mac[3], link.mac[4], link.mac[5]);
    netns_there(&ns, "ip addr flush dev b scope global");
}

// --- Probes ---

static enum probe_state probe(const char *interface, const char *const *texts, size_t count,
                              struct probe_answer *answer)
{
    struct ip ips[8];
    struct address_probe *p = NULL;
    for (size_t i = 0; i < count; i++)
        ips[i] = ip_of(texts[i]);
    if (address_probe_start(interface, ips, count, NULL, &p, &err) < 0)
        return PROBE_IMPOSSIBLE;
    while (address_probe_state(p, answer) == PROBE_ASKING) {
        await(address_probe_fd(p), address_probe_deadline_ns(p));
        address_probe_work(p);
    }
    enum probe_state result = address_probe_state(p, answer);
    address_probe_free(p);
    return result;
}

static void silence_is_silence_after_two_asks(void **state)
{
    static const char *const texts[] = {"192.0.2.10/24", "2001:db8::10/64"};
    struct probe_answer answer;
    int fd4 = listen_there(IP_V4), fd6 = listen_there(IP_V6), asks4 = 0, asks6 = 0;
    int64_t begun = clock_boot_ns();
    assert_int_equal(probe("a", texts, 2, &answer), PROBE_SILENT);
    assert_true(clock_boot_ns() - begun >= 200 * NS_PER_MS);
    assert_string_equal(answer.text, "");
    struct wire_news n;
    struct ip ip4 = ip_of(texts[0]), ip6 = ip_of(texts[1]);
    while (wire_receive(fd4, &n) > 0)
        asks4 += n.news.sender_zero && !n.news.answer && ip_equal(&n.news.target, &ip4);
    while (wire_receive(fd6, &n) > 0)
        asks6 += n.news.sender_zero && !n.news.answer && ip_equal(&n.news.target, &ip6);
    assert_int_equal(asks4, 2);
    assert_int_equal(asks6, 2);
    (void)close(fd4);
    (void)close(fd6);
}

static void holder_of_an_address_is_seen(void **state)
{
    static const char *const all[] = {"192.0.2.9/24", "192.0.2.10/24", "2001:db8::10/64"};
    struct probe_answer answer;
    struct wire_link there;
    netns_enter_there(&ns);
    assert_int_equal(wire_look("b", &there, &err), 0);
    netns_enter_here(&ns);
    netns_there(&ns, "ip addr add 192.0.2.10/32 dev b");
    assert_int_equal(probe("a", all, 2, &answer), PROBE_ANSWERED);
    struct ip ip = ip_of(all[1]);
    assert_true(ip_equal(&answer.ip, &ip));
    assert_memory_equal(answer.mac, there.mac, 6);
    assert_non_null(strstr(answer.text, "192.0.2.10"));
    netns_there(&ns, "ip addr flush dev b scope global");
    assert_int_equal(probe("a", all, 3, &answer), PROBE_SILENT);
    hold_ipv6_there();
    assert_int_equal(probe("a", all, 3, &answer), PROBE_ANSWERED);
    ip = ip_of(all[2]);
    assert_true(ip_equal(&answer.ip, &ip));
    netns_there(&ns, "ip addr flush dev b scope global");
}

static void another_one_that_probes_is_a_conflict(void **state)
{
    struct address_probe *p = NULL;
    struct probe_answer answer;
    struct ip ip = ip_of("192.0.2.10/24");
    uint8_t frame[FRAME_SIZE], mac[6] = {2, 0, 0, 0, 0, 9};
    int fd = listen_there(IP_V4);
    assert_int_equal(address_probe_start("a", &ip, 1, NULL, &p, &err), 0);
    assert_int_equal(wire_send(fd, frame, packet_ask(frame, mac, NULL, &ip, NULL)), 0);
    while (address_probe_state(p, &answer) == PROBE_ASKING) {
        await(address_probe_fd(p), address_probe_deadline_ns(p));
        address_probe_work(p);
    }
    assert_int_equal(address_probe_state(p, &answer), PROBE_ANSWERED);
    assert_memory_equal(answer.mac, mac, 6);
    address_probe_free(p);
    (void)close(fd);
}

static void what_cannot_be_asked_is_no_silence(void **state)
{
    static const char *const texts[] = {"192.0.2.10/24"};
    struct probe_answer answer;
    assert_int_equal(probe("nosuch", texts, 1, &answer), PROBE_IMPOSSIBLE);
    assert_int_equal(probe("lo", texts, 1, &answer), PROBE_IMPOSSIBLE);
    netns_here("ip link set dev a down");
    assert_int_equal(probe("a", texts, 1, &answer), PROBE_IMPOSSIBLE);
    netns_heal(&ns);
    netns_cut(&ns); // no carrier
    assert_int_equal(probe("a", texts, 1, &answer), PROBE_IMPOSSIBLE);
    netns_heal(&ns);
    assert_int_equal(probe("a", NULL, 0, &answer), PROBE_SILENT);
}

static void link_lost_while_asking_is_no_silence(void **state)
{
    struct address_probe *p = NULL;
    struct ip ip = ip_of("192.0.2.10/24");
    assert_int_equal(address_probe_start("a", &ip, 1, NULL, &p, &err), 0);
    netns_cut(&ns);
    while (address_probe_state(p, NULL) == PROBE_ASKING) {
        await(address_probe_fd(p), address_probe_deadline_ns(p));
        address_probe_work(p);
    }
    assert_int_equal(address_probe_state(p, NULL), PROBE_IMPOSSIBLE);
    address_probe_free(p);
    netns_heal(&ns);
}

static void bridges_are_interfaces_too(void **state)
{
    static const char *const texts[] = {"192.0.2.10/24", "2001:db8::10/64"};
    struct probe_answer answer;
    netns_here("ip link add name bridge0 type bridge forward_delay 0");
    netns_here("ip link set dev a master bridge0 && ip link set dev bridge0 up");
    netns_here("until ip link show dev bridge0 | grep -q 'state UP'; do sleep 0.05; done");
    assert_int_equal(probe("bridge0", texts, 2, &answer), PROBE_SILENT);
    hold_ipv6_there();
    assert_int_equal(probe("bridge0", texts, 2, &answer), PROBE_ANSWERED);
    netns_there(&ns, "ip addr flush dev b scope global");
    struct ip ip = ip_of(texts[0]);
    assert_int_equal(address_add("bridge0", &ip, &err), 0);
    assert_int_equal(address_remove("bridge0", &ip, &err), 0);
    netns_here("ip link del bridge0");
}

// --- Waypoints ---

static void watch_once(struct waypoint_monitor *m)
{
    await(waypoint_fd(m), waypoint_deadline_ns(m));
    waypoint_work(m);
}

// Works until waypoint `i` has answered an ask that was sent after `since_ns`.
static bool answers_since(struct waypoint_monitor *m, size_t i, int64_t since_ns)
{
    int64_t give_up = clock_boot_ns() + PATIENCE_NS;
    struct waypoint_status s;
    do {
        watch_once(m);
        waypoint_status(m, i, &s);
    } while (s.sent_ns <= since_ns && clock_boot_ns() < give_up);
    assert_true(s.sent_ns == WAYPOINT_NEVER || s.answered_ns >= s.sent_ns);
    return s.sent_ns > since_ns;
}

static struct waypoint_monitor *watch_these(const char *const *texts, size_t count,
                                            const char *subnet)
{
    struct ip ips[WAYPOINT_MAX], net = {0};
    struct waypoint_monitor *m = NULL;
    for (size_t i = 0; i < count; i++)
        ips[i] = ip_of(texts[i]);
    if (subnet)
        net = ip_of(subnet);
    assert_int_equal(waypoint_start("a", ips, count, &net, subnet ? 1 : 0, &m, &err), 0);
    waypoint_watch(m, true);
    return m;
}

static void waypoints_answer_until_they_are_gone(void **state)
{
    static const char *const texts[] = {"192.0.2.254", "192.0.2.253", "2001:db8::254"};
    netns_here("ip addr add 192.0.2.1/24 dev a && ip addr add 2001:db8::1/64 dev a nodad");
    netns_there(&ns, "ip addr add 192.0.2.254/24 dev b");
    netns_there(&ns, "ip addr add 2001:db8::254/64 dev b nodad");
    struct waypoint_monitor *m = watch_these(texts, 3, NULL);
    struct waypoint_status s;
    int64_t begun = clock_boot_ns() - 1;
    assert_true(answers_since(m, 0, begun));
    assert_true(answers_since(m, 2, begun));
    waypoint_status(m, 1, &s);
    assert_true(s.on_link);
    assert_int_equal(s.answers, 0);
    assert_true(s.asks > 0);
    assert_true(waypoint_sent_ns(m) >= begun && waypoint_answered_ns(m) >= waypoint_sent_ns(m));
    int64_t give_up = clock_boot_ns() + PATIENCE_NS;
    while (waypoint_unbroken_since_ns(m, clock_boot_ns()) > clock_boot_ns() - 2 * WAYPOINT_GAP_NS &&
           clock_boot_ns() < give_up)
        watch_once(m); // a run of answers forms
    assert_true(clock_boot_ns() < give_up);
    netns_cut(&ns);
    do // and is broken, when all that has arrived is taken in
        watch_once(m);
    while (waypoint_unbroken_since_ns(m, clock_boot_ns()) != INT64_MAX &&
           clock_boot_ns() < give_up);
    assert_int_equal(waypoint_unbroken_since_ns(m, clock_boot_ns()), INT64_MAX);
    int64_t back = clock_boot_ns();
    netns_heal(&ns);
    assert_true(answers_since(m, 0, back));
    while (waypoint_unbroken_since_ns(m, clock_boot_ns()) == INT64_MAX && clock_boot_ns() < give_up)
        watch_once(m);
    int64_t since = waypoint_unbroken_since_ns(m, clock_boot_ns());
    assert_true(since > back || since == INT64_MAX); // the run before the gap does not count
    waypoint_free(m);
    netns_here("ip addr flush dev a scope global");
    netns_there(&ns, "ip addr flush dev b scope global");
}

static void a_calm_one_is_asked_by_echo_alone_until_it_filters_them(void **state)
{
    static const char *const texts[] = {"192.0.2.254"};
    netns_here("ip addr add 192.0.2.1/24 dev a");
    netns_there(&ns, "ip addr add 192.0.2.254/24 dev b");
    struct waypoint_monitor *m = watch_these(texts, 1, NULL);
    waypoint_watch(m, false);
    struct waypoint_status s;
    int64_t give_up = clock_boot_ns() + PATIENCE_NS;
    do { // an ask both ways has two answers
        watch_once(m);
        waypoint_status(m, 0, &s);
    } while (2 * s.asks < s.answers + 4 && clock_boot_ns() < give_up);
    assert_true(2 * s.asks >= s.answers + 4);
    assert_true(s.answers > 0);
    netns_there(&ns, "sh -c 'echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all'");
    assert_true(answers_since(m, 0, clock_boot_ns()));
    assert_true(answers_since(m, 0, clock_boot_ns()));
    waypoint_free(m);
    netns_there(&ns, "sh -c 'echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_all'");
    netns_here("ip addr flush dev a scope global");
    netns_there(&ns, "ip addr flush dev b scope global");
}

static void one_that_filters_echoes_counts_by_arp(void **state)
{
    static const char *const texts[] = {"192.0.2.254"};
    netns_here("ip addr add 192.0.2.1/24 dev a");
    netns_there(&ns, "ip addr add 192.0.2.254/24 dev b");
    netns_there(&ns, "sh -c 'echo 1 >/proc/sys/net/ipv4/icmp_echo_ignore_all'");
    struct waypoint_monitor *m = watch_these(texts, 1, NULL);
    int64_t begun = clock_boot_ns();
    assert_true(answers_since(m, 0, begun));
    assert_true(answers_since(m, 0, clock_boot_ns())); // by unicast, too
    waypoint_free(m);
    netns_there(&ns, "sh -c 'echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_all'");
    netns_here("ip addr flush dev a scope global");
    netns_there(&ns, "ip addr flush dev b scope global");
}

// A passive end may have no address on the public network at all; and an active one asks in
// nobody's name but its own, never in that of the public address.
static void end_without_an_own_address_asks_too(void **state)
{
    static const char *const texts[] = {"192.0.2.254"};
    struct wire_news n;
    netns_there(&ns, "ip addr add 192.0.2.254/24 dev b");
    netns_here("ip addr add 192.0.2.10/24 dev a");
    struct waypoint_monitor *m = watch_these(texts, 1, "192.0.2.10/24");
    int fd = listen_there(IP_V4), probes = 0;
    assert_true(answers_since(m, 0, clock_boot_ns()));
    netns_here("ip addr flush dev a scope global");
    assert_true(answers_since(m, 0, clock_boot_ns() + 2 * NS_PER_S));
    while (wire_receive(fd, &n) > 0)
        probes += !n.news.answer && n.news.sender_zero;
    assert_true(probes > 0);
    waypoint_free(m);
    (void)close(fd);
    netns_there(&ns, "ip addr flush dev b scope global");
}

static void one_beyond_a_router_counts_by_echo(void **state)
{
    static const char *const texts[] = {"198.51.100.1", "2001:db8:ffff::1"};
    netns_here("ip addr add 192.0.2.1/24 dev a && ip addr add 2001:db8::1/64 dev a nodad");
    netns_here("ip route add 198.51.100.0/24 via 192.0.2.254");
    netns_there(&ns, "ip addr add 192.0.2.254/24 dev b");
    netns_there(&ns, "ip addr add 2001:db8::254/64 dev b nodad");
    netns_here("ip -6 route add 2001:db8:ffff::/64 via 2001:db8::254");
    netns_there(&ns, "ip addr add 198.51.100.1/32 dev lo");
    netns_there(&ns, "ip addr add 2001:db8:ffff::1/128 dev lo nodad");
    struct waypoint_monitor *m = watch_these(texts, 2, NULL);
    struct waypoint_status s;
    assert_true(answers_since(m, 0, clock_boot_ns()));
    assert_true(answers_since(m, 1, clock_boot_ns()));
    waypoint_status(m, 0, &s);
    assert_false(s.on_link);
    waypoint_free(m);
    netns_here("ip addr flush dev a scope global");
    netns_there(&ns, "ip addr flush dev b scope global");
    netns_there(&ns, "ip addr flush dev lo to 198.51.100.1/32");
}

// The kernel's receive time counts, not the time at which a late loop reads the answer.
static void late_loop_sees_that_the_answer_came_in_time(void **state)
{
    static const char *const texts[] = {"192.0.2.254"};
    netns_here("ip addr add 192.0.2.1/24 dev a");
    netns_there(&ns, "ip addr add 192.0.2.254/24 dev b");
    struct waypoint_monitor *m = watch_these(texts, 1, NULL);
    assert_true(answers_since(m, 0, clock_boot_ns())); // the neighbour is known from now on
    struct waypoint_status before, after;
    waypoint_status(m, 0, &before);
    do {
        watch_once(m);
        waypoint_status(m, 0, &after);
    } while (after.asks == before.asks);
    struct pollfd p = {.fd = waypoint_fd(m), .events = POLLIN};
    assert_int_equal(poll(&p, 1, (int)(PATIENCE_NS / NS_PER_MS)), 1);
    int64_t arrived = clock_boot_ns();
    usleep(300000);
    waypoint_work(m);
    waypoint_status(m, 0, &after);
    assert_true(after.answers > before.answers);
    assert_true(after.answered_ns <= arrived + 250 * NS_PER_MS);
    waypoint_free(m);
    netns_here("ip addr flush dev a scope global");
    netns_there(&ns, "ip addr flush dev b scope global");
}

static void interface_may_come_later(void **state)
{
    struct ip ip = ip_of("192.0.2.254"), none = {0};
    struct waypoint_monitor *m = NULL;
    assert_int_equal(waypoint_start("later", &ip, 1, &none, 0, &m, &err), 0);
    int64_t give_up = clock_boot_ns() + PATIENCE_NS;
    while (!strstr(waypoint_problem(m), "later") && clock_boot_ns() < give_up)
        watch_once(m);
    assert_non_null(strstr(waypoint_problem(m), "later"));
    netns_here("ip link add name later type veth peer name other netns %d", (int)ns.there);
    netns_here("ip link set dev later up && ip addr add 192.0.2.1/24 dev later");
    netns_there(&ns, "ip link set dev other up");
    netns_there(&ns, "ip addr add 192.0.2.254/24 dev other");
    waypoint_watch(m, true);
    assert_true(answers_since(m, 0, clock_boot_ns()));
    waypoint_free(m);
    netns_here("ip link del later");
}

static void without_ipv6_everything_else_works(void **state)
{
    static const char *const texts[] = {"192.0.2.254", "2001:db8::254"};
    static const char *const probes[] = {"192.0.2.10"};
    struct probe_answer answer;
    netns_here("echo 1 >/proc/sys/net/ipv6/conf/a/disable_ipv6");
    netns_here("ip addr add 192.0.2.1/24 dev a");
    netns_there(&ns, "ip addr add 192.0.2.254/24 dev b");
    struct waypoint_monitor *m = watch_these(texts, 2, NULL);
    assert_true(answers_since(m, 0, clock_boot_ns()));
    waypoint_free(m);
    assert_int_equal(probe("a", probes, 1, &answer), PROBE_SILENT);
    netns_here("echo 0 >/proc/sys/net/ipv6/conf/a/disable_ipv6");
    netns_here("ip addr flush dev a scope global");
    netns_there(&ns, "ip addr flush dev b scope global");
}

// --- The inquiry ---

static const uint8_t key[MAC_KEY_SIZE] = "thirty-two bytes that are secret",
                     other_key[MAC_KEY_SIZE];

static struct inquiry_end make_end(const char *pair, enum inquiry_identity identity,
                                   enum inquiry_role role)
{
    struct inquiry_end end = {.identity = (uint8_t)identity, .role = (uint8_t)role};
    memcpy(end.key, key, sizeof(key));
    inquiry_id(key, pair, end.id);
    return end;
}

// Asks, and lets `ends` answer at `responder` (-1: nobody is there) meanwhile.
static enum inquiry_result ask(const char *at, uint16_t port, int responder,
                               const struct inquiry_end *ends, size_t count, const char *pair,
                               const uint8_t *with_key, enum inquiry_role *ret_role)
{
    struct ip to = ip_of(at);
    struct inquiry *q = NULL;
    assert_int_equal(inquiry_start(NULL, &to, port, pair, INQUIRY_PRIMARY, with_key, &q, &err), 0);
    while (inquiry_result(q, NULL) == INQUIRY_ASKING) {
        if (responder >= 0)
            (void)inquiry_answer(responder, ends, count, NULL, NULL);
        await(inquiry_fd(q), inquiry_deadline_ns(q));
        inquiry_work(q);
    }
    enum inquiry_result result = inquiry_result(q, ret_role);
    inquiry_free(q);
    return result;
}

static void role_is_told_to_those_who_have_the_key(void **state)
{
    static const struct {
        enum inquiry_role role;
        enum inquiry_result result;
    } rows[] = {{INQUIRY_PASSIVE, INQUIRY_SAYS_NOT},
                {INQUIRY_ACTIVE, INQUIRY_SAYS_ACTIVE},
                {INQUIRY_TAKING_OVER, INQUIRY_SAYS_ACTIVE},
                {INQUIRY_STEPPED_DOWN, INQUIRY_SAYS_NOT}};
    static const char *const at[] = {"127.0.0.1", "::1"};
    for (size_t i = 0; i < ARRAY_LEN(rows) * ARRAY_LEN(at); i++) {
        const char *where = at[i % 2];
        struct ip ip = ip_of(where);
        int fd = inquiry_socket(&ip, 0, &err);
        assert_true(fd >= 0);
        struct inquiry_end ends[] = {make_end("shop", INQUIRY_SECONDARY, INQUIRY_PASSIVE),
                                     make_end("mail", INQUIRY_PRIMARY, INQUIRY_PASSIVE),
                                     make_end("shop", INQUIRY_PRIMARY, rows[i / 2].role)};
        enum inquiry_role role = 0;
        assert_int_equal(ask(where, inquiry_socket_port(fd), fd, ends, 3, "shop", key, &role),
                         rows[i / 2].result);
        assert_int_equal(role, rows[i / 2].role);
        (void)close(fd);
    }
}

static void wrong_keys_pairs_and_silence_are_silent(void **state)
{
    struct ip ip = ip_of("127.0.0.1");
    int fd = inquiry_socket(&ip, 0, &err);
    uint16_t port = inquiry_socket_port(fd);
    struct inquiry_end end = make_end("shop", INQUIRY_PRIMARY, INQUIRY_ACTIVE);
    struct inquiry_end quiet = make_end("shop", INQUIRY_PRIMARY, 0);
    assert_int_equal(ask("127.0.0.1", port, fd, &end, 1, "shop", other_key, NULL), INQUIRY_SILENT);
    assert_int_equal(ask("127.0.0.1", port, fd, &end, 1, "mail", key, NULL), INQUIRY_SILENT);
    assert_int_equal(ask("127.0.0.1", port, fd, &quiet, 1, "shop", key, NULL), INQUIRY_SILENT);
    assert_int_equal(ask("127.0.0.1", port, -1, NULL, 0, "shop", key, NULL), INQUIRY_SILENT);
    (void)close(fd);
    assert_int_equal(ask("127.0.0.1", port, -1, NULL, 0, "shop", key, NULL), INQUIRY_SILENT);
}

// What was said yesterday, recorded on the way, proves nothing today; nor does an ask sent back, or
// one changed bit.
static void replayed_and_changed_answers_are_ignored(void **state)
{
    struct ip ip = ip_of("127.0.0.1");
    struct inquiry *q[2] = {NULL, NULL};
    struct sockaddr_storage from[2];
    uint8_t ask[2][64], answer[64];
    struct inquiry_end end = make_end("shop", INQUIRY_PRIMARY, INQUIRY_ACTIVE);
    int fd = inquiry_socket(&ip, 0, &err), relay = inquiry_socket(&ip, 0, &err);
    uint16_t port = inquiry_socket_port(fd);
    ssize_t size = 0;
    for (int i = 0; i < 2; i++) {
        assert_int_equal(inquiry_start(NULL, &ip, port, "shop", INQUIRY_PRIMARY, key, &q[i], &err),
                         0);
        socklen_t length = sizeof(from[i]);
        size = recvfrom(fd, ask[i], sizeof(ask[i]), 0, (struct sockaddr *)&from[i], &length);
        assert_true(size > 0);
    }
    struct sockaddr_storage to;
    (void)sendto(relay, ask[0], (size_t)size, 0, (struct sockaddr *)&to,
                 ip_to_sockaddr(&ip, port, 0, &to));
    assert_int_equal(inquiry_answer(fd, &end, 1, NULL, NULL), 1);
    assert_int_equal(recv(relay, answer, sizeof(answer), 0), size);
    (void)sendto(fd, answer, (size_t)size, 0, (struct sockaddr *)&from[1],
                 sizeof(struct sockaddr_in));
    (void)sendto(fd, ask[1], (size_t)size, 0, (struct sockaddr *)&from[1],
                 sizeof(struct sockaddr_in));
    answer[7] ^= 1;
    (void)sendto(fd, answer, (size_t)size, 0, (struct sockaddr *)&from[0],
                 sizeof(struct sockaddr_in));
    for (int i = 0; i < 2; i++) {
        while (inquiry_result(q[i], NULL) == INQUIRY_ASKING) {
            await(-1, inquiry_deadline_ns(q[i]));
            inquiry_work(q[i]);
        }
        assert_int_equal(inquiry_result(q[i], NULL), INQUIRY_SILENT);
        inquiry_free(q[i]);
    }
    (void)close(fd);
    (void)close(relay);
}

static void garbage_gets_no_answer(void **state)
{
    struct ip ip = ip_of("127.0.0.1");
    struct sockaddr_storage to;
    uint8_t data[200];
    int fd = inquiry_socket(&ip, 0, &err), sender = inquiry_socket(&ip, 0, &err);
    socklen_t length = ip_to_sockaddr(&ip, inquiry_socket_port(fd), 0, &to);
    struct inquiry_end end = make_end("shop", INQUIRY_PRIMARY, INQUIRY_ACTIVE);
    for (int i = 0; i < 100; i++) {
        random_bytes(data, sizeof(data));
        memcpy(data, "USIQ\1\1\1", 7);
        memcpy(data + 8, end.id, sizeof(end.id));
        size_t size = i < 50 ? 56 : (size_t)(2 * i);
        assert_int_equal(sendto(sender, data, size, 0, (struct sockaddr *)&to, length), size);
    }
    assert_int_equal(inquiry_answer(fd, &end, 1, NULL, NULL), 0);
    (void)close(fd);
    (void)close(sender);
}

// What a failed test has left would be in the way of the next one.
static int tear_down(void **state)
{
    netns_enter_here(&ns);
    netns_here("ip link del bridge0 2>/dev/null; ip addr flush dev a scope global");
    netns_there(&ns, "sh -c 'ip addr flush dev b scope global; ip addr flush dev lo scope global; "
                     "echo 0 >/proc/sys/net/ipv4/icmp_echo_ignore_all'");
    netns_heal(&ns);
    return 0;
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, NULL, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(addresses_are_parsed_and_formatted),
        TEST(subnets_are_compared_by_bits),
        TEST(frames_of_other_kinds_are_refused),
        TEST(address_goes_on_and_off),
        TEST(added_ipv6_address_is_usable_at_once),
        TEST(leftovers_are_removed_whatever_their_prefix),
        TEST(removal_leaves_the_hosts_own_addresses),
        TEST(neighbours_are_told_repeatedly),
        TEST(announcement_moves_the_neighbours_entry),
        TEST(silence_is_silence_after_two_asks),
        TEST(holder_of_an_address_is_seen),
        TEST(another_one_that_probes_is_a_conflict),
        TEST(what_cannot_be_asked_is_no_silence),
        TEST(link_lost_while_asking_is_no_silence),
        TEST(bridges_are_interfaces_too),
        TEST(waypoints_answer_until_they_are_gone),
        TEST(a_calm_one_is_asked_by_echo_alone_until_it_filters_them),
        TEST(one_that_filters_echoes_counts_by_arp),
        TEST(end_without_an_own_address_asks_too),
        TEST(one_beyond_a_router_counts_by_echo),
        TEST(late_loop_sees_that_the_answer_came_in_time),
        TEST(interface_may_come_later),
        TEST(without_ipv6_everything_else_works),
        TEST(role_is_told_to_those_who_have_the_key),
        TEST(wrong_keys_pairs_and_silence_are_silent),
        TEST(replayed_and_changed_answers_are_ignored),
        TEST(garbage_gets_no_answer),
    };
    netns_make(&ns);
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    netns_drop(&ns);
    return r;
}
