// SPDX-License-Identifier: Apache-2.0
#include "tests/unit/channel_keys.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "common/base/cleanup.h"
#include "common/base/keyfile.h"

struct channel_key *key, *other_key;

static char dir[] = "/tmp/test_channel_XXXXXX";

void keys_path(const char *name, char ret_path[KEYS_PATH_SIZE])
{
    (void)snprintf(ret_path, KEYS_PATH_SIZE, "%s/%s", dir, name);
}

static struct channel_key *make_key(const char *name)
{
    char path[KEYS_PATH_SIZE];
    struct error err = {0};
    struct channel_key *k = NULL;
    keys_path(name, path);
    if (keyfile_generate(path, &err) < 0 || channel_key_load(path, &k, &err) < 0)
        fail_msg("%s", err.text);
    return k;
}

int keys_setup(void **state)
{
    assert_non_null(mkdtemp(dir));
    key = make_key("key");
    other_key = make_key("other");
    return 0;
}

int keys_teardown(void **state)
{
    static const char *const names[] = {"key", "other", "bad"};
    char path[KEYS_PATH_SIZE];
    channel_key_free(key);
    channel_key_free(other_key);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        keys_path(names[i], path);
        unlink(path);
    }
    return rmdir(dir);
}
