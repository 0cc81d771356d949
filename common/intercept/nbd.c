// SPDX-License-Identifier: Apache-2.0
// The server: its sockets, the turn of the loop, who may come in. nbd_private.h has the way of a
// client through the other files.
//
// What runs out never spins: a client that cannot be received from is not watched until what it
// waits for is there
// (`wake`, nbd_room()) or until the timer; neither is a listener while descriptors are short.
#include "common/intercept/nbd.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/intercept/nbd_private.h"

#define ACCEPTS_A_TURN 16
#define BACKLOG        64

// ---- Sockets ----

// A socket file that nobody listens at any more is taken away; anything else at its place is not
// ours to touch.
static int clear_place(const char *path, const struct sockaddr_un *address, struct error *err)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : error_sys(err, -errno, "cannot look at %s", path);
    if (!S_ISSOCK(st.st_mode))
        return error_set(err, -EEXIST, "%s is not a socket: remove it, or move it away", path);
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return error_sys(err, -errno, "cannot make a socket");
    if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) == 0 || errno == EAGAIN)
        return error_set(err, -EADDRINUSE, "%s: another process listens there", path);
    if (unlink(path) < 0 && errno != ENOENT)
        return error_sys(err, -errno, "cannot remove the stale socket %s", path);
    return 0;
}

// At no moment can anybody connect who must not: the file is made without any permission.
static int give_permissions(const struct nbd_export *export, struct error *err)
{
    if ((export->owner != (uid_t)-1 || export->group != (gid_t)-1) &&
        lchown(export->socket, export->owner, export->group) < 0)
        return error_sys(err, -errno, "cannot give %s to its owner", export->socket);
    if (chmod(export->socket, export->mode & 0777) < 0)
        return error_sys(err, -errno, "cannot set the permissions of %s", export->socket);
    return 0;
}

static int bind_there(struct nbd_listener *l, const struct nbd_export *export, struct error *err)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(export->socket) >= sizeof(address.sun_path))
        return error_set(err, -ENAMETOOLONG, "%s is longer than the path of a socket may be",
                         export->socket);
    memcpy(address.sun_path, export->socket, strlen(export->socket) + 1);
    int r = clear_place(export->socket, &address, err);
    if (r < 0)
        return r;
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (l->fd < 0 || fchmod(l->fd, 0) < 0)
        return error_sys(err, -errno, "cannot make a socket");
    if (bind(l->fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
        return error_sys(err, -errno, "cannot make the socket %s", export->socket);
    struct stat st;
    if (lstat(export->socket, &st) < 0)
        return error_sys(err, -errno, "cannot look at %s", export->socket);
    l->path = strdup(export->socket);
    if (!l->path)
        return error_sys(err, -ENOMEM, "%s", export->socket);
    l->device = st.st_dev;
    l->inode = st.st_ino;
    r = give_permissions(export, err);
    if (r == 0 && listen(l->fd, BACKLOG) < 0)
        r = error_sys(err, -errno, "cannot listen at %s", export->socket);
    return r;
}

static int listener_open(struct nbd *nbd, struct nbd_listener *l, const struct nbd_export *export,
                         struct error *err)
{
    uint32_t align = export->data_align;
    if (strlen(export->name) > NBD_NAME_MAX)
        return error_set(err, -EINVAL, "the name of volume %s is too long", export->name);
    if (align == 0 || align > 4096 || (align & (align - 1)) != 0)
        return error_set(err, -EINVAL, "volume %s: cannot align to %u bytes", export->name, align);
    memcpy(l->name, export->name, strlen(export->name) + 1);
    l->size = export->size;
    l->data_align = align;
    int r = bind_there(l, export, err);
    if (r < 0)
        return r;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = l};
    if (epoll_ctl(nbd->epoll, EPOLL_CTL_ADD, l->fd, &event) < 0)
        return error_sys(err, -errno, "%s", export->socket);
    return 0;
}

static void listener_close(struct nbd_listener *l)
{
    struct stat st;
    if (l->path && lstat(l->path, &st) == 0 && st.st_dev == l->device && st.st_ino == l->inode)
        (void)unlink(l->path);
    free(l->path);
    if (l->fd >= 0)
        (void)close(l->fd);
}

static void listener_pause(struct nbd *nbd, struct nbd_listener *l, bool pause)
{
    struct epoll_event event = {.events = pause ? 0 : EPOLLIN, .data.ptr = l};
    l->paused = pause;
    (void)epoll_ctl(nbd->epoll, EPOLL_CTL_MOD, l->fd, &event);
}

// ---- Opening and closing ----

static int watch(struct nbd *nbd, int fd, enum nbd_watched *watched)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = watched};
    if (fd < 0 || epoll_ctl(nbd->epoll, EPOLL_CTL_ADD, fd, &event) < 0)
        return -errno;
    return 0;
}

static int open_descriptors(struct nbd *nbd)
{
    nbd->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (nbd->epoll < 0)
        return -errno;
    nbd->timer = timerfd_create(CLOCK_BOOTTIME, TFD_NONBLOCK | TFD_CLOEXEC);
    int r = watch(nbd, nbd->timer, &nbd->timer_watched);
    if (r < 0)
        return r;
    nbd->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    r = watch(nbd, nbd->wake, &nbd->wake_watched);
    return r < 0 ? r : nbd_buffers_open(&nbd->buffers);
}

static struct nbd *nbd_new(size_t count)
{
    struct nbd *nbd = calloc(1, sizeof(*nbd));
    struct nbd_listener *listeners = calloc(count, sizeof(*listeners));
    if (!nbd || !listeners) {
        free(nbd);
        free(listeners);
        return NULL;
    }
    nbd->listeners = listeners;
    nbd->count = count;
    for (size_t i = 0; i < count; i++)
        listeners[i] =
            (struct nbd_listener){.watched = NBD_WATCHED_LISTENER, .object = (uint16_t)i, .fd = -1};
    nbd->timer_watched = NBD_WATCHED_TIMER;
    nbd->wake_watched = NBD_WATCHED_WAKE;
    nbd->other_watched = NBD_WATCHED_OTHER;
    nbd->epoll = nbd->timer = nbd->wake = -1;
    nbd->timer_ns = nbd->retry_ns = INT64_MAX;
    nbd_refuse(nbd, "this end has not been started yet");
    return nbd;
}

int nbd_open(const struct nbd_export *exports, size_t count, const struct nbd_ops *ops, void *user,
             struct nbd **ret_nbd, struct error *err)
{
    ENSURE(count > 0 && count <= RECORD_OBJECTS_MAX);
    struct nbd *nbd = nbd_new(count);
    if (!nbd)
        return error_sys(err, -ENOMEM, "NBD server");
    nbd->ops = *ops;
    nbd->user = user;
    int r = open_descriptors(nbd);
    if (r < 0)
        (void)error_sys(err, r, "NBD server");
    for (size_t i = 0; r == 0 && i < count; i++)
        r = listener_open(nbd, &nbd->listeners[i], &exports[i], err);
    if (r < 0) {
        nbd_free(nbd);
        return r;
    }
    *ret_nbd = nbd;
    return 0;
}

struct nbd *nbd_free(struct nbd *nbd)
{
    if (!nbd)
        return NULL;
    while (nbd->conns) {
        struct nbd_conn *conn = nbd->conns;
        nbd_conn_drop(conn, NULL);
        nbd->conns = conn->next;
        nbd_conn_free(conn);
    }
    for (size_t i = 0; i < nbd->count; i++)
        listener_close(&nbd->listeners[i]);
    free(nbd->listeners);
    nbd_buffers_close(&nbd->buffers);
    if (nbd->wake >= 0)
        (void)close(nbd->wake);
    if (nbd->timer >= 0)
        (void)close(nbd->timer);
    if (nbd->epoll >= 0)
        (void)close(nbd->epoll);
    free(nbd);
    return NULL;
}

// ---- Telling ----

void nbd_note(struct nbd *nbd, const struct nbd_listener *l, const char *format, ...)
{
    if (!nbd->ops.note)
        return;
    char text[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    nbd->ops.note(nbd->user, l->object, text);
}

void nbd_stat(const struct nbd *nbd, struct nbd_stat *ret_stat)
{
    *ret_stat = nbd->stat;
}

// ---- Serving and refusing ----

void nbd_serve(struct nbd *nbd, struct unsafe *unsafe, struct updates *updates)
{
    uint32_t most = unsafe_payload_max(unsafe);
    nbd->unsafe = unsafe;
    nbd->updates = updates;
    nbd->payload_max = MIN(most, NBD_PAYLOAD_MAX);
    nbd->receive_bytes = MIN(most, NBD_RECEIVE_BYTES);
    ENSURE(nbd->receive_bytes <= UNSAFE_RECEIVE_MAX && nbd->payload_max >= 4096);
}

static bool in_transmission(const struct nbd_conn *conn)
{
    return conn->state == NBD_SERVING || conn->state == NBD_CLOSING;
}

void nbd_refuse(struct nbd *nbd, const char *why)
{
    (void)snprintf(nbd->why, sizeof(nbd->why), "%s", why);
    for (struct nbd_conn *conn = nbd->conns; conn; conn = conn->next) {
        if (!in_transmission(conn))
            continue;
        nbd_conn_finish(conn);
        nbd_conn_deadline(conn, NBD_LINGER_NS);
    }
    nbd->unsafe = NULL;
    nbd->updates = NULL;
    nbd_wake(nbd);
}

bool nbd_quiet(const struct nbd *nbd)
{
    for (const struct nbd_conn *conn = nbd->conns; conn; conn = conn->next) {
        if (in_transmission(conn) || conn->under_way > 0)
            return false;
    }
    return true;
}

struct nbd_listener *nbd_find(struct nbd *nbd, const struct nbd_conn *conn, const void *name,
                              uint32_t bytes)
{
    struct nbd_listener *l = conn->listener;
    if (bytes == 0 || (bytes == strlen(l->name) && memcmp(name, l->name, bytes) == 0))
        return l;
    return NULL;
}

// ---- Coming in ----

// Makes room for one more: whoever has been dawdling over the handshake longest has to go.
static bool room_for_client(struct nbd *nbd, const struct nbd_listener *l)
{
    struct nbd_conn *oldest = NULL;
    if (l->clients < NBD_CLIENTS_MAX)
        return true;
    for (struct nbd_conn *conn = nbd->conns; conn; conn = conn->next) {
        if (conn->listener == l && conn->state < NBD_SERVING && (!oldest || conn->id < oldest->id))
            oldest = conn;
    }
    if (!oldest)
        return false;
    nbd_conn_drop(oldest,
                  "is given up for a newer one: it has not finished its handshake, and no "
                  "more than %d clients are served",
                  NBD_CLIENTS_MAX);
    return true;
}

static void come_in(struct nbd *nbd, struct nbd_listener *l, int fd)
{
    if (!room_for_client(nbd, l)) {
        nbd_note(nbd, l, "a client is turned away: %d are served already", NBD_CLIENTS_MAX);
        (void)close(fd);
        return;
    }
    struct nbd_conn *conn = nbd_conn_new(nbd, l, fd);
    if (conn)
        nbd_handshake_greet(conn);
    else
        nbd_note(nbd, l, "a client is turned away: no memory");
}

static void accept_some(struct nbd *nbd, struct nbd_listener *l)
{
    for (unsigned i = 0; i < ACCEPTS_A_TURN; i++) {
        int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            come_in(nbd, l, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        if (errno != EAGAIN) {
            listener_pause(nbd, l, true);
            nbd_retry_soon(nbd);
        }
        return;
    }
}

// ---- The timer and the wake ----

void nbd_timer_at(struct nbd *nbd, int64_t ns)
{
    if (ns >= nbd->timer_ns)
        return;
    nbd->timer_ns = ns;
    struct itimerspec spec = {
        .it_value = {.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S},
    };
    (void)timerfd_settime(nbd->timer, TFD_TIMER_ABSTIME, &spec, NULL);
}

void nbd_retry_soon(struct nbd *nbd)
{
    if (nbd->retry_ns == INT64_MAX)
        nbd->retry_ns = clock_boot_ns() + NBD_RETRY_NS;
    nbd_timer_at(nbd, nbd->retry_ns);
}

void nbd_wake(struct nbd *nbd)
{
    if (nbd->woken)
        return;
    uint64_t one = 1;
    nbd->woken = write(nbd->wake, &one, sizeof(one)) == sizeof(one);
}

void nbd_room(struct nbd *nbd)
{
    if (nbd->stalled > 0)
        nbd_wake(nbd);
}

static void stalled_again(struct nbd *nbd)
{
    for (struct nbd_conn *conn = nbd->conns; conn; conn = conn->next) {
        if (conn->stalled && conn->state == NBD_SERVING)
            nbd_receive_again(conn);
    }
}

static void woken(struct nbd *nbd)
{
    uint64_t count;
    (void)!read(nbd->wake, &count, sizeof(count));
    nbd->woken = false;
    stalled_again(nbd);
}

static void timer_fired(struct nbd *nbd)
{
    uint64_t count;
    int64_t now = clock_boot_ns();
    (void)!read(nbd->timer, &count, sizeof(count));
    nbd->timer_ns = INT64_MAX;
    if (nbd->retry_ns <= now) {
        nbd->retry_ns = INT64_MAX;
        for (struct nbd_conn *conn = nbd->conns; conn && nbd->stalled > 0; conn = conn->next)
            nbd_receive_aside(conn, now);
        stalled_again(nbd);
        for (size_t i = 0; i < nbd->count; i++) {
            if (nbd->listeners[i].paused)
                listener_pause(nbd, &nbd->listeners[i], false);
        }
    }
    nbd_timer_at(nbd, nbd->retry_ns);
    for (struct nbd_conn *conn = nbd->conns; conn; conn = conn->next)
        nbd_conn_expire(conn, now);
}

// ---- The turn of the loop ----

int nbd_fd(const struct nbd *nbd)
{
    return nbd->epoll;
}

void *nbd_other(struct nbd *nbd)
{
    return &nbd->other_watched;
}

static void ready(struct nbd *nbd, const struct epoll_event *event)
{
    switch (*(const enum nbd_watched *)event->data.ptr) {
    case NBD_WATCHED_LISTENER:
        accept_some(nbd, event->data.ptr);
        break;
    case NBD_WATCHED_CONN:
        nbd_conn_ready(event->data.ptr, event->events);
        break;
    case NBD_WATCHED_TIMER:
        timer_fired(nbd);
        break;
    case NBD_WATCHED_WAKE:
        woken(nbd);
        break;
    case NBD_WATCHED_OTHER:
        break;
    }
}

void nbd_wait(struct nbd *nbd, const struct timespec *timeout)
{
    int told = epoll_pwait2(nbd->epoll, nbd->events, NBD_EVENTS_A_TURN, timeout, NULL);
    nbd->told = MAX(told, 0); // interrupted: whoever wants to know comes again
    nbd->waited = true;
}

void nbd_work(struct nbd *nbd)
{
    if (!nbd->waited)
        nbd->told = epoll_wait(nbd->epoll, nbd->events, NBD_EVENTS_A_TURN, 0);
    nbd->waited = false;
    for (int i = 0; i < nbd->told; i++)
        ready(nbd, &nbd->events[i]);
    nbd->told = 0;
    if (!nbd->unsafe)
        nbd_flush(nbd); // whoever has no queue need not call it
    nbd_conn_reap(nbd);
}

void nbd_flush(struct nbd *nbd)
{
    while (nbd->dirty) {
        struct nbd_conn *conn = nbd->dirty;
        nbd->dirty = conn->next_dirty;
        conn->dirty = false;
        nbd_reply_send(conn);
    }
    nbd_conn_reap(nbd);
}
