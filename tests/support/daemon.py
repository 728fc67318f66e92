"""A real `parchgradd serve` process for the tests: starts it, reads its metrics, stops it.

    with Daemon(model, folder, explain={"method": "gradient"}) as d:
        d.push("cam0", pixels); d.metrics().dropped["cam0"]["superseded"]
"""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import defaultdict

import msgpack
import numpy as np
import zmq

import cli


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Metrics:
    """One scrape. `accounts()` is what the accounting equation says of every stream."""

    LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")
    LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self.text = text
        self.values = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                name, labels, value = self.LINE.match(line).groups()
                key = (name, tuple(sorted(self.LABEL.findall(labels or ""))))
                assert key not in self.values, f"series twice: {line}"
                self.values[key] = float(value)

    def get(self, name, default=0.0, **labels):
        return self.values.get((name, tuple(sorted(labels.items()))), default)

    def by_stream(self, name):
        out = defaultdict(float)
        for (n, labels), value in self.values.items():
            if n == name:
                out[dict(labels)["stream"]] += value
        return out

    def drops(self, stream):
        return {dict(labels)["reason"]: value for (n, labels), value in self.values.items()
                if n == "parchgradd_frames_dropped_total" and dict(labels)["stream"] == stream
                and value}

    def assert_accounts(self):
        """received = published + dropped + in flight, exactly, for every stream."""
        received, published, dropped, flying = map(self.by_stream, (
            "parchgradd_frames_received_total", "parchgradd_frames_published_total",
            "parchgradd_frames_dropped_total", "parchgradd_frames_in_flight"))
        for stream in set(received) | set(published) | set(dropped) | set(flying):
            left, right = received[stream], published[stream] + dropped[stream] + flying[stream]
            assert left == right, (f"{stream}: received {left} != published {published[stream]} + "
                                   f"dropped {dropped[stream]} + in flight {flying[stream]}")
            assert flying[stream] >= 0
        return received


def sections_of(settings):
    """{"a.b": 1} -> {"a": {"b": 1}}"""
    out = {}
    for key, value in settings.items():
        place = out
        *path, last = key.split(".")
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return out


class Daemon:
    def __init__(self, model, folder, /, ingest="pull", program=None, env=None, **sections):
        self.folder = pathlib.Path(folder)
        self.ports = {name: free_port() for name in ("ingest", "publish", "rpc", "http")}
        endpoint = {name: f"tcp://127.0.0.1:{port}" for name, port in self.ports.items()}
        self.endpoint = endpoint
        config = {"model": {"path": str(model), "threads": 1},
                  "explain": {"method": "gradient"},
                  "ingest": [{"bind": endpoint["ingest"], "type": ingest}],
                  "publish": {"bind": endpoint["publish"]},
                  "rpc": {"bind": endpoint["rpc"]},
                  "http": {"listen": f"127.0.0.1:{self.ports['http']}"},
                  "engine": {"tune": "off"},  # as in cli.py
                  "workers": 1}
        for name, value in sections.items():
            if isinstance(value, dict):
                config.setdefault(name, {}).update(value)
            else:
                config[name] = value
        self.config = self.folder / "daemon.yaml"
        self.config.write_text(json.dumps(config, indent=1))  # JSON is YAML
        self.log = self.folder / "daemon.log"
        self.program, self.env = program or cli.binary(), env or {}
        self.context = zmq.Context()
        self.process = self.sender = None
        self.collectors = []
        self.boot, self.seq = os.urandom(16), defaultdict(int)

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        self.sender = self.connect(zmq.PUSH)
        return self

    def start(self):
        """The process; once more after terminate(), on the same sockets."""
        self.process = subprocess.Popen([self.program, "serve", "--config", str(self.config)],
                                        stdout=subprocess.DEVNULL, stderr=self.log.open("w"),
                                        env={**os.environ, **self.env})
        self.wait(self.ready, 30, "the daemon is not ready")

    def __exit__(self, *_):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for collector in self.collectors:  # a context cannot end under a reading thread
            collector.stop()
        self.context.destroy(linger=0)

    def connect(self, kind, name="ingest", **options):
        s = self.context.socket(kind)
        for key, value in {"LINGER": 0, **options}.items():
            s.setsockopt(getattr(zmq, key), value)
        s.connect(self.endpoint[name])
        return s

    def subscribe(self, topic=b"", **options):
        s = self.connect(zmq.SUB, "publish", SUBSCRIBE=topic, RCVTIMEO=10000, **options)
        time.sleep(.2)  # until the subscription has arrived
        return s

    def http(self, path, timeout=5):
        return urllib.request.urlopen(f"http://127.0.0.1:{self.ports['http']}{path}",
                                      timeout=timeout).read().decode()

    def metrics(self):
        return Metrics(self.http("/metrics"))

    def ready(self):
        assert self.process.poll() is None, f"the daemon has ended:\n{self.log.read_text()[-3000:]}"
        try:
            self.http("/readyz")
            return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    def wait(self, condition, seconds, message):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                raise AssertionError(f"{message} after {seconds} s\n{self.log.read_text()[-3000:]}")
            time.sleep(.02)

    def header(self, stream, pixels, **keys):
        h = {"v": 1, "seq": self.seq[stream], "boot": self.boot, "ts": time.time_ns(),
             "fmt": "bgr24", "w": pixels.shape[1] if hasattr(pixels, "shape") else 1,
             "h": pixels.shape[0] if hasattr(pixels, "shape") else 1}
        self.seq[stream] += 1
        h.update(keys)
        return {k: v for k, v in h.items() if v is not None}

    def frame(self, stream, pixels, **keys):
        data = pixels.tobytes() if isinstance(pixels, np.ndarray) else pixels
        return [stream.encode(), msgpack.packb(self.header(stream, pixels, **keys)), data]

    def push(self, stream, pixels, **keys):
        self.sender.send_multipart(self.frame(stream, pixels, **keys))

    def terminate(self, seconds=8):
        """SIGTERM; returns (exit status, seconds it took, the final count of the last log line)."""
        begin = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(seconds)
        last = self.log.read_text().rstrip().splitlines()[-1]
        return status, time.monotonic() - begin, json.loads(last[last.index("{"):])["final"]


class Collector(threading.Thread):
    """Subscribes in a thread of its own and keeps every message."""

    def __init__(self, daemon, topic=b""):
        super().__init__(daemon=True)
        self.socket = daemon.subscribe(topic, RCVHWM=0)
        self.messages, self.stopping = [], False
        daemon.collectors.append(self)
        self.start()

    def run(self):
        self.socket.setsockopt(zmq.RCVTIMEO, 100)
        while True:
            try:
                self.messages.append(self.socket.recv_multipart())
            except zmq.Again:
                if self.stopping:
                    return

    def stop(self):
        self.stopping = True
        self.join()
        return self.messages


class Tail:
    """A client's own program as a consumer in a process of its own, which prints a digest per message."""

    def __init__(self, command, daemon, folder, name):
        self.output = pathlib.Path(folder) / f"{name}.txt"
        self.process = subprocess.Popen([*map(str, command), daemon.endpoint["publish"]],
                                        stdout=self.output.open("w"), env=client_environment())

    def stop(self):
        """What it saw, in its order: {(stream, seq): digest}."""
        self.process.terminate()
        self.process.wait(10)
        lines = [line.rsplit(" ", 2) for line in self.output.read_text().splitlines()]
        seen = {(stream, int(seq)): digest for stream, seq, digest in lines}
        assert len(seen) == len(lines), "a result came twice"
        return seen


def client_environment():
    path = [str(cli.ROOT / "clients/python"), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))}


def python_tail(daemon, folder):
    return Tail([sys.executable, "-m", "parchgrad_client.cli", "view", "--digest"], daemon, folder,
                "python")


def has_go():
    return shutil.which("go") is not None


def go_tail(daemon, folder):
    program = pathlib.Path(folder) / "tail"
    subprocess.run(["go", "build", "-o", str(program), "./cmd/tail"], check=True,
                   cwd=cli.ROOT / "clients/go")
    return Tail([program, "-digest"], daemon, folder, "go")
