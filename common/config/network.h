// SPDX-License-Identifier: Apache-2.0
// Questions about addresses of a checked pair file. Private to common/config.
#ifndef CONFIG_NETWORK_H
#define CONFIG_NETWORK_H

#include <stdbool.h>

bool network_is_loopback(const char *address);
bool network_same_family(const char *a, const char *b);
bool network_holds(const char *network, const char *address); // "192.0.2.10/24" holds "192.0.2.1"
bool network_is_address(const char *network,
                        const char *address); // the part in front of the prefix
// "192.0.2.0/24": the network's own address, or its broadcast address, which no machine can have.
bool network_is_reserved(const char *network);

#endif
