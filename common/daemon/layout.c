// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/layout.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"
#include "common/base/file.h"

#define HEAD       "understudy-layout 1\n"
#define TAIL       "sum "
#define SUM_DIGITS 16
#define TAIL_SIZE  (strlen(TAIL) + SUM_DIGITS + 1)
#define FACTS_SIZE (PAIR_NAME_MAX + 3 * 21 + 2) // NAME SIZE DEVICE INODE and a blank
#define FILE_MAX   ((size_t)PAIR_VOLUMES_MAX * (PATH_SIZE + 256))

// --- The file's text ---

// A volume's line up to the path.
static void make_facts(const struct layout_place *p, char facts[FACTS_SIZE])
{
    (void)snprintf(facts, FACTS_SIZE, "%s %" PRIu64 " %" PRIu64 " %" PRIu64 " ", p->name, p->size, p->device, p->inode);
}

char *layout_format(const struct layout *layout)
{
    char *text = NULL, facts[FACTS_SIZE];
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    (void)fputs(HEAD, out);
    for (size_t i = 0; i < layout->count; i++) {
        make_facts(&layout->places[i], facts);
        (void)fprintf(out, "%s%s\n", facts, layout->places[i].path);
    }
    if (fflush(out) == 0)
        (void)fprintf(out, TAIL "%016" PRIx64 "\n", checksum64(text, size));
    if (fclose(out) == 0)
        return text;
    free(text);
    return NULL;
}

// No other way of writing the same is a line: one that is read is what was written.
static bool parse_line(const char *line, struct layout_place *ret_place)
{
    char facts[FACTS_SIZE];
    _Static_assert(PAIR_NAME_MAX == 32, "as in the format");
    struct layout_place p = {.inode = 0};
    if (sscanf(line, "%32s %" SCNu64 " %" SCNu64 " %" SCNu64, p.name, &p.size, &p.device, &p.inode) != 4)
        return false;
    make_facts(&p, facts);
    if (strncmp(line, facts, strlen(facts)) != 0)
        return false;
    p.path = line + strlen(facts);
    if (p.path[0] == '\0')
        return false;
    *ret_place = p;
    return true;
}

// The last line, which is found by its size: a volume may have the name that it begins with.
static bool tail_valid(const char *text, const char *tail)
{
    const char *digits = tail + strlen(TAIL);
    return strncmp(tail, TAIL, strlen(TAIL)) == 0 && strspn(digits, "0123456789abcdef") == SUM_DIGITS &&
           digits[SUM_DIGITS] == '\n' && checksum_same(strtoull(digits, NULL, 16), checksum64(text, (size_t)(tail - text)));
}

bool layout_parse(char *text, size_t size, struct layout *ret_layout)
{
    struct layout found = {.count = 0};
    if (size < strlen(HEAD) + TAIL_SIZE || strncmp(text, HEAD, strlen(HEAD)) != 0 || memchr(text, '\0', size))
        return false;
    char *tail = text + size - TAIL_SIZE, *end;
    if (tail[-1] != '\n' || !tail_valid(text, tail))
        return false;
    for (char *line = text + strlen(HEAD); line < tail; line = end + 1) {
        end = strchr(line, '\n');
        *end = '\0';
        if (found.count == PAIR_VOLUMES_MAX || !parse_line(line, &found.places[found.count]))
            return false;
        found.count++;
    }
    *ret_layout = found;
    return true;
}

// --- Here and now ---

// A device is what its number says, a file what its inode is. Also for what is no file at all: nothing is known of that.
static bool identify(const char *path, uint64_t *ret_device, uint64_t *ret_inode)
{
    struct stat st;
    *ret_device = *ret_inode = 0;
    if (path[0] != '/' || stat(path, &st) < 0)
        return false;
    *ret_device = S_ISBLK(st.st_mode) ? 0 : st.st_dev;
    *ret_inode = S_ISBLK(st.st_mode) ? st.st_rdev : st.st_ino;
    return true;
}

static const char *path_of(const struct pair_config *pair, enum pair_end side, size_t i)
{
    return pair_volume_store(&pair->volumes[i], side)->path;
}

static void look(const struct pair_config *pair, enum pair_end side, struct layout *ret_layout)
{
    ENSURE(pair->volume_count <= PAIR_VOLUMES_MAX);
    for (size_t i = 0; i < pair->volume_count; i++) {
        struct layout_place *p = &ret_layout->places[i];
        *p = (struct layout_place){.size = pair->volumes[i].size, .path = path_of(pair, side, i)};
        (void)snprintf(p->name, sizeof(p->name), "%s", pair->volumes[i].name);
        (void)identify(p->path, &p->device, &p->inode);
    }
    ret_layout->count = pair->volume_count;
}

static bool same_store(const struct layout_place *was, const char *path)
{
    uint64_t device, inode, old_device, old_inode;
    if (strcmp(was->path, path) == 0)
        return true;
    if (!identify(path, &device, &inode))
        return false;
    if (identify(was->path, &old_device, &old_inode))
        return device == old_device && inode == old_inode;
    return inode != 0 && device == was->device && inode == was->inode;
}

#define REMEDY "put it back as it was and restart this daemon, or see CHANGES in understudy.json(5)"

static int refuse(const struct pair_config *pair, struct error *err, size_t i, const char *field, const char *found,
                  const char *was)
{
    return error_set(err, -EINVAL, "%s: volumes[%zu]%s: found %s; what this end has queued and recorded is for %s: " REMEDY,
                     pair->file, i, field, found, was);
}

static int compare(const struct layout *was, const struct pair_config *pair, enum pair_end side, struct error *err)
{
    char now[32], then[32], field[32];
    size_t both = MIN(was->count, pair->volume_count);
    for (size_t i = 0; i < both; i++) {
        const struct pair_volume_config *v = &pair->volumes[i];
        const struct layout_place *p = &was->places[i];
        if (strcmp(v->name, p->name) != 0)
            return refuse(pair, err, i, ".name", v->name, p->name);
        (void)snprintf(now, sizeof(now), "%" PRIu64, v->size);
        (void)snprintf(then, sizeof(then), "%" PRIu64, p->size);
        if (v->size != p->size)
            return refuse(pair, err, i, ".size", now, then);
        (void)snprintf(field, sizeof(field), ".%s.path", pair_end_name(side));
        if (!same_store(p, path_of(pair, side, i)))
            return refuse(pair, err, i, field, path_of(pair, side, i), p->path);
    }
    if (pair->volume_count > both)
        return refuse(pair, err, both, "", pair->volumes[both].name, "the volumes before it alone");
    if (was->count > both)
        return refuse(pair, err, both, "", "none", was->places[both].name);
    return 0;
}

int layout_take(const char *path, const struct pair_config *pair, enum pair_end side, bool fresh, struct error *err)
{
    CLEANUP_FREE char *was = NULL, *now = NULL;
    CLEANUP_FREE struct layout *layout = calloc(1, sizeof(*layout));
    size_t size = 0;
    bool damaged = false;
    if (layout) {
        look(pair, side, layout);
        now = layout_format(layout);
    }
    if (!now)
        return error_sys(err, -ENOMEM, "%s", path);
    int r = file_read(path, FILE_MAX, &was, &size, NULL);
    if (r == 0 && size == strlen(now) && memcmp(was, now, size) == 0)
        return 0;
    if (!fresh && r != -ENOENT) {
        damaged = r < 0 || !layout_parse(was, size, layout);
        r = damaged ? 0 : compare(layout, pair, side, err);
        if (r < 0)
            return r;
    }
    r = file_replace(path, now, strlen(now), 0600, err);
    if (r == 0 && damaged)
        return error_set(err, -EUCLEAN, "%s is damaged: it is made anew from the pair file, whose volumes could not be checked",
                         path);
    return r;
}
