// SPDX-License-Identifier: Apache-2.0
// common/daemon/layout: a pair file whose volumes are not those that an end's queues and maps are of is refused, with the
// field; what is the same store by another path is not.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/daemon/layout.h"

static char directory[64], file[128];

struct pair {
    struct pair_config config;
    struct pair_volume_config volumes[PAIR_VOLUMES_MAX + 1];
};

static char *place(const char *name)
{
    char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", directory, name) > 0);
    return path;
}

static void add(struct pair *p, const char *name, uint64_t size, const char *store)
{
    p->volumes[p->config.volume_count++] = (struct pair_volume_config){
        .name = (char *)name, .size = size, .primary.path = place("elsewhere"), .secondary.path = place(store)};
}

static struct pair two_volumes(void)
{
    struct pair p = {.config.file = (char *)"shop.json"};
    add(&p, "data", 1 << 20, "data.img");
    add(&p, "log", 2 << 20, "log.img");
    return p;
}

static void done(struct pair *p)
{
    for (size_t i = 0; i < p->config.volume_count; i++) {
        free(p->volumes[i].primary.path);
        free(p->volumes[i].secondary.path);
    }
    p->config.volume_count = 0;
}

static int take(struct pair *p, bool fresh, struct error *err)
{
    p->config.volumes = p->volumes;
    return layout_take(file, &p->config, PAIR_SECONDARY, fresh, err);
}

static void accepted(struct pair *p)
{
    struct error err = {0};
    if (take(p, false, &err) < 0)
        fail_msg("%s", err.text);
    done(p);
}

static void refused(struct pair *p, const char *field)
{
    struct error err = {0};
    CLEANUP_FREE char *before = NULL, *after = NULL;
    size_t size;
    assert_int_equal(file_read(file, 1 << 20, &before, &size, NULL), 0);
    assert_int_equal(take(p, false, &err), -EINVAL);
    if (!strstr(err.text, field) || !strstr(err.text, "shop.json: ") || !strstr(err.text, "CHANGES"))
        fail_msg("%s does not name %s", err.text, field);
    assert_int_equal(file_read(file, 1 << 20, &after, &size, NULL), 0);
    assert_string_equal(before, after);
    done(p);
}

static int set_up(void **state)
{
    static const char *const names[] = {"data.img", "log.img", "other.img"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        CLEANUP_FREE char *path = place(names[i]);
        (void)unlink(path);
        assert_int_equal(file_replace(path, "", 0, 0600, NULL), 0);
    }
    struct pair p = two_volumes();
    assert_int_equal(take(&p, true, NULL), 0);
    done(&p);
    return 0;
}

static void what_has_not_changed_is_accepted(void **state)
{
    (void)state;
    struct pair p = two_volumes();
    p.volumes[0].socket.mode = 0600;
    p.volumes[0].secondary.direct = true;
    p.volumes[1].primary.path[1] = 'X'; // the peer's own affair
    accepted(&p);
}

static void other_volumes_are_refused(void **state)
{
    (void)state;
    struct pair p = two_volumes();
    struct pair_volume_config first = p.volumes[0];
    p.volumes[0] = p.volumes[1];
    p.volumes[1] = first;
    refused(&p, "volumes[0].name: found log;");
    p = two_volumes();
    p.volumes[1].name = (char *)"logs";
    refused(&p, "volumes[1].name: found logs; what this end has queued and recorded is for log:");
    p = two_volumes();
    p.volumes[1].size *= 2;
    refused(&p, "volumes[1].size: found 4194304;");
    p = two_volumes();
    add(&p, "more", 1 << 20, "other.img");
    refused(&p, "volumes[2]: found more;");
    p = (struct pair){.config.file = (char *)"shop.json"};
    add(&p, "data", 1 << 20, "data.img");
    refused(&p, "volumes[1]: found none;");
    p = two_volumes();
    accepted(&p);
}

static void another_store_is_refused_and_another_path_is_not(void **state)
{
    (void)state;
    CLEANUP_FREE char *log = place("log.img"), *other = place("other.img"), *moved = place("moved.img");
    struct pair p = two_volumes();
    (void)strcpy(strstr(p.volumes[0].secondary.path, "data.img"), "none.img");
    refused(&p, "volumes[0].secondary.path");
    p = two_volumes();
    free(p.volumes[1].secondary.path);
    p.volumes[1].secondary.path = place("other.img");
    refused(&p, "volumes[1].secondary.path");
    (void)unlink(moved);
    assert_int_equal(link(log, moved), 0); // both lead to it
    p = two_volumes();
    free(p.volumes[1].secondary.path);
    p.volumes[1].secondary.path = place("moved.img");
    accepted(&p);
    assert_int_equal(unlink(moved), 0); // it was there only, and is called otherwise now
    assert_int_equal(rename(log, other), 0);
    p = two_volumes();
    free(p.volumes[1].secondary.path);
    p.volumes[1].secondary.path = place("other.img");
    accepted(&p);
    p = two_volumes();
    refused(&p, "volumes[1].secondary.path");
}

static void a_fresh_end_has_no_use_for_a_former_one(void **state)
{
    (void)state;
    struct pair p = {.config.file = (char *)"shop.json"};
    add(&p, "log", 4 << 20, "other.img");
    assert_int_equal(take(&p, true, NULL), 0);
    accepted(&p);
    p = two_volumes();
    refused(&p, "volumes[0].name");
    assert_int_equal(unlink(file), 0);
    p = two_volumes();
    accepted(&p); // of an older version
    p = (struct pair){.config.file = (char *)"shop.json"};
    for (size_t i = 0; i < PAIR_VOLUMES_MAX; i++)
        add(&p, "many", 1 << 20, "data.img");
    assert_int_equal(take(&p, true, NULL), 0);
    accepted(&p);
}

// Every byte of it: found, said, and made anew.
static void damage_is_found(void **state)
{
    (void)state;
    CLEANUP_FREE char *good = NULL;
    size_t size;
    assert_int_equal(file_read(file, 1 << 20, &good, &size, NULL), 0);
    for (size_t i = 0; i < size; i++) {
        struct error err = {0};
        struct pair p = two_volumes();
        good[i] ^= 1;
        assert_int_equal(file_replace(file, good, size, 0600, NULL), 0);
        good[i] ^= 1;
        assert_int_equal(take(&p, false, &err), -EUCLEAN);
        assert_non_null(strstr(err.text, file));
        accepted(&p);
    }
    struct pair p = two_volumes();
    assert_int_equal(file_replace(file, good, size / 2, 0600, NULL), 0);
    assert_int_equal(take(&p, false, NULL), -EUCLEAN);
    done(&p);
}

// What the file's own words are is a name like any other.
static void any_name_is_found_again(void **state)
{
    static const char *const names[] = {"sum", "understudy-layout", "1", "a2345678901234567890123456789012"};
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct pair p = {.config.file = (char *)"shop.json"};
        add(&p, names[i], 1 << 20, "data.img");
        assert_int_equal(take(&p, true, NULL), 0);
        p.volumes[0].size *= 2;
        refused(&p, "volumes[0].size: found 2097152;");
    }
}

// It would be written over otherwise, or read in part: what is behind the zero is not what the checksum is of.
static void what_is_added_is_found(void **state)
{
    static const char added[] = "\0more";
    (void)state;
    CLEANUP_FREE char *good = NULL;
    size_t size;
    assert_int_equal(file_read(file, 1 << 20, &good, &size, NULL), 0);
    for (size_t i = 1; i < sizeof(added); i++) {
        CLEANUP_FREE char *longer = malloc(size + i);
        assert_non_null(longer);
        memcpy(longer, good, size);
        memcpy(longer + size, added, i);
        assert_int_equal(file_replace(file, longer, size + i, 0600, NULL), 0);
        struct pair p = two_volumes();
        assert_int_equal(take(&p, false, NULL), -EUCLEAN);
        accepted(&p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_has_not_changed_is_accepted, set_up),
        cmocka_unit_test_setup(other_volumes_are_refused, set_up),
        cmocka_unit_test_setup(another_store_is_refused_and_another_path_is_not, set_up),
        cmocka_unit_test_setup(a_fresh_end_has_no_use_for_a_former_one, set_up),
        cmocka_unit_test_setup(damage_is_found, set_up),
        cmocka_unit_test_setup(any_name_is_found_again, set_up),
        cmocka_unit_test_setup(what_is_added_is_found, set_up),
    };
    char command[128];
    (void)snprintf(directory, sizeof(directory), "/tmp/test_layout.XXXXXX");
    if (!mkdtemp(directory))
        return EXIT_FAILURE;
    (void)snprintf(file, sizeof(file), "%s/layout", directory);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    (void)snprintf(command, sizeof(command), "rm -rf '%s'", directory);
    return failed || system(command) != 0;
}
