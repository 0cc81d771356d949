// SPDX-License-Identifier: Apache-2.0
#include "guard/stay.h"

#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"

#define LOOK_NS (100 * NS_PER_MS)

void stay_acted(struct stay *stay, size_t slot, int error)
{
    stay->acts[slot].off_error = error;
    stay->next_ns = MIN(stay->next_ns, clock_boot_ns() + LOOK_NS);
}

static bool is_stepped_down(struct plan_slot *slot)
{
    return atomic_load(&slot->state) == GUARD_STEPPED_DOWN;
}

static void look_at(struct stay *stay, size_t i, stay_found found, void *user)
{
    struct plan_slot *slot = &stay->plan->slots[i];
    struct act *act = &stay->acts[i];
    size_t removed = 0;
    int before = act->off_error;
    act->off_error = act_addresses_off(act, stay->off, &removed);
    stay->left[i] = stay->left[i] && act->off_error < 0;
    if (is_stepped_down(slot))
        slot->report.addresses_error = act->off_error;
    if (removed > 0 || (act->off_error < 0 && act->off_error != before))
        found(user, slot, removed, act->off_error);
}

void stay_look(struct stay *stay, bool lives, stay_found found, void *user)
{
    int64_t now = clock_boot_ns();
    bool again = false;
    if (now < stay->next_ns)
        return;
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++) {
        struct plan_slot *slot = &stay->plan->slots[i];
        if (!atomic_load(&slot->used)) {
            stay->left[i] = false;
            continue;
        }
        if (is_stepped_down(slot) || stay->left[i])
            look_at(stay, i, found, user);
        again |= stay->left[i] || (is_stepped_down(slot) && (lives || stay->acts[i].off_error < 0));
    }
    stay->next_ns = again ? clock_boot_ns() + LOOK_NS : INT64_MAX;
}

static bool serves(struct plan_slot *slot)
{
    uint32_t role = atomic_load(&slot->role);
    return role == INQUIRY_ACTIVE || role == INQUIRY_TAKING_OVER;
}

void stay_daemon_gone(struct stay *stay)
{
    for (size_t i = 0; i < GUARD_PAIRS_MAX; i++)
        stay->left[i] = !serves(&stay->plan->slots[i]);
    stay->next_ns = 0;
}

void stay_daemon_came(struct stay *stay)
{
    memset(stay->left, 0, sizeof(stay->left));
}
