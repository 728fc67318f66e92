"""Operators that move, resize and quantise, from the ONNX file on: values against ONNX's own reference
implementation, resizes also against torch with their gradients. The C tests beside the kernels have the
grids; here it is the specification's word that counts, opset by opset."""
import itertools

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import cli

SHAPE = (1, 3, 6, 5)
TOLERANCE = 1e-5  # of the largest value: float32 against float32 or float64, sums of a few terms


def image(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape[1:]).astype(np.float32)


def model(path, nodes, constants, opset, shape=SHAPE, head=None):
    """x -> nodes -> y, flattened to [1,n]; with `head` [n,k] multiplied by it."""
    nodes = list(nodes) + [helper.make_node("Flatten", ["y"], ["flat" if head is not None else "logits"])]
    constants = dict(constants)
    if head is not None:
        constants["head"] = head
        nodes.append(helper.make_node("MatMul", ["flat", "head"], ["logits"]))
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8), path)
    return path


def against_reference(path, nodes, constants, opset, shape=SHAPE, reference=None):
    """`reference`: an opset that says the same and that onnx's implementation knows, (nodes, constants,
    opset)."""
    x = image(shape=shape)
    model(path, *(reference or (nodes, constants, opset)), shape)
    expected = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x[None]})[0][0]
    model(path, nodes, constants, opset, shape)
    got = cli.explain(path, x, target=0).logits
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= TOLERANCE * np.abs(expected).max()


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("way,scale", [
    ("half_pixel", (2, 2)), ("half_pixel", (1.5, .5)), ("half_pixel_symmetric", (1.5, .5)),
    ("pytorch_half_pixel", (.5, 3)), ("asymmetric", (2, 2)), ("asymmetric", (.5, 1.5)),
    ("align_corners", (2, 2))])  # of align_corners only what the reference reads as all others do
def test_resize_scales(tmp_path, mode, way, scale):
    def described(opset, roi):
        node = helper.make_node("Resize", ["x", "roi" if roi else "", "s"], ["y"], mode=mode,
                                coordinate_transformation_mode=way)
        constants = {"s": np.array([1, 1, *scale], np.float32)}
        return [node], {**constants, **({"roi": np.zeros(0, np.float32)} if roi else {})}, opset
    against_reference(tmp_path / "m.onnx", *described(19, False))
    if way != "half_pixel_symmetric":  # before 13 the region is there, if only as an empty list
        against_reference(tmp_path / "m.onnx", *described(11, True), reference=described(19, False))


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_resize_antialias_sizes_axes(tmp_path, mode):
    for exclude, antialias, policy in itertools.product(
            [0, 1], [0, 1], ["stretch", "not_larger"]):
        node = helper.make_node("Resize", ["x", "", "", "n"], ["y"], mode=mode, axes=[2, 3],
                                antialias=antialias, exclude_outside=exclude, cubic_coeff_a=-.5,
                                keep_aspect_ratio_policy=policy)
        against_reference(tmp_path / "m.onnx", [node], {"n": np.array([3, 4], np.int64)}, 18)


def test_resize_nearest_roundings(tmp_path):
    for way, rounding, size in itertools.product(
            ["half_pixel", "align_corners", "asymmetric"],
            ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"], [(3, 10), (7, 4)]):
        node = helper.make_node("Resize", ["x", "", "", "n"], ["y"], mode="nearest", nearest_mode=rounding,
                                coordinate_transformation_mode=way)
        against_reference(tmp_path / "m.onnx", [node], {"n": np.array([1, 3, *size], np.int64)}, 19)


def test_resize_crop(tmp_path):
    for mode in ["nearest", "linear", "cubic"]:
        node = helper.make_node("Resize", ["x", "roi", "", "n"], ["y"], mode=mode, extrapolation_value=7.,
                                coordinate_transformation_mode="tf_crop_and_resize")
        constants = {"roi": np.array([0, 0, -.17, .3, 1, 1, .85, 1.4], np.float32),
                     "n": np.array([1, 3, 4, 7], np.int64)}
        against_reference(tmp_path / "m.onnx", [node], constants, 13)


TORCH = [("nearest", None), ("bilinear", False), ("bilinear", True), ("bicubic", False), ("bicubic", True)]


@pytest.mark.parametrize("mode,align", TORCH)
@pytest.mark.parametrize("size", [(12, 10), (3, 9), (17, 4), (1, 1)])
def test_resize_is_torch(tmp_path, mode, align, size):
    """As torch.onnx.export writes interpolate; logits and gradient in float64."""
    attributes = {"mode": {"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic"}[mode]}
    if mode == "nearest":
        attributes.update(coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    else:
        attributes["coordinate_transformation_mode"] = "align_corners" if align else "pytorch_half_pixel"
    # torch's half pixel does not know the rule for length 1; half_pixel is what it does
    if not align and 1 in size and mode != "nearest":
        attributes["coordinate_transformation_mode"] = "half_pixel"
    head = np.random.default_rng(1).standard_normal((3 * size[0] * size[1], 4)).astype(np.float32)
    node = helper.make_node("Resize", ["x", "", "", "n"], ["y"], **attributes)
    path = model(tmp_path / "m.onnx", [node], {"n": np.array([1, 3, *size], np.int64)}, 13, head=head)
    x = torch.from_numpy(image()).double()[None].requires_grad_(True)
    y = torch.nn.functional.interpolate(x, size, mode=mode, align_corners=align).flatten(1)
    y = y @ torch.from_numpy(head).double()
    y[0, 2].backward()
    got = cli.explain(path, image(), target=2)
    assert np.abs(got.logits - y[0].detach().numpy()).max() <= TOLERANCE * float(y.abs().max())
    assert cli.rel(got.attribution, x.grad[0].numpy()) <= TOLERANCE


def ints(*values):
    return np.array(values, np.int64)


MOVES = {
    "depth_dcr": (13, (1, 3, 6, 4), [("SpaceToDepth", ["x"], {"blocksize": 2}),
                                     ("DepthToSpace", ["0"], {"blocksize": 2, "mode": "DCR"})], {}),
    "depth_crd": (13, (1, 3, 6, 4), [("SpaceToDepth", ["x"], {"blocksize": 2}),
                                     ("DepthToSpace", ["0"], {"blocksize": 2, "mode": "CRD"})], {}),
    "expand": (13, (1, 1, 6, 4), [("Expand", ["x", "a"], {})], {"a": ints(3, 1, 1)}),
    "tile": (13, SHAPE, [("Tile", ["x", "a"], {})], {"a": ints(1, 2, 1, 3)}),
    "gather": (13, SHAPE, [("Gather", ["x", "a"], {"axis": 2})], {"a": ints(5, -1, 0, 2)}),
    "gather_rank2": (13, SHAPE, [("Gather", ["x", "a"], {"axis": 1})], {"a": ints(2, 0, 0, 1).reshape(2, 2)}),
    "gather_elements": (13, SHAPE, [("GatherElements", ["x", "a"], {"axis": 3})],
                        {"a": np.arange(54).reshape(1, 3, 6, 3) % 5}),
    "gather_nd": (13, SHAPE, [("GatherND", ["x", "a"], {"batch_dims": 1})],
                  {"a": ints(2, 5, 0, 1).reshape(1, 2, 2)}),
    "pad_reflect": (13, SHAPE, [("Pad", ["x", "a"], {"mode": "reflect"})], {"a": ints(0, 0, 2, 1, 0, 0, 3, 4)}),
    "pad_wrap": (19, SHAPE, [("Pad", ["x", "a", "", "b"], {"mode": "wrap"})], {"a": ints(2, 1, 3, 4), "b": ints(2, -1)}),
    "pad_value": (18, SHAPE, [("Pad", ["x", "a", "v"], {})],
                  {"a": ints(0, 1, 2, 1, 0, 0, 3, 1), "v": np.float32(3)}),
    "slice": (13, SHAPE, [("Slice", ["x", "a", "b", "c", "d"], {})],
              {"a": ints(-1, 1), "b": ints(-100, 5), "c": ints(3, 2), "d": ints(-2, 3)}),
    "transpose": (13, SHAPE, [("Transpose", ["x"], {"perm": [0, 2, 3, 1]})], {}),
    "trilu": (14, SHAPE, [("Trilu", ["x", "a"], {"upper": 0})], {"a": np.int64(1)}),
    "quantize": (19, SHAPE, [("QuantizeLinear", ["x", "s", "z"], {}), ("DequantizeLinear", ["0", "s", "z"], {})],
                 {"s": np.float32(.02), "z": np.uint8(100)}),
    "quantize_channels": (19, SHAPE, [("QuantizeLinear", ["x", "s", "z"], {"axis": 1}),
                                      ("DequantizeLinear", ["0", "s", "z"], {"axis": 1})],
                          {"s": np.array([.02, .01, .005], np.float32), "z": np.array([3, -4, 0], np.int8)}),
    "cast": (13, SHAPE, [("Cast", ["x"], {"to": TensorProto.INT32}), ("Cast", ["0"], {"to": TensorProto.FLOAT})], {}),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves(tmp_path, name):
    opset, shape, steps, constants = MOVES[name]
    nodes = [helper.make_node(op, inputs, ["y" if i == len(steps) - 1 else str(i)], **attributes)
             for i, (op, inputs, attributes) in enumerate(steps)]
    against_reference(tmp_path / "m.onnx", nodes, constants, opset, shape)


def test_quantised_weights_are_folded(tmp_path):
    """A convolution whose weights and bias the file keeps as integers."""
    rng = np.random.default_rng(2)
    nodes = [helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["fw"], axis=0),
             helper.make_node("DequantizeLinear", ["b", "bs"], ["fb"], axis=0),
             helper.make_node("Conv", ["x", "fw", "fb"], ["y"], pads=[1, 1, 1, 1])]
    constants = {"w": rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8),
                 "ws": np.array([.01, .02, .03, .04], np.float32), "wz": np.array([0, 1, -2, 3], np.int8),
                 "b": rng.integers(-9999, 9999, 4).astype(np.int32),
                 "bs": np.array([.001, .002, .003, .004], np.float32)}
    against_reference(tmp_path / "m.onnx", nodes, constants, 13, reference=(nodes, constants, 19))


@pytest.mark.parametrize("op", ["DynamicQuantizeLinear", "ConvInteger", "QLinearConv"])
def test_other_quantised_operators_are_refused(tmp_path, op):
    nodes = [helper.make_node(op, ["x"], ["y"])]
    path = model(tmp_path / "m.onnx", nodes, {}, 13)
    np.save(tmp_path / "x.npy", image())
    result = cli.run("explain", "--model", path, "--method", "gradient", tmp_path / "x.npy", check=False)
    assert result.returncode == 3 and op in result.stderr
