#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""powerfs forgets exactly what was not synced: each test writes, syncs a part, loses power, mounts again and looks.

Needs root, /dev/fuse and the program's path in $POWERFS; skips (77) without them.
"""

import ctypes
import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

POWERFS = os.environ.get("POWERFS", "")
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16
libc = ctypes.CDLL(None, use_errno=True)


def fallocate(fd, mode, offset, size):
    if libc.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(size)) != 0:
        raise OSError(ctypes.get_errno(), "fallocate")


def sync_directory(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    os.close(fd)


class PowerTest(unittest.TestCase):
    def setUp(self):
        self.top = tempfile.mkdtemp(prefix="powerfs-test-")
        self.disk = os.path.join(self.top, "disk")
        os.mkdir(self.disk)
        self.process = None
        self.mount()

    def tearDown(self):
        subprocess.run(["umount", "-l", self.disk], stderr=subprocess.DEVNULL, check=False)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.top)

    def mount(self, seed="7"):
        self.process = subprocess.Popen([POWERFS, os.path.join(self.top, "platter"), self.disk, seed],
                                        stderr=subprocess.DEVNULL)
        while not os.path.ismount(self.disk):
            self.assertIsNone(self.process.poll(), "powerfs ended")
            time.sleep(0.005)

    def lose_power(self, how=signal.SIGUSR2, seed="7"):
        self.process.send_signal(how)
        self.process.wait()
        subprocess.run(["umount", "-l", self.disk], check=True)
        self.mount(seed)

    def path(self, name):
        return os.path.join(self.disk, name)

    def write(self, name, data, sync=True, offset=0):
        fd = os.open(self.path(name), os.O_RDWR | os.O_CREAT, 0o644)
        os.pwrite(fd, data, offset)
        if sync:
            os.fsync(fd)
        os.close(fd)

    def read(self, name):
        with open(self.path(name), "rb") as file:
            return file.read()

    def names(self, directory=""):
        return sorted(os.listdir(self.path(directory)))


class Contents(PowerTest):
    def test_only_synced_writes_stay(self):
        self.write("a", b"old" * 5000)
        self.write("a", b"NEW", sync=False, offset=6000)
        self.write("b", b"synced")
        self.assertEqual(self.read("a")[6000:6003], b"NEW")
        self.lose_power()
        self.assertEqual(self.read("a"), b"old" * 5000)
        self.assertEqual(self.read("b"), b"synced")

    def test_fdatasync_makes_an_append_durable(self):
        self.write("a", b"x" * 1000)
        fd = os.open(self.path("a"), os.O_WRONLY | os.O_APPEND)
        os.write(fd, b"y" * 1000)
        os.fdatasync(fd)
        os.write(fd, b"z" * 1000)
        os.close(fd)
        self.lose_power()
        self.assertEqual(self.read("a"), b"x" * 1000 + b"y" * 1000)

    def test_write_with_dsync_is_durable(self):
        self.write("a", b"x" * 8192)
        fd = os.open(self.path("a"), os.O_WRONLY | os.O_DSYNC)
        os.pwrite(fd, b"d" * 100, 4000)
        os.close(fd)
        self.lose_power()
        self.assertEqual(self.read("a")[4000:4100], b"d" * 100)

    def test_direct_writes_are_forgotten_too(self):
        self.write("a", b"x" * 8192)
        import mmap
        page = mmap.mmap(-1, 4096)
        page.write(b"d" * 4096)
        fd = os.open(self.path("a"), os.O_RDWR | os.O_DIRECT)
        os.pwrite(fd, page, 4096)
        os.close(fd)
        self.lose_power()
        self.assertEqual(self.read("a"), b"x" * 8192)

    def test_truncate_is_forgotten(self):
        self.write("a", b"x" * 10000)
        os.truncate(self.path("a"), 100)
        os.truncate(self.path("a"), 9000)
        self.lose_power()
        self.assertEqual(self.read("a"), b"x" * 10000)

    def test_truncate_is_kept_when_synced(self):
        self.write("a", b"x" * 10000)
        fd = os.open(self.path("a"), os.O_RDWR)
        os.ftruncate(fd, 100)
        os.ftruncate(fd, 9000)
        os.fsync(fd)
        os.close(fd)
        self.lose_power()
        self.assertEqual(self.read("a"), b"x" * 100 + bytes(8900))

    def test_holes_are_forgotten_or_kept(self):
        for name, mode in (("punched", PUNCH_HOLE | KEEP_SIZE), ("zeroed", ZERO_RANGE)):
            self.write(name, b"x" * 65536)
            fd = os.open(self.path(name), os.O_RDWR)
            fallocate(fd, mode, 8192, 8192)
            os.fsync(fd)
            fallocate(fd, mode, 32768, 8192)
            self.assertEqual(os.pread(fd, 8192, 32768), bytes(8192))
            os.close(fd)
        self.lose_power()
        for name in ("punched", "zeroed"):
            self.assertEqual(self.read(name), b"x" * 8192 + bytes(8192) + b"x" * 49152)

    def test_sparse_files_stay_sparse(self):
        fd = os.open(self.path("a"), os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 1 << 30)
        os.pwrite(fd, b"data", 1 << 29)
        os.fsync(fd)
        self.assertEqual(os.lseek(fd, 0, os.SEEK_DATA), 1 << 29)
        os.close(fd)
        self.lose_power()
        self.assertEqual(os.stat(self.path("a")).st_size, 1 << 30)
        self.assertLess(os.stat(self.path("a")).st_blocks * 512, 1 << 20)

    def test_a_kill_forgets_as_well(self):
        self.write("a", b"x" * 100000)
        self.write("a", b"y" * 100, sync=False)
        self.lose_power(signal.SIGKILL)
        self.assertEqual(self.read("a"), b"x" * 100000)

    def test_an_unmount_forgets_nothing(self):
        self.write("a", b"x" * 100, sync=False)
        subprocess.run(["umount", self.disk], check=True)
        self.process.wait()
        self.mount()
        self.assertEqual(self.read("a"), b"x" * 100)

    def test_exactly_the_state_of_each_files_last_sync(self):
        """Random writes, resizes, holes and syncs, against a model."""
        chance = random.Random(1)
        fds = [os.open(self.path(str(i)), os.O_RDWR | os.O_CREAT) for i in range(3)]
        live = [bytearray() for _ in fds]
        durable = [bytes() for _ in fds]
        for fd in fds:
            os.fsync(fd)
        for _ in range(600):
            i = chance.randrange(len(fds))
            offset, size = chance.randrange(60000), chance.randrange(1, 9000)
            action = chance.choice(("write", "write", "write", "resize", "punch", "sync"))
            if action == "write":
                data = chance.randbytes(size)
                os.pwrite(fds[i], data, offset)
                live[i] += bytes(max(0, offset + size - len(live[i])))
                live[i][offset:offset + size] = data
            elif action == "resize":
                os.ftruncate(fds[i], offset)
                del live[i][offset:]
                live[i] += bytes(offset - len(live[i]))
            elif action == "punch":
                fallocate(fds[i], PUNCH_HOLE | KEEP_SIZE, offset, size)
                end = min(len(live[i]), offset + size)
                if end > offset:
                    live[i][offset:end] = bytes(end - offset)
            else:
                os.fdatasync(fds[i])
                durable[i] = bytes(live[i])
        for i, fd in enumerate(fds):
            self.assertEqual(os.pread(fd, 1 << 20, 0), bytes(live[i]))
            os.close(fd)
        self.lose_power()
        for i, content in enumerate(durable):
            self.assertEqual(self.read(str(i)), content, f"file {i}")


class Names(PowerTest):
    def test_a_new_name_needs_a_sync(self):
        self.write("kept", b"1")
        self.write("lost", b"2", sync=False)
        self.assertEqual(self.names(), ["kept", "lost"])
        self.lose_power()
        self.assertEqual(self.names(), ["kept"])

    def test_a_synced_directory_keeps_its_names_not_their_contents(self):
        self.write("a", b"content", sync=False)
        sync_directory(self.disk)
        self.lose_power()
        self.assertEqual(self.names(), ["a"])
        self.assertEqual(self.read("a"), b"")

    def test_rename_needs_a_sync(self):
        self.write("a", b"old")
        self.write("a.new", b"new")
        os.rename(self.path("a.new"), self.path("a"))
        self.assertEqual(self.read("a"), b"new")
        self.lose_power()
        self.assertEqual(self.names(), ["a", "a.new"])
        self.assertEqual(self.read("a"), b"old")
        os.rename(self.path("a.new"), self.path("a"))
        sync_directory(self.disk)
        self.lose_power()
        self.assertEqual(self.names(), ["a"])
        self.assertEqual(self.read("a"), b"new")

    def test_a_removed_file_comes_back_whole(self):
        self.write("a", b"old")
        self.write("a", b"NEW", sync=False)
        os.unlink(self.path("a"))
        self.assertEqual(self.names(), [])
        self.lose_power()
        self.assertEqual(self.read("a"), b"old")
        os.unlink(self.path("a"))
        sync_directory(self.disk)
        self.lose_power()
        self.assertEqual(self.names(), [])

    def test_a_removed_file_serves_who_has_it_open(self):
        self.write("a", b"old")
        fd = os.open(self.path("a"), os.O_RDWR)
        os.unlink(self.path("a"))
        sync_directory(self.disk)
        os.pwrite(fd, b"NEW", 0)
        self.assertEqual(os.pread(fd, 10, 0), b"NEW")
        os.close(fd)
        self.assertEqual(self.names(), [])

    def test_a_sync_of_content_alone_commits_no_names(self):
        self.write("a", b"old")
        os.mkdir(self.path("d"))
        self.write("a", b"new")
        self.lose_power()
        self.assertEqual(self.names(), ["a"])
        self.assertEqual(self.read("a"), b"new")

    def test_directories_and_modes(self):
        os.makedirs(self.path("d/e"), mode=0o700)
        self.write("d/e/f", b"x")
        os.chmod(self.path("d/e/f"), 0o600)
        sync_directory(self.path("d/e"))
        self.lose_power()
        self.assertEqual(self.read("d/e/f"), b"x")
        self.assertEqual(os.stat(self.path("d/e/f")).st_mode & 0o777, 0o644)
        with self.assertRaises(OSError):
            os.rmdir(self.path("d"))

    def test_locks_work(self):
        import fcntl
        self.write("a", b"")
        first, second = (open(self.path("a"), "r+b") for _ in range(2))
        fcntl.flock(first, fcntl.LOCK_EX)
        with self.assertRaises(BlockingIOError):
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first.close()
        fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        second.close()


class Torn(PowerTest):
    def test_every_sector_is_old_or_new(self):
        sectors = 64
        kinds = set()
        for seed in range(1, 9):
            self.lose_power(seed=str(seed))
            self.write("a", b"o" * 512 * sectors)
            self.write("a", b"N" * 512 * sectors, sync=False)
            self.lose_power(signal.SIGUSR1, seed=str(seed))
            content = self.read("a")
            found = {content[i * 512:(i + 1) * 512] for i in range(sectors)}
            self.assertLessEqual(found, {b"o" * 512, b"N" * 512})
            self.assertEqual(len(content), 512 * sectors)
            kinds.add(len(found))
        self.assertEqual(kinds, {1, 2}, "both whole and torn files were expected in eight seeds")

    def test_what_was_synced_is_never_torn(self):
        for seed in range(1, 6):
            self.lose_power(seed=str(seed))
            self.write("a", b"o" * 100000)
            self.write("b", b"x" * 100000, sync=False)
            self.lose_power(signal.SIGUSR1, seed=str(seed))
            self.assertEqual(self.read("a"), b"o" * 100000)
            if "b" in self.names():
                self.assertLessEqual(set(self.read("b")), {0, ord("x")})

    def test_names_fall_back_in_order(self):
        """Of three files made without a sync, the ones that are left were made first."""
        seen = set()
        for seed in range(1, 13):
            self.lose_power(seed=str(seed))
            for name in self.names():
                os.unlink(self.path(name))
            sync_directory(self.disk)
            for name in "abc":
                self.write(name, b"", sync=False)
            self.lose_power(signal.SIGUSR1, seed=str(seed))
            left = "".join(self.names())
            self.assertIn(left, ("", "a", "ab", "abc"))
            seen.add(left)
        self.assertGreater(len(seen), 1)


class Faults(PowerTest):
    def set(self, text):
        with open(os.path.join(self.top, "platter.faults"), "w") as file:
            file.write(text)

    def fails(self, number, function, *arguments):
        with self.assertRaises(OSError) as caught:
            function(*arguments)
        self.assertEqual(caught.exception.errno, number)

    def test_what_is_said_fails_and_nothing_else(self):
        one, two = (os.open(os.path.join(self.disk, name), os.O_RDWR | os.O_CREAT) for name in ("one", "two"))
        self.set("write EIO /one 4096 4096\nsync ENOSPC /two\n")
        self.assertEqual(os.pwrite(one, b"x" * 4096, 0), 4096)
        self.fails(errno.EIO, os.pwrite, one, b"x" * 4096, 4096)
        self.fails(errno.EIO, fallocate, one, KEEP_SIZE | PUNCH_HOLE, 0, 8192)
        self.assertEqual(os.pwrite(two, b"y" * 8192, 0), 8192)
        os.fsync(one)
        self.fails(errno.ENOSPC, os.fsync, two)
        self.set("any EIO *\n")
        self.fails(errno.EIO, os.pwrite, two, b"y", 0)
        self.fails(errno.EIO, os.fsync, one)
        self.set("")
        os.fsync(two)
        self.assertEqual(os.pread(one, 8192, 0), b"x" * 4096)
        os.close(one)
        os.close(two)

if __name__ == "__main__":
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not os.access(POWERFS, os.X_OK):
        print("needs root, /dev/fuse and $POWERFS")
        sys.exit(77)
    unittest.main()
