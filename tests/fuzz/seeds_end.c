// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/seeds_end.h"

#include "common/end/frame.h"
#include "queues/state.h"
#include "fuzz.h"

static void small_history(struct epoch_history *h)
{
    h->count = 0;
    struct epoch first = {.number = 1,
                          .id = 10,
                          .first_seq = 1,
                          .opened_by = EPOCH_BY_PRIMARY,
                          .reason = EPOCH_FIRST_START};
    struct epoch second = {.number = 2,
                           .id = 11,
                           .first_seq = 50,
                           .parents = 1,
                           .parent = {{10, 49}},
                           .opened_by = EPOCH_BY_SECONDARY,
                           .reason = EPOCH_TAKEOVER};
    ENSURE(!history_append(h, &first) && !history_append(h, &second));
}

void seeds_end(void (*put)(const char *target, const char *name, const void *data, size_t size))
{
    static struct frame f;
    static struct end_state s = {.role = ROLE_ACTIVE, .alone = true, .bound = 1000};
    static uint8_t bytes[FRAME_MAX];
    for (unsigned type = 1; type < FRAME_TYPE_END; type++) {
        memset(&f, 0, sizeof(f));
        f.type = (enum frame_type)type;
        f.run = 3;
        f.session = 4;
        if (type == FRAME_BEAT)
            f.beat.number = 5;
        else if (type == FRAME_MEET)
            small_history(&f.meet.history);
        else if (type >= FRAME_STREAM && type <= FRAME_HANDOVER)
            f.at.seq = 9;
        else if (type != FRAME_GOODBYE)
            (void)snprintf(f.word.text, sizeof(f.word.text), "a text");
        put("end_frame", frame_type_name(type), bytes, frame_encode(&f, bytes, sizeof(bytes)));
    }
    put("end_state", "empty", bytes, state_encode(&s, bytes, sizeof(bytes)));
    small_history(&s.history);
    put("end_state", "active", bytes, state_encode(&s, bytes, sizeof(bytes)));
}
