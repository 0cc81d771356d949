// SPDX-License-Identifier: Apache-2.0
// One end of one pair as a step function: roles, grant, sessions, going alone, stepping down,
// takeover, switchover.
//
// Pure: an event goes in with the time and the facts of the data path at that time, actions come
// out, nothing else happens. No disk, socket, clock or thread; the daemon and the simulator carry
// the actions out and report back. Inside, every event first changes facts; then the rules of the
// present state are looked at until none applies (level-triggered, so that the order in which
// reports arrive does not matter).
//
// Invariants (checked by check_invariants() of end.c after every step; attacked by tests/unit/test_end_*.c and
// tests/sim):
//  E1  The public address is asked on only in the states TAKING_OVER (after its epoch is durable) and ACTIVE.
//  E2  An answer "yes" goes out only while serving, paired, every volume synchronized, nothing acknowledged alone.
//  E3  The gate is ALONE only when `alone` and (but for `async`, where no answer waits for the disk) its epoch are
//      durable, and no grant can be out.
//  E4  A takeover by itself begins only with a grant that has not run out, and a consistent replica.
//  E5  Once `handed over` is durable this end does not serve before it opened a later epoch.
//  E6  What must survive is durable before it is acted on: an action that depends on a save follows its EV_SAVED.
#ifndef END_END_H
#define END_END_H

#include <stdbool.h>
#include <stdint.h>

#include "common/end/frame.h"
#include "common/end/meet.h"
#include "common/end/verify.h"
#include "queues/record.h"
#include "queues/state.h"

enum end_mode { END_ASYNC, END_SYNC, END_STRICT };

struct end_config {
    bool primary; // this end's identity
    enum end_mode mode;
    int64_t beat_ns;     // between two heartbeats
    int64_t timeout_ns;  // T
    int64_t decision_ns; // D
    int64_t margin_ns;   // for the guard's work, and for clocks that drift
    bool automatic;      // takeover policy: by itself, or only when told
    bool has_waypoint;
    bool alone_when_slow; // policy `slow`: go alone rather than hold the writers back
    bool shutdown_stops;  // policy `shutdown`: stop, rather than switch over
    bool stops_on_split;  // policy `split`: of two ends that both serve, this one stops
    unsigned volumes;     // at most RECORD_OBJECTS_MAX
    uint64_t run;         // random, new for each run of this end
    uint64_t seed;        // for the ids of epochs
    const char *const *names; // of the volumes, for texts; NULL: by their numbers. The caller's
};

// The longest gap of an own or a waypoint's clock.
#define END_ASK_NS (50 * INT64_C(1000000))
#define END_GAP_NS (100 * INT64_C(1000000))

enum end_role_state {
    END_WAITING, // started; passive, follows nobody yet: waits for the peer (or the operator)
    END_PASSIVE, // in a session with an active peer, or was and has lost it (stale when the grant
                 // is gone)
    END_PROBING, // T of silence: asks the vetoes
    END_TAKING_OVER,  // replays, opens its epoch, address, exports, applications
    END_ACTIVE,       // serves
    END_SUSPENDED,    // stepped down: was active, everything frozen, address off
    END_HANDING_OVER, // switchover on the active end, before the point of no return
    END_HANDED_OVER,  // behind it: waits for the peer's epoch
    END_SPLIT,        // both ends acknowledged on their own: waits for the operator
    END_STOPPED,      // protection ended in order by the operator
    END_STATE_COUNT,
};
const char *end_state_name(enum end_role_state state);
bool end_may_go(enum end_role_state from, enum end_role_state to); // by the table of transitions

enum end_gate { GATE_CLOSED, GATE_HELD, GATE_PAIRED, GATE_ALONE };

enum end_step_result { STEP_NONE, STEP_PENDING, STEP_DONE, STEP_FAILED };

// Facts of the data path and the network, sampled by the caller right before each event.
struct end_data {
    uint64_t numbered;  // active: the last seq given
    uint64_t durable;   // active: confirmed by the peer in this session
    uint64_t applied;   // active: likewise; passive: by this end's own replica
    uint64_t held_from; // active: first seq that the unsafe queue still has for the peer; 0: it
                        // keeps none
    uint64_t replica_durable; // passive: this end's own safe queue
    int64_t
        waiting_ns;    // since when the oldest answer has been waiting for `durable`; 0: none waits
    int64_t moved_ns;  // when `durable` moved last
    int64_t stream_ns; // when the data link was up last (its time of now while it is); 0: never
    int64_t waypoint_ns; // when the newest ask that a waypoint has answered was sent; 0: never
    uint64_t backlog;    // active: bytes in the unsafe queue that the peer has not confirmed
    uint64_t behind;     // active: bytes of all volumes that a resync has to go over still
    bool full;            // passive: its safe queue takes nothing for now
    bool salvage_full;    // passive: its salvage takes nothing more, so nothing is applied
    bool wedged;         // a data thread of this pair does not turn: no heartbeat may go out
    bool unguarded;      // no guard watches this end: nothing may be promised to the peer
    bool lagging;        // what is queued would need longer than T at the present rate
};

// ---- events ----

enum end_event_type {
    EV_START,      // once, first
    EV_OPENED,     // the safe queue, which a start with END_OPENING had left open, has been read
    EV_TICK,       // time has passed
    EV_FRAME,      // an authenticated frame of the peer
    EV_SAVED,      // a save has ended
    EV_GATE,       // the gate asked for is in force
    EV_ATTACHED,   // the stream has a place in the unsafe queue from which on it gets every record
    EV_EXPORTS,    // exports opened or closed
    EV_ADDRESS,    // public address on or off
    EV_APPS,       // applications started or stopped
    EV_REPLICA,    // the replica: ready, wants a consent, finished, failed
    EV_PROBED,     // the vetoes' probes are through
    EV_GUARD,      // the guard acted or thawed
    EV_RESYNCED,   // a volume's resync: the end mark has its seq
    EV_VERIFIED,   // a verify is through, or was stopped when it had found something
    EV_OVERFLOW,   // the unsafe queue had to let go of the peer's position, or (draining) will when the peer has what
                   // it holds
    EV_STORE,      // the active end's own store failed a flush
    EV_APP_FAILED, // an application failed for good, and its policy is switchover
    EV_PEER_GONE,  // the peer's end is known to have ended (its guard's goodbye)
    EV_COMMAND,    // an operator
    EV_MAP,        // the intent maps
    EV_TERMINATE,  // SIGTERM: a restart is coming
};

struct end_start {
    bool same_boot;          // the runtime directory is of this boot, and this end ran in it before
    bool guard_acted;        // the guard's flag is there
    int64_t echo_sent_ns;    // kept in the runtime directory: sending time of the last echoed
                             // heartbeat; 0 unknown
    bool unwatched;          // the guard has watched all along and had no deadline: no grant was out
    bool queue_found;        // the unsafe queue of the former run is whole
    uint64_t queue_numbered; // the last seq that it gave
    uint64_t queue_epoch;    // id of the epoch in which it numbers; 0 unknown
    struct epoch queue_opening; // of that one; id 0: not known
    bool queue_pending;      // it holds updates that were not numbered
    uint64_t queue_confirmed; // what it has been let forget, since the peer had confirmed it; 0 unknown
    uint64_t replica_durable; // the safe queue's valid prefix ends here; 0: it is empty. The position
                              // in end_data reaches it when the end has consented to the openings
                              // in it; before that this end does not meet its peer
    bool replica_failed;      // the safe queue is damaged
#define END_OPENING UINT64_MAX // replica_durable: it is still being read; heartbeats go out meanwhile, and EV_OPENED follows
    bool state_unreadable;
    uint64_t maps_damaged; // mask: volumes whose intent map was found not to say, in whole or in part, what it had
    const struct end_state *state;
};

// A salvage that goes on, with maps of which these have been damaged: what they say now is more than what the end had alone.
// To be called by whoever starts an end before anything of `state` is acted on; the end saves it. False: nothing changes.
bool end_doubt_salvage(struct end_state *state, uint64_t damaged);

enum end_replica_event {
    FOLLOW_READY,    // accepts frames of the session asked for
    FOLLOW_EPOCH,    // gate: an epoch record, `epoch` set
    FOLLOW_BEGIN,    // gate: `object` is inconsistent from `seq` on
    FOLLOW_END,      // gate: `object` is consistent as of `seq`, settled
    FOLLOW_FINISHED, // replayed to the end of the valid prefix: `seq`
    FOLLOW_FAILED,   // cannot go on; `text`
};

enum end_map_event {
    MAP_EV_FAILED,  // `object` cannot be written (`status`), and somebody waits: ACT_MAP_VOID with `ticket`
    MAP_EV_GOOD,    // `object` is good again: the record `ticket` that it is void may go
    MAP_EV_DURABLE, // of ACT_MAP_SYNC `ticket`
    MAP_EV_PIECE,   // of ACT_MAP_READ; `ticket` is its session
    MAP_EV_LOST,    // a store may have lost what it had flushed
    MAP_EV_UNDEFINED, // a write to `object` failed: what is there now is not known
};

// What speaks against becoming active. An operator overrides them by name (end_veto_name()).
enum end_veto {
    END_VETO_GRANT = 1 << 0,        // no grant: the active end may have gone on without this one
    END_VETO_INCONSISTENT = 1 << 1, // a volume in mid-resync; only COMMAND_INCONSISTENT overrides it
    END_VETO_REPLICA = 1 << 2,      // the replica or its queue failed
    END_VETO_ADDRESS = 1 << 3,      // the public address answers
    END_VETO_MANAGEMENT = 1 << 4,   // the peer says "active" at its management address
    END_VETO_WAYPOINT = 1 << 5,     // no waypoint answers: this end is the isolated one
    END_VETO_ARBITER = 1 << 6,      // the arbiter refuses or cannot be reached
    END_VETO_PROBE = 1 << 7,        // could not ask
    END_VETO_OWN_STORE = 1 << 8,    // was active itself: from its own store, whatever its peer has
    END_VETO_SPLIT = 1 << 9,        // what only the other end has is left out
    END_VETO_STATE = 1 << 10,       // its state is damaged
    END_VETO_EMPTY = 1 << 11,       // never had the data
    END_VETO_LOSS = 1 << 12,        // the replay ends short of what this run had confirmed
};
#define END_VETO_COUNT 13
const char *end_veto_name(unsigned number); // of bit `number`; NULL: no such veto
uint32_t end_veto_find(const char *name, size_t length); // the bit; 0: no such name

enum end_command {
    COMMAND_SWITCH,
    COMMAND_TAKEOVER,
    COMMAND_PAUSE,
    COMMAND_RESUME,
    COMMAND_RESYNC,
    COMMAND_STOP,
    COMMAND_SHUTDOWN, // the host is to be shut down: this end is ended in order, by the pair's policy
    COMMAND_RESOLVE, // a split: keep one side
    COMMAND_VERIFY,
    COMMAND_END,
};
#define COMMAND_FORCE        0x1 // takeover: overrides every veto but a mid-resync
#define COMMAND_INCONSISTENT 0x2 // takeover: also of a replica in mid-resync, which holds no grant
#define COMMAND_REPLAY       0x4 // pause: the passive end stops applying
#define COMMAND_KEEP_PRIMARY   0x8  // resolve: whose data is kept
#define COMMAND_KEEP_SECONDARY 0x10
#define COMMAND_REPAIR       0x20 // verify: what differs is resynced

struct end_event {
    enum end_event_type type;
    union {
        struct end_start start;
        struct {
            uint64_t replica_durable; // as in end_start
            bool replica_failed;
            uint64_t base; // id of the epoch that what it holds goes on from; 0: it holds nothing
            bool damaged; // what it holds ends before what may have been applied
        } opened;
        struct {
            unsigned path;
            const struct frame *frame;
        } frame;
        struct {
            uint64_t ticket;
            int status; // 0 or -errno
        } saved;
        struct {
            enum end_gate gate;
            uint64_t ticket;   // of the ACT_GATE that it answers
            uint64_t numbered; // at the moment from which the gate is in force; HELD: nothing is in
                               // flight any more
        } gate;
        struct {
            uint64_t seq;     // the first record that it gets
            uint64_t session; // of the ACT_ATTACH that it answers
        } attached;
        struct {
            bool open;
            bool abandoned; // the answer to ACT_ABANDON
            int status; // of opening; or of the flush of closing (exports are closed all the same)
            const char *why; // ... it failed; NULL: nothing is known but the status
            uint64_t numbered; // the last seq given; final once closed
        } exports;
        struct {
            bool on;
            int status;
        } address;
        struct {
            bool running;
            int status;
        } apps;
        struct {
            enum end_replica_event what;
            uint64_t seq;
            unsigned object;
            const struct epoch *epoch;
            bool short_of_confirmed; // FINISHED: the prefix does not reach what this run confirmed
                                     // durable
            uint64_t lost_records;   // FINISHED: discarded behind the prefix
            bool discards;           // FINISHED: not yet, ACT_DISCARD does it;
            bool unknown;            // and their regions are unknown
            const char *text;
        } replica;
        struct {
            uint64_t ticket; // of the ACT_PROBE that it answers
            uint32_t vetoes;   // END_VETO_ADDRESS to END_VETO_PROBE that stand; 0: nobody answers, a waypoint does
            const char *text;  // of the address, or why it could not ask; may be NULL
        } probed;
        struct {
            bool frozen; // acted, or (false) thawed
        } guard;
        struct {
            uint64_t run; // of the peer, that has ended. Counts only if it is the one that this end knows, and has had
                          // an echo of
        } gone;
        struct {
            unsigned object;
            uint64_t seq; // of its MARK_RESYNC_END
            uint64_t ticket; // of the order: an older one's resync was given up
        } resynced;
        struct {
            enum end_map_event what;
            unsigned object;
            uint64_t ticket;
            int status;
            const struct frame_map *piece;
        } map;
        struct {
            const struct verify_result *result; // compared < total: it was stopped
            int64_t real_ns;                    // CLOCK_REALTIME
        } verified;
        struct {
            const char *text;
            bool draining;
            uint64_t objects; // STORE: mask of the volumes
            bool ignored;     // STORE: the failure policy leaves it to the operator
        } failed; // EV_OVERFLOW, EV_STORE, EV_APP_FAILED
        struct {
            enum end_command command;
            unsigned flags;
            uint32_t overrides; // takeover: these vetoes, by name
            uint64_t id; // comes back in ACT_REPLY
        } command;
    };
};

// ---- actions ----

enum end_action_type {
    ACT_SEND, // frame on `path` (or FRAME_ALL_PATHS)
    ACT_SAVE, // make `state` durable, then EV_SAVED with `ticket`. Saves are carried out in order
    ACT_GATE, // -> EV_GATE with `ticket`
    ACT_OPEN, // open the exports over a fresh unsafe queue of `epoch` whose first record (EPOCH) is
              // `seq`, gate HELD; or (recover) over the found one, after its unnumbered slots are
              // written again
              // -> EV_EXPORTS
    ACT_CLOSE,   // refuse new requests, wait for those in flight, flush the stores -> EV_EXPORTS
    ACT_ABANDON, // drop the exports at once, without flush or drain (this end has yielded) ->
                 // EV_EXPORTS
    ACT_EPOCH,   // number an EPOCH record of `epoch` and go on in it (only while the gate is HELD)
    ACT_BOUND,   // seqs up to `seq` may be given
    ACT_STREAM,  // stream to the peer in `session` from `seq` on; seq 0: stop
    ACT_WITHHOLD, // what is numbered from `seq` on is not streamed yet; UINT64_MAX: it is
    ACT_ATTACH,  // in `session`: hold every record that is numbered from now on for the peer -> EV_ATTACHED
    ACT_DETACH,  // the peer's position in the unsafe queue is given up
    ACT_FOLLOW,  // replica: accept frames of `session`; with `restart` drop the queue after
                // replaying it and expect `seq` next -> EV_REPLICA READY; session 0: accept nothing
    ACT_SALVAGE,  // replica, before the ACT_FOLLOW that it is for: keep what the volumes of the mask `objects` hold
                  // before it is overwritten; `state` says why
    ACT_CONSENT,  // replica: pass the gate at `seq`
    ACT_FINISH,   // replica: replay to the end of the valid prefix, flush -> EV_REPLICA FINISHED or
                  // FAILED
    ACT_LOST,     // replica: the piece of what it is about to discard of `object`, at or behind region `seq`
                  // -> MAP_EV_PIECE with `session`
    ACT_DISCARD,  // replica: forget what lies behind the valid prefix -> as ACT_FINISH
    ACT_REPLAY,   // replica: stop (`on` false) or go on applying
    ACT_RESYNC,   // resync the volumes of the mask `objects` (begin mark, check, send, end mark) ->
                  // EV_RESYNCED each; mask 0: stop
    ACT_MAP_FILL, // the maps of `objects` are recorded as void (record `ticket`): everything of them counts as set
                  // -> MAP_EV_GOOD when their files say so, too
    ACT_MAP_VOID, // (`on`) that of `object`, which failed with ticket `id`, is recorded as void (record `ticket`); or
                  // (not `on`) that cannot be recorded: writes that wait for it fail
    ACT_MAP_ARM,  // what the peer has settled in `session` may be cleared; of `objects` only behind their resync
    ACT_MAP_CLEAR, // the maps of `objects` are of no use any more
    ACT_MAP_READ,  // the piece of `object` at or behind region `seq` -> MAP_EV_PIECE; `on`: with what is kept apart
    ACT_MAP_ADD,   // the piece in `frame` is added; or (`on`) kept apart, and only shown
    ACT_MAP_ASIDE, // what was kept apart is forgotten
    ACT_MAP_SYNC,  // -> MAP_EV_DURABLE when everything that is set now is durable
    ACT_VERIFY,   // compare the volumes of the mask `objects` with the replica -> EV_VERIFIED; mask 0: stop
    ACT_DIFFERS,  // put into the stream that the replica of the volumes of the mask `objects` is not consistent
    ACT_ADDRESS,  // public address on or off -> EV_ADDRESS
    ACT_ANNOUNCE, // tell the network where the public address is now
    ACT_PROBE,    // ask the vetoes (`on`: all of them, even when one stands) -> EV_PROBED with `ticket`; a newer one
                  // replaces an older one
    ACT_APPS,     // start (`on`) or stop the applications in order -> EV_APPS
    ACT_ADOPT,    // go on with applications that run since the former run -> EV_APPS
    ACT_DESTROY,  // kill what was frozen or runs: it must not write again
    ACT_FREEZE,   // guard: act now -> EV_GUARD
    ACT_THAW,     // guard: undo, and act again at `time_ns` -> EV_GUARD (frozen still: that had passed)
    ACT_DEADLINE, // guard: act at `time_ns` (INT64_MAX: never)
    ACT_LEASE,    // the front thread answers nothing after `time_ns`
    ACT_GOODBYE,  // guard: what it says when this daemon ends counts (`on`), or is destroyed, before anything that follows
    ACT_WATCH,    // ask the waypoints every 50 ms (`on`) or at leisure
    ACT_HISTORY,  // a step for the log and for `pairctl history`: `text`, `time_ns` that it took
                  // (-1: none), and
                  // (`on`) what was lost: `seq` records, `objects` bytes, `ticket` ns of age
    ACT_REPLY,    // answer the operator: `id`, `status`, `text`
    ACT_EXIT,     // the daemon may end this end now
};

#define ACTION_TEXT_SIZE 256
#define FRAME_ALL_PATHS  UINT32_MAX

struct end_action {
    enum end_action_type type;
    bool on;      // ADDRESS, APPS, REPLAY, WATCH, PROBE
    bool restart; // FOLLOW
    bool recover; // OPEN
    bool more;    // HISTORY: what else was lost is not known
    int status;   // REPLY
    enum end_gate gate;
    uint64_t seq;
    uint64_t session;
    uint64_t objects;
    uint64_t ticket;
    uint64_t id;
    unsigned object;
    int64_t time_ns;
    unsigned path;
    char text[ACTION_TEXT_SIZE];
    union {
        struct frame frame;     // SEND, MAP_ADD
        struct end_state state; // SAVE, SALVAGE
        struct epoch epoch;     // OPEN, EPOCH
    };
};

// ---- the end ----

struct end;

struct end *end_new(const struct end_config *config);
struct end *end_free(struct end *end);

// One step. `now` never goes back. Afterwards end_action() gives the actions in the order in which
// they are to be started, NULL behind the last; they stay valid until the next step.
void end_step(struct end *end, int64_t now, const struct end_data *data,
              const struct end_event *event);
const struct end_action *end_action(struct end *end);

// When the next EV_TICK is wanted.
int64_t end_deadline_ns(const struct end *end);

// What an operator's takeover met, and what he gets.
#define END_VETO_TEXT 200
struct end_verdict {
    uint32_t vetoes;     // that stood
    uint32_t overridden; // of these; the others refused it
    char text[END_VETO_COUNT][END_VETO_TEXT];
    char age[ACTION_TEXT_SIZE]; // one sentence; empty: there was no takeover
    bool loss_known;            // of what the active end had told of, this is not here; told so long ago:
    uint64_t records, bytes;
    int64_t age_ns;
};

// What a status shows.
struct end_view {
    enum end_role_state state;
    bool active;       // role
    bool alone;        // acknowledges (or would, if it were not suspended) without its peer; not while it is still on
                       // its way to that, and until it is paired again
    bool paired;       // the peer is heard; what is promised waits for it, and it has all of that. A passive end
                       // knows it from the active one
    bool synchronized; // every volume
    bool granted;      // passive: holds a grant; active: has one out
    bool promotable;
    bool frozen;
    bool paused;
    bool connected; // the peer is heard
    uint64_t session;
    uint64_t pending;       // mask: volumes with a resync pending (active)
    uint64_t inconsistent;  // mask: volumes of this replica in mid-resync (passive)
    int64_t grant_until_ns; // passive: when its grant ends; 0: none
    bool peer_active;       // what the peer last said of itself
    uint64_t peer_backlog;  // passive: what the active end told of its queue last, bytes
    uint64_t peer_behind;   // and of what a resync has to go over still
    int64_t stale_since_ns; // 0: not stale
    int64_t heard_ns;       // when the peer was heard last; 0 never
    int64_t echo_sent_ns;   // serving: from when on the peer can have counted its timeout, at the earliest; what a restart
                            // is to be told. Otherwise 0: what is heard then gives no right to serve
    struct epoch epoch;     // the current one; number 0: none
    uint64_t held;          // mask: volumes whose replica was found to differ, and whose repair waits for the operator
    bool verifying;
    const struct verify_result *verified; // what the last verify of this run found; NULL: none. Valid until the next step
    struct state_proof proven;            // when both ends were last proven equal
    enum meet_row met;      // what the last meeting decided
    bool split;             // and it stands: an operator has to resolve it
    bool counted;           // how much differs is known, from both ends' maps
    uint64_t differing_regions, differing_volumes; // regions; volumes (a mask) of which everything counts
    const struct epoch_history *own_history, *peer_history; // in a split; valid until the next call
    const char *met_rule;   // and by which rule of the table; NULL: has not met yet
    uint64_t peer_run;
    uint64_t peer_position; // its durable position as it told last
    const char *why;        // one sentence; valid until the next call
    // The operator's last command here, and how it goes.
    const char *operation; // NULL: none yet
    enum end_step_result operation_result;
    const char *operation_text;
    const struct end_verdict *verdict; // of the last takeover here; valid until the next step
};
void end_view(struct end *end, int64_t now, struct end_view *view);

#endif
