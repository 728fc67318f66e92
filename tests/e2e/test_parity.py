"""The engine against torch in float64: logits and the plain gradient at the network's own input, on the usual
torchvision networks at 224 x 224, exported in every way that matters; test_zoo.py has the others, smaller.

One table: network, export, max logit error / max |logit|, relative L2 and cosine of the gradient.
"""
import copy
import os

import numpy as np
import pytest
import torch

import cli
import models

LOGITS, GRADIENT, COSINE = 1e-4, 1e-3, .99999

NETWORKS = ["resnet18", "resnet50", "vgg16_bn", "mobilenet_v2", "densenet121", "googlenet", "squeezenet1_1",
            "efficientnet_b0"]
# opset, constant folding, dynamic batch axis, batch normalisation nodes: each value of each column
# meets each network, and every network its BatchNormalization nodes kept and folded.
EXPORTS = [(11, True, False, "fold"), (13, False, True, "keep"), (17, True, True, "fold"),
           (17, False, False, "keep")]
# The large ones in the two ways that differ most, unless PG_FULL=1 asks for all.
FEW = {} if os.environ.get("PG_FULL") else {
    name: EXPORTS[:2] for name in ("resnet50", "vgg16_bn", "densenet121", "googlenet", "efficientnet_b0")}

_header = []


def table(say, name, export, errors):
    if not _header:
        _header.append(say(f"\n{'network':20s} {'export':32s} {'logits':>9s} {'gradient':>9s} "
                           f"{'1 - cosine':>11s}"))
    logits, gradient, cos = errors
    say(f"{name:20s} {export:32s} {logits:9.1e} {gradient:9.1e} {1 - cos:11.1e}")


def truth(net, x):
    """Logits and the gradient of the top one, in float64."""
    net = copy.deepcopy(net).double()
    x = torch.from_numpy(x).double()[None].requires_grad_(True)
    y = net(x)
    target = int(y.argmax())
    y[0, target].backward()
    return y[0].detach().numpy(), x.grad[0].numpy(), target


def compare(path, x, expected, **options):
    y, g, target = expected
    got = cli.explain(path, x, method="gradient", target=target, **options)
    assert got.logits.shape == y.shape and got.attribution.shape == g.shape
    return (float(np.abs(got.logits - y).max() / np.abs(y).max()), cli.rel(got.attribution, g),
            cli.cosine(got.attribution, g))


@pytest.mark.parametrize("name", NETWORKS)
def test_parity(name, say):
    net = models.build(name)
    x = models.test_picture()
    expected = truth(net, x)
    assert np.abs(expected[1]).max() > 1e-6, "the reference gradient is not healthy"
    bad = []
    for opset, folding, dynamic, bn in FEW.get(name, EXPORTS):
        path = models.export(name, opset=opset, folding=folding, dynamic=dynamic, bn=bn)
        label = (f"opset {opset}, {'folding' if folding else 'no folding'}, "
                 f"{'dynamic' if dynamic else 'fixed'}, bn {bn}")
        errors = compare(path, x, expected, model__threads=2)
        path.unlink()  # weights stay cached; the files together are gigabytes
        table(say, name, label, errors)
        if not (errors[0] <= LOGITS and errors[1] <= GRADIENT and errors[2] >= COSINE):
            bad.append((label, errors))
    assert not bad


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn_small"])
def test_parity_of_tuned_implementations(name, say):
    """The same bounds hold whatever the tuner takes, Winograd included."""
    net, x = models.build(name), models.test_picture()
    errors = compare(models.export(name), x, truth(net, x), model__threads=2, engine__tune="always")
    table(say, name, "implementations chosen by measuring", errors)
    assert errors[0] <= LOGITS and errors[1] <= GRADIENT and errors[2] >= COSINE
