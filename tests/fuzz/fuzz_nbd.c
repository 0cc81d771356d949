// SPDX-License-Identifier: Apache-2.0
// The NBD server, as a client meets it: handshake and requests through its socket. The volume is
// memory. The first byte of the input says into how large pieces it is cut on its way, and whether
// this end serves.
#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "common/base/clock.h"
#include "common/intercept/nbd.h"
#include "fuzz.h"
#include "tests/unit/fake_block.h"

#define VOLUME_BYTES (1024 * 1024)
#define TURNS_MAX    400

static struct fake_block block;
static uint8_t volume[VOLUME_BYTES];
static struct unsafe *queue;
static struct updates *updates;
static struct nbd *server;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static int64_t real_ns(void *user)
{
    return 1;
}

static void wake_sender(void *user, bool barrier)
{
    if (unsafe_attached(queue, 0))
        unsafe_release(queue, 0, unsafe_numbered(queue));
}

static void event(void *user, const struct updates_event *e)
{
    if (e->kind == UPDATES_EVENT_ROOM)
        nbd_room(server);
}

static void extent(void *user, uint16_t object, uint64_t offset, uint64_t length, bool *ret_hole,
                   bool *ret_zero, uint64_t *ret_length)
{
    ENSURE(object == 0 && length > 0 && offset + length <= VOLUME_BYTES);
    *ret_hole = *ret_zero = offset / 65536 % 2;
    *ret_length = MIN(length, 65536 - offset % 65536);
}

static bool zero_is_fast(void *user, uint16_t object)
{
    return volume[VOLUME_BYTES - 1] == 0;
}

static void note(void *user, uint16_t object, const char *text)
{
    ENSURE(text[0]);
}

static void remove_socket(void)
{
    (void)unlink(address.sun_path);
}

static void open_server(void)
{
    static const struct updates_ops updates_ops = {
        .stamp_ns = real_ns, .wake_sender = wake_sender, .event = event};
    static const struct nbd_ops ops = {
        .extent = extent, .zero_is_fast = zero_is_fast, .note = note};
    static char path[PATH_SIZE];
    struct error err = {0};
    struct unsafe_config config = {.pair = 1,
                                   .boot = 2,
                                   .epoch = 3,
                                   .bound = UINT64_C(1) << 62,
                                   .ring_bytes = 8 << 20,
                                   .payload_max = 64 * 1024};
    struct nbd_export export = {.name = "disk",
                                .socket = path,
                                .size = VOLUME_BYTES,
                                .data_align = 1,
                                .owner = (uid_t)-1,
                                .group = (gid_t)-1,
                                .mode = 0600};
    fuzz_path(path, "nbd");
    (void)signal(SIGPIPE, SIG_IGN);
    int length = snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    ENSURE(length > 0 && (size_t)length < sizeof(address.sun_path));
    (void)atexit(remove_socket);
    fake_init(&block, volume, VOLUME_BYTES, 512);
    block.immediate = true;
    ENSURE(unsafe_create(NULL, &config, &queue, &err) == 0);
    updates = updates_new(queue, UPDATES_ASYNC, &updates_ops, NULL);
    ENSURE(updates);
    updates_set_volume(updates, 0, &block.block, 1);
    (void)updates_set_gate(updates, UPDATES_ALONE);
    ENSURE(nbd_open(&export, 1, &ops, NULL, &server, &err) == 0);
}

// Requests that were held end with `status`, the others as they come.
static void complete(int status)
{
    fake_kick(&block.block);
    while (block.count > 0) {
        block.kicked = block.count;
        fake_complete(&block, 0, status);
    }
}

static void turn(void)
{
    nbd_work(server);
    fake_kick(&block.block);
    updates_kick(updates);
    nbd_flush(server);
}

// Takes in what the server has answered. Returns false when it has closed.
static bool drain(int fd)
{
    static uint8_t bytes[256 * 1024];
    ssize_t n;
    while ((n = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT)) > 0)
        ;
    return n < 0 && errno == EAGAIN;
}

static void talk(int fd, const uint8_t *data, size_t size, size_t piece)
{
    size_t sent = 0;
    unsigned idle = 0;
    for (unsigned i = 0; i < TURNS_MAX && idle < 4; i++) {
        ssize_t n = 0;
        if (sent < size)
            n = send(fd, data + sent, MIN(piece, size - sent), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0)
            sent += (size_t)n;
        idle = n > 0 ? 0 : idle + 1;
        turn();
        if (!drain(fd))
            break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int statuses[] = {0,       -ENOSPC, -EDQUOT,     -EROFS, -EPERM,
                                   -ENOMEM, -EINVAL, -EOPNOTSUPP, -EIO,   -ESHUTDOWN};
    struct nbd_stat stat;
    if (size < 2 || size > 65536)
        return 0;
    if (!server)
        open_server();
    unsigned how = data[0];
    if (how & 1)
        nbd_refuse(server, "the fuzzer wants it so");
    else
        nbd_serve(server, queue, updates);
    size_t piece = how & 2 ? 1 + how / 4 : how & 4 ? 4096 : 65536;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ENSURE(fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    updates_set_volume(updates, 0, &block.block, 1); // whatever the last run made of it
    block.immediate = !(how & 8);
    talk(fd, data + 2, size - 2, piece);
    if (how & 8) {
        complete(statuses[data[1] % ARRAY_LEN(statuses)]);
        turn();
        (void)drain(fd);
        complete(0);
        turn();
        block.immediate = true;
        talk(fd, data + 2, how & 16 ? size - 2 : 0, piece);
    }
    (void)close(fd);
    nbd_stat(server, &stat);
    for (unsigned i = 0; i < TURNS_MAX && stat.clients > 0; i++) {
        turn();
        nbd_stat(server, &stat);
    }
    ENSURE(stat.clients == 0 && nbd_quiet(server));
    struct unsafe_stat left;
    unsafe_reclaim(queue);
    unsafe_stat(queue, &left);
    ENSURE(left.slots == 0 && left.bytes == 0); // a client that has gone leaves nothing behind
    return 0;
}
