// SPDX-License-Identifier: Apache-2.0
// The exports of a pair: one NBD socket a volume, and what the NBD server asks of its store.
#include <grp.h>
#include <pwd.h>
#include <stdlib.h>

#include "common/daemon/front_private.h"
#include "common/store/store.h"

static void nbd_extent(void *user, uint16_t object, uint64_t offset, uint64_t length,
                       bool *ret_hole, bool *ret_zero, uint64_t *ret_length)
{
    struct front *f = user;
    unsigned flags = 0;
    *ret_length = length;
    struct store *store = stores_at(&f->stores, object);
    if (store)
        store_extent(store, offset, length, &flags, ret_length);
    *ret_hole = flags & STORE_EXTENT_HOLE;
    *ret_zero = flags & STORE_EXTENT_ZERO;
}

static bool nbd_zero_is_fast(void *user, uint16_t object)
{
    struct front *f = user;
    struct store *store = stores_at(&f->stores, object);
    return store && store_block(store)->zero_is_fast;
}

static void nbd_note(void *user, uint16_t object, const char *text)
{
    struct front *f = user;
    log_info("pair %s: volume %s: %s", f->config.pair->pair, front_volume(f, object), text);
}

static const struct nbd_ops nbd_ops = {
    .extent = nbd_extent,
    .zero_is_fast = nbd_zero_is_fast,
    .note = nbd_note,
};

// A name or a number; -1 (as it is) where it does not exist on this machine: the pair file may name
// libvirt's user on a machine that has none.
static uid_t find_user(const char *name)
{
    char *end = NULL;
    if (!name)
        return (uid_t)-1;
    unsigned long number = strtoul(name, &end, 10);
    if (*name && !*end)
        return (uid_t)number;
    struct passwd *pw = getpwnam(name);
    return pw ? pw->pw_uid : (uid_t)-1;
}

static gid_t find_group(const char *name)
{
    char *end = NULL;
    if (!name)
        return (gid_t)-1;
    unsigned long number = strtoul(name, &end, 10);
    if (*name && !*end)
        return (gid_t)number;
    struct group *gr = getgrnam(name);
    return gr ? gr->gr_gid : (gid_t)-1;
}

int front_open_exports(struct front *f, struct error *err)
{
    const struct pair_config *pair = f->config.pair;
    struct nbd_export exports[PAIR_VOLUMES_MAX];
    for (size_t i = 0; i < pair->volume_count; i++) {
        const struct pair_volume_config *v = &pair->volumes[i];
        exports[i] = (struct nbd_export){
            .name = v->name,
            .socket = f->config.sockets[i],
            .size = v->size,
            .data_align = pair_volume_store(v, f->config.side)->direct ? 4096 : 1,
            .owner = find_user(v->socket.owner),
            .group = find_group(v->socket.group),
            .mode = (mode_t)v->socket.mode,
        };
    }
    return nbd_open(exports, pair->volume_count, &nbd_ops, f, &f->nbd, err);
}
