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
#include <stdbool.h>
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

#define PATIENCE_MS 120000 // the last guard against hanging; everything here takes milliseconds

static char dir[32];
static char path[64];

// A server in a thread of its own; the counters are written there and read here after the answer.
// Each test has its own, and its own directory: what a failed one leaves behind is taken away.
static struct daemon {
    struct control_server *server;
    pthread_t thread;
    bool serving;
    atomic_bool stop;
    atomic_int handled;
    atomic_int reported;
    char last_report[512];
} d;

static void handle(void *user, const struct control_request *request, struct control_reply *reply)
{
    struct daemon *to = user;
    atomic_fetch_add(&to->handled, 1);
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
    struct daemon *to = user;
    snprintf(to->last_report, sizeof(to->last_report), "%s", text);
    atomic_fetch_add(&to->reported, 1);
}

static void *serve(void *user)
{
    struct daemon *of = user;
    while (!atomic_load(&of->stop)) {
        struct pollfd p = {.fd = control_server_fd(of->server), .events = POLLIN};
        if (poll(&p, 1, 50) > 0)
            control_server_work(of->server);
    }
    return NULL;
}

static void start(void)
{
    struct error err = {0};
    if (control_server_open(path, handle, reported, &d, &d.server, &err) < 0)
        fail_msg("%s", err.text);
    assert_int_equal(pthread_create(&d.thread, NULL, serve, &d), 0);
    d.serving = true;
}

static void stop(void)
{
    if (d.serving) {
        atomic_store(&d.stop, true);
        pthread_join(d.thread, NULL);
    }
    d.server = control_server_free(d.server);
    d.serving = false;
}

static int call(const char *command, struct control_reply *reply, struct error *err)
{
    struct control_request request = {0};
    snprintf(request.command, sizeof(request.command), "%s", command);
    snprintf(request.pair, sizeof(request.pair), "web");
    assert_int_equal(control_request_add(&request, "force", "true"), 0);
    assert_int_equal(control_request_add(&request, "keep", "primary"), 0);
    return control_call(path, &request, PATIENCE_MS, reply, err);
}

static void requests_are_answered(void **state)
{
    struct control_reply reply = {0};
    struct error err = {0};
    start();
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
    stop();
    assert_int_equal(access(path, F_OK), -1);
}

static void an_answer_that_is_too_large_is_a_refusal(void **state)
{
    struct control_reply reply = {0};
    struct error err = {0};
    start();
    assert_int_equal(call("huge", &reply, &err), 0);
    assert_int_equal(reply.code, -EMSGSIZE);
    assert_null(reply.json);
    stop();
}

// Sends bytes as one message of the right transport and returns the server's answer, or "" without
// one.
static void exchange(const char *bytes, size_t size, char *answer, size_t limit)
{
    char address[80];
    int timeout = PATIENCE_MS;
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
    start();
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
    stop();
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
    start();
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
    stop();
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

    start();
    struct control_server *second = NULL;
    assert_int_equal(control_server_open(path, handle, reported, &d, &second, &err), -EADDRINUSE);
    assert_null(second);
    assert_int_equal(call("switch", &reply, &err), 0);
    stop();
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

// What a client sends: the greeting, the head of one message, the request's number, the request.
// The answer repeats the number.
static void answer_by_hand(int fd)
{
    static const char greeting[] = {0, 'S', 'P', 0, 0, 0x31, 0, 0};
    static const char text[] = "{\"protocol\":1,\"code\":0,\"text\":\"at last\"}";
    char in[8 + 9 + 4 + 4096], out[9 + 4 + sizeof(text) - 1] = {1};
    size_t have = 0, want = 8 + 9;
    assert_int_equal(write(fd, greeting, sizeof(greeting)), sizeof(greeting));
    while (have < want) {
        ssize_t n = read(fd, in + have, sizeof(in) - have);
        assert_true(n > 0);
        have += (size_t)n;
        if (have >= 8 + 9)
            want = 8 + 9 + (size_t)(unsigned char)in[15] * 256 + (unsigned char)in[16];
        assert_true(want <= sizeof(in));
    }
    out[8] = (char)(sizeof(out) - 9);
    memcpy(out + 9, in + 8 + 9, 4);
    memcpy(out + 9 + 4, text, sizeof(text) - 1);
    assert_int_equal(write(fd, out, sizeof(out)), sizeof(out));
}

struct caller {
    struct control_reply reply;
    struct error err;
    int result;
};

static void *call_in_thread(void *user)
{
    struct caller *c = user;
    c->result = call("status", &c->reply, &c->err);
    return NULL;
}

static int busy_daemon(int *fillers, size_t max, size_t *ret_count)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int listening = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(listening, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listening, 0), 0);
    size_t n = 0;
    for (;; n++) {
        assert_true(n < max);
        fillers[n] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect(fillers[n], (struct sockaddr *)&address, sizeof(address)) < 0)
            break;
    }
    assert_int_equal(errno, EAGAIN);
    *ret_count = n + 1;
    return listening;
}

// A daemon that has not accepted yet, with no room for one more client: the client comes again, and
// asks once.
static void a_daemon_with_a_full_backlog_is_waited_for(void **state)
{
    int fillers[64];
    size_t count = 0;
    struct caller c = {.result = 1};
    pthread_t thread;
    int listening = busy_daemon(fillers, ARRAY_LEN(fillers), &count);
    struct control_request request = {.command = "status"};
    assert_int_equal(control_call(path, &request, 50, &c.reply, &c.err), -ETIMEDOUT);
    assert_non_null(strstr(c.err.text, "nothing was asked"));

    assert_int_equal(pthread_create(&thread, NULL, call_in_thread, &c), 0);
    usleep(50000); // so that it usually finds the backlog full; nothing below depends on it
    for (size_t i = 0; i < count; i++)
        close(fillers[i]);
    for (bool answered = false; !answered;) {
        char byte;
        int fd = accept(listening, NULL, NULL);
        assert_true(fd >= 0);
        answered = recv(fd, &byte, 1, MSG_PEEK) == 1; // the others have gone
        if (answered) {
            answer_by_hand(fd);
            pthread_join(thread, NULL);
        }
        close(fd);
    }
    assert_int_equal(c.result, 0);
    assert_string_equal(c.reply.text, "at last");
    close(listening);
    assert_int_equal(unlink(path), 0);
}

// A daemon that accepts but never answers: the client gives up.
static void a_client_does_not_wait_for_ever(void **state)
{
    struct error err = {0};
    assert_int_equal(control_server_open(path, handle, reported, NULL, &d.server, &err), 0);
    struct control_request request = {.command = "status"};
    struct control_reply reply = {0};
    assert_int_equal(control_call(path, &request, 50, &reply, &err), -ETIMEDOUT);
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
    memset(&d, 0, sizeof(d));
    snprintf(dir, sizeof(dir), "/tmp/test_control_XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/primaryd.sock", dir);
    return 0;
}

static int teardown(void **state)
{
    stop();
    (void)unlink(path);
    return rmdir(dir);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(requests_are_answered),
        TEST(an_answer_that_is_too_large_is_a_refusal),
        TEST(messages_that_are_no_requests_are_refused),
        TEST(garbage_on_the_socket_does_not_stop_it),
        TEST(a_stale_socket_is_replaced_and_a_live_one_is_not),
        TEST(what_is_not_a_socket_is_left_alone),
        TEST(a_daemon_with_a_full_backlog_is_waited_for),
        TEST(a_client_does_not_wait_for_ever),
        TEST(arguments_have_their_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
