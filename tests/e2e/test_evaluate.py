"""`parchgradd evaluate` against the definitions of its metrics, computed here with torch and numpy from the maps that
`explain` writes. Probabilities of both agree to about 1e-6; a share of pixels that is cut between two that are equal to
rounding may differ by one pixel, so figures are compared to 1e-3.
"""
import json

import numpy as np
import pytest
import torch

import cli
import models

SIZE, CLASSES = 64, 10
METHODS = ["gradient", "gradcam"]
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Four pictures as the network takes them, with the network's own top classes; and what evaluate says of them."""
    folder = tmp_path_factory.mktemp("evaluate")
    (folder / "data").mkdir()
    net, path = models.build("resnet18", SIZE, CLASSES), models.export("resnet18", SIZE, CLASSES)
    rng = np.random.default_rng(5)
    pictures = [models.test_picture(SIZE) * s + rng.normal(0, .1, (3, SIZE, SIZE)).astype(np.float32)
                for s in (1, -1, .5, 2)]
    for i, x in enumerate(pictures):
        np.save(folder / "data" / f"{i}.npy", x.astype(np.float32))
    (folder / "boxes.csv").write_text("".join(f"{i}.npy,8,16,32,24\n" for i in range(4)))
    out = cli.run("evaluate", "--model", path, "--data", folder / "data", "--methods", ",".join(METHODS), "--json",
                  "--boxes", folder / "boxes.csv", "--sequence", "--html", folder / "report.html")
    return net, path, [x.astype(np.float32) for x in pictures], json.loads(out.stdout), folder


def probabilities(net, x):
    with torch.no_grad():
        return torch.softmax(net(torch.from_numpy(x)[None])[0].double(), 0).numpy()


def map_of(path, x, method, folder):
    np.save(folder / "x.npy", x)
    cli.run("explain", "--model", path, "--method", method, "--save-map", folder / "m.npy", folder / "x.npy")
    return np.load(folder / "m.npy")


def without(x, m, share, coldest):
    order = np.argsort(-m.ravel(), kind="stable")
    count = int(m.size * share + 1e-9)
    gone = order[m.size - count:] if coldest else order[:count]
    out = x.copy().reshape(3, -1)
    out[:, gone] = 0
    return out.reshape(x.shape)


@pytest.mark.parametrize("method", METHODS)
def test_removal(case, method):
    net, path, pictures, report, folder = case
    for i, x in enumerate(pictures):
        m, p = map_of(path, x, method, folder), probabilities(net, x)
        y = int(p.argmax())
        for name, coldest in (("morf", False), ("lerf", True)):
            steps = [probabilities(net, without(x, m, k / 10, coldest)) for k in range(11)]
            expected = {
                "aopc": np.mean([p[y] - q[y] for q in steps[1:6]]),
                "lodds": np.mean([np.log((q[y] + 1e-6) / (p[y] + 1e-6)) for q in steps[1:6]]),
                "accuracy": np.mean([q.argmax() == y for q in steps[1:6]]),
                "fracdiff": np.mean([abs(p[y] - q[y]) for q in steps[1:6]])}
            for figure, value in expected.items():
                got = report["methods"][method][f"{figure}_{name}"]["values"][i]
                assert got == pytest.approx(value, abs=TOLERANCE * max(1, abs(value))), (figure, name, i)
            if not coldest:
                curve = [q[y] for q in steps]
                auc = np.trapz(curve, dx=.1)
                assert report["methods"][method]["deletion_auc"]["values"][i] == pytest.approx(auc, abs=TOLERANCE)


@pytest.mark.parametrize("method", METHODS)
def test_boxes_and_order(case, method):
    _, path, pictures, report, folder = case
    figures = report["methods"][method]
    before = None
    for i, x in enumerate(pictures):
        m = map_of(path, x, method, folder).astype(np.float64)
        inside = m[16:40, 8:40].sum() / m.sum()
        assert figures["mu_in"]["values"][i] == pytest.approx(inside, abs=1e-5)
        assert figures["mu_in_w"]["values"][i] == pytest.approx(inside * SIZE * SIZE / (32 * 24), rel=1e-4)
        ranks = np.argsort(np.argsort(m.ravel(), kind="stable"), kind="stable").astype(float)
        if before is not None and len(np.unique(m)) == m.size:
            rho = np.corrcoef(ranks, before)[0, 1]
            assert figures["stability"]["values"][i] == pytest.approx(rho, abs=1e-3)
        before = ranks
    assert figures["stability"]["values"][0] is None, "the first frame has none before it"


def test_means_and_intervals(case):
    _, _, _, report, _ = case
    assert report["pictures"] == 4 and set(report["methods"]) == {*METHODS, "random-map"}
    for figures in report["methods"].values():
        for name, figure in figures.items():
            if name == "curves":
                continue
            values = [v for v in figure["values"] if v is not None]
            assert figure["mean"] == pytest.approx(np.mean(values))
            assert min(values) <= figure["low"] <= figure["mean"] <= figure["high"] <= max(values)
    assert "randomised" in report["methods"]["gradient"] and "ms" not in report["methods"]["random-map"]


def test_page(case):
    _, _, _, _, folder = case
    page = (folder / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4 * len(METHODS) and "<polyline" in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


def test_grid(tmp_path):
    """Chance is a quarter; the control says so; a method's share is between 0 and 1. Needs four classes that the
    network is sure of: pictures are made by walking up their logits."""
    net, path = models.build("resnet18", SIZE, CLASSES), models.export("resnet18", SIZE, CLASSES)
    for k in range(4):
        x = torch.zeros(1, 3, SIZE, SIZE)
        for _ in range(60):
            x.requires_grad_(True)
            y = net(x)
            g, = torch.autograd.grad(y[0, k] - y[0].logsumexp(0), x)
            x = (x + .1 * g / g.abs().max()).detach()
        assert torch.softmax(net(x)[0], 0)[k] > .5
        np.save(tmp_path / f"{k}.npy", x[0].detach().numpy())
    out = cli.run("evaluate", "--model", path, "--data", tmp_path, "--methods", "inputgrad,gradcam", "--json")
    report = json.loads(out.stdout)
    assert report["mosaics"] > 0
    assert report["methods"]["random-map"]["grid_pointing"]["mean"] == .25
    for method in ("inputgrad", "gradcam"):
        assert all(0 <= v <= 1 for v in report["methods"][method]["grid_pointing"]["values"][:report["mosaics"]])


@pytest.mark.parametrize("arguments, status, words", [
    ([], 2, "--data"), (["--data", "nowhere"], 2, "nowhere"),
    (["--data", "DATA", "--methods", "gradient,nonsense"], 2, "nonsense"),
    (["--data", "DATA", "--methods", ","], 2, "no method"),
    (["--data", "DATA", "--labels", "folder", "--methods", "gradient"], 2, "folder")])
def test_refusals(case, arguments, status, words):
    _, path, _, _, folder = case
    arguments = [str(folder / "data") if a == "DATA" else a for a in arguments]
    out = cli.run("evaluate", "--model", path, *arguments, check=False)
    assert out.returncode == status and words in out.stderr, out.stderr


def test_broken_pictures_are_counted(case, tmp_path):
    _, path, pictures, _, _ = case
    np.save(tmp_path / "good.npy", pictures[0])
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    out = cli.run("evaluate", "--model", path, "--data", tmp_path, "--methods", "gradient", "--json")
    report = json.loads(out.stdout)
    assert report["pictures"] == 1 and report["broken"] == 1 and "bad.jpg" in report["first_broken"]
