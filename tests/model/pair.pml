// SPDX-License-Identifier: Apache-2.0
// A pair as spin sees it: who may take over, who may go on alone, who has to step down. README.md beside this file says
// what is abstracted; `run` checks it as it is, and once for each rule without that rule (-DWITHOUT_...), where spin has
// to find what the rule is for.
//
// Time is counted in ticks. In a tick the environment does what it likes (budgeted faults, and their ends), then each end
// has its turn: its guard looks at the lease, its daemon takes in what has come, looks at its rules, and sends one
// heartbeat. Every moment is kept as an age that stops counting at OLD, so the states are finitely many.

#define T   5         // heartbeat timeout
#define D   2         // decision window
#define M   1         // margin
#define TD  (T + D)
#define TDM (T + D + M)
#define OLD TDM

#ifndef BUDGET
#define BUDGET 2
#endif
#ifndef CALM
#define CALM 40       // ticks without a fault within which the pair has to be whole again (-DPROGRESS)
#endif
#ifndef GAIN
#define GAIN 1        // ticks that one clock may gain, once (-DDRIFT)
#endif
#ifndef FAST
#define FAST true     // which one may
#endif
#ifndef LEASE
#define LEASE (T - M) // WITHOUT_MARGIN: T
#endif

// st
#define WAITING   0
#define PASSIVE   1
#define PROBING   2
#define TAKING    3   // stage 0 intent, 1 replay, 2 epoch, 3 address, exports
#define ACTIVE    4
#define SUSPENDED 5
#define HANDING   6   // stage 0 applications, 1 drain, 2 save
#define HANDED    7
// relation of an active end
#define PAIRED  0
#define GOING   1     // stage 0 wait, 1 save
#define ALONE   2
#define JOINING 3     // stage 0 catches up, 1 save
// durable intent
#define I_NONE 0
#define I_TAKE 1
#define I_HAND 2
// what is known of the peer's run
#define R_NONE 0
#define R_CUR  1
#define R_OLD  2
// what a frame carries beside the heartbeat
#define BEAT     0
#define PROPOSE  1
#define AGREE    2
#define STREAM   3
#define READY    4
#define DRAIN    5
#define DRAINED  6
#define HANDOVER 7
#define REFUSE   8
#define GOODBYE  9
// rows of a meeting
#define ROW_NONE  0
#define ROW_P     1
#define ROW_S     2
#define ROW_SPLIT 3
// answers
#define A_NONE 0
#define A_NO   1
#define A_YES  2

#include "state.pml"
#include "frames.pml"
#include "rules.pml"

// ---- a turn, and what is judged after it ----

#define scheduled (me.up && me.live && !me.stall)

inline hear() {
    guard();
    if
    :: scheduled ->
        me.wp = pub[x];
        kind = BEAT;
        i = 3 - x; // what was held back
        do
        :: (i >= 2 && freed[1 - x]) || (i < 2 && (link[1 - x] || (F.kind == GOODBYE && net))) -> take_frame(); if :: i >= 2 -> i = 1 - x :: else -> break fi
        :: i >= 2 && !freed[1 - x] -> i = 1 - x
        :: else -> break
        od;
        i = 0
    :: else -> me.wp = 0
    fi;
    if :: freed[1 - x] -> late(1 - x).v = 0; freed[1 - x] = 0 :: else fi;
    f(1 - x).v = 0
}

inline decide_and_say() {
    if
    :: scheduled ->
        if :: me.sess != 0 && !heard(x) -> end_session() :: else fi;
        do
        :: me.st == WAITING -> waiting_rules(); goto ruled
        :: me.st == PASSIVE -> passive_rules(); if :: me.st != PROBING -> goto ruled :: else fi
        :: me.st == PROBING -> probing_rules(); if :: !(me.st == TAKING && quick) -> goto ruled :: else fi
        :: me.st == TAKING -> taking_rules(); if :: !(me.st == TAKING && quick && !me.slow) -> goto ruled :: else fi
        :: me.st == ACTIVE -> active_rules(); goto ruled
        :: me.st == SUSPENDED -> suspended_rules(); goto ruled
        :: me.st == HANDING -> handing_rules(); goto ruled
        :: me.st == HANDED -> handed_rules(); goto ruled
        od;
ruled:
        send();
        // As the daemon tells its guard, who serves.
        if :: me.st == ACTIVE || me.st == HANDING -> me.leased = me.out && !me.past :: else fi;
#ifdef WITHOUT_SERVING_ECHO
        if :: me.proven < me.kept -> me.kept = me.proven :: else fi
#else
        if :: (me.st == ACTIVE || me.st == HANDING) && me.proven < me.kept -> me.kept = me.proven :: else fi
#endif
    :: else
    fi;
    moved = 0
}

inline age_end() {
    inc(me.since); inc(me.yes); inc(me.heldage); inc(me.echo); inc(me.proven); inc(me.kept); inc(me.psent); inc(me.pproof); inc(me.nos);
    if :: !me.held -> me.heldage = 0 :: else fi;
    if :: !me.out -> me.yes = 0 :: else fi
}

inline age_frames() {
    i = 0;
    do
    :: i < 4 ->
        if :: F.v -> inc(F.sent); inc(F.ea); inc(F.eb); inc(F.own); if :: F.sent >= OLD -> F.v = 0 :: else fi :: else fi;
        if
        :: !F.v -> // what does not matter has one value
            F.kind = 0; F.to = 0; F.sent = 0; F.ea = 0; F.eb = 0; F.own = 0; F.ans = 0; F.hon = 0; F.sess = 0; F.idle = 0;
            F.taking = 0; F.ready = 0; F.role = 0; F.alone = 0; F.hands = 0; F.cons = 0; F.promo = 0; F.row = 0;
            F.handed = 0; F.rst = 0
        :: else
        fi;
        i++
    :: else -> break
    od;
    i = 0
}

// Sessions are told apart by small numbers: where only one is left, it is number 1.
inline renumber() {
    good = e[0].sess == e[1].sess && e[0].sess != 0 && e[0].prop == 0 && !late(0).v && !late(1).v &&
           (!f(0).v || f(0).sess == e[0].sess) && (!f(1).v || f(1).sess == e[0].sess);
    if
    :: good ->
        if :: f(0).v -> f(0).sess = 1 :: else fi;
        if :: f(1).v -> f(1).sess = 1 :: else fi;
        e[0].sess = 1; e[1].sess = 1; nextsess = 1
    :: else
    fi;
    good = 0
}

#define WHOLE(a, p) (serves(a) && e[a].addr && e[a].rel == PAIRED && !e[a].pend && e[p].st == PASSIVE && holds(p) && promotable(p))

#define granted(w) ((e[w].st == PASSIVE || e[w].st == PROBING) && e[w].up && e[w].live && holds(w))

// What tests/model/run sees to that the model can do.
#define TAKEOVER serves(1) && !e[0].live
#define THAW     e[0].st == SUSPENDED && heard(0) && e[0].pidle
#define SWITCHED serves(1) && e[1].rel == PAIRED && granted(0)
#define ON_ALONE serves(0) && e[0].rel == ALONE && e[1].st == PASSIVE
#define BY_RECORD serves(0) && e[0].rel == ALONE && !e[1].up
#define GOES_ON  serves(0) && e[0].krun == R_NONE
#define BY_ITSELF e[0].st == TAKING && !e[0].replay && e[0].krun == R_NONE && !e[0].queue

// After each turn.
inline judge() {
    assert(!(visible(0) && visible(1)));                 // one active address
    assert(!(serves(0) && serves(1)));                   // one end serves
    assert(!(serves(0) && e[0].missing));                // nothing acknowledged is lost
    assert(!(serves(1) && e[1].missing));
    assert(ahead != 3);                                  // one line of histories
#ifndef ARBITER                                          // there it is the record that counts
    assert(!(serves(x) && me.rel == ALONE && granted(1 - x))); // no grant behind an acknowledgement alone
#endif
    skip
#ifdef REACH
    ;
    assert(!(REACH)) // what the model is to be able to do
#endif
}

#ifdef TRACE
#define NOTE(text, w) printf("        * %s: " text "\n", (w) -> "S" : "P")
#define SHOW(w) printf("  %d: up%d live%d stall%d addr%d | st%d.%d rel%d role%d alone%d int%d inc%d miss%d | out%d past%d yes%d held%d.%d hon%d | krun%d gone%d echo%d prov%d | sess%d str%d lead%d pend%d nos%d flag%d q%d%d\n", w, e[w].up, e[w].live, e[w].stall, e[w].addr, e[w].st, e[w].stage, e[w].rel, e[w].role, e[w].alone, e[w].intent, e[w].incons, e[w].missing, e[w].out, e[w].past, e[w].yes, e[w].held, e[w].heldage, e[w].hon, e[w].krun, e[w].gone, e[w].echo, e[w].proven, e[w].sess, e[w].str, e[w].lead, e[w].pend, e[w].nos, e[w].flag, e[w].queue, e[w].back)
#define SHOW_ENV printf("tick: link %d%d pub %d%d data%d ahead%d reach %d%d arb %d%d late %d%d sends %d(%d) %d(%d) calm%d\n", link[0], link[1], pub[0], pub[1], data, ahead, reach[0], reach[1], arbactive, arbsync, late(0).v, late(1).v, f(0).kind, f(0).ans, f(1).kind, f(1).ans, calm)
#else
#define SHOW(w) skip
#define SHOW_ENV skip
#endif

inline end_tick() {
    SHOW_ENV; SHOW(0); SHOW(1);
    x = 0;
    do
    :: x < 2 -> age_end(); x++
    :: else -> break
    od;
    x = 0;
    age_frames();
    renumber();
#ifdef PROGRESS
    if
    :: calm > 0 ->
        if :: calm < CALM -> calm++ :: else fi;
        do // what was fenced boots again
        :: x < 2 -> if :: !me.up -> me.up = 1; start() :: else fi; x++
        :: else -> break
        od
    :: else
    fi;
    x = 0;
    assert(calm < CALM || WHOLE(0, 1) || WHOLE(1, 0));
#endif
    x = 0
}

// ---- the environment ----

#define CAN(what) (budget > 0 && (what))
#define SPEND     budget--

#ifdef WITHOUT_GOODBYE_ROLE
#define GOODBYE_ROLE true
#else
#define GOODBYE_ROLE (!me.role) // who was active has used its grant, if not in this run
#endif
#ifdef WITHOUT_GOODBYE_DESTROYED
#define HAS_GOODBYE (me.st == WAITING || me.st == PASSIVE || me.st == PROBING || me.st == TAKING)
#else
#define HAS_GOODBYE (GOODBYE_ROLE && (me.st == WAITING || me.st == PASSIVE || me.st == PROBING || (me.st == TAKING && me.stage < 2)))
#endif

inline faults() {
    if
#ifdef NET
    :: d_step { CAN(link[x]) -> SPEND; link[x] = 0 }
    :: d_step { CAN(pub[x]) -> SPEND; pub[x] = 0 }
#endif
#ifdef LATE
    :: d_step { CAN(f(x).v && !late(x).v) -> SPEND;
        late(x).v = 1; late(x).kind = f(x).kind; late(x).to = f(x).to; late(x).sent = f(x).sent; late(x).ea = f(x).ea;
        late(x).eb = f(x).eb; late(x).own = f(x).own; late(x).ans = f(x).ans; late(x).hon = f(x).hon;
        late(x).sess = f(x).sess; late(x).idle = f(x).idle; late(x).taking = f(x).taking; late(x).ready = f(x).ready;
        late(x).role = f(x).role; late(x).alone = f(x).alone; late(x).hands = f(x).hands; late(x).cons = f(x).cons;
        late(x).promo = f(x).promo; late(x).row = f(x).row; late(x).handed = f(x).handed; late(x).rst = f(x).rst;
        forget_frame(f(x)) }
#endif
#ifdef KILL
    :: d_step { CAN(me.live) -> SPEND; forget_run() }
    :: d_step { CAN(me.live && me.stall == 0) -> SPEND; me.stall = 1 }
#endif
#ifdef GOODBYES
    // Dies with a goodbye: its own, or its guard's, which says it for a stopped daemon, too, and knows nothing of the peer.
    :: d_step { CAN(me.up && me.live && me.stall != 2 && HAS_GOODBYE) -> SPEND;
        forget_run(); me.stall = 0;
        forget_frame(f(x));
        f(x).v = 1; f(x).kind = GOODBYE; f(x).to = R_CUR; f(x).ea = OLD; f(x).eb = OLD; f(x).own = OLD }
#ifdef LATE
    // ... which is under way for long.
    :: d_step { CAN(me.up && me.live && me.stall != 2 && HAS_GOODBYE && !late(x).v) -> SPEND;
        forget_run(); me.stall = 0;
        forget_frame(f(x));
        late(x).v = 1; late(x).kind = GOODBYE; late(x).to = R_CUR; late(x).ea = OLD; late(x).eb = OLD; late(x).own = OLD }
#endif
#endif
#ifdef DRIFT
    :: d_step { CAN(!drifted && (FAST)) -> SPEND; drifted = 1;
        do :: i < GAIN -> age_end(); i++ :: else -> break od; i = 0 }
#endif
#ifdef CRASH
    :: d_step { CAN(me.up) -> SPEND; crash_host() }
    :: d_step { CAN(me.up && me.stall == 0) -> SPEND; me.stall = 2 }
#endif
#ifdef TROUBLE
    :: d_step { CAN(!me.slow) -> SPEND; me.slow = 1 }
    :: d_step { CAN(!me.noaddr) -> SPEND; me.noaddr = 1; me.addr = 0 }
    :: d_step { CAN(!me.mute) -> SPEND; me.mute = 1 }
#endif
#ifdef OPERATOR
    :: d_step { CAN(serves(x) && me.rel == PAIRED && me.str == 3 && !me.pend && heard(x)) -> SPEND;
        go(HANDING) }
    :: d_step { CAN(serves(x) && me.str == 3 && !me.pend) -> SPEND; me.pend = 1; me.rs = 0 }
#endif
#if defined(ARBITER) || defined(FENCE)
    :: d_step { CAN(reach[x]) -> SPEND; reach[x] = 0 }
#endif
    :: else
    fi
}

inline ends() {
    if
    :: d_step { !link[x] -> link[x] = 1 }
    :: d_step { !pub[x] -> pub[x] = 1 }
    :: d_step { late(x).v && !freed[x] -> freed[x] = 1 }
    :: d_step { me.up && !me.live -> start() }
    :: d_step { !me.up -> me.up = 1 }
    :: d_step { me.stall != 0 -> me.stall = 0; guard() } // it looks at its clock before anything else
    :: d_step { me.slow -> me.slow = 0 }
    :: d_step { me.noaddr -> me.noaddr = 0 }
    :: d_step { me.mute -> me.mute = 0 }
#if defined(ARBITER) || defined(FENCE)
    :: d_step { !reach[x] -> reach[x] = 1 }
#endif
    :: else
    fi
}

inline other_faults() {
    if
#ifdef NET
    :: d_step { CAN(data) -> SPEND; data = 0 }
#if defined(ARBITER) || defined(FENCE) || defined(ANY_NETWORK)
    :: d_step { CAN(!peeronly) -> SPEND; peeronly = 1 }
#endif
#endif
    :: d_step { !data -> data = 1 }
    :: d_step { peeronly -> peeronly = 0 }
    fi
}

// Faults are over, and so is what they left.
inline calm_down() {
    link[0] = 1; link[1] = 1; pub[0] = 1; pub[1] = 1; data = 1; peeronly = 0; reach[0] = 1; reach[1] = 1;
    late(0).v = 0; late(1).v = 0; freed[0] = 0; freed[1] = 0;
    e[0].up = 1; e[1].up = 1; e[0].slow = 0; e[1].slow = 0; e[0].noaddr = 0; e[1].noaddr = 0; e[0].mute = 0; e[1].mute = 0;
    x = 0;
    do
    :: x < 2 ->
        if :: me.stall != 0 -> me.stall = 0; guard() :: else fi;
        if :: !me.live -> start() :: else fi;
        x++
    :: else -> break
    od;
    x = 0;
    budget = 0;
    calm = 1
}

inline begin_end() {
    me.up = 1; me.live = 1; me.krun = R_CUR; me.sess = 1; me.conf = 1; me.str = 3; me.pready = 1; me.wp = 1;
    me.psent = 0; me.pproof = 1; me.echo = 1; me.proven = 2; me.kept = 2
}

init {
    d_step {
        link[0] = 1; link[1] = 1; pub[0] = 1; pub[1] = 1; data = 1; reach[0] = 1; reach[1] = 1;
        arbsync = 1; arbactive = 0; nextsess = 1; budget = BUDGET;
        x = 0; begin_end(); me.role = 1; me.st = ACTIVE; me.rel = PAIRED; me.addr = !me.noaddr; me.lead = 1; me.queue = 1; me.back = 1; me.pidle = 1;
        x = 1; begin_end(); me.st = PASSIVE;
        x = 0
    };
    // Either end may be the active one at first, and have its turn first.
    if :: first = 0 :: first = 1 fi;
    if :: quick = 0 :: quick = 1 fi;
    do
    :: atomic {
        x = first;
        do
        :: true ->
            d_step { hear() };
            d_step { decide_and_say(); judge() };
            if
            :: x == first -> x = 1 - first
            :: else -> break
            fi
        od;
        d_step { end_tick() } }
    :: atomic { if :: x = 0 :: x = 1 fi; faults(); x = 0 }
    :: atomic { if :: x = 0 :: x = 1 fi; ends(); x = 0 }
    :: other_faults()
#ifdef PROGRESS
    :: d_step { calm == 0 -> calm_down() }
#endif
    od
}
