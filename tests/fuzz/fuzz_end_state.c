// SPDX-License-Identifier: Apache-2.0
// What an end remembers through a crash.
#include "queues/state.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct end_state state, again;
    static uint8_t bytes[STATE_SIZE_MAX], twice[STATE_SIZE_MAX];
    if (state_decode(data, size, &state))
        return 0;
    ENSURE(state.role <= ROLE_ACTIVE && state.intent <= INTENT_HANDED_OVER);
    size_t n = state_encode(&state, bytes, sizeof(bytes));
    ENSURE(n > 0 && n == size);
    ENSURE(!state_decode(bytes, n, &again));
    ENSURE(state_encode(&again, twice, sizeof(twice)) == n && memcmp(bytes, twice, n) == 0);
    return 0;
}
