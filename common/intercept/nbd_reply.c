// SPDX-License-Identifier: Apache-2.0
// Answers: made as soon as they are known, collected in the order in which they came, sent with one
// call a turn and client. A read is answered from the buffer that it was read into.
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "common/base/cleanup.h"
#include "common/intercept/nbd_private.h"

#define PARTS_A_SEND 128 // two an answer

// ---- Making ----

static void queue(struct nbd_request *request)
{
    struct nbd_conn *c = request->conn;
    request->next = NULL;
    *c->answers_end = request;
    c->answers_end = &request->next;
    nbd_conn_mark(c);
}

static void simple(struct nbd_request *request, uint32_t error)
{
    uint8_t *at = be32_put(request->head, NBD_SIMPLE_MAGIC);
    at = be32_put(at, error);
    (void)be64_put(at, request->cookie);
    request->head_bytes = NBD_SIMPLE_HEADER;
}

// The only chunk of its reply, with `bytes` behind its header. Returns where these go.
static uint8_t *chunk(struct nbd_request *request, uint16_t type, uint32_t bytes)
{
    uint8_t *at = be32_put(request->head, NBD_CHUNK_MAGIC);
    at = be16_put(at, NBD_CHUNK_DONE);
    at = be16_put(at, type);
    at = be64_put(at, request->cookie);
    return be32_put(at, bytes);
}

void nbd_reply_done(struct nbd_request *request)
{
    simple(request, 0);
    request->data_bytes = 0;
    queue(request);
}

void nbd_reply_error(struct nbd_request *request, enum nbd_error error, const char *text)
{
    request->conn->nbd->stat.errors++;
    if (request->conn->structured) {
        size_t bytes = strlen(text);
        uint8_t *at = chunk(request, NBD_CHUNK_ERROR, (uint32_t)(6 + bytes));
        at = be32_put(at, error);
        (void)be16_put(at, (uint16_t)bytes);
        request->head_bytes = NBD_CHUNK_HEADER + 6;
        request->data = text;
        request->data_bytes = (uint32_t)bytes;
    } else {
        simple(request, error);
        request->data_bytes = 0;
    }
    queue(request);
}

void nbd_reply_status(struct nbd_request *request, int status)
{
    static const struct {
        int status;
        enum nbd_error error;
        const char *text;
    } table[] = {
        {-ENOSPC, NBD_ENOSPC, "no space left on the storage of the volume"},
        {-EDQUOT, NBD_ENOSPC, "no space left on the storage of the volume"},
        {-EROFS, NBD_EPERM, "the storage of the volume is read-only"},
        {-EPERM, NBD_EPERM, "the storage of the volume does not permit it"},
        {-ENOMEM, NBD_ENOMEM, "no memory"},
        {-EINVAL, NBD_EINVAL, "the request does not fit the volume"},
        {-EOPNOTSUPP, NBD_ENOTSUP, "the storage of the volume cannot do this"},
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        if (table[i].status == status) {
            nbd_reply_error(request, table[i].error, table[i].text);
            return;
        }
    }
    nbd_reply_error(request, NBD_EIO, "the storage of the volume reports an error");
}

void nbd_reply_data(struct nbd_request *request, uint32_t bytes)
{
    if (request->conn->structured) {
        uint8_t *at = chunk(request, NBD_CHUNK_DATA, 8 + bytes);
        (void)be64_put(at, request->update.offset);
        request->head_bytes = NBD_CHUNK_HEADER + 8;
    } else {
        simple(request, 0);
    }
    request->data = request->buffer.data;
    request->data_bytes = bytes;
    queue(request);
}

void nbd_reply_extents(struct nbd_request *request, unsigned count)
{
    uint8_t *at = chunk(request, NBD_CHUNK_BLOCK_STATUS, 4 + 8 * count);
    (void)be32_put(at, 1);
    request->head_bytes = NBD_CHUNK_HEADER + 4;
    request->data = request->buffer.data;
    request->data_bytes = 8 * count;
    queue(request);
}

// ---- Sending ----

// Adds what is left of [data, data + bytes) behind its first *skip bytes.
static void add_part(struct iovec *parts, unsigned *count, const void *data, uint32_t bytes,
                     uint32_t *skip)
{
    if (*skip >= bytes) {
        *skip -= bytes;
        return;
    }
    parts[(*count)++] = (struct iovec){(uint8_t *)data + *skip, bytes - *skip};
    *skip = 0;
}

static unsigned gather(const struct nbd_conn *c, struct iovec *parts)
{
    unsigned count = 0;
    uint32_t skip = c->answer_sent;
    for (const struct nbd_request *r = c->answers; r && count + 2 <= PARTS_A_SEND; r = r->next) {
        add_part(parts, &count, r->head, r->head_bytes, &skip);
        add_part(parts, &count, r->data, r->data_bytes, &skip);
    }
    return count;
}

static void sent(struct nbd_conn *c, size_t bytes)
{
    bytes += c->answer_sent;
    while (c->answers) {
        struct nbd_request *request = c->answers;
        size_t whole = (size_t)request->head_bytes + request->data_bytes;
        if (bytes < whole)
            break;
        bytes -= whole;
        c->answers = request->next;
        if (!c->answers)
            c->answers_end = &c->answers;
        nbd_request_release(request);
    }
    c->answer_sent = (uint32_t)bytes;
}

static ssize_t send_some(struct nbd_conn *c)
{
    struct iovec parts[PARTS_A_SEND];
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = gather(c, parts)};
    ssize_t n;
    do
        n = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

void nbd_reply_send(struct nbd_conn *c)
{
    if (c->state == NBD_GONE)
        return;
    if (c->out_bytes > 0)
        nbd_handshake_send(c);
    while (c->state != NBD_GONE && c->out_bytes == 0 && c->answers) {
        ssize_t n = send_some(c);
        if (n == -EAGAIN)
            break;
        if (n < 0) {
            nbd_conn_drop(c, c->state == NBD_CLOSING ? NULL : "has vanished");
            return;
        }
        sent(c, (size_t)n);
    }
    if (c->state == NBD_CLOSING && c->busy == 0 && c->out_bytes == 0)
        nbd_conn_drop(c, NULL);
    nbd_conn_interest(c);
}
