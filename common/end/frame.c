// SPDX-License-Identifier: Apache-2.0
#include "common/end/frame.h"

#include <string.h>

#include "common/base/bytes.h"

#define FRAME_MAGIC   UINT32_C(0x46525355) // "USRF"
#define FRAME_VERSION 4

const char *frame_type_name(unsigned type)
{
    static const char *const names[FRAME_TYPE_END] = {
        "?",       "beat",     "meet",   "stream",  "ready",   "drain",
        "drained", "handover", "refuse", "goodbye", "command", "reply",
        "map ask", "map piece", "yield",
    };
    return type < FRAME_TYPE_END ? names[type] : "?";
}

// The bits of struct frame_meet, in the order of the wire.
enum {
    MEET_BIT_PROPOSAL = 0x001,
    MEET_BIT_UNREADABLE = 0x002,
    MEET_BIT_WAS_ACTIVE = 0x004,
    MEET_BIT_SERVING = 0x008,
    MEET_BIT_ALONE = 0x010,
    MEET_BIT_HANDED = 0x020,
    MEET_BIT_STOPPED = 0x040,
    MEET_BIT_HANDS_ROLE = 0x080,
    MEET_BIT_PROMOTABLE = 0x100,
    MEET_BITS = 0x1ff,
};

static uint32_t meet_bits(const struct frame_meet *m)
{
    return (m->proposal ? MEET_BIT_PROPOSAL : 0) | (m->unreadable ? MEET_BIT_UNREADABLE : 0) |
           (m->was_active ? MEET_BIT_WAS_ACTIVE : 0) | (m->serving ? MEET_BIT_SERVING : 0) |
           (m->alone ? MEET_BIT_ALONE : 0) | (m->handed_over ? MEET_BIT_HANDED : 0) |
           (m->stopped ? MEET_BIT_STOPPED : 0) | (m->hands_role ? MEET_BIT_HANDS_ROLE : 0) |
           (m->promotable ? MEET_BIT_PROMOTABLE : 0);
}

static void put_beat(struct byte_writer *w, const struct frame_beat *b)
{
    byte_put_u64(w, b->number);
    byte_put_u64(w, (uint64_t)b->sent_ns);
    byte_put_u64(w, b->echo_number);
    byte_put_u64(w, (uint64_t)b->echo_sent_ns);
    byte_put_u8(w, (uint8_t)b->answer);
    byte_put_u64(w, b->honoured);
    byte_put_u64(w, b->last_session);
    byte_put_u64(w, b->durable);
    byte_put_u64(w, b->applied);
    byte_put_u64(w, b->backlog);
    byte_put_u64(w, b->proven.time);
    byte_put_u64(w, b->proven.epoch);
    byte_put_u64(w, b->proven.seq);
    byte_put_u32(w, b->proven.number);
    byte_put_u64(w, b->behind);
}

static void put_meet(struct byte_writer *w, const struct frame_meet *m)
{
    uint8_t history[HISTORY_ENCODED_MAX];
    size_t size = history_encode(&m->history, history);
    byte_put_u32(w, meet_bits(m));
    byte_put_u64(w, m->held_from);
    byte_put_u64(w, m->position);
    byte_put_u64(w, m->inconsistent);
    byte_put_u64(w, m->pending);
    byte_put_u64(w, m->map_void);
    byte_put_u64(w, m->torn);
    byte_put_u32(w, (uint32_t)size);
    byte_put(w, history, size);
}

static void put_word(struct byte_writer *w, const struct frame *f)
{
    size_t length = strnlen(f->word.text, FRAME_TEXT - 1);
    byte_put_u64(w, f->word.id);
    byte_put_u32(w, f->word.command);
    byte_put_u32(w, f->word.flags);
    byte_put_u32(w, (uint32_t)f->word.status);
    byte_put_u8(w, (uint8_t)length);
    byte_put(w, f->word.text, length);
}

static void put_map(struct byte_writer *w, const struct frame *f)
{
    byte_put_u16(w, f->map.object);
    byte_put_u64(w, f->map.from);
    if (f->type == FRAME_MAP_ASK)
        return;
    byte_put_u64(w, f->map.first);
    byte_put_u64(w, f->map.next);
    byte_put_u32(w, f->map.count);
    byte_put(w, f->map.bits, (f->map.count + 7) / 8);
}

size_t frame_encode(const struct frame *f, void *buffer, size_t limit)
{
    struct byte_writer w = byte_writer(buffer, limit);
    byte_put_u32(&w, FRAME_MAGIC);
    byte_put_u8(&w, FRAME_VERSION);
    byte_put_u8(&w, (uint8_t)f->type);
    byte_put_u16(&w, f->flags);
    byte_put_u64(&w, f->run);
    byte_put_u64(&w, f->to_run);
    byte_put_u64(&w, f->session);
    switch (f->type) {
    case FRAME_BEAT:
        put_beat(&w, &f->beat);
        break;
    case FRAME_MEET:
        put_meet(&w, &f->meet);
        break;
    case FRAME_STREAM:
    case FRAME_READY:
    case FRAME_DRAIN:
    case FRAME_DRAINED:
    case FRAME_HANDOVER:
        byte_put_u64(&w, f->at.seq);
        byte_put_u8(&w, f->at.restart);
        break;
    case FRAME_REFUSE:
    case FRAME_COMMAND:
    case FRAME_REPLY:
        put_word(&w, f);
        break;
    case FRAME_MAP_ASK:
    case FRAME_MAP_PIECE:
        put_map(&w, f);
        break;
    case FRAME_GOODBYE:
    case FRAME_YIELD:
    case FRAME_TYPE_END:
        break;
    }
    return w.bad ? 0 : w.used;
}

static const char *get_beat(struct byte_reader *r, struct frame_beat *b)
{
    b->number = byte_u64(r);
    b->sent_ns = (int64_t)byte_u64(r);
    b->echo_number = byte_u64(r);
    b->echo_sent_ns = (int64_t)byte_u64(r);
    unsigned answer = byte_u8(r);
    b->answer = (enum frame_answer)answer;
    b->honoured = byte_u64(r);
    b->last_session = byte_u64(r);
    b->durable = byte_u64(r);
    b->applied = byte_u64(r);
    b->backlog = byte_u64(r);
    b->proven.time = byte_u64(r);
    b->proven.epoch = byte_u64(r);
    b->proven.seq = byte_u64(r);
    b->proven.number = byte_u32(r);
    b->behind = byte_u64(r);
    if (answer > ANSWER_YES)
        return "a heartbeat with an unknown answer";
    if (b->number == 0)
        return "a heartbeat without a number";
    if (b->last_session > UINT64_MAX / 2)
        return "a session number that cannot be";
    return NULL;
}

static const char *get_meet(struct byte_reader *r, struct frame_meet *m)
{
    uint32_t bits = byte_u32(r);
    if (bits & ~(uint32_t)MEET_BITS)
        return "a meeting with unknown bits";
    m->proposal = bits & MEET_BIT_PROPOSAL;
    m->unreadable = bits & MEET_BIT_UNREADABLE;
    m->was_active = bits & MEET_BIT_WAS_ACTIVE;
    m->serving = bits & MEET_BIT_SERVING;
    m->alone = bits & MEET_BIT_ALONE;
    m->handed_over = bits & MEET_BIT_HANDED;
    m->stopped = bits & MEET_BIT_STOPPED;
    m->hands_role = bits & MEET_BIT_HANDS_ROLE;
    m->promotable = bits & MEET_BIT_PROMOTABLE;
    m->held_from = byte_u64(r);
    m->position = byte_u64(r);
    m->inconsistent = byte_u64(r);
    m->pending = byte_u64(r);
    m->map_void = byte_u64(r);
    m->torn = byte_u64(r);
    uint32_t size = byte_u32(r);
    if (size > HISTORY_ENCODED_MAX)
        return "a history that is too long";
    const void *history = byte_take(r, size);
    if (!history)
        return "a history that is cut off";
    return history_decode(history, size, &m->history);
}

static const char *get_word(struct byte_reader *r, struct frame *f)
{
    f->word.id = byte_u64(r);
    f->word.command = byte_u32(r);
    f->word.flags = byte_u32(r);
    f->word.status = (int32_t)byte_u32(r);
    uint8_t length = byte_u8(r);
    if (length >= FRAME_TEXT)
        return "a text that is too long";
    byte_copy(r, f->word.text, length);
    f->word.text[length] = '\0';
    for (unsigned i = 0; i < length; i++) {
        if ((unsigned char)f->word.text[i] < ' ')
            return "a text with control characters";
    }
    return NULL;
}

static const char *get_map(struct byte_reader *r, struct frame *f)
{
    struct frame_map *m = &f->map;
    m->object = byte_u16(r);
    m->from = byte_u64(r);
    if (m->object >= RECORD_OBJECTS_MAX)
        return "a map of a volume that cannot be";
    if (f->type == FRAME_MAP_ASK)
        return NULL;
    m->first = byte_u64(r);
    m->next = byte_u64(r);
    m->count = byte_u32(r);
    if (m->count > FRAME_MAP_BITS)
        return "a piece of a map that is too long";
    if (m->count > 0 && (m->first < m->from || m->first > INT64_MAX || m->next < m->first + m->count))
        return "a piece of a map that goes backwards";
    if (m->next != FRAME_MAP_NONE && m->next <= m->from)
        return "a piece of a map that leads nowhere";
    byte_copy(r, m->bits, (m->count + 7) / 8);
    return NULL;
}

const char *frame_decode(const void *data, size_t size, struct frame *ret_frame)
{
    struct byte_reader r = byte_reader(data, size);
    if (size > FRAME_MAX)
        return "a frame that is too long";
    if (byte_u32(&r) != FRAME_MAGIC)
        return "not a frame";
    if (byte_u8(&r) != FRAME_VERSION)
        return "a frame of another version";
    unsigned type = byte_u8(&r);
    if (type == 0 || type >= FRAME_TYPE_END)
        return "a frame of an unknown type";
    struct frame f;
    memset(&f, 0, sizeof(f));
    f.type = (enum frame_type)type;
    f.flags = byte_u16(&r);
    f.run = byte_u64(&r);
    f.to_run = byte_u64(&r);
    f.session = byte_u64(&r);
    if (f.run == 0)
        return "a frame without a run";
    if (f.session > UINT64_MAX / 2)
        return "a session number that cannot be";
    const char *broken = NULL;
    if (f.type == FRAME_BEAT) {
        broken = get_beat(&r, &f.beat);
    } else if (f.type == FRAME_MEET) {
        broken = get_meet(&r, &f.meet);
    } else if (f.type >= FRAME_STREAM && f.type <= FRAME_HANDOVER) {
        f.at.seq = byte_u64(&r);
        f.at.restart = byte_u8(&r) != 0;
        if (f.type == FRAME_STREAM && f.at.seq == 0)
            broken = "a stream from nowhere";
    } else if (f.type == FRAME_MAP_ASK || f.type == FRAME_MAP_PIECE) {
        broken = get_map(&r, &f);
    } else if (f.type != FRAME_GOODBYE && f.type != FRAME_YIELD) {
        broken = get_word(&r, &f);
    }
    if (broken)
        return broken;
    if (r.bad)
        return "a frame that is cut off";
    if (r.left)
        return "a frame with something behind its end";
    *ret_frame = f;
    return NULL;
}
