"""What a service manager would see, without one: the notify protocol of sd_notify(3), and the unit's sandbox."""
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import threading
import time

import msgpack
import numpy as np
import pytest

import cli
import models
from daemon import Daemon
from test_stream import ask, noise

PERIOD = 2.0  # seconds: WatchdogSec


@pytest.fixture(scope="module")
def model():
    return models.export("tiny_resnet", 64, 10, bn="keep")


class Manager(threading.Thread):
    """Listens where NOTIFY_SOCKET points and keeps (time, name, value) of each assignment; `on_ready` is
    called the moment READY=1 arrives."""

    def __init__(self, on_ready=lambda: None):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"\0parchgradd-test-{os.getpid()}-{id(self)}")  # abstract: leaves no file
        self.socket.settimeout(.1)
        self.env = {"NOTIFY_SOCKET": "@" + self.socket.getsockname()[1:].decode(),
                    "WATCHDOG_USEC": str(int(PERIOD * 1e6))}
        self.on_ready, self.seen, self.ended = on_ready, [], False

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended = True
        self.join()
        self.socket.close()

    def run(self):
        while not self.ended:
            try:
                message = self.socket.recv(65536).decode()
            except TimeoutError:
                continue
            for line in message.splitlines():
                name, _, value = line.partition("=")
                self.seen.append((time.monotonic(), name, value))
                if (name, value) == ("READY", "1"):
                    self.on_ready()

    def times(self, name, value):
        return [t for t, n, v in list(self.seen) if (n, v) == (name, value)]


class Hang:
    """Stops one thread of a process as a debugger would (ptrace), all others run on: a thread that hangs."""

    SEIZE, INTERRUPT, DETACH, ALL = 0x4206, 0x4207, 17, 0x40000000

    def __init__(self, pid, name):
        tasks = pathlib.Path(f"/proc/{pid}/task")
        self.thread = next(int(t.name) for t in tasks.iterdir()
                           if (t / "comm").read_text().strip() == name)
        self.libc = ctypes.CDLL(None, use_errno=True)

    def _ptrace(self, request):
        null = ctypes.c_void_p()
        if self.libc.ptrace(request, self.thread, null, null) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    def __enter__(self):
        self._ptrace(self.SEIZE)
        self._ptrace(self.INTERRUPT)
        os.waitpid(self.thread, self.ALL)
        return self

    def __exit__(self, *_):
        try:
            self._ptrace(self.DETACH)
        except OSError:
            pass  # the process has ended

    def wait_for_end(self):
        """A traced thread that ends waits for its tracer, and its process with it."""
        os.waitpid(self.thread, self.ALL)


def test_ready_means_that_frames_are_served(model, tmp_path):
    answers = []

    def at_ready():
        answers.append(d.http("/readyz"))
        answers.append(ask(d, d.frame("cam0", noise())))

    with Manager(at_ready) as manager:
        d = Daemon(model, tmp_path, env=manager.env)
        with d:
            d.wait(lambda: len(answers) == 2, 10, "READY=1 did not come, or no frame was served after it")
            assert answers[0] == "ready\n"
            assert "explained" in msgpack.unpackb(answers[1][1])
            assert [x[1] for x in manager.seen][0] == "READY"  # nothing is said before
        assert len(manager.times("READY", "1")) == 1


def test_not_ready_without_a_model(tmp_path):
    """A daemon that cannot start says so by its exit status and is never ready."""
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with Manager() as manager:
        d = Daemon(tmp_path / "no.onnx", tmp_path, env=manager.env)
        with pytest.raises(AssertionError, match="has ended"), d:
            pass
        assert d.process.returncode == 3 and manager.seen == []


def test_watchdog_is_fed_at_half_its_period(model, tmp_path):
    with Manager() as manager, Daemon(model, tmp_path, env=manager.env) as d:
        begin = time.monotonic()
        while time.monotonic() < begin + 4 * PERIOD:  # while work is done, and in the rests between
            for _ in range(20):
                d.push("cam0", noise())
            time.sleep(.4)
        times = manager.times("READY", "1") + manager.times("WATCHDOG", "1")
        gaps = np.diff(times)
        assert len(gaps) >= 6
        # half the period, looked at every quarter: never close to the whole
        assert gaps.max() < .8 * PERIOD and gaps[1:].min() > .4 * PERIOD, gaps
        assert not manager.times("WATCHDOG", "trigger")


@pytest.mark.parametrize("thread", ["worker", "publish", "ingest", "rpc"])
def test_a_hanging_thread_is_not_fed_for(model, tmp_path, thread):
    """Whichever stage hangs: no more WATCHDOG=1, but the demand to act, at most a second after the period."""
    with Manager() as manager, Daemon(model, tmp_path, env=manager.env) as d:
        d.push("cam0", noise())
        d.wait(lambda: manager.times("WATCHDOG", "1"), 5, "the watchdog is not fed")
        with Hang(d.process.pid, thread):
            begin = time.monotonic()
            d.wait(lambda: manager.times("WATCHDOG", "trigger"), 2 * PERIOD, "nobody noticed")
            assert PERIOD - .8 < manager.times("WATCHDOG", "trigger")[0] - begin < PERIOD + 1
            fed = len(manager.times("WATCHDOG", "1"))
            time.sleep(PERIOD)
            assert len(manager.times("WATCHDOG", "1")) == fed
        assert f"thread {thread} makes no progress" in d.log.read_text()
        # it goes on: so does the feeding
        d.wait(lambda: len(manager.times("WATCHDOG", "1")) > fed, 5, "the watchdog stays unfed")


def test_stopping(model, tmp_path):
    with Manager() as manager, Daemon(model, tmp_path, env=manager.env) as d:
        d.push("cam0", noise())
        begin = time.monotonic()
        status, took, _ = d.terminate()
        assert status == 0 and took < 5
        (stopping,) = manager.times("STOPPING", "1")
        assert stopping - begin < 1
        assert not [t for t in manager.times("WATCHDOG", "1") if t > stopping]


def test_stopping_while_a_worker_hangs(model, tmp_path):
    """The process ends in time around the worker, and the frame it held is accounted for."""
    with Manager() as manager, Daemon(model, tmp_path, env=manager.env) as d:
        d.push("cam0", noise())
        d.wait(lambda: d.metrics().get("parchgradd_frames_published_total", stream="cam0") == 1, 5,
               "no frame was served")
        with Hang(d.process.pid, "worker") as hang:
            d.push("cam0", noise())
            d.wait(lambda: d.metrics().get("parchgradd_frames_received_total", stream="cam0") == 2, 5,
                   "no frame arrived")
            begin = time.monotonic()
            d.process.send_signal(signal.SIGTERM)
            hang.wait_for_end()
            assert d.process.wait(5) == 0 and time.monotonic() - begin < 5.5
        last = d.log.read_text().rstrip().splitlines()[-1]
        assert '"dropped": {"cam0": {"draining": 1}' in last, last


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_the_unit_is_sandboxed(say):
    unit = cli.ROOT / "systemd/parchgradd.service"
    result = subprocess.run(["systemd-analyze", "security", "--offline=true", "--threshold=12", unit],
                            capture_output=True, text=True, env={**os.environ, "SYSTEMD_PAGER": "cat"})
    score = re.search(r"Overall exposure level for \S+: ([\d.]+)", result.stdout)
    assert score, result.stdout + result.stderr
    say(f"\nsystemd-analyze security: {score[1]}")
    assert result.returncode == 0 and float(score[1]) <= 1.2
