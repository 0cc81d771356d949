// SPDX-License-Identifier: Apache-2.0
#include "tests/powerfs/faults.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

// Whether the name means this node now.
static bool means(struct tree *tree, const char *name, const struct node *node)
{
    struct node *found;
    if (strcmp(name, "*") == 0)
        return true;
    if (tree_get(tree, name, &found) < 0)
        return false;
    tree_put(tree, found);
    return found == node;
}

int faults_outcome(const char *path, struct tree *tree, const struct node *node, enum fault_op op,
                   uint64_t offset, uint64_t length)
{
    static const char *const words[] = {[FAULT_WRITE] = "write", [FAULT_SYNC] = "sync"};
    char line[1024], op_text[16], what[16], name[512];
    int outcome = 0;
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    while (outcome == 0 && fgets(line, sizeof(line), file)) {
        unsigned long long at = 0, size = UINT64_MAX;
        int n = sscanf(line, "%15s %15s %511s %llu %llu", op_text, what, name, &at, &size);
        bool hit = n == 3 ||
                   (n == 5 && (op == FAULT_SYNC || (at < offset + length && offset < at + size)));
        if (hit && (strcmp(op_text, words[op]) == 0 || strcmp(op_text, "any") == 0) &&
            means(tree, name, node))
            outcome = strcmp(what, "ENOSPC") == 0 ? -ENOSPC : -EIO;
    }
    (void)fclose(file);
    return outcome;
}
