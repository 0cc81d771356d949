// SPDX-License-Identifier: Apache-2.0
// The simulator: both ends of a pair in one process, driven by a seed.
//
// The ends (common/end) and the queues (queues/) are the real ones. What is simulated is the world
// around them: time, the two machines with their memory, disks, daemons and guards, the networks
// between them, the guest that writes, and everything that goes wrong. Nothing here decides: an
// action of an end is carried out after some delay, a report comes back after some delay, and a
// crash drops what is pending. Judges (judge_*.c) look at the result from outside.
//
//   sim.c      time: the agenda of what happens when        net.c     control and data channel,
//   public network host.c     a machine: boots, daemons, guard             act.c     carries out
//   what an end decides front.c    the active end's data path                   stream.c  the
//   passive end's guest.c    the application: numbered writes             fault.c   what goes
//   wrong, and when ledger.c   what was numbered, from outside              cover.c   which rows
//   and faults were met
//
// One run is one struct sim; nothing outlives it but the counters of cover.c.
#ifndef SIM_H
#define SIM_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/base/bytes.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/end/end.h"
#include "common/end/follower.h"
#include "common/end/outlet.h"
#include "common/end/service.h"
#include "queues/unsafe.h"
#include "queues/updates.h"
#include "tests/unit/fake_disk.h"
#include "tests/unit/fake_volume.h"

#define SECTOR       512U
#define VOLUMES_MAX  2
#define SECTORS_MAX  512U
#define GUEST_SLOTS  16
#define PAIR_ID      UINT64_C(0x5157)
#define PATHS        2 // of control frames: the channel network, the public network
#define READER_JUDGE 3

struct sim;
struct host;

// What a host's daemon publishes for its end, as the real one's threads do.
struct figures {
    uint64_t numbered, durable, applied, held_from, queue_bytes;
    uint64_t replica_durable, replica_applied;
    int64_t waiting_ns, moved_ns, stream_ns, oldest_ns, lease_ns;
    bool stream_up, replica_full, salvage_full;
    enum service_held held;
};

// ---- the guest ----

enum guest_op_state { OP_FREE, OP_ASKED, OP_ENDED };

// A request that is under way.
struct guest_op {
    struct update update; // first
    enum guest_op_state state;
    uint32_t number;   // of a write, zero or discard: index in the ledger
    uint32_t acked_at; // of a flush: how many answers had been given when it was asked
    struct host *host;
    bool lost; // nobody waits for its answer any more
};

// ---- a host ----

struct front {
    struct frame_map piece; // of the event that is on its way
    struct service *service;
    struct outlet *outlet;
    bool served;        // the exports take requests in
    struct epoch epoch; // of the last opening
    int64_t turn_at;    // an appointment that stands; INT64_MAX none
    int64_t stamp_lead_ns; // of the wall clock when this run began
    bool turning;
    struct spill_job *job; // of the disk rung, under way
};

struct state_copy {
    uint8_t bytes[STATE_SIZE_MAX];
    size_t size;
    uint64_t version;
    bool readable;
};

// Of a host that follows, and what it held when it began to.
struct judged_salvage {
    uint64_t epoch;         // id of the one that it gave up; 0: it salvages nothing
    uint64_t objects, left; // masks of volumes: of the salvage, and those that are not whole again
    uint8_t *had[VOLUMES_MAX];               // NULL: it never followed
    bool alone[VOLUMES_MAX][SECTORS_MAX];    // what the other end's did not hold
    bool over[VOLUMES_MAX][SECTORS_MAX];     // overwritten by the time of a power loss
    bool there[VOLUMES_MAX][SECTORS_MAX];    // in the archive that was read last,
    bool gone;                               // ... of which something was dropped, or cannot be read
    bool doubtful;                           // ... that says itself that it may have what came afterwards
    bool kept[VOLUMES_MAX][SECTORS_MAX];     // blocks that were in an archive, ever
    bool exact;   // it is judged by the block
    bool dropped; // it is not judged by the sector any more
    uint32_t from; // in the ledger: its own writes of its last reign are behind it
    enum state_role judged_role;
};

struct host {
    struct sim *sim;
    int index;
    char letter; // P, S
    // What a power loss leaves.
    struct fake_disk *safe, *maps, *salvage; // of the safe queue, the intent maps, the salvage
    struct fake_disk *spill;                 // of the unsafe queue
    struct fake_volume *volume[VOLUMES_MAX];
    struct state_copy copy[2];
    bool was_saved;     // a state, ever
    bool queue_rotted;  // its safe queue, ever
    uint64_t told_settled; // the highest seq that its peer has said to be settled
    uint64_t finish_from; // what its safe queue held durably when it was told to replay to the end
    uint64_t held;        // durably, by its safe queue, when the last run with one ended
    bool tail_cut;      // since then its tail was taken for a torn one, and nobody has told it better
    int64_t slow_until; // its disks take their time
    // What lasts as long as a boot.
    bool up;
    uint32_t boot; // counts boots
    uint64_t boot_token;
    int64_t boot_at;      // its clock's zero
    int64_t drift;        // of its clock, parts in a million
    int64_t wall_ns;      // what its wall clock is off
    bool ran;             // a daemon has run in this boot
    int64_t echo_ns;      // kept in the runtime directory
    int memory;           // of the unsafe queue; -1: none
    bool address;         // the public address is on
    bool apps;            // the guest runs
    bool frozen, flag;    // by the guard
    bool goodbye;         // its guard says it when the daemon ends
    bool said_active;     // what daemon or guard say at the management address
    int64_t guard_ns;     // its deadline
    int64_t paused_until; // the whole machine is not scheduled
    // A run of the daemon.
    bool running, started, exited;
    bool dying;    // being killed: completions are for nobody
    uint32_t life; // counts runs
    uint32_t granted_life; // the last one that has held a grant
    uint32_t told_life;    // the last one that an operator has told to take over
    uint64_t run_id;
    struct end *end;
    struct end_view view;
    struct end_start start;
    struct end_state state;
    struct figures figures;
    struct front front;
    struct follower *follower;
    struct frame_map lost_piece; // told last
    bool lost_unknown;           // of which regions what it discards is nobody knows
    bool replay_paused;
    int64_t stores_shut_until; // they cannot be opened
    uint32_t tail_life;        // the run that met a rotten tail, and perhaps a replica that fails
    int stores_of; // which thread has the stores open: BOX_FRONT, BOX_STREAM, BOX_NONE
    int64_t replica_at;
    enum state_role judged_role; // of the last save
    struct judged_salvage judged;
    bool gate_alone;             // it acknowledges alone
    uint64_t copy_objects; // of the newest ask_own_maps()
    uint64_t judged_epoch;       // of the last save of this run, or what it found
    bool named_to_keep;          // by an operator who resolves a split
    bool salvage_open, salvage_drop; // by the follower; an operator is about to drop
    bool frozen_known; // by the end that runs
    bool serving, frozen_told, thawing, open_after_close;
    struct end_action open_action;
    int64_t stalled_until; // the daemon is not scheduled
    int64_t tick_at;
    unsigned volume_scheduled[VOLUMES_MAX], disk_scheduled[2], maps_scheduled;
    uint64_t switch_ticket;   // the newest wish for the public address
    int64_t switch_at;        // when the kernel lets it through; the next one is behind it
    int64_t switch_limit_ns;  // as the end said last: nothing is switched on from then on
    int64_t letter_at[4]; // last delivery on each of its mailboxes: they keep their order
    int64_t save_at;
    const struct save *saving; // under way; NULL none
    bool save_fails;
    bool durable_alone; // what the state says that is durable
    bool force_asked;   // the operator overrides something, if it is accepted
    int64_t ask_ns, ask_next_ns; // waypoint: newest answered ask, next ask
    bool watch;
    uint64_t probe_ticket;
    enum end_role_state seen_state;
    uint64_t seen_session;
    // The queue of events for the end, as in the daemon.
    bool stepping;
};

// ---- the agenda ----

typedef void item_fn(struct host *h, void *arg, uint64_t n);
struct item {
    int64_t at;
    uint64_t order;
    item_fn *fn;
    struct host *host;
    uint32_t life, boot; // 0: whatever life, boot
    void *arg;           // malloc'ed
    uint64_t n;
    bool daemon; // waits while the daemon is not scheduled
};

// ---- the ledger ----

// One write, zero or discard of the guest.
struct ledger_write {
    uint16_t object;
    uint32_t sector, count;
    bool zero, fua;
    uint32_t epoch; // index + 1 of its epoch once it was numbered; 0
    uint64_t seq;
    uint32_t acked; // in the order of answers, from 1; 0: not (yet), or with an error
    int host;
    bool alone; // answered while its end acknowledged alone
};

struct ledger_update {
    uint64_t seq;
    uint16_t object;
    uint32_t sector, count, tag; // tag 0: zeros
};

struct ledger_epoch {
    struct epoch epoch;
    int parent; // index; -1
    uint64_t fork;
    uint32_t *base; // image in front of its first record, where it does not follow from the parent
    struct ledger_update *updates;
    unsigned count, room;
    uint64_t last;     // seq
    uint64_t promised; // highest seq that an answer promised, 0 none
    bool served;       // exports were opened in it
};

struct ledger {
    struct ledger_epoch *epochs;
    unsigned epoch_count;
    struct ledger_write *writes; // [0] is unused
    uint32_t write_count, write_room;
    uint32_t answers;
    uint32_t promised[VOLUMES_MAX]
                     [SECTORS_MAX]; // number of the last write that a local flush has promised
};

// ---- faults ----

enum fault_kind {
    FAULT_KILL,
    FAULT_TERMINATE,
    FAULT_CRASH,
    FAULT_CRASH_BOTH,
    FAULT_CUT,
    FAULT_CUT_ONE_WAY,
    FAULT_CUT_DATA,
    FAULT_CUT_PUBLIC,
    FAULT_ISOLATE,
    FAULT_BLINK,
    FAULT_LATE, // of net.c
    FAULT_STALL,
    FAULT_PAUSE_HOST,
    FAULT_SLOW_DISK,
    FAULT_SAVE,
    FAULT_STORE,
    FAULT_QUEUE_DISK,
    FAULT_QUEUE_FULL,
    FAULT_QUEUE_ROT,
    FAULT_MAP_ROT,
    FAULT_SPILL_ROT,
    FAULT_STATE_ROT,
    FAULT_STATE_LOST,
    FAULT_WIPE,
    FAULT_BURST,
    FAULT_CLOCK,
    FAULT_OPERATOR,
    FAULT_FORCE,
    FAULT_KINDS,
};

// What is done in several steps, and may be met by a fault in the middle.
enum step { STEP_MEETING, STEP_TAKEOVER, STEP_HANDOVER, STEP_GOING_ALONE, STEP_RESYNC, STEPS };

// ---- the run ----

struct stuck; // a message that waits behind a cut

enum phase { PHASE_FAULTS, PHASE_PROGRESS, PHASE_DONE };

struct sim {
    uint64_t seed, random;
    int64_t now;
    struct end_config config;
    enum service_overflow overflow;
    uint32_t queue_records;
    uint64_t spill_bytes;
    unsigned spill_from;
    unsigned volumes;
    uint64_t size; // of each
    struct item *items;
    unsigned item_count, item_room;
    uint64_t orders, steps, fed; // fed: events of the ends
    struct host host[2];
    // Networks. Direction d: from host d.
    bool cut[2], data_cut, public_up[2];
    int64_t path_at[PATHS + 1][2]; // last delivery: links keep their order
    int64_t slow_ns;               // longest delay of a frame
    unsigned loss;                 // of 1000 data messages
    struct stuck *stuck;
    // The guest.
    struct guest_op ops[GUEST_SLOTS];
    unsigned eagerness; // ms between its requests, about
    bool quiet;         // it only answers
    struct ledger ledger;
    // Faults.
    uint32_t kinds;      // mask: which of them
    unsigned fault_rate; // of 1000 actions that draw a fault
    unsigned focus_left; // so many faults of one kind, in the middle of one step
    enum fault_kind focus_kind;
    enum step focus_step;
    bool primary_stops; // policy `split`: of two that both serve, the Primary stops
    bool wiped;         // one disk was replaced
    int64_t burst_until; // the guest writes as fast as it can
    uint64_t operator_ids;
    bool tail_lost; // a replica went back behind a rotten tail, and nobody is left who could know
    bool forced; // an operator overrode a veto: the promises of a takeover by itself do not hold
    enum phase phase;
    int64_t progress_since;
    unsigned operator_steps;
    // Rot: a byte of the replica's store is turned when everything is equal, and a verify has to find it.
    enum { ROT_NONE, ROT_ASKED, ROT_FOUND, ROT_REPAIRED } rot;
    bool store_failed; // some store has failed: what is undefined there may differ
    unsigned rot_volume;
    int64_t rot_ns[2]; // when, by the hosts' clocks
    uint64_t rot_at;
    // Result.
    bool failed, over;
    char verdict[400];
    bool trace;  // print what happens
    bool record; // keep the last lines of it
};

// sim.c
// Nothing is formatted without `trace` (printed) or `record` (kept for trace_dump()): a run can be had again by its seed.
void sim_run(struct sim *s, uint64_t seed, int mode, bool trace, bool record);
void sim_free(struct sim *s);
uint64_t rnd(struct sim *s, uint64_t below);
bool chance(struct sim *s, unsigned of_1000);
// On the agenda at `at`; with a host: dropped when its run (`daemon`) or boot has ended by then.
void plan_daemon(struct host *h, int64_t at, item_fn *fn, void *arg, uint64_t n);
void plan_host(struct host *h, int64_t at, item_fn *fn, void *arg, uint64_t n);
void plan_world(struct sim *s, int64_t at, struct host *h, item_fn *fn, uint64_t n);
// A delivery in order on one of the daemon's mailboxes.
enum { BOX_FRONT, BOX_STREAM, BOX_CONTROL, BOX_APPS, BOX_NONE };
int64_t mailbox_time(struct host *h, int box);
void fail(struct sim *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
void trace(struct sim *s, const struct host *h, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void trace_dump(FILE *to, unsigned lines);

// host.c
#define DRIFT_OF 1000000 // a clock of rate r shows (DRIFT_OF + r) / DRIFT_OF of what passes
static inline int64_t local_now(const struct host *h)
{
    return (h->sim->now - h->boot_at) * (DRIFT_OF + h->drift) / DRIFT_OF;
}
// When its clock shows that, at the earliest.
static inline int64_t world_time(const struct host *h, int64_t local)
{
    int64_t rate = DRIFT_OF + h->drift;
    return h->boot_at + (local * DRIFT_OF + rate - 1) / rate;
}
static inline int64_t wall_now(const struct host *h)
{
    return h->sim->now + h->wall_ns;
}
static inline struct host *other(struct host *h)
{
    return &h->sim->host[1 - h->index];
}
void host_init(struct sim *s, int index);
void host_free(struct host *h);
void host_boot(struct host *h);
void host_crash(struct host *h); // power loss
void host_forget(struct host *h);
void host_disks(struct host *h); // makes them anew
void daemon_start(struct host *h);
void daemon_kill(struct host *h, const char *why);
void feed(struct host *h, const struct end_event *event);
void report_event(struct host *h, const struct end_event *event); // to the control thread, later
void plan_tick(struct host *h);
void guard_look(struct host *h);
void guard_act(struct host *h);
void guard_deadline(struct host *h, int64_t local_ns);
void waypoint_advance(struct host *h);

// act.c
void act(struct host *h, const struct end_action *a);
void act_closed(struct host *h, bool ok);

// save.c: an end's state on its disk
void state_save(struct host *h, const struct end_action *a);
bool state_read(struct host *h); // into h->state; false: unreadable
void state_cut_off(struct host *h);
bool state_peek(const struct host *h, struct end_state *ret_state); // what is on its disk; false: nothing that can be read
bool state_lacks(const struct host *h, uint64_t epoch); // what is durable does not know it
bool state_goes_on(const struct host *h, uint64_t salvaged); // a salvage of that epoch
void state_rot(struct host *h, bool both);
void state_wipe(struct host *h);

// net.c
void net_send(struct host *from, const struct frame *f);
void net_send_data(struct host *from, const struct iovec *iov, int count);
bool net_data_up(const struct sim *s);
void net_changed(struct sim *s);                 // a cut was made or healed, a daemon came or went
bool net_public(const struct sim *s, int index); // the host reaches the waypoint
void net_free(struct sim *s);

// front.c: letters
void front_init(struct host *h);
void front_stop(struct host *h, bool keep_memory); // the daemon is gone
void front_letter(struct host *h, const struct end_action *a);
void front_answer(struct host *h, const void *message);
void front_lane_start(struct host *h, uint64_t session, uint64_t from);
void front_lane_stop(struct host *h);
void front_ack(struct host *h, const void *message, size_t size);
void front_rewind(struct host *h);
void front_turn(struct host *h);
bool front_find_queue(struct host *h, struct end_start *start);
void front_show(struct host *h);         // to the ledger: what was numbered
bool front_serves(const struct host *h); // an answer could be given now
void volumes_poll(struct host *h);
void volumes_finish(struct host *h); // everything under way completes now
int memory_copy(int fd);

// stream.c
void stream_init(struct host *h);
void stream_stop(struct host *h, bool in_order); // the daemon is gone
int stream_open(struct host *h, uint64_t *ret_seq, uint64_t *ret_base, char *why, size_t size);
void stream_own_map(struct host *host, uint64_t ticket, unsigned object, uint32_t region, uint64_t regions,
                    const uint8_t *bits);
bool stream_stats(const struct host *h,
                  struct replica_stats *ret_stats); // false: no replica is open
void stream_letter(struct host *h, const struct end_action *a);
void stream_message(struct host *h, void *message, size_t size);
void stream_turn(struct host *h);
void disk_poll(struct host *h);

// guest.c
void guest_init(struct sim *s);
// Nobody waits for answers any more; `gone`: none will be given either.
void guest_lost(struct host *h, bool gone);
void sector_fill(uint8_t *sector, uint32_t tag, uint32_t at);
// The tag of a sector, or -1 when it is torn or misplaced.
int64_t sector_tag(const uint8_t *sector, uint32_t at);

// fault.c: what goes wrong
void fault_commit(struct host *h, enum fault_kind kind);
void fault_heal_all(struct sim *s);
void fault_heal_cuts(struct host *h, void *arg, uint64_t n); // an item of the agenda
void operator_command(struct host *h, enum end_command command, unsigned flags);
int64_t disk_time(const struct host *h, int64_t ns); // how long that takes on its disks now

// plan.c: which, and when
unsigned host_steps(const struct host *h); // mask
void faults_init(struct sim *s);
void fault_on_action(struct host *h, const struct end_action *a);
void fault_on_salvage(struct host *h); // one begins
void fault_in_step(struct host *h);

// ledger.c
void ledger_init(struct sim *s);
void ledger_free(struct sim *s);
uint32_t ledger_write(struct sim *s, const struct ledger_write *write);
int ledger_find(struct sim *s, uint64_t id);
// An epoch that an end has made durable, or is about to. Returns its index.
int ledger_know(struct sim *s, const struct epoch *epoch);
// This epoch begins with what is on the host's own store now.
void ledger_base(struct host *h, int at);
void ledger_record(struct host *h, const struct record *record, const void *payload);
// What the volumes hold behind record `seq` of epoch `at`; `image` has room for every sector of
// every volume.
void ledger_image(struct sim *s, int at, uint64_t seq, uint32_t *image);
static inline unsigned sectors(const struct sim *s)
{
    return (unsigned)(s->size / SECTOR);
}

// judge_*.c
void judge_answer(struct host *h, struct guest_op *op, int status);
void judge_tail(struct host *h); // it follows, perhaps without what was its queue's tail
void judge_finishes(struct host *h); // is about to replay to the end
void judge_finished(struct host *h, uint64_t epoch, uint64_t seq);
void judge_discard(struct host *h); // about to forget what lies behind its prefix
void judge_opened(struct host *h, const struct epoch *epoch);
void judge_roles(struct sim *s); // between any two moments
void judge_opens(struct host *h, const struct end_action *a); // exports
void judge_store(struct host *h, int at, uint64_t seq, const char *when);
void judge_replica(struct host *h);
void judge_map(struct host *h); // of the active end
void judge_equal(struct sim *s);
void judge_given_up(struct host *h);
void judge_met(struct host *h); // it has met its peer, and nothing of what follows from that is carried out yet
void judge_heard_of(struct host *h, const struct end_state *state); // is about to be saved
void judge_follows(struct host *h, const struct end_state *state); // likewise
void judge_salvage(struct host *h, const struct end_state *state); // likewise
void judge_salvage_dropped(struct host *h); // everything of it is about to be
void judge_salvage_void(struct host *h);    // its salvage, or what its volumes held, was lost
void judge_salvage_crashes(struct host *h); // in a moment
void judge_salvage_crashed(struct host *h); // its disks have lost what was not synced
void judge_salvages(struct sim *s);
void judge_salvage_before(struct host *h); // something was written to one of its stores
void judge_salvage_free(struct host *h);
void judge_resolves(struct host *h, const struct end_state *state); // is about to be saved
void judge_verified(struct host *h, const struct verify_result *result);
bool judge_on_line(struct sim *s, int at, uint64_t fork, int epoch, uint64_t seq);

// progress.c
void progress_begin(struct sim *s);
void progress_watch(struct sim *s);

// cover.c
void cover_transition(enum end_role_state from, enum end_role_state to);
void cover_meet(const char *rule);
void cover_fault(const struct host *h, enum fault_kind kind);
void cover_run(const struct sim *s);
void cover_takeover(enum epoch_reason reason);
void cover_count(const char *what);
// False when something that should have been met was not (and `full`).
bool cover_print(FILE *to, double seconds, bool full);
const char *fault_name(enum fault_kind kind);

#endif
