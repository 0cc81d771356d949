// SPDX-License-Identifier: Apache-2.0
// Before the replica of an end that was active is overwritten: what the range of a record holds is read and kept in the
// salvage, and the record is started when that is durable.
//
//   READS --(each piece that salvage_next() names)--> SYNCS --(durable)--> started
//     |  the salvage is full, or failed, or there is none                 ^
//     +--------> WAITS --(replica_salvage() gives another one)--> READS --+
//
// Many records are at it at once and share the syncs. Nothing that overlaps one of them is started meanwhile: ranges are
// rounded out to the salvage's blocks while there is something to salvage in a volume.
#include <errno.h>
#include <stdlib.h>

#include "common/base/cleanup.h"
#include "queues/replica_internal.h"

#define BUFFER_ALIGN 4096U

static void keep_on(struct replica *r, struct op *op);

static bool may_go_on(const struct replica *r)
{
    return r->salvage && !r->salvage_refused && !r->stopped && !r->apply_error;
}

// The salvage takes nothing more. Who finishes cannot wait for an operator.
static void refuse(struct replica *r, int rc, const struct error *err)
{
    if (r->salvage_refused || r->stopped)
        return;
    r->salvage_refused = rc;
    r->salvage_error = *err;
    replica_raise(r, REPLICA_SALVAGE_FULL, r->applied, 0, NULL);
}

static void piece_done(struct block_request *request, int status)
{
    struct op *op = request->owner;
    struct replica *r = op->replica;
    struct error err = {0};

    CLEANUP_FREE void *data = TAKE_PTR(op->piece_data);
    if (!may_go_on(r)) {
        op->keeping = KEEPING_WAITS;
        replica_run(r);
        return;
    }
    int rc = status < 0 ? salvage_give_up(r->salvage, op->object, op->piece, op->piece_length,
                                          status, &err)
                        : salvage_keep(r->salvage, op->object, op->piece, op->piece_length, data,
                                       &err);
    if (rc == 0) {
        op->kept = salvage_last(r->salvage);
        keep_on(r, op);
    } else {
        op->keeping = KEEPING_WAITS;
        refuse(r, rc, &err);
    }
    replica_run(r);
}

static void read_piece(struct replica *r, struct op *op)
{
    struct block *block = r->config.volumes[op->object];
    size_t align = MAX(block->data_align, BUFFER_ALIGN);

    if (posix_memalign(&op->piece_data, align, op->piece_length)) {
        struct error err = {0};
        (void)error_sys(&err, -ENOMEM, "salvage");
        op->piece_data = NULL;
        op->keeping = KEEPING_WAITS;
        refuse(r, -ENOMEM, &err);
        return;
    }
    op->request = (struct block_request){
        .op = BLOCK_READ,
        .offset = op->piece,
        .length = op->piece_length,
        .data = op->piece_data,
        .done = piece_done,
        .owner = op,
    };
    op->keeping = KEEPING_READS;
    r->kick[op->object] = true;
    block_submit(block, &op->request);
}

// The next piece of its range; when there is none, it waits for what is kept to be durable.
static void keep_on(struct replica *r, struct op *op)
{
    if (!may_go_on(r)) {
        op->keeping = KEEPING_WAITS;
        return;
    }
    if (salvage_next(r->salvage, op->object, op->first, op->end, &op->piece, &op->piece_length)) {
        read_piece(r, op);
        return;
    }
    if (op->kept > salvage_durable(r->salvage)) {
        op->keeping = KEEPING_SYNCS;
        return;
    }
    op->keeping = KEEPING_NOTHING;
    replica_op_start(r, op);
}

bool replica_keep_first(struct replica *r, struct op *op)
{
    if (!replica_salvages(r, op->object) || op->record->type == RECORD_CHECK)
        return false;
    keep_on(r, op);
    return true;
}

static struct op *op_at(struct replica *r, unsigned i)
{
    return &r->ops[(r->op_head + i) % REPLICA_FLIGHT_MAX];
}

// What is kept durably is started. Returns how many have still to wait for that.
static unsigned start_kept(struct replica *r)
{
    unsigned waiting = 0;
    for (unsigned i = 0; i < r->op_count; i++) {
        struct op *op = op_at(r, i);
        if (op->keeping != KEEPING_SYNCS)
            continue;
        if (op->kept <= salvage_durable(r->salvage)) {
            op->keeping = KEEPING_NOTHING;
            replica_op_start(r, op);
        } else {
            waiting++;
        }
    }
    return waiting;
}

static void sync_done(void *arg, int status)
{
    struct replica *r = arg;
    struct error err = {0};

    // After a failure nothing of it counts: it is kept anew in the next salvage.
    for (unsigned i = 0; i < r->op_count && status < 0; i++)
        if (op_at(r, i)->keeping == KEEPING_SYNCS)
            op_at(r, i)->keeping = KEEPING_WAITS;
    if (status < 0) {
        (void)error_sys(&err, status, "the salvage cannot be made durable");
        refuse(r, status, &err);
    }
    replica_run(r);
}

void replica_salvage_step(struct replica *r)
{
    bool waits = false;
    if (r->stopped || r->apply_error)
        return;
    if (start_kept(r) > 0 && !salvage_syncing(r->salvage))
        salvage_sync(r->salvage, sync_done, r);
    for (unsigned i = 0; i < r->op_count; i++)
        waits |= op_at(r, i)->keeping == KEEPING_WAITS;
    if (waits && r->finishing && r->salvage_refused)
        replica_fail_apply(r, r->salvage_refused, &r->salvage_error);
}

bool replica_salvage_busy(const struct replica *r)
{
    bool busy = r->salvage && salvage_syncing(r->salvage);
    for (unsigned i = 0; i < r->op_count; i++) {
        const struct op *op = &r->ops[(r->op_head + i) % REPLICA_FLIGHT_MAX];
        busy |= op->keeping == KEEPING_READS ||
                (op->keeping == KEEPING_SYNCS && !r->stopped && !r->apply_error);
    }
    return busy;
}

void replica_salvage(struct replica *r, uint64_t objects, struct salvage *salvage)
{
    ENSURE(!replica_salvage_busy(r));
    r->salvage_objects = objects;
    r->salvage = salvage;
    if (salvage)
        r->salvage_refused = 0;
    for (unsigned i = 0; i < r->op_count; i++) {
        struct op *op = op_at(r, i);
        if (op->keeping == KEEPING_WAITS && salvage) {
            op->kept = 0; // what it kept in the former one is durable there, or asked for again
            keep_on(r, op);
        }
    }
    replica_run(r);
}

void replica_salvaged(struct replica *r, unsigned object)
{
    if (!replica_salvages(r, object))
        return;
    r->salvage_objects &= ~(UINT64_C(1) << object);
    if (!r->salvage_objects)
        replica_raise(r, REPLICA_SALVAGED, r->applied, (uint16_t)object, NULL);
}
