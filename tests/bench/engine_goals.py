"""P1 the plain gradient, P2 ParchGrad, P3 forward, and what each switch of the engine is worth.

One block per network and precision, in which all that belongs together takes turns: our bare network, ParchGrad with
two ways of choosing channels, torch, ONNX Runtime, and ParchGrad in Python.
"""
import contextlib
from dataclasses import replace

import peers
from nets import EVERY_LAYER, engine_switches, statistics
from report import Row

SECONDS = {"resnet18": 5, "resnet50": 11, "vgg16": 22, "densenet121": 16, "mobilenet_v2": 8, "efficientnet_lite0": 8,
           "tiny_resnet": 1}  # of a block, on a quiet machine: for the time left
TRICK_NETS = ("resnet50", "vgg16", "mobilenet_v2")  # one of each kind


def steps(options, report, folder):
    """(what, about how many seconds, function) of all that is to be done."""
    for net in options.nets if {"P1", "P2", "P3"} & set(options.parts) else ():
        for precision in options.precisions:
            block = Block(net, precision, options, report, folder)
            yield f"P1-P3 {net.name} {precision}", SECONDS[net.name], block.measure
    if "tricks" in options.parts:
        for net in [net for net in options.nets if net.name in TRICK_NETS] or options.nets:
            for precision in options.precisions:
                for key, other, _ in engine_switches():
                    trick = Trick(net, precision, key, other, options, report)
                    yield f"{key}: {other} {net.name} {precision}", SECONDS[net.name] / 3, trick.measure


class Block:
    def __init__(self, net, precision, options, report, folder):
        self.net, self.precision, self.options, self.report, self.folder = net, precision, options, report, folder
        self.threads = options.threads

    def row(self, part, what, **fields):
        if part in self.options.parts:
            self.report.add(Row(part, what, self.net.name, self.precision, self.threads, **fields))

    def measure(self, tick):
        with contextlib.ExitStack() as stack:
            try:
                running = self.peers(stack, self.options.parts)
            except peers.NotSupported as e:
                for (part, what), goal in self.goals().items():
                    self.row(part, what, goal=goal, note=f"not supported here: {e}")
                return
            times = peers.rounds(running, self.options.rounds, tick)
            self.rows(times)

    def ours(self, only, precision=None, **settings):
        return peers.Ours(self.net, self.threads, only, **{"model.precision": precision or self.precision, **settings})

    def peers(self, stack, want):
        """Those that no wanted part asks for are not started."""
        made = {}

        def add(name, peer):
            stack.callback(peer.close)
            made[name] = peer

        add("bare", self.ours("forward,backward"))
        if self.precision != "f32":
            add("f32", self.ours("forward,backward", "f32"))
        if "P1" in want:
            add("torch", peers.torch_gradient(self.net, self.threads))
        if "P3" in want:
            add("ort", peers.onnxruntime_forward(self.net, self.threads))
        if "P2" in want:
            stats = {"parchgrad.stats": str(statistics(self.net, self.folder)), "explain.target": 0}
            add("random", self.ours("parchgrad", **EVERY_LAYER, **{"parchgrad.select": "random"}))
            add("class", self.ours("parchgrad", **EVERY_LAYER, **{"parchgrad.select": "class"}, **stats))
            add("instance", self.ours("parchgrad", **EVERY_LAYER, **{"parchgrad.select": "instance"}, **stats))
            add("hooked", peers.hooked_parchgrad(self.net, self.threads))
            add("frozen", peers.hooked_parchgrad(self.net, self.threads, frozen=True))
            if self.precision == "f32":
                add("reference", peers.reference_parchgrad(self.net, self.threads))
        return made

    def goals(self):
        """{(part, what): goal}; what has no goal is told all the same."""
        net, f32 = self.net, self.precision == "f32"
        gradient = (5 if net.separable else 1.6) if f32 else (None if net.separable else 3.2)
        price = {"resnet50": 1.4, "vgg16": 1.4, "resnet18": None}.get(net.name, 2.0)
        goals = {("P1", "gradient / torch"): gradient and (">=", gradient)}
        if not f32:
            goals["P1", "gradient / our f32"] = None if net.separable else (">=", 2)
        for select in ("random", "class"):
            goals["P2", f"ParchGrad, {select} / own forward"] = price and ("<=", price)
            goals["P2", f"ParchGrad, {select} / hooks in torch"] = (">=", 8)
        goals["P3", "forward / ONNX Runtime"] = (">=", .95) if f32 else None
        return goals

    def compare(self, times, part, what, ours, theirs, note="", price=False):
        """The ratio is theirs / ours, or (a price) ours / theirs."""
        if not all(name in times for name in (*ours, *theirs)):
            return
        ratio, low, high, shortest = times.ratio(ours, theirs) if price else times.ratio(theirs, ours)
        self.row(part, what, ours=times.median(*ours), theirs=times.median(*theirs), ratio=ratio, low=low, high=high,
                 shortest=shortest, goal=self.goals().get((part, what)), note=note)

    def rows(self, times):
        whole = ("bare.forward", "bare.backward")
        self.compare(times, "P1", "gradient / torch", whole, ("torch.torch",), "theirs in f32")
        self.compare(times, "P1", "gradient / our f32", whole, ("f32.forward", "f32.backward"), "theirs is our own f32")
        self.compare(times, "P1", "backward / own forward", ("bare.backward",), ("bare.forward",), price=True)
        for select in ("random", "class", "instance"):
            map_ = (f"{select}.parchgrad",)
            self.compare(times, "P2", f"ParchGrad, {select} / own forward", map_, ("bare.forward",), "input to map",
                         price=True)
            self.compare(times, "P2", f"ParchGrad, {select} / hooks in torch", map_, ("hooked.hooked",),
                         "theirs in f32, as the authors' code does it")
        self.compare(times, "P2", "ParchGrad, random / hooks in torch, weights frozen", ("random.parchgrad",),
                     ("frozen.hooked",), "theirs without the gradients of weights that come along")
        self.compare(times, "P2", "ParchGrad, random / tests/ref", ("random.parchgrad",), ("reference.reference",),
                     "theirs in float64")
        self.compare(times, "P3", "forward / ONNX Runtime", ("bare.forward",), ("ort.onnxruntime",), "theirs in f32")


class Trick:
    """One switch of the engine turned the other way."""

    def __init__(self, net, precision, key, other, options, report):
        self.net, self.precision, self.key, self.other = net, precision, key, other
        self.options, self.report = options, report

    def measure(self, tick):
        settings = {**EVERY_LAYER, "parchgrad.select": "random", "model.precision": self.precision}
        name = f"{self.key}: {self.other}"
        series = {"gradient": ("forward", "backward"), "ParchGrad": ("parchgrad",)}
        rows = {what: Row("tricks", f"{name}, {what}", self.net.name, self.precision, self.options.threads)
                for what in series}
        pair = {}
        with contextlib.ExitStack() as stack:
            try:
                for side, more in (("usual", {}), ("other", {self.key: self.other})):
                    pair[side] = peers.Ours(self.net, self.options.threads, "forward,backward,parchgrad", **settings,
                                            **more)
                    stack.callback(pair[side].close)
            except peers.NotSupported as e:
                for row in rows.values():
                    self.report.add(replace(row, note=f"not supported here: {e}"))
                return
            times = peers.rounds(pair, max(self.options.rounds - 2, 2), tick)
        for what, parts in series.items():
            usual, other = ([f"{side}.{part}" for part in parts] for side in ("usual", "other"))
            ratio, low, high, shortest = times.ratio(other, usual)
            self.report.add(replace(rows[what], ours=times.median(*usual), theirs=times.median(*other), ratio=ratio,
                                    low=low, high=high, shortest=shortest,
                                    note="theirs is ours with the switch turned: above 1, the default is the faster one"))
