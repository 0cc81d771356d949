# SPDX-License-Identifier: Apache-2.0
"""The demo: a pair protects a running guest; its host dies in full flow; nothing that was promised is lost.

All that is shown is real: a libvirt guest with ext4 on the protected volume, clients outside that append records over
the public address, and a ledger of what was acknowledged to them, which is held against what the guest has afterwards.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from lablib import guest, host as hosts, pairfile  # noqa: E402
from lablib.instance import TOP, VOLUMES, Instance, LabError, quietly  # noqa: E402
from lablib.ledger import Ledger  # noqa: E402

DEPLOY = os.path.join(TOP, "deploy")
PUBLIC = "192.0.2.10"
WRITERS = 4
STEADY_SECONDS = 4.0
AFTER_SECONDS = 3.0
PATIENCE_SECONDS = 90.0
CONTENT_BYTES = 256 << 20  # what the volume holds before the pair first starts
# With --mode async the channel is slowed down, on any machine so far that there is something to lose.
ASYNC_RATES = ("8mbit", "2mbit", "512kbit", "128kbit")
ASYNC_LOSS_MS = 300
FORECAST_SLACK_MS = 250    # a forecast is up to 100 ms old, and asking for it takes time


class Failure(Exception):
    """A promise was not kept, or something did not come in time."""


class Demo:
    def __init__(self, mode):
        os.environ.setdefault("LAB", "demo")
        self.mode = mode
        self.lab = Instance(os.environ["LAB"])
        self.work = os.path.join("/var/tmp", f"understudy-demo-{self.lab.name}")
        self.ledger_path = os.path.join(self.work, "ledger")
        self.guest = os.path.join(self.lab.build, "guest")
        self.started = time.monotonic()
        self.clients = None
        self.figures = {}

    # Telling.
    def say(self, text, indent="   "):
        print(f"{time.monotonic() - self.started:6.1f} s {indent}{text}", flush=True)

    def title(self, text):
        print(flush=True)
        self.say(text, indent="== ")

    def check(self, holds, text):
        if not holds:
            raise Failure(text)
        self.say(f"ok: {text}")

    # Doing.
    def run_lab(self, *arguments):
        self.say("$ deploy/lab " + " ".join(arguments))
        done = subprocess.run([os.path.join(DEPLOY, "lab"), *arguments], text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, check=False)
        if done.returncode != 0:
            raise Failure(f"lab {arguments[0]}: {done.stdout.strip()}")

    def inside(self, host, argv, timeout=PATIENCE_SECONDS):
        """Runs a command on a host of the lab: (exit status, output)."""
        try:
            done = subprocess.run(hosts.enter_argv(self.lab, host, argv), text=True, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise Failure(f"{' '.join(argv)} on {host} takes longer than {timeout:.0f} s") from None
        return done.returncode, done.stdout

    def pairctl(self, host, *arguments):
        self.say(f"{host}$ pairctl {' '.join(arguments)}")
        status, output = self.inside(host, ["pairctl", *arguments])
        for line in output.strip().splitlines():
            self.say("  " + line)
        if status != 0:
            raise Failure(f"pairctl {arguments[0]} on {host}: exit status {status}")

    def status(self, host):
        """What the end on that host says of itself; {} while it does not answer."""
        code, output = self.inside(host, ["pairctl", "status", "--json"])
        try:
            return json.loads(output) if code == 0 else {}
        except ValueError:
            return {}

    def get(self, path):
        code, output = self.inside("client", ["curl", "-sS", "-f", "-m", "10", f"http://{PUBLIC}{path}"])
        if code != 0:
            raise Failure(f"GET {path}: {output.strip()}")
        return output

    def wait(self, what, condition, seconds=PATIENCE_SECONDS, pause=0.1):
        end = time.monotonic() + seconds
        while True:
            found = condition()
            if found:
                return found
            if time.monotonic() > end:
                raise Failure(f"{what}: not within {seconds:.0f} s")
            time.sleep(pause)

    # The pair.
    def write_config(self):
        config = os.path.join(self.work, "config")
        os.makedirs(config)
        pair = pairfile.default(self.mode, [PUBLIC + "/24"])
        pair["pair"] = "demo"
        pair["channel"]["key"] = "/etc/understudy/demo.key"
        pair["applications"] = [guest.application()]
        with open(os.path.join(config, "demo.json"), "w") as file:
            json.dump(pair, file, indent=4)
        guest.write_xml(config, self.guest, PUBLIC)
        return config

    def make_image(self):
        """An ext4 file system, made with default options, that holds something already."""
        image, content = os.path.join(self.work, "image"), os.path.join(self.work, "content")
        os.makedirs(content)
        with open(os.path.join(content, "archive"), "wb") as out, open("/dev/urandom", "rb") as random:
            for _ in range(CONTENT_BYTES >> 20):
                out.write(random.read(1 << 20))
        with open(image, "wb") as out:
            out.truncate(pairfile.VOLUME_SIZE)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", content, image], check=True,
                       env={"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"})
        shutil.rmtree(content)
        return image

    # The clients.
    def start_clients(self):
        argv = hosts.enter_argv(self.lab, "client", ["/usr/bin/python3", "-IS", guest.CLIENTS,
                                                     PUBLIC, self.ledger_path, str(WRITERS)])
        self.clients = subprocess.Popen(argv)

    def stop_clients(self):
        if self.clients:
            self.clients.kill()
            self.clients.wait()
            self.clients = None

    def first_ack_after(self, moment):
        return Ledger(self.ledger_path).first_after(moment) if os.path.exists(self.ledger_path) else None

    def guest_records(self):
        return [int(line) for line in self.get("/list").split()]

    # The steps.
    def bring_up(self):
        self.title(f"Two hosts, a client, and a pair in mode {self.mode}")
        config, image = self.write_config(), self.make_image()
        self.run_lab("up", "--config", config, "--image", image)
        os.unlink(image)
        self.lab.load()
        self.wait("the primary becomes active", lambda: self.status("primary").get("role") == "active")
        self.start_clients()

    def first_mirror(self):
        self.title("The first mirror, while the guest starts")
        self.watch_resync("primary")
        self.wait("the guest answers", lambda: self.first_ack_after(0), pause=0.2)
        self.say(f"the guest answers at {PUBLIC}, and clients are writing")

    def watch_resync(self, active):
        """Shows the progress until the active end says that the other one may take over."""
        end = time.monotonic() + PATIENCE_SECONDS
        shown = 0.0
        while True:
            status = self.status(active)
            resync = status.get("resync") or {}
            if resync.get("active") and resync.get("total_bytes") and time.monotonic() - shown > 1.0:
                self.say(describe_resync(resync))
                shown = time.monotonic()
            if status.get("synchronized") and status.get("granted"):
                self.say("synchronized; the other end may take over")
                return
            if time.monotonic() > end:
                raise Failure(f"not synchronized: {status.get('why')}")
            time.sleep(0.2)

    def steady(self, host, seconds):
        """Lets the clients write, and returns the forecasts [(time, status)] of that while."""
        samples = []
        end = time.monotonic() + seconds
        shown = 0.0
        while time.monotonic() < end:
            status = self.status(host)
            if status:
                samples.append((time.monotonic(), status))
                if time.monotonic() - shown > 1.0:
                    shown = time.monotonic()
                    self.say(describe_steady(status, Ledger(self.ledger_path)))
            time.sleep(0.05)
        return samples

    def crash(self):
        self.title("Steady state: what a takeover this instant would lose, and how long it would take")
        samples = self.steady("primary", STEADY_SECONDS)
        for rate in ASYNC_RATES if self.mode == "async" else ():
            self.run_lab("slow", rate)
            samples = self.steady("primary", STEADY_SECONDS / 2)
            if samples and samples[-1][1]["forecast"]["loss_ms"] >= ASYNC_LOSS_MS:
                break
        self.title("The primary's host dies")
        crashed_real = time.time()
        crashed = time.monotonic()
        self.run_lab("crash", "primary")
        dead = time.monotonic()
        self.wait("the secondary takes over", lambda: self.status("secondary").get("role") == "active", pause=0.05)
        self.say("the secondary is active")
        answered = self.wait("the guest answers again", lambda: self.first_ack_after(dead), pause=0.1)
        if self.mode == "async":
            self.run_lab("heal")
        self.say(f"the same guest answers on the other host, {answered - crashed:.1f} s after the crash")
        self.figures["outage"] = answered - crashed
        self.show_history("secondary", crashed_real)
        time.sleep(AFTER_SECONDS)
        self.judge_crash(dead, samples)

    def show_history(self, host, since):
        code, output = self.inside(host, ["pairctl", "history", "--json"])
        events = json.loads(output) if code == 0 and output.strip() else []
        self.say("step by step, as `pairctl history` has it (ms after the crash; how long the step took):")
        for event in events:
            if event.get("time_ms", 0) / 1000 < since:
                continue
            self.say(describe_event(event, since))
            if event.get("loss"):
                self.figures["loss"] = event["loss"]

    def judge_crash(self, dead, samples):
        self.title("The ledger, held against what the guest has")
        # The clients go on: what was acknowledged is read before the records are, what was sent after them.
        ledger = Ledger(self.ledger_path)
        records = self.guest_records()
        missing, invented = ledger.missing(records), Ledger(self.ledger_path).invented(records)
        self.say(f"{len(ledger.acked)} records acknowledged, {len(records)} on the volume, {len(missing)} missing")
        self.check(not invented, "the guest has nothing that no client has sent")
        self.check_file_system()
        self.figures.update(acked=len(ledger.acked), missing=len(missing))
        self.missing = missing
        if self.mode == "async":
            # The cables were cut at some instant of the command: the last answer tells when.
            self.judge_async_loss(ledger, missing, ledger.last_before(dead), samples)
        else:
            self.check(not missing, f"nothing that was acknowledged is missing (mode {self.mode})")

    def judge_async_loss(self, ledger, missing, crashed, samples):
        """What is missing is the end of what was written, and not more than had been forecast."""
        forecast = max((s["forecast"]["loss_ms"] or 0 for at, s in samples if at > crashed - 1.0), default=0)
        self.figures["forecast_ms"] = forecast
        if not missing:
            self.say(f"nothing is missing; the forecast was {forecast} ms")
            return
        oldest = min(ledger.acked[number] for number in missing)
        lost_ms = (crashed - oldest) * 1000
        self.say(f"lost: {len(missing)} records, the oldest acknowledged {lost_ms:.0f} ms before the crash; "
                 f"the forecast was {forecast} ms")
        self.check(lost_ms <= forecast + FORECAST_SLACK_MS, "that agrees with the forecast")
        kept = [at for number, at in ledger.acked.items() if number not in set(missing) and at < crashed]
        self.check(not kept or max(kept) <= oldest + 0.5, "what is missing is the end of what was written")

    def check_file_system(self):
        said = self.get("/check")
        clean = "e2fsck: status 0" in said
        if not clean:
            for line in said.splitlines():
                self.say("  " + line)
        self.check(clean, "e2fsck -fn of the guest found nothing after the journal's replay")

    def come_back(self):
        self.title("The old primary returns")
        self.run_lab("start", "primary")
        self.wait("the ends meet", lambda: self.status("secondary").get("peer", {}).get("connected"))
        self.watch_resync("secondary")

    def switch_back(self):
        self.title("Back to the primary, as an operator asks")
        moment = time.monotonic()
        self.pairctl("secondary", "switch")
        self.wait("the primary is active", lambda: self.status("primary").get("role") == "active")
        # Only the other guest can answer behind the last answer of this one and its stop.
        answered = self.wait("the guest answers again", self.answers_from_primary)
        last = Ledger(self.ledger_path).last_before(answered - 0.001)
        self.figures["switch"] = answered - moment
        self.say(f"the guest answers on the primary, {answered - moment:.1f} s after the command"
                 + (f" (last record before: {answered - last:.1f} s)" if last else ""))
        time.sleep(AFTER_SECONDS)
        self.title("The ledger again")
        self.stop_clients()
        records, ledger = self.guest_records(), Ledger(self.ledger_path)
        missing = ledger.missing(records)
        self.say(f"{len(ledger.acked)} records acknowledged, {len(records)} on the volume")
        self.check(missing == self.missing, "the switchover lost nothing")
        self.check(not ledger.invented(records), "the guest has nothing that no client has sent")
        self.check_file_system()
        self.figures.update(acked=len(ledger.acked))

    def answers_from_primary(self):
        """The time of the first acknowledgement since the primary is active and runs its guest."""
        running = [app for app in self.status("primary").get("applications", []) if app["state"] == "running"]
        if not running:
            return None
        now = time.monotonic()
        return self.wait("a record is acknowledged", lambda: self.first_ack_after(now), pause=0.05)

    def end(self):
        self.title("The end of protection, and both copies beside each other")
        self.pairctl("primary", "stop")
        images = [self.lab.path(host, "volumes", "disk.img") for host in ("primary", "secondary")]
        for image in images:
            done = subprocess.run(["e2fsck", "-fn", image], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                  text=True, check=False, env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin"})
            self.check(done.returncode == 0, f"e2fsck -fn finds nothing on the copy of {image.split('/')[-3]}")
        different = different_blocks(*images)
        if different:
            self.say(f"{len(different)} blocks of 4 KiB differ: {different[:20]}")
        self.check(not different, "both copies are equal, byte for byte")

    def run(self):
        os.makedirs(self.work)
        self.bring_up()
        self.first_mirror()
        self.crash()
        self.come_back()
        self.switch_back()
        self.end()

    def clear(self):
        self.stop_clients()
        if os.environ.get("DEMO_KEEP") and self.figures:
            return
        quietly([os.path.join(DEPLOY, "lab"), "down"])
        shutil.rmtree(self.work, ignore_errors=True)

    def verdict(self):
        figures = self.figures
        lost = f"{figures['missing']} lost" + (f" (forecast {figures['forecast_ms']} ms)" if "forecast_ms" in figures
                                               else "")
        return (f"PASSED ({self.mode}): {figures['acked']} records acknowledged, {lost}; the guest answered "
                f"{figures['outage']:.1f} s after its host died, and {figures['switch']:.1f} s after `switch`")


def different_blocks(one, two, size=4096):
    """The numbers of the blocks in which two files differ."""
    different = []
    with open(one, "rb") as first, open(two, "rb") as second:
        number = 0
        while True:
            ours, theirs = first.read(1 << 20), second.read(1 << 20)
            if ours != theirs:
                for at in range(0, max(len(ours), len(theirs)), size):
                    if ours[at:at + size] != theirs[at:at + size]:
                        different.append(number + at // size)
            if not ours and not theirs:
                return different
            number += (1 << 20) // size


def describe_resync(resync):
    done, total = resync.get("done_bytes", 0), resync["total_bytes"]
    left = resync.get("left_ms")
    return (f"{resync.get('kind', '')} resync of {resync.get('volume', '')}: {100 * done // total} %, "
            f"{resync.get('rate', 0) / 1e6:.0f} MB/s, " + (f"{left / 1000:.1f} s left" if left is not None else "…"))


def describe_steady(status, ledger):
    queue, forecast = status["unsafe_queue"], status["forecast"]
    return (f"{len(ledger.acked):5d} records acknowledged; unsafe queue {queue['bytes'] / 1e6:.2f} MB, oldest "
            f"{queue['oldest_ms']} ms; forecast: {forecast['loss_bytes'] / 1e6:.2f} MB ({forecast['loss_ms']} ms) lost, "
            f"takeover in {forecast['takeover_ms']} ms")


def describe_event(event, since):
    took = f"{event['ms']} ms" if event.get("ms") is not None and event["ms"] >= 0 else ""
    text = f"  {event['time_ms'] - since * 1000:8.0f}  {took:>8}  {event['step']}: {event.get('text', '')}"
    loss = event.get("loss")
    if loss:
        text += f" (lost: {loss.get('records', 0)} records, {loss.get('bytes', 0)} bytes)"
    return text


def stop_on_signal(number, frame):
    raise KeyboardInterrupt


def main():
    parser = argparse.ArgumentParser(prog="demo", description=__doc__.split("\n\n")[0])
    parser.add_argument("--mode", choices=("sync", "async", "strict"), default="sync")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, stop_on_signal)
    demo = None
    try:
        demo = Demo(options.mode)
        demo.clear()
        demo.run()
        line, status = demo.verdict(), 0
    except (Failure, LabError) as failure:
        line, status = f"FAILED: {failure}", 1
        if demo:
            print(hosts.log_tails(demo.lab, 40), flush=True)
    except KeyboardInterrupt:
        line, status = "FAILED: interrupted", 1
    finally:
        if demo:
            demo.clear()
    print(f"\n{line}")
    return status


if __name__ == "__main__":
    sys.exit(main())
