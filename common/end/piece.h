// SPDX-License-Identifier: Apache-2.0
// A piece of an intent map, as it goes from one map to another: between the ends, and between the data paths of one end.
#ifndef END_PIECE_H
#define END_PIECE_H

#include "common/end/frame.h"
#include "queues/intent.h"

// What is set in the map (NULL: nothing) at or behind region `from`.
struct frame_map piece_of(const struct intent *map, uint16_t object, uint64_t from);

#endif
