"""The bench command works and reports every goal; its figures are for a quiet machine and not looked at here."""
import json
import re
import subprocess
import sys
import xml.etree.ElementTree

import pytest

import cli
import models

BENCH = cli.ROOT / "tests" / "bench"
sys.path.append(str(BENCH))

ROWS = {  # of each part, without precision and threads
    "P1": {"gradient / torch", "backward / own forward"},
    "P2": {f"ParchGrad, {select} / {other}" for select in ("random", "class") for other in ("own forward", "hooks in torch")},
    "P3": {"forward / ONNX Runtime"},
    "P4": {"frame in to map out, p50 / compute", "frame in to map out, p99 / compute",
           "10x overload, newest: p99 age / service time", "stages accounted for in /metrics"},
    "P5": {"allocations in 50 frames", "resident / (2.2 weights + 100 MB)", "a second worker / its session"},
    "P6": {"start to ready"},
    "P7": {"64 streams: largest deviation from an equal share", "two workers / one, one thread each"},
    "methods": {"LRP / own forward", "CRP / own forward", "LRP / zennit", "CRP / zennit-crp", "AblationCAM / own forward",
                "AblationCAM / pytorch-grad-cam", "ScoreCAM, last layer / pytorch-grad-cam",
                "Integrated Gradients, 25 steps / captum", "SmoothGrad, 25 samples / captum"},
    "tricks": {"engine.kept_channels: false, gradient", "engine.kept_channels: false, ParchGrad"},
}


def test_every_switch_of_the_engine_is_tried():
    from nets import engine_switches
    text = (cli.ROOT / "daemon" / "config.def").read_text()
    assert {key for key, _, _ in engine_switches()} == set(re.findall(r'PG_(?:BOOL|ENUM)\(MAIN, "(engine\.\w+)"', text))


def run(*args):
    return subprocess.run([str(BENCH / "run"), "--quick", "--nets", "tiny_resnet", "--threads", "1", *map(str, args)],
                          capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    result = run("--precisions", "f32", "--out", folder)
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def rows_of(folder):
    return json.loads((folder / "report.json").read_text())["rows"]


def test_every_goal_has_its_rows(folder):
    rows = rows_of(folder)
    for part, expected in ROWS.items():
        found = {row["what"]: row for row in rows if row["part"] == part}
        assert expected <= set(found), (part, expected - set(found))
        assert all(found[what]["ratio"] is not None for what in expected), found
    assert all(row["load"] is not None and row["threads"] == 1 for row in rows)
    assert all((row["met"] is None) == (row["goal"] is None) for row in rows)


def test_the_report_is_a_table_and_a_chart(folder):
    lines = (folder / "report.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == len(rows_of(folder)) + 2 and len({line.count("|") for line in table}) == 1
    xml.etree.ElementTree.parse(folder / "report.svg")


def test_one_part_again_keeps_the_other_rows_and_another_report_stands_beside(folder):
    before = rows_of(folder)
    result = run("--only", "P3", "--precisions", "f32,bf16", "--merge", folder / "report.json", "--out", folder)
    assert result.returncode == 0, result.stderr[-3000:]
    after = rows_of(folder)
    assert [r for r in after if r["part"] != "P3"] == [r for r in before if r["part"] != "P3"]
    bf16 = [r for r in after if r["part"] == "P3" and r["precision"] == "bf16"]
    assert len(bf16) == 1 and (bf16[0]["ratio"] or "not supported here" in bf16[0]["note"])
    assert "ratio, " in (folder / "report.md").read_text()


def test_hooks_in_torch_compute_parchgrad():
    """Slow code that computes something else would flatter us."""
    import numpy as np
    import torch
    from hooked_parchgrad import HookedParchGrad
    from parchgrad_reference import Reference
    net, x = models.build("tiny_resnet", 64, 10), models.test_picture(64)
    hooked, ref = HookedParchGrad(net, .1), Reference(net)
    target = int(ref.forward(x).argmax())
    keep = {name: hooked.keep(m).numpy() for name, m in hooked.module.named_modules() if m in hooked.p}
    plan = {layer.index: keep[layer.name] for layer in ref.layers}
    expected = np.abs(ref.backward(target, plan)).mean(0)
    assert cli.rel(hooked(torch.from_numpy(x)).numpy(), expected) < 1e-4  # float32 against float64


def test_layers_are_sorted_by_what_could_be_won():
    out = subprocess.run([str(BENCH / "layers"), str(models.export("tiny_resnet", 64, 10)), "--runs", "2"],
                         capture_output=True, text=True, timeout=100, check=True).stdout
    rows = [line.split() for line in out.splitlines() if " Conv " in line]
    above = [float(row[row.index("Conv") - 1]) for row in rows]
    assert len(rows) >= 9 and above == sorted(above, reverse=True)
    assert {"forward", "backward"} == {row[1] for row in rows}
