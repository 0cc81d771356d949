// SPDX-License-Identifier: Apache-2.0
// The active end: an NBD server on a unix socket, in one thread. Payloads stay where they were received until their batch
// is sealed: the chunks are used in turn, and together hold far more than what may linger or wait for the socket.
#include "tests/bench/floor.h"

#include <endian.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define LINGER_NS    INT64_C(800000)
#define CHUNKS       16u
#define CHUNK_BYTES  (2 * FLOOR_REQUEST_MAX + 4096)
#define CLIENTS_MAX  32u
#define WAITERS_MAX  1024u // a client has at most so many requests under way
#define REPLIES      64u
#define BACKLOG_MAX  (4u << 20)
#define BARRIERS_MAX 2u // of `strict`, on their way together

enum { NBD_READ, NBD_WRITE, NBD_DISC, NBD_FLUSH };
enum { OPTION_EXPORT_NAME = 1, OPTION_ABORT = 2, OPTION_INFO = 6, OPTION_GO = 7 };

struct nbd_request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t handle, offset;
    uint32_t length;
} __attribute__((packed));

struct nbd_reply {
    uint32_t magic, error;
    uint64_t handle;
} __attribute__((packed));

struct client {
    int fd; // -1: none
    uint8_t *chunk;
    size_t from, to; // received and not taken yet
    struct nbd_reply replies[REPLIES];
    unsigned reply_count;
};

struct waiter {
    struct client *client;
    uint64_t handle, seq;
};

struct active {
    struct floor_wire *wire;
    bool strict;
    int volume, listener, epoll;
    uint64_t size;
    uint8_t *chunks[CHUNKS];
    unsigned next_chunk;
    struct client clients[CLIENTS_MAX];
    // The batch that lingers.
    struct floor_record records[FLOOR_RECORDS_MAX];
    struct iovec iov[2 + FLOOR_RECORDS_MAX];
    uint32_t count;
    uint64_t bytes;
    int64_t since_ns;
    // Positions, and who waits for them, in order.
    uint64_t seq, durable, last_barrier;
    unsigned barriers;
    bool flush_wanted;
    struct waiter waiters[WAITERS_MAX];
    unsigned first_waiter, waiter_count;
};

// ---- the handshake, which may wait ----

static void put(int fd, const void *bytes, size_t size)
{
    if (send(fd, bytes, size, MSG_NOSIGNAL) != (ssize_t)size)
        warnx("a client has gone");
}

static bool get(int fd, void *bytes, size_t size)
{
    return size == 0 || recv(fd, bytes, size, MSG_WAITALL) == (ssize_t)size;
}

static void answer_option(int fd, uint32_t option, uint32_t type, const void *bytes, uint32_t size)
{
    struct {
        uint64_t magic;
        uint32_t option, type, size;
    } __attribute__((packed))
    head = {htobe64(0x3e889045565a9), htobe32(option), htobe32(type), htobe32(size)};
    put(fd, &head, sizeof(head));
    if (size)
        put(fd, bytes, size);
}

// Returns whether requests follow.
static bool take_option(const struct active *a, int fd, bool *ret_goes_on)
{
    struct {
        uint64_t magic;
        uint32_t option, size;
    } __attribute__((packed)) head;
    struct {
        uint16_t type;
        uint64_t size;
        uint16_t flags;
    } __attribute__((packed)) info = {0, htobe64(a->size), htobe16(1 | 4)}; // it takes flushes
    uint8_t data[4096];
    *ret_goes_on = get(fd, &head, sizeof(head)) && be32toh(head.size) <= sizeof(data) &&
                   get(fd, data, be32toh(head.size)) && be32toh(head.option) != OPTION_ABORT;
    uint32_t option = be32toh(head.option);
    if (!*ret_goes_on)
        return false;
    if (option == OPTION_EXPORT_NAME)
        put(fd, &info.size, sizeof(info) - sizeof(info.type));
    if (option == OPTION_GO || option == OPTION_INFO) {
        answer_option(fd, option, 3, &info, sizeof(info));
        answer_option(fd, option, 1, NULL, 0);
    } else if (option != OPTION_EXPORT_NAME) {
        answer_option(fd, option, UINT32_C(0x80000001), NULL, 0);
    }
    return option == OPTION_GO || option == OPTION_EXPORT_NAME;
}

static bool shake_hands(const struct active *a, int fd)
{
    struct {
        char magic[16];
        uint16_t flags;
    } __attribute__((packed)) hello = {"NBDMAGICIHAVEOPT", htobe16(3)};
    uint32_t flags;
    bool goes_on = true, ready = false;
    put(fd, &hello, sizeof(hello));
    if (!get(fd, &flags, sizeof(flags)))
        return false;
    while (goes_on && !ready)
        ready = take_option(a, fd, &goes_on);
    return ready;
}

static void accept_client(struct active *a)
{
    struct client *c = a->clients;
    int fd = accept4(a->listener, NULL, NULL, SOCK_CLOEXEC);
    while (c < a->clients + CLIENTS_MAX && c->fd >= 0)
        c++;
    struct epoll_event ev = {.events = EPOLLIN, .data.ptr = c};
    if (fd < 0 || c == a->clients + CLIENTS_MAX || !shake_hands(a, fd) ||
        epoll_ctl(a->epoll, EPOLL_CTL_ADD, fd, &ev) < 0) {
        (void)close(fd);
        return;
    }
    *c = (struct client){.fd = fd, .chunk = a->chunks[a->next_chunk++ % CHUNKS]};
}

// ---- requests ----

static void send_replies(struct client *c)
{
    if (c->fd >= 0 && c->reply_count)
        put(c->fd, c->replies, c->reply_count * sizeof(c->replies[0]));
    c->reply_count = 0;
}

static void reply(struct client *c, uint64_t handle)
{
    if (c->reply_count == REPLIES)
        send_replies(c);
    c->replies[c->reply_count++] = (struct nbd_reply){htobe32(0x67446698), 0, handle};
}

static void wait_for(struct active *a, struct client *c, uint64_t handle)
{
    if (a->waiter_count == WAITERS_MAX)
        errx(1, "too many requests wait");
    a->waiters[(a->first_waiter + a->waiter_count++) % WAITERS_MAX] =
        (struct waiter){c, handle, a->seq};
}

static void send_batch(struct active *a, bool barrier)
{
    struct floor_head head = {.records = a->count, .seq = a->seq, .barrier = barrier};
    a->iov[1] = (struct iovec){a->records, a->count * sizeof(a->records[0])};
    floor_wire_send(a->wire, head, a->iov, 2 + (int)a->count);
    a->count = 0;
    a->bytes = 0;
}

static void take_write(struct active *a, struct client *c, const struct nbd_request *r,
                       uint8_t *payload)
{
    uint64_t offset = be64toh(r->offset);
    uint32_t length = be32toh(r->length);
    if (pwrite(a->volume, payload, length, (off_t)offset) != (ssize_t)length)
        err(1, "write");
    if (a->count == 0)
        a->since_ns = floor_now_ns();
    a->records[a->count] = (struct floor_record){.offset = offset, .length = length};
    a->iov[2 + a->count++] = (struct iovec){payload, length};
    a->bytes += length;
    a->seq++;
    if (a->strict)
        wait_for(a, c, r->handle);
    else
        reply(c, r->handle);
    if (a->bytes >= FLOOR_BATCH_BYTES || a->count == FLOOR_RECORDS_MAX)
        send_batch(a, false);
}

static void take_read(struct active *a, struct client *c, const struct nbd_request *r)
{
    static uint8_t bytes[FLOOR_REQUEST_MAX];
    struct nbd_reply head = {htobe32(0x67446698), 0, r->handle};
    struct iovec iov[2] = {{&head, sizeof(head)}, {bytes, be32toh(r->length)}};
    send_replies(c);
    if (iov[1].iov_len > sizeof(bytes) ||
        pread(a->volume, bytes, iov[1].iov_len, (off_t)be64toh(r->offset)) !=
            (ssize_t)iov[1].iov_len ||
        sendmsg(c->fd, &(struct msghdr){.msg_iov = iov, .msg_iovlen = 2}, MSG_NOSIGNAL) < 0)
        err(1, "read");
}

// Returns false when there is no whole request any more.
static bool take_request(struct active *a, struct client *c)
{
    struct nbd_request r;
    if (c->to - c->from < sizeof(r))
        return false;
    memcpy(&r, c->chunk + c->from, sizeof(r));
    bool writes = be16toh(r.type) == NBD_WRITE;
    if (be32toh(r.magic) != 0x25609513 || be32toh(r.length) > FLOOR_REQUEST_MAX)
        errx(1, "not a request");
    size_t size = sizeof(r) + (writes ? be32toh(r.length) : 0);
    if (c->to - c->from < size)
        return false;
    uint8_t *payload = c->chunk + c->from + sizeof(r);
    c->from += size;
    if (writes)
        take_write(a, c, &r, payload);
    else if (be16toh(r.type) == NBD_READ)
        take_read(a, c, &r);
    else if (be16toh(r.type) == NBD_FLUSH) {
        wait_for(a, c, r.handle);
        a->flush_wanted = true;
    }
    return true;
}

// The rest of a request goes on in the next chunk when this one may not hold it.
static void make_room(struct active *a, struct client *c)
{
    if (CHUNK_BYTES - c->to >= FLOOR_REQUEST_MAX)
        return;
    uint8_t *next = a->chunks[a->next_chunk++ % CHUNKS];
    memcpy(next, c->chunk + c->from, c->to - c->from);
    c->chunk = next;
    c->to -= c->from;
    c->from = 0;
}

static void forget(struct active *a, struct client *c)
{
    (void)close(c->fd);
    c->fd = -1;
    for (unsigned i = 0; i < a->waiter_count; i++) {
        struct waiter *w = &a->waiters[(a->first_waiter + i) % WAITERS_MAX];
        w->client = w->client == c ? NULL : w->client;
    }
}

static void work_client(struct active *a, struct client *c)
{
    make_room(a, c);
    ssize_t n = recv(c->fd, c->chunk + c->to, CHUNK_BYTES - c->to, MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        forget(a, c);
        return;
    }
    c->to += n > 0 ? (size_t)n : 0;
    while (take_request(a, c))
        ;
    send_replies(c);
}

// ---- the other end ----

static void work_wire(struct active *a)
{
    static uint8_t plain[FLOOR_MESSAGE_MAX];
    struct floor_head head;
    floor_wire_push(a->wire);
    floor_wire_fill(a->wire);
    while (floor_wire_take(a->wire, &head, plain))
        a->durable = head.seq;
    if (a->durable >= a->last_barrier)
        a->barriers = 0;
    else if (a->barriers > 1)
        a->barriers = 1;
}

static void release(struct active *a)
{
    while (a->waiter_count && a->waiters[a->first_waiter].seq <= a->durable) {
        struct waiter *w = &a->waiters[a->first_waiter];
        if (w->client)
            reply(w->client, w->handle);
        a->first_waiter = (a->first_waiter + 1) % WAITERS_MAX;
        a->waiter_count--;
    }
    for (struct client *c = a->clients; c < a->clients + CLIENTS_MAX; c++)
        send_replies(c);
}

// Sends what is due, and syncs while the other end syncs.
static void work_batch(struct active *a)
{
    bool sync = a->flush_wanted,
         waits = a->strict && a->seq > a->last_barrier && a->barriers < BARRIERS_MAX;
    if (sync || waits) {
        bool news = a->seq > a->durable;
        a->barriers += news;
        a->last_barrier = a->seq;
        if (news)
            send_batch(a, true);
    } else if (a->count && !a->strict && floor_now_ns() - a->since_ns >= LINGER_NS) {
        send_batch(a, false);
    }
    if (sync && fdatasync(a->volume) < 0)
        err(1, "sync");
    a->flush_wanted = false;
}

// While much waits for the other end, clients wait, too.
static void sleep_and_work(struct active *a)
{
    struct epoll_event events[16];
    int64_t ns =
        a->count && !a->strict ? a->since_ns + LINGER_NS - floor_now_ns() : INT64_C(1000000000);
    struct timespec wait = {ns / 1000000000, ns > 0 ? ns % 1000000000 : 0};
    if (floor_wire_backlog(a->wire) > BACKLOG_MAX) {
        struct pollfd other = {.fd = a->wire->fd, .events = POLLIN | POLLOUT};
        (void)poll(&other, 1, -1);
        work_wire(a);
        return;
    }
    int n = epoll_pwait2(a->epoll, events, 16, &wait, NULL);
    for (int i = 0; i < n; i++) {
        if (events[i].data.ptr == a->wire)
            work_wire(a);
        else if (events[i].data.ptr == a)
            accept_client(a);
        else
            work_client(a, events[i].data.ptr);
    }
}

static int listen_at(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (strlen(path) >= sizeof(at.sun_path))
        errx(2, "too long a path: %s", path);
    memcpy(at.sun_path, path, strlen(path));
    (void)unlink(path);
    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 16) < 0)
        err(1, "%s", path);
    return fd;
}

void floor_active(struct floor_wire *wire, const char *volume, const char *socket_path, bool strict)
{
    struct active *a = calloc(1, sizeof(*a));
    struct stat st;
    if (!a)
        err(1, "memory");
    a->wire = wire;
    a->strict = strict;
    a->volume = open(volume, O_RDWR | O_CLOEXEC);
    a->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (a->volume < 0 || fstat(a->volume, &st) < 0 || a->epoll < 0)
        err(1, "%s", volume);
    a->size = (uint64_t)st.st_size;
    for (unsigned i = 0; i < CHUNKS; i++)
        if (!(a->chunks[i] = malloc(CHUNK_BYTES)))
            err(1, "memory");
    for (unsigned i = 0; i < CLIENTS_MAX; i++)
        a->clients[i].fd = -1;
    a->listener = listen_at(socket_path);
    struct epoll_event of_wire = {.events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = wire},
                       of_all = {.events = EPOLLIN, .data.ptr = a};
    if (epoll_ctl(a->epoll, EPOLL_CTL_ADD, wire->fd, &of_wire) < 0 ||
        epoll_ctl(a->epoll, EPOLL_CTL_ADD, a->listener, &of_all) < 0)
        err(1, "epoll");
    for (;;) {
        sleep_and_work(a);
        work_batch(a);
        release(a);
    }
}
