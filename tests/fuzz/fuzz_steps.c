// SPDX-License-Identifier: Apache-2.0
// The file with the steps of an end's life. The input is patches (fuzz.h) of a file of zeros.
#include "common/daemon/history.h"
#include "fuzz.h"

#define STEP_BYTES (16 + sizeof(struct status_event))

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct status_event events[HISTORY_MAX];
    struct byte_reader r = byte_reader(data, size);
    struct fuzz_patch patch;
    char path[PATH_SIZE];
    fuzz_path(path, "steps");
    FILE *f = fopen(path, "w");
    ENSURE(f && ftruncate(fileno(f), (off_t)(HISTORY_MAX * STEP_BYTES)) == 0);
    while (fuzz_patch_next(&r, &patch)) {
        size_t at = patch.at % (HISTORY_MAX * STEP_BYTES);
        ENSURE(file_pwrite(fileno(f), patch.bytes, patch.size, at) == 0);
    }
    ENSURE(fclose(f) == 0);
    struct history *h = history_open(path);
    ENSURE(h);
    size_t n = history_list(h, events, HISTORY_MAX);
    ENSURE(n <= HISTORY_MAX);
    for (size_t i = 0; i < n; i++) {
        ENSURE(memchr(events[i].text, 0, sizeof(events[i].text)));
        CLEANUP_FREE char *text = history_to_json(&events[i], 1, false);
        ENSURE(text);
    }
    const struct status_event *newest = history_newest(h);
    struct status_event *same = newest ? history_same(h, newest->text) : NULL;
    ENSURE(!same || strcmp(same->text, newest->text) == 0);
    struct status_event *event = history_add(h);
    event->real_ms = 4711;
    history_write(h, event);
    ENSURE(history_list(h, events, 1) == 1 && events[0].real_ms == 4711);
    history_free(h);
    h = history_open(path);
    ENSURE(h && history_list(h, events, 1) == 1 && events[0].real_ms == 4711);
    history_free(h);
    (void)unlink(path);
    return 0;
}
