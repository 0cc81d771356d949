// SPDX-License-Identifier: Apache-2.0
#include "queues/vitals.h"

#include "common/base/cleanup.h"

static void put(uint64_t *value, uint64_t *complement, uint64_t to)
{
    __atomic_store_n(value, to, __ATOMIC_RELEASE);
    __atomic_store_n(complement, ~to, __ATOMIC_RELEASE);
}

uint64_t vitals_boot(const struct vitals *v)
{
    return v->boot == ~v->boot_not ? v->boot : 0;
}

bool vitals_damaged(const struct vitals *v)
{
    // A kill leaves the second store of a pair undone; of a new file, everything.
    return v->boot != ~v->boot_not && (v->boot != 0 || v->boot_not != 0);
}

uint64_t vitals_token(uint64_t random, uint64_t kernel)
{
    uint64_t high = random >> 32 ? random >> 32 : 1; // 0 stands for none
    return high << 32 | (kernel & UINT32_MAX);
}

bool vitals_token_fits(uint64_t token, uint64_t kernel)
{
    return token && (token & UINT32_MAX) == (kernel & UINT32_MAX);
}

void vitals_begin(struct vitals *v, uint64_t boot)
{
    put(&v->echo_sent_ns, &v->echo_not, 0);
    put(&v->lease_ns, &v->lease_not, VITALS_UNKNOWN);
    put(&v->timing, &v->timing_not, 0);
    put(&v->boot, &v->boot_not, boot);
}

int64_t vitals_echo_sent_ns(const struct vitals *v)
{
    uint64_t earlier = MIN(v->echo_sent_ns, ~v->echo_not);
    return earlier > INT64_MAX ? 0 : (int64_t)earlier;
}

void vitals_echo(struct vitals *v, int64_t sent_ns)
{
    if (sent_ns > vitals_echo_sent_ns(v))
        put(&v->echo_sent_ns, &v->echo_not, (uint64_t)sent_ns);
}

int64_t vitals_lease_ns(const struct vitals *v)
{
    return v->lease_ns == ~v->lease_not ? (int64_t)v->lease_ns : VITALS_UNKNOWN;
}

void vitals_lease(struct vitals *v, int64_t deadline_ns)
{
    put(&v->lease_ns, &v->lease_not, (uint64_t)deadline_ns);
}

// 0: nothing has served yet. Two zeros: a file of an older version.
bool vitals_same_timing(const struct vitals *v, uint64_t timing)
{
    bool none = v->timing == 0 && (v->timing_not == 0 || v->timing_not == UINT64_MAX);
    return none || (v->timing == ~v->timing_not && v->timing == timing);
}

void vitals_timing(struct vitals *v, uint64_t timing)
{
    put(&v->timing, &v->timing_not, timing);
}
