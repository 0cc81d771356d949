// SPDX-License-Identifier: Apache-2.0
// Making and mapping the file of an unsafe queue. unsafe_file.h says how it is laid out and what a crash may leave in
// it; everything that is read from a file that was there before is checked first, here (what it is) and in
// unsafe_check.c (what is in it), and nowhere else.
#include "queues/unsafe_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"

#define BACK_STEP    (UINT64_C(4) * 1024 * 1024)
#define BACK_PARTS   16 // a small ring is backed in so many steps
#define RECORDS_MIN  1024U
#define RECORDS_MAX  (1U << 24)
#define RECORD_SHARE 4096U // one entry of the record table for so many bytes of the ring
_Static_assert(UNSAFE_RECORDS_MIN >= 4 * UNSAFE_RESERVE, "the reserve is a small part of the table");

// ---- Layout ----

static uint64_t page_round(uint64_t bytes)
{
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    return (bytes + page - 1) / page * page;
}

// Gives the next part of the file, which takes `bytes`, and moves `at` behind it.
static void *part(const uint8_t *base, uint64_t *at, uint64_t bytes)
{
    uintptr_t address = (uintptr_t)base + *at;
    *at += page_round(bytes);
    return (void *)address;
}

// Sets the pointers and sizes for the parts of a file with these dimensions; with base NULL only
// the sizes count.
static void lay_out(struct unsafe_file *file, uint8_t *base)
{
    uint64_t at = 0;
    file->base = base;
    file->super = part(base, &at, sizeof(struct unsafe_super));
    file->state = part(base, &at, sizeof(struct unsafe_state));
    file->slot = part(base, &at, UNSAFE_SLOTS * sizeof(struct unsafe_slot));
    file->place = part(base, &at, file->records * sizeof(uint64_t));
    file->record = part(base, &at, file->records * sizeof(struct record));
    file->base_bytes = at;
    file->ring_at = at;
}

static uint32_t table_size(uint64_t ring_bytes)
{
    uint32_t records = RECORDS_MIN;
    while (records < RECORDS_MAX && (uint64_t)records * RECORD_SHARE < ring_bytes)
        records *= 2;
    return records;
}

static bool records_invalid(uint32_t records, uint64_t ring_bytes)
{
    return records < UNSAFE_RECORDS_MIN || records > table_size(ring_bytes) ||
           (records & (records - 1)) != 0;
}

static uint64_t super_sum(const struct unsafe_super *super)
{
    return checksum64(super, offsetof(struct unsafe_super, sum));
}

uint64_t unsafe_slot_sum(const struct unsafe_slot *slot)
{
    struct unsafe_slot copy = {
        .payload = slot->payload,
        .position = slot->position,
        .offset = slot->offset,
        .length = slot->length,
        .object = slot->object,
        .type = slot->type,
        .flags = slot->flags,
        .payload_sum = slot->payload_sum,
        .reserved = slot->reserved,
    };
    return checksum64(&copy, offsetof(struct unsafe_slot, sum));
}

uint64_t unsafe_file_salt(const struct unsafe_super *super)
{
    uint64_t parts[] = {super->pair, super->boot, super->epoch, super->start};
    uint64_t salt = checksum64(parts, sizeof(parts));
    return salt ? salt : 1;
}

// ---- Mapping ----

// Maps the ring twice in a row into addresses that were reserved for both.
static int map_ring(struct unsafe_file *file, struct error *err)
{
    int share = file->looking ? MAP_PRIVATE : MAP_SHARED;
    size_t bytes = file->ring_bytes;
    uint8_t *ring = mmap(NULL, 2 * bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ring == MAP_FAILED)
        return error_sys(err, -errno, "unsafe queue: no addresses for twice %zu bytes", bytes);
    file->ring = ring;
    for (int i = 0; i < 2; i++) {
        if (mmap(ring + (size_t)i * bytes, bytes, PROT_READ | PROT_WRITE, share | MAP_FIXED,
                 file->fd, (off_t)file->ring_at) == MAP_FAILED)
            return error_sys(err, -errno, "unsafe queue: cannot map its ring");
    }
    return 0;
}

static int map_base(struct unsafe_file *file, struct error *err)
{
    uint8_t *base = mmap(NULL, file->base_bytes, PROT_READ | PROT_WRITE,
                         file->looking ? MAP_PRIVATE : MAP_SHARED, file->fd, 0);
    if (base == MAP_FAILED)
        return error_sys(err, -errno, "unsafe queue: cannot map its tables");
    lay_out(file, base);
    return 0;
}

static int map_parts(struct unsafe_file *file, struct error *err)
{
    int r = map_base(file, err);
    return r < 0 ? r : map_ring(file, err);
}

void unsafe_file_unmap(struct unsafe_file *file)
{
    if (file->ring)
        (void)munmap(file->ring, 2 * file->ring_bytes);
    if (file->base)
        (void)munmap(file->base, file->base_bytes);
    cleanup_close(&file->fd);
    *file = (struct unsafe_file){.fd = -1};
}

int unsafe_file_back(struct unsafe_file *file, uint64_t bytes)
{
    ENSURE(bytes <= file->ring_bytes);
    uint64_t most = MIN(BACK_STEP, page_round(file->ring_bytes / BACK_PARTS));
    while (file->backed < bytes) {
        uint64_t step = MIN(most, file->ring_bytes - file->backed);
        int r;
        do {
            r = posix_fallocate(file->fd, (off_t)(file->ring_at + file->backed), (off_t)step);
        } while (r == EINTR);
        if (r != 0)
            return -r;
        file->backed += step;
    }
    return 0;
}

// ---- Creating ----

static uint64_t least_ring(uint32_t payload_max)
{
    return UNSAFE_RING_MIN + 4 * ((uint64_t)payload_max + UNSAFE_RECEIVE_MAX);
}

static int config_invalid(const struct unsafe_config *config, struct error *err)
{
    uint64_t least = least_ring(config->payload_max);
    if (config->payload_max == 0 || config->payload_max > RECORD_PAYLOAD_MAX)
        return error_set(err, -EINVAL, "unsafe queue: payloads of %u bytes are not possible",
                         config->payload_max);
    if (config->ring_bytes < least || config->ring_bytes > UNSAFE_RING_MAX)
        return error_set(err, -EINVAL,
                         "unsafe queue: %llu bytes of memory are not possible; with requests of up "
                         "to %u bytes it takes at least %llu",
                         (unsigned long long)config->ring_bytes, config->payload_max,
                         (unsigned long long)least);
    if (config->records != 0 && records_invalid(config->records, config->ring_bytes))
        return error_set(err, -EINVAL, "unsafe queue: a table of %u records is not possible",
                         config->records);
    if (config->bound < config->start)
        return error_set(err, -EINVAL, "unsafe queue: its bound lies below its start");
    return 0;
}

static int open_new(const char *path, struct error *err)
{
    if (!path) {
        int fd = memfd_create("unsafe-queue", MFD_CLOEXEC);
        return fd < 0 ? error_sys(err, -errno, "unsafe queue: no memory file") : fd;
    }
    // A new file, so that whoever still has the old one mapped cannot write into this one.
    if (unlink(path) < 0 && errno != ENOENT)
        return error_sys(err, -errno, "cannot remove %s", path);
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fd < 0 ? error_sys(err, -errno, "cannot create %s", path) : fd;
}

static int allocate(struct unsafe_file *file, const char *path, struct error *err)
{
    uint64_t bytes = file->ring_at + file->ring_bytes;
    if (ftruncate(file->fd, (off_t)bytes) < 0)
        return error_sys(err, -errno, "unsafe queue: cannot make a file of %llu bytes",
                         (unsigned long long)bytes);
    // The tables are used from the start; the ring gets its memory when it is first used.
    int r = posix_fallocate(file->fd, 0, (off_t)file->base_bytes);
    return r == 0 ? 0 : error_sys(err, -r, "no room for the unsafe queue %s", path ? path : "in memory");
}

// The magic comes last: without it a file is none.
static void write_super(struct unsafe_file *file, const struct unsafe_config *config)
{
    struct unsafe_super super = {
        .magic = UNSAFE_MAGIC,
        .version = UNSAFE_VERSION,
        .payload_max = config->payload_max,
        .pair = config->pair,
        .boot = config->boot,
        .ring_bytes = file->ring_bytes,
        .start = config->start,
        .epoch = config->epoch,
        .records = file->records,
        .slots = UNSAFE_SLOTS,
    };
    super.sum = super_sum(&super);
    for (unsigned i = 0; i < UNSAFE_SLOTS; i++)
        atomic_store_explicit(&file->slot[i].state, SLOT_EMPTY, memory_order_relaxed);
    file->state->bound = config->bound;
    file->state->bound_not = ~config->bound;
    file->state->epoch = config->epoch;
    file->state->epoch_not = ~config->epoch;
    atomic_store(&file->state->numbered_not, ~config->start);
    atomic_store(&file->state->numbered, config->start);
    atomic_store(&file->state->spilled, config->start);
    super.magic = 0;
    *file->super = super;
    atomic_thread_fence(memory_order_release);
    file->super->magic = UNSAFE_MAGIC;
}

int unsafe_file_create(const char *path, const struct unsafe_config *config,
                       struct unsafe_file *ret_file, struct error *err)
{
    int r = config_invalid(config, err);
    if (r < 0)
        return r;
    struct unsafe_file file = {
        .ring_bytes = page_round(config->ring_bytes),
        .payload_max = config->payload_max,
    };
    file.records = config->records ? config->records : table_size(file.ring_bytes);
    lay_out(&file, NULL);
    file.fd = open_new(path, err);
    if (file.fd < 0)
        return file.fd;
    r = allocate(&file, path, err);
    if (r == 0)
        r = map_parts(&file, err);
    if (r < 0) {
        unsafe_file_unmap(&file);
        return r;
    }
    write_super(&file, config);
    *ret_file = file;
    return 0;
}

// ---- Opening ----

static const char *super_invalid(const struct unsafe_super *super, uint64_t pair, uint64_t size)
{
    struct unsafe_file file = {.records = super->records};
    if (super->magic != UNSAFE_MAGIC)
        return "wrong magic";
    if (super->version != UNSAFE_VERSION)
        return "unknown version";
    if (!checksum_same(super->sum, super_sum(super)))
        return "its first page does not match its checksum";
    if (super->pair != pair)
        return "it is of another pair";
    if (super->ring_bytes == 0 || super->ring_bytes > UNSAFE_RING_MAX ||
        super->ring_bytes != page_round(super->ring_bytes))
        return "impossible size of its ring";
    if (records_invalid(super->records, super->ring_bytes) || super->slots != UNSAFE_SLOTS)
        return "impossible size of its tables";
    if (super->payload_max == 0 || super->payload_max > RECORD_PAYLOAD_MAX)
        return "impossible limit of payloads";
    if (super->ring_bytes < least_ring(super->payload_max))
        return "its ring is too small for its payloads";
    lay_out(&file, NULL);
    if (size != file.ring_at + super->ring_bytes)
        return "its parts do not add up to the size of the file";
    return NULL;
}

static int read_super(int fd, uint64_t pair, struct unsafe_super *super, struct error *err)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return error_sys(err, -errno, "unsafe queue: cannot look at it");
    ssize_t n = pread(fd, super, sizeof(*super), 0);
    if (n < 0)
        return error_sys(err, -errno, "unsafe queue: cannot read it");
    if (n != sizeof(*super) || super->magic == 0)
        return error_set(err, -ENOENT, "unsafe queue: it was never finished");
    const char *reason = super_invalid(super, pair, (uint64_t)st.st_size);
    return reason ? error_set(err, -EUCLEAN, "unsafe queue: %s", reason) : 0;
}

// Takes over `fd`.
static int map_all(int fd, bool looking, const struct unsafe_super *super, struct unsafe_file *ret_file,
                   struct error *err)
{
    struct unsafe_file file = {
        .fd = fd,
        .looking = looking,
        .ring_bytes = super->ring_bytes,
        .payload_max = super->payload_max,
        .records = super->records,
    };
    lay_out(&file, NULL);
    int r = map_parts(&file, err);
    if (r < 0)
        unsafe_file_unmap(&file);
    else
        *ret_file = file;
    return r;
}

int unsafe_file_map(int fd, const struct unsafe_config *config, struct unsafe_file *ret_file,
                    struct error *err)
{
    struct unsafe_super super;
    int r = read_super(fd, config->pair, &super, err);
    if (r == 0 && super.boot != config->boot)
        r = error_set(err, -ESTALE, "unsafe queue: it is of another boot of this machine");
    if (r == 0)
        return map_all(fd, false, &super, ret_file, err);
    (void)close(fd);
    return r;
}

int unsafe_file_look(int fd, uint64_t pair, struct unsafe_file *ret_file, struct error *err)
{
    struct unsafe_super super;
    int r = read_super(fd, pair, &super, err);
    if (r == 0)
        return map_all(fd, true, &super, ret_file, err);
    (void)close(fd);
    return r;
}
