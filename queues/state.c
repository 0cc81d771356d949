// SPDX-License-Identifier: Apache-2.0
#include "queues/state.h"

#include <string.h>

#include "common/base/bytes.h"

#define STATE_MAGIC   UINT32_C(0x53525355) // "USRS"
#define STATE_VERSION 4

static void put_salvage(struct byte_writer *w, const struct end_state *s)
{
    uint8_t epoch[EPOCH_ENCODED_SIZE] = {0};
    if (s->salvage)
        epoch_encode(&s->salvaged, epoch);
    byte_put_u64(w, s->salvage);
    byte_put_u8(w, s->salvage ? (uint8_t)s->salvage_cause : 0);
    byte_put(w, epoch, sizeof(epoch));
    byte_put_u64(w, s->salvage_whole & s->salvage);
}

static const char *get_salvage(struct byte_reader *r, struct end_state *s)
{
    s->salvage = byte_u64(r);
    unsigned cause = byte_u8(r);
    const void *epoch = byte_take(r, EPOCH_ENCODED_SIZE);
    s->salvage_whole = byte_u64(r);
    if (!epoch)
        return "a state of the wrong length";
    if (s->salvage_whole & ~s->salvage)
        return "a salvage without a volume";
    if (!s->salvage)
        return cause ? "a salvage without a volume" : NULL;
    if (cause == 0 || cause >= SALVAGE_CAUSE_END)
        return "a salvage for an unknown cause";
    s->salvage_cause = (enum salvage_cause)cause;
    return epoch_decode(epoch, EPOCH_ENCODED_SIZE, &s->salvaged);
}

size_t state_encode(const struct end_state *state, void *buffer, size_t limit)
{
    uint8_t history[HISTORY_ENCODED_MAX];
    size_t size = history_encode(&state->history, history);
    struct byte_writer w = byte_writer(buffer, limit);
    byte_put_u32(&w, STATE_MAGIC);
    byte_put_u32(&w, STATE_VERSION);
    byte_put_u8(&w, (uint8_t)state->role);
    byte_put_u8(&w, (uint8_t)state->intent);
    byte_put_u8(&w, state->alone);
    byte_put_u8(&w, state->stopped);
    byte_put_u8(&w, state->clean);
    byte_put_u64(&w, state->bound);
    byte_put_u64(&w, state->position);
    byte_put_u64(&w, state->inconsistent);
    byte_put_u64(&w, state->pending);
    byte_put_u64(&w, state->session);
    byte_put_u64(&w, state->lost);
    byte_put_u64(&w, state->map_void);
    byte_put_u64(&w, state->held);
    byte_put_u64(&w, state->torn);
    byte_put_u64(&w, state->proven.time);
    byte_put_u64(&w, state->proven.epoch);
    byte_put_u64(&w, state->proven.seq);
    byte_put_u32(&w, state->proven.number);
    put_salvage(&w, state);
    byte_put_u32(&w, (uint32_t)size);
    byte_put(&w, history, size);
    return w.bad ? 0 : w.used;
}

const char *state_decode(const void *data, size_t size, struct end_state *ret_state)
{
    struct byte_reader r = byte_reader(data, size);
    struct end_state s;
    memset(&s, 0, sizeof(s));
    if (byte_u32(&r) != STATE_MAGIC)
        return "not a state file";
    if (byte_u32(&r) != STATE_VERSION)
        return "a state file of another version";
    unsigned role = byte_u8(&r), intent = byte_u8(&r);
    s.role = (enum state_role)role;
    s.intent = (enum state_intent)intent;
    s.alone = byte_u8(&r) != 0;
    s.stopped = byte_u8(&r) != 0;
    s.clean = byte_u8(&r) != 0;
    s.bound = byte_u64(&r);
    s.position = byte_u64(&r);
    s.inconsistent = byte_u64(&r);
    s.pending = byte_u64(&r);
    s.session = byte_u64(&r);
    s.lost = byte_u64(&r);
    s.map_void = byte_u64(&r);
    s.held = byte_u64(&r);
    s.torn = byte_u64(&r);
    s.proven.time = byte_u64(&r);
    s.proven.epoch = byte_u64(&r);
    s.proven.seq = byte_u64(&r);
    s.proven.number = byte_u32(&r);
    const char *broken = get_salvage(&r, &s);
    if (broken)
        return broken;
    uint32_t history_size = byte_u32(&r);
    if (role > ROLE_ACTIVE || intent > INTENT_HANDED_OVER)
        return "a role or an intent that does not exist";
    if (history_size > HISTORY_ENCODED_MAX)
        return "a history that is too long";
    const void *history = byte_take(&r, history_size);
    if (!history || r.left)
        return "a state of the wrong length";
    broken = history_decode(history, history_size, &s.history);
    if (broken)
        return broken;
    *ret_state = s;
    return NULL;
}
