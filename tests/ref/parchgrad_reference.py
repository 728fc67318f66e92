"""ParchGrad, a second time: float64, torch autograd, written from the method's description alone and
never from the C code. The tests compare the two.

Every convolution of a torch module is replaced by an autograd function that computes the same
forward, and in backward partitions the gradient that arrives at its output (the sum over all its
consumers) before handing it to its own input. Whatever else consumes that output never sees
the partitioned gradient.

A module that runs twice is two convolutions with one weight: they are numbered by calls, as their nodes
lie in the file. So are those that the explained output does not depend on; no gradient arrives there.

`fold=True` first merges each batch normalisation that directly follows a convolution into it, as
torch.onnx.export does in eval mode: the convolution's own output then lies behind it.

`compat` names departures of the authors' code from the method, as parchgrad.compat does: width, floor, student,
strict, seed.
"""
import copy
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

FLOOR = 1e-12  # degenerate: relative
ALIVE = 1e-9
ADDED = 1e-13  # compat floor: absolute
SWITCHES = ["width", "floor", "student", "strict", "seed"]


# ---- the split of one gradient ----


@dataclass
class Split:
    """What happened at one convolution in one backward pass."""
    kept: int
    total: int
    m: float = 0.0
    n: float = 0.0
    beta: float = 1.0
    share: float = math.nan
    degenerate: bool = False
    var_high_after: float = math.nan
    var_low_after: float = math.nan


def variance(s):
    """Unbiased over the positions; with one position the square. Rounding counts as zero."""
    n = s.numel()
    if n == 1:
        return float(s.item()) ** 2
    v = float(((s - s.mean()) ** 2).sum() / (n - 1))
    return v if v >= FLOOR * float((s ** 2).mean()) else 0.0


def spread(s, compat):
    """M or N of a group's sum: its variance, or what the authors take for it."""
    if "width" in compat and s.numel() == 1:
        v = abs(float(s.item()))
    elif "floor" in compat and s.numel() > 1:
        v = float(s.var())
    else:
        v = variance(s)
    return v + ADDED if "floor" in compat else v


def partition(g, keep, gamma, conserve, compat=()):
    """g [C,H,W], keep bool [C] -> (the new gradient, Split)."""
    split = Split(int(keep.sum()), len(keep))
    high, low = g[keep].sum(0), g[~keep].sum(0)
    m, n = spread(high, compat), spread(low, compat)
    split.m, split.n = m, n
    split.share = m / (m + n) if m + n > 0 else math.nan
    split.degenerate = True
    if split.kept == 0 or split.kept == split.total:
        return g, split
    if "floor" not in compat and (m + n == 0 or m / (m + n) < FLOOR):
        return g, split
    if math.isinf(gamma):
        scale_high, scale_low = 1.0, 0.0
        beta = math.sqrt((m + n) / m)
    else:
        if n / (m + n) < FLOOR:
            return g, split
        ratio = gamma * math.sqrt(n / m)
        scale_high, scale_low = ratio, 1.0
        beta = math.sqrt((m + n) / (m * ratio ** 2 + n))
    if conserve == "off":
        beta = 1.0
    elif conserve == "exact":
        after = variance(scale_high * high + scale_low * low)
        if after < FLOOR * (m + n):
            return g, split
        beta = math.sqrt(variance(high + low) / after)
    out = torch.empty_like(g)
    out[keep] = g[keep] * (scale_high * beta)
    out[~keep] = g[~keep] * (scale_low * beta)
    split.beta, split.degenerate = beta, False
    split.var_high_after = variance(out[keep].sum(0))
    split.var_low_after = variance(out[~keep].sum(0))
    return out, split


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, layer, reference):
        ctx.layer, ctx.reference, ctx.shape = layer, reference, x.shape
        return layer.plain_forward(x)

    @staticmethod
    def backward(ctx, g):
        layer, conv, ref = ctx.layer, ctx.layer.module, ctx.reference
        keep = ref.plan.get(layer.index)
        if keep is not None:
            split_g = []
            for sample in g:
                new, split = partition(sample, keep, ref.gamma, ref.conserve, ref.compat)
                split_g.append(new)
                ref.splits[layer.index] = split
            g = torch.stack(split_g)
        d_x = torch.nn.grad.conv2d_input(ctx.shape, conv.weight, g, conv.stride, conv.padding,
                                         conv.dilation, conv.groups)
        return d_x, None, None


@dataclass
class _Layer:
    """One convolution of the network: one call of a module."""
    index: int
    name: str
    module: nn.Conv2d
    plain_forward: object
    z: torch.Tensor = None

    def gap(self):
        return torch.relu(self.z).mean((2, 3))


class Reference:
    """A float64 copy of `net` whose convolutions can be partitioned; `size` is one that it takes. Another `dtype`
    shows what rounding does to the same arithmetic.

        ref = Reference(net, fold=False)
        logits = ref.forward(x)                     numpy [classes], of the first output
        ref.gaps()                                  one array [C] per convolution
        g = ref.backward(target, plan, gamma, conserve)    numpy [3,H,W]; ref.splits tells what happened
    `plan` maps convolution numbers to boolean arrays, True for channels that are kept. `target` is an index, or
    a tuple of indices and slices into the first output: the sum of what they name is explained.
    """

    def __init__(self, net, fold=False, size=64, dtype=torch.float64):
        self.dtype = dtype
        self.net = copy.deepcopy(net).double().eval()
        for p in self.net.parameters():
            p.requires_grad_(False)
        if fold:
            _fold(self.net, size)
        self.net.to(dtype)
        self.plan, self.gamma, self.conserve, self.splits, self.compat = {}, math.inf, "approx", {}, ()
        self.layers, self.x, self.y = [], None, None
        for name, module in self.net.named_modules():
            if isinstance(module, nn.Conv2d):
                self._watch(name, module)
        self.forward(np.zeros((3, size, size)))

    def _watch(self, name, module):
        assert module.padding_mode == "zeros" and not isinstance(module.padding, str)
        plain_forward = module.forward

        def forward(x):
            layer = _Layer(len(self.layers), name, module, plain_forward)
            self.layers.append(layer)
            z = _Conv.apply(x, layer, self)
            layer.z = z.detach().clone()  # torchvision's ReLU and `out += identity` overwrite z in place
            return z

        module.forward = forward

    def forward(self, x):
        self.layers = []
        self.x = torch.as_tensor(np.asarray(x), dtype=self.dtype).reshape(-1, *np.shape(x)[-3:])
        self.x.requires_grad_(True)
        y = self.net(self.x)
        self.y = y[0] if isinstance(y, tuple) else y
        return self.y[0].detach().numpy()

    def gaps(self):
        return [layer.gap()[0].numpy() for layer in self.layers]

    def backward(self, target, plan=None, gamma=math.inf, conserve="approx", seed=1.0, compat=()):
        self.plan = {i: torch.as_tensor(np.asarray(k, dtype=bool)) for i, k in (plan or {}).items()}
        self.gamma, self.conserve, self.splits, self.compat = float(gamma), conserve, {}, compat
        if "seed" in compat:
            seed = seed * float(torch.softmax(self.y[0].detach(), 0)[target])
        d_y = torch.zeros_like(self.y)
        d_y[(0, *target) if isinstance(target, tuple) else (0, target)] = seed
        (g,) = torch.autograd.grad(self.y, self.x, d_y, retain_graph=True)
        return g[0].numpy()


@torch.no_grad()
def _fold(net, size):
    """Merges y = (z - mean) / sqrt(var + eps) * weight + bias into the convolution whose output it takes."""
    produced, alive, pairs = {}, [], {}

    def hook(m, inputs, out):
        if isinstance(m, nn.Conv2d):
            produced[id(out)] = m
            alive.append(out)  # an id is only unique while its tensor lives
        elif id(inputs[0]) in produced:
            pairs.setdefault(m, set()).add(produced[id(inputs[0])])

    kinds = (nn.Conv2d, nn.BatchNorm2d)
    handles = [m.register_forward_hook(hook) for m in net.modules() if isinstance(m, kinds)]
    net(torch.zeros(1, 3, size, size, dtype=torch.float64))
    for h in handles:
        h.remove()
    for norm, convs in pairs.items():
        (conv,) = convs
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = conv.bias if conv.bias is not None else torch.zeros_like(norm.running_mean)
        conv.bias = nn.Parameter((bias - norm.running_mean) * scale + norm.bias, requires_grad=False)
        conv.weight = nn.Parameter(conv.weight * scale[:, None, None, None], requires_grad=False)
        norm.forward = lambda x: x


# ---- which convolutions ----


def choose_layers(count, layers="default"):
    """Numbers of the selected convolutions: a ratio selects the last floor(r n), the default is the
    later half."""
    ratio = .5 if layers == "default" else float(layers)
    return list(range(count - math.floor(ratio * count), count))


# ---- which channels ----


@dataclass
class Choice:
    """One layer's kept channels, and how close the decision was."""
    keep: np.ndarray
    order: np.ndarray = field(default=None)  # best first
    score: np.ndarray = field(default=None)  # per channel, smaller is better
    k: int = 0
    all: bool = False  # the layer is left alone

    def margin(self):
        """Relative distance of the last kept and the first dropped channel's score."""
        if self.all or self.order is None or not 0 < self.k < len(self.order):
            return math.inf
        a, b = self.score[self.order[self.k - 1]], self.score[self.order[self.k]]
        if math.isinf(a) or math.isinf(b):
            return 0.0 if a == b else math.inf
        return abs(b - a) / max(abs(a), abs(b), 1e-300)

    def swapped(self):
        """The choice with the two channels at the boundary exchanged."""
        keep = self.keep.copy()
        keep[self.order[self.k - 1]] = False
        keep[self.order[self.k]] = True
        return keep


class Statistics:
    """GAP of every calibration sample: `gaps[i]` is [samples, C] for convolution i, `labels`
    [samples]."""

    def __init__(self, gaps, labels):
        self.gaps = [np.asarray(g, dtype=np.float64) for g in gaps]
        self.labels = np.asarray(labels)

    @staticmethod
    def measure(ref, inputs, labels):
        rows = []
        with torch.no_grad():
            for i in range(0, len(inputs), 4):  # four at once are faster than one, and few enough for memory
                ref.forward(np.stack(inputs[i:i + 4]))
                rows.append([layer.gap().numpy() for layer in ref.layers])
        return Statistics([np.concatenate(r) for r in zip(*rows)], labels)

    def alive(self, i):
        g = self.gaps[i]
        return g.std(0, ddof=1) > ALIVE * g.mean(0)

    def welch(self, i, klass):
        """(log p, t) per channel: is the class's mean greater than that of all others?"""
        a, b = self.gaps[i][self.labels == klass], self.gaps[i][self.labels != klass]
        va, vb = a.var(0, ddof=1) / len(a), b.var(0, ddof=1) / len(b)
        with np.errstate(all="ignore"):
            t = (a.mean(0) - b.mean(0)) / np.sqrt(va + vb)
            df = (va + vb) ** 2 / (va ** 2 / (len(a) - 1) + vb ** 2 / (len(b) - 1))
        usable = np.isfinite(t) & np.isfinite(df)
        logp = np.where(a.mean(0) > b.mean(0), -np.inf, 0.0)
        logp[usable] = log_t_tail(t[usable], df[usable])
        return logp, np.where(np.isnan(t), -np.inf, t)

    def student(self, i, klass):
        """(p in float32, t) per channel: the same question, the variance of both groups taken for one."""
        a, b = self.gaps[i][self.labels == klass], self.gaps[i][self.labels != klass]
        squares = ((a - a.mean(0)) ** 2).sum(0) + ((b - b.mean(0)) ** 2).sum(0)
        df = len(a) + len(b) - 2
        with np.errstate(all="ignore"):
            t = (a.mean(0) - b.mean(0)) / np.sqrt(squares / df * (1 / len(a) + 1 / len(b)))
            return np.exp(log_t_tail(t, float(df))).astype(np.float32), t

    def class_wise(self, i, klass, quantile=None, level=None, compat=()):
        n = int((self.labels == klass).sum())
        if n < 2 or len(self.labels) - n < 2:
            return None  # cannot be tested: the caller takes the instance-wise rule
        if "student" in compat:
            p, t = self.student(i, klass)
            return _pick_by_p(p, -t, self.alive(i), quantile, level, np.less_equal)
        logp, t = self.welch(i, klass)
        return _pick(logp, -t, self.alive(i), quantile, level)

    def instance_wise(self, i, gap, quantile=None, level=None, compat=()):
        g = self.gaps[i]
        with np.errstate(all="ignore"):
            z = (gap - g.mean(0)) / g.std(0, ddof=1)
        z = np.where(np.isfinite(z), z, -np.inf)
        logp = np.array([log_normal_tail(v) for v in z])
        if "strict" in compat:
            return _pick_by_p(np.exp(logp), -z, self.alive(i), quantile, level, np.less)
        # p is monotone in z: ranking by z is ranking by p, without underflow
        return _pick(logp if level is not None else -z, -z, self.alive(i), quantile, level)


def _pick(score, tie, alive, quantile, level):
    order = np.lexsort((np.arange(len(score)), tie, score))
    order = np.array([c for c in order if alive[c]], dtype=int)
    keep = np.zeros(len(score), dtype=bool)
    if level is not None:
        k = int((score[order] <= math.log(level)).sum())
    else:
        if quantile >= 1:
            return Choice(np.ones(len(score), dtype=bool), order, score, len(score), True)
        k = min(max(1, math.floor(quantile * len(score))), len(order))
    keep[order[:k]] = True
    if k == 0:
        return Choice(np.ones(len(score), dtype=bool), order, score, 0, True)
    return Choice(keep, order, score, k)


def _pick_by_p(p, tie, alive, quantile, level, below):
    """As the authors pick: everything that is `below` (<, or <=) the k-th smallest p, or the level."""
    if level is None:
        level = np.sort(p[alive])[min(max(1, math.floor(quantile * len(p))), alive.sum()) - 1]
    keep = below(p, level) & alive
    order = np.array([c for c in np.lexsort((tie, p)) if alive[c]], dtype=int)
    with np.errstate(divide="ignore"):
        return Choice(keep, order, np.log(p.astype(float)), int(keep.sum()), keep.all() or not keep.any())


def log_normal_tail(z):
    """log(1 - Phi(z)), also far out."""
    if z < 10:
        return math.log(.5 * math.erfc(z / math.sqrt(2))) if z > -37 else 0.0
    if math.isinf(z):
        return -math.inf
    # asymptotic series: below 1e-10 relative from z = 10 on
    s, term = 1.0, 1.0
    for j in range(1, 12):
        term *= -(2 * j - 1) / (z * z)
        s += term
    return -.5 * z * z - math.log(z * math.sqrt(2 * math.pi)) + math.log(s)


def log_t_tail(t, df):
    """log P(T > t) of Student's t, vectorised, without underflow: the incomplete beta function by
    its continued fraction, the factor in front of it kept as a logarithm."""
    t, df = np.broadcast_arrays(np.asarray(t, float), np.asarray(df, float))
    x = df / (df + t * t)
    tail = math.log(.5) + _log_betainc(df / 2, np.full(df.shape, .5), x, t * t / (df + t * t))
    with np.errstate(divide="ignore"):
        return np.where(t >= 0, tail, np.log1p(-np.exp(np.minimum(tail, 0))))


def _log_betainc(a, b, x, y):
    """log I_x(a, b), y = 1 - x given apart because it may be tiny."""
    lgamma = np.vectorize(math.lgamma, otypes=[float])
    with np.errstate(divide="ignore", invalid="ignore"):
        front = (lgamma(a + b) - lgamma(a) - lgamma(b) + np.where(x > 0, a * np.log(x), -np.inf)
                 + np.where(y > 0, b * np.log(y), -np.inf))
        direct = front + np.log(_beta_fraction(a, b, x)) - np.log(a)
        other = np.log1p(-np.exp(front + np.log(_beta_fraction(b, a, y)) - np.log(b)))
        out = np.where(x < (a + 1) / (a + b + 2), direct, other)
    return np.where(y == 0, 0.0, out)


def _beta_fraction(a, b, x):
    """Lentz's evaluation of the continued fraction of the incomplete beta function."""
    tiny = 1e-300
    c = np.ones_like(x)
    d = 1 - (a + b) * x / (a + 1)
    d = 1 / np.where(np.abs(d) < tiny, tiny, d)
    h = d.copy()
    for m in range(1, 400):
        step = np.ones_like(x)
        for num in (m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
                    -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))):
            d = 1 + num * d
            d = 1 / np.where(np.abs(d) < tiny, tiny, d)
            c = 1 + num / np.where(np.abs(c) < tiny, tiny, c)
            h = h * d * c
            step = d * c
        if np.all(np.abs(step - 1) < 1e-15):
            break
    return h
