// SPDX-License-Identifier: Apache-2.0
// `pairctl salvage export`: what was kept, as files that need no tool of ours.
//
// NAME.map, one line for each range: OFFSET LENGTH KIND PLACE. Bytes; KIND is data, zero, unreadable or dropped; PLACE is
// where the data is in NAME.data (data), or "-". With an image the data is in NAME.img, a sparse file of the volume's
// size, at its OFFSET.
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "pairctl/salvage.h"

struct volume {
    int data; // -1: not yet
    FILE *map;
    uint64_t at; // in the data
};

struct export {
    const struct salvage_place *place;
    const char *path;
    bool image;
    struct volume volumes[RECORD_OBJECTS_MAX];
    char failed[PATH_SIZE];
};

static int failed(struct export *x, int r, const char *file)
{
    (void)snprintf(x->failed, sizeof(x->failed), "%s", file);
    return r;
}

static int make_file(struct export *x, unsigned object, const char *ending, int *ret_fd)
{
    char path[PATH_SIZE];
    int r = path_format(path, sizeof(path), "%s/%s.%s", x->path, x->place->info.volumes[object].name, ending);
    if (r < 0)
        return failed(x, r, x->path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return failed(x, -errno, path);
    *ret_fd = fd;
    return 0;
}

static void put_head(struct export *x, unsigned object)
{
    const struct salvage_info *i = &x->place->info;
    const struct salvage_volume *v = &i->volumes[object];
    (void)fprintf(x->volumes[object].map,
                  "# pair %s, %s: what volume %s (%llu bytes) held in epoch %u when %s\n"
                  "# OFFSET LENGTH KIND PLACE\n",
                  i->name, epoch_opener_name(i->side), v->name, (unsigned long long)v->size, i->epoch.number,
                  salvage_cause_text(i->cause));
}

static int begin_volume(struct export *x, unsigned object)
{
    struct volume *v = &x->volumes[object];
    int fd = -1;
    if (v->map)
        return 0;
    int r = make_file(x, object, "map", &fd);
    if (r < 0)
        return r;
    v->map = fdopen(fd, "w");
    if (!v->map) {
        cleanup_close(&fd);
        return -ENOMEM;
    }
    put_head(x, object);
    r = make_file(x, object, x->image ? "img" : "data", &v->data);
    if (r == 0 && x->image && ftruncate(v->data, (off_t)x->place->info.volumes[object].size) < 0)
        r = failed(x, -errno, x->path);
    return r;
}

static int take(void *arg, const struct salvage_entry *e, const void *data)
{
    static const char *const kinds[SALVAGE_KIND_END] = {
        [SALVAGE_DATA] = "data", [SALVAGE_ZERO] = "zero", [SALVAGE_UNREADABLE] = "unreadable", [SALVAGE_GONE] = "dropped"};
    struct export *x = arg;
    if (e->kind == SALVAGE_DONE)
        return 0;
    int r = begin_volume(x, e->object);
    if (r < 0)
        return r;
    struct volume *v = &x->volumes[e->object];
    (void)fprintf(v->map, "%llu %llu %s ", (unsigned long long)e->offset, (unsigned long long)e->length, kinds[e->kind]);
    if (e->kind != SALVAGE_DATA) {
        (void)fputs("-\n", v->map);
        return 0;
    }
    uint64_t at = x->image ? e->offset : v->at;
    (void)fprintf(v->map, "%llu\n", (unsigned long long)at);
    v->at += e->length;
    r = file_pwrite(v->data, data, e->length, at);
    return r < 0 ? failed(x, r, x->path) : 0;
}

// The files are there to stay when this says 0.
static int finish(struct export *x)
{
    int r = 0;
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++) {
        struct volume *v = &x->volumes[i];
        if (!v->map)
            continue;
        if (fflush(v->map) != 0 || fsync(fileno(v->map)) < 0 || (v->data >= 0 && fsync(v->data) < 0))
            r = r < 0 ? r : failed(x, errno ? -errno : -EIO, x->path);
        if (fclose(v->map) != 0 && r == 0)
            r = failed(x, -EIO, x->path);
        cleanup_close(&v->data);
    }
    return r;
}

int salvage_export(struct disk *disk, const struct salvage_place *place, const char *path, bool image,
                   struct error *err)
{
    struct salvage_info info;
    CLEANUP_FREE struct export *x = calloc(1, sizeof(*x));
    if (!x)
        return error_sys(err, -ENOMEM, "%s", path);
    *x = (struct export){.place = place, .path = path, .image = image};
    for (unsigned i = 0; i < RECORD_OBJECTS_MAX; i++)
        x->volumes[i].data = -1;
    if (mkdir(path, 0700) < 0)
        return error_sys(err, -errno, "cannot make the directory %s", path);
    int r = salvage_walk(disk, place->info.number, take, x, &info, err);
    int end = finish(x);
    if (x->failed[0])
        return error_sys(err, r < 0 ? r : end, "cannot write %s", x->failed);
    return r < 0 ? r : dir_sync(path, err);
}
