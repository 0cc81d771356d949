// SPDX-License-Identifier: Apache-2.0
#include "common/control/message.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/cleanup.h"
#include "common/control/json.h"

// What stands around both kinds of message.
struct wire_request {
    uint32_t protocol;
    struct control_request request;
};
struct wire_reply {
    uint32_t protocol;
    struct control_reply reply;
};

#define TEXT(type, m, name)                                                                        \
    {                                                                                              \
        name, JSON_TEXT, .offset = offsetof(type, m), .size = sizeof(((type *)0)->m)               \
    }
#define TABLE(name) static const struct json_table name = {name##_fields, ARRAY_LEN(name##_fields)}

static const struct json_field arg_fields[] = {
    TEXT(struct control_arg, name, "name"),
    TEXT(struct control_arg, value, "value"),
};
TABLE(arg);

#define REQUEST(m) offsetof(struct wire_request, m)
static const struct json_field request_fields[] = {
    {"protocol", JSON_U32, .offset = REQUEST(protocol)},
    TEXT(struct wire_request, request.pair, "pair"),
    TEXT(struct wire_request, request.command, "command"),
    {"args", JSON_OBJECTS, .offset = REQUEST(request.args), .size = sizeof(struct control_arg),
     .count_offset = REQUEST(request.arg_count), .max = CONTROL_ARGS_MAX, .table = &arg},
};
TABLE(request);

#define REPLY(m) offsetof(struct wire_reply, m)
static const struct json_field reply_fields[] = {
    {"protocol", JSON_U32, .offset = REPLY(protocol)},
    {"code", JSON_I32, .offset = REPLY(reply.code)},
    TEXT(struct wire_reply, reply.text, "text"),
    {"operation", JSON_U64, .offset = REPLY(reply.operation)},
    {"body", JSON_RAW, .offset = REPLY(reply.json)},
};
TABLE(reply);

char *message_from_request(const struct control_request *r)
{
    struct wire_request wire = {CONTROL_PROTOCOL, *r};
    return json_encode(&request, &wire, false);
}

char *message_from_reply(const struct control_reply *r)
{
    struct wire_reply wire = {CONTROL_PROTOCOL, *r};
    return json_encode(&reply, &wire, false);
}

static int check_protocol(uint32_t protocol, struct error *err)
{
    if (protocol == CONTROL_PROTOCOL)
        return 0;
    return error_set(err, -EPROTONOSUPPORT,
                     "control protocol %u, but this program speaks %d; daemon and pairctl have to "
                     "be of one version",
                     protocol, CONTROL_PROTOCOL);
}

int message_to_request(const char *text, size_t size, struct control_request *ret_request,
                       struct error *err)
{
    struct wire_request wire = {0};
    int r = json_decode(&request, text, size, JSON_STRICT, &wire, err);
    if (r == 0)
        r = check_protocol(wire.protocol, err);
    if (r == 0 && !wire.request.command[0])
        r = error_set(err, -EBADMSG, "field \"command\": missing or empty");
    if (r == 0)
        *ret_request = wire.request;
    return r;
}

int message_to_reply(const char *text, size_t size, struct control_reply *ret_reply,
                     struct error *err)
{
    struct wire_reply wire = {0};
    int r = json_decode(&reply, text, size, JSON_LENIENT, &wire, err);
    if (r == 0)
        r = check_protocol(wire.protocol, err);
    if (r < 0) {
        free(wire.reply.json);
        return r;
    }
    *ret_reply = wire.reply;
    return 0;
}

const char *control_request_arg(const struct control_request *r, const char *name)
{
    for (size_t i = 0; i < r->arg_count; i++) {
        if (strcmp(r->args[i].name, name) == 0)
            return r->args[i].value;
    }
    return NULL;
}

bool control_request_flag(const struct control_request *r, const char *name)
{
    const char *value = control_request_arg(r, name);
    return value && strcmp(value, "true") == 0;
}

int control_request_add(struct control_request *r, const char *name, const char *value)
{
    if (r->arg_count == CONTROL_ARGS_MAX || strlen(name) >= sizeof(r->args[0].name) ||
        strlen(value) >= sizeof(r->args[0].value))
        return -E2BIG;
    struct control_arg *to = &r->args[r->arg_count++];
    (void)snprintf(to->name, sizeof(to->name), "%s", name);
    (void)snprintf(to->value, sizeof(to->value), "%s", value);
    return 0;
}

int control_reply_refuse(struct control_reply *r, int code, const char *format, ...)
{
    ENSURE(code < 0);
    va_list args;
    va_start(args, format);
    (void)vsnprintf(r->text, sizeof(r->text), format, args);
    va_end(args);
    r->code = code;
    return code;
}

int control_reply_text(struct control_reply *r, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    (void)vsnprintf(r->text, sizeof(r->text), format, args);
    va_end(args);
    return 0;
}

int control_reply_json(struct control_reply *r, char *json)
{
    if (!json)
        return control_reply_refuse(r, -ENOMEM, "out of memory");
    free(r->json);
    r->json = json;
    return 0;
}

void control_reply_done(struct control_reply *r)
{
    free(r->json);
    r->json = NULL;
}
