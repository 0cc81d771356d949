// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/requests.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/log.h"

#define HISTORY_SHOWN 256

static void reply_status(const struct ends *ends, struct endpoint *only, struct control_reply *reply)
{
    size_t n = only ? 1 : ends_count(ends);
    struct pair_status *all = calloc(n + 1, sizeof(*all));
    const struct pair_status **list = calloc(n + 1, sizeof(*list));
    if (all && list) {
        for (size_t i = 0; i < n; i++) {
            endpoint_status(only ? only : ends_at(ends, i), &all[i]);
            list[i] = &all[i];
        }
        (void)control_reply_json(reply, only ? status_to_json(all, false)
                                             : status_list_to_json(list, n, false));
    } else {
        (void)control_reply_refuse(reply, -ENOMEM, "no memory for the status");
    }
    free(list);
    free(all);
}

static void reply_history(const struct endpoint *endpoint, struct control_reply *reply)
{
    struct status_event *events = calloc(HISTORY_SHOWN, sizeof(*events));
    if (!events) {
        (void)control_reply_refuse(reply, -ENOMEM, "no memory for the history");
        return;
    }
    size_t n = endpoint_history(endpoint, events, HISTORY_SHOWN);
    (void)control_reply_json(reply, history_to_json(events, n, false));
    free(events);
}

static const struct {
    const char *name;
    enum end_command command;
} commands[] = {
    {"switch", COMMAND_SWITCH}, {"takeover", COMMAND_TAKEOVER}, {"pause", COMMAND_PAUSE},
    {"resume", COMMAND_RESUME}, {"resync", COMMAND_RESYNC},     {"stop", COMMAND_STOP},
    {"shutdown", COMMAND_SHUTDOWN},
    {"resolve", COMMAND_RESOLVE},
    {"verify", COMMAND_VERIFY},
};

// `--force` alone overrides whatever stands; `--force=NAME,...` these vetoes. Returns 0, or the length of a name at
// *ret_name that is none, or of a veto that is not overridden so.
static size_t parse_force(const char *value, unsigned *ret_flags, uint32_t *ret_overrides, const char **ret_name)
{
    if (!value)
        return 0;
    if (strcmp(value, "true") == 0) {
        *ret_flags |= COMMAND_FORCE;
        return 0;
    }
    for (const char *at = value; *at; at += *at == ',') {
        size_t length = strcspn(at, ",");
        uint32_t veto = end_veto_find(at, length);
        if (!veto || veto == END_VETO_INCONSISTENT) {
            *ret_name = at;
            return MAX(length, (size_t)1);
        }
        *ret_overrides |= veto;
        at += length;
    }
    return 0;
}

static void refuse_force(struct control_reply *reply, const char *name, size_t length)
{
    char known[256];
    size_t at = 0;
    if (end_veto_find(name, length) == END_VETO_INCONSISTENT) {
        (void)control_reply_refuse(reply, -EINVAL, "--force=%.*s: a replica in mid-resync is accepted by another option: "
                                   "--accept-inconsistent", (int)length, name);
        return;
    }
    for (unsigned i = 0; end_veto_name(i) && at < sizeof(known); i++) {
        if (UINT32_C(1) << i != END_VETO_INCONSISTENT)
            at += (size_t)snprintf(known + at, sizeof(known) - at, "%s%s", at ? ", " : "", end_veto_name(i));
    }
    (void)control_reply_refuse(reply, -EINVAL, "--force=%.*s: there is no such veto; they are: %s", (int)MIN(length, (size_t)32),
                               name, known);
}

static unsigned keep_flag(const struct control_request *request)
{
    const char *keep = control_request_arg(request, "keep");
    if (keep && strcmp(keep, "primary") == 0)
        return COMMAND_KEEP_PRIMARY;
    return keep && strcmp(keep, "secondary") == 0 ? COMMAND_KEEP_SECONDARY : 0;
}

static void run_command(struct ends *ends, struct endpoint *endpoint, const struct control_request *request,
                        struct control_reply *reply)
{
    char text[ACTION_TEXT_SIZE];
    uint32_t overrides = 0;
    const char *name = NULL;
    unsigned flags =
        (control_request_flag(request, "accept-inconsistent") ? COMMAND_INCONSISTENT : 0) |
        (control_request_flag(request, "replay") ? COMMAND_REPLAY : 0) |
        (control_request_flag(request, "repair") ? COMMAND_REPAIR : 0) | keep_flag(request);
    size_t bad = parse_force(control_request_arg(request, "force"), &flags, &overrides, &name);
    if (bad) {
        refuse_force(reply, name, bad);
        return;
    }
    for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
        if (strcmp(request->command, commands[i].name) != 0)
            continue;
        uint64_t operation = 0;
        log_info("pair %s: operator: %s", endpoint_pair(endpoint), request->command);
        int r = endpoint_command(endpoint, commands[i].command, flags, overrides, &operation, text, sizeof(text));
        if (r < 0) {
            (void)control_reply_refuse(reply, r, "%s", text);
            return;
        }
        reply->operation = operation;
        (void)control_reply_text(reply, "%s", text);
        return;
    }
    (void)control_reply_refuse(reply, -EOPNOTSUPP, "this daemon does not know the command %s",
                               request->command);
}

void requests_answer(void *user, const struct control_request *request, struct control_reply *reply)
{
    const struct requests *r = user;
    size_t count = ends_count(r->ends);
    struct endpoint *endpoint = request->pair[0] ? ends_find(r->ends, request->pair) : NULL;
    if (request->pair[0] && !endpoint) {
        r->refuse(r->user, request->pair, reply);
        return;
    }
    if (strcmp(request->command, "status") == 0) {
        reply_status(r->ends, endpoint, reply);
        return;
    }
    if (!endpoint && count == 1)
        endpoint = ends_at(r->ends, 0);
    if (!endpoint) {
        (void)control_reply_refuse(reply, -EINVAL, "name the pair with -p: this daemon has %zu", count);
        return;
    }
    if (strcmp(request->command, "history") == 0)
        reply_history(endpoint, reply);
    else
        run_command(r->ends, endpoint, request, reply);
}
