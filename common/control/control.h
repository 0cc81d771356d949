// SPDX-License-Identifier: Apache-2.0
// The control protocol between a daemon and pairctl: one JSON request, one JSON reply, over a unix
// socket (nanomsg REQ/REP). Every request is answered at once; what takes longer is started,
// answered with the number of an operation, and watched through the status.
//
// Bounds: a message has at most CONTROL_MESSAGE_MAX bytes. Whatever is not a request of this
// protocol is answered with an error where that is possible, reported through `report`, and
// otherwise changes nothing: the server goes on. The server belongs to the thread that calls
// control_server_work(); it has no threads of its own but nanomsg's.
#ifndef CONTROL_CONTROL_H
#define CONTROL_CONTROL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/error.h"

#define CONTROL_PROTOCOL    1
#define CONTROL_MESSAGE_MAX (1024 * 1024)
#define CONTROL_ARGS_MAX    8

struct control_arg {
    char name[32];
    char value[256]; // "true" for a flag that is set
};

struct control_request {
    char pair[33]; // empty: none named
    char command[32];
    struct control_arg args[CONTROL_ARGS_MAX];
    size_t arg_count;
};

// Text is one sentence for a person; json a whole JSON value as text (malloc'ed) or NULL; operation
// 0 when there is nothing to wait for.
struct control_reply {
    int code; // 0, or -errno: refused or failed, and text says why
    char text[1024];
    char *json;
    uint64_t operation;
};

// The value of an argument ("true" for a flag), or NULL when it was not given.
const char *control_request_arg(const struct control_request *request, const char *name);
bool control_request_flag(const struct control_request *request, const char *name);
// Returns -E2BIG when there is no room left.
int control_request_add(struct control_request *request, const char *name, const char *value);

// For handlers. The first sets the refusal and returns `code`; the others return 0.
int control_reply_refuse(struct control_reply *reply, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
int control_reply_text(struct control_reply *reply, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int control_reply_json(struct control_reply *reply,
                       char *json);                   // takes `json` over; NULL is -ENOMEM
void control_reply_done(struct control_reply *reply); // frees json; fit for an all-zero one

struct control_server;
// Fills the reply (which comes all-zero). Must not block. What it leaves untouched is "ok" without
// text.
typedef void (*control_handler)(void *user, const struct control_request *request,
                                struct control_reply *reply);
// Told about each message that was dropped or refused before it reached the handler; may be NULL.
typedef void (*control_report)(void *user, const char *text);

// Listens at the unix socket `path` (mode 0660, group as the process has it). A socket file that
// nobody listens at is replaced; one that answers is -EADDRINUSE. Sets the process' umask for a
// moment: call it before there are threads.
int control_server_open(const char *path, control_handler handler, control_report report,
                        void *user, struct control_server **ret_server, struct error *err);
int control_server_fd(const struct control_server *server); // readable: call control_server_work()
void control_server_work(struct control_server *server); // answers what has arrived; never blocks
struct control_server *
control_server_free(struct control_server *server); // removes the socket; returns NULL

// One request to the daemon at `path`; waits at most timeout_ms. Returns 0 whenever a reply came
// (look at ret_reply->code), -ENOENT or -ECONNREFUSED when no daemon listens there, -EACCES,
// -ETIMEDOUT, -EBADMSG. A request is sent once; it is never repeated to another run of the daemon.
int control_call(const char *path, const struct control_request *request, int timeout_ms,
                 struct control_reply *ret_reply, struct error *err);

#endif
