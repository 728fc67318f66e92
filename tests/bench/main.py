"""The bench command; see `run`. Parts: P1 gradient, P2 ParchGrad, P3 forward, P4 latency, P5 memory, P6 start, P7 sharing,
methods (LRP, CRP, CAMs and means of gradients beside the libraries that have them), tricks (every switch of the
engine turned), report (nothing is measured, the report is written again)."""
import argparse
import ctypes
import json
import os
import pathlib
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support"), str(HERE.parent / "ref")]
PARTS = ["P1", "P2", "P3", "P4", "P5", "P6", "P7", "methods", "tricks", "report"]


def require():
    """Says what is missing, all at once."""
    absent = []
    for module, source in (("torch", "python3-torch"), ("torchvision", "python3-torchvision"), ("zmq", "python3-zmq"),
                           ("msgpack", "python3-msgpack"), ("PIL", "python3-pil"), ("onnx", "build/venv"),
                           ("onnxruntime", "build/venv")):
        try:
            __import__(module)
        except ImportError:
            absent.append(f"{module} ({source})")
    import cli
    if not pathlib.Path(cli.binary()).exists():
        absent.append(f"{cli.binary()} (cmake --preset release && cmake --build --preset release)")
    if absent:
        sys.exit("bench: missing: " + ", ".join(absent) + "; tests/run makes all of it")


def arguments():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: does it work, not how fast is it")
    parser.add_argument("--nets", help="comma separated (all that the goals name)")
    parser.add_argument("--precisions", default="f32,bf16", help="comma separated (f32,bf16)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true",
                        help="P1 to P3, methods and --scaling in processor time, with one thread: for a busy machine")
    parser.add_argument("--rounds", type=int, default=0, help="of all peers in turn (5)")
    parser.add_argument("--only", default="", metavar="PARTS", help="comma separated: " + " ".join(PARTS))
    parser.add_argument("--scaling", action="store_true", help="instead: time against size, channels, threads, streams")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parents[1] / "build" / "bench",
                        help="where the report lies; rows of an earlier one that are not measured again stay")
    parser.add_argument("--merge", type=pathlib.Path, metavar="REPORT.json",
                        help="puts another run, say on another oneDNN, beside this one")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.threads = 1 if options.cpu_time else options.threads
    options.parts = options.only.split(",") if options.only else [p for p in PARTS if p != "report"]
    options.precisions = options.precisions.split(",")
    if set(options.parts) - set(PARTS):
        parser.error(f"--only takes {' '.join(PARTS)}")
    require()
    from nets import GOAL_NETS, NETS
    names = options.nets.split(",") if options.nets else GOAL_NETS
    if set(names) - set(NETS):
        parser.error(f"--nets takes {' '.join(NETS)}")
    options.nets = [NETS[name] for name in names]
    return options


# ---- the machine ----


def onednn_version(binary):
    """Of the library that the binary loads."""
    libraries = subprocess.run(["ldd", binary], capture_output=True, text=True).stdout
    found = re.search(r"libdnnl\S* => (\S+)", libraries)

    class Version(ctypes.Structure):
        _fields_ = [(name, ctypes.c_int) for name in ("major", "minor", "patch")]

    if not found:
        return "linked in"
    library = ctypes.CDLL(found.group(1))
    library.dnnl_version.restype = ctypes.POINTER(Version)
    v = library.dnnl_version().contents
    return f"{v.major}.{v.minor}.{v.patch}"


def describe_machine(options):
    import onnxruntime
    import torch

    import cli
    from report import load_average
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    git = subprocess.run(["git", "-C", str(cli.ROOT), "describe", "--always", "--dirty"], capture_output=True, text=True)
    peak = json.loads(cli.run("bench", "--model", options.nets[0].path, "--only", "forward", "--runs", 1, "--json",
                              "--set", f"model.threads={options.threads}",
                              env={"OMP_NUM_THREADS": str(options.threads)}).stdout)["peak"]
    return {"date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "parchgradd": git.stdout.strip() or "unknown",
            "oneDNN": onednn_version(cli.binary()), "torch": torch.__version__, "onnxruntime": onnxruntime.__version__,
            "processor": f"{cpu.group(1) if cpu else platform.machine()}, {len(os.sched_getaffinity(0))} usable",
            f"peak, {options.threads} threads": f"{peak['f32_gflops']:.0f} GFLOP/s f32, {peak['bf16_gflops']:.0f} bf16, memory "
            f"{peak['read_gbs']:.1f} GB/s",
            "load average at the start": load_average()}


# ---- progress ----


class Progress:
    """One line on a terminal: what runs, how far, how long still. Elsewhere a line per step. Steps come with the
    seconds they take on a quiet machine; how far they were off until now is expected of the rest."""

    def __init__(self, steps):
        self.total, self.done = sum(s[1] for s in steps) or 1, 0
        self.begin = self.step_began = time.monotonic()
        self.what, self.weight = "", 0

    def start(self, what, weight):
        self.done += self.weight
        self.what, self.weight, self.step_began = what, weight, time.monotonic()
        self.show()
        if not sys.stderr.isatty():
            print(self.line(), file=sys.stderr, flush=True)

    def line(self):
        now = time.monotonic()
        pace = (self.step_began - self.begin) / self.done if self.done else 1
        step = max(self.weight * pace - (now - self.step_began), 0)
        left = int(step + (self.total - self.done - self.weight) * pace)
        return f"{100 * self.done / self.total:3.0f} %, {left // 60}:{left % 60:02d} left  {self.what}"

    def show(self):
        if sys.stderr.isatty():
            print(f"\r\x1b[K{self.line()}", end="", file=sys.stderr, flush=True)

    def end(self):
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def perform(steps, report, out):
    """Runs the steps; after each the report on disk is complete. The exit status."""
    progress, status = Progress(steps), 0
    try:
        for what, weight, function in steps:
            progress.start(what, weight)
            try:
                function(progress.show)
            except Exception as e:  # one goal that cannot be measured must not cost the others
                status = 1
                print(f"\nbench: {what}: {type(e).__name__}: {str(e).strip()[:600]}", file=sys.stderr)
            report.write(out)
    except KeyboardInterrupt:
        print("\nbench: interrupted; what was measured is in the report", file=sys.stderr)
        status = 130
    finally:
        progress.end()
    return status


def main():
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started us in the background
        signal.signal(number, signal.default_int_handler)
    options = arguments()
    import daemon_goals
    import engine_goals
    import method_goals
    from report import Report
    if options.cpu_time:
        engine_goals.peers.use_processor_time()
    if options.scaling:
        import scaling
        return scaling.main(options)
    report = Report(describe_machine(options))
    if options.cpu_time:
        report.machine["P1 to P3, methods"] = "processor time of one thread, not elapsed time"
    report.keep(options.out / "report.json")
    if options.merge:
        report.merge(options.merge)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        steps = [*engine_goals.steps(options, report, folder), *daemon_goals.steps(options, report, folder),
                 *method_goals.steps(options, report, folder)]
        status = perform(steps, report, options.out)
    report.write(options.out)
    for row in report.rows.values():
        if row.met is False:
            print(f"missed: {row.part} {row.what}, {row.net} {row.precision}: {row.ratio:.2f}, goal {row.goal[0]} "
                  f"{row.goal[1]:g}")
    print(options.out / "report.md")
    return status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
