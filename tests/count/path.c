// SPDX-License-Identifier: Apache-2.0
// The data path from a client's socket to the replica's file, both ends in one thread: the same NBD
// server, service, stores, queues and follower that the daemons drive, over real files, with a copy
// in memory where the channel would be. It does a fixed number of writes, so that tests/count/run
// can count what one of them costs in instructions and system calls: counts, not seconds, which do
// not depend on how busy the machine is.
//
// What it leaves out: the channel (sealing, nanomsg) and the threads' wake-ups.
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/base/bytes.h"
#include "common/base/clock.h"
#include "common/base/error.h"
#include "common/end/follower.h"
#include "common/end/outlet.h"
#include "common/end/service.h"
#include "common/intercept/nbd.h"
#include "common/store/segments.h"
#include "common/store/store.h"

#define VOLUME    (64u << 20)
#define HOT       (4u << 20) // what is written lies here: the intent map is warm after the first turns
#define DEPTH     16
#define MESSAGES  64
#define HANDSHAKE 0x0003000000000000ull // NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES

struct message {
    void *data;
    size_t size;
};

struct path {
    const char *dir;
    int64_t now;
    // The active end.
    struct nbd *nbd;
    struct store *volume;
    struct segments *maps;
    struct service *service;
    struct outlet *outlet;
    bool streams, attached, open;
    uint64_t durable, applied;
    // The passive one.
    struct follower *follower;
    struct store *replica;
    struct segments *safe;
    bool ready;
    // The channel, in both directions.
    struct message there[MESSAGES], back[MESSAGES];
    unsigned there_count, back_count;
    // The client.
    int fd;
    uint32_t block, out;
    uint64_t started, answered;
    uint32_t random;
};

static void in_dir(const struct path *p, const char *name, char *path, size_t size)
{
    (void)snprintf(path, size, "%s/%s", p->dir, name);
}

static void must(int r, const struct error *err)
{
    if (r < 0) {
        (void)fprintf(stderr, "path: %s\n", err->text);
        exit(1);
    }
}

// ---- the channel ----

static int keep(struct message *list, unsigned *count, const struct iovec *iov, int n)
{
    size_t size = 0, at = 0;
    if (*count == MESSAGES)
        return -EAGAIN;
    for (int i = 0; i < n; i++)
        size += iov[i].iov_len;
    uint8_t *data = aligned_alloc(64, (size + 63) / 64 * 64);
    ENSURE(data);
    for (int i = 0; i < n; i++) {
        memcpy(data + at, iov[i].iov_base, iov[i].iov_len);
        at += iov[i].iov_len;
    }
    list[(*count)++] = (struct message){data, size};
    return 0;
}

static int send_there(void *user, const struct iovec *iov, int count)
{
    struct path *p = user;
    return keep(p->there, &p->there_count, iov, count);
}

static void send_back(void *user, const void *data, size_t size)
{
    struct path *p = user;
    struct iovec iov = {(void *)(uintptr_t)data, size};
    (void)keep(p->back, &p->back_count, &iov, 1);
}

// ---- the active end ----

static struct store *open_store(const struct path *p, const char *name, bool told)
{
    struct error err = {0};
    struct store *store = NULL;
    char file[200];
    in_dir(p, name, file, sizeof(file));
    struct store_config config = {.path = file, .size = VOLUME, .sync_when_told = told};
    must(store_open(&config, &store, &err), &err);
    return store;
}

static int active_stores(void *user, struct block *ret_blocks[RECORD_OBJECTS_MAX], struct error *err)
{
    struct path *p = user;
    (void)err;
    p->volume = open_store(p, "volume", true);
    ret_blocks[0] = store_block(p->volume);
    return 0;
}

static void close_volume(void *user)
{
    struct path *p = user;
    p->volume = store_free(p->volume);
}

static int open_queue(void *user, bool recover, const struct unsafe_config *config,
                      struct unsafe **ret_queue, struct error *err)
{
    struct path *p = user;
    char file[200];
    ENSURE(!recover);
    in_dir(p, "unsafe", file, sizeof(file));
    return unsafe_create(file, config, ret_queue, err);
}

static void forget_queue(void *user)
{
    (void)user;
}

static void serve(void *user, struct unsafe *queue, struct updates *updates)
{
    struct path *p = user;
    nbd_serve(p->nbd, queue, updates);
}

static void refuse(void *user, const char *why)
{
    struct path *p = user;
    nbd_refuse(p->nbd, why);
}

static bool quiet(void *user)
{
    struct path *p = user;
    return nbd_quiet(p->nbd);
}

static void room(void *user)
{
    struct path *p = user;
    nbd_room(p->nbd);
}

static int lane_queue(void *user, struct unsafe *queue)
{
    struct path *p = user;
    return outlet_set_queue(p->outlet, queue);
}

static void lane_stop(void *user)
{
    struct path *p = user;
    outlet_stop(p->outlet);
}

static bool lane_running(void *user)
{
    struct path *p = user;
    return outlet_running(p->outlet);
}

static bool settled(void *user, uint64_t *ret_session, uint64_t *ret_seq)
{
    (void)user;
    (void)ret_session;
    (void)ret_seq;
    return false;
}

static int64_t real_ns(void *user)
{
    (void)user;
    return clock_real_ns();
}

static void active_event(void *user, const struct end_event *event)
{
    struct path *p = user;
    if (event->type == EV_EXPORTS)
        p->open = event->exports.open;
    ENSURE(event->type != EV_OVERFLOW && event->type != EV_STORE);
}

static void say(void *user, const char *text)
{
    (void)user;
    (void)fprintf(stderr, "path: %s\n", text);
}

static void cannot_open(void *user, const char *text)
{
    say(user, text);
    exit(1);
}

static const struct service_ops service_ops = {
    .open_stores = active_stores,
    .close_stores = close_volume,
    .open_queue = open_queue,
    .forget_queue = forget_queue,
    .serve = serve,
    .refuse = refuse,
    .quiet = quiet,
    .room = room,
    .lane_queue = lane_queue,
    .lane_stop = lane_stop,
    .lane_running = lane_running,
    .settled = settled,
    .real_ns = real_ns,
    .stamp_ns = real_ns,
    .report = active_event,
    .note = say,
    .cannot_open = cannot_open,
};

static void active_turn(struct path *p)
{
    bool barrier = false;
    service_lease(p->service, p->now, INT64_MAX);
    nbd_work(p->nbd);
    if (p->volume)
        store_work(p->volume);
    struct service_turn turn = {
        .now_ns = p->now, .durable = p->durable, .applied = p->applied, .moved_ns = p->now};
    service_turn(p->service, &turn);
    if (service_updates(p->service))
        nbd_flush(p->nbd);
    if (service_push(p->service, &barrier) && barrier)
        outlet_barrier(p->outlet);
    outlet_send(p->outlet, p->now, send_there, p);
    if (p->volume)
        (void)store_sync(p->volume, true);
    segments_kick(p->maps, true);
    segments_work(p->maps);
    for (unsigned i = 0; i < p->back_count; i++) {
        struct positions at;
        int64_t moved;
        (void)outlet_ack(p->outlet, p->back[i].data, p->back[i].size, p->now, NULL);
        free(p->back[i].data);
        if (outlet_positions(p->outlet, &at, &moved)) {
            p->durable = at.durable;
            p->applied = at.applied;
        }
    }
    p->back_count = 0;
}

// ---- the passive end ----

static int passive_stores(void *user, struct block *ret_blocks[RECORD_OBJECTS_MAX], struct error *err)
{
    struct path *p = user;
    (void)err;
    p->replica = open_store(p, "replica", false);
    ret_blocks[0] = store_block(p->replica);
    return 0;
}

static void close_replica(void *user)
{
    struct path *p = user;
    p->replica = store_free(p->replica);
}

static int open_disk(void *user, struct disk **ret_disk, struct error *err)
{
    struct path *p = user;
    char dir[200];
    in_dir(p, "safe", dir, sizeof(dir));
    int r = segments_open(dir, SEGMENTS_KICKED, &p->safe, err);
    if (r == 0)
        *ret_disk = segments_disk(p->safe);
    return r;
}

static void close_disk(void *user)
{
    struct path *p = user;
    if (p->safe)
        p->safe = segments_free(p->safe);
}

static void work_disk(void *user)
{
    struct path *p = user;
    segments_kick(p->safe, true);
    segments_work(p->safe);
}

static uint64_t random_number(void *user)
{
    (void)user;
    return 42;
}

static void release(void *user, void *message)
{
    (void)user;
    free(message);
}

static void passive_event(void *user, const struct end_event *event)
{
    struct path *p = user;
    ENSURE(event->type == EV_REPLICA && event->replica.what != FOLLOW_FAILED);
    p->ready |= event->replica.what == FOLLOW_READY;
    if (event->replica.what == FOLLOW_EPOCH)
        follower_consent(p->follower, event->replica.seq);
}

static const struct follower_ops follower_ops = {
    .open_stores = passive_stores,
    .close_stores = close_replica,
    .open_disk = open_disk,
    .close_disk = close_disk,
    .work_disk = work_disk,
    .random = random_number,
    .send = send_back,
    .release = release,
    .report = passive_event,
    .note = say,
};

static void passive_turn(struct path *p)
{
    unsigned count = p->there_count;
    p->there_count = 0;
    for (unsigned i = 0; i < count; i++) {
        if (!follower_receive(p->follower, p->there[i].data, p->there[i].size, p->now))
            free(p->there[i].data);
    }
    if (p->safe)
        segments_work(p->safe);
    if (p->replica)
        store_work(p->replica);
    follower_turn(p->follower, p->now);
    if (p->safe)
        segments_kick(p->safe, true);
}

// ---- the client ----

// Everything waits for a disk: so does this, or empty turns would be counted, more or fewer of them.
static void wait_for_disks(const struct path *p)
{
    struct pollfd fds[5] = {{.fd = nbd_fd(p->nbd), .events = POLLIN},
                            {.fd = segments_fd(p->maps), .events = POLLIN}};
    nfds_t n = 2;
    if (p->volume)
        fds[n++] = (struct pollfd){.fd = store_fd(p->volume), .events = POLLIN};
    if (p->replica)
        fds[n++] = (struct pollfd){.fd = store_fd(p->replica), .events = POLLIN};
    if (p->safe)
        fds[n++] = (struct pollfd){.fd = segments_fd(p->safe), .events = POLLIN};
    (void)poll(fds, n, 1); // 1 ms: some steps wait for time alone
}

static void turn(struct path *p)
{
    uint64_t done = p->durable + p->applied;
    p->now += 20000; // so much time a turn, whatever a real clock says
    active_turn(p);
    passive_turn(p);
    if (p->there_count == 0 && p->back_count == 0 && p->durable + p->applied == done) {
        p->now += NS_PER_MS;
        wait_for_disks(p);
    }
}

// Both sides of the socket are this thread's: what does not fit into it waits for a turn.
static void transfer(struct path *p, void *data, size_t size, bool out)
{
    uint8_t *at = data;
    while (size > 0) {
        ssize_t n = out ? send(p->fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT) : recv(p->fd, at, size, MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) {
            turn(p);
            continue;
        }
        ENSURE(n > 0);
        at += n;
        size -= (size_t)n;
    }
}

// The oldest way in: NBD_OPT_EXPORT_NAME with an empty name.
static void connect_client(struct path *p, const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    struct {
        uint32_t flags;
        uint64_t magic;
        uint32_t option, length;
    } __attribute__((packed)) hello = {htobe32(3), htobe64(0x49484156454f5054ull), htobe32(1), 0};
    uint8_t back[18], answer[10];
    ENSURE(strlen(path) < sizeof(address.sun_path));
    memcpy(address.sun_path, path, strlen(path) + 1);
    p->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ENSURE(p->fd >= 0 && connect(p->fd, (struct sockaddr *)&address, sizeof(address)) == 0);
    transfer(p, back, sizeof(back), false);
    transfer(p, &hello, sizeof(hello), true);
    transfer(p, answer, sizeof(answer), false);
}

struct request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t cookie, offset;
    uint32_t length;
} __attribute__((packed));

static void ask(struct path *p, uint16_t type, uint8_t *buffer)
{
    struct request *r = (struct request *)buffer;
    uint32_t length = type == 1 ? p->block : 0;
    p->random = p->random * 1664525u + 1013904223u;
    *r = (struct request){.magic = htobe32(0x25609513),
                          .type = htobe16(type),
                          .cookie = p->started,
                          .offset = type == 1 ? htobe64((uint64_t)(p->random >> 8) % (HOT / p->block) * p->block) : 0,
                          .length = htobe32(length)};
    memset(buffer + sizeof(*r), (int)p->started, length);
    transfer(p, buffer, sizeof(*r) + length, true);
    p->started++;
    p->out++;
}

static void take_answers(struct path *p)
{
    uint8_t replies[16 * DEPTH];
    struct pollfd poll_fd = {.fd = p->fd, .events = POLLIN};
    if (poll(&poll_fd, 1, 0) == 0)
        return;
    ssize_t n = recv(p->fd, replies, sizeof(replies), MSG_DONTWAIT);
    ENSURE(n > 0 && n % 16 == 0);
    for (ssize_t i = 0; i < n; i += 16) {
        uint32_t error;
        memcpy(&error, replies + i + 4, sizeof(error));
        ENSURE(error == 0);
    }
    p->answered += (uint64_t)n / 16;
    p->out -= (uint32_t)(n / 16);
}

// `count` writes at depth 16, a flush behind every `flush_every` of them.
static void load(struct path *p, uint64_t count, uint64_t flush_every)
{
    static uint8_t buffer[sizeof(struct request) + (1u << 20)];
    uint64_t written = 0, goal = p->started + count + count / flush_every;
    while (p->answered < goal) {
        if (p->out == 0) { // a whole window at a time: each run makes the same turns
            for (unsigned i = 0; i < DEPTH && written < count && p->started < goal; i++) {
                ask(p, 1, buffer);
                written++;
                if (written % flush_every == 0)
                    ask(p, 3, buffer);
            }
        }
        turn(p);
        take_answers(p);
    }
}

// ---- all of it ----

static void make_file(const struct path *p, const char *name)
{
    char file[200];
    in_dir(p, name, file, sizeof(file));
    int fd = open(file, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    ENSURE(fd >= 0 && ftruncate(fd, VOLUME) == 0);
    (void)close(fd);
}

static void make_dir(const struct path *p, const char *name)
{
    char dir[200];
    in_dir(p, name, dir, sizeof(dir));
    ENSURE(mkdir(dir, 0700) == 0);
}

static void set_up(struct path *p)
{
    static const uint64_t sizes[] = {VOLUME}, ids[] = {1};
    static const char *const names[] = {"volume"};
    static const struct nbd_ops nbd_ops = {0};
    struct error err = {0};
    char path[200];
    make_file(p, "volume");
    make_file(p, "replica");
    make_dir(p, "maps");
    make_dir(p, "safe");
    in_dir(p, "maps", path, sizeof(path));
    must(segments_open(path, SEGMENTS_KICKED, &p->maps, &err), &err);
    struct service_config service = {
        .mode = UPDATES_SYNC,
        .volumes = 1,
        .sizes = sizes,
        .names = names,
        .ids = ids,
        .pair = 1,
        .boot = 1,
        .ring_bytes = 256u << 20,
        .payload_max = RECORD_PAYLOAD_MAX,
        .timeout_ns = 2 * NS_PER_S,
        .map_disk = segments_disk(p->maps),
        .generation_ns = 10 * NS_PER_S,
    };
    struct follower_config follower = {
        .volumes = 1, .pair = 1, .segment_size = SAFE_SEGMENT_SIZE, .limit = 16ull * SAFE_SEGMENT_SIZE};
    p->outlet = outlet_new(SERVICE_READER);
    p->service = service_new(&service, &service_ops, p);
    p->follower = follower_new(&follower, &follower_ops, p);
    ENSURE(p->outlet && p->service && p->follower);
    in_dir(p, "nbd", path, sizeof(path));
    struct nbd_export export = {.name = "volume",
                                .socket = path,
                                .size = VOLUME,
                                .data_align = 1,
                                .owner = (uid_t)-1,
                                .group = (gid_t)-1,
                                .mode = 0600};
    must(nbd_open(&export, 1, &nbd_ops, p, &p->nbd, &err), &err);
    struct epoch epoch = {.number = 1,
                          .id = 77,
                          .first_seq = 1,
                          .opened_by = EPOCH_BY_PRIMARY,
                          .reason = EPOCH_FIRST_START};
    service_open(p->service, false, &epoch, 1, p->now);
    while (!p->open)
        turn(p);
    service_bound(p->service, UINT64_C(1) << 40);
    follower_follow(p->follower, 1, true, 1, &epoch, p->now);
    while (!p->ready)
        turn(p);
    ENSURE(outlet_start(p->outlet, 1, 0, p->now));
    service_gate(p->service, GATE_PAIRED, 1, 0, INT64_MAX);
    connect_client(p, path);
}

static void tear_down(struct path *p)
{
    (void)close(p->fd);
    service_abandon(p->service, false);
    while (service_queue(p->service))
        turn(p);
    (void)follower_close(p->follower, NULL, 0, NULL);
    p->follower = follower_free(p->follower);
    p->nbd = nbd_free(p->nbd);
    p->service = service_free(p->service);
    close_volume(p);
    p->outlet = outlet_free(p->outlet);
    p->maps = segments_free(p->maps);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        (void)fprintf(stderr, "usage: path EMPTY-DIRECTORY WRITES BYTES FLUSH-EVERY\n");
        return 2;
    }
    struct path p = {.dir = argv[1], .now = NS_PER_S, .block = (uint32_t)strtoul(argv[3], NULL, 10), .random = 1};
    uint64_t count = strtoull(argv[2], NULL, 10), flush_every = strtoull(argv[4], NULL, 10);
    if (p.block == 0 || p.block > 1u << 20 || count == 0 || flush_every == 0) {
        (void)fprintf(stderr, "path: BYTES from 1 to 1048576; WRITES and FLUSH-EVERY not 0\n");
        return 2;
    }
    set_up(&p);
    load(&p, count, flush_every);
    tear_down(&p);
    return 0;
}
