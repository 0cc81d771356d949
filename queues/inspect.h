// SPDX-License-Identifier: Apache-2.0
// What `pairctl fsck` is told while it looks at the queues of a stopped end. The looking itself is done by the modules
// whose bytes they are, with the code that an opening uses, so that fsck and the daemon cannot judge differently.
// Nothing is written.
#ifndef QUEUES_INSPECT_H
#define QUEUES_INSPECT_H

#include <stdint.h>

enum inspect_kind {
    INSPECT_DAMAGE, // no crash leaves that
    INSPECT_TORN,   // normal after a crash; a start cuts it
};

struct inspect_finding {
    enum inspect_kind kind;
    uint32_t slot;    // segment file, where there are several
    uint64_t offset;  // bytes in the file
    const char *what; // static text
};

struct inspect {
    void (*found)(void *arg, const struct inspect_finding *finding);
    void (*progress)(void *arg, uint64_t done, uint64_t total); // now and then; in no unit. May be NULL
    void *arg;
};

#endif
