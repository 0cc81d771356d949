// SPDX-License-Identifier: Apache-2.0
// What the kinds of stores share inside this room; nobody else includes it.
//
// A request is worked on in parts: `issued` bytes of it have been handed to the storage, `parts` of
// them are out, and the first error counts for all. This lives in the request's scratch, so that no
// memory is needed for it.
#ifndef STORE_BACKEND_H
#define STORE_BACKEND_H

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>

#include "common/store/store.h"

struct store_type {
    void (*work)(struct store *store);
    bool (*sync)(struct store *store, bool idle); // NULL: flushes start by themselves
    int (*fd)(const struct store *store);
    int64_t (*deadline)(const struct store *store);
    const char *(*state_text)(struct store *store);
    bool (*is_up)(const struct store *store);
    void (*extent)(struct store *store, uint64_t offset, uint64_t length, unsigned *ret_flags,
                   uint64_t *ret_length);
    void (*free)(struct store *store);
};

struct store {
    struct block block; // first: a block is its store
    const struct store_type *type;
    enum store_kind kind;
    bool read_only;
    struct store *real;       // the store behind this one, or NULL
    int failed_flush;         // final: 0, or the error with which a flush ended
    atomic_uint with_storage; // written by the owner, read by the watchdog
    atomic_bool inside;       // likewise: in a system call that may block
    awake_t *awake;           // of the owner; may be NULL
    atomic_uint_fast64_t resets;
};

static inline struct store *store_of(struct block *block)
{
    return (struct store *)block;
}

// Counts of one writer: no read-modify-write instruction is needed.
static inline void store_count(struct store *store, int change)
{
    unsigned n = atomic_load_explicit(&store->with_storage, memory_order_relaxed);
    atomic_store_explicit(&store->with_storage, n + (unsigned)change, memory_order_relaxed);
}

// Around a system call that may block.
static inline int64_t store_enter(struct store *store)
{
    atomic_store_explicit(&store->inside, true, memory_order_relaxed);
    return awake_pause(store->awake);
}

static inline void store_leave(struct store *store, int64_t since)
{
    atomic_store_explicit(&store->inside, false, memory_order_relaxed);
    awake_again(store->awake, since);
}

// Why a request must not be started at all: 0 or -errno.
int store_refusal(const struct store *store, const struct block_request *request);

static inline bool request_fits(const struct block_request *request, uint64_t size)
{
    return request->op == BLOCK_FLUSH ||
           (request->length <= size && request->offset <= size - request->length);
}

struct request_queue {
    struct block_request *head;
    struct block_request *tail;
};

static inline void request_push(struct request_queue *queue, struct block_request *request)
{
    request->next = NULL;
    if (queue->head)
        queue->tail->next = request;
    else
        queue->head = request;
    queue->tail = request;
}

static inline struct block_request *request_pop(struct request_queue *queue)
{
    struct block_request *request = queue->head;
    if (request)
        queue->head = request->next;
    return request;
}

// Ends all of them with -ECANCELED.
void request_cancel_all(struct request_queue *queue);

#define STORE_FAILED_FLUSH_TEXT                                                                    \
    "a flush has failed; the store is closed to writes until it is opened again"

struct request_progress {
    uint64_t issued; // bytes from the start of the request
    uint32_t parts;  // handed to the storage, not ended
    int32_t status;  // of the first part that failed
};
static_assert(sizeof(struct request_progress) <= sizeof(((struct block_request *)0)->scratch),
              "the progress lives in the scratch");

static inline struct request_progress *request_progress(struct block_request *request)
{
    return (struct request_progress *)request->scratch;
}

// Notes the end of a part; true when it was the last one of a request that is wholly issued.
static inline bool request_part_ended(struct block_request *request, int status)
{
    struct request_progress *p = request_progress(request);
    if (status < 0 && p->status == 0)
        p->status = status;
    p->parts--;
    return p->parts == 0 && p->issued == request->length;
}

static inline uint64_t round_down(uint64_t value, uint64_t unit)
{
    return value - value % unit;
}

static inline uint64_t round_up(uint64_t value, uint64_t unit)
{
    return round_down(value + unit - 1, unit);
}

int ring_open(const struct store_config *config, struct store **ret_store, struct error *err);
int iscsi_open(const struct store_config *config, struct store **ret_store, struct error *err);
int fault_open(const struct store_config *config, struct store **ret_store, struct error *err);

#endif
