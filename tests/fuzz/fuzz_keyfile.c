// SPDX-License-Identifier: Apache-2.0
// The key file. The first byte of the input is a part of its mode.
#include <errno.h>
#include <sys/stat.h>

#include "common/base/keyfile.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct keyfile key;
    struct error err = {0};
    char path[PATH_SIZE];
    if (size == 0)
        return 0;
    fuzz_path(path, "key");
    if (data[0] == 0) {
        ENSURE(keyfile_generate(path, &err) == 0);
        ENSURE(keyfile_generate(path, &err) == -EEXIST);
    } else {
        FILE *f = fopen(path, "w");
        ENSURE(f && fwrite(data + 1, 1, size - 1, f) == size - 1);
        ENSURE(fclose(f) == 0 && chmod(path, data[0] == 1 ? 0644 : 0600) == 0);
    }
    int r = keyfile_load(path, &key, &err);
    ENSURE(r == 0 || err.text[0]);
    ENSURE(data[0] != 0 || r == 0);
    ENSURE(data[0] != 1 || r == -EPERM);
    if (r == 0) {
        ENSURE(key.size >= KEYFILE_BYTES_MIN && key.size <= KEYFILE_BYTES_MAX);
        keyfile_clear(&key);
    }
    (void)unlink(path);
    return 0;
}
