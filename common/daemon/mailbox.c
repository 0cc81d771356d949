// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/mailbox.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"

struct mailbox {
    pthread_mutex_t lock; // guards the list
    struct letter *first, *last;
    int fd;
};

struct mailbox *mailbox_new(void)
{
    struct mailbox *box = calloc(1, sizeof(*box));
    if (!box)
        return NULL;
    (void)pthread_mutex_init(&box->lock, NULL);
    box->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return box->fd < 0 ? mailbox_free(box) : box;
}

struct mailbox *mailbox_free(struct mailbox *box)
{
    if (!box)
        return NULL;
    void *letter;
    while ((letter = mailbox_take(box)))
        free(letter);
    cleanup_close(&box->fd);
    (void)pthread_mutex_destroy(&box->lock);
    free(box);
    return NULL;
}

int mailbox_fd(const struct mailbox *box)
{
    return box->fd;
}

void *letter_new(size_t size, int kind)
{
    ENSURE(size >= sizeof(struct letter));
    struct letter *letter = calloc(1, size);
    ENSURE(letter);
    letter->kind = kind;
    return letter;
}

void mailbox_ring(struct mailbox *box)
{
    uint64_t one = 1;
    ssize_t ignored = write(box->fd, &one, sizeof(one));
    (void)ignored; // full means: it is readable
}

void mailbox_post(struct mailbox *box, void *posted)
{
    struct letter *letter = posted;
    letter->next = NULL;
    {
        HOLD_LOCK(&box->lock);
        if (box->last)
            box->last->next = letter;
        else
            box->first = letter;
        box->last = letter;
    }
    mailbox_ring(box);
}

void mailbox_clear(struct mailbox *box)
{
    uint64_t count;
    ssize_t ignored = read(box->fd, &count, sizeof(count));
    (void)ignored;
}

void *mailbox_take(struct mailbox *box)
{
    HOLD_LOCK(&box->lock);
    struct letter *letter = box->first;
    if (!letter)
        return NULL;
    box->first = letter->next;
    if (!box->first)
        box->last = NULL;
    return letter;
}
