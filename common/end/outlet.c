// SPDX-License-Identifier: Apache-2.0
#include "common/end/outlet.h"

#include <errno.h>
#include <stdlib.h>

struct outlet {
    unsigned reader;
    struct unsafe *queue;
    struct sender *sender; // NULL without a queue
    uint64_t session;
    bool blocked;
    uint64_t durable; // as seen last
    int64_t moved_ns;
};

struct outlet *outlet_new(unsigned reader)
{
    struct outlet *o = calloc(1, sizeof(*o));
    if (o)
        o->reader = reader;
    return o;
}

struct outlet *outlet_free(struct outlet *o)
{
    if (!o)
        return NULL;
    sender_free(o->sender);
    free(o);
    return NULL;
}

int outlet_set_queue(struct outlet *o, struct unsafe *queue)
{
    o->sender = sender_free(o->sender);
    o->queue = queue;
    o->session = 0;
    o->blocked = false;
    if (!queue)
        return 0;
    o->durable = 0;
    o->sender = sender_new(queue, o->reader, &(struct sender_config){0});
    return o->sender ? 0 : -ENOMEM;
}

// The time at which durable moved tells a slow peer from a stuck one.
static void watch(struct outlet *o, int64_t now)
{
    struct positions p;
    sender_positions(o->sender, &p);
    if (p.durable != o->durable)
        o->moved_ns = now;
    o->durable = p.durable;
}

bool outlet_start(struct outlet *o, uint64_t session, uint64_t from, int64_t now)
{
    // The queue may have let go of the peer, and the end not have heard of it yet.
    if (!o->sender || !unsafe_attached(o->queue, o->reader) || unsafe_released(o->queue, o->reader) > from ||
        unsafe_last(o->queue, o->reader) < from)
        return false;
    sender_start(o->sender, session, from, now);
    o->session = session;
    o->blocked = false;
    watch(o, now);
    return true;
}

void outlet_stop(struct outlet *o)
{
    if (outlet_running(o))
        sender_stop(o->sender);
    o->session = 0;
}

bool outlet_running(const struct outlet *o)
{
    return o->sender && sender_running(o->sender);
}

uint64_t outlet_session(const struct outlet *o)
{
    return outlet_running(o) ? o->session : 0;
}

void outlet_withhold(struct outlet *o, uint64_t seq)
{
    if (o->sender)
        sender_withhold(o->sender, seq);
}

void outlet_barrier(struct outlet *o)
{
    if (outlet_running(o))
        (void)sender_barrier(o->sender);
}

void outlet_hasten(struct outlet *o)
{
    if (outlet_running(o))
        sender_hasten(o->sender);
}

void outlet_send(struct outlet *o, int64_t now, outlet_send_fn *send, void *user)
{
    struct sender_message m;
    if (!outlet_running(o))
        return;
    while (!o->blocked && sender_next(o->sender, now, &m)) {
        if (send(user, m.iov, m.iov_count) == 0) {
            sender_sent(o->sender, now);
            continue;
        }
        sender_blocked(o->sender);
        o->blocked = true; // until the link takes messages, or has a path, again
    }
}

int64_t outlet_deadline(const struct outlet *o)
{
    return outlet_running(o) ? sender_deadline(o->sender) : INT64_MAX;
}

int64_t outlet_awaits_ns(const struct outlet *o)
{
    return outlet_running(o) ? sender_awaits_ns(o->sender) : INT64_MAX;
}

uint64_t outlet_pending(const struct outlet *o)
{
    return outlet_running(o) ? sender_pending(o->sender) : 0;
}

bool outlet_blocked(const struct outlet *o)
{
    return o->blocked;
}

void outlet_unblock(struct outlet *o)
{
    o->blocked = false;
}

void outlet_rewind(struct outlet *o, int64_t now)
{
    if (!outlet_running(o))
        return;
    sender_rewind(o->sender, now);
    o->blocked = false;
}

int outlet_ack(struct outlet *o, const void *message, size_t size, int64_t now, struct error *err)
{
    if (!outlet_running(o))
        return -ESTALE;
    int r = sender_ack(o->sender, message, size, now, err);
    watch(o, now);
    return r;
}

bool outlet_positions(const struct outlet *o, struct positions *ret_positions,
                      int64_t *ret_moved_ns)
{
    if (!o->sender)
        return false;
    sender_positions(o->sender, ret_positions);
    *ret_moved_ns = o->moved_ns;
    return true;
}
