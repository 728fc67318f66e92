"""ONNX's own tests of its operators, brought into the form of a network that parchgradd takes.

A node test is a folder: model.onnx and, per data set, input_<i>.pb and output_<i>.pb. Its model may have any
inputs and outputs; parchgradd wants one image in and logits out. wrap() puts this around the model,
whose own nodes stay as they are, in its own opset:

    image [1,1,H,W] -> Reshape [H*W] -> Gather -> Reshape -> input i    for each i at run time
    output k -> Reshape [1,n] -> Concat with the others, and with the image's first value -> logits

An input that is not at run time is an initialiser. The image's first value keeps a softmax from being the
network's end (where it would be left out) and lets outputs that depend on no input through.
"""
import dataclasses
import os
import pathlib

import numpy as np
import onnx
import onnx.version_converter
from onnx import TensorProto, helper, numpy_helper

DEBIAN = pathlib.Path("/usr/share/libonnx-testdata/data/node")
OLDEST = 7      # opset that parchgradd reads; tests of older operators are converted,
NEWEST = 21     # tests of newer ones count as others
WIDEST = 4096   # of the image; more values make more rows
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def folders():
    """Where the tests are: Debian's package, and what came with the installed onnx (a newer release with
    other tests). PG_ONNX_TESTDATA names one folder instead."""
    if "PG_ONNX_TESTDATA" in os.environ:
        return [pathlib.Path(os.environ["PG_ONNX_TESTDATA"])]
    own = pathlib.Path(onnx.__file__).parent / "backend/test/data/node"
    return [f for f in (DEBIAN, own) if f.is_dir()]


# ---- reading ----


@dataclasses.dataclass
class Case:
    name: str
    model: onnx.ModelProto
    tensors: list  # TensorProto, in the order of model.graph.input; None: absent
    inputs: list   # the same as arrays
    outputs: list  # arrays

    @property
    def operators(self):
        return sorted({node.op_type for node in self.model.graph.node})

    @property
    def opset(self):
        return next(o.version for o in self.model.opset_import if o.domain in ("", "ai.onnx"))

    def types(self):
        """The element types of inputs and outputs, and those that are cast to on the way."""
        casts = [a.i for node in self.model.graph.node if node.op_type == "Cast"
                 for a in node.attribute if a.name == "to"]
        return {elem_type(v) for v in [*self.model.graph.input, *self.model.graph.output]} | set(casts)

    def floats(self):
        """Inputs that may be at run time. (An empty one cannot be a part of an image.)"""
        return [i for i, x in enumerate(self.inputs)
                if x is not None and x.size and elem_type(self.model.graph.input[i]) in FLOATS]

    def bools(self):
        return [i for i, x in enumerate(self.inputs)
                if x is not None and x.size and x.dtype == bool]


def elem_type(value_info):
    return value_info.type.tensor_type.elem_type


def all_tensors(model):
    return all(v.type.HasField("tensor_type") and elem_type(v) != TensorProto.STRING
               for v in [*model.graph.input, *model.graph.output])


def _tensors(values, folder, kind):
    """The tensors of the files <kind>_<i>.pb; None for an empty file, which is an absent input."""
    tensors = []
    for i, value in enumerate(values):
        tensor = TensorProto()
        tensor.ParseFromString((folder / f"{kind}_{i}.pb").read_bytes())
        present = tensor.data_type != TensorProto.UNDEFINED
        tensor.data_type = elem_type(value)  # bfloat16 is filed as uint16
        tensor.name = value.name
        tensors.append(tensor if present else None)
    return tensors


def _array(tensor):
    array = numpy_helper.to_array(tensor)
    if tensor.data_type != TensorProto.BFLOAT16 or array.dtype.kind == "f":
        return array
    # onnx 1.18 gives the bits, later ones a type of their own
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _arrays(tensors):
    return [None if t is None else _array(t) for t in tensors]


def _load(folder, operators):
    """One case per data set; none if the model is not one for parchgradd."""
    model = onnx.load(str(folder / "model.onnx"))
    if model.opset_import[0].version < OLDEST and model.opset_import[0].domain == "":
        model = onnx.version_converter.convert_version(model, OLDEST)
    if model.opset_import[0].version > NEWEST and model.opset_import[0].domain == "":
        return []
    if not {n.op_type for n in model.graph.node} <= operators or not all_tensors(model):
        return []
    cases = []
    for k, data in enumerate(sorted(folder.glob("test_data_set_*"))):
        inputs = _tensors(model.graph.input, data, "input")
        outputs = _tensors(model.graph.output, data, "output")
        cases.append(Case(folder.name + (f"#{k}" if k else ""), model, inputs, _arrays(inputs),
                          _arrays(outputs)))
    return cases


def load_all(operators):
    """The cases all of whose operators are in the set, and the number of the other tests. Two releases may
    have the same test (it is taken once) or two under one name (then the second is name@opset)."""
    cases, others, seen = [], set(), {}
    for folder in (f for root in folders() for f in sorted(root.iterdir())):
        found = _load(folder, operators)
        if not found:
            others.add(folder.name)
        for case in found:
            content = (case.opset, case.model.graph.SerializeToString())
            if seen.setdefault(case.name, content) != content:
                case.name += f"@{case.opset}"
                if seen.setdefault(case.name, content) != content:
                    raise ValueError(f"a third test is named {case.name}")
            elif any(c.name == case.name for c in cases):
                continue
            cases.append(case)
    return cases, len(others)


# ---- smaller cases ----


def first_output(case):
    """The case without the outputs after the first, which mostly serve training."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.output[1:]
    return dataclasses.replace(case, model=model, outputs=case.outputs[:1])


# ---- wrapping ----


@dataclasses.dataclass
class Wrapped:
    model: onnx.ModelProto
    pieces: dict  # input number -> slice of the flattened image
    shape: tuple  # of the image
    classes: int

    def image(self, values):
        """The image in which the inputs at run time have their part of `values`."""
        flat = np.zeros(self.shape[2] * self.shape[3], np.float32)
        for i, piece in self.pieces.items():
            flat[piece] = np.ravel(values[i]).astype(np.float32)
        return flat.reshape(self.shape)


def logits_of(outputs):
    """What the wrapped model should give, but for the last logit."""
    return np.concatenate([np.ravel(y).astype(np.float64) for y in outputs])


def wrap(case, run_time):
    """The network that computes the case's outputs with the inputs `run_time` coming from the image."""
    nodes, constants, pieces, start = [], [], {}, 0

    def constant(name, array):
        constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def node(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    node("Reshape", ["image", constant("wrap_flat", np.array([-1]))], "wrap_values")
    for i, (info, x) in enumerate(zip(case.model.graph.input, case.inputs)):
        if i in run_time:
            pieces[i] = slice(start, start + x.size)
            index = constant(f"wrap_index_{i}", np.arange(start, start + x.size))
            dims = constant(f"wrap_shape_{i}", np.array(x.shape, np.int64))
            node("Gather", ["wrap_values", index], f"wrap_in_{i}", axis=0)
            plain = elem_type(info) == TensorProto.FLOAT
            value = node("Reshape", [f"wrap_in_{i}", dims], info.name if plain else f"wrap_cast_{i}")
            if not plain:
                node("Cast", [value], info.name, to=elem_type(info))
            start += x.size
        elif x is not None:
            constants.append(case.tensors[i])
    nodes += _with_absent(case)
    parts = []
    for k, (info, y) in enumerate(zip(case.model.graph.output, case.outputs)):
        value = info.name
        if elem_type(info) != TensorProto.FLOAT:
            value = node("Cast", [value], f"wrap_float_{k}", to=TensorProto.FLOAT)
        parts.append(node("Reshape", [value, constant(f"wrap_row_{k}", np.array([1, -1]))], f"wrap_out_{k}"))
    node("Gather", ["wrap_values", constant("wrap_zero", np.array([0]))], "wrap_first", axis=0)
    parts.append(node("Reshape", ["wrap_first", constant("wrap_one", np.array([1, 1]))], "wrap_last"))
    node("Concat", parts, "logits", axis=1)
    width = max(2, min(start, WIDEST))  # a picture of one pixel is none
    shape = (1, 1, max(1, -(-start // width)), width)
    classes = 1 + sum(y.size for y in case.outputs)
    graph = helper.make_graph(
        nodes, case.name, [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, classes])],
        [*case.model.graph.initializer, *constants])
    model = helper.make_model(graph, opset_imports=case.model.opset_import,
                              ir_version=case.model.ir_version)
    return Wrapped(model, pieces, shape, classes)


def _with_absent(case):
    """The model's own nodes; inputs that a data set leaves out become absent ones."""
    absent = {info.name for info, x in zip(case.model.graph.input, case.inputs) if x is None}
    nodes = []
    for original in case.model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        for k, name in enumerate(node.input):
            if name in absent:
                node.input[k] = ""
        nodes.append(node)
    return nodes
