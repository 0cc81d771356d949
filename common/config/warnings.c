// SPDX-License-Identifier: Apache-2.0
// What is legal but dangerous. Nothing here refuses anything.
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/cleanup.h"
#include "common/config/network.h"
#include "common/config/pair.h"

#define MARGIN_USUAL_MS   250 // below it a busy machine may be late
#define DECISION_USUAL_MS 1000
#define GUARD_BEATS_USUAL 4

struct warner {
    const struct pair_config *config;
    const char *host; // this machine; NULL: look at nothing
    pair_config_warn warn;
    void *user;
};

static void warning(const struct warner *w, const char *field, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void warning(const struct warner *w, const char *field, const char *format, ...)
{
    char text[768];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    w->warn(w->user, field, text);
}

static void warn_takeover(const struct warner *w)
{
    const struct pair_config *c = w->config;
    if (c->takeover != PAIR_TAKEOVER_AUTO)
        return;
    if (c->waypoint_count == 0)
        warning(w, "waypoints",
                "takeover is automatic, but there is no waypoint: an end cannot know whether it is "
                "cut off, so automatic takeover will be refused. Name a gateway or a client, or "
                "set takeover to \"manual\"");
    warning(
        w, "",
        "there is neither arbiter nor fencing: two ends cannot tell a dead peer from a cut cable "
        "in every case. This is safe while the public network is whole, or cuts an end off from "
        "peer and waypoints alike; anything else is detected as a split and never merged");
    if (c->public_address.address_count == 0 && !c->ends.primary.management)
        warning(w, "ends.primary.management",
                "there is neither a public nor a management address: before a takeover nothing can "
                "be asked whether the silent peer still serves");
}

static void warn_channel(const struct warner *w)
{
    const struct pair_channel_config *channel = &w->config->channel;
    if (channel->path_count == 1)
        warning(
            w, "channel.paths",
            "a single path: one cut cable ends protection. Add a second one over other hardware");
    if (!channel->key)
        warning(w, "channel.key",
                "no key: nothing is encrypted, and every local user can talk to the ends");
    if (!w->config->ends.primary.management)
        warning(w, "ends.primary.management",
                "no management addresses: heartbeats do not use the public network, so a cut "
                "channel looks like a dead peer");
}

static void warn_networks(const struct warner *w)
{
    const struct pair_config *c = w->config;
    const struct pair_public_config *public = &c->public_address;
    for (size_t i = 0; i < c->channel.path_count; i++) {
        const struct pair_path_config *path = &c->channel.paths[i];
        bool shared = (c->ends.primary.management &&
                       strcmp(path->primary, c->ends.primary.management) == 0) ||
                      (c->ends.secondary.management &&
                       strcmp(path->secondary, c->ends.secondary.management) == 0);
        for (size_t j = 0; j < public->address_count; j++)
            shared = shared || network_holds(public->addresses[j], path->primary) ||
                     network_holds(public->addresses[j], path->secondary);
        char field[64];
        (void)snprintf(field, sizeof(field), "channel.paths[%zu]", i);
        if (shared)
            warning(w, field,
                    "channel and public network are one network here: a single failure takes both, "
                    "and replication competes with clients");
    }
}

static void warn_waypoints(const struct warner *w)
{
    const struct pair_config *c = w->config;
    for (size_t i = 0; i < c->waypoint_count; i++) {
        bool near = c->public_address.address_count == 0;
        for (size_t j = 0; j < c->public_address.address_count; j++)
            near = near || network_holds(c->public_address.addresses[j], c->waypoints[i]);
        char field[64];
        (void)snprintf(field, sizeof(field), "waypoints[%zu]", i);
        if (!near)
            warning(w, field,
                    "\"%s\" is not on the network of a public address: it stops answering when a "
                    "router in between fails, although this end is not cut off",
                    c->waypoints[i]);
    }
}

static void warn_timing(const struct warner *w)
{
    const struct pair_timing_config *t = &w->config->timing;
    uint32_t room = t->timeout_ms - t->margin_ms;
    if (room < GUARD_BEATS_USUAL * t->heartbeat_ms)
        warning(w, "timing.timeout_ms",
                "the guard has little room: its deadline is %" PRIu32
                " ms after a heartbeat, which is less than %d heartbeats of %" PRIu32
                " ms; two lost ones may freeze the applications",
                room, GUARD_BEATS_USUAL, t->heartbeat_ms);
    if (t->margin_ms < MARGIN_USUAL_MS)
        warning(w, "timing.margin_ms",
                "the guard has only %" PRIu32 " ms to take the address off before the peer may "
                                              "take over; on a busy machine that may be too late",
                t->margin_ms);
    if (t->decision_ms < DECISION_USUAL_MS)
        warning(w, "timing.decision_ms",
                "the passive end has only %" PRIu32
                " ms to decide on a takeover; when its probes take longer it stays stale and waits "
                "for an operator",
                t->decision_ms);
}

// Length of "iscsi://HOST[:PORT]", 0 for other stores.
static size_t portal_length(const char *path)
{
    return strncmp(path, "iscsi://", 8) == 0 ? 8 + strcspn(path + 8, "/") : 0;
}

static bool same_disk(const char *a, const char *b)
{
    struct stat st_a, st_b;
    if (stat(a, &st_a) < 0 || stat(b, &st_b) < 0 || !S_ISREG(st_a.st_mode) ||
        !S_ISREG(st_b.st_mode))
        return false;
    return st_a.st_dev == st_b.st_dev;
}

static void warn_volume_disks(const struct warner *w, size_t i)
{
    const struct pair_config *c = w->config;
    const char *a = c->volumes[i].primary.path, *b = c->volumes[i].secondary.path;
    bool one_host = strcmp(c->ends.primary.host, c->ends.secondary.host) == 0;
    char field[64];
    (void)snprintf(field, sizeof(field), "volumes[%zu]", i);
    size_t portal = portal_length(a);
    if (portal && portal == portal_length(b) && strncmp(a, b, portal) == 0)
        warning(
            w, field,
            "both stores are on one iSCSI target, \"%.*s\": when it fails, both copies are gone",
            (int)portal, a);
    else if (strcmp(a, b) == 0 && strncmp(a, "/dev/disk/by-", 13) == 0)
        warning(w, field,
                "both stores are \"%s\", a name for one certain disk: if both machines see the "
                "same one, there is only one copy, and both ends would write to it",
                a);
    else if (one_host && w->host && strcmp(w->host, c->ends.primary.host) == 0 && same_disk(a, b))
        warning(w, field, "both stores are on one disk: when it fails, both copies are gone");
}

static void warn_volumes(const struct warner *w)
{
    const struct pair_config *c = w->config;
    if (strcmp(c->ends.primary.host, c->ends.secondary.host) == 0)
        warning(w, "ends.secondary.host",
                "both ends are on one machine, \"%s\": its failure takes both copies",
                c->ends.primary.host);
    for (size_t i = 0; i < c->volume_count; i++) {
        warn_volume_disks(w, i);
        char field[64];
        (void)snprintf(field, sizeof(field), "volumes[%zu].socket.mode", i);
        if (c->volumes[i].socket.mode & 07)
            warning(w, field, "every user of the machine may use the export (%04" PRIo32 ")",
                    c->volumes[i].socket.mode);
    }
}

static void warn_missing(const struct warner *w, const char *field, const char *path)
{
    struct stat st;
    if (path && path[0] == '/' && stat(path, &st) < 0)
        warning(w, field, "\"%s\" cannot be used on this machine: %m", path);
}

static void warn_local_end(const struct warner *w, enum pair_end end)
{
    const struct pair_config *c = w->config;
    char field[64];
    for (size_t i = 0; i < c->volume_count; i++) {
        (void)snprintf(field, sizeof(field), "volumes[%zu].%s.path", i, pair_end_name(end));
        warn_missing(w, field, pair_volume_store(&c->volumes[i], end)->path);
    }
    for (size_t i = 0; i < c->application_count; i++) {
        const struct pair_app_config *app = &c->applications[i];
        (void)snprintf(field, sizeof(field), "applications[%zu].%s", i,
                       app->xml ? "xml" : "command");
        warn_missing(w, field, app->xml ? app->xml : app->command);
    }
}

static void warn_local(const struct warner *w)
{
    const struct pair_config *c = w->config;
    bool here = false;
    for (int end = PAIR_PRIMARY; w->host && end <= PAIR_SECONDARY; end++) {
        if (strcmp(pair_config_end(c, (enum pair_end)end)->host, w->host) != 0)
            continue;
        warn_local_end(w, (enum pair_end)end);
        here = true;
    }
    struct stat st;
    if (!here || !c->channel.key)
        return;
    warn_missing(w, "channel.key", c->channel.key);
    if (stat(c->channel.key, &st) == 0 && (st.st_mode & 077))
        warning(w, "channel.key", "others than its owner may use \"%s\": chmod 600 it",
                c->channel.key);
}

void pair_config_warnings(const struct pair_config *config, const char *host, pair_config_warn warn,
                          void *user)
{
    struct warner w = {config, host, warn, user};
    warn_takeover(&w);
    warn_channel(&w);
    warn_networks(&w);
    warn_waypoints(&w);
    warn_timing(&w);
    warn_volumes(&w);
    warn_local(&w);
}
