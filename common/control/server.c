// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/control/control.h"
#include "common/control/link.h"
#include "common/control/listen.h"
#include "common/control/message.h"

struct control_server {
    struct control_listener *listener;
    char *path;
    dev_t device; // of the socket we made, so that only that one is removed
    ino_t inode;
    control_handler handler;
    control_report report;
    void *user;
};

// A socket without a listener is what a killed daemon leaves behind.
static int clear_stale(const char *path, struct error *err)
{
    struct stat st;
    if (lstat(path, &st) < 0)
        return errno == ENOENT ? 0 : error_sys(err, -errno, "%s", path);
    if (!S_ISSOCK(st.st_mode))
        return error_set(err, -EEXIST, "%s: is not a socket; move it away", path);
    int r = control_link_probe(path);
    if (r == 0)
        return error_set(err, -EADDRINUSE, "%s: another daemon answers there", path);
    if (r != -ECONNREFUSED)
        return error_sys(err, r, "%s: cannot tell whether a daemon answers there", path);
    if (unlink(path) < 0)
        return error_sys(err, -errno, "%s: cannot remove what a former daemon left", path);
    return 0;
}

// So that the error names the directory.
static int check_directory(const char *path, struct error *err)
{
    char directory[PATH_SIZE];
    const char *slash = strrchr(path, '/');
    int length = slash ? MAX((int)(slash - path), 1) : 1;
    int r = path_format(directory, sizeof(directory), "%.*s", length, slash ? path : ".");
    if (r == 0 && access(directory, W_OK | X_OK) < 0)
        r = -errno;
    return r < 0 ? error_sys(err, r, "%s: cannot make the socket in %s", path, directory) : 0;
}

static void take_message(void *user, const char *message, size_t size);
static void take_drop(void *user, const char *why);

static const struct control_listener_ops listener_ops = {.message = take_message,
                                                         .dropped = take_drop};

// The file must at no moment be open to more than it is meant for.
static int listen_privately(struct control_server *server, struct error *err)
{
    mode_t old = umask(0117);
    int r = control_listener_open(server->path, &listener_ops, server, &server->listener, err);
    (void)umask(old);
    if (r < 0)
        return r;
    struct stat st;
    if (chmod(server->path, 0660) < 0 || lstat(server->path, &st) < 0)
        return error_sys(err, -errno, "%s: cannot set its permissions", server->path);
    server->device = st.st_dev;
    server->inode = st.st_ino;
    return 0;
}

int control_server_open(const char *path, control_handler handler, control_report report,
                        void *user, struct control_server **ret_server, struct error *err)
{
    int r = clear_stale(path, err);
    if (r == 0)
        r = check_directory(path, err);
    if (r < 0)
        return r;
    struct control_server *server = calloc(1, sizeof(*server));
    if (!server)
        return error_set(err, -ENOMEM, "%s: out of memory", path);
    *server = (struct control_server){
        .path = strdup(path), .handler = handler, .report = report, .user = user};
    r = server->path ? listen_privately(server, err)
                     : error_set(err, -ENOMEM, "%s: out of memory", path);
    if (r < 0) {
        control_server_free(server);
        return r;
    }
    *ret_server = server;
    return 0;
}

int control_server_fd(const struct control_server *server)
{
    return control_listener_fd(server->listener);
}

static void report(struct control_server *server, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
static void report(struct control_server *server, const char *format, ...)
{
    char text[512];
    if (!server->report)
        return;
    va_list args;
    va_start(args, format);
    (void)vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    server->report(server->user, text);
}

static void send_reply(struct control_server *server, const struct control_reply *reply)
{
    CLEANUP_FREE char *text = message_from_reply(reply);
    int r = text ? control_listener_reply(server->listener, text, strlen(text)) : -ENOMEM;
    if (r < 0)
        report(server, "%s: a reply could not be sent: %s", server->path, strerror(-r));
    if (r != -EMSGSIZE)
        return;
    struct control_reply small = {0};
    (void)control_reply_refuse(&small, r, "the answer is larger than %d bytes; name one pair",
                               CONTROL_MESSAGE_MAX);
    CLEANUP_FREE char *refusal = message_from_reply(&small);
    if (refusal)
        (void)control_listener_reply(server->listener, refusal, strlen(refusal));
}

static void take_message(void *user, const char *message, size_t size)
{
    struct control_server *server = user;
    struct control_request request;
    struct control_reply reply = {0};
    struct error err = {0};
    int r = message_to_request(message, size, &request, &err);
    if (r < 0) {
        report(server, "%s: a message of %zu bytes is refused: %s", server->path, size, err.text);
        (void)control_reply_refuse(&reply, r, "this is no request: %s", err.text);
    } else {
        server->handler(server->user, &request, &reply);
    }
    send_reply(server, &reply);
    control_reply_done(&reply);
}

static void take_drop(void *user, const char *why)
{
    struct control_server *server = user;
    report(server, "%s: a client was dropped: %s", server->path, why);
}

void control_server_work(struct control_server *server)
{
    control_listener_work(server->listener);
}

struct control_server *control_server_free(struct control_server *server)
{
    if (!server)
        return NULL;
    struct stat st;
    if (server->listener) {
        control_listener_free(server->listener);
        if (server->inode && lstat(server->path, &st) == 0 && st.st_ino == server->inode &&
            st.st_dev == server->device)
            (void)unlink(server->path);
    }
    free(server->path);
    free(server);
    return NULL;
}
