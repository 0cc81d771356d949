// SPDX-License-Identifier: Apache-2.0
// common/control: requests reach the handler and replies come back; whatever else arrives at the
// socket is refused with a reason, and the server goes on; a socket that was left behind is
// replaced, a live one is not.
#include <errno.h>
#include <nanomsg/nn.h>
#include <nanomsg/reqrep.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/control/control.h"

static char dir[] = "/tmp/test_control_XXXXXX";
static char path[64];

// A server in a thread of its own; the counters are written there and read here after the answer.
struct daemon {
    struct control_server *server;
    pthread_t thread;
    atomic_bool stop;
    atomic_int handled;
    atomic_int reported;
    char last_report[512];
};

static void handle(void *user, const struct control_request *request, struct control_reply *reply)
{
    struct daemon *d = user;
    atomic_fetch_add(&d->handled, 1);
    if (strcmp(request->command, "status") == 0)
        (void)control_reply_json(reply, strdup("{\"pair\":\"web\",\"big\":1234567890123456}"));
    else if (strcmp(request->command, "spoiled") == 0)
        (void)control_reply_json(reply, strdup("{not json"));
    else if (strcmp(request->command, "huge") == 0) {
        char *json = malloc(CONTROL_MESSAGE_MAX + 3);
        memset(json, 'x', CONTROL_MESSAGE_MAX + 2);
        json[0] = json[CONTROL_MESSAGE_MAX + 1] = '"';
        json[CONTROL_MESSAGE_MAX + 2] = '\0';
        (void)control_reply_json(reply, json);
    } else if (strcmp(request->command, "switch") == 0) {
        reply->operation = 7;
        (void)control_reply_text(reply, "started for %s, force %d, keep %s", request->pair,
                                 control_request_flag(request, "force"),
                                 control_request_arg(request, "keep"));
    } else {
        (void)control_reply_refuse(reply, -ENOSYS, "no command \"%s\"", request->command);
    }
}

static void reported(void *user, const char *text)
{
    struct daemon *d = user;
    snprintf(d->last_report, sizeof(d->last_report), "%s", text);
    atomic_fetch_add(&d->reported, 1);
}

static void *serve(void *user)
{
    struct daemon *d = user;
    while (!atomic_load(&d->stop)) {
        struct pollfd p = {.fd = control_server_fd(d->server), .events = POLLIN};
        if (poll(&p, 1, 50) > 0)
            control_server_work(d->server);
    }
    return NULL;
}

static void start(struct daemon *d)
{
    struct error err = {0};
    *d = (struct daemon){0};
    if (control_server_open(path, handle, reported, d, &d->server, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(pthread_create(&d->thread, NULL, serve, d), 0);
}

static void stop(struct daemon *d)
{
    atomic_store(&d->stop, true);
    pthread_join(d->thread, NULL);
    d->server = control_server_free(d->server);
}

static int call(const char *command, struct control_reply *reply, struct error *err)
{
    struct control_request request = {0};
    snprintf(request.command, sizeof(request.command), "%s", command);
    snprintf(request.pair, sizeof(request.pair), "web");
    assert_int_equal(control_request_add(&request, "force", "true"), 0);
    assert_int_equal(control_request_add(&request, "keep", "primary"), 0);
    return control_call(path, &request, 5000, reply, err);
}

static void requests_are_answered(void **state)
{
    struct daemon d;
    struct control_reply reply = {0};
    struct error err = {0};
    start(&d);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0660);

    assert_int_equal(call("switch", &reply, &err), 0);
    assert_int_equal(reply.code, 0);
    assert_int_equal(reply.operation, 7);
    assert_string_equal(reply.text, "started for web, force 1, keep primary");
    assert_null(reply.json);

    assert_int_equal(call("status", &reply, &err), 0);
    assert_string_equal(reply.json, "{\"pair\":\"web\",\"big\":1234567890123456}");
    control_reply_done(&reply);

    assert_int_equal(call("dance", &reply, &err), 0);
    assert_int_equal(reply.code, -ENOSYS);
    assert_string_equal(reply.text, "no command \"dance\"");
    stop(&d);
    assert_int_equal(access(path, F_OK), -1);
}

static void an_answer_that_is_too_large_is_a_refusal(void **state)
{
    struct daemon d;
    struct control_reply reply = {0};
    struct error err = {0};
    start(&d);
    assert_int_equal(call("huge", &reply, &err), 0);
    assert_int_equal(reply.code, -EMSGSIZE);
    assert_null(reply.json);
    stop(&d);
}

// Sends bytes as one message of the right transport and returns the server's answer, or "" without
// one.
static void exchange(const char *bytes, size_t size, char *answer, size_t limit)
{
    char address[80];
    int timeout = 5000;
    snprintf(address, sizeof(address), "ipc://%s", path);
    int link = nn_socket(AF_SP, NN_REQ);
    assert_true(link >= 0);
    nn_setsockopt(link, NN_SOL_SOCKET, NN_RCVTIMEO, &timeout, sizeof(timeout));
    assert_true(nn_connect(link, address) >= 0);
    assert_int_equal(nn_send(link, bytes, size, 0), (int)size);
    int n = nn_recv(link, answer, limit - 1, 0);
    answer[n > 0 ? n : 0] = '\0';
    nn_close(link);
}

static void messages_that_are_no_requests_are_refused(void **state)
{
    static const struct {
        const char *text, *says;
    } rows[] = {
        {"", "not JSON"},
        {"hello", "not JSON"},
        {"[]", "not an object"},
        {"{}", "control protocol 0"},
        {"{\"protocol\":99,\"command\":\"status\"}", "control protocol 99"},
        {"{\"protocol\":1}", "\\\"command\\\": missing"},
        {"{\"protocol\":1,\"command\":7}", "\\\"command\\\": not a text"},
        {"{\"protocol\":-1,\"command\":\"status\"}", "not a whole number"},
        {"{\"protocol\":1e99,\"command\":\"status\"}", "not a whole number"},
        {"{\"protocol\":1,\"command\":\"a2345678901234567890123456789012\"}", "too long"},
        {"{\"protocol\":1,\"command\":\"status\",\"args\":{}}", "not a list"},
        {"{\"protocol\":1,\"command\":\"status\",\"args\":[1]}", "not an object"},
        {"{\"protocol\":1,\"command\":\"status\",\"args\":[{},{},{},{},{},{},{},{},{}]}",
         "too long"},
    };
    struct daemon d;
    start(&d);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char answer[2048];
        exchange(rows[i].text, strlen(rows[i].text), answer, sizeof(answer));
        if (!strstr(answer, rows[i].says) || !strstr(answer, "\"code\":-"))
            fail_msg("row %zu: \"%s\" lacks \"%s\"", i, answer, rows[i].says);
        assert_int_equal(atomic_load(&d.reported), (int)i + 1);
        assert_non_null(strstr(d.last_report, "is refused: "));
    }
    assert_int_equal(atomic_load(&d.handled), 0);
    struct control_reply reply = {0};
    struct error err = {0};
    assert_int_equal(call("switch", &reply, &err), 0);
    stop(&d);
}

static int raw_connection(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

// Bytes that are not even messages: other protocols, silence, a frame that claims 2^62 bytes, more
// clients than there is room for.
static void garbage_on_the_socket_does_not_stop_it(void **state)
{
    static const char http[] = "GET / HTTP/1.0\r\n\r\n";
    static const unsigned char frame[] = {
        0, 'S',  'P', 0, 0, 0x30, 0, 0, // a client of our protocol says hello
        1, 0x40, 0,   0, 0, 0,    0, 0, 0, 1, 2, 3, 4};
    // Each of these breaks the mapping in another way; the first has ended the process once.
    static const unsigned char broken[][17] = {
        {0, 'S', 'P', 0, 0, 0x30, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 4},
        {0, 'S', 'P', 0, 0, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3},
        {0, 'S', 'P', 0, 0, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 0x10, 0, 5},
        {0, 'S', 'P', 1, 0, 0x30, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4},
        {0, 'S', 'P', 0, 0, 0x50, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4}};
    struct daemon d;
    start(&d);
    for (size_t i = 0; i < ARRAY_LEN(broken); i++) {
        char rest;
        int fd = raw_connection();
        assert_int_equal(write(fd, broken[i], sizeof(broken[i])), sizeof(broken[i]));
        while (read(fd, &rest, 1) > 0) // until it is dropped
            ;
        close(fd);
    }
    int silent = raw_connection();
    for (int i = 0; i < 100; i++)
        close(raw_connection());
    int rude = raw_connection();
    (void)!write(rude, http, strlen(http));
    int greedy = raw_connection();
    (void)!write(greedy, frame, sizeof(frame));
    char big[2048] = "";
    struct control_reply reply = {0};
    struct error err = {0};
    assert_int_equal(call("switch", &reply, &err), 0);
    close(rude);
    close(greedy);
    close(silent);
    exchange("x", 1, big, sizeof(big));
    assert_non_null(strstr(big, "not JSON"));
    assert_int_equal(call("switch", &reply, &err), 0);
    assert_int_equal(reply.code, 0);
    stop(&d);
}

static void a_stale_socket_is_replaced_and_a_live_one_is_not(void **state)
{
    struct error err = {0};
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    close(fd); // as after kill -9

    struct control_reply reply = {0};
    assert_int_equal(call("status", &reply, &err), -ECONNREFUSED);
    assert_non_null(strstr(err.text, "not running"));

    struct daemon d;
    start(&d);
    struct control_server *second = NULL;
    assert_int_equal(control_server_open(path, handle, reported, &d, &second, &err), -EADDRINUSE);
    assert_null(second);
    assert_int_equal(call("switch", &reply, &err), 0);
    stop(&d);
    assert_int_equal(call("switch", &reply, &err), -ENOENT);
}

static void what_is_not_a_socket_is_left_alone(void **state)
{
    struct error err = {0};
    struct control_server *server = NULL;
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fclose(f);
    assert_int_equal(control_server_open(path, handle, reported, NULL, &server, &err), -EEXIST);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(
        control_server_open("/nonexistent/x.sock", handle, reported, NULL, &server, &err), -ENOENT);
}

// A daemon that accepts but never answers: the client gives up.
static void a_client_does_not_wait_for_ever(void **state)
{
    struct error err = {0};
    struct control_server *server = NULL;
    assert_int_equal(control_server_open(path, handle, reported, NULL, &server, &err), 0);
    struct control_request request = {.command = "status"};
    struct control_reply reply = {0};
    assert_int_equal(control_call(path, &request, 50, &reply, &err), -ETIMEDOUT);
    control_server_free(server);
}

static void arguments_have_their_limits(void **state)
{
    struct control_request request = {0};
    char longest[400];
    memset(longest, 'x', sizeof(longest) - 1);
    longest[sizeof(longest) - 1] = '\0';
    assert_int_equal(control_request_add(&request, "name", longest), -E2BIG);
    for (int i = 0; i < CONTROL_ARGS_MAX; i++)
        assert_int_equal(control_request_add(&request, "name", "value"), 0);
    assert_int_equal(control_request_add(&request, "name", "value"), -E2BIG);
    assert_null(control_request_arg(&request, "other"));
    assert_false(control_request_flag(&request, "name"));
}

static int setup(void **state)
{
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/primaryd.sock", dir);
    return 0;
}

static int teardown(void **state)
{
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_answered),
        cmocka_unit_test(an_answer_that_is_too_large_is_a_refusal),
        cmocka_unit_test(messages_that_are_no_requests_are_refused),
        cmocka_unit_test(garbage_on_the_socket_does_not_stop_it),
        cmocka_unit_test(a_stale_socket_is_replaced_and_a_live_one_is_not),
        cmocka_unit_test(what_is_not_a_socket_is_left_alone),
        cmocka_unit_test(a_client_does_not_wait_for_ever),
        cmocka_unit_test(arguments_have_their_limits),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
