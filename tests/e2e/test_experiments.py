"""The quick part of tests/experiments: the vector sum, the chain's proportional maps, and that the checked-in networks
are those their files say."""
import pathlib
import runpy
import sys

import numpy as np
import onnx
import pytest

import cli

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "experiments"
sys.path.insert(0, str(FOLDER))

import fashion  # noqa: E402

needs_data = pytest.mark.skipif(not fashion.available(), reason=f"package {fashion.PACKAGE} is not installed")


def test_vector_sum():
    high, low = runpy.run_path(str(FOLDER / "run"))["draw_sums"](2000)
    ratio = np.std(high, 0) / np.std(low, 0)
    # expected sqrt(10) times (0.1, 1) over sqrt(100) times 0.1; 2,000 draws tell a deviation to 3 %
    np.testing.assert_allclose(ratio, (.1 * 10 ** .5, 10 ** .5), rtol=.1)


def explain_list(network, x, conserve):
    """The even channels of the last two convolutions are kept."""
    names = [n.name for n in onnx.load(network).graph.node if n.op_type == "Conv"][-2:]
    return cli.explain(network, x, "parchgrad", 3, parchgrad__select="list", parchgrad__layers=names,
                       parchgrad__list={name: list(range(0, 64, 2)) for name in names},
                       parchgrad__conserve=conserve)


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_conservation_in_chain_and_residual_network(name):
    """In a chain it multiplies the map by the product of the betas; with a skip it changes the map."""
    network = FOLDER / f"{name}.onnx"
    x = np.random.default_rng(1).normal(size=(1, 28, 28))
    on, off = (explain_list(network, x, conserve) for conserve in ("approx", "off"))
    factor = np.prod([layer["beta"] for layer in on.layers.values()])
    assert factor > 1.01
    distance = cli.rel(on.attribution, factor * off.attribution)
    if name == "vgg":
        assert distance < 1e-5  # float32, five convolutions
    else:
        assert distance > 1e-2


@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_reference_is_the_same_network(name):
    """What networks.py measures inside the blocks is measured on the network that parchgradd explains."""
    import networks
    x = np.random.default_rng(2).normal(size=(1, 28, 28))
    found = explain_list(FOLDER / f"{name}.onnx", x, "approx")
    ref = networks.Reference(name)
    np.testing.assert_allclose(found.logits, ref.forward(x), atol=1e-4)
    keep = np.arange(64) % 2 == 0
    plan = {i: keep for i in range(len(ref.layers))[-2:]}
    assert cli.rel(found.attribution, ref.backward(3, plan)) < 1e-3  # float32, next to float64


@needs_data
@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_accuracy(name, tmp_path):
    """On 500 test pictures, by parchgradd itself; 1.5 % is one standard deviation of that many."""
    import measure
    network = FOLDER / f"{name}.onnx"
    stated = {p.key: p.value for p in onnx.load(network).metadata_props}["accuracy"]
    pictures = measure.Pictures(tmp_path, "t10k", 500)
    right = measure.recognised(network, pictures) / len(pictures.labels)
    assert abs(right - float(stated)) < .045
