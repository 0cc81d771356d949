// SPDX-License-Identifier: Apache-2.0
// Letters from one thread to another: a queue under a mutex and an eventfd. For decisions, never
// for data: the data path meets in the unsafe queue.
#ifndef DAEMON_MAILBOX_H
#define DAEMON_MAILBOX_H

#include <stddef.h>

// The head of every letter; malloc'ed by the writer, freed by the reader.
struct letter {
    struct letter *next;
    int kind;
};

struct mailbox;

struct mailbox *mailbox_new(void);                 // NULL: no memory or descriptor
struct mailbox *mailbox_free(struct mailbox *box); // frees what was not read; NULL-safe

int mailbox_fd(
    const struct mailbox *box); // readable while there is a letter, or after mailbox_ring()
// A zeroed letter of `size` bytes that begins with struct letter. Never NULL: a daemon without
// memory for a letter stops.
void *letter_new(size_t size, int kind);
void mailbox_post(struct mailbox *box, void *letter); // any thread
void mailbox_ring(struct mailbox *box); // any thread: wakes the reader without a letter
// The reader: forgets the wake-up, then takes letters until NULL.
void mailbox_clear(struct mailbox *box);
void *mailbox_take(struct mailbox *box);

#endif
