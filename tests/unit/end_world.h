// SPDX-License-Identifier: Apache-2.0
// Two ends (common/end) in a small world where every action succeeds at once and frames take no time, unless a test says
// otherwise: it sets what it wants in `struct world` and `struct host`, and runs it. One thread; a clock of its own.
#ifndef TESTS_END_WORLD_H
#define TESTS_END_WORLD_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/end/end.h"

struct host {
    struct world *world;
    int index;
    struct end *end;
    struct end_data data;
    struct end_state disk; // what survived
    bool up;
    bool address, apps, frozen, exports;
    enum end_gate gate;
    uint64_t bound, seq_reply;
    int reply_status;
    char reply[ACTION_TEXT_SIZE];
    int64_t deadline, lease;
    struct epoch epoch; // whose record the stream carries at its first_seq
    // Events to be delivered, oldest first.
    struct end_event queue[256];
    unsigned head, tail;
    struct frame frames[64];
    unsigned frame_next;
    bool exited;
    bool goodbye; // what its guard would say
    bool hold_saves;
    bool hold_opens, fail_opens, hold_handover, hold_address, fail_off;
    unsigned ticks, beats, asking; // heartbeats sent, and those that want an echo
    int64_t yes_ns;                // when it has sent the last yes
    unsigned opens, follow_asked, resyncs;
    bool fail_follows, hold_follows, resync_silent, hold_apps, short_finish, hold_probes, hold_gates, hold_guard, hold_close;
    bool lose_noes;         // heartbeats that say no are lost
    bool late_attach;       // it hears of a former session's place in the queue behind its order of another one
    bool full_at_attach;    // the queue gets full before it hears that the peer is given another place
    bool number_when_met;   // it answers a write just behind its proposal
    bool overflow_when_met; // the peer's queue lets go of this end just before it hears this one's agreement
    uint64_t streams, follows; // session
    uint64_t stream_from, place; // the last one: in the stream, and in the unsafe queue
    uint64_t withheld;         // what is not streamed yet begins here; 0: nothing
    uint64_t ticket;           // of the newest save
    unsigned consents;
    struct frame late; // the last heartbeat that was lost in a cut
    uint64_t gate_ticket; // of the newest order
    // The intent maps.
    uint64_t own_map[2][2], added[2][2]; // by volume, two pieces of 64 regions
    uint64_t filled, record, armed, armed_due, cleared;
    unsigned fills, attaches, voided, refused;
    bool hold_map, lose_pieces, hold_good;
    // What a takeover of this end finds to be discarded.
    bool discards, unknown;
    uint64_t lost_map[2][2], durable_map[2][2];
    unsigned discarded;
    uint64_t verifying, marked; // masks
    uint64_t resynced, resync_ticket; // mask of the last ACT_RESYNC
    struct frame_map pieces[8];
    unsigned piece_next;
    uint64_t salvaged, salvage_whole; // masks of volumes, of the last ACT_SALVAGE
    enum salvage_cause salvage_cause;
    uint64_t salvaged_epoch;
};

struct world {
    int64_t now;
    struct host host[2];
    bool cut[2];      // frames from host i are lost
    bool waypoint[2]; // answers host i
    uint32_t probe; // vetoes
    struct end_config config;
    uint64_t commands; // asked so far
    bool verbose;
    bool two_serve; // the public network is in halves: the address may be on both
    bool hold_stream, hold_apply; // nothing becomes durable on the passive end, or is applied there
};

// For cmocka: *state is the world, with both machines down.
int world_setup(void **state);
int world_teardown(void **state);
// Another such world in its place.
struct world *world_anew(void **state);
// Two empty ends that become paired; returns the world.
struct world *world_start_pair(struct world *w);
// All frames are lost, until world_heal().
void world_cut(struct world *w);
void world_heal(struct world *w);
// Host i sees neither its peer nor a waypoint, until world_rejoin().
void world_isolate(struct world *w, int i);
void world_rejoin(struct world *w, int i);
// Its daemon starts, with the state that is on its disk; the rest of `start` is the caller's.
void world_boot(struct world *w, int i, struct end_start start);
// Likewise in the boot in which it ran before, and its queue is found as it is. echo_sent_ns: of the last heartbeat that was
// echoed, 0 for none; unwatched: its guard had no deadline all along.
void world_boot_again(struct world *w, int i, int64_t echo_sent_ns, bool unwatched);
// Its daemon ends, and its machine lives on.
void world_end_daemon(struct world *w, int i);
// Its machine is gone: its daemon, and what it had in memory and on the network.
void world_crash(struct world *w, int i);
// Time passes, in steps of 10 ms; frames and replies arrive at once.
void world_run(struct world *w, int64_t ns);
// An event that the host takes in with the next world_run().
void host_push(struct host *h, const struct end_event *ev);
// An event at once, and all actions that come of it.
void host_step(struct host *h, const struct end_event *ev);
// What its daemon does with one of them; for host_step().
void host_act(struct host *h, const struct end_action *a);
// As typed at that end; its answer is in host.reply_status and host.reply, 1 while there is none.
void world_command(struct world *w, int i, enum end_command c, unsigned flags);
// An operator takes over at the Secondary; overrides: a mask of END_VETO_*.
void world_takeover(struct world *w, unsigned flags, uint32_t overrides);
struct end_view world_view(struct world *w, int i);
struct host *host_peer(struct host *h);

#define T(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

#endif
