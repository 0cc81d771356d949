// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/vetoes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"

#define LOOK_NS (5 * NS_PER_MS)
// The first ask that counts is sent within it. A lease that such asks keep ends 150 ms later: within PROBE_SPAN_NS.
#define FIRST_ASK_NS (PROBE_SPAN_NS - WAYPOINT_CLOSE_NS - WAYPOINT_GAP_NS)

struct vetoes {
    struct vetoes_config config;
    struct inquiry *inquiry;
    int64_t began_ns;
    int64_t asked_ns;  // the newest ask since then that a waypoint has answered; 0: none
    bool cut_off;      // ... and between two of them was a gap, or before the first
};

struct vetoes *vetoes_start(const struct vetoes_config *config)
{
    struct vetoes *v = calloc(1, sizeof(*v));
    ENSURE(v);
    v->config = *config;
    v->began_ns = clock_boot_ns();
    if (config->switchboard)
        switchboard_ask(config->switchboard);
    if (config->ask_peer)
        (void)inquiry_start(&v->config.from, &v->config.to, config->port, config->pair,
                            config->peer, config->key, &v->inquiry,
                            NULL); // cannot be asked: silent
    return v;
}

int64_t vetoes_deadline_ns(const struct vetoes *v)
{
    (void)v;
    return clock_boot_ns() + LOOK_NS;
}

// A waypoint has to answer all the while, from the first ask for the address on: whoever was cut off when he asked for the
// address, and is not when he asks the waypoint, has seen neither of the two. Who did not answer while a waypoint did
// has been without the public network since then, and is off before the asking is over.
static void watch_waypoints(struct vetoes *v)
{
    if (!v->config.waypoints || waypoint_count(v->config.waypoints) == 0)
        return;
    int64_t sent = waypoint_sent_ns(v->config.waypoints);
    if (sent == WAYPOINT_NEVER || sent < v->began_ns || sent == v->asked_ns)
        return;
    v->cut_off |= v->asked_ns ? sent - v->asked_ns > WAYPOINT_GAP_NS : sent - v->began_ns > FIRST_ASK_NS;
    v->asked_ns = sent;
}

static bool waypoint_answers(const struct vetoes *v)
{
    if (!v->config.waypoints || waypoint_count(v->config.waypoints) == 0)
        return true;
    return v->asked_ns && !v->cut_off;
}

bool vetoes_work(struct vetoes *v, uint32_t *ret_vetoes, char *text, size_t size)
{
    struct probe_answer answer = {0};
    enum probe_state state = PROBE_SILENT;
    enum inquiry_result said = INQUIRY_SILENT;
    uint32_t found = 0;
    watch_waypoints(v);
    if (v->config.switchboard)
        state = switchboard_answer(v->config.switchboard, &answer);
    if (v->inquiry) {
        inquiry_work(v->inquiry);
        said = inquiry_result(v->inquiry, NULL);
    }
    if (state == PROBE_IMPOSSIBLE)
        found |= END_VETO_PROBE;
    if (state == PROBE_ANSWERED)
        found |= END_VETO_ADDRESS;
    if (said == INQUIRY_SAYS_ACTIVE)
        found |= END_VETO_MANAGEMENT;
    bool span_over = clock_boot_ns() - v->began_ns >= PROBE_SPAN_NS;
    bool open = state == PROBE_ASKING || said == INQUIRY_ASKING || !span_over;
    if (open && (!found || v->config.all))
        return false;
    if (!open && !waypoint_answers(v))
        found |= END_VETO_WAYPOINT;
    *ret_vetoes = found;
    const char *why = answer.text[0]                 ? answer.text
                      : found & END_VETO_MANAGEMENT  ? "the peer says at its management address that it is active"
                      : found & END_VETO_WAYPOINT    ? "no waypoint answers: this end is the isolated one"
                                                     : "";
    (void)snprintf(text, size, "%s", why);
    return true;
}

struct vetoes *vetoes_free(struct vetoes *v)
{
    if (!v)
        return NULL;
    if (v->config.switchboard)
        switchboard_ask_no_more(v->config.switchboard);
    inquiry_free(v->inquiry);
    free(v);
    return NULL;
}
