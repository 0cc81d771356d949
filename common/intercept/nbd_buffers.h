// SPDX-License-Identifier: Apache-2.0
// Memory that volumes are read into: fixed buffers of five sizes in one mapping, which takes memory
// only where it was used. Nobody holds more than a quarter of a size, so that a client which does
// not take its answers leaves the others theirs. One thread; no allocation after opening.
#ifndef INTERCEPT_NBD_BUFFERS_H
#define INTERCEPT_NBD_BUFFERS_H

#include <stdint.h>

#define NBD_BUFFER_SIZES 5
#define NBD_BUFFERS_MAX  256         // of one size
#define NBD_BUFFER_LARGE (32U << 20) // and of the largest

struct nbd_buffers {
    uint8_t *memory;
    struct {
        uint8_t *first;
        uint16_t free[NBD_BUFFERS_MAX]; // numbers; the last one given back is used first
        unsigned count;
    } sizes[NBD_BUFFER_SIZES];
};

struct nbd_buffer {
    uint8_t *data; // NULL: none
    unsigned size; // index
};

// What one client holds of each size.
struct nbd_buffers_held {
    unsigned count[NBD_BUFFER_SIZES];
};

int nbd_buffers_open(struct nbd_buffers *buffers);
void nbd_buffers_close(struct nbd_buffers *buffers);
// A buffer of at least `bytes` (at most NBD_BUFFER_LARGE). data is NULL when none is free, or
// `held` has its share.
struct nbd_buffer nbd_buffers_get(struct nbd_buffers *buffers, struct nbd_buffers_held *held,
                                  uint32_t bytes);
void nbd_buffers_put(struct nbd_buffers *buffers, struct nbd_buffers_held *held,
                     struct nbd_buffer buffer);
// Gives the memory back to the system; nobody holds a buffer.
void nbd_buffers_rest(struct nbd_buffers *buffers);

#endif
