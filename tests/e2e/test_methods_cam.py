"""The class activation maps against pytorch-grad-cam 1.5.5, the library that defines them here; torch-cam's and the
authors' ScoreCAM, which are not installed, against their formulas in torch; occlusion against captum 0.8.0.

Both sides compute in float32, and a map is scaled to a maximum of 1: absolute differences up to 1e-4 are rounding
through some twenty layers. Maps are compared at the picture's size, after the library's own enlarging.

One table: method, network, layer, largest difference.
"""
import copy
import json
import pathlib
import tempfile
import warnings

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

import cli
import models

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    cam_library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

BOUND = 1e-4
# AblationCAM's weights are differences of two float32 logits that agree to two or three digits, so that much more of
# either side is rounding.
# ScoreCAM's masks divide by a channel's range, which may be a thousandth of what was rounded.
BOUNDS = {"ablationcam": 1e-3, "scorecam-torchcam": 5e-4, "scorecam-prob": 5e-4}
SIZE, CLASSES = 64, 10

# network: (the module the library is given, the layer's name in the ONNX file; "" is the default)
LAYERS = [("resnet18", lambda n: n.layer4[-1], ""),
          ("resnet18", lambda n: n.layer3[-1], "/layer3/layer3.1/relu_1/Relu"),
          ("vgg11_bn_small", lambda n: n.features[-1], ""),
          ("mobilenet_v2", lambda n: n.features[-1], "")]
IDS = ["resnet18", "resnet18-layer3", "vgg11_bn_small", "mobilenet_v2"]


@pytest.fixture(params=range(len(LAYERS)), ids=IDS)
def case(request):
    name, module, layer = LAYERS[request.param]
    net = models.build(name, SIZE, CLASSES)
    path = models.export(name, SIZE, CLASSES)
    return name, net, module(net), layer, path, models.test_picture(SIZE)


# MobileNetV2's last layer has 1280 channels, each a forward pass for ScoreCAM on both sides: left to the others.
few_channels = pytest.mark.parametrize("case", range(3), ids=IDS[:3], indirect=True)


def our_map(path, x, method, target, layer="", **options):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        np.save(folder / "x.npy", x)
        settings = {k.replace("__", "."): v for k, v in options.items()}
        settings.update({"cam.layer": layer} if layer else {})
        out = cli.run("explain", "--model", path, "--method", method, "--target", target, "--json", "--save-map",
                      folder / "m.npy", *cli.settings(settings), folder / "x.npy")
        return np.load(folder / "m.npy").astype(np.float64), json.loads(out.stdout)


def library_map(kind, net, module, x, target):
    """Gradients of the input are wanted only so that autograd reaches the layer: the weights are frozen."""
    with getattr(cam_library, kind)(model=net, target_layers=[module]) as cam:
        sample = torch.from_numpy(x)[None].requires_grad_(True)
        return cam(input_tensor=sample, targets=[ClassifierOutputTarget(target)])[0].astype(np.float64)


def note(say, method, name, layer, difference):
    say(f"{method:20s} {name:16s} {layer or '(default)':32s} {difference:9.1e}")


@pytest.mark.parametrize("method, kind", [("gradcam", "GradCAM"), ("gradcam++", "GradCAMPlusPlus"),
                                          ("layercam", "LayerCAM"), ("ablationcam", "AblationCAM")])
def test_library(method, kind, case, say):
    compare(method, kind, case, say)


@few_channels
def test_scorecam(case, say):
    compare("scorecam", "ScoreCAM", case, say)


def compare(method, kind, case, say):
    name, net, module, layer, path, x = case
    target = 3
    theirs = library_map(kind, net, module, x, target)
    ours, info = our_map(path, x, method, target, layer)
    difference = np.abs(ours - theirs).max()
    note(say, method, name, layer, difference)
    assert theirs.max() > 0.9, "the library's map is empty: the case shows nothing"
    assert difference <= BOUNDS.get(method, BOUND)
    assert info["method"] == method


def test_eigencam(case, say):
    """A singular vector has no sign: ours is the one in which the map correlates with the layer's sum, the
    library's is whatever LAPACK returned."""
    name, net, module, layer, path, x = case

    class Flipped(cam_library.EigenCAM):
        def get_cam_image(self, *args):
            return -super().get_cam_image(*args)

    cam_library.Flipped = Flipped
    activation = activation_of(net, module, x)
    both = [library_map(kind, net, module, x, 0) for kind in ("EigenCAM", "Flipped")]
    ours, _ = our_map(path, x, "eigencam", 0, layer)
    differences = [np.abs(ours - theirs).max() for theirs in both]
    note(say, "eigencam", name, layer, min(differences))
    assert min(differences) <= BOUND
    small = F.interpolate(torch.from_numpy(ours)[None, None], activation.shape[1:], mode="area")[0, 0].numpy()
    assert np.corrcoef(small.ravel(), activation.sum(0).ravel())[0, 1] > 0


def activation_of(net, module, x):
    kept = []
    handle = module.register_forward_hook(lambda m, i, o: kept.append(o.detach()))
    with torch.no_grad():
        net(torch.from_numpy(x)[None])
    handle.remove()
    return kept[0][0].numpy()


def finish(cam, late):
    """ReLU, minimum to 0, maximum to 1, enlarged, and again; late: enlarged before all that."""
    def enlarge(m):
        return F.interpolate(m[None, None], (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0]

    def scale(m):
        m = m.clamp(min=0)
        m = m - m.min()
        return m / (m.max() + 1e-7)

    return scale(enlarge(cam if late else scale(cam))).numpy()


def chunks(items, size):
    return (items[i:i + size] for i in range(0, len(items), size))


def score_formula(method, net, a, x, target):
    """torch-cam 0.4's ScoreCAM and the authors' program, written from their definitions, in float64."""
    net, a, x = copy.deepcopy(net).double(), torch.from_numpy(a).double(), torch.from_numpy(x).double()
    masks = []
    for channel in a:
        m = channel
        if method == "scorecam-torchcam":
            m = (m - m.min()) / (m.max() - m.min() + 1e-8)
        m = F.interpolate(m[None, None], (SIZE, SIZE), mode="bilinear", align_corners=False)[0, 0]
        if method == "scorecam-prob":
            m = (m - m.min()) / (m.max() - m.min() + 1e-8)
        masks.append(m)
    with torch.no_grad():
        y = torch.cat([net(x * torch.stack(part)[:, None]) for part in chunks(masks, 64)])
    if method == "scorecam-torchcam":
        w = torch.softmax(y[:, target], 0)
    else:
        w = torch.softmax(y, 1)[:, target]
        w[torch.tensor([float(c.max() - c.min()) == 0 for c in a])] = 0
    return finish((w[:, None, None] * a.double()).sum(0), late=method == "scorecam-prob")


@few_channels
@pytest.mark.parametrize("method", ["scorecam-torchcam", "scorecam-prob"])
def test_score_variants(method, case, say):
    name, net, module, layer, path, x = case
    theirs = score_formula(method, net, activation_of(net, module, x), x, 3)
    ours, _ = our_map(path, x, method, 3, layer)
    note(say, method, name, layer, np.abs(ours - theirs).max())
    assert np.abs(ours - theirs).max() <= BOUNDS[method]


@few_channels
def test_variants_differ(case):
    """Three definitions under one name: the maps are not the same, so the name has to say which."""
    _, _, _, layer, path, x = case
    maps = [our_map(path, x, m, 3, layer)[0] for m in ("scorecam", "scorecam-torchcam", "scorecam-prob")]
    assert min(np.abs(maps[i] - maps[j]).max() for i in range(3) for j in range(i)) > 10 * BOUND


@few_channels
def test_fewer_channels(case):
    """scorecam.channels takes those that vary most, and says how many it took."""
    _, net, module, layer, path, x = case
    _, info = our_map(path, x, "scorecam", 3, layer, scorecam__channels=20)
    assert info["quality"]["samples"] == 20 and info["quality"]["planned"] == 20


def test_ablation_by_tail_equals_closed_form(say):
    """Behind layer4 the network is affine, which gives all drops from one gradient; behind layer3 it is not.
    With the classifier's activation in between (a ReLU that lets everything through) the tail has to run, and
    gives what the closed form gives."""
    class WithRelu(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, x):
            return torch.relu(self.net(x) + 1000) - 1000

    net, x = models.build("resnet18", SIZE, CLASSES), models.test_picture(SIZE)
    closed, info = our_map(models.export("resnet18", SIZE, CLASSES), x, "ablationcam", 3)
    assert "planned" not in info["quality"], "the closed form was not used"
    with tempfile.NamedTemporaryFile(suffix=".onnx") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(WithRelu(net).eval(), torch.from_numpy(x)[None], file.name, opset_version=13)
        tails, info = our_map(file.name, x, "ablationcam", 3)
    assert info["quality"]["planned"] > 0
    say(f"ablationcam by tail and closed form: {np.abs(tails - closed).max():.1e}")
    assert np.abs(tails - closed).max() <= 10 * BOUND  # the logits carry 1000: three digits less


@pytest.mark.parametrize("window, stride", [(16, 8), (15, 7), (64, 64), (9, 5)])
def test_occlusion(window, stride, say):
    captum = pytest.importorskip("captum.attr")
    net, x = models.build("resnet18", SIZE, CLASSES), models.test_picture(SIZE)
    theirs = captum.Occlusion(net).attribute(torch.from_numpy(x)[None], target=3, baselines=0,
                                             sliding_window_shapes=(3, window, window),
                                             strides=(3, stride, stride))[0].numpy()
    got = cli.explain(models.export("resnet18", SIZE, CLASSES), x, method="occlusion", target=3,
                      occlusion__window=window, occlusion__stride=stride)
    error = cli.rel(got.attribution[0], theirs[0])
    say(f"occlusion {window} by {stride}: relative L2 {error:.1e}")
    assert error <= 1e-4


# ---- what cannot be done, and maps that mean nothing ----


def refused(path, method, words, **options):
    x = models.test_picture(SIZE)
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, x)
        file.flush()
        settings = cli.settings({k.replace("__", "."): v for k, v in options.items()})
        out = cli.run("explain", "--model", path, "--method", method, *settings, file.name, check=False)
    assert out.returncode == 2, out.stderr
    assert words in out.stderr, out.stderr


def test_unknown_layer():
    path = models.export("resnet18", SIZE, CLASSES)
    refused(path, "gradcam", "/layer4/layer4.1/relu_1/Relu", cam__layer="/layer4/layer4.1/relu_1/Rel")


def test_the_picture_is_no_layer():
    refused(models.export("resnet18", SIZE, CLASSES), "gradcam", "no layer 'input'", cam__layer="input")


def test_no_spatial_layer():
    refused(models.export("vit_b_16", SIZE, CLASSES, opset=17), "gradcam", "no layer of more than one position")


class Attention(torch.nn.Module):
    """Of 16 x 16 pictures: 4 x 4 tokens, two heads of 8, which leave attention in the order `axes`."""

    def __init__(self, axes):
        super().__init__()
        self.axes, self.tokens, self.qkv = axes, torch.nn.Conv2d(3, 16, 4, 4), torch.nn.Linear(16, 48)
        self.head = torch.nn.Linear(16, 5)

    def forward(self, x):
        x = self.tokens(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(x).reshape(1, 16, 3, 2, 8).permute(2, 0, 3, 1, 4)
        heads = torch.softmax(q @ k.transpose(-2, -1), -1) @ v  # [1, heads, tokens, width]
        return self.head(heads.permute(self.axes).reshape(1, 16, 16).mean(1))


@pytest.mark.parametrize("axes", [(0, 2, 1, 3), (2, 0, 1, 3)])
def test_heads_are_no_maps(axes, tmp_path):
    """Four axes do not make a map of what attention returns, and a batch of 16 is none whoever names it."""
    path, picture = tmp_path / "attention.onnx", np.zeros((3, 16, 16), np.float32)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Attention(axes).eval(), torch.zeros(1, 3, 16, 16), str(path), opset_version=13)
    np.save(tmp_path / "x.npy", picture)
    last = [node for node in onnx.load(path).graph.node if node.op_type == "Transpose"][-1].output[0]
    chosen, named = (cli.run("explain", "--model", path, "--method", "gradcam", *cli.settings(options),
                             tmp_path / "x.npy", check=False) for options in ({}, {"cam.layer": last}))
    assert chosen.returncode == 2 and "no layer of more than one position" in chosen.stderr
    if axes[0] == 0:
        assert named.returncode == 0, named.stderr
    else:
        assert named.returncode == 2 and "is not a [1,C,H,W] value" in named.stderr
    assert np.isfinite(cli.explain(path, picture, method="gradient", target=0).attribution).all()


@pytest.mark.parametrize("method", ["gradcam", "gradcam++", "layercam", "eigencam", "ablationcam", "scorecam",
                                    "scorecam-torchcam", "scorecam-prob", "occlusion", "rise"])
def test_constant_picture(method):
    """No crash, a finite map, and whatever it is, it says how it stands."""
    ours, info = our_map(models.export("resnet18", SIZE, CLASSES), np.zeros((3, SIZE, SIZE), np.float32), method, 3,
                         rise__masks=20)
    assert np.isfinite(ours).all()
    if not ours.any():
        assert info["quality"]["degenerate"]


# ---- RISE ----


def rise_formula(net, x, target, masks, cells, share):
    """The definition in numpy: grids and shifts by Philox as saliency_rise.c counts them (seed 0, stream "input", seq
    0), enlarged by torch, probabilities by torch."""
    from test_methods_gradient import philox
    key = 14695981039346656037
    for byte in b"input":
        key = (key ^ byte) * 1099511628211 % 2**64
    cell = -(-SIZE // cells)
    total = np.zeros((SIZE, SIZE))
    for n in range(masks):
        blocks = (cells * cells + 2 + 3) // 4
        words = np.stack(philox([np.arange(blocks, dtype=np.uint32), *(np.full(blocks, v, np.uint32)
                                                                       for v in (0, 0, n))],
                                (key & 0xffffffff, key >> 32)), 1).ravel()
        grid = (words[:cells * cells] / 2**32 < share).astype(np.float32).reshape(cells, cells)
        large = F.interpolate(torch.from_numpy(grid)[None, None], [(cells + 1) * cell] * 2, mode="bilinear",
                              align_corners=False)[0, 0].numpy()
        down, right = (int(words[cells * cells + i]) * cell >> 32 for i in (0, 1))
        mask = large[down:down + SIZE, right:right + SIZE]
        with torch.no_grad():
            p = torch.softmax(net(torch.from_numpy(x * mask)[None])[0].double(), 0)[target]
        total += float(p) * mask
    return total / (masks * share)


def test_rise(say):
    net, x = models.build("resnet18", SIZE, CLASSES), models.test_picture(SIZE)
    got = cli.explain(models.export("resnet18", SIZE, CLASSES), x, method="rise", target=3, rise__masks=20,
                      rise__cells=7, rise__share=0.4)
    theirs = rise_formula(net, x, 3, 20, 7, 0.4)
    say(f"rise, 20 masks: relative L2 {cli.rel(got.attribution[0], theirs):.1e}")
    assert cli.rel(got.attribution[0], theirs) <= 1e-5
    assert got.info["quality"]["samples"] == 20 and got.info["quality"]["std_error"] > 0
