// SPDX-License-Identifier: Apache-2.0
// ASKING --(somebody's frame claims an address)--> ANSWERED
//   |----(link lost, send failed)----------------> IMPOSSIBLE
//   `----(asked twice, span over, link still up)-> SILENT
#include "common/address/probe.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "common/address/wire.h"
#include "common/base/cleanup.h"

#define PROBES 2

struct address_probe {
    char interface[16];
    struct wire_link link;
    struct closer *closer;
    int epoll;
    int arp, discovery; // -1 where no address of that family is asked for
    int sent;           // probes sent
    int64_t started_ns;
    enum probe_state state;
    struct probe_answer answer;
    size_t count;
    struct ip ips[];
};

// What has stopped it, as an end of the probe. Silence must be proved; everything else ends here.
static void give_up(struct address_probe *p, const char *what, int r)
{
    p->state = PROBE_IMPOSSIBLE;
    snprintf(p->answer.text, sizeof(p->answer.text), "cannot ask on %s: %.80s%s%s", p->interface,
             what, r < 0 ? ": " : "", r < 0 ? strerror(-r) : "");
}

// Sends one probe for each address, if the link is still the one that was asked first.
static void send_probes(struct address_probe *p)
{
    uint8_t frame[FRAME_SIZE];
    for (size_t i = 0; i < p->count && p->state == PROBE_ASKING; i++) {
        const struct ip *ip = &p->ips[i];
        size_t size = packet_ask(frame, p->link.mac, NULL, ip, NULL);
        int r = wire_send(ip->family == IP_V4 ? p->arp : p->discovery, frame, size);
        if (r < 0)
            give_up(p, "cannot send", r);
    }
    p->sent++;
}

static void check_link(struct address_probe *p)
{
    struct wire_link link;
    struct error err = {0};
    if (wire_look(p->interface, &link, &err) < 0)
        give_up(p, err.text, 0);
    else if (link.index != p->link.index || memcmp(link.mac, p->link.mac, 6) != 0)
        give_up(p, "the interface was replaced while asking", 0);
    else if (!link.carrier)
        give_up(p, "the link is down", 0);
}

// True if this frame says that somebody else has, or is about to take, one of the addresses.
static bool claims(const struct address_probe *p, const struct frame_news *news, size_t *ret_which)
{
    if (memcmp(news->mac, p->link.mac, sizeof(news->mac)) == 0)
        return false;
    const struct ip *whose = news->sender_zero ? &news->target : &news->sender;
    for (size_t i = 0; i < p->count; i++) {
        if (ip_equal(whose, &p->ips[i])) {
            *ret_which = i;
            return true;
        }
    }
    return false;
}

static void take_news(struct address_probe *p, const struct frame_news *news)
{
    char text[IP_TEXT_SIZE];
    size_t which = 0;
    if (p->state != PROBE_ASKING || !claims(p, news, &which))
        return;
    const uint8_t *m = news->mac;
    p->state = PROBE_ANSWERED;
    p->answer.ip = p->ips[which];
    memcpy(p->answer.mac, m, sizeof(p->answer.mac));
    snprintf(p->answer.text, sizeof(p->answer.text),
             "%s is in use on the network of %s by %02x:%02x:%02x:%02x:%02x:%02x",
             ip_format_bare(&p->answer.ip, text), p->interface, m[0], m[1], m[2], m[3], m[4], m[5]);
}

static void receive_all(struct address_probe *p, int fd)
{
    struct wire_news news;
    int r = 0;
    while (fd >= 0 && (r = wire_receive(fd, &news)) > 0)
        take_news(p, &news.news);
    if (r < 0 && p->state == PROBE_ASKING)
        give_up(p, "cannot receive", r);
}

static int open_family(struct address_probe *p, uint8_t family, struct error *err)
{
    int fd = wire_open(p->link.index, family, err);
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = fd}};
    if (fd >= 0 && epoll_ctl(p->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        int r = error_sys(err, -errno, "cannot watch a packet socket");
        (void)close(fd);
        return r;
    }
    return fd;
}

static int open_all(struct address_probe *p, struct error *err)
{
    int r = wire_look(p->interface, &p->link, err);
    if (r < 0)
        return r;
    if (!p->link.carrier)
        return error_set(err, -ENETDOWN, "cannot ask on %s: the link is down", p->interface);
    for (size_t i = 0; i < p->count; i++) {
        int *fd = p->ips[i].family == IP_V4 ? &p->arp : &p->discovery;
        if (*fd < 0)
            *fd = open_family(p, p->ips[i].family, err);
        if (*fd < 0)
            return *fd;
    }
    return 0;
}

int address_probe_start(const char *interface, const struct ip *ips, size_t count, struct closer *closer,
                        struct address_probe **ret_probe, struct error *err)
{
    if (count > PROBE_ADDRESS_MAX ||
        strlen(interface) >= sizeof(((struct address_probe *)0)->interface))
        return error_set(err, -EINVAL, "cannot probe for %zu addresses on \"%s\"", count,
                         interface);
    struct address_probe *p = calloc(1, sizeof(*p) + count * sizeof(*ips));
    if (!p)
        return error_sys(err, -ENOMEM, "probe");
    p->arp = p->discovery = -1;
    p->closer = closer;
    memcpy(p->interface, interface, strlen(interface));
    if (count > 0)
        memcpy(p->ips, ips, count * sizeof(*ips));
    p->count = count;
    p->epoll = epoll_create1(EPOLL_CLOEXEC);
    int r = p->epoll < 0 ? error_sys(err, -errno, "epoll") : 0;
    if (r == 0 && count > 0)
        r = open_all(p, err);
    if (r < 0) {
        address_probe_free(p);
        return r;
    }
    p->state = count > 0 ? PROBE_ASKING : PROBE_SILENT;
    p->started_ns = clock_boot_ns();
    send_probes(p);
    *ret_probe = p;
    return 0;
}

int address_probe_fd(const struct address_probe *probe)
{
    return probe->epoll;
}

int64_t address_probe_deadline_ns(const struct address_probe *probe)
{
    if (probe->state != PROBE_ASKING)
        return INT64_MAX;
    return probe->started_ns + (probe->sent < PROBES ? PROBE_GAP_NS : PROBE_SPAN_NS);
}

void address_probe_work(struct address_probe *probe)
{
    int64_t now = clock_boot_ns(); // before receiving: what came until now is taken in first
    receive_all(probe, probe->arp);
    receive_all(probe, probe->discovery);
    if (now < address_probe_deadline_ns(probe))
        return;
    check_link(probe);
    if (probe->state != PROBE_ASKING)
        return;
    if (probe->sent < PROBES) {
        send_probes(probe);
        // A second probe that is sent late still gets its time.
        probe->started_ns = MAX(probe->started_ns, now + PROBE_GAP_NS - PROBE_SPAN_NS);
    } else {
        probe->state = PROBE_SILENT;
    }
}

enum probe_state address_probe_state(const struct address_probe *probe,
                                     struct probe_answer *ret_answer)
{
    if (ret_answer)
        *ret_answer = probe->answer;
    return probe->state;
}

struct address_probe *address_probe_free(struct address_probe *probe)
{
    if (!probe)
        return NULL;
    cleanup_close(&probe->epoll); // first: it watches the others as long as they are open
    closer_close(probe->closer, probe->arp);
    closer_close(probe->closer, probe->discovery);
    free(probe);
    return NULL;
}
