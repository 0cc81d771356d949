// SPDX-License-Identifier: Apache-2.0
// A text that a stranger can cause as often as he likes, said at most so often: a repetition once a
// minute, another text every five seconds; what was held back is counted.
#ifndef CHANNEL_SAID_H
#define CHANNEL_SAID_H

#include <stdbool.h>
#include <stdint.h>

#define SAID_SAME_NS  (INT64_C(60) * 1000000000)
#define SAID_OTHER_NS (INT64_C(5) * 1000000000)
#define SAID_TEXT     256

struct said {
    char text[SAID_TEXT]; // what was said last
    int64_t at_ns;        // when; 0: never
    unsigned held_back;   // since then
    bool pending;         // to be handed to the callback
};

// Notes one occurrence; sets `pending` when it is to be said.
void said_note(struct said *said, int64_t now_ns, const char *text);

#endif
