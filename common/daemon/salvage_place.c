// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/salvage_place.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/file.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"

int salvage_place_open(struct salvage_place *place, const char *path, int epoll, struct error *err)
{
    int r = dir_make(path, 0700, err);
    if (r < 0)
        return r;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return error_sys(err, -errno, "cannot open %s", path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? error_set(err, -EAGAIN, "%s is locked", path)
                                    : error_sys(err, -errno, "cannot lock %s", path);
    r = segments_open(path, 0, &place->segments, err);
    if (r < 0)
        return r;
    struct epoll_event ev = {.events = EPOLLIN};
    (void)epoll_ctl(epoll, EPOLL_CTL_ADD, segments_fd(place->segments), &ev);
    place->lock_fd = TAKE_FD(fd);
    return 0;
}

void salvage_place_close(struct salvage_place *place, int epoll)
{
    if (!place->segments)
        return;
    (void)epoll_ctl(epoll, EPOLL_CTL_DEL, segments_fd(place->segments), NULL);
    place->segments = segments_free(place->segments);
    cleanup_close(&place->lock_fd);
    place->lock_fd = -1;
}

void salvage_place_work(struct salvage_place *place)
{
    if (place->segments)
        segments_work(place->segments);
}
