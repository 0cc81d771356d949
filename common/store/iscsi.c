// SPDX-License-Identifier: Apache-2.0
// Requests on an iSCSI LUN: cut into SCSI commands, sent through the session, judged, sent again.
//
// Commands whose session broke wait in `again` and are sent when the next one is up. Sending twice
// is harmless (every command here is idempotent), and it cannot reorder what overlaps: overlapping
// requests are never under way together, and the target has ended the old session's tasks before it
// admits the same initiator and session id again.
//
// A new session counts only after the LUN has proven to be the one that was opened: same
// identification, same block length, not smaller.
//
// Zeros: WRITE SAME with the UNMAP bit where unmapped blocks are known to read as zeros, because
// then the target either deallocates or writes, and both leave zeros. UNMAP is a hint that may
// leave old data; it is sent only behind zeros that have been written.
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/store/backend.h"
#include "common/store/lun.h"
#include "common/store/session.h"

#define COMMANDS_MAX    60 // targets commonly allow 64 at least; the rest is for pings
#define TRANSFER_MAX    (1u << 20)
#define ZERO_MAX        (64u << 20) // bytes that one command zeroes, by one WRITE SAME or by many
#define ZEROS_SIZE      TRANSFER_MAX
#define EDGES           16 // blocks that are being read and merged at a time
#define TRIES_MAX       20 // of one command that the target keeps sending back
#define TURN_REQUESTS   256
#define LATER_NS        (100 * NS_PER_MS)
#define OPEN_TIMEOUT_MS 10000

struct edge {
    struct edge *next;
    uint8_t *memory; // one block
};

struct command {
    struct scsi_command scsi;      // first
    struct command *next;          // of the free ones, or of those that wait to be sent
    struct block_request *request; // NULL for the sync
    uint64_t rest;                 // zeroing: blocks behind these that the command goes on with
    struct edge *edge;             // a block that is read or written in part goes through here
    uint32_t skip, part_length;    // where the part lies in it
    uint8_t *part;                 // the caller's memory; NULL stands for zeros
    bool merging;                  // the read before the write
    unsigned tries;
};

struct command_list {
    struct command *head, *tail;
};

struct lun {
    struct store store; // first
    char name[512];     // the address without secrets
    uint64_t want_size;
    bool allow_larger;
    struct session *session;
    bool known; // `facts` are those of the LUN that was opened
    struct lun_facts facts;
    bool same_works, same_unmap_works, unmap_works;
    const char *trouble; // the last command's failure; NULL after a success
    uint64_t writes_ended, writes_synced;
    uint64_t sync_covers; // writes_ended when the sync was sent
    bool turning, closing;
    struct request_queue queued, flushes, syncing;
    struct command_list again; // to be sent as soon as there is a session
    struct command_list later; // to be sent at later_ns
    int64_t later_ns;          // INT64_MAX: nothing to do then
    void *zeros;               // ZEROS_SIZE bytes, never written
    uint8_t *edge_memory;
    struct edge *free_edges;
    struct command *free_commands;
    struct edge edges[EDGES];
    struct command sync;
    struct command commands[COMMANDS_MAX];
    char state[512];
};

static struct lun *lun_of(struct store *store)
{
    return (struct lun *)store;
}

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

// ---- sending

// Now, or when the next session is up.
static void send_command(struct lun *lun, struct command *command)
{
    if (!lun_session_is_up(lun->session) ||
        lun_session_send(lun->session, &command->scsi, lun->facts.block_length) < 0) {
        command_push(&lun->again, command);
        return;
    }
    store_count(&lun->store, 1);
}

static void send_waiting(struct lun *lun, struct command_list *list)
{
    struct command_list waiting = *list;
    *list = (struct command_list){0};
    struct command *command;
    while ((command = command_pop(&waiting)))
        send_command(lun, command);
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

// Blocks that one command of this kind may cover; at least 1.
static uint64_t blocks_max(const struct lun *lun, enum scsi_kind kind)
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

// Aims a zeroing command at the first of the blocks that are left to it.
static void aim_zero(struct lun *lun, struct command *c, uint64_t lba, uint64_t left)
{
    c->scsi.kind = zero_kind(lun, c->request);
    c->scsi.data = lun->zeros;
    c->scsi.lba = lba;
    c->scsi.blocks = (uint32_t)MIN(left, blocks_max(lun, c->scsi.kind));
    c->rest = left - c->scsi.blocks;
}

// ---- the end of commands

static struct command *take_command(struct lun *lun, struct block_request *request)
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
        aim_zero(lun, c, c->scsi.lba + c->scsi.blocks, c->rest);
    } else {
        if (c->edge && c->scsi.kind == SCSI_READ)
            memcpy(c->part, c->edge->memory + c->skip, c->part_length);
        return false;
    }
    send_command(lun, c);
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
    aim_zero(lun, c, c->scsi.lba, c->scsi.blocks + c->rest);
    send_command(lun, c);
}

// After power on, what was in a volatile cache is gone. We cannot get it back; the daemon must
// know.
static void target_was_reset(void *owner)
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
        target_was_reset(lun);
    if (verdict != LUN_UNSUPPORTED && verdict != LUN_AGAIN)
        lun->trouble = lun_failure_text(result->status, result->sense_key, result->asc_ascq);
    if (verdict == LUN_AGAIN && ++c->tries > TRIES_MAX)
        verdict = LUN_FAIL;
    switch (verdict) {
    case LUN_AGAIN:
        send_command(lun, c);
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

static void command_ended(void *owner, struct scsi_command *scsi, const struct scsi_result *result)
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

static void command_returned(void *owner, struct scsi_command *scsi)
{
    struct lun *lun = owner;
    store_count(&lun->store, -1);
    command_push(&lun->again, (struct command *)scsi);
}

// ---- a new session

static int check_size(struct lun *lun, const struct lun_facts *facts, char *why, size_t why_size)
{
    uint64_t have = facts->blocks * facts->block_length, want = lun->want_size;
    if (want == 0 || have == want || (have > want && lun->allow_larger))
        return 0;
    (void)snprintf(why, why_size,
                   "the LUN has %" PRIu64 " bytes, the volume has %" PRIu64 ": it is %s by %" PRIu64
                   "; correct the volume's size in the pair file or resize the LUN",
                   have, want, have < want ? "too short" : "too large",
                   have < want ? want - have : have - want);
    return -EINVAL;
}

static int make_edges(struct lun *lun, uint32_t block_length)
{
    lun->edge_memory = malloc((size_t)EDGES * block_length);
    if (!lun->edge_memory)
        return -ENOMEM;
    for (unsigned i = 0; i < EDGES; i++) {
        lun->edges[i].memory = lun->edge_memory + (size_t)i * block_length;
        lun->edges[i].next = lun->free_edges;
        lun->free_edges = &lun->edges[i];
    }
    return 0;
}

// Is the LUN what the configuration says?
static int accept_lun(struct lun *lun, const struct lun_facts *facts, char *why, size_t why_size)
{
    if (facts->write_protected && !lun->store.read_only) {
        (void)snprintf(why, why_size, "the LUN is write-protected; make it writable at the target");
        return -EROFS;
    }
    int r = check_size(lun, facts, why, why_size);
    if (r == 0)
        r = make_edges(lun, facts->block_length);
    if (r < 0)
        return r;
    lun->known = true;
    lun->facts = *facts;
    lun->same_works = true; // until it has proven otherwise: few targets say so
    lun->same_unmap_works = facts->write_same_unmap && facts->unmapped_zero;
    lun->unmap_works = facts->unmap && facts->unmapped_zero;
    struct block *block = &lun->store.block;
    block->size = lun->want_size > 0 ? lun->want_size : facts->blocks * facts->block_length;
    block->block_size = facts->block_length;
    block->zero_is_fast = lun->same_unmap_works;
    return 0;
}

// Is it still the same one? NULL, or what is wrong with it.
static const char *recognize(const struct lun *lun, const struct lun_facts *facts)
{
    if (facts->id_size != lun->facts.id_size ||
        memcmp(facts->id, lun->facts.id, facts->id_size) != 0)
        return "a different LUN answers at this address (its identification has changed)";
    if (facts->block_length != lun->facts.block_length)
        return "a different LUN answers at this address (its block length has changed)";
    if (facts->blocks * facts->block_length < lun->store.block.size)
        return "the LUN has become too short";
    if (facts->write_protected && !lun->store.read_only)
        return "the LUN has become write-protected";
    return NULL;
}

static int lun_probed(void *owner, const struct lun_facts *facts, char *why, size_t why_size)
{
    struct lun *lun = owner;
    if (!lun->known)
        return accept_lun(lun, facts, why, why_size);
    const char *wrong = recognize(lun, facts);
    if (wrong) {
        (void)snprintf(why, why_size, "%s", wrong);
        return -ENODEV;
    }
    return 0;
}

static void lun_up(void *owner)
{
    struct lun *lun = owner;
    lun->trouble = NULL;
    send_waiting(lun, &lun->again);
}

static const struct session_events events = {
    .ended = command_ended,
    .returned = command_returned,
    .probed = lun_probed,
    .up = lun_up,
    .reset = target_was_reset,
};

// ---- requests into commands

// One block that is covered only in part.
static bool issue_edge(struct lun *lun, struct block_request *request, uint64_t at, uint64_t left)
{
    struct command *c = lun->free_edges ? take_command(lun, request) : NULL;
    if (!c)
        return false;
    struct request_progress *p = request_progress(request);
    uint32_t block = lun->facts.block_length;
    bool transfer = request->op == BLOCK_READ || request->op == BLOCK_WRITE;
    c->edge = lun->free_edges;
    lun->free_edges = c->edge->next;
    c->scsi = (struct scsi_command){SCSI_READ, at / block, 1, c->edge->memory};
    c->merging = request->op != BLOCK_READ;
    c->skip = (uint32_t)(at % block);
    c->part_length = (uint32_t)MIN(left, block - c->skip);
    c->part = transfer ? (uint8_t *)request->data + p->issued : NULL;
    p->issued += c->part_length;
    send_command(lun, c);
    return true;
}

static bool issue_next(struct lun *lun, struct block_request *request)
{
    struct request_progress *p = request_progress(request);
    uint64_t block = lun->facts.block_length;
    uint64_t at = request->offset + p->issued, left = request->length - p->issued;
    if (at % block != 0 || left < block)
        return issue_edge(lun, request, at, left);
    struct command *c = take_command(lun, request);
    if (!c)
        return false;
    uint64_t blocks = left / block;
    if (request->op == BLOCK_READ || request->op == BLOCK_WRITE) {
        enum scsi_kind kind = request->op == BLOCK_READ ? SCSI_READ : SCSI_WRITE;
        blocks = MIN(blocks, blocks_max(lun, kind));
        c->scsi = (struct scsi_command){kind, at / block, (uint32_t)blocks,
                                        (uint8_t *)request->data + p->issued};
    } else {
        blocks = MIN(blocks, ZERO_MAX / block);
        aim_zero(lun, c, at / block, blocks);
    }
    p->issued += blocks * block;
    send_command(lun, c);
    return true;
}

// Starts the request at the head of the queue; false when it must wait for a command.
static bool start_head(struct lun *lun)
{
    struct block_request *request = lun->queued.head;
    struct request_progress *p = request_progress(request);
    int r = p->issued == 0 ? store_refusal(&lun->store, request) : 0;
    if (r == 0 && request->op == BLOCK_FLUSH) {
        request_push(&lun->flushes, request_pop(&lun->queued));
        return true;
    }
    if (r < 0 || request->length == 0) {
        (void)request_pop(&lun->queued);
        request->done(request, r);
        return true;
    }
    while (p->issued < request->length) {
        if (!issue_next(lun, request))
            return false;
    }
    (void)request_pop(&lun->queued);
    return true;
}

static void start_queued(struct lun *lun)
{
    for (unsigned n = 0; lun->queued.head && lun_session_is_up(lun->session); n++) {
        if (n == TURN_REQUESTS) {
            lun->later_ns = 0; // come back at once
            return;
        }
        if (!start_head(lun))
            return;
    }
}

static void start_sync(struct lun *lun)
{
    if (!lun->flushes.head || lun->syncing.head || !lun_session_is_up(lun->session))
        return;
    lun->syncing = lun->flushes;
    lun->flushes = (struct request_queue){0};
    lun->sync_covers = lun->writes_ended;
    lun->sync = (struct command){.scsi = {.kind = SCSI_SYNC}};
    send_command(lun, &lun->sync);
}

static void send_later(struct lun *lun)
{
    if (clock_boot_ns() < lun->later_ns)
        return;
    lun->later_ns = INT64_MAX;
    send_waiting(lun, &lun->later);
}

// Callbacks run in lun_session_work() and start_queued() only; whatever they submit is seen behind
// them.
static void turn(struct lun *lun, bool receive)
{
    if (lun->turning)
        return;
    lun->turning = true;
    if (receive) {
        lun_session_work(lun->session);
        send_later(lun);
    }
    start_queued(lun);
    start_sync(lun);
    lun_session_push(lun->session);
    lun->turning = false;
}

static void lun_submit(struct block *block, struct block_request *request)
{
    struct lun *lun = lun_of(store_of(block));
    ENSURE(!lun->closing);
    ENSURE(request_fits(request, block->size));
    *request_progress(request) = (struct request_progress){0};
    request_push(&lun->queued, request);
}

static void lun_kick(struct block *block)
{
    turn(lun_of(store_of(block)), false);
}

static const struct block_ops lun_block_ops = {.submit = lun_submit, .kick = lun_kick};

// ---- the store

static void lun_work(struct store *store)
{
    turn(lun_of(store), true);
}

static int lun_fd(const struct store *store)
{
    return lun_session_fd(((const struct lun *)store)->session);
}

static int64_t lun_deadline(const struct store *store)
{
    const struct lun *lun = (const struct lun *)store;
    return MIN(lun_session_deadline_ns(lun->session), lun->later_ns);
}

static const char *lun_state_text(struct store *store)
{
    struct lun *lun = lun_of(store);
    if (store->failed_flush < 0)
        return STORE_FAILED_FLUSH_TEXT;
    if (lun_session_is_up(lun->session))
        return lun->trouble ? lun->trouble : "ok";
    int64_t away = clock_boot_ns() - lun_session_away_since_ns(lun->session);
    (void)snprintf(lun->state, sizeof(lun->state),
                   "the LUN has been away for %" PRId64 " s, requests wait for it: %s",
                   away / NS_PER_S, lun_session_why(lun->session));
    return lun->state;
}

static bool lun_is_up(const struct store *store)
{
    return lun_session_is_up(((const struct lun *)store)->session);
}

static void lun_extent(struct store *store, uint64_t offset, uint64_t length, unsigned *ret_flags,
                       uint64_t *ret_length)
{
    *ret_flags = 0;
    *ret_length = length;
}

static void cancel_commands(struct lun *lun, struct command_list *list)
{
    struct command *command;
    while ((command = command_pop(list)))
        end_any(lun, command, -ECANCELED);
}

static void lun_free(struct store *store)
{
    struct lun *lun = lun_of(store);
    ENSURE(!lun->turning);
    lun->closing = lun->turning = true;
    lun->session = lun_session_free(lun->session);
    cancel_commands(lun, &lun->again);
    cancel_commands(lun, &lun->later);
    request_cancel_all(&lun->queued);
    request_cancel_all(&lun->flushes);
    if (lun->zeros)
        (void)munmap(lun->zeros, ZEROS_SIZE);
    free(lun->edge_memory);
    free(lun);
}

static const struct store_type lun_type = {
    .work = lun_work,
    .fd = lun_fd,
    .deadline = lun_deadline,
    .state_text = lun_state_text,
    .is_up = lun_is_up,
    .extent = lun_extent,
    .free = lun_free,
};

static int set_up(struct lun *lun, const struct store_config *config, struct error *err)
{
    lun->store = (struct store){
        .block = {.ops = &lun_block_ops, .data_align = 1},
        .type = &lun_type,
        .kind = STORE_ISCSI,
        .read_only = config->read_only,
    };
    lun->later_ns = INT64_MAX;
    lun->want_size = config->size;
    lun->allow_larger = config->allow_larger;
    lun_public_name(config->path, lun->name, sizeof(lun->name));
    for (unsigned i = 0; i < COMMANDS_MAX; i++) {
        lun->commands[i].next = lun->free_commands;
        lun->free_commands = &lun->commands[i];
    }
    if (config->direct)
        return error_set(err, -EINVAL, "store %s: `direct` is for files and devices; remove it",
                         lun->name);
    void *zeros = mmap(NULL, ZEROS_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (zeros == MAP_FAILED)
        return error_sys(err, -errno, "store %s", lun->name);
    lun->zeros = zeros;
    return lun_session_open(config, lun->name, &events, lun, &lun->session, err);
}

static int wait_until_up(struct lun *lun, int64_t deadline, struct error *err)
{
    for (;;) {
        turn(lun, true);
        if (lun_session_is_up(lun->session))
            return 0;
        int r = lun_session_refused(lun->session);
        if (r < 0)
            return error_set(err, r, "store %s: %s", lun->name, lun_session_why(lun->session));
        int64_t now = clock_boot_ns();
        if (now >= deadline)
            return error_set(err, -ETIMEDOUT, "store %s cannot be reached: %s", lun->name,
                             lun_session_why(lun->session));
        int64_t wait = MIN(deadline, lun_deadline(&lun->store)) - now;
        struct pollfd pfd = {.fd = lun_fd(&lun->store), .events = POLLIN};
        (void)poll(&pfd, 1, (int)(MAX(wait, 0) / NS_PER_MS) + 1);
    }
}

int iscsi_open(const struct store_config *config, struct store **ret_store, struct error *err)
{
    struct lun *lun = calloc(1, sizeof(*lun));
    if (!lun)
        return error_sys(err, -ENOMEM, "cannot set up a LUN");
    int r = set_up(lun, config, err);
    if (r == 0) {
        int timeout_ms = config->timeout_ms > 0 ? config->timeout_ms : OPEN_TIMEOUT_MS;
        r = wait_until_up(lun, clock_boot_ns() + timeout_ms * NS_PER_MS, err);
    }
    if (r < 0) {
        lun_free(&lun->store);
        return r;
    }
    *ret_store = &lun->store;
    return 0;
}
