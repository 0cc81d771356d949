#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pairctl against daemons made here, which speak the control protocol byte by byte: what it asks, what it prints, and
its exit status (0 done, 1 refused or failed, 2 usage)."""

import json
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import unittest

PAIRCTL = os.path.abspath("../../pairctl/pairctl")
TOP = os.path.join(os.environ.get("srcdir", os.path.dirname(os.path.abspath(__file__))), "../..")
EXAMPLES = os.path.join(TOP, "deploy/examples")
LIMIT_S = 60


class Daemon:
    """Answers control requests at `path` with what `answer(request)` returns; keeps the requests."""

    HELLO = b"\0SP\0\0%c\0\0"
    REP, REQ = 0x31, 0x30

    def __init__(self, path, answer):
        self.answer = answer
        self.requests = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        self.acceptor = threading.Thread(target=self.accept, daemon=True)
        self.acceptor.start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            with connection, connection.makefile("rb") as stream:
                connection.sendall(self.HELLO % self.REP)
                if stream.read(8) != self.HELLO % self.REQ:
                    return  # somebody who only looked whether we are here
                while header := stream.read(9):
                    _, size = struct.unpack(">BQ", header)
                    message = stream.read(size)
                    request = json.loads(message[4:])
                    self.requests.append(request)
                    reply = {"protocol": 1, "code": 0, "text": "", "operation": 0, "body": None}
                    reply.update(self.answer(request))
                    text = message[:4] + json.dumps(reply).encode()
                    connection.sendall(struct.pack(">BQ", 1, len(text)) + text)
        except OSError:
            pass

    def close(self):
        # The thread must be out of accept() before the descriptor's number is given to another daemon's listener.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join()
        self.listener.close()


def end(pair="web", identity="primary", role="active", **more):
    status = {
        "pair": pair, "identity": identity, "role": role, "state": "serving", "why": "all is well", "epoch": 3,
        "mode": "sync", "synchronized": True, "granted": True, "alone": False, "paired": True,
        "stale_ms": None,
        "peer": {"connected": True, "silent_ms": 12, "timeout_ms": 2000},
        "safe_queue": {"records": 3, "bytes": 3 << 20, "oldest_ms": 1500, "limit_bytes": 4 << 20},
        "forecast": {"loss_bytes": 4096, "loss_ms": 12, "takeover_ms": 800},
        "volumes": [{"name": "disk", "size": 10 << 30, "synchronized": True, "serving": True,
                     "export": "/run/understudy/web/disk.nbd"}],
        "applications": [{"name": "guest", "kind": "domain", "state": "running"}],
    }
    status.update(more)
    return status


class Pairctl(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="pairctl")
        self.daemons = []

    def tearDown(self):
        for daemon in self.daemons:
            daemon.close()
        self.directory.cleanup()

    def path(self, name):
        return os.path.join(self.directory.name, name)

    def daemon(self, name, answer):
        daemon = Daemon(self.path(name + ".sock"), answer)
        self.daemons.append(daemon)
        return daemon

    def ends(self, name, *ends, **replies):
        """A daemon with these ends; `replies` are its answers to commands other than status."""
        def answer(request):
            if request["command"] == "status":
                if request["pair"]:
                    return {"body": next(e for e in ends if e["pair"] == request["pair"])}
                return {"body": list(ends)}
            return replies.get(request["command"], {"code": -38, "text": "unknown here"})
        return self.daemon(name, answer)

    def run_raw(self, *args):
        return subprocess.run([PAIRCTL, *args], capture_output=True, text=True, timeout=LIMIT_S)

    def run_ctl(self, *args):
        return self.run_raw(*args, "--runtime-dir", self.directory.name)

    def expect(self, status, *args):
        done = self.run_ctl(*args)
        self.assertEqual(done.returncode, status, f"{args}: {done.stdout}{done.stderr}")
        self.assertEqual(done.stderr == "", status == 0, f"{args}: {done.stderr}")
        return done.stdout if status == 0 else done.stderr


class Usage(Pairctl):
    def test_wrong_words_are_usage_errors(self):
        for args in [[], ["dance"], ["status", "more"], ["wait"], ["wait", "a", "b"], ["wait", "tired"],
                     ["status", "--force"], ["--colour", "status"], ["status", "-p"], ["check"],
                     ["check", "x", "--watch"], ["keygen"], ["resolve"], ["resolve", "--keep", "both"],
                     ["wait", "active", "--timeout", "soon"], ["wait", "active", "--timeout", "-1"],
                     ["takeover", "--force", "--accept-inconsistent"], ["status", "--end", "left"]]:
            done = self.run_raw(*args)
            self.assertEqual(done.returncode, 2, args)
            self.assertEqual(done.stdout, "")
            self.assertTrue(done.stderr.startswith("pairctl: "), args)

    def test_help_and_version(self):
        done = self.run_raw("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for word in ["status", "switch", "takeover", "--json", "Exit status"]:
            self.assertIn(word, done.stdout)
        self.assertIn("--keep primary|secondary", self.run_raw("resolve", "--help").stdout)
        self.assertRegex(self.run_raw("--version").stdout, r"^pairctl \(understudy\) \d")


    def test_manual_and_completion_know_every_command_and_option(self):
        help_text = self.run_raw("--help").stdout
        commands = re.findall(r"^  ([a-z]+) ", help_text, re.MULTILINE)
        options = set(re.findall(r"--[a-z-]+", help_text))
        self.assertGreater(len(commands), 10)
        with open(os.path.join(TOP, "docs/pairctl.8")) as file:
            manual = file.read().replace("\\-", "-")
        with open(os.path.join(TOP, "deploy/completions/pairctl")) as file:
            completion = file.read()
        for command in commands:
            self.assertRegex(manual, rf"(?m)^\.It Cm {command}\b")
            self.assertRegex(completion, rf'commands="[^"]*\b{command}\b')
        for option in options:
            self.assertRegex(manual, rf"Fl {option[1:]}\b", option)
            self.assertIn(option, completion)

    def test_manual_knows_every_field_of_the_status(self):
        with open(os.path.join(TOP, "docs/pairctl.8")) as file:
            words = set(re.findall(r"[a-z_]+", file.read().split(".Sh STATUS FIELDS")[1]))
        self.ends("primaryd", end(last_event={"time_ms": 1, "step": "x", "ms": 1, "text": "",
                                              "loss": {"records": 1, "bytes": 1, "age_ms": 1}},
                                  paths=[{"name": "1"}], waypoints=[{"address": "x"}]))

        def names(value):
            if isinstance(value, dict):
                return set(value).union(*map(names, value.values()))
            return set().union(*map(names, value)) if isinstance(value, list) else set()
        self.assertEqual(names(json.loads(self.expect(0, "status", "--json"))) - words, set())


class Status(Pairctl):
    def test_watch_goes_on(self):
        daemon = self.ends("primaryd", end())
        with subprocess.Popen([PAIRCTL, "status", "--watch", "--json", "--runtime-dir", self.directory.name],
                              stdout=subprocess.PIPE, text=True) as process:
            for _ in range(2):
                self.assertEqual(json.loads(process.stdout.readline())["pair"], "web")
            process.kill()
        self.assertGreaterEqual(len(daemon.requests), 2)

    def test_without_a_daemon(self):
        self.assertIn("no daemon answers", self.expect(1, "status"))
        self.assertIn("no daemon answers", self.expect(1, "switch"))

    def test_one_pair_is_an_object_and_several_are_an_array(self):
        self.ends("primaryd", end())
        self.assertEqual(json.loads(self.expect(0, "status", "--json"))["pair"], "web")
        self.ends("secondaryd", end("mail", "secondary", "passive"))
        both = json.loads(self.expect(0, "status", "--json"))
        self.assertEqual([e["pair"] for e in both], ["web", "mail"])
        one = json.loads(self.expect(0, "-p", "mail", "status", "--json"))
        self.assertEqual(one["role"], "passive")
        self.assertEqual(one["safe_queue"]["limit_bytes"], 4 << 20)
        self.assertIn("pair nowhere", self.expect(1, "status", "-p", "nowhere"))

    def test_no_pair_at_all(self):
        self.ends("primaryd")
        self.assertEqual(json.loads(self.expect(0, "status", "--json")), [])

    def test_what_a_person_reads(self):
        self.ends("primaryd", end(resync={"active": True, "volume": "disk", "kind": "full", "done_bytes": 1 << 30,
                                          "total_bytes": 4 << 30, "rate": 100 << 20, "left_ms": 30720}))
        text = self.expect(0, "status")
        for words in ["web  P/A  serving  synchronized, promotable", "why        all is well", "epoch 3",
                      "3 records, 3 MiB of 4 MiB (75 %), the oldest 1.5 s old", "heard 12 ms ago (timeout 2.0 s)",
                      "a takeover now loses 4 KiB, the last 12 ms, and takes 800 ms",
                      "disk, 10 GiB, synchronized, served at /run/understudy/web/disk.nbd",
                      "guest (domain): running", "25.0 %  1 GiB of 4 GiB, 100 MiB/s, 30.7 s left"]:
            self.assertIn(words, text)
        self.assertNotIn("\033", text)

    def test_a_terminal_is_not_at_the_mercy_of_texts(self):
        self.ends("primaryd", end(why="\033[2Jgone\nweb S/A"))
        text = self.expect(0, "status")
        self.assertNotIn("\033", text)
        self.assertIn("[2Jgone web S/A", text)

    def test_many_ends_are_a_table(self):
        self.ends("primaryd", *[end(f"pair{i}") for i in range(3)])
        lines = self.expect(0, "status").splitlines()
        self.assertEqual(len(lines), 4)
        self.assertTrue(lines[0].startswith("PAIR"))

    def test_unreadable_answers(self):
        self.daemon("primaryd", lambda request: {"body": [{"pair": 7}]})
        self.assertIn("unreadable status", self.expect(1, "status"))

    def test_another_protocol_version(self):
        self.daemon("primaryd", lambda request: {"protocol": 9})
        self.assertIn("control protocol 9", self.expect(1, "status"))

    def test_history(self):
        events = [{"time_ms": 1700000000000, "step": "takeover", "ms": 812, "text": "took over",
                   "loss": {"records": 3, "bytes": 4096, "age_ms": 12}},
                  {"time_ms": 1700000001000, "step": "address on", "ms": None, "text": "", "loss": None}]
        self.ends("primaryd", end(), history={"body": events})
        self.assertEqual(json.loads(self.expect(0, "history", "--json")), events)
        text = self.expect(0, "history")
        self.assertRegex(text, r"takeover +812 ms  took over; lost 3 records, 4 KiB, the oldest 12 ms old")


class Commands(Pairctl):
    def test_a_refusal_is_said_and_fails(self):
        self.ends("primaryd", end(), switch={"code": -16, "text": "not synchronized: 3 MiB to go"})
        self.assertEqual(self.expect(1, "switch"), "pairctl: web: not synchronized: 3 MiB to go\n")

    def test_arguments_arrive(self):
        daemon = self.ends("secondaryd", end(identity="secondary", role="passive"),
                           takeover={"text": "taking over"}, pause={}, resolve={})
        self.assertEqual(self.expect(0, "takeover", "--force"), "taking over\n")
        self.assertEqual(daemon.requests[-1]["args"], [{"name": "force", "value": "true"}])
        self.assertEqual(daemon.requests[-1]["pair"], "web")
        self.expect(0, "takeover", "--accept-inconsistent")
        self.assertEqual(daemon.requests[-1]["args"], [{"name": "accept-inconsistent", "value": "true"}])
        self.expect(0, "pause", "--replay")
        self.assertEqual(daemon.requests[-1]["args"], [{"name": "replay", "value": "true"}])
        self.expect(0, "resolve", "--keep=secondary")
        self.assertEqual(daemon.requests[-1]["args"], [{"name": "keep", "value": "secondary"}])

    def test_several_pairs_need_a_name(self):
        self.ends("primaryd", end("web"), end("mail"), switch={})
        self.assertIn("name one with -p: web, mail", self.expect(2, "switch"))
        self.expect(0, "switch", "-p", "mail")

    def test_the_right_end_is_asked_where_both_are_here(self):
        here = {"switch": {"text": "P"}, "takeover": {"text": "P"}, "pause": {"text": "P"}}
        there = {"switch": {"text": "S"}, "takeover": {"text": "S"}, "pause": {"text": "S"}}
        self.ends("primaryd", end(), **here)
        self.ends("secondaryd", end(identity="secondary", role="passive"), **there)
        self.assertEqual(self.expect(0, "switch"), "P\n")
        self.assertEqual(self.expect(0, "takeover"), "S\n")
        self.assertEqual(self.expect(0, "pause"), "P\n")
        self.assertEqual(self.expect(0, "pause", "--replay"), "S\n")
        self.assertEqual(self.expect(0, "switch", "--end", "secondary"), "S\n")

    def operation(self, *steps, id=5):
        """A daemon on which `switch` starts operation 5, which goes through these (state, text)."""
        left = list(steps)

        def answer(request):
            if request["command"] == "switch":
                return {"operation": 5, "text": "started"}
            now = end()
            if request["pair"]:
                state, text = left.pop(0) if len(left) > 1 else left[0]
                now["operation"] = {"id": id, "name": "switch", "state": state, "text": text}
            return {"body": now if request["pair"] else [now]}
        self.daemon("primaryd", answer)

    def test_an_operation_is_watched_to_its_end(self):
        self.operation(("running", "stopping applications"), ("running", "draining"), ("done", "the peer is active"))
        text = self.expect(0, "switch")
        for words in ["started", "stopping applications", "draining", "the peer is active"]:
            self.assertIn(words, text)

    def test_an_operation_that_fails(self):
        self.operation(("running", "draining"), ("failed", "the peer refused"))
        done = self.run_ctl("switch")
        self.assertEqual(done.returncode, 1)
        self.assertIn("switch failed: the peer refused", done.stderr)

    def test_an_operation_that_takes_too_long(self):
        self.operation(("running", "draining"))
        done = self.run_ctl("switch", "--timeout", "0.2")
        self.assertEqual(done.returncode, 1)
        self.assertIn("it goes on: draining", done.stderr)

    def test_an_operation_that_is_forgotten(self):
        self.operation(("done", ""), id=0)
        done = self.run_ctl("switch")
        self.assertEqual(done.returncode, 1)
        self.assertIn("restarted", done.stderr)


class Wait(Pairctl):
    def test_states(self):
        base = end(alone=False, granted=True)
        rows = [
            ("active", {}, {"role": "passive"}), ("passive", {"role": "passive"}, {}),
            ("synchronized", {}, {"synchronized": False}), ("promotable", {}, {"granted": False}),
            ("alone", {"alone": True}, {}), ("paired", {}, {"paired": False}),
            ("connected", {}, {"peer": {"connected": False}}), ("disconnected", {"peer": {"connected": False}}, {}),
            ("stale", {"stale_ms": 0}, {}), ("split", {"split": True}, {}), ("paused", {"paused": True}, {}),
            ("serving", {}, {"volumes": [{"name": "disk", "serving": False}]}),
        ]
        now = {}
        self.daemon("primaryd", lambda request: {"body": [now]})
        for word, yes, no in rows:
            now.clear()
            now.update(base | no)
            self.assertIn("not " + word, self.expect(1, "wait", word, "--timeout", "0.01"))
            now.update(base | yes)
            if "stale_ms" not in yes:
                now["stale_ms"] = None
            self.expect(0, "wait", word, "--timeout", "30")

    def test_it_waits_until_it_is_so(self):
        left = [end(synchronized=False) for _ in range(3)] + [end()]
        self.daemon("primaryd", lambda request: {"body": [left.pop(0) if len(left) > 1 else left[0]]})
        self.expect(0, "wait", "synchronized")

    def test_a_daemon_that_is_not_there_is_waited_for(self):
        self.assertIn("not running", self.expect(1, "wait", "active", "--timeout", "0.1"))


class Local(Pairctl):
    def test_examples_are_valid(self):
        names = [name for name in os.listdir(EXAMPLES) if name.endswith(".json")] + ["both-ways"]
        self.assertGreaterEqual(len(names), 4)
        for name in names:
            done = self.run_raw("check", "--json", "--host", "elsewhere", os.path.join(EXAMPLES, name))
            self.assertEqual(done.returncode, 0, done.stderr)
            for report in json.loads(done.stdout):
                self.assertTrue(report["ok"])
                # All that an example may be warned about is what nothing in the file can change.
                self.assertEqual([w["field"] for w in report["warnings"] if w["field"]], [], name)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def example(self, name="vm.json"):
        with open(os.path.join(EXAMPLES, name)) as file:
            return file.read()

    def test_a_wrong_file_is_refused_by_field(self):
        path = self.write("bad.json", self.example().replace('"20G"', '"20 gigs"'))
        done = self.run_raw("check", path)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn(f'{path}: volumes[0].size: found "20 gigs"; allowed: a size', done.stderr)
        report = json.loads(self.run_raw("check", "--json", path).stdout)[0]
        self.assertFalse(report["ok"])
        self.assertIn("volumes[0].size", report["error"])

    def test_dangers_are_warned_about(self):
        path = self.write("odd.json", re.sub(r'"waypoints": \[.*?\]', '"waypoints": []', self.example()))
        done = self.run_raw("check", path)
        self.assertEqual(done.returncode, 0)
        self.assertIn("warning: waypoints: takeover is automatic", done.stdout)
        self.assertIn("valid, but see the warnings", done.stdout)

    def test_missing_stores_are_named_on_their_machine(self):
        path = self.write("vm.json", self.example().replace("/srv/vm.img", "/nonexistent/vm.img"))
        self.assertIn("/nonexistent/vm.img", self.run_raw("check", "--host", "alpha", path).stdout)
        self.assertNotIn("/nonexistent/vm.img", self.run_raw("check", "--host", "gamma", path).stdout)

    def test_directories(self):
        self.assertEqual(self.run_raw("check", self.directory.name).returncode, 1)
        self.write("a.json", self.example())
        self.write("b.json", self.example())
        done = self.run_raw("check", self.directory.name)
        self.assertEqual(done.returncode, 1)
        self.assertIn('pair: found "vm"', done.stderr)
        self.assertEqual(self.run_raw("check", self.path("nothing.json")).returncode, 1)

    def test_keygen_never_overwrites(self):
        path = self.path("key")
        self.assertEqual(self.run_raw("keygen", path).returncode, 0)
        self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        with open(path) as file:
            before = file.read()
        done = self.run_raw("keygen", path)
        self.assertEqual(done.returncode, 1)
        with open(path) as file:
            self.assertEqual(file.read(), before)


if __name__ == "__main__":
    if not os.access(PAIRCTL, os.X_OK):
        print("no pairctl built beside this test", file=sys.stderr)
        sys.exit(77)
    unittest.main()
