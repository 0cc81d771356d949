// SPDX-License-Identifier: Apache-2.0
// What an end shows of itself: to the status, to the daemon around it, and to the tests.
#include "common/end/end_private.h"

void end_view(struct end *e, int64_t now, struct end_view *view)
{
    const struct epoch *epoch = history_current(&e->st.history);
    bool serving = e->state == END_ACTIVE || e->state == END_SUSPENDED ||
                   e->state == END_HANDING_OVER || (e->state == END_TAKING_OVER && e->take.recover);
    *view = (struct end_view){
        .state = e->state,
        .active = serving,
        .alone = serving && (e->relation == REL_ALONE || e->relation == REL_JOINING),
        .paired = peer_heard(e) && (serving ? grant_relied(e) : !!(e->peer.flags & FRAME_PAIRED)),
        .synchronized = serving || e->st.role == ROLE_ACTIVE ? e->st.pending == 0 && session_streaming(e)
                                : e->st.inconsistent == 0 && e->st.history.count > 0 &&
                                      e->replica != REPLICA_DEAD,
        .granted = serving ? grant_out(e) : grant_held(e),
        .frozen = e->frozen,
        .paused = e->paused,
        .connected = peer_heard(e),
        .session = e->session.number,
        .pending = e->st.pending,
        .held = e->st.held,
        .verifying = e->proof.running,
        .verified = e->proof.known ? &e->proof.result : NULL,
        .proven = e->st.proven,
        .inconsistent = e->st.inconsistent,
        .heard_ns = e->peer.heard_ns,
        .echo_sent_ns = serving && e->state != END_SUSPENDED ? e->peer.proven_ns : 0,
        .met = e->session.meeting.row,
        .split = e->state == END_SPLIT || e->session.meeting.row == MEET_SPLIT,
        .counted = e->session.counted,
        .differing_regions = e->session.count_regions,
        .differing_volumes = e->session.count_void,
        .own_history = &e->st.history,
        .peer_history = &e->session.peer.history,
        .met_rule = e->session.meeting.rule,
        .peer_run = e->peer.run,
        .peer_position = e->peer.durable,
        .peer_backlog = e->peer.backlog,
        .peer_behind = e->peer.behind,
        .peer_active = e->peer.flags & FRAME_ACTIVE,
        .grant_until_ns = serving ? 0 : e->held.until_ns,
        .why = why_text(e, e->why, sizeof(e->why)),
        .operation = e->operation.name,
        .operation_result = e->operation.result,
        .operation_text = e->operation.text,
        .verdict = &e->verdict,
    };
    view->promotable = !serving && end_promotable(e) && view->granted;
    if (epoch)
        view->epoch = *epoch;
    if (!serving && !view->granted && e->held.ended_ns)
        view->stale_since_ns = e->held.ended_ns;
    (void)now;
}
