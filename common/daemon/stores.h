// SPDX-License-Identifier: Apache-2.0
// The stores of all volumes of one end, as one of its data threads owns them: opened, polled and
// closed together.
#ifndef DAEMON_STORES_H
#define DAEMON_STORES_H

#include "common/config/pair.h"
#include "common/store/store.h"

struct stores {
    struct store *items[PAIR_VOLUMES_MAX];
    size_t count; // 0: closed
};

// All or none; does nothing when they are open. -EAGAIN: a predecessor's I/O has not ended yet.
// `sync_when_told`: flushes wait for stores_sync(). `awake`: as in struct store_config.
int stores_open(struct stores *stores, const struct pair_config *pair, enum pair_end side,
                bool sync_when_told, awake_t *awake, struct error *err);
// Adds their descriptors, with `tag` as `data.ptr`.
void stores_poll(const struct stores *stores, int epoll, void *tag);
// Waits for what is under way.
void stores_close(struct stores *stores, int epoll);
struct store *stores_at(const struct stores *stores, size_t index); // NULL when closed
void stores_work(struct stores *stores);
bool stores_sync(struct stores *stores, bool idle); // store_sync() of each; true: there is work
int64_t stores_deadline_ns(const struct stores *stores);
// How often writes that were answered may have been lost (store_resets()).
uint64_t stores_resets(const struct stores *stores);
bool stores_busy(const struct stores *stores);

#endif
