"""Networks for the tests: torchvision architectures with random but healthy weights, and their ONNX
files as torch.onnx.export writes them.

"Healthy" means that activations, logits and gradients stay O(1) through the whole depth. torchvision's
initialisation alone does not give that (GoogLeNet's vanishes, a plain SqueezeNet shrinks), and a
comparison of two all-but-zero gradients proves nothing. So batch normalisation gets a random affine part
and running statistics measured on data, and layers without it are rescaled on data.

Then the kinks. At 224 x 224 a ResNet-50 has ten million ReLU inputs; a dozen of them lie closer to zero
than float32 can tell, and one wrong side changes the gradient by 3e-3: torch's own float32 gradient is off by
1e-2. That is no error of either side, so every channel's bias is nudged (by at most a tenth of the channel's
spread) until, for the one picture the tests explain, zero lies in a gap between its values. And that picture
is one of ten: the first in which no max-pooling window has two greatest values closer than float32 tells.

Everything is seeded and cached in $PG_TEST_CACHE (default build/test-cache); the key contains this
file's digest and torch's version, so an edit or an upgrade never reads a stale network.

    path = export("resnet18", size=64, classes=10, bn="keep")     -> pathlib.Path of the .onnx
    net = build("resnet18", size=64, classes=10)                  -> nn.Module, float32, eval
"""
import copy
import hashlib
import importlib
import math
import os
import pathlib
import sys
import warnings

import numpy as np
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ROOT = pathlib.Path(__file__).resolve().parents[2]
SEED = 20230117
TIE = 3e-6  # nearer than this, in spreads, float32 may not order two values

torch.set_num_threads(int(os.environ.get("PG_TEST_THREADS", "2")))


def cache_dir():
    path = pathlib.Path(os.environ.get("PG_TEST_CACHE", ROOT / "build" / "test-cache"))
    path.mkdir(parents=True, exist_ok=True)
    return path


def _digest():
    text = pathlib.Path(__file__).read_bytes() + torch.__version__.encode()
    return hashlib.sha256(text).hexdigest()[:10]


# ---- architectures ----


class SmallVGG(nn.Module):
    """A torchvision VGG with a classifier of one layer: the features are what the tests are about,
    the two 4096-wide layers would be 500 MB of file."""

    def __init__(self, features, classes):
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512, classes)

    def forward(self, x):
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class LeakNet(nn.Module):
    """Convolutions whose output feeds an addition directly, both ways round: a skip connection past
    a convolution (addition hands one gradient to both), and an output with two consumers."""

    def __init__(self, classes=10, width=16):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.skip = nn.Conv2d(width, width, 3, 1, 1)
        self.fork = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.branch = nn.Conv2d(2 * width, 2 * width, 3, 1, 1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x):
        r = torch.relu(self.stem(x))
        r = torch.relu(r + self.skip(r))
        z = self.fork(r)
        y = torch.relu(z + self.branch(torch.relu(z)))
        return self.fc(y.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.down = None
        if stride != 1 or cin != cout:
            self.down = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False),
                                      nn.BatchNorm2d(cout))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.down is None else self.down(x)))


class TinyResNet(nn.Module):
    """A residual net small enough that a daemon explains it in about a millisecond."""

    def __init__(self, classes=10, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False),
                                  nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2),
                                    Block(2 * width, 4 * width, 2))
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def _torchvision(name, classes, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(torchvision.models, name)(weights=None, num_classes=classes, **options)


def _googlenet(classes, transform_input):
    return _torchvision("googlenet", classes, aux_logits=False, transform_input=transform_input,
                        init_weights=True)


ARCHITECTURES = {
    "resnet18": lambda c: _torchvision("resnet18", c),
    "resnet50": lambda c: _torchvision("resnet50", c),
    "vgg16_bn": lambda c: _torchvision("vgg16_bn", c),
    "vgg11_bn_small": lambda c: SmallVGG(_torchvision("vgg11_bn", 10).features, c),
    "vgg16_bn_small": lambda c: SmallVGG(_torchvision("vgg16_bn", 10).features, c),
    "mobilenet_v2": lambda c: _torchvision("mobilenet_v2", c),
    "densenet121": lambda c: _torchvision("densenet121", c),
    "googlenet": lambda c: _googlenet(c, False),
    "googlenet_transform": lambda c: _googlenet(c, True),
    "squeezenet1_1": lambda c: _torchvision("squeezenet1_1", c),
    "efficientnet_b0": lambda c: _torchvision("efficientnet_b0", c),
    "leaknet": LeakNet,
    "tiny_resnet": TinyResNet,
}


# ---- health ----


def picture(index, size, classes=None):
    """A normalised network input [3,size,size]: coloured blobs, an edge and noise. `index` is the
    seed; with `classes`, index % classes decides hue, scale and direction, so that a calibration
    set has classes that differ."""
    rng = np.random.default_rng(SEED + index)
    kind = np.random.default_rng(1000 + (index % classes if classes else index))
    ys, xs = np.mgrid[0:size, 0:size] / size
    angle, freq = kind.uniform(0, np.pi), kind.uniform(2, 9)
    tint = kind.normal(size=3)
    wave = np.sin(2 * np.pi * freq * (np.cos(angle) * xs + np.sin(angle) * ys)
                  + rng.uniform(0, 2 * np.pi))
    image = np.zeros((3, size, size))
    for c in range(3):
        cx, cy, r = rng.uniform(.2, .8), rng.uniform(.2, .8), rng.uniform(.1, .3)
        blob = np.exp(-((xs - cx) ** 2 + (ys - cy) ** 2) / (2 * r * r))
        image[c] = tint[c] * wave * .7 + 1.5 * blob * rng.normal() + .5 * rng.normal(size=(size, size))
    return np.ascontiguousarray(image, dtype=np.float32)


def _health_batch(size):
    return torch.from_numpy(np.stack([picture(9000 + i, size) for i in range(8)]))


@torch.no_grad()
def _make_healthy(net, size):
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in norms:
        nn.init.uniform_(m.weight, .6, 1.4)
        nn.init.normal_(m.bias, 0, .15)
        m.reset_running_stats()
        m.momentum = None  # cumulative average: one pass sets mean and variance to the batch's own
    net.eval()
    batch = _health_batch(size)
    handles = [m.register_forward_hook(_rescale) for m in _followed_by_no_norm(net, batch)]
    for m in norms:
        m.train()
    net(batch)  # one pass measures the running statistics and rescales what has none
    for h in handles:
        h.remove()
    net.eval()
    for m in norms:
        m.momentum = .1
    best, tie, state = 0, -1.0, None
    for index in range(5, 15):
        x = torch.from_numpy(picture(index, size))[None]
        _clear_kinks(net, x)
        found = _closest_tie(net, x)
        if found > tie:
            best, tie, state = index, found, copy.deepcopy(net.state_dict())
        if tie > TIE:
            break
    net.load_state_dict(state)
    net.register_buffer("picture_index", torch.tensor(best))


def _followed_by_no_norm(net, batch):
    """Convolutions and linear layers whose output is not normalised: those are rescaled on data.
    (torch's modules are found by the identity of the tensors they pass on.)"""
    produced, keep, normed, order = {}, [], set(), []

    def on_linear(m, _inputs, out):
        produced[id(out)] = m
        keep.append(out)  # an id is only unique while its tensor lives
        order.append(m)

    def on_norm(_m, inputs, _out):
        if id(inputs[0]) in produced:
            normed.add(produced[id(inputs[0])])

    handles = []
    for m in net.modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            handles.append(m.register_forward_hook(on_linear))
        elif isinstance(m, nn.BatchNorm2d):
            handles.append(m.register_forward_hook(on_norm))
    net(batch)
    for h in handles:
        h.remove()
    return [m for m in order if m not in normed]


def _rescale(m, _inputs, out):
    """Scales the layer so that its output has standard deviation 1. The rescaled output is what the
    next layers see, so one forward pass heals all."""
    scale = 1 / max(float(out.std()), 1e-12)
    m.weight.mul_(scale)
    if m.bias is not None:
        m.bias.mul_(scale)
    return out * scale


class _KinkClearer(TorchFunctionMode):
    """At every ReLU or ReLU6, shifts the input of each channel so that the kinks lie in a gap of its
    values, and puts the shift into the bias of the layer that ran last (through an addition, too)."""

    ONE = (F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_)
    TWO = (F.relu6, F.hardtanh)

    def __init__(self):
        super().__init__()
        self.last = None

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kinks = (0.0,) if func in self.ONE else (0.0, 6.0) if func in self.TWO else None
        if kinks is not None:
            shift = _gap_shift(args[0], kinks)
            self.last.bias.data += shift
            args = (args[0] + shift.reshape(1, -1, *[1] * (args[0].dim() - 2)),) + args[1:]
        return func(*args, **(kwargs or {}))


def _gap_shift(v, kinks):
    """Per channel of v [1,C,...] the shift, at most a tenth of the spread, that moves the kinks into the
    middle of the widest gap between the values."""
    rows = v.double().reshape(v.shape[1], -1)
    spread = rows.std() if rows.shape[1] == 1 else rows.std(1)
    reach = (.1 * spread).expand(len(rows)).clamp(min=1e-3)[:, None]
    near = torch.cat([rows - k for k in kinks] + [-reach, reach], 1)
    near = torch.sort(torch.minimum(torch.maximum(near, -reach), reach), 1)[0]
    gap, i = (near[:, 1:] - near[:, :-1]).max(1, keepdim=True)
    return -(near.gather(1, i) + gap / 2)[:, 0].to(v.dtype)


def _clear_kinks(net, x):
    mode = _KinkClearer()
    layers = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))]
    for m in layers:
        if m.bias is None and not _has_norm(net):
            m.bias = nn.Parameter(torch.zeros(m.weight.shape[0]))

    def ran(m, _inputs, _out):
        if m.bias is not None:
            mode.last = m

    handles = [m.register_forward_hook(ran) for m in layers]
    with mode:
        net(x)
    for h in handles:
        h.remove()


def _closest_tie(net, x):
    """How close the two greatest values of a max-pooling window come, in spreads of the pool's input."""
    closest = [math.inf]

    def look(pool, inputs):
        v, k, s, p = inputs[0], pool.kernel_size, pool.stride, pool.padding
        v = F.pad(v, (p, p + k, p, p + k), value=-math.inf)  # on the right: ceil_mode
        windows = v.unfold(2, k, s).unfold(3, k, s).flatten(4)
        first, second = windows.topk(2, dim=4)[0].unbind(4)
        gaps = (first - second)[first > 0]
        closest[0] = min(closest[0], float(gaps.min() / inputs[0].std()))

    pools = [m for m in net.modules() if isinstance(m, nn.MaxPool2d)]
    handles = [m.register_forward_pre_hook(look) for m in pools]
    net(x)
    for h in handles:
        h.remove()
    return closest[0]


def _has_norm(net):
    return any(isinstance(m, nn.BatchNorm2d) for m in net.modules())


_built = {}


def build(name, size=224, classes=1000):
    """The network, float32, in eval mode; the same weights in every process."""
    key = (name, size, classes)
    if key in _built:
        return _built[key]
    torch.manual_seed(SEED)
    net = ARCHITECTURES[name](classes)
    saved = cache_dir() / f"{name}-{size}-{classes}-{_digest()}.pt"
    if saved.exists():
        net.register_buffer("picture_index", torch.tensor(0))
        net.load_state_dict(torch.load(saved))
    else:
        _make_healthy(net, size)
        _replace(saved, lambda f: torch.save(net.state_dict(), f))
    net.eval()
    for p in net.parameters():
        p.requires_grad_(False)
    _built.clear()  # one network at a time: VGG16 alone is half a gigabyte
    _built[key] = net
    return net


def test_picture(name, size=224, classes=1000):
    """The input [3,size,size] that the network's comparisons are made on."""
    return picture(int(build(name, size, classes).picture_index), size)


test_picture.__test__ = False  # not a test, whatever pytest thinks of the name


def _replace(path, write):
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    write(part)
    os.replace(part, path)


# ---- export ----


def export(name, size=224, classes=1000, opset=13, folding=True, dynamic=False, bn="fold"):
    """Path of the network's ONNX file. bn="keep" leaves BatchNormalization nodes in the file
    (training=PRESERVE on a network in eval mode), "fold" lets the exporter merge them."""
    kind = f"o{opset}-{'fold' if folding else 'nofold'}-{'dyn' if dynamic else 'fix'}-bn{bn}"
    path = cache_dir() / f"{name}-{size}-{classes}-{kind}-{_digest()}.onnx"
    if path.exists():
        return path
    net = build(name, size, classes)
    training = torch.onnx.TrainingMode.PRESERVE if bn == "keep" else torch.onnx.TrainingMode.EVAL
    axes = {"input": {0: "batch"}, "logits": {0: "batch"}} if dynamic else None
    sample = torch.from_numpy(picture(1, size))[None]
    options = {}
    if int(torch.__version__.split(".")[0]) >= 2 and "dynamo" in torch.onnx.export.__code__.co_varnames:
        options["dynamo"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _replace(path, lambda f: torch.onnx.export(
            net, sample, str(f), opset_version=opset, do_constant_folding=folding,
            input_names=["input"], output_names=["logits"], dynamic_axes=axes, training=training,
            **options))
    net.eval()
    return path


# ---- the demo's network, where its weights have been fetched ----


class _DemoNetwork(nn.Module):
    """EfficientNet-Lite0 computed from its weights by clients/demo/make_model.py's torch oracle."""

    def __init__(self, weights):
        super().__init__()
        self.state = _demo_tool("torch_pth").load(weights)

    def forward(self, x):
        return _demo_tool("make_model").reference_logits(self.state, x)


def _demo_tool(name):
    folder = str(ROOT / "clients" / "demo")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)


def demo_weights():
    """The .pth of the demo, named by PG_DEMO_WEIGHTS or found where the demo keeps it; or None."""
    named = os.environ.get("PG_DEMO_WEIGHTS")
    found = [pathlib.Path(named)] if named else sorted((ROOT / "build").glob("demo/**/*.pth"))
    return next((p for p in found if p.exists()), None)


def demo_network():
    """EfficientNet-Lite0 with its ImageNet weights as a torch module, or None."""
    weights = demo_weights()
    return _DemoNetwork(str(weights)) if weights else None


def demo_export():
    """Path of the same network as the demo writes it, without torch."""
    path = cache_dir() / "efficientnet_lite0.onnx"
    if not path.exists():
        import onnx
        tool = _demo_tool("make_model")
        onnx.save(tool.build(_demo_tool("torch_pth").load(str(demo_weights()))), str(path))
    return path
