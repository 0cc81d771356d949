// SPDX-License-Identifier: Apache-2.0
// What a start would make of what was found: the start rule of common/end (docs/roles.md) and the opening of the queues,
// in sentences. It says what is decided by what lies here; what the meeting with the peer decides it names as such.
#include <inttypes.h>
#include <stdarg.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "pairctl/fsck.h"

static void say(struct fsck *f, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct fsck *f, const char *format, ...)
{
    va_list args;
    if (f->start_count == FSCK_START_MAX)
        return;
    struct fsck_sentence *to = &f->start[f->start_count++];
    va_start(args, format);
    (void)vsnprintf(to->text, sizeof(to->text), format, args);
    va_end(args);
}

static uint64_t held(const struct safe_recovery *r)
{
    return r->last + 1 - r->first;
}

static void safe_held(struct fsck *f)
{
    const struct safe_recovery *r = &f->safe.recovery;
    if (held(r) > 0)
        say(f, "replays the records %" PRIu64 " to %" PRIu64 " of its safe queue", r->first, r->last);
}

static void start_safe(struct fsck *f)
{
    const struct safe_recovery *r = &f->safe.recovery;
    if (!f->safe_there || r->verdict == SAFE_EMPTY) {
        say(f, "holds no received records: what it lacks comes from its peer by a resync");
        return;
    }
    safe_held(f);
    if (r->verdict == SAFE_TORN)
        say(f,
            "cuts the torn tail at seq %" PRIu64 " (safe/segment.%04u, offset %" PRIu64
            "), which is normal after a crash: nothing behind it had been confirmed",
            r->at_seq, r->slot, r->offset);
    if (r->verdict == SAFE_DAMAGED)
        say(f,
            "stops its replay in front of the damage at seq %" PRIu64 " (safe/segment.%04u, offset %" PRIu64
            "), says so, and applies nothing behind it, where %" PRIu64
            " records look whole; it is not promotable until its peer has resynced what follows",
            r->at_seq, r->slot, r->offset, r->beyond_records);
    else
        say(f, "asks its peer to go on with the stream at seq %" PRIu64 ", or by a resync where that is gone",
            r->last + 1);
}

static bool queue_fits(const struct fsck *f)
{
    const struct epoch *at = history_current(&f->state.history);
    if (!at || f->queue.epoch == at->id || f->queue.epoch == 0)
        return at != NULL;
    // The run ended between the opening of its epoch and the record of it; or that epoch was still being saved.
    return (at->parents > 0 && at->parent[0].id == f->queue.epoch) ||
           (f->state.alone && f->queue.opening.id == f->queue.epoch && epoch_goes_on(&f->queue.opening, at));
}

static void start_with_queue(struct fsck *f)
{
    if (f->spill_damages)
        say(f, "finds that what its unsafe queue has on disk is damaged: it gives the peer's place in the queue up, and the "
               "peer is resynced by the map");
    say(f, "takes its unsafe queue back: %" PRIu64 " records up to seq %" PRIu64 "%s, and %u updates in flight are written again",
        f->queue.numbered - f->queue.floor, f->queue.numbered, f->queue.numbered == f->queue.floor ? "" : " are still to be confirmed",
        f->queue.pending);
    if (f->stepped_down)
        say(f, "starts passive with its applications frozen, because the guard has stepped it down; it goes on with this "
               "queue when the peer agrees");
    else
        say(f, "goes on as active, if it starts before the guard's deadline; else it waits for its peer, and goes on "
               "with this queue when the peer agrees");
}

static void start_without_queue(struct fsck *f)
{
    const char *why = !f->runtime[0]       ? "was not looked for (--runtime-dir)"
                      : !f->unsafe_there   ? "is not there"
                      : !f->queue.usable   ? "is damaged, and void"
                      : !f->same_boot      ? "is of another boot of this machine, and void"
                                           : "is of another epoch than the state";
    say(f, "its unsafe queue %s", why);
    say(f, "starts passive, public address off, and waits for its peer%s",
        f->state.alone ? "; it had acknowledged alone, so it may become active by itself where no veto holds" : "");
    say(f, "becomes it active again, it opens a new epoch above seq %" PRIu64 ", and the peer is resynced by the map",
        f->state.bound);
}

static void start_active(struct fsck *f)
{
    if (f->state.intent == INTENT_HANDED_OVER) {
        say(f, "starts passive: it has handed its role over at seq %" PRIu64, f->state.position);
        return;
    }
    if (f->state.stopped) {
        say(f, "starts passive: an operator has stopped the protection; it asks its peer before it serves");
        return;
    }
    if (f->unsafe_there && f->queue.usable && f->same_boot && queue_fits(f))
        start_with_queue(f);
    else
        start_without_queue(f);
}

static void start_maps(struct fsck *f)
{
    uint64_t recorded = f->state.map_void;
    if (recorded)
        say(f, "counts %d of its intent maps as wholly set: its state says that they are void", __builtin_popcountll(recorded));
    if (f->map_whole)
        say(f, "counts %u of its intent maps as wholly set, because they are damaged, and makes them anew", f->map_whole);
    if (f->state.held)
        say(f, "still has %d volumes that a verify found to differ: they wait for pairctl verify --repair",
            __builtin_popcountll(f->state.held));
    if (f->state.salvage)
        say(f, "salvages what it held alone on %d of its volumes before that is overwritten",
            __builtin_popcountll(f->state.salvage));
}

static void start_volumes(struct fsck *f)
{
    uint64_t mask = f->state.role == ROLE_ACTIVE ? f->state.pending : f->state.inconsistent;
    if (!mask)
        return;
    if (f->state.role == ROLE_ACTIVE)
        say(f, "%d of its volumes still need a resync of the peer, which is not promotable until then",
            __builtin_popcountll(mask));
    else
        say(f, "%d of its volumes are in the middle of a resync: it is not promotable, except by takeover "
               "--accept-inconsistent",
            __builtin_popcountll(mask));
}

void fsck_start(struct fsck *f)
{
    if (f->state_there && !f->state_readable) {
        say(f, "starts passive; its meeting with the peer is treated as a split: nothing is overwritten until pairctl "
               "resolve");
        return;
    }
    if (f->state.role == ROLE_NONE) {
        say(f, "starts passive and empty: it has never been part of a running pair%s",
            f->safe_there && f->safe.recovery.verdict != SAFE_EMPTY ? ", although there is a safe queue" : "");
        return;
    }
    if (f->state.intent == INTENT_TAKEOVER)
        say(f, "the takeover that it had begun is void");
    if (f->state.role == ROLE_ACTIVE)
        start_active(f);
    else
        start_safe(f);
    start_volumes(f);
    start_maps(f);
}
