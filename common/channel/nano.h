// SPDX-License-Identifier: Apache-2.0
// The thread of nanomsg's, through which every message of a control link passes. The transport itself is in transport.h.
#ifndef CHANNEL_NANO_H
#define CHANNEL_NANO_H

// It begins here, preferred to ordinary ones where that is permitted, and lives as long as this socket; to be called before any
// other is opened. -1: it could not be opened.
int nano_carrier(void);
void nano_carrier_end(int carrier);

#endif
