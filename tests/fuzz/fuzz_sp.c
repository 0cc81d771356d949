// SPDX-License-Identifier: Apache-2.0
// The stream of a data link's connection, cut into pieces in every way: each message comes out whole, or the stream breaks
// where it is wrong, wherever it was cut. The first bytes say how: the largest message, and the sizes of the pieces.
#include <errno.h>

#include "common/channel/sp.h"
#include "fuzz.h"

// What a reader of the whole stream would find.
static bool expected(const uint8_t **at, const uint8_t *end, size_t size_max, const uint8_t **ret_message, size_t *ret_size, bool *ret_bad)
{
    uint64_t size = 0;
    if ((size_t)(end - *at) < SP_LENGTH)
        return false;
    for (int i = 0; i < SP_LENGTH; i++)
        size = size << 8 | (*at)[i];
    *ret_bad = size == 0 || size > size_max;
    if (*ret_bad || (uint64_t)(end - *at) - SP_LENGTH < size)
        return false;
    *ret_message = *at + SP_LENGTH;
    *ret_size = size;
    *at += SP_LENGTH + size;
    return true;
}

static size_t fill(struct sp_in *in, const uint8_t *from, size_t size)
{
    struct iovec iov[SP_PIECES];
    int n = sp_room(in, iov);
    size_t done = 0;
    ENSURE(n >= 1 && n <= SP_PIECES);
    for (int i = 0; i < n; i++) {
        size_t some = MIN(iov[i].iov_len, size - done);
        ENSURE(iov[i].iov_len > 0);
        memcpy(iov[i].iov_base, from + done, some);
        done += some;
    }
    sp_got(in, done);
    return done;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t cuts[4];
    if (size < sizeof(cuts) + 2)
        return 0;
    const size_t size_max = (size_t)data[0] << 8 | data[1];
    memcpy(cuts, data + 2, sizeof(cuts));
    const uint8_t *fed = data + 6, *end = data + size, *at = fed + SP_GREETING;
    struct sp_in *in = sp_in_new(SP_PUSH);
    ENSURE(in);
    bool greeted = size - 6 >= SP_GREETING && sp_greeting_is(fed, SP_PUSH);
    for (unsigned i = 0; fed < end; i++) {
        fed += fill(in, fed, MIN((size_t)(end - fed), cuts[i % 4] < 128 ? 1U + cuts[i % 4] : 64U * cuts[i % 4]));
        void *message;
        const uint8_t *whole;
        size_t got, there;
        bool bad = false;
        int r;
        while ((r = sp_next(in, size_max, &message, &got)) == 0) {
            ENSURE(greeted && expected(&at, end, size_max, &whole, &there, &bad));
            ENSURE(got == there && whole + there <= fed && memcmp(message, whole, got) == 0);
            free(message);
        }
        if (r == -EAGAIN) {
            const uint8_t *next = at;
            ENSURE(!greeted || next > fed || !expected(&next, fed, size_max, &whole, &there, &bad));
            continue;
        }
        ENSURE(r == -EPROTO && sp_next(in, size_max, &message, &got) == -EPROTO);
        ENSURE(!greeted || (!expected(&at, end, size_max, &whole, &there, &bad) && bad));
        break;
    }
    sp_in_free(in);
    return 0;
}
