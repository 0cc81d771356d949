// SPDX-License-Identifier: Apache-2.0
#include "common/store/store.h"

#include <errno.h>
#include <string.h>

#include "common/store/backend.h"

int store_open(const struct store_config *config, struct store **ret_store, struct error *err)
{
    if (!config->path || !*config->path)
        return error_set(err, -EINVAL, "the path of the store is empty");
    if (strncmp(config->path, "fault:", 6) == 0)
        return fault_open(config, ret_store, err);
    if (strncmp(config->path, "iscsi://", 8) == 0)
        return iscsi_open(config, ret_store, err);
    return ring_open(config, ret_store, err);
}

struct store *store_free(struct store *store)
{
    if (store)
        store->type->free(store);
    return NULL;
}

struct block *store_block(struct store *store)
{
    return &store->block;
}

enum store_kind store_kind(const struct store *store)
{
    return store->kind;
}

int store_fd(const struct store *store)
{
    return store->type->fd(store);
}

void store_work(struct store *store)
{
    store->type->work(store);
}

bool store_sync(struct store *store, bool idle)
{
    if (store->real)
        return store_sync(store->real, idle);
    return store->type->sync && store->type->sync(store, idle);
}

int64_t store_deadline_ns(const struct store *store)
{
    return store->type->deadline(store);
}

bool store_busy(const struct store *store)
{
    return atomic_load_explicit(&store->inside, memory_order_relaxed) ||
           atomic_load_explicit(&store->with_storage, memory_order_relaxed) > 0 ||
           (store->real && store_busy(store->real));
}

uint64_t store_resets(const struct store *store)
{
    if (store->real)
        return store_resets(store->real);
    return atomic_load_explicit(&store->resets, memory_order_relaxed);
}

const char *store_state_text(struct store *store)
{
    return store->type->state_text(store);
}

bool store_is_up(const struct store *store)
{
    return store->failed_flush == 0 && store->type->is_up(store);
}

void store_extent(struct store *store, uint64_t offset, uint64_t length, unsigned *ret_flags,
                  uint64_t *ret_length)
{
    ENSURE(length > 0);
    ENSURE(offset < store->block.size && length <= store->block.size - offset);
    store->type->extent(store, offset, length, ret_flags, ret_length);
    ENSURE(*ret_length > 0 && *ret_length <= length);
}

int store_refusal(const struct store *store, const struct block_request *request)
{
    if (request->op == BLOCK_READ)
        return 0;
    if (store->failed_flush < 0)
        return store->failed_flush;
    if (store->read_only && request->op != BLOCK_FLUSH)
        return -EROFS;
    return 0;
}

void request_cancel_all(struct request_queue *queue)
{
    struct block_request *request;
    while ((request = request_pop(queue)))
        request->done(request, -ECANCELED);
}
