// SPDX-License-Identifier: Apache-2.0
// One request: checked, given what it needs, submitted, and what it ended with. No byte is received
// here.
//
// Whatever a request breaks is answered with its error, and the connection goes on; only what makes
// the stream of bytes meaningless, or would take forever to skip, ends it.
#include <errno.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/intercept/nbd_private.h"

// ---- Places for requests ----

static struct nbd_request *request_new(struct nbd_conn *c)
{
    struct nbd_request *request = c->free;
    if (!request)
        return NULL;
    c->free = request->next;
    c->busy++;
    request->buffer.data = NULL;
    return request;
}

void nbd_request_release(struct nbd_request *request)
{
    struct nbd_conn *c = request->conn;
    if (request->buffer.data) {
        nbd_buffers_put(&c->nbd->buffers, &c->held, request->buffer);
        if (c->nbd->stalled > 0)
            nbd_wake(c->nbd);
    }
    request->next = c->free;
    c->free = request;
    ENSURE(c->busy > 0);
    c->busy--;
    if (c->stalled && c->busy <= NBD_REQUESTS_MAX / 2)
        nbd_wake(c->nbd);
}

// ---- Reading the header ----

struct nbd_header nbd_request_decode(const uint8_t *at)
{
    return (struct nbd_header){
        .magic = be32_get(at),
        .flags = be16_get(at + 4),
        .command = be16_get(at + 6),
        .cookie = be64_get(at + 8),
        .offset = be64_get(at + 16),
        .length = be32_get(at + 24),
    };
}

// ---- Checking ----

static uint16_t flags_allowed(const struct nbd_conn *c, uint16_t command)
{
    switch (command) {
    case NBD_CMD_READ:
        return c->structured ? NBD_FUA | NBD_DF : NBD_FUA;
    case NBD_CMD_WRITE_ZEROES:
        return NBD_FUA | NBD_NO_HOLE | NBD_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        return NBD_FUA | NBD_REQ_ONE;
    default:
        return NBD_FUA; // it means nothing to a flush, and does no harm
    }
}

struct fault {
    enum nbd_error error;
    const char *text;
};

static bool check_range(const struct nbd_conn *c, const struct nbd_header *h, struct fault *ret)
{
    uint64_t size = c->listener->size, mask = c->listener->data_align - 1;
    bool writes = h->command == NBD_CMD_WRITE || h->command == NBD_CMD_WRITE_ZEROES;
    bool payload = h->command == NBD_CMD_WRITE || h->command == NBD_CMD_READ;
    if (h->length == 0)
        *ret = (struct fault){NBD_EINVAL, "a request for no bytes"};
    else if (payload && h->length > c->nbd->payload_max)
        *ret = (struct fault){NBD_EINVAL, "more bytes than one request may have"};
    else if (h->offset > size || h->length > size - h->offset)
        *ret = (struct fault){writes ? NBD_ENOSPC : NBD_EINVAL, "beyond the end of the volume"};
    else if ((h->offset | h->length) & mask)
        *ret = (struct fault){NBD_EINVAL, "not aligned to the smallest block"};
    else
        return true;
    return false;
}

static bool is_fast(const struct nbd_conn *c)
{
    const struct nbd *nbd = c->nbd;
    return nbd->ops.zero_is_fast && nbd->ops.zero_is_fast(nbd->user, c->listener->object);
}

static bool check(const struct nbd_conn *c, const struct nbd_header *h, struct fault *ret)
{
    switch (h->command) {
    case NBD_CMD_READ:
    case NBD_CMD_WRITE:
    case NBD_CMD_FLUSH:
    case NBD_CMD_TRIM:
    case NBD_CMD_WRITE_ZEROES:
        break;
    case NBD_CMD_BLOCK_STATUS:
        if (c->allocation)
            break;
        *ret = (struct fault){NBD_EINVAL, "no metadata context was agreed to"};
        return false;
    default:
        *ret = (struct fault){NBD_EINVAL, "this command is not known here"};
        return false;
    }
    if (h->flags & ~flags_allowed(c, h->command)) {
        *ret = (struct fault){NBD_EINVAL, "this flag is not known here"};
        return false;
    }
    if (h->command != NBD_CMD_FLUSH && !check_range(c, h, ret))
        return false;
    if ((h->flags & NBD_FAST_ZERO) && !is_fast(c)) {
        *ret = (struct fault){NBD_ENOTSUP, "zeros are not faster than writing here"};
        return false;
    }
    return true;
}

// ---- Submitting ----

static void count(struct nbd_stat *stat, const struct nbd_request *request)
{
    switch (request->command) {
    case NBD_CMD_READ:
        stat->reads++;
        stat->read_bytes += request->update.length;
        break;
    case NBD_CMD_FLUSH:
        stat->flushes++;
        break;
    default:
        stat->writes++;
        stat->written_bytes += request->update.length;
    }
}

static void answered(struct update *update, int status)
{
    struct nbd_request *request = (struct nbd_request *)update;
    struct nbd_conn *c = request->conn;
    ENSURE(c->under_way > 0);
    c->under_way--;
    if (c->state == NBD_GONE) {
        nbd_request_release(request);
    } else if (status == -ESHUTDOWN || status == -ECANCELED) {
        // Not the volume's fault: a client that finds its connection closed asks the next daemon.
        nbd_request_release(request);
        nbd_conn_finish(c);
        nbd_conn_mark(c);
    } else if (status < 0) {
        nbd_reply_status(request, status);
    } else {
        count(&c->nbd->stat, request);
        if (request->command == NBD_CMD_READ)
            nbd_reply_data(request, update->length);
        else
            nbd_reply_done(request);
    }
}

void nbd_request_submit(struct nbd_request *request)
{
    struct nbd_conn *c = request->conn;
    c->under_way++;
    updates_submit(c->nbd->updates, &request->update);
}

// ---- Block status ----

static void extents(struct nbd_request *request, bool one)
{
    struct nbd_conn *c = request->conn;
    const struct nbd *nbd = c->nbd;
    uint64_t offset = request->update.offset, left = request->update.length;
    uint8_t *at = request->buffer.data;
    unsigned found = 0;
    while (left > 0 && found < (one ? 1 : NBD_EXTENTS_MAX)) {
        bool hole = false, zero = false;
        uint64_t length = left;
        if (nbd->ops.extent)
            nbd->ops.extent(nbd->user, c->listener->object, offset, left, &hole, &zero, &length);
        ENSURE(length > 0 && length <= left);
        at = be32_put(at, (uint32_t)length);
        at = be32_put(at, (hole ? NBD_STATE_HOLE : 0) | (zero ? NBD_STATE_ZERO : 0));
        offset += length;
        left -= length;
        found++;
    }
    nbd_reply_extents(request, found);
}

// ---- One request ----

static void end_with(struct nbd_conn *c, const struct nbd_header *h)
{
    if (h->magic != NBD_REQUEST_MAGIC) {
        nbd_conn_drop(c, "is dropped: no request begins like this (%#x)", h->magic);
    } else if (h->command == NBD_CMD_DISC) {
        nbd_note(c->nbd, c->listener, "client %u (process %d) has left", c->id, (int)c->pid);
        nbd_conn_finish(c);
    } else {
        nbd_conn_drop(c, "is dropped: a write of %u bytes", h->length);
    }
}

static bool is_end(const struct nbd_header *h)
{
    return h->magic != NBD_REQUEST_MAGIC || h->command == NBD_CMD_DISC ||
           (h->command == NBD_CMD_WRITE && h->length > NBD_DISCARD_MAX);
}

static void fill(struct nbd_request *request, const struct nbd_header *h)
{
    static const enum update_op ops[] = {
        [NBD_CMD_READ] = UPDATE_READ,         [NBD_CMD_WRITE] = UPDATE_WRITE,
        [NBD_CMD_FLUSH] = UPDATE_FLUSH,       [NBD_CMD_TRIM] = UPDATE_DISCARD,
        [NBD_CMD_WRITE_ZEROES] = UPDATE_ZERO, [NBD_CMD_BLOCK_STATUS] = UPDATE_READ,
    };
    bool no_hole = h->flags & NBD_NO_HOLE, fua = h->flags & NBD_FUA;
    request->update = (struct update){
        .op = ops[h->command],
        .flags = (uint16_t)((no_hole ? UPDATE_NO_HOLE : 0) | (fua ? UPDATE_FUA : 0)),
        .object = request->conn->listener->object,
        .length = h->command == NBD_CMD_FLUSH ? 0 : h->length,
        .offset = h->command == NBD_CMD_FLUSH ? 0 : h->offset,
        .answer = answered,
        .owner = request,
    };
}

// A request that answers with data needs room for it.
static bool get_buffer(struct nbd_request *request, const struct nbd_header *h)
{
    struct nbd_conn *c = request->conn;
    uint32_t bytes = h->command == NBD_CMD_READ ? h->length : 8 * NBD_EXTENTS_MAX;
    if (h->command != NBD_CMD_READ && h->command != NBD_CMD_BLOCK_STATUS)
        return true;
    request->buffer = nbd_buffers_get(&c->nbd->buffers, &c->held, bytes);
    request->update.data = request->buffer.data;
    c->nbd->used_buffers = true;
    return request->buffer.data;
}

enum nbd_taken nbd_request_take(struct nbd_conn *c, const struct nbd_header *h,
                                struct nbd_request **ret_request)
{
    struct fault fault;
    if (is_end(h)) {
        end_with(c, h);
        return NBD_TAKEN_END;
    }
    struct nbd_request *request = request_new(c);
    if (!request)
        return NBD_TAKEN_NOT;
    request->cookie = h->cookie;
    request->command = h->command;
    if (!check(c, h, &fault)) {
        nbd_reply_error(request, fault.error, fault.text);
        return h->command == NBD_CMD_WRITE && h->length > 0 ? NBD_TAKEN_REFUSED : NBD_TAKEN;
    }
    fill(request, h);
    if (!get_buffer(request, h)) {
        nbd_request_release(request);
        return NBD_TAKEN_NOT;
    }
    *ret_request = request;
    if (h->command == NBD_CMD_WRITE)
        return NBD_TAKEN_PAYLOAD;
    if (h->command == NBD_CMD_BLOCK_STATUS)
        extents(request, h->flags & NBD_REQ_ONE);
    else
        nbd_request_submit(request);
    return NBD_TAKEN;
}
