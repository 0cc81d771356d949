// SPDX-License-Identifier: Apache-2.0
// What the table of fields cannot say: how the fields of a pair, and several pairs, fit together.
// Private to common/config.
#ifndef CONFIG_CHECK_H
#define CONFIG_CHECK_H

#include "common/config/pair.h"

// Returns -EINVAL with the first thing that does not fit.
int check_pair(const struct pair_config *config, struct error *err);
// Two pairs that a daemon, or the two daemons of a machine, would run side by side.
int check_neighbours(const struct pair_config *a, const struct pair_config *b, struct error *err);

#endif
