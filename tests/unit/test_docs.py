#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What is written about the tree, held against the tree: man pages against --help, SPDX lines, which room may include
which, each library in its room, and that links, files and tests named in the documents exist."""

import os
import re
import subprocess
import sys
import unittest

BUILD = os.path.abspath("../..")
TOP = os.path.realpath(os.path.join(os.environ.get("srcdir", os.path.dirname(os.path.abspath(__file__))), "../.."))
DOCS = os.path.join(TOP, "docs")
PROGRAMS = {
    "primaryd": ("primaryd/primaryd", "primaryd.8"),
    "secondaryd": ("secondaryd/secondaryd", "secondaryd.8"),
    "pairctl": ("pairctl/pairctl", "pairctl.8"),
    "understudy-guard": ("guard/understudy-guard", "understudy-guard.8"),
}
AREAS = ("common", "queues", "guard", "pairctl", "primaryd", "secondaryd", "tests", "deploy", "docs")
CODE = ("common", "queues", "guard", "pairctl", "primaryd", "secondaryd")

# Who may include whom (docs/ARCHITECTURE.md). A room always knows itself and common/base; config.h is autoconf's.
# What the rooms may know of `queues` is its interfaces; that an interface is one is for the reader to judge.
# Of pairctl, `fsck` and `salvage` alone read queues.
MAY_KNOW = {
    "common/base": (),
    "queues": (),
    "common/end": ("queues",),
    "common/config": (),
    "common/control": (),
    "common/channel": ("common/config", "queues"),
    "common/store": ("common/config", "queues"),
    "common/intercept": ("common/config", "queues"),
    "common/address": ("common/config", "queues"),
    "common/apps": ("common/config", "queues"),
    "common/arbiter": ("common/config", "queues"),
    "guard": ("common/address",),
    "common/daemon": ("queues", "common/end", "common/config", "common/control", "common/channel", "common/store",
                      "common/intercept", "common/address", "common/apps", "common/arbiter", "guard"),
    "pairctl": ("common/config", "common/control"),
    "primaryd": ("common/daemon",),
    "secondaryd": ("common/daemon",),
}

# A library's headers, and the one room that uses them (for two rooms: one .c file each).
LIBRARIES = {
    r"xxhash\.h": {"common/base"},
    r"cjson/": {"common/config", "common/control"},
    r"nanomsg/": {"common/channel", "common/control"},
    r"gnutls/": {"common/channel"},
    r"liburing": {"common/store"},
    r"iscsi/": {"common/store"},
    r"netlink/": {"common/address"},
    r"libvirt/": {"common/apps"},
    r"libxml/": {"common/apps"},
    r"systemd/": {"common/daemon", "common/apps"},
}


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def sources(areas, pattern):
    """Paths below the top of the tree, without what a build has left there."""
    for area in areas:
        for directory, below, names in os.walk(os.path.join(TOP, area)):
            below[:] = sorted(name for name in below if name not in (".deps", "__pycache__"))
            for name in sorted(names):
                if re.search(pattern, name):
                    yield os.path.relpath(os.path.join(directory, name), TOP)


def man_page(name):
    text = read(os.path.join(DOCS, name))
    other = re.fullmatch(r"\.so man\d/(\S+)\n", text)
    return read(os.path.join(DOCS, other.group(1))) if other else text


def help_of(program, *arguments):
    done = subprocess.run([os.path.join(BUILD, PROGRAMS[program][0]), *arguments, "--help"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=60)
    assert done.returncode == 0, (program, arguments, done.returncode)
    return done.stdout.decode()


def options_in(text):
    return set(re.findall(r"(?<![\w-])--([a-z][a-z-]*)", text))


class ManPages(unittest.TestCase):
    def test_every_program_has_one_with_the_options_of_its_help(self):
        for name, (_, page) in PROGRAMS.items():
            written = set(re.findall(r"Fl \\-([a-z][a-z\\-]*)", man_page(page)))
            written = {option.replace("\\-", "-") for option in written}
            known = options_in(help_of(name))
            self.assertEqual(sorted(known - written), [], f"{page} lacks options of {name} --help")
            # Some options of pairctl belong to one command and are in that command's help alone.
            more = known
            if name == "pairctl":
                for command in re.findall(r"^  ([a-z]+)\b.*\n {8}", help_of(name), re.MULTILINE):
                    more = more | options_in(help_of(name, command))
            self.assertEqual(sorted(written - more), [], f"{page} has options that {name} --help does not have")

    def test_every_installed_program_is_looked_at(self):
        found = set()
        for path in sources(CODE, r"^Makefile\.am$"):
            for names in re.findall(r"^(?:sbin|bin|pkglibexec)_PROGRAMS *\+?= *(.*)$", read(os.path.join(TOP, path)),
                                    re.MULTILINE):
                found.update(names.split())
        self.assertEqual(found, set(PROGRAMS))

    def test_commands_of_pairctl_are_those_of_its_help(self):
        page = man_page("pairctl.8")
        commands = page[page.index(".Sh COMMANDS"):page.index(".Sh STATUS FIELDS")]
        # A list within an item (the states of wait) is none of commands.
        commands = re.sub(r"(?s)\n\.Bl -tag -width synchronized.*?\n\.El", "", commands)
        written = set(re.findall(r"^\.It Cm ([a-z]+)", commands, re.MULTILINE))
        known = set(re.findall(r"^  ([a-z]+)\b.*\n {8}", help_of("pairctl"), re.MULTILINE))
        self.assertEqual(written, known)


class Sources(unittest.TestCase):
    def test_each_begins_with_its_licence(self):
        line = "SPDX-License-Identifier: Apache-2.0"
        pattern = r"\.(c|h|py|sh|mk|am|[1-8]|xml|pml|bt)$|\.service\.in$"
        missing = []
        for path in sources(AREAS, pattern):
            if line not in "".join(read(os.path.join(TOP, path)).splitlines()[:2]) and not self.is_link_page(path):
                missing.append(path)
        for path in sources(("deploy", "tests"), r"^[^.]+$"):
            text = read(os.path.join(TOP, path)) if os.path.isfile(os.path.join(TOP, path)) else ""
            if text.startswith("#!") and line not in "".join(text.splitlines()[:2]):
                missing.append(path)
        for path in ("configure.ac", "Makefile.am", "common-rules.mk", "daemon-rules.mk"):
            if line not in read(os.path.join(TOP, path)).splitlines()[0]:
                missing.append(path)
        self.assertEqual(missing, [])

    @staticmethod
    def is_link_page(path):
        return read(os.path.join(TOP, path)).startswith(".so ")

    def test_rooms_include_only_downward(self):
        wrong = []
        for path in sources(CODE, r"\.[ch]$"):
            room = os.path.dirname(path)
            self.assertIn(room, MAY_KNOW, f"{path}: a room that the table does not have")
            for included in re.findall(r'^ *# *include *"([^"]+)"', read(os.path.join(TOP, path)), re.MULTILINE):
                other = os.path.dirname(included)
                if included == "config.h" or other in (room, "common/base"):
                    continue
                if other not in MAY_KNOW[room] and not (other == "queues" and path.startswith(("pairctl/fsck", "pairctl/salvage"))):
                    wrong.append(f"{path} includes {included}")
        self.assertEqual(wrong, [])

    def test_each_library_is_used_in_its_room_by_one_file(self):
        users, wrong = {}, []
        for path in sources(CODE, r"\.[ch]$"):
            room = os.path.dirname(path)
            for included in re.findall(r"^ *# *include *<([^>]+)>", read(os.path.join(TOP, path)), re.MULTILINE):
                for library, rooms in LIBRARIES.items():
                    if not re.match(library, included):
                        continue
                    users.setdefault((library, room), set()).add(path)
                    if room not in rooms:
                        wrong.append(f"{path} includes <{included}>")
        for (library, _), paths in users.items():
            first = min(paths, key=len)[:-len(".c")]  # base/checksum.c and base/checksum_avx2.c are one
            if not all(path.startswith(first) for path in paths):
                wrong.append(f"{library} is used by {sorted(paths)}")
        self.assertEqual(wrong, [])


class Documents(unittest.TestCase):
    def documents(self):
        for name in ["README.md", "HACKING.md"]:
            yield name, read(os.path.join(TOP, name))
        for path in sources(("docs",), r"\.md$"):
            yield path, read(os.path.join(TOP, path))

    def test_links_lead_to_files(self):
        broken = []
        for path, text in self.documents():
            for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
                if "://" not in target and not os.path.exists(os.path.join(TOP, os.path.dirname(path), target)):
                    broken.append(f"{path}: {target}")
        self.assertEqual(broken, [])

    def test_named_files_exist(self):
        broken = []
        for path, text in self.documents():
            for name in re.findall(r"`((?:%s)/[\w./-]+)`" % "|".join(AREAS), text):
                places = [os.path.join(TOP, name), os.path.join(TOP, name + ".c"), os.path.join(BUILD, name)]
                if not any(os.path.exists(place) for place in places):
                    broken.append(f"{path}: {name}")
        self.assertEqual(broken, [])

    def test_every_failure_has_a_test_that_names_it(self):
        text = read(os.path.join(DOCS, "ARCHITECTURE.md"))
        table = text[text.index("| failure | what must happen |"):]
        table = table[:table.index("\n\n")]
        rows = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
        self.assertGreater(len(rows), 10)
        shown = set()
        for path in sources(("tests/integration",), r"^test_.*\.py$"):
            shown.update(re.findall(r"^@pytest\.mark\.row\(\"([^\"]+)\"\)\n(?:[@ \]].*\n)*def test_",
                                    read(os.path.join(TOP, path)), re.MULTILINE))
        self.assertEqual(shown, set(rows), "docs/ARCHITECTURE.md and the marks of tests/integration")

    def test_named_tests_exist(self):
        """In docs/roles.md and docs/ARCHITECTURE.md a test is written as `test_file:test_name`."""
        broken = []
        for path, text in self.documents():
            for file, test in re.findall(r"`(test_\w+):(\w+)`", text):
                found = [candidate for candidate in sources(("tests",), r"^%s\.(c|py)$" % file)
                         if re.search(r"\b%s\b" % test, read(os.path.join(TOP, candidate)))]
                if not found:
                    broken.append(f"{path}: {file}:{test}")
        self.assertEqual(broken, [])

    def test_role_transitions_are_those_of_the_code(self):
        code = read(os.path.join(TOP, "common/end/end.c"))
        table = code[code.index("} transitions[] = {"):]
        table = table[:table.index("};")]
        known = set(re.findall(r"\{END_([A-Z_]+), END_([A-Z_]+)\}", table))
        text = read(os.path.join(DOCS, "roles.md"))
        written = set()
        for source, target in re.findall(r"^\| ([a-z ]+) \| ([a-z ]+) \|", text, re.MULTILINE):
            pair = tuple(state.strip().upper().replace(" ", "_") for state in (source, target))
            if all(state in {s for edge in known for s in edge} for state in pair):
                written.add(pair)
        self.assertEqual(sorted(known - written), [], "transitions of end.c that docs/roles.md lacks")
        self.assertEqual(sorted(written - known), [], "transitions of docs/roles.md that end.c lacks")

    def test_rules_of_a_meeting_are_those_of_the_code(self):
        code = read(os.path.join(TOP, "common/end/meet.c"))
        table = code[code.index("meet_rules[] = {"):]
        known = re.findall(r"\{\"([^\"]+)\",", table[:table.index("\n};")])
        text = read(os.path.join(DOCS, "roles.md"))
        text = text[text.index("## A meeting"):]
        written = re.findall(r"^\| ([^|]+) \|", text[:text.index("\n\n", text.index("| --- |"))], re.MULTILINE)
        self.assertEqual(known, [rule for rule in written if rule not in ("rule", "---")])


if __name__ == "__main__":
    if not all(os.access(os.path.join(BUILD, program), os.X_OK) for program, _ in PROGRAMS.values()):
        print("the programs are not built beside this test", file=sys.stderr)
        sys.exit(77)
    unittest.main()
