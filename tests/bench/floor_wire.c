// SPDX-License-Identifier: Apache-2.0
// Messages over one TCP connection, sealed or in clear. Out of memory for what the socket does not take is an error: the
// active end stops receiving before.
#include "tests/bench/floor.h"

#include <arpa/inet.h>
#include <err.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define OUT_BYTES (16u << 20)
#define IN_BYTES  (4u << 20)
#define TAG       16u
#define NONCE     12u

int64_t floor_now_ns(void)
{
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static int connect_to(const struct sockaddr_in *to)
{
    for (int tries = 0;; tries++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (const struct sockaddr *)to, sizeof(*to)) == 0)
            return fd;
        if (tries == 200)
            err(1, "cannot connect to the passive end");
        (void)close(fd);
        (void)usleep(10000);
    }
}

static int accept_from(const struct sockaddr_in *at)
{
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), on = 1;
    (void)setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (listener < 0 || bind(listener, (const struct sockaddr *)at, sizeof(*at)) < 0 ||
        listen(listener, 1) < 0)
        err(1, "cannot listen");
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        err(1, "cannot accept");
    (void)close(listener);
    return fd;
}

void floor_wire_open(struct floor_wire *wire, const char *address, uint16_t port, bool listen,
                     bool clear)
{
    static uint8_t secret[32] = "a benchmark keeps no secrets: 32";
    gnutls_datum_t key = {secret, sizeof(secret)};
    gnutls_aead_cipher_hd_t cipher = NULL;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (inet_pton(AF_INET, address, &at.sin_addr) != 1)
        errx(2, "not an IPv4 address: %s", address);
    if (!clear && gnutls_aead_cipher_init(&cipher, GNUTLS_CIPHER_AES_256_GCM, &key) < 0)
        errx(1, "no cipher");
    *wire =
        (struct floor_wire){.fd = listen ? accept_from(&at) : connect_to(&at), .cipher = cipher};
    wire->out = malloc(OUT_BYTES);
    wire->in = malloc(IN_BYTES);
    if (!wire->out || !wire->in)
        err(1, "memory");
    int on = 1;
    (void)setsockopt(wire->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

// Each direction of the one connection counts by itself: an acknowledgement's nonce is not a batch's.
static void make_nonce(uint8_t nonce[NONCE], const struct floor_head *head)
{
    memset(nonce, 0, NONCE);
    nonce[0] = head->records == 0;
    memcpy(nonce + 4, &head->nonce, sizeof(head->nonce));
}

static void keep(struct floor_wire *wire, const void *bytes, size_t size)
{
    if (size > OUT_BYTES - wire->out_to)
        errx(1, "the socket takes nothing");
    memcpy(wire->out + wire->out_to, bytes, size);
    wire->out_to += size;
}

static void send_in_clear(struct floor_wire *wire, struct iovec *iov, int count)
{
    struct msghdr m = {.msg_iov = iov, .msg_iovlen = (size_t)count};
    ssize_t n = floor_wire_backlog(wire) ? 0 : sendmsg(wire->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        err(1, "send");
    size_t gone = n > 0 ? (size_t)n : 0;
    for (int i = 0; i < count; i++) {
        size_t skip = gone < iov[i].iov_len ? gone : iov[i].iov_len;
        gone -= skip;
        keep(wire, (uint8_t *)iov[i].iov_base + skip, iov[i].iov_len - skip);
    }
}

static void send_sealed(struct floor_wire *wire, struct floor_head *head, const struct iovec *iov,
                        int count)
{
    uint8_t nonce[NONCE];
    make_nonce(nonce, head);
    head->size += TAG;
    giovec_t with = {head, sizeof(*head)};
    size_t size = head->size;
    keep(wire, head, sizeof(*head));
    if (gnutls_aead_cipher_encryptv(wire->cipher, nonce, NONCE, &with, 1, TAG, iov + 1, count - 1,
                                    wire->out + wire->out_to, &size) < 0 ||
        size != head->size)
        errx(1, "cannot seal");
    wire->out_to += size;
    floor_wire_push(wire);
}

void floor_wire_send(struct floor_wire *wire, struct floor_head head, struct iovec *iov, int count)
{
    if (OUT_BYTES - wire->out_to < sizeof(head) + FLOOR_MESSAGE_MAX + TAG) {
        memmove(wire->out, wire->out + wire->out_from, floor_wire_backlog(wire));
        wire->out_to -= wire->out_from;
        wire->out_from = 0;
    }
    head.nonce = ++wire->sent;
    head.size = 0;
    for (int i = 1; i < count; i++)
        head.size += (uint32_t)iov[i].iov_len;
    iov[0] = (struct iovec){&head, sizeof(head)};
    if (wire->cipher)
        send_sealed(wire, &head, iov, count);
    else
        send_in_clear(wire, iov, count);
}

void floor_wire_push(struct floor_wire *wire)
{
    while (wire->out_from < wire->out_to) {
        ssize_t n = send(wire->fd, wire->out + wire->out_from, wire->out_to - wire->out_from,
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN)
            return;
        if (n < 0)
            err(1, "send");
        wire->out_from += (size_t)n;
    }
    wire->out_from = wire->out_to = 0;
}

size_t floor_wire_backlog(const struct floor_wire *wire)
{
    return wire->out_to - wire->out_from;
}

void floor_wire_fill(struct floor_wire *wire)
{
    if (wire->in_from == wire->in_to)
        wire->in_from = wire->in_to = 0;
    if (IN_BYTES - wire->in_to < FLOOR_MESSAGE_MAX) {
        memmove(wire->in, wire->in + wire->in_from, wire->in_to - wire->in_from);
        wire->in_to -= wire->in_from;
        wire->in_from = 0;
    }
    ssize_t n = recv(wire->fd, wire->in + wire->in_to, IN_BYTES - wire->in_to, MSG_DONTWAIT);
    if (n == 0)
        exit(0); // the other end has ended
    if (n < 0 && errno != EAGAIN)
        err(1, "receive");
    wire->in_to += n > 0 ? (size_t)n : 0;
}

bool floor_wire_take(struct floor_wire *wire, struct floor_head *ret_head, uint8_t *plain)
{
    struct floor_head head;
    uint8_t nonce[NONCE], *at = wire->in + wire->in_from;
    if (wire->in_to - wire->in_from < sizeof(head))
        return false;
    memcpy(&head, at, sizeof(head));
    if (head.size > FLOOR_MESSAGE_MAX + TAG || head.nonce != wire->received + 1)
        errx(1, "not a message");
    if (wire->in_to - wire->in_from < sizeof(head) + head.size)
        return false;
    size_t size = FLOOR_MESSAGE_MAX;
    make_nonce(nonce, &head);
    if (!wire->cipher)
        memcpy(plain, at + sizeof(head), head.size);
    else if (gnutls_aead_cipher_decrypt(wire->cipher, nonce, NONCE, at, sizeof(head), TAG,
                                        at + sizeof(head), head.size, plain, &size) < 0)
        errx(1, "cannot open a message");
    wire->in_from += sizeof(head) + head.size;
    head.size -= wire->cipher ? TAG : 0;
    wire->received++;
    *ret_head = head;
    return true;
}
