// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/stores.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"

// The first line of the CHAP secret's file.
static int read_secret(const char *path, char **ret_secret, struct error *err)
{
    size_t size = 0;
    *ret_secret = NULL;
    if (!path)
        return 0;
    int r = file_read(path, 1024, ret_secret, &size, err);
    if (r == 0)
        (*ret_secret)[strcspn(*ret_secret, "\r\n")] = '\0';
    return r;
}

static int open_one(const struct pair_volume_config *volume, enum pair_end side,
                    bool sync_when_told, awake_t *awake, struct store **ret_store, struct error *err)
{
    const struct pair_store_config *s = pair_volume_store(volume, side);
    CLEANUP_FREE char *secret = NULL;
    int r = read_secret(s->chap_secret_file, &secret, err);
    if (r < 0)
        return r;
    struct store_config config = {
        .path = s->path,
        .size = volume->size,
        .direct = s->direct,
        .user = s->chap_user,
        .password = secret,
        .initiator = s->initiator,
        .sync_when_told = sync_when_told,
        .awake = awake,
    };
    return store_open(&config, ret_store, err);
}

int stores_open(struct stores *stores, const struct pair_config *pair, enum pair_end side,
                bool sync_when_told, awake_t *awake, struct error *err)
{
    if (stores->count)
        return 0;
    for (size_t i = 0; i < pair->volume_count; i++) {
        int r = open_one(&pair->volumes[i], side, sync_when_told, awake, &stores->items[i], err);
        if (r < 0) {
            (void)error_prefix(err, "volume %s", pair->volumes[i].name);
            while (i > 0) {
                i--;
                stores->items[i] = store_free(stores->items[i]);
            }
            return r;
        }
    }
    stores->count = pair->volume_count;
    return 0;
}

void stores_poll(const struct stores *stores, int epoll, void *tag)
{
    for (size_t i = 0; i < stores->count; i++) {
        int fd = store_fd(stores->items[i]);
        struct epoll_event ev = {.events = EPOLLIN, .data.ptr = tag};
        (void)epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev); // -EEXIST: polled already
    }
}

void stores_close(struct stores *stores, int epoll)
{
    for (size_t i = 0; i < stores->count; i++) {
        (void)epoll_ctl(epoll, EPOLL_CTL_DEL, store_fd(stores->items[i]), NULL);
        stores->items[i] = store_free(stores->items[i]);
    }
    stores->count = 0;
}

struct store *stores_at(const struct stores *stores, size_t index)
{
    return index < stores->count ? stores->items[index] : NULL;
}

void stores_work(struct stores *stores)
{
    for (size_t i = 0; i < stores->count; i++)
        store_work(stores->items[i]);
}

bool stores_sync(struct stores *stores, bool idle)
{
    bool ended = false;
    for (size_t i = 0; i < stores->count; i++)
        ended |= store_sync(stores->items[i], idle);
    return ended;
}

int64_t stores_deadline_ns(const struct stores *stores)
{
    int64_t at = INT64_MAX;
    for (size_t i = 0; i < stores->count; i++)
        at = MIN(at, store_deadline_ns(stores->items[i]));
    return at;
}

bool stores_busy(const struct stores *stores)
{
    for (size_t i = 0; i < stores->count; i++) {
        if (store_busy(stores->items[i]))
            return true;
    }
    return false;
}

uint64_t stores_resets(const struct stores *stores)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < stores->count; i++)
        sum += store_resets(stores->items[i]);
    return sum;
}
