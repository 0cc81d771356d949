// SPDX-License-Identifier: Apache-2.0
// `pairctl wait STATE`: for scripts. A daemon that is not there yet is waited for as well.
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "pairctl/pairctl.h"

#define POLL_MS 50

static bool is_active(const struct pair_status *s)
{
    return strcmp(s->role, "active") == 0;
}
static bool is_passive(const struct pair_status *s)
{
    return strcmp(s->role, "passive") == 0;
}
static bool is_alone(const struct pair_status *s)
{
    return s->alone;
}
static bool is_paired(const struct pair_status *s)
{
    return s->paired; // neither alone nor on the way to that
}
static bool is_connected(const struct pair_status *s)
{
    return s->peer.connected;
}
static bool is_disconnected(const struct pair_status *s)
{
    return !s->peer.connected;
}
static bool is_synchronized(const struct pair_status *s)
{
    return s->synchronized;
}
static bool is_promotable(const struct pair_status *s)
{
    return s->synchronized && s->granted;
}
static bool is_stale(const struct pair_status *s)
{
    return s->stale_ms >= 0;
}
static bool is_split(const struct pair_status *s)
{
    return s->split;
}
static bool is_paused(const struct pair_status *s)
{
    return s->paused;
}
static bool is_serving(const struct pair_status *s)
{
    for (size_t i = 0; i < s->volume_count; i++) {
        if (!s->volumes[i].serving)
            return false;
    }
    for (size_t i = 0; i < s->application_count; i++) {
        if (strcmp(s->applications[i].state, "running") != 0)
            return false;
    }
    return is_active(s);
}

static const struct wait_state {
    const char *name;
    bool (*holds)(const struct pair_status *status);
} states[] = {
    {"active", is_active},         {"passive", is_passive},
    {"alone", is_alone},           {"paired", is_paired},
    {"connected", is_connected},   {"disconnected", is_disconnected},
    {"promotable", is_promotable}, {"synchronized", is_synchronized},
    {"stale", is_stale},           {"split", is_split},
    {"paused", is_paused},         {"serving", is_serving},
};

static const struct wait_state *find_state(const char *name)
{
    char all[256] = "";
    for (size_t i = 0; i < ARRAY_LEN(states); i++) {
        if (strcmp(states[i].name, name) == 0)
            return &states[i];
        size_t used = strlen(all);
        (void)snprintf(all + used, sizeof(all) - used, "%s%s", i ? ", " : "", states[i].name);
    }
    complain("there is no state \"%s\"; allowed: %s", name, all);
    return NULL;
}

// Returns -1 to go on waiting, otherwise an exit status.
static int look_once(const struct invocation *call, const struct wait_state *state, char *last,
                     size_t size)
{
    struct ends ends;
    struct error err = {0};
    int status = EXIT_FAILED;
    if (ends_gather(&call->options, &ends, &err) < 0) {
        complain("%s", err.text);
        return EXIT_FAILED;
    }
    if (ends.count == 0)
        (void)snprintf(last, size, "%s", ends.daemons ? "the pair is not here" : ends.problem);
    else if (!ends_choose(&ends, call, &status)) {
        ends_done(&ends);
        return status;
    }
    status = -1;
    for (size_t i = 0; i < ends.count; i++) {
        const struct pair_status *s = &ends.items[i].status;
        (void)snprintf(last, size, "%s: %s, %s: %s", s->pair, s->role, s->state, s->why);
        if (state->holds(s))
            status = EXIT_DONE;
    }
    ends_done(&ends);
    return status;
}

int command_wait(const struct invocation *call)
{
    const struct wait_state *state = find_state(call->args[0]);
    if (!state)
        return EXIT_USAGE;
    int64_t start = clock_boot_ns();
    double limit_s = call->options.timeout_s;
    char last[2048] = "";
    int status;
    while ((status = look_once(call, state, last, sizeof(last))) < 0) {
        if (limit_s > 0 && (double)(clock_boot_ns() - start) > limit_s * 1e9) {
            complain("not %s after %g s; %s", state->name, limit_s, last);
            return EXIT_FAILED;
        }
        pause_ms(POLL_MS);
    }
    return status;
}
