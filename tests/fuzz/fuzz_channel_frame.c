// SPDX-License-Identifier: Apache-2.0
// The clear header of the channel's messages, what a bundle holds, and the hello.
#include "common/channel/frame.h"
#include "fuzz.h"

static void look_at_frame(const uint8_t *data, size_t size)
{
    struct frame frame, again;
    struct frame_header header;
    if (frame_parse(data, size, &frame))
        return;
    ENSURE(frame.path < CHANNEL_PATHS_MAX && frame.size == size - sizeof(header));
    CLEANUP_FREE uint8_t *copy = malloc(size);
    ENSURE(copy);
    memcpy(copy, data, size);
    frame_fill(&header, &frame);
    memcpy(copy, &header, sizeof(header));
    ENSURE(!frame_parse(copy, size, &again));
    ENSURE(memcmp(copy, data, size) == 0);
    if (frame.kind != FRAME_BUNDLE)
        return;
    size_t at = 0, inside_size;
    uint32_t slot;
    uint8_t *inside, *body = copy + sizeof(header);
    while (frame_entry_next(body, frame.size, &at, &slot, &inside, &inside_size))
        ENSURE(inside >= body && inside + inside_size <= body + frame.size && at <= frame.size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct hello hello;
    struct frame_hello wire;
    look_at_frame(data, size);
    if (!hello_parse(data, size, 7, &hello) && hello.protocol == 7) {
        ENSURE(strlen(hello.pair) >= 1 && strlen(hello.pair) <= CHANNEL_NAME_MAX);
        hello_fill(&wire, &hello);
        ENSURE(!hello_parse(&wire, sizeof(wire), 7, &hello));
    }
    return 0;
}
