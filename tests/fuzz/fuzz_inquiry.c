// SPDX-License-Identifier: Apache-2.0
// The inquiry's datagrams, at the responder and at the asker. The first byte picks which; of those
// for the asker, pair and nonce are filled in, which no stranger could guess.
#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

#include "common/address/inquiry.h"
#include "fuzz.h"

static const uint8_t key[MAC_KEY_SIZE] = "a key of a pair, for fuzzing it";
static int socket_fd = -1; // of the responder
static struct ip loopback;

static size_t await(uint8_t *bytes, size_t limit, struct sockaddr_storage *from, socklen_t *size)
{
    struct pollfd p = {.fd = socket_fd, .events = POLLIN};
    *size = sizeof(*from);
    ENSURE(poll(&p, 1, 5000) == 1);
    ssize_t n = recvfrom(socket_fd, bytes, limit, 0, (struct sockaddr *)from, size);
    ENSURE(n > 0);
    return (size_t)n;
}

static void at_asker(uint8_t *data, size_t size)
{
    struct inquiry *inquiry = NULL;
    struct error err = {0};
    uint8_t ask[128];
    struct sockaddr_storage from;
    socklen_t from_size;
    enum inquiry_role role = 0;
    ENSURE(inquiry_start(&loopback, &loopback, inquiry_socket_port(socket_fd), "web",
                         INQUIRY_PRIMARY, key, &inquiry, &err) == 0);
    ENSURE(await(ask, sizeof(ask), &from, &from_size) == 56);
    if (size >= 40)
        memcpy(data + 8, ask + 8, 32);
    ENSURE(sendto(socket_fd, data, size, 0, (struct sockaddr *)&from, from_size) >= 0);
    inquiry_work(inquiry);
    if (inquiry_result(inquiry, &role) == INQUIRY_SAYS_ACTIVE)
        ENSURE(role == INQUIRY_ACTIVE || role == INQUIRY_TAKING_OVER);
    (void)inquiry_deadline_ns(inquiry);
    inquiry_free(inquiry);
    while (recv(socket_fd, ask, sizeof(ask), MSG_DONTWAIT) >= 0)
        ;
}

static void goodbye(void *user, size_t end, uint64_t run)
{
    (void)user;
    (void)run;
    ENSURE(end < 2);
}

static void at_responder(uint8_t *data, size_t size)
{
    struct inquiry_end ends[2] = {{.identity = INQUIRY_PRIMARY},
                                  {.identity = INQUIRY_SECONDARY, .role = INQUIRY_ACTIVE}};
    int fds[2];
    uint8_t answer[128];
    for (int i = 0; i < 2; i++) {
        memcpy(ends[i].key, key, sizeof(key));
        inquiry_id(key, "web", ends[i].id);
    }
    if (size >= 24)
        memcpy(data + 8, ends[1].id, sizeof(ends[1].id));
    ENSURE(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0, fds) == 0);
    ENSURE(send(fds[0], data, size, 0) == (ssize_t)size);
    size_t answered = inquiry_answer(fds[1], ends, 2, goodbye, NULL);
    ENSURE(answered <= 1);
    ssize_t n = recv(fds[0], answer, sizeof(answer), 0);
    ENSURE(answered == 0 ? n < 0 : n == 56 && answer[7] == INQUIRY_ACTIVE);
    (void)close(fds[0]);
    (void)close(fds[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err = {0};
    if (size < 2 || size > 1024)
        return 0;
    if (socket_fd < 0) {
        ENSURE(ip_parse("127.0.0.1", &loopback, &err) == 0);
        socket_fd = inquiry_socket(&loopback, 0, &err);
        ENSURE(socket_fd >= 0);
    }
    CLEANUP_FREE uint8_t *copy = malloc(size - 1);
    ENSURE(copy);
    memcpy(copy, data + 1, size - 1);
    if (data[0] % 8 == 0) // it costs a few sockets
        at_asker(copy, size - 1);
    else
        at_responder(copy, size - 1);
    return 0;
}
