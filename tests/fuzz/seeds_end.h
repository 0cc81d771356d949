// SPDX-License-Identifier: Apache-2.0
// The part of seeds.c that knows the messages between the ends: the channel has a struct frame of
// its own.
#ifndef TESTS_FUZZ_SEEDS_END_H
#define TESTS_FUZZ_SEEDS_END_H

#include <stddef.h>

void seeds_end(void (*put)(const char *target, const char *name, const void *data, size_t size));

#endif
