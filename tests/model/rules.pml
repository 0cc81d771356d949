// SPDX-License-Identifier: Apache-2.0
// The rules of an active end, a suspended one, a passive one, and of one that changes (active.c, takeover.c, handover.c).

// ---- rules ----

// Data moves over the stream, and the resync after it.
inline transfer() {
    moved = 0;
    if
    :: me.lead && me.str == 3 && data && pe.up && pe.live && !pe.stall && !pe.lead && pe.sess == me.sess && pe.str == 3 &&
       pe.st == PASSIVE ->
        moved = 1;
        me.nos = 0;
        if
        :: me.pend && me.rs == 0 -> pe.incons = 1; me.rs = 1
        :: me.pend && me.rs == 1 -> pe.incons = 0; pe.missing = 0; me.rs = 2
        :: me.pend && me.rs == 2 -> me.pend = 0; me.rs = 0; me.back = 1
        :: else -> pe.missing = 0; if :: ahead == 1 + x -> ahead = 0 :: else fi
        fi
    :: else
    fi
}

inline relation_rules() {
    why = me.gone || (!heard(x) && !(me.krun == R_NONE && (me.echo < T || me.since < T))) || me.pend || me.nos >= T;
#ifdef ARBITER
    why = why || (me.out && me.proven >= LEASE - 1); // the record has to be asked before the lease is over
    if :: why && me.rel == PAIRED -> me.rel = GOING; me.stage = 0 :: else fi;
#endif
    if
    :: me.joined -> // only where an order is left out
        if :: !me.slow -> me.joined = 0; if :: me.rel == ALONE -> me.alone = 1; open_epoch() :: else -> me.alone = 0 fi :: else fi
    :: !me.joined && me.rel == PAIRED -> if :: why -> me.rel = GOING; me.stage = 0 :: else fi
    :: !me.joined && me.rel == GOING && me.stage == 0 ->
        if
        :: !why -> me.rel = PAIRED
#ifdef ARBITER
        // Time is no substitute for the arbiter's record: the compare-and-set that clears it.
#ifdef WITHOUT_ARBITER_CLEAR
        :: why -> me.out = 0; me.past = 0; me.stage = 1
#else
        :: why && reach[x] && arbactive == x -> arbsync = 0; me.out = 0; me.past = 0; me.stage = 1
        :: why && reach[x] && arbactive != x -> step_down()
#endif
#endif
#ifdef FENCE
        :: why && !me.out -> me.stage = 1
        :: why && me.out && reach[x] -> x = 1 - x; crash_host(); x = 1 - x; me.out = 0; me.past = 0; me.stage = 1
#endif
#if !defined(ARBITER) && !defined(FENCE)
#ifdef WITHOUT_CONFIRMATION
        :: why ->
#else
        :: why && !grant_out(x) ->
#endif
            me.out = 0; me.past = 0;
#ifdef WITHOUT_ALONE_DURABLE
            me.rel = ALONE; me.joined = 1
#else
            me.stage = 1
#endif
#endif
        :: else
        fi
    :: !me.joined && me.rel == GOING && me.stage == 1 ->
        if :: !me.slow -> me.alone = 1; open_epoch(); me.rel = ALONE; me.stage = 0 :: else fi
    :: !me.joined && me.rel == ALONE -> if :: !why && me.str == 3 -> me.rel = JOINING; me.stage = 0 :: else fi
    :: !me.joined && me.rel == JOINING && me.stage == 0 ->
        if
        :: why -> me.rel = ALONE
#ifdef WITHOUT_DURABLE
        :: !why ->
#else
        :: !why && moved && !pe.missing ->
#endif
#ifdef ARBITER
            if :: reach[x] -> arbactive = x; arbsync = 1; me.stage = 1 :: else fi
#else
#ifdef WITHOUT_PAIRED_DURABLE
            me.rel = PAIRED; me.joined = 1
#else
            me.stage = 1
#endif
#endif
        :: else
        fi
    :: !me.joined && me.rel == JOINING && me.stage == 1 ->
        if :: !me.slow -> me.alone = 0; me.rel = PAIRED; me.stage = 0 :: else fi
    :: else
    fi;
    why = 0
}

inline leader_rules() {
    if
    :: me.lead && me.str == 1 && me.st == ACTIVE && !me.slow ->
        if :: me.rst -> me.pend = 1 :: else fi;
        me.str = 2
    :: else
    fi
}

inline active_rules() {
    if
    :: lease_over(x) || (heard(x) && me.ptaking) -> step_down()
    :: else ->
        if :: !me.addr -> me.addr = !me.noaddr :: else fi; // one that was lost is tried again
        leader_rules();
        transfer();
        relation_rules();
        if :: me.st == ACTIVE && me.rel == ALONE -> pe.missing = 1 :: else fi // it acknowledges
    fi
}

inline suspended_rules() {
    why = heard(x) && me.proven < LEASE; // a fresh echo
    if
#ifdef WITHOUT_FRESH_ECHO
    :: me.wp || !me.out ->
#else
#ifdef WITHOUT_IDLE
    :: why || !me.out ->
#else
    :: (why && me.pidle) || (!why && !me.out) ->
#endif
#endif
        me.flag = 0;
        go(ACTIVE);
        me.addr = !me.noaddr
    :: else
    fi;
    why = 0
}

// The probe of address, management address and waypoint lasts from one turn to the next at least.
inline ask_vetoes() {
    if
#ifndef WITHOUT_ADDRESS_VETO
    :: net && visible(1 - x) -> me.seen = 1
#endif
#ifndef WITHOUT_MANAGEMENT_VETO
    :: net && says_active(1 - x) -> me.seen = 1
#endif
    :: else
    fi;
#ifdef WITHOUT_PROBE_SPAN
    me.probe = 1;
#endif
    good = 0;
    if
#if defined(WITHOUT_WAYPOINT_SPAN) || defined(WITHOUT_WAYPOINT_VETO)
    :: me.probe == 0 -> me.probe = 1
#else
    :: me.probe == 0 -> if :: pub[x] -> me.probe = 1 :: else -> me.seen = 0 fi
#endif
    :: me.probe == 1 && me.seen -> me.probe = 0; me.seen = 0
#ifndef WITHOUT_WAYPOINT_VETO
    :: me.probe == 1 && !me.seen && !pub[x] -> me.probe = 0
#endif
    :: else -> good = 1
    fi
}

// The last veto, and the one that changes something: the arbiter's record, or the fence.
inline arbitrate() {
    if
#ifdef ARBITER
#ifndef WITHOUT_ARBITER_VETO
    :: good && !(reach[x] && arbactive == 1 - x && arbsync) -> good = 0; me.probe = 0
#endif
    :: else -> if :: good -> arbactive = x; arbsync = 0 :: else fi
#else
#ifdef FENCE
#ifndef WITHOUT_FENCE
    :: good && !reach[x] -> good = 0; me.probe = 0
    :: good && reach[x] -> x = 1 - x; crash_host(); x = 1 - x
#endif
#endif
    :: else
#endif
    fi
}

inline passive_rules() {
    if
    :: me.str == 2 && !me.slow -> me.str = 3; if :: me.rst && ahead == 2 - x -> ahead = 0 :: else fi; kind = READY
    :: else
    fi;
#ifdef WITHOUT_GRANT
    if :: me.krun != R_NONE && promotable(x) && !heard(x) && me.psent < OLD -> go(PROBING) :: else fi;
#else
    if :: me.held && me.heldage >= TD -> me.held = 0 :: else fi; // stale
#ifdef WITHOUT_SYNCHRONIZED
    if :: me.held && !heard(x) && me.echo < OLD -> go(PROBING) :: else fi
#else
    if :: me.held && promotable(x) && !heard(x) && me.echo < OLD -> go(PROBING) :: else fi
#endif
#endif
}

inline probing_rules() {
    if
#ifdef WITHOUT_GRANT
    :: heard(x) -> go(PASSIVE)
#else
#ifdef WITHOUT_SYNCHRONIZED
    :: heard(x) || !holds(x) -> go(PASSIVE)
#else
    :: heard(x) || !holds(x) || !promotable(x) -> go(PASSIVE)
#endif
#endif
    :: else ->
        ask_vetoes();
        arbitrate();
        if :: good -> take_begin(1) :: else fi;
        good = 0
    fi
}

inline taking_rules() {
    if
    :: me.stage == 0 && !me.slow -> me.intent = I_TAKE; me.stage = 1
    :: me.stage == 1 -> me.stage = 2
    :: me.stage == 2 && !me.slow ->
        me.role = 1; me.alone = 1; me.intent = I_NONE;
        assert(!me.missing); // nothing that was acknowledged is lost
        assert(!me.incons);
        me.pend = !me.replay;
        me.back = 0;
        open_epoch();
        me.stage = 3
#ifdef WITHOUT_EPOCH_DURABLE
    :: me.stage == 2 && me.slow ->
        me.rel = ALONE; me.out = 0; me.past = 0; me.flag = 0; me.addr = !me.noaddr; me.queue = 1; me.back = 0; me.pend = 1; me.joined = 1; go(ACTIVE)
#endif
    :: me.stage == 3 ->
        me.addr = !me.noaddr; me.flag = 0; me.queue = 1; me.leased = 0; me.rel = ALONE; me.out = 0; me.past = 0; me.hands = 0;
        go(ACTIVE)
    :: else
    fi
}

inline handing_rules() {
    if
    :: me.stage == 0 -> transfer(); me.stage = 1
    :: me.stage == 1 ->
        transfer();
        if :: me.str != 3 || !heard(x) -> go(ACTIVE) :: else fi
#ifdef WITHOUT_HANDED_DURABLE
    :: me.stage == 2 && !me.slow && me.nos >= 2 ->
#else
    :: me.stage == 2 && !me.slow ->
#endif
        me.intent = I_HAND;
#ifndef WITHOUT_ADDRESS_OFF
        me.addr = 0;
#endif
        go(HANDED);
        me.hs = me.sess != 0
    :: else
    fi
}

inline handed_rules() {
#ifdef WITHOUT_ADDRESS_OFF
    if :: me.since >= 2 -> me.addr = 0 :: else fi;
#endif
    if
#ifdef WITHOUT_NO_RETURN
    :: me.since >= T -> me.intent = I_NONE; take_begin(0)
#endif
    :: else
    fi
}

// Was active and alone, and nothing speaks against serving again.
inline waiting_rules() {
    if
#ifdef WITHOUT_PEER_AGREES
    :: me.role && me.intent == I_NONE && !heard(x) && me.since >= T ->
#else
    :: me.role && me.alone && me.intent == I_NONE && !heard(x) && me.since >= T ->
#endif
        ask_vetoes();
#ifdef ARBITER
        if :: good && !(reach[x] && arbactive == x) -> good = 0; me.probe = 0 :: else fi;
#endif
        if :: good -> take_begin(0) :: else fi;
        good = 0
    :: else
    fi
}

