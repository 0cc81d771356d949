// SPDX-License-Identifier: Apache-2.0
#include "common/address/announcer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/address/wire.h"
#include "common/base/cleanup.h"

// When the rounds are sent, counted from the start: dense at first, when it matters, then for those
// who were asleep.
static const int64_t round_ns[] = {
    0,
    50 * NS_PER_MS,
    200 * NS_PER_MS,
    500 * NS_PER_MS,
    1 * NS_PER_S,
    2 * NS_PER_S,
    3 * NS_PER_S,
    5 * NS_PER_S,
    ANNOUNCER_SPAN_NS,
};

struct announcer {
    char interface[16];
    struct closer *closer;
    int fd; // -1: there is nothing to announce
    int64_t started_ns;
    size_t round; // the next one
    size_t count;
    struct ip ips[];
};

static int first_of(int first, int r)
{
    return first < 0 ? first : r;
}

static int announce_one(int fd, const struct wire_link *link, const struct ip *ip)
{
    uint8_t frame[FRAME_SIZE];
    int r = wire_send_on(fd, link->index, frame, packet_announce(frame, link->mac, ip, false));
    if (ip->family == IP_V4)
        r = first_of(r, wire_send_on(fd, link->index, frame, packet_announce(frame, link->mac, ip, true)));
    return r;
}

// Everything is looked up anew: the interface may have got another hardware address, as a bond
// does.
static int send_round(const struct announcer *a, struct error *err)
{
    struct wire_link link;
    if (a->count == 0)
        return 0;
    int first = wire_find(a->interface, &link, err);
    if (first < 0)
        return first;
    for (size_t i = 0; i < a->count; i++)
        first = first_of(first, announce_one(a->fd, &link, &a->ips[i]));
    return first < 0 ? error_sys(err, first, "cannot announce on %s", a->interface) : 0;
}

int announcer_start(const char *interface, const struct ip *ips, size_t count, struct closer *closer,
                    struct announcer **ret_announcer, struct error *err)
{
    if (count > ANNOUNCER_ADDRESS_MAX ||
        strlen(interface) >= sizeof(((struct announcer *)0)->interface))
        return error_set(err, -EINVAL, "cannot announce %zu addresses on \"%s\"", count, interface);
    struct announcer *a = calloc(1, sizeof(*a) + count * sizeof(*ips));
    if (!a)
        return error_sys(err, -ENOMEM, "announcer");
    memcpy(a->interface, interface, strlen(interface));
    if (count > 0)
        memcpy(a->ips, ips, count * sizeof(*ips));
    a->count = count;
    a->closer = closer;
    a->started_ns = clock_boot_ns();
    a->fd = count > 0 ? wire_open_sender(err) : -1;
    int r = count > 0 && a->fd < 0 ? a->fd : send_round(a, err);
    if (r < 0) {
        announcer_free(a);
        return r;
    }
    a->round = count > 0 ? 1 : ARRAY_LEN(round_ns);
    *ret_announcer = a;
    return 0;
}

int64_t announcer_deadline_ns(const struct announcer *announcer)
{
    return announcer_done(announcer) ? INT64_MAX
                                     : announcer->started_ns + round_ns[announcer->round];
}

int announcer_work(struct announcer *announcer, struct error *err)
{
    int64_t now = clock_boot_ns();
    if (now < announcer_deadline_ns(announcer))
        return 0;
    while (now >= announcer_deadline_ns(announcer)) // several are due: one round does for them
        announcer->round++;
    return send_round(announcer, err);
}

bool announcer_done(const struct announcer *announcer)
{
    return announcer->round >= ARRAY_LEN(round_ns);
}

struct announcer *announcer_free(struct announcer *announcer)
{
    if (!announcer)
        return NULL;
    closer_close(announcer->closer, announcer->fd);
    free(announcer);
    return NULL;
}
