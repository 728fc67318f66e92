"""LRP and CRP against zennit 0.5.1 and zennit-crp 0.6.0 in float64.

zennit works on modules: batch normalisation is folded before it gets a network (its own canonizer leaves a layer with
eps behind that scales every activation by 5e-6), and what torchvision writes as functions (residual additions, the last
pool) becomes modules that its rules know.

Tolerance: relative L2 of the signed attribution [3,H,W]. A rule divides by sums computed in float32; each is off by
about 1e-7 of its terms' size, and where a denominator is a small difference of them (epsilon, zbox, the beta part) that is
more of the quotient. A few layers come out at 5e-7 (1e-5 where such quotients are interpolated), networks of up to 53
layers at 2e-5 (ResNet-50); the bound is 3e-5. A rule that is wrong anywhere misses it by orders of magnitude.
"""
import copy
import warnings

import msgpack
import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

import cli
import models
from daemon import Daemon

rules = pytest.importorskip("zennit.rules")
from crp.attribution import CondAttribution  # noqa: E402
from zennit.canonizers import AttributeCanonizer  # noqa: E402
from zennit.composites import (EpsilonAlpha2Beta1, EpsilonGammaBox, EpsilonPlus,  # noqa: E402
                               EpsilonPlusFlat, LayerMapComposite, SpecialFirstLayerMapComposite,
                               layer_map_base)
from zennit.layer import Sum  # noqa: E402
from zennit.torchvision import ResNetBasicBlockCanonizer, ResNetBottleneckCanonizer  # noqa: E402
from zennit.types import Linear  # noqa: E402

TOLERANCE = 3e-5

# model.input of the box: black is (0 - .5) * 6, white (1 - .5) * 6
BOX = {"model__input__mean": [.5] * 3, "model__input__std": [1 / 6] * 3}
LOW, HIGH = -3., 3.

COMPOSITES = {
    "epsilon_plus_flat": EpsilonPlusFlat, "epsilon_plus": EpsilonPlus,
    "epsilon_alpha2_beta1": EpsilonAlpha2Beta1,
    "epsilon_gamma_box": lambda **options: EpsilonGammaBox(low=LOW, high=HIGH, **options)}


# ---- the oracle ----


class MobileNetSums(AttributeCanonizer):
    """x + conv(x) of an inverted residual as a module."""

    def __init__(self):
        super().__init__(self.attributes)

    def copy(self):
        return MobileNetSums()

    @staticmethod
    def attributes(name, module):
        if not isinstance(module, InvertedResidual) or not module.use_res_connect:
            return None

        def forward(self, x):
            return self.canonizer_sum(torch.stack([x, self.conv(x)], dim=-1))
        return {"forward": forward.__get__(module), "canonizer_sum": Sum()}


def folded(net):
    """A float64 copy without batch normalisation behind convolutions."""
    def walk(module):
        last = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d) and last:
                setattr(module, last[0], fuse_conv_bn_eval(last[1], child))
                setattr(module, name, nn.Identity())
                last = None
            else:
                walk(child)
                last = (name, child) if isinstance(child, nn.Conv2d) else None
        return module
    net = walk(copy.deepcopy(net).eval().double())
    if isinstance(net, torchvision.models.DenseNet):
        net = nn.Sequential(net.features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1), net.classifier)
    if isinstance(net, torchvision.models.MobileNetV2):
        net = nn.Sequential(net.features, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), net.classifier)
    return net


def canonizers():
    return [ResNetBasicBlockCanonizer(), ResNetBottleneckCanonizer(), MobileNetSums()]


def truth(net, x, composite):
    """Relevance of the input for the top class, that class, and its logit."""
    x = torch.from_numpy(np.asarray(x)).double()[None].requires_grad_(True)
    with composite.context(net) as modified:
        y = modified(x)
        sums = y.flatten(2).sum(2) if y.dim() > 2 else y
        target = int(sums.argmax())
        start = torch.zeros_like(y)
        start[:, target] = y.detach()[:, target]
        r, = torch.autograd.grad(y, x, start)
    return r[0].numpy(), target, float(sums[0, target])


def export(net, size, path):
    net = copy.deepcopy(net).float().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"dynamo": False} if int(torch.__version__.split(".")[0]) >= 2 else {}
        torch.onnx.export(net, torch.zeros(1, 3, size, size), str(path), opset_version=13,
                          input_names=["input"], output_names=["logits"], **options)
    return path


def lrp(path, x, target, method="lrp", **options):
    return cli.explain(path, x, method=method, target=target, model__threads=1, **BOX, **options)


# ---- each rule alone ----


RULES = {"epsilon": rules.Epsilon(1e-6), "zplus": rules.ZPlus(), "alpha_beta": rules.AlphaBeta(2, 1),
         "gamma": rules.Gamma(.25), "wsquare": rules.WSquare(), "flat": rules.Flat()}


def ladder():
    """Every kind of layer, and convolutions behind values of either sign and of one."""
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 12, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1),  # 16 -> 8 -> 4 from 32
        nn.Conv2d(12, 16, 3, 1, 1), nn.ReLU6(), nn.AvgPool2d(3, 1, 1),
        nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.SiLU(),
        nn.Conv2d(16, 24, 3, 1, 1, groups=4), nn.Conv2d(24, 20, 1, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(1),
        nn.Linear(80, 30), nn.ReLU(), nn.Linear(30, 7)).eval()


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_on_every_layer(rule, tmp_path, say):
    net, x = ladder(), models.test_picture(32)
    composite = LayerMapComposite(layer_map_base() + [(Linear, RULES[rule])])
    expected, target, _ = truth(folded(net), x, composite)
    got = lrp(export(net, 32, tmp_path / "m.onnx"), x, target, lrp__first=rule, lrp__conv=rule,
              lrp__linear=rule)
    error = cli.rel(got.attribution, expected)
    say(f"{rule:12s} on every layer: {error:.1e}")
    assert error <= TOLERANCE


@pytest.mark.parametrize("rule", [*RULES, "zbox"])
def test_a_rule_on_the_first_layer(rule, tmp_path, say):
    net, x = ladder(), models.test_picture(32)
    first = rules.ZBox(LOW, HIGH) if rule == "zbox" else RULES[rule]
    composite = SpecialFirstLayerMapComposite(
        layer_map_base() + [(Linear, rules.ZPlus())], [(Linear, first)])
    expected, target, _ = truth(folded(net), x, composite)
    got = lrp(export(net, 32, tmp_path / "m.onnx"), x, target, lrp__first=rule, lrp__conv="zplus",
              lrp__linear="zplus")
    error = cli.rel(got.attribution, expected)
    say(f"{rule:12s} on the first: {error:.1e}")
    assert error <= TOLERANCE


@pytest.mark.parametrize("epsilon", [1e-6, .1])
def test_parameters(epsilon, tmp_path):
    net, x = ladder(), models.test_picture(32)
    path = export(net, 32, tmp_path / "m.onnx")
    for composite, options in [(EpsilonPlus(epsilon=epsilon), {"lrp__composite": "epsilon_plus"}),
                               (EpsilonGammaBox(LOW, HIGH, epsilon=epsilon, gamma=3.),
                                {"lrp__composite": "epsilon_gamma_box", "lrp__gamma": 3})]:
        expected, target, _ = truth(folded(net), x, composite)
        got = lrp(path, x, target, lrp__epsilon=epsilon, **options)
        assert cli.rel(got.attribution, expected) <= TOLERANCE


# ---- composites on networks ----


NETWORKS = ["vgg16_bn_small", "resnet18", "resnet50", "mobilenet_v2"]


def compare(net, path, x, names, label, say):
    net = folded(net)
    for name in names:
        expected, target, logit = truth(net, x, COMPOSITES[name](canonizers=canonizers()))
        got = lrp(path, x, target, lrp__composite=name)
        error, share = cli.rel(got.attribution, expected), float(expected.sum() / logit)
        say(f"{label:16s} {name:22s} {error:.1e}   sum(R)/logit {share:.4f}")
        assert error <= TOLERANCE
        # published, not promised to be 1: what biases and stabilisers take is missing
        assert got.info["quality"]["relevance"] == pytest.approx(share, rel=1e-4, abs=1e-5)
        assert not got.info["quality"]["degenerate"]


@pytest.mark.parametrize("name", NETWORKS)
def test_composites(name, say):
    net, x = models.build(name, 64, 10), models.test_picture(64)
    compare(net, models.export(name, 64, 10), x, COMPOSITES, name, say)


def test_batch_normalisation_nodes_are_merged(say):
    """The same file with BatchNormalization nodes: merged before the rules see the weights."""
    net, x = models.build("resnet18", 64, 10), models.test_picture(64)
    compare(net, models.export("resnet18", 64, 10, bn="keep"), x, ["epsilon_plus_flat"], "bn kept", say)


class Dense(nn.Module):
    """DenseNet's way: features side by side, and batch normalisation and ReLU before each convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.relu, self.pool = nn.ReLU(), nn.MaxPool2d(2)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 6 * i) for i in range(3))
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(8 + 6 * i, 6, 3, 1, 1, bias=False) for i in range(3))
        self.end = nn.Sequential(nn.BatchNorm2d(26), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
                                 nn.Linear(26, 5))

    def forward(self, x):
        features = [self.pool(self.relu(self.stem(x)))]
        for norm, relu, conv in zip(self.norms, self.relus, self.convs):
            features.append(conv(relu(norm(torch.cat(features, 1)))))
        return self.end(torch.cat(features, 1))


@pytest.mark.parametrize("name", COMPOSITES)
def test_batch_normalisation_of_its_own(name, tmp_path):
    """No convolution takes it: it passes relevance as it is, to zeros as well."""
    torch.manual_seed(11)
    net, x = Dense(), models.test_picture(32)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean, 0, .1)
            nn.init.uniform_(m.running_var, .5, 1.5)
            nn.init.uniform_(m.weight, .5, 1.5)
            nn.init.normal_(m.bias, 0, .2)
    net.eval()
    expected, target, _ = truth(net.double(), x, COMPOSITES[name]())
    got = lrp(export(net, 32, tmp_path / "m.onnx"), x, target, lrp__composite=name)
    assert cli.rel(got.attribution, expected) <= TOLERANCE


def test_densenet121(tmp_path, say):
    """With a ReLU before the average pools of its transitions. As published these average convolutions' outputs of both
    signs: some means are 26,000 times smaller than their terms, and the rule divides by them. zennit itself then changes
    by 1.5e-2 where the picture changes by 1e-7, and its float32 is 1.7e-1 from its float64 (ours: 7e-2), so that there
    is nothing to compare with; without that rule, or with any pool that is far from 0, all agree."""
    net, x = copy.deepcopy(models.build("densenet121", 64, 10)), models.test_picture(64)
    for name, module in net.features.named_children():
        if name.startswith("transition"):
            module.pool = nn.Sequential(nn.ReLU(), module.pool)
    compare(net, export(net, 64, tmp_path / "m.onnx"), x, COMPOSITES, "densenet121", say)


def test_vgg16_bn_at_full_size(say):
    net, x = models.build("vgg16_bn"), models.test_picture()
    path = models.export("vgg16_bn")
    try:
        compare(net, path, x, ["epsilon_plus_flat"], "vgg16_bn 224", say)
    finally:
        path.unlink()  # half a gigabyte


def test_the_region_of_a_map(tmp_path):
    """A score per class and cell: relevance begins with what every cell holds."""
    torch.manual_seed(5)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 5, 3, 1, 1))
    x = models.test_picture(24)
    expected, target, _ = truth(folded(net), x, EpsilonPlus())
    got = lrp(export(net, 24, tmp_path / "m.onnx"), x, target, lrp__composite="epsilon_plus")
    assert cli.rel(got.attribution, expected) <= TOLERANCE


def test_upsampling(tmp_path):
    """Interpolation hands relevance to values that are 0, so that a ReLU's z has to be computed again."""
    torch.manual_seed(7)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(),
                        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                        nn.Conv2d(8, 6, 3, 1, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(1),
                        nn.Linear(6, 4))
    x = models.test_picture(24)
    path = export(net, 24, tmp_path / "m.onnx")
    for rule in ("gamma", "epsilon", "alpha_beta"):
        composite = LayerMapComposite(layer_map_base() + [(Linear, RULES[rule])])
        expected, target, _ = truth(folded(net), x, composite)
        got = lrp(path, x, target, lrp__first=rule, lrp__conv=rule, lrp__linear=rule)
        assert cli.rel(got.attribution, expected) <= TOLERANCE


# ---- CRP ----


def conv_names(net, path):
    """Convolutions of a chain: torch's names, and the file's."""
    import onnx
    theirs = [name for name, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    ours = [node.name for node in onnx.load(str(path)).graph.node if node.op_type == "Conv"]
    assert len(theirs) == len(ours)
    return dict(zip(theirs, ours))


def conditional(net, x, target, layer, channels):
    """zennit-crp's heatmap and the layer's relevance by channel: before the mask, as ours is (what it records behind
    one is counted twice with torch 2)."""
    x = torch.from_numpy(np.asarray(x)).double()[None].requires_grad_(True)
    whole = {"y": [target]}
    attribute = CondAttribution(net, no_param_grad=True)
    composite = EpsilonPlusFlat(canonizers=canonizers())
    relevance = attribute(x, [whole], composite, record_layer=[layer]).relevances[layer][0].flatten(1).sum(1)
    heatmap = attribute(x, [{**whole, layer: channels} if channels else whole], composite).heatmap[0]
    return heatmap.numpy(), relevance.numpy()


@pytest.fixture(scope="module")
def chain():
    net, x = models.build("vgg11_small", 64, 10), models.test_picture(64)
    path = models.export("vgg11_small", 64, 10)
    oracle = folded(net)
    names = conv_names(oracle, path)
    with torch.no_grad():
        target = int(oracle(torch.from_numpy(x).double()[None]).argmax())
    return oracle, x, path, names, target


@pytest.mark.parametrize("which", [1, 4, -1])
@pytest.mark.parametrize("channels", [[], [5], [0, 3, 17, 40]])
def test_conditions(which, channels, chain, say):
    oracle, x, path, names, target = chain
    layer = list(names)[which]
    heatmap, relevance = conditional(oracle, x, target, layer, channels)
    got = lrp(path, x, target, method="crp", crp__layer=names[layer], crp__channels=channels)
    error = cli.rel(got.attribution.sum(0), heatmap)
    say(f"crp {layer} {channels}: {error:.1e}")
    assert error <= TOLERANCE
    concepts = got.info["concepts"]
    r = np.array(concepts["relevance"])
    assert cli.rel(r, relevance) <= TOLERANCE
    assert concepts["top"] == list(np.argsort(-r, kind="stable")[:10])


def test_unconditional_is_lrp(chain):
    _, x, path, names, target = chain
    plain = lrp(path, x, target).attribution
    assert np.array_equal(lrp(path, x, target, method="crp",
                              crp__layer=list(names.values())[2]).attribution, plain)


def test_channels_sum_to_the_whole(tmp_path):
    """Single-channel maps of a layer sum to the unconditional one, and a union is the sum of its channels."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 6, 3, 1, 1), nn.ReLU(), nn.Conv2d(6, 9, 3, 2, 1), nn.ReLU(),
                        nn.Conv2d(9, 5, 3, 1, 1), nn.ReLU(), nn.Flatten(1), nn.Linear(5 * 64, 4))
    x = models.test_picture(16)
    path = export(net, 16, tmp_path / "m.onnx")
    layer = list(conv_names(net, path).values())[1]

    def of(channels):
        return lrp(path, x, 2, method="crp", crp__layer=layer, crp__channels=channels)
    single = [of([k]).attribution for k in range(9)]
    whole = of([])
    assert cli.rel(sum(single), whole.attribution) <= 1e-5
    assert cli.rel(single[1] + single[4], of([4, 1]).attribution) <= 1e-5
    # each channel's relevance is what its own map begins with: same logit, same order of channels
    assert [k for k in range(9) if not np.abs(single[k]).max()] == \
        [k for k, r in enumerate(whole.info["concepts"]["relevance"]) if r == 0]


def test_condition_behind_a_residual_stage():
    """The output of a whole stage has no path past it, by either of its names."""
    net, x = models.build("resnet18", 64, 10), models.test_picture(64)
    path, oracle = models.export("resnet18", 64, 10), folded(net)
    import onnx
    graph = onnx.load(str(path)).graph
    adds = [node for node in graph.node if node.op_type == "Add"]
    after = next(node for node in graph.node if node.input[0] == adds[3].output[0])  # layer2's last ReLU
    with torch.no_grad():
        target = int(oracle(torch.from_numpy(x).double()[None]).argmax())
    heatmap, _ = conditional(oracle, x, target, "layer2", [7, 100])
    for name in (after.name, after.output[0]):
        got = lrp(path, x, target, method="crp", crp__layer=name, crp__channels=[7, 100])
        assert cli.rel(got.attribution.sum(0), heatmap) <= TOLERANCE


# ---- refusals ----


def refused(path, size=64, method="lrp", **options):
    with pytest.raises(cli.Failed) as failed:
        lrp(path, np.zeros((3, size, size)), "top1", method=method, **options)
    assert failed.value.status == 2
    return failed.value.stderr


@pytest.mark.parametrize("name, reason", [("efficientnet_b0", "it multiplies two computed values (a gate)"),
                                          ("convnext_tiny", "LayerNormalization: it divides by")])
def test_networks_without_a_rule(name, reason):
    said = refused(models.export(name, 64, 10, opset=17))
    assert "relevance cannot pass" in said and reason in said


def test_crp_refusals(chain):
    _, _, path, names, _ = chain
    assert "crp.layer is not set" in refused(path, method="crp")
    assert "crp.layer: 'nowhere' matches no" in refused(path, method="crp", crp__layer="nowhere")
    layer = list(names.values())[0]
    assert f"crp.channels: '{layer}' has no channel 64, it has 64" in refused(
        path, method="crp", crp__layer=layer, crp__channels=[64])
    inside = models.export("resnet18", 64, 10)
    import onnx
    convs = [n.name for n in onnx.load(str(inside)).graph.node if n.op_type == "Conv"]
    assert "another path leads past" in refused(inside, method="crp", crp__layer=convs[3])


def test_other_refusals(chain):
    _, _, path, _, _ = chain
    assert "explain.output must be logit" in refused(path, explain__output="norm")
    assert "zbox is a rule for a first convolution" in refused(path, lrp__conv="zbox")
    assert "there is no method" in refused(path, method="gradient", explain__methods=["lrq"])


def test_further_methods_are_prepared(chain):
    """Named in explain.methods, relevance is prepared, and refused where it cannot be, whatever the method."""
    _, x, path, _, target = chain
    lrp(path, x, target, method="gradient", explain__methods=["lrp"])
    assert "relevance cannot pass" in refused(models.export("efficientnet_b0", 64, 10, opset=17),
                                              method="gradient", explain__methods=["lrp"])


# ---- the daemon ----


def test_streams_and_frames_that_ask(tmp_path):
    """A stream's method is prepared without further ado; a frame's where explain.methods names it, else it is dropped."""
    import onnx
    path, x = models.export("tiny_resnet", 48, 10), models.test_picture(48)
    layer = next(n.name for n in onnx.load(str(path)).graph.node if n.op_type == "Conv")
    frame = dict(fmt="f32chw", w=48, h=48)

    def answer(d, stream, **keys):
        sub = d.subscribe(stream.encode())
        d.push(stream, np.asarray(x, dtype=np.float32), **frame, **keys)
        return msgpack.unpackb(sub.recv_multipart()[1])

    with Daemon(path, tmp_path, streams={"cam0": {"method": "crp"}}, crp={"layer": layer}) as d:
        first = answer(d, "cam0")
        assert first["method"] == "crp" and first["params"]["lrp.composite"] == "epsilon_plus_flat"
        concepts = first["concepts"]["top"]
        assert len(concepts) == 10 and concepts == sorted(concepts, key=lambda c: -c[1])
        frame_method = answer(d, "cam1", method="lrp")  # of the same kind: prepared
        assert "concepts" not in frame_method
        assert frame_method["quality"]["relevance"] == pytest.approx(first["quality"]["relevance"], rel=1e-5)
        assert answer(d, "cam1")["method"] == "gradient"
    with Daemon(path, tmp_path) as d:
        d.push("cam1", np.asarray(x, dtype=np.float32), **frame, method="lrp")
        d.wait(lambda: d.metrics().drops("cam1"), 20, "no drop")
        assert d.metrics().drops("cam1") == {"bad_method": 1}
