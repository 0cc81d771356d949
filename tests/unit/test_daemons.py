#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""primaryd as a service manager sees it: command line, exit status, readiness, watchdog, the control socket, its guard,
and one daemon an end. In a network namespace and directories of its own; no peer."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import unittest

PRIMARYD = os.path.abspath("../../primaryd/primaryd")
SECONDARYD = os.path.abspath("../../secondaryd/secondaryd")
PAIRCTL = os.path.abspath("../../pairctl/pairctl")
POWERFS = os.path.abspath("../powerfs/powerfs")
LIMIT_S = 60
NAMESPACE = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def pair(directory):
    return {
        "format": 1,
        "pair": "alone",
        "ends": {"primary": {"host": "alpha"}, "secondary": {"host": "beta"}},
        "channel": {"paths": [{"primary": "127.0.0.1", "secondary": "127.0.0.2", "port": 7400}]},
        "takeover": "manual",
        "volumes": [{"name": "disk", "size": "1M", "primary": {"path": directory + "/disk.img"},
                     "secondary": {"path": "/nowhere/disk.img"}}],
    }


def wait_for(what, condition):
    end = time.monotonic() + LIMIT_S
    while not (found := condition()):
        if time.monotonic() > end:
            raise AssertionError(f"in vain for {LIMIT_S} s: {what}")
        time.sleep(0.02)
    return found


class Daemon:
    def __init__(self, place, runtime="run", program=PRIMARYD, host="alpha", config="pair.json", inside=NAMESPACE,
                 **environment):
        self.log = os.path.join(place, f"log.{len(os.listdir(place))}")
        arguments = [program, "--config", os.path.join(place, config), "--state-dir", place + "/lib", "--runtime-dir",
                     os.path.join(place, runtime), "--host", host]
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [*inside, *arguments], env=dict(os.environ, **environment), stdin=subprocess.DEVNULL, stdout=log,
                stderr=log)

    def said(self, pattern):
        with open(self.log, errors="replace") as log:
            return re.findall(pattern, log.read())

    def says(self, pattern):
        return wait_for(f"{pattern!r} in the log", lambda: self.said(pattern))[-1]

    def stat(self):
        with open(f"/proc/{self.process.pid}/stat") as file:
            return file.read()

    def end(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        return self.process.wait(LIMIT_S)


class CommandLine(unittest.TestCase):
    def run_with(self, *arguments, program=PRIMARYD):
        return subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, timeout=LIMIT_S, text=True)

    def test_help_and_version(self):
        for program, name in ((PRIMARYD, "primaryd"), (SECONDARYD, "secondaryd")):
            self.assertEqual(self.run_with("--help", program=program).returncode, 0)
            done = self.run_with("--version", program=program)
            self.assertEqual(done.returncode, 0)
            self.assertRegex(done.stdout, rf"^{name} \d+\.\d+")

    def test_wrong_usage_is_2_and_says_what(self):
        for arguments, said in ((("--nonsense",), "nonsense"), (("something",), "something"),
                                (("--log-level", "loud"), "loud")):
            done = self.run_with(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(said, done.stderr)

    def test_a_wrong_pair_file_is_1_and_names_the_field(self):
        with tempfile.TemporaryDirectory() as place:
            wrong = pair(place)
            wrong["volumes"][0]["size"] = "much"
            path = os.path.join(place, "pair.json")
            for text, said in ((json.dumps(wrong), r"volumes\[0\]\.size"), ("{", r"pair\.json")):
                with open(path, "w") as file:
                    file.write(text)
                done = self.run_with("--config", path, "--state-dir", place + "/lib", "--runtime-dir", place + "/run",
                                     "--host", "alpha")
                self.assertEqual(done.returncode, 1)
                self.assertRegex(done.stderr, said)


class Running(unittest.TestCase):
    def setUp(self):
        self.place = tempfile.mkdtemp(prefix="understudy-test-daemons-")
        self.addCleanup(shutil.rmtree, self.place, ignore_errors=True)
        self.addCleanup(self.end_all)
        self.daemons = []
        with open(self.place + "/pair.json", "w") as file:
            json.dump(pair(self.place), file)
        with open(self.place + "/disk.img", "wb") as file:
            file.truncate(1 << 20)

    def start(self, *arguments, **options):
        daemon = Daemon(self.place, *arguments, **options)
        self.daemons.append(daemon)
        return daemon

    def end_all(self):
        for daemon in self.daemons:
            if daemon.process.poll() is None:
                daemon.end(signal.SIGKILL)
        for pid in self.guards():
            os.kill(pid, signal.SIGKILL)

    def guards(self):
        """Guards of this test: no other's command line has its directory."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as file:
                    words = file.read().decode(errors="replace").split("\0")
            except OSError:
                continue
            if "understudy-guard" in words[0] and any(word.startswith(self.place + "/") for word in words):
                found.append(int(pid))
        return found

    def test_ready_watched_and_ended_in_order(self):
        path = self.place + "/notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(path)
            notify.settimeout(LIMIT_S)
            daemon = self.start(NOTIFY_SOCKET=path, WATCHDOG_USEC="1000000")
            heard = []

            def hear(word):
                while word not in heard:
                    heard.extend(notify.recv(4096).decode().splitlines())
                heard.remove(word)

            hear("READY=1")
            mode = os.stat(self.place + "/run/primaryd.sock").st_mode
            self.assertTrue(stat.S_ISSOCK(mode))
            self.assertEqual(stat.S_IMODE(mode), 0o660)
            for _ in range(3):
                hear("WATCHDOG=1")
            self.assertEqual(daemon.end(), 0)
            hear("STOPPING=1")

    def slices(self, daemon):
        """{name of a thread: [slices in ns]} of the threads at ordinary priority, as far as the kernel shows them."""
        found = {}
        for tid in os.listdir(f"/proc/{daemon.process.pid}/task"):
            try:
                with open(f"/proc/{daemon.process.pid}/task/{tid}/sched", encoding="ascii") as file:
                    lines = dict(re.findall(r"^(\S+)\s*:\s*(\S+)$", file.read(), re.M))
                with open(f"/proc/{daemon.process.pid}/task/{tid}/comm", encoding="ascii") as file:
                    name = file.read().strip()
            except OSError:
                continue
            if lines.get("policy") == "0" and "se.slice" in lines:
                found.setdefault(name, []).append(int(lines["se.slice"]))
        return found

    def test_data_threads_have_a_short_slice(self):
        if tuple(map(int, re.findall(r"\d+", os.uname().release)[:2])) < (6, 12):
            self.skipTest("this kernel knows no slices of single threads")
        if not os.path.exists("/proc/self/sched"):
            self.skipTest("this kernel does not show slices")
        daemon = self.start()
        wait_for("both data threads", lambda: {"front", "stream"} <= set(self.slices(daemon)))
        # The channel's own thread, too, which has the daemon's name.
        wait_for("short slices", lambda: all(400000 in self.slices(daemon)[name]
                                             for name in ("front", "stream", "primaryd")))

    def test_a_wedged_daemon_is_silent(self):
        path = self.place + "/notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(path)
            notify.settimeout(LIMIT_S)
            daemon = self.start(NOTIFY_SOCKET=path, WATCHDOG_USEC="400000")
            while b"READY=1" not in notify.recv(4096):
                pass
            daemon.process.send_signal(signal.SIGSTOP)
            wait_for("a stopped process", lambda: " (primaryd) T" in daemon.stat())
            notify.settimeout(1)
            with self.assertRaises(TimeoutError):
                while True:  # what was sent before
                    notify.recv(4096)
            daemon.process.send_signal(signal.SIGCONT)
            notify.settimeout(LIMIT_S)
            while b"WATCHDOG=1" not in notify.recv(4096):
                pass
            self.assertEqual(daemon.end(), 0)

    def test_the_next_daemon_finds_the_guard(self):
        first = self.start()
        pid = first.says(r"guard (\d+) started")
        first.says("runs its primary end")
        self.assertEqual(first.end(), 0)
        self.assertEqual(self.guards(), [int(pid)])
        second = self.start()
        self.assertEqual(second.says(r"guard (\d+) found running"), pid)
        self.assertEqual(second.end(), 0)

    def test_a_dead_guard_is_replaced(self):
        daemon = self.start()
        pid = int(daemon.says(r"guard (\d+) started"))
        daemon.says("runs its primary end")
        os.kill(pid, signal.SIGKILL)
        daemon.says("the guard has died")
        wait_for("another guard", lambda: len(set(daemon.said(r"guard (\d+) started"))) == 2)
        self.assertEqual(daemon.end(), 0)

    def test_a_hangup_changes_nothing(self):
        """Neither a request to read settings anew nor a terminal that is gone ends a daemon; it says what does what is wanted."""
        daemon = self.start()
        daemon.says("runs its primary end")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.says("SIGHUP: nothing is read anew")
        self.assertEqual(daemon.end(), 0)

    def test_a_full_runtime_directory_is_said(self):
        """No room for what a run leaves to the next one of its boot: said with the file's name, and nobody dies of it."""
        run = self.place + "/run"
        os.mkdir(run)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", run], check=False).returncode != 0:
            self.skipTest("cannot mount a tmpfs")
        self.addCleanup(subprocess.run, ["umount", "-l", run], check=True)
        with open(run + "/filler", "wb", buffering=0) as file:
            while True:
                try:
                    file.write(bytes(4096))
                except OSError:
                    break
        daemon = self.start()
        daemon.says(r"no room for .*/vitals: No space left on device")
        self.assertEqual(daemon.process.wait(LIMIT_S), 1)
        os.unlink(run + "/filler")
        again = self.start()
        again.says("runs its primary end")
        self.assertEqual(again.end(), 0)

    def test_an_end_has_one_daemon(self):
        first = self.start()
        first.says("runs its primary end")
        second = self.start("run2")
        second.says("another daemon runs this end")
        self.assertEqual(second.process.wait(LIMIT_S), 1)
        self.assertEqual(first.end(), 0)

    def test_the_ends_of_a_pair_do_not_share_a_runtime_directory(self):
        """Both would make the sockets of its exports there."""
        first = self.start()
        first.says("runs its primary end")
        second = self.start(program=SECONDARYD, host="beta")
        second.says("runs an end of pair alone, and both would make the sockets .* another --runtime-dir")
        self.assertEqual(second.process.wait(LIMIT_S), 1)
        third = self.start("run2", program=SECONDARYD, host="beta")
        third.says("runs its secondary end")
        self.assertEqual(third.end(), 0)
        self.assertEqual(first.end(), 0)

    def write_pairs(self, *names):
        os.mkdir(self.place + "/pairs")
        for number, name in enumerate(names):
            one = pair(self.place)
            one["pair"] = name
            one["channel"]["paths"][0]["port"] += 2 * number
            for end in ("primary", "secondary"):
                one["volumes"][0][end]["path"] = f"{self.place}/{end}-{name}.img"
            with open(f"{self.place}/pairs/{name}.json", "w") as file:
                json.dump(one, file)

    def hang_disk(self, directory):
        """Mounts a file system there that does not answer; returns its process."""
        os.makedirs(directory)
        os.mkdir(self.place + "/platter")
        disk = subprocess.Popen([POWERFS, self.place + "/platter", directory], stdin=subprocess.DEVNULL)
        self.addCleanup(disk.wait)
        self.addCleanup(subprocess.run, ["umount", "-l", directory], check=False)
        self.addCleanup(disk.kill)
        wait_for("the disk", lambda: os.path.ismount(directory) or disk.poll() is not None)
        if disk.poll() is not None:
            self.skipTest("no file system of the tests here")
        disk.send_signal(signal.SIGSTOP)
        return disk

    def ask(self, *words):
        return subprocess.run([PAIRCTL, "--runtime-dir", self.place + "/run", *words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT_S, text=True)

    def test_a_pair_whose_disk_hangs_holds_up_no_other(self):
        if not os.access(POWERFS, os.X_OK):
            self.skipTest("built without libfuse3")
        self.write_pairs("a-hangs", "b", "c")
        disk = self.hang_disk(self.place + "/lib/a-hangs")
        daemon = self.start(config="pairs")
        wait_for("the others", lambda: set(daemon.said("pair (.*): runs its primary end")) == {"b", "c"})
        daemon.says("pair a-hangs: is still being opened")
        self.assertIn("it is being opened", self.ask("-p", "a-hangs", "status").stderr)
        self.assertEqual(self.ask("-p", "b", "status").returncode, 0)
        disk.send_signal(signal.SIGCONT)
        daemon.says("pair a-hangs: runs its primary end")
        self.assertEqual(self.ask("-p", "a-hangs", "status").returncode, 0)
        self.assertEqual(daemon.end(), 0)

    def test_a_daemon_ends_though_a_disk_hangs(self):
        if not os.access(POWERFS, os.X_OK):
            self.skipTest("built without libfuse3")
        self.write_pairs("a-hangs", "b")
        self.hang_disk(self.place + "/lib/a-hangs")
        daemon = self.start(config="pairs")
        daemon.says("pair a-hangs: is still being opened")
        self.assertEqual(daemon.end(), 0)
        self.assertEqual(daemon.said("pair (.*): runs its primary end"), ["b"])

    def test_pairs_that_there_are_no_sockets_for_are_named(self):
        """Eight paths take 9 sockets: there is room for 56 such pairs."""
        os.mkdir(self.place + "/pairs")
        for number in range(57):
            one = pair(self.place)
            one["pair"] = f"p{number:02}"
            for end in ("primary", "secondary"):
                one["volumes"][0][end]["path"] = f"{self.place}/{end}-{number}.img"
            one["channel"]["paths"] = [{"primary": f"127.0.{path}.1", "secondary": f"127.0.{path}.2",
                                        "port": 7400 + 2 * number} for path in range(8)]
            with open(f"{self.place}/pairs/{one['pair']}.json", "w") as file:
                json.dump(one, file)
        daemon = self.start(config="pairs")
        daemon.says("pair p56: does not run: its channel needs 9 sockets .* Use fewer paths")
        wait_for("the others", lambda: len(daemon.said("runs its primary end")) == 56)
        self.assertEqual(len(daemon.said("does not run")), 1)
        self.assertEqual(daemon.end(), 0)

    def machine(self):
        """Namespaces for daemons that come and go, with an interface for a public address: what enters them."""
        one = pair(self.place)
        one["public_address"] = {"addresses": ["192.0.2.10/24"]}
        for end in ("primary", "secondary"):
            one["ends"][end]["public_interface"] = "pub"
        with open(self.place + "/pair.json", "w") as file:
            json.dump(one, file)
        holder = subprocess.Popen(["unshare", "--net", "--mount", "sh", "-c",
                                   "ip link set lo up && ip link add pub type veth && ip link set pub up && echo && "
                                   "exec sleep 86400"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        self.addCleanup(holder.wait)
        self.addCleanup(holder.kill)
        self.addCleanup(holder.stdout.close)
        if not holder.stdout.readline():
            self.skipTest("no interfaces of the kind veth here")
        return ["nsenter", "--target", str(holder.pid), "--net", "--mount"]

    def status(self):
        done = self.ask("status", "--json")
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def serve(self, daemon):
        """Makes the end active, by an operator's word; there is no peer."""
        daemon.says("runs its primary end")
        self.assertEqual(self.ask("takeover", "--force").returncode, 0)
        wait_for("an active end", lambda: self.status().get("state") == "active")

    def crash(self, daemon):
        """Daemon and guard at once."""
        for pid in [daemon.process.pid, *self.guards()]:
            os.kill(pid, signal.SIGKILL)
        daemon.process.wait(LIMIT_S)
        wait_for("no guard", lambda: not self.guards())

    def test_an_address_that_cannot_be_put_on_is_waited_for(self):
        inside = self.machine()
        subprocess.run([*inside, "ip", "link", "delete", "pub"], check=True)
        daemon = self.start(inside=inside)
        daemon.says("runs its primary end")
        operator = subprocess.Popen([PAIRCTL, "--runtime-dir", self.place + "/run", "takeover", "--force"],
                                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.addCleanup(operator.wait)
        self.addCleanup(operator.kill)
        daemon.says('this machine has no network interface "pub"')
        wait_for("the step that waits", lambda: "waits until the public address is on" in self.status()["why"])
        self.assertFalse(self.status()["public_address"]["enabled"])
        subprocess.run([*inside, "ip", "link", "add", "pub", "type", "veth"], check=True)
        wait_for("an active end", lambda: self.status().get("state") == "active")
        self.assertTrue(self.status()["public_address"]["enabled"])
        shown = subprocess.run([*inside, "ip", "address", "show", "pub"], stdout=subprocess.PIPE, text=True, check=True)
        self.assertIn("192.0.2.10/24", shown.stdout)
        self.assertEqual(operator.wait(LIMIT_S), 0)
        self.assertEqual(daemon.end(), 0)

    def test_an_active_end_goes_on_in_its_boot_only(self):
        """A runtime directory that outlived the boot is of the former one."""
        inside = self.machine()
        first = self.start(inside=inside)
        self.serve(first)
        self.crash(first)
        second = self.start(inside=inside)
        second.says("goes on with the queue of the former run")
        wait_for("an active end", lambda: self.status().get("state") == "active")
        self.crash(second)
        with open(self.place + "/boot_id", "w") as file:
            file.write("00000000-0000-4000-8000-000000000000\n")
        subprocess.run([*inside, "mount", "--bind", self.place + "/boot_id", "/proc/sys/kernel/random/boot_id"], check=True)
        third = self.start(inside=inside)
        third.says("started passive: was active")
        self.assertEqual(third.end(), 0)

    def test_an_active_end_that_has_stepped_down_does_not_go_on(self):
        """The flag says it, where the guard that had done it is dead."""
        inside = self.machine()
        first = self.start(inside=inside)
        self.serve(first)
        self.crash(first)
        flag = self.place + "/run/alone/primary/stepped-down"
        self.assertTrue(os.path.exists(flag))
        with open(flag, "w") as file:
            file.write("stepped down: by a test\n")
        second = self.start(inside=inside)
        second.says("started passive: was active")
        self.assertEqual(second.said("goes on with the queue"), [])
        self.assertEqual(second.end(), 0)

    def test_a_damaged_state_waits_for_the_operator(self):
        inside = self.machine()
        first = self.start(inside=inside)
        self.serve(first)
        self.crash(first)
        copies = [f"{self.place}/lib/alone/primary/state.{number}" for number in range(2)]
        for path in copies:
            with open(path, "r+b") as file:
                size = os.fstat(file.fileno()).st_size
                file.write(b"\x5a" * size)
        second = self.start(inside=inside)
        wait_for("damage to be said", lambda: "is damaged" in self.status().get("why", ""))
        self.assertEqual(self.status()["role"], "passive")
        self.assertEqual(second.end(), 0)
        for path in copies:  # nothing is overwritten
            with open(path, "rb") as file:
                self.assertEqual(set(file.read()), {0x5a})


if __name__ == "__main__":
    if not all(os.access(program, os.X_OK) for program in (PRIMARYD, SECONDARYD)):
        print("the daemons are not built beside this test", file=sys.stderr)
        sys.exit(77)
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        print("needs root, unshare and ip", file=sys.stderr)
        sys.exit(77)
    unittest.main()
