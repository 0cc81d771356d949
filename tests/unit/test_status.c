// SPDX-License-Identifier: Apache-2.0
// common/control/status: the JSON of the outside contract, name by name; and back again.
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/control/status.h"

static void fill(struct pair_status *s)
{
    *s = (struct pair_status){
        .pair = "web",
        .identity = "secondary",
        .role = "passive",
        .state = "following",
        .why = "the Primary serves, and everything it wrote is here",
        .epoch = 3,
        .epoch_id = 0xfedcba9876543210,
        .mode = "sync",
        .takeover = "auto",
        .synchronized = true,
        .paired = true,
        .granted = true,
        .stale_ms = -1,
        .grant_left_ms = 3900,
        .session = 12,
        .run = 1,
        .uptime_ms = 1000,
        .host = "beta",
        .peer_host = "alpha",
        .peer = {.connected = true, .silent_ms = 40, .longest_silence_ms = 251, .timeout_ms = 2000, .role = "active"},
        .unsafe_queue = {0, 0, 0, 268435456},
        .safe_queue = {2, 8192, 5, UINT64_C(1) << 50},
        .positions = {100, 100, 99, 97, 90},
        .volumes = {{.name = "disk",
                     .size = UINT64_C(10) << 30,
                     .export = "/run/understudy/web/disk.nbd",
                     .synchronized = true,
                     .store = "/srv/web.img"}},
        .volume_count = 1,
        .public_address = {.interface = "eth0", .addresses = {"192.0.2.10/24"}, .address_count = 1},
        .applications = {{.name = "guest", .kind = "domain", .state = "stopped"}},
        .application_count = 1,
        .forecast = {4096, 12, 800},
        .paths = {{"1", "10.1.0.2:7400", "10.1.0.1:7400", true, true, 180}},
        .path_count = 1,
        .waypoints = {{"192.0.2.254", true, 20}},
        .waypoint_count = 1,
        .resync = {.left_ms = -1, .stalled_ms = -1},
        .verify = {.left_ms = -1, .equal_time_ms = 1700000000123, .equal_epoch = 3, .equal_epoch_id = 0xab,
                   .equal_seq = 77, .differing_bytes = 4096, .repair_waits = true,
                   .ranges = {{"disk", 8192, 4096}}, .range_count = 1},
        .divergence = {.known = true,
                       .primary = {{2, 0xabc, "primary", "alone", 77}},
                       .primary_count = 1,
                       .counted = true,
                       .regions = 3,
                       .bytes = 196608},
        .salvage = {true, false, 8388608, UINT64_C(4) << 30},
        .guard = {true, -1},
        .operation = {1, "switch", "done", "the peer is active"},
        .has_last_event = true,
        .last_event = {1700000000000, "takeover", 812, "took over", {true, 3, 4096, 12}, 1},
    };
}

static const char golden[] =
    "{\"pair\":\"web\",\"identity\":\"secondary\",\"role\":\"passive\",\"state\":\"following\","
    "\"why\":\"the Primary serves, and everything it wrote is here\",\"epoch\":3,"
    "\"epoch_id\":\"fedcba9876543210\",\"mode\":\"sync\",\"takeover\":\"auto\",\"synchronized\":"
    "true,"
    "\"alone\":false,\"paired\":true,\"granted\":true,\"paused\":false,\"split\":false,\"stale_ms\":null,"
    "\"grant_left_ms\":3900,\"session\":12,\"run\":\"0000000000000001\",\"uptime_ms\":1000,"
    "\"host\":\"beta\",\"peer_host\":\"alpha\",\"peer\":{\"connected\":true,\"silent_ms\":40,"
    "\"longest_silence_ms\":251,\"timeout_ms\":2000,\"role\":\"active\",\"refused\":\"\"},\"unsafe_queue\":{\"records\":0,"
    "\"bytes\":0,\"oldest_ms\":0,\"limit_bytes\":268435456,\"spilled_bytes\":0},\"safe_queue\":{\"records\":2,"
    "\"bytes\":8192,\"oldest_ms\":5,\"limit_bytes\":1125899906842624,\"spilled_bytes\":0},\"positions\":{"
    "\"numbered\":100,\"received\":100,\"durable\":99,\"applied\":97,\"settled\":90},\"volumes\":["
    "{\"name\":\"disk\",\"size\":10737418240,\"export\":\"/run/understudy/web/disk.nbd\","
    "\"serving\":false,\"synchronized\":true,\"out_of_sync_bytes\":0,\"store\":\"/srv/web.img\","
    "\"error\":\"\"}],\"public_address\":{\"enabled\":false,\"interface\":\"eth0\",\"addresses\":["
    "\"192.0.2.10/24\"]},\"applications\":[{\"name\":\"guest\",\"kind\":\"domain\",\"state\":"
    "\"stopped\",\"restarts\":0,\"text\":\"\"}],\"forecast\":{\"loss_bytes\":4096,\"loss_ms\":12,"
    "\"takeover_ms\":800},\"paths\":[{\"name\":\"1\",\"local\":\"10.1.0.2:7400\",\"remote\":"
    "\"10.1.0.1:7400\",\"up\":true,\"data\":true,\"rtt_us\":180}],\"waypoints\":[{\"address\":"
    "\"192.0.2.254\",\"answers\":true,\"silent_ms\":20}],\"resync\":{\"active\":false,\"paused\":"
    "false,\"volume\":\"\",\"kind\":\"\",\"done_bytes\":0,\"total_bytes\":0,\"rate\":0,\"left_ms\":"
    "null,\"stalled_ms\":null},\"verify\":{\"active\":false,\"done_bytes\":0,\"total_bytes\":0,\"rate\":0,\"left_ms\":null,"
    "\"equal_time_ms\":1700000000123,\"equal_epoch\":3,\"equal_epoch_id\":\"00000000000000ab\",\"equal_seq\":77,"
    "\"differing_bytes\":4096,\"repair_waits\":true,\"ranges\":[{\"volume\":\"disk\",\"offset\":8192,"
    "\"length\":4096}]}"
    ",\"divergence\":{\"primary\":[{\"number\":2,\"id\":\"0000000000000abc\",\"opened_by\":"
    "\"primary\",\"reason\":\"alone\",\"first_seq\":77}],\"secondary\":[],\"counted\":true,"
    "\"regions\":3,\"bytes\":196608},\"salvage\":{\"active\":true,\"full\":false,\"bytes\":8388608,"
    "\"limit_bytes\":4294967296},\"guard\":{\"alive\":true,\"deadline_ms\":null},\"operation\":{\"id\":1,\"name\":"
    "\"switch\",\"state\":\"done\",\"text\":\"the peer is active\",\"vetoes\":[],\"override\":\"\",\"age\":\"\",\"loss\":null},\"last_event\":{\"time_ms\":"
    "1700000000000,\"step\":\"takeover\",\"ms\":812,\"text\":\"took over\",\"loss\":{\"records\":3,"
    "\"bytes\":4096,\"age_ms\":12,\"more\":false},\"count\":1}}";

static void status_has_the_names_of_the_contract(void **state)
{
    CLEANUP_FREE struct pair_status *s = malloc(sizeof(*s));
    fill(s);
    CLEANUP_FREE char *json = status_to_json(s, false);
    assert_string_equal(json, golden);
}

static void status_comes_back_as_it_was(void **state)
{
    CLEANUP_FREE struct pair_status *s = malloc(sizeof(*s));
    CLEANUP_FREE struct pair_status *back = NULL;
    size_t count = 0;
    struct error err = {0};
    fill(s);
    const struct pair_status *const two[] = {s, s};
    CLEANUP_FREE char *json = status_list_to_json(two, 2, true);
    if (status_from_json(json, &back, &count, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(count, 2);
    CLEANUP_FREE char *again = status_to_json(&back[1], false);
    assert_string_equal(again, golden);
}

static void a_single_object_and_an_empty_list_are_read(void **state)
{
    struct pair_status *back = NULL;
    size_t count = 9;
    struct error err = {0};
    assert_int_equal(status_from_json("[]", &back, &count, &err), 0);
    assert_int_equal(count, 0);
    free(back);
    assert_int_equal(status_from_json("{\"pair\":\"p\",\"later\":[1,{}]}", &back, &count, &err), 0);
    assert_int_equal(count, 1);
    assert_string_equal(back->pair, "p");
    free(back);
    assert_int_equal(status_from_json("[{\"pair\":7}]", &back, &count, &err), -EBADMSG);
    assert_int_equal(status_from_json("[7]", &back, &count, &err), -EBADMSG);
    assert_int_equal(status_from_json("{", &back, &count, &err), -EBADMSG);
    assert_int_equal(status_from_json("[{\"epoch\":-1}]", &back, &count, &err), -EBADMSG);
}

// A text that was cut in the middle of a character, or never was text, must not spoil the whole
// answer.
static void bytes_that_are_no_text_are_replaced(void **state)
{
    CLEANUP_FREE struct pair_status *s = calloc(1, sizeof(*s));
    snprintf(s->why, sizeof(s->why), "gr\xc3\xbc\xc3 \xff\xf0\x9f\x98\x80 \"\n\xe2\x82");
    CLEANUP_FREE char *json = status_to_json(s, false);
    assert_non_null(strstr(json, "\"why\":\"gr\xc3\xbc? ?\xf0\x9f\x98\x80 \\\"\\n??\""));
}

static void history_goes_both_ways(void **state)
{
    const struct status_event events[] = {
        {1700000000000, "takeover", 812, "took over", {true, 3, 4096, 12}, 1},
        {1700000001000, "address on", -1, "", {0}, 7},
    };
    struct error err = {0};
    struct status_event *back = NULL;
    size_t count = 0;
    CLEANUP_FREE char *json = history_to_json(events, 2, false);
    assert_string_equal(json, "[{\"time_ms\":1700000000000,\"step\":\"takeover\",\"ms\":812,"
                              "\"text\":\"took over\",\"loss\":{\"records\":3,\"bytes\":4096,"
                              "\"age_ms\":12,\"more\":false},\"count\":1},{\"time_ms\":1700000001000,\"step\":\"address on\","
                              "\"ms\":null,\"text\":\"\",\"loss\":null,\"count\":7}]");
    assert_int_equal(history_from_json(json, &back, &count, &err), 0);
    assert_int_equal(count, 2);
    assert_true(back[0].loss.known);
    assert_int_equal(back[0].loss.bytes, 4096);
    assert_false(back[1].loss.known);
    assert_int_equal(back[1].ms, -1);
    free(back);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(status_has_the_names_of_the_contract),
        cmocka_unit_test(status_comes_back_as_it_was),
        cmocka_unit_test(a_single_object_and_an_empty_list_are_read),
        cmocka_unit_test(bytes_that_are_no_text_are_replaced),
        cmocka_unit_test(history_goes_both_ways),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
