// SPDX-License-Identifier: Apache-2.0
// common/config: a whole pair file gives its values; each wrong one is refused with the path of the
// field, what was found and what is allowed.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/config/pair.h"
#include "tests/unit/config_refused.h"

static int parse(const char *text, struct pair_config **ret_config, struct error *err)
{
    return pair_config_parse("web.json", text, strlen(text), ret_config, err);
}

static void values_are_what_the_file_says(void **state)
{
    struct pair_config *c = NULL;
    struct error err = {0};
    if (parse(config_sample, &c, &err) < 0)
        fail_msg("%s", err.text);
    assert_string_equal(c->pair, "web");
    assert_string_equal(c->ends.primary.host, "alpha");
    assert_string_equal(c->ends.secondary.libvirt, "qemu:///system");
    assert_int_equal(c->channel.path_count, 2);
    assert_string_equal(c->channel.paths[1].secondary, "fd00::2");
    assert_int_equal(c->channel.paths[1].port, 7410);
    assert_int_equal(c->mode, PAIR_SYNC);
    assert_int_equal(c->volume_count, 2);
    assert_int_equal(c->volumes[0].size, UINT64_C(10) << 30);
    assert_true(c->volumes[0].primary.direct);
    assert_false(c->volumes[0].secondary.direct);
    assert_int_equal(c->volumes[0].socket.mode, 0640);
    assert_int_equal(c->volumes[1].socket.mode, 0660);
    assert_int_equal(c->volumes[1].size, 1 << 30);
    assert_string_equal(c->volumes[1].primary.chap_user, "u");
    assert_null(c->volumes[1].secondary.chap_user);
    assert_string_equal(c->public_address.addresses[1], "2001:db8::10/64");
    assert_string_equal(c->waypoints[0], "192.0.2.254");
    assert_int_equal(c->applications[0].kind, PAIR_APP_DOMAIN);
    assert_int_equal(c->applications[0].restarts, 3);
    assert_int_equal(c->applications[1].failure, PAIR_APP_FAILURE_SWITCHOVER);
    assert_int_equal(c->timing.decision_ms, 3000);
    assert_int_equal(c->queues.spill, 0);
    assert_int_equal(c->queues.safe, 1 << 30);
    assert_int_equal(c->queues.overflow, PAIR_OVERFLOW_THROTTLE);
    assert_int_equal(c->takeover, PAIR_TAKEOVER_MANUAL);
    assert_int_equal(c->split, PAIR_SPLIT_BOTH_STOP);
    assert_int_equal(c->shutdown, PAIR_SHUTDOWN_STOP);
    pair_config_free(c);
}

static const char smallest[] =
    "{\"format\": 1, \"pair\": \"p\",\n"
    " \"ends\": {\"primary\": {\"host\": \"a\"}, \"secondary\": {\"host\": \"b\"}},\n"
    " \"channel\": {\"paths\": [{\"primary\": \"127.0.0.1\", \"secondary\": \"127.0.0.2\"}]},\n"
    " \"volumes\": [{\"name\": \"v\", \"size\": \"1M\", \"primary\": {\"path\": \"/a\"},\n"
    "              \"secondary\": {\"path\": \"/b\"}}]}";

static void what_is_not_given_has_its_default(void **state)
{
    struct pair_config *c = NULL;
    struct error err = {0};
    if (parse(smallest, &c, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(c->mode, PAIR_SYNC);
    assert_int_equal(c->channel.paths[0].port, 7400);
    assert_null(c->channel.key);
    assert_int_equal(c->timing.heartbeat_ms, 250);
    assert_int_equal(c->timing.timeout_ms, 2000);
    assert_int_equal(c->timing.decision_ms, 2000);
    assert_int_equal(c->queues.memory, 256 << 20);
    assert_int_equal(c->takeover, PAIR_TAKEOVER_AUTO);
    assert_string_equal(c->volumes[0].socket.owner, "libvirt-qemu");
    assert_int_equal(c->public_address.address_count, 0);
    pair_config_free(c);
}

// Prints what is wrong with a row's refusal; a run shows all wrong rows at once.
static bool row_holds(size_t i)
{
    CLEANUP_FREE char *text = config_changed(config_sample, refused[i].from, refused[i].to);
    struct pair_config *c = NULL;
    struct error err = {0, "not refused"};
    char front[128];
    bool whole = strncmp(refused[i].place, "web.json", 8) == 0;
    snprintf(front, sizeof(front), "%s%s", whole ? "" : "web.json: ", refused[i].place);
    if (text && parse(text, &c, &err) == -EINVAL && !c &&
        strncmp(err.text, front, strlen(front)) == 0 && strstr(err.text, refused[i].says))
        return true;
    print_error("row %zu (%s -> %s): \"%s\", expected \"%s...%s\"\n", i, refused[i].from,
                refused[i].to, text ? err.text : "not in the sample", front, refused[i].says);
    pair_config_free(c);
    return false;
}

static void wrong_files_are_refused_by_field(void **state)
{
    size_t wrong = 0;
    for (size_t i = 0; i < ARRAY_LEN(refused); i++)
        wrong += !row_holds(i);
    assert_int_equal(wrong, 0);
}

static void a_list_that_must_not_be_empty_is_refused(void **state)
{
    CLEANUP_FREE char *text = strdup(config_sample);
    char *from = strstr(text, "\"volumes\": [");
    char *to = strstr(text, "  \"public_address\"");
    memset(from, ' ', (size_t)(to - from));
    memcpy(from, "\"volumes\": [],", 14);
    struct pair_config *c = NULL;
    struct error err = {0};
    assert_int_equal(parse(text, &c, &err), -EINVAL);
    assert_string_equal(err.text,
                        "web.json: volumes: found a list of 0; allowed: a list of 1 to 64 objects");
}

// Whatever prefix of a file arrives, and whichever byte of it is wrong: refused or read, never a
// crash.
static void damage_never_crashes(void **state)
{
    size_t size = strlen(config_sample);
    for (size_t i = 0; i < size; i++) {
        struct pair_config *c = NULL;
        struct error err = {0};
        if (pair_config_parse("x", config_sample, i, &c, &err) == 0)
            c = pair_config_free(c);
        CLEANUP_FREE char *text = strdup(config_sample);
        text[i] = (char)(text[i] ^ 0x15);
        if (parse(text, &c, &err) == 0)
            c = pair_config_free(c);
        else
            assert_true(err.text[0]);
    }
}

static void deep_nesting_is_refused(void **state)
{
    size_t depth = 100000;
    CLEANUP_FREE char *text = malloc(depth + 1);
    memset(text, '[', depth);
    text[depth] = '\0';
    struct pair_config *c = NULL;
    assert_int_equal(parse(text, &c, NULL), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_what_the_file_says),
        cmocka_unit_test(what_is_not_given_has_its_default),
        cmocka_unit_test(wrong_files_are_refused_by_field),
        cmocka_unit_test(a_list_that_must_not_be_empty_is_refused),
        cmocka_unit_test(damage_never_crashes),
        cmocka_unit_test(deep_nesting_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
