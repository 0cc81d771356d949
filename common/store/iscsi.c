// SPDX-License-Identifier: Apache-2.0
// A store on an iSCSI LUN: it is found and recognized, requests are cut into commands (iscsi_command.c), flushes share a sync.
//
// A new session counts only after the LUN has proven to be the one that was opened: same
// identification, same block length, not smaller.
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/store/iscsi_private.h"

#define TURN_REQUESTS   256
#define OPEN_TIMEOUT_MS 10000

static struct lun *lun_of(struct store *store)
{
    return (struct lun *)store;
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
    lun_commands_send(lun, &lun->again);
}

static const struct session_events events = {
    .ended = lun_command_ended,
    .returned = lun_command_returned,
    .probed = lun_probed,
    .up = lun_up,
    .reset = lun_was_reset,
};

// ---- requests into commands

// One block that is covered only in part.
static bool issue_edge(struct lun *lun, struct block_request *request, uint64_t at, uint64_t left)
{
    struct command *c = lun->free_edges ? lun_command_take(lun, request) : NULL;
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
    lun_command_send(lun, c);
    return true;
}

static bool issue_next(struct lun *lun, struct block_request *request)
{
    struct request_progress *p = request_progress(request);
    uint64_t block = lun->facts.block_length;
    uint64_t at = request->offset + p->issued, left = request->length - p->issued;
    if (at % block != 0 || left < block)
        return issue_edge(lun, request, at, left);
    struct command *c = lun_command_take(lun, request);
    if (!c)
        return false;
    uint64_t blocks = left / block;
    if (request->op == BLOCK_READ || request->op == BLOCK_WRITE) {
        enum scsi_kind kind = request->op == BLOCK_READ ? SCSI_READ : SCSI_WRITE;
        blocks = MIN(blocks, lun_blocks_max(lun, kind));
        c->scsi = (struct scsi_command){kind, at / block, (uint32_t)blocks,
                                        (uint8_t *)request->data + p->issued};
    } else {
        blocks = MIN(blocks, ZERO_MAX / block);
        lun_command_aim_zero(lun, c, at / block, blocks);
    }
    p->issued += blocks * block;
    lun_command_send(lun, c);
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
    lun_command_send(lun, &lun->sync);
}

static void send_later(struct lun *lun)
{
    if (clock_boot_ns() < lun->later_ns)
        return;
    lun->later_ns = INT64_MAX;
    lun_commands_send(lun, &lun->later);
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

static void lun_free(struct store *store)
{
    struct lun *lun = lun_of(store);
    ENSURE(!lun->turning);
    lun->closing = lun->turning = true;
    lun->session = lun_session_free(lun->session);
    lun_commands_cancel(lun, &lun->again);
    lun_commands_cancel(lun, &lun->later);
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
