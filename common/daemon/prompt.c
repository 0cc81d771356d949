// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/prompt.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/log.h"

#define SLICE_NS    400000 // the kernel's own is 1.4 ms on two processors, 2.8 on more
#define RR_PRIORITY 10 // the guard's is above it
#define OOM_SCORE   "-900"
#define STACK_BYTES (256u * 1024) // more than the deepest call of the control thread

// struct sched_attr of the kernel, as it was in the first place: its header does not go together with libc's.
struct attributes {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime; // ns: the slice of an ordinary thread
    uint64_t deadline;
    uint64_t period;
};
_Static_assert(sizeof(struct attributes) == 48, "the kernel's first version");

// Where it is refused nothing is worse than before: no reason to say anything.
void prompt_short_slice(void)
{
    struct attributes a = {.size = sizeof(a)};
    if (syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) < 0 || a.policy != SCHED_OTHER)
        return;
    a.runtime = SLICE_NS;
    (void)syscall(SYS_sched_setattr, 0, &a, 0);
}

static bool is_needed(const char *path)
{
    static const char *const libraries[] = {"/libc.so", "/libnanomsg", "/libgnutls", "/libnettle",
                                            "/libsystemd", "/libnl-", "/libcjson"};
    bool needed = path[0] == '\0'; // the program itself
    for (size_t i = 0; i < ARRAY_LEN(libraries) && !needed; i++)
        needed = strstr(path, libraries[i]) != NULL;
    return needed;
}

// The code and the constants of the program, and of the libraries that the control thread calls. Without it, the first
// takeover would read the pages that it runs from a disk that may be why there is one.
static int read_in(struct dl_phdr_info *info, size_t size, void *arg)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    (void)size, (void)arg;
    if (!is_needed(info->dlpi_name))
        return 0;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || (part->p_flags & PF_W))
            continue;
        uintptr_t from = (info->dlpi_addr + part->p_vaddr) & ~(page - 1);
        uintptr_t to = info->dlpi_addr + part->p_vaddr + part->p_filesz;
        (void)madvise((void *)from, to - from, MADV_POPULATE_READ); // a kernel that cannot reads them when they are needed
    }
    return 0;
}

static void __attribute__((noinline)) touch_stack(void)
{
    uint8_t bytes[STACK_BYTES];
    memset(bytes, 0, sizeof(bytes));
    __asm__ volatile("" : : "r"(bytes) : "memory");
}

// An unsafe queue makes the daemon large, and so the first that the kernel would kill.
static void spare(void)
{
    CLEANUP_CLOSE int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, OOM_SCORE, strlen(OOM_SCORE)) < 0)
        log_info("the kernel may kill this process when memory is short: %s", strerror(errno));
}

void prompt_real_time(void)
{
    struct sched_param param = {.sched_priority = RR_PRIORITY};
    if (mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) < 0)
        log_warning("memory is not locked: %s", strerror(errno));
    (void)dl_iterate_phdr(read_in, NULL);
    touch_stack();
    spare();
    if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param) < 0)
        log_warning("no real-time priority for heartbeats: %s", strerror(errno));
}
