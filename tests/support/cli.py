"""Runs the parchgradd binary, for the tests written in Python.

PG_BINARY names the binary under test (default build/release/parchgradd), PG_BINARY_DEFECTS the one with
planted defects (default build/defects/parchgradd).
"""
import json
import os
import pathlib
import subprocess
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]


def binary():
    return os.environ.get("PG_BINARY", str(ROOT / "build/release/parchgradd"))


def binary_defects():
    return os.environ.get("PG_BINARY_DEFECTS", str(ROOT / "build/defects/parchgradd"))


class Failed(Exception):
    def __init__(self, args, result):
        self.status, self.stderr = result.returncode, result.stderr
        super().__init__(f"{' '.join(map(str, args))}: exit {result.returncode}\n{result.stderr[-2000:]}")


def run(*args, check=True, env=None, program=None, timeout=300):
    """stdout, stderr and exit status of one command. A signal always fails the test."""
    command = [program or binary(), *map(str, args)]
    # two commands may run side by side; oneDNN must not be affected by the caller's libraries
    cache = ROOT / "build/test-cache/tune"  # not the user's
    env = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(cache), **(env or {})}
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=timeout)
    if result.returncode < 0 or (check and result.returncode):
        raise Failed(command, result)
    return result


def settings(options):
    """{"parchgrad.gamma": 3} -> --set parchgrad.gamma=3"""
    out = []
    for key, value in options.items():
        text = value if isinstance(value, str) else json.dumps(value)
        out += ["--set", f"{key}={text}"]
    return out


class Explained:
    def __init__(self, attribution, logits, info):
        self.attribution, self.logits, self.info = attribution, logits, info

    @property
    def layers(self):
        """{conv name: {kept, total, channels, beta, share, degenerate}}"""
        prune = self.info.get("prune") or {}
        return {layer["name"]: layer for layer in prune.get("layers", [])}


def explain(model, x, method="gradient", target=None, stats=None, env=None, program=None, **options):
    """Explains the array x [3,H,W] (no preprocessing). Keyword options are configuration keys with
    "__" for the dot: parchgrad__gamma=3. Implementations are not chosen by measuring unless asked for: what
    a test sees must not depend on what else the machine was doing."""
    options.setdefault("engine__tune", "off")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        np.save(folder / "x.npy", np.asarray(x, dtype=np.float32))
        args = ["explain", "--model", model, "--method", method, "--json",
                "--save-attribution", folder / "a.npy", "--save-logits", folder / "y.npy"]
        if target is not None:
            args += ["--target", target]
        if stats is not None:
            args += ["--stats", stats]
        args += settings({k.replace("__", "."): v for k, v in options.items()})
        result = run(*args, folder / "x.npy", env=env, program=program)
        return Explained(np.load(folder / "a.npy").astype(np.float64),
                         np.load(folder / "y.npy").astype(np.float64), json.loads(result.stdout))


def write_calibration(folder, inputs, labels):
    """One folder per class index, one .npy per input."""
    folder = pathlib.Path(folder)
    for i, (x, label) in enumerate(zip(inputs, labels)):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        np.save(folder / str(label) / f"{i:03d}.npy", np.asarray(x, dtype=np.float32))


def calibrate(model, data, out, env=None, program=None, **options):
    options = settings({"engine.tune": "off", **{k.replace("__", "."): v for k, v in options.items()}})
    return run("calibrate", "--model", model, "--data", data, "--out", out, "--labels", "folder",
               *options, env=env, program=program)


def rel(a, b):
    """Relative L2 error of a against b."""
    return float(np.linalg.norm(np.asarray(a) - b) / max(np.linalg.norm(b), 1e-300))


def cosine(a, b):
    a, b = np.ravel(a), np.ravel(b)
    return float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300))
