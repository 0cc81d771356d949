// SPDX-License-Identifier: Apache-2.0
// One round of asks is sent to every waypoint at the same time. Each waypoint remembers when its
// last ASKS_KEPT asks were sent: an echo's reply names one of them; an ARP or neighbour answer
// counts for the oldest that is still out, and ends the wait of all (so that one lost ask does not
// make every later answer look old).
//
// What the interface is like, and which addresses it has, is asked of the kernel by a thread of its own: there is one lock for
// all of this in the kernel, and whoever takes a network namespace or a container down holds it for seconds.
//
// A public address is never used as the sender of a question: the guard may have taken it off since
// we looked, and the neighbours would learn the wrong place for it.
#include "common/address/waypoint.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "common/address/address.h"
#include "common/address/echo.h"
#include "common/address/wire.h"
#include "common/base/aside.h"
#include "common/base/cleanup.h"
#include "common/base/random.h"

#define ASKS_KEPT       64
#define LOOK_NS         NS_PER_S       // how often the interface is looked at anew,
#define LOOK_CALM_NS    (5 * NS_PER_S) // and while everybody answers and nobody watches closely
#define BROADCAST_AFTER 2 // asks without an answer, after which everybody is asked again
#define SUBNET_MAX      65536 // public addresses, of all the pairs that share a monitor
#define FAMILIES        2

struct waypoint {
    struct waypoint_status status;
    int64_t asked_ns[ASKS_KEPT]; // by number % ASKS_KEPT
    uint64_t waiting_from;       // the oldest ask that a neighbour answer may be for
    uint64_t next;               // number of the next ask
    uint64_t echoed;             // number behind the newest ask that an echo has answered
    bool has_mac;
    uint8_t mac[MAC_ADDRESS_SIZE];
    bool has_sender;
    struct ip sender; // our address on its subnet
};

// One look at the interface. While it is under way it belongs to the thread that looks.
struct look {
    char interface[16];
    uint64_t cookie;
    int index;                                             // of the interface that the sockets are for; 0: none
    bool want_neighbours[FAMILIES], want_echoes[FAMILIES]; // families that are asked for ...
    bool open_neighbours[FAMILIES], open_echoes[FAMILIES]; // ... whose sockets are open
    // What was found.
    bool found; // `link` and `own` are good
    int r;      // 0 or -errno, with the reason in `err`
    struct error err;
    struct wire_link link;
    struct ip own[ADDRESS_LIST_MAX];
    size_t own_count;
    int neighbours[FAMILIES], echoes[FAMILIES]; // opened now; else negative
};

struct waypoint_monitor {
    char interface[16];
    struct aside *aside;
    struct look look; // the aside's while that is busy
    int epoll;
    int neighbours[FAMILIES], echoes[FAMILIES]; // sockets, -1: closed; by family_slot()
    struct wire_link link;
    bool has_link;
    int64_t looked_ns;
    bool closely;
    int64_t next_ns; // of the next round
    uint64_t cookie;
    int64_t sent_ns, answered_ns; // over all
    int64_t prompt_ns;            // the last answer that came within WAYPOINT_GAP_NS of its ask
    int64_t unbroken_ns;          // since when there was no gap between such answers
    char problem[256];
    struct ip *subnets;
    size_t subnet_count, subnet_room;
    size_t count;
    struct waypoint points[];
};

static int family_slot(const struct ip *ip)
{
    return ip->family == IP_V4 ? 0 : 1;
}

static uint8_t slot_family(int slot)
{
    return slot == 0 ? IP_V4 : IP_V6;
}

static void close_sockets(struct waypoint_monitor *m)
{
    for (int slot = 0; slot < FAMILIES; slot++) {
        cleanup_close(&m->neighbours[slot]);
        cleanup_close(&m->echoes[slot]);
        m->neighbours[slot] = m->echoes[slot] = -1;
    }
    m->has_link = false;
}

// --- Answers ---

static void count_answer(struct waypoint_monitor *m, struct waypoint *w, int64_t sent_ns,
                         int64_t received_ns)
{
    // It cannot have come before it was asked for: this bounds what a step of the wall clock does
    // to receive times.
    int64_t answered_ns = MAX(received_ns, sent_ns);
    w->status.answers++;
    w->status.sent_ns = MAX(w->status.sent_ns, sent_ns);
    w->status.answered_ns = MAX(w->status.answered_ns, answered_ns);
    m->sent_ns = MAX(m->sent_ns, sent_ns);
    m->answered_ns = MAX(m->answered_ns, answered_ns);
    if (answered_ns - sent_ns > WAYPOINT_GAP_NS)
        return; // so late that a cut of the network may lie in between
    if (m->prompt_ns == WAYPOINT_NEVER || answered_ns - m->prompt_ns > WAYPOINT_GAP_NS)
        m->unbroken_ns = answered_ns;
    m->prompt_ns = MAX(m->prompt_ns, answered_ns);
}

static struct waypoint *find_point(struct waypoint_monitor *m, const struct ip *ip)
{
    for (size_t i = 0; i < m->count; i++)
        if (ip_equal(&m->points[i].status.ip, ip))
            return &m->points[i];
    return NULL;
}

// The number of the oldest ask whose time is still kept.
static uint64_t oldest_kept(const struct waypoint *w)
{
    return w->next > ASKS_KEPT ? w->next - ASKS_KEPT : 0;
}

static void take_neighbour(struct waypoint_monitor *m, const struct wire_news *news)
{
    struct waypoint *w = find_point(m, &news->news.sender);
    if (!w || !news->news.answer || memcmp(news->news.mac, m->link.mac, MAC_ADDRESS_SIZE) == 0)
        return;
    memcpy(w->mac, news->news.mac, sizeof(w->mac));
    w->has_mac = true;
    uint64_t number = MAX(w->waiting_from, oldest_kept(w));
    if (number >= w->next)
        return; // nothing is out: it was not for us, or the second answer to one ask
    w->waiting_from = w->next;
    count_answer(m, w, w->asked_ns[number % ASKS_KEPT], news->received_ns);
}

static void take_echo(struct waypoint_monitor *m, const struct echo *echo)
{
    struct waypoint *w = find_point(m, &echo->from);
    if (!w || echo->number >= w->next || echo->number < oldest_kept(w))
        return;
    w->echoed = MAX(w->echoed, echo->number + 1);
    count_answer(m, w, w->asked_ns[echo->number % ASKS_KEPT], echo->received_ns);
}

// An error on a socket (the interface went down, or away) is seen again, and said, when the next
// ask is sent.
static void receive_all(struct waypoint_monitor *m)
{
    for (int slot = 0; slot < FAMILIES; slot++) {
        struct wire_news news;
        struct echo echo;
        while (m->neighbours[slot] >= 0 && wire_receive(m->neighbours[slot], &news) > 0)
            take_neighbour(m, &news);
        while (m->echoes[slot] >= 0 &&
               echo_receive(m->echoes[slot], slot_family(slot), m->cookie, &echo) > 0)
            take_echo(m, &echo);
    }
}

// --- Asks ---

static bool is_public(const struct waypoint_monitor *m, const struct ip *ip)
{
    for (size_t i = 0; i < m->subnet_count; i++)
        if (ip_equal(&m->subnets[i], ip))
            return true;
    return false;
}

// Whether the waypoint is on our link, and which of our own addresses to ask it from.
static void place_point(const struct waypoint_monitor *m, struct waypoint *w, const struct ip *own,
                        size_t count)
{
    const struct ip *ip = &w->status.ip;
    w->has_sender = false;
    w->status.on_link = ip_is_link_local(ip);
    for (size_t i = 0; i < m->subnet_count; i++)
        w->status.on_link = w->status.on_link || ip_within(ip, &m->subnets[i]);
    for (size_t i = 0; i < count; i++) {
        if (!ip_within(ip, &own[i]))
            continue;
        w->status.on_link = true;
        if (!w->has_sender && !is_public(m, &own[i])) {
            w->has_sender = true;
            w->sender = own[i];
        }
    }
}

// On the thread beside. One family may be missing on this machine: the other one's waypoints are asked all the same.
static void open_missing(struct look *l)
{
    bool renewed = l->index != l->link.index;
    for (int slot = 0; slot < FAMILIES; slot++) {
        struct error *err = l->r == 0 ? &l->err : NULL;
        int r = 0;
        if (l->want_neighbours[slot] && (renewed || !l->open_neighbours[slot]))
            r = l->neighbours[slot] = wire_open(l->link.index, slot_family(slot), err);
        if (r >= 0 && l->want_echoes[slot] && (renewed || !l->open_echoes[slot]))
            r = l->echoes[slot] = echo_open(l->interface, slot_family(slot), l->cookie, err);
        l->r = l->r == 0 && r < 0 ? r : l->r;
    }
}

static void look(void *arg)
{
    struct look *l = arg;
    l->r = wire_look(l->interface, &l->link, &l->err);
    if (l->r == 0)
        l->r = address_list(l->interface, l->own, ARRAY_LEN(l->own), &l->own_count, &l->err);
    l->found = l->r == 0;
    if (l->found)
        open_missing(l);
}

static void start_look(struct waypoint_monitor *m)
{
    struct look *l = &m->look;
    *l = (struct look){.cookie = m->cookie,
                       .index = m->has_link ? m->link.index : 0,
                       .neighbours = {-1, -1},
                       .echoes = {-1, -1}};
    memcpy(l->interface, m->interface, sizeof(l->interface));
    for (size_t i = 0; i < m->count; i++) {
        int slot = family_slot(&m->points[i].status.ip);
        l->want_neighbours[slot] = l->want_echoes[slot] = true;
    }
    for (int slot = 0; slot < FAMILIES; slot++) {
        l->open_neighbours[slot] = m->neighbours[slot] >= 0;
        l->open_echoes[slot] = m->echoes[slot] >= 0;
    }
    aside_start(m->aside, look, l);
}

static void adopt(struct waypoint_monitor *m, int *socket, int opened)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.fd = opened}};
    if (opened < 0)
        return;
    if (epoll_ctl(m->epoll, EPOLL_CTL_ADD, opened, &event) == 0)
        *socket = opened;
    else
        (void)close(opened); // tried again with the next look
}

// What the thread beside has found.
static void take_look(struct waypoint_monitor *m)
{
    const struct look *l = &m->look;
    snprintf(m->problem, sizeof(m->problem), "%.*s", (int)sizeof(m->problem) - 1, l->r < 0 ? l->err.text : "");
    if (!l->found)
        return;
    if (m->has_link && l->link.index != m->link.index)
        close_sockets(m); // the interface was made anew
    if (!m->has_link)
        m->next_ns = MIN(m->next_ns, clock_boot_ns()); // the first ask
    m->link = l->link;
    m->has_link = true;
    for (int slot = 0; slot < FAMILIES; slot++) {
        adopt(m, &m->neighbours[slot], l->neighbours[slot]);
        adopt(m, &m->echoes[slot], l->echoes[slot]);
    }
    for (size_t i = 0; i < m->count; i++)
        place_point(m, &m->points[i], l->own, l->own_count);
}

static int ask_neighbour(struct waypoint_monitor *m, const struct waypoint *w)
{
    uint8_t frame[FRAME_SIZE];
    bool all = !w->has_mac || w->next - w->waiting_from > BROADCAST_AFTER;
    size_t size = packet_ask(frame, m->link.mac, w->has_sender ? &w->sender : NULL, &w->status.ip,
                             all ? NULL : w->mac);
    return wire_send(m->neighbours[family_slot(&w->status.ip)], frame, size);
}

// Its last ask was answered by an echo. No neighbour question is out, whose answer might be taken
// for that to a later one.
static bool echo_suffices(const struct waypoint_monitor *m, const struct waypoint *w)
{
    return !m->closely && w->next > 0 && w->echoed == w->next && w->waiting_from == w->next;
}

static int ask_point(struct waypoint_monitor *m, struct waypoint *w)
{
    int slot = family_slot(&w->status.ip), first = 0;
    bool neighbour = w->status.on_link && m->neighbours[slot] >= 0 && !echo_suffices(m, w);
    uint64_t number = w->next++;
    w->asked_ns[number % ASKS_KEPT] = clock_boot_ns();
    w->status.asks++;
    if (neighbour)
        first = ask_neighbour(m, w);
    else if (w->waiting_from == number)
        w->waiting_from = w->next;
    if (m->echoes[slot] >= 0) {
        int r = echo_send(m->echoes[slot], &w->status.ip, m->link.index, m->cookie, number);
        first = neighbour ? first : r; // on the link, the other ask suffices
    }
    return first;
}

// Nothing is wrong: every waypoint has answered its last ask.
static bool all_answer(const struct waypoint_monitor *m)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct waypoint *w = &m->points[i];
        if (w->next == 0 || w->status.sent_ns < w->asked_ns[(w->next - 1) % ASKS_KEPT])
            return false;
    }
    return !m->closely && m->problem[0] == '\0';
}

static void ask_all(struct waypoint_monitor *m, int64_t now)
{
    char text[IP_TEXT_SIZE];
    int64_t pause = all_answer(m) ? LOOK_CALM_NS : LOOK_NS;
    if ((!m->has_link || now - m->looked_ns >= pause) && !aside_busy(m->aside)) {
        m->looked_ns = now;
        start_look(m);
    }
    for (size_t i = 0; m->has_link && i < m->count; i++) {
        int r = ask_point(m, &m->points[i]);
        if (r < 0)
            snprintf(m->problem, sizeof(m->problem), "cannot ask %s on %s: %s",
                     ip_format_bare(&m->points[i].status.ip, text), m->interface, strerror(-r));
    }
}

static int64_t interval_ns(const struct waypoint_monitor *m)
{
    return m->closely ? WAYPOINT_CLOSE_NS : WAYPOINT_CALM_NS;
}

void waypoint_work(struct waypoint_monitor *monitor)
{
    int64_t now = clock_boot_ns();
    if (aside_take(monitor->aside))
        take_look(monitor);
    receive_all(monitor);
    if (monitor->count == 0 || now < monitor->next_ns)
        return;
    ask_all(monitor, now);
    // In step with the clock; rounds that were missed are not made up for.
    monitor->next_ns += interval_ns(monitor);
    if (monitor->next_ns <= now)
        monitor->next_ns = now + interval_ns(monitor);
}

void waypoint_watch(struct waypoint_monitor *monitor, bool closely)
{
    if (closely && !monitor->closely)
        waypoint_ask_now(monitor);
    monitor->closely = closely;
}

bool waypoint_close(const struct waypoint_monitor *monitor)
{
    return monitor->closely;
}

void waypoint_ask_now(struct waypoint_monitor *monitor)
{
    monitor->next_ns = MIN(monitor->next_ns, clock_boot_ns());
}

// --- Life and questions ---

static bool knows_subnet(const struct waypoint_monitor *m, const struct ip *subnet)
{
    for (size_t i = 0; i < m->subnet_count; i++)
        if (ip_equal(&m->subnets[i], subnet) && m->subnets[i].prefix == subnet->prefix)
            return true;
    return false;
}

int waypoint_add_subnets(struct waypoint_monitor *m, const struct ip *subnets, size_t count, struct error *err)
{
    if (count > SUBNET_MAX - m->subnet_count)
        return error_set(err, -EINVAL, "at most %d public addresses are possible on one interface", SUBNET_MAX);
    if (m->subnet_count + count > m->subnet_room) {
        size_t room = 2 * (m->subnet_count + count);
        struct ip *larger = reallocarray(m->subnets, room, sizeof(*larger));
        if (!larger)
            return error_sys(err, -ENOMEM, "waypoints");
        m->subnets = larger;
        m->subnet_room = room;
    }
    for (size_t i = 0; i < count; i++)
        if (!knows_subnet(m, &subnets[i]))
            m->subnets[m->subnet_count++] = subnets[i];
    return 0;
}

int waypoint_start(const char *interface, const struct ip *ips, size_t count,
                   const struct ip *subnets, size_t subnet_count,
                   struct waypoint_monitor **ret_monitor, struct error *err)
{
    if (count > WAYPOINT_MAX)
        return error_set(err, -EINVAL, "at most %d waypoints are possible", WAYPOINT_MAX);
    struct waypoint_monitor *m = calloc(1, sizeof(*m) + count * sizeof(struct waypoint));
    if (!m)
        return error_sys(err, -ENOMEM, "waypoints");
    m->neighbours[0] = m->neighbours[1] = m->echoes[0] = m->echoes[1] = -1;
    m->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (m->epoll < 0 || strlen(interface) >= sizeof(m->interface)) {
        int r = error_sys(err, m->epoll < 0 ? -errno : -EINVAL, "waypoints on %s", interface);
        waypoint_free(m);
        return r;
    }
    int r = aside_new("look", &m->aside);
    struct epoll_event event = {.events = EPOLLIN};
    if (r == 0 && epoll_ctl(m->epoll, EPOLL_CTL_ADD, aside_fd(m->aside), &event) < 0)
        r = -errno;
    if (r < 0)
        (void)error_sys(err, r, "waypoints on %s", interface);
    else
        r = waypoint_add_subnets(m, subnets, subnet_count, err);
    if (r < 0) {
        waypoint_free(m);
        return r;
    }
    memcpy(m->interface, interface, strlen(interface));
    m->count = count;
    for (size_t i = 0; i < count; i++)
        m->points[i].status = (struct waypoint_status){
            .ip = ips[i], .sent_ns = WAYPOINT_NEVER, .answered_ns = WAYPOINT_NEVER};
    m->cookie = random_id();
    m->sent_ns = m->answered_ns = m->prompt_ns = WAYPOINT_NEVER;
    m->next_ns = clock_boot_ns();
    *ret_monitor = m;
    return 0;
}

struct waypoint_monitor *waypoint_free(struct waypoint_monitor *monitor)
{
    if (!monitor)
        return NULL;
    if (monitor->aside && aside_busy(monitor->aside)) {
        monitor->aside = aside_free(monitor->aside);
        for (int slot = 0; slot < FAMILIES; slot++) {
            cleanup_close(&monitor->look.neighbours[slot]);
            cleanup_close(&monitor->look.echoes[slot]);
        }
    }
    aside_free(monitor->aside);
    close_sockets(monitor);
    cleanup_close(&monitor->epoll);
    free(monitor->subnets);
    free(monitor);
    return NULL;
}

int waypoint_fd(const struct waypoint_monitor *monitor)
{
    return monitor->epoll;
}

int64_t waypoint_deadline_ns(const struct waypoint_monitor *monitor)
{
    return monitor->count > 0 ? monitor->next_ns : INT64_MAX;
}

size_t waypoint_count(const struct waypoint_monitor *monitor)
{
    return monitor->count;
}

void waypoint_status(const struct waypoint_monitor *monitor, size_t i,
                     struct waypoint_status *ret_status)
{
    ENSURE(i < monitor->count);
    *ret_status = monitor->points[i].status;
}

int64_t waypoint_sent_ns(const struct waypoint_monitor *monitor)
{
    return monitor->sent_ns;
}

int64_t waypoint_answered_ns(const struct waypoint_monitor *monitor)
{
    return monitor->answered_ns;
}

int64_t waypoint_unbroken_since_ns(const struct waypoint_monitor *monitor, int64_t now_ns)
{
    if (monitor->prompt_ns == WAYPOINT_NEVER || now_ns - monitor->prompt_ns > WAYPOINT_GAP_NS)
        return INT64_MAX;
    return monitor->unbroken_ns;
}

const char *waypoint_problem(const struct waypoint_monitor *monitor)
{
    return monitor->problem;
}
