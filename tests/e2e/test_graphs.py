"""Graphs as they are in the wild: what is the picture, what is explained, and what else a file may carry.
Each network is a small torch module; its output and gradient in float64 are the truth. Files are
written by torch.onnx.export where it writes the case, else put together with onnx.helper.

The bounds are those of the parity tests: logits within 1e-4 of the largest, gradients within 1e-3 (relative L2).
"""
import json
import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import cli
import models

LOGITS, GRADIENT = 1e-4, 1e-3
SIZE = 16


class Body(nn.Module):
    """Smooth (no kinks near which float32 and float64 may differ), two convolutions, stride 2."""

    def __init__(self, channels=8, inputs=3):
        super().__init__()
        torch.manual_seed(7)
        self.one = nn.Conv2d(inputs, channels, 3, 2, 1)
        self.two = nn.Conv2d(channels, channels, 3, 1, 1)

    def forward(self, x):
        return torch.tanh(self.two(torch.tanh(self.one(x))))


class Net(nn.Module):
    """Body and a head given as a function of the body's output and the module itself."""

    def __init__(self, head, channels=8, classes=5, inputs=3):
        super().__init__()
        self.body = Body(channels, inputs)
        self.fc = nn.Linear(channels, classes)
        self.mask = nn.Conv2d(channels, classes, 1)
        self.head = head

    def forward(self, *inputs):
        return self.head(self, self.body(inputs[0]), *inputs[1:])


def pooled(net, y):
    return net.fc(y.mean((2, 3)))


def export(net, path, sample=None, **options):
    sample = sample if sample is not None else torch.from_numpy(picture())[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net.eval(), sample, str(path), **{"opset_version": 13, **options})
    return path


def picture(seed=0, channels=3):
    return np.random.default_rng(seed).normal(size=(channels, SIZE, SIZE)).astype(np.float32)


def gradient(score, x):
    """d score(x) / dx in float64; score: tensor [1,C,H,W] -> scalar."""
    v = torch.from_numpy(x.astype(np.float64))[None].requires_grad_(True)
    score(v).backward()
    return v.grad[0].numpy()


def check(path, x, score, logits=None, target=None, **options):
    got = cli.explain(path, x, target=target, **options)
    assert cli.rel(got.attribution, gradient(score, x)) <= GRADIENT
    if logits is not None:
        expected = logits(torch.from_numpy(x.astype(np.float64))[None]).detach().numpy().ravel()
        assert np.abs(got.logits - expected).max() <= LOGITS * np.abs(expected).max()
    return got


def inspect(path, *args):
    return json.loads(cli.run("inspect", "--model", path, "--json", *args).stdout)


# ---- the end of the network ----


@pytest.mark.parametrize("opset", [11, 13])
def test_softmax_at_the_end_is_left_out(tmp_path, opset):
    path = export(Net(lambda n, y: torch.softmax(pooled(n, y), 1)), tmp_path / "m.onnx", opset_version=opset)
    logit = Net(pooled).double()
    x = picture()
    got = check(path, x, lambda v: logit(v)[0, 2], logit, target=2)
    assert inspect(path)["left_out"] == "softmax"
    probabilities = torch.softmax(logit(torch.from_numpy(x).double()[None]), 1)[0]
    assert abs(got.info["explained"]["probability"] - float(probabilities[2])) < 1e-5
    assert "left out" in cli.run("inspect", "--model", path).stdout


def test_sigmoid_head(tmp_path):
    """Several labels at once: the logit is explained, and probabilities are sigmoids, not a softmax."""
    path = export(Net(lambda n, y: torch.sigmoid(pooled(n, y))), tmp_path / "m.onnx")
    logit = Net(pooled).double()
    x = picture()
    got = check(path, x, lambda v: logit(v)[0, 3], logit, target=3)
    p = torch.sigmoid(logit(torch.from_numpy(x).double()[None]))[0]
    assert inspect(path)["left_out"] == "sigmoid"
    assert abs(got.info["explained"]["probability"] - float(p[3])) < 1e-5
    assert got.info["top"][0][0] == int(p.argmax())


def test_single_sigmoid(tmp_path):
    """A detector of one thing: [1,1]."""
    path = export(Net(lambda n, y: torch.sigmoid(pooled(n, y)), classes=1), tmp_path / "m.onnx")
    logit = Net(pooled, classes=1).double()
    got = check(path, picture(), lambda v: logit(v)[0, 0], logit)
    p = torch.sigmoid(logit(torch.from_numpy(picture()).double()[None]))
    assert abs(got.info["explained"]["probability"] - float(p)) < 1e-5


# ---- a score per class and cell ----


def dense(net, y):
    return net.mask(y)


REGIONS = {"all": np.s_[:, :], "[3, 5]": np.s_[3:4, 5:6], "[1, 2, 6, 4]": np.s_[1:6, 2:4],
           "[0, 0, 8, 8]": np.s_[:, :]}


@pytest.mark.parametrize("region", REGIONS)
@pytest.mark.parametrize("end", ["logits", "softmax"])
def test_segmentation(tmp_path, region, end):
    head = dense if end == "logits" else (lambda n, y: torch.softmax(dense(n, y), 1))
    path = export(Net(head), tmp_path / "m.onnx")
    net, where = Net(dense).double(), REGIONS[region]
    got = check(path, picture(), lambda v: net(v)[0, 1][where].sum(),
                lambda v: net(v)[0][(slice(None), *where)].sum((1, 2)), target=1, explain__region=region)
    z = net(torch.from_numpy(picture()).double()[None])[0][(slice(None), *where)]
    p = torch.softmax(z.mean((1, 2)), 0)
    assert abs(got.info["explained"]["probability"] - float(p[1])) < 1e-5


def test_segmentation_top1_and_output(tmp_path):
    """Without a target, the class with the greatest sum; --save-output keeps the whole output."""
    path = export(Net(dense), tmp_path / "m.onnx")
    x = picture()
    np.save(tmp_path / "x.npy", x)
    out = json.loads(cli.run("explain", "--model", path, "--method", "gradient", "--json",
                             "--save-output", tmp_path / "y.npy", tmp_path / "x.npy").stdout)
    truth = Net(dense).double()(torch.from_numpy(x).double()[None]).detach().numpy()
    y = np.load(tmp_path / "y.npy")
    assert y.shape == truth.shape and np.abs(y - truth).max() <= LOGITS * np.abs(truth).max()
    assert out["explained"]["class"] == int(truth[0].sum((1, 2)).argmax())


def boxes(net, y):
    return net.mask(y).permute(0, 2, 3, 1).reshape(1, -1, 5)


@pytest.mark.parametrize("region,where", [("all", np.s_[:]), ("[10]", np.s_[10:11]), ("[8, 24]", np.s_[8:24])])
def test_detection(tmp_path, region, where):
    """[1,boxes,classes], as detectors write it before post-processing."""
    path = export(Net(boxes), tmp_path / "m.onnx")
    net = Net(boxes).double()
    check(path, picture(), lambda v: net(v)[0, where, 4].sum(), lambda v: net(v)[0, where].sum(0), target=4,
          explain__region=region)


def test_class_axis(tmp_path):
    """[1,classes,boxes], as YOLO writes it: the axis is named."""
    path = export(Net(lambda n, y: n.mask(y).reshape(1, 5, -1)), tmp_path / "m.onnx")
    net = Net(dense).double()
    check(path, picture(), lambda v: net(v)[0, 2].sum(), target=2, model__class_axis=1)
    assert inspect(path, "--set", "model.class_axis=1")["classes"] == 5
    assert inspect(path)["classes"] == 64


@pytest.mark.parametrize("key,words", [
    ("explain.region=[8, 0]", "no part of axis 2"), ("explain.region=[0, 0, 0, 4]", "no part of axis 2"),
    ("explain.region=[1]", "2 for one cell or 4 for a box"), ("explain.region=[0, 1, 2]", "2 for one cell"),
    ("explain.region=[-1, 0]", "must be all, or a list"), ("explain.region=here", "must be all, or a list"),
    ("model.class_axis=5", "model.class_axis is 5"), ("model.class_axis=0", "must be auto or an axis")])
def test_bad_region(tmp_path, key, words):
    path = export(Net(dense), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", picture())
    out = cli.run("explain", "--model", path, "--method", "gradient", "--set", key, tmp_path / "x.npy", check=False)
    assert out.returncode == 2 and words in out.stderr, out.stderr


# ---- embeddings ----


def embed(net, y):
    return y.mean((2, 3))


def test_embedding_cosine(tmp_path):
    path = export(Net(embed), tmp_path / "m.onnx")
    net, v = Net(embed).double(), np.linspace(-1, 1, 8).astype(np.float32)
    np.save(tmp_path / "v.npy", v)
    vector = torch.from_numpy(v).double()

    def score(x):
        return torch.cosine_similarity(net(x)[0], vector, 0)

    got = check(path, picture(), score, explain__output="cosine", explain__vector=str(tmp_path / "v.npy"))
    expected = float(score(torch.from_numpy(picture()).double()[None]))
    assert got.info["explained"]["name"] == "cosine"
    assert abs(got.info["explained"]["probability"] - expected) < 1e-5


def test_embedding_norm(tmp_path):
    path = export(Net(embed), tmp_path / "m.onnx")
    net = Net(embed).double()
    check(path, picture(), lambda v: net(v)[0].norm(), explain__output="norm")


def test_embedding_of_a_map(tmp_path):
    """An output [1,C,h,w] taken as one embedding: the file's order of elements counts."""
    path = export(Net(lambda n, y: y), tmp_path / "m.onnx")
    net, v = Net(lambda n, y: y).double(), np.random.default_rng(1).normal(size=(8, 8, 8)).astype(np.float32)
    np.save(tmp_path / "v.npy", v)
    check(path, picture(), lambda x: torch.cosine_similarity(net(x).flatten(), torch.from_numpy(v).double().flatten(), 0),
          explain__output="cosine", explain__vector=str(tmp_path / "v.npy"))


def test_embedding_with_parchgrad_instance(tmp_path):
    """Statistics without classes: instance-wise works, class-wise says why not."""
    path = export(Net(embed), tmp_path / "m.onnx")
    cli.write_calibration(tmp_path / "data", [picture(i) for i in range(8)], [0] * 8)
    common = {"explain.output": "norm", "parchgrad.layers": 1.0}
    cli.run("calibrate", "--model", path, "--data", tmp_path / "data", "--out", tmp_path / "s", "--labels", "predicted",
            *cli.settings(common))
    got = cli.explain(path, picture(), method="parchgrad", stats=tmp_path / "s", explain__output="norm",
                      parchgrad__layers=1.0, parchgrad__select="instance")
    assert len(got.layers) == 2 and np.isfinite(got.attribution).all()
    np.save(tmp_path / "x.npy", picture())
    out = cli.run("explain", "--model", path, "--stats", tmp_path / "s", *cli.settings(common), tmp_path / "x.npy",
                  check=False)
    assert out.returncode == 2 and "an embedding has no classes" in out.stderr


@pytest.mark.parametrize("vector,words", [
    (None, "set explain.vector"), (np.zeros(8, np.float32), "no direction"),
    (np.ones(7, np.float32), "7 values, the output has 8"), (np.full(8, np.nan, np.float32), "no direction"),
    (np.ones(8), "float32")])
def test_bad_vector(tmp_path, vector, words):
    path = export(Net(embed), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", picture())
    args = []
    if vector is not None:
        np.save(tmp_path / "v.npy", vector)
        args = ["--set", f"explain.vector={tmp_path / 'v.npy'}"]
    out = cli.run("explain", "--model", path, "--method", "gradient", "--set", "explain.output=cosine", *args,
                  tmp_path / "x.npy", check=False)
    assert out.returncode == 2 and words in out.stderr, out.stderr


# ---- which output ----


def test_outputs_by_name(tmp_path):
    path = export(Net(lambda n, y: (pooled(n, y), n.mask(y))), tmp_path / "m.onnx", output_names=["cls", "mask"])
    net = Net(lambda n, y: (pooled(n, y), n.mask(y))).double()
    check(path, picture(), lambda v: net(v)[0][0, 1], target=1)
    check(path, picture(), lambda v: net(v)[1][0, 1].sum(), target=1, model__output="mask")
    assert inspect(path)["outputs"] == ["cls", "mask"]
    out = cli.run("inspect", "--model", path, "--set", "model.output=nothing", check=False)
    assert out.returncode == 2 and "it has: cls, mask" in out.stderr


def test_any_value_may_be_the_output(tmp_path):
    """What comes before a part that cannot be explained: here NonMaxSuppression on the boxes."""
    model = onnx.load(str(export(Net(boxes), tmp_path / "m.onnx", output_names=["scores"])))
    g = model.graph
    g.initializer.append(numpy_helper.from_array(np.zeros((1, 64, 4), np.float32), "coords"))
    g.node.append(helper.make_node("Transpose", ["scores"], ["turned"], perm=[0, 2, 1]))
    g.node.append(helper.make_node("NonMaxSuppression", ["coords", "turned"], ["kept"], name="nms"))
    del g.output[:]
    g.output.append(helper.make_tensor_value_info("kept", TensorProto.INT64, [None, 3]))
    onnx.save(model, str(tmp_path / "nms.onnx"))
    out = cli.run("inspect", "--model", tmp_path / "nms.onnx", "--json", check=False)
    assert out.returncode == 3
    refusal = json.loads(out.stdout)["unsupported"]
    assert [r["node"] for r in refusal] == ["nms"] and "model.output: 'turned' [1,5,64]" in refusal[0]["advice"]
    assert "not supported" in out.stderr
    net = Net(boxes).double()
    check(tmp_path / "nms.onnx", picture(), lambda v: net(v)[0, 7, 4], target=4, model__output="scores",
          explain__region="[7]")


# ---- which input ----


def test_further_inputs(tmp_path):
    """A picture and two constants: a float scale and an integer flag."""
    net = Net(lambda n, y, scale, flag: pooled(n, y * scale) * flag)
    path = export(net, tmp_path / "m.onnx", (torch.from_numpy(picture())[None], torch.tensor([[2.]]), torch.tensor(3)),
                  input_names=["image", "scale", "flag"])
    out = cli.run("inspect", "--model", path, check=False)
    assert out.returncode == 2 and "the inputs scale [1,1], flag []" in out.stderr, out.stderr
    inputs = {"scale": 2.5, "flag": 3}
    double = net.double()
    check(path, picture(), lambda v: double(v, torch.tensor([[2.5]]).double(), 3)[0, 1], target=1,
          model__inputs=inputs)
    for bad, words in (({"scale": 1, "flag": 1.5}, "whole numbers"), ({"scale": [1, 2], "flag": 1}, "2 values"),
                       ({"scale": 1, "flag": 1, "more": 1}, "no input 'more'"), ({"scale": "a", "flag": 1}, "number")):
        out = cli.run("inspect", "--model", path, *cli.settings({"model.inputs": bad}), check=False)
        assert out.returncode == 2 and words in out.stderr, (bad, out.stderr)


def test_two_pictures(tmp_path):
    """A Siamese pair: one is the frame, the other a constant picture."""
    net = Net(lambda n, y, other: n.fc((y * n.body(other)).mean((2, 3))))
    other = picture(3)
    path = export(net, tmp_path / "m.onnx", (torch.from_numpy(picture())[None], torch.from_numpy(other)[None]),
                  input_names=["frame", "other"])
    out = cli.run("inspect", "--model", path, check=False)
    assert out.returncode == 2 and "2 inputs could be the picture" in out.stderr
    double = net.double()
    np.save(tmp_path / "other.npy", other[None])
    check(path, picture(), lambda v: double(v, torch.from_numpy(other).double()[None])[0, 1], target=1,
          model__input__name="frame", model__inputs={"other": str(tmp_path / "other.npy")})


def test_a_mean_is_no_picture(tmp_path):
    """Keras puts its normalisation's mean [1,1,1,3] beside the picture [1,H,W,3]."""
    model = onnx.load(str(channels_last(export(Net(pooled), tmp_path / "m.onnx"), tmp_path / "t.onnx")))
    g = model.graph
    g.node[0].input[0] = "centred"
    g.node.insert(0, helper.make_node("Sub", ["nhwc", "mean"], ["centred"]))
    g.input.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, [1, 1, 1, 3]))
    onnx.save(model, str(tmp_path / "mean.onnx"))
    out = cli.run("inspect", "--model", tmp_path / "mean.onnx", check=False)
    assert out.returncode == 2 and "besides the picture the model has the input mean [1,1,1,3]" in out.stderr
    net, mean = Net(pooled).double(), torch.tensor([.1, -.2, .3]).double()[None, :, None, None]
    check(tmp_path / "mean.onnx", picture(), lambda v: net(v - mean)[0, 1], lambda v: net(v - mean), target=1,
          model__inputs={"mean": [.1, -.2, .3]})


def channels_last(path, out, elem=TensorProto.FLOAT):
    """The same network with an input [1,H,W,3], as tf2onnx writes it: a Transpose at the edge."""
    model = onnx.load(str(path))
    g, name = model.graph, model.graph.input[0].name
    nodes = [helper.make_node("Transpose", ["nhwc_f"], [name], perm=[0, 3, 1, 2])]
    if elem == TensorProto.FLOAT:
        nodes[0].input[0] = "nhwc"
    else:
        nodes.insert(0, helper.make_node("Cast", ["nhwc"], ["nhwc_f"], to=TensorProto.FLOAT))
    nodes += list(g.node)
    del g.node[:], g.input[:]
    g.node.extend(nodes)
    g.input.append(helper.make_tensor_value_info("nhwc", elem, [None, SIZE, SIZE, 3]))
    onnx.save(model, str(out))
    return out


def test_channels_last_input(tmp_path):
    path = channels_last(export(Net(pooled), tmp_path / "m.onnx"), tmp_path / "t.onnx")
    net = Net(pooled).double()
    check(path, picture(), lambda v: net(v)[0, 1], net, target=1)
    assert inspect(path)["channels_last"] and inspect(path)["input"] == [1, 3, SIZE, SIZE]


def test_byte_input(tmp_path):
    """uint8 pixels: no preprocessing, so a PNG goes in as it is."""
    from PIL import Image
    path = channels_last(export(Net(pooled), tmp_path / "m.onnx"), tmp_path / "t.onnx", TensorProto.UINT8)
    pixels = np.random.default_rng(5).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    cli.run("explain", "--model", path, "--method", "gradient", "--save-logits", tmp_path / "y.npy", tmp_path / "x.png")
    truth = Net(pooled).double()(torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float64))[None]).detach().numpy()
    assert np.abs(np.load(tmp_path / "y.npy") - truth).max() <= LOGITS * np.abs(truth).max()


def test_grey_input(tmp_path):
    sample = torch.from_numpy(picture(channels=1))[None]
    path = export(Net(pooled, inputs=1), tmp_path / "m.onnx", sample)
    net = Net(pooled, inputs=1).double()
    check(path, picture(channels=1), lambda v: net(v)[0, 1], net, target=1)


def test_fixed_batch_is_refused(tmp_path):
    path = export(Net(pooled), tmp_path / "m.onnx", torch.zeros(4, 3, SIZE, SIZE))
    out = cli.run("inspect", "--model", path, check=False)
    assert out.returncode == 3 and "batch size 4" in out.stderr


@pytest.mark.parametrize("height,width", [(16, 16), (24, 40), (33, 17)])
def test_open_size(tmp_path, height, width):
    path = export(Net(pooled), tmp_path / "m.onnx", input_names=["x"],
                  dynamic_axes={"x": {0: "n", 2: "h", 3: "w"}})
    x = np.random.default_rng(2).normal(size=(3, height, width)).astype(np.float32)
    net = Net(pooled).double()
    check(path, x, lambda v: net(v)[0, 1], net, target=1, model__input__size=[height, width])
    out = cli.run("inspect", "--model", path, check=False)
    assert out.returncode == 2 and "model.input.size" in out.stderr


def test_half_precision_model(tmp_path):
    """Weights, input and output float16: computed in float32 from the rounded weights."""
    net = Net(pooled)
    model = onnx.load(str(export(net, tmp_path / "m.onnx")))
    for i, t in enumerate(model.graph.initializer):
        if t.data_type == TensorProto.FLOAT:
            model.graph.initializer[i].CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(t).astype(np.float16), t.name))
    for v in [*model.graph.input, *model.graph.output]:
        v.type.tensor_type.elem_type = TensorProto.FLOAT16
    onnx.save(model, str(tmp_path / "half.onnx"))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(p.half().float())
    double = net.double()
    check(tmp_path / "half.onnx", picture(), lambda v: double(v)[0, 1], double, target=1)


def test_half_precision_inside(tmp_path):
    """As converters write it that keep float32 at the edges: Cast to float16 after the input, back before the output."""
    model = onnx.load(str(export(Net(pooled), tmp_path / "m.onnx")))
    g = model.graph
    first, last = g.input[0].name, g.output[0].name
    for n in g.node:
        n.input[:] = ["half" if i == first else i for i in n.input]
        n.output[:] = ["raw" if o == last else o for o in n.output]
    nodes = [helper.make_node("Cast", [first], ["half"], to=TensorProto.FLOAT16), *g.node,
             helper.make_node("Cast", ["raw"], [last], to=TensorProto.FLOAT)]
    del g.node[:]
    g.node.extend(nodes)
    onnx.save(model, str(tmp_path / "cast.onnx"))
    net = Net(pooled).double()
    check(tmp_path / "cast.onnx", picture(), lambda v: net(v)[0, 1], net, target=1)


# ---- files that other programs have been over ----


class Wild(nn.Module):
    """What optimisers like to fuse: activations of all kinds after a convolution, a residual sum, a layer norm,
    GELU, batch normalisation."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(11)
        self.convs = nn.ModuleList([nn.Conv2d(3 if i == 0 else 8, 8, 3, 1, 1) for i in range(6)])
        self.norm = nn.BatchNorm2d(8)
        self.ln = nn.LayerNorm(8)
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 5)

    def forward(self, x):
        c = self.convs
        y = nn.functional.leaky_relu(c[0](x), .3)
        y = torch.clamp(c[1](y), -.9, .8)
        y = nn.functional.silu(self.norm(c[2](y)))
        y = nn.functional.hardsigmoid(c[3](y)) + torch.sigmoid(c[4](y))
        y = torch.tanh(c[5](y) + y)
        y = y.mean((2, 3))
        y = self.ln(y + torch.tanh(y))
        return self.fc2(nn.functional.gelu(self.fc1(y)))


def wild(tmp_path, opset=17):
    net = Wild()
    return net, export(net, tmp_path / "wild.onnx", opset_version=opset)


@pytest.mark.parametrize("level", ["BASIC", "EXTENDED"])
@pytest.mark.parametrize("opset", [13, 17])
def test_onnxruntime_optimised(tmp_path, level, opset):
    """Saved after ONNX Runtime's offline optimiser: FusedConv, QuickGelu, BiasGelu, SkipLayerNormalization, ..."""
    import onnxruntime
    net, path = wild(tmp_path, opset)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(tmp_path / "ort.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    if level == "EXTENDED":
        assert any(n.domain == "com.microsoft" for n in onnx.load(str(tmp_path / "ort.onnx")).graph.node)
    double = net.double()
    check(tmp_path / "ort.onnx", picture(), lambda v: double(v)[0, 1], double, target=1)
    names = [c["name"] for c in inspect(tmp_path / "ort.onnx")["convolutions"]]
    assert len(names) == 6


def test_onnxruntime_layouts_of_one_machine_are_refused(tmp_path):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "ort.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(models.export("tiny_resnet", 64, 10)), options, providers=["CPUExecutionProvider"])
    out = cli.run("inspect", "--model", tmp_path / "ort.onnx", check=False)
    assert out.returncode == 3 and "com.microsoft.nchwc::Conv" in out.stdout and "ORT_ENABLE_EXTENDED" in out.stdout


def test_onnxsim(tmp_path):
    onnxsim = pytest.importorskip("onnxsim", reason="no wheel of onnxsim for this Python")
    net, path = wild(tmp_path)
    model, ok = onnxsim.simplify(onnx.load(str(path)))
    assert ok
    onnx.save(model, str(tmp_path / "sim.onnx"))
    double = net.double()
    check(tmp_path / "sim.onnx", picture(), lambda v: double(v)[0, 1], double, target=1)


# ---- sequences, as PyTorch's newer exporter writes chunk and split ----


SPLITS = {"chunk": (np.int64(4), {}), "rest": (np.int64(3), {}), "sizes": (np.array([1, 5, 2]), {}),
          "singles": (None, {}), "dropped": (None, {"keepdims": 0})}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("at", [0, 1, -1])
def test_sequence(tmp_path, split, at):
    """SplitToSequence and SequenceAt: slices of the body's eight channels."""
    sizes, attrs = SPLITS[split]
    model = onnx.load(str(export(Net(lambda n, y: y), tmp_path / "m.onnx", output_names=["y"])))
    g = model.graph
    g.initializer.append(numpy_helper.from_array(np.int64(at), "at"))
    inputs = ["y"]
    if sizes is not None:
        g.initializer.append(numpy_helper.from_array(np.asarray(sizes, np.int64), "sizes"))
        inputs.append("sizes")
    g.node.extend([helper.make_node("SplitToSequence", inputs, ["pieces"], "split", axis=1, **attrs),
                   helper.make_node("SequenceAt", ["pieces", "at"], ["piece"], "at"),
                   helper.make_node("Flatten", ["piece"], ["logits"], axis=1)])
    del g.output[:]
    g.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, None]))
    onnx.save(model, str(tmp_path / "s.onnx"))
    body = Body().double()
    pieces = {"chunk": lambda y: y.split(4, 1), "rest": lambda y: y.split(3, 1),
              "sizes": lambda y: y.split([1, 5, 2], 1)}.get(split, lambda y: y.split(1, 1))
    check(tmp_path / "s.onnx", picture(), lambda v: pieces(body(v))[at].flatten()[3],
          lambda v: pieces(body(v))[at].flatten(), target=3)


@pytest.mark.parametrize("sizes,at,words", [
    (np.int64(4), 2, "beyond the last"), (np.int64(0), 0, "positive integers"), (np.array([1, 9]), 1, "do not fit"),
    (np.array([-1, 9]), 0, "do not fit"), (np.array([2**62, 2**62, 2**62]), 2, "do not fit"),
    (np.int64(2**63 - 1), 1, "beyond the last")])
def test_bad_sequence(tmp_path, sizes, at, words):
    model = onnx.load(str(export(Net(lambda n, y: y), tmp_path / "m.onnx", output_names=["y"])))
    g = model.graph
    g.initializer.extend([numpy_helper.from_array(np.int64(at), "at"), numpy_helper.from_array(np.asarray(sizes), "sizes")])
    g.node.extend([helper.make_node("SplitToSequence", ["y", "sizes"], ["pieces"], axis=1),
                   helper.make_node("SequenceAt", ["pieces", "at"], ["piece"]),
                   helper.make_node("Flatten", ["piece"], ["logits"], axis=1)])
    del g.output[:]
    g.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, None]))
    onnx.save(model, str(tmp_path / "s.onnx"))
    out = cli.run("inspect", "--model", tmp_path / "s.onnx", check=False)
    assert out.returncode == 3 and words in out.stderr, out.stderr


# ---- weights that are computed when the file is loaded ----


class Standardised(nn.Conv2d):
    """Weight standardisation as timm writes it: batch normalisation of the weights by their own statistics."""

    def forward(self, x):
        w = nn.functional.batch_norm(self.weight.reshape(1, self.out_channels, -1), None, None, training=True, eps=1e-6)
        return nn.functional.conv2d(x, w.reshape_as(self.weight), self.bias, self.stride, self.padding)


@pytest.mark.parametrize("opset", [11, 13, 17])
@pytest.mark.parametrize("folding", [True, False])
def test_weights_from_weights(tmp_path, opset, folding):
    """Standardised weights, transposed and scaled ones: nothing of it is left to run per frame."""
    torch.manual_seed(5)
    body = nn.Sequential(Standardised(3, 8, 3, 2, 1), nn.Tanh(), Standardised(8, 8, 3, 1, 1), nn.Tanh())
    net = Net(lambda n, y: pooled(n, y) @ (n.fc.weight.t()[:5] * 2).exp())
    net.body = body
    path = export(net, tmp_path / "m.onnx", opset_version=opset, do_constant_folding=folding)
    double = net.double()
    check(path, picture(), lambda v: double(v)[0, 1], double, target=1)
    types = [o["type"] for o in inspect(path)["operators"]]
    assert set(types) <= {"Conv", "Tanh", "ReduceMean", "GlobalAveragePool", "Flatten", "Gemm", "MatMul"}, types


# ---- functions a model defines itself ----

LOCAL = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def with_functions(path, nodes, functions, out):
    """The exported network with `nodes` between its body and what follows it."""
    model = onnx.load(str(path))
    g = model.graph
    last = g.output[0].name
    for n in g.node:
        n.output[:] = ["before" if o == last else o for o in n.output]
    g.node.extend(nodes)
    model.functions.extend(functions)
    model.opset_import.append(helper.make_opsetid("local", 1))
    onnx.save(model, str(out))
    return out


def test_functions(tmp_path):
    """A function that calls another, attributes by reference and by default, the same one called twice: values
    inside must not be mixed up."""
    leaky = helper.make_node("LeakyRelu", ["v"], ["t"])
    ref = onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    leaky.attribute.append(ref)
    act = helper.make_function("local", "Act", ["v"], ["w"], [leaky, helper.make_node("Tanh", ["t"], ["w"])], LOCAL,
                               [], [helper.make_attribute("slope", .5)])
    inner = helper.make_node("Act", ["v"], ["t"], domain="local")
    inner.attribute.append(onnx.AttributeProto(name="slope", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    twice = helper.make_function("local", "Twice", ["v"], ["w"],
                                 [inner, helper.make_node("Act", ["t"], ["u"], domain="local"),
                                  helper.make_node("Add", ["t", "u"], ["w"])], LOCAL, ["slope"])
    path = export(Net(pooled), tmp_path / "m.onnx", opset_version=17, output_names=["logits"])
    nodes = [helper.make_node("Twice", ["before"], ["mid"], "first", domain="local", slope=.1),
             helper.make_node("Twice", ["mid"], ["logits"], "second", domain="local", slope=.9)]
    path = with_functions(path, nodes, [act, twice], tmp_path / "f.onnx")

    def act_of(v, slope):
        return torch.tanh(nn.functional.leaky_relu(v, slope))

    def twice_of(v, slope):
        return act_of(v, slope) + act_of(act_of(v, slope), .5)

    net = Net(lambda n, y: twice_of(twice_of(pooled(n, y), .1), .9)).double()
    check(path, picture(), lambda v: net(v)[0, 1], net, target=1)


@pytest.mark.parametrize("kind,words", [("self", "too deeply"), ("bomb", "too many nodes"),
                                        ("missing", "local::Gone")])
def test_hostile_functions(tmp_path, kind, words):
    def call(name, i="v", o="w"):
        return helper.make_node(name, [i], [o], domain="local")

    if kind == "self":
        functions = [helper.make_function("local", "F0", ["v"], ["w"], [call("F0")], LOCAL)]
    elif kind == "bomb":  # each level calls the next ten times: 10^12
        functions = [helper.make_function("local", f"F{i}", ["v"], ["w"],
                                          [call(f"F{i + 1}", "v", f"w{k}") for k in range(10)], LOCAL)
                     for i in range(12)]
        functions.append(helper.make_function("local", "F12", ["v"], ["w"], [], LOCAL))
    else:
        functions = [helper.make_function("local", "F0", ["v"], ["w"], [call("Gone")], LOCAL)]
    path = export(Net(pooled), tmp_path / "m.onnx", opset_version=17, output_names=["logits"])
    path = with_functions(path, [call("F0", "before", "logits")], functions, tmp_path / "f.onnx")
    out = cli.run("inspect", "--model", path, check=False, timeout=10)
    assert out.returncode == 3 and words in out.stderr, out.stderr


# ---- quantised networks ----


def fake(x, scale, zero, low=0, high=255):
    """Quantise and dequantise in float64, the gradient straight through where nothing saturates."""
    q = torch.round(x / scale) + zero
    inside = ((q >= low) & (q <= high)).double()
    return (x * inside + ((q.clamp(low, high) - zero) * scale - x * inside).detach())


def test_quantised_by_hand(tmp_path):
    """QDQ as converters write it: uint8 activations, int8 weights by channel, an int32 bias, one saturating range."""
    rng = np.random.default_rng(3)
    w = rng.integers(-100, 100, (8, 3, 3, 3)).astype(np.int8)
    ws = rng.uniform(.002, .01, 8).astype(np.float32)
    bias = rng.integers(-200, 200, 8).astype(np.int32)
    fc = rng.normal(size=(8, 5)).astype(np.float32)
    ranges = {"in": (.02, 120), "mid": (.01, 20)}  # both cut off a part of what comes
    inits = [numpy_helper.from_array(w, "w"), numpy_helper.from_array(ws, "ws"), numpy_helper.from_array(bias, "b"),
             numpy_helper.from_array(np.zeros(8, np.int8), "wz"), numpy_helper.from_array(ws * np.float32(.02), "bs"),
             numpy_helper.from_array(np.zeros(8, np.int32), "bz"), numpy_helper.from_array(fc, "fc")]
    for k, (scale, zero) in ranges.items():
        inits += [numpy_helper.from_array(np.float32(scale), f"{k}_s"),
                  numpy_helper.from_array(np.uint8(zero), f"{k}_z")]
    qdq = lambda i, k, o: [helper.make_node("QuantizeLinear", [i, f"{k}_s", f"{k}_z"], [f"{o}_q"]),
                           helper.make_node("DequantizeLinear", [f"{o}_q", f"{k}_s", f"{k}_z"], [o])]
    nodes = [*qdq("x", "in", "xq"), helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wf"], axis=0),
             helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bf"], axis=0),
             helper.make_node("Conv", ["xq", "wf", "bf"], ["c"], "conv", pads=[1, 1, 1, 1]), *qdq("c", "mid", "cq"),
             helper.make_node("Tanh", ["cq"], ["t"]), helper.make_node("ReduceMean", ["t"], ["m"], axes=[2, 3], keepdims=0),
             helper.make_node("MatMul", ["m", "fc"], ["logits"])]
    graph = helper.make_graph(nodes, "q", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
                              [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 5])], inits)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(tmp_path / "q.onnx"))

    weight = torch.from_numpy(w).double() * torch.from_numpy(ws).double()[:, None, None, None]
    offset = torch.from_numpy(bias).double() * torch.from_numpy(ws * np.float32(.02)).double()

    def net(v):
        s = {k: (float(np.float32(a)), b) for k, (a, b) in ranges.items()}
        c = nn.functional.conv2d(fake(v, *s["in"]), weight, offset, padding=1)
        return torch.tanh(fake(c, *s["mid"])).mean((2, 3)) @ torch.from_numpy(fc).double()

    got = check(tmp_path / "q.onnx", picture() * 2, lambda v: net(v)[0, 1], net, target=1)
    zeros = (got.attribution == 0).mean()
    assert 0 < zeros < .9, "the saturating range was to stop a part of the gradient"
    assert inspect(tmp_path / "q.onnx")["quantised"] == 2
    assert "straight through" in cli.run("inspect", "--model", tmp_path / "q.onnx").stdout


@pytest.mark.parametrize("per_channel", [False, True])
def test_quantised_by_onnxruntime(tmp_path, per_channel):
    """quantize_static in QDQ format: the logits are ONNX Runtime's, but for values on the edge between two steps:
    one step of the last layer is allowed."""
    import onnxruntime
    from onnxruntime import quantization as q
    _, path = wild(tmp_path, 13)

    class Reader(q.CalibrationDataReader):
        def __init__(self):
            self.data = iter([{onnx.load(str(path)).graph.input[0].name: picture(i)[None]} for i in range(8)])

        def get_next(self):
            return next(self.data, None)

    q.quantize_static(str(path), str(tmp_path / "q.onnx"), Reader(), quant_format=q.QuantFormat.QDQ,
                      per_channel=per_channel)
    model = onnx.load(str(tmp_path / "q.onnx"))
    assert sum(n.op_type == "QuantizeLinear" for n in model.graph.node) > 5
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(tmp_path / "q.onnx"), options, providers=["CPUExecutionProvider"])
    expected = session.run(None, {model.graph.input[0].name: picture()[None]})[0][0]
    got = cli.explain(tmp_path / "q.onnx", picture(), target=1)
    assert np.abs(got.logits - expected).max() <= .02 * np.abs(expected).max()
    assert np.abs(got.attribution).max() > 0
