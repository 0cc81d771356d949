// SPDX-License-Identifier: Apache-2.0
// The life of one SCSI command of a LUN: taken from the free ones, sent through the session, judged, sent again or gone on with
// (more zeros, the write behind a read, the hint behind the zeros), and ended.
//
// Commands whose session broke wait in `again` and are sent when the next one is up. Sending twice
// is harmless (every command here is idempotent), and it cannot reorder what overlaps: overlapping
// requests are never under way together, and the target has ended the old session's tasks before it
// admits the same initiator and session id again.
//
// Zeros: WRITE SAME with the UNMAP bit where unmapped blocks are known to read as zeros, because
// then the target either deallocates or writes, and both leave zeros. UNMAP is a hint that may
// leave old data; it is sent only behind zeros that have been written.
#include <errno.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/store/iscsi_private.h"

#define TRIES_MAX 20 // of one command that the target keeps sending back
#define LATER_NS  (100 * NS_PER_MS)

static void command_push(struct command_list *list, struct command *command)
{
    command->next = NULL;
    if (list->head)
        list->tail->next = command;
    else
        list->head = command;
    list->tail = command;
}

static struct command *command_pop(struct command_list *list)
{
    struct command *command = list->head;
    if (command)
        list->head = command->next;
    return command;
}

void lun_command_send(struct lun *lun, struct command *command)
{
    if (!lun_session_is_up(lun->session) ||
        lun_session_send(lun->session, &command->scsi, lun->facts.block_length) < 0) {
        command_push(&lun->again, command);
        return;
    }
    store_count(&lun->store, 1);
}

void lun_commands_send(struct lun *lun, struct command_list *list)
{
    struct command_list waiting = *list;
    *list = (struct command_list){0};
    struct command *command;
    while ((command = command_pop(&waiting)))
        lun_command_send(lun, command);
}

static enum scsi_kind zero_kind(const struct lun *lun, const struct block_request *request)
{
    bool hole = !(request->op == BLOCK_ZERO && (request->flags & BLOCK_NO_HOLE));
    if (hole && lun->same_unmap_works)
        return SCSI_WRITE_SAME_UNMAP;
    return lun->same_works ? SCSI_WRITE_SAME : SCSI_WRITE;
}

static uint64_t lower(uint64_t limit, uint64_t stated)
{
    return stated > 0 ? MIN(limit, stated) : limit; // 0: the target states none
}

uint64_t lun_blocks_max(const struct lun *lun, enum scsi_kind kind)
{
    const struct lun_facts *facts = &lun->facts;
    uint64_t transfer = lower(TRANSFER_MAX / facts->block_length, facts->max_transfer);
    switch (kind) {
    case SCSI_READ:
    case SCSI_WRITE:
        return transfer;
    case SCSI_WRITE_SAME_UNMAP:
        return lower(ZERO_MAX / facts->block_length, facts->max_write_same);
    default: // an UNMAP may follow
        return lower(lower(transfer, facts->max_write_same), facts->max_unmap);
    }
}

void lun_command_aim_zero(struct lun *lun, struct command *c, uint64_t lba, uint64_t left)
{
    c->scsi.kind = zero_kind(lun, c->request);
    c->scsi.data = lun->zeros;
    c->scsi.lba = lba;
    c->scsi.blocks = (uint32_t)MIN(left, lun_blocks_max(lun, c->scsi.kind));
    c->rest = left - c->scsi.blocks;
}

struct command *lun_command_take(struct lun *lun, struct block_request *request)
{
    struct command *command = lun->free_commands;
    if (!command)
        return NULL;
    lun->free_commands = command->next;
    *command = (struct command){.request = request};
    request_progress(request)->parts++;
    return command;
}

static void end_command(struct lun *lun, struct command *command, int status)
{
    struct block_request *request = command->request;
    if (command->edge) {
        command->edge->next = lun->free_edges;
        lun->free_edges = command->edge;
    }
    command->next = lun->free_commands;
    lun->free_commands = command;
    if (request->op != BLOCK_READ && status == 0)
        lun->writes_ended++;
    if (request_part_ended(request, status))
        request->done(request, request_progress(request)->status);
}

static void end_sync(struct lun *lun, int status)
{
    struct request_queue done = lun->syncing;
    lun->syncing = (struct request_queue){0};
    if (status == 0)
        lun->writes_synced = lun->sync_covers;
    else if (lun->store.failed_flush == 0 && !lun->closing)
        lun->store.failed_flush = status;
    if (lun->store.failed_flush < 0) {
        // Those that wait for the next sync are lost as well: it would prove nothing.
        status = lun->store.failed_flush;
        struct block_request *waiting;
        while ((waiting = request_pop(&lun->flushes)))
            request_push(&done, waiting);
    }
    struct block_request *request;
    while ((request = request_pop(&done)))
        request->done(request, status);
}

static void end_any(struct lun *lun, struct command *command, int status)
{
    if (command == &lun->sync)
        end_sync(lun, status);
    else
        end_command(lun, command, status);
}

static void fill_edge(struct command *command)
{
    if (command->part)
        memcpy(command->edge->memory + command->skip, command->part, command->part_length);
    else
        memset(command->edge->memory + command->skip, 0, command->part_length);
}

static bool is_zeroing(const struct command *c)
{
    return !c->edge && (c->request->op == BLOCK_ZERO || c->request->op == BLOCK_DISCARD);
}

// A step of the command ended well: false when it was the last one.
static bool next_step(struct lun *lun, struct command *c)
{
    bool unmap_now = is_zeroing(c) && c->request->op == BLOCK_DISCARD && lun->unmap_works &&
                     (c->scsi.kind == SCSI_WRITE || c->scsi.kind == SCSI_WRITE_SAME);
    c->tries = 0;
    if (c->merging) {
        c->merging = false;
        fill_edge(c);
        c->scsi.kind = SCSI_WRITE;
    } else if (unmap_now) {
        c->scsi.kind = SCSI_UNMAP;
    } else if (c->rest > 0) {
        lun_command_aim_zero(lun, c, c->scsi.lba + c->scsi.blocks, c->rest);
    } else {
        if (c->edge && c->scsi.kind == SCSI_READ)
            memcpy(c->part, c->edge->memory + c->skip, c->part_length);
        return false;
    }
    lun_command_send(lun, c);
    return true;
}

static void ended_well(struct lun *lun, struct command *command)
{
    lun->trouble = NULL;
    if (command == &lun->sync)
        end_sync(lun, 0);
    else if (!next_step(lun, command))
        end_command(lun, command, 0);
}

// The target does not offer this kind of command after all.
static void unsupported(struct lun *lun, struct command *c, int error)
{
    switch (c->scsi.kind) {
    case SCSI_UNMAP:
        lun->unmap_works = false;
        ended_well(lun, c); // the zeros have been written
        return;
    case SCSI_SYNC:
        // Without a cache there is nothing to synchronize.
        end_sync(lun, lun->facts.volatile_cache ? error : 0);
        return;
    case SCSI_WRITE_SAME_UNMAP:
        lun->same_unmap_works = lun->store.block.zero_is_fast = false;
        break;
    case SCSI_WRITE_SAME:
        lun->same_works = false;
        break;
    default:
        end_command(lun, c, error);
        return;
    }
    lun_command_aim_zero(lun, c, c->scsi.lba, c->scsi.blocks + c->rest);
    lun_command_send(lun, c);
}

// After power on, what was in a volatile cache is gone. We cannot get it back; the daemon must
// know.
void lun_was_reset(void *owner)
{
    struct lun *lun = owner;
    if (!lun->known || !lun->facts.volatile_cache || lun->writes_ended == lun->writes_synced)
        return;
    lun->writes_synced = lun->writes_ended; // counted once
    uint_fast64_t n = atomic_load_explicit(&lun->store.resets, memory_order_relaxed);
    atomic_store_explicit(&lun->store.resets, n + 1, memory_order_relaxed);
}

static void command_failed(struct lun *lun, struct command *c, const struct scsi_result *result)
{
    int error;
    bool reset;
    enum lun_verdict verdict =
        lun_judge(result->status, result->sense_key, result->asc_ascq, &error, &reset);
    if (reset)
        lun_was_reset(lun);
    if (verdict != LUN_UNSUPPORTED && verdict != LUN_AGAIN)
        lun->trouble = lun_failure_text(result->status, result->sense_key, result->asc_ascq);
    if (verdict == LUN_AGAIN && ++c->tries > TRIES_MAX)
        verdict = LUN_FAIL;
    switch (verdict) {
    case LUN_AGAIN:
        lun_command_send(lun, c);
        break;
    case LUN_LATER:
        command_push(&lun->later, c);
        lun->later_ns = MIN(lun->later_ns, clock_boot_ns() + LATER_NS);
        break;
    case LUN_GONE:
        lun_session_lose(lun->session, lun->trouble);
        command_push(&lun->again, c);
        break;
    case LUN_UNSUPPORTED:
        unsupported(lun, c, error);
        break;
    case LUN_FAIL:
        end_any(lun, c, error);
        break;
    }
}

void lun_command_ended(void *owner, struct scsi_command *scsi, const struct scsi_result *result)
{
    struct lun *lun = owner;
    struct command *command = (struct command *)scsi;
    store_count(&lun->store, -1);
    if (result->status != 0) {
        command_failed(lun, command, result);
    } else if (result->truncated && scsi->kind <= SCSI_WRITE) {
        lun->trouble = "the target transferred less than it was asked to";
        end_any(lun, command, -EIO);
    } else {
        ended_well(lun, command);
    }
}

void lun_command_returned(void *owner, struct scsi_command *scsi)
{
    struct lun *lun = owner;
    store_count(&lun->store, -1);
    command_push(&lun->again, (struct command *)scsi);
}

void lun_commands_cancel(struct lun *lun, struct command_list *list)
{
    struct command *command;
    while ((command = command_pop(list)))
        end_any(lun, command, -ECANCELED);
}
