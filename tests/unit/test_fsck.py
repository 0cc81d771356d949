#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pairctl fsck on what fsck_rig has made: what it says of damage in each file and of what a start would do, and that it
changes nothing."""

import fcntl
import glob
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest

PAIRCTL = os.path.abspath("../../pairctl/pairctl")
RIG = os.path.abspath("fsck_rig")
SALVAGE_RIG = os.path.abspath("salvage_rig")
LIMIT_S = 120


class Fsck(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="fsck")
        self.state = os.path.join(self.directory.name, "state")
        self.runtime = os.path.join(self.directory.name, "runtime")
        subprocess.run([RIG, self.state, self.runtime], check=True, timeout=LIMIT_S)

    def tearDown(self):
        self.directory.cleanup()

    def place(self, end, *more):
        return os.path.join(self.state, "web", end, *more)

    def snapshot(self):
        """Everything that a write would change: content, size, times of change, names."""
        result = {}
        for top, _, names in os.walk(self.directory.name):
            info = os.stat(top)
            result[top] = (sorted(names), info.st_mtime_ns, info.st_ctime_ns)
            for name in names:
                path = os.path.join(top, name)
                info = os.stat(path)
                with open(path, "rb") as file:
                    result[path] = (hashlib.sha1(file.read()).digest(), info.st_mtime_ns, info.st_ctime_ns)
        return result

    def fsck(self, *args, expect=0):
        before = self.snapshot()
        done = subprocess.run([PAIRCTL, "fsck", "--runtime-dir", self.runtime, *args], capture_output=True, text=True,
                              timeout=LIMIT_S)
        self.assertEqual(done.returncode, expect, done.stdout + done.stderr)
        self.assertEqual(self.snapshot(), before, "it has changed something")
        return done

    def report(self, end, expect=0):
        done = self.fsck("--json", self.place(end), expect=expect)
        report = json.loads(done.stdout)
        self.assertEqual(report["clean"], expect == 0)
        return report

    def flip(self, path, offset, bit=1):
        with open(path, "r+b") as file:
            file.seek(offset)
            byte = file.read(1)[0]
            file.seek(offset)
            file.write(bytes([byte ^ bit]))

    def assert_found(self, report, file, offset, kind="damage"):
        found = [(f["file"], f["offset"], f["kind"]) for f in report["findings"]]
        self.assertIn((file, offset, kind), found)

    def assert_says(self, report, words):
        self.assertIn(words, " / ".join(report["start"]))


class Whole(Fsck):
    def test_undamaged_ends(self):
        report = self.report("secondary")
        self.assertEqual((report["pair"], report["identity"], report["role"]), ("web", "secondary", "passive"))
        self.assertEqual((report["safe_queue"]["state"], report["safe_queue"]["last"]), ("clean", 39))
        self.assert_says(report, "replays the records 1 to 39")
        self.assert_says(report, "go on with the stream at seq 40")
        report = self.report("primary")
        self.assertEqual(report["unsafe_queue"], {"state": "whole", "first": 5, "last": 10, "records": 6,
                                                  "bytes": 6 * 4096, "pending": 2})
        self.assert_says(report, "takes its unsafe queue back: 6 records up to seq 10")
        self.assert_says(report, "2 updates in flight are written again")

    def test_a_pair_or_all_pairs(self):
        for place in (self.state, os.path.join(self.state, "web")):
            reports = json.loads(self.fsck("--json", place).stdout)
            self.assertEqual(sorted(r["identity"] for r in reports), ["primary", "secondary"])
        one = json.loads(self.fsck("--json", "--end", "primary", self.state).stdout)
        self.assertEqual(one["identity"], "primary")
        self.assertEqual(self.fsck(self.state).stdout.count("no damage found"), 2)

    def test_what_is_no_state_directory_is_a_usage_error(self):
        for place in (self.runtime, self.directory.name + "/none", PAIRCTL):
            done = self.fsck(place, expect=2)
            self.assertTrue(done.stderr.startswith("pairctl: "), done.stderr)
        self.fsck(expect=2)

    def test_a_running_end_is_refused_unless_forced(self):
        with open(self.place("secondary", "lock"), "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = self.fsck(self.place("secondary"), expect=1)
            self.assertIn("a daemon runs this end", done.stderr)
            self.assertEqual(done.stdout, "")
            self.assertIn("RUNNING", self.fsck("--force", self.place("secondary")).stdout)
        self.fsck(self.place("secondary"))

    def test_a_copy_is_named_by_options(self):
        copy = os.path.join(self.directory.name, "copy")
        os.rename(self.place("secondary"), copy)
        self.assertIn("another pair", self.fsck(copy, expect=1).stdout)
        self.assertIn("secondary of pair web", self.fsck("-p", "web", "--end", "secondary", copy).stdout)


class Damage(Fsck):
    def test_one_copy_of_the_state(self):
        for copy in ("state.0", "state.1"):
            self.flip(self.place("secondary", copy), 40)
            report = self.report("secondary", expect=1)
            self.assert_found(report, copy, 32)
            self.assert_says(report, "replays the records 1 to 39")
            self.flip(self.place("secondary", copy), 40)

    def test_both_copies_of_the_state(self):
        self.flip(self.place("secondary", "state.0"), 40)
        self.flip(self.place("secondary", "state.1"), 3)
        report = self.report("secondary", expect=1)
        self.assert_found(report, "state.0", 32)
        self.assert_found(report, "state.1", 0)
        self.assertEqual(report["state"], "unreadable")
        self.assert_says(report, "treated as a split")

    def test_a_missing_and_a_short_copy_of_the_state(self):
        os.truncate(self.place("primary", "state.1"), 1000)
        report = self.report("primary", expect=1)
        self.assert_found(report, "state.1", 1000)
        os.unlink(self.place("primary", "state.1"))
        report = self.report("primary", expect=1)
        self.assert_found(report, "state.1", 0)
        self.assertEqual(report["state"], "readable")

    def test_history(self):
        size = os.path.getsize(self.place("primary", "history")) // 21
        self.flip(self.place("primary", "history"), 5 * size + 100)
        self.assert_found(self.report("primary", expect=1), "history", 5 * size)

    def test_a_record_in_the_middle_of_the_safe_queue(self):
        segment = sorted(glob.glob(self.place("secondary", "safe", "*")))[0]
        self.flip(segment, 8192 + 20000)
        report = self.report("secondary", expect=1)
        self.assertEqual(report["safe_queue"]["state"], "damaged")
        self.assert_found(report, "safe/" + os.path.basename(segment), report["findings"][0]["offset"])
        self.assert_says(report, "in front of the damage at seq")
        self.assertLess(report["safe_queue"]["last"], 39)

    def test_every_damage_is_named(self):
        segments = sorted(glob.glob(self.place("secondary", "safe", "*")))
        self.assertGreater(len(segments), 2)
        for segment in segments[:2]:
            self.flip(segment, 8192)  # the first entry's header
            self.flip(segment, 8192 + 30000)
            self.flip(segment, 4096 + 50)  # one copy of the header
        report = self.report("secondary", expect=1)
        for segment in segments[:2]:
            name = "safe/" + os.path.basename(segment)
            self.assert_found(report, name, 8192)
            self.assert_found(report, name, 4096)
        self.assertEqual(report["damages"], 6)

    def test_a_header_that_is_gone(self):
        segment = sorted(glob.glob(self.place("secondary", "safe", "*")))[1]
        self.flip(segment, 20)
        self.flip(segment, 4096 + 20)
        report = self.report("secondary", expect=1)
        self.assert_found(report, "safe/" + os.path.basename(segment), 0)
        self.assert_found(report, "safe/" + os.path.basename(segment), 4096)

    def test_a_torn_tail_is_no_damage(self):
        last = sorted(glob.glob(self.place("secondary", "safe", "*")))[-1]
        with open(last, "r+b") as file:
            data = file.read()
            end = max(i for i, byte in enumerate(data) if byte)
            file.seek(end)
            file.write(bytes([data[end] ^ 1]))
        report = self.report("secondary")
        self.assertEqual(report["safe_queue"]["state"], "torn")
        self.assertEqual([f["kind"] for f in report["findings"]], ["torn"])
        self.assert_says(report, "cuts the torn tail at seq 37")

    def test_unsafe_queue(self):
        path = os.path.join(self.runtime, "web/primary/unsafe")
        with open(path, "rb") as file:
            data = file.read()
        at = data.index(bytes([7]) * 4096)
        self.flip(path, at + 5)
        other = data.index(bytes([8]) * 4096)
        self.flip(path, other + 5)
        report = self.report("primary", expect=1)
        self.assert_found(report, "unsafe", at)
        self.assert_found(report, "unsafe", other)
        self.assertEqual(report["unsafe_queue"]["state"], "damaged")
        self.assert_says(report, "its unsafe queue is damaged, and void")
        self.assert_says(report, "opens a new epoch above seq 4096")
        self.flip(path, at + 5)
        self.flip(path, other + 5)
        self.flip(path, 20)
        self.assert_found(self.report("primary", expect=1), "unsafe", 0)

    def test_another_boot_and_no_runtime_directory(self):
        vitals = os.path.join(self.runtime, "web/primary/vitals")
        with open(vitals, "r+b") as file:  # another token, and its complement
            file.write(bytes([1] * 8 + [0xfe] * 8))
        report = self.report("primary")
        self.assertEqual(report["unsafe_queue"]["state"], "of another boot")
        self.assert_says(report, "of another boot of this machine, and void")
        os.unlink(os.path.join(self.runtime, "web/primary/unsafe"))
        self.assert_says(self.report("primary"), "its unsafe queue is not there")

    def test_intent_map(self):
        path = self.place("primary", "maps", "segment.0000")
        report = self.report("primary")
        self.assertEqual((report["maps"], report["maps_void"]), (1, 0))
        self.assertGreaterEqual(report["maps_bytes"], 65536)
        self.flip(path, 4096 + 100)
        self.flip(path, 2 * 4096 + 300)
        report = self.report("primary", expect=1)
        self.assert_found(report, "maps/segment.0000", 4096)
        self.assert_found(report, "maps/segment.0000", 2 * 4096)
        self.assertEqual(report["maps_void"], 0)
        self.flip(path, 40)
        report = self.report("primary", expect=1)
        self.assertEqual(report["maps_void"], 1)
        self.assert_says(report, "counts 1 of its intent maps as wholly set")
        self.flip(path, 40)
        os.truncate(path, 4096)
        self.assert_found(self.report("primary", expect=1), "maps/segment.0000", 0)

    def test_vitals(self):
        vitals = os.path.join(self.runtime, "web/primary/vitals")
        self.flip(vitals, 3)
        report = self.report("primary", expect=1)
        self.assert_found(report, "vitals", 0)
        self.assertEqual(report["unsafe_queue"]["state"], "of another boot")
        self.flip(vitals, 3)
        self.flip(vitals, 20)
        report = self.report("primary")
        self.assert_found(report, "vitals", 16, "torn")
        self.assertEqual(report["unsafe_queue"]["state"], "whole")

    def test_the_guards_flag(self):
        with open(os.path.join(self.runtime, "web/primary/stepped-down"), "w") as file:
            file.write("stepped down at noon")
        self.assert_says(self.report("primary"), "the guard has stepped it down")


class Salvage(Fsck):
    def test_each_damage_of_a_salvage_by_file_and_offset(self):
        place = self.place("primary", "salvage")
        subprocess.run([SALVAGE_RIG, place, "close", "1"], check=True, timeout=LIMIT_S)
        subprocess.run([SALVAGE_RIG, place, "close", "2"], check=True, timeout=LIMIT_S)
        self.assertEqual(self.report("primary")["salvages"], 2)
        names = sorted(os.listdir(place))
        first, second = os.path.join(place, names[0]), os.path.join(place, names[-1])
        entry = 64 + 4096  # a block that was kept
        self.flip(first, 4096 + 64 + 17)
        self.flip(first, 4096 + 2 * entry + 64 + 64 + 9)  # behind a block of zeros, which has no data
        report = self.report("primary", expect=1)
        self.assert_found(report, "salvage/" + names[0], 4096)
        self.assert_found(report, "salvage/" + names[0], 4096 + 2 * entry + 64)
        self.flip(second, 0)
        report = self.report("primary", expect=1)
        self.assert_found(report, "salvage/" + names[-1], 0)
        self.assertIn("salvage/" + names[0] + " at offset 4096", self.fsck(self.place("primary"), expect=1).stdout)


if __name__ == "__main__":
    if not os.path.exists(PAIRCTL):
        sys.exit(77)
    unittest.main()
