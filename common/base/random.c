// SPDX-License-Identifier: Apache-2.0
#include "common/base/random.h"

#include <sys/random.h>

#include "common/base/error.h"

void random_bytes(void *buffer, size_t size)
{
    uint8_t *at = buffer;
    while (size > 0) {
        ssize_t n = getrandom(at, size, 0);
        ENSURE(n > 0);
        at += n;
        size -= (size_t)n;
    }
}

uint64_t random_id(void)
{
    uint64_t id;
    do {
        random_bytes(&id, sizeof(id));
    } while (id == 0);
    return id;
}
