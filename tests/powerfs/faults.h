// SPDX-License-Identifier: Apache-2.0
// Failures of the disk on command. The lines of a file say what fails from now on, each
//
//     OP WHAT PATH [OFFSET LENGTH]
//
// OP is write (also what shortens or allocates), sync or any; WHAT is EIO or ENOSPC; PATH begins
// with
// '/', the top of the mounted file system, and means that file alone; "*" means all. The first line
// that fits (operation, file, and a byte of the range; a sync has none) decides. A missing file: no
// faults.
#ifndef POWERFS_FAULTS_H
#define POWERFS_FAULTS_H

#include <stdint.h>

#include "tests/powerfs/tree.h"

enum fault_op { FAULT_WRITE, FAULT_SYNC };

// 0: it does not fail; otherwise the -errno with which it does. `path` is that of the file of
// faults.
int faults_outcome(const char *path, struct tree *tree, const struct node *node, enum fault_op op,
                   uint64_t offset, uint64_t length);

#endif
