// SPDX-License-Identifier: Apache-2.0
// The inside of an end, shared by the files of this room and nobody else.
//
//   end.c       the step: facts in, rules until none applies, invariants; the table of role transitions
//   facts.c     what an event changes
//   start.c     whether an end goes on as what it was
//   view.c      what it shows of itself
//   beat.c      heartbeats, what was heard, the answers to them
//   grant.c     the grant, seen from both ends
//   meet.c      the decision of two ends that meet
//   session.c   meeting, and the start of streaming and following
//   active.c    serving: paired, going alone, alone, joining; stepping down
//   takeover.c  becoming active: by silence, by the operator, by a switchover, at a start
//   handover.c  switchover and stop on the active end
//   map.c       the intent maps: which regions count, when they are united, recorded and forgotten
//   proof.c     verify
//   resolve.c   a split, resolved
//   command.c   what an operator may ask
//   why.c       the one sentence of the status
//   veto.c      what speaks against an operator's takeover, by name
#ifndef END_END_PRIVATE_H
#define END_END_PRIVATE_H

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/end/end.h"

#define ACTIONS_MAX 64
#define WHY_SIZE    200
#define CONSENTS_MAX 4
// A replica that failed is opened anew, and resynced in full, after a pause that doubles.
#define REPLICA_PAUSE_MIN_NS (5 * NS_PER_S)
#define REPLICA_PAUSE_MAX_NS (60 * NS_PER_S)
// How far ahead of the last seq the durable bound is kept.
#define BOUND_AHEAD (UINT64_C(1) << 24)

enum relation {
    REL_PAIRED,      // answers wait for the peer as the mode says
    REL_GOING_ALONE, // they still do, but nothing is promised any more (no more "yes")
    REL_ALONE,
    REL_JOINING, // caught up; answers wait again; `paired` not yet durable
};

enum fact_exports { EXPORTS_CLOSED, EXPORTS_OPENING, EXPORTS_OPEN, EXPORTS_CLOSING };
enum fact_address {
    ADDRESS_OFF,
    ADDRESS_TURNING_ON,
    ADDRESS_ON,
    ADDRESS_TURNING_OFF,
    ADDRESS_FAILED
};
enum fact_apps { APPS_STOPPED, APPS_STARTING, APPS_RUNNING, APPS_STOPPING, APPS_FAILED };
enum fact_replica {
    REPLICA_OFF,
    REPLICA_PREPARING,
    REPLICA_FOLLOWING,
    REPLICA_FINISHING,
    REPLICA_DISCARDS, // replayed; what lies behind is to be recorded before it forgets it
    REPLICA_DONE,
    REPLICA_DEAD
};

// What the peer last said.
struct peer {
    uint64_t run;         // 0: never heard
    uint64_t beat_number; // its newest heartbeat
    int64_t beat_sent_ns; // by its clock
    uint16_t flags;
    uint64_t session; // the one it believes in
    uint64_t last_session;
    uint64_t durable, applied;
    uint64_t backlog, behind;
    uint64_t command_id;   // its newest command that was carried out here
    struct frame answer;   // ... and what was answered to that, or has come of it since
    bool answer_open;      // it has not ended yet: a switchover
    int64_t frame_ns; // when anything of this run came last
    int64_t heard_ns; // when a frame came last that echoes a heartbeat of mine, younger than T at
                      // that time
    uint64_t echo_number; // my newest heartbeat that it has echoed
    int64_t echo_sent_ns; // and when I had sent that one
    // The peer's silence is not older than this moment: it has echoed a heartbeat of mine that echoed one of its own,
    // which it had sent after it had got what I sent then. What it counts its timeout from is what counts for my lease.
    int64_t proven_ns;
    bool gone;            // said goodbye, or its guard did
};
#define SENT_KEPT   64 // of my heartbeats: what they proved to the peer is known
#define FORMER_RUNS 8 // of the peer: a late frame of one of them counts for nothing

// The grant as the passive end holds it.
struct held_grant {
    uint64_t session, number; // of the newest answer taken in
    int64_t until_ns;         // 0: none
    uint64_t honoured;        // newest "no"
    int64_t ended_ns;         // when it ran out or was taken back; 0 while held, or when never held
    bool ran_out;             // ... it was the former
};

// The grant as the active end has given it.
struct given_grant {
    bool out;            // a yes was given that no confirmation has taken back
    uint64_t yes_number; // my heartbeat that carried the newest yes
    int64_t yes_ns;      // when
};

enum session_stage {
    SESSION_NONE,
    SESSION_MET,       // decided; leader: preparing to stream; follower: waits for STREAM
    SESSION_UNITING,   // leader: adds the follower's intent maps to its own
    SESSION_ATTACHING, // leader: waits for the position at which the stream starts anew
    SESSION_OFFERING,  // leader: STREAM sent, waits for READY
    SESSION_STREAMING, // leader: streams. Follower: follows
    SESSION_PREPARING, // follower: STREAM received; saves, replays what it holds, opens its replica
};

struct session {
    uint64_t number;   // 0: none
    uint64_t proposed; // Primary: the number in my outstanding proposal
    bool confirmed;    // the peer was seen in this session
    enum session_stage stage;
    struct meeting meeting;
    bool lead;
    bool restart;           // the stream starts anew at `seq`
    uint64_t seq;           // first seq of the stream
    uint64_t ticket;        // a save to wait for
    struct frame_meet own;  // the facts that I gave at the meeting
    struct frame_meet peer; // its facts
    bool resync_asked;
    bool went_back; // the peer has less than it had confirmed, or may have: its queue has lost what was in it
    // The union of the maps (map.c).
    unsigned unite_object;
    uint64_t unite_from, unite_ticket;
    bool united;
    bool held_told; // ACT_DIFFERS
    // In a split: of both maps together, once `counted`.
    unsigned count_object;
    uint64_t count_from, count_regions, count_void; // count_void: volumes that count as a whole
    bool counted;
    int64_t since_ns;
};

// Becoming active, step by step (takeover.c).
enum take_stage {
    TAKE_INTENT,
    TAKE_REPLAY,
    TAKE_EPOCH,
    TAKE_ADDRESS,
    TAKE_OPEN,
    TAKE_GATE,
    TAKE_DONE
};
struct take {
    enum take_stage stage;
    enum epoch_reason reason;
    bool replay;      // from the replica; else from an own store that was active before
    bool recover;     // the unsafe queue of the former run goes on: no new epoch
    bool open_epoch;  // ... but for one that was durable and not in the queue yet
    bool dead;         // the replica had failed, and was told to replay as far as it goes all the same
    bool behind;       // ... and without a grant: the active end may have gone on
    uint32_t accepted; // vetoes that an operator overrides; 0: a takeover by itself
    uint64_t fork;    // last seq of the parent epoch that this end has
    uint64_t first;   // first seq of the new epoch
    uint64_t ticket;
    int64_t began_ns;
    int64_t step_ns;
    int64_t retry_ns;
    bool address_failed;
};

enum hand_stage { HAND_APPS, HAND_CLOSE, HAND_DRAIN, HAND_SAVE, HAND_BACK_OPEN, HAND_BACK_APPS };
struct hand {
    enum hand_stage stage;
    bool stop;    // `pairctl stop`: the same way down without a successor
    bool shutdown; // because the host ends: nothing leads back, and the next start may go on
    bool undrained; // shutdown: the peer does not take what is left
    uint64_t seq; // the last one
    uint64_t ticket;
    bool drained;
    bool gate_asked;
    int64_t began_ns;
    int64_t step_ns;
    uint64_t session; // in which the handover was said
    int64_t retry_ns; // BACK_OPEN: not to be tried before
};

// SAY: in `async`, `alone` gets durable while answers go on as before; nothing is held for a disk.
enum alone_stage { ALONE_WAIT, ALONE_SAY, ALONE_HOLD, ALONE_SAVE };

// Resolving a split, on the end that is kept (resolve.c).
struct resolve {
    bool wanted;  // by an operator; waits until the other end has stopped serving
    bool opening; // its epoch is being opened
    int64_t since_ns;
    struct epoch_history other; // the line that is given up; empty: there is none
};

struct operation {
    const char *name; // "switch", "takeover", ...; NULL: none yet
    enum end_step_result result;
    char text[ACTION_TEXT_SIZE];
};

struct end {
    // Fixed.
    struct end_config config;
    // Sampled with each event.
    int64_t now;
    struct end_data data;
    // Durable.
    struct end_state st;
    uint64_t ticket_last;  // given to the newest save
    uint64_t ticket_saved; // everything up to here is durable
    bool save_failed;
    int64_t save_retry_ns;
    // Role.
    enum end_role_state state;
    int64_t state_since_ns;
    bool started;
    bool unreadable;
    bool terminating;
    int64_t terminate_ns;
    bool exit_said;
    bool paused;
    struct end_start start; // `state` is not valid behind the start
    // Peer.
    struct peer peer;
    uint64_t run_since; // my newest heartbeat when the peer's run became known
    uint64_t followed_run; // of the peer: the last one that was streamed to
    uint64_t former_runs[FORMER_RUNS];
    unsigned former_next;
    struct session session;
    uint64_t beat_number;
    int64_t next_beat_ns;
    bool beat_due; // now, whatever was sent before
    int64_t asked_beat_ns; // when the newest one that wants an echo was sent
    struct {
        uint64_t number;
        int64_t echo_sent_ns; // what peer.echo_sent_ns was when it was sent
    } sent[SENT_KEPT]; // by number, the newest ones
    struct held_grant held;
    struct given_grant given;
    bool strict_hand; // this end hands its role to the passive one at the first meeting
    // Active.
    enum relation relation;
    enum alone_stage alone_stage;
    bool must_open; // going alone, whatever happens meanwhile: the epoch is being opened
    char alone_why[WHY_SIZE];
    uint64_t join_seq;
    uint64_t join_ticket;
    int64_t lag_ns;      // since when the lag has been small
    int64_t deadline_ns; // last one given to the guard
    int64_t lease_ns;    // last one given to the front thread
    int64_t turned_ns;   // this end took in what had arrived; not older than half a heartbeat, unless it was not scheduled
    int64_t doubt_ns;    // suspended: until when only the peer's word proves that this end may go on
    bool freezing, frozen, thawing;
    bool destroying; // yielded: what runs is destroyed as soon as the queue is gone
    bool again_by_take; // SUSPENDED on the way to another state: goes on by the steps of a takeover
    uint64_t opening_ticket; // of the save of an epoch whose opening is not streamed before that is durable; 0: none
    uint64_t bound_ticket, bound_asked, bound_given;
    bool store_failed;
    // Facts.
    enum fact_exports exports;
    bool abandoning; // ACT_ABANDON is not answered yet: what is told of the exports before is of former orders
    int exports_status;
    char exports_why[ACTION_TEXT_SIZE]; // why they could not be opened; empty: that is not known
    uint64_t exports_numbered;
    enum fact_address address;
    int64_t address_retry_ns;
    bool address_stays; // it could not be taken off when that was tried last
    enum fact_apps apps;
    int apps_status;
    enum fact_replica replica;
    char replica_why[WHY_SIZE];
    int64_t replica_pause_ns, replica_retry_ns; // of a dead one: when it is tried anew
    uint64_t replica_seq;
    bool replica_damaged;       // its queue was found damaged: what is replayed of it says nothing
    bool lost_by_damage;        // and for nothing else its volumes count as lost: a takeover knows what it discards
    uint64_t replica_discarded; // records behind the prefix, at the last replay to its end
    bool replica_unknown;       // REPLICA_DISCARDS: of which regions nobody knows
    int replica_short; // -1 failed, 0 whole, 1 short of what was confirmed
    bool replay_stopped;
    enum end_gate gate;
    bool gate_pending;
    uint64_t gate_ticket; // of the newest order
    uint64_t gate_numbered;
    uint64_t attached; // EV_GATE of an attach; 0 none
    bool draining;     // the queue is full: it streams what it has, then lets go of the peer
    // Gates of the replica that wait for their saves, in order.
    struct {
        uint64_t seq, ticket;
    } consent[CONSENTS_MAX];
    unsigned consent_count;
    // Volumes whose end mark has its seq but is not applied yet.
    uint64_t resynced_seq[RECORD_OBJECTS_MAX];
    uint64_t resync_ticket; // of the present resync
    struct {
        uint64_t record;                      // number of the newest record that a map is void
        uint64_t records[RECORD_OBJECTS_MAX]; // and of each
        uint64_t sync;
        uint64_t exact;     // mask: volumes whose map is void because it could not be written: in memory it is as it was
        uint64_t unflushed; // mask: volumes that are recorded as void because their store failed a flush in this run;
                            // what is set in memory is exact
        uint64_t reopened;  // of these: the store was opened since
        uint64_t refill; // ticket of the save behind which everything counts as set; 0: none
        bool losing;         // what a takeover discards is being recorded (map_lose())
        unsigned lose_object;
        uint64_t lose_from;
        uint64_t lose_sync, lose_ticket; // tickets of the sync, or the save, that is under way; 0: none
        bool lost;           // it is
        bool own_cleared; // passive and whole: its own maps say nothing any more
        struct {
            uint64_t map_ticket; // 0: none waits
            uint64_t save_ticket;
            bool refused;
        } failed[RECORD_OBJECTS_MAX];
    } map;
    struct take take;
    struct hand hand;
    struct {
        bool asked;    // waits for the answer to `ticket`
        bool answered; // there is a result to look at
        uint64_t ticket;
        int64_t again_ns; // not to be asked before
        uint32_t vetoes;
        char text[WHY_SIZE];
    } probe;
    // An operator's takeover that waits for the answer to `ticket`. No other probe is asked meanwhile.
    struct {
        bool pending, answered;
        uint64_t ticket;
        uint32_t accepted;
        uint32_t vetoes;
        char text[WHY_SIZE];
    } ask;
    struct end_verdict verdict;
    // A verify (proof.c).
    struct {
        bool running, repair;
        bool repairing; // its operation ends when the peer is resynced
        bool known;     // `result` is that of the last one
        struct verify_result result;
    } proof;
    bool watching;
    bool goodbye; // the guard has one for this run
    struct resolve resolve;
    struct operation operation;
    struct {
        struct frame command; // passed on to the peer: said with each heartbeat, until it has ended
        uint64_t run; // of the peer then: another one did not begin it
        int64_t since_ns;
        bool waiting;  // for an answer, or (accepted) for what comes of it
        bool accepted;
    } passed;
    uint64_t random;
    char why[WHY_SIZE * 2]; // room for end_view()
    // Out.
    unsigned action_count, action_next;
    struct end_action actions[ACTIONS_MAX];
};

// end.c
struct end_action *end_act(struct end *e, enum end_action_type type);
void end_go(struct end *e, enum end_role_state to, const char *why, ...)
    __attribute__((format(printf, 3, 4)));
void end_note(struct end *e, const char *format, ...) __attribute__((format(printf, 2, 3)));
void end_note_step(struct end *e, int64_t ns, const char *what, const char *step);
uint64_t end_save(struct end *e); // snapshot of e->st; returns the ticket
static inline bool end_saved(const struct end *e, uint64_t ticket)
{
    return e->ticket_saved >= ticket;
}
void end_gate(struct end *e, enum end_gate gate);
void end_abandon(struct end *e); // the exports, and the queue
void end_address(struct end *e, bool on);
void end_apps(struct end *e, bool start);
void end_deadline(struct end *e);
void end_goodbye(struct end *e);
uint64_t end_all_volumes(const struct end *e);
uint64_t end_random(struct end *e);
void end_operation(struct end *e, const char *name, enum end_step_result result, const char *format,
                   ...) __attribute__((format(printf, 4, 5)));

// facts.c
void facts_take(struct end *e, const struct end_event *event);

// start.c
void start_take(struct end *e, const struct end_event *event);

// beat.c
void beat_take(struct end *e, const struct frame *f);
void beat_tick(struct end *e);
void beat_soon(struct end *e);
// Run `run` of the peer has ended, and held no grant.
void beat_peer_ended(struct end *e, uint64_t run);
bool former_run(const struct end *e, uint64_t run); // of the peer, known to have ended
bool peer_heard(const struct end *e); // an echo younger than T
void frame_send(struct end *e, struct frame *f);
struct frame frame_new(const struct end *e, enum frame_type type);

// grant.c
bool grant_may_say_yes(const struct end *e);
bool grant_relied(const struct end *e); // active: the passive end has what the mode promises
void grant_said(struct end *e, enum frame_answer answer, uint64_t number);
void grant_confirmed(struct end *e);
bool grant_out(const struct end *e); // the peer may hold one
int64_t grant_out_until(const struct end *e);
void grant_take(struct end *e, const struct frame_beat *beat);
void grant_drop(struct end *e);
bool grant_held(const struct end *e);
int64_t
grant_lease(const struct end *e); // until when this active end may answer without seeing anybody
int64_t grant_none_lease(const struct end *e); // the same where no grant is out: until when it may answer unscheduled

// session.c
void session_frame(struct end *e, const struct frame *f);
bool session_rules(struct end *e);
void session_tick(struct end *e); // with each heartbeat: says again what was not answered
void session_end(struct end *e, const char *why);
bool session_streaming(const struct end *e); // leader
bool end_ready_to_meet(const struct end *e);
void session_yield(struct end *e); // this end gives up what it had
void session_facts(const struct end *e, struct frame_meet *m);

// active.c
bool active_rules(struct end *e);
bool suspended_rules(struct end *e);
void active_go_alone(struct end *e, const char *why, ...) __attribute__((format(printf, 2, 3)));
void active_enter(struct end *e);
void active_lapse(struct end *e); // before an event is looked at: steps down if the lease has run out
void active_resynced(struct end *e, unsigned object, uint64_t seq, uint64_t ticket);
bool active_resync_ends(const struct end *e); // a volume's end mark has its seq and waits to be applied

// takeover.c
void take_begin(struct end *e, enum epoch_reason reason, bool replay);
bool take_may_recover(const struct end *e); // the unsafe queue of the former run is this epoch's
bool take_rules(struct end *e);
bool passive_rules(struct end *e);
bool probing_rules(struct end *e);
void probe_take(struct end *e, const struct end_event *event);
bool waiting_rules(struct end *e);
bool end_promotable(const struct end *e);

// handover.c
void hand_begin(struct end *e, bool stop, bool shutdown);
bool hand_rules(struct end *e);
bool handed_rules(struct end *e);
void hand_frame(struct end *e, const struct frame *f);
void hand_tick(struct end *e);
void hand_keep_queue(struct end *e);
void hand_take_back(struct end *e, const char *why);

// command.c
void command_take(struct end *e, const struct end_event *event);
void command_frame(struct end *e, const struct frame *f);
bool command_rules(struct end *e);
void command_tick(struct end *e);
// What a command of the peer has begun has failed.
void command_failed(struct end *e, const char *why);

// proof.c
const char *proof_refusal(const struct end *e, unsigned flags); // of the command; NULL: it may begin
const char *proof_begin(struct end *e, unsigned flags);         // what it begins with
bool proof_rules(struct end *e);
void proof_take(struct end *e, const struct end_event *event);
void proof_hear(struct end *e, const struct frame_beat *beat); // of the end that leads
void proof_keep_line(struct end *e); // the history has changed: what was proven on another line is forgotten

// veto.c
uint32_t veto_standing(const struct end *e); // of this end itself
bool veto_own_store(const struct end *e);    // a takeover would be from its own store, without a replay
void veto_list(uint32_t vetoes, char *ret_text, size_t size);
void veto_judge(struct end *e, uint32_t vetoes, uint32_t accepted, const char *probed); // fills e->verdict
void veto_late(struct end *e, uint32_t veto);

// map.c
void map_start(struct end *e);
void map_lost(struct end *e);   // what had been flushed to a store may be gone
// The store of these volumes has failed a flush. What it has lost nobody knows: no later flush and no later run may take
// their regions for equal before they are resynced.
void map_unflushed(struct end *e, uint64_t objects);
void map_reopened(struct end *e); // the stores are in use anew
void map_resynced(struct end *e, uint64_t objects); // saved by the caller
void map_refill(struct end *e); // everything counts as set, as soon as that is durable
void map_fill(struct end *e, uint64_t objects); // st.map_void is durable with them
// Records durably which regions the replica is about to discard. True when that is done.
bool map_lose(struct end *e);
void map_unite(struct end *e);
void map_tick(struct end *e);
void map_take(struct end *e, const struct end_event *event);
void map_frame(struct end *e, const struct frame *f);
bool map_rules(struct end *e);

// resolve.c
const char *resolve_refusal(const struct end *e); // why it cannot begin here; NULL when it can
void resolve_begin(struct end *e);
bool resolve_rules(struct end *e);
void resolve_tick(struct end *e); // with each heartbeat
void resolve_yield(struct end *e); // the peer is kept
// The epoch that goes on from the present one: with `seq` as its last position, and with both lines as its parents
// where a split is being resolved. NULL, or the rule that this would break.
const char *resolve_append(struct end *e, struct epoch *epoch);
// This end follows from here on: what it held alone is to be salvaged.
void resolve_salvage(struct end *e);

// why.c
const char *why_text(const struct end *e, char *buffer, size_t size);

#endif
