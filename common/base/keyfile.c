// SPDX-License-Identifier: Apache-2.0
// Key files: see keyfile.h. The text form is
//
//     understudy-key-1
//     HEXADECIMAL DIGITS, 64 to 128 of them
//
// Failure modes: a generation that was interrupted leaves a file without a whole key, which
// keyfile_load() refuses.
#include "common/base/keyfile.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/cleanup.h"
#include "common/base/file.h"
#include "common/base/random.h"

#define HEADER       "understudy-key-1\n"
#define KEY_FILE_MAX 4096

static int parent_sync(const char *path, struct error *err)
{
    char parent[PATH_SIZE];
    const char *slash = strrchr(path, '/');
    if (!slash)
        return dir_sync(".", err);
    int length = slash == path ? 1 : (int)(slash - path);
    int r = path_format(parent, sizeof(parent), "%.*s", length, path);
    return r < 0 ? error_sys(err, r, "%s", path) : dir_sync(parent, err);
}

int keyfile_generate(const char *path, struct error *err)
{
    uint8_t key[KEYFILE_BYTES_MIN];
    char text[sizeof(HEADER) + 2 * sizeof(key) + 1];
    CLEANUP_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno == EEXIST)
        return error_set(err, -EEXIST,
                         "%s exists: a key in use is not overwritten; remove it first", path);
    if (fd < 0)
        return error_sys(err, -errno, "cannot create %s", path);

    random_bytes(key, sizeof(key));
    int n = snprintf(text, sizeof(text), HEADER);
    for (size_t i = 0; i < sizeof(key); i++)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "%02x", key[i]);
    text[n++] = '\n';
    int r = file_pwrite(fd, text, (size_t)n, 0);
    if (r == 0 && (fchmod(fd, 0600) < 0 || fsync(fd) < 0))
        r = -errno;
    explicit_bzero(key, sizeof(key));
    explicit_bzero(text, sizeof(text));
    if (r < 0) {
        (void)unlink(path);
        return error_sys(err, r, "cannot write %s", path);
    }
    return parent_sync(path, err);
}

static int check_access(const char *path, const struct stat *st, struct error *err)
{
    if (!S_ISREG(st->st_mode))
        return error_set(err, -EINVAL, "%s is not a regular file", path);
    if (st->st_uid != 0 && st->st_uid != geteuid())
        return error_set(err, -EPERM, "key file %s belongs to user %u; it has to belong to root",
                         path, (unsigned)st->st_uid);
    if (st->st_mode & 077)
        return error_set(err, -EPERM,
                         "key file %s has mode %04o: others can read or change it; make a new key "
                         "(pairctl keygen), or chmod 0600 if nobody has read it",
                         path, (unsigned)(st->st_mode & 07777));
    if (st->st_size > KEY_FILE_MAX)
        return error_set(err, -EINVAL, "%s is too large for a key file", path);
    return 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

// Decodes the digits of a line. Returns the number of bytes, or -EINVAL.
static int hex_decode(const char *text, uint8_t *to, size_t limit)
{
    size_t n = 0;
    for (; hex_digit(text[0]) >= 0 && hex_digit(text[1]) >= 0; text += 2) {
        if (n == limit)
            return -EINVAL;
        to[n++] = (uint8_t)(hex_digit(text[0]) << 4 | hex_digit(text[1]));
    }
    return text[strspn(text, "\r\n\t ")] == '\0' ? (int)n : -EINVAL;
}

static int parse(const char *path, const char *text, struct keyfile *ret_key, struct error *err)
{
    struct keyfile key = {0};
    const size_t header = strlen(HEADER);
    if (strncmp(text, HEADER, header) != 0)
        return error_set(
            err, -EINVAL,
            "%s is not a key file (no line \"understudy-key-1\"); make one with pairctl keygen",
            path);
    int n = hex_decode(text + header, key.bytes, sizeof(key.bytes));
    if (n < KEYFILE_BYTES_MIN) {
        keyfile_clear(&key);
        return error_set(err, -EINVAL,
                         "%s: the key has to be one line of %d to %d hexadecimal digits", path,
                         2 * KEYFILE_BYTES_MIN, 2 * KEYFILE_BYTES_MAX);
    }
    key.size = (size_t)n;
    *ret_key = key;
    keyfile_clear(&key);
    return 0;
}

int keyfile_load(const char *path, struct keyfile *ret_key, struct error *err)
{
    char text[KEY_FILE_MAX + 1];
    struct stat st;
    CLEANUP_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return error_sys(err, -errno, "cannot open key file %s", path);
    int r = check_access(path, &st, err);
    if (r < 0)
        return r;
    r = file_pread(fd, text, (size_t)st.st_size, 0);
    if (r < 0)
        return error_sys(err, r, "cannot read key file %s", path);
    text[st.st_size] = '\0';
    r = parse(path, text, ret_key, err);
    explicit_bzero(text, sizeof(text));
    return r;
}

void keyfile_clear(struct keyfile *key)
{
    explicit_bzero(key, sizeof(*key));
}
