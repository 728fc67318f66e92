"""`parchgradd evaluate` against the definitions of its metrics, computed here with torch and numpy from the maps that
`explain` writes. Probabilities of both agree to about 1e-6; a share of pixels that is cut between two that are equal to
rounding may differ by one pixel, so figures are compared to 1e-3.
"""
import json
import struct

import numpy as np
import pytest
import torch
from parchgrad_client import Recorder, encode_frame

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


def test_sampling_is_not_taken_for_a_change(tmp_path):
    """A method that samples draws the same for a picture and its disturbed copies, whatever the picture's number: the
    difference of two draws of two samples would be as large as the maps."""
    path = models.export("tiny_resnet", 32, CLASSES, bn="keep")
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", models.test_picture(32))
    options = ["--set", "smoothgrad.samples=2", "--set", "smoothgrad.mode=signed", "--set", "rise.masks=4"]
    out = cli.run("evaluate", "--model", path, "--data", tmp_path, "--methods", "smoothgrad,rise", "--json",
                  "--no-randomised", *options)
    for method in ("smoothgrad", "rise"):
        noise = json.loads(out.stdout)["methods"][method]["noise"]["values"]
        assert noise[1] < 2 * noise[0], (method, noise)


# ---- recordings ----


def record(path, pictures, stream="cam0", **optional):
    with Recorder(path, stream) as recorder:
        for x in pictures:
            recorder.send(x, **optional)
    return path


def evaluate(path, data, *arguments, check=True):
    out = cli.run("evaluate", "--model", path, "--data", data, "--methods", "gradient", "--json",
                  "--no-randomised", *arguments, check=check)
    return json.loads(out.stdout) if check else out


def test_a_recording_is_its_frames_in_order(case, tmp_path):
    """The same pictures as frames of a stream: the same figures, stability and boxes among them. What the producer
    wanted explained, and how, does not count."""
    _, path, pictures, report, _ = case
    data = record(tmp_path / "r", pictures, target=3, method="gradcam", roi=[8, 16, 32, 24])
    out = cli.run("evaluate", "--model", path, "--data", data, "--methods", ",".join(METHODS), "--json")
    recorded = json.loads(out.stdout)
    assert recorded["pictures"] == len(pictures) and recorded["broken"] == 0
    for method in METHODS:
        for name, figure in report["methods"][method].items():
            if name in ("ms", "grid_pointing"):
                continue
            assert recorded["methods"][method][name] == figure, name


def test_labels_of_frames(case, tmp_path):
    net, path, pictures, report, _ = case
    top = [int(probabilities(net, x).argmax()) for x in pictures]
    assert evaluate(path, record(tmp_path / "a", pictures, label=top[0]))["recognised"] == top.count(top[0])
    other = (top[0] + 1) % CLASSES
    data = record(tmp_path / "b", pictures, label=other)
    assert evaluate(path, data)["recognised"] == top.count(other)
    assert evaluate(path, data, "--labels", "predicted")["recognised"] == len(pictures)
    mine = evaluate(path, data)["methods"]["gradient"]["aopc_morf"]["values"]
    assert mine != report["methods"]["gradient"]["aopc_morf"]["values"], "of the label's class"
    far = evaluate(path, record(tmp_path / "c", pictures, label=CLASSES), check=False)
    assert far.returncode == 4 and "no picture could be used" in far.stderr


def test_a_recording_of_several_streams(case, tmp_path):
    _, path, pictures, report, _ = case
    a, b = (record(tmp_path / name, pictures[i:], name).read_bytes() for i, name in ((0, "a"), (2, "b")))
    both = tmp_path / "both"
    both.write_bytes(a + b[8:])
    out = evaluate(path, both, check=False)
    assert out.returncode == 2 and "'a' and 'b'" in out.stderr and "--stream" in out.stderr
    assert evaluate(path, both, "--stream", "a")["pictures"] == 4
    assert evaluate(path, both, "--stream", "b", "--limit", "1")["pictures"] == 1
    out = evaluate(path, both, "--stream", "c", check=False)
    assert out.returncode == 2 and "'c'" in out.stderr


@pytest.mark.parametrize("damage, words", [
    (lambda data, first: data[:-1], "cut off in frame 4"),
    (lambda data, first: data[:first + 2], "cut off in frame 2"),
    (lambda data, first: data[:first] + struct.pack("<I", 4) + b"cam0" + struct.pack("<I", 2 ** 31) + data[first:],
     "frame 2, at byte"),
    (lambda data, first: data[:8] + struct.pack("<I", 3) + b"_xy" + data[16:], "no valid stream id"),
    (lambda data, first: data[:8], "holds no frame"),
    (lambda data, first: b"RIFF" + data[4:], "is no recording"),
    (lambda data, first: data[:5], "is no recording"),
    (lambda data, first: b"", "is no recording")])
def test_damaged_recordings(case, tmp_path, damage, words):
    _, path, pictures, _, _ = case
    data = record(tmp_path / "good", pictures).read_bytes()
    first = 8 + (len(data) - 8) // 4  # all frames have one size
    (tmp_path / "bad").write_bytes(damage(data, first))
    out = evaluate(path, tmp_path / "bad", check=False)
    assert out.returncode == 4 and words in out.stderr and "bad" in out.stderr, out.stderr


def test_mutated_recordings_end_in_a_sentence(case, tmp_path):
    """A byte in a hundred changed among the lengths and headers of small frames: refused, or the frame is counted."""
    _, path, pictures, _, _ = case
    jpeg = (cli.ROOT / "clients/demo/contact_sheet.jpg").read_bytes()[:3000]
    rng = np.random.default_rng(1)
    parts = [encode_frame("cam0", i, bytes(16), 1 + i, "jpeg", 64, 64, jpeg) for i in range(6)]
    data = bytearray(b"PGFRAME1" + b"".join(struct.pack("<I", len(p)) + p for frame in parts for p in frame))
    size = (len(data) - 8) // 6
    for i in range(15):
        bad = bytearray(data)
        for _ in range(6):
            bad[8 + int(rng.integers(6)) * size + int(rng.integers(130))] = int(rng.integers(256))
        (tmp_path / "r").write_bytes(bad)
        out = evaluate(path, tmp_path / "r", check=False)
        assert out.returncode in (2, 4) and out.stderr.strip(), (i, out.returncode, out.stderr)


def test_broken_frames_are_counted(case, tmp_path):
    """A picture that does not decode, a header that is no header: these frames and no others."""
    _, path, pictures, _, _ = case
    data = record(tmp_path / "r", pictures[:2])
    bad = [encode_frame("cam0", 9, bytes(16), 1, "jpeg", 64, 64, b"no picture"), [b"cam0", b"\xc1", b"x"]]
    with open(data, "ab") as f:
        f.write(b"".join(struct.pack("<I", len(part)) + part for frame in bad for part in frame))
    report = evaluate(path, data)
    assert report["pictures"] == 2 and report["broken"] == 2 and report["first_broken"].startswith("9: ")


@pytest.mark.parametrize("arguments, status, words", [
    ([], 2, "--data"), (["--data", "nowhere"], 2, "nowhere"),
    (["--data", "DATA", "--methods", "gradient,nonsense"], 2, "nonsense"),
    (["--data", "DATA", "--methods", ","], 2, "no method"),
    (["--data", "DATA", "--labels", "folder", "--methods", "gradient"], 2, "folder"),
    (["--data", "DATA", "--stream", "cam0", "--methods", "gradient"], 2, "--stream"),
    (["--data", "RECORDING", "--labels", "folder", "--methods", "gradient"], 2, "recording"),
    (["--data", "RECORDING", "--stream", "s" * 200, "--methods", "gradient"], 2, "--stream"),
    (["--data", "/dev/null", "--methods", "gradient"], 2, "/dev/null")])
def test_refusals(case, tmp_path, arguments, status, words):
    _, path, pictures, _, folder = case
    places = {"DATA": str(folder / "data"), "RECORDING": str(record(tmp_path / "r", pictures[:1]))}
    arguments = [places.get(a, a) for a in arguments]
    out = cli.run("evaluate", "--model", path, *arguments, check=False)
    assert out.returncode == status and words in out.stderr, out.stderr


def test_broken_pictures_are_counted(case, tmp_path):
    _, path, pictures, _, _ = case
    np.save(tmp_path / "good.npy", pictures[0])
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    out = cli.run("evaluate", "--model", path, "--data", tmp_path, "--methods", "gradient", "--json")
    report = json.loads(out.stdout)
    assert report["pictures"] == 1 and report["broken"] == 1 and "bad.jpg" in report["first_broken"]
