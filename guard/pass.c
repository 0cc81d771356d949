// SPDX-License-Identifier: Apache-2.0
#include "guard/pass.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "common/base/cleanup.h"

union pass_control {
    struct cmsghdr align;
    uint8_t bytes[CMSG_SPACE(PASS_FDS_MAX * sizeof(int))];
};

int pass_send(int fd, const void *data, size_t size, const int *fds, size_t fd_count)
{
    union pass_control control = {.bytes = {0}};
    struct iovec part = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    ENSURE(fd_count <= PASS_FDS_MAX);
    if (fd_count > 0) {
        message.msg_control = &control;
        message.msg_controllen = CMSG_SPACE(fd_count * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(fd_count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, fd_count * sizeof(int));
    }
    return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? -errno : 0;
}

static size_t take_fds(struct msghdr *message, int fds[PASS_FDS_MAX])
{
    size_t count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n && count < PASS_FDS_MAX; i++)
            memcpy(&fds[count++], CMSG_DATA(c) + i * sizeof(int), sizeof(int));
    }
    return count;
}

ssize_t pass_receive(int fd, void *data, size_t size, int fds[PASS_FDS_MAX], size_t *ret_fd_count)
{
    union pass_control control;
    struct iovec part = {.iov_base = data, .iov_len = size};
    struct msghdr message = {.msg_iov = &part,
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
    *ret_fd_count = n < 0 ? 0 : take_fds(&message, fds);
    return n < 0 ? -errno : n;
}

static int make_address(int dir, const char *name, struct sockaddr_un *ret_address)
{
    *ret_address = (struct sockaddr_un){.sun_family = AF_UNIX};
    int n = snprintf(ret_address->sun_path, sizeof(ret_address->sun_path), "/proc/self/fd/%d/%s",
                     dir, name);
    return n < 0 || (size_t)n >= sizeof(ret_address->sun_path) ? -ENAMETOOLONG : 0;
}

static int listen_at(int fd, int dir, const char *name, const struct sockaddr_un *at)
{
    (void)unlinkat(dir, name, 0);
    mode_t old = umask(0177);
    int r = bind(fd, (const struct sockaddr *)at, sizeof(*at)) < 0 ? -errno : 0;
    (void)umask(old);
    if (r == 0 && listen(fd, 8) < 0)
        r = -errno;
    return r;
}

int pass_open(const char *dir, const char *name, int listening)
{
    struct sockaddr_un at;
    CLEANUP_CLOSE int place = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CLEANUP_CLOSE int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (place < 0 || fd < 0)
        return -errno;
    int r = make_address(place, name, &at);
    if (r == 0 && listening)
        r = listen_at(fd, place, name, &at);
    else if (r == 0 && connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0)
        r = -errno;
    return r < 0 ? r : TAKE_FD(fd);
}
