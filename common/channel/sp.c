// SPDX-License-Identifier: Apache-2.0
// See sp.h. A message's first bytes come with the length of it, or behind the message before it, into an inbox, and are copied
// from there; the rest is read where it belongs. So a small message takes one call of the kernel, and a large one as many
// as its bytes need, while hardly any byte is copied twice.
#include "common/channel/sp.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/error.h"

#define INBOX (16 * 1024)

struct sp_in {
    uint16_t protocol;
    bool greeted, broken;
    uint8_t *message; // that has begun; NULL: none has
    size_t size, have;
    size_t from, to; // what stands in the inbox
    uint8_t inbox[INBOX];
};

void sp_greeting_make(uint16_t protocol, uint8_t to[SP_GREETING])
{
    const uint8_t greeting[SP_GREETING] = {0, 'S', 'P', 0, (uint8_t)(protocol >> 8), (uint8_t)protocol, 0, 0};
    memcpy(to, greeting, SP_GREETING);
}

bool sp_greeting_is(const uint8_t from[SP_GREETING], uint16_t protocol)
{
    uint8_t greeting[SP_GREETING];
    sp_greeting_make(protocol, greeting);
    return memcmp(from, greeting, SP_GREETING) == 0;
}

void sp_length_make(uint64_t size, uint8_t to[SP_LENGTH])
{
    const uint64_t big = htobe64(size);
    memcpy(to, &big, SP_LENGTH);
}

struct sp_in *sp_in_new(uint16_t protocol)
{
    struct sp_in *in = malloc(sizeof(*in)); // the inbox stays as it is: pages that nothing comes into are not touched
    if (!in)
        return NULL;
    in->protocol = protocol;
    in->greeted = in->broken = false;
    in->message = NULL;
    in->size = in->have = in->from = in->to = 0;
    return in;
}

struct sp_in *sp_in_free(struct sp_in *in)
{
    if (in)
        free(in->message);
    free(in);
    return NULL;
}

int sp_room(struct sp_in *in, struct iovec ret_iov[SP_PIECES])
{
    int n = 0;
    if (in->from > 0) { // less than a length, or sp_next() would have taken it
        memmove(in->inbox, in->inbox + in->from, in->to - in->from);
        in->to -= in->from;
        in->from = 0;
    }
    ENSURE(in->to < INBOX && (!in->message || in->to == 0));
    if (in->message)
        ret_iov[n++] = (struct iovec){in->message + in->have, in->size - in->have};
    ret_iov[n++] = (struct iovec){in->inbox + in->to, INBOX - in->to};
    return n;
}

void sp_got(struct sp_in *in, size_t size)
{
    if (in->message) {
        size_t rest = MIN(size, in->size - in->have);
        in->have += rest;
        size -= rest;
    }
    ENSURE(size <= INBOX - in->to);
    in->to += size;
}

static int broken(struct sp_in *in, int r)
{
    in->broken = true;
    return r;
}

static int begin(struct sp_in *in, size_t size_max)
{
    uint64_t size;
    if (!in->greeted) {
        if (in->to - in->from < SP_GREETING)
            return -EAGAIN;
        if (!sp_greeting_is(in->inbox + in->from, in->protocol))
            return broken(in, -EPROTO);
        in->from += SP_GREETING;
        in->greeted = true;
    }
    if (in->to - in->from < SP_LENGTH)
        return -EAGAIN;
    memcpy(&size, in->inbox + in->from, SP_LENGTH);
    size = be64toh(size);
    if (size == 0 || size > size_max)
        return broken(in, -EPROTO);
    in->message = malloc(size);
    if (!in->message)
        return broken(in, -ENOMEM);
    in->from += SP_LENGTH;
    in->size = size;
    in->have = MIN(in->size, in->to - in->from);
    memcpy(in->message, in->inbox + in->from, in->have);
    in->from += in->have;
    return 0;
}

int sp_next(struct sp_in *in, size_t size_max, void **ret_message, size_t *ret_size)
{
    if (in->broken)
        return -EPROTO;
    if (!in->message) {
        int r = begin(in, size_max);
        if (r < 0)
            return r;
    }
    if (in->have < in->size)
        return -EAGAIN;
    *ret_message = TAKE_PTR(in->message);
    *ret_size = in->size;
    return 0;
}
