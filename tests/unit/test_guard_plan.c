// SPDX-License-Identifier: Apache-2.0
// What guard and daemon share: the flag file, which counts as set whatever has become of it, and the plan, which is read whole or
// not at all whenever its writer dies.
#include "tests/unit/guard_world.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "guard/plan.h"

static void flag_that_cannot_be_understood_counts_as_set(void **state)
{
    char path[256], text[200];
    bool set = true;
    snprintf(path, sizeof(path), "%s/flag", world.dir);
    assert_int_equal(guard_flag_read(path, &set, text, sizeof(text), &world.err), 0);
    assert_false(set);
    assert_int_equal(guard_flag_clear(path, &world.err), 0);
    assert_int_equal(flag_make(path, &world.err), 0);
    assert_false(flag_is_set(path));
    int fd = open(path, O_RDWR | O_CLOEXEC);
    assert_int_equal(flag_write(fd, "stepped down: why"), 0);
    assert_int_equal(guard_flag_read(path, &set, text, sizeof(text), &world.err), 0);
    assert_true(set);
    assert_string_equal(text, "stepped down: why");
    assert_int_equal(flag_make(path, &world.err), 0); // leaves what is there
    assert_true(flag_is_set(path));
    assert_int_equal(guard_flag_clear(path, &world.err), 0);
    assert_false(flag_is_set(path));
    assert_int_equal(ftruncate(fd, 3), 0);
    assert_true(flag_is_set(path));
    (void)close(fd);
    (void)unlink(path);
}

// Each byte of a set flag and of a clear one: what was set stays set; what was clear may count as
// set, which is safe.
static void no_damaged_byte_clears_a_flag(void **state)
{
    char path[256];
    uint8_t byte;
    snprintf(path, sizeof(path), "%s/flag", world.dir);
    assert_int_equal(flag_make(path, &world.err), 0);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    unsigned set = 0;
    for (int round = 0; round < 2; round++) {
        for (off_t at = 0; pread(fd, &byte, 1, at) == 1; at++) {
            uint8_t damaged = byte ^ (uint8_t)(1U << at % 8);
            assert_int_equal(pwrite(fd, &damaged, 1, at), 1);
            if (round)
                assert_true(flag_is_set(path));
            else
                set += flag_is_set(path);
            assert_int_equal(pwrite(fd, &byte, 1, at), 1);
        }
        assert_int_equal(flag_write(fd, "stepped down: why"), 0);
    }
    assert_true(set >= 5); // each letter of the word
    (void)close(fd);
    (void)unlink(path);
}

static struct plan_slot *map_slot(void)
{
    void *at = mmap(NULL, sizeof(struct plan_slot), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(at != MAP_FAILED);
    return at;
}

static void make_body(struct plan_body *body, size_t groups, char fill)
{
    static struct guard_plan plan;
    memset(&plan, 0, sizeof(plan));
    strcpy(plan.flag, "/run/flag");
    plan.cgroup_count = groups;
    for (size_t i = 0; i < groups; i++) {
        memset(plan.cgroups[i], fill, GUARD_PATH_SIZE - 1);
        plan.cgroups[i][0] = '/';
    }
    assert_int_equal(plan_make_body(&plan, body, &world.err), 0);
}

static bool is_one_of_both(const struct plan_body *body)
{
    char fill = body->cgroup_count == 16 ? 'x' : 'y';
    for (size_t i = 0; i < body->cgroup_count; i++)
        for (size_t k = 1; k < GUARD_PATH_SIZE - 1; k++)
            if (body->cgroups[i][k] != fill)
                return false;
    return body->cgroup_count == 16 || body->cgroup_count == 9;
}

static void *publish_for_ever(void *arg)
{
    struct plan_slot *slot = arg;
    struct plan_body x, y;
    make_body(&x, 16, 'x');
    make_body(&y, 9, 'y');
    for (;;) {
        plan_publish(slot, &x);
        plan_publish(slot, &y);
    }
    return NULL;
}

// A daemon killed at any point of an update leaves a whole plan; one that was written half by then
// is never seen.
static void plan_is_whole_whenever_its_writer_dies(void **state)
{
    struct plan_slot *slot = map_slot();
    struct plan_body body;
    unsigned before = 0;
    for (int i = 0; i < 60; i++) {
        pid_t pid = make_child();
        if (pid == 0)
            (void)publish_for_ever(slot);
        AWAIT(atomic_load(&slot->current) != before);
        usleep((useconds_t)(i * 37 % 500));
        end_child(pid);
        before = atomic_load(&slot->current);
        assert_int_equal(plan_read(slot, &body), before);
        assert_true(is_one_of_both(&body));
    }
    (void)munmap(slot, sizeof(*slot));
}

static void reader_beside_a_writer_gets_whole_plans_or_none(void **state)
{
    struct plan_slot *slot = map_slot();
    struct plan_body body;
    assert_int_equal(plan_read(slot, &body), 0);
    pid_t pid = make_child();
    if (pid == 0)
        (void)publish_for_ever(slot);
    AWAIT(atomic_load(&slot->current) != 0);
    for (int i = 0; i < 20000; i++) {
        int64_t r = plan_read(slot, &body);
        if (r > 0) {
            assert_true(is_one_of_both(&body));
        } else {
            assert_true(r == 0 || r == -EAGAIN);
        }
    }
    end_child(pid);
    assert_true(plan_read(slot, &body) > 0);
    slot->bodies[atomic_load(&slot->current) % 2].cgroups[3][5] ^=
        1; // damage, which nothing explains
    assert_int_equal(plan_read(slot, &body), -EUCLEAN);
    (void)munmap(slot, sizeof(*slot));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(flag_that_cannot_be_understood_counts_as_set),
        TEST(no_damaged_byte_clears_a_flag),
        TEST(plan_is_whole_whenever_its_writer_dies),
        TEST(reader_beside_a_writer_gets_whole_plans_or_none),
    };
    if (!world_open())
        return SKIP;
    int r = cmocka_run_group_tests(tests, NULL, NULL);
    world_close();
    return r;
}
