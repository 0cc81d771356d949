// SPDX-License-Identifier: Apache-2.0
// Reads what a stopped end has left: state, history, safe queue; and of the runtime directory the unsafe queue and the
// guard's flag. A part that is not there is no damage by itself: what a start makes of that is said by fsck_start.c.
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/control/steps.h"
#include "pairctl/fsck.h"
#include "queues/intent_inspect.h"
#include "queues/salvage.h"
#include "queues/vitals.h"

#define SAY_AFTER_NS (2 * NS_PER_S)

static void note(struct fsck *f, bool damage, const char *file, uint64_t offset, const char *format, ...)
    __attribute__((format(printf, 5, 6)));
static void note(struct fsck *f, bool damage, const char *file, uint64_t offset, const char *format, ...)
{
    va_list args;
    *(damage ? &f->damages : &f->torn) += 1;
    if (f->finding_count == FSCK_FINDINGS_MAX)
        return;
    struct fsck_finding *to = &f->findings[f->finding_count++];
    (void)snprintf(to->file, sizeof(to->file), "%s", file);
    (void)snprintf(to->kind, sizeof(to->kind), "%s", damage ? "damage" : "torn");
    to->offset = offset;
    va_start(args, format);
    (void)vsnprintf(to->text, sizeof(to->text), format, args);
    va_end(args);
}

void fsck_progress(struct fsck *f, uint64_t done, uint64_t total)
{
    int64_t now = clock_boot_ns();
    if (f->quiet || now - f->began_ns < SAY_AFTER_NS || now - f->said_ns < SAY_AFTER_NS)
        return;
    f->said_ns = now;
    // Damage is looked at twice: more may be read than there is.
    (void)fprintf(stderr, "pairctl: %s: %s: %.0f %%\n", f->directory, f->reading,
                  total ? 100.0 * (double)MIN(done, total) / (double)total : 0);
}

int fsck_locked(const char *directory)
{
    char path[PATH_SIZE];
    if (path_format(path, sizeof(path), "%s/lock", directory) < 0)
        return 0;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) == 0)
        return 0; // let go of at once: a daemon that starts now is not held up
    return errno == EWOULDBLOCK ? -EBUSY : 0;
}

// ---- state ----

static void note_copies(struct fsck *f, const struct twin_copy copies[2])
{
    static const char *const names[] = {"state.0", "state.1"};
    for (int i = 0; i < 2; i++) {
        const struct twin_copy *other = &copies[!i];
        if (copies[i].state == TWIN_DAMAGED)
            note(f, true, names[i], copies[i].offset, "%s%s", copies[i].what,
                 other->state == TWIN_GOOD ? "; the other copy counts" : "");
        else if (copies[i].state == TWIN_MISSING && other->state != TWIN_MISSING)
            note(f, true, names[i], 0, "this copy of the state is not there");
        else if (copies[i].state != TWIN_MISSING && copies[i].bytes < TWIN_FILE_SIZE)
            note(f, true, names[i], copies[i].bytes, "the file ends here; it was made with %d bytes", TWIN_FILE_SIZE);
    }
}

static void look_at_state(struct fsck *f)
{
    char path[PATH_SIZE];
    uint8_t bytes[STATE_SIZE_MAX];
    struct twin_copy copies[2];
    struct error err = {0};
    size_t size = 0;
    if (path_format(path, sizeof(path), "%s/state", f->directory) < 0)
        return;
    int r = twin_inspect(path, bytes, sizeof(bytes), &size, copies, &err);
    if (r < 0 && r != -EUCLEAN) {
        note(f, true, "state.0", 0, "%s", err.text);
        f->state_there = f->failed = true;
        return;
    }
    note_copies(f, copies);
    f->state_there = copies[0].state != TWIN_MISSING || copies[1].state != TWIN_MISSING;
    const char *broken = r == 0 && size > 0 ? state_decode(bytes, size, &f->state) : NULL;
    int newest = copies[1].state == TWIN_GOOD && (copies[0].state != TWIN_GOOD || copies[1].version > copies[0].version);
    if (broken)
        note(f, true, newest ? "state.1" : "state.0", 32, "%s", broken);
    else if (r < 0 && copies[newest].state == TWIN_GOOD)
        note(f, true, newest ? "state.1" : "state.0", 0, "%s", err.text);
    f->state_readable = r == 0 && !broken;
}

// ---- history ----

static void look_at_history(struct fsck *f)
{
    char path[PATH_SIZE];
    struct step_slot slot;
    enum step_state states[STEPS_MAX] = {STEP_EMPTY};
    uint64_t newest = 0;
    unsigned i;
    if (path_format(path, sizeof(path), "%s/history", f->directory) < 0)
        return;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    for (i = 0; fd >= 0 && i < STEPS_MAX; i++) {
        if (file_pread(fd, &slot, sizeof(slot), (uint64_t)i * sizeof(slot)) < 0)
            break;
        states[i] = step_judge(&slot, i);
        if (states[i] == STEP_GOOD)
            newest = MAX(newest, slot.number);
    }
    struct stat st;
    if (fd >= 0 && fstat(fd, &st) == 0 && (uint64_t)st.st_size > (uint64_t)i * sizeof(slot))
        note(f, true, "history", (uint64_t)i * sizeof(slot), "a step is cut off, or more than the file can hold");
    for (i = 0; i < STEPS_MAX; i++) {
        if (states[i] == STEP_BROKEN)
            note(f, (newest + 1) % STEPS_MAX != i, "history", (uint64_t)i * sizeof(slot),
                 "a step does not match its checksum; it is left out");
    }
}

// ---- safe queue ----

static void found_safe(void *arg, const struct inspect_finding *finding)
{
    char name[32];
    (void)snprintf(name, sizeof(name), "safe/segment.%04u", finding->slot);
    note(arg, finding->kind == INSPECT_DAMAGE, name, finding->offset, "%s", finding->what);
}

static uint64_t pair_id(const struct fsck *f)
{
    return checksum64(f->pair, strlen(f->pair)); // as the daemon makes it of the name
}

static void look_at_safe(struct fsck *f)
{
    char path[PATH_SIZE];
    struct error err = {0};
    struct fsck_disk *disk = NULL;
    if (path_format(path, sizeof(path), "%s/safe", f->directory) < 0)
        return;
    f->reading = "safe queue";
    int r = fsck_disk_open(path, f, &disk, &err);
    if (r == -ENOENT)
        return;
    f->safe_there = true;
    struct safe_config config = {.pair = pair_id(f)};
    struct inspect inspect = {.found = found_safe, .arg = f};
    if (r == 0) {
        config.disk = fsck_disk_of(disk);
        r = safe_inspect(&config, &inspect, &f->safe, &err);
    }
    if (r < 0) {
        note(f, true, "safe", 0, "%s", err.text);
        f->failed = true;
        f->safe_there = false;
    }
    fsck_disk_free(disk);
}

// ---- intent maps, salvage ----

struct slots {
    uint32_t slot[RECORD_OBJECTS_MAX];
    unsigned count;
};

static void add_slot(void *arg, uint32_t slot)
{
    struct slots *slots = arg;
    if (slots->count < ARRAY_LEN(slots->slot))
        slots->slot[slots->count++] = slot;
}

static void found_map(void *arg, const struct inspect_finding *finding)
{
    char name[32];
    (void)snprintf(name, sizeof(name), "maps/segment.%04u", finding->slot);
    note(arg, finding->kind == INSPECT_DAMAGE, name, finding->offset, "%s", finding->what);
}

static void look_at_map(struct fsck *f, struct disk *disk, uint32_t slot)
{
    struct inspect inspect = {.found = found_map, .arg = f};
    struct intent_summary map = {.whole = true};
    struct error err = {0};
    int r = intent_inspect(disk, slot, pair_id(f), &inspect, &map, &err);
    if (r < 0)
        note(f, true, "maps", 0, "%s", err.text);
    f->failed |= r < 0;
    f->map_count++;
    f->map_whole += map.whole;
    f->map_bytes += map.set_bytes;
}

// Opens a directory of the end; false: it is not there, or that has been noted.
static bool open_part(struct fsck *f, const char *part, const char *reading, struct fsck_disk **ret_disk)
{
    char path[PATH_SIZE];
    struct error err = {0};
    f->reading = reading;
    int r = path_format(path, sizeof(path), "%s/%s", f->directory, part);
    if (r == 0)
        r = fsck_disk_open(path, f, ret_disk, &err);
    if (r < 0 && r != -ENOENT) {
        note(f, true, part, 0, "%s", err.text);
        f->failed = true;
    }
    return r == 0;
}

static void look_at_maps(struct fsck *f)
{
    struct fsck_disk *disk = NULL;
    struct slots slots = {.count = 0};
    if (!open_part(f, "maps", "intent maps", &disk))
        return;
    struct disk *files = fsck_disk_of(disk);
    int r = files->ops->list(files, add_slot, &slots);
    for (unsigned i = 0; r == 0 && i < slots.count; i++)
        look_at_map(f, files, slots.slot[i]);
    fsck_disk_free(disk);
}

static void found_salvage(void *arg, const struct salvage_info *info)
{
    struct fsck *f = arg;
    f->salvage_count++;
    f->salvage_bytes += info->data_bytes;
}

static void damaged_salvage(void *arg, const struct salvage_damage *d)
{
    char name[40];
    (void)snprintf(name, sizeof(name), "salvage/segment.%04u", d->slot);
    if (d->number)
        note(arg, d->verdict == SALVAGE_DAMAGED, name, d->offset, "salvage %u: %s", d->number, d->what);
    else
        note(arg, true, name, d->offset, "%s", d->what);
}

static void look_at_salvage(struct fsck *f)
{
    struct fsck_disk *disk = NULL;
    struct error err = {0};
    if (!open_part(f, "salvage", "salvage", &disk))
        return;
    if (salvage_inspect(fsck_disk_of(disk), found_salvage, damaged_salvage, f, &err) < 0) {
        note(f, true, "salvage", 0, "%s", err.text);
        f->failed = true;
    }
    fsck_disk_free(disk);
}

// ---- runtime directory ----

static void found_unsafe(void *arg, const struct inspect_finding *finding)
{
    note(arg, finding->kind == INSPECT_DAMAGE, "unsafe", finding->offset, "%s", finding->what);
}

static void unsafe_progress(void *arg, uint64_t done, uint64_t total)
{
    fsck_progress(arg, done, total);
}

// The token of the boot; 0: nothing can be said.
static uint64_t look_at_vitals(struct fsck *f)
{
    char path[PATH_SIZE];
    struct vitals vitals;
    if (path_format(path, sizeof(path), "%s/vitals", f->runtime) < 0)
        return 0;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    if (file_pread(fd, &vitals, sizeof(vitals), 0) < 0) {
        note(f, true, "vitals", 0, "it is too short; it counts as of another boot");
        return 0;
    }
    if (vitals_damaged(&vitals))
        note(f, true, "vitals", offsetof(struct vitals, boot),
             "the token of the boot does not match its complement; it counts as of another boot");
    if (vitals.echo_sent_ns != ~vitals.echo_not && vitals_boot(&vitals))
        note(f, false, "vitals", offsetof(struct vitals, echo_sent_ns),
             "the time of the last echo does not match its complement; the earlier one counts");
    if (vitals.lease_ns != ~vitals.lease_not && vitals_boot(&vitals))
        note(f, false, "vitals", offsetof(struct vitals, lease_ns),
             "the guard's deadline does not match its complement; it counts as unknown");
    return vitals_boot(&vitals);
}

static void look_at_unsafe(struct fsck *f)
{
    char path[PATH_SIZE];
    struct error err = {0};
    struct inspect inspect = {.found = found_unsafe, .progress = unsafe_progress, .arg = f};
    if (path_format(path, sizeof(path), "%s/unsafe", f->runtime) < 0)
        return;
    f->reading = "unsafe queue";
    uint64_t boot = look_at_vitals(f);
    int r = unsafe_inspect(path, pair_id(f), &inspect, &f->queue, &err);
    if (r == -ENOENT)
        return;
    if (r < 0) {
        note(f, true, "unsafe", 0, "%s", err.text);
        f->failed = true;
        return;
    }
    f->unsafe_there = true;
    f->same_boot = f->queue.boot != 0 && f->queue.boot == boot;
}

static void found_spill(void *arg, const struct inspect_finding *finding)
{
    char name[40];
    struct fsck *f = arg;
    (void)snprintf(name, sizeof(name), "spill/segment.%04u", finding->slot);
    note(f, true, name, finding->offset, "%s", finding->what);
    f->spill_damages++;
}

// What was spilled counts only together with its queue.
static void look_at_spill(struct fsck *f)
{
    struct fsck_disk *disk = NULL;
    struct inspect inspect = {.found = found_spill, .arg = f};
    struct error err = {0};
    if (!open_part(f, "spill", "spill", &disk))
        return;
    bool counts = f->unsafe_there && f->queue.usable && f->same_boot;
    int r = spill_inspect(fsck_disk_of(disk), pair_id(f), counts ? f->queue.salt : 0, f->queue.floor + 1,
                          counts ? f->queue.spilled : f->queue.floor, &inspect, &f->spill, &err);
    if (r < 0) {
        note(f, true, "spill", 0, "%s", err.text);
        f->failed = true;
    }
    fsck_disk_free(disk);
}

static void look_at_flag(struct fsck *f)
{
    char path[PATH_SIZE];
    CLEANUP_FREE char *text = NULL;
    size_t size = 0;
    if (path_format(path, sizeof(path), "%s/stepped-down", f->runtime) < 0)
        return;
    int r = file_read(path, 4096, &text, &size, NULL);
    // As the guard reads it: what is not clearly clear is set.
    f->stepped_down = r != -ENOENT && (r < 0 || strncmp(text, "clear", 5) != 0);
}

void fsck_look(struct fsck *f)
{
    f->began_ns = clock_boot_ns();
    look_at_state(f);
    look_at_history(f);
    look_at_safe(f);
    look_at_maps(f);
    look_at_salvage(f);
    if (f->runtime[0]) {
        look_at_unsafe(f);
        look_at_flag(f);
    }
    look_at_spill(f);
}
