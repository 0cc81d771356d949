// SPDX-License-Identifier: Apache-2.0
// A cursor over the numbered records, and go-back-N: what is lost on the way is sent again from
// received + 1, in order.
//
// Invariants:
//   1. durable <= received <= sent <= numbered and received < cursor <= sent + 1; what is released
//      is durable;
//   2. a batch begins at the cursor, and the cursor moves on only when it was sent;
//   3. positions only rise within a session, and never beyond what can have been sent;
//   4. a barrier that is wanted is asked for again until the peer has answered it, each time with
//      a new number.
//
// When is a batch due? When a full one is waiting; when a barrier is wanted; when what waits has
// lingered long enough, or its caller says so. Nothing is due while the peer's safe queue is full, but for one try in a
// while.
#include "queues/sender.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"

struct sender {
    struct unsafe *unsafe;
    unsigned reader;
    struct sender_config config;
    bool running;
    bool failed; // the peer has said that it cannot go on
    bool full;   // its safe queue, as far as is known
    bool tries;  // one batch goes all the same
    uint64_t session;

    uint64_t cursor; // the next seq to send
    uint64_t withheld; // what is not sent yet begins here; UINT64_MAX: nothing
    uint64_t sent;   // the highest seq that was ever sent in this session
    uint64_t before; // the last seq numbered when it began: earlier sessions may have brought as
                     // much to the peer
    struct positions at;

    bool barrier_wanted; // a batch that reaches barrier_seq must carry one
    uint64_t barrier_seq;
    uint64_t barrier_number; // of the last one that was sent
    uint64_t barrier_done;
    uint64_t barrier_covers; // the last seq in front of it

    uint64_t hastened;     // up to here nothing lingers
    int64_t waiting_since; // of the oldest record that was not sent; INT64_MAX where there is none
    int64_t progress_at;   // the last send or acknowledgement that moved something
    int64_t went_back_at;  // the last time that something was sent again,
    uint64_t went_back_to; // from where
    uint64_t counted_to;   // [cursor, counted_to) was counted:
    uint64_t counted_bytes;
    int64_t deadline;

    bool message_out; // between sender_next() and sent/blocked
    uint64_t message_end;
    struct batch batch;
    struct iovec iov[2 + SENDER_RECORDS_MAX];
};

struct sender *sender_new(struct unsafe *unsafe, unsigned reader,
                          const struct sender_config *config)
{
    struct sender *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->unsafe = unsafe;
    s->reader = reader;
    if (config)
        s->config = *config;
    if (s->config.linger_ns == 0)
        s->config.linger_ns = SENDER_LINGER_NS;
    if (s->config.silence_ns == 0)
        s->config.silence_ns = SENDER_SILENCE_NS;
    s->deadline = INT64_MAX;
    s->withheld = UINT64_MAX;
    return s;
}

struct sender *sender_free(struct sender *s)
{
    free(s);
    return NULL;
}

// ---- Sessions ----

static void move_cursor(struct sender *s, uint64_t seq)
{
    s->cursor = s->counted_to = seq;
    s->counted_bytes = 0;
    s->waiting_since = INT64_MAX;
}

void sender_start(struct sender *s, uint64_t session, uint64_t from, int64_t now_ns)
{
    ENSURE(unsafe_attached(s->unsafe, s->reader));
    ENSURE(from >= unsafe_released(s->unsafe, s->reader));
    ENSURE(from <= unsafe_last(s->unsafe, s->reader));
    unsafe_release(s->unsafe, s->reader, from);
    s->running = true;
    s->failed = s->full = s->tries = s->message_out = false;
    s->session = session;
    s->sent = from;
    s->before = unsafe_last(s->unsafe, s->reader);
    s->at = (struct positions){.received = from, .durable = from};
    s->barrier_number = s->barrier_done = s->barrier_covers = s->hastened = 0;
    s->progress_at = now_ns;
    s->went_back_at = INT64_MIN;
    s->deadline = INT64_MAX;
    move_cursor(s, from + 1);
    // Somebody may be waiting since the last session.
    s->barrier_wanted = true;
    s->barrier_seq = s->before;
}

void sender_stop(struct sender *s)
{
    s->running = s->message_out = false;
    s->deadline = INT64_MAX;
}

bool sender_running(const struct sender *s)
{
    return s->running && !s->failed;
}

void sender_withhold(struct sender *s, uint64_t seq)
{
    s->withheld = seq;
}

// ---- Haste ----

void sender_hasten(struct sender *s)
{
    s->hastened = unsafe_last(s->unsafe, s->reader);
}

// ---- Barriers ----

uint64_t sender_barrier(struct sender *s)
{
    uint64_t numbered = unsafe_last(s->unsafe, s->reader);
    // One that is on its way and has everything in front of it will do.
    if (!s->barrier_wanted && s->barrier_number > s->barrier_done && s->barrier_covers >= numbered)
        return s->barrier_number;
    s->barrier_wanted = true;
    s->barrier_seq = numbered;
    return s->barrier_number + 1;
}

uint64_t sender_barrier_done(const struct sender *s)
{
    return s->barrier_done;
}

// ---- Sending ----

static bool outstanding(const struct sender *s)
{
    return s->at.received < s->sent || s->barrier_done < s->barrier_number;
}

// Everything has arrived, but what became of it may have been said into a cut: that it is durable, or that it is applied, which
// the end of a resync waits for. Where the peer takes its time, this asks once in a while.
static bool untold(const struct sender *s)
{
    return !outstanding(s) && s->at.applied < s->sent;
}

static void go_back(struct sender *s, int64_t now_ns)
{
    move_cursor(s, s->at.received + 1);
    s->went_back_at = s->progress_at = now_ns;
    s->went_back_to = s->cursor;
    if (s->barrier_done < s->barrier_number) {
        s->barrier_wanted = true;
        s->barrier_seq = MAX(s->barrier_seq, s->sent);
    }
}

// Counts on over what was numbered since, up to a full batch: each record is looked at once.
static bool count_full(struct sender *s, uint64_t numbered)
{
    uint64_t most = s->cursor;
    if (s->cursor <= numbered)
        most += MIN(SENDER_RECORDS_MAX, unsafe_table_run(s->unsafe, s->cursor));
    most = MIN(most, MAX(s->withheld, s->cursor));
    // What was counted may have been spilled since: then it lies in other pieces.
    if (s->counted_to > most) {
        s->counted_to = s->cursor;
        s->counted_bytes = 0;
    }
    while (s->counted_to <= numbered && s->counted_to < most &&
           s->counted_bytes < BATCH_BYTES_TARGET) {
        s->counted_bytes += le32_get(unsafe_record(s->unsafe, s->counted_to)->payload);
        s->counted_to++;
    }
    return s->counted_bytes >= BATCH_BYTES_TARGET ||
           (s->counted_to == most && s->counted_to > s->cursor);
}

// Whether a batch of what was counted goes now; sets the deadline if not.
static bool is_due(struct sender *s, uint64_t numbered, int64_t now_ns)
{
    bool full = count_full(s, numbered);
    if (s->full && !s->tries && now_ns < s->progress_at + s->config.silence_ns) {
        s->deadline = s->progress_at + s->config.silence_ns;
        return false;
    }
    bool awaited = s->counted_to == s->cursor && s->cursor <= numbered; // it is being read back, or withheld
    if (!awaited && (full || s->barrier_wanted))
        return true;
    if (s->counted_to > s->cursor) {
        s->waiting_since = MIN(s->waiting_since, now_ns);
        if (s->cursor <= s->hastened || now_ns >= s->waiting_since + s->config.linger_ns)
            return true;
        s->deadline = s->waiting_since + s->config.linger_ns;
    }
    if (outstanding(s) || untold(s))
        s->deadline = MIN(s->deadline, s->progress_at + s->config.silence_ns);
    return false;
}

static void build(struct sender *s, struct sender_message *message)
{
    uint32_t count = (uint32_t)(s->counted_to - s->cursor);
    const struct record *records = count > 0 ? unsafe_record(s->unsafe, s->cursor) : NULL;
    bool barrier = s->barrier_wanted && s->counted_to > s->barrier_seq;
    ENSURE(count > 0 || barrier);
    s->batch = (struct batch){
        .flags = le16_make(barrier ? BATCH_BARRIER : 0),
        .session = le64_make(s->session),
        .first_seq = le64_make(s->cursor),
        .count = le32_make(count),
        .bytes = le32_make((uint32_t)s->counted_bytes),
        .promised = le64_make(s->at.durable),
        .barrier = le64_make(barrier ? s->barrier_number + 1 : 0),
    };
    batch_seal(&s->batch, records);
    int n = 0;
    s->iov[n++] = (struct iovec){&s->batch, sizeof(s->batch)};
    if (count > 0)
        s->iov[n++] = (struct iovec){(void *)records, count * sizeof(*records)};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t bytes = le32_get(records[i].payload);
        if (bytes > 0)
            s->iov[n++] = (struct iovec){(void *)unsafe_payload(s->unsafe, s->cursor + i), bytes};
    }
    s->message_end = s->counted_to;
    *message = (struct sender_message){
        .iov = s->iov,
        .iov_count = n,
        .bytes = sizeof(s->batch) + count * sizeof(*records) + s->counted_bytes,
        .first_seq = s->cursor,
        .records = count,
        .barrier = barrier,
    };
}

bool sender_next(struct sender *s, int64_t now_ns, struct sender_message *ret_message)
{
    s->message_out = false;
    s->deadline = INT64_MAX;
    if (!sender_running(s))
        return false;
    if (outstanding(s) && now_ns >= s->progress_at + s->config.silence_ns) {
        go_back(s, now_ns);
        s->tries = true; // there may be room, and the word of it was lost
    }
    if (untold(s) && now_ns >= s->progress_at + s->config.silence_ns)
        (void)sender_barrier(s); // its answer says everything
    if (!is_due(s, unsafe_last(s->unsafe, s->reader), now_ns))
        return false;
    build(s, ret_message);
    s->message_out = true;
    return true;
}

void sender_sent(struct sender *s, int64_t now_ns)
{
    ENSURE(s->message_out);
    s->message_out = false;
    if (!outstanding(s) || s->full)
        s->progress_at = now_ns;
    s->tries = false;
    if (le64_get(s->batch.barrier) != 0) {
        s->barrier_number = le64_get(s->batch.barrier);
        s->barrier_covers = s->message_end - 1;
        s->barrier_wanted = false;
    }
    s->sent = MAX(s->sent, s->message_end - 1);
    move_cursor(s, s->message_end);
}

void sender_blocked(struct sender *s)
{
    ENSURE(s->message_out);
    s->message_out = false;
}

int64_t sender_deadline(const struct sender *s)
{
    return s->deadline;
}

int64_t sender_awaits_ns(const struct sender *s)
{
    return outstanding(s) ? s->progress_at : INT64_MAX;
}

uint64_t sender_pending(const struct sender *s)
{
    return s->counted_bytes;
}

void sender_rewind(struct sender *s, int64_t now_ns)
{
    if (!sender_running(s))
        return;
    s->tries = true;
    if (outstanding(s))
        go_back(s, now_ns);
    else if (s->at.applied < s->sent)
        (void)sender_barrier(s); // what was said meanwhile may be lost: its answer says everything
}

// ---- Acknowledgements ----

static bool says_less(const struct sender *s, const struct batch_ack *ack)
{
    return le64_get(ack->received) < s->at.received || le64_get(ack->durable) < s->at.durable ||
           le64_get(ack->applied) < s->at.applied || le64_get(ack->settled) < s->at.settled ||
           le64_get(ack->barrier) < s->barrier_done;
}

static bool says_more(const struct sender *s, const struct batch_ack *ack)
{
    return le64_get(ack->received) > s->at.received || le64_get(ack->durable) > s->at.durable ||
           le64_get(ack->applied) > s->at.applied || le64_get(ack->settled) > s->at.settled ||
           le64_get(ack->barrier) > s->barrier_done;
}

// 0: new or a repetition; 1: an old one that came late; -EPROTO.
static int ack_check(const struct sender *s, const struct batch_ack *ack, struct error *err)
{
    if (le64_get(ack->received) > MAX(s->sent, s->before))
        return error_set(err, -EPROTO,
                         "acknowledgement: the peer claims to have received seq %llu, but %llu "
                         "was the last one sent",
                         (unsigned long long)le64_get(ack->received),
                         (unsigned long long)MAX(s->sent, s->before));
    if (le64_get(ack->barrier) > s->barrier_number)
        return error_set(
            err, -EPROTO, "acknowledgement: of barrier %llu, but %llu was the last one sent",
            (unsigned long long)le64_get(ack->barrier), (unsigned long long)s->barrier_number);
    if (!says_less(s, ack))
        return 0;
    if (says_more(s, ack))
        return error_set(err, -EPROTO, "acknowledgement: a position moves backwards");
    return 1;
}

static void take_positions(struct sender *s, const struct batch_ack *ack, int64_t now_ns)
{
    if (says_more(s, ack))
        s->progress_at = now_ns;
    s->at.received = le64_get(ack->received);
    s->at.durable = le64_get(ack->durable);
    s->at.applied = le64_get(ack->applied);
    s->at.settled = le64_get(ack->settled);
    s->barrier_done = le64_get(ack->barrier);
    s->sent = MAX(s->sent, s->at.received);
    unsafe_release(s->unsafe, s->reader, s->at.durable);
    // After going back, what was on its way all the same need not be sent a second time.
    if (s->cursor <= s->at.received)
        move_cursor(s, s->at.received + 1);
}

// Every batch behind a lost one makes the peer ask for the lost one: going back once is enough,
// unless that is lost, too.
static void take_resend(struct sender *s, int64_t now_ns)
{
    bool again = s->went_back_to == s->at.received + 1 && s->went_back_at != INT64_MIN &&
                 now_ns < s->went_back_at + s->config.silence_ns / 4;
    if (outstanding(s) && !again)
        go_back(s, now_ns);
}

int sender_ack(struct sender *s, const void *message, size_t size, int64_t now_ns,
               struct error *err)
{
    struct batch_ack ack;
    const char *reason = batch_ack_invalid(message, size);
    if (reason)
        return error_set(err, -EPROTO, "%s", reason);
    memcpy(&ack, message, sizeof(ack));
    if (!s->running || le64_get(ack.session) != s->session)
        return error_set(err, -ESTALE, "acknowledgement: of another session");
    int r = ack_check(s, &ack, err);
    if (r != 0)
        return r < 0 ? r : 0;
    unsigned flags = le16_get(ack.flags);
    take_positions(s, &ack, now_ns);
    // While it is full it asks for what was refused when there may be room: that is a reason to try at once.
    s->full = (flags & ACK_FULL) && !(flags & ACK_RESEND);
    if (flags & ACK_FAILED) {
        s->failed = true;
        return error_sys(err, -EIO, "the peer cannot go on (its error %u)", le32_get(ack.error));
    }
    if (flags & ACK_RESEND)
        take_resend(s, now_ns);
    return 0;
}

bool sender_peer_full(const struct sender *s)
{
    return s->full;
}

void sender_positions(const struct sender *s, struct positions *ret_positions)
{
    *ret_positions = s->at;
    ret_positions->numbered = unsafe_numbered(s->unsafe);
}
