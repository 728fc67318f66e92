"""parchgrad.compat: the authors' choices, each alone and all together, against the reference in tests/ref, on a
chain, a residual net, a depthwise net, and a residual net whose last outputs are a single position.
The table says what each of them changes: how far the map moves from that of the method on the same layers, and how
many channels are chosen otherwise.

The bound is test_parchgrad.py's, 1e-3: float32 through a deep network against float64; 1e-6 to 1e-5 is what comes out.
A channel at the boundary whose score differs by less than float32 can tell may fall on either side; such layers are
left out, and counted.
"""
import numpy as np
import pytest

import cli
from parchgrad_reference import SWITCHES, choose_layers
from test_parchgrad import BOUND, NEAR, Case

NETWORKS = {"vgg11_bn_small": 64, "resnet18": 64, "mobilenet_v2": 64, "tiny_resnet": 8}  # and their size
LAYERS, QUANTILE = "default", .1
# (switches, rule, quantile); what a rule does not ask does not matter to it
RUNS = [([], "class", QUANTILE), ([], "instance", QUANTILE)] + \
       [([s], "instance" if s == "strict" else "class", QUANTILE) for s in SWITCHES] + \
       [(["floor", "seed"], "class", QUANTILE),
        (SWITCHES, "class", QUANTILE), (SWITCHES, "instance", QUANTILE),
        (["strict"], "instance", 1e-3)]  # k = 1: nothing is left


@pytest.fixture(scope="module", params=NETWORKS)
def case(request, tmp_path_factory):
    made = Case(request.param, "keep", tmp_path_factory.mktemp(request.param), size=NETWORKS[request.param])
    made.name = request.param
    return made


def choices(case, compat, select, quantile=QUANTILE, level=None):
    """{convolution: Choice}, layers left alone too."""
    out = {}
    for i in choose_layers(len(case.names), LAYERS):
        choose = (lambda **k: case.stats.class_wise(i, case.target, **k)) if select == "class" else \
                 (lambda **k: case.stats.instance_wise(i, case.gaps[i], **k))
        out[i] = choose(quantile=quantile, level=level, compat=compat)
    return out


def value(compat):
    return "reference" if compat == SWITCHES else compat or "none"


def compare(case, compat, select, quantile=QUANTILE, level=None):
    """(error, map of the daemon's, choices, layers left out) over the layers with a clear choice."""
    chosen = choices(case, compat, select, quantile, level)
    near = [i for i, c in chosen.items() if c.margin() < NEAR]
    chosen = {i: c for i, c in chosen.items() if i not in near}
    options = case.options(select, quantile=quantile, level=level)
    options["parchgrad.layers"] = [case.names[i] for i in chosen]
    options["parchgrad.compat"] = value(compat)
    got = case.explain(options)
    plan = {i: c.keep for i, c in chosen.items() if not c.all}
    expected = case.ref.backward(case.target, plan, compat=compat)
    for i, c in chosen.items():
        assert got.layers[case.names[i]]["kept"] == (len(c.keep) if c.all else c.keep.sum())
    return cli.rel(got.attribution, expected), got.attribution, chosen, len(near)


def test_every_switch(case, say):
    plain, bad = {}, []

    def moved(got, chosen, select, quantile):
        """(relative L2, 1 - cosine) to the map of the method."""
        key = (select, quantile, tuple(chosen))
        if key not in plain:
            options = case.options(select, quantile=quantile)
            options["parchgrad.layers"] = [case.names[i] for i in chosen]
            plain[key] = case.explain(options).attribution
        return cli.rel(got, plain[key]), 1 - cli.cosine(got, plain[key])

    say(f"\n{case.name}, p_y = {np.exp(case.logits - np.logaddexp.reduce(case.logits))[case.target]:.1e}\n"
        f"{'compat':20s}{'rule':10s} quantile  against ref   map moved  1 - cosine  channels differing")
    for compat, select, quantile in RUNS:
        error, got, chosen, near = compare(case, compat, select, quantile)
        far, turned = moved(got, chosen, select, quantile)
        usual = choices(case, [], select, quantile)
        differ = sum(int((usual[i].keep != (c.keep | c.all)).sum()) for i, c in chosen.items())
        total = sum(len(c.keep) for c in chosen.values())
        say(f"{str(value(compat)):20s}{select:10s}{quantile:9g}  {error:11.1e}  {far:10.1e}  {turned:10.1e}  "
            f"{differ} of {total}" + (f", {near} layers left out" if near else ""))
        if error > BOUND:
            bad.append((compat, select, quantile, f"{error:.1e}"))
    assert not bad, bad


@pytest.mark.parametrize("select", ["class", "instance"])
def test_level(case, select):
    """p <= level, or below it."""
    error, *_ = compare(case, SWITCHES, select, level=.05)
    assert error <= BOUND


def test_integrated_gradients_are_weighted_by_the_probability_on_the_way(case):
    steps = 4
    kept = choices(case, [], "class")
    plan = {i: c.keep for i, c in kept.items() if c.margin() >= NEAR}
    total = 0
    for point, weight in zip(np.linspace(0, 1, steps + 1), [.5, 1, 1, 1, .5]):
        case.ref.forward(case.x * point)
        total = total + weight / steps * case.ref.backward(case.target, plan, compat=["seed"])
    case.ref.forward(case.x)
    got = cli.explain(case.path, case.x, method="parchgrad-ig", target=case.target, stats=case.stats_file,
                      ig__steps=steps, parchgrad__compat=["seed"], parchgrad__layers=[case.names[i] for i in plan])
    assert cli.rel(got.attribution, case.x * total) <= BOUND


@pytest.mark.parametrize("options, sentence", [
    ({"parchgrad__gamma": 2}, "parchgrad.compat follows code that fails for a finite parchgrad.gamma"),
    ({"parchgrad__conserve": "exact"}, "parchgrad.compat follows code that has no parchgrad.conserve: exact"),
    ({"parchgrad__compat": ["leak"]}, "parchgrad.compat must be none, reference or a list of width, floor, student"),
    ({"parchgrad__compat": "authors"}, "parchgrad.compat must be none, reference or a list of"),
])
def test_refuses_what_the_authors_code_cannot_do(options, sentence, tmp_path):
    with pytest.raises(cli.Failed) as refused:
        cli.explain(tmp_path / "no.onnx", np.zeros((3, 64, 64)), **{"parchgrad__compat": "reference", **options})
    assert refused.value.status == 2 and sentence in refused.value.stderr
