// SPDX-License-Identifier: Apache-2.0
// A split, resolved by the operator: `resolve --keep`. The end that is kept opens an epoch with both lines as its
// parents; the other one finds its own epoch in that history when they meet, follows by the map, and what it held alone
// goes to salvage first.
//
// The order is the promise. The other end stops serving before anything is opened: it says so in a meeting, with its
// address off and its queue gone, so that it could only go on by opening an epoch of its own, which is a split again and
// no merge. The one durable step is the epoch (E6): before it nothing has changed, behind it the line of the end that is
// kept is ahead, whatever crashes.
//
// Also resolved so: an end whose state is damaged. If the other one is kept, it forgets (durably) what it was, with
// everything on its volumes to be salvaged; if it is kept itself, its epoch is a child of the other one's line.
#include "common/end/end_private.h"

#include <stdio.h>
#include <string.h>

#define PATIENCE_NS (30 * NS_PER_S)

static bool is_split(const struct end *e)
{
    enum meet_row row = e->session.meeting.row;
    return (e->state == END_SPLIT || e->state == END_ACTIVE) &&
           (row == MEET_SPLIT || row == MEET_UNREADABLE);
}

const char *resolve_refusal(const struct end *e)
{
    if (e->resolve.wanted || e->resolve.opening)
        return "a split is being resolved already";
    if (e->state == END_SUSPENDED)
        return "this end has stepped down: wait until it has met its peer";
    if (!is_split(e))
        return "this pair is not split: nothing is to be resolved";
    if (!peer_heard(e) || e->session.stage != SESSION_MET)
        return "the other end is not connected: it has to stop serving before anything is decided";
    if (e->paused)
        return "this end is paused: resume it first";
    if (!e->st.history.count && !e->unreadable)
        return "this end is empty: it can be kept when it serves (pairctl takeover --force), from its own store as it is";
    if (e->st.inconsistent && !e->unreadable && e->st.role != ROLE_ACTIVE)
        return "the replica of the end that is to be kept is inconsistent";
    if (e->st.role == ROLE_PASSIVE && e->replica == REPLICA_DEAD && !e->unreadable)
        return "the replica of the end that is to be kept failed";
    return NULL;
}

void resolve_begin(struct end *e)
{
    e->resolve.wanted = true;
    e->resolve.since_ns = e->now;
    end_note(e, "the operator resolves the split: this end is kept");
    beat_soon(e);
}

static void give_up(struct end *e, const char *why)
{
    e->resolve.wanted = false;
    end_note(e, "the split is not resolved: %s", why);
    if (e->operation.name && e->operation.result == STEP_PENDING)
        end_operation(e, e->operation.name, STEP_FAILED, "%s", why);
}

void resolve_tick(struct end *e)
{
    const struct session *s = &e->session;
    if (!e->resolve.wanted || !s->number || s->stage != SESSION_MET)
        return;
    if (!(s->peer.serving && is_split(e)) && !s->peer.unreadable)
        return;
    struct frame f = frame_new(e, FRAME_YIELD);
    frame_send(e, &f);
}

// The other end does not serve: this one's line goes on.
static void open_epoch(struct end *e)
{
    e->resolve.wanted = false;
    e->resolve.opening = true;
    e->resolve.other = e->session.peer.history;
    if (e->state == END_ACTIVE) {
        // As when it goes alone, which it is: answers are held while the epoch is made durable.
        e->relation = REL_GOING_ALONE;
        e->alone_stage = ALONE_HOLD;
        (void)snprintf(e->alone_why, sizeof(e->alone_why), "the split is resolved, this end is kept");
        end_gate(e, GATE_HELD);
        return;
    }
    if (e->unreadable) {
        // What it was is not known: it goes on from its own store, as a child of the only line that is.
        e->unreadable = false;
        e->st.history = e->resolve.other;
        e->resolve.other.count = 0;
        e->st.torn = end_all_volumes(e); // nor what its store lacks of what it had settled
    }
    e->start.queue_found = false; // a new epoch needs a fresh queue
    e->given.out = false;
    take_begin(e, EPOCH_RESOLVE, e->st.role == ROLE_PASSIVE);
}

// The other end was asked, and has neither led nor said why not.
static bool passed_on_rule(struct end *e)
{
    bool waits = e->operation.name && strcmp(e->operation.name, "resolve") == 0 &&
                 e->operation.result == STEP_PENDING && !e->resolve.opening;
    if (!waits || e->state != END_SPLIT || e->now - e->resolve.since_ns < PATIENCE_NS + PATIENCE_NS / 3)
        return false;
    end_operation(e, "resolve", STEP_FAILED, "the split stands: the end that is to be kept tells why (pairctl history)");
    return true;
}

bool resolve_rules(struct end *e)
{
    const struct session *s = &e->session;
    if (!e->resolve.wanted)
        return passed_on_rule(e);
    if (e->state == END_TAKING_OVER) { // the other one came back empty: this end leads without that
        e->resolve.wanted = false;
        return true;
    }
    if (e->state != END_ACTIVE && e->state != END_SPLIT) {
        give_up(e, "this end's role has changed");
        return true;
    }
    if (e->now - e->resolve.since_ns >= PATIENCE_NS) {
        give_up(e, "the other end has not said that it does not serve: try again when both are connected");
        return true;
    }
    if (!s->number || s->stage != SESSION_MET || !peer_heard(e))
        return false;
    bool busy = e->gate_pending || e->exports == EXPORTS_OPENING || e->exports == EXPORTS_CLOSING ||
                !end_saved(e, e->ticket_last);
    bool ready = e->state == END_ACTIVE ? e->relation == REL_ALONE : e->address == ADDRESS_OFF;
    // An empty end beside one that was not active: the damaged one has forgotten what it was.
    bool emptied = s->meeting.row == MEET_NO_LEADER && s->peer.history.count == 0;
    if (!is_split(e) && !emptied) {
        if (!s->lead) {
            give_up(e, meet_row_text(s->meeting.row));
            return true;
        }
        e->resolve.wanted = false;
        if (e->operation.name && e->operation.result == STEP_PENDING)
            end_operation(e, e->operation.name, STEP_DONE, "this end is kept; the other one follows");
        return true;
    }
    if (s->peer.serving || s->peer.unreadable || busy || !ready)
        return false;
    open_epoch(e);
    return true;
}

const char *resolve_append(struct end *e, struct epoch *epoch)
{
    const struct epoch *other = history_current(&e->resolve.other);
    if (!e->resolve.opening || !other)
        return history_append(&e->st.history, epoch);
    const struct epoch *own = history_current(&e->st.history);
    epoch->number = MAX(own->number, other->number) + 1;
    epoch->parents = 2;
    // Any position there is on the line, by the map.
    epoch->parent[1] = (struct epoch_parent){other->id, EPOCH_SEQ_UNKNOWN};
    const char *broken = history_merge(&e->st.history, &e->resolve.other, epoch);
    if (!broken)
        end_note(e, "epoch %u: the split is resolved, the line of the %s is given up", epoch->number,
                 e->config.primary ? "Secondary" : "Primary");
    return broken;
}

// ---- the end that is not kept ----

// Its state is damaged: it forgets what it was, and whatever its volumes hold is salvaged.
static void forget(struct end *e)
{
    uint64_t session = e->st.session;
    e->unreadable = false;
    memset(&e->st, 0, sizeof(e->st));
    e->st.session = session;
    e->st.inconsistent = e->st.salvage = e->st.salvage_whole = e->st.map_void = end_all_volumes(e);
    e->st.salvage_cause = SALVAGE_RESOLVED;
    e->st.salvaged = (struct epoch){
        .number = 1, // not known
        .id = end_random(e),
        .first_seq = 1,
        .opened_by = e->config.primary ? EPOCH_BY_PRIMARY : EPOCH_BY_SECONDARY,
        .reason = EPOCH_LOST_QUEUE,
    };
    end_save(e);
    end_note(e, "the operator keeps the other end: what this one was is forgotten, what it holds will be salvaged");
    session_end(e, "the split is being resolved");
}

void resolve_yield(struct end *e)
{
    enum meet_row row = e->session.meeting.row;
    bool serving = e->state == END_ACTIVE || e->state == END_SUSPENDED;
    if (row == MEET_UNREADABLE && e->unreadable) {
        forget(e);
        return;
    }
    if (row != MEET_SPLIT && row != MEET_UNREADABLE)
        return;
    if (!serving) {
        if (e->session.own.serving) // it has stopped since: the peer has to hear that in a meeting
            session_end(e, "this end does not serve any more");
        return;
    }
    session_yield(e);
    e->resolve.wanted = e->resolve.opening = false;
    end_go(e, END_SPLIT, "the operator keeps the other end");
    session_end(e, "this end does not serve any more");
}

// Stopped in order, at a position from which the peer's line is known to have gone on. It is not where any position of this
// end's epoch is on that line: what it wrote alone before it stopped is not there when a split was resolved, or when the
// peer served without its replica; nor is what the peer lacked in the middle of a resync, or has lost, at whatever position.
static bool peer_went_on_from_here(const struct end *e, const struct epoch *own)
{
    uint64_t fork = EPOCH_SEQ_UNKNOWN;
    return e->st.clean && !e->st.pending && !e->session.peer.torn && e->session.meeting.row != MEET_YIELD &&
           history_fork(&e->session.peer.history, own->id, &fork) && fork != EPOCH_SEQ_UNKNOWN &&
           e->st.position <= fork;
}

bool end_doubt_salvage(struct end_state *state, uint64_t damaged)
{
    uint64_t doubtful = state->salvage & ~state->salvage_whole & (damaged | state->map_void);
    if (state->role != ROLE_PASSIVE || !doubtful || state->salvage_cause == SALVAGE_DOUBTFUL)
        return false;
    state->salvage_cause = SALVAGE_DOUBTFUL;
    return true;
}

void resolve_salvage(struct end *e)
{
    const struct epoch *own = history_current(&e->st.history), *now = history_current(&e->session.peer.history);
    // What is being salvaged goes on.
    if (e->st.role != ROLE_ACTIVE || !own || peer_went_on_from_here(e, own))
        return;
    e->st.salvage = end_all_volumes(e);
    // Where the peer has lost something this end may hold it alone, whether or not it has written there on its own.
    e->st.salvage_whole = (e->st.map_void | e->session.peer.torn) & e->st.salvage;
    e->st.salvaged = *own;
    e->st.salvage_cause = now && now->reason == EPOCH_RESOLVE ? SALVAGE_RESOLVED : SALVAGE_YIELDED;
}
