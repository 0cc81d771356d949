// SPDX-License-Identifier: Apache-2.0
// The one sentence that says why an end is where it is, and what it waits for.
#include "common/end/end_private.h"

#include <stdio.h>

#define SALVAGE_IS_FULL                                                                                              \
    "the salvage of this end is full, so that nothing is applied: raise queues.salvage, make room on its disk, or "   \
    "export and drop what pairctl salvage lists"

static const char *active_why(const struct end *e, char *buffer, size_t size)
{
    switch (e->relation) {
    case REL_PAIRED:
        if (grant_out(e))
            return "paired: the passive end may take over";
        if (!e->config.automatic)
            return "paired; takeover policy is manual: the passive end waits for the operator";
        if (!e->config.has_waypoint)
            return "paired; no waypoint is configured: the passive end waits for the operator";
        if (e->peer.flags & FRAME_PAUSED)
            return "paired; the passive end does not take over: its replay is paused by the operator (pairctl resume --replay)";
        return "paired; no grant is out yet";
    case REL_GOING_ALONE:
        (void)snprintf(buffer, size, "going alone: %s; waits until no grant can be out",
                       e->alone_why);
        return buffer;
    case REL_JOINING:
        return "synchronized: waits until the peer has everything durable";
    case REL_ALONE:
        break;
    }
    if (e->paused)
        return "alone: paused by the operator";
    if (!peer_heard(e))
        return "alone: the peer is not connected";
    if (e->session.meeting.row == MEET_SPLIT)
        return meet_row_text(MEET_SPLIT);
    if (e->peer.flags & FRAME_FAILED)
        return "alone: the peer cannot write its replica or its queue";
    if (e->peer.flags & FRAME_SALVAGE_FULL)
        return "alone: the peer's salvage is full, so that nothing is sent to it: there, raise queues.salvage, make room on "
               "its disk, or export and drop what pairctl salvage lists";
    if (!session_streaming(e))
        return "alone: connected, agreeing with the peer how to go on";
    if (e->st.held && e->st.held == e->st.pending)
        return "alone: a verify found that the replica differs: waits for pairctl verify --repair, or resync";
    if (e->st.pending)
        return "alone: the peer's replica is being resynced";
    return e->config.alone_when_slow
               ? "alone: the peer is catching up; paired again when its lag has stayed small for 10 s (slow: alone)"
               : "alone: the peer is catching up";
}

static const char *passive_why(const struct end *e, char *buffer, size_t size)
{
    if (peer_heard(e) && (e->peer.flags & FRAME_STOPPED))
        return "the other end was stopped by the operator: waits until it is resumed";
    if (e->replica == REPLICA_DEAD) {
        (void)snprintf(buffer, size, "the replica cannot go on: %s", e->replica_why);
        return buffer;
    }
    if (e->data.salvage_full)
        return SALVAGE_IS_FULL;
    if (e->st.inconsistent)
        return "being mirrored: not promotable until that is done";
    if (e->replay_stopped)
        return "replay is paused by the operator";
    if (grant_held(e))
        return "follows the active end and may take over";
    if (e->held.ended_ns) {
        (void)snprintf(buffer, size, "stale for %lld s: %s",
                       (long long)((e->now - e->held.ended_ns) / NS_PER_S),
                       e->probe.text[0]  ? e->probe.text
                       : e->held.ran_out ? "the grant has run out; the active end may be alone by now: waits for it, or for "
                                           "pairctl takeover"
                                         : "the active end has taken its permission back");
        return buffer;
    }
    bool by_hand = !e->config.automatic && end_promotable(e) && (e->peer.flags & FRAME_PAIRED);
    if (peer_heard(e))
        return by_hand ? "follows the active end, and takes over at an operator's word" : "follows the active end";
    if (by_hand)
        return "the active end is silent, and had said that this end has everything: waits for pairctl takeover";
    return "waits for the active end";
}

static const char *waiting_why(const struct end *e, char *buffer, size_t size)
{
    if (e->start.replica_durable == END_OPENING)
        return "reads its safe queue";
    if (e->unreadable)
        return "the state of this end is damaged: waits for the operator";
    if (peer_heard(e) && (e->peer.flags & FRAME_STOPPED))
        return "the other end was stopped by the operator: waits until it is resumed";
    if (peer_heard(e) && e->session.number)
        return meet_row_text(e->session.meeting.row);
    if (e->data.salvage_full) // what it holds has to be replayed before it can tell what it is
        return SALVAGE_IS_FULL;
    if (peer_heard(e))
        return "the peer is heard; waits until it is ready to meet";
    if (e->st.role == ROLE_ACTIVE && e->st.alone && e->probe.text[0]) {
        (void)snprintf(buffer, size, "was active alone, and waits: %s", e->probe.text);
        return buffer;
    }
    if (e->st.role == ROLE_ACTIVE)
        return "was active: waits for the peer's agreement (or pairctl takeover --force)";
    return "waits for its peer";
}

static const char *take_why(const struct end *e, char *buffer, size_t size)
{
    static const char *const steps[] = {
        [TAKE_INTENT] = "its state is durable on this end's disk",
        [TAKE_REPLAY] = "the safe queue is replayed",
        [TAKE_EPOCH] = "the new epoch is durable on this end's disk",
        [TAKE_ADDRESS] = "the public address is on",
        [TAKE_OPEN] = "the exports are open",
        [TAKE_GATE] = "writes are answered",
        [TAKE_DONE] = "everything is done",
    };
    long long s = (e->now - e->take.step_ns) / NS_PER_S;
    bool failed = e->take.stage == TAKE_OPEN && e->exports_status < 0 && e->exports_why[0];
    int n = snprintf(buffer, size, "taking over: waits until %s", steps[e->take.stage]);
    if (s > 0 && n > 0 && (size_t)n < size)
        n += snprintf(buffer + n, size - (size_t)n, ", for %lld s now", s);
    if (failed && n > 0 && (size_t)n < size)
        (void)snprintf(buffer + n, size - (size_t)n, ": %s", e->exports_why);
    return buffer;
}

const char *why_text(const struct end *e, char *buffer, size_t size)
{
    if (e->address_stays)
        return "the public address cannot be taken off this machine (the log says why): tried again each second; nobody else "
               "is to have it before";
    switch (e->state) {
    case END_WAITING:
        return waiting_why(e, buffer, size);
    case END_PASSIVE:
        return passive_why(e, buffer, size);
    case END_PROBING:
        return "the active end is silent: asks whether it lives";
    case END_TAKING_OVER:
        return take_why(e, buffer, size);
    case END_ACTIVE:
        return active_why(e, buffer, size);
    case END_SUSPENDED:
        return "stepped down: neither peer nor waypoint was seen; waits for the peer (or pairctl "
               "takeover --force)";
    case END_HANDING_OVER:
        return e->hand.stop ? "stopping" : "switching over to the peer";
    case END_HANDED_OVER:
        return e->address == ADDRESS_OFF ? "handed over: waits until the peer serves"
                                         : "handed over: waits until the public address is off this machine";
    case END_SPLIT:
        return meet_row_text(MEET_SPLIT);
    case END_STOPPED:
        return e->st.stopped ? "stopped by the operator: waits for pairctl resume"
                             : "stopped for a shutdown of this machine: the next start, or pairctl resume, goes on";
    case END_STATE_COUNT:
        break;
    }
    return "";
}
