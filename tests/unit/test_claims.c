// SPDX-License-Identifier: Apache-2.0
// common/address/claims: what was put on is taken off when it is not configured any more, and nothing else is; on real
// interfaces, in network namespaces of the test's own.
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/address/address.h"
#include "common/address/claims.h"
#include "common/base/cleanup.h"
#include "common/base/clock.h"
#include "common/base/file.h"
#include "tests/unit/netns.h"

static struct netns ns;
static char file[PATH_SIZE];

// An end that is configured with the addresses that are written here, separated by blanks.
struct end {
    struct ip ips[4];
    struct claims c;
};

static struct claims *end_with(struct end *e, const char *owner, const char *interface, const char *addresses)
{
    char text[200], *rest = NULL;
    (void)snprintf(text, sizeof(text), "%s", addresses);
    e->c = (struct claims){.path = file, .owner = owner, .interface = interface, .addresses = e->ips};
    for (char *at = strtok_r(text, " ", &rest); at; at = strtok_r(NULL, " ", &rest))
        assert_int_equal(ip_parse(at, &e->ips[e->c.count++], NULL), 0);
    return &e->c;
}

static void put_on(struct claims *c)
{
    struct error unnoted = {0}, err = {0};
    assert_int_equal(claims_put_on(c, &unnoted, &err), 0);
    assert_int_equal(unnoted.code, 0);
}

// Whether exactly this is on the interface, with this prefix length.
static bool is_on(const char *interface, const char *address)
{
    struct ip ips[ADDRESS_LIST_MAX], ip;
    size_t count = 0;
    bool found = false;
    assert_int_equal(ip_parse(address, &ip, NULL), 0);
    assert_int_equal(address_list(interface, ips, ADDRESS_LIST_MAX, &count, NULL), 0);
    for (size_t i = 0; i < count; i++)
        found |= ip_equal(&ips[i], &ip) && ips[i].prefix == ip.prefix;
    return found;
}

static size_t left_of(const struct claims *c)
{
    struct claim left[4];
    size_t count = 9;
    assert_int_equal(claims_left(c, left, ARRAY_LEN(left), &count, NULL), 0);
    return count;
}

static int clean(void **state)
{
    (void)state;
    netns_here("ip address flush dev a scope global; ip address flush dev lo scope global");
    (void)unlink(file);
    return 0;
}

static void what_is_not_configured_any_more_is_left(void **state)
{
    struct end before, now;
    (void)state;
    put_on(end_with(&before, "shop/primary", "a", "192.0.2.10/24 192.0.2.11/24 2001:db8::10/64"));
    assert_int_equal(left_of(&before.c), 0);
    struct claims *c = end_with(&now, "shop/primary", "a", "192.0.2.11/24 192.0.2.20/24");
    assert_int_equal(left_of(c), 2);
    put_on(c);
    assert_true(is_on("a", "192.0.2.10/24") && is_on("a", "192.0.2.20/24")); // until it is said to leave
    assert_int_equal(claims_leave(c, NULL), 0);
    assert_false(is_on("a", "192.0.2.10/24") || is_on("a", "2001:db8::10/64"));
    assert_true(is_on("a", "192.0.2.11/24") && is_on("a", "192.0.2.20/24"));
    assert_int_equal(left_of(c), 0);
    assert_int_equal(claims_leave(c, NULL), 0);
    assert_int_equal(claims_take_off(c, NULL), 0);
    assert_false(is_on("a", "192.0.2.11/24") || is_on("a", "192.0.2.20/24"));
    assert_int_equal(left_of(end_with(&before, "shop/primary", NULL, "")), 0); // nothing is claimed of what is off
}

static void another_interface_or_none(void **state)
{
    struct end before, now;
    (void)state;
    put_on(end_with(&before, "shop/primary", "a", "192.0.2.10/24"));
    struct claims *c = end_with(&now, "shop/primary", "lo", "192.0.2.10/24");
    assert_int_equal(left_of(c), 1);
    put_on(c);
    assert_int_equal(claims_leave(c, NULL), 0);
    assert_true(!is_on("a", "192.0.2.10/24") && is_on("lo", "192.0.2.10/24"));
    c = end_with(&now, "shop/primary", NULL, "");
    assert_int_equal(left_of(c), 1);
    assert_int_equal(claims_take_off(c, NULL), 0);
    assert_false(is_on("lo", "192.0.2.10/24"));
}

static void another_prefix(void **state)
{
    struct end before, now;
    (void)state;
    put_on(end_with(&before, "shop/primary", "a", "192.0.2.10/24 2001:db8::10/64"));
    struct claims *c = end_with(&now, "shop/primary", "a", "192.0.2.10/28 2001:db8::10/80");
    put_on(c);
    assert_int_equal(claims_leave(c, NULL), 0);
    assert_true(is_on("a", "192.0.2.10/28") && is_on("a", "2001:db8::10/80"));
    assert_false(is_on("a", "192.0.2.10/24") || is_on("a", "2001:db8::10/64"));
}

// Put there before us, or in the place of ours: it is nobody's to be left.
static void what_somebody_else_has_put_there_stays(void **state)
{
    struct end before, now;
    (void)state;
    netns_here("ip address add 192.0.2.10/24 dev a");
    put_on(end_with(&before, "shop/primary", "a", "192.0.2.10/24 192.0.2.11/24 192.0.2.12/24"));
    netns_here("ip address del 192.0.2.11/24 dev a; ip address del 192.0.2.12/24 dev a; sleep 0.05;"
               "ip address add 192.0.2.11/24 dev a");
    struct claims *c = end_with(&now, "shop/primary", "a", "192.0.2.20/24");
    put_on(c);
    assert_int_equal(claims_leave(c, NULL), 0);
    assert_true(is_on("a", "192.0.2.10/24") && is_on("a", "192.0.2.11/24") && is_on("a", "192.0.2.20/24"));
    assert_int_equal(left_of(c), 0);
    assert_int_equal(claims_take_off(end_with(&before, "shop/primary", "a", "192.0.2.10/24"), NULL), 0);
    assert_false(is_on("a", "192.0.2.10/24")); // what is configured is off on an end that is not active, whoever had it
    assert_true(is_on("a", "192.0.2.11/24"));
}

static void killed_before_it_was_seen_it_is_ours(void **state)
{
    struct end end;
    (void)state;
    struct claims *c = end_with(&end, "shop/primary", "a", "192.0.2.10/24");
    put_on(c);
    CLEANUP_FREE char *text = NULL;
    size_t size = 0;
    assert_int_equal(file_read(file, 4096, &text, &size, NULL), 0);
    char *created = strstr(text, "192.0.2.10/24 ");
    assert_non_null(created);
    (void)strcpy(created, "192.0.2.10/24 0\n");
    assert_int_equal(file_replace(file, text, strlen(text), 0600, NULL), 0);
    c = end_with(&end, "shop/primary", "a", "");
    assert_int_equal(claims_leave(c, NULL), 0);
    assert_false(is_on("a", "192.0.2.10/24"));
}

// From one pair's file to another's: whoever has put it on last.
static void an_address_that_has_moved_is_the_new_pairs(void **state)
{
    struct end shop, post;
    (void)state;
    put_on(end_with(&shop, "shop/primary", "a", "192.0.2.10/24 192.0.2.11/24"));
    put_on(end_with(&post, "post/secondary", "a", "192.0.2.10/24"));
    struct claims *c = end_with(&shop, "shop/primary", "a", "");
    assert_int_equal(left_of(c), 1);
    assert_int_equal(claims_leave(c, NULL), 0);
    assert_true(is_on("a", "192.0.2.10/24"));
    assert_false(is_on("a", "192.0.2.11/24"));
    assert_int_equal(left_of(end_with(&post, "post/secondary", "a", "")), 1);
}

static bool is_shop(void *user, const char *owner)
{
    (void)user;
    return strcmp(owner, "shop/primary") == 0;
}

static void of_a_pair_that_is_gone_all_is_left(void **state)
{
    struct end shop, post;
    (void)state;
    put_on(end_with(&shop, "shop/primary", "a", "192.0.2.10/24 192.0.2.11/24"));
    put_on(end_with(&post, "post/primary", "a", "192.0.2.12/24"));
    assert_int_equal(claims_leave_gone(file, is_shop, NULL, NULL), 0);
    assert_true(!is_on("a", "192.0.2.10/24") && !is_on("a", "192.0.2.11/24") && is_on("a", "192.0.2.12/24"));
}

static void damage_and_another_boot_claim_nothing(void **state)
{
    static const char *const texts[] = {
        "",
        "understudy-addresses 1 another-boot\nshop/primary a 192.0.2.10/24 0\n",
        "understudy-addresses 2 another-boot\nshop/primary a 192.0.2.10/24 0\n",
        "\n\n\nshop/primary a 192.0.2.10/24 0\n",
    };
    static const char *const lines[] = {
        "shop/primary\n", "shop/primary a\n", "shop/primary a 192.0.2.10/24\n", "shop/primary a 192.0.2.10/240 0\n",
        "shop/primary a 192.0.2.10/24 0 more\n", "shop/primary interface-too-long 192.0.2.10/24 0\n",
        "shop/primary a nowhere 0\n", "shop/primary a 192.0.2.10/24 x\n", "\x01\xff\n",
        "shop/primary a 192.0.2.10/24 4294967296\n", "shop/primary a 192.0.2.10/24 -1\n",
        "shop/primary interface-too-l192.0.2.10/24 0\n",
    };
    struct end end;
    (void)state;
    netns_here("ip address add 192.0.2.10/24 dev a");
    struct claims *c = end_with(&end, "shop/primary", "a", "192.0.2.20/24");
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        assert_int_equal(file_replace(file, texts[i], strlen(texts[i]), 0600, NULL), 0);
        assert_int_equal(left_of(c), 0);
    }
    put_on(c);
    for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
        FILE *out = fopen(file, "a");
        assert_non_null(out);
        assert_true(fputs(lines[i], out) >= 0 && fclose(out) == 0);
        assert_int_equal(left_of(c), 0);
        assert_int_equal(claims_leave(c, NULL), 0);
    }
    assert_true(is_on("a", "192.0.2.10/24"));
    assert_int_equal(left_of(end_with(&end, "shop/primary", "a", "")), 1); // what can be read counts
}

static size_t lines_of_file(void)
{
    CLEANUP_FREE char *text = NULL;
    size_t size = 0, count = 0;
    assert_int_equal(file_read(file, 1 << 24, &text, &size, NULL), 0);
    for (const char *at = text; (at = strchr(at, '\n')); at++)
        count++;
    return count;
}

// More than is ever written: the table takes no more than it has room for.
static void a_file_with_too_many_claims_is_read_in_part(void **state)
{
    struct end end;
    (void)state;
    put_on(end_with(&end, "shop/primary", "a", "192.0.2.10/24")); // the head
    FILE *out = fopen(file, "a");
    assert_non_null(out);
    for (unsigned i = 0; i < CLAIMS_MAX + 100; i++)
        assert_true(fprintf(out, "post/primary b 10.0.%u.%u/24 1\n", i / 250, i % 250) > 0);
    assert_int_equal(fclose(out), 0);
    struct claims *c = end_with(&end, "shop/primary", "a", "192.0.2.11/24 192.0.2.12/24");
    put_on(c);
    assert_true(is_on("a", "192.0.2.11/24") && is_on("a", "192.0.2.12/24"));
    assert_int_equal(claims_leave(c, NULL), 0);
    assert_false(is_on("a", "192.0.2.10/24"));
    assert_int_equal(lines_of_file(), CLAIMS_MAX); // with the head: there is one place again
    put_on(end_with(&end, "shop/primary", "a", "192.0.2.13/24 192.0.2.14/24"));
    assert_int_equal(lines_of_file(), CLAIMS_MAX + 1);
    assert_int_equal(left_of(end_with(&end, "shop/primary", "a", "")), 1);
}

// Whoever is stopped with the lock holds nobody up; and what cannot be written down is put on all the same.
static void a_file_that_cannot_be_had_is_no_reason_not_to_serve(void **state)
{
    struct end end;
    struct error unnoted = {0}, err = {0};
    char lock[PATH_SIZE + 8];
    (void)state;
    (void)snprintf(lock, sizeof(lock), "%s.lock", file);
    CLEANUP_CLOSE int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && flock(fd, LOCK_EX) == 0);
    struct claims *c = end_with(&end, "shop/primary", "a", "192.0.2.10/24");
    assert_int_equal(claims_put_on(c, &unnoted, &err), 0);
    assert_int_equal(unnoted.code, -EBUSY);
    assert_true(is_on("a", "192.0.2.10/24"));
    assert_int_equal(claims_leave(c, &err), -EBUSY);
    assert_int_equal(claims_take_off(c, &err), 0);
    assert_false(is_on("a", "192.0.2.10/24"));
    end.c.path = "/nonexistent/addresses.list";
    unnoted.code = 0;
    assert_int_equal(claims_put_on(c, &unnoted, &err), 0);
    assert_int_equal(unnoted.code, -ENOENT);
    assert_int_equal(claims_take_off(c, &err), 0);
    assert_false(is_on("a", "192.0.2.10/24"));
}

// Who has waited for the file is asked again whether it still may.
static void what_comes_too_late_is_never_on(void **state)
{
    struct end end;
    struct error unnoted = {0}, err = {0};
    char lock[PATH_SIZE + 8];
    _Atomic int64_t limit_ns = clock_boot_ns() + 50 * NS_PER_MS;
    (void)state;
    (void)snprintf(lock, sizeof(lock), "%s.lock", file);
    CLEANUP_CLOSE int fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0 && flock(fd, LOCK_EX) == 0);
    struct claims *c = end_with(&end, "shop/primary", "a", "192.0.2.10/24");
    c->limit_ns = &limit_ns;
    assert_int_equal(claims_put_on(c, &unnoted, &err), -ETIME);
    assert_false(is_on("a", "192.0.2.10/24"));
    assert_true(clock_boot_ns() >= limit_ns);
    assert_int_equal(flock(fd, LOCK_UN), 0);
    assert_int_equal(claims_put_on(c, &unnoted, &err), -ETIME);
    assert_false(is_on("a", "192.0.2.10/24"));
    limit_ns = INT64_MAX;
    put_on(c);
    assert_true(is_on("a", "192.0.2.10/24"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(what_is_not_configured_any_more_is_left, clean),
        cmocka_unit_test_setup(another_interface_or_none, clean),
        cmocka_unit_test_setup(another_prefix, clean),
        cmocka_unit_test_setup(what_somebody_else_has_put_there_stays, clean),
        cmocka_unit_test_setup(killed_before_it_was_seen_it_is_ours, clean),
        cmocka_unit_test_setup(an_address_that_has_moved_is_the_new_pairs, clean),
        cmocka_unit_test_setup(of_a_pair_that_is_gone_all_is_left, clean),
        cmocka_unit_test_setup(damage_and_another_boot_claim_nothing, clean),
        cmocka_unit_test_setup(a_file_with_too_many_claims_is_read_in_part, clean),
        cmocka_unit_test_setup(a_file_that_cannot_be_had_is_no_reason_not_to_serve, clean),
        cmocka_unit_test_setup(what_comes_too_late_is_never_on, clean),
    };
    char directory[] = "/tmp/test_claims.XXXXXX", lock[PATH_SIZE + 8];
    netns_make(&ns);
    if (!mkdtemp(directory) || claims_path(file, sizeof(file), directory) < 0)
        return EXIT_FAILURE;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    netns_drop(&ns);
    (void)snprintf(lock, sizeof(lock), "%s.lock", file);
    (void)unlink(lock);
    (void)unlink(file);
    (void)rmdir(directory);
    return failed;
}
