// SPDX-License-Identifier: Apache-2.0
// A program around the NBD server for real clients: nbd, updates and unsafe queue over files, which
// are read and written on the spot. `nbd_server [OPTION=VALUE...] DIRECTORY FILE...` exports each
// FILE, under its base name, at DIRECTORY/NAME.nbd. Commands come on stdin, a line each, and are
// answered with a line "= ..."; notes are told as "note: ...". It ends with its stdin.
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "common/intercept/nbd.h"

#define VOLUMES_MAX 4

struct volume {
    struct block block; // first
    int fd;
    struct block_request *first, **end; // submitted
    int fail;                           // -errno of everything but reads
    int fail_reads;
    bool held; // completes nothing
    unsigned writes, zeros, discards, flushes;
};

struct server {
    struct volume volumes[VOLUMES_MAX];
    unsigned count;
    struct unsafe *unsafe;
    struct updates *updates;
    struct nbd *nbd;
    bool peer_is_slow; // the reader releases nothing
    bool fast_zero;
    bool refuses; // then nbd_work() has to be enough
    unsigned rooms;
};

static struct server server;

static void die(const char *what, int r)
{
    (void)fprintf(stderr, "nbd_server: %s: %s\n", what, strerror(-r));
    exit(1);
}

// ---- The volumes ----

static void volume_submit(struct block *block, struct block_request *request)
{
    struct volume *v = (struct volume *)block;
    request->next = NULL;
    *v->end = request;
    v->end = &request->next;
}

static int volume_do(struct volume *v, const struct block_request *r)
{
    if (r->op == BLOCK_READ)
        return v->fail_reads < 0 ? v->fail_reads : file_pread(v->fd, r->data, r->length, r->offset);
    if (v->fail < 0)
        return v->fail;
    off_t offset = (off_t)r->offset, length = (off_t)r->length;
    int mode = FALLOC_FL_PUNCH_HOLE;
    switch (r->op) {
    case BLOCK_WRITE:
        v->writes++;
        if (v->block.data_align > 1 &&
            (((uintptr_t)r->data | r->offset | r->length) & (v->block.data_align - 1)))
            die("an unaligned write came through", -EINVAL);
        return file_pwrite(v->fd, r->data, r->length, r->offset);
    case BLOCK_ZERO:
        v->zeros++;
        if (r->flags & BLOCK_NO_HOLE)
            mode = FALLOC_FL_ZERO_RANGE;
        return fallocate(v->fd, mode | FALLOC_FL_KEEP_SIZE, offset, length) < 0 ? -errno : 0;
    case BLOCK_DISCARD:
        v->discards++;
        return fallocate(v->fd, mode | FALLOC_FL_KEEP_SIZE, offset, length) < 0 ? -errno : 0;
    default:
        v->flushes++;
        return fdatasync(v->fd) < 0 ? -errno : 0;
    }
}

static void volume_kick(struct block *block)
{
    struct volume *v = (struct volume *)block;
    while (v->first && !v->held) {
        struct block_request *request = v->first;
        v->first = request->next;
        if (!v->first)
            v->end = &v->first;
        request->done(request, volume_do(v, request));
    }
}

static void volume_open(struct volume *v, const char *path, uint32_t align)
{
    static const struct block_ops ops = {volume_submit, volume_kick};
    struct stat st;
    v->fd = open(path, O_RDWR | O_CLOEXEC);
    if (v->fd < 0 || fstat(v->fd, &st) < 0)
        die(path, -errno);
    v->end = &v->first;
    v->block = (struct block){
        .ops = &ops, .size = (uint64_t)st.st_size, .block_size = 512, .data_align = align};
}

// ---- What the daemon does ----

static int64_t real_ns(void *user)
{
    return clock_real_ns();
}

static void wake_sender(void *user, bool barrier)
{
    struct server *s = user;
    if (s->peer_is_slow || !unsafe_attached(s->unsafe, 0))
        return;
    unsafe_release(s->unsafe, 0, unsafe_numbered(s->unsafe));
}

static void event(void *user, const struct updates_event *event)
{
    struct server *s = user;
    if (event->kind == UPDATES_EVENT_ROOM) {
        s->rooms++;
        nbd_room(s->nbd);
    }
}

static void extent(void *user, uint16_t object, uint64_t offset, uint64_t length, bool *ret_hole,
                   bool *ret_zero, uint64_t *ret_length)
{
    const struct volume *v = &((struct server *)user)->volumes[object];
    off_t data = lseek(v->fd, (off_t)offset, SEEK_DATA);
    off_t end = lseek(v->fd, (off_t)offset, SEEK_HOLE);
    bool hole = data != (off_t)offset;
    uint64_t until = hole ? (data < 0 ? offset + length : (uint64_t)data) : (uint64_t)end;
    *ret_hole = *ret_zero = hole;
    *ret_length = MIN(until - offset, length);
}

static bool zero_is_fast(void *user, uint16_t object)
{
    return ((struct server *)user)->fast_zero;
}

static void note(void *user, uint16_t object, const char *text)
{
    (void)printf("note: %u: %s\n", object, text);
}

// ---- Commands ----

static void tell_stat(struct server *s)
{
    struct nbd_stat stat;
    struct unsafe_stat queue;
    struct updates_stat updates;
    const struct volume *v = &s->volumes[0];
    nbd_stat(s->nbd, &stat);
    unsafe_stat(s->unsafe, &queue);
    updates_stat(s->updates, &updates);
    (void)printf("= {\"clients\": %u, \"reads\": %llu, \"writes\": %llu, \"flushes\": %llu, "
                 "\"errors\": %llu, \"read_bytes\": %llu, \"written_bytes\": %llu, "
                 "\"quiet\": %d, \"rooms\": %u, \"queue_bytes\": %llu, \"level\": %d, "
                 "\"at_store\": %u, \"waiting\": %u, \"store\": [%u, %u, %u, %u]}\n",
                 stat.clients, (unsigned long long)stat.reads, (unsigned long long)stat.writes,
                 (unsigned long long)stat.flushes, (unsigned long long)stat.errors,
                 (unsigned long long)stat.read_bytes, (unsigned long long)stat.written_bytes,
                 nbd_quiet(s->nbd), s->rooms, (unsigned long long)queue.bytes, (int)queue.level,
                 updates.at_store, updates.waiting, v->writes, v->zeros, v->discards, v->flushes);
}

static void set_gate(struct server *s, const char *gate)
{
    static const char *const names[] = {"closed", "held", "paired", "alone"};
    for (unsigned i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(gate, names[i]) == 0)
            (void)updates_set_gate(s->updates, (enum updates_gate)i);
    }
}

static void command(struct server *s, char *line)
{
    char *value = strchr(line, ' ');
    if (value)
        *value++ = '\0';
    else
        value = line + strlen(line);
    struct volume *v = &s->volumes[0];
    if (strcmp(line, "stat") == 0) {
        tell_stat(s);
        return;
    }
    bool refuse = strcmp(line, "refuse") == 0, serve = strcmp(line, "serve") == 0;
    if (refuse || serve)
        s->refuses = refuse;
    if (refuse)
        nbd_refuse(s->nbd, value);
    else if (serve)
        nbd_serve(s->nbd, s->unsafe, s->updates);
    else if (strcmp(line, "gate") == 0)
        set_gate(s, value);
    else if (strcmp(line, "hold") == 0)
        v->held = true;
    else if (strcmp(line, "go") == 0)
        v->held = false;
    else if (strcmp(line, "fail") == 0)
        v->fail = -atoi(value);
    else if (strcmp(line, "fail_reads") == 0)
        v->fail_reads = -atoi(value);
    else if (strcmp(line, "slow_peer") == 0)
        s->peer_is_slow = atoi(value);
    else if (strcmp(line, "release") == 0)
        unsafe_release(s->unsafe, 0, unsafe_numbered(s->unsafe));
    else
        die(line, -EINVAL);
    (void)printf("=\n");
}

// Returns false at the end of stdin.
static bool commands(struct server *s)
{
    static char line[4096];
    static size_t used;
    ssize_t n = read(STDIN_FILENO, line + used, sizeof(line) - 1 - used);
    if (n <= 0)
        return false;
    used += (size_t)n;
    char *end;
    while ((end = memchr(line, '\n', used))) {
        *end = '\0';
        command(s, line);
        used -= (size_t)(end + 1 - line);
        memmove(line, end + 1, used);
    }
    return true;
}

// ---- Making and running ----

static void open_queue(struct server *s, uint64_t ring, bool peer)
{
    static const struct updates_ops ops = {
        .stamp_ns = real_ns, .wake_sender = wake_sender, .event = event};
    struct unsafe_config config = {
        .pair = 1,
        .boot = 2,
        .epoch = 3,
        .bound = UINT64_C(1) << 62,
        .ring_bytes = ring,
        .payload_max = RECORD_PAYLOAD_MAX,
    };
    struct error err;
    int r = unsafe_create(NULL, &config, &s->unsafe, &err);
    if (r < 0)
        die(err.text, r);
    s->updates = updates_new(s->unsafe, UPDATES_ASYNC, &ops, s);
    for (unsigned i = 0; i < s->count; i++)
        updates_set_volume(s->updates, (uint16_t)i, &s->volumes[i].block, 1);
    if (peer)
        unsafe_attach(s->unsafe, 0, 0);
    (void)updates_set_gate(s->updates, UPDATES_ALONE);
}

static void open_nbd(struct server *s, const char *directory, char *const *files, uint32_t align)
{
    static const struct nbd_ops ops = {
        .extent = extent, .zero_is_fast = zero_is_fast, .note = note};
    struct nbd_export exports[VOLUMES_MAX];
    static char sockets[VOLUMES_MAX][PATH_MAX];
    struct error err;
    for (unsigned i = 0; i < s->count; i++) {
        const char *name = strrchr(files[i], '/') ? strrchr(files[i], '/') + 1 : files[i];
        (void)snprintf(sockets[i], sizeof(sockets[i]), "%s/%s.nbd", directory, name);
        exports[i] = (struct nbd_export){
            .name = name,
            .socket = sockets[i],
            .size = s->volumes[i].block.size,
            .data_align = align,
            .owner = (uid_t)-1,
            .group = (gid_t)-1,
            .mode = 0600,
        };
    }
    int r = nbd_open(exports, s->count, &ops, s, &s->nbd, &err);
    if (r < 0)
        die(err.text, r);
}

static void run(struct server *s)
{
    struct pollfd fds[] = {{.fd = nbd_fd(s->nbd), .events = POLLIN},
                           {.fd = STDIN_FILENO, .events = POLLIN}};
    for (;;) {
        if (poll(fds, ARRAY_LEN(fds), -1) < 0)
            continue;
        if (fds[1].revents && !commands(s))
            return;
        nbd_work(s->nbd);
        for (unsigned i = 0; i < s->count; i++)
            volume_kick(&s->volumes[i].block);
        updates_kick(s->updates);
        if (!s->refuses)
            nbd_flush(s->nbd);
    }
}

static uint64_t option(int *argc, char ***argv, const char *name, uint64_t value)
{
    size_t length = strlen(name);
    if (*argc > 1 && strncmp((*argv)[1], name, length) == 0 && (*argv)[1][length] == '=') {
        value = strtoull((*argv)[1] + length + 1, NULL, 0);
        (*argc)--;
        (*argv)++;
    }
    return value;
}

int main(int argc, char **argv)
{
    struct server *s = &server;
    uint32_t align = (uint32_t)option(&argc, &argv, "align", 1);
    uint64_t ring = option(&argc, &argv, "ring", UINT64_C(256) << 20);
    bool peer = option(&argc, &argv, "peer", 0);
    s->refuses = option(&argc, &argv, "refuse", 0);
    s->fast_zero = option(&argc, &argv, "fast_zero", 1);
    if (argc < 3 || argc - 2 > VOLUMES_MAX)
        return 2;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    for (s->count = 0; s->count < (unsigned)argc - 2; s->count++)
        volume_open(&s->volumes[s->count], argv[2 + s->count], align);
    open_queue(s, ring, peer);
    open_nbd(s, argv[1], argv + 2, align);
    if (!s->refuses)
        nbd_serve(s->nbd, s->unsafe, s->updates);
    (void)printf("= ready\n");
    run(s);
    nbd_free(s->nbd);
    for (unsigned i = 0; i < s->count; i++)
        s->volumes[i].held = false;
    updates_kick(s->updates);
    return 0;
}
