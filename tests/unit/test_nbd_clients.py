#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The NBD server under the clients that people use: libnbd's tools and bindings, QEMU's, fio. Those that are not
installed are skipped; 77 if none is."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

from nbd_rig import *

try:
    import nbd
except ImportError:
    nbd = None


def needs(*tools):
    missing = [tool for tool in tools if not shutil.which(tool)]
    return unittest.skipIf(missing, "not installed: " + ", ".join(missing))


def run(*command, status=0, **kwargs):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=LIMIT_S,
                            check=False, **kwargs)
    if result.returncode != status:
        raise AssertionError(f"{command} has ended with {result.returncode}: {result.stdout}")
    return result.stdout


def random_file(path, size):
    """Data, a hole in the middle, zeros that are written."""
    with open(path, "wb") as f:
        f.write(os.urandom(size // 4))
        f.seek(size // 2)
        f.write(bytes(size // 8) + os.urandom(size // 8))
        f.truncate(size)


def same(a, b):
    return run("cmp", a, b) == ""


class Libnbd(unittest.TestCase):
    @needs("nbdinfo")
    def test_nbdinfo(self):
        with Server(size=16 * MIB) as server:
            info = json.loads(run("nbdinfo", "--json", server.uri))["exports"][0]
            self.assertEqual((info["export-name"], info["export-size"]), ("disk", 16 * MIB))
            for can in ("df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"):
                self.assertTrue(info["can_" + can], can)
            self.assertEqual(info["contexts"], ["base:allocation"])
            self.assertIn('export="disk"', run("nbdinfo", "--list", server.uri))
            run("nbdinfo", server.uri.replace("?", "other?"), status=1)
            server("refuse this end is passive: ask host west")
            run("nbdinfo", server.uri, status=1)

    @needs("nbdcopy")
    def test_nbdcopy_in_and_out(self):
        with Server(size=128 * MIB) as server:
            source, back = (os.path.join(server.directory, name) for name in ("source", "back"))
            random_file(source, 128 * MIB)
            for flags in ((), ("--connections=8", "--requests=128"), ("--synchronous",)):
                run("nbdcopy", *flags, "--destination-is-zero", source, server.uri)
                self.assertTrue(same(source, server.file))
                run("nbdcopy", *flags, server.uri, back)
                self.assertTrue(same(source, back))
                os.remove(back)
                random_file(source, 128 * MIB)
                run("nbdcopy", *flags, "--flush", source, server.uri)
                self.assertTrue(same(source, server.file))

    @unittest.skipIf(nbd is None, "not installed: python3-libnbd")
    def test_many_in_flight_over_many_connections(self):
        """Each connection has its own part of the volume; what one has written and flushed, all see."""
        block, each = 24 * 1024, 300
        with Server(size=64 * MIB) as server:
            handles = []
            for _ in range(4):
                handle = nbd.NBD()
                handle.connect_uri(server.uri)
                handles.append(handle)
            data = os.urandom(4 * each * block)
            for i, handle in enumerate(handles):
                for k in range(each):
                    at = (i * each + k) * block
                    handle.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data[at:at + block])), at)
            while any(handle.aio_in_flight() for handle in handles):
                for handle in handles:
                    while handle.poll(0) > 0:
                        pass
                    cookie = handle.aio_peek_command_completed() if handle.aio_in_flight() else 0
                    while cookie > 0:
                        self.assertTrue(handle.aio_command_completed(cookie))
                        cookie = handle.aio_peek_command_completed() if handle.aio_in_flight() else 0
            handles[0].flush()
            self.assertEqual(handles[3].pread(8 * MIB, 0), data[:8 * MIB])
            self.assertEqual(server.stat()["writes"], 4 * each)
            for handle in handles:
                handle.shutdown()

    @unittest.skipIf(nbd is None, "not installed: python3-libnbd")
    def test_errors_reach_a_client(self):
        with Server(size=MIB) as server:
            handle = nbd.NBD()
            handle.set_strict_mode(0)
            handle.connect_uri(server.uri)
            for call, error in (
                (lambda: handle.pread(2, MIB - 1), "EINVAL"), (lambda: handle.pwrite(b"ab", MIB - 1), "ENOSPC"),
                (lambda: handle.trim(2, MIB - 1), "EINVAL"), (lambda: handle.zero(2, MIB - 1), "ENOSPC"),
            ):
                with self.assertRaises(nbd.Error) as caught:
                    call()
                self.assertEqual(caught.exception.errno, error)
            handle.pwrite(b"fine", 0, nbd.CMD_FLAG_FUA)
            self.assertEqual(handle.pread(4, 0), b"fine")
            handle.shutdown()


class Qemu(unittest.TestCase):
    @needs("qemu-img")
    def test_convert_and_compare(self):
        with Server(size=64 * MIB) as server:
            source = os.path.join(server.directory, "source")
            random_file(source, 64 * MIB)
            run("qemu-img", "convert", "-n", "-W", "-m", "16", "-f", "raw", "-O", "raw", source, server.uri)
            self.assertIn("identical", run("qemu-img", "compare", "-f", "raw", "-F", "raw", source, server.uri))
            self.assertTrue(same(source, server.file))
            back = os.path.join(server.directory, "back.qcow2")
            run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", server.uri, back)
            self.assertIn("identical", run("qemu-img", "compare", "-F", "raw", back, server.uri))
            self.assertIn('"zero": true', run("qemu-img", "map", "--output=json", "-f", "raw", server.uri))

    @needs("qemu-img")
    def test_a_refusal_is_readable(self):
        with Server(refuse=1) as server:
            server("refuse this end is passive: ask host west")
            self.assertIn("this end is passive: ask host west", run("qemu-img", "info", server.uri, status=1))
            server("serve")
            self.assertIn("no export of this name", run("qemu-img", "info", server.uri.replace("?", "x?"), status=1))

    @needs("qemu-io")
    def test_patterns(self):
        commands = (
            "write -P 1 0 4M", "write -P 2 65536 64k", "write -P 3 -f 131073 777", "discard 1M 1M", "write -z 2M 64k",
            "write -z -u 3M 64k", "aio_write -P 4 8M 1M", "aio_write -P 5 9M 1M", "aio_write -P 6 8704k 64k", "aio_flush",
            "flush", "read -P 1 0 65536", "read -P 2 65536 65535", "read -P 2 131000 72", "read -P 3 131073 777",
            "read -P 1 131850 1000", "read -P 0 1M 1M", "read -P 0 2M 64k", "read -P 0 3M 64k", "read -P 4 8M 512k",
            "read -P 5 9M 1M", "write -P 7 32M 30M", "read -P 7 32M 30M",
        )
        with Server() as server:
            arguments = [part for command in commands for part in ("-c", command)]
            out = run("qemu-io", "-f", "raw", server.uri, *arguments)
            self.assertNotIn("failed", out)
            self.assertNotIn("error", out)

    @needs("qemu-io")
    def test_a_reconnecting_client_survives_another_daemon(self):
        """Its write is under way when the first server is killed, or closes its gate: the next one gets it."""
        with Server() as first:
            image = f"driver=nbd,server.type=unix,server.path={first.socket},reconnect-delay=60"
            for way in ("kill", "gate closed"):
                server = Server(directory=first.directory) if way != "kill" else first
                if way == "kill":
                    server("hold")
                else:
                    server("gate held")
                client = subprocess.Popen(["qemu-io", "--image-opts", image], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
                client.stdin.write("write -P 9 4096 1M\nread -P 9 4096 1M\nflush\nquit\n")
                client.stdin.flush()
                server.until(lambda stat: stat["at_store"] + stat["waiting"] == 1)
                if way == "kill":
                    server.kill()
                    server.process.stdout.close()
                else:
                    server("gate closed")
                    server("refuse the daemon restarts")
                    server.close()
                with Server(directory=first.directory) as second:
                    out = client.communicate(timeout=LIMIT_S)[0]
                    self.assertIn("wrote 1048576/1048576", out)
                    self.assertNotIn("failed", out)
                    self.assertEqual(second.stat()["written_bytes"], MIB)
                with open(first.file, "rb") as f:
                    f.seek(4096)
                    self.assertEqual(f.read(MIB), b"\t" * MIB)
                    os.truncate(first.file, 0)
                    os.truncate(first.file, 64 * MIB)


def fio(uri, *options):
    out = run("fio", "--name=t", "--ioengine=nbd", "--uri=" + uri, "--output-format=json", *options)
    return json.loads(out[out.index("{\n"):out.rindex("}") + 1])["jobs"]


def cpu_s(pid):
    """CPU time of a process so far."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Fio(unittest.TestCase):
    @needs("fio")
    def test_verify(self):
        for options in (("--bs=4k", "--iodepth=16"), ("--bsrange=512-128k", "--bs_unaligned", "--iodepth=32"),
                        ("--bs=1m", "--iodepth=8"), ("--bs=4k", "--iodepth=500")):
            with Server(size=32 * MIB) as server:
                jobs = fio(server.uri, "--rw=randwrite", "--size=32m", "--verify=crc32c", "--do_verify=1",
                           "--verify_fatal=1", "--verify_state_save=0", "--fsync=500", *options)
                self.assertEqual(jobs[0]["error"], 0)
                self.assertGreater(jobs[0]["read"]["total_ios"], 0)
                stat = server.stat()
                self.assertEqual((stat["errors"], stat["queue_bytes"]), (0, 0))

    @needs("fio", "nbdkit")
    def test_rate_beside_nbdkit(self):
        """Not a limit, a figure: 4 KiB random writes at depth 16, in turns, on files in memory."""
        size = 64 * MIB
        memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
        with tempfile.TemporaryDirectory(dir=memory) as directory, Server(size=size, directory=directory) as server:
            other = os.path.join(server.directory, "other")
            for path in (server.file, other):
                with open(path, "wb") as f:
                    f.write(os.urandom(size))
            path = os.path.join(server.directory, "nbdkit.sock")
            nbdkit = subprocess.Popen(["nbdkit", "-f", "-U", path, "file", other])
            try:
                while not os.path.exists(path):
                    time.sleep(0.01)
                servers = ((server.process.pid, server.uri), (nbdkit.pid, f"nbd+unix:///?socket={path}"))
                figures = [[], []]
                for i in (0, 1) * 3:
                    pid, uri = servers[i]
                    before = cpu_s(pid)
                    job = fio(uri, "--rw=randwrite", "--bs=4k", "--iodepth=16", "--size=64m", "--randrepeat=0")[0]
                    figures[i].append((job["write"]["iops"], (cpu_s(pid) - before) / job["write"]["total_ios"] * 1e6))
            finally:
                nbdkit.terminate()
                nbdkit.wait()
            (ours, our_us), (theirs, their_us) = ((max(r for r, _ in f), min(us for _, us in f)) for f in figures)
            print(f"4 KiB random writes, depth 16: {ours:.0f}/s with {our_us:.1f} us of CPU each; nbdkit file: "
                  f"{theirs:.0f}/s with {their_us:.1f} us; ratio of the rates {ours / theirs:.2f}", flush=True)


if __name__ == "__main__":
    result = unittest.main(verbosity=2, argv=sys.argv, exit=False).result
    if result.testsRun == len(result.skipped):
        sys.exit(77)
    sys.exit(not result.wasSuccessful())
