// SPDX-License-Identifier: Apache-2.0
// What there is: two ends, the frames between them, the world; and how a run of a daemon begins and ends.

typedef End {
    // the machine
    bool up;                // the host
    bool live;              // the daemon
    unsigned stall : 2;     // 1: the daemon is stopped, 2: the whole machine
    bool slow;              // saves do not end
    bool addr;              // the public address is on
    bool noaddr;            // it cannot be put on
    bool mute;              // nobody answers at its management address
    bool flag;              // the guard has acted in this boot
    bool leased;            // in the runtime directory: its guard had a deadline
    unsigned kept : 4;      // ... and what `proven` was when it served last
    bool wp;                // a waypoint has answered since the last turn
    // durable
    bool role;              // active
    bool alone;
    unsigned intent : 2;
    bool incons;            // its replica is in mid-resync
    // what it has (the judge's view)
    bool missing;           // its copy lacks something that was acknowledged
    // the daemon
    unsigned st : 3;
    unsigned stage : 2;
    unsigned since : 4;     // in this state
    bool replay;            // TAKING: from the replica
    bool hands;             // `strict`: hands its role over at the next meeting
    bool queue;             // the unsafe queue of this reign is there
    bool back;              // ... and goes back to what the peer has
    unsigned rel : 2;
    bool joined;            // `paired` or `alone` still has to be saved (only without the order of those)
    bool pend;              // the peer's replica needs a resync
    unsigned rs : 2;        // how far that is
    bool out;               // a yes was given that nothing has taken back
    bool past;              // its time has run out while the lease held
    unsigned yes : 4;       // since it was given
    bool held;
    unsigned heldage : 4;   // since the heartbeat that it answers was sent
    bool hon;               // has got a no that is later than the newest yes
    bool seen;              // PROBING: something spoke against it
    unsigned probe : 2;     // turns that the probe has lasted
    // what is known of the peer
    unsigned krun : 2;
    bool gone;
    unsigned echo : 4;      // since the newest echoed heartbeat was sent
    unsigned proven : 4;    // since the moment before which the peer cannot count its silence
    unsigned psent : 4;     // since the peer sent its newest heartbeat
    unsigned pproof : 4;    // ... what its echo was then
    bool pidle, ptaking, pready;
    // the session
    unsigned sess : 4;
    unsigned prop : 4;      // Primary: proposed
    bool lead;
    bool conf;
    unsigned str : 2;       // 1 met, 2 offering or preparing, 3 streaming
    bool rst;               // the stream starts anew
    bool hs;                // HANDED: in the session in which the handover was said
    unsigned nos : 4;       // since data moved
}

typedef Frame {
    bool v;
    unsigned kind : 4;
    unsigned to : 2;        // the sender's knowledge of the receiver's run
    unsigned sent : 4;
    unsigned ea : 4;        // of the receiver: since it sent the heartbeat that is echoed,
    unsigned eb : 4;        // and what its echo was then
    unsigned own : 4;       // of the sender: its echo
    unsigned ans : 2;
    bool hon;
    unsigned sess : 4;
    bool idle, taking, ready;
    bool role, alone, hands, cons, promo; // facts of a meeting
    unsigned row : 2;
    bool handed;
    bool rst;
}

End e[2];                   // 0 the Primary, 1 the Secondary
Frame fr[4];                // under way from end 0, from end 1; held back somewhere, from end 0, from end 1
#define f(w)    fr[w]
#define late(w) fr[2 + w]
bool freed[2];              // what was held back arrives

// the environment
bool link[2];               // frames from 0, from 1 arrive
bool pub[2];                // 0, 1 is on the public network
bool data;                  // the stream's way
bool peeronly;              // the public network between the ends is cut, and to the waypoints is not
bool reach[2];              // the arbiter, the fence can be reached
bool arbsync;               // the arbiter's record
bool arbactive;             // ... 0 the Primary, 1 the Secondary
unsigned ahead : 2;         // histories: 0 the same, 1 the Primary's goes on, 2 the Secondary's does, 3 neither contains the other
bool quick;                 // a takeover takes no time, where disks are not slow
bool drifted;               // one clock has gained on the other
bool first;                 // who has his turn first in a tick
byte budget;
byte calm;                  // 0: faults go on
unsigned nextsess : 4;

// Only used within one tick, and 0 between two.
byte x;                     // whose turn it is
byte kind, row;
bool why, newest, same, good, moved, handed;

byte i;                     // which frame
#define F fr[i]
#define me e[x]
#define pe e[1 - x]

#define promotable(w)  (!e[w].role && !e[w].incons)
#define heard(w)       (e[w].krun != R_NONE && !e[w].gone && e[w].echo < T)
#define holds(w)       (e[w].held && e[w].heldage < TD)
#define serves(w)      (e[w].up && e[w].live && !e[w].stall && e[w].st == ACTIVE)
#define visible(w)     (e[w].up && e[w].addr && e[w].stall != 2)
#define net            (pub[0] && pub[1] && !peeronly)
// The daemon or the guard of that end would say "active".
#define says_active(w) (e[w].up && !e[w].mute && e[w].stall != 2 && (e[w].st == ACTIVE || e[w].st == HANDING))

#define inc(a) if :: a < OLD -> a++ :: else fi

#if defined(ARBITER) && !defined(WITH_ARBITER_WAYPOINT_LEASE)
#define WAYPOINT_LEASE(w) false
#else
#define WAYPOINT_LEASE(w) e[w].wp && e[w].live && !e[w].stall && pub[w]
#endif

#ifdef WITHOUT_LAPSE
#define GRANT_PAST(w) (e[w].yes >= TDM)
#else
#define GRANT_PAST(w) e[w].past
#endif

#define lease_over(w) (e[w].out && !GRANT_PAST(w) && e[w].proven >= LEASE && !(WAYPOINT_LEASE(w)))

#if defined(ARBITER) || defined(FENCE)
#define grant_out(w) e[w].out
#else
#define grant_out(w) (e[w].out && e[w].yes < TDM)
#endif

inline go(state) {
    me.st = state; me.stage = 0; me.since = 0; me.seen = 0; me.probe = 0
}

inline end_session() {
    me.sess = 0; me.lead = 0; me.conf = 0; me.str = 0; me.rs = 0; me.rst = 0; me.hs = 0; me.nos = 0
}

inline open_epoch() {
    if
    :: ahead == 0 -> ahead = 1 + x
    :: ahead == 2 - x -> ahead = 3
    :: else
    fi
}

#define forget_frame(F) F.v = 0

// What a daemon forgets when it ends. The guard keeps its plan: st, out, past and proven stay until the next run.
inline forget_run() {
    me.live = 0; me.held = 0; me.heldage = 0; me.hon = 0; me.seen = 0; me.probe = 0; me.gone = 0;
    me.psent = OLD; me.pproof = OLD; me.pidle = 0; me.ptaking = 0; me.pready = 0; me.prop = 0; me.wp = 0; me.hands = 0;
    me.joined = 0;
#ifdef WITHOUT_FRESH_RUN
    me.held = 1; me.heldage = 0; // its grant is on disk
#endif
    end_session();
    forget_frame(f(1 - x));
    forget_frame(late(1 - x))
}

// The host is gone, with its runtime directory.
inline crash_host() {
    forget_run();
    me.up = 0; me.stall = 0; me.addr = 0; me.flag = 0; me.queue = 0; me.back = 0; me.leased = 0; me.kept = OLD; me.out = 0; me.past = 0; me.yes = 0;
    me.echo = OLD; me.proven = OLD; me.krun = R_NONE; me.st = WAITING; me.stage = 0; me.since = 0
}

inline take_begin(from_replica) {
    me.held = 0;
    end_session();
    me.replay = from_replica;
    go(TAKING);
    if :: !from_replica -> me.stage = 2; me.rel = ALONE :: else fi
}

// A daemon starts (DESIGN §6 "Start").
inline start() {
    forget_frame(f(x));
#ifdef WITHOUT_GOODBYE_RUN
    if :: late(x).kind != GOODBYE -> forget_frame(late(x)) :: else fi; // counts for whichever run is known
#else
    forget_frame(late(x));
#endif
    if :: pe.krun == R_CUR -> pe.krun = R_OLD :: else fi;
    if
#ifndef WITHOUT_INTENT_VOID
    :: me.intent == I_TAKE -> me.intent = I_NONE
#endif
    :: else
    fi;
    me.live = 1; me.krun = R_NONE; me.wp = 0;
    why = me.alone || !me.leased; // no grant was out
    if
    :: me.role && me.intent == I_NONE && me.queue && !me.flag && (why || me.kept < LEASE) ->
        me.out = !why; me.past = 0; me.yes = 0;
#ifdef WITHOUT_RESTART_YES
        me.out = 0;
#endif
        me.echo = me.kept; me.proven = me.kept;
        me.rel = (me.alone -> ALONE : PAIRED);
        go(ACTIVE);
        me.addr = !me.noaddr
#ifdef WITHOUT_START_PASSIVE
    :: me.role && me.intent == I_NONE && !me.flag && !(me.queue && (why || me.kept < LEASE)) ->
        me.out = 0; me.rel = (me.alone -> ALONE : PAIRED); me.addr = !me.noaddr; go(ACTIVE)
#endif
    :: else ->
        me.addr = 0; me.out = 0; me.past = 0; me.echo = OLD; me.proven = OLD; me.rel = PAIRED;
#ifdef STRICT
        me.hands = me.role && !me.alone && !me.queue && !me.flag;
#endif
#ifdef WITHOUT_INTENT_VOID
        if :: me.intent == I_TAKE -> me.replay = 1; go(TAKING); me.stage = 1 :: else -> go(WAITING) fi
#else
#ifdef WITHOUT_FRESH_RUN
        if :: me.held && !me.role -> me.echo = 0; go(PASSIVE) :: else -> go(WAITING) fi
#else
        go(WAITING)
#endif
#endif
    fi;
    row = 0; why = 0
}

