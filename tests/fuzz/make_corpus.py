#!/usr/bin/env python3
"""Writes the fuzzer's seeds: make_corpus.py FOLDER

One file per operator (conv -> the operator -> flatten), so that every create, prepare, forward and backward
is reached; the shape arithmetic and folding that exporters write; and tiny networks as torch.onnx.export
writes them. A few kilobytes each.
"""
import pathlib
import sys
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RNG = np.random.default_rng(20240117)


def f32(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def i64(*values):
    return np.array(values, np.int64)


def scalar(value):
    return np.array(value, np.float32)


def model(nodes, constants, output, opset, inputs=("x",), extra=()):
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3, "h", "w"]) for n in inputs],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(c), n) for n, c in constants.items()] + list(extra))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8,
                             producer_name="corpus")


def around(op, *constants, opset=17, values=1, outputs=1, pick=0, extra=(), **attrs):
    """conv(s) -> op(value..., constant...) -> flatten. A constant None is an absent input."""
    named = {f"w{i}": f32(4, 3, 1, 1) for i in range(values)}
    nodes = [helper.make_node("Conv", ["x", f"w{i}"], [f"v{i}"]) for i in range(values)]
    inputs = [f"v{i}" for i in range(values)]
    for i, c in enumerate(constants):
        if c is not None:
            named[f"c{i}"] = c
        inputs.append("" if c is None else f"c{i}")
    nodes.append(helper.make_node(op, inputs, [f"y{i}" for i in range(outputs)], name="op", **attrs))
    nodes.append(helper.make_node("Flatten", [f"y{pick}"], ["logits"]))
    return model(nodes, named, "logits", opset, extra=extra)


def chain(*steps, opset=17, **constants):
    """Steps are (type, inputs, outputs, attributes): written out, for folding and shape arithmetic."""
    return model([helper.make_node(t, i, o, **a) for t, i, o, a in steps], constants, "logits", opset)


def operators():
    for name in ("Abs Celu Elu Erf Exp HardSigmoid HardSwish Identity LeakyRelu Log Mish Neg Reciprocal Relu Selu "
                 "Sigmoid Softplus Softsign Sqrt Tanh ThresholdedRelu GlobalAveragePool GlobalMaxPool Flatten "
                 "Dropout Floor Ceil Round Sign Not Cos Sin Shape Size").split():
        yield name, around(name, opset=20 if name == "Gelu" else 18)
    yield "Gelu", around("Gelu", opset=20)
    for name in "Add Sub Mul Div Pow Max Min Mean Sum PRelu Equal Greater Where".split():
        yield name, around(name, values=2)
        yield name + "_scalar", around(name, scalar(2))
        yield name + "_channel", around(name, f32(4, 1, 1))
    yield "Clip", around("Clip", scalar(0), scalar(6))
    yield "Clip6", around("Clip", opset=9, min=0.0, max=6.0)
    yield "BatchNormalization", around("BatchNormalization", f32(4), f32(4), f32(4), np.ones(4, np.float32))
    for name in ("InstanceNormalization", "LayerNormalization", "GroupNormalization"):
        yield name, around(name, f32(4), f32(4), **({"num_groups": 2} if name[0] == "G" else {}), opset=18)
    yield "Conv", around("Conv", f32(5, 4, 3, 3), f32(5), pads=[1, 1, 1, 1], strides=[2, 2])
    yield "Conv_group", around("Conv", f32(4, 2, 3, 3), group=2, dilations=[2, 2], pads=[2, 2, 2, 2])
    yield "Conv_depthwise", around("Conv", f32(4, 1, 3, 3), f32(4), group=4, auto_pad="SAME_UPPER")
    yield "ConvTranspose", around("ConvTranspose", f32(4, 5, 3, 3), f32(5), strides=[2, 2], output_padding=[1, 1])
    yield "LRN", around("LRN", size=3)
    for kind in ("MaxPool", "AveragePool"):
        yield kind, around(kind, kernel_shape=[2, 2], strides=[2, 2])
        yield kind + "_ceil", around(kind, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 0, 0], ceil_mode=1)
    yield "LpPool", around("LpPool", kernel_shape=[2, 2])
    yield "Concat", around("Concat", f32(1, 2, 8, 8), values=2, axis=1)
    yield "Split", around("Split", i64(1, 3), outputs=2, pick=1, axis=1)
    yield "Split11", around("Split", opset=11, outputs=2, axis=1, split=[2, 2])
    yield "Slice", around("Slice", i64(1, 0), i64(3, 100), i64(1, 2), i64(1, 2))
    yield "Slice_back", around("Slice", i64(-1), i64(-5), i64(3), i64(-1))
    yield "Gather", around("Gather", i64(2, 0, -1), axis=1)
    yield "GatherElements", around("GatherElements", np.zeros((1, 4, 8, 8), np.int64), axis=1)
    yield "Transpose", around("Transpose", perm=[0, 2, 3, 1])
    yield "Reshape", around("Reshape", i64(1, 2, -1))
    yield "Squeeze", around("Squeeze", i64(0))
    yield "Unsqueeze", around("Unsqueeze", i64(0, 3))
    yield "Expand", around("Expand", i64(2, 4, 8, 8))
    yield "Tile", around("Tile", i64(1, 2, 1, 2))
    for mode in ("constant", "reflect", "edge"):
        yield "Pad_" + mode, around("Pad", i64(0, 0, 1, 2, 0, 0, 2, 1), mode=mode)
    yield "Pad9", around("Pad", opset=9, pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5)
    for name in "ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2 ReduceProd ReduceSumSquare ReduceLogSumExp".split():
        yield name, around(name, i64(2, 3), opset=18, keepdims=0)
    yield "ReduceMean13", around("ReduceMean", opset=13, axes=[2, 3])
    yield "ArgMax", around("ArgMax", axis=1)
    yield "TopK", around("TopK", i64(2), outputs=2, axis=1)
    yield "Softmax", around("Softmax", axis=1)
    yield "LogSoftmax", around("LogSoftmax", axis=-1)
    yield "MatMul", around("MatMul", f32(8, 5))
    yield "MatMul_two", around("MatMul", values=2)
    yield "Einsum", around("Einsum", values=2, equation="nchw,nchv->ncwv")
    yield "CumSum", around("CumSum", np.array(1, np.int64))
    yield "Cast", around("Cast", to=1)
    yield "DepthToSpace", around("DepthToSpace", blocksize=2)
    yield "SpaceToDepth", around("SpaceToDepth", blocksize=2)
    for mode in ("nearest", "linear", "cubic"):
        yield "Resize_" + mode, around("Resize", None, np.array([1, 1, 2, 1.5], np.float32), mode=mode)
    yield "Resize_sizes", around("Resize", None, None, i64(1, 4, 5, 11), mode="linear",
                                 coordinate_transformation_mode="align_corners")
    yield "Upsample", around("Upsample", np.array([1, 1, 2, 2], np.float32), opset=9)
    yield "Quantize", around("QuantizeLinear", scalar(0.1), np.array(0, np.int8))
    yield "GridSample", around("GridSample", f32(1, 4, 4, 2))


def folding():
    shape = [("Shape", ["x"], ["s"], {}), ("Gather", ["s", "i"], ["n"], {"axis": 0}),
             ("Unsqueeze", ["n", "i"], ["n1"], {}), ("Concat", ["n1", "minus"], ["to"], {"axis": 0}),
             ("Reshape", ["x", "to"], ["f"], {}), ("Gemm", ["f", "w", "b"], ["logits"], {"transB": 1})]
    yield "view", chain(*shape, i=i64(0).reshape(()), minus=i64(-1), w=f32(5, 192), b=f32(5))
    for name in "Add Sub Mul Div Pow Min Max Mod Equal Less Greater Where".split():
        yield "fold_" + name, chain(
            ("Shape", ["x"], ["s"], {}), (name, (["yes"] if name == "Where" else []) + ["s", "k"], ["t"], {}),
            ("Cast", ["t"], ["u"], {"to": 1}), ("ReduceSum", ["u"], ["v"], {"keepdims": 0}),
            ("Mul", ["x", "v"], ["y"], {}), ("Flatten", ["y"], ["logits"], {}), k=i64(2), yes=np.array([True]))
    bombs = [("ConstantOfShape", ["k"], ["a"], {"value": numpy_helper.from_array(np.ones(1, np.float32))}),
             ("Expand", ["a", "k2"], ["b"], {}), ("Tile", ["b", "k3"], ["c"], {}),
             ("Range", ["zero", "ten", "one"], ["r"], {}), ("Cast", ["r"], ["rf"], {"to": 1}),
             ("ReduceMean", ["rf"], ["m"], {"keepdims": 0}), ("ReduceMean", ["c"], ["m2"], {"keepdims": 0}),
             ("Mul", ["x", "m"], ["y"], {}), ("Mul", ["y", "m2"], ["z"], {}), ("Flatten", ["z"], ["logits"], {})]
    yield "bombs", chain(*bombs, k=i64(2, 2), k2=i64(3, 2, 2), k3=i64(1, 2, 2), zero=np.array(0, np.int64),
                         ten=np.array(10, np.int64), one=np.array(1, np.int64))
    data = np.array([[1, 0], [0, 1]])
    for kind in ("float16", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"):
        yield "type_" + kind, chain(
            ("Cast", ["d"], ["f"], {"to": 1}), ("ReduceSum", ["f"], ["s"], {"keepdims": 0}),
            ("Mul", ["x", "s"], ["y"], {}), ("Flatten", ["y"], ["logits"], {}), d=data.astype(kind))
    listed = [helper.make_tensor("d", getattr(TensorProto, t), [2], [1, 2])
              for t in "FLOAT DOUBLE INT32 INT64 UINT64 FLOAT16 BFLOAT16 BOOL UINT4 INT4".split()]
    for tensor in listed:
        yield f"list_{tensor.data_type}", model(
            [helper.make_node("Cast", ["d"], ["f"], to=1), helper.make_node("ReduceSum", ["f"], ["s"], keepdims=0),
             helper.make_node("Mul", ["x", "s"], ["y"]), helper.make_node("Flatten", ["y"], ["logits"])],
            {}, "logits", 21, extra=[tensor])
    outside = helper.make_tensor("d", TensorProto.FLOAT, [2], [1, 2])
    outside.ClearField("float_data")
    outside.data_location = TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="w.bin")
    yield "external", model([helper.make_node("Mul", ["x", "d"], ["y"]), helper.make_node("Flatten", ["y"], ["logits"])],
                            {}, "logits", 17, extra=[outside])


def networks():
    import torch
    from torch import nn
    warnings.simplefilter("ignore")

    class Gate(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.a, self.b = nn.Conv2d(c, 2, 1), nn.Conv2d(2, c, 1)

        def forward(self, x):
            s = x.mean((2, 3), keepdim=True)
            return x * torch.sigmoid(self.b(nn.functional.silu(self.a(s))))

    class Residual(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(c, c, 3, 1, 1), nn.BatchNorm2d(c), nn.ReLU(), nn.Conv2d(c, c, 1))

        def forward(self, x):
            return torch.relu(x + self.body(x))

    class Attention(nn.Module):
        def __init__(self, c):
            super().__init__()
            self.norm, self.qkv = nn.LayerNorm(c), nn.Linear(c, 3 * c)

        def forward(self, x):
            t = x.flatten(2).transpose(1, 2)
            q, k, v = self.qkv(self.norm(t)).chunk(3, -1)
            return (torch.softmax(q @ k.transpose(-2, -1) * 0.5, -1) @ v).mean(1)

    def head(c):
        return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(c, 3)]

    nets = {"plain": nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), *head(4)),
            "residual": nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1, bias=False), nn.BatchNorm2d(4), Residual(4), *head(4)),
            "mobile": nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU6(), nn.Conv2d(4, 4, 3, 1, 1, groups=4), nn.Hardswish(),
                                    Gate(4), *head(4)),
            "attention": nn.Sequential(nn.Conv2d(3, 4, 4, 4), Attention(4), nn.Linear(4, 3), nn.Softmax(1))}
    for name, net in nets.items():
        for keep in (False, True):
            path = FOLDER / f"net_{name}{'_keep' if keep else ''}.onnx"
            torch.onnx.export(net.eval(), torch.zeros(1, 3, 8, 8), str(path), opset_version=14,
                              training=torch.onnx.TrainingMode.PRESERVE if keep else torch.onnx.TrainingMode.EVAL,
                              do_constant_folding=not keep)


FOLDER = pathlib.Path(sys.argv[1])
FOLDER.mkdir(parents=True, exist_ok=True)
for name, proto in [*operators(), *folding()]:
    onnx.save(proto, str(FOLDER / f"{name}.onnx"))
networks()
