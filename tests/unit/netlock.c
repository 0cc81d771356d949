// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/netlock.h"

#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <linux/userfaultfd.h>
#include <net/if.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATIENCE_MS 60000

struct netlock {
    int faults; // userfaultfd
    int socket;
    uint8_t *memory; // two pages; the question lies at the end of the first, the answer reaches into the second
    size_t page;
    pthread_t thread;
};

static void *ask(void *arg)
{
    struct netlock *l = arg;
    struct ifreq request = {.ifr_name = "lo"};
    request.ifr_data = (void *)(l->memory + l->page - sizeof(uint32_t));
    (void)ioctl(l->socket, SIOCETHTOOL, &request);
    return NULL;
}

static int let_second_page_miss(struct netlock *l)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register reg = {.range = {.start = (uintptr_t)(l->memory + l->page), .len = l->page},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    const uint32_t question = ETHTOOL_GFLAGS;
    memcpy(l->memory + l->page - sizeof(question), &question, sizeof(question));
    if (ioctl(l->faults, UFFDIO_API, &api) < 0)
        return -1;
    return ioctl(l->faults, UFFDIO_REGISTER, &reg);
}

static struct netlock *drop(struct netlock *l)
{
    if (l->faults >= 0)
        (void)close(l->faults);
    if (l->socket >= 0)
        (void)close(l->socket);
    if (l->memory != MAP_FAILED)
        (void)munmap(l->memory, 2 * l->page);
    free(l);
    return NULL;
}

struct netlock *netlock_hold(void)
{
    struct netlock *l = calloc(1, sizeof(*l));
    if (!l)
        return NULL;
    l->page = (size_t)sysconf(_SC_PAGESIZE);
    l->faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    l->socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    l->memory = mmap(NULL, 2 * l->page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (l->faults < 0 || l->socket < 0 || l->memory == MAP_FAILED || let_second_page_miss(l) < 0 ||
        pthread_create(&l->thread, NULL, ask, l) != 0)
        return drop(l);
    struct pollfd p = {.fd = l->faults, .events = POLLIN};
    if (poll(&p, 1, PATIENCE_MS) > 0) // it has the lock, and waits for the page
        return l;
    return netlock_release(l);
}

struct netlock *netlock_release(struct netlock *l)
{
    if (!l)
        return NULL;
    struct uffdio_range range = {.start = (uintptr_t)(l->memory + l->page), .len = l->page};
    (void)ioctl(l->faults, UFFDIO_UNREGISTER, &range); // whoever waits for it goes on
    (void)pthread_join(l->thread, NULL);
    return drop(l);
}
