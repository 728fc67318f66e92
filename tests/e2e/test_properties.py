"""The properties at the end of the method's description, of the binary and, first, of the reference itself: an
oracle that violates them proves nothing."""
import math

import numpy as np
import pytest

import cli
import models
from parchgrad_reference import Reference, log_normal_tail, log_t_tail, partition
from test_parchgrad import BOUND, CLASSES, Case

import torch


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return Case("vgg11_bn_small", "keep", tmp_path_factory.mktemp("chain"), samples=16)


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    return Case("tiny_resnet", "keep", tmp_path_factory.mktemp("residual"), samples=32)


@pytest.fixture(scope="module")
def depthwise(tmp_path_factory):
    return Case("mobilenet_v2", "fold", tmp_path_factory.mktemp("depthwise"), samples=8)


# ---- the reference ----


def test_reference_gradient_is_torchs():
    net = models.build("tiny_resnet", 64, CLASSES)
    x = models.test_picture(64)
    ref = Reference(net)
    y = ref.forward(x)
    t = torch.from_numpy(x).double()[None].requires_grad_(True)
    import copy
    out = copy.deepcopy(net).double()(t)
    out[0, 3].backward()
    assert np.abs(y - out[0].detach().numpy()).max() < 1e-12
    assert cli.rel(ref.backward(3), t.grad[0].numpy()) < 1e-12


@pytest.mark.parametrize("gamma", [math.inf, 3, 1])
def test_reference_partition(gamma):
    g = torch.from_numpy(np.random.default_rng(1).normal(size=(12, 5, 7)))
    keep = torch.tensor([True] * 4 + [False] * 8)
    _, s = partition(g, keep, gamma, "approx")
    assert s.var_high_after + s.var_low_after == pytest.approx(s.m + s.n, rel=1e-12)
    if math.isfinite(gamma):
        assert math.sqrt(s.var_high_after / s.var_low_after) == pytest.approx(gamma, rel=1e-12)
    new, _ = partition(g, keep, gamma, "exact")
    assert float(new.sum(0).var()) == pytest.approx(float(g.sum(0).var()), rel=1e-12)


def test_reference_tails():
    # P(T > 2) with 4 degrees of freedom is 0.0580582618; far out the tail is Pareto-like
    assert math.exp(log_t_tail(2., 4.)) == pytest.approx(.058058261758408, rel=1e-12)
    assert math.exp(log_t_tail(-2., 4.)) == pytest.approx(1 - .058058261758408, rel=1e-12)
    assert math.exp(log_t_tail(1., 1.)) == pytest.approx(.25, rel=1e-12)  # Cauchy
    assert log_t_tail(1e9, 1.) == pytest.approx(math.log(1 / (math.pi * 1e9)), rel=1e-12)
    assert log_t_tail(60., 1e6) == pytest.approx(log_normal_tail(60.), rel=1e-2)
    assert math.exp(log_normal_tail(1.)) == pytest.approx(.15865525393145707, rel=1e-12)
    assert log_normal_tail(10 - 1e-9) == pytest.approx(log_normal_tail(10 + 1e-9), rel=1e-8)


def test_reference_is_homogeneous(residual):
    plan = {i: c.keep for i, c in residual.choices("class", .9).items()}
    for gamma, conserve in ((math.inf, "approx"), (3, "exact"), (1, "off")):
        one = residual.ref.backward(2, plan, gamma, conserve)
        small = residual.ref.backward(2, plan, gamma, conserve, seed=1e-6)
        assert cli.rel(small, 1e-6 * one) < 1e-9


# ---- the binary ----


def test_all_channels_is_the_plain_gradient_bit_for_bit(residual, chain):
    for case in (residual, chain):
        plain = cli.explain(case.path, case.x, method="gradient", target=case.target)
        for select in ("class", "instance"):
            for gamma in ("inf", 3):
                got = case.explain(case.options(select, gamma=gamma, quantile=1.0, layers=1.0))
                assert got.attribution.tobytes() == plain.attribution.tobytes()
        none = case.explain(case.options("none", layers=1.0))
        assert none.attribution.tobytes() == plain.attribution.tobytes()


def test_variance_is_conserved(residual):
    """beta^2 = (M + N) / M = 1 / share at every layer: Var(S'_H) = M + N."""
    got = residual.explain(residual.options("class", layers=.9))
    choices = residual.choices("class", .9)
    residual.reference(choices)
    checked = 0
    for i, split in residual.ref.splits.items():
        layer = got.layers[residual.names[i]]
        assert layer["degenerate"] == split.degenerate
        assert layer["kept"] == split.kept and layer["total"] == split.total
        assert layer["channels"] == np.flatnonzero(choices[i].keep).tolist()
        if not split.degenerate:
            checked += 1
            assert layer["beta"] ** 2 * layer["share"] == pytest.approx(1, rel=1e-4)
            assert layer["share"] == pytest.approx(split.share, rel=1e-3)
            assert split.var_high_after == pytest.approx(split.m + split.n, rel=1e-9)
    assert checked >= 4


def test_gamma_is_the_ratio_of_the_groups(residual):
    """The reference asserts std(S'_H) = gamma std(S'_L); the binary must agree with its gradient."""
    for gamma in (.5, 1, 3, 10):
        choices = residual.choices("class", .9)
        got = residual.explain(residual.options("class", gamma=gamma, layers=.9))
        assert cli.rel(got.attribution, residual.reference(choices, gamma)) <= BOUND
        for s in residual.ref.splits.values():
            if not s.degenerate:
                assert math.sqrt(s.var_high_after / s.var_low_after) == pytest.approx(gamma, rel=1e-9)


def test_finite_gamma_tends_to_infinite(residual):
    far = residual.explain(residual.options("class", layers=.9))
    errors = [cli.rel(residual.explain(residual.options("class", gamma=g, layers=.9)).attribution,
                      far.attribution) for g in (10, 100, 1000, 1e5)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3, errors


@pytest.mark.parametrize("select, gamma", [("class", "inf"), ("instance", "inf"), ("list", "inf"), ("class", 3)])
def test_kept_channels_alone_give_the_same_map(residual, chain, depthwise, select, gamma):
    """engine.kept_channels: sums over the same products in another order, which some versions of the library sum up to
    the same bytes (that the short way is taken is test_conv_kept's); with finite gamma always the same bytes. Behind
    a depthwise convolution most of a gradient is zero, and the groups of the next may be, too: the same layers
    are then left as they are."""
    for case in (residual, chain, depthwise):
        options = case.options(select, gamma=gamma, layers=1.0)
        few, all_ = (case.explain({**options, "engine.kept_channels": on}) for on in ("true", "false"))
        assert few.layers.keys() == all_.layers.keys()
        assert [n["degenerate"] for n in few.layers.values()] == [n["degenerate"] for n in all_.layers.values()]
        if gamma == "inf":
            assert cli.rel(few.attribution, all_.attribution) < 3e-6
        else:
            assert few.attribution.tobytes() == all_.attribution.tobytes()


@pytest.mark.parametrize("select", ["class", "instance", "list"])
def test_gradients_in_rows_give_the_same_bytes(residual, depthwise, select):
    """engine.fuse_split: every sum is taken in the same order (that rows are handed over is test_defects')."""
    for case in (residual, depthwise):
        options = case.options(select, layers=1.0)
        rows, arrays = (case.explain({**options, "engine.fuse_split": on}) for on in ("true", "false"))
        assert rows.attribution.tobytes() == arrays.attribution.tobytes()
        assert rows.layers == arrays.layers


def scaled_head(path, out, factor):
    """A copy of the network whose logits are multiplied by `factor`, so that the gradient that
    reaches the convolutions is."""
    import onnx
    from onnx import numpy_helper
    model = onnx.load(str(path))
    last = next(n for n in reversed(model.graph.node) if n.op_type == "Gemm")
    for tensor in model.graph.initializer:
        if tensor.name in last.input[1:]:
            scaled = numpy_helper.to_array(tensor) * np.float32(factor)
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))
    onnx.save(model, str(out))
    return out


@pytest.mark.parametrize("factor", [2.0 ** -20, 2.0 ** 12])
def test_homogeneous_in_the_seed(residual, tmp_path, factor):
    """f(s seed) = s f(seed): no absolute floor anywhere."""
    scaled = scaled_head(residual.path, tmp_path / "scaled.onnx", factor)
    stats = tmp_path / "stats"
    cli.write_calibration(tmp_path / "data", residual.inputs, residual.labels)
    cli.calibrate(scaled, tmp_path / "data", stats)
    for gamma in ("inf", 3):
        options = {k.replace(".", "__"): v for k, v in residual.options("class", gamma=gamma).items()}
        one = cli.explain(residual.path, residual.x, method="parchgrad", target=2,
                          stats=residual.stats_file, **options)
        many = cli.explain(scaled, residual.x, method="parchgrad", target=2, stats=stats, **options)
        assert cli.rel(many.attribution, factor * one.attribution) < 1e-5


def test_chain_is_proportional_with_and_without_conservation(chain, residual):
    def maps(case):
        on, off = (case.explain(case.options("class", conserve=c, layers=.9)).attribution.ravel()
                   for c in ("approx", "off"))
        factor = float(on @ off / (off @ off))
        return factor, cli.rel(on, factor * off)

    factor, error = maps(chain)
    assert factor > 0 and error < 1e-4
    _, error = maps(residual)
    assert error > 1e-2, "a residual network must not be proportional: is anything conserved?"


def test_random_selection_is_seeded(residual):
    a, b, c = (residual.explain({**residual.options("random", layers=.9), "parchgrad.seed": seed})
               for seed in (1, 1, 2))
    assert a.attribution.tobytes() == b.attribution.tobytes()
    assert a.attribution.tobytes() != c.attribution.tobytes()
    for layer in a.layers.values():
        assert layer["kept"] == max(1, math.floor(.1 * layer["total"]))


def test_inputgrad_is_input_times_gradient(residual):
    g = cli.explain(residual.path, residual.x, method="gradient", target=1)
    xg = cli.explain(residual.path, residual.x, method="inputgrad", target=1)
    assert cli.rel(xg.attribution, g.attribution * residual.x) < 1e-6


def test_top1_is_the_default_target(residual):
    got = cli.explain(residual.path, residual.x)
    top = cli.explain(residual.path, residual.x, target=int(np.argmax(got.logits)))
    assert got.attribution.tobytes() == top.attribution.tobytes()
