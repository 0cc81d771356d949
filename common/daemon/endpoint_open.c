// SPDX-License-Identifier: Apache-2.0
// Birth and death of an endpoint: its places on the disk, what it opens and starts, what it finds
// of its former run, and how the end begins with that.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/address/address.h"
#include "common/base/checksum.h"
#include "common/base/random.h"
#include "common/config/places.h"
#include "common/daemon/endpoint_private.h"
#include "common/daemon/layout.h"

#define FOREIGN_RECHECK_MS 10000 // a domain of ours on an end that is not active is found so soon

static int make_places(struct endpoint *ep, struct error *err)
{
    const struct endpoint_config *c = &ep->config;
    char export[PLACES_SOCKET_MAX];
    int r =
        places_state(ep->state_path, sizeof(ep->state_path), c->state_dir, ep->pair->pair, c->side);
    if (r == 0)
        r = places_runtime(ep->runtime_path, sizeof(ep->runtime_path), c->runtime_dir,
                           ep->pair->pair, c->side);
    if (r == 0)
        r = path_format(ep->queue_path, sizeof(ep->queue_path), "%s/unsafe", ep->runtime_path);
    if (r == 0)
        r = path_format(ep->safe_path, sizeof(ep->safe_path), "%s/safe", ep->state_path);
    if (r == 0)
        r = path_format(ep->map_path, sizeof(ep->map_path), "%s/maps", ep->state_path);
    if (r == 0)
        r = path_format(ep->salvage_path, sizeof(ep->salvage_path), "%s/salvage", ep->state_path);
    if (r == 0)
        r = path_format(ep->spill_path, sizeof(ep->spill_path), "%s/spill", ep->state_path);
    if (r == 0)
        r = path_format(ep->flag_path, sizeof(ep->flag_path), "%s/stepped-down", ep->runtime_path);
    if (r < 0)
        return error_sys(err, r, "pair %s: its directories", ep->pair->pair);
    for (size_t i = 0; i < ep->pair->volume_count; i++) {
        r = places_export(export, sizeof(export), c->runtime_dir, ep->pair->pair,
                          ep->pair->volumes[i].name);
        if (r < 0)
            return error_sys(err, r, "pair %s: the socket of volume %s", ep->pair->pair,
                             ep->pair->volumes[i].name);
        ep->sockets[i] = strdup(export);
        ep->volume_names[i] = ep->pair->volumes[i].name;
    }
    r = dir_make(ep->state_path, 0700, err);
    // Guests' QEMU has to reach the sockets, which have owners of their own.
    return r < 0 ? r : dir_make(ep->runtime_path, 0755, err);
}

static int lock_state(struct endpoint *ep, struct error *err)
{
    char path[PATH_SIZE + 8];
    (void)snprintf(path, sizeof(path), "%s/lock", ep->state_path);
    ep->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (ep->lock_fd < 0)
        return error_sys(err, -errno, "cannot open %s", path);
    if (flock(ep->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return error_set(err, -EBUSY, "%s is locked: another daemon runs this end", path);
    return 0;
}

// Both ends of a pair would make the same export sockets: whoever comes second would take them from the first one, and the
// pair's clients with them. The lock lies beside the ends' own directories.
static int lock_runtime(struct endpoint *ep, struct error *err)
{
    const char *pair = ep->pair->pair, *runtime = ep->config.runtime_dir;
    char path[PATH_SIZE];
    int r = path_format(path, sizeof(path), "%s/%s/lock", runtime, pair);
    if (r < 0)
        return error_sys(err, r, "pair %s: its directories", pair);
    ep->runtime_lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (ep->runtime_lock_fd < 0)
        return error_sys(err, -errno, "cannot open %s", path);
    if (flock(ep->runtime_lock_fd, LOCK_EX | LOCK_NB) < 0)
        return error_set(err, -EBUSY,
                         "%s is locked: another daemon with this runtime directory runs an end of pair %s, and both would "
                         "make the sockets of its exports in %s/%s; give one of the daemons another --runtime-dir",
                         path, pair, runtime, pair);
    return 0;
}

static int map_vitals(struct endpoint *ep, struct error *err)
{
    char path[PATH_SIZE + 8];
    (void)snprintf(path, sizeof(path), "%s/vitals", ep->runtime_path);
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(struct vitals)) < 0)
        return error_sys(err, -errno, "cannot make %s", path);
    int r = -posix_fallocate(fd, 0, sizeof(struct vitals)); // a full tmpfs is an error here, and no SIGBUS behind it
    if (r < 0)
        return error_sys(err, r, "no room for %s", path);
    ep->vitals = mmap(NULL, sizeof(struct vitals), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ep->vitals == MAP_FAILED) {
        ep->vitals = NULL;
        return error_sys(err, -errno, "cannot map %s", path);
    }
    if (vitals_damaged(ep->vitals))
        log_warning("pair %s: %s is damaged: this counts as another boot", ep->pair->pair, path);
    uint64_t kernel = clock_boot_id(); // a runtime directory that was kept over a reboot is not of this boot
    ep->same_boot = vitals_token_fits(vitals_boot(ep->vitals), kernel);
    if (!ep->same_boot)
        vitals_begin(ep->vitals, vitals_token(random_id(), kernel));
    return 0;
}

static int parse_addresses(struct endpoint *ep, struct error *err)
{
    const struct pair_end_config *mine = pair_config_end(ep->pair, ep->config.side);
    const struct pair_end_config *peers = pair_config_end(ep->pair, pair_peer(ep->config.side));
    int r = 0;
    ep->interface = mine->public_interface;
    for (size_t i = 0; i < ep->pair->public_address.address_count && r == 0; i++)
        r = ip_parse(ep->pair->public_address.addresses[i], &ep->addresses[ep->address_count++],
                     err);
    ep->has_management = mine->management != NULL;
    ep->has_peer_management = peers->management != NULL;
    if (r == 0 && ep->has_management)
        r = ip_parse(mine->management, &ep->management, err);
    if (r == 0 && ep->has_peer_management)
        r = ip_parse(peers->management, &ep->peer_management, err);
    return r;
}

static struct claims claims_of(const struct endpoint *ep)
{
    return (struct claims){.path = ep->claims_path,
                           .owner = ep->owner,
                           .interface = ep->interface,
                           .addresses = ep->addresses,
                           .count = ep->address_count};
}

// Nothing of the former run is under way any more: its lock is ours.
static int find_left(struct endpoint *ep, struct error *err)
{
    struct error why = {0};
    const struct claims claims = claims_of(ep);
    int r = claims_path(ep->claims_path, sizeof(ep->claims_path), ep->config.runtime_dir);
    if (r < 0)
        return error_sys(err, r, "pair %s: its directories", ep->pair->pair);
    (void)snprintf(ep->owner, sizeof(ep->owner), "%s/%s", ep->pair->pair, pair_end_name(ep->config.side));
    if (claims_left(&claims, ep->left, ARRAY_LEN(ep->left), &ep->left_count, &why) < 0)
        log_warning("pair %s: a public address that is not in the pair file any more may stay on: %s", ep->pair->pair,
                    why.text);
    return 0;
}

static int start_waypoints(struct endpoint *ep, struct waypoints *all, struct error *err)
{
    struct ip ips[PAIR_WAYPOINTS_MAX];
    size_t count = ep->pair->waypoint_count;
    if (count == 0 || !ep->interface)
        return 0;
    for (size_t i = 0; i < count; i++) {
        int r = ip_parse(ep->pair->waypoints[i], &ips[i], err);
        if (r < 0)
            return r;
    }
    return waypoints_join(all, ep->interface, ips, count, ep->addresses, ep->address_count,
                          &ep->waypoints, err);
}

static int list_paths(const struct pair_config *pair, enum pair_end side, struct channel_path paths[CHANNEL_PATHS_MAX])
{
    const struct pair_channel_config *c = &pair->channel;
    const char *mine = pair_config_end(pair, side)->management;
    const char *peers = pair_config_end(pair, pair_peer(side))->management;
    int n = 0;
    for (size_t i = 0; i < c->path_count && n < CHANNEL_PATHS_MAX; i++)
        paths[n++] = (struct channel_path){
            .kind = CHANNEL_PATH_CHANNEL,
            .mine = pair_path_address(&c->paths[i], side),
            .peers = pair_path_address(&c->paths[i], pair_peer(side)),
            .port = (uint16_t)c->paths[i].port,
        };
    if (mine && peers && n < CHANNEL_PATHS_MAX)
        paths[n++] = (struct channel_path){
            .kind = CHANNEL_PATH_PUBLIC,
            .data = c->data_on_public,
            .mine = mine,
            .peers = peers,
            .port = (uint16_t)c->public_port,
        };
    return n;
}

unsigned endpoint_sockets(const struct pair_config *pair, enum pair_end side)
{
    struct channel_path paths[CHANNEL_PATHS_MAX];
    return channel_sockets(list_paths(pair, side, paths));
}

static int open_channel(struct endpoint *ep, struct error *err)
{
    const struct pair_channel_config *c = &ep->pair->channel;
    enum pair_end side = ep->config.side;
    struct channel_path paths[CHANNEL_PATHS_MAX];
    int n = list_paths(ep->pair, side, paths);
    if (c->key) {
        int r = channel_key_load(c->key, &ep->key, err);
        if (r < 0)
            return r;
        (void)channel_key_derive(ep->key, "inquiry", ep->inquiry.key);
    }
    struct channel_config config = {
        .pair = ep->pair->pair,
        .identity = side == PAIR_PRIMARY ? CHANNEL_PRIMARY : CHANNEL_SECONDARY,
        .run = ep->run,
        .key = ep->key,
        .silence_ns = (int64_t)ep->pair->timing.timeout_ms * NS_PER_MS,
        .paths = paths,
        .n_paths = n,
        .bundler = ep->config.bundler,
    };
    pair_config_digest(ep->pair, config.digest);
    config.digest_difference = pair_config_digest_difference;
    return channel_open(&config, &endpoint_channel_ops, ep, &ep->channel, err);
}

static void open_inquiry(struct endpoint *ep)
{
    struct error err = {0};
    ep->inquiry_fd = -1;
    inquiry_id(ep->inquiry.key, ep->pair->pair, ep->inquiry.id);
    ep->inquiry.identity = ep->config.side == PAIR_PRIMARY ? INQUIRY_PRIMARY : INQUIRY_SECONDARY;
    ep->inquiry.role = INQUIRY_PASSIVE;
    if (ep->guard) // what stands there is of a former run
        guard_pair_role(ep->guard, INQUIRY_PASSIVE);
    if (!ep->has_management)
        return;
    uint16_t port = (uint16_t)ep->pair->channel.management_port;
    ep->inquiry_fd = inquiry_socket(&ep->management, port, &err);
    if (ep->inquiry_fd < 0 && ep->daemon_guard) {
        int kept; // of the former run
        for (size_t i = 0; ep->inquiry_fd < 0 && (kept = guard_inquiry_fd(ep->daemon_guard, i)) >= 0; i++) {
            if (inquiry_socket_port(kept) == port)
                ep->inquiry_fd = fcntl(kept, F_DUPFD_CLOEXEC, 3);
        }
    }
    if (ep->inquiry_fd < 0)
        log_warning("pair %s: cannot answer at the management address: %s", ep->pair->pair,
                    err.text);
    else if (ep->daemon_guard)
        (void)guard_share_inquiry(ep->daemon_guard, ep->inquiry_fd, NULL);
    if (ep->guard)
        guard_pair_inquiry(ep->guard, &ep->inquiry);
}

static void map_app(const struct endpoint *ep, const struct pair_app_config *from,
                    const char *arguments[3][3], struct app_config *to)
{
    *to = app_config_defaults(from->kind == PAIR_APP_DOMAIN ? APP_DOMAIN : APP_SCRIPT);
    to->name = from->name;
    to->start_timeout_ms = from->start_timeout_ms;
    to->stop_timeout_ms = from->stop_timeout_ms;
    to->restarts = (int)from->restarts;
    to->on_failure =
        from->failure == PAIR_APP_FAILURE_SWITCHOVER ? APP_FAILURE_SWITCHOVER : APP_FAILURE_NONE;
    if (from->kind == PAIR_APP_DOMAIN) {
        to->xml_file = from->xml;
        to->uri = pair_config_end(ep->pair, ep->config.side)->libvirt;
        return;
    }
    static const char *const words[] = {"start", "stop", "status"};
    for (int i = 0; i < 3; i++) {
        arguments[i][0] = from->command;
        arguments[i][1] = words[i];
        arguments[i][2] = NULL;
    }
    to->status_timeout_ms = from->status_timeout_ms;
    to->status_interval_ms = from->status_interval_ms;
    to->start = arguments[0];
    to->stop = arguments[1];
    to->status = arguments[2];
}

static int open_apps(struct endpoint *ep, struct error *err)
{
    struct app_config list[PAIR_APPLICATIONS_MAX];
    const char *arguments[PAIR_APPLICATIONS_MAX][3][3];
    struct apps_volume volumes[PAIR_VOLUMES_MAX];
    for (size_t i = 0; i < ep->pair->application_count; i++)
        map_app(ep, &ep->pair->applications[i], arguments[i], &list[i]);
    for (size_t i = 0; i < ep->pair->volume_count; i++)
        volumes[i] = (struct apps_volume){ep->pair->volumes[i].name, ep->sockets[i]};
    struct apps_setup setup = {
        .pair = ep->pair->pair,
        .identity = pair_end_name(ep->config.side),
        .runtime_dir = ep->runtime_path,
        .volumes = volumes,
        .volume_count = ep->pair->volume_count,
        .addresses = (const char *const *)ep->pair->public_address.addresses,
        .address_count = ep->pair->public_address.address_count,
        .recheck_ms = FOREIGN_RECHECK_MS,
        .callbacks = {.context = ep, .event = endpoint_on_app, .output = endpoint_on_app_output},
    };
    return apps_open(&setup, list, ep->pair->application_count, &ep->apps, err);
}

static int open_threads(struct endpoint *ep, struct error *err)
{
    int r = dir_make(ep->safe_path, 0700, err);
    if (r == 0)
        r = dir_make(ep->map_path, 0700, err);
    if (r == 0)
        r = dir_make(ep->spill_path, 0700, err);
    if (r < 0)
        return r;
    ep->stream_box = mailbox_new();
    ep->lane = ep->stream_box ? lane_new(ep->channel, &ep->figures, ep->stream_box) : NULL;
    if (!ep->lane)
        return error_sys(err, -ENOMEM, "pair %s", ep->pair->pair);
    struct front_config front = {
        .pair = ep->pair,
        .side = ep->config.side,
        .queue_path = ep->queue_path,
        .map_path = ep->map_path,
        .spill_path = ep->spill_path,
        .sockets = (const char *const *)ep->sockets,
        .pair_id = ep->pair_id,
        .boot = vitals_boot(ep->vitals),
        .figures = &ep->figures,
        .lane = ep->lane,
        .reports = ep->reports,
    };
    r = front_new(&front, &ep->front, err);
    if (r < 0)
        return r;
    struct stream_config stream = {
        .pair = ep->pair,
        .side = ep->config.side,
        .safe_path = ep->safe_path,
        .salvage_path = ep->salvage_path,
        .pair_id = ep->pair_id,
        .channel = ep->channel,
        .figures = &ep->figures,
        .lane = ep->lane,
        .box = ep->stream_box,
        .reports = ep->reports,
        .front = ep->front,
    };
    return stream_new(&stream, &ep->stream, err);
}

static int open_state(struct endpoint *ep, struct error *err)
{
    char path[PATH_SIZE + 8];
    (void)snprintf(path, sizeof(path), "%s/state", ep->state_path);
    int r = saver_new(path, ep->reports, &ep->saver, &ep->state, err);
    if (r != -EUCLEAN)
        return r;
    log_error("pair %s: %s", ep->pair->pair, err->text);
    ep->start.state_unreadable = true;
    return 0;
}

// What is queued, and counts as equal, is of these volumes.
static int take_layout(struct endpoint *ep, struct error *err)
{
    struct error why = {0};
    char path[PATH_SIZE + 8];
    bool fresh = ep->state.role == ROLE_NONE && !ep->start.state_unreadable;
    (void)snprintf(path, sizeof(path), "%s/layout", ep->state_path);
    int r = layout_take(path, ep->pair, ep->config.side, fresh, &why);
    if (r == -EUCLEAN)
        log_warning("pair %s: %s", ep->pair->pair, why.text);
    return r < 0 && r != -EUCLEAN ? error_set(err, r, "%s", why.text) : 0;
}

static bool stops_on_split(const struct endpoint *ep)
{
    switch (ep->pair->split) {
    case PAIR_SPLIT_SECONDARY_STOPS:
        return ep->config.side == PAIR_SECONDARY;
    case PAIR_SPLIT_PRIMARY_STOPS:
        return ep->config.side == PAIR_PRIMARY;
    case PAIR_SPLIT_BOTH_STOP:
        break;
    }
    return true;
}

static int open_end(struct endpoint *ep)
{
    static const enum end_mode modes[] = {END_ASYNC, END_SYNC, END_STRICT};
    const struct pair_timing_config *t = &ep->pair->timing;
    struct end_config config = {
        .primary = ep->config.side == PAIR_PRIMARY,
        .mode = modes[ep->pair->mode],
        .beat_ns = t->heartbeat_ms * NS_PER_MS,
        .timeout_ns = t->timeout_ms * NS_PER_MS,
        .decision_ns = t->decision_ms * NS_PER_MS,
        .margin_ns = t->margin_ms * NS_PER_MS,
        .automatic = ep->pair->takeover == PAIR_TAKEOVER_AUTO,
        .has_waypoint = ep->waypoints != NULL,
        .alone_when_slow = ep->pair->slow == PAIR_SLOW_ALONE,
        .stops_on_split = stops_on_split(ep),
        .shutdown_stops = ep->pair->shutdown == PAIR_SHUTDOWN_STOP,
        .volumes = (unsigned)ep->pair->volume_count,
        .names = ep->volume_names,
        .run = ep->run,
        .seed = random_id(),
    };
    ep->end = end_new(&config);
    return ep->end ? 0 : -ENOMEM;
}

// An end that was part of a pair had maps.
static void say_maps(struct endpoint *ep)
{
    char text[200];
    if (ep->state.role == ROLE_NONE)
        return;
    for (size_t i = 0; i < ep->pair->volume_count; i++) {
        const char *why = front_map_found(ep->front, i);
        if (!why)
            continue;
        (void)snprintf(text, sizeof(text), "volume %s: its intent map counts as wholly set: %s",
                       ep->pair->volumes[i].name, why);
        endpoint_note(ep, -1, text);
    }
}

// Reads all of it: a large one takes a while.
static void find_queue(struct endpoint *ep)
{
    struct end_start *s = &ep->start;
    struct service_found queue = {0};
    if (ep->state.role != ROLE_ACTIVE)
        return;
    s->queue_found = front_find_queue(ep->front, &queue, ep->queue_why, sizeof(ep->queue_why));
    s->queue_numbered = queue.numbered;
    s->queue_epoch = queue.epoch;
    s->queue_opening = queue.opening;
    s->queue_pending = queue.pending;
    s->queue_confirmed = queue.confirmed;
    atomic_store(&ep->figures.numbered, s->queue_numbered);
}

static uint64_t damaged_maps(struct endpoint *ep)
{
    uint64_t damaged = 0;
    for (size_t i = 0; i < ep->pair->volume_count; i++)
        damaged |= (uint64_t)(front_map_found(ep->front, i) != NULL) << i;
    return damaged;
}

// The run before this one was not ended in order, and may have granted by another timing: neither how long its peer waits nor
// how long that may take over is known any more. This end steps down, as if its deadline had passed.
static bool timing_has_changed(struct endpoint *ep)
{
    bool granting = ep->same_boot && ep->state.role == ROLE_ACTIVE && !ep->state.alone &&
                    vitals_lease_ns(ep->vitals) != VITALS_NO_DEADLINE;
    if (!granting || vitals_same_timing(ep->vitals, ep->timing_sum))
        return false;
    endpoint_note(ep, -1, "the timing of the pair file is not that of the former run, by which the peer may hold a grant: "
                          "steps down");
    if (ep->guard)
        guard_step_down(ep->guard);
    return true;
}

// Which facts the start rule gets; what was passive opens its replica first (take_opened()).
static void prepare_start(struct endpoint *ep)
{
    struct end_start *s = &ep->start;
    char why[300] = "";
    bool acted = false;
    if (guard_flag_read(ep->flag_path, &acted, why, sizeof(why), NULL) == 0 && acted)
        endpoint_note(ep, -1, why);
    s->same_boot = ep->same_boot;
    s->guard_acted = acted || (ep->guard && guard_acted(ep->guard));
    if (!s->guard_acted)
        s->guard_acted = timing_has_changed(ep);
    s->echo_sent_ns = ep->same_boot ? vitals_echo_sent_ns(ep->vitals) : 0;
    s->unwatched = ep->same_boot && vitals_lease_ns(ep->vitals) == VITALS_NO_DEADLINE;
    ep->frozen_told = s->guard_acted;
    say_maps(ep);
    s->maps_damaged = damaged_maps(ep);
    if (end_doubt_salvage(&ep->state, s->maps_damaged))
        endpoint_note(ep, -1, "the salvage that goes on cannot tell any more what came after this end had begun to follow: it "
                              "keeps that, too, and says so");
    if (s->guard_acted)
        apps_set_frozen(ep->apps, true);
    if (ep->state.role == ROLE_ACTIVE) {
        if (ep->queue_why[0])
            endpoint_note(ep, -1, ep->queue_why);
        ep->serving = true; // the guard may act on what a former run left serving
        endpoint_begin(ep);
    } else if (ep->state.role == ROLE_PASSIVE) {
        if (ep->state.salvage)
            stream_salvage(ep->stream, &ep->state);
        stream_open(ep->stream);
        ep->opening = true;
        s->replica_durable = END_OPENING; // a large one takes its time
        endpoint_begin(ep);
    } else {
        endpoint_begin(ep);
    }
}

static int poll_add(int epoll, int fd, enum endpoint_ready what)
{
    struct epoll_event ev = {.events = EPOLLIN, .data = {.u32 = what}};
    return fd < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

static int open_all(struct endpoint *ep, struct error *err)
{
    char path[PATH_SIZE + 16];
    int r = make_places(ep, err);
    if (r == 0)
        r = lock_state(ep, err);
    if (r == 0)
        r = lock_runtime(ep, err);
    if (r == 0) {
        (void)snprintf(path, sizeof(path), "%s/history", ep->state_path);
        ep->history = history_open(path);
        r = ep->history ? 0 : error_sys(err, -ENOMEM, "%s", path);
    }
    if (r == 0)
        r = map_vitals(ep, err);
    if (r == 0)
        r = parse_addresses(ep, err);
    if (r == 0)
        r = find_left(ep, err);
    if (r == 0)
        r = open_apps(ep, err);
    if (r == 0)
        r = open_state(ep, err);
    if (r == 0)
        r = take_layout(ep, err);
    if (r == 0)
        r = open_channel(ep, err);
    if (r == 0)
        r = open_threads(ep, err);
    if (r == 0)
        find_queue(ep);
    return r;
}

static int open_switchboard(struct endpoint *ep, struct error *err)
{
    const struct switchboard_config config = {
        .claims = claims_of(ep),
        .closer = ep->closer,
        .reports = ep->reports,
    };
    bool needed = ep->address_count > 0 || ep->left_count > 0;
    return needed ? switchboard_new(&config, &ep->switchboard, err) : 0;
}

int endpoint_run(struct endpoint *ep, struct guard *guard, struct waypoints *waypoints, struct closer *closer,
                 struct error *err)
{
    ep->closer = closer;
    ep->daemon_guard = guard;
    int r = start_waypoints(ep, waypoints, err);
    if (r == 0)
        r = open_end(ep);
    if (r < 0)
        return r;
    if (ep->daemon_guard && guard_pair_open(ep->daemon_guard, ep->pair->pair, &ep->guard, err) < 0)
        return err->code;
    if (ep->guard && guard_pair_state(ep->guard) == GUARD_DESTROYED) {
        // The former run ended before it had renewed the slot.
        guard_pair_close(ep->guard);
        if (guard_pair_open(ep->daemon_guard, ep->pair->pair, &ep->guard, err) < 0)
            return err->code;
    }
    r = open_switchboard(ep, err);
    if (r < 0)
        return r;
    open_inquiry(ep);
    const int fds[READY_COUNT] = {
        [READY_REPORTS] = mailbox_fd(ep->reports),
        [READY_CHANNEL] = channel_fd(ep->channel),
        [READY_APPS] = apps_fd(ep->apps),
        [READY_INQUIRY] = ep->inquiry_fd,
    };
    for (unsigned i = 0; i < READY_COUNT && r == 0; i++)
        r = poll_add(ep->epoll, fds[i], i);
    if (r < 0)
        return error_sys(err, r, "pair %s", ep->pair->pair);
    prepare_start(ep);
    return 0;
}

int endpoint_new(const struct endpoint_config *config, struct endpoint **ret_endpoint,
                 struct error *err)
{
    struct endpoint *ep = calloc(1, sizeof(*ep));
    if (!ep)
        return error_sys(err, -ENOMEM, "pair %s", config->pair->pair);
    ep->config = *config;
    ep->pair = config->pair;
    ep->lock_fd = ep->runtime_lock_fd = ep->inquiry_fd = -1;
    ep->run = random_id();
    ep->pair_id = checksum64(ep->pair->pair, strlen(ep->pair->pair));
    ep->timing_sum = checksum64(&ep->pair->timing, sizeof(ep->pair->timing));
    ep->born_ns = clock_boot_ns();
    ep->plan_stale = true;
    atomic_store(&ep->figures.lease_ns, INT64_MAX);
    ep->deadline_ns = INT64_MAX;
    ep->epoll = epoll_create1(EPOLL_CLOEXEC);
    ep->reports = mailbox_new();
    int r = ep->epoll < 0 || !ep->reports ? error_sys(err, -ENOMEM, "pair %s", ep->pair->pair)
                                          : open_all(ep, err);
    if (r < 0) {
        endpoint_free(ep);
        return r;
    }
    *ret_endpoint = ep;
    return 0;
}

struct endpoint *endpoint_free(struct endpoint *ep)
{
    if (!ep)
        return NULL;
    // The threads first: they report to the mailbox, and use lane and channel.
    stream_free(ep->stream);
    front_free(ep->front);
    saver_free(ep->saver);
    vetoes_free(ep->vetoes);
    switchboard_free(ep->switchboard);
    announcer_free(ep->announcer);
    waypoints_leave(ep->waypoints);
    apps_forget(ep->apps);
    lane_free(ep->lane);
    channel_free(ep->channel);
    channel_key_free(ep->key);
    end_free(ep->end);
    mailbox_free(ep->stream_box);
    mailbox_free(ep->reports);
    history_free(ep->history);
    if (ep->vitals)
        (void)munmap(ep->vitals, sizeof(struct vitals));
    for (size_t i = 0; i < PAIR_VOLUMES_MAX; i++)
        free(ep->sockets[i]);
    cleanup_close(&ep->inquiry_fd);
    cleanup_close(&ep->runtime_lock_fd);
    cleanup_close(&ep->lock_fd);
    cleanup_close(&ep->epoll);
    free(ep);
    return NULL;
}
