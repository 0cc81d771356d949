// SPDX-License-Identifier: Apache-2.0
// Sessions of a link: handshakes that make them, sealing and opening of messages. See link.h.
//
// A stranger who can reach the port may start handshakes; each costs a key exchange, so only
// ATTEMPTS_PER_WINDOW are begun in a second for each link, and at most LINK_ATTEMPTS are kept.
#include "common/channel/link_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/random.h"

#define ATTEMPTS_PER_WINDOW 20
#define ATTEMPT_WINDOW_NS   NS_PER_S
#define ATTEMPT_LIFE_NS     (6 * NS_PER_S)

struct session *session_free(struct session *session)
{
    if (session)
        seal_free(session->seal);
    free(session);
    return NULL;
}

struct session *session_in_use(const struct link *l)
{
    if (l->current && l->current->accepted)
        return l->current;
    return l->previous && l->previous->accepted ? l->previous : NULL;
}

static struct session *session_find(const struct link *l, uint64_t nonce)
{
    if (l->current && l->current->nonce == nonce)
        return l->current;
    return l->previous && l->previous->nonce == nonce ? l->previous : NULL;
}

bool link_knows(const struct link *l, uint64_t nonce)
{
    return session_find(l, nonce) != NULL;
}

// --- sending ---

static void header_make(const struct link *l, struct frame_header *to, enum frame_kind kind,
                        uint64_t nonce, uint64_t counter, size_t size)
{
    const struct frame frame = {
        .kind = kind,
        .side = l->side,
        .path = l->path,
        .from_initiator = link_initiates(l),
        .nonce = nonce,
        .counter = counter,
        .size = (uint32_t)size,
    };
    frame_fill(to, &frame);
}

int session_send_clear(struct link *l, enum frame_kind kind, uint64_t nonce, const void *body,
                       size_t size)
{
    uint8_t *message = l->push ? l->transport->push_room(l->push, sizeof(struct frame_header) + size) : NULL;
    if (!message)
        return -EAGAIN;
    struct frame_header header;
    header_make(l, &header, kind, nonce, 0, size);
    memcpy(message, &header, sizeof(header));
    if (size > 0)
        memcpy(message + sizeof(header), body, size);
    return l->transport->push_send(l->push, message, sizeof(header) + size);
}

static int seal_message(struct link *l, struct session *session, enum frame_type type,
                        const struct iovec *iov, int n, size_t size, uint8_t *message)
{
    struct frame_header *header = (struct frame_header *)message;
    const bool user = type == FRAME_USER;
    struct frame_inner inner = {
        .type = (uint8_t)type,
        .flags = l->unread ? FRAME_UNREAD : 0,
        .heard = le64_make(session->heard),
        .number = le64_make(l->number_sent + user),
    };
    struct iovec all[CHANNEL_IOV_MAX + 1];
    all[0] = (struct iovec){&inner, sizeof(inner)};
    if (n > 0)
        memcpy(all + 1, iov, (size_t)n * sizeof(*iov));
    session->sent++;
    header_make(l, header, FRAME_SEALED, session->nonce, session->sent,
                sizeof(inner) + size + SEAL_OVERHEAD);
    return seal_close(session->seal, session->sent, header, sizeof(*header), all, n + 1,
                      message + sizeof(*header));
}

static void count_sent(struct link *l, struct session *session, enum frame_type type, size_t size, int64_t now)
{
    l->number_sent += type == FRAME_USER;
    l->sent_ns = now;
    l->messages_out++;
    l->bytes_out += FRAME_OVERHEAD + size;
    session->bytes += size;
}

int session_send_soon(struct link *l, struct session *session, const struct iovec *iov, size_t size, int64_t now)
{
    uint8_t *message = bundle_room(l, session->home, FRAME_OVERHEAD + size);
    if (!message)
        return -ENOMEM;
    int r = seal_message(l, session, FRAME_USER, iov, 1, size, message);
    if (r < 0)
        return r;
    bundle_add(l, session->slot, FRAME_OVERHEAD + size);
    count_sent(l, session, FRAME_USER, size, now);
    return 0;
}

int session_send(struct link *l, struct session *session, enum frame_type type,
                 const struct iovec *iov, int n, size_t size, int64_t now)
{
    if (!l->push)
        return -EAGAIN;
    bundle_send_own(l, now);
    uint8_t *message = l->transport->push_room(l->push, FRAME_OVERHEAD + size);
    if (!message)
        return -EAGAIN;
    int r = seal_message(l, session, type, iov, n, size, message);
    if (r < 0) {
        l->transport->push_drop(l->push, message);
        return r;
    }
    r = l->transport->push_send(l->push, message, FRAME_OVERHEAD + size);
    if (r < 0)
        return r;
    count_sent(l, session, type, size, now);
    l->introduced |= session == session_in_use(l);
    l->direct_ns = now;
    if (session->probe == 0) {
        session->probe_ns = now;
        session->probe = session->sent;
    }
    return 0;
}

// --- receiving ---

// Notes which of the user's messages are missing in front of this one.
static void count_numbers(struct link *l, enum frame_type type, uint64_t number)
{
    const uint64_t expected = l->number_received + (type == FRAME_USER);
    if (number > expected || (type == FRAME_USER && number != expected))
        l->losses++;
    if (number > l->number_received)
        l->number_received = number;
}

static const char *inner_parse(const uint8_t *data, size_t size, struct frame_inner *ret_inner)
{
    static const uint8_t zero[6];
    memcpy(ret_inner, data, sizeof(*ret_inner)); // frame_parse() has seen that there are so many
    if (ret_inner->type == 0 || ret_inner->type >= FRAME_TYPE_END)
        return "an unknown type of message";
    if (ret_inner->flags & ~FRAME_UNREAD)
        return "an unknown flag";
    if (memcmp(ret_inner->reserved, zero, sizeof(zero)) != 0 || le64_get(ret_inner->reserved2) != 0)
        return "reserved bytes that are not zero";
    return NULL;
}

static void session_heard(struct link *l, struct session *session, const struct frame *frame,
                          const struct frame_inner *inner, bool direct, int64_t now)
{
    atomic_store_explicit(&session->received, frame->counter, memory_order_relaxed);
    if (direct)
        atomic_store_explicit(&session->heard, frame->counter, memory_order_relaxed);
    atomic_store_explicit(&l->heard_ns, now, memory_order_relaxed);
    atomic_fetch_add_explicit(&l->messages_in, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&l->bytes_in, sizeof(struct frame_header) + frame->size,
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&session->bytes, frame->size, memory_order_relaxed);
    uint64_t probe = session->probe;
    if (probe != 0 && (le64_get(inner->heard) >= probe || inner->flags & FRAME_UNREAD))
        session->probe = 0;
}

int link_open(struct link *l, const struct frame *frame, uint8_t *message, bool direct, int64_t now,
              struct opened *ret_opened, const char **ret_why)
{
    struct frame_inner inner;
    struct session *session = session_find(l, frame->nonce);
    uint8_t *body = message + sizeof(struct frame_header);
    if (!session)
        return -ENOENT;
    // What goes in bundles over others' connections may overtake what goes over its own: that is not worth a word.
    *ret_why = session->home ? NULL : "a replayed or overtaken message";
    if (frame->counter <= session->received)
        return -EBADMSG;
    *ret_why = "a damaged or forged message";
    if (frame->from_initiator == link_initiates(l) ||
        seal_open(session->seal, frame->counter, message, sizeof(struct frame_header), body,
                  frame->size) < 0)
        return -EBADMSG;
    *ret_why = inner_parse(body, frame->size, &inner);
    if (*ret_why)
        return -EBADMSG;
    session_heard(l, session, frame, &inner, direct, now);
    *ret_why = "a message before the hello";
    if (inner.type != FRAME_HELLO && !session->accepted)
        return -EBADMSG;
    if (session->accepted)
        count_numbers(l, inner.type, le64_get(inner.number));
    *ret_opened = (struct opened){
        .session = session,
        .type = inner.type,
        .number = le64_get(inner.number),
        .data = body + sizeof(inner),
        .size = frame->size - sizeof(inner) - SEAL_OVERHEAD,
    };
    return 0;
}

// --- handshakes ---

static void attempt_clear(struct attempt *a)
{
    a->seal = seal_free(a->seal);
    *a = (struct attempt){0};
}

void attempts_expire(struct link *l, int64_t now)
{
    for (size_t i = 0; i < LINK_ATTEMPTS; i++)
        if (l->attempts[i].nonce && now - l->attempts[i].started_ns > ATTEMPT_LIFE_NS)
            attempt_clear(&l->attempts[i]);
}

void attempts_clear(struct link *l)
{
    for (size_t i = 0; i < LINK_ATTEMPTS; i++)
        attempt_clear(&l->attempts[i]);
}

static struct attempt *attempt_find(struct link *l, uint64_t nonce)
{
    for (size_t i = 0; i < LINK_ATTEMPTS; i++)
        if (l->attempts[i].nonce == nonce)
            return &l->attempts[i];
    return NULL;
}

// A free place, or that of the oldest attempt.
static struct attempt *attempt_place(struct link *l)
{
    struct attempt *oldest = &l->attempts[0];
    for (size_t i = 0; i < LINK_ATTEMPTS; i++) {
        if (l->attempts[i].nonce == 0)
            return &l->attempts[i];
        if (l->attempts[i].started_ns < oldest->started_ns)
            oldest = &l->attempts[i];
    }
    attempt_clear(oldest);
    return oldest;
}

// What the keys are bound to, so that a handshake cannot be led to another link.
static int attempt_begin(struct link *l, uint64_t nonce, int64_t now, struct attempt **ret_attempt,
                         struct error *err)
{
    uint8_t context[32];
    struct byte_writer w = byte_writer(context, sizeof(context));
    byte_put_u32(&w, FRAME_MAGIC);
    byte_put_u8(&w, FRAME_VERSION);
    byte_put_u8(&w, (uint8_t)l->side);
    byte_put_u8(&w, (uint8_t)l->path);
    byte_put_u64(&w, nonce);
    ENSURE(!w.bad);
    struct seal *seal = NULL;
    int r = seal_new(l->settings->key, link_initiates(l), context, w.used, &seal, err);
    if (r < 0)
        return r;
    struct attempt *a = attempt_place(l);
    *a = (struct attempt){.nonce = nonce, .seal = seal, .started_ns = now};
    *ret_attempt = a;
    return 0;
}

static void establish(struct link *l, struct attempt *a, int64_t now)
{
    struct session *session = calloc(1, sizeof(*session));
    if (!session)
        return; // the attempt expires, another one follows
    session->nonce = a->nonce;
    session->seal = TAKE_PTR(a->seal);
    attempt_clear(a);
    if (link_initiates(l))
        attempts_clear(l);
    if (l->current && l->current->accepted) {
        session_free(l->previous);
        l->previous = l->current;
    } else {
        session_free(l->current);
    }
    l->current = session;
    link_established(l, now);
}

// One step of a handshake: with the peer's message, or (NULL) the first one.
static void attempt_step(struct link *l, struct attempt *a, const void *in, size_t size,
                         int64_t now)
{
    uint8_t out[SEAL_HANDSHAKE_MAX];
    size_t out_size = 0;
    struct error err = {0};
    int r = seal_step(a->seal, in, size, out, &out_size, &err);
    if (out_size > 0)
        (void)session_send_clear(l, FRAME_HANDSHAKE, a->nonce, out, out_size);
    if (r > 0)
        establish(l, a, now);
    if (r < 0) {
        attempt_clear(a);
        link_refused(l, !link_initiates(l), err.text, now);
    }
}

void attempt_start(struct link *l, int64_t now)
{
    struct error err = {0};
    struct attempt *a = NULL;
    l->attempt_last_ns = now;
    if (attempt_begin(l, random_id(), now, &a, &err) < 0)
        said_note(&l->trouble, now, err.text);
    else
        attempt_step(l, a, NULL, 0, now);
}

static bool window_open(struct link *l, int64_t now)
{
    if (now - l->window_ns > ATTEMPT_WINDOW_NS) {
        l->window_ns = now;
        l->window_count = 0;
    }
    return l->window_count++ < ATTEMPTS_PER_WINDOW;
}

void link_on_handshake(struct link *l, const struct frame *frame, const void *body, int64_t now)
{
    struct error err = {0};
    struct attempt *a = attempt_find(l, frame->nonce);
    if (frame->from_initiator == link_initiates(l)) {
        link_refused(l, true,
                     link_initiates(l) ? "the peer says that it is a Primary, too"
                                       : "the peer says that it is a Secondary, too",
                     now);
        return;
    }
    link_hasten(l, now);
    if (!a && (link_initiates(l) || session_find(l, frame->nonce)))
        return; // of an attempt that is over
    if (!a && !window_open(l, now)) {
        link_dropped(l, "too many handshakes in a second", now);
        return;
    }
    if (!a && attempt_begin(l, frame->nonce, now, &a, &err) < 0) {
        said_note(&l->trouble, now, err.text);
        return;
    }
    attempt_step(l, a, body, frame->size, now);
}
