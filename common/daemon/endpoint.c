// SPDX-License-Identifier: Apache-2.0
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

#define AWAKE_MAX_NS (NS_PER_S) // a data thread that works so long without an I/O is wedged

// ---- history ----

void endpoint_note_loss(struct endpoint *ep, int64_t ns, const char *text,
                        const struct status_loss *loss)
{
    struct status_event *e = history_add(ep->history);
    e->real_ms = clock_real_ns() / NS_PER_MS;
    e->ms = ns < 0 ? -1 : ns / NS_PER_MS;
    (void)snprintf(e->step, sizeof(e->step), "%s", ns < 0 ? "" : "step");
    (void)snprintf(e->text, sizeof(e->text), "%s", text);
    if (loss)
        e->loss = *loss;
    history_write(ep->history);
    if (ns < 0)
        log_info("pair %s: %s", ep->pair->pair, text);
    else
        log_info("pair %s: %s (%lld.%03lld ms)", ep->pair->pair, text, (long long)(ns / NS_PER_MS),
                 (long long)(ns / NS_PER_US % 1000));
}

void endpoint_note(struct endpoint *ep, int64_t ns, const char *text)
{
    endpoint_note_loss(ep, ns, text, NULL);
}

size_t endpoint_history(const struct endpoint *ep, struct status_event *events, size_t limit)
{
    return history_list(ep->history, events, limit);
}

// ---- the step ----

// Heartbeats go out only while the data threads turn; waiting for a disk is no wedge.
static bool is_wedged(const struct endpoint *ep, int64_t now)
{
    int64_t front = atomic_load(&ep->figures.front_awake_ns);
    int64_t stream = atomic_load(&ep->figures.stream_awake_ns);
    bool front_stuck = front && now - front > AWAKE_MAX_NS && !atomic_load(&ep->figures.front_busy);
    bool stream_stuck =
        stream && now - stream > AWAKE_MAX_NS && !atomic_load(&ep->figures.stream_busy);
    return front_stuck || stream_stuck;
}

static void sample(struct endpoint *ep, int64_t now, struct end_data *d)
{
    struct figures *g = &ep->figures;
    uint64_t durable = atomic_load(&g->durable);
    int64_t oldest = atomic_load(&g->queue_oldest_real_ns);
    int64_t age = oldest ? clock_real_ns() - oldest : 0;
    *d = (struct end_data){
        // What the peer has confirmed was numbered, even where the front thread has not said so
        // yet.
        .numbered = MAX(atomic_load(&g->numbered), durable),
        .durable = durable,
        .applied = ep->serving ? atomic_load(&g->applied) : atomic_load(&g->replica_applied),
        .held_from = atomic_load(&g->held_from),
        .replica_durable = atomic_load(&g->replica_durable),
        .waiting_ns = atomic_load(&g->waiting_ns),
        .moved_ns = atomic_load(&g->moved_ns),
        .stream_ns = atomic_load(&g->stream_up) ? now : atomic_load(&g->stream_ns),
        .backlog = atomic_load(&g->queue_bytes),
        .full = !ep->serving && atomic_load(&g->replica_full),
        .wedged = is_wedged(ep, now),
        .unguarded = !ep->guard || ep->plan_stale,
        .lagging = age > (int64_t)ep->pair->timing.timeout_ms * NS_PER_MS,
    };
    if (ep->waypoints) {
        int64_t sent = waypoint_sent_ns(ep->waypoints);
        d->waypoint_ns = sent == WAYPOINT_NEVER ? 0 : sent;
    }
}

static void say_role(struct endpoint *ep, const struct end_view *view)
{
    enum inquiry_role role = INQUIRY_PASSIVE;
    if (view->state == END_TAKING_OVER)
        role = INQUIRY_TAKING_OVER;
    else if (view->state == END_SUSPENDED)
        role = INQUIRY_STEPPED_DOWN;
    else if (view->active)
        role = INQUIRY_ACTIVE;
    if (ep->inquiry.role == role)
        return;
    ep->inquiry.role = (uint8_t)role;
    if (ep->guard)
        guard_pair_role(ep->guard, role);
}

// A guard without a plan guards nothing: until it has one, nothing is promised to the peer (end_data.unguarded).
static void keep_plan(struct endpoint *ep, int64_t now)
{
    if (!ep->guard || !ep->serving || !ep->plan_stale || now < ep->plan_retry_ns)
        return;
    ep->plan_retry_ns = now + NS_PER_S;
    endpoint_plan(ep);
}

static void step_one(struct endpoint *ep, const struct end_event *event)
{
    struct end_data data;
    int64_t now = clock_boot_ns();
    keep_plan(ep, now);
    sample(ep, now, &data);
    end_step(ep->end, now, &data, event);
    const struct end_action *a;
    while ((a = end_action(ep->end)))
        endpoint_act(ep, a);
    struct end_view view;
    end_view(ep->end, now, &view);
    if (view.echo_sent_ns > ep->vitals->echo_sent_ns)
        __atomic_store_n(&ep->vitals->echo_sent_ns, view.echo_sent_ns, __ATOMIC_RELAXED);
    say_role(ep, &view);
}

// Actions may bring about further events at once: those wait for their turn here.
void endpoint_feed(struct endpoint *ep, const struct end_event *event)
{
    ENSURE(ep->event_count < EVENTS_MAX);
    ep->events[(ep->event_first + ep->event_count++) % EVENTS_MAX] = *event;
    if (ep->stepping)
        return;
    ep->stepping = true;
    while (ep->event_count > 0) {
        struct end_event next = ep->events[ep->event_first];
        ep->event_first = (ep->event_first + 1) % EVENTS_MAX;
        ep->event_count--;
        step_one(ep, &next);
    }
    ep->stepping = false;
}

// ---- reports of the threads ----

static void begin(struct endpoint *ep)
{
    ep->started = true;
    ep->start.state = &ep->state;
    endpoint_feed(ep, &(struct end_event){.type = EV_START, .start = ep->start});
}

static void take_opened(struct endpoint *ep, const struct stream_report *r)
{
    if (!r->ok)
        endpoint_note(ep, -1, r->text);
    if (ep->started)
        return;
    ep->start.replica_durable = r->seq;
    ep->start.replica_failed = !r->ok;
    begin(ep);
}

static void take_front_event(struct endpoint *ep, const struct front_report *r)
{
    if (r->event.type == EV_STORE && ep->pair->flush_failure == PAIR_FLUSH_NONE)
        endpoint_note(ep, -1, r->text); // the operator has chosen to see to it himself
    else
        endpoint_feed(ep, &r->event);
}

static void take_report(struct endpoint *ep, struct letter *letter)
{
    switch (letter->kind) {
    case FRONT_EVENT:
        take_front_event(ep, (struct front_report *)letter);
        break;
    case FRONT_NOTE:
        endpoint_note(ep, -1, ((struct front_report *)letter)->text);
        break;
    case STREAM_EVENT:
        endpoint_feed(ep, &((struct stream_report *)letter)->event);
        break;
    case STREAM_NOTE:
        endpoint_note(ep, -1, ((struct stream_report *)letter)->text);
        break;
    case STREAM_OPENED:
        take_opened(ep, (struct stream_report *)letter);
        break;
    case STREAM_CLOSED:
        endpoint_closed(ep, ((struct stream_report *)letter)->ok
                                ? NULL
                                : ((struct stream_report *)letter)->text);
        break;
    case SAVER_SAVED: {
        struct end_event ev = {.type = EV_SAVED};
        ev.saved.ticket = ((struct saver_report *)letter)->ticket;
        ev.saved.status = ((struct saver_report *)letter)->status;
        endpoint_feed(ep, &ev);
        break;
    }
    default:
        ENSURE(!"a report of an unknown kind");
    }
}

// ---- callbacks ----

static void on_control(void *context, int path, uint64_t peer_run, const void *data, size_t size)
{
    struct endpoint *ep = context;
    struct frame frame;
    const char *broken = frame_decode(data, size, &frame);
    if (!broken && frame.run != peer_run)
        broken = "it names another run than its link";
    if (broken) {
        log_limited(&ep->frame_log, LOG_LEVEL_WARNING, "pair %s: frame dropped: %s", ep->pair->pair,
                    broken);
        return;
    }
    if (!ep->started || ep->exited)
        return;
    struct end_event ev = {.type = EV_FRAME};
    ev.frame.path = (unsigned)path;
    ev.frame.frame = &frame;
    endpoint_feed(ep, &ev);
}

static void on_channel_event(void *context, enum channel_side side, int path,
                             enum channel_event event, const char *text)
{
    static const char *const names[] = {"up",      "down",      "refused",
                                        "trouble", "data path", "data lost"};
    struct endpoint *ep = context;
    if (event == CHANNEL_DATA_LOST)
        return; // the stream's own numbers find it
    log_info("pair %s: channel path %d %s %s%s%s", ep->pair->pair, path + 1,
             side == CHANNEL_SIDE_CONTROL ? "control" : "data", names[event], text ? ": " : "",
             text ? text : "");
    if (side != CHANNEL_SIDE_CONTROL)
        return; // of the data thread
    if (event == CHANNEL_REFUSED)
        (void)snprintf(ep->channel_refused, sizeof(ep->channel_refused), "%s", text ? text : "");
    else if (event == CHANNEL_UP)
        ep->channel_refused[0] = '\0';
}

static const struct channel_ops channel_ops = {.on_control = on_control,
                                               .on_event = on_channel_event};

static void on_app(void *context, const struct apps_event *ev)
{
    struct endpoint *ep = context;
    struct end_event out = {.type = EV_APPS};
    char text[ACTION_TEXT_SIZE];
    switch (ev->type) {
    case APPS_STARTED:
        ep->apps_start_ms = (clock_boot_ns() - ep->apps_began_ns) / NS_PER_MS;
        endpoint_note(ep, clock_boot_ns() - ep->apps_began_ns, "applications started");
        out.apps.running = true;
        ep->plan_stale = true;
        endpoint_plan(ep);
        endpoint_feed(ep, &out);
        return;
    case APPS_STOPPED:
        // Whatever still runs of them here now was not started by this end: said, and left alone.
        if (!ep->serving)
            apps_check_foreign(ep->apps);
        endpoint_feed(ep, &out);
        return;
    case APPS_TARGETS:
        ep->plan_stale = true;
        endpoint_plan(ep);
        return;
    case APPS_CHECKED:
        if (ev->text && ev->text[0])
            endpoint_note(ep, -1, ev->text);
        return;
    case APP_FAILED:
        (void)snprintf(text, sizeof(text), "application %s failed for good: %s", ev->app, ev->text);
        endpoint_note(ep, -1, text);
        if (ev->switchover) {
            out.type = EV_APP_FAILED;
            out.failed.text = text;
            endpoint_feed(ep, &out);
        }
        return;
    case APP_STARTED:
    case APP_STOPPED:
    case APP_RESTARTED:
        (void)snprintf(text, sizeof(text), "application %s %s", ev->app,
                       ev->type == APP_STARTED   ? "started"
                       : ev->type == APP_STOPPED ? "stopped"
                                                 : "restarted");
        endpoint_note(ep, ev->duration_ms * NS_PER_MS, text);
        return;
    case APP_DIED:
    case APP_NOTE:
        (void)snprintf(text, sizeof(text), "application %s: %s", ev->app, ev->text ? ev->text : "");
        endpoint_note(ep, -1, text);
        return;
    }
}

static void on_app_output(void *context, const char *app, const char *line)
{
    struct endpoint *ep = context;
    log_info("pair %s: %s: %s", ep->pair->pair, app, line);
}

// ---- work ----

// A new slot at the guard, told everything that it has to know.
static void attach_guard(struct endpoint *ep)
{
    struct error err = {0};
    ep->guard = NULL;
    if (ep->config.guard && guard_pair_open(ep->config.guard, ep->pair->pair, &ep->guard, &err) < 0)
        endpoint_note(ep, -1, err.text);
    if (!ep->guard)
        return;
    if (ep->inquiry_fd >= 0) {
        (void)guard_share_inquiry(ep->config.guard, ep->inquiry_fd, NULL);
        guard_pair_inquiry(ep->guard, &ep->inquiry);
    }
    ep->plan_stale = true;
    endpoint_plan(ep);
    (void)guard_set_deadline(ep->guard, atomic_load(&ep->figures.lease_ns));
}

// A slot whose frozen processes were killed guards nothing any more, until it is opened anew.
static bool still_destroying(struct endpoint *ep)
{
    if (!ep->destroying || guard_pair_pending(ep->guard))
        return ep->destroying;
    ep->destroying = false;
    guard_pair_close(ep->guard);
    (void)guard_flag_clear(ep->flag_path, NULL);
    attach_guard(ep);
    return false;
}

void endpoint_guard(struct endpoint *ep, struct guard *guard)
{
    if (guard != ep->config.guard) {
        ep->config.guard = guard;
        ep->destroying = false; // what it had frozen is dead, or killed with the applications
        attach_guard(ep);
        if (ep->guard && ep->thawing)
            guard_step_down(ep->guard); // what the former one froze
    }
    if (!ep->guard || !ep->started || still_destroying(ep))
        return;
    if (guard_pair_pending(ep->guard))
        return;
    enum guard_state state = guard_pair_state(ep->guard);
    if (state == GUARD_STEPPED_DOWN && !ep->frozen_told && !ep->thawing && ep->serving) {
        ep->frozen_told = true;
        ep->address_on = false;
        apps_set_frozen(ep->apps, true);
        endpoint_feed(ep, &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
    } else if (state == GUARD_WATCHING && ep->thawing) {
        ep->thawing = ep->frozen_told = false;
        apps_set_frozen(ep->apps, false);
        endpoint_feed(ep, &(struct end_event){.type = EV_GUARD, .guard.frozen = false});
    } else if (state == GUARD_STEPPED_DOWN && ep->thawing) {
        if (ep->thaw_deadline_ns > clock_boot_ns()) {
            guard_thaw(ep->guard, ep->thaw_deadline_ns);
            return;
        }
        ep->thawing = false; // too late: the end sees whether it may still
        endpoint_feed(ep, &(struct end_event){.type = EV_GUARD, .guard.frozen = true});
    }
}

void endpoint_work(struct endpoint *ep)
{
    struct letter *letter;
    struct error err = {0};
    mailbox_clear(ep->reports);
    while ((letter = mailbox_take(ep->reports))) {
        take_report(ep, letter);
        free(letter);
    }
    channel_work(ep->channel);
    if (ep->waypoints)
        waypoint_work(ep->waypoints);
    if (ep->inquiry_fd >= 0)
        (void)inquiry_answer(ep->inquiry_fd, &ep->inquiry, 1);
    apps_work(ep->apps);
    if (ep->announcer && announcer_deadline_ns(ep->announcer) <= clock_boot_ns() &&
        announcer_work(ep->announcer, &err) < 0)
        log_warning("pair %s: %s", ep->pair->pair, err.text);
    endpoint_probed(ep);
    endpoint_guard(ep, ep->config.guard);
    if (ep->started && !ep->exited && end_deadline_ns(ep->end) <= clock_boot_ns())
        endpoint_feed(ep, &(struct end_event){.type = EV_TICK});
}

int64_t endpoint_deadline_ns(const struct endpoint *ep)
{
    int64_t at = channel_deadline_ns(ep->channel);
    if (ep->started && !ep->exited)
        at = MIN(at, end_deadline_ns(ep->end));
    if (ep->waypoints)
        at = MIN(at, waypoint_deadline_ns(ep->waypoints));
    if (ep->announcer)
        at = MIN(at, announcer_deadline_ns(ep->announcer));
    if (ep->vetoes)
        at = MIN(at, vetoes_deadline_ns(ep->vetoes));
    return at;
}

int endpoint_fd(const struct endpoint *ep)
{
    return ep->epoll;
}

const char *endpoint_pair(const struct endpoint *ep)
{
    return ep->pair->pair;
}

void endpoint_terminate(struct endpoint *ep)
{
    if (!ep->started)
        ep->exited = true;
    else
        endpoint_feed(ep, &(struct end_event){.type = EV_TERMINATE});
}

bool endpoint_exited(const struct endpoint *ep)
{
    return ep->exited;
}

int endpoint_command(struct endpoint *ep, enum end_command command, unsigned flags,
                     uint64_t *ret_operation, char *text, size_t size)
{
    if (!ep->started) {
        (void)snprintf(text, size, "this end is still starting");
        return -EAGAIN;
    }
    ep->reply_id = ++ep->operation;
    ep->replied = false;
    struct end_event ev = {.type = EV_COMMAND};
    ev.command.command = command;
    ev.command.flags = flags;
    ev.command.id = ep->reply_id;
    endpoint_feed(ep, &ev);
    (void)snprintf(text, size, "%s", ep->replied ? ep->reply_text : "no answer");
    *ret_operation = ep->operation;
    return ep->replied ? ep->reply_status : -EIO;
}

// ---- birth and death ----

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

static int map_vitals(struct endpoint *ep, struct error *err)
{
    char path[PATH_SIZE + 8];
    (void)snprintf(path, sizeof(path), "%s/vitals", ep->runtime_path);
    CLEANUP_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(struct vitals)) < 0)
        return error_sys(err, -errno, "cannot make %s", path);
    ep->vitals = mmap(NULL, sizeof(struct vitals), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (ep->vitals == MAP_FAILED) {
        ep->vitals = NULL;
        return error_sys(err, -errno, "cannot map %s", path);
    }
    ep->same_boot = ep->vitals->boot != 0;
    if (!ep->same_boot)
        ep->vitals->boot = random_id();
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

static int start_waypoints(struct endpoint *ep, struct error *err)
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
    return waypoint_start(ep->interface, ips, count, ep->addresses, ep->address_count,
                          &ep->waypoints, err);
}

static int open_channel(struct endpoint *ep, struct error *err)
{
    const struct pair_channel_config *c = &ep->pair->channel;
    enum pair_end side = ep->config.side;
    struct channel_path paths[CHANNEL_PATHS_MAX + 1];
    int n = 0;
    for (size_t i = 0; i < c->path_count && n < CHANNEL_PATHS_MAX; i++)
        paths[n++] = (struct channel_path){
            .kind = CHANNEL_PATH_CHANNEL,
            .mine = pair_path_address(&c->paths[i], side),
            .peers = pair_path_address(&c->paths[i], pair_peer(side)),
            .port = (uint16_t)c->paths[i].port,
        };
    if (ep->has_management && ep->has_peer_management && n < CHANNEL_PATHS_MAX)
        paths[n++] = (struct channel_path){
            .kind = CHANNEL_PATH_PUBLIC,
            .data = c->data_on_public,
            .mine = pair_config_end(ep->pair, side)->management,
            .peers = pair_config_end(ep->pair, pair_peer(side))->management,
            .port = (uint16_t)c->public_port,
        };
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
    };
    pair_config_digest(ep->pair, config.digest);
    config.digest_difference = pair_config_digest_difference;
    return channel_open(&config, &channel_ops, ep, &ep->channel, err);
}

static void open_inquiry(struct endpoint *ep)
{
    struct error err = {0};
    ep->inquiry_fd = -1;
    inquiry_id(ep->inquiry.key, ep->pair->pair, ep->inquiry.id);
    ep->inquiry.identity = ep->config.side == PAIR_PRIMARY ? INQUIRY_PRIMARY : INQUIRY_SECONDARY;
    ep->inquiry.role = INQUIRY_PASSIVE;
    if (!ep->has_management)
        return;
    uint16_t port = (uint16_t)ep->pair->channel.management_port;
    ep->inquiry_fd = inquiry_socket(&ep->management, port, &err);
    if (ep->inquiry_fd < 0 && ep->config.guard) {
        int kept = guard_inquiry_fd(ep->config.guard); // of the former run
        if (kept >= 0 && inquiry_socket_port(kept) == port)
            ep->inquiry_fd = fcntl(kept, F_DUPFD_CLOEXEC, 3);
    }
    if (ep->inquiry_fd < 0)
        log_warning("pair %s: cannot answer at the management address: %s", ep->pair->pair,
                    err.text);
    else if (ep->config.guard)
        (void)guard_share_inquiry(ep->config.guard, ep->inquiry_fd, NULL);
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
        .callbacks = {.context = ep, .event = on_app, .output = on_app_output},
    };
    return apps_open(&setup, list, ep->pair->application_count, &ep->apps, err);
}

static int open_threads(struct endpoint *ep, struct error *err)
{
    int r = dir_make(ep->safe_path, 0700, err);
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
        .sockets = (const char *const *)ep->sockets,
        .pair_id = ep->pair_id,
        .boot = ep->vitals->boot,
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
        .volumes = (unsigned)ep->pair->volume_count,
        .run = ep->run,
        .seed = random_id(),
    };
    ep->end = end_new(&config);
    return ep->end ? 0 : -ENOMEM;
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
    s->echo_sent_ns = ep->same_boot ? ep->vitals->echo_sent_ns : 0;
    s->unwatched = ep->same_boot && ep->vitals->lease_ns == INT64_MAX;
    ep->frozen_told = s->guard_acted;
    if (s->guard_acted)
        apps_set_frozen(ep->apps, true);
    if (ep->state.role == ROLE_ACTIVE) {
        why[0] = '\0';
        struct service_found queue = {0};
        s->queue_found = front_find_queue(ep->front, &queue, why, sizeof(why));
        s->queue_numbered = queue.numbered;
        s->queue_epoch = queue.epoch;
        s->queue_pending = queue.pending;
        if (why[0])
            endpoint_note(ep, -1, why);
        atomic_store(&ep->figures.numbered, s->queue_numbered);
        ep->serving = true; // the guard may act on what a former run left serving
        begin(ep);
    } else if (ep->state.role == ROLE_PASSIVE) {
        stream_open(ep->stream);
    } else {
        begin(ep);
    }
}

static int poll_add(int epoll, int fd)
{
    struct epoll_event ev = {.events = EPOLLIN};
    return fd < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

static int open_all(struct endpoint *ep, struct error *err)
{
    char path[PATH_SIZE + 16];
    int r = make_places(ep, err);
    if (r == 0)
        r = lock_state(ep, err);
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
        r = start_waypoints(ep, err);
    if (r == 0)
        r = open_apps(ep, err);
    if (r == 0)
        r = open_state(ep, err);
    if (r == 0)
        r = open_channel(ep, err);
    if (r == 0)
        r = open_threads(ep, err);
    if (r == 0)
        r = open_end(ep);
    if (r < 0)
        return r;
    if (ep->config.guard && guard_pair_open(ep->config.guard, ep->pair->pair, &ep->guard, err) < 0)
        return err->code;
    if (ep->guard && guard_pair_state(ep->guard) == GUARD_DESTROYED) {
        // The former run ended before it had renewed the slot.
        guard_pair_close(ep->guard);
        if (guard_pair_open(ep->config.guard, ep->pair->pair, &ep->guard, err) < 0)
            return err->code;
    }
    open_inquiry(ep);
    const int fds[] = {mailbox_fd(ep->reports), channel_fd(ep->channel), apps_fd(ep->apps),
                       ep->waypoints ? waypoint_fd(ep->waypoints) : -1, ep->inquiry_fd};
    for (size_t i = 0; i < ARRAY_LEN(fds) && r == 0; i++)
        r = poll_add(ep->epoll, fds[i]);
    return r < 0 ? error_sys(err, r, "pair %s", ep->pair->pair) : 0;
}

int endpoint_new(const struct endpoint_config *config, struct endpoint **ret_endpoint,
                 struct error *err)
{
    struct endpoint *ep = calloc(1, sizeof(*ep));
    if (!ep)
        return error_sys(err, -ENOMEM, "pair %s", config->pair->pair);
    ep->config = *config;
    ep->pair = config->pair;
    ep->lock_fd = ep->inquiry_fd = -1;
    ep->run = random_id();
    ep->pair_id = checksum64(ep->pair->pair, strlen(ep->pair->pair));
    ep->born_ns = clock_boot_ns();
    ep->plan_stale = true;
    atomic_store(&ep->figures.lease_ns, INT64_MAX);
    ep->epoll = epoll_create1(EPOLL_CLOEXEC);
    ep->reports = mailbox_new();
    int r = ep->epoll < 0 || !ep->reports ? error_sys(err, -ENOMEM, "pair %s", ep->pair->pair)
                                          : open_all(ep, err);
    if (r < 0) {
        endpoint_free(ep);
        return r;
    }
    prepare_start(ep);
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
    announcer_free(ep->announcer);
    waypoint_free(ep->waypoints);
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
    cleanup_close(&ep->lock_fd);
    cleanup_close(&ep->epoll);
    free(ep);
    return NULL;
}
