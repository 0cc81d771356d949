// SPDX-License-Identifier: Apache-2.0
#include "common/control/steps.h"

#include <string.h>

#include "common/base/checksum.h"

static uint64_t slot_sum(struct step_slot *slot)
{
    uint64_t was = slot->sum;
    slot->sum = 0;
    uint64_t sum = checksum64(slot, sizeof(*slot));
    slot->sum = was;
    return sum;
}

void step_seal(struct step_slot *slot)
{
    slot->sum = slot_sum(slot);
}

// Whatever its checksum says: a number above which nothing could be counted, or a bool that is none, is not ours.
static bool slot_sound(const struct step_slot *slot, unsigned at)
{
    uint8_t known;
    memcpy(&known, &slot->event.loss.known, sizeof(known));
    return slot->number > 0 && slot->number <= INT64_MAX && slot->number % STEPS_MAX == at && known <= 1;
}

enum step_state step_judge(struct step_slot *slot, unsigned at)
{
    static const struct step_slot empty;
    if (memcmp(slot, &empty, sizeof(empty)) == 0)
        return STEP_EMPTY;
    if (!slot_sound(slot, at) || !checksum_same(slot->sum, slot_sum(slot)))
        return STEP_BROKEN;
    slot->event.step[sizeof(slot->event.step) - 1] = '\0';
    slot->event.text[sizeof(slot->event.text) - 1] = '\0';
    return STEP_GOOD;
}
