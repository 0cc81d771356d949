// SPDX-License-Identifier: Apache-2.0
// Requests on a file or block device.
//
// What is sure to be short is done at once in kick(): a buffered write of moderate size is a copy
// into the page cache (through io_uring it would be handed to a kernel thread, which costs several
// times the write itself), and so is a read that finds all of its pages there. Everything that
// waits for a disk goes through the ring: reads that miss, large writes, direct I/O, zeroing, and
// the sync (but see store_sync()). An inline write can still block when too many pages are dirty; the flag `inside` tells
// the watchdog.
//
// Invariants:
// - at most OPS_MAX operations are out, so the submission queue (RING_ENTRIES) never runs full;
// - at most one sync is out; the flushes that arrive meanwhile wait for the next one. So no sync can take the error
//   of another one away (the kernel reports a writeback error once per file description);
// - with O_DIRECT, what is not aligned goes through a bounce buffer: a block that is written in part is read, merged
//   and written. Nobody else writes to that block meanwhile, because requests that share one overlap (block_size).
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/store/backend.h"
#include "common/store/disk.h"

#define RING_ENTRIES     256
#define OPS_MAX          128
#define BOUNCES          16
#define BOUNCE_SIZE      (256u << 10)
#define ZEROS_SIZE       (1u << 20)
#define LARGE_READ       (64 * 1024) // bytes from which on a read asks for holes first
#define PIECE            (32u << 10)
#define TURN_BYTES       (4u << 20)   // written inline in one turn
#define SMALL_ZERO       4096u        // below this, zeros are written rather than a hole punched
#define TRANSFER_MAX     (512u << 20) // one system call moves less than 2 GiB
#define TURN_REQUESTS    256          // started in one turn before the caller gets the thread back
#define SUBMIT_RETRY_NS  NS_PER_MS
#define SHORT_SYNC_BYTES (256u << 10)    // written inline since the last sync, for one to be short
#define SHORT_SYNC_NS    (4 * NS_PER_MS) // and how long the last one may have taken

enum op_kind {
    OP_READ,
    OP_WRITE,
    OP_ZEROS,      // writes zeros
    OP_PUNCH,      // fallocate: a hole
    OP_ZERO_RANGE, // fallocate: zeros, allocated
};

struct op {
    enum op_kind kind;
    struct op *next; // of the free ones
    struct block_request *request;
    uint64_t offset; // what is left to do, on the store
    uint64_t length;
    uint8_t *data;
    struct bounce *bounce; // NULL: straight from and to the caller's memory
    uint64_t cover_offset; // bounced: the whole blocks around the part
    uint32_t cover_length;
    uint32_t skip;        // from the start of the cover to the part
    uint32_t part_length; // bounced: the caller's bytes
    uint8_t *part;        // the caller's memory; NULL stands for zeros
    bool merging;         // the read before a write of incomplete blocks
};

struct bounce {
    struct bounce *next;
    uint8_t *memory;
};

struct ring {
    struct store store; // first
    struct disk disk;
    struct io_uring io;
    uint64_t inline_left; // of TURN_BYTES
    bool turning;         // inside turn(): kicks of callbacks are satisfied by it
    bool closing;
    bool cached_reads; // RWF_NOWAIT works here
    bool punch_works;
    bool range_works;
    bool wake_armed;
    int64_t retry_ns; // the kernel did not take all submissions
    bool sync_when_told;
    bool synced_here;    // the sync that is out has ended on this thread, with:
    int synced_status;
    uint64_t unsynced;   // bytes written inline since the last sync was started
    int64_t sync_ns;     // how long the last sync took
    int64_t sync_began_ns;
    struct request_queue queued;
    struct request_queue flushes; // wait for the next sync
    struct request_queue syncing; // wait for the one that is out
    unsigned out;                 // operations, sync and wake-up that have no completion yet
    struct op *free_ops;
    struct bounce *free_bounces;
    uint8_t *bounce_memory;
    void *zeros; // ZEROS_SIZE bytes, never written: costs no memory
    struct bounce bounces[BOUNCES];
    struct op ops[OPS_MAX];
};

static char sync_tag, wake_tag; // user data of what is not an op

static struct ring *ring_of(struct store *store)
{
    return (struct ring *)store;
}

// ---- handing operations to the kernel

static struct io_uring_sqe *get_sqe(struct ring *ring)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->io);
    ENSURE(sqe);
    ring->out++;
    return sqe;
}

static void issue(struct ring *ring, struct op *op)
{
    struct io_uring_sqe *sqe = get_sqe(ring);
    int fd = ring->disk.fd;
    unsigned transfer = (unsigned)MIN(op->length, TRANSFER_MAX);
    switch (op->kind) {
    case OP_READ:
        io_uring_prep_read(sqe, fd, op->data, transfer, op->offset);
        break;
    case OP_WRITE:
        io_uring_prep_write(sqe, fd, op->data, transfer, op->offset);
        break;
    case OP_ZEROS:
        io_uring_prep_write(sqe, fd, ring->zeros, MIN(transfer, ZEROS_SIZE), op->offset);
        break;
    case OP_PUNCH:
        io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                (off_t)op->offset, (off_t)op->length);
        break;
    case OP_ZERO_RANGE:
        io_uring_prep_fallocate(sqe, fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
                                (off_t)op->offset, (off_t)op->length);
        break;
    }
    io_uring_sqe_set_data(sqe, op);
    store_count(&ring->store, 1);
}

static bool take_flushes(struct ring *ring)
{
    if (!ring->flushes.head || ring->syncing.head)
        return false;
    ring->syncing = ring->flushes;
    ring->flushes = (struct request_queue){0};
    ring->sync_began_ns = clock_boot_ns();
    return true;
}

// A sync and a wake-up need no op.
static void start_sync(struct ring *ring)
{
    if (!take_flushes(ring))
        return;
    ring->unsynced = 0;
    struct io_uring_sqe *sqe = get_sqe(ring);
    io_uring_prep_fsync(sqe, ring->disk.fd, IORING_FSYNC_DATASYNC);
    io_uring_sqe_set_data(sqe, &sync_tag);
    store_count(&ring->store, 1);
}

// Makes the ring readable, so that the owner comes back although nothing is out.
static void arm_wake(struct ring *ring)
{
    if (ring->wake_armed)
        return;
    struct io_uring_sqe *sqe = get_sqe(ring);
    io_uring_prep_nop(sqe);
    io_uring_sqe_set_data(sqe, &wake_tag);
    ring->wake_armed = true;
}

static void submit_all(struct ring *ring)
{
    int r = 0;
    while (io_uring_sq_ready(&ring->io) > 0 && r >= 0) {
        int64_t since = awake_pause(ring->store.awake); // hardly ever: the kernel hands on what would wait
        r = io_uring_submit(&ring->io);
        awake_again(ring->store.awake, since);
        if (r == -EINTR)
            r = 0;
    }
    // -EAGAIN, -EBUSY: the kernel is short of memory or completions wait to be taken. Anything else
    // is a mistake here.
    ENSURE(r >= 0 || r == -EAGAIN || r == -EBUSY || r == -ENOMEM);
    ring->retry_ns = r < 0 ? clock_boot_ns() + SUBMIT_RETRY_NS : INT64_MAX;
}

// ---- parts of requests

static struct op *take_op(struct ring *ring, struct block_request *request)
{
    struct op *op = ring->free_ops;
    if (!op)
        return NULL;
    ring->free_ops = op->next;
    *op = (struct op){.request = request};
    request_progress(request)->parts++;
    return op;
}

static void put_op(struct ring *ring, struct op *op)
{
    if (op->bounce) {
        op->bounce->next = ring->free_bounces;
        ring->free_bounces = op->bounce;
    }
    op->next = ring->free_ops;
    ring->free_ops = op;
}

static bool issue_plain(struct ring *ring, struct block_request *request, enum op_kind kind,
                        uint64_t length)
{
    struct op *op = take_op(ring, request);
    if (!op)
        return false;
    struct request_progress *p = request_progress(request);
    op->kind = kind;
    op->offset = request->offset + p->issued;
    op->length = length;
    op->data = request->data ? (uint8_t *)request->data + p->issued : NULL;
    p->issued += length;
    issue(ring, op);
    return true;
}

static void aim_at_cover(struct op *op, enum op_kind kind)
{
    op->kind = kind;
    op->offset = op->cover_offset;
    op->length = op->cover_length;
    op->data = op->bounce->memory;
}

static void fill_bounce(struct op *op)
{
    if (op->part)
        memcpy(op->bounce->memory + op->skip, op->part, op->part_length);
    else
        memset(op->bounce->memory + op->skip, 0, op->part_length);
}

// The next part of at most `limit` bytes through a bounce buffer. A block written in part is read
// first.
static bool issue_bounced(struct ring *ring, struct block_request *request, uint64_t limit)
{
    struct op *op = ring->free_bounces ? take_op(ring, request) : NULL;
    if (!op)
        return false;
    struct request_progress *p = request_progress(request);
    uint64_t align = ring->disk.direct_align, at = request->offset + p->issued;
    bool write = request->op != BLOCK_READ, zeros = write && request->op != BLOCK_WRITE;
    op->bounce = ring->free_bounces;
    ring->free_bounces = op->bounce->next;
    op->cover_offset = round_down(at, align);
    op->skip = (uint32_t)(at - op->cover_offset);
    op->part_length = (uint32_t)MIN(limit, BOUNCE_SIZE - op->skip);
    op->cover_length = (uint32_t)round_up(op->skip + op->part_length, align);
    op->part = zeros ? NULL : (uint8_t *)request->data + p->issued;
    op->merging = write && op->cover_length != op->part_length;
    if (write && !op->merging)
        fill_bounce(op);
    aim_at_cover(op, write && !op->merging ? OP_WRITE : OP_READ);
    p->issued += op->part_length;
    issue(ring, op);
    return true;
}

static enum op_kind zero_kind(const struct ring *ring, const struct block_request *request)
{
    bool hole = !(request->op == BLOCK_ZERO && (request->flags & BLOCK_NO_HOLE));
    if (hole && ring->punch_works)
        return OP_PUNCH;
    // On a device, zeroing a range is the device's or the kernel's business, without our
    // transferring zeros.
    if (ring->range_works && (!hole || ring->disk.device))
        return OP_ZERO_RANGE;
    return OP_ZEROS;
}

static int write_inline(struct ring *ring, const void *data, size_t length, uint64_t offset)
{
    int64_t since = store_enter(&ring->store);
    int r = file_pwrite(ring->disk.fd, data, length, offset);
    store_leave(&ring->store, since);
    return r;
}

static bool issue_transfer(struct ring *ring, struct block_request *request)
{
    struct request_progress *p = request_progress(request);
    uint64_t at = request->offset + p->issued, left = request->length - p->issued;
    uintptr_t memory = (uintptr_t)request->data + p->issued;
    if (((at | left | memory) & (ring->disk.direct_align - 1)) != 0)
        return issue_bounced(ring, request, left);
    return issue_plain(ring, request, request->op == BLOCK_READ ? OP_READ : OP_WRITE, left);
}

// Whole units are zeroed by the store, what sticks out at either end is written.
static bool issue_zero(struct ring *ring, struct block_request *request)
{
    struct request_progress *p = request_progress(request);
    uint64_t unit = MAX(ring->disk.zero_align, ring->disk.direct_align);
    uint64_t at = request->offset + p->issued, left = request->length - p->issued;
    uint64_t whole = at % unit == 0 ? round_down(left, unit) : 0;
    if (whole > 0 && !(unit == 1 && left < SMALL_ZERO))
        return issue_plain(ring, request, zero_kind(ring, request), whole);
    uint64_t edge = unit == 1 ? left : MIN(left, round_up(at + 1, unit) - at);
    if (ring->disk.direct_align > 1)
        return issue_bounced(ring, request, edge);
    int r = write_inline(ring, ring->zeros, edge, at);
    if (r < 0 && p->status == 0)
        p->status = r;
    p->issued += edge;
    return true;
}

// ---- what is done at once

// Whether a large read lies in a hole. Reading it would fill the page cache with zeros, which costs a hundred times what
// asking does: a first mirror reads all of a volume that is mostly empty.
static bool reads_hole(const struct ring *ring, const struct block_request *request)
{
    unsigned flags = 0;
    uint64_t length = 0;
    if (request->length < LARGE_READ)
        return false;
    int64_t since = awake_pause(ring->store.awake);
    disk_extent(&ring->disk, request->offset, request->length, &flags, &length);
    awake_again(ring->store.awake, since);
    return (flags & STORE_EXTENT_ZERO) && length == request->length;
}

// As do_inline(); the ring may have to do the rest only.
static int read_cached(struct ring *ring, struct block_request *request)
{
    if (reads_hole(ring, request)) {
        request->zeros = request->flags & BLOCK_TELL_ZEROS;
        if (!request->zeros)
            memset(request->data, 0, request->length);
        request_progress(request)->issued = request->length;
        return 0;
    }
    struct iovec iov = {request->data, request->length};
    ssize_t n = preadv2(ring->disk.fd, &iov, 1, (off_t)request->offset, RWF_NOWAIT);
    if (n < 0) {
        if (errno == EOPNOTSUPP || errno == EINVAL)
            ring->cached_reads = false;
        return 1;
    }
    if (n == 0)
        return -EIO; // the file has been cut short behind our back
    request_progress(request)->issued = (uint64_t)n;
    return (uint64_t)n == request->length ? 0 : 1;
}

// As far as this turn goes: 0 or -errno when the request is done, -EAGAIN when it goes on in the
// next turn.
static int write_pieces(struct ring *ring, struct block_request *request)
{
    struct request_progress *p = request_progress(request);
    while (p->issued < request->length) {
        if (ring->inline_left == 0)
            return -EAGAIN;
        uint64_t piece = MIN(MIN(request->length - p->issued, PIECE), ring->inline_left);
        int r = write_inline(ring, (uint8_t *)request->data + p->issued, piece,
                             request->offset + p->issued);
        if (r < 0)
            return r == -EAGAIN ? -EIO : r;
        p->issued += piece;
        ring->unsynced += piece;
        ring->inline_left -= piece;
    }
    return 0;
}

// 0 or -errno when the request is done, -EAGAIN when the turn is over before it, 1 when the ring
// must do it.
static int do_inline(struct ring *ring, struct block_request *request)
{
    if (ring->disk.direct_align > 1)
        return 1;
    if (request->op == BLOCK_WRITE)
        return write_pieces(ring, request);
    if (request->op == BLOCK_READ && ring->cached_reads)
        return read_cached(ring, request);
    return 1;
}

// ---- the turn: take completions, start requests, submit once

// Starts the request at the head of the queue; false when it must wait for an op or for the next
// turn.
static bool start_head(struct ring *ring)
{
    struct block_request *request = ring->queued.head;
    struct request_progress *p = request_progress(request);
    int r = p->parts == 0 ? store_refusal(&ring->store, request) : 1;
    if (r == 0 && request->op == BLOCK_FLUSH) {
        request_push(&ring->flushes, request_pop(&ring->queued));
        return true;
    }
    if (r == 0 && request->length > 0)
        r = do_inline(ring, request);
    if (r == -EAGAIN) {
        arm_wake(ring);
        return false;
    }
    if (r <= 0) {
        (void)request_pop(&ring->queued);
        request->done(request, r);
        return true;
    }
    bool transfer = request->op == BLOCK_READ || request->op == BLOCK_WRITE;
    while (p->issued < request->length) {
        if (!(transfer ? issue_transfer(ring, request) : issue_zero(ring, request)))
            return false;
    }
    (void)request_pop(&ring->queued);
    if (p->parts == 0) // the last part was done at once, and the others have ended
        request->done(request, p->status);
    return true;
}

static void start_queued(struct ring *ring)
{
    for (unsigned n = 0; ring->queued.head; n++) {
        if (n == TURN_REQUESTS) {
            arm_wake(ring);
            return;
        }
        if (!start_head(ring))
            return;
    }
}

static void end_part(struct ring *ring, struct op *op, int status)
{
    struct block_request *request = op->request;
    put_op(ring, op);
    if (request_part_ended(request, status))
        request->done(request, request_progress(request)->status);
}

static bool no_such_zeroing(struct ring *ring, struct op *op, int res)
{
    if ((op->kind != OP_PUNCH && op->kind != OP_ZERO_RANGE) ||
        (res != -EOPNOTSUPP && res != -ENOSYS && res != -EINVAL))
        return false;
    *(op->kind == OP_PUNCH ? &ring->punch_works : &ring->range_works) = false;
    op->kind = zero_kind(ring, op->request);
    if (op->kind == OP_ZEROS)
        ring->store.block.zero_is_fast = false;
    return true;
}

// The transfer of an op is complete: true when a second one (the write after the read) has been
// issued.
static bool next_step(struct ring *ring, struct op *op)
{
    if (!op->bounce)
        return false;
    if (op->merging) {
        op->merging = false;
        fill_bounce(op);
        aim_at_cover(op, OP_WRITE);
        issue(ring, op);
        return true;
    }
    if (op->kind == OP_READ)
        memcpy(op->part, op->bounce->memory + op->skip, op->part_length);
    return false;
}

static void op_completed(struct ring *ring, struct op *op, int res)
{
    bool transfer = op->kind <= OP_ZEROS;
    if (res == -EINTR || res == -EAGAIN || no_such_zeroing(ring, op, res)) {
        issue(ring, op);
        return;
    }
    if (res < 0 || (transfer && res == 0)) {
        end_part(ring, op, res < 0 ? res : -EIO);
        return;
    }
    if (transfer && (uint64_t)res < op->length) {
        op->offset += (uint64_t)res;
        op->length -= (uint64_t)res;
        op->data = op->data ? op->data + res : NULL;
        issue(ring, op);
        return;
    }
    if (!next_step(ring, op))
        end_part(ring, op, 0);
}

static void sync_completed(struct ring *ring, int res)
{
    struct request_queue done = ring->syncing;
    ring->syncing = (struct request_queue){0};
    ring->sync_ns = clock_boot_ns() - ring->sync_began_ns;
    if (res < 0 && ring->store.failed_flush == 0)
        ring->store.failed_flush = res;
    if (ring->store.failed_flush < 0) {
        // Those that wait for the next sync are lost as well: it would prove nothing.
        struct block_request *waiting;
        while ((waiting = request_pop(&ring->flushes)))
            request_push(&done, waiting);
    }
    struct block_request *request;
    while ((request = request_pop(&done)))
        request->done(request, ring->store.failed_flush);
}

static void take_completions(struct ring *ring)
{
    if (ring->synced_here) {
        ring->synced_here = false;
        sync_completed(ring, ring->synced_status);
    }
    struct io_uring_cqe *cqe;
    while (io_uring_peek_cqe(&ring->io, &cqe) == 0) {
        void *tag = io_uring_cqe_get_data(cqe);
        int res = cqe->res;
        io_uring_cqe_seen(&ring->io, cqe);
        ring->out--;
        if (tag == &wake_tag) {
            ring->wake_armed = false;
            continue;
        }
        store_count(&ring->store, -1);
        if (tag == &sync_tag)
            sync_completed(ring, res);
        else
            op_completed(ring, tag, res);
    }
}

// Callbacks run in the first two steps only, so that whatever they submit is seen by a later step.
static void turn(struct ring *ring)
{
    if (ring->turning)
        return;
    ring->turning = true;
    ring->inline_left = TURN_BYTES;
    take_completions(ring);
    start_queued(ring);
    if (!ring->sync_when_told)
        start_sync(ring);
    submit_all(ring);
    ring->turning = false;
}

static void ring_submit(struct block *block, struct block_request *request)
{
    struct ring *ring = ring_of(store_of(block));
    ENSURE(!ring->closing);
    ENSURE(request_fits(request, block->size));
    *request_progress(request) = (struct request_progress){0};
    request_push(&ring->queued, request);
}

static void ring_kick(struct block *block)
{
    turn(ring_of(store_of(block)));
}

static const struct block_ops ring_block_ops = {.submit = ring_submit, .kick = ring_kick};

// ---- the store

static void ring_work(struct store *store)
{
    turn(ring_of(store));
}

// Invariant: what is delivered is delivered by turn(), whose caller has looked at the gate since.
static bool ring_sync(struct store *store, bool idle)
{
    struct ring *ring = ring_of(store);
    ENSURE(ring->sync_when_told && !ring->turning);
    bool brief = ring->out == 0 && ring->unsynced <= SHORT_SYNC_BYTES &&
                 ring->sync_ns <= SHORT_SYNC_NS;
    if (!idle || !brief) {
        start_sync(ring);
        submit_all(ring);
        return false;
    }
    if (!take_flushes(ring))
        return false;
    ring->unsynced = 0;
    int64_t since = store_enter(store);
    ring->synced_status = fdatasync(ring->disk.fd) < 0 ? -errno : 0;
    store_leave(store, since);
    ring->synced_here = true;
    ring->sync_ns = clock_boot_ns() - ring->sync_began_ns;
    return true;
}

static int ring_fd(const struct store *store)
{
    return ((const struct ring *)store)->io.ring_fd;
}

static int64_t ring_deadline(const struct store *store)
{
    return ((const struct ring *)store)->retry_ns;
}

static const char *ring_state_text(struct store *store)
{
    return store->failed_flush < 0 ? STORE_FAILED_FLUSH_TEXT : "ok";
}

static bool ring_is_up(const struct store *store)
{
    return true;
}

static void ring_extent(struct store *store, uint64_t offset, uint64_t length, unsigned *ret_flags,
                        uint64_t *ret_length)
{
    int64_t since = awake_pause(store->awake);
    disk_extent(&ring_of(store)->disk, offset, length, ret_flags, ret_length);
    awake_again(store->awake, since);
}

static void release(struct ring *ring)
{
    free(ring->bounce_memory);
    if (ring->zeros)
        (void)munmap(ring->zeros, ZEROS_SIZE);
    free(ring);
}

static void ring_free(struct store *store)
{
    struct ring *ring = ring_of(store);
    ENSURE(!ring->turning);
    ring->closing = ring->turning = true;
    take_completions(ring);
    while (ring->out > 0) {
        (void)io_uring_submit_and_wait(&ring->io, 1);
        take_completions(ring);
    }
    request_cancel_all(&ring->queued);
    request_cancel_all(&ring->flushes);
    io_uring_queue_exit(&ring->io);
    disk_close(&ring->disk);
    release(ring);
}

static const struct store_type ring_type = {
    .work = ring_work,
    .sync = ring_sync,
    .fd = ring_fd,
    .deadline = ring_deadline,
    .state_text = ring_state_text,
    .is_up = ring_is_up,
    .extent = ring_extent,
    .free = ring_free,
};

static int make_memory(struct ring *ring)
{
    ring->zeros = mmap(NULL, ZEROS_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring->zeros == MAP_FAILED) {
        ring->zeros = NULL;
        return -ENOMEM;
    }
    for (unsigned i = 0; i < OPS_MAX; i++) {
        ring->ops[i].next = ring->free_ops;
        ring->free_ops = &ring->ops[i];
    }
    if (ring->disk.direct_align == 1)
        return 0;
    ring->bounce_memory = aligned_alloc(65536, (size_t)BOUNCES * BOUNCE_SIZE);
    if (!ring->bounce_memory)
        return -ENOMEM;
    for (unsigned i = 0; i < BOUNCES; i++) {
        ring->bounces[i].memory = ring->bounce_memory + (size_t)i * BOUNCE_SIZE;
        ring->bounces[i].next = ring->free_bounces;
        ring->free_bounces = &ring->bounces[i];
    }
    return 0;
}

static int make_ring(struct ring *ring, const char *path, struct error *err)
{
    int r = make_memory(ring);
    if (r < 0)
        return error_sys(err, r, "cannot set up store %s", path);
    // Completions need not interrupt the owner; kernels before 5.19 do not know how.
    r = io_uring_queue_init(RING_ENTRIES, &ring->io, IORING_SETUP_COOP_TASKRUN);
    if (r == -EINVAL)
        r = io_uring_queue_init(RING_ENTRIES, &ring->io, 0);
    if (r < 0)
        return error_sys(err, r,
                         "store %s needs io_uring, which the kernel refuses (see sysctl "
                         "kernel.io_uring_disabled and seccomp filters)",
                         path);
    return 0;
}

int ring_open(const struct store_config *config, struct store **ret_store, struct error *err)
{
    struct ring *ring = calloc(1, sizeof(*ring));
    if (!ring)
        return error_sys(err, -ENOMEM, "cannot set up store %s", config->path);
    int r = disk_open(config, &ring->disk, err);
    if (r == 0) {
        r = make_ring(ring, config->path, err);
        if (r < 0)
            disk_close(&ring->disk);
    }
    if (r < 0) {
        release(ring);
        return r;
    }
    ring->store = (struct store){
        .block = {.ops = &ring_block_ops,
                  .size = ring->disk.size,
                  .block_size = ring->disk.direct_align,
                  .data_align = 1,
                  .zero_is_fast = ring->disk.zero_is_fast},
        .type = &ring_type,
        .kind = ring->disk.device ? STORE_DEVICE : STORE_FILE,
        .read_only = config->read_only,
        .awake = config->awake,
    };
    ring->retry_ns = INT64_MAX;
    ring->sync_when_told = config->sync_when_told;
    ring->cached_reads = ring->punch_works = ring->range_works = true;
    *ret_store = &ring->store;
    return 0;
}
