// SPDX-License-Identifier: Apache-2.0
// The messages of the control links.
#include "common/end/frame.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct frame frame, again;
    static uint8_t bytes[FRAME_MAX], twice[FRAME_MAX];
    if (frame_decode(data, size, &frame))
        return 0;
    ENSURE(strcmp(frame_type_name(frame.type), "?") != 0);
    size_t n = frame_encode(&frame, bytes, sizeof(bytes));
    ENSURE(n > 0 && n <= size);
    ENSURE(!frame_decode(bytes, n, &again));
    ENSURE(frame_encode(&again, twice, sizeof(twice)) == n && memcmp(bytes, twice, n) == 0);
    return 0;
}
