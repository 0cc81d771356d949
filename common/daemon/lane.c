// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/lane.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/end/outlet.h"
#include "common/end/service.h"

_Static_assert(2 + SENDER_RECORDS_MAX <= CHANNEL_IOV_MAX, "a batch is sent as one message");
_Static_assert(BATCH_MESSAGE_MAX <= CHANNEL_DATA_MAX, "a batch is sent as one message");

#define LANE_BULK    (32u * 1024) // lingering bytes that are worth waking the stream thread
#define LANE_PACE_NS INT64_C(800000) // between two rounds of the stream thread
#define LANE_BLOCKED_NS (250 * NS_PER_MS) // while a path takes nothing another one may be better
// What was sent and has no answer for so long may have been sent into a connection that was just breaking: a path without one
// is left long before the sender repeats itself.
#define LANE_LOOK_NS (125 * NS_PER_MS)

struct lane {
    pthread_mutex_t lock;
    struct outlet *outlet; // under the lock
    struct channel *channel;
    struct figures *figures;
    struct mailbox *wake;
    struct unsafe *queue;  // likewise
    struct mailbox *front; // likewise
    uint64_t seen;    // likewise: numbered, when the stream thread came last
    int64_t round_ns; // likewise: when it comes again
    int64_t looked_ns; // at the path, while an answer is waited for
    int64_t alone_ns; // likewise: when the front thread sent last what had lingered
    uint64_t sent;    // likewise: messages
    // 1: the stream thread comes by itself, and sees whatever was numbered before somebody read this.
    _Atomic unsigned paced;
    _Atomic bool running; // written under the lock, behind whatever may begin or end a stream
};

struct lane *lane_new(struct channel *channel, struct figures *figures, struct mailbox *wake)
{
    struct lane *lane = calloc(1, sizeof(*lane));
    if (!lane)
        return NULL;
    (void)pthread_mutex_init(&lane->lock, NULL);
    lane->channel = channel;
    lane->figures = figures;
    lane->wake = wake;
    lane->outlet = outlet_new(SERVICE_READER);
    return lane->outlet ? lane : lane_free(lane);
}

struct lane *lane_free(struct lane *lane)
{
    if (!lane)
        return NULL;
    outlet_free(lane->outlet);
    (void)pthread_mutex_destroy(&lane->lock);
    free(lane);
    return NULL;
}

static void note_running(struct lane *lane)
{
    atomic_store(&lane->running, outlet_running(lane->outlet));
}

int lane_set_queue(struct lane *lane, struct unsafe *queue)
{
    HOLD_LOCK(&lane->lock);
    lane->queue = queue;
    int r = outlet_set_queue(lane->outlet, queue);
    note_running(lane);
    return r;
}

void lane_set_front(struct lane *lane, struct mailbox *front)
{
    HOLD_LOCK(&lane->lock);
    lane->front = front;
}

void lane_hold(struct lane *lane, bool hold)
{
    if (hold)
        (void)pthread_mutex_lock(&lane->lock);
    else
        (void)pthread_mutex_unlock(&lane->lock);
}

static void publish(struct lane *lane)
{
    struct positions p;
    int64_t moved_ns;
    if (!outlet_positions(lane->outlet, &p, &moved_ns))
        return;
    atomic_store(&lane->figures->moved_ns, moved_ns);
    atomic_store(&lane->figures->received, p.received);
    atomic_store(&lane->figures->applied, p.applied);
    atomic_store(&lane->figures->settled, p.settled);
    atomic_store(&lane->figures->durable, p.durable);
}

void lane_start(struct lane *lane, uint64_t session, uint64_t from)
{
    {
        HOLD_LOCK(&lane->lock);
        if (!outlet_start(lane->outlet, session, from, clock_boot_ns()))
            return;
        note_running(lane);
        publish(lane);
    }
    mailbox_ring(lane->wake);
}

void lane_stop(struct lane *lane)
{
    HOLD_LOCK(&lane->lock);
    outlet_stop(lane->outlet);
    note_running(lane);
}

void lane_withhold(struct lane *lane, uint64_t seq)
{
    {
        HOLD_LOCK(&lane->lock);
        outlet_withhold(lane->outlet, seq);
    }
    mailbox_ring(lane->wake);
}

static int send_message(void *user, const struct iovec *iov, int count)
{
    struct lane *lane = user;
    int r = channel_data_send(lane->channel, iov, count);
    lane->sent += r == 0;
    return r;
}

// Read and written as one, so that either the stream thread has yet to look, or this sees that it does not come.
static bool comes_by_itself(struct lane *lane)
{
    return atomic_fetch_or(&lane->paced, 0) != 0;
}

static void send_by_front(struct lane *lane, bool barrier, int64_t now)
{
    uint64_t before = lane->sent;
    if (barrier)
        outlet_barrier(lane->outlet);
    outlet_send(lane->outlet, now, send_message, lane);
    if (!barrier && lane->sent != before)
        lane->alone_ns = now;
}

// Returns when to look next.
static int64_t look(struct lane *lane, int64_t now)
{
    int64_t since = outlet_awaits_ns(lane->outlet);
    if (since == INT64_MAX)
        return INT64_MAX;
    int64_t at = MAX(since, lane->looked_ns) + LANE_LOOK_NS;
    if (now < at)
        return at;
    lane->looked_ns = now;
    channel_data_look(lane->channel);
    return now + LANE_LOOK_NS;
}

int64_t lane_push(struct lane *lane, bool barrier)
{
    if (!barrier && comes_by_itself(lane))
        return INT64_MAX;
    {
        HOLD_LOCK(&lane->lock);
        if (!outlet_running(lane->outlet))
            return INT64_MAX;
        int64_t now = clock_boot_ns();
        bool here = barrier || now - lane->alone_ns >= LANE_PACE_NS;
        if (here)
            send_by_front(lane, barrier, now);
        if (atomic_load(&lane->paced))
            return INT64_MAX;
        if (here && !outlet_blocked(lane->outlet) && outlet_pending(lane->outlet) < LANE_BULK)
            return MIN(outlet_deadline(lane->outlet), look(lane, now));
        atomic_store(&lane->paced, 1);
    }
    mailbox_ring(lane->wake);
    return INT64_MAX;
}

// All that has been numbered goes. Returns whether there was anything new.
static bool send_all(struct lane *lane, int64_t now)
{
    uint64_t numbered = unsafe_last(lane->queue, SERVICE_READER);
    bool new = numbered != lane->seen;
    lane->seen = numbered;
    outlet_hasten(lane->outlet);
    outlet_send(lane->outlet, now, send_message, lane);
    return new;
}

// Goes on as long as there is something new.
static void take_round(struct lane *lane, int64_t now)
{
    lane->round_ns = now + LANE_PACE_NS;
    if (send_all(lane, now))
        return;
    (void)atomic_exchange(&lane->paced, 0);
    if (send_all(lane, now)) // numbered by somebody who still saw it true
        atomic_store(&lane->paced, 1);
}

int64_t lane_work(struct lane *lane, int64_t now)
{
    HOLD_LOCK(&lane->lock);
    if (!outlet_running(lane->outlet)) {
        atomic_store(&lane->paced, 0);
        return INT64_MAX;
    }
    if (atomic_load(&lane->paced) && now >= lane->round_ns)
        take_round(lane, now);
    else
        outlet_send(lane->outlet, now, send_message, lane);
    if (lane->front && unsafe_missing(lane->queue))
        mailbox_ring(lane->front);
    int64_t at = MIN(outlet_deadline(lane->outlet), look(lane, now));
    if (outlet_blocked(lane->outlet)) {
        atomic_store(&lane->paced, 1); // it comes when the channel takes something again
        at = MIN(at, now + LANE_BLOCKED_NS);
    } else if (atomic_load(&lane->paced)) {
        at = MIN(at, lane->round_ns);
    }
    return at;
}

bool lane_blocked(struct lane *lane)
{
    HOLD_LOCK(&lane->lock);
    return outlet_blocked(lane->outlet);
}

void lane_unblock(struct lane *lane)
{
    HOLD_LOCK(&lane->lock);
    outlet_unblock(lane->outlet);
}

void lane_rewind(struct lane *lane)
{
    HOLD_LOCK(&lane->lock);
    outlet_rewind(lane->outlet, clock_boot_ns());
}

int lane_ack(struct lane *lane, const void *message, size_t size, struct error *err)
{
    HOLD_LOCK(&lane->lock);
    int r = outlet_ack(lane->outlet, message, size, clock_boot_ns(), err);
    note_running(lane);
    if (r != -ESTALE)
        publish(lane);
    return r;
}

bool lane_running(struct lane *lane)
{
    return atomic_load(&lane->running);
}

bool lane_settled(struct lane *lane, uint64_t *ret_session, uint64_t *ret_seq)
{
    struct positions p;
    int64_t moved_ns;
    HOLD_LOCK(&lane->lock);
    if (!outlet_running(lane->outlet) || !outlet_positions(lane->outlet, &p, &moved_ns))
        return false;
    *ret_session = outlet_session(lane->outlet);
    *ret_seq = p.settled;
    return true;
}
