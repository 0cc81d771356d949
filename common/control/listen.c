// SPDX-License-Identifier: Apache-2.0
// The mapping: each side begins with 8 bytes, then sends messages: one byte 1, the length (8
// bytes, big-endian), and the contents, which are the number that the requester has given its
// request (4 bytes, the highest bit set) and the text. An answer repeats that number.
#include "common/control/listen.h"

#include <endian.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/control/control.h"

#define CLIENTS_MAX    32
#define GREETING_SIZE  8
#define FRAME_HEAD     9 // type, length
#define NUMBER_SIZE    4
#define MESSAGE_NORMAL 1
#define CONTENTS_MAX   (NUMBER_SIZE + CONTROL_MESSAGE_MAX)
#define READS_A_TURN   16
#define READ_SIZE      (64 * 1024)

static const uint8_t greeting_of_requester[GREETING_SIZE] = {0, 'S', 'P', 0, 0, 48, 0, 0};
static const uint8_t greeting_of_replier[GREETING_SIZE] = {0, 'S', 'P', 0, 0, 49, 0, 0};

struct bytes {
    char *data;
    size_t size, room;
};

struct client {
    int fd; // -1: free
    bool greeted;
    int64_t heard_ns;
    struct bytes in, out;
};

struct control_listener {
    struct control_listener_ops ops;
    void *user;
    int socket, epoll;
    struct client clients[CLIENTS_MAX];
    struct client *current; // whose message is being handled; NULL once answered, or gone
    uint8_t number[NUMBER_SIZE];
};

static int bytes_add(struct bytes *b, const void *data, size_t size)
{
    if (b->room - b->size < size) {
        size_t room = MAX(b->room * 2, b->size + size);
        char *grown = realloc(b->data, room);
        if (!grown)
            return -ENOMEM;
        b->data = grown;
        b->room = room;
    }
    memcpy(b->data + b->size, data, size);
    b->size += size;
    return 0;
}

static void bytes_drop(struct bytes *b, size_t size)
{
    b->size -= size;
    memmove(b->data, b->data + size, b->size);
}

static void close_client(struct control_listener *l, struct client *c)
{
    if (l->current == c)
        l->current = NULL;
    (void)epoll_ctl(l->epoll, EPOLL_CTL_DEL, c->fd, NULL); // a process that is being forked may have it open, too
    (void)close(c->fd);
    free(c->in.data);
    free(c->out.data);
    *c = (struct client){.fd = -1};
}

static void drop(struct control_listener *l, struct client *c, const char *why)
{
    close_client(l, c);
    l->ops.dropped(l->user, why);
}

static int watch(struct control_listener *l, struct client *c, int how)
{
    struct epoll_event ev = {.events = EPOLLIN | (c->out.size ? EPOLLOUT : 0), .data.ptr = c};
    return epoll_ctl(l->epoll, how, c->fd, &ev) < 0 ? -errno : 0;
}

// Sends what the socket takes; the rest when it takes more. False: the client is gone.
static bool flush(struct control_listener *l, struct client *c)
{
    while (c->out.size > 0) {
        ssize_t n = send(c->fd, c->out.data, c->out.size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN) {
            close_client(l, c);
            return false;
        }
        if (n < 0)
            break;
        bytes_drop(&c->out, (size_t)n);
    }
    (void)watch(l, c, EPOLL_CTL_MOD);
    return true;
}

static struct client *free_client(struct control_listener *l)
{
    struct client *quietest = &l->clients[0];
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
        struct client *c = &l->clients[i];
        if (c->fd < 0)
            return c;
        if (c->heard_ns < quietest->heard_ns)
            quietest = c;
    }
    drop(l, quietest, "too many clients: the one that was quiet longest");
    return quietest;
}

static void accept_client(struct control_listener *l)
{
    int fd = accept4(l->socket, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return;
    struct client *c = free_client(l);
    c->fd = fd;
    c->heard_ns = clock_boot_ns();
    if (bytes_add(&c->out, greeting_of_replier, GREETING_SIZE) < 0 ||
        watch(l, c, EPOLL_CTL_ADD) < 0)
        drop(l, c, "no memory for another client");
    else
        (void)flush(l, c);
}

// The first rule that the head of a message breaks, or NULL.
static const char *head_invalid(const uint8_t *head, uint64_t *ret_size)
{
    uint64_t size;
    memcpy(&size, head + 1, sizeof(size));
    size = be64toh(size);
    if (head[0] != MESSAGE_NORMAL)
        return "a message of an unknown type";
    if (size < NUMBER_SIZE)
        return "a message without a request's number";
    if (size > CONTENTS_MAX)
        return "a message that is too long";
    *ret_size = size;
    return NULL;
}

// Takes in one message, if a whole one is there. False: there is none, or the client is gone.
static bool take_message(struct control_listener *l, struct client *c)
{
    const uint8_t *in = (const uint8_t *)c->in.data;
    uint64_t size = 0;
    if (!c->greeted) {
        if (c->in.size < GREETING_SIZE)
            return false;
        if (memcmp(in, greeting_of_requester, GREETING_SIZE) != 0) {
            drop(l, c, "it does not speak the control protocol");
            return false;
        }
        c->greeted = true;
        bytes_drop(&c->in, GREETING_SIZE);
        return true;
    }
    if (c->in.size < FRAME_HEAD)
        return false;
    const char *broken = head_invalid(in, &size);
    if (!broken && c->in.size >= FRAME_HEAD + NUMBER_SIZE && !(in[FRAME_HEAD] & 0x80))
        broken = "a message without a request's number";
    if (broken) {
        drop(l, c, broken);
        return false;
    }
    if (c->in.size < FRAME_HEAD + size)
        return false;
    l->current = c;
    memcpy(l->number, in + FRAME_HEAD, NUMBER_SIZE);
    l->ops.message(l->user, c->in.data + FRAME_HEAD + NUMBER_SIZE, (size_t)size - NUMBER_SIZE);
    l->current = NULL;
    if (c->fd < 0)
        return false;
    bytes_drop(&c->in, FRAME_HEAD + (size_t)size);
    return true;
}

static void read_client(struct control_listener *l, struct client *c)
{
    char buffer[READ_SIZE];
    for (int i = 0; i < READS_A_TURN; i++) {
        ssize_t n = recv(c->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (n <= 0) {
            if (c->in.size > 0)
                drop(l, c, "it left in the middle of a message");
            else
                close_client(l, c);
            return;
        }
        c->heard_ns = clock_boot_ns();
        if (bytes_add(&c->in, buffer, (size_t)n) < 0) {
            drop(l, c, "no memory for its message");
            return;
        }
        while (take_message(l, c))
            ;
        if (c->fd < 0)
            return;
        // Whoever does not take its answers gets no more of them.
        if (c->out.size > CONTENTS_MAX) {
            drop(l, c, "it does not take its answers");
            return;
        }
    }
}

void control_listener_work(struct control_listener *l)
{
    struct epoll_event events[CLIENTS_MAX + 1];
    int n = epoll_wait(l->epoll, events, ARRAY_LEN(events), 0);
    for (int i = 0; i < n; i++) {
        struct client *c = events[i].data.ptr;
        if (!c || c->fd < 0)
            continue; // the listening socket; or dropped by an event before this one
        if ((events[i].events & EPOLLOUT) && !flush(l, c))
            continue;
        if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
            read_client(l, c);
    }
    // Last: a new client may get the place of one that an event of this turn was about.
    for (int i = 0; i < n; i++) {
        if (!events[i].data.ptr)
            accept_client(l);
    }
}

int control_listener_reply(struct control_listener *l, const char *message, size_t size)
{
    struct client *c = l->current;
    uint8_t head[FRAME_HEAD] = {MESSAGE_NORMAL};
    uint64_t length = htobe64(NUMBER_SIZE + size);
    if (size > CONTROL_MESSAGE_MAX)
        return -EMSGSIZE;
    if (!c)
        return -ENOTCONN;
    memcpy(head + 1, &length, sizeof(length));
    l->current = NULL;
    if (bytes_add(&c->out, head, sizeof(head)) < 0 ||
        bytes_add(&c->out, l->number, NUMBER_SIZE) < 0 || bytes_add(&c->out, message, size) < 0) {
        close_client(l, c);
        return -ENOMEM;
    }
    (void)flush(l, c);
    return 0;
}

int control_listener_fd(const struct control_listener *l)
{
    return l->epoll;
}

static int listen_at(struct control_listener *l, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct epoll_event ev = {.events = EPOLLIN};
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path));
    l->epoll = epoll_create1(EPOLL_CLOEXEC);
    l->socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->epoll < 0 || l->socket < 0 ||
        bind(l->socket, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(l->socket, SOMAXCONN) < 0 ||
        epoll_ctl(l->epoll, EPOLL_CTL_ADD, l->socket, &ev) < 0)
        return -errno;
    return 0;
}

int control_listener_open(const char *path, const struct control_listener_ops *ops, void *user,
                          struct control_listener **ret_listener, struct error *err)
{
    struct control_listener *l = calloc(1, sizeof(*l));
    if (!l)
        return error_set(err, -ENOMEM, "%s: out of memory", path);
    l->ops = *ops;
    l->user = user;
    l->socket = l->epoll = -1;
    for (size_t i = 0; i < CLIENTS_MAX; i++)
        l->clients[i].fd = -1;
    int r = listen_at(l, path);
    if (r < 0) {
        control_listener_free(l);
        return error_sys(err, r, "%s: cannot listen", path);
    }
    *ret_listener = l;
    return 0;
}

struct control_listener *control_listener_free(struct control_listener *l)
{
    if (!l)
        return NULL;
    for (size_t i = 0; i < CLIENTS_MAX; i++) {
        if (l->clients[i].fd >= 0)
            close_client(l, &l->clients[i]);
    }
    cleanup_close(&l->socket);
    cleanup_close(&l->epoll);
    free(l);
    return NULL;
}
