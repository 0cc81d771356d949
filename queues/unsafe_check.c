// SPDX-License-Identifier: Apache-2.0
// Believing what is in the file of an unsafe queue that a predecessor left: every rule that its bytes must keep, and
// where it is broken. An opening takes the first broken rule for all; fsck wants each.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "queues/unsafe_file.h"
#include "queues/unsafe_inspect.h"

#define PROGRESS_STEP 64 // records

// Where broken rules are told.
struct judge {
    const struct unsafe_file *file;
    void (*found)(void *arg, uint64_t offset, const char *what);
    void (*progress)(void *arg, uint64_t done, uint64_t total); // may be NULL
    void *arg;
};

static void tell(const struct judge *j, const void *at, const char *what)
{
    j->found(j->arg, (uint64_t)((const uint8_t *)at - j->file->base), what);
}

// ---- What the positions are, whatever a crash has left of them ----

static bool record_is(const struct unsafe_file *file, uint64_t seq)
{
    const struct record *record = &file->record[seq % file->records];
    return !record_invalid(record) && le64_get(record->seq) == seq;
}

// The last seq. UINT64_MAX: it cannot be told.
static uint64_t find_numbered(const struct unsafe_file *file)
{
    uint64_t numbered = atomic_load(&file->state->numbered);
    uint64_t other = ~atomic_load(&file->state->numbered_not);
    if (numbered == other)
        return numbered;
    // The record was complete, and counts, when the complement had been stored.
    return other == numbered + 1 && record_is(file, other) ? other : UINT64_MAX;
}

static uint64_t find_bound(const struct unsafe_file *file)
{
    return MIN(file->state->bound, ~file->state->bound_not);
}

// *ret_epoch; false: it cannot be told.
static bool find_epoch(const struct unsafe_file *file, uint64_t numbered, uint64_t *ret_epoch)
{
    uint64_t epoch = file->state->epoch, other = ~file->state->epoch_not;
    if (epoch != other && (numbered == file->super->start || !record_is(file, numbered)))
        return false;
    uint64_t last = epoch == other ? epoch : le64_get(file->record[numbered % file->records].epoch);
    *ret_epoch = last;
    return last == epoch || last == other;
}

bool unsafe_file_opening(const struct unsafe_file *file, struct epoch *ret_opening)
{
    const struct unsafe_state *state = file->state;
    struct epoch opening;
    if (!checksum_same(state->opening_sum, checksum64(state->opening, sizeof(state->opening))) ||
        epoch_decode(state->opening, sizeof(state->opening), &opening) || opening.id != state->epoch)
        return false;
    *ret_opening = opening;
    return true;
}

static uint64_t floor_of(const struct unsafe_file *file, uint64_t numbered)
{
    uint64_t floor = numbered;
    for (int i = 0; i < UNSAFE_READERS_MAX; i++) {
        struct unsafe_reader *reader = &file->state->readers[i];
        if (atomic_load_explicit(&reader->attached, memory_order_relaxed) != READER_ATTACHED)
            continue;
        uint64_t released = atomic_load_explicit(&reader->released, memory_order_acquire);
        floor = MIN(floor, released);
    }
    return floor;
}

uint64_t unsafe_file_floor(const struct unsafe_file *file)
{
    return floor_of(file, atomic_load_explicit(&file->state->numbered, memory_order_relaxed));
}

static uint64_t base_of(const struct unsafe_file *file, uint64_t numbered)
{
    uint64_t spilled = atomic_load_explicit(&file->state->spilled, memory_order_relaxed);
    uint64_t base = numbered;
    for (int i = 0; i < UNSAFE_READERS_MAX; i++) {
        struct unsafe_reader *reader = &file->state->readers[i];
        if (atomic_load_explicit(&reader->attached, memory_order_relaxed) != READER_ATTACHED)
            continue;
        uint64_t end = atomic_load_explicit(&reader->end, memory_order_relaxed);
        uint64_t released = atomic_load_explicit(&reader->released, memory_order_acquire);
        uint64_t has = MAX(released, spilled);
        if (end == 0 || has < end)
            base = MIN(base, has);
    }
    return base;
}

uint64_t unsafe_file_base(const struct unsafe_file *file)
{
    return base_of(file, atomic_load_explicit(&file->state->numbered, memory_order_relaxed));
}

// ---- Rules ----

static bool reader_valid(const struct unsafe_file *file, const struct unsafe_reader *reader, uint64_t numbered)
{
    uint64_t released = atomic_load(&reader->released), end = atomic_load(&reader->end);
    return atomic_load(&reader->attached) == READER_DETACHED ||
           (released <= (end ? end : numbered) && end <= numbered && released >= file->super->start);
}

// Positions first: where they are wrong, nothing says which records there should be.
static bool judge_state(const struct judge *j)
{
    struct unsafe_state *state = j->file->state;
    uint64_t numbered = find_numbered(j->file), bound = find_bound(j->file), epoch;
    bool right = false;
    if (numbered == UINT64_MAX)
        tell(j, &state->numbered, "its last seq does not match its complement");
    else if (bound > INT64_MAX)
        tell(j, &state->bound, "impossible bound of its seqs");
    else if (numbered < j->file->super->start || numbered > bound)
        tell(j, &state->numbered, "its last seq lies outside of its bounds");
    else if (!find_epoch(j->file, numbered, &epoch))
        tell(j, &state->epoch, "its epoch does not match its complement");
    else
        right = true;
    for (int i = 0; i < UNSAFE_READERS_MAX; i++) {
        const struct unsafe_reader *reader = &state->readers[i];
        uint32_t attached = atomic_load(&reader->attached);
        if (attached != READER_DETACHED && attached != READER_ATTACHED)
            tell(j, &reader->attached, "a reader is neither attached nor detached");
        else if (right && !reader_valid(j->file, reader, numbered))
            tell(j, &reader->released, "a reader's position is impossible");
        else
            continue;
        right = false;
    }
    uint64_t spilled = atomic_load(&state->spilled);
    if (right && (spilled < j->file->super->start || spilled > numbered)) {
        tell(j, &state->spilled, "the seq up to which it lies on disk is impossible");
        right = false;
    }
    if (right && numbered - base_of(j->file, numbered) > j->file->records) {
        tell(j, &state->spilled, "its readers need more records from memory than there can be");
        right = false;
    }
    return right;
}

// The record of the next seq may be there, complete but not counted; one behind that cannot be.
static bool counts_too_few(const struct unsafe_file *file, uint64_t numbered)
{
    return record_is(file, numbered + 2);
}

static const char *place_invalid(const struct unsafe_file *file, uint64_t position, uint32_t bytes)
{
    if (bytes > file->payload_max)
        return "a payload is larger than its limit";
    if (position > INT64_MAX)
        return "a payload lies at an impossible position";
    return NULL;
}

static void judge_record(const struct judge *j, uint64_t seq, bool with_payload)
{
    const struct unsafe_file *file = j->file;
    const struct record *record = &file->record[seq % file->records];
    const char *reason = record_invalid(record);
    if (!reason && le64_get(record->seq) != seq)
        reason = "a record stands in the place of another one";
    if (reason) {
        tell(j, record, reason);
        return;
    }
    uint32_t bytes = le32_get(record->payload);
    if (bytes == 0 || !with_payload)
        return;
    const uint64_t *place = &file->place[seq % file->records];
    reason = place_invalid(file, *place, bytes);
    if (reason) {
        tell(j, place, reason);
        return;
    }
    uint64_t at = *place % file->ring_bytes;
    if (!record_payload_matches(record, file->ring + at))
        j->found(j->arg, file->ring_at + at, "a payload does not match its checksum");
}

static const char *slot_invalid(const struct unsafe_file *file, const struct unsafe_slot *slot)
{
    if (!checksum_same(slot->sum, unsafe_slot_sum(slot)))
        return "an update in flight does not match its checksum";
    if (slot->type != RECORD_WRITE && slot->type != RECORD_ZERO && slot->type != RECORD_DISCARD)
        return "an update in flight is of an unknown type";
    if ((slot->flags & ~RECORD_NO_HOLE) != 0 || (slot->flags != 0 && slot->type != RECORD_ZERO))
        return "an update in flight has an unknown flag";
    if (slot->object >= RECORD_OBJECTS_MAX || slot->length == 0 || slot->offset > INT64_MAX ||
        slot->length > INT64_MAX - slot->offset)
        return "an update in flight has an impossible range";
    if (slot->payload != (slot->type == RECORD_WRITE ? slot->length : 0))
        return "an update in flight has a payload of the wrong size";
    return place_invalid(file, slot->position, slot->payload);
}

// A slot that says that it has been numbered: its record says so, too.
static bool slot_is_record(const struct unsafe_file *file, const struct unsafe_slot *slot)
{
    const struct record *record = &file->record[slot->seq % file->records];
    return record_is(file, slot->seq) && le16_get(record->object) == slot->object &&
           le64_get(record->offset) == slot->offset && le32_get(record->length) == slot->length;
}

static bool slot_payload_matches(const struct unsafe_file *file, const struct unsafe_slot *slot)
{
    const uint8_t *data = file->ring + slot->position % file->ring_bytes;
    return slot->payload == 0 || checksum_same(slot->payload_sum, checksum64(data, slot->payload));
}

static void judge_slots(const struct judge *j, uint64_t numbered)
{
    for (unsigned i = 0; i < UNSAFE_SLOTS; i++) {
        struct unsafe_slot *slot = &j->file->slot[i];
        uint32_t state = atomic_load(&slot->state);
        const char *reason = NULL;
        if (state == SLOT_EMPTY)
            continue;
        if (state != SLOT_COMMITTED)
            reason = "an update in flight is in an unknown state";
        else if (slot->seq != 0 && slot->seq != numbered && slot->seq != numbered + 1)
            reason = "an update in flight has an impossible seq";
        else
            reason = slot_invalid(j->file, slot);
        if (!reason && slot->seq != 0 && slot->seq == numbered && !slot_is_record(j->file, slot))
            reason = "an update in flight has the seq of another one";
        if (reason)
            tell(j, slot, reason);
        else if (!slot_payload_matches(j->file, slot))
            j->found(j->arg, j->file->ring_at + slot->position % j->file->ring_bytes,
                     "the payload of an update in flight does not match its checksum");
    }
}

static void judge_all(const struct judge *j)
{
    if (!judge_state(j))
        return;
    uint64_t numbered = find_numbered(j->file);
    uint64_t base = base_of(j->file, numbered);
    if (numbered != j->file->super->start)
        judge_record(j, numbered, false);
    if (counts_too_few(j->file, numbered))
        tell(j, &j->file->state->numbered, "there are records behind its last seq");
    for (uint64_t seq = base + 1; seq <= numbered; seq++) {
        judge_record(j, seq, true);
        if (j->progress && (seq - base) % PROGRESS_STEP == 0)
            j->progress(j->arg, seq - base, numbered - base);
    }
    judge_slots(j, numbered);
}

// Only after everything was found right: until here the file is as the predecessor left it. What a crash has left half
// done is completed.
static void settle(struct unsafe_file *file)
{
    struct unsafe_state *state = file->state;
    uint64_t numbered = find_numbered(file);
    state->bound = find_bound(file);
    state->bound_not = ~state->bound;
    ENSURE(find_epoch(file, numbered, &state->epoch));
    state->epoch_not = ~state->epoch;
    atomic_store(&state->numbered, numbered);
    for (unsigned i = 0; i < UNSAFE_SLOTS; i++) {
        struct unsafe_slot *slot = &file->slot[i];
        if (atomic_load(&slot->state) == SLOT_EMPTY)
            continue;
        if (slot->seq != 0 && slot->seq <= numbered)
            atomic_store(&slot->state, SLOT_EMPTY);
        else
            slot->seq = 0;
    }
}

static void first_found(void *arg, uint64_t offset, const char *what)
{
    (void)offset;
    const char **first = arg;
    if (!*first)
        *first = what;
}

int unsafe_file_check(struct unsafe_file *file, struct error *err)
{
    const char *reason = NULL;
    struct judge j = {.file = file, .found = first_found, .arg = &reason};
    judge_all(&j);
    if (reason)
        return error_set(err, -EUCLEAN, "unsafe queue: %s", reason);
    settle(file);
    return 0;
}

// ---- For fsck ----

struct look {
    const struct inspect *inspect;
    struct unsafe_summary *summary;
};

static void damaged(void *arg, uint64_t offset, const char *what)
{
    struct look *l = arg;
    struct inspect_finding finding = {.kind = INSPECT_DAMAGE, .offset = offset, .what = what};
    l->summary->usable = false;
    l->inspect->found(l->inspect->arg, &finding);
}

static void progress(void *arg, uint64_t done, uint64_t total)
{
    struct look *l = arg;
    if (l->inspect->progress)
        l->inspect->progress(l->inspect->arg, done, total);
}

static void summarize(struct unsafe_file *file, struct unsafe_summary *summary)
{
    settle(file); // of this private mapping
    summary->numbered = atomic_load(&file->state->numbered);
    summary->floor = unsafe_file_floor(file);
    summary->spilled = atomic_load(&file->state->spilled);
    summary->bound = file->state->bound;
    summary->epoch = file->state->epoch;
    (void)unsafe_file_opening(file, &summary->opening);
    for (unsigned i = 0; i < UNSAFE_SLOTS; i++)
        summary->pending += atomic_load(&file->slot[i].state) != SLOT_EMPTY;
    for (uint64_t seq = unsafe_file_base(file) + 1; seq <= summary->numbered; seq++)
        summary->bytes += le32_get(file->record[seq % file->records].payload);
}

int unsafe_inspect(const char *path, uint64_t pair, const struct inspect *inspect,
                   struct unsafe_summary *ret_summary, struct error *err)
{
    struct unsafe_summary summary = {.usable = true};
    struct unsafe_file file;
    struct look look = {inspect, &summary};
    struct error why = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_sys(err, -errno, "cannot open %s", path);
    int r = unsafe_file_look(fd, pair, &file, &why);
    if (r == -EUCLEAN) {
        damaged(&look, 0, why.text);
        *ret_summary = summary;
        return 0;
    }
    if (r < 0)
        return error_set(err, r, "%s: %s", path, why.text);
    struct judge j = {.file = &file, .found = damaged, .progress = progress, .arg = &look};
    judge_all(&j);
    summary.boot = file.super->boot;
    summary.salt = unsafe_file_salt(file.super);
    if (summary.usable)
        summarize(&file, &summary);
    unsafe_file_unmap(&file);
    *ret_summary = summary;
    return 0;
}
