"""Small ONNX files built node by node, and what they compute: an evaluator in torch's float64, whose autograd
is the truth for gradients. Knows the operators that exporters write patterns with, no more."""
import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper


class Net:
    """net.op("Add", x, 3.0) appends a node and returns its output's name. Inputs are names or constants."""

    def __init__(self, shape=(3, 10, 12), opset=13, seed=0):
        self.opset, self.nodes, self.constants = opset, [], []
        self.rng = np.random.default_rng(seed)
        self.input = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, *shape])

    def constant(self, value):
        value = np.asarray(value)
        if value.dtype == np.float64:
            value = value.astype(np.float32)
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def op(self, type, *inputs, outputs=1, name=None, **attrs):
        index = len(self.nodes)
        names = [i if isinstance(i, str) else self.constant(i) for i in inputs]
        made = [f"v{index}" if k == 0 else f"v{index}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(type, names, made, name=name or f"{type}_{index}", **attrs))
        return made[0] if outputs == 1 else made

    def normal(self, *shape, scale=1.0, shift=0.0):
        return (shift + scale * self.rng.normal(size=shape)).astype(np.float32)

    def conv(self, x, cin, cout, k=3, **attrs):
        attrs = {"pads": [k // 2] * 4, **attrs}
        weights = self.normal(cout, cin, k, k, scale=(cin * k * k) ** -.5)
        return self.op("Conv", x, weights, self.normal(cout, scale=.1), kernel_shape=[k, k], **attrs)

    def clip(self, x, lo, hi):
        """Bounds were attributes before opset 11."""
        if self.opset < 11:
            return self.op("Clip", x, min=float(lo), max=float(hi))
        return self.op("Clip", x, np.float32(lo), np.float32(hi))

    def mean(self, x, axes, keepdims=1):
        if self.opset >= 18:
            return self.op("ReduceMean", x, np.array(axes), keepdims=keepdims)
        return self.op("ReduceMean", x, axes=axes, keepdims=keepdims)

    def pad(self, x, pads, value=0.0):
        if self.opset < 11:
            return self.op("Pad", x, pads=pads, value=value)
        return self.op("Pad", x, np.array(pads), np.float32(value))

    def reshape(self, x, *dims):
        return self.op("Reshape", x, np.array(dims, dtype=np.int64))

    def transpose(self, x, *perm):
        return self.op("Transpose", x, perm=list(perm))

    def head(self, x, features, classes=5):
        """Logits that every element of x has its own say in."""
        flat = self.reshape(x, 1, features)
        weights = self.normal(features, classes, scale=features ** -.5)
        return self.op("Gemm", flat, weights, self.normal(classes))

    def model(self, logits):
        out = helper.make_tensor_value_info(logits, TensorProto.FLOAT, [1, "classes"])
        graph = helper.make_graph(self.nodes, "g", [self.input], [out], self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 8
        return model

    def save(self, path, logits):
        model = self.model(logits)
        onnx.checker.check_model(model)
        onnx.save(model, str(path))
        return model


# ---- the evaluator ----


def _pads(attrs, n):
    p = attrs.get("pads", [0] * (2 * n))
    return [v for i in reversed(range(n)) for v in (p[i], p[n + i])]  # as F.pad wants them


def _conv(a, x, w, b=None):
    x = F.pad(x, _pads(a, x.dim() - 2))
    return F.conv2d(x, w, b, a.get("strides", 1), 0, a.get("dilations", 1), a.get("group", 1))


def _average_pool(a, x):
    k, s = a["kernel_shape"], a.get("strides", [1, 1])
    kernel = torch.ones(x.shape[1], 1, *k, dtype=x.dtype)
    ones = torch.ones_like(x)
    pads = _pads(a, 2)
    counted = F.pad(ones, pads, value=float(a.get("count_include_pad", 0)))
    count = F.conv2d(counted, kernel, stride=s, groups=x.shape[1])
    return F.conv2d(F.pad(x, pads), kernel, stride=s, groups=x.shape[1]) / count


def _max_pool(a, x):
    return F.max_pool2d(F.pad(x, _pads(a, 2), value=-float("inf")), a["kernel_shape"], a["strides"])


def _pad(a, x, pads=None, value=0.0):
    n = x.dim()
    pads = a["pads"] if pads is None else [int(v) for v in pads]
    return F.pad(x, _pads({"pads": pads}, n), value=float(a.get("value", value)))


def _reduce_mean(a, x, axes=None):
    axes = a.get("axes") if axes is None else [int(v) for v in axes]
    return x.mean(dim=axes, keepdim=bool(a.get("keepdims", 1)))


def _clip(a, x, lo=None, hi=None):
    lo, hi = a.get("min") if lo is None else float(lo), a.get("max") if hi is None else float(hi)
    return x.clamp(lo, hi)


def _instance_norm(a, x, scale, bias):
    return F.instance_norm(x, weight=scale, bias=bias, eps=a.get("epsilon", 1e-5))


def _batch_norm(a, x, scale, bias, mean, var):
    return F.batch_norm(x, mean, var, scale, bias, eps=a.get("epsilon", 1e-5))


def _dims(dims, x):
    return [x.shape[i] if int(d) == 0 else int(d) for i, d in enumerate(dims)]


def _gelu(a, x):
    if a.get("approximate") == b"tanh":
        return .5 * x * (1 + torch.tanh((2 / np.pi) ** .5 * (x + .044715 * x ** 3)))
    return .5 * x * (1 + torch.erf(x / 2 ** .5))


OPS = {
    "Add": lambda a, x, y: x + y, "Sub": lambda a, x, y: x - y, "Mul": lambda a, x, y: x * y,
    "Div": lambda a, x, y: x / y, "Pow": lambda a, x, y: x ** y, "Sqrt": lambda a, x: x.sqrt(),
    "Erf": lambda a, x: torch.erf(x), "Tanh": lambda a, x: x.tanh(), "Relu": lambda a, x: x.relu(),
    "Sigmoid": lambda a, x: x.sigmoid(), "Softplus": lambda a, x: F.softplus(x, threshold=1e9),
    "HardSigmoid": lambda a, x: (a.get("alpha", .2) * x + a.get("beta", .5)).clamp(0, 1),
    "Clip": _clip, "Gelu": _gelu, "Conv": _conv, "AveragePool": _average_pool, "MaxPool": _max_pool,
    "Gemm": lambda a, x, w, b: x @ w + b, "MatMul": lambda a, x, w: x @ w, "Pad": _pad,
    "GlobalAveragePool": lambda a, x: x.mean(dim=(2, 3), keepdim=True), "ReduceMean": _reduce_mean,
    "Reshape": lambda a, x, dims: x.reshape(_dims(dims, x)),
    "Flatten": lambda a, x: x.flatten(a.get("axis", 1)),
    "Unsqueeze": lambda a, x, axes: x.reshape(np.expand_dims(np.empty(x.shape), tuple(int(v) for v in axes)).shape),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "InstanceNormalization": _instance_norm, "BatchNormalization": _batch_norm,
}


def evaluate(model, x):
    """The model's first output in float64; `x` a tensor [3,H,W]."""
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    values = {k: v.double() if v.is_floating_point() else v for k, v in values.items()}
    values["input"] = x[None]
    for node in model.graph.node:
        attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        values[node.output[0]] = OPS[node.op_type](attrs, *(values[i] for i in node.input if i))
    return values[model.graph.output[0].name][0]


def truth(model, x, target):
    """Logits and the gradient of logit `target`."""
    v = torch.from_numpy(np.asarray(x)).double().requires_grad_(True)
    y = evaluate(model, v)
    y[target].backward()
    return y.detach().numpy(), v.grad.numpy()
