// SPDX-License-Identifier: Apache-2.0
// The guard as the real process, in a network namespace of the test's own, beside daemons that are children of the test: what
// each test of it begins with, waits for and leaves behind. A test that failed leaves nothing to the next one: neither a guard,
// nor a frozen group, nor an address.
#ifndef TESTS_GUARD_WORLD_H
#define TESTS_GUARD_WORLD_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/error.h"
#include "guard/guard.h"
#include "tests/unit/netlock.h"
#include "tests/unit/netns.h"

#define PATIENCE_NS (120 * NS_PER_S) // the last guard against hanging; everything comes much sooner
#define CHILDREN    16
#define GROUPS      4
#define ROOT_SIZE   256
#define FAR_NS      (3600 * NS_PER_S)

// A control group of our own with one process in it that does nothing.
struct group {
    char path[ROOT_SIZE + 64];
    bool v2;
    pid_t process;
};

// What there is, and what a test has made, which its teardown takes away.
extern struct guard_world {
    struct error err; // what went wrong last
    char group_root[ROOT_SIZE];                      // where control groups of version 2 are mounted,
    char v1_root[ROOT_SIZE], memory_root[ROOT_SIZE]; // and freezer and memory of version 1; "": nowhere
    char dir[32];                                    // the test's
    struct guard *guard;                             // that the test is attached to
    pid_t children[CHILDREN];
    size_t child_count;
    struct group groups[GROUPS];
    size_t group_count;
    struct netlock *lock; // held
} world;

// One protected application and its plan.
struct scene {
    struct group group;
    pid_t process;
    struct guard_plan plan;
};

#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        int64_t give_up_ = clock_boot_ns() + PATIENCE_NS;                                          \
        bool holds_ = (condition);                                                                 \
        while (!holds_ && clock_boot_ns() < give_up_) {                                            \
            usleep(2000);                                                                          \
            holds_ = (condition);                                                                  \
        }                                                                                          \
        if (!holds_)                                                                               \
            fail_msg("it did not come to this: %s", #condition);                                   \
    } while (0)

// ---- The program

bool world_open(void); // false: it cannot run here, and says why: to be skipped
void world_close(void);
int set_up(void **state);
int tear_down(void **state);

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

// ---- Processes and files

// Forks; ended by the teardown.
pid_t make_child(void);
void end_child(pid_t pid);
pid_t make_sleeper(void);
// The state letter of /proc/PID/stat.
char state_of(pid_t pid);
bool process_lives(pid_t pid);
void write_file(const char *path, const char *text);
// In a child, in which no assertion may fail: it would go on as a second test.
bool try_write_file(const char *path, const char *text);

// ---- The application

void make_group(struct group *g, const char *root, bool v2);
bool group_frozen(const struct group *g);
void drop_made_group(const struct group *g);
// Its addresses are on, and it runs.
void set_scene(struct scene *s, const char *pair);
bool is_on(const char *address);
bool flag_is_set(const char *path);
bool is_stepped_down(const struct scene *s);
bool is_running(const struct scene *s);

// ---- The guard

struct guard *start_guard(bool expect_running);
// As when its daemon ends.
struct guard *let_go(struct guard *g);
// It has ended. pair: closed first; may be NULL.
struct guard *end_guard(struct guard *g, struct guard_pair *pair);
struct guard_pair *open_pair(struct guard *g, const char *name);
struct guard_pair *watch_scene(struct guard *g, const struct scene *s);
// Waits until the guard has done what it was asked for, as a daemon's loop would.
void await_done(struct guard *g, struct guard_pair *pair);
// Waits until the guard has taken in the plan that was published last.
void await_prepared(struct guard *g, struct guard_pair *pair);
// In a child, as a daemon does: attaches, opens its pair and publishes the plan (NULL: none). NULL: it could not, and has said so.
struct guard *try_attach(const struct guard_plan *plan, struct guard_pair **ret_pair);
// A daemon: a process that attaches, publishes, arms and then does nothing more. Returns when it has armed.
pid_t make_daemon(const struct scene *s, int64_t after_ns);
// The act of the pair that is stepped down went as it should.
void check_report(const struct guard_pair *pair, bool asked);

#endif
