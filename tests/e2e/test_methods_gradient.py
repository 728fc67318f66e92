"""Integrated gradients, SmoothGrad and guided backpropagation against captum and against their definitions in
torch, in float64; what a deadline leaves of them; and every method through the daemon, per stream and per frame.

How close: the same comparison in torch's own float32 is the yardstick, and we may be off by CLOSE times its error,
FLOOR at least. But for one thing: between the ends of a path, and in noise, some ReLU's input lies within float32's
rounding of zero, and its gradient is there or not; which one, no two implementations agree on, and torch's own error
was seen at 1.3e-2. There the floor is KINKS, and a network of smooth functions alone shows what is exact.
"""
import copy
import itertools
import json
import time

import msgpack
import numpy as np
import pytest
import torch

import cli
import models
from daemon import Daemon
from onnx_net import Net

captum = pytest.importorskip("captum.attr")

SIZE, CLASSES, TARGET = 64, 10, 3
NETWORKS = ["resnet18", "vgg11_bn_small", "mobilenet_v2"]
SMOOTH_NET = "efficientnet_b0"
CLOSE, FLOOR, KINKS = 4, 2e-5, 3e-2
SMOOTH = {"smoothgrad__samples": 4}
SIGMA = {SMOOTH_NET: 1e-3}  # with its random weights it is chaos itself a little further from the test picture


def network(name, dtype=torch.float64):
    """A copy that hooks may be hung on: in-place activations would overwrite what captum reads."""
    net = copy.deepcopy(models.build(name, SIZE, CLASSES)).to(dtype)
    for module in net.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return net


def explain(name, x, method, **options):
    return cli.explain(models.export(name, SIZE, CLASSES), x, method=method, target=TARGET,
                       model__threads=1, **options)


def both(name, x, truth):
    """truth(net, x) in float64, and how far float32 is off."""
    exact, rough = (truth(network(name, dtype), torch.from_numpy(np.asarray(x)).to(dtype)[None])[0].numpy()
                    for dtype in (torch.float64, torch.float32))
    return exact, cli.rel(rough, exact)


def bound(torch_error, floor):
    return max(CLOSE * torch_error, floor)


def check(say, label, got, exact, torch_error, floor=FLOOR):
    error = cli.rel(got, exact)
    say(f"{label:44s} {error:8.1e}   torch in float32 {torch_error:8.1e}")
    assert error <= bound(torch_error, floor)


def floor_of(name):
    return FLOOR if name == SMOOTH_NET else KINKS


def gradient(net, x):
    x = x.clone().requires_grad_(True)
    return torch.autograd.grad(net(x)[0, TARGET], x)[0]


# ---- against captum ----


@pytest.mark.parametrize("name", NETWORKS)
def test_inputgrad(name, say):
    x = models.test_picture(SIZE)
    exact, error = both(name, x, lambda net, x: captum.InputXGradient(net).attribute(
        x.requires_grad_(True), target=TARGET).detach())
    check(say, f"{name} inputgrad", explain(name, x, "inputgrad").attribution, exact, error)


@pytest.mark.parametrize("name,rule", itertools.product([*NETWORKS, SMOOTH_NET],
                                                        ["gausslegendre", "riemann_trapezoid"]))
def test_ig_with_captums_quadratures(name, rule, say):
    x, steps = models.test_picture(SIZE), 8
    exact, error = both(name, x, lambda net, x: captum.IntegratedGradients(net).attribute(
        x, baselines=0, target=TARGET, n_steps=steps, method=rule).detach())
    got = explain(name, x, "ig", ig__steps=steps, ig__quadrature=rule)
    check(say, f"{name} ig, {rule}", got.attribution, exact, error, floor_of(name))
    assert got.info["quality"]["samples"] == got.info["quality"]["planned"] == steps
    _, delta = captum.IntegratedGradients(network(name)).attribute(
        torch.from_numpy(x).double()[None], baselines=0, target=TARGET, n_steps=steps, method=rule,
        return_convergence_delta=True)
    assert abs(got.info["quality"]["delta"] - float(delta)) <= bound(error, floor_of(name)) * np.abs(exact).sum()


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn_small"])  # captum's knows ReLU, not ReLU6
def test_guided_as_captum_has_it(name, say):
    x = models.test_picture(SIZE)
    exact, error = both(name, x, lambda net, x: captum.GuidedBackprop(net).attribute(
        x.requires_grad_(True), target=TARGET).detach())
    check(say, f"{name} guided", explain(name, x, "guided").attribution, exact, error)


# ---- against their definitions ----


def trapezoid(net, x, base, steps):
    total = sum((.5 if i in (0, steps) else 1) / steps * gradient(net, base + i / steps * (x - base))
                for i in range(steps + 1))
    return (x - base) * total


@pytest.mark.parametrize("name", [*NETWORKS, SMOOTH_NET])
def test_ig_by_the_trapezoid(name, say):
    x, steps = models.test_picture(SIZE), 6
    exact, error = both(name, x, lambda net, x: trapezoid(net, x, torch.zeros_like(x), steps))
    got = explain(name, x, "ig", ig__steps=steps)
    check(say, f"{name} ig, trapezoid", got.attribution, exact, error, floor_of(name))
    assert got.info["quality"]["samples"] == steps + 1
    with torch.no_grad():
        net = network(name)
        rise = [float(net(torch.from_numpy(a).double()[None])[0, TARGET]) for a in (np.zeros_like(x), x)]
    expected = exact.sum() - (rise[1] - rise[0])
    assert abs(got.info["quality"]["delta"] - expected) <= bound(error, floor_of(name)) * np.abs(exact).sum()


MEAN, STD = np.array([.485, .456, .406]), np.array([.229, .224, .225])
PAINTED = {"black": -MEAN / STD, "white": (1 - MEAN) / STD, "0.25": np.full(3, .25), "-1": np.full(3, -1.0)}


@pytest.mark.parametrize("baseline", PAINTED)
def test_ig_baselines(baseline, say):
    x, steps = models.test_picture(SIZE), 4
    base = np.broadcast_to(PAINTED[baseline].astype(np.float32)[:, None, None], x.shape)
    exact, error = both("resnet18", x, lambda net, x: trapezoid(
        net, x, torch.from_numpy(base.copy()).to(x.dtype)[None], steps))
    got = explain("resnet18", x, "ig", ig__steps=steps, ig__baseline=baseline)
    check(say, f"ig from {baseline}", got.attribution, exact, error, KINKS)


def blurred(x, sigma):
    """Truncated at 4 sigma, mirrored with the edge pixel repeated."""
    radius = int(4 * sigma + .5)
    kernel = np.exp(-.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    for axis in (1, 2):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        x = np.apply_along_axis(np.convolve, axis, np.pad(x, pad, "symmetric"), kernel, "valid")
    return x


def test_ig_from_the_blurred_frame(say):
    x, steps, sigma = models.test_picture(SIZE), 4, 3
    base = blurred(x.astype(float), sigma)
    exact, error = both("resnet18", x, lambda net, x: trapezoid(
        net, x, torch.from_numpy(base).to(x.dtype)[None], steps))
    got = explain("resnet18", x, "ig", ig__steps=steps, ig__baseline="blur", ig__blur=sigma)
    check(say, "ig from the blurred frame", got.attribution, exact, error, KINKS)


def test_more_steps_converge():
    x = models.test_picture(SIZE)
    deltas = {(rule, steps): abs(explain("vgg11_bn_small", x, "ig", ig__steps=steps, ig__quadrature=rule)
                                 .info["quality"]["delta"])
              for rule, steps in itertools.product(("trapezoid", "gausslegendre"), (2, 40))}
    for rule in ("trapezoid", "gausslegendre"):
        assert deltas[rule, 40] < .2 * deltas[rule, 2] + 1e-4, deltas


class GuidedRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, high):
        ctx.save_for_backward(x)
        ctx.high = high
        return x.clamp(0, high)

    @staticmethod
    def backward(ctx, d):
        x, = ctx.saved_tensors
        return d.clamp(min=0) * ((x > 0) & (x < ctx.high)), None


# ReLU6 alone and in convolutions; ReLU in the batch normalisations that DenseNet keeps.
@pytest.mark.parametrize("name,bn", [("mobilenet_v2", "fold"), ("mobilenet_v2", "keep"), ("densenet121", "keep"),
                                     ("squeezenet1_1", "fold"), ("resnet18", "keep")])
def test_guided_by_its_definition(name, bn, say, monkeypatch):
    path, functional = models.export(name, SIZE, CLASSES, bn=bn), torch.nn.functional
    monkeypatch.setattr(functional, "relu", lambda x, inplace=False: GuidedRelu.apply(x, float("inf")))
    monkeypatch.setattr(functional, "hardtanh", lambda x, low, high, inplace=False: GuidedRelu.apply(x, high))
    x = models.test_picture(SIZE)
    exact, error = both(name, x, gradient)
    monkeypatch.undo()
    got = cli.explain(path, x, method="guided", target=TARGET, model__threads=1)
    check(say, f"{name} guided, bn {bn}", got.attribution, exact, error)


# ---- SmoothGrad: the same noise, computed here ----


def philox(counter, key):
    """Philox4x32-10: counter [4, n], key [2] -> [4, n], all uint64 holding 32 bits."""
    low = np.uint64(0xffffffff)
    c, k = [np.asarray(v, np.uint64) for v in counter], [int(v) for v in key]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k[0]), b & low,
             (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k[1]), a & low]
        k = [(k[0] + 0x9E3779B9) & 0xffffffff, (k[1] + 0xBB67AE85) & 0xffffffff]
    return c


def noise(shape, sample, stream="input", seq=0, seed=0):
    """Standard normal numbers as kernels/philox.h and saliency_smoothgrad.c define them."""
    key = 14695981039346656037
    for byte in stream.encode():
        key = (key ^ byte) * 1099511628211 % 2 ** 64
    key = (key + seed) % 2 ** 64
    count = int(np.prod(shape))
    blocks = np.arange((count + 3) // 4, dtype=np.uint64)
    upper = [np.full_like(blocks, v) for v in (seq & 0xffffffff, seq >> 32, sample)]
    w = philox([blocks, *upper], (key & 0xffffffff, key >> 32))
    pairs = []
    for a, b in ((w[0], w[1]), (w[2], w[3])):
        radius = np.sqrt(-2 * np.log((a + 1.0) / 2 ** 32))
        angle = 2 * np.pi * (b / 2 ** 32 - .125)
        pairs += [radius * np.cos(angle), radius * np.sin(angle)]
    return np.stack(pairs, axis=1).reshape(-1)[:count].reshape(shape).astype(np.float32)


def copies(x, n, sigma=.15, **name):
    spread = np.float32(np.float32(sigma) * (x.max() - x.min()))
    return [x + spread * noise(x.shape, i, **name) for i in range(n)]


MODES = {"abs": torch.abs, "square": torch.square, "signed": lambda g: g}


@pytest.mark.parametrize("name,mode", [*((n, "abs") for n in NETWORKS), *((SMOOTH_NET, m) for m in MODES)])
def test_smoothgrad(name, mode, say):
    x, n = models.test_picture(SIZE), SMOOTH["smoothgrad__samples"]
    sigma = SIGMA.get(name, .15)
    inputs = copies(x, n, sigma)

    def truth(net, x):
        return sum(MODES[mode](gradient(net, torch.from_numpy(i).to(x.dtype)[None])) for i in inputs) / n

    exact, error = both(name, x, truth)
    got = explain(name, x, "smoothgrad", smoothgrad__mode=mode, smoothgrad__sigma=sigma, **SMOOTH)
    check(say, f"{name} smoothgrad, {mode}", got.attribution, exact, error, floor_of(name))
    net = network(name)
    means = [float(MODES[mode](gradient(net, torch.from_numpy(i).double()[None])).mean()) for i in inputs]
    # of few numbers that differ little: rounding shows more than in the map
    assert got.info["quality"]["std_error"] == pytest.approx(np.std(means, ddof=1) / n ** .5, rel=.05)


def test_a_replay_gives_the_same_bytes_and_a_seed_others():
    x = models.test_picture(SIZE)
    first, again, other = (explain("vgg11_bn_small", x, "smoothgrad", smoothgrad__seed=seed, **SMOOTH)
                           for seed in (7, 7, 8))
    assert first.attribution.tobytes() == again.attribution.tobytes()
    assert cli.rel(other.attribution, first.attribution) > 1e-3
    assert first.info["quality"]["std_error"] == again.info["quality"]["std_error"]


# ---- with ParchGrad: what they are made of, one by one ----

PRUNED = {"parchgrad__select": "random", "parchgrad__quantile": 0.3, "parchgrad__layers": 0.5}


def test_parchgrad_ig_is_made_of_parchgrads():
    """Channels are chosen by seed here, so the same ones at every point; the sum is ours in double."""
    x, steps = models.test_picture(SIZE), 3
    got = explain("resnet18", x, "parchgrad-ig", ig__steps=steps, **PRUNED)
    parts = [explain("resnet18", (np.float32(i / steps) * x), "parchgrad", **PRUNED).attribution
             for i in range(steps + 1)]
    expected = x * (parts[0] / 2 + sum(parts[1:-1]) + parts[-1] / 2) / steps
    assert cli.rel(got.attribution, expected) < 1e-6  # rounding of the result, and of alpha x
    assert len(got.layers) > 0


def test_parchgrad_smoothgrad_is_made_of_parchgrads():
    x, n = models.test_picture(SIZE), 3
    got = explain("resnet18", x, "parchgrad-smoothgrad", smoothgrad__samples=n, **PRUNED)
    parts = [explain("resnet18", c, "parchgrad", **PRUNED).attribution for c in copies(x, n)]
    # the noise is rounded to float once here and once there: 1 in 10^7 of the input
    assert cli.rel(got.attribution, np.mean(np.abs(parts), axis=0)) < 1e-4


def test_logits_are_the_frames():
    """Whatever a method runs the network on, the answer speaks of the frame."""
    x = models.test_picture(SIZE)
    plain = explain("resnet18", x, "gradient")
    for method in ("ig", "smoothgrad", "guided"):
        got = explain("resnet18", x, method, ig__steps=2, **SMOOTH)
        np.testing.assert_array_equal(got.logits, plain.logits)
        assert got.info["top"] == plain.info["top"]


# ---- nothing to explain ----


@pytest.mark.parametrize("method", ["ig", "smoothgrad"])
def test_constant_pictures_are_degenerate(method):
    x = np.full((3, SIZE, SIZE), .25, np.float32)
    got = explain("vgg11_bn_small", x, method, ig__baseline="0.25", ig__steps=3, **SMOOTH)
    assert got.info["quality"]["degenerate"] and np.isfinite(got.attribution).all()
    if method == "ig":
        assert not got.attribution.any() and abs(got.info["quality"]["delta"]) < 1e-6
    else:  # no range, no noise: one look is all there is
        assert got.info["quality"]["samples"] == 1 and "std_error" not in got.info["quality"]


def small_net(activation, path):
    net = Net(shape=(3, 8, 8))
    x = net.conv("input", 3, 4)
    x = activation(net, x)
    x = net.op("Flatten", x)
    path.write_bytes(net.model(net.op("Gemm", x, net.normal(256, 5), net.normal(5))).SerializeToString())
    return path


def test_zero_gradients_are_degenerate(tmp_path):
    dead = small_net(lambda net, x: net.op("Relu", net.op("Add", x, np.float32(-1000))), tmp_path / "dead.onnx")
    x = np.random.default_rng(0).normal(size=(3, 8, 8))
    for method in ("ig", "smoothgrad", "guided"):
        got = cli.explain(dead, x, method=method, target=0, ig__steps=3, **SMOOTH)
        assert got.info["quality"]["degenerate"] and not got.attribution.any()


def test_guided_wants_a_relu(tmp_path):
    smooth = small_net(lambda net, x: net.op("Tanh", x), tmp_path / "tanh.onnx")
    np.save(tmp_path / "x.npy", np.zeros((3, 8, 8), np.float32))
    result = cli.run("explain", "--model", smooth, "--method", "guided", tmp_path / "x.npy", check=False)
    assert result.returncode == 2 and "ReLU" in result.stderr


@pytest.mark.parametrize("setting,word", [("ig.baseline=grey", "black"), ("ig.baseline=1e9", "million"),
                                          ("ig.steps=0", "between"), ("smoothgrad.sigma=0", "between"),
                                          ("smoothgrad.mode=max", "square"), ("explain.deadline=-1", "between")])
def test_settings_are_checked(setting, word):
    result = cli.run("explain", "--list-methods", "--set", setting, check=False)
    assert result.returncode == 2 and word in result.stderr and setting.split("=")[0] in result.stderr


# ---- the price, and a deadline ----


def test_the_list_tells_the_price():
    listed = json.loads(cli.run("explain", "--list-methods", "--json", "--set", "ig.steps=10",
                                "--set", "smoothgrad.samples=3").stdout)["methods"]
    price = {m["name"]: (m["forwards"], m["backwards"]) for m in listed}
    assert price["gradient"] == (1, 1) and price["ig"] == (11, 11) and price["smoothgrad"] == (4, 3)
    params = {m["name"]: m["params"] for m in listed}
    assert "ig.quadrature" in params["parchgrad-ig"] and params["gradient"] == []


def test_a_refused_method_says_why_in_the_list():
    listed = json.loads(cli.run("explain", "--list-methods", "--json", "--model",
                                models.export("resnet18", SIZE, CLASSES)).stdout)["methods"]
    refused = {m["name"]: m["refused"] for m in listed}
    assert refused["gradient"] is None and "statistics" in refused["parchgrad-ig"]


@pytest.mark.parametrize("method,steps", [("smoothgrad", "smoothgrad.samples"), ("ig", "ig.steps")])
def test_a_deadline_means_fewer_samples(method, steps, say):
    """Ten thousand would take minutes. Late by one step at most; steps on a busy machine are uneven, so by the
    time of ten average ones here."""
    x, seconds = models.test_picture(SIZE), 1.5
    got = explain("resnet18", x, method, explain__deadline=seconds, **{steps.replace(".", "__"): 10000})
    quality, total = got.info["quality"], got.info["timing"]["total"] / 1e9
    one = total / quality["samples"]
    say(f"{method}: {quality['samples']} of {quality['planned']} in {total:.2f} s, {one * 1e3:.0f} ms each")
    assert 1 <= quality["samples"] < quality["planned"] and total < seconds + 10 * one + .1
    assert np.isfinite(got.attribution).all() and got.attribution.any()
    if method == "smoothgrad" and quality["samples"] > 1:
        assert quality["std_error"] > 0


def test_a_deadline_too_short_for_anything_still_gives_a_map():
    x = models.test_picture(SIZE)
    for method in ("smoothgrad", "ig", "gradient"):
        got = explain("resnet18", x, method, explain__deadline=1e-6)
        assert got.attribution.any() and got.info["quality"].get("samples", 1) in (1, 2)


# ---- through the daemon ----


@pytest.fixture(scope="module")
def small():
    return models.export("tiny_resnet", SIZE, CLASSES, bn="keep")


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def receive(sub):
    topic, header, pixels = sub.recv_multipart()[:3]
    return topic.decode(), msgpack.unpackb(header), pixels


def test_methods_by_stream_and_by_frame(small, tmp_path):
    streams = {"default": {"policy": "fifo", "depth": 64}, "a": {"method": "ig"}, "b": {"method": "smoothgrad"}}
    names = [line.split()[0] for line in cli.run("explain", "--list-methods").stdout.splitlines()[1:]]
    with Daemon(small, tmp_path, streams=streams, ig={"steps": 3}, smoothgrad={"samples": 3},
                parchgrad={"select": "random"}) as d:
        sub = d.subscribe()
        for stream, wanted in (("a", "ig"), ("b", "smoothgrad"), ("c", "gradient")):
            d.push(stream, picture(0))
            topic, h, _ = receive(sub)
            assert (topic, h["method"]) == (stream, wanted)
        assert h["params"] == {"reduce": "mean_abs", "smooth": 0}
        for name in [n for n in names if n in ("guided", "inputgrad") or "grad" in n or "ig" in n]:
            d.push("a", picture(1), method=name)
            _, h, _ = receive(sub)
            assert h["method"] == name
            assert ("select" in h["params"]) == name.startswith("parchgrad")
            if name == "smoothgrad":
                assert h["params"]["smoothgrad.samples"] == 3 and h["params"]["smoothgrad.mode"] == "abs"
                assert h["quality"]["samples"] == h["quality"]["planned"] == 3
                assert h["quality"]["std_error"] > 0
            if name == "ig":
                assert h["params"]["ig.steps"] == 3 and h["params"]["ig.baseline"] == "zero"
                assert "delta" in h["quality"]
        for bad in ("no such", "x" * 100, ""):
            d.push("c", picture(1), method=bad)
        d.push("c", picture(1))
        assert receive(sub)[1]["method"] == "gradient"
        m = d.metrics()
        m.assert_accounts()
        assert m.drops("c") == {"bad_method": 3}


def test_a_method_the_model_cannot_carry_drops_the_frame(small, tmp_path):
    with Daemon(small, tmp_path, streams={"default": {"policy": "fifo", "depth": 8}}) as d:
        sub = d.subscribe()
        d.push("cam0", picture(0), method="parchgrad-ig")  # there are no statistics
        d.push("cam0", picture(0), method="ig")
        assert receive(sub)[1]["method"] == "ig"
        assert d.metrics().drops("cam0") == {"bad_method": 1}


def test_a_replayed_stream_gives_the_same_maps(small, tmp_path):
    """Noise follows stream and seq, not the daemon's life nor the worker that happened to be free."""
    maps = []
    for run, workers in enumerate((1, 2)):
        folder = tmp_path / str(run)
        folder.mkdir()
        with Daemon(small, folder, workers=workers, streams={"default": {"policy": "fifo", "depth": 64}},
                    explain={"method": "smoothgrad"}, smoothgrad={"samples": 3}) as d:
            sub = d.subscribe()
            for i in range(6):
                d.push("cam0" if i % 2 else "cam1", picture(0))
            got = {}
            for _ in range(6):
                topic, h, pixels = receive(sub)
                got[topic, h["seq"]] = pixels
            maps.append(got)
    assert maps[0] == maps[1]
    assert len(set(maps[0].values())) == 6, "the same frame with other noise"


def test_a_streams_deadline(small, tmp_path):
    streams = {"default": {"policy": "fifo", "depth": 8}, "slow": {"method": "smoothgrad", "deadline": .4}}
    with Daemon(small, tmp_path, streams=streams, smoothgrad={"samples": 10000}) as d:
        sub = d.subscribe()
        for _ in range(3):
            begin = time.monotonic()
            d.push("slow", picture(0))
            _, h, _ = receive(sub)
            assert h["quality"]["samples"] < h["quality"]["planned"] == 10000
            assert time.monotonic() - begin < 5
        d.metrics().assert_accounts()
