// SPDX-License-Identifier: Apache-2.0
// Two keys for a test program of the channel, in files of a directory of its own.
#ifndef TESTS_CHANNEL_KEYS_H
#define TESTS_CHANNEL_KEYS_H

#include "common/channel/channel.h"

#define KEYS_PATH_SIZE 128

// From keys_setup() to keys_teardown(), which are for a group of cmocka's. Their files are "key" and "other".
extern struct channel_key *key, *other_key;

int keys_setup(void **state);
// A file "bad" is removed, too.
int keys_teardown(void **state);
// Where a file of that name is, or would be.
void keys_path(const char *name, char ret_path[KEYS_PATH_SIZE]);

#endif
