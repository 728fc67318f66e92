"""What is measured side by side. Every peer answers `run(calls)` with {series: (median ms, shortest ms)}, and does
nothing in between; `rounds` lets them take turns.

The peers in Python share this process, ours are `parchgradd bench --step` processes: each waits for a number of
runs on its standard input.
"""
import json
import os
import statistics
import subprocess
import tempfile
import time

import numpy as np
import torch

import cli
from hooked_parchgrad import HookedParchGrad

PAUSE = .02  # until the threads of the peer before have gone to sleep
SLICE = .25  # seconds of a round that a peer may fill with calls
clock, cpu_time = time.perf_counter, []


def use_processor_time():
    """For one thread on a busy machine: from now on what is measured is processor time."""
    global clock, cpu_time
    clock, cpu_time = time.process_time, ["--cpu-time"]


class NotSupported(Exception):
    """This build cannot do what was asked for; the row says so."""


class Ours:
    """The series of one configuration: forward, backward (the bare network), and methods from the network's
    input to the map."""

    def __init__(self, net, threads, only, **settings):
        self.errors = tempfile.TemporaryFile("w+")
        command = [cli.binary(), "bench", "--model", net.path, "--step", "--only", only, "--runs", "1000",
                   *cpu_time, *cli.settings({"model.threads": threads, **settings})]
        self.process = subprocess.Popen(list(map(str, command)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors, text=True,
                                        env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        self.run(1)  # loads, and touches every page

    def run(self, calls):
        try:
            self.process.stdin.write(f"{calls}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            self.errors.seek(0)
            message = self.errors.read().strip().split("\n")[-1]
            raise NotSupported(message.split(": ")[-1]) if status == 2 else RuntimeError(f"bench: status {status}: {message}")
        info = json.loads(line)
        self.flops = info["flops"]
        series = {name: info[name] for name in ("forward", "backward") if name in info} | info["methods"]
        return {name: (s["median_ms"], s["min_ms"]) for name, s in series.items()}

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait()
        self.errors.close()


class InPython:
    """One series, a function of no arguments. `once`: a call takes so long that there is one, and none to warm up."""

    def __init__(self, name, call, once=False):
        self.name, self.call, self.once = name, call, once
        if not once:
            call()

    def run(self, calls):
        times = []
        for _ in range(calls):
            begin = clock()
            self.call()
            times.append((clock() - begin) * 1e3)
        return {self.name: (statistics.median(times), min(times))}

    def close(self):
        self.call = None


def torch_gradient(net, threads):
    """Forward, and backward to the input alone, as torch does it out of the box."""
    torch.set_num_threads(threads)
    module, x = net.module(), torch.from_numpy(net.picture())[None]

    def call():
        leaf = x.detach().requires_grad_(True)
        module(leaf)[0, 0].backward()

    return InPython("torch", call)


def onnxruntime_forward(net, threads):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(net.path), options, providers=["CPUExecutionProvider"])
    x = {session.get_inputs()[0].name: net.picture()[None]}
    return InPython("onnxruntime", lambda: session.run(None, x))


def hooked_parchgrad(net, threads, frozen=False):
    torch.set_num_threads(threads)
    explain = HookedParchGrad(net.module(), .1, frozen)
    x = torch.from_numpy(net.picture())
    return InPython("hooked", lambda: explain(x))


def reference_parchgrad(net, threads):
    """tests/ref, which is for exactness: float64."""
    from parchgrad_reference import Reference
    torch.set_num_threads(threads)
    ref = Reference(net.module(), fold=True, size=net.size)
    x = net.picture()
    rng = np.random.default_rng(0)
    plan = {}
    for i, layer in enumerate(ref.layers):
        channels = layer.module.out_channels
        plan[i] = np.zeros(channels, dtype=bool)
        plan[i][rng.permutation(channels)[:max(1, channels // 10)]] = True

    def call():
        ref.forward(x)
        np.abs(ref.backward(0, plan)).mean(0)

    return InPython("reference", call)


# ---- taking turns ----


class Series(dict):
    """{peer.series: [(median, shortest) of each round]}; sums and ratios of rounds."""

    def rounds(self, *names):
        """The rounds' medians of one series, or of the sum of several."""
        return [sum(times[0] for times in group) for group in zip(*(self[n] for n in names))]

    def shortest(self, *names):
        return sum(min(times[1] for times in self[n]) for n in names)

    def median(self, *names):
        return statistics.median(self.rounds(*names))

    def ratio(self, above, below):
        """(median of the rounds' ratios, lowest, highest, ratio of the shortest times)."""
        ratios = sorted(a / b for a, b in zip(self.rounds(*above), self.rounds(*below)))
        return (statistics.median(ratios), ratios[0], ratios[-1],
                self.shortest(*above) / self.shortest(*below))


def rounds(peers, count, on_round=lambda: None):
    """`peers` {name: peer} in turn, `count` times; as many calls as fill a slice of time. Who needs more than a second
    for one call takes part in the first two rounds only."""
    out, calls = Series(), {}
    for i in range(count):
        for name, peer in peers.items():
            if i >= (1 if getattr(peer, "once", False) else 2) and calls[name] == 0:
                continue
            time.sleep(PAUSE)
            times = peer.run(calls.get(name) or 1)
            if name not in calls:  # this was to see how long it takes
                took = sum(median for median, _ in times.values()) * 1e-3
                calls[name] = min(int(SLICE / took) + 1, 20) if took < 1 else 0
                times = peer.run(calls[name]) if calls[name] > 1 else times
            for series, values in times.items():
                out.setdefault(f"{name}.{series}", []).append(values)
        on_round()
    return out
