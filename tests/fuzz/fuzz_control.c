// SPDX-License-Identifier: Apache-2.0
// Requests and replies of the control socket.
#include "common/control/json.h"
#include "common/control/message.h"
#include "fuzz.h"

static void look_at_request(const uint8_t *data, size_t size)
{
    static struct control_request request, again;
    struct error err = {0};
    int r = message_to_request((const char *)data, size, &request, &err);
    ENSURE(r == 0 || err.text[0]);
    if (r < 0)
        return;
    ENSURE(request.arg_count <= CONTROL_ARGS_MAX && request.command[0]);
    (void)control_request_flag(&request, "force");
    while (control_request_add(&request, "name", "value") == 0)
        ;
    CLEANUP_FREE char *text = message_from_request(&request);
    ENSURE(text);
    ENSURE(message_to_request(text, strlen(text), &again, &err) == 0);
    ENSURE(again.arg_count == CONTROL_ARGS_MAX);
}

static void look_at_reply(const uint8_t *data, size_t size)
{
    static struct control_reply reply, again;
    struct error err = {0};
    int r = message_to_reply((const char *)data, size, &reply, &err);
    ENSURE(r == 0 || err.text[0]);
    if (r < 0)
        return;
    CLEANUP_FREE char *text = message_from_reply(&reply);
    ENSURE(text);
    ENSURE(message_to_reply(text, strlen(text), &again, &err) == 0);
    ENSURE(again.code ==
           reply.code); // the body may differ: a number beyond a double's range is null
    (void)control_reply_text(&again, "%s", reply.text);
    (void)control_reply_json(&again, strdup("{}"));
    (void)control_reply_refuse(&again, -1, "%s", reply.text);
    control_reply_done(&again);
    control_reply_done(&reply);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > CONTROL_MESSAGE_MAX)
        return 0;
    look_at_request(data, size);
    look_at_reply(data, size);
    return 0;
}
