// SPDX-License-Identifier: Apache-2.0
// Requests and replies as bytes. Private to common/control.
#ifndef CONTROL_MESSAGE_H
#define CONTROL_MESSAGE_H

#include "common/control/control.h"

// malloc'ed, zero-terminated text, or NULL when there is no memory or `json` of the reply is not
// JSON.
char *message_from_request(const struct control_request *request);
char *message_from_reply(const struct control_reply *reply);

// -EBADMSG with the reason when the bytes are no message of this protocol; -EPROTONOSUPPORT for
// another version.
int message_to_request(const char *text, size_t size, struct control_request *ret_request,
                       struct error *err);
int message_to_reply(const char *text, size_t size, struct control_reply *ret_reply,
                     struct error *err);

#endif
