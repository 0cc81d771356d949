# SPDX-License-Identifier: Apache-2.0
"""The lab itself, with placeholders for the daemons: networks, cuts, crashes, boots, and that nothing is left."""

import json
import os
import subprocess
import time

import pytest

DEPLOY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "deploy")
LAB = os.path.join(DEPLOY, "lab")
CHANNEL = {"primary": "198.51.100.1", "secondary": "198.51.100.2"}
PUBLIC = {"primary": "192.0.2.11", "secondary": "192.0.2.12", "client": "192.0.2.1"}

DAEMON = """#!/bin/sh
echo "$$" >/run/daemon.pid
exec sleep 1000000
"""
PAIRCTL = """#!/bin/sh
case "$1" in
keygen) echo key >"$2" ;;
status) test -f /run/daemon.pid ;;
esac
"""

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the lab needs root")


class Lab:
    def __init__(self, name, build):
        self.environment = dict(os.environ, LAB=name, UNDERSTUDY_BUILD=str(build))
        self.name = name

    def __call__(self, *arguments, check=True):
        done = subprocess.run([LAB, *arguments], env=self.environment, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=60, check=False)
        assert not check or done.returncode == 0, done.stdout
        return done

    def inside(self, host, *argv, check=True):
        return self("exec", host, "--", *argv, check=check)

    def reaches(self, host, address):
        return self.inside(host, "ping", "-q", "-n", "-c", "1", "-W", "1", address, check=False).returncode == 0

    def will_reach(self, host, address):
        """After a cut a host may believe for a while that a neighbour is gone."""
        return any(self.reaches(host, address) for _ in range(10))

    def wait(self, condition):
        end = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < end, "waited for too long"
            time.sleep(0.02)

    def wait_file(self, host, path):
        self.wait(lambda: self.inside(host, "test", "-e", path, check=False).returncode == 0)

    def boot_id(self, host):
        """Changes with each start of the host's daemon."""
        return self.inside(host, "cat", "/run/daemon.pid").stdout

    def left(self):
        """What is on this machine of the lab."""
        with open("/proc/self/mounts") as mounts:
            found = [line for line in mounts if f"understudy-lab-{self.name}/" in line]
        found += [name for name in os.listdir("/run/netns") if name.startswith(f"understudy-{self.name}-")]
        found += [name for name in os.listdir("/var/tmp") if f"understudy-lab-{self.name}" in name]
        for directory, names, _ in os.walk("/sys/fs/cgroup"):
            found += [name for name in names if name == f"understudy-lab-{self.name}"]
            names[:] = [name for name in names if directory.count("/") < 4]
        return found


def write_program(build, name, text):
    (build / name).mkdir()
    (build / name / name).write_text(text)
    (build / name / name).chmod(0o755)


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    directory = tmp_path_factory.mktemp("build")
    for name in ("primaryd", "secondaryd"):
        write_program(directory, name, DAEMON)
    write_program(directory, "pairctl", PAIRCTL)
    return directory


@pytest.fixture
def lab(build):
    lab = Lab(f"t{os.getpid()}", build)
    lab("up")
    yield lab
    lab("down")
    assert lab.left() == []


def test_hosts_are_connected_as_described(lab):
    for host, peer in (("primary", "secondary"), ("secondary", "primary")):
        assert lab.will_reach(host, CHANNEL[peer])
        assert lab.will_reach(host, PUBLIC[peer])
        assert lab.will_reach(host, PUBLIC["client"])
        assert lab.inside(host, "hostname").stdout == host + "\n"
    assert lab.will_reach("client", PUBLIC["primary"])
    assert not lab.reaches("client", CHANNEL["primary"]), "the client is not on the channel"


def test_places_are_the_hosts_own(lab):
    lab.inside("primary", "touch", "/run/x", "/etc/understudy/x", "/var/lib/understudy/x")
    for path in ("/run/x", "/etc/understudy/x", "/var/lib/understudy/x"):
        assert lab.inside("secondary", "test", "-e", path, check=False).returncode == 1
        assert not os.path.exists(path)


def test_exec_passes_status_output_and_directory(lab):
    done = lab.inside("client", "sh", "-c", "pwd; exit 7", check=False)
    assert (done.returncode, done.stdout) == (7, os.getcwd() + "\n")


@pytest.mark.parametrize("arguments, cut, whole", [
    (("channel",), [("primary", CHANNEL["secondary"]), ("secondary", CHANNEL["primary"])],
     [("primary", PUBLIC["secondary"])]),
    (("public", "primary"), [("primary", PUBLIC["client"]), ("primary", PUBLIC["secondary"])],
     [("client", PUBLIC["secondary"]), ("primary", CHANNEL["secondary"])]),
    (("public", "--peer-only"), [("primary", PUBLIC["secondary"])],
     [("client", PUBLIC["primary"]), ("client", PUBLIC["secondary"])]),
])
def test_cut_and_heal(lab, arguments, cut, whole):
    lab("cut", *arguments)
    assert [pair for pair in cut if lab.reaches(*pair)] == []
    assert [pair for pair in whole if not lab.will_reach(*pair)] == []
    lab("heal")
    assert [pair for pair in cut if not lab.will_reach(*pair)] == []


def test_one_way_drops_what_one_host_sends(lab):
    """Seen with one-way datagrams; the neighbours are known beforehand."""
    receive = ("import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', 5005)); "
               "s.settimeout(float(sys.argv[1])); open('/run/bound', 'w'); print(s.recv(10).decode())")
    send = "import socket, sys; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'heard', (sys.argv[1], 5005))"
    assert lab.will_reach("primary", CHANNEL["secondary"])
    lab("cut", "channel", "--one-way", "primary")
    for sender, receiver, heard in (("secondary", "primary", True), ("primary", "secondary", False)):
        listening = subprocess.Popen([LAB, "exec", receiver, "--", "/usr/bin/python3", "-c", receive,
                                      "30" if heard else "3"],
                                     env=lab.environment, text=True, stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL)
        lab.wait_file(receiver, "/run/bound")
        lab.inside(sender, "/usr/bin/python3", "-c", send, CHANNEL[receiver])
        assert (listening.communicate()[0] == "heard\n") == heard


def test_kill_takes_the_daemon_alone(lab):
    before = lab.boot_id("primary")
    lab.inside("primary", "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $! >/run/other")
    lab("kill", "primary")
    lab.wait(lambda: lab.boot_id("primary") != before)
    lab.inside("primary", "sh", "-c", "kill -0 $(cat /run/other)")


def test_a_held_daemon_stays_dead_until_start(lab):
    before = lab.boot_id("primary")
    lab("kill", "primary", "--hold")
    time.sleep(0.3)
    assert lab.boot_id("primary") == before
    lab("start", "primary")
    lab.wait(lambda: lab.boot_id("primary") != before)


def test_crash_kills_everything_and_wipes_what_was_in_memory(lab):
    lab.inside("primary", "sh", "-c", "echo kept >/var/lib/understudy/file; ip addr add 192.0.2.10/24 dev public; "
                                      "touch /run/x; (exec setsid sleep 4242%d) >/dev/null 2>&1 &" % os.getpid())
    lab("crash", "primary")
    assert not lab.reaches("client", PUBLIC["primary"])
    assert lab.inside("primary", "true", check=False).returncode == 1
    assert subprocess.run(["pgrep", "-f", f"^sleep 4242{os.getpid()}$"], stdout=subprocess.DEVNULL).returncode == 1
    lab("start", "primary")
    assert lab.will_reach("client", PUBLIC["primary"])
    assert not lab.reaches("client", "192.0.2.10")
    assert lab.inside("primary", "test", "-e", "/run/x", check=False).returncode == 1
    assert lab.inside("primary", "cat", "/var/lib/understudy/file").stdout == "kept\n"


def test_cuts_outlive_a_crash(lab):
    lab("cut", "channel")
    lab("crash", "primary")
    lab("start", "primary")
    assert not lab.reaches("primary", CHANNEL["secondary"])


def test_slow_is_slow(lab):
    """A megabyte at 8 Mbit/s takes about a second at least; without, it can be over at once."""
    serve = ("import socket, sys; s = socket.create_server(('', 5006)); open('/run/bound', 'w'); "
             "c = s.accept()[0]; n = 0\nwhile n < 1 << 20: n += len(c.recv(1 << 16)) or sys.exit(1)\nc.send(b'x')")
    send = ("import socket, sys, time; t = time.time(); s = socket.create_connection((sys.argv[1], 5006)); "
            "s.sendall(bytes(1 << 20)); s.recv(1); print(time.time() - t)")

    def seconds():
        serving = subprocess.Popen([LAB, "exec", "secondary", "--", "/usr/bin/python3", "-c", serve],
                                   env=lab.environment)
        lab.wait_file("secondary", "/run/bound")
        took = float(lab.inside("primary", "/usr/bin/python3", "-c", send, CHANNEL["secondary"]).stdout)
        serving.wait()
        lab.inside("secondary", "rm", "/run/bound")
        return took

    lab("slow", "8mbit")
    assert seconds() > 0.6
    lab("heal")
    assert min(seconds() for _ in range(10)) < 0.6


def test_down_cleans_up_after_a_broken_up(build):
    lab = Lab(f"b{os.getpid()}", build)
    lab("up", "--no-wait")
    os.unlink(f"/var/tmp/understudy-lab-{lab.name}/lab.json")
    lab("down")
    assert lab.left() == []
    lab("down")


def test_two_labs_do_not_see_each_other(lab, build):
    other = Lab(lab.name + "-2", build)
    other("up")
    try:
        other("cut", "public")
        assert lab.will_reach("client", PUBLIC["primary"])
        assert not other.reaches("client", PUBLIC["primary"])
    finally:
        other("down")
    assert other.left() == []
    assert lab.will_reach("client", PUBLIC["primary"])


def test_two_pairs_in_opposite_directions(lab, build, tmp_path):
    pairs = {"east": ("primary", "secondary"), "west": ("secondary", "primary")}
    for name, hosts in pairs.items():
        pair = {"pair": name, "ends": dict(zip(("primary", "secondary"), ({"host": host} for host in hosts)))}
        (tmp_path / f"{name}.json").write_text("// a comment\n" + json.dumps(pair))
    other = Lab(lab.name + "-2", build)
    other("up", "--config", str(tmp_path))
    try:
        status = json.loads(other("status", "--json").stdout)
        for host in ("primary", "secondary"):
            assert sorted(status["hosts"][host]["daemons"]) == ["primaryd", "secondaryd"]
            assert other.inside(host, "ls", "/etc/understudy").stdout.split() == ["east.json", "west.json"]
    finally:
        other("down")


def test_errors_name_the_remedy(lab):
    assert "up already" in lab("up", check=False).stdout
    assert "--powerfs" in lab("crash", "primary", "--power", check=False).stdout
    assert lab("crash", "nobody", check=False).returncode == 2
