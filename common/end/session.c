// SPDX-License-Identifier: Apache-2.0
// Sessions: the ends meet, decide by one table who leads (meet.c), and start to stream.
//
// The Primary proposes a number above every one that either has seen, with its facts; the Secondary
// agrees with its own. Each has dropped its grant before it told its facts, and tells them only
// while nothing is under way that would change them (end_ready_to_meet()). Who changes its role
// leaves the session: the next meeting sees the new facts.
#include "common/end/end_private.h"

#include <string.h>

bool end_ready_to_meet(const struct end *e)
{
    if (e->terminating || !end_saved(e, e->ticket_last) || e->consent_count || e->freezing ||
        e->thawing)
        return false;
    switch (e->state) {
    case END_WAITING:
    case END_PASSIVE:
        if (e->start.replica_durable == END_OPENING)
            return false; // what it holds is not known yet
        if (e->replica != REPLICA_DEAD && e->data.replica_durable < e->start.replica_durable)
            return false; // it would tell a position below what it has confirmed
        if (e->replica != REPLICA_DEAD && e->st.inconsistent && !e->replay_stopped &&
            e->data.applied < e->start.replica_durable)
            return false; // the beginning of a resync was replayed again; its end may follow
        return e->replica != REPLICA_FINISHING && e->exports == EXPORTS_CLOSED;
    case END_ACTIVE:
        return e->paused ? false : e->relation == REL_PAIRED || e->relation == REL_ALONE ||
               (e->relation == REL_GOING_ALONE && e->alone_stage == ALONE_WAIT);
    case END_SUSPENDED:
    case END_HANDED_OVER:
        return true;
    case END_SPLIT:
        // What it says of itself is that it does not serve, and cannot go on in its epoch any more.
        return e->exports == EXPORTS_CLOSED && e->address == ADDRESS_OFF;
    default:
        return false;
    }
}

static uint64_t own_position(const struct end *e)
{
    if (e->replica == REPLICA_DEAD && e->st.role != ROLE_ACTIVE)
        return POSITION_UNKNOWN; // what it holds cannot be relied on: only a resync helps
    if (e->state == END_ACTIVE)
        return e->data.numbered;
    // Of an end that was active only a flushed store is worth a position: what it numbered may still be in its page
    // cache, and a replica that loses it with the power would believe that it is whole.
    if (e->st.role == ROLE_ACTIVE)
        return e->st.clean ? e->st.position : POSITION_UNKNOWN;
    return MAX(e->st.position, e->data.replica_durable);
}

void session_facts(const struct end *e, struct frame_meet *m)
{
    bool serving = e->state == END_ACTIVE || e->state == END_SUSPENDED;
    bool clean = e->st.role == ROLE_ACTIVE && e->st.clean && !serving;
    *m = (struct frame_meet){
        .unreadable = e->unreadable,
        .was_active = e->st.role == ROLE_ACTIVE,
        .serving = serving,
        .alone = e->st.alone,
        .handed_over = e->st.intent == INTENT_HANDED_OVER,
        .stopped = e->state == END_STOPPED,
        .hands_role = e->strict_hand && !serving,
        .promotable = end_promotable(e),
        .held_from = serving       ? e->data.held_from
                     : clean ? e->st.position + 1 // its next epoch begins there
                             : 0,
        .position = own_position(e),
        .inconsistent = e->st.inconsistent,
        .pending = e->st.pending,
        .map_void = e->st.lost | (e->st.role == ROLE_ACTIVE ? e->st.map_void : 0),
        .torn = e->st.torn | e->st.lost,
        .history = e->st.history,
    };
}

static struct frame meet_frame(const struct end *e, uint64_t number, bool proposal)
{
    struct frame f = frame_new(e, FRAME_MEET);
    f.session = number;
    f.meet = e->session.own;
    f.meet.proposal = proposal;
    return f;
}

void session_end(struct end *e, const char *why)
{
    if (!e->session.number)
        return;
    if (e->session.stage != SESSION_NONE)
        end_note(e, "session %llu ended: %s", (unsigned long long)e->session.number, why);
    e->st.session = MAX(e->st.session, e->session.number);
    if (e->session.lead) {
        end_act(e, ACT_MAP_ARM)->session = 0;
        end_act(e, ACT_STREAM)->session = 0;
        end_act(e, ACT_RESYNC)->objects = 0;
    } else if (e->replica == REPLICA_FOLLOWING || e->replica == REPLICA_PREPARING) {
        end_act(e, ACT_FOLLOW)->session = 0;
        e->replica = REPLICA_OFF;
    }
    memset(e->resynced_seq, 0, sizeof(e->resynced_seq));
    struct meeting last = e->session.meeting;
    memset(&e->session, 0, offsetof(struct session, own));
    e->session.meeting.row = last.row;
    e->session.resync_asked = e->session.united = e->session.counted = false;
    e->session.unite_ticket = 0;
    e->session.since_ns = e->now;
    beat_soon(e);
}

// This end gives up what it had: its applications must not write again, its address goes first.
void session_yield(struct end *e)
{
    end_address(e, false);
    // Destroying takes away the guard's mark as well: without it, a restart would go on with the queue if that were
    // still there.
    end_abandon(e);
    e->destroying = true;
    if (!e->frozen && !e->freezing) {
        end_act(e, ACT_DESTROY);
        e->apps = APPS_STOPPED;
    }
    e->freezing = e->thawing = e->again_by_take = false;
    e->given.out = false;
    e->attached = 0;
    e->store_failed = false;
}

static void follow(struct end *e)
{
    if (e->state == END_PASSIVE)
        return;
    bool served = e->state == END_ACTIVE || e->state == END_SUSPENDED ||
                  e->state == END_HANDED_OVER || e->st.role == ROLE_ACTIVE;
    // What the old reign leaves: the address is taken off before anything else.
    if (served || e->frozen)
        session_yield(e);
    e->paused = false; // that was this end's sending
    end_go(e, END_PASSIVE, "%s", meet_row_text(e->session.meeting.row));
    if (e->operation.name && e->operation.result == STEP_PENDING)
        end_operation(e, e->operation.name, STEP_DONE, "done: the other end is active");
}

static void lead(struct end *e)
{
    switch (e->state) {
    case END_SUSPENDED:
        grant_confirmed(e);
        return;
    case END_ACTIVE:
        return;
    case END_HANDED_OVER:
        hand_take_back(e, "the peer opened no epoch: the handing over is void");
        return;
    default:
        break;
    }
    // The peer has agreed by meeting: it holds no grant.
    enum epoch_reason reason = e->session.meeting.row == MEET_FIRST    ? EPOCH_FIRST_START
                               : e->session.meeting.row == MEET_HANDED ? EPOCH_TAKEOVER
                                                                       : EPOCH_LOST_QUEUE;
    take_begin(e, reason, e->session.meeting.row == MEET_HANDED);
}

static void split(struct end *e, bool peer_serves)
{
    bool serving = e->state == END_ACTIVE || e->state == END_SUSPENDED;
    if (serving && !(peer_serves && e->config.stops_on_split))
        return; // goes on alone; nothing is streamed in this session
    if (serving)
        session_yield(e);
    if (e->state != END_SPLIT)
        end_go(e, END_SPLIT, "%s", meet_row_text(e->session.meeting.row));
}

// What the decision was made from.
static void describe(const struct frame_meet *m, char *ret_text, size_t size)
{
    const struct epoch *at = history_current(&m->history);
    if (!at)
        (void)snprintf(ret_text, size, "empty");
    else if (m->position == POSITION_UNKNOWN)
        (void)snprintf(ret_text, size, "epoch %u, position unknown", at->number);
    else
        (void)snprintf(ret_text, size, "epoch %u, position %llu%s", at->number,
                       (unsigned long long)m->position, m->alone ? ", alone" : "");
    if (m->held_from && strlen(ret_text) < size)
        (void)snprintf(ret_text + strlen(ret_text), size - strlen(ret_text), ", queued from %llu",
                       (unsigned long long)m->held_from);
}

// To this run, or to the one whose queue this one goes on with.
static uint64_t had_confirmed(const struct end *e)
{
    return MAX(e->data.durable, e->start.queue_confirmed);
}

// Whether the replay of the peer has perhaps written over what was settled, of which the map does not know any more: its
// queue ends below what it had confirmed, or it has lost a run, and cannot say where its queue ends.
static bool went_back(const struct end *e)
{
    const struct session *s = &e->session;
    enum meet_row row = s->meeting.row;
    if (!s->lead || e->state != END_ACTIVE || (row != MEET_BY_MAP && row != MEET_YIELD) || s->peer.was_active)
        return false;
    if (s->peer.position == POSITION_UNKNOWN)
        return had_confirmed(e) && e->followed_run != e->peer.run;
    return row == MEET_BY_MAP && s->peer.position < had_confirmed(e);
}

// Both sets of facts are known: the table decides, and this end does its part.
static void decide(struct end *e)
{
    struct session *s = &e->session;
    s->meeting =
        e->config.primary ? meet_decide(&s->own, &s->peer) : meet_decide(&s->peer, &s->own);
    s->since_ns = e->now;
    s->stage = SESSION_MET;
    char own[100], peer[100];
    describe(&s->own, own, sizeof(own));
    describe(&s->peer, peer, sizeof(peer));
    end_note(e, "session %llu: %s (%s; here: %s; peer: %s)", (unsigned long long)s->number,
             meet_row_text(s->meeting.row), s->meeting.rule, own, peer);
    // The peer dropped its grant before it told its facts. A suspended end must know, too, that it was not used.
    if (e->state != END_SUSPENDED)
        grant_confirmed(e);
    switch (s->meeting.row) {
    case MEET_SPLIT:
    case MEET_UNREADABLE:
        split(e, s->peer.serving && s->meeting.row == MEET_SPLIT);
        if (s->number && s->meeting.row == MEET_SPLIT)
            map_unite(e); // to show how much differs
        return;
    case MEET_NO_LEADER:
    case MEET_BUSY:
    case MEET_NONE:
    case MEET_ROW_COUNT:
        return;
    default:
        break;
    }
    s->lead = s->meeting.primary_leads == e->config.primary;
    s->went_back = went_back(e);
    if (s->went_back)
        end_note(e, "the peer had confirmed %llu: what it holds %s damaged, everything counts as different",
                 (unsigned long long)had_confirmed(e), s->peer.position == POSITION_UNKNOWN ? "may be" : "was");
    if (s->lead)
        lead(e);
    else
        follow(e);
}

static void take_proposal(struct end *e, const struct frame *f)
{
    if (e->config.primary || f->session <= MAX(e->st.session, e->session.number))
        return;
    if (!end_ready_to_meet(e))
        return;
    session_end(e, "a new meeting");
    grant_drop(e);
    e->session.number = f->session;
    e->st.session = f->session;
    e->peer.last_session = MAX(e->peer.last_session, f->session);
    session_facts(e, &e->session.own);
    e->session.peer = f->meet;
    struct frame answer = meet_frame(e, f->session, false);
    frame_send(e, &answer);
    decide(e);
}

static void take_agreement(struct end *e, const struct frame *f)
{
    if (!e->config.primary || !e->session.proposed || f->session != e->session.proposed)
        return;
    uint64_t number = e->session.proposed;
    if (!end_ready_to_meet(e))
        return;
    session_end(e, "a new meeting");
    grant_drop(e);
    e->session.number = number;
    e->session.proposed = 0;
    e->session.confirmed = true;
    e->st.session = number;
    e->session.peer = f->meet;
    decide(e);
}

static void propose(struct end *e)
{
    grant_drop(e);
    e->session.proposed = MAX(MAX(e->st.session, e->session.number), e->peer.last_session) + 1;
    e->st.session = e->session.proposed;
    session_facts(e, &e->session.own);
    struct frame f = meet_frame(e, e->session.proposed, true);
    frame_send(e, &f);
}

static struct frame at_frame(const struct end *e, enum frame_type type, uint64_t seq, bool restart)
{
    struct frame f = frame_new(e, type);
    f.at.seq = seq;
    f.at.restart = restart;
    return f;
}

void session_tick(struct end *e)
{
    if (!e->session.number) {
        if (e->config.primary && peer_heard(e) && (e->peer.flags & FRAME_READY_TO_MEET) &&
            end_ready_to_meet(e))
            propose(e);
        return;
    }
    map_tick(e);
    if (e->session.stage == SESSION_OFFERING) {
        struct frame f = at_frame(e, FRAME_STREAM, e->session.seq, e->session.restart);
        frame_send(e, &f);
    }
}

// It served alone when it told its position, and has answered until its exports were closed: what came after that position
// is on no line of the peer's, and has to be met.
static bool has_gone_on(const struct end *e)
{
    const struct frame_meet *told = &e->session.own;
    return e->st.role == ROLE_ACTIVE && told->serving && told->alone && told->position != POSITION_UNKNOWN &&
           e->exports_numbered > told->position;
}

static void take_stream(struct end *e, const struct frame *f)
{
    struct session *s = &e->session;
    if (s->lead || e->state != END_PASSIVE)
        return;
    if (s->stage == SESSION_STREAMING) {
        if (f->at.seq == s->seq) {
            struct frame ready = at_frame(e, FRAME_READY, s->seq, s->restart);
            frame_send(e, &ready);
        }
        return;
    }
    if (s->stage != SESSION_MET || e->exports != EXPORTS_CLOSED)
        return;
    if (has_gone_on(e)) {
        session_end(e, "this end has acknowledged more, alone, since it told its position: meeting again");
        return;
    }
    uint64_t have = own_position(e);
    s->seq = f->at.seq;
    s->restart = f->at.restart;
    if (!s->restart && f->at.seq != have + 1) {
        end_note(e, "the peer streams from %llu on, this end is at %llu: meeting again",
                 (unsigned long long)f->at.seq, (unsigned long long)have);
        session_end(e, "the stream does not fit");
        return;
    }
    // E6: what this end is, and that its replica is not consistent while it is being mirrored, is
    // durable first.
    if (s->restart)
        resolve_salvage(e);
    e->st.torn = 0;
    e->st.role = ROLE_PASSIVE;
    e->st.intent = INTENT_NONE;
    e->st.alone = e->st.clean = false;
    e->st.bound = e->st.pending = e->st.held = 0;
    if (s->restart) {
        e->st.inconsistent = end_all_volumes(e);
        e->st.history = s->peer.history;
        proof_keep_line(e);
        e->st.position = f->at.seq - 1;
    }
    e->strict_hand = false;
    s->ticket = end_save(e);
    s->stage = SESSION_PREPARING;
}

// What the stream was to go on from is no longer kept for the peer.
static bool queue_let_go(struct end *e)
{
    const struct session *s = &e->session;
    if (s->restart || (e->data.held_from && e->data.held_from <= s->seq))
        return false;
    session_end(e, "the unsafe queue no longer has what follows");
    return true;
}

static void take_ready(struct end *e, const struct frame *f)
{
    struct session *s = &e->session;
    if (!s->lead || s->stage != SESSION_OFFERING || f->at.seq != s->seq || queue_let_go(e))
        return;
    struct end_action *arm = end_act(e, ACT_MAP_ARM);
    arm->session = s->number;
    arm->objects = e->st.pending;
    struct end_action *a = end_act(e, ACT_STREAM);
    a->session = s->number;
    a->seq = s->seq;
    s->stage = SESSION_STREAMING;
    s->resync_asked = false;
    e->followed_run = e->peer.run;
    end_note(e, "streams from %llu on%s", (unsigned long long)s->seq,
             s->restart ? "; a resync by map follows" : "");
}

void session_frame(struct end *e, const struct frame *f)
{
    // Only the run that the heartbeats have made known, and only to this one.
    if (f->run != e->peer.run || f->to_run != e->config.run || former_run(e, f->run))
        return;
    e->peer.frame_ns = e->now;
    switch (f->type) {
    case FRAME_MEET:
        if (f->meet.proposal)
            take_proposal(e, f);
        else
            take_agreement(e, f);
        return;
    case FRAME_GOODBYE:
        end_note(e, "the peer says goodbye: it holds no grant");
        session_end(e, "the peer said goodbye");
        e->peer.gone = true;
        grant_confirmed(e);
        return;
    case FRAME_COMMAND:
    case FRAME_REPLY:
        command_frame(e, f);
        return;
    default:
        break;
    }
    if (!e->session.number || f->session != e->session.number)
        return; // of another session
    switch (f->type) {
    case FRAME_STREAM:
        take_stream(e, f);
        break;
    case FRAME_READY:
        take_ready(e, f);
        break;
    case FRAME_MAP_ASK:
    case FRAME_MAP_PIECE:
        map_frame(e, f);
        break;
    case FRAME_YIELD:
        resolve_yield(e);
        break;
    default:
        hand_frame(e, f);
        break;
    }
}

bool session_streaming(const struct end *e)
{
    return e->session.number && e->session.lead && e->session.stage == SESSION_STREAMING;
}

// Volumes that may differ anywhere.
static uint64_t whole_volumes(const struct end *e)
{
    const struct session *s = &e->session;
    bool mirror = s->meeting.row == MEET_FIRST || s->meeting.row == MEET_ONE_EMPTY || s->went_back;
    return mirror ? end_all_volumes(e) : s->peer.map_void & end_all_volumes(e);
}

// E6: what the peer needs is durable before the stream starts.
static void mark_pending(struct end *e)
{
    struct session *s = &e->session;
    uint64_t pending = s->restart ? end_all_volumes(e) : s->peer.inconsistent | whole_volumes(e);
    uint64_t whole = whole_volumes(e);
    bool releases = s->restart && e->st.held; // what differs is in the map, and is sent with the rest
    if (s->ticket || (!(pending & ~e->st.pending) && !whole && !releases))
        return;
    if (releases)
        e->st.held = 0;
    e->st.pending |= pending;
    e->st.map_void |= whole;
    if (s->meeting.row == MEET_FIRST || s->meeting.row == MEET_ONE_EMPTY)
        e->st.proven = (struct state_proof){0}; // that was another replica
    s->ticket = end_save(e);
}

// A stream that starts anew begins behind the last seq, and the follower has taken the history over as it was told: it
// would never hear of an epoch that was opened since.
static bool opened_since(const struct end *e)
{
    const struct epoch *now = history_current(&e->st.history), *told = history_current(&e->session.own.history);
    return now && (!told || now->id != told->id);
}

static bool leader_rules(struct end *e)
{
    struct session *s = &e->session;
    if (e->state != END_ACTIVE)
        return false;
    bool refused = e->peer.flags & FRAME_SALVAGE_FULL;
    switch (s->stage) {
    case SESSION_MET:
        if (refused) // nothing is streamed to it
            return false;
        s->restart = s->meeting.row != MEET_RESUME;
        mark_pending(e);
        if (!end_saved(e, s->ticket))
            return false;
        if (whole_volumes(e))
            map_fill(e, whole_volumes(e));
        if (!s->restart) {
            s->seq = s->meeting.stream_from;
            s->stage = SESSION_OFFERING;
            beat_soon(e);
            return true;
        }
        s->stage = SESSION_UNITING;
        s->united = !s->peer.was_active;
        if (!s->united)
            map_unite(e);
        return true;
    case SESSION_UNITING:
        if (!s->united || (e->relation == REL_GOING_ALONE && e->alone_stage != ALONE_WAIT))
            return false;
        if (opened_since(e)) {
            session_end(e, "an epoch was opened meanwhile");
            return true;
        }
        end_act(e, ACT_DETACH);
        end_act(e, ACT_ATTACH)->session = s->number;
        e->attached = 0;
        e->draining = false;
        s->stage = SESSION_ATTACHING;
        return true;
    case SESSION_ATTACHING:
        if (!e->attached)
            return false;
        e->draining = false; // that was told on the way here, and is of the place that was given up
        s->seq = e->attached;
        s->stage = SESSION_OFFERING;
        beat_soon(e);
        return true;
    case SESSION_STREAMING:
        if (refused) {
            session_end(e, "the peer's salvage is full");
            return true;
        }
        if (e->st.held && !s->held_told && end_saved(e, e->ticket_last)) {
            s->held_told = true;
            end_act(e, ACT_DIFFERS)->objects = e->st.held;
            return true;
        }
        if ((e->st.pending & ~e->st.held) && !e->draining && !s->resync_asked && !e->paused && !e->map.refill && end_saved(e, e->ticket_last)) {
            s->resync_asked = true;
            memset(e->resynced_seq, 0, sizeof(e->resynced_seq));
            struct end_action *a = end_act(e, ACT_RESYNC);
            a->objects = e->st.pending & ~e->st.held;
            a->ticket = ++e->resync_ticket;
            return true;
        }
        return false;
    default:
        return false;
    }
}

static bool follower_rules(struct end *e)
{
    struct session *s = &e->session;
    bool tried = s->stage == SESSION_PREPARING || s->stage == SESSION_STREAMING;
    if (e->state == END_PASSIVE && e->replica == REPLICA_DEAD && tried && e->replica_retry_ns &&
        e->now >= e->replica_retry_ns) {
        e->replica_retry_ns = 0;
        session_end(e, "the replica is tried anew");
        return true;
    }
    if (s->stage != SESSION_PREPARING || e->state != END_PASSIVE)
        return false;
    if (!end_saved(e, s->ticket))
        return false;
    if (e->replica == REPLICA_OFF || e->replica == REPLICA_DONE ||
        (e->replica == REPLICA_DEAD && s->restart && !e->replica_retry_ns)) {
        if (e->st.salvage) {
            struct end_action *keep = end_act(e, ACT_SALVAGE);
            keep->objects = e->st.salvage;
            keep->state = e->st;
        }
        struct end_action *a = end_act(e, ACT_FOLLOW);
        a->session = s->number;
        a->seq = s->seq;
        a->restart = s->restart || e->data.replica_durable + 1 != s->seq;
        a->epoch = *history_current(&e->st.history);
        e->replica = REPLICA_PREPARING;
        e->start.replica_durable = 0;
        return true;
    }
    if (e->replica != REPLICA_FOLLOWING)
        return false;
    struct frame ready = at_frame(e, FRAME_READY, s->seq, s->restart);
    frame_send(e, &ready);
    s->stage = SESSION_STREAMING;
    return true;
}

bool session_rules(struct end *e)
{
    if (!e->session.number)
        return false;
    return e->session.lead ? leader_rules(e) : follower_rules(e);
}
