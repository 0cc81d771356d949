// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/vetoes.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/address/probe.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"

#define LOOK_NS (5 * NS_PER_MS)

struct vetoes {
    struct vetoes_config config;
    struct address_probe *probe;
    struct inquiry *inquiry;
    struct error error;
    bool impossible;
    int64_t began_ns;
};

struct vetoes *vetoes_start(const struct vetoes_config *config)
{
    struct vetoes *v = calloc(1, sizeof(*v));
    ENSURE(v);
    v->config = *config;
    v->began_ns = clock_boot_ns();
    if (config->address_count > 0)
        v->impossible = address_probe_start(config->interface, config->addresses,
                                            config->address_count, &v->probe, &v->error) < 0;
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

// Whether a waypoint has answered an ask that was sent since the asking began.
static bool waypoint_answers(const struct vetoes *v)
{
    if (!v->config.waypoints || waypoint_count(v->config.waypoints) == 0)
        return true;
    int64_t sent = waypoint_sent_ns(v->config.waypoints);
    return sent != WAYPOINT_NEVER && sent >= v->began_ns;
}

bool vetoes_work(struct vetoes *v, uint32_t *ret_vetoes, char *text, size_t size)
{
    struct probe_answer answer = {0};
    enum probe_state state = PROBE_SILENT;
    enum inquiry_result said = INQUIRY_SILENT;
    uint32_t found = 0;
    if (v->probe) {
        address_probe_work(v->probe);
        state = address_probe_state(v->probe, &answer);
    }
    if (v->inquiry) {
        inquiry_work(v->inquiry);
        said = inquiry_result(v->inquiry, NULL);
    }
    if (v->impossible || state == PROBE_IMPOSSIBLE)
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
    const char *why = v->impossible                  ? v->error.text
                      : answer.text[0]               ? answer.text
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
    address_probe_free(v->probe);
    inquiry_free(v->inquiry);
    free(v);
    return NULL;
}
