// SPDX-License-Identifier: Apache-2.0
// Random numbers for identities (runs, epochs, boots): from the kernel, never zero, never in a simulated room.
#ifndef BASE_RANDOM_H
#define BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

uint64_t random_id(void);
void random_bytes(void *buffer, size_t size);

#endif
