// SPDX-License-Identifier: Apache-2.0
// What `pairctl status` shows of an end.
#include <assert.h>
#include <string.h>

#include "common/config/places.h"
#include "common/daemon/endpoint_private.h"
#include "queues/intent.h"

#define SET(field, ...) (void)snprintf(field, sizeof(field), __VA_ARGS__)

static int64_t age_ms(int64_t now, int64_t then)
{
    return then ? MAX((now - then) / NS_PER_MS, 0) : -1;
}

static void fill_queues(struct endpoint *ep, uint64_t told, struct pair_status *s)
{
    struct figures *g = &ep->figures;
    int64_t now = clock_boot_ns();
    int64_t oldest = atomic_load(&g->queue_oldest_ns);
    s->unsafe_queue.records = atomic_load(&g->queue_records);
    s->unsafe_queue.bytes = s->unsafe_queue.records ? atomic_load(&g->queue_bytes) : 0;
    s->unsafe_queue.oldest_ms =
        s->unsafe_queue.records && oldest ? MAX((now - oldest) / NS_PER_MS, 0) : 0;
    s->unsafe_queue.limit_bytes = atomic_load(&g->queue_limit);
    if (s->unsafe_queue.limit_bytes == 0) // it has none yet
        s->unsafe_queue.limit_bytes = ep->pair->queues.memory + ep->pair->queues.spill;
    s->unsafe_queue.spilled_bytes = atomic_load(&g->queue_spilled);
    s->safe_queue.records = atomic_load(&g->safe_records);
    s->safe_queue.bytes = atomic_load(&g->safe_bytes);
    oldest = atomic_load(&g->safe_oldest_ns);
    s->safe_queue.oldest_ms =
        s->safe_queue.records && oldest ? MAX((now - oldest) / NS_PER_MS, 0) : 0;
    s->safe_queue.limit_bytes = ep->pair->queues.safe;
    if (ep->serving) {
        s->positions.numbered = atomic_load(&g->numbered);
        s->positions.received = atomic_load(&g->received);
        s->positions.durable = atomic_load(&g->durable);
        s->positions.applied = atomic_load(&g->applied);
        s->positions.settled = atomic_load(&g->settled);
    } else {
        s->positions.received = s->positions.durable = atomic_load(&g->replica_durable);
        s->positions.applied = atomic_load(&g->replica_applied);
        s->positions.settled = atomic_load(&g->replica_settled);
        // As the active end has told with its last heartbeat; what has come since is newer.
        s->positions.numbered = MAX(told, s->positions.received);
    }
}

static void fill_volumes(struct endpoint *ep, const struct end_view *view, struct pair_status *s)
{
    // The active end tells how much it is together: the volumes are gone over in their order, from the first one on.
    bool told = !view->active && view->connected && view->peer_active && view->session;
    uint64_t rest = view->peer_behind;
    s->volume_count = ep->pair->volume_count;
    for (size_t i = 0; i < s->volume_count; i++) {
        const struct pair_volume_config *v = &ep->pair->volumes[i];
        struct status_volume *out = &s->volumes[i];
        uint64_t bit = UINT64_C(1) << i;
        bool behind = ((view->pending | view->inconsistent) & bit) || view->epoch.number == 0;
        SET(out->name, "%s", v->name);
        SET(out->export, "%s", ep->sockets[i]);
        SET(out->store, "%s", pair_volume_store(v, ep->config.side)->path);
        out->size = v->size;
        out->serving = view->state == END_ACTIVE;
        out->synchronized = !behind;
        if (behind)
            out->out_of_sync_bytes = view->active && view->epoch.number
                                         ? atomic_load(&ep->figures.out_of_sync[i])
                                         : v->size; // as long as nobody has told better
    }
    for (size_t i = s->volume_count; told && i-- > 0;) {
        struct status_volume *out = &s->volumes[i];
        out->out_of_sync_bytes = MIN(out->out_of_sync_bytes, rest);
        rest -= out->out_of_sync_bytes;
    }
}

// A resync that takes nothing away for so long has writers against it that are faster.
#define STALLED_NS (10 * NS_PER_S)

static void fill_resync(struct endpoint *ep, const struct end_view *view, int64_t now,
                        struct pair_status *s)
{
    uint64_t total = atomic_load(&ep->figures.resync_total);
    uint64_t done = atomic_load(&ep->figures.resync_done);
    int64_t began = atomic_load(&ep->figures.resync_began_ns);
    int64_t least = atomic_load(&ep->figures.least_ns);
    bool works = view->active && view->pending && view->connected && !view->paused;
    s->resync.stalled_ms = works && least && now - least >= STALLED_NS ? (now - least) / NS_PER_MS : -1;
    if (!view->active || !view->pending || !total)
        return;
    s->resync.active = true;
    s->resync.paused = view->paused;
    uint64_t size = 0;
    for (size_t i = 0; i < ep->pair->volume_count; i++)
        size += view->pending >> i & 1 ? ep->pair->volumes[i].size : 0;
    SET(s->resync.kind, "%s", total < size ? "partial" : "full");
    s->resync.done_bytes = done;
    s->resync.total_bytes = total;
    s->resync.left_ms = -1;
    for (size_t i = 0; i < ep->pair->volume_count; i++) {
        if (view->pending >> i & 1) {
            SET(s->resync.volume, "%s", ep->pair->volumes[i].name);
            break;
        }
    }
    if (now > began && done > 0) {
        s->resync.rate = (uint64_t)((double)done * 1e9 / (double)(now - began));
        if (s->resync.rate)
            s->resync.left_ms = (int64_t)((total - MIN(done, total)) * 1000 / s->resync.rate);
    }
}

static void fill_verify(struct endpoint *ep, const struct end_view *view, int64_t now, struct pair_status *s)
{
    struct status_verify *v = &s->verify;
    int64_t began = atomic_load(&ep->figures.verify_began_ns);
    v->left_ms = v->equal_time_ms = -1;
    if (view->proven.time) {
        v->equal_time_ms = (int64_t)(view->proven.time / NS_PER_MS);
        v->equal_epoch = view->proven.number;
        v->equal_epoch_id = view->proven.epoch;
        v->equal_seq = view->proven.seq;
    }
    v->repair_waits = view->active && view->held;
    const struct verify_result *last = view->verified;
    v->differing_bytes = last ? last->differing_bytes : 0;
    for (unsigned i = 0; last && i < last->range_count; i++) {
        const struct verify_range *range = &last->ranges[i];
        SET(v->ranges[i].volume, "%s", ep->pair->volumes[range->object].name);
        v->ranges[i].offset = range->offset;
        v->ranges[i].length = range->length;
        v->range_count = i + 1;
    }
    v->total_bytes = atomic_load(&ep->figures.verify_total);
    v->active = view->verifying;
    if (!v->active || !v->total_bytes)
        return;
    v->done_bytes = atomic_load(&ep->figures.verify_done);
    if (now > began && v->done_bytes > 0)
        v->rate = (uint64_t)((double)v->done_bytes * 1e9 / (double)(now - began));
    if (v->rate)
        v->left_ms = (int64_t)((v->total_bytes - MIN(v->done_bytes, v->total_bytes)) * 1000 / v->rate);
}

static void fill_addresses(struct endpoint *ep, int64_t now, struct pair_status *s)
{
    s->public_address.enabled = ep->address_on;
    s->public_address.address_count = ep->address_count;
    SET(s->public_address.interface, "%s", ep->interface ? ep->interface : "");
    for (size_t i = 0; i < ep->address_count; i++)
        SET(s->public_address.addresses[i], "%s", ep->pair->public_address.addresses[i]);
    if (!ep->waypoints)
        return;
    const struct waypoint_monitor *monitor = waypoints_monitor(ep->waypoints);
    s->waypoint_count = waypoint_count(monitor);
    for (size_t i = 0; i < s->waypoint_count; i++) {
        struct waypoint_status w;
        char text[IP_TEXT_SIZE];
        waypoint_status(monitor, i, &w);
        SET(s->waypoints[i].address, "%s", ip_format_bare(&w.ip, text));
        bool ever = w.answered_ns != WAYPOINT_NEVER && w.answers > 0;
        s->waypoints[i].silent_ms = ever ? age_ms(now, w.answered_ns) : -1;
        s->waypoints[i].answers = ever && now - w.answered_ns < 2 * WAYPOINT_CALM_NS;
    }
}

static void fill_applications(struct endpoint *ep, struct pair_status *s)
{
    s->application_count = apps_count(ep->apps);
    for (size_t i = 0; i < s->application_count; i++) {
        struct app_status a;
        apps_status(ep->apps, i, &a);
        SET(s->applications[i].name, "%s", a.name);
        SET(s->applications[i].kind, "%s", app_kind_name(a.kind));
        SET(s->applications[i].state, "%s", app_state_name(a.state));
        SET(s->applications[i].text, "%s", a.why);
        s->applications[i].restarts = (uint32_t)a.restarts;
    }
}

static void fill_paths(struct endpoint *ep, struct pair_status *s)
{
    int n = channel_paths(ep->channel);
    for (int i = 0; i < n && s->path_count < STATUS_PATHS_MAX; i++) {
        struct channel_path_info info;
        struct status_path *p = &s->paths[s->path_count++];
        channel_path_info(ep->channel, i, &info);
        if (info.kind == CHANNEL_PATH_PUBLIC)
            SET(p->name, "public");
        else
            SET(p->name, "%d", i + 1);
        SET(p->local, "%s", info.mine);
        SET(p->remote, "%s", info.peers);
        p->up = info.control.up;
        p->data = info.data_current;
        p->rtt_us = -1;
    }
}

// What a takeover this instant would lose, and how long it would take: from what is queued now and
// what was measured.
static void fill_forecast(struct endpoint *ep, const struct end_view *view, int64_t now,
                          struct pair_status *s)
{
    s->forecast.loss_ms = s->forecast.takeover_ms = -1;
    if (view->epoch.number == 0 || (view->active ? view->pending : view->inconsistent))
        return; // the replica is in mid-resync: there is nothing to promote
    s->forecast.loss_ms = 0;
    if (ep->pair->mode != PAIR_STRICT) {
        s->forecast.loss_bytes = view->active ? s->unsafe_queue.bytes : view->peer_backlog;
        s->forecast.loss_ms =
            view->active ? s->unsafe_queue.oldest_ms : MAX(age_ms(now, view->heard_ns), 0);
    }
    uint64_t rate = atomic_load(&ep->figures.replay_rate);
    int64_t replay = rate ? (int64_t)(s->safe_queue.bytes * 1000 / rate) : 0;
    s->forecast.takeover_ms = ep->pair->timing.timeout_ms + 220 + replay + ep->apps_start_ms;
}

// What speaks against a takeover; and the options that override precisely that.
static void fill_verdict(const struct end_verdict *v, struct status_operation *o)
{
    char forced[sizeof(o->override)] = "";
    size_t at = 0;
    static_assert(END_VETO_COUNT <= STATUS_VETOES_MAX, "every veto has a place");
    for (unsigned i = 0; i < END_VETO_COUNT; i++) {
        uint32_t bit = UINT32_C(1) << i;
        if (!(v->vetoes & bit))
            continue;
        struct status_veto *veto = &o->vetoes[o->veto_count++];
        SET(veto->name, "%s", end_veto_name(i));
        SET(veto->text, "%s", v->text[i]);
        veto->overridden = v->overridden & bit;
        if (bit != END_VETO_INCONSISTENT && at < sizeof(forced))
            at += (size_t)snprintf(forced + at, sizeof(forced) - at, "%s%s", at ? "," : "--force=", end_veto_name(i));
    }
    if (v->vetoes & ~v->overridden)
        SET(o->override, "%s%s%.400s", v->vetoes & END_VETO_INCONSISTENT ? "--accept-inconsistent" : "",
            (v->vetoes & END_VETO_INCONSISTENT) && at ? " " : "", forced);
    SET(o->age, "%s", v->age);
    o->loss = (struct status_loss){
        .known = v->loss_known,
        .more = v->loss_known && (v->vetoes & END_VETO_GRANT),
        .records = v->records,
        .bytes = v->bytes,
        .age_ms = v->age_ns / NS_PER_MS,
    };
}

static void fill_operation(const struct end_view *view, uint64_t id, struct pair_status *s)
{
    static const char *const states[] = {"", "running", "done", "failed"};
    if (!view->operation)
        return;
    s->operation.id = id;
    SET(s->operation.name, "%s", view->operation);
    SET(s->operation.state, "%s", states[view->operation_result]);
    SET(s->operation.text, "%s", view->operation_text);
    // Its progress, in steps that a person can follow.
    if (view->verifying && s->verify.total_bytes)
        SET(s->operation.text, "%s: %u %%", view->operation_text,
            (unsigned)(s->verify.done_bytes * 20 / s->verify.total_bytes) * 5);
    if (strcmp(view->operation, "takeover") == 0)
        fill_verdict(view->verdict, &s->operation);
}

static size_t list_epochs(const struct epoch_history *of, const struct epoch_history *but,
                          struct status_epoch *epochs)
{
    size_t count = 0;
    for (uint32_t i = 0; i < of->count; i++) {
        const struct epoch *e = &of->epochs[i];
        if (history_contains(but, e->id))
            continue;
        if (count == STATUS_EPOCHS_MAX)
            memmove(&epochs[0], &epochs[1], --count * sizeof(epochs[0]));
        epochs[count] = (struct status_epoch){.number = e->number, .id = e->id, .first_seq = e->first_seq};
        SET(epochs[count].opened_by, "%s", epoch_opener_name(e->opened_by));
        SET(epochs[count].reason, "%s", epoch_reason_name(e->reason));
        count++;
    }
    return count;
}

static void fill_split(struct endpoint *ep, const struct end_view *view, struct pair_status *s)
{
    struct status_divergence *d = &s->divergence;
    const struct epoch_history *own = view->own_history, *peer = view->peer_history;
    bool primary = ep->config.side == PAIR_PRIMARY;
    s->split = view->split;
    d->known = view->split && view->session && own->count + peer->count > 0;
    if (!d->known)
        return;
    d->primary_count = list_epochs(primary ? own : peer, primary ? peer : own, d->primary);
    d->secondary_count = list_epochs(primary ? peer : own, primary ? own : peer, d->secondary);
    d->counted = view->counted;
    if (!view->counted)
        return;
    d->regions = view->differing_regions;
    for (size_t i = 0; i < ep->pair->volume_count; i++)
        if (view->differing_volumes >> i & 1)
            d->regions += (ep->pair->volumes[i].size + INTENT_REGION - 1) / INTENT_REGION;
    d->bytes = d->regions * INTENT_REGION;
}

static void fill_salvage(struct endpoint *ep, struct pair_status *s)
{
    struct figures *g = &ep->figures;
    s->salvage.active = !ep->serving && atomic_load(&g->salvaging) != 0;
    s->salvage.full = !ep->serving && atomic_load(&g->salvage_full);
    s->salvage.bytes = atomic_load(&g->salvage_bytes);
    s->salvage.limit_bytes = ep->pair->queues.salvage;
}

static void fill_role(struct endpoint *ep, const struct end_view *view, int64_t now,
                      struct pair_status *s)
{
    SET(s->pair, "%s", ep->pair->pair);
    SET(s->identity, "%s", pair_end_name(ep->config.side));
    SET(s->role, "%s", view->active ? "active" : "passive");
    SET(s->state, "%s", end_state_name(view->state));
    SET(s->why, "%s", view->why);
    SET(s->mode, "%s", pair_mode_name(ep->pair->mode));
    SET(s->takeover, "%s", pair_takeover_name(ep->pair->takeover));
    SET(s->host, "%s", pair_config_end(ep->pair, ep->config.side)->host);
    SET(s->peer_host, "%s", pair_config_end(ep->pair, pair_peer(ep->config.side))->host);
    s->epoch = view->epoch.number;
    s->epoch_id = view->epoch.id;
    s->synchronized = view->synchronized;
    s->alone = view->alone;
    s->paired = view->paired;
    s->granted = view->granted;
    s->paused = view->paused;
    s->stale_ms = age_ms(now, view->stale_since_ns);
    s->grant_left_ms = view->grant_until_ns > now ? (view->grant_until_ns - now) / NS_PER_MS : -1;
    s->session = view->session;
    s->run = ep->run;
    s->uptime_ms = (now - ep->born_ns) / NS_PER_MS;
    s->peer.connected = view->connected;
    s->peer.silent_ms = age_ms(now, view->heard_ns);
    s->peer.longest_silence_ms = ep->heard_session ? ep->silence_ns / NS_PER_MS : -1;
    s->peer.timeout_ms = ep->pair->timing.timeout_ms;
    SET(s->peer.refused, "%s", ep->channel_refused);
    SET(s->peer.role, "%s", !view->connected ? "" : view->peer_active ? "active" : "passive");
}

void endpoint_status(struct endpoint *ep, struct pair_status *s)
{
    struct end_view view;
    int64_t now = clock_boot_ns();
    memset(s, 0, sizeof(*s));
    end_view(ep->end, now, &view);
    fill_role(ep, &view, now, s);
    fill_queues(ep, view.peer_position, s);
    fill_volumes(ep, &view, s);
    fill_resync(ep, &view, now, s);
    fill_verify(ep, &view, now, s);
    fill_split(ep, &view, s);
    fill_salvage(ep, s);
    fill_addresses(ep, now, s);
    fill_applications(ep, s);
    fill_paths(ep, s);
    fill_forecast(ep, &view, now, s);
    fill_operation(&view, ep->operation, s);
    s->guard.alive = ep->guard != NULL;
    bool watched = ep->deadline_ns != INT64_MAX;
    s->guard.deadline_ms = watched ? MAX((ep->deadline_ns - now) / NS_PER_MS, 0) : -1;
    const struct status_event *last = history_newest(ep->history);
    s->has_last_event = last != NULL;
    if (last)
        s->last_event = *last;
}
