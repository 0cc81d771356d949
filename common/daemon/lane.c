// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/lane.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"

_Static_assert(2 + SENDER_RECORDS_MAX <= CHANNEL_IOV_MAX, "a batch is sent as one message");
_Static_assert(BATCH_MESSAGE_MAX <= CHANNEL_DATA_MAX, "a batch is sent as one message");

struct lane {
    pthread_mutex_t lock;
    struct channel *channel;
    struct figures *figures;
    struct mailbox *wake;
    struct unsafe *queue;
    struct sender *sender;
    uint64_t session;
    bool blocked;
    _Atomic bool asleep; // the stream thread has nothing to wait for but a ring
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
    return lane;
}

struct lane *lane_free(struct lane *lane)
{
    if (!lane)
        return NULL;
    sender_free(lane->sender);
    (void)pthread_mutex_destroy(&lane->lock);
    free(lane);
    return NULL;
}

int lane_set_queue(struct lane *lane, struct unsafe *queue)
{
    HOLD_LOCK(&lane->lock);
    lane->sender = sender_free(lane->sender);
    lane->queue = queue;
    lane->session = 0;
    lane->blocked = false;
    if (!queue)
        return 0;
    lane->sender = sender_new(queue, LANE_READER, &(struct sender_config){0});
    return lane->sender ? 0 : -ENOMEM;
}

static void publish(struct lane *lane, int64_t now)
{
    struct positions p;
    sender_positions(lane->sender, &p);
    if (p.durable != atomic_load(&lane->figures->durable))
        atomic_store(&lane->figures->moved_ns, now);
    atomic_store(&lane->figures->received, p.received);
    atomic_store(&lane->figures->applied, p.applied);
    atomic_store(&lane->figures->settled, p.settled);
    atomic_store(&lane->figures->durable, p.durable);
}

void lane_start(struct lane *lane, uint64_t session, uint64_t from)
{
    int64_t now = clock_boot_ns();
    {
        HOLD_LOCK(&lane->lock);
        // Between the meeting and this moment the queue may have let go of the reader (overflow):
        // then the control thread hears of that and ends the session.
        if (!lane->sender || unsafe_released(lane->queue, LANE_READER) > from ||
            unsafe_numbered(lane->queue) < from)
            return;
        sender_start(lane->sender, session, from, now);
        lane->session = session;
        lane->blocked = false;
        publish(lane, now);
    }
    mailbox_ring(lane->wake);
}

void lane_stop(struct lane *lane)
{
    HOLD_LOCK(&lane->lock);
    if (lane->sender && sender_running(lane->sender))
        sender_stop(lane->sender);
    lane->session = 0;
}

// Under the lock.
static void send_due(struct lane *lane, int64_t now)
{
    struct sender_message m;
    while (!lane->blocked && sender_next(lane->sender, now, &m)) {
        int r = channel_data_send(lane->channel, m.iov, m.iov_count);
        if (r == 0) {
            sender_sent(lane->sender, now);
            continue;
        }
        sender_blocked(lane->sender);
        lane->blocked = true; // until the channel takes messages, or has a path, again
    }
}

void lane_push(struct lane *lane, bool barrier)
{
    bool sleeps = false;
    {
        HOLD_LOCK(&lane->lock);
        if (!lane->sender || !sender_running(lane->sender))
            return;
        if (barrier)
            (void)sender_barrier(lane->sender);
        send_due(lane, clock_boot_ns());
        sleeps = atomic_exchange(&lane->asleep, false);
    }
    if (sleeps)
        mailbox_ring(lane->wake);
}

int64_t lane_work(struct lane *lane, int64_t now)
{
    HOLD_LOCK(&lane->lock);
    atomic_store(&lane->asleep, false);
    if (!lane->sender || !sender_running(lane->sender))
        return INT64_MAX;
    send_due(lane, now);
    int64_t at = sender_deadline(lane->sender);
    // Set under the lock, so that what is numbered from now on finds it.
    if (at == INT64_MAX)
        atomic_store(&lane->asleep, true);
    return at;
}

bool lane_blocked(struct lane *lane)
{
    HOLD_LOCK(&lane->lock);
    return lane->blocked;
}

void lane_unblock(struct lane *lane)
{
    HOLD_LOCK(&lane->lock);
    lane->blocked = false;
}

void lane_rewind(struct lane *lane)
{
    HOLD_LOCK(&lane->lock);
    if (!lane->sender || !sender_running(lane->sender))
        return;
    sender_rewind(lane->sender, clock_boot_ns());
    lane->blocked = false;
}

int lane_ack(struct lane *lane, const void *message, size_t size, struct error *err)
{
    HOLD_LOCK(&lane->lock);
    if (!lane->sender || !sender_running(lane->sender))
        return -ESTALE;
    int64_t now = clock_boot_ns();
    int r = sender_ack(lane->sender, message, size, now, err);
    publish(lane, now);
    return r;
}

bool lane_running(struct lane *lane, uint64_t *ret_session)
{
    HOLD_LOCK(&lane->lock);
    if (!lane->sender || !sender_running(lane->sender))
        return false;
    *ret_session = lane->session;
    return true;
}
