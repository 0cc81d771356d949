// SPDX-License-Identifier: Apache-2.0
// A message authentication code under a 32 byte key: BLAKE2s (RFC 7693) in its keyed mode. For the
// few small datagrams that travel outside the channel's TLS; whoever has not the key can neither
// forge one nor change one.
#ifndef BASE_MAC_H
#define BASE_MAC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAC_KEY_SIZE 32
#define MAC_SIZE     16

// The code of `size` bytes under `key`.
void mac_compute(const uint8_t key[MAC_KEY_SIZE], const void *data, size_t size,
                 uint8_t mac[MAC_SIZE]);
// Compares in a time that does not depend on where the two differ.
bool mac_equal(const uint8_t a[MAC_SIZE], const uint8_t b[MAC_SIZE]);

// The hash beneath: `key_size` 0 (then `key` may be NULL) to 32, `out_size` 1 to 32.
void mac_blake2s(const void *key, size_t key_size, const void *data, size_t size, uint8_t *out,
                 size_t out_size);

#endif
