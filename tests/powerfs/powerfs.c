// SPDX-License-Identifier: Apache-2.0
// powerfs PLATTER MOUNTPOINT [SEED]: a file system for tests that can lose its power.
//
// What was not synced is forgotten, at once and exactly, on SIGUSR2; on SIGUSR1 a part of it is
// kept that the seed decides: written sectors one by one, and the names as they were after some
// change since their last commit. On both the process ends, as after kill -9, with which everything
// that was not synced is lost too (but the next mount has to copy all contents). A plain unmount
// loses nothing. What a sync promises is written in tree.h and object.h. PLATTER.faults says what
// fails meanwhile (faults.h).
//
// Files and directories only; no links, no other kinds. Locks and mappings are the kernel's. Runs
// in the foreground.
#define FUSE_USE_VERSION 35
#include <fuse.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/random.h"
#include "tests/powerfs/faults.h"
#include "tests/powerfs/tree.h"

#define OPTIONS "allow_other,default_permissions,fsname=powerfs,subtype=powerfs,max_idle_threads=8"

struct powerfs {
    struct tree *tree;
    const char *platter;
    char faults[4096];
    uint64_t seed;
};

static struct powerfs *self(void)
{
    return fuse_get_context()->private_data;
}

static struct tree *tree(void)
{
    return self()->tree;
}

static struct node *opened(struct fuse_file_info *info)
{
    return (struct node *)(uintptr_t)info->fh;
}

static int fault(const struct node *node, enum fault_op op, uint64_t offset, uint64_t length)
{
    return faults_outcome(self()->faults, tree(), node, op, offset, length);
}

// The node of an open file, or that of the path. Either way to be given to put().
static int get(const char *path, struct fuse_file_info *info, struct node **ret_node)
{
    if (info && info->fh) {
        *ret_node = opened(info);
        return 0;
    }
    return tree_get(tree(), path, ret_node);
}

static void put(struct fuse_file_info *info, struct node *node)
{
    if (!info || !info->fh)
        tree_put(tree(), node);
}

// ---- Names --------------------------------------------------------------------------------------

static int op_getattr(const char *path, struct stat *st, struct fuse_file_info *info)
{
    struct node *node;
    int r = get(path, info, &node);
    if (r < 0)
        return r;
    r = tree_stat(tree(), node, st);
    put(info, node);
    return r;
}

static int op_mkdir(const char *path, mode_t mode)
{
    const struct fuse_context *who = fuse_get_context();
    return tree_make_directory(tree(), path, mode, who->uid, who->gid);
}

static int op_unlink(const char *path)
{
    return tree_remove(tree(), path, false);
}

static int op_rmdir(const char *path)
{
    return tree_remove(tree(), path, true);
}

static int op_rename(const char *from, const char *to, unsigned flags)
{
    return tree_rename(tree(), from, to, flags);
}

static int op_chmod(const char *path, mode_t mode, struct fuse_file_info *info)
{
    struct node *node;
    int r = get(path, info, &node);
    if (r < 0)
        return r;
    r = tree_set_mode(tree(), node, mode);
    put(info, node);
    return r;
}

static int op_chown(const char *path, uid_t uid, gid_t gid, struct fuse_file_info *info)
{
    struct node *node;
    int r = get(path, info, &node);
    if (r < 0)
        return r;
    r = tree_set_owner(tree(), node, uid, gid);
    put(info, node);
    return r;
}

static int op_utimens(const char *path, const struct timespec times[2], struct fuse_file_info *info)
{
    struct node *node;
    int r = get(path, info, &node);
    if (r < 0)
        return r;
    r = node_object(node) ? object_set_times(node_object(node), times) : 0;
    put(info, node);
    return r;
}

struct listing {
    void *buffer;
    fuse_fill_dir_t fill;
};

static int fill_entry(void *user, const char *name, const struct stat *st)
{
    struct listing *listing = user;
    return listing->fill(listing->buffer, name, st, 0, 0) ? -ENOMEM : 0;
}

static int op_readdir(const char *path, void *buffer, fuse_fill_dir_t fill, off_t offset,
                      struct fuse_file_info *info, enum fuse_readdir_flags flags)
{
    struct listing listing = {buffer, fill};
    if (fill(buffer, ".", NULL, 0, 0) || fill(buffer, "..", NULL, 0, 0))
        return -ENOMEM;
    return tree_list(tree(), opened(info), fill_entry, &listing);
}

// ---- Contents -----------------------------------------------------------------------------------

static int op_create(const char *path, mode_t mode, struct fuse_file_info *info)
{
    const struct fuse_context *who = fuse_get_context();
    struct node *node;
    int r = tree_make_file(tree(), path, mode, who->uid, who->gid, &node);
    if (r == 0)
        info->fh = (uintptr_t)node;
    return r;
}

static int op_open(const char *path, struct fuse_file_info *info)
{
    struct node *node;
    int r = tree_get(tree(), path, &node);
    if (r < 0)
        return r;
    if ((info->flags & O_TRUNC) && node_object(node))
        r = object_truncate(node_object(node), 0);
    if (r < 0)
        tree_put(tree(), node);
    else
        info->fh = (uintptr_t)node;
    return r;
}

static int op_release(const char *path, struct fuse_file_info *info)
{
    tree_put(tree(), opened(info));
    return 0;
}

static int op_read(const char *path, char *buffer, size_t size, off_t offset,
                   struct fuse_file_info *info)
{
    return (int)object_read(node_object(opened(info)), buffer, size, (uint64_t)offset);
}

static int op_write(const char *path, const char *data, size_t size, off_t offset,
                    struct fuse_file_info *info)
{
    int r = fault(opened(info), FAULT_WRITE, (uint64_t)offset, size);
    return r < 0 ? r : (int)object_write(node_object(opened(info)), data, size, (uint64_t)offset);
}

static int op_truncate(const char *path, off_t size, struct fuse_file_info *info)
{
    struct node *node;
    int r = get(path, info, &node);
    if (r < 0)
        return r;
    r = fault(node, FAULT_WRITE, (uint64_t)size, 1);
    if (r == 0)
        r = node_object(node) ? object_truncate(node_object(node), (uint64_t)size) : -EISDIR;
    put(info, node);
    return r;
}

static int op_fallocate(const char *path, int mode, off_t offset, off_t size,
                        struct fuse_file_info *info)
{
    int r = fault(opened(info), FAULT_WRITE, (uint64_t)offset, (uint64_t)size);
    return r < 0 ? r
                 : object_fallocate(node_object(opened(info)), mode, (uint64_t)offset,
                                    (uint64_t)size);
}

static off_t op_lseek(const char *path, off_t offset, int whence, struct fuse_file_info *info)
{
    return object_seek(node_object(opened(info)), offset, whence);
}

static int op_fsync(const char *path, int data_only, struct fuse_file_info *info)
{
    int r = fault(opened(info), FAULT_SYNC, 0, 0);
    return r < 0 ? r : tree_sync(tree(), opened(info));
}

static int op_statfs(const char *path, struct statvfs *st)
{
    return statvfs(self()->platter, st) < 0 ? -errno : 0;
}

// ---- Life ---------------------------------------------------------------------------------------

static void *wait_for_loss(void *argument)
{
    struct powerfs *fs = argument;
    sigset_t signals;
    int signal_number;
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    sigwait(&signals, &signal_number);
    uint64_t seed = signal_number == SIGUSR1 ? fs->seed : 0;
    int r = tree_lose(fs->tree, seed);
    fprintf(stderr, "powerfs: %s: power lost, seed %llu: %s\n", fs->platter,
            (unsigned long long)seed, r < 0 ? strerror(-r) : "ok");
    _exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

static void *op_init(struct fuse_conn_info *connection, struct fuse_config *config)
{
    struct powerfs *fs = self();
    pthread_t thread;
    config->hard_remove = 1; // a removed file that is open stays ours, not a hidden name
    config->nullpath_ok = 1;
    config->use_ino = 1;
    config->kernel_cache = 1; // nobody changes contents behind the kernel's back
    if (pthread_create(&thread, NULL, wait_for_loss, fs) != 0)
        _exit(EXIT_FAILURE);
    pthread_detach(thread);
    return fs;
}

static const struct fuse_operations operations = {
    .init = op_init,
    .getattr = op_getattr,
    .mkdir = op_mkdir,
    .unlink = op_unlink,
    .rmdir = op_rmdir,
    .rename = op_rename,
    .chmod = op_chmod,
    .chown = op_chown,
    .utimens = op_utimens,
    .create = op_create,
    .open = op_open,
    .release = op_release,
    .read = op_read,
    .write = op_write,
    .truncate = op_truncate,
    .fallocate = op_fallocate,
    .lseek = op_lseek,
    .fsync = op_fsync,
    .opendir = op_open,
    .readdir = op_readdir,
    .releasedir = op_release,
    .fsyncdir = op_fsync,
    .statfs = op_statfs,
};

static void prepare_process(void)
{
    struct rlimit files = {2 * TREE_NODES_MAX + 256, 2 * TREE_NODES_MAX + 256};
    sigset_t signals;
    (void)setrlimit(RLIMIT_NOFILE, &files); // two open files for each of ours
    sigemptyset(&signals);
    sigaddset(&signals, SIGUSR1);
    sigaddset(&signals, SIGUSR2);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); // all threads but the one that waits for them
    umask(0);
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: powerfs PLATTER MOUNTPOINT [SEED]\n");
        return 2;
    }
    struct powerfs fs = {.platter = argv[1]};
    struct error err = {0};
    fs.seed = argc > 3 ? strtoull(argv[3], NULL, 0) : 0;
    if (!fs.seed)
        fs.seed = random_id();
    (void)snprintf(fs.faults, sizeof(fs.faults), "%s.faults", fs.platter);
    prepare_process();
    if (tree_open(fs.platter, &fs.tree, &err) < 0) {
        fprintf(stderr, "powerfs: %s\n", err.text);
        return EXIT_FAILURE;
    }
    char foreground[] = "-f", option[] = "-o", options[] = OPTIONS;
    char *fuse_argv[] = {argv[0], argv[2], foreground, option, options, NULL};
    int status = fuse_main(ARRAY_LEN(fuse_argv) - 1, fuse_argv, &operations, &fs);
    int r = tree_close(fs.tree);
    if (r < 0)
        fprintf(stderr, "powerfs: %s: %s\n", fs.platter, strerror(-r));
    return status != 0 || r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
