// SPDX-License-Identifier: Apache-2.0
// Stepping down, a meeting, and what comes and goes between the ends (grant.c, session.c, beat.c of common/end).

// ---- stepping down ----

inline step_down() {
    me.addr = 0; me.flag = 1;
    if :: !(me.st == HANDING && me.stage == 2) -> go(SUSPENDED) :: else fi
}

inline guard() {
    if
#ifdef WITHOUT_GUARD
    :: me.up && me.live && !me.stall &&
#else
    :: me.up && me.stall != 2 &&
#endif
       (me.st == ACTIVE || me.st == HANDING) && lease_over(x) -> step_down()
    :: else ->
        if :: me.out && me.yes >= TDM && me.stall == 0 -> me.past = 1 :: else fi
    fi
}

// ---- a meeting ----

#define MAY_MEET(w) ((e[w].st == WAITING || (e[w].st == PASSIVE && e[w].str != 2) || e[w].st == SUSPENDED || e[w].st == HANDED || \
        (e[w].st == ACTIVE && (e[w].rel == PAIRED || e[w].rel == ALONE || (e[w].rel == GOING && e[w].stage == 0)))) && !e[w].joined)

// The table of DESIGN §5, from the Primary's facts in the frame and the Secondary's own.
inline decide() {
    row = ROW_NONE; handed = 0;
    if
    :: ahead == 3 -> row = ROW_SPLIT
    :: ahead == 0 && F.role && me.role -> row = ROW_SPLIT
    :: ahead == 0 && F.role && !me.role ->
        row = ROW_P;
        if :: F.hands && promotable(x) -> row = ROW_S; handed = 1 :: else fi
    :: ahead == 0 && !F.role && me.role ->
        row = ROW_S;
        if :: me.hands && F.promo -> row = ROW_P; handed = 1 :: else fi
    :: ahead == 1 && F.role -> row = (me.role && me.alone -> ROW_SPLIT : ROW_P)
    :: ahead == 2 && me.role -> row = (F.role && F.alone -> ROW_SPLIT : ROW_S)
    :: else
    fi
}

inline follow() {
    me.lead = 0; me.str = 1;
    if
    :: me.st != PASSIVE ->
        me.addr = 0; me.out = 0; me.past = 0; me.flag = 0; me.queue = 0; me.back = 0; me.hands = 0; me.pend = 0; me.joined = 0;
        me.rel = PAIRED;
        go(PASSIVE)
    :: else
    fi
}

// F has the peer's facts.
inline apply_row() {
    if :: me.st != SUSPENDED -> me.out = 0; me.past = 0 :: else fi;
    if
    :: row == ROW_NONE -> me.str = 0
    :: row == ROW_SPLIT -> me.str = 0; assert(false) // nobody but an operator brings this about
    :: row == 1 + x ->
        me.lead = 1; me.str = 1;
        me.rst = F.role || !me.back || !F.cons;
        if
        :: me.st == SUSPENDED -> me.out = 0; me.past = 0
        :: me.st == ACTIVE
        :: me.st == HANDED -> me.intent = I_NONE; take_begin(0)
        :: else -> take_begin(handed)
        fi
    :: else -> follow()
    fi
}

inline new_number() {
    nextsess = (nextsess % 15) + 1;
    assert(e[0].sess != nextsess && e[1].sess != nextsess);
    if :: f(0).sess == nextsess -> forget_frame(f(0)) :: else fi;
    if :: f(1).sess == nextsess -> forget_frame(f(1)) :: else fi;
    if :: late(0).sess == nextsess -> forget_frame(late(0)) :: else fi;
    if :: late(1).sess == nextsess -> forget_frame(late(1)) :: else fi
}

// ---- frames ----

inline take_session_kind() {
    if
    :: F.kind == STREAM && !me.lead && me.st == PASSIVE && me.str == 1 ->
        me.role = 0; me.intent = I_NONE; me.alone = 0;
        if :: F.rst -> me.incons = 1 :: else fi;
        me.rst = F.rst;
        me.str = 2
    :: F.kind == STREAM && !me.lead && me.st == PASSIVE && me.str == 3 -> kind = READY
    :: F.kind == READY && me.lead && me.str == 2 -> me.str = 3
    :: F.kind == DRAIN && !me.lead && me.st == PASSIVE ->
        if
        :: !promotable(x) -> kind = REFUSE
        :: promotable(x) && !me.missing -> kind = DRAINED
        :: else
        fi
    :: F.kind == DRAINED && me.st == HANDING && me.stage == 1 -> me.stage = 2
    :: F.kind == HANDOVER && !me.lead && me.st == PASSIVE ->
        if
#ifdef ARBITER
        :: promotable(x) && reach[x] -> arbactive = x; arbsync = 0; take_begin(1)
#else
        :: promotable(x) -> take_begin(1)
#endif
        :: else -> kind = REFUSE
        fi
    :: F.kind == REFUSE && me.st == HANDED && me.hs -> me.intent = I_NONE; take_begin(0)
    :: F.kind == REFUSE && me.st == HANDING && me.stage == 1 -> go(ACTIVE)
    :: else
    fi
}

inline take_kind() {
    if
    :: F.kind == GOODBYE -> end_session(); me.gone = 1; me.out = 0; me.past = 0
    :: F.kind == PROPOSE && x == 1 && newest && MAY_MEET(x) ->
        end_session(); me.held = 0; me.hon = 0;
#ifdef WITHOUT_MEETING_DROP
        me.held = 1; me.heldage = 0;
#endif
        me.sess = F.sess;
        decide();
        kind = AGREE;
        // The facts that go with the agreement are those from before it is carried out.
        f(1).role = me.role; f(1).cons = !me.incons; f(1).row = row; f(1).handed = handed; f(1).sess = F.sess;
        apply_row()
    :: F.kind == AGREE && x == 0 && me.prop != 0 && F.sess == me.prop && MAY_MEET(x) ->
        end_session(); me.held = 0; me.hon = 0;
        me.sess = F.sess; me.prop = 0; me.conf = 1;
        row = F.row; handed = F.handed;
        apply_row()
    :: same -> take_session_kind()
    :: else
    fi
}

inline take_answer() {
    if
#ifdef WITHOUT_ORDER
    :: F.ans == A_NO -> me.held = 0; me.hon = 1
    :: F.ans == A_YES && me.st == PASSIVE && promotable(x) ->
#else
    :: newest && F.ans == A_NO -> me.held = 0; me.hon = 1
    :: newest && F.ans == A_YES && me.st == PASSIVE && promotable(x) ->
#endif
        me.held = 1;
#ifdef WITHOUT_SENDING_TIME
        me.heldage = 0
#else
        me.heldage = F.ea
#endif
    :: else
    fi;
    if :: F.hon && me.out -> me.out = 0; me.past = 0 :: else fi
}

inline take_frame() {
    if
    :: F.v && F.to != R_OLD ->
        if
        :: me.krun == R_OLD -> // a new run of the peer
            end_session();
            if :: me.st != SUSPENDED -> me.out = 0; me.past = 0 :: else fi;
            me.echo = OLD; me.proven = OLD; me.psent = OLD; me.pproof = OLD; me.pidle = 0; me.ptaking = 0
        :: else
        fi;
        me.krun = R_CUR;
        me.gone = 0;
        if
        :: F.to == R_CUR && F.ea < me.echo ->
            me.echo = F.ea;
#ifdef WITHOUT_PROVEN
            me.proven = F.ea
#else
            if :: F.eb < me.proven -> me.proven = F.eb :: else fi
#endif
        :: else
        fi;
        newest = F.sent < me.psent;
        if
        :: newest ->
            me.psent = F.sent; me.pproof = F.own; me.pidle = F.idle; me.ptaking = F.taking; me.pready = F.ready;
            if
            :: me.sess != 0 && F.kind != PROPOSE && F.kind != AGREE ->
                if
                :: F.sess == me.sess -> me.conf = 1
                :: F.sess != me.sess && me.conf -> end_session()
                :: else
                fi
            :: else
            fi
        :: else
        fi;
        same = me.sess != 0 && F.sess == me.sess && F.to == R_CUR;
#ifdef WITHOUT_SESSION
        same = F.to == R_CUR;
#endif
        if :: same && F.kind != PROPOSE && F.kind != AGREE -> take_answer() :: else fi;
        take_kind();
        newest = 0; same = 0; row = 0; handed = 0
    :: else
    fi
}

inline send() {
    f(x).v = 1;
    f(x).to = me.krun;
    f(x).sent = 0;
    f(x).ea = me.psent;
    f(x).eb = me.pproof;
    f(x).own = me.echo;
    f(x).hon = me.hon;
    f(x).ans = A_NONE;
    f(x).taking = me.st == TAKING;
    f(x).idle = !(me.role || me.st == TAKING || me.st == ACTIVE || me.st == SUSPENDED || me.st == HANDING);
    f(x).ready = MAY_MEET(x);
    f(x).rst = me.rst;
    f(x).promo = promotable(x);
    if
    :: kind == AGREE // its facts stand there already
    :: else ->
        f(x).role = me.role; f(x).alone = me.alone; f(x).hands = me.hands; f(x).cons = !me.incons;
        f(x).sess = me.sess; f(x).row = 0; f(x).handed = 0;
        if
        :: kind == BEAT && x == 0 && me.sess == 0 && heard(x) && me.pready && MAY_MEET(x) ->
            kind = PROPOSE;
            me.held = 0; me.hon = 0;
            new_number();
            me.prop = nextsess;
            f(x).sess = nextsess
        :: kind == BEAT && me.lead && me.str == 2 -> kind = STREAM
        :: kind == BEAT && me.st == HANDING && me.stage == 1 && me.sess != 0 -> kind = DRAIN
#ifdef WITHOUT_HANDED_DURABLE
        :: kind == BEAT && me.st == HANDING && me.stage == 2 && me.sess != 0 -> me.addr = 0; kind = HANDOVER
#endif
#ifdef WITHOUT_ADDRESS_OFF
        :: kind == BEAT && me.st == HANDED && me.hs && me.sess != 0 -> kind = HANDOVER
#else
        :: kind == BEAT && me.st == HANDED && me.hs && me.sess != 0 && !me.addr -> kind = HANDOVER
#endif
        :: else
        fi;
        if
        :: (me.st == ACTIVE || me.st == HANDING) && me.sess != 0 && me.lead ->
            if
            :: me.proven < LEASE && !(me.st == HANDING && me.stage == 2) && me.str == 3 && !me.pend &&
#ifdef WITHOUT_PAIRED_YES
               true
#else
               me.rel == PAIRED
#endif
               ->
                f(x).ans = A_YES;
                me.out = 1; me.past = 0; me.yes = 0;
#ifndef WITHOUT_NAMED_NO
                // A confirmation of a no counts only if no yes is later.
                pe.hon = 0; f(1 - x).hon = 0; late(1 - x).hon = 0;
#endif
            :: else -> f(x).ans = A_NO
            fi
        :: else
        fi
    fi;
    f(x).kind = kind;
    kind = BEAT
}

