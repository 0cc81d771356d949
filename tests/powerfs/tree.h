// SPDX-License-Identifier: Apache-2.0
// The names of powerfs: directories and regular files, as programs see them (live) and as a loss of
// power leaves them (durable: the file PLATTER/names; contents in PLATTER/live and PLATTER/durable,
// see object.h).
//
// The model is that of a journalling file system with ordered metadata: creating, renaming,
// removing a name and changing owner or mode is durable from the next commit on. A commit takes all
// names, in the order in which they changed; it is made by the sync of a file or directory that is
// concerned by a change since the last one, and by nothing else. A sync of a file whose name is
// durable already commits nothing. Lengths belong to the content.
//
// One lock guards all names. A `struct node` given out by tree_get() or tree_make_file() stays
// valid until tree_put().
#ifndef POWERFS_TREE_H
#define POWERFS_TREE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

#include "common/base/error.h"
#include "tests/powerfs/object.h"

#define TREE_NAME_MAX  255
#define TREE_NODES_MAX 65536
#define TREE_PAST_MAX                                                                              \
    64 // states of the names since the last commit that a torn loss can fall back to

struct tree;
struct node;

int tree_open(const char *platter, struct tree **ret_tree, struct error *err);
// Syncs everything, and lets go of it: the file system was unmounted.
int tree_close(struct tree *tree);

int tree_get(struct tree *tree, const char *path, struct node **ret_node);
void tree_put(struct tree *tree, struct node *node);
struct object *node_object(struct node *node); // NULL for a directory

int tree_make_file(struct tree *tree, const char *path, mode_t mode, uid_t uid, gid_t gid,
                   struct node **ret_node);
int tree_make_directory(struct tree *tree, const char *path, mode_t mode, uid_t uid, gid_t gid);
int tree_remove(struct tree *tree, const char *path, bool directory);
int tree_rename(struct tree *tree, const char *from, const char *to, unsigned flags);
int tree_set_mode(struct tree *tree, struct node *node, mode_t mode);
int tree_set_owner(struct tree *tree, struct node *node, uid_t uid, gid_t gid);
int tree_stat(struct tree *tree, struct node *node, struct stat *ret_stat);
int tree_list(struct tree *tree, struct node *directory,
              int (*entry)(void *user, const char *name, const struct stat *st), void *user);

// fsync of a file or directory: its content, and the names if a change since the last commit
// concerns it.
int tree_sync(struct tree *tree, struct node *node);

// Power is lost. All that is not durable is forgotten; with a seed (not zero), by chance parts of
// it are kept. Nothing of the tree can be used afterwards: the caller ends the process.
int tree_lose(struct tree *tree, uint64_t seed);

#endif
