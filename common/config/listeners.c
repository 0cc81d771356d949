// SPDX-License-Identifier: Apache-2.0
#include "common/config/listeners.h"

#include <stdio.h>
#include <string.h>

static void add(struct listeners *list, const struct pair_config *config, enum pair_end end,
                const char *address, uint32_t port, const char *field)
{
    ENSURE(list->count < LISTENERS_MAX);
    struct listener *l = &list->items[list->count++];
    l->host = pair_config_end(config, end)->host;
    l->address = address;
    l->port = port;
    l->end = end;
    (void)snprintf(l->field, sizeof(l->field), "%s", field);
}

static void add_end(struct listeners *list, const struct pair_config *config, enum pair_end end)
{
    const struct pair_channel_config *channel = &config->channel;
    for (size_t i = 0; i < channel->path_count; i++) {
        const struct pair_path_config *path = &channel->paths[i];
        char field[64];
        (void)snprintf(field, sizeof(field), "channel.paths[%zu].port", i);
        add(list, config, end, pair_path_address(path, end), path->port, field);
        add(list, config, end, pair_path_address(path, end), path->port + 1, field);
    }
    const char *management = pair_config_end(config, end)->management;
    if (!management)
        return;
    add(list, config, end, management, channel->public_port, "channel.public_port");
    add(list, config, end, management, channel->public_port + 1, "channel.public_port");
    add(list, config, end, management, channel->management_port, "channel.management_port");
}

void listeners_of(const struct pair_config *config, struct listeners *ret_list)
{
    ret_list->count = 0;
    add_end(ret_list, config, PAIR_PRIMARY);
    add_end(ret_list, config, PAIR_SECONDARY);
}

bool listener_same(const struct listener *a, const struct listener *b)
{
    return a->port == b->port && strcmp(a->host, b->host) == 0 &&
           strcmp(a->address, b->address) == 0;
}
