#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""pairctl salvage, on archives that salvage_rig has made: listed, shown, copied out byte by byte, dropped."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import unittest

PAIRCTL = os.path.abspath("../../pairctl/pairctl")
RIG = os.path.abspath("salvage_rig")
BLOCK = 4096
SIZE = 64 * 1024
LIMIT_S = 60


def content(block, seed):
    return bytes([0 if block == 10 else (block * 7 + seed) % 251 + 1]) * BLOCK


class Salvage(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory(prefix="salvage")
        self.state = os.path.join(self.directory.name, "state")
        os.mkdir(self.state)

    def tearDown(self):
        self.directory.cleanup()

    def rig(self, how="close", seed=1, pair="web", end="primary"):
        place = os.path.join(self.state, pair, end, "salvage")
        subprocess.run([RIG, place, how, str(seed)], check=True, timeout=LIMIT_S)
        return place

    def run_pairctl(self, expect, *args):
        done = subprocess.run([PAIRCTL, "salvage", "--state-dir", self.state, *args], capture_output=True, text=True,
                              timeout=LIMIT_S)
        self.assertEqual(done.returncode, expect, done.stdout + done.stderr)
        return done.stdout if expect == 0 else done.stderr

    def list(self):
        return json.loads(self.run_pairctl(0, "list", "--json"))

    def test_list_and_show(self):
        self.assertEqual(self.list(), [])
        self.rig()
        self.rig("leave", seed=2)
        first, second = self.list()
        self.assertEqual((first["name"], first["pair"], first["end"]), (1, "web", "primary"))
        self.assertEqual((first["complete"], second["complete"]), (True, False))
        self.assertEqual((first["data_bytes"], first["zero_bytes"]), (4 * BLOCK, BLOCK))
        self.assertEqual(first["volumes"], [{"name": "disk", "size": SIZE}])
        self.assertFalse(first["damaged"])
        text = self.run_pairctl(0, "list")
        self.assertIn("web/primary", text)
        self.assertIn("complete", text)
        shown = self.run_pairctl(0, "show", "1")
        self.assertIn(f"disk  {3 * BLOCK}  {2 * BLOCK}  data", shown)
        self.assertIn(f"disk  {10 * BLOCK}  {BLOCK}  zeros", shown)
        self.assertEqual(json.loads(self.run_pairctl(0, "show", "2", "--json"))["name"], 2)

    def test_export_gives_back_each_byte(self):
        self.rig(seed=9)
        names = sorted(os.listdir(self.directory.name))
        target = os.path.join(self.directory.name, "out")
        self.run_pairctl(0, "export", "1", target)
        with open(os.path.join(target, "disk.data"), "rb") as file:
            data = file.read()
        seen = {}
        with open(os.path.join(target, "disk.map"), encoding="ascii") as file:
            for line in file:
                if line.startswith("#"):
                    continue
                offset, length, kind, at = line.split()
                self.assertEqual(int(length), BLOCK)
                block = int(offset) // BLOCK
                seen[block] = kind
                if kind == "data":
                    self.assertEqual(data[int(at):int(at) + BLOCK], content(block, 9))
        self.assertEqual(seen, {3: "data", 4: "data", 10: "zero", 11: "data", 15: "data"})
        self.assertIn("exists already", self.run_pairctl(1, "export", "1", target))
        self.assertIn("exists already", self.run_pairctl(1, "export", "1", self.directory.name))
        self.assertIn("No such file", self.run_pairctl(1, "export", "1", os.path.join(target, "none", "here")))
        self.assertIn("there is no salvage 7", self.run_pairctl(1, "export", "7", target + "2"))
        self.assertEqual(sorted(os.listdir(self.directory.name)), sorted(names + ["out"]))

    def test_an_export_that_does_not_end_leaves_nothing(self):
        """An interrupt, and a target without room: nothing is under the final name, and nothing is left beside it."""
        self.rig(seed=9)
        names = sorted(os.listdir(self.directory.name))
        target = os.path.join(self.directory.name, "out")
        command = [PAIRCTL, "salvage", "--state-dir", self.state, "export", "1", target]
        done = subprocess.run(["prlimit", "--fsize=4000", *command], capture_output=True, text=True, timeout=LIMIT_S,
                              preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN))
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("cannot write", done.stderr)
        self.assertEqual(sorted(os.listdir(self.directory.name)), names)

        def interrupted():  # pending from the beginning: seen at the first range
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            os.kill(os.getpid(), signal.SIGINT)
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, preexec_fn=interrupted)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("interrupted", done.stderr)
        self.assertEqual(sorted(os.listdir(self.directory.name)), names)

    def test_export_as_an_image(self):
        self.rig(seed=9)
        target = os.path.join(self.directory.name, "out")
        self.run_pairctl(0, "export", "1", target, "--image")
        with open(os.path.join(target, "disk.img"), "rb") as file:
            image = file.read()
        self.assertEqual(len(image), SIZE)
        for block in range(SIZE // BLOCK):
            want = content(block, 9) if block in (3, 4, 11, 15) else bytes(BLOCK)
            self.assertEqual(image[block * BLOCK:(block + 1) * BLOCK], want, block)

    def test_drop(self):
        self.rig()
        place = self.rig("wait", seed=2)
        self.run_pairctl(0, "drop", "1")
        self.assertEqual([s["name"] for s in self.list()], [2])
        # Of one that goes on the ranges stay, as a salvage that holds nothing.
        self.run_pairctl(0, "drop", "2")
        rest, = self.list()
        self.assertEqual((rest["name"], rest["data_bytes"], rest["dropped_bytes"]), (3, 0, 5 * BLOCK))
        self.assertIn("was dropped", self.run_pairctl(0, "show", "3"))
        self.assertIn("goes on", self.run_pairctl(1, "drop", "3"))
        self.assertEqual(self.list(), [rest])
        for copy in ("state.0", "state.1"):
            os.unlink(os.path.join(place, "..", copy))
        self.run_pairctl(0, "drop", "3")
        self.assertEqual(self.list(), [])
        self.assertIn("there is no salvage 3", self.run_pairctl(1, "drop", "3"))

    def test_one_that_is_being_written_is_not_dropped(self):
        place = os.path.join(self.state, "web", "primary", "salvage")
        with subprocess.Popen([RIG, place, "hold", "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
            self.assertEqual(writer.stdout.readline(), b"locked\n")
            self.assertIn("is being written", self.run_pairctl(1, "drop", "1"))
            self.assertTrue(self.list()[0]["writing"])
            writer.stdin.close()
            writer.wait(LIMIT_S)
        self.assertFalse(self.list()[0]["writing"])
        self.run_pairctl(0, "drop", "1")

    def test_a_name_that_two_ends_have(self):
        self.rig()
        self.rig(end="secondary")
        self.rig(pair="mail", end="secondary")
        self.assertEqual(len(self.list()), 3)
        self.assertIn("say which with -p and --end", self.run_pairctl(1, "show", "1"))
        self.assertIn("say which", self.run_pairctl(1, "show", "1", "-p", "web"))
        self.run_pairctl(0, "show", "1", "-p", "web", "--end", "secondary")
        self.run_pairctl(0, "drop", "1", "-p", "mail")
        self.assertEqual({s["pair"] for s in self.list()}, {"web"})

    def test_damage_is_said_and_the_rest_is_given(self):
        place = self.rig()
        path = os.path.join(place, "segment.0000")
        with open(path, "r+b") as file:
            file.seek(4096 + 64 + 17) # in the first block that was kept
            file.write(b"\xff")
        salvage, = self.list()
        self.assertTrue(salvage["damaged"])
        self.assertIn("segment.0000", salvage["what"])
        target = os.path.join(self.directory.name, "out")
        self.run_pairctl(0, "export", "1", target)
        with open(os.path.join(target, "disk.map"), encoding="ascii") as file:
            self.assertEqual(sum(" data " in line for line in file), 3)
        with open(path, "r+b") as file:
            file.write(b"\xff")
        self.assertEqual(self.list(), [])
        self.assertIn("damaged at their beginning", subprocess.run(
            [PAIRCTL, "salvage", "--state-dir", self.state, "list"], capture_output=True, text=True,
            timeout=LIMIT_S).stderr)

    def test_usage(self):
        for args in (("list", "1"), ("show",), ("export", "1"), ("keep", "1"), ()):
            done = subprocess.run([PAIRCTL, "salvage", *args], capture_output=True, text=True, timeout=LIMIT_S)
            self.assertEqual(done.returncode, 2, args)


if __name__ == "__main__":
    if not os.access(PAIRCTL, os.X_OK) or not os.access(RIG, os.X_OK):
        print("pairctl or salvage_rig is not built beside this test", file=sys.stderr)
        sys.exit(77)
    unittest.main()
