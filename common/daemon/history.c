// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/history.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/thread.h"
#include "common/daemon/mailbox.h"

struct note {
    struct letter letter;
    struct step_slot slot;
};
enum { NOTE_WRITE, NOTE_END };
#define HISTORY_NEAR 2 // what is tried again and again says no more than so many things each time

struct history {
    struct status_event ring[HISTORY_MAX];
    uint64_t count; // notes ever
    int fd;
    struct mailbox *box;
    pthread_t thread;
    bool running;
};

static void load(struct history *h)
{
    struct step_slot slot;
    uint64_t numbers[HISTORY_MAX] = {0};
    for (unsigned i = 0; i < HISTORY_MAX; i++) {
        if (file_pread(h->fd, &slot, sizeof(slot), (uint64_t)i * sizeof(slot)) < 0)
            break;
        if (step_judge(&slot, i) != STEP_GOOD)
            continue;
        h->ring[i] = slot.event;
        numbers[i] = slot.number;
        h->count = MAX(h->count, slot.number);
    }
    // What is not of the newest round is a slot whose newer content was lost.
    for (unsigned i = 0; i < HISTORY_MAX; i++) {
        if (numbers[i] == 0 || numbers[i] + HISTORY_MAX <= h->count)
            memset(&h->ring[i], 0, sizeof(h->ring[i]));
    }
}

static void *run(void *arg)
{
    struct history *h = arg;
    for (bool ending = false; !ending;) {
        struct pollfd p = {.fd = mailbox_fd(h->box), .events = POLLIN};
        struct note *note;
        (void)poll(&p, 1, -1);
        mailbox_clear(h->box);
        while ((note = mailbox_take(h->box))) {
            ending |= note->letter.kind == NOTE_END;
            if (note->letter.kind == NOTE_WRITE &&
                file_pwrite(h->fd, &note->slot, sizeof(note->slot),
                            note->slot.number % HISTORY_MAX * sizeof(note->slot)) == 0)
                (void)fdatasync(h->fd);
            free(note);
        }
    }
    return NULL;
}

struct history *history_open(const char *path)
{
    struct history *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (h->fd < 0)
        return h;
    load(h);
    h->box = mailbox_new();
    h->running = h->box && thread_start(&h->thread, "history", run, h) == 0;
    return h;
}

struct history *history_free(struct history *h)
{
    if (!h)
        return NULL;
    if (h->running) {
        mailbox_post(h->box, letter_new(sizeof(struct note), NOTE_END));
        (void)pthread_join(h->thread, NULL);
    }
    mailbox_free(h->box);
    cleanup_close(&h->fd);
    free(h);
    return NULL;
}

struct status_event *history_add(struct history *h)
{
    struct status_event *event = &h->ring[++h->count % HISTORY_MAX];
    memset(event, 0, sizeof(*event));
    return event;
}

struct status_event *history_same(struct history *h, const char *text)
{
    for (uint64_t back = 0; back < MIN(h->count, (uint64_t)HISTORY_NEAR); back++) {
        struct status_event *event = &h->ring[(h->count - back) % HISTORY_MAX];
        if (event->ms < 0 && !event->loss.known && strcmp(event->text, text) == 0)
            return event;
    }
    return NULL;
}

void history_write(struct history *h, const struct status_event *event)
{
    if (!h->running || h->count == 0)
        return;
    uint64_t place = (uint64_t)(event - h->ring);
    struct note *note = letter_new(sizeof(*note), NOTE_WRITE);
    // The newest number that has this place.
    note->slot.number = h->count - (h->count - place) % HISTORY_MAX;
    note->slot.event = *event;
    step_seal(&note->slot);
    mailbox_post(h->box, note);
}

const struct status_event *history_newest(const struct history *h)
{
    return h->count ? &h->ring[h->count % HISTORY_MAX] : NULL;
}

size_t history_list(const struct history *h, struct status_event *events, size_t limit)
{
    uint64_t kept = MIN(h->count, (uint64_t)HISTORY_MAX);
    uint64_t first = h->count - MIN(kept, (uint64_t)limit) + 1;
    size_t n = 0;
    for (uint64_t i = first; i <= h->count; i++) {
        const struct status_event *event = &h->ring[i % HISTORY_MAX];
        if (event->real_ms)
            events[n++] = *event;
    }
    return n;
}
