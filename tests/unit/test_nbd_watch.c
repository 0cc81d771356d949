// SPDX-License-Identifier: Apache-2.0
// common/intercept: a client that is gone is watched no longer, although a process that was forked has its socket still.
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/intercept/nbd.h"

#define FDS 256

static int connect_to(const char *path)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    (void)snprintf(at.sun_path, sizeof(at.sun_path), "%s", path);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    return fd;
}

static bool is_open(int fd)
{
    char path[32];
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return access(path, F_OK) == 0;
}

static bool is_readable(struct nbd *nbd)
{
    return poll(&(struct pollfd){.fd = nbd_fd(nbd), .events = POLLIN}, 1, 0) > 0;
}

static void a_client_that_is_gone_is_not_watched(void **state)
{
    char dir[] = "/tmp/test_nbd_watch_XXXXXX", path[64];
    bool before[FDS];
    struct error err = {0};
    struct nbd *nbd = NULL;
    assert_non_null(mkdtemp(dir));
    (void)snprintf(path, sizeof(path), "%s/socket", dir);
    struct nbd_export export = {.name = "volume", .socket = path, .size = 1 << 20, .data_align = 1, .owner = (uid_t)-1,
                                .group = (gid_t)-1, .mode = 0600};
    static const struct nbd_ops ops = {0};
    assert_int_equal(nbd_open(&export, 1, &ops, NULL, &nbd, &err), 0);
    int client = connect_to(path);
    for (int fd = 0; fd < FDS; fd++)
        before[fd] = is_open(fd);
    while (is_readable(nbd))
        nbd_work(nbd);
    int copies = 0, copy = -1;
    for (int fd = 0; fd < FDS && copies == 0; fd++) {
        if (is_open(fd) && !before[fd]) {
            copy = dup(fd); // what a fork does to all
            copies++;
        }
    }
    assert_true(copy >= 0);
    (void)close(client);
    assert_true(is_readable(nbd));
    for (int i = 0; i < 10; i++)
        nbd_work(nbd);
    assert_false(is_readable(nbd));
    (void)close(copy);
    nbd_free(nbd);
    (void)rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_client_that_is_gone_is_not_watched),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
