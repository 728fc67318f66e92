"""Random weights that make a comparison of gradients mean something.

"Healthy" means that activations, logits and gradients stay O(1) through the whole depth. torchvision's
initialisation alone does not give that (GoogLeNet's vanishes, a plain SqueezeNet shrinks, ConvNeXt's branches are
scaled by 1e-6, a ViT's head is zero), and a comparison of two all-but-zero gradients proves nothing. So
normalisation gets a random affine part and running statistics measured on data, and layers without it are
rescaled on data.

Then the kinks. At 224 x 224 a ResNet-50 has ten million ReLU inputs; a dozen of them lie closer to zero than
float32 can tell, and one wrong side changes the gradient by 3e-3: torch's own float32 gradient is off by 1e-2.
That is no error of either side, so for the one picture the tests explain
 - every channel's bias is nudged, by at most a tenth of the channel's spread, until the kinks of its activation
   lie in a gap between its values, and
 - where the two greatest values of a max-pooling window are closer than float32 tells, the weights of the convolution
   that made this channel are changed by a few per cent, so that the tie is broken.
Either moves what comes behind it, so passes are repeated until one changes nothing.
"""
import contextlib
import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

SEED = 20230117
PICTURE = 5  # the picture that the comparisons are made on
NEAR = 3e-4  # nearer to a kink than this, in spreads, float32 may be on its wrong side: deep networks amplify
TIE = 1e-4   # the same for the two greatest values of a window; pools lie early
PASSES = 200


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


@torch.no_grad()
def make_healthy(net, size):
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in net.modules():
        _randomise(m)
    net.eval()
    batch = torch.from_numpy(np.stack([picture(9000 + i, size) for i in range(8)]))
    handles = [m.register_forward_hook(_rescale) for m in _followed_by_no_norm(net, batch)]
    for m in norms:
        m.train()
    net(batch)  # one pass measures the running statistics and rescales what has none
    for h in handles:
        h.remove()
    net.eval()
    for m in norms:
        m.momentum = .1  # the default: exports write it
    clear_kinks(net, torch.from_numpy(picture(PICTURE, size))[None])


def _randomise(m):
    if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm)):
        nn.init.uniform_(m.weight, .6, 1.4)
        nn.init.normal_(m.bias, 0, .15)
    if isinstance(m, nn.BatchNorm2d):
        m.reset_running_stats()
        m.momentum = None  # cumulative average: one pass sets mean and variance to the batch's own
    if isinstance(m, nn.Linear) and not m.weight.any():
        nn.init.normal_(m.weight, 0, m.in_features ** -.5)
    if hasattr(m, "layer_scale"):
        nn.init.uniform_(m.layer_scale, .2, .8)


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
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            handles.append(m.register_forward_hook(on_linear))
        elif isinstance(m, nn.BatchNorm2d):
            handles.append(m.register_forward_hook(on_norm))
    net(batch)
    for h in handles:
        h.remove()
    return list(dict.fromkeys(m for m in order if m not in normed))


def _rescale(m, _inputs, out):
    """Scales the layer so that its output has standard deviation 1. The rescaled output is what the
    next layers see, so one forward pass heals all. (A layer that runs again is scaled once more, which its
    earlier outputs miss: they are off by that factor, and still of order 1.)"""
    scale = 1 / max(float(out.std()), 1e-12)
    m.weight.mul_(scale)
    if m.bias is not None:
        m.bias.mul_(scale)
    return out * scale


# ---- kinks ----


def clear_kinks(net, x):
    layers = [m for m in net.modules()
              if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, nn.BatchNorm2d))]
    mode = _KinkClearer()
    handles = [m.register_forward_hook(mode.ran) for m in layers]
    net.double()  # equal values are then one value that came along two ways: no tie
    for _ in range(PASSES):
        mode.begin()
        with mode, contextlib.suppress(_TieBroken):
            net(x.double())
        if not mode.changes:
            break
    else:
        raise AssertionError(f"{mode.changes} kinks are left after {PASSES} passes")
    net.float()
    for h in handles:
        h.remove()


class _TieBroken(Exception):
    """Weights have changed: what comes behind them must be computed anew before it is looked at."""


class _KinkClearer(TorchFunctionMode):
    """Watches activations and max-pooling during a forward pass, and corrects the layers before them. A bias is
    that of the layer which ran last and has one (through an addition, too)."""

    KINKS = {f: (0.0,) for f in (F.relu, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_)}
    KINKS |= {f: (0.0, 6.0) for f in (F.relu6, F.hardtanh)}
    KINKS |= {f: (-3.0, 3.0) for f in (F.hardswish, F.hardsigmoid)}

    def __init__(self):
        super().__init__()
        self.random = torch.Generator().manual_seed(SEED)
        self.begin()

    def begin(self):
        self.changes, self.biased, self.conv = 0, None, None
        self.made, self.alive = {}, []  # id of a tensor -> [convolution of each part of its channels]

    def ran(self, m, _inputs, _out):
        if m.bias is not None:
            self.biased = m
        if isinstance(m, nn.Conv2d):
            self.conv = m

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.KINKS:
            return self.activation(func, args, kwargs)
        if func is F.max_pool2d:
            self.pool(args[0], *args[1:], **kwargs)
        out = func(*args, **kwargs)
        if func is F.max_pool2d:
            self.note(out, self.made[id(args[0])])
        elif func is torch.cat:
            self.note(out, [conv for part in args[0] for conv in self.made.get(id(part), [])])
        return out

    def note(self, out, convs):
        self.made[id(out)] = convs
        self.alive.append(out)

    def activation(self, func, args, kwargs):
        v = args[0]
        shift = _gap_shift(v, self.KINKS[func])
        self.changes += int(shift.count_nonzero())
        self.biased.bias.data += shift
        v = v + shift.reshape(1, -1, *[1] * (v.dim() - 2))
        out = func(v, *args[1:], **kwargs)
        if kwargs.get("inplace") or func in (torch.relu_, torch.Tensor.relu_):
            out = args[0].copy_(out)
        self.note(out, [self.conv])
        return out

    def pool(self, v, kernel_size, stride=None, padding=0, *rest, **options):
        k, s, p = kernel_size, stride or kernel_size, padding
        first = F.max_pool2d(v, k, s, p, *rest, **options)
        h, w = first.shape[2:]
        wide = F.pad(v, (p, p + k, p, p + k), value=-torch.inf)  # more on the right: ceil_mode
        tied = torch.zeros(v.shape[1], dtype=torch.bool)
        for dy, dx in itertools.product(range(k), range(k)):
            gap = first - wide[:, :, dy:dy + s * h:s, dx:dx + s * w:s][:, :, :h, :w]
            tied |= ((first > 0) & (gap > 0) & (gap < TIE * v.std())).flatten(2).any(2)[0]
        self.changes += int(tied.sum())
        start = 0
        for conv in self.made[id(v)]:
            weight = conv.weight
            noise = torch.randn(weight.shape, generator=self.random) * weight.std() * .03
            weight.data += noise * tied[start:start + len(weight), None, None, None]
            start += len(weight)
        assert start == v.shape[1]
        if tied.any():
            raise _TieBroken


def _gap_shift(v, kinks):
    """Per channel of v [1,C,...] the shift, at most a tenth of the spread, that moves the kinks into the
    middle of the widest gap between the values; 0 where they are far enough from all values, or where that would
    not take them twice as far away as they are (a picture with very many values has no wide gaps)."""
    rows = v.reshape(v.shape[1], -1)
    spread = rows.std() if rows.shape[1] == 1 else rows.std(1)
    reach = (.1 * spread).expand(len(rows)).clamp(min=1e-3)[:, None]
    near = torch.cat([rows - k for k in kinks], 1)
    margin = near.abs().min(1)[0]
    bad = margin < 10 * NEAR * reach[:, 0]
    near, reach = near[bad], reach[bad]
    near = torch.cat([torch.minimum(torch.maximum(near, -reach), reach), -reach, reach], 1).sort(1)[0]
    gap, i = (near[:, 1:] - near[:, :-1]).max(1, keepdim=True)
    shift = -(near.gather(1, i) + gap / 2)[:, 0]
    out = torch.zeros_like(margin)
    out[bad] = torch.where(gap[:, 0] / 2 > 2 * margin[bad], shift, 0)
    return out
