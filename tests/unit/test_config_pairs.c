// SPDX-License-Identifier: Apache-2.0
// common/config: several pairs side by side, what must agree between the ends, and what is legal
// but dangerous.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/config/pair.h"
#include "common/config/places.h"
#include "tests/unit/config_sample.h"

static char dir[] = "/tmp/test_config_XXXXXX";

static struct pair_config *parse(const char *text)
{
    struct pair_config *c = NULL;
    struct error err = {0};
    if (pair_config_parse("web.json", text, strlen(text), &c, &err) < 0)
        fail_msg("%s", err.text);
    return c;
}

static struct pair_config *changed(const char *from, const char *to)
{
    CLEANUP_FREE char *text = config_changed(config_sample, from, to);
    assert_non_null(text);
    return parse(text);
}

static const char *difference(const char *from, const char *to)
{
    uint8_t ours[PAIR_DIGEST_SIZE], theirs[PAIR_DIGEST_SIZE];
    struct pair_config *a = parse(config_sample), *b = changed(from, to);
    pair_config_digest(a, ours);
    pair_config_digest(b, theirs);
    pair_config_free(a);
    pair_config_free(b);
    return pair_config_digest_difference(ours, theirs);
}

static void digest_names_what_must_agree(void **state)
{
    assert_string_equal(difference("\"web\"", "\"wob\""), "pair");
    assert_string_equal(difference("\"beta\"", "\"gamma\""), "ends");
    assert_string_equal(difference("\"mode\": \"sync\"", "\"mode\": \"async\""), "mode");
    assert_string_equal(difference("\"10G\"", "\"11G\""), "volumes");
    assert_string_equal(difference("\"logs\"", "\"log\""), "volumes");
    assert_string_equal(difference("192.0.2.10/24", "192.0.2.11/24"), "public_address");
    assert_string_equal(difference("\"www\"", "\"ftp\""), "applications");
    assert_string_equal(difference("\"decision_ms\": 3000", "\"decision_ms\": 3001"), "timing");
    assert_string_equal(difference("both-stop", "primary-stops"), "split");
}

static void digest_leaves_out_what_an_end_settles_itself(void **state)
{
    assert_null(difference("// A comment", "// Another"));
    assert_null(difference("\"10G\"", "10737418240"));
    assert_null(difference("2001:DB8:0::10", "2001:db8::10"));
    assert_null(difference("\"eth0\"", "\"eth7\""));
    assert_null(difference("/dev/vg/logs", "/dev/vg/log2"));
    assert_null(difference("\"192M\"", "\"256M\""));
    assert_null(difference("\"manual\"", "\"auto\""));
}

static void put(const char *name, const char *text)
{
    char path[256];
    struct error err = {0};
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    assert_int_equal(file_replace(path, text, strlen(text), 0600, &err), 0);
}

static void drop(const char *name)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    unlink(path);
}

// A second pair that shares nothing with the sample's, in the other direction.
static char *second_pair(void)
{
    static const char *const changes[][2] = {
        {"\"web\"", "\"mail\""},
        {"\"alpha\", \"management\": \"192.0.2.1\"", "\"beta\", \"management\": \"192.0.2.2\""},
        {"\"beta\", \"management\": \"192.0.2.2\",\n                  \"p",
         "\"alpha\", \"management\": \"192.0.2.1\",\n                  \"p"},
        {"\"10.1.0.1\", \"secondary\": \"10.1.0.2\"", "\"10.1.0.2\", \"secondary\": \"10.1.0.1\""},
        {"7400", "7500"},
        {"7420", "7520"},
        {"7430", "7530"},
        {"7410", "7510"},
        {"/srv/web.img", "/srv/mail.img"},
        {"/srv/web.img", "/srv/mail.img"},
        {"example:a/1", "example:a/2"},
        {"/dev/vg/logs", "/dev/vg/logs2"},
        {"192.0.2.10/24", "192.0.2.11/24"},
        {"2001:DB8:0::10", "2001:DB8:0::11"},
    };
    char *text = strdup(config_sample);
    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        char *next = config_changed(text, changes[i][0], changes[i][1]);
        if (!next)
            fail_msg("no %s", changes[i][0]);
        free(text);
        text = next;
    }
    return text;
}

static void directory_gives_its_pairs_in_order(void **state)
{
    CLEANUP_FREE char *second = second_pair();
    put("web.json", config_sample);
    put("mail.json", second);
    put("web.json~", "not read");
    put(".hidden.json", "not read");
    struct pair_config_list list = {0};
    struct error err = {0};
    if (pair_config_load_all(dir, &list, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(list.count, 2);
    assert_string_equal(list.items[0]->pair, "mail");
    assert_string_equal(list.items[1]->pair, "web");
    pair_config_list_done(&list);
    drop("web.json~");
    drop(".hidden.json");
}

static void neighbours_that_clash_are_refused(void **state)
{
    static const struct {
        const char *from, *to, *says;
    } clashes[] = {
        {"\"mail\"", "\"web\"", "pair: found \"web\""},
        {"7500", "7400", "channel.paths[0].port: port 7400"},
        {"7530", "7431", NULL},
        {"7530", "7421", "channel.management_port: port 7421"},
        {"example:a/2", "example:a/1", "volumes[1].primary.path: found \"iscsi://"},
        {"/srv/mail.img", "/srv/web.img", "volumes[0].primary.path: found \"/srv/web.img\""},
        {"192.0.2.11/24", "192.0.2.10/24", "public_address.addresses[0]: found"},
    };
    CLEANUP_FREE char *second = second_pair();
    put("web.json", config_sample);
    for (size_t i = 0; i < ARRAY_LEN(clashes); i++) {
        CLEANUP_FREE char *text = config_changed(second, clashes[i].from, clashes[i].to);
        assert_non_null(text);
        put("x.json", text);
        drop("mail.json");
        struct pair_config_list list = {0};
        struct error err = {0};
        int r = pair_config_load_all(dir, &list, &err);
        assert_int_equal(r, clashes[i].says ? -EINVAL : 0);
        if (clashes[i].says && !strstr(err.text, clashes[i].says))
            fail_msg("row %zu: %s", i, err.text);
        pair_config_list_done(&list);
    }
    drop("x.json");
}

static void a_single_file_and_a_missing_one(void **state)
{
    char path[256];
    struct pair_config_list list = {0};
    struct error err = {0};
    put("web.json", config_sample);
    snprintf(path, sizeof(path), "%s/web.json", dir);
    assert_int_equal(pair_config_load_all(path, &list, &err), 0);
    assert_int_equal(list.count, 1);
    assert_string_equal(list.items[0]->file, path);
    pair_config_list_done(&list);
    drop("web.json");
    assert_int_equal(pair_config_load_all(path, &list, &err), -ENOENT);
    assert_non_null(strstr(err.text, path));
}

struct heard {
    char fields[32][64];
    size_t count;
};

static void hear(void *user, const char *field, const char *text)
{
    struct heard *heard = user;
    assert_true(heard->count < 32);
    assert_true(strlen(text) > 20);
    snprintf(heard->fields[heard->count++], 64, "%s", field);
}

static bool warned(const char *from, const char *to, const char *field)
{
    struct heard heard = {0};
    struct pair_config *c = changed(from, to);
    pair_config_warnings(c, NULL, hear, &heard);
    pair_config_free(c);
    for (size_t i = 0; i < heard.count; i++) {
        if (strcmp(heard.fields[i], field) == 0)
            return true;
    }
    return false;
}

static void a_careful_file_is_not_warned_about(void **state)
{
    struct heard heard = {0};
    struct pair_config *c = parse(config_sample);
    pair_config_warnings(c, NULL, hear, &heard);
    pair_config_free(c);
    assert_int_equal(heard.count, 0);
}

static void dangers_are_named(void **state)
{
    assert_true(warned("\"manual\"", "\"auto\"", "")); // neither arbiter nor fencing
    assert_false(warned("\"manual\"", "\"auto\"", "waypoints"));
    assert_true(
        warned(",\n              {\"primary\": \"fd00::1\", \"secondary\": \"FD00::2\", \"port\": "
               "7410}",
               "", "channel.paths"));
    assert_true(warned("\"10.1.0.1\"", "\"192.0.2.77\"", "channel.paths[0]"));
    assert_true(warned("\"192.0.2.254\"", "\"198.51.100.1\"", "waypoints[0]"));
    assert_true(warned("\"heartbeat_ms\": 200", "\"heartbeat_ms\": 450", "timing.timeout_ms"));
    assert_true(warned("\"margin_ms\": 400", "\"margin_ms\": 120", "timing.margin_ms"));
    assert_true(warned("\"decision_ms\": 3000", "\"decision_ms\": 900", "timing.decision_ms"));
    assert_true(warned("\"0640\"", "\"0666\"", "volumes[0].socket.mode"));
    assert_true(warned("\"/dev/vg/logs\"", "\"iscsi://10.3.0.9:3260/other/1\"", "volumes[1]"));
}

static void automatic_takeover_without_waypoint_is_named(void **state)
{
    CLEANUP_FREE char *text = config_changed(config_sample, "[\"192.0.2.254\"]", "[]");
    CLEANUP_FREE char *both = config_changed(text, "\"manual\"", "\"auto\"");
    struct heard heard = {0};
    struct pair_config *c = parse(both);
    pair_config_warnings(c, NULL, hear, &heard);
    pair_config_free(c);
    assert_true(heard.count > 0);
    assert_string_equal(heard.fields[0], "waypoints");
}

static void both_ends_on_one_machine_and_disk_are_named(void **state)
{
    char a[300], b[300];
    put("a.img", "a");
    put("b.img", "b");
    snprintf(a, sizeof(a), "%s/a.img", dir);
    snprintf(b, sizeof(b), "%s/b.img", dir);
    CLEANUP_FREE char *one = config_changed(config_sample, "\"beta\"", "\"alpha\"");
    CLEANUP_FREE char *two = config_changed(one, "/srv/web.img", a);
    CLEANUP_FREE char *three = config_changed(two, "/srv/web.img", b);
    struct heard heard = {0};
    struct pair_config *c = parse(three);
    pair_config_warnings(c, "alpha", hear, &heard);
    pair_config_free(c);
    assert_true(heard.count > 2);
    assert_string_equal(heard.fields[0], "ends.secondary.host");
    assert_string_equal(heard.fields[1], "volumes[0]");
    drop("a.img");
    drop("b.img");
}

static void places_are_the_contract(void **state)
{
    char path[PLACES_SOCKET_MAX];
    assert_int_equal(places_state(path, sizeof(path), PLACES_STATE_DIR, "web", PAIR_SECONDARY), 0);
    assert_string_equal(path, "/var/lib/understudy/web/secondary");
    assert_int_equal(places_runtime(path, sizeof(path), PLACES_RUNTIME_DIR, "web", PAIR_PRIMARY),
                     0);
    assert_string_equal(path, "/run/understudy/web/primary");
    assert_int_equal(places_export(path, sizeof(path), PLACES_RUNTIME_DIR, "web", "disk"), 0);
    assert_string_equal(path, "/run/understudy/web/disk.nbd");
    assert_int_equal(places_control(path, sizeof(path), PLACES_RUNTIME_DIR, PAIR_PRIMARY), 0);
    assert_string_equal(path, "/run/understudy/primaryd.sock");
    char deep[200], big[300];
    memset(deep, 'd', sizeof(deep));
    deep[0] = '/';
    deep[150] = '\0';
    assert_int_equal(places_export(big, sizeof(big), deep, "web", "disk"), -ENAMETOOLONG);
}

static int setup(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    drop("web.json");
    drop("mail.json");
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(digest_names_what_must_agree),
        cmocka_unit_test(digest_leaves_out_what_an_end_settles_itself),
        cmocka_unit_test(directory_gives_its_pairs_in_order),
        cmocka_unit_test(neighbours_that_clash_are_refused),
        cmocka_unit_test(a_single_file_and_a_missing_one),
        cmocka_unit_test(a_careful_file_is_not_warned_about),
        cmocka_unit_test(dangers_are_named),
        cmocka_unit_test(automatic_takeover_without_waypoint_is_named),
        cmocka_unit_test(both_ends_on_one_machine_and_disk_are_named),
        cmocka_unit_test(places_are_the_contract),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
