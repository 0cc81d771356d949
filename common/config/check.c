// SPDX-License-Identifier: Apache-2.0
#include "common/config/check.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/config/listeners.h"
#include "common/config/network.h"

#define VOLUME_ALIGN   4096
#define HEARTBEATS_MIN 4 // in T
#define GUARD_BEATS_MIN                                                                            \
    3 // in T - margin: the deadline is moved in time although one heartbeat is lost
#define DECISION_PROBE_MS                                                                          \
    400 // of D, beside two heartbeats: probes that span 200 ms, and the asking

static int wrong(const struct pair_config *config, struct error *err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static int wrong(const struct pair_config *config, struct error *err, const char *format, ...)
{
    char what[896];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    return error_set(err, -EINVAL, "%s: %s", config->file, what);
}

static bool same(const char *a, const char *b)
{
    return a && b && strcmp(a, b) == 0;
}

static bool is_iscsi(const char *path)
{
    return strncmp(path, "iscsi://", 8) == 0;
}

static int check_path(const struct pair_config *config, size_t i, struct error *err)
{
    const struct pair_path_config *path = &config->channel.paths[i];
    if (!network_same_family(path->primary, path->secondary))
        return wrong(config, err,
                     "channel.paths[%zu]: found \"%s\" and \"%s\"; allowed: two addresses of one "
                     "kind, both IPv4 or both IPv6",
                     i, path->primary, path->secondary);
    if (same(path->primary, path->secondary))
        return wrong(config, err,
                     "channel.paths[%zu]: found \"%s\" for both ends; allowed: an address of its "
                     "own for each",
                     i, path->primary);
    return 0;
}

static int check_key(const struct pair_config *config, struct error *err)
{
    struct listeners list;
    listeners_of(config, &list);
    for (size_t i = 0; i < list.count && !config->channel.key; i++) {
        const char *address = list.items[i].address;
        if (!network_is_loopback(address))
            return wrong(
                config, err,
                "channel.key: missing although \"%s\" is not a loopback address; make one with "
                "\"pairctl keygen FILE\", copy it to the other machine, and name it here",
                address);
    }
    return 0;
}

static int check_ports(const struct pair_config *config, struct error *err)
{
    struct listeners list;
    listeners_of(config, &list);
    for (size_t i = 0; i < list.count; i++) {
        for (size_t j = i + 1; j < list.count; j++) {
            const struct listener *a = &list.items[i], *b = &list.items[j];
            if (listener_same(a, b))
                return wrong(config, err,
                             "%s: the %s needs port %u at %s also for %s; allowed: ports of their "
                             "own (a path and the public network use the port and the next one)",
                             b->field, pair_end_name(b->end), b->port, b->address, a->field);
        }
    }
    return 0;
}

static int check_channel(const struct pair_config *config, struct error *err)
{
    int r = 0;
    for (size_t i = 0; i < config->channel.path_count && r == 0; i++)
        r = check_path(config, i, err);
    if (r == 0)
        r = check_key(config, err);
    return r < 0 ? r : check_ports(config, err);
}

static int check_ends(const struct pair_config *config, struct error *err)
{
    const struct pair_end_config *primary = &config->ends.primary;
    const struct pair_end_config *secondary = &config->ends.secondary;
    if (same(primary->management, secondary->management))
        return wrong(config, err,
                     "ends.secondary.management: found \"%s\" for both ends; allowed: an address "
                     "of its own for each",
                     secondary->management);
    if (!primary->management != !secondary->management)
        return wrong(
            config, err,
            "ends.%s.management: missing although the other end has one; allowed: both or none",
            primary->management ? "secondary" : "primary");
    if (primary->management && !network_same_family(primary->management, secondary->management))
        return wrong(config, err,
                     "ends.secondary.management: found \"%s\" beside \"%s\"; allowed: both IPv4 or "
                     "both IPv6",
                     secondary->management, primary->management);
    for (int end = PAIR_PRIMARY; end <= PAIR_SECONDARY; end++) {
        if (config->public_address.address_count &&
            !pair_config_end(config, (enum pair_end)end)->public_interface)
            return wrong(config, err,
                         "ends.%s.public_interface: missing although public_address.addresses is "
                         "not empty; allowed: a network interface's name, like \"eth0\"",
                         pair_end_name((enum pair_end)end));
    }
    return 0;
}

static int check_store(const struct pair_config *config, size_t i, enum pair_end end,
                       struct error *err)
{
    const struct pair_store_config *store = pair_volume_store(&config->volumes[i], end);
    const char *name = pair_end_name(end);
    if (is_iscsi(store->path)) {
        if (store->direct)
            return wrong(config, err,
                         "volumes[%zu].%s.direct: found true for an iSCSI store; allowed only for "
                         "files and block devices",
                         i, name);
        if (!store->chap_user != !store->chap_secret_file)
            return wrong(config, err,
                         "volumes[%zu].%s.%s: missing; chap_user and chap_secret_file are allowed "
                         "only together",
                         i, name, store->chap_user ? "chap_secret_file" : "chap_user");
        return 0;
    }
    const char *extra = store->chap_user          ? "chap_user"
                        : store->chap_secret_file ? "chap_secret_file"
                        : store->initiator        ? "initiator"
                                                  : NULL;
    if (extra)
        return wrong(config, err,
                     "volumes[%zu].%s.%s: found for \"%s\"; allowed only for iscsi:// stores", i,
                     name, extra, store->path);
    return 0;
}

// Whether two ends' stores are the same thing: a LUN is so from everywhere, a path on one machine.
static bool same_store(const struct pair_store_config *a, const char *host_a,
                       const struct pair_store_config *b, const char *host_b)
{
    return same(a->path, b->path) && (is_iscsi(a->path) || same(host_a, host_b));
}

static int check_store_pair(const struct pair_config *config, size_t i, enum pair_end end_i,
                            size_t j, enum pair_end end_j, struct error *err)
{
    const struct pair_store_config *a = pair_volume_store(&config->volumes[i], end_i);
    const struct pair_store_config *b = pair_volume_store(&config->volumes[j], end_j);
    if (!same_store(a, pair_config_end(config, end_i)->host, b,
                    pair_config_end(config, end_j)->host))
        return 0;
    return wrong(config, err,
                 "volumes[%zu].%s.path: found \"%s\", which is also volumes[%zu].%s.path; allowed: "
                 "a store of its own for each volume and end",
                 j, pair_end_name(end_j), b->path, i, pair_end_name(end_i));
}

static int check_stores(const struct pair_config *config, struct error *err)
{
    size_t count = config->volume_count * 2; // volume and end, counted through
    for (size_t i = 0; i < count; i++) {
        for (size_t j = i + 1; j < count; j++) {
            int r = check_store_pair(config, i / 2, (enum pair_end)(i % 2), j / 2,
                                     (enum pair_end)(j % 2), err);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

static int check_volumes(const struct pair_config *config, struct error *err)
{
    for (size_t i = 0; i < config->volume_count; i++) {
        const struct pair_volume_config *volume = &config->volumes[i];
        if (volume->size % VOLUME_ALIGN)
            return wrong(config, err,
                         "volumes[%zu].size: found %llu; allowed: a multiple of %u bytes", i,
                         (unsigned long long)volume->size, VOLUME_ALIGN);
        for (size_t j = 0; j < i; j++) {
            if (same(volume->name, config->volumes[j].name))
                return wrong(config, err,
                             "volumes[%zu].name: found \"%s\", which volumes[%zu] has too; "
                             "allowed: a name of its own",
                             i, volume->name, j);
        }
        for (int end = PAIR_PRIMARY; end <= PAIR_SECONDARY; end++) {
            int r = check_store(config, i, (enum pair_end)end, err);
            if (r < 0)
                return r;
        }
    }
    return check_stores(config, err);
}

// The path of the field that gives this address to a machine of the pair, or NULL.
static const char *owner_of(const struct pair_config *config, const char *address)
{
    struct listeners list;
    listeners_of(config, &list);
    for (size_t i = 0; i < list.count; i++) {
        if (same(list.items[i].address, address))
            return strncmp(list.items[i].field, "channel.paths", 13) == 0
                       ? "a channel address"
                       : "an end's management address";
    }
    return NULL;
}

static int check_public(const struct pair_config *config, struct error *err)
{
    const struct pair_public_config *public = &config->public_address;
    for (size_t i = 0; i < public->address_count; i++) {
        char address[64];
        (void)snprintf(address, sizeof(address), "%.*s", (int)strcspn(public->addresses[i], "/"),
                       public->addresses[i]);
        const char *owner = owner_of(config, address);
        if (network_is_reserved(public->addresses[i]))
            owner = "the address of the network itself or of its broadcast";
        for (size_t j = 0; j < i && !owner; j++) {
            if (network_is_address(public->addresses[j], address))
                owner = "in the list already";
        }
        if (owner)
            return wrong(config, err,
                         "public_address.addresses[%zu]: found \"%s\", which is %s; allowed: an "
                         "address that only the active end has",
                         i, public->addresses[i], owner);
    }
    return 0;
}

static int check_waypoints(const struct pair_config *config, struct error *err)
{
    for (size_t i = 0; i < config->waypoint_count; i++) {
        const char *address = config->waypoints[i];
        const char *owner = owner_of(config, address);
        if (network_is_loopback(address))
            owner = "a loopback address";
        for (size_t j = 0; j < config->public_address.address_count && !owner; j++) {
            if (network_is_address(config->public_address.addresses[j], address))
                owner = "a public address of the pair";
        }
        for (size_t j = 0; j < i && !owner; j++) {
            if (same(config->waypoints[j], address))
                owner = "in the list already";
        }
        if (owner)
            return wrong(
                config, err,
                "waypoints[%zu]: found \"%s\", which is %s; allowed: an address outside the pair",
                i, address, owner);
    }
    return 0;
}

static int check_applications(const struct pair_config *config, struct error *err)
{
    for (size_t i = 0; i < config->application_count; i++) {
        const struct pair_app_config *app = &config->applications[i];
        for (size_t j = 0; j < i; j++) {
            const struct pair_app_config *other = &config->applications[j];
            if (same(app->name, other->name))
                return wrong(config, err,
                             "applications[%zu].name: found \"%s\", which applications[%zu] has "
                             "too; allowed: a name of its own",
                             i, app->name, j);
            if (same(app->xml, other->xml))
                return wrong(config, err,
                             "applications[%zu].xml: found \"%s\", which applications[%zu] has "
                             "too; allowed: one application for each domain",
                             i, app->xml, j);
        }
    }
    return 0;
}

static int check_timing(const struct pair_config *config, struct error *err)
{
    const struct pair_timing_config *t = &config->timing;
    if (t->timeout_ms < HEARTBEATS_MIN * t->heartbeat_ms)
        return wrong(
            config, err,
            "timing.timeout_ms: found %u; allowed: at least %u, which is %d heartbeats of %u ms",
            t->timeout_ms, HEARTBEATS_MIN * t->heartbeat_ms, HEARTBEATS_MIN, t->heartbeat_ms);
    uint32_t room = GUARD_BEATS_MIN * t->heartbeat_ms;
    if (t->margin_ms + room > t->timeout_ms)
        return wrong(config, err,
                     "timing.margin_ms: found %u; allowed: at most %u, so that the guard's "
                     "deadline, timeout_ms less margin_ms, has room for %d heartbeats of %u ms",
                     t->margin_ms, t->timeout_ms - room, GUARD_BEATS_MIN, t->heartbeat_ms);
    uint32_t least = 2 * t->heartbeat_ms + DECISION_PROBE_MS;
    if (t->decision_ms < least)
        return wrong(config, err,
                     "timing.decision_ms: found %u; allowed: at least %u, which is two heartbeats "
                     "of %u ms and %d ms for the probes",
                     t->decision_ms, least, t->heartbeat_ms, DECISION_PROBE_MS);
    return 0;
}

int check_pair(const struct pair_config *config, struct error *err)
{
    int (*const checks[])(const struct pair_config *, struct error *) = {
        check_ends,      check_channel,      check_volumes, check_public,
        check_waypoints, check_applications, check_timing,
    };
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        int r = checks[i](config, err);
        if (r < 0)
            return r;
    }
    return 0;
}

static int neighbour_stores(const struct pair_config *a, const struct pair_config *b,
                            struct error *err)
{
    size_t count_a = a->volume_count * 2, count_b = b->volume_count * 2;
    for (size_t i = 0; i < count_a; i++) {
        for (size_t j = 0; j < count_b; j++) {
            enum pair_end end_a = (enum pair_end)(i % 2), end_b = (enum pair_end)(j % 2);
            const struct pair_store_config *store_a = pair_volume_store(&a->volumes[i / 2], end_a);
            const struct pair_store_config *store_b = pair_volume_store(&b->volumes[j / 2], end_b);
            if (same_store(store_a, pair_config_end(a, end_a)->host, store_b,
                           pair_config_end(b, end_b)->host))
                return wrong(b, err,
                             "volumes[%zu].%s.path: found \"%s\", which pair %s (%s) has too; "
                             "allowed: a store of its own",
                             j / 2, pair_end_name(end_b), store_b->path, a->pair, a->file);
        }
    }
    return 0;
}

static int neighbour_ports(const struct pair_config *a, const struct pair_config *b,
                           struct error *err)
{
    struct listeners list_a, list_b;
    listeners_of(a, &list_a);
    listeners_of(b, &list_b);
    for (size_t i = 0; i < list_a.count; i++) {
        for (size_t j = 0; j < list_b.count; j++) {
            const struct listener *l = &list_b.items[j];
            if (listener_same(&list_a.items[i], l))
                return wrong(b, err,
                             "%s: port %u at %s on %s is used by pair %s (%s) too; allowed: ports "
                             "of its own",
                             l->field, l->port, l->address, l->host, a->pair, a->file);
        }
    }
    return 0;
}

static int neighbour_public(const struct pair_config *a, const struct pair_config *b,
                            struct error *err)
{
    for (size_t i = 0; i < a->public_address.address_count; i++) {
        for (size_t j = 0; j < b->public_address.address_count; j++) {
            char address[64];
            const char *ours = b->public_address.addresses[j];
            (void)snprintf(address, sizeof(address), "%.*s", (int)strcspn(ours, "/"), ours);
            if (network_is_address(a->public_address.addresses[i], address))
                return wrong(b, err,
                             "public_address.addresses[%zu]: found \"%s\", which pair %s (%s) has "
                             "too; allowed: an address of its own",
                             j, ours, a->pair, a->file);
        }
    }
    return 0;
}

int check_neighbours(const struct pair_config *a, const struct pair_config *b, struct error *err)
{
    if (same(a->pair, b->pair))
        return wrong(b, err,
                     "pair: found \"%s\", which %s has too; allowed: one file for each pair",
                     b->pair, a->file);
    int r = neighbour_stores(a, b, err);
    if (r == 0)
        r = neighbour_ports(a, b, err);
    return r < 0 ? r : neighbour_public(a, b, err);
}
