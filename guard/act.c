// SPDX-License-Identifier: Apache-2.0
#include "guard/act.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/base/cleanup.h"

void act_init(struct act *act)
{
    memset(act, 0, sizeof(*act));
    act->flag = -1;
}

void act_drop(struct act *act)
{
    freezer_close(&act->freezer);
    cleanup_close(&act->flag);
    act->flag = -1;
    act->number = 0;
    act->error = act->off_error = 0;
}

void act_prepare(struct act *act, struct plan_slot *slot)
{
    struct plan_body body;
    if ((int64_t)atomic_load(&slot->current) == act->number)
        return;
    int64_t number = plan_read(slot, &body);
    if (number <= 0 || number == act->number)
        return;
    act_drop(act);
    act->body = body;
    act->number = number;
    for (size_t i = 0; i < body.address_count; i++)
        off_prepare(&body.addresses[i], &act->messages[i]);
    for (size_t i = 0; i < body.left_count; i++)
        off_prepare(&body.left[i].ip, &act->left[i]);
    act->error = freezer_open(&act->freezer, &act->body);
    act->flag = open(act->body.flag, O_RDWR | O_CLOEXEC);
    if (act->flag < 0 && act->error == 0)
        act->error = -errno;
}

int act_addresses_off(struct act *act, struct off_sockets *sockets, size_t *ret_removed)
{
    int first = off_all(sockets, act->body.interface, act->body.interface_index, act->messages,
                        act->body.address_count, ret_removed);
    for (size_t i = 0; i < act->body.left_count; i++) {
        size_t removed = 0;
        int r = off_all(sockets, act->body.left[i].interface, 0, &act->left[i], 1, &removed);
        *ret_removed += removed;
        first = first < 0 ? first : r;
    }
    return first;
}

int act_freeze(struct act *act)
{
    return freezer_freeze(&act->freezer);
}

bool act_is_frozen(const struct act *act)
{
    return freezer_is_frozen(&act->freezer);
}

int act_flag(struct act *act, const char *pair, const struct guard_report *report)
{
    char text[FLAG_SIZE];
    snprintf(text, sizeof(text), "stepped down: pair %s, %s, at %" PRId64 " ns after boot", pair,
             report->asked ? "as asked" : "its deadline passed", report->begun_ns);
    return act->flag < 0 ? -EBADF : flag_write(act->flag, text);
}

int act_thaw(struct act *act)
{
    int r = act->flag < 0 ? 0 : flag_write(act->flag, FLAG_CLEAR);
    int thawed = freezer_thaw(&act->freezer);
    return r < 0 ? r : thawed;
}

int act_kill(struct act *act)
{
    return freezer_kill(&act->freezer);
}
