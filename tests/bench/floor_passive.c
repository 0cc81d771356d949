// SPDX-License-Identifier: Apache-2.0
// The passive end: whatever has arrived is appended to the queue's file, synced and acknowledged where somebody waits for
// that, and then written to the replica. A second thread syncs what nobody waits for.
#include "tests/bench/floor.h"

#include <err.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define QUEUE_BYTES  (64u << 20) // written in turn, as recycled segments are
#define FILL_BYTES   (64u << 10)
#define SYNC_BYTES   (1u << 20)
#define SETTLE_BYTES (64u << 20)
#define QUIET_MS     2
#define PLAIN_BYTES  (8u << 20)

struct message {
    struct floor_head head;
    const uint8_t *plain;
};

struct passive {
    struct floor_wire *wire;
    int queue, replica;
    uint64_t at;                  // in the queue's file
    uint64_t unsynced, unsettled; // bytes
    pthread_mutex_t lock;
    pthread_cond_t wake;
    bool sync_queue, sync_replica; // under the lock: what the second thread is to do
};

static void *syncs(void *arg)
{
    struct passive *p = arg;
    (void)pthread_mutex_lock(&p->lock);
    for (;;) {
        while (!p->sync_queue && !p->sync_replica)
            (void)pthread_cond_wait(&p->wake, &p->lock);
        bool queue = p->sync_queue, replica = p->sync_replica;
        p->sync_queue = p->sync_replica = false;
        (void)pthread_mutex_unlock(&p->lock);
        if ((queue && fdatasync(p->queue) < 0) || (replica && fdatasync(p->replica) < 0))
            err(1, "sync");
        (void)pthread_mutex_lock(&p->lock);
    }
    return NULL;
}

static void ask_for_syncs(struct passive *p, bool queue, bool replica)
{
    if (!queue && !replica)
        return;
    (void)pthread_mutex_lock(&p->lock);
    p->sync_queue |= queue;
    p->sync_replica |= replica;
    (void)pthread_mutex_unlock(&p->lock);
    (void)pthread_cond_signal(&p->wake);
    p->unsynced = queue ? 0 : p->unsynced;
    p->unsettled = replica ? 0 : p->unsettled;
}

static void write_all(int fd, const void *bytes, size_t size, uint64_t at)
{
    if (pwrite(fd, bytes, size, (off_t)at) != (ssize_t)size)
        err(1, "write");
}

static void append(struct passive *p, const struct message *m)
{
    size_t blocks = (m->head.size + 4095u) / 4096 * 4096;
    if (p->at + blocks > QUEUE_BYTES)
        p->at = 0;
    write_all(p->queue, m->plain, m->head.size, p->at);
    p->at += blocks;
    p->unsynced += m->head.size;
}

static void apply(struct passive *p, const struct message *m)
{
    const uint8_t *payload = m->plain + m->head.records * sizeof(struct floor_record);
    for (uint32_t i = 0; i < m->head.records; i++) {
        struct floor_record r;
        memcpy(&r, m->plain + i * sizeof(r), sizeof(r));
        write_all(p->replica, payload, r.length, r.offset);
        payload += r.length;
    }
    p->unsettled += m->head.size;
}

static void confirm(struct passive *p, uint64_t seq)
{
    uint64_t said = seq;
    struct iovec iov[2] = {{0}, {&said, sizeof(said)}};
    if (fdatasync(p->queue) < 0)
        err(1, "sync");
    p->unsynced = 0;
    floor_wire_send(p->wire, (struct floor_head){.seq = seq}, iov, 2);
    floor_wire_push(p->wire);
}

#define MESSAGES 32u

static void turn(struct passive *p, uint8_t *plain)
{
    struct message m[MESSAGES];
    unsigned count = 0;
    size_t used = 0;
    bool barrier = false;
    floor_wire_fill(p->wire);
    while (count < MESSAGES && PLAIN_BYTES - used >= FLOOR_MESSAGE_MAX &&
           floor_wire_take(p->wire, &m[count].head, plain + used)) {
        m[count].plain = plain + used;
        append(p, &m[count]);
        used += m[count].head.size;
        barrier |= m[count].head.barrier != 0;
        count++;
    }
    if (barrier)
        confirm(p, m[count - 1].head.seq);
    for (unsigned i = 0; i < count; i++)
        apply(p, &m[i]);
    ask_for_syncs(p, p->unsynced >= SYNC_BYTES, p->unsettled >= SETTLE_BYTES);
}

static void fill(int fd)
{
    static const uint8_t zeros[FILL_BYTES];
    for (uint64_t at = 0; at < QUEUE_BYTES; at += sizeof(zeros))
        write_all(fd, zeros, sizeof(zeros), at);
    if (fsync(fd) < 0)
        err(1, "sync");
}

void floor_passive(struct floor_wire *wire, const char *replica, const char *queue)
{
    struct passive p = {.wire = wire,
                        .queue = open(queue, O_RDWR | O_CREAT | O_CLOEXEC, 0600),
                        .replica = open(replica, O_RDWR | O_CLOEXEC),
                        .lock = PTHREAD_MUTEX_INITIALIZER,
                        .wake = PTHREAD_COND_INITIALIZER};
    uint8_t *plain = malloc(PLAIN_BYTES);
    pthread_t thread;
    if (p.queue < 0 || p.replica < 0 || !plain || pthread_create(&thread, NULL, syncs, &p) != 0)
        err(1, "cannot start");
    fill(p.queue);
    for (;;) {
        struct pollfd wait = {.fd = wire->fd, .events = POLLIN};
        if (poll(&wait, 1, p.unsynced ? QUIET_MS : -1) == 0)
            ask_for_syncs(&p, true, false);
        else
            turn(&p, plain);
    }
}
