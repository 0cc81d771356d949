// SPDX-License-Identifier: Apache-2.0
// Requests, from the socket to queues/updates.
//
// In place: one call receives many requests into the ring of the unsafe queue, headers inline; a
// payload stays where it came, and of the last one, which came only in part, the rest is received
// right behind, together with what follows. Apart, where the store wants payloads aligned: a header
// into `carry`, then its payload into an aligned place.
//
// Whatever keeps a request from being taken (none free, no buffer to read into, the ring full)
// stalls the client: the request's header goes to `carry`, what was received behind it becomes a
// chunk of the ring, `stash`, and nothing is received until nbd_receive_again() has used up both.
// From there payloads are copied, once.
//
// Invariants: a client in NBD_SERVING has at most one of `receiving`, `discard`, and (`carry` full
// or a `stash`).
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/base/cleanup.h"
#include "common/intercept/nbd_private.h"

struct header {
    uint32_t magic;
    uint16_t flags, command;
    uint64_t cookie, offset;
    uint32_t length;
};

static struct header decode(const uint8_t *at)
{
    return (struct header){
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

static bool check_range(const struct nbd_conn *c, const struct header *h, struct fault *ret)
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

static bool check(const struct nbd_conn *c, const struct header *h, struct fault *ret)
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

static void submit(struct nbd_request *request)
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

enum taken {
    TAKEN,         // it needs nothing more
    TAKEN_PAYLOAD, // a write: its payload is to be placed
    TAKEN_REFUSED, // a write, but its payload is to be thrown away
    TAKEN_NOT,     // nothing to take it with: stall
    TAKEN_END,     // the client's last word
};

static void end_with(struct nbd_conn *c, const struct header *h)
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

static bool is_end(const struct header *h)
{
    return h->magic != NBD_REQUEST_MAGIC || h->command == NBD_CMD_DISC ||
           (h->command == NBD_CMD_WRITE && h->length > NBD_DISCARD_MAX);
}

static void fill(struct nbd_request *request, const struct header *h)
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
static bool get_buffer(struct nbd_request *request, const struct header *h)
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

static enum taken take(struct nbd_conn *c, const struct header *h, struct nbd_request **ret_request)
{
    struct fault fault;
    if (is_end(h)) {
        end_with(c, h);
        return TAKEN_END;
    }
    struct nbd_request *request = nbd_request_take(c);
    if (!request)
        return TAKEN_NOT;
    request->cookie = h->cookie;
    request->command = h->command;
    if (!check(c, h, &fault)) {
        nbd_reply_error(request, fault.error, fault.text);
        return h->command == NBD_CMD_WRITE && h->length > 0 ? TAKEN_REFUSED : TAKEN;
    }
    fill(request, h);
    if (!get_buffer(request, h)) {
        nbd_request_release(request);
        return TAKEN_NOT;
    }
    *ret_request = request;
    if (h->command == NBD_CMD_WRITE)
        return TAKEN_PAYLOAD;
    if (h->command == NBD_CMD_BLOCK_STATUS)
        extents(request, h->flags & NBD_REQ_ONE);
    else
        submit(request);
    return TAKEN;
}

// ---- Payloads ----

// `chunk` is the place of the payload, of which `bytes` are there.
static void payload_begins(struct nbd_request *request, uint64_t chunk, uint32_t bytes)
{
    struct nbd_conn *c = request->conn;
    request->update.chunk = chunk;
    if (bytes == request->update.length) {
        submit(request);
    } else {
        c->receiving = request;
        c->received = bytes;
    }
}

static void payload_goes_on(struct nbd_conn *c, uint32_t bytes)
{
    struct nbd_request *request = c->receiving;
    c->received += bytes;
    if (c->received < request->update.length)
        return;
    c->receiving = NULL;
    submit(request);
}

static uint32_t payload_left(const struct nbd_conn *c)
{
    return c->receiving ? c->receiving->update.length - c->received : 0;
}

// ---- Stalling ----

static void stall(struct nbd_conn *c)
{
    if (!c->stalled)
        c->nbd->stalled++;
    c->stalled = true;
    nbd_conn_interest(c);
}

static void unstall(struct nbd_conn *c)
{
    if (c->stalled)
        c->nbd->stalled--;
    c->stalled = false;
    nbd_conn_interest(c);
}

// The request of this header cannot be taken now; `bytes` were received behind it, at the head of
// the ring.
static void stall_with(struct nbd_conn *c, const uint8_t *header, size_t bytes)
{
    memcpy(c->carry, header, NBD_REQUEST_HEADER);
    c->carry_bytes = NBD_REQUEST_HEADER;
    if (bytes > 0) {
        c->stash = unsafe_keep(c->nbd->unsafe, bytes);
        c->stash_at = 0;
        ENSURE(c->stash != UNSAFE_NO_CHUNK); // it was written to: there is memory
    }
    stall(c);
}

void nbd_receive_forget(struct nbd_conn *c)
{
    if (c->receiving) {
        unsafe_drop(c->nbd->unsafe, c->receiving->update.chunk);
        nbd_request_release(c->receiving);
        c->receiving = NULL;
    }
    if (c->stash != UNSAFE_NO_CHUNK)
        unsafe_drop(c->nbd->unsafe, c->stash);
    c->stash = UNSAFE_NO_CHUNK;
    c->carry_bytes = 0;
    if (c->stalled)
        c->nbd->stalled--;
    c->stalled = false;
}

// ---- Receiving ----

// Returns the bytes received; 0 when there are none, or the client is gone.
static size_t receive(struct nbd_conn *c, struct iovec *parts, unsigned count_parts)
{
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = count_parts};
    ssize_t n;
    do
        n = recvmsg(c->fd, &message, MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n > 0)
        return (size_t)n;
    if (n == 0 && c->carry_bytes == 0 && !c->receiving && c->discard == 0) {
        // It may still be listening.
        nbd_note(c->nbd, c->listener, "client %u (process %d) has left", c->id, (int)c->pid);
        nbd_conn_finish(c);
    } else if (n == 0) {
        nbd_conn_drop(c, "has vanished in the middle of a request");
    } else if (errno != EAGAIN) {
        nbd_conn_drop(c, "has vanished");
    }
    return 0;
}

// ---- In place ----

// One request at the head of the ring, of which `bytes` are there. Returns how many of them it
// takes; 0 ends the turn.
static size_t parse_one(struct nbd_conn *c, const uint8_t *at, size_t bytes)
{
    struct unsafe *unsafe = c->nbd->unsafe;
    struct header h = decode(at);
    struct nbd_request *request;
    size_t behind = bytes - NBD_REQUEST_HEADER;
    uint32_t part = (uint32_t)MIN(behind, h.length);
    enum taken taken = take(c, &h, &request);
    if (taken == TAKEN_END)
        return 0;
    unsafe_skip(unsafe, NBD_REQUEST_HEADER);
    if (taken == TAKEN_NOT) {
        stall_with(c, at, behind);
        return 0;
    }
    if (taken == TAKEN)
        return NBD_REQUEST_HEADER;
    if (taken == TAKEN_REFUSED) {
        unsafe_skip(unsafe, part);
        c->discard = h.length - part;
        return NBD_REQUEST_HEADER + part;
    }
    uint64_t chunk = unsafe_keep(unsafe, h.length);
    if (chunk == UNSAFE_NO_CHUNK) {
        nbd_request_release(request);
        stall_with(c, at, behind);
        nbd_retry_soon(c->nbd);
        return 0;
    }
    payload_begins(request, chunk, part);
    return NBD_REQUEST_HEADER + part;
}

static void parse(struct nbd_conn *c, const uint8_t *at, size_t bytes)
{
    while (bytes >= NBD_REQUEST_HEADER) {
        size_t taken = parse_one(c, at, bytes);
        if (taken == 0)
            return;
        at += taken;
        bytes -= taken;
    }
    memcpy(c->carry, at, bytes);
    c->carry_bytes = (uint32_t)bytes;
}

static void receive_in_place(struct nbd_conn *c)
{
    struct iovec parts[2];
    unsigned used = 0;
    size_t room, rest = payload_left(c);
    if (rest > 0)
        parts[used++] = (struct iovec){
            unsafe_chunk_data(c->nbd->unsafe, c->receiving->update.chunk) + c->received, rest};
    uint8_t *head = unsafe_head(c->nbd->unsafe, 1, &room);
    if (!head && rest == 0) {
        stall(c);
        return;
    }
    uint32_t carried = c->carry_bytes;
    if (head) {
        memcpy(head, c->carry, carried);
        parts[used++] = (struct iovec){head + carried, c->nbd->receive_bytes - carried};
    }
    size_t bytes = receive(c, parts, used);
    if (bytes == 0)
        return;
    if (rest > 0)
        payload_goes_on(c, (uint32_t)MIN(bytes, rest));
    if (bytes <= rest)
        return;
    c->carry_bytes = 0;
    parse(c, head, carried + bytes - rest);
}

// ---- Apart ----

static uint32_t stash_left(const struct nbd_conn *c)
{
    if (c->stash == UNSAFE_NO_CHUNK)
        return 0;
    return unsafe_chunk_size(c->nbd->unsafe, c->stash) - c->stash_at;
}

static void stash_take(struct nbd_conn *c, void *to, uint32_t bytes)
{
    struct unsafe *unsafe = c->nbd->unsafe;
    if (bytes > 0 && to)
        memcpy(to, unsafe_chunk_data(unsafe, c->stash) + c->stash_at, bytes);
    c->stash_at += bytes;
    if (stash_left(c) > 0 || c->stash == UNSAFE_NO_CHUNK)
        return;
    unsafe_drop(unsafe, c->stash);
    c->stash = UNSAFE_NO_CHUNK;
}

// Gives a write its place, and what the stash has of its payload. Returns false when there is no
// room.
static bool place_payload(struct nbd_request *request)
{
    struct nbd_conn *c = request->conn;
    size_t room;
    if (!unsafe_head(c->nbd->unsafe, c->listener->data_align, &room))
        return false;
    uint64_t chunk = unsafe_keep(c->nbd->unsafe, request->update.length);
    if (chunk == UNSAFE_NO_CHUNK) {
        nbd_retry_soon(c->nbd);
        return false;
    }
    uint32_t part = MIN(stash_left(c), request->update.length);
    stash_take(c, unsafe_chunk_data(c->nbd->unsafe, chunk), part);
    payload_begins(request, chunk, part);
    return true;
}

// The request whose header is in `carry`. Returns false when there is nothing more to do now.
static bool take_carried(struct nbd_conn *c)
{
    struct header h = decode(c->carry);
    struct nbd_request *request;
    enum taken taken = take(c, &h, &request);
    if (taken == TAKEN_END)
        return false;
    if (taken == TAKEN_PAYLOAD && !place_payload(request)) {
        nbd_request_release(request);
        taken = TAKEN_NOT;
    }
    if (taken == TAKEN_NOT) {
        stall(c);
        return false;
    }
    c->carry_bytes = 0;
    if (taken == TAKEN_REFUSED) {
        uint32_t part = MIN(stash_left(c), h.length);
        stash_take(c, NULL, part);
        c->discard = h.length - part;
    }
    return true;
}

// Uses up what was received and could not be taken.
static void take_stash(struct nbd_conn *c)
{
    for (;;) {
        uint32_t part = MIN(stash_left(c), NBD_REQUEST_HEADER - c->carry_bytes);
        stash_take(c, c->carry + c->carry_bytes, part);
        c->carry_bytes += part;
        if (c->carry_bytes < NBD_REQUEST_HEADER || !take_carried(c))
            return;
    }
}

static void receive_apart(struct nbd_conn *c)
{
    struct iovec part = {c->carry + c->carry_bytes, NBD_REQUEST_HEADER - c->carry_bytes};
    if (c->receiving)
        part = (struct iovec){unsafe_chunk_data(c->nbd->unsafe, c->receiving->update.chunk) +
                                  c->received,
                              payload_left(c)};
    size_t bytes = receive(c, &part, 1);
    if (bytes == 0)
        return;
    if (c->receiving) {
        payload_goes_on(c, (uint32_t)bytes);
        return;
    }
    c->carry_bytes += (uint32_t)bytes;
    if (c->carry_bytes == NBD_REQUEST_HEADER)
        (void)take_carried(c);
}

// ---- The turn of one client ----

static void receive_discarded(struct nbd_conn *c)
{
    struct iovec part = {c->nbd->trash, MIN(c->discard, sizeof(c->nbd->trash))};
    c->discard -= (uint32_t)receive(c, &part, 1);
}

void nbd_receive(struct nbd_conn *c)
{
    if (c->discard > 0)
        receive_discarded(c);
    else if (c->listener->data_align > 1)
        receive_apart(c);
    else
        receive_in_place(c);
}

void nbd_receive_again(struct nbd_conn *c)
{
    size_t room;
    if (!unsafe_head(c->nbd->unsafe, 1, &room))
        return;
    unstall(c);
    take_stash(c);
}
