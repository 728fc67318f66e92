"""Gradients of ONNX's node tests without any engine: central differences of onnx's reference evaluator, after
every float type in the model has been made double."""
import copy
import dataclasses
import warnings

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from node_cases import FLOATS, elem_type, logits_of

ELEMENTWISE = 64  # inputs up to this size are differentiated by every element,
DIRECTIONS = 8    # larger ones along this many random directions


# ---- the same model in double ----


def _double_tensor(tensor):
    if tensor.data_type in FLOATS:
        values = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _double_node(node):
    for a in node.attribute:
        if a.type == onnx.AttributeProto.TENSOR:
            _double_tensor(a.t)
        elif node.op_type == "Cast" and a.name == "to" and a.i in FLOATS:
            a.i = TensorProto.DOUBLE
        elif node.op_type == "Constant" and a.name in ("value_float", "value_floats"):
            values = np.array(a.f if a.name == "value_float" else list(a.floats), np.float64)
            a.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(values)))
        elif a.type == onnx.AttributeProto.GRAPH:
            for inner in a.g.node:
                _double_node(inner)


def in_double(model):
    """A copy in which every float type is double."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    for value in [*twin.graph.input, *twin.graph.output, *twin.graph.value_info]:
        if elem_type(value) in FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in twin.graph.initializer:
        _double_tensor(tensor)
    for node in twin.graph.node:
        _double_node(node)
    return twin


class NoReference(Exception):
    pass


def reference(case):
    """The case's model in float64, as a function of the list of its inputs: all outputs in one row."""
    model = in_double(case.model)
    evaluator = _evaluator(model)

    def outputs(inputs):
        feed = {info.name: x.astype(np.float64) if elem_type(info) == TensorProto.DOUBLE else x
                for info, x in zip(model.graph.input, inputs) if x is not None}
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return logits_of(evaluator.run(None, feed))
        except Exception as why:  # it raises anything
            raise NoReference(str(why)) from why
    return outputs


def _evaluator(model):
    """The reference knows some operators in few versions: the next one that it knows will do, which the
    caller sees from the outputs."""
    for version in range(model.opset_import[0].version, 22):
        try:
            model.opset_import[0].version = version
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return ReferenceEvaluator(model)
        except (RuntimeError, NotImplementedError) as why:
            reason = why
    raise NoReference(str(reason))


# ---- differences ----


@dataclasses.dataclass
class Slopes:
    """Derivatives of sum(seed * outputs) by one input along unit `directions` [n, elements]."""
    directions: np.ndarray
    values: np.ndarray
    smooth: np.ndarray  # false: a kink or a jump lies there, and the difference says nothing


class Differences:
    """A function of the case's inputs (list of arrays -> row of outputs) at a point, the case's own at first, and
    a weight (`seed`) for each output."""

    def __init__(self, case, function, step=1e-5, kink=1e-3):
        self.case, self.function, self.step, self.kink = case, function, step, kink
        self.rng = np.random.default_rng(len(case.name))
        self.inputs = [x.astype(np.float64) if i in case.floats() else x
                       for i, x in enumerate(case.inputs)]
        self.finite = np.isfinite(logits_of(case.outputs))
        self.seed = self.rng.standard_normal(self.finite.size).astype(np.float32)
        self.seed[~self.finite] = 0

    def _with(self, i, x):
        return [*self.inputs[:i], x, *self.inputs[i + 1:]]

    def moved(self, i, amount):
        """The same at a point nearby, where input i has other values and probably no kink."""
        twin, x = copy.copy(self), self.inputs[i]
        x = x + amount * np.maximum(np.abs(x), .1) * self.rng.standard_normal(x.shape)
        twin.inputs = self._with(i, x.astype(np.float32).astype(np.float64))
        return twin

    def slopes(self, i):
        """Derivatives of sum(seed * outputs) by input i at the present point."""
        x = self.inputs[i]
        if x.size <= ELEMENTWISE:
            directions = np.eye(x.size)
        else:
            directions = self.rng.standard_normal((DIRECTIONS, x.size))
            directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        middle = self.function(self.inputs)
        # steps of two lengths: a jump looks like two slopes, as a kink does
        left, right = (np.array([self._slope(i, x, step, d, middle) for d in directions])
                       for step in (-self.step, self.step / 2))
        least = np.minimum(np.abs(left), np.abs(right))
        scale = np.max(least, initial=0, where=np.isfinite(least))
        with np.errstate(invalid="ignore"):
            smooth = np.abs(left - right) <= self.kink * (least + scale)
            return Slopes(directions, (left + 2 * right) / 3, smooth)  # exact to the second order

    def _slope(self, i, x, step, direction, middle):
        moved = self.function(self._with(i, x + step * direction.reshape(x.shape)))
        with np.errstate(invalid="ignore"):
            return np.sum((self.seed * (moved - middle))[self.finite]) / step
