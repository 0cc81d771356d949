// SPDX-License-Identifier: Apache-2.0
#include "queues/rhythm.h"

#include "common/base/cleanup.h"

void rhythm_flush(struct rhythm *r, uint64_t numbered)
{
    uint64_t step = numbered - r->flushed;
    if (step == 0)
        return;
    r->times = step == r->step ? MIN(r->times + 1, RHYTHM_TIMES) : 0;
    r->step = step;
    r->flushed = numbered;
}

bool rhythm_write(struct rhythm *r, uint64_t seq)
{
    uint64_t written = seq - r->flushed;
    if (written > r->step) // the flush has not come
        r->times = 0;
    return written == r->step && r->times == RHYTHM_TIMES;
}
