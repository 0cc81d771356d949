// SPDX-License-Identifier: Apache-2.0
// Two lists. `ready` holds answers that lack nothing but an open gate; `waiting` those that wait
// for durable, in order of seq. A flush whose local part is under way is in neither once durable
// has reached its seq (or the end is alone); answers_local_done() then looks again.
//
// CLOSED is no promise any more: what still waits for durable then, or would have to, is answered
// -ESHUTDOWN.
//
// Invariants:
//   1. while PAIRED or HELD, an answer in `waiting` has seq > durable;
//   2. while PAIRED, an answer in `ready` has seq <= durable;
//   3. an answer is taken at most once, and never before its local part is done.
#include "queues/answer.h"

#include <errno.h>
#include <stddef.h>

#include "common/base/error.h"

void answers_init(struct answers *answers, enum updates_mode mode)
{
    *answers = (struct answers){.mode = mode, .gate = UPDATES_CLOSED};
}

uint64_t answers_write_seq(const struct answers *answers, uint64_t seq)
{
    return answers->mode == UPDATES_STRICT ? seq : 0;
}

uint64_t answers_flush_seq(const struct answers *answers, uint64_t numbered)
{
    return answers->mode == UPDATES_ASYNC ? 0 : numbered;
}

// ---- Lists ----

static void insert_after(struct answer_list *list, struct answer *after, struct answer *answer)
{
    ENSURE(!answer->linked);
    answer->previous = after;
    answer->next = after ? after->next : list->first;
    if (answer->next)
        answer->next->previous = answer;
    else
        list->last = answer;
    if (after)
        after->next = answer;
    else
        list->first = answer;
    answer->linked = true;
}

static void append(struct answer_list *list, struct answer *answer)
{
    insert_after(list, list->last, answer);
}

static void take_out(struct answer_list *list, struct answer *answer)
{
    ENSURE(answer->linked);
    if (answer->previous)
        answer->previous->next = answer->next;
    else
        list->first = answer->next;
    if (answer->next)
        answer->next->previous = answer->previous;
    else
        list->last = answer->previous;
    answer->linked = false;
    answer->next = answer->previous = NULL;
}

// Nearly always at the end: seqs are given in order.
static void insert_by_seq(struct answer_list *list, struct answer *answer)
{
    struct answer *after = list->last;
    while (after && after->seq > answer->seq)
        after = after->previous;
    insert_after(list, after, answer);
}

// ---- What an answer waits for ----

static bool needs_durable(const struct answers *answers, const struct answer *answer)
{
    return answers->gate != UPDATES_ALONE && answers->gate != UPDATES_CLOSED &&
           answer->seq > answers->durable;
}

// Puts an answer that is in no list where it belongs.
static void place(struct answers *answers, struct answer *answer)
{
    if (answers->gate == UPDATES_CLOSED && answer->seq > answers->durable && answer->status == 0)
        answer->status = -ESHUTDOWN;
    if (needs_durable(answers, answer))
        insert_by_seq(&answers->waiting, answer);
    else if (answer->local_done)
        append(&answers->ready, answer);
}

static void release_waiting(struct answers *answers)
{
    struct answer *answer;
    while ((answer = answers->waiting.first) && !needs_durable(answers, answer)) {
        take_out(&answers->waiting, answer);
        place(answers, answer);
    }
}

void answers_add(struct answers *answers, struct answer *answer, uint64_t seq, int status,
                 bool local_done)
{
    *answer = (struct answer){.seq = seq, .status = status, .local_done = local_done};
    place(answers, answer);
}

void answers_local_done(struct answers *answers, struct answer *answer, int status)
{
    ENSURE(!answer->local_done);
    answer->local_done = true;
    if (status != 0) {
        // An error promises nothing, so it waits for nothing.
        answer->status = status;
        answer->seq = 0;
        if (answer->linked)
            take_out(&answers->waiting, answer);
    }
    if (!answer->linked)
        place(answers, answer);
}

void answers_set_durable(struct answers *answers, uint64_t durable)
{
    if (durable <= answers->durable)
        return;
    answers->durable = durable;
    release_waiting(answers);
}

void answers_set_gate(struct answers *answers, enum updates_gate gate)
{
    answers->gate = gate;
    release_waiting(answers);
    struct answer_list ready = answers->ready;
    answers->ready = (struct answer_list){0};
    struct answer *answer;
    while ((answer = ready.first)) {
        take_out(&ready, answer);
        place(answers, answer);
    }
}

struct answer *answers_take(struct answers *answers)
{
    struct answer *answer = answers->ready.first;
    if (!answer || answers->gate == UPDATES_HELD)
        return NULL;
    ENSURE(answer->local_done);
    ENSURE(answers->gate != UPDATES_PAIRED || answer->seq <= answers->durable);
    take_out(&answers->ready, answer);
    return answer;
}

uint64_t answers_waiting_for(const struct answers *answers)
{
    return answers->waiting.first ? answers->waiting.first->seq : 0;
}
