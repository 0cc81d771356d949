// SPDX-License-Identifier: Apache-2.0
// transport_tcp (transport.h): SP messages over sockets that never block, by whoever sends or receives.
//
// Receiving: a connection that may have something is read until it has given less than there was room for; epoll, which is
// asked only in between, tells of the next time. Sending: what the socket does not take of a message stays in the push's one
// buffer, and the push is not ready until the event of the socket has got rid of it.
//
// Invariants: a pull has at most CONNECTIONS_MAX connections, and of those that no authentic message has come from, each holds
// at most STRANGER_MAX bytes. Descriptors of a push are opened and closed by the owner of its epoll alone: who
// sends and finds the connection broken leaves it to the event that follows.
#include "common/channel/transport.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/channel/sp.h"

#define CONNECTIONS_MAX  64
#define LISTENERS_MAX    16
#define BACKLOG          SOMAXCONN
#define STRANGER_MAX     (64 * 1024)
#define ACCEPT_AGAIN_NS  (100 * NS_PER_MS) // where there was no descriptor for a connection
#define RECONNECT_NS_MIN (50 * NS_PER_MS)
#define RECONNECT_NS_MAX NS_PER_S
#define BUFFER_KEPT      (2 * 1024 * 1024) // a larger one is freed once it was sent
// An accepted connection whose far end is gone without a word ends after half a minute.
#define KEEP_IDLE_S     15
#define KEEP_INTERVAL_S 5
#define KEEP_COUNT      3

// --- addresses ---

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static socklen_t address_make(const char *text, uint16_t port, union address *to)
{
    memset(to, 0, sizeof(*to));
    if (inet_pton(AF_INET, text, &to->v4.sin_addr) == 1) {
        to->v4.sin_family = AF_INET;
        to->v4.sin_port = htons(port);
        return sizeof(to->v4);
    }
    ENSURE(inet_pton(AF_INET6, text, &to->v6.sin6_addr) == 1); // channel_open() has looked
    to->v6.sin6_family = AF_INET6;
    to->v6.sin6_port = htons(port);
    return sizeof(to->v6);
}

static void set(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof(value));
}

static int socket_new(const union address *address)
{
    int fd = socket(address->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (address->any.sa_family == AF_INET6)
        set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
    return fd;
}

static void close_fd(int *fd)
{
    if (*fd >= 0)
        (void)close(*fd);
    *fd = -1;
}

// A process that is being started may keep the socket open for a moment, and with it what epoll knows of it.
static void close_watched(int epoll, int *fd)
{
    if (*fd >= 0)
        (void)epoll_ctl(epoll, EPOLL_CTL_DEL, *fd, NULL);
    close_fd(fd);
}

static int watch(int epoll, int operation, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(epoll, operation, fd, &event) < 0 ? -errno : 0;
}

// --- receiving ---

struct connection {
    int fd; // -1: free
    bool readable, trusted;
    uint64_t used; // the pull's clock when it was made, or gave a message last
    struct sp_in *in;
};

// Events: the tag, and above it 1 + the number of a connection, or LISTENER + that of a listener.
#define LISTENER 0x10000U

struct pull {
    size_t size_max;
    int epoll;
    uint32_t tag;
    int n_listeners;
    int listeners[LISTENERS_MAX];
    int64_t accept_at_ns; // 0: the listeners are watched
    uint64_t clock, broken;
    int last; // the connection of the last message
    bool guess; // it is to be asked again before epoll names it: most of the time there is one
    int high; // places behind it have never been taken
    struct connection connections[CONNECTIONS_MAX];
};

static uint64_t tagged(const struct pull *pull, unsigned number)
{
    return (uint64_t)number << 32 | pull->tag;
}

static int pull_open(size_t size_max, int epoll, uint32_t tag, struct pull **ret_pull)
{
    struct pull *pull = calloc(1, sizeof(*pull));
    if (!pull)
        return -ENOMEM;
    pull->size_max = size_max;
    pull->epoll = epoll;
    pull->tag = tag;
    for (int i = 0; i < CONNECTIONS_MAX; i++)
        pull->connections[i].fd = -1;
    *ret_pull = pull;
    return 0;
}

static void disconnect(const struct pull *pull, struct connection *c)
{
    close_watched(pull->epoll, &c->fd);
    c->in = sp_in_free(c->in);
    *c = (struct connection){.fd = -1};
}

static void pull_close(struct pull *pull)
{
    if (!pull)
        return;
    for (int i = 0; i < CONNECTIONS_MAX; i++)
        disconnect(pull, &pull->connections[i]);
    for (int i = 0; i < pull->n_listeners; i++)
        close_watched(pull->epoll, &pull->listeners[i]);
    free(pull);
}

static int pull_bind(struct pull *pull, const char *address, uint16_t port)
{
    union address at;
    socklen_t size = address_make(address, port, &at);
    if (pull->n_listeners == LISTENERS_MAX)
        return -EMFILE;
    int fd = socket_new(&at);
    if (fd < 0)
        return fd;
    set(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    int r = bind(fd, &at.any, size) < 0 || listen(fd, BACKLOG) < 0 ? -errno : 0;
    if (r == 0)
        r = watch(pull->epoll, EPOLL_CTL_ADD, fd, pull->accept_at_ns ? 0 : EPOLLIN,
                  tagged(pull, LISTENER + (unsigned)pull->n_listeners));
    if (r < 0) {
        close_fd(&fd);
        return r;
    }
    pull->listeners[pull->n_listeners++] = fd;
    return 0;
}

// A free place, or that of whom is missed least: the stranger, or else the one, who has been silent for longest.
static struct connection *connection_place(struct pull *pull)
{
    struct connection *worst = &pull->connections[0];
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        struct connection *c = &pull->connections[i];
        pull->high = MAX(pull->high, i + 1);
        if (c->fd < 0)
            return c;
        if (c->trusted != worst->trusted ? !c->trusted : c->used < worst->used)
            worst = c;
    }
    disconnect(pull, worst);
    pull->broken++;
    return worst;
}

static void connection_begin(struct pull *pull, int fd)
{
    struct connection *c = connection_place(pull);
    uint8_t greeting[SP_GREETING];
    sp_greeting_make(SP_PULL, greeting);
    set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S);
    set(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S);
    set(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_COUNT);
    c->in = sp_in_new(SP_PUSH);
    c->fd = fd;
    c->used = ++pull->clock;
    if (!c->in || send(fd, greeting, sizeof(greeting), MSG_NOSIGNAL) != (ssize_t)sizeof(greeting) ||
        watch(pull->epoll, EPOLL_CTL_ADD, fd, EPOLLIN, tagged(pull, 1 + (unsigned)(c - pull->connections))) < 0)
        disconnect(pull, c);
}

static void listeners_watch(struct pull *pull, bool on)
{
    for (int i = 0; i < pull->n_listeners; i++)
        (void)watch(pull->epoll, EPOLL_CTL_MOD, pull->listeners[i], on ? EPOLLIN : 0, tagged(pull, LISTENER + (unsigned)i));
}

static void accept_all(struct pull *pull, int listener)
{
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            connection_begin(pull, fd);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            listeners_watch(pull, false); // it would be ready over and over again
            pull->accept_at_ns = clock_boot_ns() + ACCEPT_AGAIN_NS;
            return;
        } else if (errno == EAGAIN) {
            return;
        } // else: that one is gone again
    }
}

static int64_t pull_tick(struct pull *pull, int64_t now)
{
    pull->guess = true;
    if (pull->accept_at_ns == 0)
        return INT64_MAX;
    if (now >= pull->accept_at_ns) {
        pull->accept_at_ns = 0;
        listeners_watch(pull, true);
        return INT64_MAX;
    }
    return pull->accept_at_ns;
}

static bool pull_event(struct pull *pull, uint64_t event)
{
    unsigned number = (unsigned)(event >> 32);
    if (number >= LISTENER) {
        ENSURE(number - LISTENER < (unsigned)pull->n_listeners);
        accept_all(pull, pull->listeners[number - LISTENER]);
        return false;
    }
    ENSURE(number >= 1 && number <= CONNECTIONS_MAX);
    struct connection *c = &pull->connections[number - 1];
    c->readable = c->fd >= 0;
    return c->readable;
}

// Reads what is there. What fills less than there was room for was all.
static int connection_read(struct connection *c)
{
    struct iovec iov[SP_PIECES];
    int n = sp_room(c->in, iov);
    size_t room = iov[0].iov_len + (n > 1 ? iov[1].iov_len : 0);
    ssize_t got = readv(c->fd, iov, n);
    if (got < 0 && errno == EINTR)
        return 0;
    if (got < 0 && errno == EAGAIN) {
        c->readable = false;
        return 0;
    }
    if (got <= 0)
        return got < 0 ? -errno : -EPIPE;
    c->readable = (size_t)got == room;
    sp_got(c->in, (size_t)got);
    return 0;
}

static int connection_receive(const struct pull *pull, struct connection *c, void **ret_message, size_t *ret_size)
{
    for (;;) {
        int r = sp_next(c->in, c->trusted ? pull->size_max : MIN(pull->size_max, (size_t)STRANGER_MAX), ret_message, ret_size);
        if (r != -EAGAIN || !c->readable)
            return r;
        r = connection_read(c);
        if (r < 0)
            return r;
    }
}

static int pull_receive(struct pull *pull, void **ret_message, size_t *ret_size)
{
    if (pull->guess)
        pull->connections[pull->last].readable = true;
    pull->guess = false;
    for (int i = 1; i <= pull->high; i++) { // others first
        int number = (pull->last + i) % pull->high;
        struct connection *c = &pull->connections[number];
        if (c->fd < 0)
            continue;
        int r = connection_receive(pull, c, ret_message, ret_size);
        if (r == 0) {
            pull->last = number;
            c->used = ++pull->clock;
            return 0;
        }
        if (r == -EAGAIN)
            continue;
        pull->broken += !c->trusted || r == -EPROTO;
        disconnect(pull, c);
    }
    return -EAGAIN;
}

static void pull_trust(struct pull *pull)
{
    pull->connections[pull->last].trusted = true;
}

static uint64_t pull_broken(struct pull *pull)
{
    return pull->broken;
}

static uint64_t pull_crowd(struct pull *pull)
{
    (void)pull;
    return 0;
}

// --- sending ---

enum push_state {
    PUSH_WAITS,      // for the next attempt
    PUSH_CONNECTS,   // for TCP
    PUSH_GREETS,     // for the other side's greeting
    PUSH_UP,         // takes messages
    PUSH_BROKEN,     // found by who wanted to send; the event follows
};

struct push {
    union address mine, peers;
    socklen_t address_size;
    size_t buffer_bytes;
    int epoll;
    uint32_t tag;
    int fd;
    enum push_state state;
    bool fresh;
    bool more, waits; // what is sent may wait in the socket; something does
    int64_t retry_at_ns, backoff_ns;
    uint8_t greeting[SP_GREETING]; // the other side's, as far as it has come
    size_t greeted;
    // The message that is being sent, its length before it: the message is aligned as that leaves it, to 8 bytes.
    uint8_t *buffer;
    size_t room, from, to; // from < to: this much is left to be sent
};

static void push_fail(struct push *push, int64_t now)
{
    close_watched(push->epoll, &push->fd);
    push->state = PUSH_WAITS;
    push->from = push->to = 0; // what was half sent is lost
    push->backoff_ns = push->backoff_ns ? MIN(push->backoff_ns * 2, RECONNECT_NS_MAX) : RECONNECT_NS_MIN;
    push->retry_at_ns = now + push->backoff_ns;
}

static void push_connected_now(struct push *push, int64_t now)
{
    uint8_t greeting[SP_GREETING];
    sp_greeting_make(SP_PUSH, greeting);
    push->greeted = 0;
    push->state = PUSH_GREETS;
    if (send(push->fd, greeting, sizeof(greeting), MSG_NOSIGNAL) != (ssize_t)sizeof(greeting) ||
        watch(push->epoll, EPOLL_CTL_MOD, push->fd, EPOLLIN, push->tag) < 0)
        push_fail(push, now);
}

// Begins to connect. An error that the next attempt may not have is no error.
static int push_connect(struct push *push, int64_t now)
{
    push->fd = socket_new(&push->mine);
    if (push->fd < 0)
        return push->fd;
    set(push->fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set(push->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
    if (push->buffer_bytes > 0)
        set(push->fd, SOL_SOCKET, SO_SNDBUF, (int)push->buffer_bytes);
    if (bind(push->fd, &push->mine.any, push->address_size) < 0)
        return -errno;
    push->state = PUSH_CONNECTS;
    int r = connect(push->fd, &push->peers.any, push->address_size) < 0 ? -errno : 0;
    if (r < 0 && r != -EINPROGRESS) {
        push_fail(push, now);
        return 0;
    }
    return watch(push->epoll, EPOLL_CTL_ADD, push->fd, EPOLLOUT, push->tag);
}

static void push_close(struct push *push)
{
    if (!push)
        return;
    close_watched(push->epoll, &push->fd);
    free(push->buffer);
    free(push);
}

static int push_open(const char *mine, const char *peers, uint16_t port, size_t buffer_bytes, int epoll, uint32_t tag,
                     struct push **ret_push)
{
    struct push *push = calloc(1, sizeof(*push));
    if (!push)
        return -ENOMEM;
    push->fd = -1;
    push->epoll = epoll;
    push->tag = tag;
    push->buffer_bytes = buffer_bytes;
    push->address_size = address_make(mine, 0, &push->mine);
    ENSURE(address_make(peers, port, &push->peers) == push->address_size);
    int r = push_connect(push, clock_boot_ns());
    if (r < 0) {
        push_close(push);
        return r;
    }
    *ret_push = push;
    return 0;
}

// Gets rid of what is left of a message.
static void push_flush(struct push *push)
{
    while (push->from < push->to) {
        ssize_t n = send(push->fd, push->buffer + push->from, push->to - push->from, MSG_NOSIGNAL | (push->more ? MSG_MORE : 0));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            if (errno != EAGAIN && errno != ENOBUFS && errno != ENOMEM)
                push->state = PUSH_BROKEN;
            return;
        }
        push->from += (size_t)n;
    }
    push->from = push->to = 0;
    if (push->room > BUFFER_KEPT) {
        free(push->buffer);
        push->buffer = NULL;
        push->room = 0;
    }
}

// The other side never says more than its greeting.
static void push_listen(struct push *push, int64_t now)
{
    uint8_t byte[SP_GREETING];
    bool greets = push->state == PUSH_GREETS;
    ssize_t n = recv(push->fd, byte, greets ? SP_GREETING - push->greeted : 1, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0 || !greets) {
        push_fail(push, now);
        return;
    }
    memcpy(push->greeting + push->greeted, byte, (size_t)n);
    push->greeted += (size_t)n;
    if (push->greeted < SP_GREETING)
        return;
    if (!sp_greeting_is(push->greeting, SP_PULL)) {
        push_fail(push, now);
        return;
    }
    push->state = PUSH_UP;
    push->fresh = true;
    push->backoff_ns = 0;
}

static void push_event(struct push *push, int64_t now)
{
    int error = 0;
    socklen_t size = sizeof(error);
    switch (push->state) {
    case PUSH_WAITS:
        break;
    case PUSH_CONNECTS:
        if (getsockopt(push->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0 || error)
            push_fail(push, now);
        else
            push_connected_now(push, now);
        break;
    case PUSH_GREETS:
        push_listen(push, now);
        break;
    case PUSH_UP:
        push_listen(push, now);
        if (push->state == PUSH_UP)
            push_flush(push);
        if (push->state == PUSH_UP && push->from == push->to)
            (void)watch(push->epoll, EPOLL_CTL_MOD, push->fd, EPOLLIN, push->tag);
        break;
    case PUSH_BROKEN:
        break;
    }
    if (push->state == PUSH_BROKEN)
        push_fail(push, now);
}

static int64_t push_tick(struct push *push, int64_t now)
{
    if (push->state == PUSH_BROKEN)
        push_fail(push, now);
    if (push->state != PUSH_WAITS)
        return INT64_MAX;
    if (now >= push->retry_at_ns && push_connect(push, now) < 0)
        push_fail(push, now);
    return push->state == PUSH_WAITS ? push->retry_at_ns : INT64_MAX;
}

static bool push_connected(const struct push *push)
{
    return push->state == PUSH_UP;
}

static bool push_ready(const struct push *push)
{
    return push->state == PUSH_UP && push->from == push->to;
}

static void push_want(struct push *push)
{
    (void)push; // events come anyway: of the connection, and of the rest of a message
}

static bool push_fresh(const struct push *push)
{
    return push->fresh;
}

static int push_fd(const struct push *push)
{
    return push->state == PUSH_UP ? push->fd : -1;
}

static void *push_room(struct push *push, size_t size)
{
    if (!push_ready(push))
        return NULL;
    if (SP_LENGTH + size > push->room) {
        free(push->buffer); // nothing in it is of use
        push->room = 0;
        push->buffer = malloc(SP_LENGTH + size);
        if (!push->buffer)
            return NULL;
        push->room = SP_LENGTH + size;
    }
    return push->buffer + SP_LENGTH;
}

static void push_drop(struct push *push, void *room)
{
    ENSURE(room == push->buffer + SP_LENGTH);
}

static int push_send(struct push *push, void *room, size_t size)
{
    ENSURE(room == push->buffer + SP_LENGTH && SP_LENGTH + size <= push->room && push_ready(push));
    sp_length_make(size, push->buffer);
    push->to = SP_LENGTH + size;
    push_flush(push);
    if (push->state != PUSH_UP) {
        push->from = push->to = 0;
        return -EAGAIN;
    }
    push->fresh = false;
    push->waits = push->more;
    if (push->from < push->to)
        (void)watch(push->epoll, EPOLL_CTL_MOD, push->fd, EPOLLIN | EPOLLOUT, push->tag);
    return 0;
}

static void push_more(struct push *push, bool more)
{
    push->more = more;
}

// Setting the option once more sends what waits.
static void push_all(struct push *push)
{
    if (push->waits && push->fd >= 0)
        set(push->fd, IPPROTO_TCP, TCP_NODELAY, 1);
    push->waits = false;
}

const struct transport transport_tcp = {
    .pull_open = pull_open,
    .pull_close = pull_close,
    .pull_bind = pull_bind,
    .pull_event = pull_event,
    .pull_receive = pull_receive,
    .pull_trust = pull_trust,
    .pull_tick = pull_tick,
    .pull_broken = pull_broken,
    .pull_crowd = pull_crowd,
    .push_open = push_open,
    .push_close = push_close,
    .push_event = push_event,
    .push_tick = push_tick,
    .push_connected = push_connected,
    .push_ready = push_ready,
    .push_want = push_want,
    .push_fresh = push_fresh,
    .push_fd = push_fd,
    .push_room = push_room,
    .push_drop = push_drop,
    .push_send = push_send,
    .push_more = push_more,
    .push_all = push_all,
    .message_free = free,
};
