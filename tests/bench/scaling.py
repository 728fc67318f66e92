"""How time grows with input size, kept channels, threads and streams: scaling.svg, and the figures in scaling.json.

Against size it must grow as the arithmetic does: the exponent of time over FLOP, fitted on logarithms, is printed (1:
as the FLOP; below: overhead fades; above: something does not scale, a cache for instance).
"""
import json
import os
import pathlib
import tempfile

import numpy as np
import onnx

import cli
import models
import peers
from daemon_goals import Measurements
from nets import EVERY_LAYER, NETS
from report import Report
from svg import Svg, panel

SIDES = (112, 160, 224, 320, 448, 640, 896)
QUANTILES = (.01, .02, .05, .1, .2, .5, 1.0)
STREAMS = (1, 4, 16, 64)


def open_sides(net):
    """The network's file with height and width left open."""
    path = models.cache_dir() / f"{net.path.stem}-open.onnx"
    if not path.exists():
        model = onnx.load(str(net.path))
        for i, dim in enumerate(model.graph.input[0].type.tensor_type.shape.dim):
            if i >= 2:
                dim.dim_param = f"side{i}"
        del model.graph.value_info[:]
        onnx.save(model, str(path))
    return path


def bench(model, threads, runs, only="forward,backward,parchgrad", clock=(), **settings):
    settings = {"model.threads": threads, "parchgrad.select": "random", **EVERY_LAYER, **settings}
    return json.loads(cli.run("bench", "--model", model, "--json", "--runs", runs, "--warm-up", 1, "--only", only,
                              *clock, *cli.settings(settings), env={"OMP_NUM_THREADS": str(threads)}).stdout)


def exponent(points):
    """Slope of log y over log x, least squares."""
    x, y = np.log([p[0] for p in points]), np.log([p[1] for p in points])
    return float(np.polyfit(x, y, 1)[0])


def over_size(net, options, runs):
    """{series: [(side, ms)]} and {series: exponent of ms over FLOP}."""
    lines, flops = {"forward": [], "backward": [], "parchgrad": []}, []
    for side in SIDES[:4] if options.quick else SIDES:
        info = bench(open_sides(net), options.threads, max(1, int(runs * (224 / side) ** 2)), clock=peers.cpu_time, **{"model.input.size": side})
        flops.append(info["flops"])
        for name, line in lines.items():
            line.append((side, (info.get(name) or info["methods"][name])["median_ms"]))
    return lines, {name: exponent([(f, ms) for f, (_, ms) in zip(flops, line)]) for name, line in lines.items()}


def over_channels(net, options, runs):
    """Stages of a ParchGrad map against the share of channels kept, in per cent."""
    lines = {"whole": [], "backward": [], "forward": []}
    for quantile in QUANTILES[::3] if options.quick else QUANTILES:
        info = bench(net.path, options.threads, runs, "parchgrad", peers.cpu_time,
                     **{"parchgrad.quantile": quantile})["methods"]["parchgrad"]
        for name, line in lines.items():
            line.append((quantile * 100, info["median_ms"] if name == "whole" else info["stages_ms"][name]))
    return lines


def over_threads(net, runs):
    """Speed-up over one thread."""
    lines, first = {}, {}
    for threads in range(1, len(os.sched_getaffinity(0)) + 1):
        info = bench(net.path, threads, runs)
        for name in ("forward", "backward", "parchgrad"):
            ms = (info.get(name) or info["methods"][name])["median_ms"]
            first.setdefault(name, ms)
            lines.setdefault(name, []).append((threads, first[name] / ms))
    lines["as many as threads"] = [(threads, threads) for threads, _ in lines["forward"]]
    return lines


def over_streams(options, folder):
    """Frames explained per second in all, however many streams share them."""
    net, line = NETS["tiny_resnet"], []
    frame = np.zeros((net.size, net.size, 3), dtype=np.uint8)
    m = Measurements(options, Report({}), folder)
    for count in STREAMS:
        with m.daemon(net, threads=1) as d:
            rate, names = 2 * m.capacity(d, frame), [f"cam{i}" for i in range(count)]
            m.feed(d, names, rate, .5, frame)
            got, took = m.feed(d, names, rate, 1 if options.quick else 4, frame)
            line.append((count, sum(got.values()) / took))
    return {"in all": line, "each": [(count, value / count) for count, value in line]}


def main(options):
    net = options.nets[0] if len(options.nets) == 1 else NETS["resnet50"]
    runs = 2 if options.quick else 12
    sizes, exponents = over_size(net, options, runs)
    channels, threads = over_channels(net, options, runs), over_threads(net, runs)
    with tempfile.TemporaryDirectory() as folder:
        streams = over_streams(options, pathlib.Path(folder))
    options.out.mkdir(parents=True, exist_ok=True)
    figures = {"net": net.name, "threads": options.threads, "size": sizes, "exponent": exponents, "channels": channels,
               "threads_speed_up": threads, "streams": streams}
    (options.out / "scaling.json").write_text(json.dumps(figures, indent=1) + "\n")
    svg = Svg(1000, 760)
    svg.text(60, 24, f"{net.name}, {options.threads} threads, medians", bold=True)
    names = {name: f"{name}: FLOP^{exponents[name]:.2f}" for name in sizes}
    panel(svg, 80, 70, 380, 250, "against input size", {names[n]: line for n, line in sizes.items()}, "side, pixels", "ms")
    panel(svg, 570, 70, 380, 250, "against channels kept, every convolution", channels, "per cent", "ms")
    panel(svg, 80, 430, 380, 250, "against threads", threads, "threads", "times", logarithmic=False)
    panel(svg, 570, 430, 380, 250, "against streams (tiny network, one thread)", streams, "streams", "frames/s")
    (options.out / "scaling.svg").write_text(svg.text_of())
    for name, value in exponents.items():
        last = sizes[name][-1]
        print(f"{name}: time grows as FLOP^{value:.2f}, side^{exponent(sizes[name]):.2f}; {last[1]:.1f} ms at {last[0]}")
    print(options.out / "scaling.svg")
    return 0
