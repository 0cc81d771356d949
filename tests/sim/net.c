// SPDX-License-Identifier: Apache-2.0
// The networks: control frames over the channel network and over the public one, data messages over the channel network.
// Links keep their order; a cut loses what is sent, or keeps it until it is healed (a late frame). A link ends with the
// run of either daemon, so nothing is delivered to another run than it was sent to.
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#define DATA_PATH PATHS

struct message {
    size_t size;
    struct host *from;
    uint32_t from_life;
    uint64_t bytes[]; // aligned as a record wants it
};

struct stuck {
    struct stuck *next;
    int path;
    struct host *to;
    uint32_t life;
    struct message *message;
};

static bool path_up(const struct sim *s, int path, int from)
{
    switch (path) {
    case 0:
        return !s->cut[from];
    case 1:
        return s->public_up[0] && s->public_up[1];
    default:
        return !s->cut[0] && !s->cut[1] && !s->data_cut;
    }
}

bool net_public(const struct sim *s, int index)
{
    return s->public_up[index];
}

bool net_data_up(const struct sim *s)
{
    return path_up(s, DATA_PATH, 0) && s->host[0].running && s->host[1].running;
}

static void arrive_frame(struct host *h, void *arg, uint64_t path)
{
    struct message *m = arg;
    struct frame frame;
    const char *broken = frame_decode(m->bytes, m->size, &frame);
    ENSURE(!broken);
    if (frame.type != FRAME_BEAT)
        trace(h->sim, h, "<- %s session %llu", frame_type_name(frame.type),
              (unsigned long long)frame.session);
    struct end_event ev = {.type = EV_FRAME};
    ev.frame.path = (unsigned)path;
    ev.frame.frame = &frame;
    feed(h, &ev);
}

static void arrive_data(struct host *h, void *arg, uint64_t path)
{
    struct message *m = arg;
    (void)path;
    void *copy = malloc(m->size);
    ENSURE(copy);
    memcpy(copy, m->bytes, m->size);
    stream_message(h, copy, m->size);
}

static void deliver(struct host *to, int path, struct message *m)
{
    struct sim *s = to->sim;
    int64_t *last = &s->path_at[path][1 - to->index];
    int64_t delay = 50 * NS_PER_US + (int64_t)rnd(s, (uint64_t)s->slow_ns);
    *last = MAX(*last, s->now + delay);
    plan_daemon(to, *last, path == DATA_PATH ? arrive_data : arrive_frame, m, (uint64_t)path);
}

static void keep(struct host *to, int path, struct message *m)
{
    struct stuck *k = malloc(sizeof(*k));
    ENSURE(k);
    *k = (struct stuck){.path = path, .to = to, .life = to->life, .message = m};
    struct stuck **end = &to->sim->stuck;
    while (*end)
        end = &(*end)->next;
    *end = k;
}

static void send(struct host *from, int path, const void *bytes, size_t size)
{
    struct sim *s = from->sim;
    struct host *to = other(from);
    bool up = path_up(s, path, from->index);
    if (!to->running || (!up && !chance(s, 150)))
        return;
    struct message *m = malloc(sizeof(*m) + size);
    ENSURE(m);
    m->size = size;
    m->from = from;
    m->from_life = from->life;
    memcpy(m->bytes, bytes, size);
    if (up)
        deliver(to, path, m);
    else
        keep(to, path, m);
}

void net_send(struct host *from, const struct frame *f)
{
    uint8_t bytes[FRAME_MAX];
    size_t size = frame_encode(f, bytes, sizeof(bytes));
    ENSURE(size > 0);
    if (f->type != FRAME_BEAT)
        trace(from->sim, from, "-> %s session %llu", frame_type_name(f->type),
              (unsigned long long)f->session);
    for (int path = 0; path < PATHS; path++)
        send(from, path, bytes, size);
}

void net_send_data(struct host *from, const struct iovec *iov, int count)
{
    struct sim *s = from->sim;
    size_t size = 0, at = 0;
    for (int i = 0; i < count; i++)
        size += iov[i].iov_len;
    uint8_t *bytes = malloc(size);
    ENSURE(bytes);
    for (int i = 0; i < count; i++) {
        memcpy(bytes + at, iov[i].iov_base, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    if (!chance(s, s->loss))
        send(from, DATA_PATH, bytes, size);
    free(bytes);
}

// What was stuck behind a cut comes late, or never.
static void release(struct sim *s)
{
    struct stuck **at = &s->stuck;
    while (*at) {
        struct stuck *k = *at;
        bool gone = !k->to->running || k->life != k->to->life;
        if (!gone && !path_up(s, k->path, 1 - k->to->index)) {
            at = &k->next;
            continue;
        }
        *at = k->next;
        if (gone || chance(s, 300)) {
            free(k->message);
        } else {
            deliver(k->to, k->path, k->message);
            cover_fault(k->to, FAULT_LATE);
        }
        free(k);
    }
}

void net_changed(struct sim *s)
{
    bool up = net_data_up(s);
    release(s);
    for (int i = 0; i < 2; i++) {
        struct host *h = &s->host[i];
        if (!h->running || up == h->figures.stream_up)
            continue;
        h->figures.stream_up = up;
        h->figures.stream_ns = local_now(h);
        if (up)
            front_rewind(h);
    }
}

void net_free(struct sim *s)
{
    while (s->stuck) {
        struct stuck *k = s->stuck;
        s->stuck = k->next;
        free(k->message);
        free(k);
    }
}
