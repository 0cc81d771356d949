// SPDX-License-Identifier: Apache-2.0
// The two files of a durable state: the first two bytes say how much of the input is the first
// file, the rest is the second one. Whatever was there, what is saved next is what is loaded next.
#include <errno.h>

#include "common/base/twin.h"
#include "fuzz.h"

static void put_copy(const char *path, int index, const uint8_t *data, size_t size)
{
    char name[PATH_SIZE];
    (void)snprintf(name, sizeof(name), "%s.%d", path, index);
    FILE *f = fopen(name, "w");
    ENSURE(f && fwrite(data, 1, size, f) == size);
    ENSURE(fclose(f) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t payload[TWIN_PAYLOAD_MAX], again[TWIN_PAYLOAD_MAX];
    char path[PATH_SIZE];
    struct twin *twin = NULL;
    struct error err = {0};
    size_t n = 0;
    if (size < 4)
        return 0;
    size_t limit = (size_t)(data[2] | data[3] << 8) + 1;
    size_t first = MIN(data[0] | (size_t)data[1] << 8, size - 4);
    fuzz_path(path, "twin");
    if (first > 0 || data[2] % 2) // else it is not there
        put_copy(path, 0, data + 4, first);
    if (size - 4 - first > 0 || data[3] % 2)
        put_copy(path, 1, data + 4 + first, size - 4 - first);
    struct twin_copy copies[2];
    struct error looked = {0};
    int seen = twin_inspect(path, again, limit, &n, copies, &looked);
    ENSURE(seen == 0 || looked.text[0]);
    ENSURE(seen < 0 || n <= limit);
    int r = twin_open(path, payload, limit, &twin, &n, &err);
    ENSURE(r == 0 || err.text[0]);
    ENSURE(r < 0 || n <= limit);
    ENSURE(twin || r < 0);
    ENSURE(r == seen || copies[0].state == TWIN_MISSING || copies[1].state == TWIN_MISSING);
    if (r == 0 && seen == 0)
        ENSURE(memcmp(again, payload, n) == 0);
    if (r == 0 && twin_repaired(twin)) // and now both are good
        ENSURE(twin_inspect(path, again, limit, &n, copies, NULL) == 0 && copies[0].version == copies[1].version);
    if (twin) {
        n = MIN(size, sizeof(payload));
        ENSURE(twin_save(twin, data, n, &err) == 0 && twin_mirror(twin, &err) == 0);
        twin_free(twin);
        twin = NULL;
        size_t loaded = 0;
        ENSURE(twin_open(path, again, sizeof(again), &twin, &loaded, &err) == 0);
        ENSURE(loaded == n && memcmp(again, data, n) == 0);
    }
    twin_free(twin);
    for (int i = 0; i < 2; i++) {
        char name[PATH_SIZE];
        (void)snprintf(name, sizeof(name), "%s.%d", path, i);
        (void)unlink(name);
    }
    return 0;
}
