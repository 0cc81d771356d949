// SPDX-License-Identifier: Apache-2.0
// See floor.h. Run by deploy/bench:
//   floor active VOLUME SOCKET ADDRESS PORT [strict] [clear]
//   floor passive REPLICA QUEUE ADDRESS PORT [clear]
#include "tests/bench/floor.h"

#include <err.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv)
{
    struct floor_wire wire;
    bool strict = false, clear = false;
    if (argc < 6 || (strcmp(argv[1], "active") != 0 && strcmp(argv[1], "passive") != 0))
        errx(2, "usage: floor active|passive FILE SOCKET|QUEUE ADDRESS PORT [strict] [clear]");
    for (int i = 6; i < argc; i++) {
        strict |= strcmp(argv[i], "strict") == 0;
        clear |= strcmp(argv[i], "clear") == 0;
    }
    bool passive = strcmp(argv[1], "passive") == 0;
    floor_wire_open(&wire, argv[4], (uint16_t)atoi(argv[5]), passive, clear);
    if (passive)
        floor_passive(&wire, argv[2], argv[3]);
    else
        floor_active(&wire, argv[2], argv[3], strict);
    return 0;
}
