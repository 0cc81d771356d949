// SPDX-License-Identifier: Apache-2.0
#include "common/end/piece.h"

struct frame_map piece_of(const struct intent *m, uint16_t object, uint64_t from)
{
    struct frame_map piece = {.object = object, .from = from, .next = FRAME_MAP_NONE};
    uint64_t region = m ? intent_region(m) : 0, at, length;
    if (!m || from >= intent_regions(m) || !intent_next(m, from * region, region, &at, &length))
        return piece;
    piece.first = at / region & ~UINT64_C(15);
    piece.count = intent_bits(m, piece.first, piece.bits, FRAME_MAP_BITS);
    uint64_t behind = piece.first + piece.count;
    if (behind < intent_regions(m) && intent_next(m, behind * region, region, &at, &length))
        piece.next = at / region & ~UINT64_C(15);
    return piece;
}
