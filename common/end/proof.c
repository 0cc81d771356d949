// SPDX-License-Identifier: Apache-2.0
// A verify as the active end sees it: begun by an operator (or the schedule, which is the daemon's), carried out by the
// data path (verify.h), given up when its session ends.
//
// Invariant: what was found to differ is not called synchronized until a resync has gone over it. The volume becomes
// pending, durably, which takes the grant back; it is *held* as well unless the repair was ordered: then the replica is
// recorded as inconsistent (ACT_DIFFERS) and nothing is sent until the operator says so, or a session needs a full resync
// anyway.
//
// When both ends were last proven equal is said by both: the passive end hears it with the heartbeats and keeps it, and
// so it outlives a switchover. It is a fact of a line: an end that leaves that line, or whose peer is replaced by an empty
// one, forgets it.
#include "common/end/end_private.h"

#include <stdio.h>
#include <string.h>

// Why a verify cannot begin or go on; NULL: it can.
static const char *in_the_way(const struct end *e)
{
    if (e->state != END_ACTIVE)
        return "this end is not active";
    if (!peer_heard(e) || !session_streaming(e))
        return "the peer is not connected";
    if (e->paused)
        return "paused by the operator";
    if (e->st.pending)
        return "a resync is pending, which compares everything that may differ";
    return NULL;
}

static void begin_repair(struct end *e)
{
    e->st.held = 0;
    e->session.resync_asked = false;
    __builtin_memset(e->resynced_seq, 0, sizeof(e->resynced_seq));
    e->proof.repairing = true;
    end_save(e);
}

const char *proof_refusal(const struct end *e, unsigned flags)
{
    if (e->proof.running)
        return "a verify is under way already: pairctl status shows it";
    if (e->state != END_ACTIVE || !e->st.held)
        return in_the_way(e);
    return flags & COMMAND_REPAIR
               ? NULL
               : "the replica was found to differ: repair it (pairctl verify --repair, or resync)";
}

const char *proof_begin(struct end *e, unsigned flags)
{
    if (e->st.held) {
        begin_repair(e);
        return "repairing what was found to differ";
    }
    e->proof.running = true;
    e->proof.repair = flags & COMMAND_REPAIR;
    e->proof.known = false;
    end_act(e, ACT_VERIFY)->objects = end_all_volumes(e);
    return "comparing both ends";
}

static void operation_ends(struct end *e, enum end_step_result result, const char *text)
{
    bool mine = e->operation.name && strcmp(e->operation.name, "verify") == 0;
    if (mine && e->operation.result == STEP_PENDING)
        end_operation(e, "verify", result, "%s", text);
}

// ---- the result ----

static const char *volume_name(const struct end *e, unsigned object, char buffer[16])
{
    if (e->config.names)
        return e->config.names[object];
    (void)snprintf(buffer, 16, "%u", object);
    return buffer;
}

// "disk: 4096 bytes at 8192; ..." of as many ranges as fit.
static void list_ranges(const struct end *e, const struct verify_result *r, char *text, size_t size)
{
    char number[16];
    size_t at = 0;
    text[0] = '\0';
    for (unsigned i = 0; i < r->range_count && at < size; i++) {
        const struct verify_range *range = &r->ranges[i];
        int n = snprintf(text + at, size - at, "%svolume %s: %llu bytes at %llu", i ? "; " : "",
                         volume_name(e, range->object, number), (unsigned long long)range->length,
                         (unsigned long long)range->offset);
        if ((size_t)n >= size - at) {
            (void)snprintf(text + at, size - at, "%s", size - at > 4 ? " ..." : "");
            return;
        }
        at += (size_t)n;
    }
}

static void take_difference(struct end *e, const struct verify_result *r)
{
    char list[WHY_SIZE], text[ACTION_TEXT_SIZE];
    list_ranges(e, r, list, sizeof(list));
    e->st.pending |= r->differing;
    e->st.torn |= r->differing; // which of the two is right nobody knows
    if (e->proof.repair)
        begin_repair(e);
    else
        e->st.held |= r->differing;
    e->session.held_told = false;
    end_save(e);
    beat_soon(e); // says no
    (void)snprintf(text, sizeof(text), "the replica differs in %llu bytes%s: %.150s", (unsigned long long)r->differing_bytes,
                   r->compared < r->total ? " so far" : "", list);
    end_note(e, "verify: %s", text);
    if (e->proof.repairing)
        end_operation(e, "verify", STEP_PENDING, "repairing: %.200s", text);
    else
        operation_ends(e, STEP_FAILED, text);
}

static void take_equality(struct end *e, const struct verify_result *r, int64_t real_ns)
{
    char text[ACTION_TEXT_SIZE];
    const struct epoch *at = history_current(&e->st.history);
    if (r->unread_bytes) {
        (void)snprintf(text, sizeof(text), "%llu bytes are equal; %llu bytes of this end cannot be read, and are not compared",
                       (unsigned long long)r->compared, (unsigned long long)r->unread_bytes);
        operation_ends(e, STEP_FAILED, text);
    } else {
        e->st.proven = (struct state_proof){
            .time = (uint64_t)real_ns, .epoch = at->id, .seq = r->last_seq, .number = at->number};
        end_save(e);
        (void)snprintf(text, sizeof(text), "both ends are equal, at seq %llu of epoch %u: %llu bytes compared",
                       (unsigned long long)r->last_seq, at->number, (unsigned long long)r->compared);
        operation_ends(e, STEP_DONE, text);
    }
    end_note(e, "verify: %s", text);
}

void proof_take(struct end *e, const struct end_event *ev)
{
    const struct verify_result *r = ev->verified.result;
    // A difference counts also when the verify was given up meanwhile: what follows in the stream does not mend it.
    if (e->state != END_ACTIVE || (!e->proof.running && !r->differing))
        return;
    e->proof.running = false;
    e->proof.result = *r;
    e->proof.known = true;
    if (r->differing)
        take_difference(e, r);
    else if (history_current(&e->st.history))
        take_equality(e, r, ev->verified.real_ns);
}

// ---- on both ends ----

void proof_hear(struct end *e, const struct frame_beat *b)
{
    const struct state_proof *p = &b->proven;
    bool follows = e->session.number && !e->session.lead && e->session.stage == SESSION_STREAMING &&
                   e->st.role == ROLE_PASSIVE;
    bool same = p->time == e->st.proven.time && p->epoch == e->st.proven.epoch && p->seq == e->st.proven.seq;
    if (!follows || !p->time || same || history_line_has(&e->st.history, p->epoch, p->seq) == OFF_LINE)
        return;
    e->st.proven = *p;
    end_save(e);
}

void proof_keep_line(struct end *e)
{
    const struct state_proof *p = &e->st.proven;
    if (p->time && history_line_has(&e->st.history, p->epoch, p->seq) == OFF_LINE)
        e->st.proven = (struct state_proof){0};
}

bool proof_rules(struct end *e)
{
    const char *why = e->proof.running ? in_the_way(e) : NULL;
    if (why) {
        char text[ACTION_TEXT_SIZE];
        e->proof.running = false;
        end_act(e, ACT_VERIFY)->objects = 0;
        (void)snprintf(text, sizeof(text), "given up: %s", why);
        end_note(e, "verify %s", text);
        operation_ends(e, STEP_FAILED, text);
        return true;
    }
    if (e->proof.repairing && (e->state != END_ACTIVE || !e->st.pending)) {
        e->proof.repairing = false;
        operation_ends(e, e->state == END_ACTIVE ? STEP_DONE : STEP_FAILED,
                       e->state == END_ACTIVE ? "what differed is repaired" : "this end is no longer active");
        return true;
    }
    return false;
}
