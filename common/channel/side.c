// SPDX-License-Identifier: Apache-2.0
// See side.h. A transport that leaves connections standing which a dead peer or a stranger left behind has them shed by
// opening the pull anew when there are too many.
//
// Order of work: what has arrived is looked at before timers, so that an end that slept
// does not take its own sleep for the peer's silence.
#include "common/channel/side.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"

#define SLEPT_NS        (400 * NS_PER_MS) // the owner was away for so long
#define LOOK_NS         NS_PER_S
#define SHED_NS         (60 * NS_PER_S) // at most so often: it loses what is on its way
#define RECEIVE_MAX     512             // messages looked at in one call
#define EVENT_PULL      (CHANNEL_PATHS_MAX + 0U)
#define EVENT_KICK      (CHANNEL_PATHS_MAX + 1U)
#define BUSY_MAX        4

static int watch(int epoll, int fd, uint32_t events, uint64_t tag)
{
    struct epoll_event event = {.events = events, .data.u64 = tag};
    return epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int open_pull(struct side *side)
{
    size_t largest = side->kind == CHANNEL_SIDE_DATA ? CHANNEL_DATA_MAX : CHANNEL_CONTROL_MAX;
    return side->transport->pull_open(largest + FRAME_OVERHEAD, side->epoll, EVENT_PULL, &side->pull);
}

static int open_fds(struct side *side)
{
    side->epoll = epoll_create1(EPOLL_CLOEXEC);
    side->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (side->epoll < 0 || side->kick < 0)
        return -errno;
    if (side->kind == CHANNEL_SIDE_DATA) {
        side->send_epoll = epoll_create1(EPOLL_CLOEXEC);
        if (side->send_epoll < 0)
            return -errno;
    }
    int r = open_pull(side);
    return r < 0 ? r : watch(side->epoll, side->kick, EPOLLIN, EVENT_KICK);
}

int side_init(struct side *side, enum channel_side kind, const struct channel_ops *ops,
              void *context, struct error *err)
{
    side->kind = kind;
    side->ops = ops;
    side->context = context;
    side->transport = kind == CHANNEL_SIDE_DATA ? &transport_tcp : &transport_nanomsg;
    side->epoll = side->kick = side->send_epoll = -1;
    side->pull = NULL;
    side->send_path = CHANNEL_NO_PATH;
    side->last_path = CHANNEL_NO_PATH;
    side->deadline_ns = 0;
    side->pull_at_ns = INT64_MAX;
    (void)pthread_mutex_init(&side->lock, NULL);
    int r = open_fds(side);
    if (r == -EMFILE)
        return error_set(
            err, r,
            "no room for another channel in this process: it is out of file descriptors, or has "
            "the 512 sockets that nanomsg allows");
    return r < 0 ? error_sys(err, r, "cannot open the sockets of a channel") : 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

void side_done(struct side *side)
{
    for (int i = 0; i < side->n_links; i++)
        link_done(&side->links[i]);
    side->transport->pull_close(side->pull);
    side->pull = NULL;
    close_fd(&side->kick);
    close_fd(&side->send_epoll);
    close_fd(&side->epoll);
    (void)pthread_mutex_destroy(&side->lock);
}

void side_kick(struct side *side)
{
    const uint64_t one = 1;
    (void)!write(side->kick, &one, sizeof(one));
}

// --- callbacks ---

struct event {
    int path;
    enum channel_event what;
    char text[SAID_TEXT];
};

static bool take_said(struct said *said, enum channel_event what, struct event *e)
{
    if (!said->pending)
        return false;
    said->pending = false;
    e->what = what;
    memcpy(e->text, said->text, sizeof(e->text));
    return true;
}

static bool take_link_event(struct link *l, struct event *e)
{
    e->path = (int)l->path;
    if (l->say_down) {
        l->say_down = false;
        e->what = CHANNEL_DOWN;
        memcpy(e->text, l->down_text, sizeof(e->text));
        return true;
    }
    if (take_said(&l->refused, CHANNEL_REFUSED, e))
        return true;
    if (l->say_up) {
        l->say_up = false;
        e->what = CHANNEL_UP;
        (void)snprintf(e->text, sizeof(e->text), "%s to %s port %u", l->mine, l->peers,
                       l->peers_port);
        return true;
    }
    if (l->losses != l->losses_said) {
        l->losses_said = l->losses;
        e->what = CHANNEL_DATA_LOST;
        (void)snprintf(e->text, sizeof(e->text), "messages from %s are missing", l->peers);
        return l->side == CHANNEL_SIDE_DATA;
    }
    return take_said(&l->trouble, CHANNEL_TROUBLE, e);
}

static bool take_event(struct side *side, struct event *e)
{
    HOLD_LOCK(&side->lock);
    for (int i = 0; i < side->n_links; i++)
        if (side->links[i].present && take_link_event(&side->links[i], e))
            return true;
    e->path = side->send_path;
    if (side->say_path) {
        side->say_path = false;
        e->what = CHANNEL_DATA_PATH;
        (void)snprintf(e->text, sizeof(e->text), "%s",
                       e->path == CHANNEL_NO_PATH ? "no data link is up"
                                                  : side->links[e->path].peers);
        return true;
    }
    e->path = CHANNEL_NO_PATH;
    return take_said(&side->trouble, CHANNEL_TROUBLE, e);
}

static void flush_events(struct side *side)
{
    struct event e;
    while (take_event(side, &e))
        if (side->ops->on_event)
            side->ops->on_event(side->context, side->kind, e.path, e.what, e.text);
}

// --- what links need from their side ---

static void watch_send(struct side *side)
{
    const struct link *l =
        side->send_path == CHANNEL_NO_PATH ? NULL : &side->links[side->send_path];
    // What was in it is closed, or taken out here.
    for (int i = 0; i < side->n_links; i++) {
        int fd = link_send_fd(&side->links[i]);
        if (fd >= 0)
            (void)epoll_ctl(side->send_epoll, EPOLL_CTL_DEL, fd, NULL);
    }
    int fd = l ? link_send_fd(l) : -1;
    if (fd >= 0)
        (void)watch(side->send_epoll, fd, EPOLLOUT, 0);
}

#define AVOID_NS (10 * NS_PER_S) // a path that was left
#define STEADY_NS                                                                                  \
    (10 * NS_PER_S) // a better path that was down has to be up for so long before data goes back

// The peer's host has been heard on another path long after it was heard last on this one, where it speaks as often: what this
// one is given is probably lost. Long before the silence is over, so that the loss of one path costs no protection.
static bool in_doubt(const struct side *side, int path)
{
    int64_t here = MAX(*side->links[path].control_heard_ns, side->links[path].up_since_ns);
    for (int i = 0; i < side->n_links; i++) {
        const struct link *l = &side->links[i];
        if (i != path && l->present && l->up && *l->control_heard_ns - here > l->settings->silence_ns / 2)
            return true;
    }
    return false;
}

static bool eligible(const struct side *side, int path, bool leave, int64_t now)
{
    const struct link *l = &side->links[path];
    if (!l->present || !l->up || (leave && path == side->send_path) || in_doubt(side, path))
        return false;
    if (now < l->avoid_until_ns)
        return false;
    bool better = side->send_path != CHANNEL_NO_PATH && path < side->send_path;
    bool steady = l->ups == 1 || now - l->up_since_ns >= STEADY_NS;
    return !better || leave || !side->links[side->send_path].up || steady;
}

static int best_path(const struct side *side, bool leave, int64_t now)
{
    for (int i = 0; i < side->n_links; i++)
        if (eligible(side, i, leave, now))
            return i;
    for (int i = 0; i < side->n_links; i++)
        if (side->links[i].present && side->links[i].up && !(leave && i == side->send_path) && !in_doubt(side, i))
            return i;
    bool stay = side->send_path != CHANNEL_NO_PATH && side->links[side->send_path].up;
    return stay ? side->send_path : CHANNEL_NO_PATH;
}

bool side_has_other(const struct side *side, int64_t now)
{
    for (int i = 0; i < side->n_links; i++)
        if (eligible(side, i, true, now))
            return true;
    return false;
}

void side_choose(struct side *side, bool leave, int64_t now)
{
    if (side->kind != CHANNEL_SIDE_DATA)
        return;
    bool changed = false, socket_changed = false;
    for (int i = 0; i < side->n_links; i++) {
        struct link *l = &side->links[i];
        if (l->present) // what is sent over one of a former run is lost, and sent again
            link_leave_former(l, now);
        changed |= l->changed && i == side->send_path;
        socket_changed |= l->push_changed;
        l->changed = l->push_changed = false;
    }
    bool doubt = side->send_path != CHANNEL_NO_PATH && side->links[side->send_path].up && in_doubt(side, side->send_path);
    if ((leave || doubt) && side->send_path != CHANNEL_NO_PATH)
        side->links[side->send_path].avoid_until_ns = now + AVOID_NS;
    int path = best_path(side, leave, now);
    uint64_t run = path == CHANNEL_NO_PATH ? 0 : side->links[path].peer_run;
    if (path != side->send_path || changed || run != side->send_run) {
        side->send_path = path;
        side->send_run = run;
        side->blocked_ns = 0;
        side->generation++;
        side->say_path = true;
        socket_changed = true;
    }
    if (socket_changed)
        watch_send(side);
}

// --- receiving ---

static void dropped(struct side *side, const char *why, int64_t now)
{
    char text[SAID_TEXT];
    HOLD_LOCK(&side->lock);
    (void)snprintf(text, sizeof(text), "dropped %s", why);
    said_note(&side->trouble, now, text);
}

static struct link *link_find(struct side *side, const struct frame *frame)
{
    if (frame->side != side->kind || frame->path >= (unsigned)side->n_links)
        return NULL;
    struct link *l = &side->links[frame->path];
    return l->present ? l : NULL;
}

// A message that is not the user's, or none at all.
static void on_other(struct side *side, struct link *l, const struct frame *frame,
                     const struct opened *opened, int r, const char *why, const uint8_t *message,
                     int64_t now)
{
    HOLD_LOCK(&side->lock);
    if (frame->kind == FRAME_HANDSHAKE)
        link_on_handshake(l, frame, message + sizeof(struct frame_header), now);
    else if (frame->kind == FRAME_RESET)
        link_on_reset(l, frame, now);
    else if (r == -ENOENT)
        link_on_unknown(l, frame, now);
    else if (r < 0)
        link_dropped(l, why, now);
    else
        link_on_internal(l, opened, now);
    if (l->changed || l->push_changed)
        side_choose(side, false, now);
}

// Returns 1 when the message is the user's.
static void take_bundle(struct side *side, struct link *l, const struct frame *bundle, uint8_t *message, int64_t now);

static int on_message(struct side *side, uint8_t *message, size_t size, bool direct, int64_t now,
                      struct received *ret_received)
{
    struct frame frame;
    struct opened opened = {0};
    int r = 0;
    const char *why = frame_parse(message, size, &frame);
    struct link *l = why ? NULL : link_find(side, &frame);
    if (!l) {
        dropped(side, why ? why : "a message for a link that does not exist", now);
        return 0;
    }
    if (frame.kind == FRAME_BUNDLE) {
        take_bundle(side, l, &frame, message, now);
        return 0;
    }
    if (frame.kind == FRAME_SEALED)
        r = link_open(l, &frame, message, direct, now, &opened, &why);
    if (frame.kind == FRAME_SEALED && r == 0 && direct)
        side->transport->pull_trust(side->pull);
    if (frame.kind != FRAME_SEALED || r < 0 || opened.type != FRAME_USER) {
        on_other(side, l, &frame, &opened, r, why, message, now);
        return 0;
    }
    *ret_received = (struct received){message, opened.data, opened.size, l, opened.session->run};
    return 1;
}

static void note_time(struct side *side, int64_t now)
{
    if (now - side->worked_ns > SLEPT_NS && now > side->deadline_ns + SLEPT_NS)
        side->grace_ns = now;
    side->worked_ns = now;
}

static void plan(struct side *side, int64_t now)
{
    int64_t deadline = side->more ? now : side->pull_at_ns;
    for (int i = 0; i < side->n_links; i++)
        deadline = MIN(deadline, link_deadline(&side->links[i], now, side->grace_ns));
    side->deadline_ns = deadline;
}

// A message that came in a bundle, for the side that it names.
static void deliver(struct side *side, uint8_t *message, size_t size, bool direct, int64_t now)
{
    struct received m;
    note_time(side, now);
    if (on_message(side, message, size, direct, now, &m) && side->ops->on_control)
        side->ops->on_control(side->context, (int)m.link->path, m.run, m.data, m.size);
    flush_events(side);
    HOLD_LOCK(&side->lock);
    plan(side, now);
}

// One that names no session of the carrying link is another process's, or of no peer at all.
static void take_bundle(struct side *side, struct link *l, const struct frame *bundle, uint8_t *message, int64_t now)
{
    uint8_t *data = message + sizeof(struct frame_header), *inside;
    size_t at = 0, size;
    uint32_t slot;
    if (!side->bundler || !link_knows(l, bundle->nonce)) {
        HOLD_LOCK(&side->lock);
        link_on_unknown(l, bundle, now);
        return;
    }
    while (frame_entry_next(data, bundle->size, &at, &slot, &inside, &size)) {
        struct frame frame;
        struct side *to = bundler_find(side->bundler, slot);
        if (!to || frame_parse(inside, size, &frame) || frame.kind != FRAME_SEALED)
            dropped(side, "a message in a bundle that is for nobody here", now);
        else
            deliver(to, inside, size, to == side && frame.path == l->path && frame.nonce == bundle->nonce, now);
    }
    if (at != bundle->size)
        dropped(side, "the rest of a bundle", now);
}

// What the user leaves unread is no silence of the peer, who is told, too.
static void note_unread(struct side *side, bool readable, int64_t now)
{
    bool unread = readable && !side->drained;
    side->drained = false;
    if (unread)
        side->grace_ns = now;
    for (int i = 0; i < side->n_links; i++)
        side->links[i].unread = unread;
}

int side_receive(struct side *side, struct received *ret_received)
{
    int64_t now = clock_boot_ns();
    note_time(side, now);
    for (int i = 0; i < RECEIVE_MAX; i++) {
        void *message;
        size_t size;
        if (!side->pull || side->transport->pull_receive(side->pull, &message, &size) < 0) {
            side->more = false;
            break;
        }
        side->more = side->came = true;
        if (on_message(side, message, size, true, now, ret_received))
            return 0;
        side->transport->message_free(message);
        flush_events(side);
    }
    side->drained = true;
    return -EAGAIN;
}

// --- timers ---

// Whether the rest of a message waits for its connection, or one is being made: neither may wait for anything else.
static bool is_pushing(const struct side *side)
{
    for (int i = 0; i < side->n_links; i++) {
        const struct link *l = &side->links[i];
        if (l->push && !l->transport->push_ready(l->push))
            return true;
    }
    return false;
}

// While messages come for data, most works have nothing else to find: what is ready waits for the next but BUSY_MAX at most, and
// wakes who polls the epoll.
static void take_ready(struct side *side, int64_t now)
{
    bool came = side->came;
    side->came = false;
    bool data = side->kind == CHANNEL_SIDE_DATA;
    if (data && came && side->drained && side->busy++ < BUSY_MAX && !is_pushing(side)) {
        note_unread(side, false, now);
        return;
    }
    side->busy = 0;
    struct epoll_event events[CHANNEL_PATHS_MAX + 2];
    uint64_t count;
    bool readable = false;
    int n = epoll_wait(side->epoll, events, (int)ARRAY_LEN(events), 0);
    for (int i = 0; i < n; i++) {
        uint32_t tag = (uint32_t)events[i].data.u64;
        if (tag < (uint32_t)side->n_links)
            link_event(&side->links[tag], now);
        else if (tag == EVENT_KICK)
            (void)!read(side->kick, &count, sizeof(count));
        else if (side->pull)
            readable |= side->transport->pull_event(side->pull, events[i].data.u64);
    }
    note_unread(side, readable, now);
}

static void shed_connections(struct side *side, int64_t now)
{
    char text[SAID_TEXT];
    uint64_t n = side->pull ? side->transport->pull_crowd(side->pull) : 0;
    if (side->pull && (n == 0 || now - side->shed_ns < SHED_NS))
        return;
    side->shed_ns = now;
    (void)snprintf(text, sizeof(text), "dropped %llu connections that were left behind",
                   (unsigned long long)n);
    said_note(&side->trouble, now, text);
    side->transport->pull_close(side->pull);
    side->pull = NULL;
    (void)open_pull(side);
    for (int i = 0; i < side->n_links; i++) {
        side->links[i].pull = side->pull;
        side->links[i].bound = false;
        side->links[i].bind_at_ns = now;
    }
}

// Connections that ended in an error although all links are in order were a stranger's.
static void look_for_strangers(struct side *side, int64_t now)
{
    bool all_up = true;
    if (now - side->looked_ns < LOOK_NS)
        return;
    side->looked_ns = now;
    shed_connections(side, now);
    uint64_t broken = side->pull ? side->transport->pull_broken(side->pull) : side->broken;
    for (int i = 0; i < side->n_links; i++)
        all_up &= !side->links[i].present || side->links[i].up;
    if (broken > side->broken && all_up)
        said_note(&side->trouble, now,
                  "dropped a connection that broke, or did not speak this protocol");
    side->broken = broken;
}

void side_work(struct side *side)
{
    int64_t now = clock_boot_ns();
    note_time(side, now);
    (void)pthread_mutex_lock(&side->lock);
    take_ready(side, now);
    look_for_strangers(side, now);
    side->pull_at_ns = side->pull ? side->transport->pull_tick(side->pull, now) : INT64_MAX;
    for (int i = 0; i < side->n_links; i++)
        link_tick(&side->links[i], now, side->grace_ns);
    side_choose(side, false, now);
    plan(side, now);
    (void)pthread_mutex_unlock(&side->lock);
    flush_events(side);
}
