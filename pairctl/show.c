// SPDX-License-Identifier: Apache-2.0
// The status for a person: what matters first, one thing a line, the same line always at the same
// place.
#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "pairctl/pairctl.h"

#define BAR_CELLS 30

enum tone { TONE_PLAIN, TONE_GOOD, TONE_CARE, TONE_BAD, TONE_DIM };

struct screen {
    FILE *out;
    bool colour;
};

static const char *tone_on(const struct screen *s, enum tone tone)
{
    static const char *const codes[] = {"", "\033[32m", "\033[33m", "\033[1;31m", "\033[2m"};
    return s->colour ? codes[tone] : "";
}

static const char *tone_off(const struct screen *s, enum tone tone)
{
    return s->colour && tone != TONE_PLAIN ? "\033[0m" : "";
}

static void put(const struct screen *s, enum tone tone, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static void put(const struct screen *s, enum tone tone, const char *format, ...)
{
    char text[2048], clean[2048];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    (void)fprintf(s->out, "%s%s%s", tone_on(s, tone), format_clean(text, clean, sizeof(clean)),
                  tone_off(s, tone));
}

static void label(const struct screen *s, const char *name)
{
    (void)fprintf(s->out, "\n  %s%-10s%s ", tone_on(s, TONE_DIM), name, tone_off(s, TONE_DIM));
}

// P/A, S/P: identity and role.
static void badge(const struct pair_status *status, char buffer[4])
{
    buffer[0] = (char)toupper((unsigned char)status->identity[0]);
    buffer[1] = '/';
    buffer[2] = (char)toupper((unsigned char)status->role[0]);
    buffer[3] = '\0';
}

static enum tone protection(const struct pair_status *status, const char **ret_word)
{
    if (status->split) {
        *ret_word = "SPLIT";
        return TONE_BAD;
    }
    if (!status->synchronized) {
        *ret_word = "not synchronized";
        return TONE_BAD;
    }
    if (status->alone || status->stale_ms >= 0 || !status->granted) {
        *ret_word = status->alone ? "alone" : status->stale_ms >= 0 ? "stale" : "no grant";
        return TONE_CARE;
    }
    *ret_word = "synchronized, promotable";
    return TONE_GOOD;
}

static void show_head(const struct screen *s, const struct pair_status *status)
{
    char role[4];
    const char *word;
    enum tone tone = protection(status, &word);
    badge(status, role);
    put(s, TONE_PLAIN, "%s  %s  %s  ", status->pair, role, status->state);
    put(s, tone, "%s", word);
    if (status->paused)
        put(s, TONE_CARE, ", paused");
    put(s, TONE_DIM, "  (%s, takeover %s, epoch %" PRIu64 ")", status->mode, status->takeover,
        status->epoch);
    label(s, "why");
    put(s, TONE_PLAIN, "%s", status->why);
}

static void show_peer(const struct screen *s, const struct pair_status *status)
{
    char silent[FORMAT_SIZE], limit[FORMAT_SIZE], stale[FORMAT_SIZE];
    label(s, "peer");
    put(s, status->peer.connected ? TONE_GOOD : TONE_BAD, "%s",
        status->peer.connected ? "connected" : "not connected");
    if (status->peer.silent_ms >= 0)
        put(s, TONE_PLAIN, ", heard %s ago (timeout %s)", format_ms(status->peer.silent_ms, silent),
            format_ms(status->peer.timeout_ms, limit));
    else
        put(s, TONE_PLAIN, ", never heard in this run");
    if (status->peer.role[0])
        put(s, TONE_PLAIN, ", %s", status->peer.role);
    if (status->peer_host[0])
        put(s, TONE_PLAIN, ", on %s", status->peer_host);
    if (status->peer.refused[0])
        put(s, TONE_BAD, "; refused: %s", status->peer.refused);
    if (status->stale_ms >= 0)
        put(s, TONE_CARE, "; stale for %s", format_ms(status->stale_ms, stale));
}

static void show_forecast(const struct screen *s, const struct pair_status *status)
{
    char bytes[FORMAT_SIZE], age[FORMAT_SIZE], takes[FORMAT_SIZE];
    label(s, "forecast");
    if (status->forecast.loss_ms < 0 && status->forecast.takeover_ms < 0) {
        put(s, TONE_BAD, "nothing to take over with: the replica is in mid-resync");
        return;
    }
    if (status->forecast.loss_bytes == 0 && status->forecast.loss_ms <= 0)
        put(s, TONE_GOOD, "a takeover now loses nothing");
    else
        put(s, TONE_CARE, "a takeover now loses %s, the last %s",
            format_bytes(status->forecast.loss_bytes, bytes),
            format_ms(status->forecast.loss_ms, age));
    if (status->forecast.takeover_ms >= 0)
        put(s, TONE_PLAIN, ", and takes %s", format_ms(status->forecast.takeover_ms, takes));
}

static void show_queue(const struct screen *s, const char *name, const struct status_queue *queue)
{
    char bytes[FORMAT_SIZE], limit[FORMAT_SIZE], age[FORMAT_SIZE];
    unsigned percent = queue->limit_bytes
                           ? (unsigned)((double)queue->bytes * 100 / (double)queue->limit_bytes)
                           : 0;
    enum tone tone = percent >= 75 ? TONE_BAD : percent >= 50 ? TONE_CARE : TONE_PLAIN;
    label(s, name);
    put(s, tone, "%" PRIu64 " records, %s of %s (%u %%)", queue->records,
        format_bytes(queue->bytes, bytes), format_bytes(queue->limit_bytes, limit), percent);
    if (queue->records)
        put(s, TONE_PLAIN, ", the oldest %s old", format_ms(queue->oldest_ms, age));
    if (queue->spilled_bytes)
        put(s, TONE_CARE, ", %s on disk", format_bytes(queue->spilled_bytes, bytes));
}

static void show_positions(const struct screen *s, const struct pair_status *status)
{
    label(s, "positions");
    put(s, TONE_PLAIN,
        "numbered %" PRIu64 ", received %" PRIu64 ", durable %" PRIu64 ", applied %" PRIu64
        ", settled %" PRIu64,
        status->positions.numbered, status->positions.received, status->positions.durable,
        status->positions.applied, status->positions.settled);
}

static void show_volumes(const struct screen *s, const struct pair_status *status)
{
    char size[FORMAT_SIZE], behind[FORMAT_SIZE];
    for (size_t i = 0; i < status->volume_count; i++) {
        const struct status_volume *v = &status->volumes[i];
        label(s, i ? "" : "volumes");
        put(s, TONE_PLAIN, "%s, %s, ", v->name, format_bytes(v->size, size));
        if (v->synchronized)
            put(s, TONE_GOOD, "synchronized");
        else
            put(s, TONE_BAD, "%s out of sync", format_bytes(v->out_of_sync_bytes, behind));
        if (!v->synchronized && status->resync.stalled_ms > 0)
            put(s, TONE_BAD, " (not shrinking for %s: the writers outpace the link)",
                format_ms(status->resync.stalled_ms, size));
        put(s, TONE_PLAIN, ", %s", v->serving ? "served at " : "not served here");
        if (v->serving)
            put(s, TONE_PLAIN, "%s", v->export);
        if (v->error[0])
            put(s, TONE_BAD, "; store: %s", v->error);
    }
}

static void show_address(const struct screen *s, const struct pair_status *status)
{
    label(s, "address");
    if (status->public_address.address_count == 0) {
        put(s, TONE_PLAIN, "none configured");
        return;
    }
    put(s, TONE_PLAIN, "%s:", status->public_address.enabled ? "here" : "not here");
    for (size_t i = 0; i < status->public_address.address_count; i++)
        put(s, TONE_PLAIN, " %s", status->public_address.addresses[i]);
    if (status->public_address.interface[0])
        put(s, TONE_PLAIN, " on %s", status->public_address.interface);
}

static void show_applications(const struct screen *s, const struct pair_status *status)
{
    bool active = strcmp(status->role, "active") == 0;
    for (size_t i = 0; i < status->application_count; i++) {
        const struct status_application *a = &status->applications[i];
        bool running = strcmp(a->state, "running") == 0;
        enum tone tone = running ? TONE_GOOD : active ? TONE_BAD : TONE_PLAIN;
        label(s, i ? "" : "runs");
        put(s, TONE_PLAIN, "%s (%s): ", a->name, a->kind);
        put(s, tone, "%s", a->state);
        if (a->restarts)
            put(s, TONE_CARE, ", restarted %" PRIu32 " times", a->restarts);
        if (a->text[0])
            put(s, TONE_PLAIN, ", %s", a->text);
    }
}

static void show_paths(const struct screen *s, const struct pair_status *status)
{
    for (size_t i = 0; i < status->path_count; i++) {
        const struct status_path *p = &status->paths[i];
        label(s, i ? "" : "paths");
        put(s, TONE_PLAIN, "%s: ", p->name);
        put(s, p->up ? TONE_GOOD : TONE_BAD, "%s", p->up ? "up" : "down");
        put(s, TONE_PLAIN, ", %s to %s", p->local, p->remote);
        if (p->rtt_us >= 0)
            put(s, TONE_PLAIN, ", %.2f ms", (double)p->rtt_us / 1000);
        if (p->data)
            put(s, TONE_PLAIN, ", carries data");
    }
}

static void show_waypoints(const struct screen *s, const struct pair_status *status)
{
    char silent[FORMAT_SIZE];
    for (size_t i = 0; i < status->waypoint_count; i++) {
        const struct status_waypoint *w = &status->waypoints[i];
        label(s, i ? "" : "waypoints");
        put(s, TONE_PLAIN, "%s ", w->address);
        if (w->answers)
            put(s, TONE_GOOD, "answers");
        else if (w->silent_ms < 0)
            put(s, TONE_BAD, "has never answered");
        else
            put(s, TONE_BAD, "silent for %s", format_ms(w->silent_ms, silent));
    }
}

void show_progress(const struct status_resync *resync, FILE *out)
{
    char done[FORMAT_SIZE], total[FORMAT_SIZE], rate[FORMAT_SIZE], left[FORMAT_SIZE];
    double part =
        resync->total_bytes ? (double)resync->done_bytes / (double)resync->total_bytes : 0;
    part = MIN(part, 1.0);
    int cells = (int)(part * BAR_CELLS);
    (void)fputc('[', out);
    for (int i = 0; i < BAR_CELLS; i++)
        (void)fputc(i < cells ? '#' : '.', out);
    (void)fprintf(out, "] %5.1f %%  %s of %s, %s/s, %s left", part * 100,
                  format_bytes(resync->done_bytes, done), format_bytes(resync->total_bytes, total),
                  format_bytes(resync->rate, rate), format_ms(resync->left_ms, left));
}

static void show_resync(const struct screen *s, const struct pair_status *status)
{
    if (!status->resync.active)
        return;
    label(s, "resync");
    put(s, TONE_CARE, "%s of %s%s  ", status->resync.kind, status->resync.volume,
        status->resync.paused ? ", paused" : "");
    show_progress(&status->resync, s->out);
}

static void show_verify(const struct screen *s, const struct pair_status *status)
{
    const struct status_verify *v = &status->verify;
    char time[FORMAT_SIZE], bytes[FORMAT_SIZE];
    if (v->active) {
        const struct status_resync progress = {
            .done_bytes = v->done_bytes, .total_bytes = v->total_bytes, .rate = v->rate, .left_ms = v->left_ms};
        label(s, "verify");
        show_progress(&progress, s->out);
    }
    if (v->equal_time_ms >= 0) {
        label(s, "equal");
        put(s, TONE_PLAIN, "last proven %s, at seq %" PRIu64 " of epoch %" PRIu64, format_time(v->equal_time_ms, time),
            v->equal_seq, v->equal_epoch);
    }
    if (!v->differing_bytes)
        return;
    label(s, "differs");
    put(s, TONE_BAD, "%s, found by the last verify%s", format_bytes(v->differing_bytes, bytes),
        v->repair_waits ? "; repair: pairctl verify --repair" : "; being repaired, or repaired");
    for (size_t i = 0; i < v->range_count; i++) {
        label(s, "");
        put(s, TONE_BAD, "%s: %" PRIu64 " bytes at %" PRIu64, v->ranges[i].volume, v->ranges[i].length,
            v->ranges[i].offset);
    }
}

static void show_rest(const struct screen *s, const struct pair_status *status)
{
    char time[FORMAT_SIZE], left[FORMAT_SIZE];
    label(s, "guard");
    put(s, status->guard.alive ? TONE_PLAIN : TONE_BAD, "%s",
        status->guard.alive ? "alive" : "not running");
    if (status->guard.deadline_ms >= 0)
        put(s, TONE_PLAIN, ", acts in %s unless told otherwise",
            format_ms(status->guard.deadline_ms, left));
    if (status->operation.id) {
        label(s, "operation");
        put(s, TONE_PLAIN, "%s %s: %s", status->operation.name, status->operation.state,
            status->operation.text);
    }
    if (status->has_last_event) {
        label(s, "last");
        put(s, TONE_PLAIN, "%s %s: %s", format_time(status->last_event.real_ms, time),
            status->last_event.step, status->last_event.text);
    }
}

static void show_epochs(const struct screen *s, const char *whose, const struct status_epoch *epochs, size_t count)
{
    label(s, "");
    put(s, TONE_PLAIN, "%s", whose);
    for (size_t i = 0; i < count; i++)
        put(s, TONE_PLAIN, "%s epoch %u (%s, opened by the %s)", i ? "," : "", epochs[i].number, epochs[i].reason,
            epochs[i].opened_by);
    if (count == 0)
        put(s, TONE_PLAIN, " nothing that the other end does not know");
}

static void show_split(const struct screen *s, const struct pair_status *status)
{
    const struct status_divergence *d = &status->divergence;
    char bytes[FORMAT_SIZE];
    if (!status->split)
        return;
    label(s, "split");
    if (!d->known)
        put(s, TONE_BAD, "the ends are not in a meeting now: nothing more is known");
    else if (d->counted)
        put(s, TONE_BAD, "at most %" PRIu64 " regions, %s, differ", d->regions, format_bytes(d->bytes, bytes));
    else
        put(s, TONE_BAD, "how much differs is being counted");
    if (d->known) {
        show_epochs(s, "Primary:  ", d->primary, d->primary_count);
        show_epochs(s, "Secondary:", d->secondary, d->secondary_count);
        label(s, "");
        put(s, TONE_CARE, "pairctl resolve --keep primary|secondary; what the other end holds goes to salvage");
    }
}

static void show_salvage(const struct screen *s, const struct pair_status *status)
{
    char used[FORMAT_SIZE], limit[FORMAT_SIZE];
    if (!status->salvage.active && !status->salvage.full)
        return;
    label(s, "salvage");
    put(s, status->salvage.full ? TONE_BAD : TONE_CARE, "%s, %s of %s; see pairctl salvage list",
        status->salvage.full ? "FULL: nothing is applied here" : "what is overwritten is kept",
        format_bytes(status->salvage.bytes, used), format_bytes(status->salvage.limit_bytes, limit));
}

static void show_end(const struct screen *s, const struct pair_status *status)
{
    show_head(s, status);
    show_split(s, status);
    show_resync(s, status);
    show_verify(s, status);
    show_salvage(s, status);
    show_forecast(s, status);
    show_peer(s, status);
    show_queue(s, "unsafe", &status->unsafe_queue);
    show_queue(s, "safe", &status->safe_queue);
    show_positions(s, status);
    show_volumes(s, status);
    show_address(s, status);
    show_applications(s, status);
    show_paths(s, status);
    show_waypoints(s, status);
    show_rest(s, status);
    (void)fputc('\n', s->out);
}

static void show_line(const struct screen *s, const struct pair_status *status)
{
    char role[4], loss[FORMAT_SIZE];
    const char *word;
    enum tone tone = protection(status, &word);
    badge(status, role);
    put(s, TONE_PLAIN, "%-20s %s  %-16s ", status->pair, role, status->state);
    put(s, tone, "%-26s", word);
    put(s, TONE_PLAIN, "%9s  %s", format_bytes(status->forecast.loss_bytes, loss), status->why);
    (void)fputc('\n', s->out);
}

// One or two ends in full; more as a table.
void show_ends(const struct ends *ends, bool colour, FILE *out)
{
    struct screen s = {out, colour};
    bool table = ends->count > 2;
    if (table)
        put(&s, TONE_DIM, "%-20s %s %-16s  %-26s%9s  %s", "PAIR", "ROLE", "STATE", "PROTECTION",
            "LOSS", "WHY");
    if (table)
        (void)fputc('\n', out);
    for (size_t i = 0; i < ends->count; i++) {
        if (table) {
            show_line(&s, &ends->items[i].status);
            continue;
        }
        if (i)
            (void)fputc('\n', out);
        show_end(&s, &ends->items[i].status);
    }
}
