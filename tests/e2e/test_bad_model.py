"""Files that are no models and statistics that are not this model's: refused with a sentence, never a crash."""
import numpy as np
import pytest

import cli
import models

REFUSED = 3


@pytest.fixture(scope="module")
def net():
    return models.export("tiny_resnet", 64, 10, bn="keep")


@pytest.fixture(scope="module")
def stats(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stats")
    inputs = [models.picture(i, 64, 2) for i in range(8)]
    cli.write_calibration(folder / "data", inputs, [i % 2 for i in range(8)])
    cli.calibrate(net, folder / "data", folder / "stats")
    return folder / "stats"


def refused(*args):
    result = cli.run(*args, check=False)
    assert result.returncode == REFUSED, (args, result.returncode, result.stderr[-500:])
    assert result.stderr.strip(), args
    return result.stderr


def test_model_cut_at_100_places(net, tmp_path):
    whole = net.read_bytes()
    cut = tmp_path / "cut.onnx"
    for i in range(100):
        cut.write_bytes(whole[:len(whole) * i // 100])
        assert str(cut) in refused("inspect", "--model", cut)


def test_model_with_flipped_bytes(net, tmp_path):
    """A flipped weight is another model, a flipped structure none: both must end in order."""
    whole = net.read_bytes()
    rng = np.random.default_rng(7)
    flipped = tmp_path / "flipped.onnx"
    x = tmp_path / "x.npy"
    np.save(x, models.picture(1, 64))
    structure = [i for i in rng.integers(0, len(whole), 40)] + list(range(0, 400, 8))
    for i in structure:
        broken = bytearray(whole)
        broken[i] ^= 1 << int(rng.integers(8))
        flipped.write_bytes(broken)
        result = cli.run("explain", "--model", flipped, "--method", "gradient", x, check=False)
        assert result.returncode in (0, 1, REFUSED, 4), (i, result.returncode, result.stderr)
        assert result.returncode == 0 or result.stderr.strip()


def test_unsupported_operators_are_named_all_at_once(net, tmp_path):
    import onnx
    from onnx import helper
    model = onnx.load(str(net))
    last = next(i for i, n in enumerate(model.graph.node) if n.op_type == "Gemm")
    value = model.graph.node[last].input[0]  # on the way to the logits: dead nodes do not matter
    for i, kind in enumerate(("Einsum", "GridSample", "Unique")):
        node = helper.make_node(kind, [value], [f"odd{i}"], name=f"odd_node_{i}")
        model.graph.node.insert(last + i, node)
        value = f"odd{i}"
    model.graph.node[last + 3].input[0] = value
    onnx.save(model, str(tmp_path / "odd.onnx"))
    text = refused("inspect", "--model", tmp_path / "odd.onnx")
    for i, kind in enumerate(("Einsum", "GridSample", "Unique")):
        assert kind in text and f"odd_node_{i}" in text


def test_index_output_of_a_pool(net, tmp_path):
    """Indices of a MaxPool may be there, but not lead to the logits."""
    import onnx
    from onnx import helper
    for read in (False, True):
        model = onnx.load(str(net))
        nodes = model.graph.node
        at = next(i for i, n in enumerate(nodes) if n.op_type == "Relu")
        value = nodes[at].input[0]
        extra = [helper.make_node("MaxPool", [value], ["pooled", "where"], name="pool_with_indices",
                                  kernel_shape=[3, 3], pads=[1, 1, 1, 1])]
        if read:
            extra += [helper.make_node("Cast", ["where"], ["where_float"], to=1),
                      helper.make_node("Add", ["pooled", "where_float"], ["both"])]
        nodes[at].input[0] = extra[-1].output[0]
        for k, node in enumerate(extra):
            nodes.insert(at + k, node)
        onnx.save(model, str(tmp_path / "indices.onnx"))
        if read:
            text = refused("inspect", "--model", tmp_path / "indices.onnx")
            assert "pool_with_indices" in text and "index output" in text
        else:
            cli.run("inspect", "--model", tmp_path / "indices.onnx")


def test_no_such_model(tmp_path):
    assert cli.run("inspect", "--model", tmp_path / "none.onnx", check=False).returncode == 2


def explain(net, stats, tmp_path):
    x = tmp_path / "x.npy"
    np.save(x, models.picture(1, 64))
    return ("explain", "--model", net, "--stats", stats, "--set", "parchgrad.select=class", x)


def test_statistics_of_another_model(stats, tmp_path):
    other = models.export("leaknet", 64, 10)
    text = refused(*explain(other, stats, tmp_path))
    assert "model" in text and str(stats) in text


def test_statistics_cut_and_flipped(net, stats, tmp_path):
    whole = stats.read_bytes()
    broken = tmp_path / "broken"
    cli.run(*explain(net, stats, tmp_path))
    for i in range(25):
        broken.write_bytes(whole[:len(whole) * i // 25])
        refused(*explain(net, broken, tmp_path))
    broken.write_bytes(whole + b"\0")
    refused(*explain(net, broken, tmp_path))
    for i in [*range(0, 64, 4), *np.random.default_rng(3).integers(64, len(whole), 25)]:
        flipped = bytearray(whole)
        flipped[i] ^= 16
        broken.write_bytes(flipped)
        assert str(broken) in refused(*explain(net, broken, tmp_path))


@pytest.mark.parametrize("shape,kind", [((3, 63, 64), "f4"), ((1, 64, 64), "f4"), ((3, 64, 64), "f8"),
                                        ((2, 3, 64, 64), "f4"), ((3, 64), "f4")])
def test_input_of_the_wrong_shape(net, tmp_path, shape, kind):
    np.save(tmp_path / "x.npy", np.zeros(shape, kind))
    result = cli.run("explain", "--model", net, "--method", "gradient", tmp_path / "x.npy",
                     check=False)
    assert result.returncode == 4 and result.stderr.strip()


def test_input_that_is_no_array(net, tmp_path):
    good = tmp_path / "good.npy"
    np.save(good, models.picture(1, 64))
    whole = good.read_bytes()
    for i in (0, 5, 9, 40, 127, 128, len(whole) // 2, len(whole) - 1):
        (tmp_path / "x.npy").write_bytes(whole[:i])
        result = cli.run("explain", "--model", net, "--method", "gradient", tmp_path / "x.npy",
                         check=False)
        assert result.returncode == 4, (i, result.stderr)
    x = models.picture(1, 64)
    x[0, 0, 0] = np.nan
    np.save(good, x)
    assert cli.run("explain", "--model", net, "--method", "gradient", good,
                   check=False).returncode == 4
