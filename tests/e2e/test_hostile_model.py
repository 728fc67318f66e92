"""Models made by hand to hurt: each is refused with its sentence, or loads and runs in order.

Damaged copies of real models are in test_bad_model.py, mutated ones in tests/fuzz.
"""
import os
import re
import resource
import shutil
import socket

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import cli

CONFIGURATION, REFUSED = 2, 3


def array(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def build(nodes=None, constants=None, opset=17, inputs=None, output="y", more=(), domains=()):
    """conv -> mean -> flatten, or what stands in its place."""
    if nodes is None:
        nodes = [conv(), *tail()]
    constants = {"w": array(4, 3, 1, 1), **(constants or {})}
    inputs = [helper.make_tensor_value_info("x", 1, [1, 3, 8, 8])] if inputs is None else inputs
    graph = helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info(output, 1, None)],
                              [constant(n, v) for n, v in constants.items() if v is not None] + list(more))
    return helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid("", opset), *[helper.make_opsetid(d, 1) for d in domains]])


def conv(weights="w", **attrs):
    return node("Conv", ["x", weights], "c", **attrs)


def node(kind, inputs, output, **attrs):
    return helper.make_node(kind, inputs, output if isinstance(output, list) else [output], name=f"n_{output}", **attrs)


def tail(value="c"):
    return [node("GlobalAveragePool", [value], "p"), node("Flatten", ["p"], "y")]


def then(kind, *inputs, output="d", constants=None, **attrs):
    """conv -> one more node -> flatten."""
    return build([conv(), node(kind, ["c", *inputs], output, **attrs), node("Flatten", ["d"], "y")], constants)


def raw_tensor(name, dims, kind=TensorProto.FLOAT, data=b""):
    return TensorProto(name=name, dims=dims, data_type=kind, raw_data=data)


def inspect(path, *more):
    return cli.run("inspect", "--model", path, *more, check=False, timeout=60)


def refused(path, sentence, status=REFUSED, more=()):
    result = inspect(path, *more)
    assert result.returncode == status, (result.returncode, result.stderr[-500:])
    assert re.search(sentence, result.stderr), result.stderr
    assert len(result.stderr) < 5000 and not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", result.stderr)


def save(model, path):
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


# ---- graphs ----

def field(number, payload):
    """One length-delimited protobuf field."""
    size, prefix = len(payload), b""
    while size > 127:
        prefix, size = prefix + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + prefix + bytes([size]) + payload


def nested(depth):
    """node > attribute > graph > node..., as a loop in a loop would be."""
    inner = b""
    for _ in range(depth):
        inner = field(1, field(1, b"c") + field(2, b"d") + field(3, b"deep") + field(4, b"If") +
                      field(5, field(1, b"then_branch") + field(6, inner) + b"\xa0\x01\x05"))
    whole = build([conv(), node("Flatten", ["d"], "y")])
    first, last = (n.SerializeToString() for n in whole.graph.node)
    whole.graph.ClearField("node")
    graph = field(1, first) + inner + field(1, last) + whole.graph.SerializeToString()
    whole.ClearField("graph")
    return whole.SerializeToString() + field(7, graph)


def again(kind, size):
    """A constant of `size` elements, reduced 5000 times: 400 KB that would compute for minutes."""
    nodes, value = [conv(), node("ConstantOfShape", ["s"], "k")], "c"
    for i in range(5000):
        nodes += [node(kind, ["k"], f"r{i}", keepdims=0), node("Add", [value, f"r{i}"], f"a{i}")]
        value = f"a{i}"
    return build([*nodes, *tail(value)], {"s": size})


def shared(count):
    """Convolutions that share 1 MB of weights, of which each would keep two packed copies."""
    nodes = [conv(), *[node("Conv", [f"v{i - 1}" if i else "c", "shared"], f"v{i}") for i in range(count)]]
    return build([*nodes, *tail(f"v{count - 1}")], {"w": array(512, 3, 1, 1), "shared": array(512, 512, 1, 1)})


def with_functions():
    model = build()
    model.functions.append(helper.make_function("own", "F\n", ["a"], ["b"], [node("Relu", ["a"], "b")], []))
    return model


def with_sparse():
    model = build()
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(
        constant("v", np.ones(1, np.float32)), constant("i", np.zeros(1, np.int64)), [3]))
    return model


def bad_name():
    model = build()
    model.graph.node[0].name = "\x1b[31mred\n"
    return model


REFUSALS = {
    "cycle": (lambda: build([conv(), node("Add", ["c", "b"], "a"), node("Add", ["a", "c"], "b"), *tail("b")]),
              "node 'n_a' .*reads 'b', which nothing before it makes"),
    "own_output": (lambda: build([conv(), node("Add", ["c", "a"], "a"), *tail("a")]), "reads 'a', which nothing"),
    "two_makers": (lambda: build([conv(), node("Relu", ["c"], "d"), node("Relu", ["c"], "d"), *tail("d")]),
                   "makes 'd', which exists already"),
    "makes_the_input": (lambda: build([node("Relu", ["x"], "x"), conv(), *tail()]), "makes 'x', which exists"),
    "makes_an_initialiser": (lambda: build([node("Relu", ["x"], "w"), conv(), *tail()]), "makes 'w', which exists"),
    "two_initialisers": (lambda: build(more=[constant("w", array(4, 3, 1, 1))]), "two initialisers are named 'w'"),
    "no_initialiser": (lambda: build(constants={"w": None}), "node 'n_c' .*reads 'w', which nothing"),
    "no_maker_of_the_output": (lambda: build(output="z"), "nothing makes the output 'z'"),
    "no_input": (lambda: build(inputs=[]), "an input that is a picture, .* it has none"),
    "sequence_input": (lambda: build(inputs=[helper.make_tensor_sequence_value_info("x", 1, None)]),
                       "an input that is a picture.*x of unknown shape"),
    "huge_input": (lambda: build(inputs=[helper.make_tensor_value_info("x", 1, [1, 3, 1 << 31, 1 << 31])]),
                   "height of 2147483648 pixels is too large"),
    "dims_overflow": (lambda: build(constants={"w": None}, more=[raw_tensor("w", [1 << 40, 1 << 40])]),
                      "tensor 'w': has impossible dimensions"),
    "dims_wrap_to_zero": (lambda: build(constants={"w": None}, more=[raw_tensor("w", [1 << 32, 1 << 32])]),
                          "tensor 'w': has impossible dimensions"),
    "negative_dim": (lambda: build(constants={"w": None}, more=[raw_tensor("w", [-1, 3, 1, 1])]),
                     "tensor 'w': has impossible dimensions"),
    "many_dims": (lambda: build(constants={"w": None}, more=[raw_tensor("w", [1] * 1000, data=bytes(4))]),
                  "tensor 'w' has more than"),
    "claims_2_gib": (lambda: build(constants={"w": None}, more=[raw_tensor("w", [1 << 29])]),
                     "tensor 'w': says .* but holds 0"),
    "no_filters": (lambda: build(constants={"w": array(0, 3, 1, 1)}),
                   r"'n_c'.*weights \[0,3,1,1\] do not make a convolution"),
    "prefix_of_2_gib": (lambda: b"\x08\x08\x3a\x80\x80\x80\x80\x08" + bytes(92), "the file is damaged"),
    "nan": (lambda: build(constants={"w": np.full((4, 3, 1, 1), np.nan, np.float32)}), "tensor 'w': holds a NaN"),
    "half_nan": (lambda: build(constants={"w": np.full((4, 3, 1, 1), np.nan, np.float16)}), "tensor 'w': holds a NaN"),
    "string_weights": (lambda: build(constants={"w": None}, more=[helper.make_tensor("w", 8, [1], [b"a"])]),
                       "tensor 'w': has element type 8"),
    "complex_weights": (lambda: build(constants={"w": np.ones((4, 3, 1, 1), np.complex64)}), "has element type 14"),
    "weights_of_rank_2": (lambda: build(constants={"w": array(4, 3)}),
                          r"'n_c'.*weights \[4,3\] do not make a convolution"),
    "weights_of_rank_6": (lambda: build(constants={"w": array(4, 3, 1, 1, 1, 1)}),
                          r"'n_c'.*weights \[4,3,1,1,1,1\] do not make a convolution"),
    "weights_for_5_channels": (lambda: build(constants={"w": array(4, 5, 1, 1)}),
                               r"'n_c'.*weights \[4,5,1,1\] and group 1 do not fit"),
    "kernel_beyond_the_image": (lambda: build(constants={"w": array(4, 3, 9, 9)}),
                                r"'n_c'.*kernel reaching over 9 positions does not fit"),
    "stride_0": (lambda: build([conv(strides=[0, 0]), *tail()]),
                 r"'n_c'.*stride 0.* out of range"),
    "group_0": (lambda: build([conv(group=0), *tail()]),
                r"'n_c'.*group 0 is out of range"),
    "group_minus_1": (lambda: build([conv(group=-1), *tail()]),
                      r"'n_c'.*group -1 is out of range"),
    "huge_pads": (lambda: build([conv(pads=[1 << 62] * 4), *tail()]),
                  r"'n_c'.*padding 4611686018427387904.* out of range"),
    "negative_pads": (lambda: build([conv(pads=[-8] * 4), *tail()]),
                      r"'n_c'.*negative padding \(-8,-8\) is not supported"),
    "gemm_shapes": (lambda: then("MatMul", "m", constants={"m": array(7, 5)}),
                    r"'n_d'.*\[1,4,8,8\] and \[7,5\] do not make a product"),
    "batch_norm_shapes": (lambda: then("BatchNormalization", *["m"] * 4, constants={"m": array(3)}),
                          r"'n_d'.*must have C values each"),
    "axis_9": (lambda: then("Softmax", axis=9),
               r"'n_d'.*axis 9 is out of range"),
    "reshape_overflow": (lambda: then("Reshape", "s", constants={"s": np.array([1 << 40, 1 << 40])}),
                         r"'n_d'.*1099511627776 does not fit"),
    "slice_to_nothing": (lambda: then("Slice", "a", "b", constants={"a": np.array([5]), "b": np.array([5])}),
                         r"'n_d'.*output 0 would have the shape \[0,4,8,8\]"),
    "bomb": (lambda: build([node("ConstantOfShape", ["s"], "k"), node("Mul", ["x", "k"], "m"),
                            node("Flatten", ["m"], "y")], {"s": np.array([1 << 14, 1 << 14, 8])}), "too large"),
    "large_value": (lambda: then("Expand", "s", constants={"s": np.array([1, 4, 1 << 14, 1 << 20])}), "n_d"),
    "sums_a_constant_again_and_again": (lambda: again("ReduceSum", np.array([10 << 20])),
                                        "too much is computed from constants"),
    "shares_an_initialiser": (lambda: shared(1000), "memory out of proportion to the file's size"),
    "nested_4000_deep": (lambda: nested(4000), r"node 'deep' \(If\)"),
    "opset_6": (lambda: build(opset=6), "operator set 6; versions 7 to 21"),
    "opset_22": (lambda: build(opset=22), "operator set 22;"),
    "opset_999": (lambda: build(opset=999), "operator set 999;"),
    "foreign_domain": (lambda: build([conv(), node("Relu", ["c"], "d", domain="com.evil"), *tail("d")],
                                     domains=["com.evil"]), r"node 'n_d' \(com\.evil::Relu\)"),
    "control_character_in_function": (with_functions, "a function is damaged"),
    "sparse": (with_sparse, "sparse initialisers"),
    "control_characters": (bad_name, "a name of a node .* control characters"),
    "text": (lambda: b"# my model\nlayers: 3\n" * 40, "not an ONNX file"),
    "html": (lambda: b"<!DOCTYPE html><html><head><title>404</title></head></html>", "not an ONNX file"),
    "jpeg": (lambda: b"\xff\xd8\xff\xe0\x00\x10JFIF\x00\x01\x01" + bytes(range(256)) * 4, "not an ONNX file"),
    "checkpoint": (lambda: b"PK\x03\x04" + bytes(200), "zip archive: a PyTorch checkpoint"),
    "empty": (lambda: b"", "not an ONNX file"),
    "zeros": (lambda: bytes(5000), "not an ONNX file"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refused_with_its_sentence(name, tmp_path):
    make, sentence = REFUSALS[name]
    refused(save(make(), tmp_path / "m.onnx"), sentence)


def trained():
    model = build()
    model.training_info.append(onnx.TrainingInfoProto())
    return model


ACCEPTED = {
    "plain": build,
    "unused_initialiser": lambda: build(constants={"unused": array(5)}),
    "initialiser_as_input": lambda: build(inputs=[helper.make_tensor_value_info("x", 1, [1, 3, 8, 8]),
                                                  helper.make_tensor_value_info("w", 1, [4, 3, 1, 1])]),
    "training_info": trained,
    "dead_foreign_node": lambda: build([conv(), node("Odd", ["c"], "z", domain="com.odd"), *tail()]),
    "infinite_bound": lambda: then("Clip", "lo", "hi", constants={"lo": np.float32(0), "hi": np.float32(np.inf)}),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(name, tmp_path):
    result = inspect(save(ACCEPTED[name](), tmp_path / "m.onnx"))
    assert result.returncode == 0, result.stderr


def test_negative_input_sides_are_open_ones(tmp_path):
    open_side = [helper.make_tensor_value_info("x", 1, [1, 3, -8, 8])]
    model = save(build(inputs=open_side), tmp_path / "m.onnx")
    refused(model, "leaves its input height open: set model.input.size", CONFIGURATION)
    assert inspect(model, "--set", "model.input.size=8").returncode == 0


def test_infinite_weights_end_in_a_sentence(tmp_path):
    """They load (masks and bounds are made of infinity); the logits they spoil are noticed."""
    model = save(build(constants={"w": np.full((4, 3, 1, 1), np.inf, np.float32)}), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", array(3, 8, 8))
    result = cli.run("explain", "--model", model, "--method", "gradient", tmp_path / "x.npy", check=False)
    assert result.returncode == 1 and "not finite" in result.stderr


def test_session_limit(tmp_path):
    chain = [conv(), *[node("Sigmoid", [f"v{i}" if i else "c"], f"v{i + 1}") for i in range(40)], *tail("v40")]
    image = [helper.make_tensor_value_info("x", 1, [1, 3, 512, 512])]
    model = save(build(chain, inputs=image), tmp_path / "m.onnx")
    assert inspect(model).returncode == 0
    refused(model, "a session would take [0-9]+ MiB, more than the limit of 64 MiB",
            more=["--set", "limits.session_bytes=67108864"])


# ---- what is no file ----

def test_things_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "socket"))
        for path in (tmp_path, tmp_path / "fifo", "/dev/zero", "/dev/full"):
            refused(path, "not a (regular )?file", CONFIGURATION)
        assert inspect(tmp_path / "socket").returncode == CONFIGURATION


# ---- many nodes: time grows with their number, not its square ----

def cpu_seconds(path, status=0):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = inspect(path)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == status, result.stderr[-500:]
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, result


def chain(count, kinds):
    nodes, value = [conv()], "c"
    more = {"Add": ["k"], "Conv": ["w1"]}
    for i in range(count):
        kind = kinds[i % len(kinds)]
        nodes.append(node(kind, [value, *more.get(kind, [])], f"v{i}"))
        value = f"v{i}"
    return build([*nodes, *tail(value)], {"k": array(4, 1, 1), "w1": array(4, 4, 1, 1) / 4})


@pytest.mark.parametrize("count,seconds", [(20000, 2), (100000, 12)])
def test_long_chain_loads_quickly(count, seconds, tmp_path):
    taken, _ = cpu_seconds(save(chain(count, ["Relu", "Add", "Conv"]), tmp_path / "m.onnx"))
    assert taken < seconds


def test_two_inputs(tmp_path):
    """Not the file's fault: a key can tell which is the picture."""
    inputs = [helper.make_tensor_value_info(n, 1, [1, 3, 8, 8]) for n in "xz"]
    refused(save(build(inputs=inputs), tmp_path / "m.onnx"), "2 inputs could be the picture: x .*, z ", status=2)


def test_many_unsupported_nodes_make_a_short_message(tmp_path):
    taken, result = cpu_seconds(save(chain(10000, ["Odd"]), tmp_path / "m.onnx"), REFUSED)
    assert "10000 nodes are not supported: node 'n_v0' (Odd)" in result.stderr
    assert len(result.stderr) < 5000 and taken < 1


def test_many_values_alive_at_once(tmp_path):
    """Every value is read again at the end: the memory plan has thousands of blocks to keep apart."""
    count = 20000
    nodes = [conv(), *[node("Sigmoid", ["c"], f"v{i}") for i in range(count)]]
    nodes.append(node("Add", ["v0", "v1"], "s1"))
    nodes += [node("Add", [f"s{i - 1}", f"v{i}"], f"s{i}") for i in range(2, count)]
    taken, _ = cpu_seconds(save(build([*nodes, *tail(f"s{count - 1}")]), tmp_path / "m.onnx"))
    assert taken < 4


# ---- external data ----

def external(location="w.bin", offset=None, length=None, dims=(4, 3, 1, 1), **more):
    entries = {"location": location, "offset": offset, "length": length, **more}
    tensor = TensorProto(name="w", dims=dims, data_type=1, data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return build(constants={"w": None}, more=[tensor])


WEIGHTS = array(4, 3, 1, 1)


def logits(model, tmp_path):
    return cli.explain(model, array(3, 8, 8), "gradient").logits


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "m" / "sub").mkdir(parents=True)
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    return tmp_path / "m"


@pytest.mark.parametrize("location,offset,length", [("w.bin", None, None), ("w.bin", 0, 48), ("w.bin", 13, 48),
                                                    ("sub/w.bin", 4096, None)])
def test_external_data_is_read(folder, tmp_path, location, offset, length):
    tail_bytes = b"" if length is None else b"and more"
    (folder / location).write_bytes(bytes(offset or 0) + WEIGHTS.tobytes() + tail_bytes)
    model = save(external(location, offset, length, checksum="ignored"), folder / "m.onnx")
    plain = save(build(constants={"w": WEIGHTS}), folder / "plain.onnx")
    assert np.array_equal(logits(model, tmp_path), logits(plain, tmp_path))


def digest(path):
    return re.search(r'"sha256": ?"([0-9a-f]{64})"', cli.run("inspect", "--model", path, "--json").stdout)[1]


def test_external_data_is_part_of_the_digest(folder):
    import hashlib
    model = save(external(), folder / "m.onnx")
    (folder / "w.bin").write_bytes(WEIGHTS.tobytes())
    expected = hashlib.sha256(model.read_bytes() + (48).to_bytes(8, "little") + WEIGHTS.tobytes()).hexdigest()
    assert digest(model) == expected
    (folder / "w.bin").write_bytes((WEIGHTS + 1).tobytes())
    assert digest(model) != expected
    plain = save(build(), folder / "plain.onnx")
    assert digest(plain) == hashlib.sha256(plain.read_bytes()).hexdigest()


def test_external_data_as_onnx_writes_it(folder, tmp_path):
    onnx.save(build(constants={"w": WEIGHTS}), str(folder / "m.onnx"), save_as_external_data=True,
              all_tensors_to_one_file=True, location="weights", size_threshold=0)
    plain = save(build(constants={"w": WEIGHTS}), folder / "plain.onnx")
    assert np.array_equal(logits(folder / "m.onnx", tmp_path), logits(plain, tmp_path))


OUTSIDE = "not a plain path below the model's folder"
PLACES = {
    "above": (dict(location="../w.bin"), OUTSIDE),
    "above_through_a_folder": (dict(location="sub/../../w.bin"), OUTSIDE),
    "absolute": (dict(location="/etc/passwd"), OUTSIDE),
    "dot": (dict(location="./w.bin"), OUTSIDE),
    "slashes": (dict(location="sub//w.bin"), OUTSIDE),
    "ends_in_slash": (dict(location="sub/"), OUTSIDE),
    "empty": (dict(location=""), OUTSIDE),
    "none": (dict(location=None), OUTSIDE),
    "control": (dict(location="w\n.bin"), OUTSIDE),
    "itself_too_short": (dict(location="w.bin", offset=8), "says .* but holds 40 bytes"),
    "missing": (dict(location="none.bin"), "none.bin: No such file"),
    "folder": (dict(location="sub"), "sub: is not a regular file"),
    "fifo": (dict(location="fifo"), "fifo: is not a regular file"),
    "link": (dict(location="link.bin"), "link.bin: is a symbolic link"),
    "link_to_a_folder": (dict(location="linked/w.bin"), "linked/w.bin: Not a directory"),
    "hard_link": (dict(location="hard.bin"), "hard.bin: has a second name"),
    "beyond_the_end": (dict(location="w.bin", offset=40, length=48), "w.bin: has 48 bytes, but bytes 40 to 88"),
    "offset_beyond_the_end": (dict(location="w.bin", offset=1 << 50), "w.bin: has 48 bytes"),
    "offset_overflow": (dict(location="w.bin", offset=(1 << 64) - 1, length=49), "is not a number"),
    "offset_negative": (dict(location="w.bin", offset=-1), "is not a number"),
    "offset_text": (dict(location="w.bin", offset="0x10"), "is not a number"),
    "length_of_another_shape": (dict(location="w.bin", length=44), "says .* but holds 44 bytes"),
    "huge_dims": (dict(location="w.bin", dims=(1 << 20, 1 << 20, 1, 1)), "says .* but holds 48 bytes"),
}


@pytest.mark.parametrize("name", PLACES)
def test_external_data_elsewhere_is_refused(name, folder, tmp_path):
    place, sentence = PLACES[name]
    (folder / "w.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "other").mkdir()
    shutil.copy(folder / "w.bin", tmp_path / "other")
    os.mkfifo(folder / "fifo")
    os.symlink(tmp_path / "w.bin", folder / "link.bin")
    os.symlink(tmp_path / "other", folder / "linked")
    os.link(tmp_path / "w.bin", folder / "hard.bin")
    refused(save(external(**place), folder / "m.onnx"), f"tensor 'w': .*{sentence}")


def test_external_data_counts_against_the_limit(folder):
    with open(folder / "w.bin", "wb") as f:
        f.truncate(1 << 20)
    model = save(external(length=48), folder / "m.onnx")
    assert inspect(model).returncode == 0
    refused(model, "w.bin: 1048576 bytes exceed the limit", more=["--set", "limits.model_bytes=65536"])


# ---- element types: weights that every one of them can hold, in both forms ----

TYPES = "FLOAT DOUBLE FLOAT16 BFLOAT16 INT8 UINT8 INT16 UINT16 INT32 UINT32 INT64 UINT64 BOOL INT4 UINT4".split()


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_element_types(kind, raw, tmp_path):
    values = np.tile([0, 1, 1, 0, 1], 3)[:12]
    number = getattr(TensorProto, kind)
    if raw and kind == "BFLOAT16":
        tensor = raw_tensor("w", [4, 3, 1, 1], number, (values * 0x3f80).astype("<u2").tobytes())
    elif raw and kind.endswith("INT4"):
        tensor = raw_tensor("w", [4, 3, 1, 1], number, (values[::2] | values[1::2] << 4).astype("u1").tobytes())
    elif raw:
        tensor = constant("w", values.reshape(4, 3, 1, 1).astype(helper.tensor_dtype_to_np_dtype(number)))
    else:
        tensor = helper.make_tensor("w", number, [4, 3, 1, 1], values)
    assert tensor.HasField("raw_data") == raw
    nodes = [node("Cast", ["w"], "f", to=1), conv("f"), *tail()]
    model = save(build(nodes, {"w": None}, opset=21, more=[tensor]), tmp_path / "m.onnx")
    x = array(3, 8, 8)
    got = cli.explain(model, x, "gradient").logits
    assert np.allclose(got, values.reshape(4, 3) @ x.mean((1, 2)), atol=1e-6)
