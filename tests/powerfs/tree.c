// SPDX-License-Identifier: Apache-2.0
#include "tests/powerfs/tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "tests/powerfs/chance.h"

#define ROOT_INO        1u
#define NAMES_BYTES_MAX (64u << 20)

struct node {
    struct node *next;   // all nodes of the tree that are not freed
    struct node *parent; // NULL for the root and for what has been removed
    char *name;
    uint64_t ino;
    mode_t mode;
    uid_t uid;
    gid_t gid;
    struct timespec changed_time; // of a directory
    struct object *object;        // of a file
    unsigned users;               // tree_get() without tree_put()
    uint64_t changed;             // number of the last change of names that concerns it
};

struct tree {
    pthread_mutex_t lock; // of everything below, and of all nodes
    char *platter;
    int live_dir;
    int durable_dir;
    struct node *root;
    struct node *all;
    size_t count;
    uint64_t last_ino;
    uint64_t changes;          // number of the last change of names
    uint64_t committed;        // the last one that is durable
    char *past[TREE_PAST_MAX]; // the names after each change since then, the last ones
    size_t past_count;
};

// ---- Nodes --------------------------------------------------------------------------------------

static struct node *node_free(struct node *node)
{
    if (!node)
        return NULL;
    object_free(node->object);
    free(node->name);
    free(node);
    return NULL;
}

static int node_add(struct tree *tree, uint64_t ino, struct node *parent, const char *name,
                    mode_t mode, struct node **ret_node)
{
    if (tree->count >= TREE_NODES_MAX)
        return -ENOSPC;
    struct node *node = calloc(1, sizeof *node);
    if (!node)
        return -ENOMEM;
    *node = (struct node){.ino = ino, .parent = parent, .mode = mode, .name = strdup(name)};
    clock_gettime(CLOCK_REALTIME, &node->changed_time);
    if (!node->name) {
        node_free(node);
        return -ENOMEM;
    }
    node->next = tree->all;
    tree->all = node;
    tree->count++;
    tree->last_ino = MAX(tree->last_ino, ino);
    *ret_node = node;
    return 0;
}

static void node_drop(struct tree *tree, struct node *node)
{
    struct node **at = &tree->all;
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    tree->count--;
    node_free(node);
}

static struct node *child(struct tree *tree, struct node *parent, const char *name, size_t length)
{
    for (struct node *node = tree->all; node; node = node->next)
        if (node->parent == parent && strlen(node->name) == length &&
            memcmp(node->name, name, length) == 0)
            return node;
    return NULL;
}

static bool has_children(struct tree *tree, const struct node *parent)
{
    for (struct node *node = tree->all; node; node = node->next)
        if (node->parent == parent)
            return true;
    return false;
}

// Finds the node of a path; with ret_last, its directory instead, and the last name of the path.
static int walk(struct tree *tree, const char *path, struct node **ret_node, const char **ret_last)
{
    struct node *at = tree->root;
    while (*path == '/')
        path++;
    while (*path) {
        size_t length = strcspn(path, "/");
        if (length > TREE_NAME_MAX)
            return -ENAMETOOLONG;
        if (ret_last && path[length] == '\0')
            break;
        if (!S_ISDIR(at->mode))
            return -ENOTDIR;
        at = child(tree, at, path, length);
        if (!at)
            return -ENOENT;
        path += length + strspn(path + length, "/");
    }
    if (ret_last)
        *ret_last = path;
    *ret_node = at;
    return 0;
}

struct object *node_object(struct node *node)
{
    return node->object;
}

// ---- The durable names --------------------------------------------------------------------------

// A line for each node: number, parent's number, mode, owner, group, name; parents first.
static void print_below(struct tree *tree, const struct node *parent, FILE *out)
{
    for (struct node *node = tree->all; node; node = node->next) {
        if (node->parent != parent)
            continue;
        fprintf(out, "%llu %llu %o %u %u %s\n", (unsigned long long)node->ino,
                (unsigned long long)parent->ino, node->mode, node->uid, node->gid, node->name);
        if (S_ISDIR(node->mode))
            print_below(tree, node, out);
    }
}

static char *print_names(struct tree *tree)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    fprintf(out, "powerfs 1 %llu\n", (unsigned long long)tree->last_ino);
    print_below(tree, tree->root, out);
    if (fclose(out) != 0) {
        free(text);
        return NULL;
    }
    return text;
}

// The machine itself does not lose its power in a test: no sync is needed for the durable side.
static int write_file(struct tree *tree, const char *name, const char *text)
{
    char path[PATH_SIZE], new_path[PATH_SIZE];
    int r = path_format(path, sizeof path, "%s/%s", tree->platter, name);
    if (r == 0)
        r = path_format(new_path, sizeof new_path, "%s/%s.new", tree->platter, name);
    if (r < 0)
        return r;
    FILE *out = fopen(new_path, "we");
    if (!out)
        return -errno;
    bool failed = fputs(text, out) < 0;
    failed = fclose(out) != 0 || failed;
    return failed || rename(new_path, path) < 0 ? -EIO : 0;
}

static void forget_past(struct tree *tree)
{
    for (size_t i = 0; i < tree->past_count; i++)
        free(tree->past[i]);
    tree->past_count = 0;
}

static void remember_past(struct tree *tree)
{
    if (tree->past_count == TREE_PAST_MAX) {
        free(tree->past[0]);
        memmove(tree->past, tree->past + 1, (TREE_PAST_MAX - 1) * sizeof tree->past[0]);
        tree->past_count--;
    }
    char *text = print_names(tree);
    if (text)
        tree->past[tree->past_count++] = text;
}

// Says that the names have changed, and whom it concerns (NULL: nobody more).
static void changed(struct tree *tree, struct node *one, struct node *two, struct node *three)
{
    struct node *concerned[] = {one, two, three};
    tree->changes++;
    for (size_t i = 0; i < ARRAY_LEN(concerned); i++) {
        if (!concerned[i])
            continue;
        concerned[i]->changed = tree->changes;
        clock_gettime(CLOCK_REALTIME, &concerned[i]->changed_time);
    }
    remember_past(tree);
}

static void remove_content(struct tree *tree, uint64_t ino)
{
    char name[32];
    snprintf(name, sizeof name, "%llu", (unsigned long long)ino);
    (void)unlinkat(tree->live_dir, name, 0);
    (void)unlinkat(tree->durable_dir, name, 0);
}

// Frees what has no name, live or durable, and no user.
static void sweep(struct tree *tree)
{
    for (struct node *node = tree->all, *next; node; node = next) {
        next = node->next;
        if (node == tree->root || node->parent || node->users || node->changed > tree->committed)
            continue;
        if (node->object)
            remove_content(tree, node->ino);
        node_drop(tree, node);
    }
}

static int commit(struct tree *tree)
{
    CLEANUP_FREE char *text = print_names(tree);
    if (!text)
        return -ENOMEM;
    int r = write_file(tree, "names", text);
    if (r < 0)
        return r;
    tree->committed = tree->changes;
    forget_past(tree);
    sweep(tree);
    return 0;
}

// ---- Loading ------------------------------------------------------------------------------------

static struct node *by_ino(struct tree *tree, uint64_t ino)
{
    for (struct node *node = tree->all; node; node = node->next)
        if (node->ino == ino)
            return node;
    return NULL;
}

static int load_line(struct tree *tree, const char *line, bool equal, struct error *err)
{
    unsigned long long ino, parent_ino;
    unsigned mode, uid, gid;
    int name_at = 0;
    if (sscanf(line, "%llu %llu %o %u %u %n", &ino, &parent_ino, &mode, &uid, &gid, &name_at) !=
            5 ||
        !name_at || !line[name_at])
        return error_set(err, -EINVAL, "%s/names: a bad line: %s", tree->platter, line);
    struct node *parent = by_ino(tree, parent_ino), *node;
    if (!parent)
        return error_set(err, -EINVAL, "%s/names: no parent: %s", tree->platter, line);
    int r = node_add(tree, ino, parent, line + name_at, mode, &node);
    if (r < 0)
        return error_sys(err, r, "%s/names", tree->platter);
    node->uid = uid;
    node->gid = gid;
    if (S_ISREG(mode))
        r = object_open(tree->live_dir, tree->durable_dir, ino, equal, &node->object);
    return r < 0 ? error_sys(err, r, "%s: the content of %s", tree->platter, node->name) : 0;
}

static int load_names(struct tree *tree, bool equal, struct error *err)
{
    char path[PATH_SIZE];
    int r = path_format(path, sizeof path, "%s/names", tree->platter);
    if (r < 0 || access(path, F_OK) < 0)
        return r; // a new one: empty
    CLEANUP_FREE char *text = NULL;
    size_t size;
    r = file_read(path, NAMES_BYTES_MAX, &text, &size, err);
    if (r < 0)
        return r;
    char *rest = NULL, *line = strtok_r(text, "\n", &rest);
    unsigned long long last_ino;
    if (!line || sscanf(line, "powerfs 1 %llu", &last_ino) != 1)
        return error_set(err, -EINVAL, "%s is not a list of names of powerfs", path);
    tree->last_ino = last_ino;
    while (r == 0 && (line = strtok_r(NULL, "\n", &rest)))
        r = load_line(tree, line, equal, err);
    return r;
}

// Contents without a durable name are what a loss left over.
static void remove_nameless(struct tree *tree)
{
    CLEANUP(cleanup_closedir) DIR *directory = fdopendir(dup(tree->durable_dir));
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        uint64_t ino = strtoull(entry->d_name, NULL, 10);
        if (ino && !by_ino(tree, ino))
            remove_content(tree, ino);
    }
}

static int open_directory(const char *platter, const char *name, int *ret_fd, struct error *err)
{
    char path[PATH_SIZE];
    int r = path_format(path, sizeof path, "%s/%s", platter, name);
    if (r == 0)
        r = dir_make(path, 0700, err);
    if (r < 0)
        return r;
    *ret_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? error_sys(err, -errno, "%s", path) : 0;
}

// The mark says that live equals durable; it holds until the tree is in use again.
static bool take_mark(struct tree *tree)
{
    char path[PATH_SIZE];
    return path_format(path, sizeof path, "%s/equal", tree->platter) == 0 && unlink(path) == 0;
}

static void tree_free(struct tree *tree)
{
    while (tree->all)
        node_drop(tree, tree->all);
    forget_past(tree);
    cleanup_close(&tree->live_dir);
    cleanup_close(&tree->durable_dir);
    pthread_mutex_destroy(&tree->lock);
    free(tree->platter);
    free(tree);
}

int tree_open(const char *platter, struct tree **ret_tree, struct error *err)
{
    struct tree *tree = calloc(1, sizeof *tree);
    if (!tree)
        return error_sys(err, -ENOMEM, "powerfs");
    pthread_mutex_init(&tree->lock, NULL);
    tree->live_dir = tree->durable_dir = -1;
    tree->platter = strdup(platter);
    int r =
        tree->platter ? node_add(tree, ROOT_INO, NULL, "", S_IFDIR | 0755, &tree->root) : -ENOMEM;
    if (r < 0)
        error_sys(err, r, "powerfs");
    if (r == 0)
        r = open_directory(platter, "live", &tree->live_dir, err);
    if (r == 0)
        r = open_directory(platter, "durable", &tree->durable_dir, err);
    if (r == 0)
        r = load_names(tree, take_mark(tree), err);
    if (r < 0) {
        tree_free(tree);
        return r;
    }
    remove_nameless(tree);
    *ret_tree = tree;
    return 0;
}

int tree_close(struct tree *tree)
{
    int r = 0;
    for (struct node *node = tree->all; node && r == 0; node = node->next)
        if (node->object)
            r = object_sync(node->object);
    if (r == 0)
        r = commit(tree);
    if (r == 0)
        r = write_file(tree, "equal", "");
    tree_free(tree);
    return r;
}

// ---- What programs do ---------------------------------------------------------------------------

int tree_get(struct tree *tree, const char *path, struct node **ret_node)
{
    HOLD_LOCK(&tree->lock);
    struct node *node;
    int r = walk(tree, path, &node, NULL);
    if (r < 0)
        return r;
    node->users++;
    *ret_node = node;
    return 0;
}

void tree_put(struct tree *tree, struct node *node)
{
    HOLD_LOCK(&tree->lock);
    ENSURE(node->users > 0);
    node->users--;
    if (!node->users && !node->parent)
        sweep(tree);
}

// The directory and the free name in it that a new node is to have.
static int new_place(struct tree *tree, const char *path, struct node **ret_parent,
                     const char **ret_name)
{
    int r = walk(tree, path, ret_parent, ret_name);
    if (r < 0)
        return r;
    if (!S_ISDIR((*ret_parent)->mode))
        return -ENOTDIR;
    if (strchr(*ret_name, '\n'))
        return -EINVAL; // the list of names has lines
    bool taken = !**ret_name || child(tree, *ret_parent, *ret_name, strlen(*ret_name));
    return taken ? -EEXIST : 0;
}

static int make(struct tree *tree, const char *path, mode_t mode, uid_t uid, gid_t gid,
                struct node **ret_node)
{
    struct node *parent, *node;
    const char *name;
    int r = new_place(tree, path, &parent, &name);
    if (r == 0)
        r = node_add(tree, tree->last_ino + 1 + (tree->last_ino == 0), parent, name, mode, &node);
    if (r < 0)
        return r;
    node->uid = uid;
    node->gid = gid;
    if (S_ISREG(mode)) {
        r = object_open(tree->live_dir, tree->durable_dir, node->ino, true, &node->object);
        if (r < 0) {
            node_drop(tree, node);
            return r;
        }
    }
    changed(tree, parent, node, NULL);
    *ret_node = node;
    return 0;
}

int tree_make_file(struct tree *tree, const char *path, mode_t mode, uid_t uid, gid_t gid,
                   struct node **ret_node)
{
    HOLD_LOCK(&tree->lock);
    int r = make(tree, path, S_IFREG | (mode & 07777), uid, gid, ret_node);
    if (r == 0)
        (*ret_node)->users++;
    return r;
}

int tree_make_directory(struct tree *tree, const char *path, mode_t mode, uid_t uid, gid_t gid)
{
    HOLD_LOCK(&tree->lock);
    struct node *node;
    return make(tree, path, S_IFDIR | (mode & 07777), uid, gid, &node);
}

// Whether the node may go from its place, as a directory or as a file.
static int may_go(struct tree *tree, const struct node *node, bool directory)
{
    if (node == tree->root)
        return -EBUSY;
    if (directory != S_ISDIR(node->mode))
        return directory ? -ENOTDIR : -EISDIR;
    return directory && has_children(tree, node) ? -ENOTEMPTY : 0;
}

int tree_remove(struct tree *tree, const char *path, bool directory)
{
    HOLD_LOCK(&tree->lock);
    struct node *node;
    int r = walk(tree, path, &node, NULL);
    if (r == 0)
        r = may_go(tree, node, directory);
    if (r < 0)
        return r;
    struct node *parent = node->parent;
    node->parent = NULL;
    changed(tree, parent, node, NULL);
    return 0;
}

static bool is_below(const struct node *node, const struct node *above)
{
    for (; node; node = node->parent)
        if (node == above)
            return true;
    return false;
}

static int rename_node(struct tree *tree, struct node *node, struct node *parent, const char *name,
                       unsigned flags)
{
    struct node *former = child(tree, parent, name, strlen(name));
    if (former == node)
        return 0;
    if (former && (flags & RENAME_NOREPLACE))
        return -EEXIST;
    int r = former ? may_go(tree, former, S_ISDIR(node->mode)) : 0;
    char *copy = r == 0 ? strdup(name) : NULL;
    if (!copy)
        return r < 0 ? r : -ENOMEM;
    struct node *old_parent = node->parent;
    if (former) {
        former->parent = NULL;
        former->changed = tree->changes + 1;
    }
    free(node->name);
    node->name = copy;
    node->parent = parent;
    changed(tree, old_parent, parent, node);
    return 0;
}

int tree_rename(struct tree *tree, const char *from, const char *to, unsigned flags)
{
    if (flags & ~(unsigned)RENAME_NOREPLACE)
        return -EINVAL;
    HOLD_LOCK(&tree->lock);
    struct node *node, *parent;
    const char *name;
    int r = walk(tree, from, &node, NULL);
    if (r == 0)
        r = walk(tree, to, &parent, &name);
    if (r < 0)
        return r;
    if (node == tree->root || !*name)
        return -EBUSY;
    if (!S_ISDIR(parent->mode))
        return -ENOTDIR;
    if (is_below(parent, node) || strchr(name, '\n'))
        return -EINVAL;
    return rename_node(tree, node, parent, name, flags);
}

int tree_set_mode(struct tree *tree, struct node *node, mode_t mode)
{
    HOLD_LOCK(&tree->lock);
    node->mode = (node->mode & S_IFMT) | (mode & 07777);
    changed(tree, node, NULL, NULL);
    return 0;
}

int tree_set_owner(struct tree *tree, struct node *node, uid_t uid, gid_t gid)
{
    HOLD_LOCK(&tree->lock);
    node->uid = uid == (uid_t)-1 ? node->uid : uid;
    node->gid = gid == (gid_t)-1 ? node->gid : gid;
    changed(tree, node, NULL, NULL);
    return 0;
}

static int stat_locked(const struct node *node, struct stat *ret_stat)
{
    struct stat st = {0};
    int r = node->object ? object_stat(node->object, &st) : 0;
    if (r < 0)
        return r;
    if (!node->object)
        st.st_mtim = st.st_ctim = st.st_atim = node->changed_time;
    st.st_ino = node->ino;
    st.st_mode = node->mode;
    st.st_uid = node->uid;
    st.st_gid = node->gid;
    st.st_nlink = S_ISDIR(node->mode) ? 2 : node->parent ? 1 : 0;
    *ret_stat = st;
    return 0;
}

int tree_stat(struct tree *tree, struct node *node, struct stat *ret_stat)
{
    HOLD_LOCK(&tree->lock);
    return stat_locked(node, ret_stat);
}

int tree_list(struct tree *tree, struct node *directory,
              int (*entry)(void *user, const char *name, const struct stat *st), void *user)
{
    HOLD_LOCK(&tree->lock);
    for (struct node *node = tree->all; node; node = node->next) {
        struct stat st;
        if (node->parent != directory)
            continue;
        int r = stat_locked(node, &st);
        if (r == 0)
            r = entry(user, node->name, &st);
        if (r < 0)
            return r;
    }
    return 0;
}

int tree_sync(struct tree *tree, struct node *node)
{
    int r = node->object ? object_sync(node->object) : 0;
    if (r < 0)
        return r;
    HOLD_LOCK(&tree->lock);
    return node->changed > tree->committed ? commit(tree) : 0;
}

// ---- The loss of power --------------------------------------------------------------------------

int tree_lose(struct tree *tree, uint64_t seed)
{
    pthread_mutex_lock(&tree->lock);
    uint64_t random_state = seed;
    for (struct node *node = tree->all; node; node = node->next) {
        int r = node->object ? object_lose(node->object, &random_state) : 0;
        if (r < 0)
            return r;
    }
    size_t kept = seed ? (size_t)chance(&random_state, tree->past_count + 1) : 0;
    int r = kept ? write_file(tree, "names", tree->past[kept - 1]) : 0;
    return r < 0 ? r : write_file(tree, "equal", "");
}
