"""The torchvision zoo against torch in float64, each network once, small pictures and few classes (test_parity.py has
the usual ones at 224 x 224), and EfficientNet-Lite0 with its published weights. One table with a row per network:

    logits      max error / max |logit|                         <= 1e-4
    gradient    relative L2 of the plain gradient               <= 1e-3, cosine >= 0.99999
    class, instance   relative L2 of the ParchGrad map against tests/ref   <= 1e-3

Opset 17 with batch normalisation folded by the exporter; for some the BatchNormalization nodes are kept as well.
PG_FULL=1 takes both kinds of file, and opset 11 and 13, of every network.
"""
import concurrent.futures
import os

import numpy as np
import pytest

import cli
import models
from test_parchgrad import BOUND, Case, flipped_to_fit
from test_parity import COSINE, GRADIENT, LOGITS, truth

FULL = bool(os.environ.get("PG_FULL"))
CLASSES, SAMPLES, GROUPS = 10, 12, 4

# name: size of the picture
NETWORKS = {
    "alexnet": 224, "vgg11_small": 64, "vgg16_small": 64, "vgg16_bn_small": 64, "resnet18": 112,
    "resnext50_32x4d": 96, "wide_resnet50_2": 96, "densenet121": 96, "googlenet_transform": 112,
    "inception_v3": 128, "squeezenet1_0": 112, "squeezenet1_1": 112, "shufflenet_v2_x1_0": 128,
    "mobilenet_v2": 128, "mobilenet_v3_small": 128, "mobilenet_v3_large": 128, "mnasnet1_0": 128,
    "efficientnet_b0": 128, "efficientnet_v2_s": 128, "regnet_x_400mf": 128, "regnet_y_400mf": 128,
    "convnext_tiny": 128, "fcn_resnet50": 96, "deeplabv3_resnet50": 96,
    "deeplabv3_mobilenet_v3_large": 128, "lraspp_mobilenet_v3_large": 128,
    "ssdlite320_mobilenet_v3_large": 160, "retinanet_resnet50_fpn": 128,
}
# name: size, explain.region and the same region of class 2 as an index into the output
DENSE = {
    "deeplabv3_mobilenet_v3_large_map": (128, [32, 40, 96, 100], np.s_[2, 32:96, 40:100]),
    "lraspp_mobilenet_v3_large_map": (128, [17, 90], np.s_[2, 17, 90]),
    "ssdlite320_mobilenet_v3_large_boxes": (160, [610, 640], np.s_[610:640, 2]),
    "retinanet_resnet50_fpn_boxes": (128, [2700], np.s_[2700, 2]),
}
TRANSFORMERS = {"vit_b_16": 64, "swin_t": 64}
KEPT = NETWORKS if FULL else ["mobilenet_v3_small", "regnet_y_400mf", "shufflenet_v2_x1_0"]
ROWS = ([(name, 17, "fold") for name in NETWORKS] + [(name, 17, "keep") for name in KEPT]
        + [(name, opset, "fold") for name in NETWORKS for opset in (11, 13) if FULL])

_header = []


def row(say, name, opset, bn, plain, maps=()):
    if not _header:
        _header.append(say(f"\n{'network':30s} {'opset':>5s} {'bn':5s} {'logits':>8s} {'gradient':>9s} "
                           f"{'1 - cos':>8s} {'class':>8s} {'instance':>9s}"))
    logits, gradient, cos = plain
    say(f"{name:30s} {opset:5d} {bn:5s} {logits:8.1e} {gradient:9.1e} {1 - cos:8.1e} "
        + " ".join(f"{error:8.1e}{' (%d tied)' % flips if flips else ''}" for error, flips in maps))


def errors_of(got, expected):
    y, g = expected
    assert np.abs(g).max() > 1e-6, "the reference gradient is not healthy"
    return (float(np.abs(got.logits.reshape(y.shape) - y).max() / np.abs(y).max()),
            cli.rel(got.attribution, g), cli.cosine(got.attribution, g))


def within(plain, maps=()):
    logits, gradient, cos = plain
    return (logits <= LOGITS and gradient <= GRADIENT and cos >= COSINE
            and all(error <= BOUND for error, _ in maps))


def check(case, name, opset, bn, say):
    """One row of the table."""
    region = {"explain__region": case.region} if case.region else {}
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(cli.explain, case.path, case.x, target=case.target, model__threads=2, **region)]
        runs += [pool.submit(case.explain, case.options(select)) for select in ("class", "instance")]
        plain = errors_of(runs[0].result(), (case.logits, case.reference({})))
        maps = []
        for select, run in zip(("class", "instance"), runs[1:]):
            choices = case.choices(select, "default")
            error, exchanged = flipped_to_fit(case, choices, run.result().attribution, "inf", "approx")
            maps.append((error, len(exchanged)))
    row(say, name, opset, bn, plain, maps)
    case.path.unlink()
    assert within(plain, maps)


@pytest.mark.parametrize("name,opset,bn", ROWS)
def test_zoo(name, opset, bn, tmp_path, say):
    case = Case(name, bn, tmp_path, samples=SAMPLES, classes=GROUPS, size=NETWORKS[name], opset=opset)
    check(case, name, opset, bn, say)


@pytest.mark.parametrize("name", DENSE)
def test_region(name, tmp_path, say):
    """All of a dense output, of which explain.region takes a part or one cell."""
    size, region, where = DENSE[name]
    case = Case(name, "fold", tmp_path, samples=SAMPLES, classes=GROUPS, size=size, opset=17)
    case.region, case.where = region, where
    check(case, name, 17, "fold", say)


def test_real_weights(tmp_path, say):
    """EfficientNet-Lite0 as the demo writes it, its weights fetched as a Python package."""
    case = Case("efficientnet_lite0", "keep", tmp_path, samples=SAMPLES, classes=GROUPS, size=224, logits=1000)
    check(case, "efficientnet_lite0", 13, "keep", say)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer(name, say):
    """The plain gradient; there is hardly a convolution to prune."""
    size = TRANSFORMERS[name]
    path = models.export(name, size, CLASSES, opset=17)
    x = models.test_picture(size)
    y, g, target = truth(models.build(name, size, CLASSES), x)
    plain = errors_of(cli.explain(path, x, target=target, model__threads=2), (y, g))
    row(say, name, 17, "-", plain)
    path.unlink()
    assert within(plain)
