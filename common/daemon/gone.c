// SPDX-License-Identifier: Apache-2.0
#include "common/daemon/gone.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/address/claims.h"
#include "common/base/aside.h"
#include "common/base/file.h"
#include "common/base/log.h"

struct gone {
    const struct pair_config_list *pairs;
    enum pair_end kind;
    const char *host;
    char path[PATH_SIZE];
    struct aside *aside;
};

// An owner is PAIR/KIND.
static bool is_gone(void *user, const char *owner)
{
    const struct gone *g = user;
    const char *slash = strchr(owner, '/');
    if (!slash || strcmp(slash + 1, pair_end_name(g->kind)) != 0)
        return false;
    for (size_t i = 0; i < g->pairs->count; i++) {
        const struct pair_config *pair = g->pairs->items[i];
        bool same = strlen(pair->pair) == (size_t)(slash - owner) && memcmp(pair->pair, owner, strlen(pair->pair)) == 0;
        if (same && strcmp(pair_config_end(pair, g->kind)->host, g->host) == 0)
            return false;
    }
    log_warning("pair %.*s: no pair file has its %s end on %s any more: its public address is taken off",
                (int)(slash - owner), owner, slash + 1, g->host);
    return true;
}

static void take_off(void *arg)
{
    struct gone *g = arg;
    struct error err = {0};
    if (claims_leave_gone(g->path, is_gone, g, &err) < 0)
        log_warning("a public address of a pair that is gone may stay on: %s", err.text);
}

int gone_start(const struct pair_config_list *pairs, enum pair_end kind, const char *host, const char *runtime_dir,
               struct gone **ret_gone)
{
    struct gone *g = calloc(1, sizeof(*g));
    if (!g)
        return -ENOMEM;
    *g = (struct gone){.pairs = pairs, .kind = kind, .host = host};
    int r = claims_path(g->path, sizeof(g->path), runtime_dir);
    if (r == 0)
        r = aside_new("gone", &g->aside);
    if (r < 0) {
        free(g);
        return r;
    }
    aside_start(g->aside, take_off, g);
    *ret_gone = g;
    return 0;
}

struct gone *gone_free(struct gone *g)
{
    if (g)
        (void)aside_free(g->aside); // waits for it
    free(g);
    return NULL;
}
