// SPDX-License-Identifier: Apache-2.0
#include "guard/plan.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checksum.h"
#include "common/base/cleanup.h"

#define READ_TRIES 8

static uint64_t sum_of(const struct plan_body *body)
{
    return checksum64(body, offsetof(struct plan_body, checksum));
}

static bool is_terminated(const char *text, size_t size)
{
    return memchr(text, '\0', size) != NULL;
}

// The first rule that a plan breaks, or NULL.
static const char *broken_rule(const struct guard_plan *plan)
{
    if (plan->address_count > GUARD_ADDRESSES_MAX)
        return "too many public addresses";
    if (plan->left_count > GUARD_LEFT_MAX)
        return "too many addresses of a former run";
    if (plan->cgroup_count > GUARD_CGROUPS_MAX)
        return "too many control groups";
    if (plan->process_count > GUARD_PROCESSES_MAX)
        return "too many processes";
    if (!is_terminated(plan->interface, sizeof(plan->interface)))
        return "the interface's name is too long";
    for (size_t i = 0; i < plan->left_count; i++)
        if (!is_terminated(plan->left[i].interface, sizeof(plan->left[i].interface)))
            return "the name of a former interface is too long";
    if (!is_terminated(plan->flag, sizeof(plan->flag)) || plan->flag[0] != '/')
        return "the flag file needs an absolute path that fits";
    for (size_t i = 0; i < plan->cgroup_count; i++)
        if (!is_terminated(plan->cgroups[i], GUARD_PATH_SIZE) || plan->cgroups[i][0] != '/')
            return "a control group needs an absolute path that fits";
    for (size_t i = 0; i < plan->process_count; i++)
        if (plan->processes[i] <= 1)
            return "a process to stop needs a number above 1";
    return NULL;
}

int plan_process_start(pid_t pid, uint64_t *ret_start)
{
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        return -ESRCH;
    text[n] = '\0';
    // The second field is the program's name in parentheses and may hold anything; the start is the
    // 22nd.
    char *at = strrchr(text, ')');
    for (int field = 2; at && field < 22; field++)
        at = strchr(at + 1, ' ');
    if (!at)
        return -ESRCH;
    *ret_start = strtoull(at + 1, NULL, 10);
    return 0;
}

static void put_processes(const struct guard_plan *from, struct plan_body *body)
{
    for (size_t i = 0; i < from->process_count; i++) {
        struct plan_process p = {.pid = from->processes[i]};
        if (plan_process_start(p.pid, &p.start) == 0)
            body->processes[body->process_count++] = p;
    }
}

int plan_make_body(const struct guard_plan *from, struct plan_body *ret_body, struct error *err)
{
    const char *rule = broken_rule(from);
    if (rule)
        return error_set(err, -EINVAL, "the guard's plan: %s", rule);
    struct plan_body *body = ret_body;
    memset(body, 0, sizeof(*body));
    if (from->address_count > 0) {
        body->interface_index = (int32_t)if_nametoindex(from->interface);
        if (body->interface_index == 0)
            return error_set(err, -ENODEV, "this machine has no network interface \"%s\"",
                             from->interface);
    }
    body->address_count = (uint32_t)from->address_count;
    body->left_count = (uint32_t)from->left_count;
    body->cgroup_count = (uint32_t)from->cgroup_count;
    memcpy(body->interface, from->interface, strlen(from->interface));
    memcpy(body->flag, from->flag, strlen(from->flag));
    for (size_t i = 0; i < from->address_count; i++)
        body->addresses[i] = from->addresses[i];
    for (size_t i = 0; i < from->left_count; i++) {
        memcpy(body->left[i].interface, from->left[i].interface, strlen(from->left[i].interface));
        body->left[i].ip = from->left[i].ip;
    }
    for (size_t i = 0; i < from->cgroup_count; i++)
        memcpy(body->cgroups[i], from->cgroups[i], strlen(from->cgroups[i]));
    put_processes(from, body);
    body->checksum = sum_of(body);
    return 0;
}

void plan_make_empty(struct plan_body *ret_body)
{
    memset(ret_body, 0, sizeof(*ret_body));
    ret_body->checksum = sum_of(ret_body);
}

void plan_publish(struct plan_slot *slot, const struct plan_body *body)
{
    uint32_t next = atomic_load(&slot->current) + 1;
    if (next == 0)
        next = 2; // 0 says "none"; the same parity
    slot->bodies[next % 2] = *body;
    atomic_store(&slot->current, next);
}

int64_t plan_read(struct plan_slot *slot, struct plan_body *ret_body)
{
    for (int i = 0; i < READ_TRIES; i++) {
        uint32_t number = atomic_load(&slot->current);
        if (number == 0)
            return 0;
        *ret_body = slot->bodies[number % 2];
        atomic_thread_fence(memory_order_acquire);
        if (atomic_load(&slot->current) != number)
            continue; // it may have been overwritten under our hands
        bool sound = ret_body->checksum == sum_of(ret_body) &&
                     ret_body->address_count <= GUARD_ADDRESSES_MAX &&
                     ret_body->left_count <= GUARD_LEFT_MAX &&
                     ret_body->cgroup_count <= GUARD_CGROUPS_MAX &&
                     ret_body->process_count <= GUARD_PROCESSES_MAX;
        return sound ? (int64_t)number : -EUCLEAN;
    }
    return -EAGAIN;
}
