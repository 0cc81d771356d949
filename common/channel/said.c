// SPDX-License-Identifier: Apache-2.0
// See said.h.
#include "common/channel/said.h"

#include <stdio.h>
#include <string.h>

void said_note(struct said *said, int64_t now_ns, const char *text)
{
    const size_t length = strlen(text);
    bool same = strncmp(said->text, text, length) == 0;
    if (said->at_ns != 0 && now_ns - said->at_ns < (same ? SAID_SAME_NS : SAID_OTHER_NS)) {
        said->held_back++;
        return;
    }
    if (said->held_back > 0)
        (void)snprintf(said->text, sizeof(said->text), "%s (and %u more times)", text,
                       said->held_back);
    else
        (void)snprintf(said->text, sizeof(said->text), "%s", text);
    said->held_back = 0;
    said->at_ns = now_ns;
    said->pending = true;
}
