// SPDX-License-Identifier: Apache-2.0
// What speaks against an operator's takeover, by name, and how old what he gets is.
//
// The vetoes of the end itself are looked at here; those of the network come with EV_PROBED. Each one is overridden by
// its name, and a replica in mid-resync only by COMMAND_INCONSISTENT.
#include "common/end/end_private.h"

#include <stdio.h>
#include <string.h>

static const char *const names[END_VETO_COUNT] = {
    "grant",   "inconsistent", "replica",   "address", "management", "waypoint",
    "arbiter", "probe",        "own-store", "split",   "state",      "empty",
    "loss",
};

const char *end_veto_name(unsigned number)
{
    return number < END_VETO_COUNT ? names[number] : NULL;
}

uint32_t end_veto_find(const char *name, size_t length)
{
    for (unsigned i = 0; i < END_VETO_COUNT; i++) {
        if (strlen(names[i]) == length && memcmp(names[i], name, length) == 0)
            return UINT32_C(1) << i;
    }
    return 0;
}

void veto_list(uint32_t vetoes, char *ret_text, size_t size)
{
    size_t at = 0;
    ret_text[0] = '\0';
    for (unsigned i = 0; i < END_VETO_COUNT && at < size; i++) {
        if (vetoes >> i & 1)
            at += (size_t)snprintf(ret_text + at, size - at, "%s%s", at ? ", " : "", names[i]);
    }
}

bool veto_own_store(const struct end *e)
{
    return e->st.role == ROLE_ACTIVE || e->unreadable || e->st.history.count == 0;
}

// Whether the active end may have acknowledged what this one has not. Where no grant is ever given, its last word counts.
static bool may_be_behind(const struct end *e)
{
    if (e->config.automatic && e->config.has_waypoint)
        return !grant_held(e);
    return !(e->peer.flags & FRAME_PAIRED);
}

uint32_t veto_standing(const struct end *e)
{
    uint32_t vetoes = 0;
    if (e->state == END_SPLIT)
        vetoes |= END_VETO_SPLIT;
    if (e->unreadable)
        return vetoes | END_VETO_STATE;
    if (e->st.history.count == 0)
        return vetoes | END_VETO_EMPTY;
    if (e->st.role == ROLE_ACTIVE)
        return vetoes | END_VETO_OWN_STORE;
    if (may_be_behind(e))
        vetoes |= END_VETO_GRANT;
    if (e->st.inconsistent)
        vetoes |= END_VETO_INCONSISTENT;
    if (e->replica == REPLICA_DEAD)
        vetoes |= END_VETO_REPLICA;
    return vetoes;
}

static void list_volumes(const struct end *e, uint64_t mask, char *ret_text, size_t size)
{
    size_t at = 0;
    ret_text[0] = '\0';
    for (unsigned i = 0; i < e->config.volumes && at < size; i++) {
        if (!(mask >> i & 1))
            continue;
        at += (size_t)snprintf(ret_text + at, size - at, "%svolume ", at ? ", " : "");
        if (at < size && e->config.names)
            at += (size_t)snprintf(ret_text + at, size - at, "%s", e->config.names[i]);
        else if (at < size)
            at += (size_t)snprintf(ret_text + at, size - at, "%u", i);
    }
}

static void grant_text(const struct end *e, char *ret_text, size_t size)
{
    if (e->held.ended_ns)
        (void)snprintf(ret_text, size, "stale for %lld s: the active end may have gone on without this one",
                       (long long)((e->now - e->held.ended_ns) / NS_PER_S));
    else
        (void)snprintf(ret_text, size, "%s: the active end may have gone on without this one",
                       e->config.automatic && e->config.has_waypoint
                           ? "this run holds no permission to take over"
                           : "the active end's last word was not that this end has everything");
}

static void veto_text(const struct end *e, uint32_t veto, const char *probed, char *ret_text, size_t size)
{
    char volumes[WHY_SIZE / 2];
    const char *text = "";
    switch (veto) {
    case END_VETO_GRANT:
        grant_text(e, ret_text, size);
        return;
    case END_VETO_INCONSISTENT:
        list_volumes(e, e->st.inconsistent, volumes, sizeof(volumes));
        (void)snprintf(ret_text, size, "in mid-resync: %s: old and new content mixed", volumes);
        return;
    case END_VETO_REPLICA:
        (void)snprintf(ret_text, size, "the replica or its queue has failed: %.100s", e->replica_why);
        return;
    case END_VETO_ADDRESS:
        text = probed[0] ? probed : "somebody answers at the public address";
        break;
    case END_VETO_MANAGEMENT:
        text = "the peer says at its management address that it is active";
        break;
    case END_VETO_WAYPOINT:
        text = "no waypoint answers: this end may be the isolated one";
        break;
    case END_VETO_ARBITER:
        text = "the arbiter refuses, or cannot be asked";
        break;
    case END_VETO_PROBE:
        text = probed[0] ? probed : "the public network could not be asked";
        break;
    case END_VETO_OWN_STORE:
        text = "this end was active itself: it would serve from its own store, whatever its peer has";
        break;
    case END_VETO_SPLIT:
        text = "both ends have acknowledged on their own: what only the other one has is left out";
        break;
    case END_VETO_STATE:
        text = "the state of this end is damaged: whether its data is current is not known";
        break;
    case END_VETO_EMPTY:
        text = "this end has never had the data of this pair";
        break;
    case END_VETO_LOSS:
        text = "the safe queue does not reach what this run had confirmed to be durable";
        break;
    default:
        break;
    }
    (void)snprintf(ret_text, size, "%s", text);
}

// What he gets: how old it is, and what is known to be missing.
static void age(struct end *e)
{
    struct end_verdict *v = &e->verdict;
    uint64_t have = MAX(e->st.position, e->data.replica_durable);
    char missing[WHY_SIZE / 2] = "everything that it had told of is here";
    if (veto_own_store(e)) {
        const struct epoch *at = history_current(&e->st.history);
        (void)snprintf(v->age, sizeof(v->age), "this end's own store as it is, of epoch %u; what its peer has is not known",
                       at ? at->number : 0);
        return;
    }
    if (!e->peer.frame_ns) {
        (void)snprintf(v->age, sizeof(v->age),
                       "the active end has not been heard since this daemon was started: the age of this copy is not known");
        return;
    }
    v->loss_known = true;
    v->records = e->peer.durable > have ? e->peer.durable - have : 0;
    v->bytes = v->records ? e->peer.backlog : 0;
    v->age_ns = e->now - e->peer.frame_ns;
    if (v->records)
        (void)snprintf(missing, sizeof(missing), "of what it had told of, %llu records (%llu bytes) are not here",
                       (unsigned long long)v->records, (unsigned long long)v->bytes);
    (void)snprintf(v->age, sizeof(v->age), "the active end was heard last %lld.%lld s ago; %s%s",
                   (long long)(v->age_ns / NS_PER_S), (long long)(v->age_ns / (100 * NS_PER_MS) % 10), missing,
                   may_be_behind(e) ? "; what it has acknowledged since is not known" : "");
}

void veto_judge(struct end *e, uint32_t vetoes, uint32_t accepted, const char *probed)
{
    e->verdict = (struct end_verdict){.vetoes = vetoes, .overridden = vetoes & accepted};
    for (unsigned i = 0; i < END_VETO_COUNT; i++) {
        if (vetoes >> i & 1)
            veto_text(e, UINT32_C(1) << i, probed, e->verdict.text[i], sizeof(e->verdict.text[i]));
    }
    age(e);
}

// A veto that shows only on the way.
void veto_late(struct end *e, uint32_t veto)
{
    if (!e->operation.name || e->operation.result != STEP_PENDING)
        return; // nobody asked
    for (unsigned i = 0; i < END_VETO_COUNT; i++) {
        if (veto >> i & 1)
            veto_text(e, veto, "", e->verdict.text[i], sizeof(e->verdict.text[i]));
    }
    e->verdict.vetoes |= veto;
    e->verdict.overridden |= veto & e->take.accepted;
}
