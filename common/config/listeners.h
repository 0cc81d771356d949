// SPDX-License-Identifier: Apache-2.0
// What the ends of a pair listen at, for finding two that want the same. Private to common/config.
#ifndef CONFIG_LISTENERS_H
#define CONFIG_LISTENERS_H

#include "common/config/pair.h"

struct listener {
    const char *host; // the machine
    const char *address;
    uint32_t port;
    enum pair_end end;
    char field[64]; // where it stands in the file
};
#define LISTENERS_MAX (2 * (2 * PAIR_PATHS_MAX + 3))

struct listeners {
    struct listener items[LISTENERS_MAX];
    size_t count;
};

void listeners_of(const struct pair_config *config, struct listeners *ret_list);
bool listener_same(const struct listener *a, const struct listener *b);

#endif
