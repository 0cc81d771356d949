// SPDX-License-Identifier: Apache-2.0
// Bytes from the socket: cut into requests, payloads brought to their places.
//
// In place: one call receives many requests into the ring of the unsafe queue, headers inline; a
// payload stays where it came, and of the last one, which came only in part, the rest is received
// right behind, together with what follows. Apart, where the store wants payloads aligned: a header
// into `carry`, then its payload into an aligned place.
//
// Whatever keeps a request from being taken (no place for it, no buffer to read into, the ring
// full) stalls the client: the request's header goes to `carry`, what was received behind it to
// `stash`, and nothing is received until nbd_receive_again() has used up both. From there payloads
// are copied, once.
//
// The ring is given back in its order, so a payload that does not get on (its client is frozen)
// would in the end hold up everybody. When the ring is full and it has stood still for NBD_ASIDE_NS
// it goes to memory of its own, `aside`, and back into the ring when it is complete.
//
// Invariants: a client in NBD_SERVING has at most one of `receiving`, `discard`, and (`carry` full
// or a `stash`); nothing but `receiving` without `aside` holds a place in the ring.
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/intercept/nbd_private.h"

// ---- Stalling ----

// Until there is room in the ring, a buffer or a place for a request; `retry`: nobody will tell,
// try from time to time.
static void stall(struct nbd_conn *c, bool retry)
{
    if (!c->stalled)
        c->nbd->stalled++;
    c->stalled = true;
    if (retry)
        nbd_retry_soon(c->nbd);
    nbd_conn_interest(c);
}

static void unstall(struct nbd_conn *c)
{
    if (c->stalled)
        c->nbd->stalled--;
    c->stalled = false;
    nbd_conn_interest(c);
}

// Room at the head of the ring, or the client is stalled. nbd_room() tells of room; the retry is
// for payloads that stand still.
static uint8_t *head_or_stall(struct nbd_conn *c, uint32_t align)
{
    size_t room;
    uint8_t *head = unsafe_head(c->nbd->unsafe, align, &room);
    if (!head)
        stall(c, true);
    return head;
}

// The request of this header cannot be taken now; `bytes` were received behind it.
static void stall_with(struct nbd_conn *c, const uint8_t *header, size_t bytes, bool retry)
{
    memcpy(c->carry, header, NBD_REQUEST_HEADER);
    c->carry_bytes = NBD_REQUEST_HEADER;
    ENSURE(bytes <= sizeof(c->stash) && c->stash_at == c->stash_end);
    memcpy(c->stash, header + NBD_REQUEST_HEADER, bytes);
    c->stash_at = 0;
    c->stash_end = (uint32_t)bytes;
    stall(c, retry);
}

static void forget_aside(struct nbd_conn *c)
{
    free(c->aside);
    c->aside = NULL;
}

void nbd_receive_forget(struct nbd_conn *c)
{
    if (c->receiving) {
        unsafe_drop(c->nbd->unsafe, c->receiving->update.chunk);
        nbd_request_release(c->receiving);
        c->receiving = NULL;
    }
    forget_aside(c);
    c->stash_at = c->stash_end = c->carry_bytes = 0;
    if (c->stalled)
        c->nbd->stalled--;
    c->stalled = false;
}

// ---- Payloads ----

// `chunk` is the place of the payload, of which `bytes` are there.
static void payload_begins(struct nbd_request *request, uint64_t chunk, uint32_t bytes)
{
    struct nbd_conn *c = request->conn;
    request->update.chunk = chunk;
    if (bytes == request->update.length) {
        nbd_request_submit(request);
        return;
    }
    c->receiving = request;
    c->received = bytes;
    c->received_ns = clock_boot_ns();
}

static uint32_t payload_left(const struct nbd_conn *c)
{
    return c->receiving ? c->receiving->update.length - c->received : 0;
}

// Where the rest of it is received.
static struct iovec payload_rest(const struct nbd_conn *c)
{
    uint8_t *data =
        c->aside ? c->aside : unsafe_chunk_data(c->nbd->unsafe, c->receiving->update.chunk);
    return (struct iovec){data + c->received, payload_left(c)};
}

// Back into the ring with a payload that is complete. Returns false when the client is stalled.
static bool aside_returns(struct nbd_conn *c)
{
    struct update *update = &c->receiving->update;
    if (!head_or_stall(c, c->listener->data_align))
        return false;
    update->chunk = unsafe_keep(c->nbd->unsafe, update->length);
    if (update->chunk == UNSAFE_NO_CHUNK) {
        stall(c, true);
        return false;
    }
    memcpy(unsafe_chunk_data(c->nbd->unsafe, update->chunk), c->aside, update->length);
    forget_aside(c);
    return true;
}

static void payload_goes_on(struct nbd_conn *c, uint32_t bytes)
{
    struct nbd_request *request = c->receiving;
    c->received += bytes;
    if (payload_left(c) > 0) {
        c->received_ns = clock_boot_ns();
    } else if (!c->aside || aside_returns(c)) {
        c->receiving = NULL;
        nbd_request_submit(request);
    }
}

void nbd_receive_aside(struct nbd_conn *c, int64_t now_ns)
{
    if (payload_left(c) == 0 || c->aside || now_ns - c->received_ns < NBD_ASIDE_NS)
        return;
    struct update *update = &c->receiving->update;
    c->aside = malloc(update->length);
    if (!c->aside) {
        nbd_conn_drop(c, "is dropped: no memory for the payload that it does not finish");
        return;
    }
    memcpy(c->aside, unsafe_chunk_data(c->nbd->unsafe, update->chunk), c->received);
    unsafe_drop(c->nbd->unsafe, update->chunk);
    update->chunk = UNSAFE_NO_CHUNK;
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
    struct nbd_header h = nbd_request_decode(at);
    struct nbd_request *request;
    size_t behind = bytes - NBD_REQUEST_HEADER;
    uint32_t part = (uint32_t)MIN(behind, h.length);
    enum nbd_taken taken = nbd_request_take(c, &h, &request);
    if (taken == NBD_TAKEN_END)
        return 0;
    if (taken == NBD_TAKEN_NOT) {
        stall_with(c, at, behind, false);
        return 0;
    }
    unsafe_skip(unsafe, NBD_REQUEST_HEADER);
    if (taken == NBD_TAKEN)
        return NBD_REQUEST_HEADER;
    if (taken == NBD_TAKEN_REFUSED) {
        unsafe_skip(unsafe, part);
        c->discard = h.length - part;
        return NBD_REQUEST_HEADER + part;
    }
    uint64_t chunk = unsafe_keep(unsafe, h.length);
    if (chunk == UNSAFE_NO_CHUNK) {
        nbd_request_release(request);
        stall_with(c, at, behind, true);
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
        parts[used++] = payload_rest(c);
    uint8_t *head = rest > 0 ? unsafe_head(c->nbd->unsafe, 1, &room) : head_or_stall(c, 1);
    uint32_t carried = c->carry_bytes;
    if (head) {
        memcpy(head, c->carry, carried);
        parts[used++] = (struct iovec){head + carried, c->nbd->receive_bytes - carried};
    }
    size_t bytes = used > 0 ? receive(c, parts, used) : 0;
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

// Takes up to `bytes` from the stash; `to` may be NULL. Returns how many there were.
static uint32_t stash_take(struct nbd_conn *c, void *to, uint32_t bytes)
{
    bytes = MIN(bytes, c->stash_end - c->stash_at);
    if (to)
        memcpy(to, c->stash + c->stash_at, bytes);
    c->stash_at += bytes;
    return bytes;
}

// Gives a write its place, and what the stash has of its payload. Returns false when the client is
// stalled.
static bool place_payload(struct nbd_request *request)
{
    struct nbd_conn *c = request->conn;
    if (!head_or_stall(c, c->listener->data_align))
        return false;
    uint64_t chunk = unsafe_keep(c->nbd->unsafe, request->update.length);
    if (chunk == UNSAFE_NO_CHUNK) {
        stall(c, true);
        return false;
    }
    uint8_t *data = unsafe_chunk_data(c->nbd->unsafe, chunk);
    payload_begins(request, chunk, stash_take(c, data, request->update.length));
    return true;
}

// The request whose header is in `carry`. Returns false when there is nothing more to do now.
static bool take_carried(struct nbd_conn *c)
{
    struct nbd_header h = nbd_request_decode(c->carry);
    struct nbd_request *request;
    switch (nbd_request_take(c, &h, &request)) {
    case NBD_TAKEN_END:
        return false;
    case NBD_TAKEN_NOT:
        stall(c, false);
        return false;
    case NBD_TAKEN_PAYLOAD:
        if (place_payload(request))
            break;
        nbd_request_release(request);
        return false;
    case NBD_TAKEN_REFUSED:
        c->discard = h.length - stash_take(c, NULL, h.length);
        break;
    case NBD_TAKEN:
        break;
    }
    c->carry_bytes = 0;
    return true;
}

// Uses up what was received and could not be taken.
static void take_stash(struct nbd_conn *c)
{
    do
        c->carry_bytes +=
            stash_take(c, c->carry + c->carry_bytes, NBD_REQUEST_HEADER - c->carry_bytes);
    while (c->carry_bytes == NBD_REQUEST_HEADER && take_carried(c));
}

static void receive_apart(struct nbd_conn *c)
{
    struct iovec part = {c->carry + c->carry_bytes, NBD_REQUEST_HEADER - c->carry_bytes};
    if (c->receiving)
        part = payload_rest(c);
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
    else if (c->listener->data_align > 1 || c->aside)
        receive_apart(c);
    else
        receive_in_place(c);
}

void nbd_receive_again(struct nbd_conn *c)
{
    unstall(c);
    if (c->receiving)
        payload_goes_on(c, 0);
    else
        take_stash(c);
}
