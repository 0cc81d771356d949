// SPDX-License-Identifier: Apache-2.0
#include "common/address/claims.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>

#include "common/address/address.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"

#define HEAD       "understudy-addresses 1"
#define HEAD_SIZE  (sizeof(HEAD) + 17)
#define LINE_MAX   (CLAIMS_OWNER_MAX + IFNAMSIZ + IP_TEXT_SIZE + 16)
#define FILE_MAX   ((size_t)CLAIMS_MAX * LINE_MAX)
#define LOCK_NS    (500 * NS_PER_MS) // somebody who was stopped with it must not hold up the others
#define LOCK_STEP  (2 * NS_PER_MS)

struct table {
    int lock_fd; // held while this is looked at
    struct claims_entry *entries;
    size_t count, room;
    bool changed;
};

// What is on one interface.
struct listing {
    struct ip ips[ADDRESS_LIST_MAX];
    uint32_t created[ADDRESS_LIST_MAX];
    size_t count;
};

// --- The file ---

int claims_path(char *buffer, size_t size, const char *runtime_dir)
{
    return path_format(buffer, size, "%s/addresses.list", runtime_dir);
}

// The first line.
static void make_head(uint64_t boot_id, char head[HEAD_SIZE])
{
    (void)snprintf(head, HEAD_SIZE, HEAD " %016" PRIx64, boot_id);
}

static void make_line(const struct claims_entry *e, char line[LINE_MAX])
{
    char address[IP_TEXT_SIZE];
    (void)snprintf(line, LINE_MAX, "%s %s %s %" PRIu32, e->owner, e->claim.interface, ip_format(&e->claim.ip, address),
                   e->created);
}

// No other way of writing the same is a line: what is cut off, or wraps around, would be another claim.
static bool parse_line(const char *line, struct claims_entry *ret_entry)
{
    char address[IP_TEXT_SIZE], again[LINE_MAX];
    struct claims_entry e = {.created = 0};
    _Static_assert(CLAIMS_OWNER_MAX == 64 && IFNAMSIZ == 16 && IP_TEXT_SIZE == 64, "as in the format");
    if (sscanf(line, "%63s %15s %63s %" SCNu32, e.owner, e.claim.interface, address, &e.created) != 4 ||
        ip_parse(address, &e.claim.ip, NULL) < 0)
        return false;
    make_line(&e, again);
    if (strcmp(line, again) != 0)
        return false;
    *ret_entry = e;
    return true;
}

size_t claims_parse(char *text, uint64_t boot_id, struct claims_entry *ret_entries, size_t limit)
{
    char *rest = NULL, head[HEAD_SIZE];
    size_t count = 0;
    make_head(boot_id, head);
    char *line = strtok_r(text, "\n", &rest);
    if (!line || strcmp(line, head) != 0)
        return 0;
    while (count < limit && (line = strtok_r(NULL, "\n", &rest)))
        count += parse_line(line, &ret_entries[count]);
    return count;
}

char *claims_format(const struct claims_entry *entries, size_t count, uint64_t boot_id)
{
    char *text = NULL, line[LINE_MAX], head[HEAD_SIZE];
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    make_head(boot_id, head);
    (void)fprintf(out, "%s\n", head);
    for (size_t i = 0; i < count; i++) {
        make_line(&entries[i], line);
        (void)fprintf(out, "%s\n", line);
    }
    if (fclose(out) == 0)
        return text;
    free(text);
    return NULL;
}

// --- The table ---

static void table_done(struct table *t)
{
    free(t->entries);
    cleanup_close(&t->lock_fd);
}

static size_t lines_of(const char *text)
{
    size_t count = 0;
    for (; text && *text; text++)
        count += *text == '\n';
    return count;
}

static int take_lock(const char *path, int *ret_fd, struct error *err)
{
    char lock[PATH_SIZE];
    struct timespec step = {.tv_nsec = LOCK_STEP};
    int64_t until = clock_boot_ns() + LOCK_NS;
    int r = path_format(lock, sizeof(lock), "%s.lock", path);
    CLEANUP_CLOSE int fd = r < 0 ? -1 : open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return error_sys(err, r < 0 ? r : -errno, "cannot open %s.lock", path);
    while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
        if (clock_boot_ns() > until)
            return error_set(err, -EBUSY, "%s is locked, by another daemon that does not let go", lock);
        (void)nanosleep(&step, NULL);
    }
    *ret_fd = TAKE_FD(fd);
    return 0;
}

// A file that cannot be read is as if it were not there. `more`: room for so many new claims.
static int table_open(const char *path, size_t more, struct table *ret_table, struct error *err)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    struct table t = {.lock_fd = -1};
    int r = take_lock(path, &t.lock_fd, err);
    if (r < 0)
        return r;
    (void)file_read(path, FILE_MAX, &text, &size, NULL);
    t.room = MIN(lines_of(text) + more + 1, (size_t)CLAIMS_MAX);
    t.entries = calloc(t.room, sizeof(*t.entries));
    if (!t.entries) {
        table_done(&t);
        return error_sys(err, -ENOMEM, "%s", path);
    }
    if (text)
        t.count = claims_parse(text, clock_boot_id(), t.entries, t.room);
    *ret_table = t;
    return 0;
}

static int table_save(struct table *t, const char *path, struct error *err)
{
    if (!t->changed)
        return 0;
    CLEANUP_FREE char *text = claims_format(t->entries, t->count, clock_boot_id());
    if (!text)
        return error_sys(err, -ENOMEM, "%s", path);
    int r = file_replace(path, text, strlen(text), 0600, err);
    t->changed = r < 0;
    return r;
}

// --- Claims ---

static bool same_ip(const struct ip *a, const struct ip *b)
{
    return ip_equal(a, b) && a->prefix == b->prefix;
}

static struct claims_entry *find(struct table *t, const char *interface, const struct ip *ip)
{
    for (size_t i = 0; i < t->count; i++) {
        struct claims_entry *e = &t->entries[i];
        if (strcmp(e->claim.interface, interface) == 0 && same_ip(&e->claim.ip, ip))
            return e;
    }
    return NULL;
}

static void forget(struct table *t, struct claims_entry *e)
{
    *e = t->entries[--t->count];
    t->changed = true;
}

static bool is_configured(const struct claims *c, const struct claim *claim)
{
    bool found = false;
    for (size_t i = 0; i < c->count; i++)
        found |= strcmp(c->interface, claim->interface) == 0 && same_ip(&c->addresses[i], &claim->ip);
    return found;
}

// An interface that is not there has none.
static int list(const char *interface, struct listing *ret, struct error *err)
{
    struct error why = {0};
    int r = address_list_created(interface, ret->ips, ret->created, ADDRESS_LIST_MAX, &ret->count, &why);
    if (r == 0 || r == -ENODEV)
        ret->count = r == 0 ? ret->count : 0;
    else
        (void)error_set(err, r, "%s", why.text);
    return r == -ENODEV ? 0 : r;
}

static const uint32_t *created_in(const struct listing *l, const struct ip *ip)
{
    for (size_t i = 0; i < l->count; i++) {
        if (same_ip(&l->ips[i], ip))
            return &l->created[i];
    }
    return NULL;
}

static bool is_ours(const struct claims_entry *e, const uint32_t *created)
{
    return created && (e->created == 0 || e->created == *created);
}

// Before the address is asked for.
static void claim(struct table *t, const struct claims *c, const struct ip *ip, const uint32_t *created)
{
    struct claims_entry *e = find(t, c->interface, ip);
    bool foreign = created && !(e && is_ours(e, created));
    if (foreign && e)
        forget(t, e);
    if (foreign || (!e && t->count == t->room))
        return;
    struct claims_entry fresh = {.claim.ip = *ip, .created = created ? *created : 0};
    (void)snprintf(fresh.owner, sizeof(fresh.owner), "%s", c->owner);
    (void)snprintf(fresh.claim.interface, sizeof(fresh.claim.interface), "%s", c->interface);
    if (!e)
        e = &t->entries[t->count++];
    t->changed |= strcmp(e->owner, fresh.owner) != 0 || e->created != fresh.created;
    *e = fresh;
}

// Behind it: which one it is.
static void recognize(struct table *t, const struct claims *c, const struct listing *l)
{
    for (size_t i = 0; i < c->count; i++) {
        struct claims_entry *e = find(t, c->interface, &c->addresses[i]);
        const uint32_t *created = created_in(l, &c->addresses[i]);
        if (!e || !created || e->created != 0)
            continue;
        e->created = *created;
        t->changed = true;
    }
}

// The wait for the file's lock lies before this.
static int add_all(const struct claims *c, struct error *err)
{
    int r = 0;
    if (c->limit_ns && clock_boot_ns() >= atomic_load(c->limit_ns))
        return error_set(err, -ETIME, "it is too late to put an address on");
    for (size_t i = 0; i < c->count && r == 0; i++)
        r = address_add(c->interface, &c->addresses[i], err);
    return r;
}

// Takes off what the claim is of, if that is still there, and forgets the claim.
static int take_off(struct table *t, struct claims_entry *e, struct error *err)
{
    CLEANUP_FREE struct listing *l = calloc(1, sizeof(*l));
    int r = l ? list(e->claim.interface, l, err) : error_sys(err, -ENOMEM, "list of addresses");
    if (r == 0 && is_ours(e, created_in(l, &e->claim.ip)))
        r = address_remove_exact(e->claim.interface, &e->claim.ip, err);
    if (r == 0 || r == -ENODEV)
        forget(t, e);
    return r == -ENODEV ? 0 : r;
}

// Takes off what `is_meant` says; backwards, since the last entry takes the place of one that is forgotten.
static int leave(struct table *t, bool (*is_meant)(void *user, const struct claims_entry *e), void *user, struct error *err)
{
    int first = 0;
    for (size_t i = t->count; i-- > 0;) {
        if (!is_meant(user, &t->entries[i]))
            continue;
        int r = take_off(t, &t->entries[i], first == 0 ? err : NULL);
        first = first < 0 ? first : r;
    }
    return first;
}

static bool is_owners(void *user, const struct claims_entry *e)
{
    const struct claims *c = user;
    return strcmp(e->owner, c->owner) == 0;
}

static bool is_left(void *user, const struct claims_entry *e)
{
    return is_owners(user, e) && !is_configured(user, &e->claim);
}

// An IPv6 address is on an interface with one prefix length only.
static bool is_in_the_way(void *user, const struct claims_entry *e)
{
    const struct claims *c = user;
    bool found = false;
    for (size_t i = 0; i < c->count; i++)
        found |= e->claim.ip.family == IP_V6 && strcmp(c->interface, e->claim.interface) == 0 &&
                 ip_equal(&c->addresses[i], &e->claim.ip);
    return found && is_left(user, e);
}

int claims_put_on(const struct claims *c, struct error *unnoted, struct error *err)
{
    CLEANUP(table_done) struct table t = {.lock_fd = -1};
    CLEANUP_FREE struct listing *l = calloc(1, sizeof(*l));
    int noted = l ? table_open(c->path, c->count, &t, unnoted) : error_sys(unnoted, -ENOMEM, "%s", c->path);
    if (noted == 0)
        noted = list(c->interface, l, unnoted);
    if (noted < 0)
        return add_all(c, err);
    (void)leave(&t, is_in_the_way, (void *)c, NULL);
    for (size_t i = 0; i < c->count; i++)
        claim(&t, c, &c->addresses[i], created_in(l, &c->addresses[i]));
    noted = table_save(&t, c->path, unnoted);
    int r = add_all(c, err);
    if (noted == 0 && list(c->interface, l, unnoted) == 0) {
        recognize(&t, c, l);
        (void)table_save(&t, c->path, unnoted);
    }
    return r;
}

static void forget_configured(struct table *t, const struct claims *c)
{
    for (size_t i = t->count; i-- > 0;) {
        const struct claim *claim = &t->entries[i].claim;
        for (size_t k = 0; k < c->count; k++) {
            if (strcmp(claim->interface, c->interface) != 0 || !ip_equal(&claim->ip, &c->addresses[k]))
                continue;
            forget(t, &t->entries[i]);
            break;
        }
    }
}

int claims_take_off(const struct claims *c, struct error *err)
{
    CLEANUP(table_done) struct table t = {.lock_fd = -1};
    int r = c->count > 0 ? address_remove_all(c->interface, c->addresses, c->count, NULL, err) : 0;
    r = r == -ENODEV ? 0 : r;
    if (table_open(c->path, 0, &t, NULL) < 0)
        return r; // what the owner has left is looked for again at its next start
    if (r == 0)
        forget_configured(&t, c);
    int left = leave(&t, is_left, (void *)c, r == 0 ? err : NULL);
    (void)table_save(&t, c->path, NULL); // what it says too much is not there any more
    return r < 0 ? r : left;
}

int claims_leave(const struct claims *c, struct error *err)
{
    CLEANUP(table_done) struct table t = {.lock_fd = -1};
    int r = table_open(c->path, 0, &t, err);
    if (r < 0)
        return r;
    r = leave(&t, is_left, (void *)c, err);
    (void)table_save(&t, c->path, NULL);
    return r;
}

int claims_left(const struct claims *c, struct claim *ret_left, size_t limit, size_t *ret_count, struct error *err)
{
    CLEANUP(table_done) struct table t = {.lock_fd = -1};
    size_t count = 0;
    int r = table_open(c->path, 0, &t, err);
    if (r < 0)
        return r;
    for (size_t i = 0; i < t.count && count < limit; i++) {
        if (is_left((void *)c, &t.entries[i]))
            ret_left[count++] = t.entries[i].claim;
    }
    *ret_count = count;
    return 0;
}

struct gone {
    bool (*is_gone)(void *user, const char *owner);
    void *user;
};

static bool is_of_gone(void *user, const struct claims_entry *e)
{
    const struct gone *g = user;
    return g->is_gone(g->user, e->owner);
}

int claims_leave_gone(const char *path, bool (*is_gone)(void *user, const char *owner), void *user, struct error *err)
{
    CLEANUP(table_done) struct table t = {.lock_fd = -1};
    struct gone gone = {.is_gone = is_gone, .user = user};
    int r = table_open(path, 0, &t, err);
    if (r < 0)
        return r;
    r = leave(&t, is_of_gone, &gone, err);
    (void)table_save(&t, path, NULL);
    return r;
}
