// SPDX-License-Identifier: Apache-2.0
// What pairctl reads: status and history as JSON.
#include "common/control/status.h"
#include "fuzz.h"

static void look_at_status(const char *json)
{
    struct pair_status *list = NULL;
    size_t count = 0;
    struct error err = {0};
    if (status_from_json(json, &list, &count, &err) < 0) {
        ENSURE(err.text[0]);
        return;
    }
    for (size_t i = 0; i < MIN(count, (size_t)2); i++) {
        struct pair_status *again = NULL;
        size_t one = 0;
        CLEANUP_FREE char *text = status_to_json(&list[i], true);
        ENSURE(text && status_from_json(text, &again, &one, &err) == 0 && one == 1);
        ENSURE(again->volume_count == list[i].volume_count);
        free(again);
    }
    free(list);
}

static void look_at_history(const char *json)
{
    struct status_event *events = NULL;
    size_t count = 0;
    struct error err = {0};
    if (history_from_json(json, &events, &count, &err) < 0)
        return;
    CLEANUP_FREE char *text = history_to_json(events, count, false);
    ENSURE(text);
    free(events);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 65536)
        return 0;
    CLEANUP_FREE char *text = strndup((const char *)data, size);
    ENSURE(text);
    look_at_status(text);
    look_at_history(text);
    return 0;
}
