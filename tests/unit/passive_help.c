// SPDX-License-Identifier: Apache-2.0
#include "passive_help.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/checksum.h"
#include "common/base/error.h"

#define PAYLOAD_ROOM 65536U

uint64_t help_random(uint64_t *seed, uint64_t below)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return (*seed >> 11) % below;
}

void *message_make(const struct message_spec *spec, size_t *ret_size)
{
    size_t table = sizeof(struct batch) + spec->count * sizeof(struct record);
    uint8_t *data = calloc(1, table + spec->count * (size_t)PAYLOAD_ROOM);
    struct batch *b = (struct batch *)data;
    struct record *records = (struct record *)(b + 1);
    size_t used = 0;

    ENSURE(data);
    for (uint32_t i = 0; i < spec->count; i++) {
        struct record *r = &records[i];
        r->seq = le64_make(spec->first_seq + i);
        r->epoch = le64_make(spec->epoch);
        r->time = le64_make(1000 + spec->first_seq + i);
        spec->fill(spec->arg, spec->first_seq + i, r, data + table + used, PAYLOAD_ROOM);
        size_t payload = le32_get(r->payload);
        if (payload)
            r->payload_sum = le64_make(checksum64(data + table + used, payload));
        record_seal(r);
        used += payload;
    }
    b->session = le64_make(spec->session);
    b->first_seq = le64_make(spec->first_seq);
    b->count = le32_make(spec->count);
    b->bytes = le32_make((uint32_t)used);
    b->promised = le64_make(spec->promised);
    b->barrier = le64_make(spec->barrier);
    b->flags = le16_make(spec->barrier ? BATCH_BARRIER : 0);
    batch_seal(b, records);
    ENSURE(!batch_invalid(data, table + used));
    *ret_size = table + used;
    return realloc(data, table + used);
}
