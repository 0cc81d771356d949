// SPDX-License-Identifier: Apache-2.0
// How soon the daemon's threads get a processor that others want, too.
//
// The control thread runs at real-time priority: heartbeats must go out on a busy machine. It does so little that
// nobody notices. The data path's threads are ordinary ones, with no more of the processor than anybody's. But they run
// for microseconds at a time, one after the other, several for a single flush: each asks for a short slice, which
// lets it in at once where it would wait for the end of another's long one. Not for the shortest: large writes run longer.
#ifndef DAEMON_PROMPT_H
#define DAEMON_PROMPT_H

// Of the calling thread, and of the threads that it starts from then on. Kernels before 6.12 do nothing.
void prompt_short_slice(void);
// Makes the calling thread the control thread: the threads that it starts from then on are ordinary ones. Also keeps the
// daemon's memory from being paged out, reads in what the control thread runs, for a disk may be slow when that is needed,
// and has the kernel kill others first when memory is short.
void prompt_real_time(void);

#endif
