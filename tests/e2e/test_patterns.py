"""What exporters write in pieces runs as few operators, and computes the same: each pattern alone in a small
network, in the ways it is written, against float64. And near misses, which must be left as they are."""
import json

import numpy as np
import pytest
import torch

import cli
import onnx_net
from onnx_net import Net

LOGITS, GRADIENT = 1e-5, 1e-4  # largest error / largest value; relative L2. A few float32 roundings
C, H, W = 8, 10, 12            # the value each pattern is applied to
SQRT2, TWO_BY_PI = 2 ** .5, (2 / np.pi) ** .5


class Ran:
    def __init__(self, info):
        self.info = info
        self.types = [o["type"] for o in info["operators"]]

    def count(self, type):
        return self.types.count(type)

    @property
    def run(self):
        """Operators that do anything, layout changes included."""
        return self.info["nodes_run"]


def inspect(path):
    return Ran(json.loads(cli.run("inspect", "--json", "--model", path).stdout))


def verify(net, logits, tmp_path):
    """Right, forward and backward? Returns what ran."""
    path = tmp_path / "net.onnx"
    model = net.save(path, logits)
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(7).normal(size=shape[1:]).astype(np.float32) * 2
    y, g = onnx_net.truth(model, x, 1)
    assert np.abs(g).max() > 0
    got = cli.explain(path, x, target=1)
    assert np.abs(got.logits - y).max() <= LOGITS * np.abs(y).max()
    assert cli.rel(got.attribution, g) <= GRADIENT
    return inspect(path)


def around(pattern, tmp_path, opset=13, out=C * H * W):
    """pattern(net, v) between a convolution and the logits."""
    net = Net(opset=opset)
    v = net.conv("input", 3, C)
    return verify(net, net.head(pattern(net, v), out), tmp_path)


# ---- activations ----


def relu6(n, x):
    return n.clip(n.op("Add", x, 3.0), 0, 6)


def erf1(n, u):
    return n.op("Add", n.op("Erf", u), 1.0)


def cube(n, x):
    return n.op("Mul", n.op("Mul", x, x), x)


def tanh1(n, u):
    return n.op("Add", n.op("Tanh", u), 1.0)


def bracket(n, x, cubed):
    return n.op("Add", x, n.op("Mul", cubed, .044715))


ACTIVATIONS = {
    "swish": ("Swish", lambda n, x: n.op("Mul", x, n.op("Sigmoid", x))),
    "swish, commuted": ("Swish", lambda n, x: n.op("Mul", n.op("Sigmoid", x), x)),
    "hardswish, torch 14": ("HardSwish", lambda n, x: n.op(
        "Mul", x, n.op("HardSigmoid", x, alpha=1 / 6, beta=.5))),
    "hardswish, torch 9-13": ("HardSwish", lambda n, x: n.op(
        "Div", n.op("Mul", x, relu6(n, x)), 6.0)),
    "hardswish, gate divided": ("HardSwish", lambda n, x: n.op("Mul", x, n.op("Div", relu6(n, x), 6.0))),
    "hardswish, gate multiplied": ("HardSwish", lambda n, x: n.op(
        "Mul", n.op("Mul", relu6(n, x), 1 / 6), x)),
    "hardswish, tensorflow": ("HardSwish", lambda n, x: n.op(
        "Mul", n.op("Mul", x, relu6(n, x)), np.float32(1 / 6))),
    "hardsigmoid, divided": ("HardSigmoid", lambda n, x: n.op("Div", relu6(n, x), 6.0)),
    "hardsigmoid, multiplied": ("HardSigmoid", lambda n, x: n.op("Mul", 1 / 6, relu6(n, x))),
    "mish": ("Mish", lambda n, x: n.op("Mul", x, n.op("Tanh", n.op("Softplus", x)))),
    "mish, commuted": ("Mish", lambda n, x: n.op("Mul", n.op("Tanh", n.op("Softplus", x)), x)),
    "gelu, torch": ("Gelu", lambda n, x: n.op(
        "Mul", n.op("Mul", x, erf1(n, n.op("Div", x, SQRT2))), .5)),
    "gelu, tensorflow": ("Gelu", lambda n, x: n.op(
        "Mul", n.op("Mul", .5, x), n.op("Add", 1.0, n.op("Erf", n.op("Mul", x, .70710678))))),
    "gelu, gate halved": ("Gelu", lambda n, x: n.op(
        "Mul", n.op("Mul", erf1(n, n.op("Mul", .70710678, x)), .5), x)),
    "gelu, tanh, mul": ("Gelu", lambda n, x: n.op(
        "Mul", n.op("Mul", .5, x), tanh1(n, n.op("Mul", TWO_BY_PI, bracket(n, x, cube(n, x)))))),
    "gelu, tanh, pow": ("Gelu", lambda n, x: n.op("Mul", n.op("Mul", x, tanh1(n, n.op(
        "Mul", bracket(n, x, n.op("Pow", x, 3.0)), TWO_BY_PI))), .5)),
    "gelu, tanh, factored": ("Gelu", lambda n, x: n.op(
        "Mul", n.op("Mul", x, .5), tanh1(n, n.op("Mul", n.op("Mul", x, TWO_BY_PI), n.op(
            "Add", 1.0, n.op("Mul", n.op("Mul", x, .044715), x)))))),
}


@pytest.mark.parametrize("opset", [9, 13, 17])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name, opset, tmp_path):
    type, pattern = ACTIVATIONS[name]
    plain = around(lambda n, x: x, tmp_path, opset)
    ran = around(pattern, tmp_path, opset)
    assert ran.count(type) == 1
    assert ran.run == plain.run + 1, ran.types


MISSES = {
    "swish of another value": ("Swish", lambda n, x: n.op(
        "Mul", x, n.op("Sigmoid", n.op("Mul", x, -1.0)))),
    "hardswish with 4": ("HardSwish", lambda n, x: n.op("Div", n.op("Mul", x, n.clip(
        n.op("Add", x, 4.0), 0, 6)), 6.0)),
    "hardswish up to 5": ("HardSwish", lambda n, x: n.op("Div", n.op("Mul", x, n.clip(
        n.op("Add", x, 3.0), 0, 5)), 6.0)),
    "hardswish over 5": ("HardSwish", lambda n, x: n.op("Div", n.op("Mul", x, relu6(n, x)), 5.0)),
    "hardsigmoid of slope 0.2": ("HardSwish", lambda n, x: n.op("Mul", x, n.op("HardSigmoid", x))),
    "gelu with another root": ("Gelu", lambda n, x: n.op(
        "Mul", n.op("Mul", x, erf1(n, n.op("Div", x, 1.4))), .5)),
    "gelu not halved": ("Gelu", lambda n, x: n.op("Mul", x, erf1(n, n.op("Div", x, SQRT2)))),
    "gelu, tanh, another cubic": ("Gelu", lambda n, x: n.op("Mul", n.op("Mul", .5, x), tanh1(n, n.op(
        "Mul", TWO_BY_PI, n.op("Add", x, n.op("Mul", cube(n, x), .05)))))),
    "gelu, tanh, a square": ("Gelu", lambda n, x: n.op("Mul", n.op("Mul", .5, x), tanh1(n, n.op(
        "Mul", TWO_BY_PI, bracket(n, x, n.op("Mul", x, x)))))),
    "mish of twice x": ("Mish", lambda n, x: n.op(
        "Mul", x, n.op("Tanh", n.op("Softplus", n.op("Mul", x, 2.0))))),
    "gate by channel": ("HardSigmoid", lambda n, x: n.op("Mul", relu6(n, x), np.full((1, C, 1, 1), 1 / 6))),
}


@pytest.mark.parametrize("name", MISSES)
def test_activation_near_miss(name, tmp_path):
    type, pattern = MISSES[name]
    assert around(pattern, tmp_path).count(type) == 0


@pytest.mark.parametrize("name", ["swish", "hardswish, torch 9-13", "mish", "gelu, torch",
                                  "gelu, tanh, mul"])
def test_activation_with_a_second_reader_inside(name, tmp_path):
    """Every value inside the pattern in turn is also read by an addition behind it."""
    type, pattern = ACTIVATIONS[name]
    probe = Net()
    x = probe.op("Relu", "input")
    pattern(probe, x)
    for inner in range(1, len(probe.nodes) - 1):
        def twice(n, v):
            before = len(n.nodes)
            y = pattern(n, v)
            return n.op("Add", y, n.nodes[before + inner - 1].output[0])
        ran = around(twice, tmp_path)
        # 0.5 x and the like may be read elsewhere where they are not all of a gate
        assert ran.count(type) == 0, (inner, ran.types)


def test_a_value_inside_is_the_output(tmp_path):
    """What is behind the first output leads nowhere."""
    net = Net()
    v = net.head(net.conv("input", 3, C), C * H * W)
    inside = net.op("Softplus", v)
    net.op("Mul", v, net.op("Tanh", inside))
    assert verify(net, inside, tmp_path).types[-2:] == ["Gemm", "Softplus"]


def test_the_pattern_makes_the_output(tmp_path):
    net = Net()
    v = net.head(net.conv("input", 3, C), C * H * W)
    ran = verify(net, net.op("Mul", v, net.op("Sigmoid", v)), tmp_path)
    assert ran.types[-2:] == ["Gemm", "Swish"]


# ---- normalisations ----


def layer_norm(n, x, axes, square="pow", twice=False, eps=1e-5):
    def centred():
        return n.op("Sub", x, mean if not twice == "means" else n.mean(x, axes))
    mean = n.mean(x, axes)
    d = centred()
    e = centred() if twice else d
    squared = n.op("Pow", e, 2.0) if square == "pow" else n.op("Mul", e, e)
    deviation = n.op("Sqrt", n.op("Add", n.mean(squared, axes), eps))
    return n.op("Div", d, deviation)


@pytest.mark.parametrize("opset", [11, 13, 18])
@pytest.mark.parametrize("square", ["pow", "mul"])
@pytest.mark.parametrize("twice", [False, True, "means"])
@pytest.mark.parametrize("axes", [[-1], [3], [1, 2, 3]])
def test_layer_norm(axes, twice, square, opset, tmp_path):
    shape = [C, H, W] if len(axes) == 3 else [W]

    def pattern(n, x, affine=True):
        y = layer_norm(n, x, axes, square, twice)
        y = n.op("Mul", y, n.normal(*shape, shift=1))
        return n.op("Add", n.normal(*shape), y)
    ran = around(pattern, tmp_path, opset)
    assert ran.count("LayerNormalization") == 1
    assert not {"Sub", "Div", "Mul", "Add", "ReduceMean", "Sqrt"} & set(ran.types), ran.types


LAYER_NORM_MISSES = {
    "axis of the channels": lambda n, x: layer_norm(n, x, [1]),
    "different axes": lambda n, x: n.op("Div", *_two_axes(n, x)),
    "epsilon per channel": lambda n, x: layer_norm(n, x, [3], eps=np.full((1, C, 1, 1), 1e-3)),
    "a cube": lambda n, x: n.op("Div", n.op("Sub", x, n.mean(x, [3])), n.op("Sqrt", n.op("Add", n.mean(
        n.op("Mul", n.op("Sub", x, n.mean(x, [3])), n.op("Sub", x, 1.0)), [3]), 50.0))),
    "the mean read elsewhere": lambda n, x: _leaking(n, x),
}


def _two_axes(n, x):
    d = n.op("Sub", x, n.mean(x, [3]))
    return d, n.op("Sqrt", n.op("Add", n.mean(n.op("Pow", d, 2.0), [2, 3]), 1e-5))


def _leaking(n, x):
    before = len(n.nodes)
    y = layer_norm(n, x, [3])
    return n.op("Add", y, n.nodes[before].output[0])


@pytest.mark.parametrize("name", LAYER_NORM_MISSES)
def test_layer_norm_near_miss(name, tmp_path):
    assert around(LAYER_NORM_MISSES[name], tmp_path).count("LayerNormalization") == 0


@pytest.mark.parametrize("shape", [[1], [1, C, 1, 1], [H, W]])
def test_layer_norm_keeps_other_factors(shape, tmp_path):
    """A factor that is not laid along the normalised axis stays a node."""
    ran = around(lambda n, x: n.op("Mul", layer_norm(n, x, [3]), n.normal(*shape, shift=1)), tmp_path)
    assert ran.count("LayerNormalization") == 1 and ran.count("Mul") == 1


def group_norm(n, x, groups, scale=None, shape=(1, C, H, W)):
    y = n.reshape(x, 0, groups, -1)
    scale = np.ones(groups) if scale is None else scale
    y = n.op("InstanceNormalization", y, scale, np.zeros(groups), epsilon=1e-4)
    return n.reshape(y, *shape)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_group_norm(groups, tmp_path):
    def pattern(n, x):
        y = n.op("Mul", group_norm(n, x, groups), n.normal(C, 1, 1, shift=1))
        return n.op("Add", y, n.normal(C, 1, 1))
    ran = around(pattern, tmp_path)
    assert ran.count("GroupNormalization") == 1
    assert not {"InstanceNormalization", "Mul", "Add"} & set(ran.types), ran.types


def test_group_norm_near_misses(tmp_path):
    scaled = around(lambda n, x: group_norm(n, x, 2, np.array([1.0, 2.0])), tmp_path)
    assert scaled.count("GroupNormalization") == 0
    other_shape = around(lambda n, x: group_norm(n, x, 2, shape=(1, H, C, W)), tmp_path)
    assert other_shape.count("GroupNormalization") == 0


# ---- layouts ----


def test_nhwc_islands_cost_nothing(tmp_path):
    """Channels-last by hand, as ConvNeXt and converted TensorFlow networks are written: no copy."""
    def pattern(n, x):
        y = n.transpose(x, 0, 2, 3, 1)
        y = n.op("Sigmoid", n.op("Add", n.op("MatMul", y, n.normal(C, C)), n.normal(C)))
        return n.conv(n.transpose(y, 0, 3, 1, 2), C, C)
    ran = around(pattern, tmp_path)
    # Conv, MatMul, Add, Sigmoid, Conv, LayoutConvert at the head, Gemm
    assert ran.run == 7 and ran.count("LayoutConvert") == 1, ran.types


def test_sequence_of_positions_costs_nothing(tmp_path):
    """[1,C,H,W] -> [1,HW,C] and back, as attention over positions is written."""
    def pattern(n, x):
        y = n.transpose(n.reshape(x, 1, C, H * W), 0, 2, 1)
        y = n.op("MatMul", y, n.normal(C, C))
        return n.conv(n.reshape(n.transpose(y, 0, 2, 1), 1, C, H, W), C, C)
    ran = around(pattern, tmp_path)
    assert ran.run == 5 and ran.count("LayoutConvert") == 1, ran.types


def test_input_in_nhwc(tmp_path):
    """The first node turns the image: still no copy before it."""
    net = Net()
    v = net.transpose("input", 0, 2, 3, 1)
    v = net.transpose(net.op("Sub", v, net.normal(3)), 0, 3, 1, 2)
    ran = verify(net, net.head(net.conv(v, 3, C), C * H * W), tmp_path)
    assert ran.run == 4 and ran.count("LayoutConvert") == 1, ran.types


PERMS = [(0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2), (0, 3, 2, 1), (0, 2, 1, 3), (3, 2, 1, 0), (1, 0, 2, 3)]


@pytest.mark.parametrize("first", PERMS)
@pytest.mark.parametrize("second", PERMS)
def test_two_transposes(first, second, tmp_path):
    ran = around(lambda n, x: n.transpose(n.transpose(x, *first), *second), tmp_path)
    assert ran.count("Transpose") <= 1
    if all(first[second[i]] == i for i in range(4)):
        assert ran.count("Transpose") == 0
        assert ran.run == around(lambda n, x: x, tmp_path).run


@pytest.mark.parametrize("perm", PERMS)
def test_one_transpose_between_convolutions(perm, tmp_path):
    """Results of every shape meet channels-last readers and plain ones."""
    def pattern(n, x):
        y = n.transpose(x, *perm)
        shape = [[1, C, H, W][p] for p in perm]
        if shape[0] != 1:
            return n.op("Sigmoid", y)
        return n.reshape(n.op("Add", n.conv(y, shape[1], shape[1]), n.op("Sigmoid", y)), 1, C, H, W)
    around(pattern, tmp_path)


def test_transpose_read_twice_cancels_for_one(tmp_path):
    def pattern(n, x):
        t = n.transpose(x, 0, 2, 1, 3)
        back = n.transpose(t, 0, 2, 1, 3)
        return n.op("Add", n.reshape(n.op("Sigmoid", t), 1, C, H, W), back)
    assert around(pattern, tmp_path).count("Transpose") == 1


@pytest.mark.parametrize("dims", [(1, C, H * W), (1, C * H, W), (1, H, C, W), (1, C // 2, 2, H, W),
                                  (1, C, 2, H // 2, W), (1, C, W, H), (C, H, W)])
def test_reshape_between_convolutions(dims, tmp_path):
    """A reshape that leaves the channels alone is free, any other is right."""
    def pattern(n, x):
        y = n.op("Sigmoid", n.reshape(x, *dims))
        return n.conv(n.reshape(y, 1, C, H, W), C, C)
    ran = around(pattern, tmp_path)
    free = dims[:2] == (1, C)
    assert (ran.run == 5) == free, ran.types  # two Conv, Sigmoid, LayoutConvert and Gemm


def test_reshapes_merge(tmp_path):
    def pattern(n, x):
        y = n.reshape(x, 1, -1)
        y = n.reshape(y, 1, H, W, C)
        y = n.op("Flatten", y, axis=2)
        return n.conv(n.reshape(y, 1, C, H, W), C, C)
    ran = around(pattern, tmp_path)
    assert ran.count("Reshape") == 1 and ran.count("Flatten") == 0, ran.types


def shuffle(n, x, groups, shape=(C, H, W), perm=(0, 2, 1, 3, 4)):
    c, h, w = shape
    return n.reshape(n.transpose(n.reshape(x, 1, groups, c // groups, h, w), *perm), 1, c, h, w)


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_channel_shuffle(groups, tmp_path):
    ran = around(lambda n, x: n.conv(shuffle(n, x, groups), C, C), tmp_path)
    assert ran.count("Transpose") == 0
    assert ran.count("Gather") == (1 if 1 < groups < C else 0), ran.types


def test_channel_shuffle_near_misses(tmp_path):
    for perm in [(0, 2, 1, 4, 3), (0, 1, 2, 4, 3), (0, 3, 2, 1, 4)]:
        assert around(lambda n, x: shuffle(n, x, 2, perm=perm), tmp_path).count("Gather") == 0

    def second_reader(n, x):
        y = shuffle(n, x, 2)
        inner = n.nodes[-2].output[0]
        return n.op("Add", y, n.op("Sigmoid", n.reshape(inner, 1, C, H, W)))
    assert around(second_reader, tmp_path).count("Gather") == 0


BLOCKS = {
    "DCR": ("DepthToSpace", (1, 2, 2, 2, H, W), (0, 3, 4, 1, 5, 2), (1, 2, 2 * H, 2 * W)),
    "CRD": ("DepthToSpace", (1, 2, 2, 2, H, W), (0, 1, 4, 2, 5, 3), (1, 2, 2 * H, 2 * W)),
    "space": ("SpaceToDepth", (1, C, H // 2, 2, W // 2, 2), (0, 3, 5, 1, 2, 4), (1, 4 * C, H // 2, W // 2)),
    "unshuffle": (None, (1, C, H // 2, 2, W // 2, 2), (0, 1, 3, 5, 2, 4), (1, 4 * C, H // 2, W // 2)),
    "another shape": (None, (1, 2, 2, 2, H, W), (0, 3, 4, 1, 5, 2), (1, 2, 4 * H, W)),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_block_shuffle(name, tmp_path):
    type, middle, perm, shape = BLOCKS[name]

    def pattern(n, x):
        y = n.reshape(n.transpose(n.reshape(x, *middle), *perm), *shape)
        return n.conv(y, shape[1], shape[1])
    ran = around(pattern, tmp_path)
    for known in ("DepthToSpace", "SpaceToDepth"):
        assert ran.count(known) == (known == type), ran.types
    assert ran.count("Transpose") == (type is None)


# ---- nodes that do nothing ----


@pytest.mark.parametrize("type,c,left", [
    ("Mul", 1.0, 0), ("Div", 1.0, 0), ("Add", 0.0, 0), ("Sub", 0.0, 0), ("Pow", 1.0, 0),
    ("Mul", 1.0001, 1), ("Add", 1e-3, 1), ("Div", 2.0, 1), ("Sub", 1.0, 1)])
def test_scalar_identity(type, c, left, tmp_path):
    assert around(lambda n, x: n.op(type, x, c), tmp_path).count(type) == left


def test_scalar_identity_that_is_none(tmp_path):
    """1 / x is not x / 1, 0 - x is not x - 0; and a constant may add axes."""
    assert around(lambda n, x: n.op("Sub", 0.0, x), tmp_path).count("Sub") == 1
    assert around(lambda n, x: n.op("Div", 1.0, n.op("Add", n.op("Mul", x, x), 1.0)),
                  tmp_path).count("Div") == 1
    assert around(lambda n, x: n.op("Mul", x, np.ones((1, 1, 1, 1, 1))), tmp_path).count("Mul") == 1


def test_the_logits_are_times_one(tmp_path):
    net = Net()
    y = net.op("Mul", net.head(net.conv("input", 3, C), C * H * W), 1.0)
    assert verify(net, y, tmp_path).info["logits_name"] == y


@pytest.mark.parametrize("opset", [13, 18])
def test_mean_over_positions(opset, tmp_path):
    ran = around(lambda n, x: n.mean(x, [2, 3]), tmp_path, opset, out=C)
    assert ran.count("GlobalAveragePool") == 1 and ran.count("ReduceMean") == 0
    ran = around(lambda n, x: n.mean(x, [-1]), tmp_path, opset, out=C * H)
    assert ran.count("GlobalAveragePool") == 0


def test_squeeze_excite(tmp_path):
    def pattern(n, x):
        s = n.op("Relu", n.conv(n.mean(x, [2, 3]), C, 4, k=1))
        return n.op("Mul", x, n.op("Div", relu6(n, n.conv(s, 4, C, k=1)), 6.0))
    ran = around(pattern, tmp_path)
    # Conv | pool, Conv with ReLU, Conv, HardSigmoid, Mul | LayoutConvert, Gemm
    assert ran.run == 8 and ran.count("HardSigmoid") == 1, ran.types


# ---- around the convolution ----


def prevented(n, value, y):
    """Reads `value` once more, for nothing: y + 0 * value."""
    return n.op("Add", y, n.op("Mul", value, 0.0))


@pytest.mark.parametrize("opset", [9, 13])
@pytest.mark.parametrize("own,auto", [([1, 1, 1, 1], None), ([0, 0, 0, 0], None), (None, "VALID")])
def test_pad_before_convolution(own, auto, opset, tmp_path):
    attrs = {"auto_pad": auto} if auto else {"pads": own}

    def pattern(n, x):
        y = n.pad(x, [0, 0, 1, 0, 0, 0, 2, 1])
        w = n.normal(C, C, 3, 3, scale=.1)
        return n.op("Conv", y, w, kernel_shape=[3, 3], strides=[2, 2], name="padded", **attrs)
    more = 2 if own and own[0] else 0
    h, w = (H + 3 + more - 3) // 2 + 1, (W + 1 + more - 3) // 2 + 1
    ran = around(pattern, tmp_path, opset, out=C * h * w)
    assert ran.count("Pad") == 0
    assert [c["name"] for c in ran.info["convolutions"]] == ["Conv_0", "padded"]


@pytest.mark.parametrize("pads,value", [([0, 0, 1, 1, 0, 0, 1, 1], .5), ([0, 1, 0, 0, 0, 1, 0, 0], 0.0),
                                        ([0, 0, -1, 0, 0, 0, 0, 0], 0.0)])
def test_pad_that_stays(pads, value, tmp_path):
    cin, h, w = C + pads[1] + pads[5], H + pads[2] + pads[6], W + pads[3] + pads[7]
    ran = around(lambda n, x: n.conv(n.pad(x, pads, value), cin, C), tmp_path, out=C * h * w)
    assert ran.count("Pad") == 1


def test_pad_with_a_second_reader(tmp_path):
    def pattern(n, x):
        y = n.pad(x, [0, 0, 1, 1, 0, 0, 1, 1])
        return n.op("Add", n.conv(y, C, C, pads=[1, 1, 1, 1]), y)
    assert around(pattern, tmp_path, out=C * (H + 2) * (W + 2)).count("Pad") == 1


@pytest.mark.parametrize("own,include,merged", [([0] * 4, 0, True), ([0] * 4, 1, True),
                                                ([1] * 4, 1, True), ([1] * 4, 0, False)])
def test_pad_before_average_pool(own, include, merged, tmp_path):
    def pattern(n, x):
        y = n.pad(x, [0, 0, 1, 1, 0, 0, 1, 0])
        return n.op("AveragePool", y, kernel_shape=[3, 3], strides=[1, 1], pads=own,
                    count_include_pad=include)
    ran = around(pattern, tmp_path, out=C * (H + 2 * own[0]) * (W + 2 * own[0] - 1))
    assert ran.count("Pad") == (not merged)


def test_pad_before_max_pool_stays(tmp_path):
    """Zeros are not what a max pool pads with."""
    ran = around(lambda n, x: n.op("MaxPool", n.pad(x, [0, 0, 1, 1, 0, 0, 1, 1]), kernel_shape=[3, 3],
                                   strides=[1, 1]), tmp_path)
    assert ran.count("Pad") == 1


def frozen(n, x, relu=True, shape=(1, C, 1, 1)):
    y = n.op("Mul", n.conv(x, 3, C), n.normal(*shape, shift=1.5, scale=.3))
    y = n.op("Add", y, n.normal(*shape, scale=.3))
    return n.op("Relu", y) if relu else y


def test_frozen_batch_norm(tmp_path):
    for relu in (True, False):
        net = Net()
        ran = verify(net, net.head(frozen(net, "input", relu), C * H * W), tmp_path)
        assert not {"Mul", "Add", "Relu"} & set(ran.types), ran.types


def test_affine_that_stays(tmp_path):
    """By row, by everything, or with a shift so large that z would drown in it."""
    for shape in [(1, 1, H, 1), (1, C, H, W), (W,)]:
        net = Net()
        ran = verify(net, net.head(frozen(net, "input", False, shape), C * H * W), tmp_path)
        assert {"Mul", "Add"} <= set(ran.types)
    ran = around(lambda n, x: n.op("Add", x, np.full((1, C, 1, 1), 50.0)), tmp_path)
    assert ran.count("Add") == 1


def residual(n, x, k=3, act="Relu", swap=False, block=lambda n, y: y):
    y = block(n, n.conv(x, C, C, k))
    y = n.op("Add", *((x, y) if swap else (y, x)))
    return y if act is None else n.clip(y, 0, 6) if act == "Clip" else n.op(act, y)


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("act", [None, "Relu", "Clip", "Sigmoid"])
@pytest.mark.parametrize("k", [1, 3])
def test_residual_addition(k, act, swap, tmp_path):
    """Two blocks, the second's skip being the first's output; and a frozen normalisation in between."""
    def pattern(n, x):
        y = residual(n, n.op("Relu", x), k, act, swap)
        return residual(n, y, k, act, swap, lambda n, y: n.op("Add", n.op(
            "Mul", y, n.normal(1, C, 1, 1, shift=1.5, scale=.3)), n.normal(1, C, 1, 1, scale=.3)))
    ran = around(pattern, tmp_path)
    assert ran.count("Add") == 0, ran.types
    assert {"Relu", "Clip", "Sigmoid"} & set(ran.types) == ({act} & {"Sigmoid"}), ran.types
    net = tmp_path / "net.onnx"
    apart = json.loads(cli.run("inspect", "--json", "--model", net, "--set", "engine.fuse_add=false").stdout)
    assert [o["type"] for o in apart["operators"]].count("Add") == 2


def test_residual_addition_of_two_convolutions(tmp_path):
    """As in a ResNet's first blocks: whichever convolution comes last does it."""
    for swap in (False, True):
        def pattern(n, x):
            y, skip = n.conv(n.conv(x, C, C), C, C), n.conv(x, C, C, 1)
            return n.op("Relu", n.op("Add", *((skip, y) if swap else (y, skip))))
        assert around(pattern, tmp_path).count("Add") == 0


@pytest.mark.skipif("avx512f" not in open("/proc/cpuinfo").read(), reason="the kernel is for AVX-512")
@pytest.mark.parametrize("act, behind", [("Relu", None), ("Clip", None), ("Sigmoid", None), ("Relu", "MaxPool")])
def test_zeros_behind_a_relu(act, behind, tmp_path):
    """engine.skip_zeros: verify() has it on, and compares with torch. Not before a maximum, which may have to choose
    among equals."""
    wide = 128
    def pattern(n, x):
        y = n.conv(x, C, wide)
        y = n.conv(n.clip(y, 0, 6) if act == "Clip" else n.op(act, y), wide, wide)
        return y if behind is None else n.op(behind, y, kernel_shape=[1, 1])
    if behind is None:
        around(pattern, tmp_path, out=wide * H * W)
    else:
        net = Net()
        net.save(tmp_path / "net.onnx", net.head(pattern(net, net.conv("input", 3, C)), wide * H * W))
    for skip in ("true", "false"):
        ran = json.loads(cli.run("inspect", "--json", "--model", tmp_path / "net.onnx", "--set",
                                 f"engine.skip_zeros={skip}", "--set", "engine.tune=off").stdout)
        found = any("own:sparse" in (o["implementation"] or "") for o in ran["operators"])
        assert found == (skip == "true" and act != "Sigmoid" and behind is None)


RESIDUAL_MISSES = {
    "the convolution read elsewhere": lambda n, x: _read_twice(n, x),
    "the skip made later": lambda n, x: n.op("Add", n.conv(x, C, C), n.op("Sigmoid", x)),
    "an activation before it": lambda n, x: n.op("Add", n.op("Relu", n.conv(x, C, C)), x),
    "a broadcast": lambda n, x: n.op("Add", n.conv(x, C, C), n.mean(x, [2, 3])),
    "depthwise": lambda n, x: n.op("Add", n.op("Conv", x, n.normal(C, 1, 3, 3), group=C, pads=[1] * 4), x),
}


def _read_twice(n, x):
    y = n.conv(x, C, C)
    return n.op("Mul", n.op("Add", y, x), n.op("Sigmoid", y))


@pytest.mark.parametrize("name", RESIDUAL_MISSES)
def test_residual_addition_near_miss(name, tmp_path):
    assert around(lambda n, x: RESIDUAL_MISSES[name](n, n.op("Relu", x)), tmp_path).count("Add") == 1


def saliency(net, logits, tmp_path, name):
    """ParchGrad's map and layers, with statistics of the same file."""
    path, data, stats = (tmp_path / f"{name}{end}" for end in (".onnx", "", ".stats"))
    net.save(path, logits)
    rng = np.random.default_rng(3)
    inputs = [rng.normal(size=(3, H, W)) for _ in range(12)]
    cli.write_calibration(data, inputs, [i % 2 for i in range(12)])
    cli.calibrate(path, data, stats)
    return cli.explain(path, inputs[0], method="parchgrad", target=1, stats=stats,
                       parchgrad__layers=1.0, parchgrad__quantile=.4, parchgrad__select="instance")


@pytest.mark.parametrize("what", ["affine", "pad", "residual"])
def test_parchgrad_sees_the_same_z(what, tmp_path):
    """One network twice, once with the convolution's neighbours kept out of it."""
    def build(keep):
        net = Net()
        if what == "affine":
            z = net.conv("input", 3, C)
            y = net.op("Mul", z, net.normal(1, C, 1, 1, shift=1.5, scale=.5))
            y = net.op("Relu", net.op("Add", y, net.normal(1, C, 1, 1, scale=.5)))
            y = prevented(net, z, y) if keep else y
        elif what == "residual":
            x = net.op("Relu", net.conv("input", 3, C))
            z = net.conv(x, C, C)
            y = net.op("Relu", net.op("Add", z, x))
            y = prevented(net, z, y) if keep else y
        else:
            v = net.pad("input", [0, 0, 1, 1, 0, 0, 1, 1])
            y = net.conv(v, 3, C, pads=[0, 0, 0, 0])
            inner = net.op("AveragePool", v, kernel_shape=[3, 3]) if keep else None
            y = prevented(net, net.mean(inner, [1]), y) if keep else y
        y = net.conv(y, C, C)
        return net, net.head(net.op("Relu", y), C * H * W)
    a, b = (saliency(*build(keep), tmp_path, name) for keep, name in ((True, "apart"), (False, "merged")))
    assert inspect(tmp_path / "merged.onnx").run < inspect(tmp_path / "apart.onnx").run
    assert len(a.layers) == len(b.layers) == (3 if what == "residual" else 2)
    for one, other in zip(a.layers.values(), b.layers.values()):
        assert one["kept"] == other["kept"] < C
        assert one["beta"] == pytest.approx(other["beta"], rel=1e-4)
    assert cli.rel(b.attribution, a.attribution) < GRADIENT


# ---- as torch writes them ----


class Block(torch.nn.Module):
    def __init__(self, middle):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle = torch.nn.Conv2d(3, C, 3, padding=1), middle
        self.last = torch.nn.Linear(C * H * W, 5)

    def forward(self, x):
        return self.last(self.middle(self.first(x)).flatten(1))


class Fn(torch.nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


class ChannelsLastNorm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.LayerNorm(C)
        torch.nn.init.normal_(self.norm.weight, 1)
        torch.nn.init.normal_(self.norm.bias)

    def forward(self, x):
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def torch_group_norm():
    norm = torch.nn.GroupNorm(4, C)
    torch.nn.init.normal_(norm.weight, 1)
    torch.nn.init.normal_(norm.bias)
    return norm


def torch_shuffle(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


TORCH = {
    "SiLU": ("Swish", torch.nn.SiLU),
    "Hardswish": ("HardSwish", torch.nn.Hardswish),
    "Hardsigmoid": ("HardSigmoid", torch.nn.Hardsigmoid),
    "Mish": ("Mish", torch.nn.Mish),
    "GELU": ("Gelu", torch.nn.GELU),
    "GELU, tanh": ("Gelu", lambda: torch.nn.GELU(approximate="tanh")),
    "LayerNorm": ("LayerNormalization", ChannelsLastNorm),
    "GroupNorm": ("GroupNormalization", torch_group_norm),
    "channel shuffle": ("Gather", lambda: Fn(torch_shuffle)),
}


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("name", TORCH)
def test_torch_export(name, opset, tmp_path):
    type, middle = TORCH[name]
    net = Block(middle()).eval()
    path = tmp_path / "net.onnx"
    torch.onnx.export(net, torch.zeros(1, 3, H, W), str(path), opset_version=opset)
    x = np.random.default_rng(7).normal(size=(3, H, W)).astype(np.float32) * 2
    v = torch.from_numpy(x).double()[None].requires_grad_(True)
    y = net.double()(v)
    y[0, 1].backward()
    got = cli.explain(path, x, target=1)
    assert np.abs(got.logits - y[0].detach().numpy()).max() <= LOGITS * float(y.abs().max())
    assert cli.rel(got.attribution, v.grad[0].numpy()) <= GRADIENT
    ran = inspect(path)
    assert ran.count(type) == 1, ran.types
    # Conv, the pattern, Gemm, and layout changes
    assert ran.run - ran.count("LayoutConvert") == 3, ran.types
