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
#include "tests/unit/config_sample.h"

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

// Each row: one change to the sample, and what the refusal must say (both texts, the first right
// behind the file).
static const struct {
    const char *from, *to;
    const char *place;
    const char *says;
} refused[] = {
    // The text itself.
    {"\"format\": 1,", "\"format\": 1,,", "web.json:4: ", "not JSON"},
    {"\"mode\": \"sync\",\n", "\"mode\": \"sync\"\n", "web.json:18: ", "not JSON"},
    {"\"none\"\n}", "\"none\"\n} x", "web.json:44: ", "not JSON"},
    {"/* the\n gateway */", "/* the\n gateway", "web.json:30: ", "comment that does not end"},
    {"\"mode\": \"sync\"", "\"mode\": \"sync", "web.json:17: ", "does not end in its line"},
    {"\"web\"", "\"w\\u0000eb\"", "web.json:4: ", "\\u0000"},
    {"\"web\"", "\"w\x01\"", "web.json:4: ", "control character"},
    // Fields.
    {"\"mode\":", "\"modes\":", "modes: ", "did you mean \"mode\"?"},
    {"\"mode\":", "\"colour\":", "colour: ", "unknown field; allowed: format, pair, ends"},
    {"\"direct\":", "\"Direct\":", "volumes[0].primary.Direct: ", "did you mean \"direct\""},
    {"\"mode\": \"sync\"", "\"mode\": \"sync\", \"mode\": \"sync\"", "mode: ", "found twice"},
    {"\"port\": 7400", "\"port\": 7400, \"port\": 1", "channel.paths[0].port: ", "found twice"},
    {"\"format\": 1,", "", "format: ", "missing; allowed: 1"},
    {"\"name\": \"disk\",", "", "volumes[0].name: ", "missing"},
    {"\"host\": \"beta\",", "", "ends.secondary.host: ", "missing"},
    // Types and limits.
    {"\"format\": 1", "\"format\": 2", "format: ", "found 2; allowed: 1"},
    {"\"web\"", "\"Web\"", "pair: ", "found \"Web\"; allowed: a name"},
    {"\"web\"", "\"-web\"", "pair: ", "a name"},
    {"\"web\"", "\"..\"", "pair: ", "a name"},
    {"\"web\"", "\"a23456789012345678901234567890123\"", "pair: ", "a name"},
    {"\"web\"", "7", "pair: ", "found 7"},
    {"\"alpha\"", "\"al pha\"", "ends.primary.host: ", "machine's name"},
    {"\"eth0\"", "\"eth0/1\"", "ends.primary.public_interface: ", "network interface"},
    {"\"10.1.0.1\"", "\"10.1.0\"", "channel.paths[0].primary: ", "found \"10.1.0\""},
    {"\"10.1.0.1\"", "\"alpha\"", "channel.paths[0].primary: ", "an IPv4 or IPv6 address"},
    {"\"10.1.0.1\"", "\"0.0.0.0\"", "channel.paths[0].primary: ", "address of one machine"},
    {"\"10.1.0.1\"", "\"239.0.0.1\"", "channel.paths[0].primary: ", "address of one machine"},
    {"7400", "\"7400\"", "channel.paths[0].port: ", "found \"7400\"; allowed: a whole number"},
    {"7400", "65535", "channel.paths[0].port: ", "from 1 to 65534"},
    {"7400", "7400.5", "channel.paths[0].port: ", "found 7400.5"},
    {"7400", "-1", "channel.paths[0].port: ", "found -1"},
    {"7400", "1e300", "channel.paths[0].port: ", "whole number"},
    {"false", "\"no\"", "channel.data_on_public: ", "true or false"},
    {"\"mode\": \"sync\"", "\"mode\": \"fast\"", "mode: ", "\"async\", \"sync\" or \"strict\""},
    {"\"10G\"", "\"10X\"", "volumes[0].size: ", "found \"10X\"; allowed: a size from 1M to 1P"},
    {"\"10G\"", "\"\"", "volumes[0].size: ", "found \"\""},
    {"\"10G\"", "\"99999999999999999999\"", "volumes[0].size: ", "a size"},
    {"\"10G\"", "\"20000000P\"", "volumes[0].size: ", "a size"},
    {"\"10G\"", "1048577", "volumes[0].size: ", "multiple of 4096"},
    {"\"/srv/web.img\", \"d", "\"srv/web.img\", \"d", "volumes[0].primary.path: ", "absolute path"},
    {"\"/srv/web.img\", \"d", "\"/srv/../x\", \"d", "volumes[0].primary.path: ", "absolute path"},
    {"\"/srv/web.img\", \"d", "\"/srv//x\", \"d", "volumes[0].primary.path: ", "absolute path"},
    {"iscsi://10.3", "iscsi://u%p@10.3", "volumes[1].primary.path: ", "without a user"},
    {"example:a/1", "example:a", "volumes[1].primary.path: ", "iscsi://HOST"},
    {"\"0640\"", "\"0888\"", "volumes[0].socket.mode: ", "octal"},
    {"\"0640\"", "\"1777\"", "volumes[0].socket.mode: ", "octal"},
    {"\"192.0.2.10/24\"", "\"192.0.2.10\"", "public_address.addresses[0]: ", "with prefix length"},
    {"\"192.0.2.10/24\"", "\"192.0.2.10/33\"", "public_address.addresses[0]: ", "with prefix"},
    {"\"192.0.2.254\"", "7", "waypoints[0]: ", "found 7"},
    {"[\"192.0.2.254\"]", "\"192.0.2.254\"", "waypoints: ", "a list of 0 to 16 strings"},
    {"\"resync\": {\"share\": 30", "\"resync\": {\"share\": 0", "resync.share: ", "from 1 to 100"},
    {"{\"share\": 30, \"rate\": \"50M\"}", "[]", "resync: ", "found a list; allowed: an object"},
    // Kinds.
    {"\"kind\": \"domain\"", "\"kind\": \"docker\"", "applications[0].kind: ", "\"domain\" or"},
    {"\"kind\": \"domain\"", "\"kind\": \"script\"", "applications[0].command: ", "missing"},
    {"\"user\": \"www\"", "\"xml\": \"/x\"", "applications[1].xml: ", "only for kind \"domain\""},
    // How fields fit together.
    {"\"management\": \"192.0.2.2\"", "\"management\": \"192.0.2.1\"",
     "ends.secondary.management: ", "both ends"},
    {"\"management\": \"192.0.2.2\",", "", "ends.secondary.management: ", "both or none"},
    {"\"management\": \"192.0.2.2\"", "\"management\": \"::2\"",
     "ends.secondary.management: ", "both IPv4 or both IPv6"},
    {",\n                  \"public_interface\": \"eth1\"", "",
     "ends.secondary.public_interface: ", "missing"},
    {"\"FD00::2\"", "\"10.9.0.2\"", "channel.paths[1]: ", "both IPv4 or both IPv6"},
    {"\"FD00::2\"", "\"fd00:0::1\"", "channel.paths[1]: ", "for both ends"},
    {"\"key\": \"/etc/understudy/web.key\",", "", "channel.key: ", "keygen"},
    {"\"fd00::1\", \"secondary\": \"FD00::2\", \"port\": 7410",
     "\"10.1.0.1\", \"secondary\": \"10.1.0.3\", \"port\": 7401",
     "channel.paths[1].port: ", "needs port 7401 at 10.1.0.1 also for channel.paths[0].port"},
    {"7430", "7421", "channel.management_port: ", "ports of their own"},
    {"\"logs\"", "\"disk\"", "volumes[1].name: ", "volumes[0] has too"},
    {"\"path\": \"/dev/vg/logs\"", "\"path\": \"/srv/web.img\"",
     "volumes[1].secondary.path: ", "also volumes[0].secondary.path"},
    {"\"/dev/vg/logs\"", "\"iscsi://10.3.0.9:3260/iqn.2024-01.example:a/1\"",
     "volumes[1].secondary.path: ", "also volumes[1].primary.path"},
    {"\"chap_user\": \"u\",", "", "volumes[1].primary.chap_user: ", "only together"},
    {"\"chap_user\": \"u\",", "\"direct\": true,", "volumes[1].primary.direct: ", "only for files"},
    {"\"direct\": true", "\"chap_user\": \"u\"",
     "volumes[0].primary.chap_user: ", "only for iscsi"},
    {"\"192.0.2.10/24\"", "\"10.1.0.2/24\"", "public_address.addresses[0]: ", "channel address"},
    {"\"192.0.2.10/24\"", "\"192.0.2.1/24\"",
     "public_address.addresses[0]: ", "management address"},
    {"\"192.0.2.10/24\"", "\"192.0.2.0/24\"", "public_address.addresses[0]: ", "network itself"},
    {"\"2001:DB8:0::10/64\"", "\"192.0.2.10/25\"", "public_address.addresses[1]: ", "already"},
    {"\"192.0.2.254\"", "\"192.0.2.10\"", "waypoints[0]: ", "public address of the pair"},
    {"\"192.0.2.254\"", "\"10.1.0.1\"", "waypoints[0]: ", "channel address"},
    {"\"192.0.2.254\"", "\"127.0.0.1\"", "waypoints[0]: ", "loopback"},
    {"\"name\": \"www\"", "\"name\": \"guest\"", "applications[1].name: ", "has too"},
    {"\"timeout_ms\": 2000", "\"timeout_ms\": 799", "timing.timeout_ms: ", "at least 800"},
    {"\"margin_ms\": 400", "\"margin_ms\": 1401", "timing.margin_ms: ", "at most 1400"},
    {"\"decision_ms\": 3000", "\"decision_ms\": 799", "timing.decision_ms: ", "at least 800"},
};

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
