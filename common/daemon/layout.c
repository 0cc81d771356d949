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

#define HEAD     "understudy-layout 1\n"
#define TAIL     "sum "
#define FILE_MAX ((size_t)PAIR_VOLUMES_MAX * (PATH_SIZE + 256))

// What is written down of one volume. `path` points into the text.
struct place {
    char name[PAIR_NAME_MAX + 1];
    uint64_t size, device, inode; // inode 0: not known
    const char *path;
};

struct layout {
    struct place places[PAIR_VOLUMES_MAX];
    size_t count;
};

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

static char *format(const struct pair_config *pair, enum pair_end side)
{
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    (void)fputs(HEAD, out);
    for (size_t i = 0; i < pair->volume_count; i++) {
        uint64_t device, inode;
        const char *path = path_of(pair, side, i);
        (void)identify(path, &device, &inode);
        (void)fprintf(out, "%s %" PRIu64 " %" PRIu64 " %" PRIu64 " %s\n", pair->volumes[i].name, pair->volumes[i].size,
                      device, inode, path);
    }
    if (fflush(out) == 0)
        (void)fprintf(out, TAIL "%016" PRIx64 "\n", checksum64(text, size));
    if (fclose(out) == 0)
        return text;
    free(text);
    return NULL;
}

static bool parse_line(char *line, struct place *ret_place)
{
    int at = 0;
    _Static_assert(PAIR_NAME_MAX == 32, "as in the format");
    struct place p = {.inode = 0};
    if (sscanf(line, "%32s %" SCNu64 " %" SCNu64 " %" SCNu64 " %n", p.name, &p.size, &p.device, &p.inode, &at) != 4 || at == 0)
        return false;
    p.path = line + at;
    *ret_place = p;
    return true;
}

// Cuts the text up. False: it cannot be relied on.
static bool parse(char *text, struct layout *ret_layout)
{
    char *rest = NULL, *tail = strstr(text, "\n" TAIL), sum[32];
    if (strncmp(text, HEAD, strlen(HEAD)) != 0 || !tail)
        return false;
    tail++;
    (void)snprintf(sum, sizeof(sum), TAIL "%016" PRIx64 "\n", checksum64(text, (size_t)(tail - text)));
    if (strcmp(tail, sum) != 0)
        return false;
    *tail = '\0';
    ret_layout->count = 0;
    for (char *line = strtok_r(text + strlen(HEAD), "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (ret_layout->count == PAIR_VOLUMES_MAX || !parse_line(line, &ret_layout->places[ret_layout->count]))
            return false;
        ret_layout->count++;
    }
    return true;
}

static bool same_store(const struct place *was, const char *path)
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
        const struct place *p = &was->places[i];
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
    CLEANUP_FREE char *was = NULL, *now = format(pair, side), *kept = NULL;
    CLEANUP_FREE struct layout *layout = calloc(1, sizeof(*layout));
    size_t size = 0;
    bool damaged = false;
    if (!now || !layout)
        return error_sys(err, -ENOMEM, "%s", path);
    int r = file_read(path, FILE_MAX, &was, &size, NULL);
    kept = r == 0 ? strdup(was) : NULL;
    if (!fresh && r != -ENOENT)
        damaged = !was || !parse(was, layout);
    if (!fresh && r != -ENOENT && !damaged) {
        r = compare(layout, pair, side, err);
        if (r < 0)
            return r;
    }
    if (kept && strcmp(kept, now) == 0)
        return 0;
    r = file_replace(path, now, strlen(now), 0600, err);
    if (r == 0 && damaged)
        return error_set(err, -EUCLEAN, "%s is damaged: it is made anew from the pair file, whose volumes could not be checked",
                         path);
    return r;
}
