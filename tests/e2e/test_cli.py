"""The command line from outside: exit status, messages, help, JSON."""
import json
import os
import pathlib
import signal
import subprocess
import time

import numpy as np
import pytest

import cli
import models

COMMANDS = ("explain", "calibrate", "inspect", "bench", "serve", "check-config", "version")


@pytest.fixture(scope="module")
def net():
    return models.export("tiny_resnet", 64, 10, bn="keep")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("in") / "x.npy"
    np.save(path, models.picture(1, 64))
    return path


def fails(status, *args, **kwargs):
    result = cli.run(*args, check=False, **kwargs)
    assert result.returncode == status, (args, result.returncode, result.stderr[-500:])
    assert result.stderr.startswith("parchgradd: "), result.stderr
    assert len(result.stderr.splitlines()) == 1, result.stderr
    return result.stderr


# ---- usage ----


def test_help_lists_every_command_and_every_command_has_help():
    text = cli.run("--help").stdout
    for name in COMMANDS:
        assert f"  {name}" in text
        own = cli.run(name, "--help").stdout
        assert own.startswith(f"usage: parchgradd {name}") and "--help" in own
    assert "--save-attribution FILE.npy" in cli.run("explain", "--help").stdout
    assert "[explain.method]" in cli.run("explain", "--help").stdout


def test_version():
    assert cli.run("version").stdout.startswith("parchgradd ")
    assert cli.run("--version").stdout == cli.run("version").stdout
    assert json.loads(cli.run("version", "--json").stdout)["version"]


@pytest.mark.parametrize("args, words", [
    ((), "a command is missing"),
    (("explian",), "there is no command 'explian'"),
    (("explain",), "explain wants an argument: INPUT"),
    (("explain", "a", "b"), "'b' is a second"),
    (("explain", "--modle", "m", "a"), "unknown option '--modle'"),
    (("explain", "--json=1", "a"), "--json takes no value"),
    (("explain", "a", "--model"), "--model wants a value"),
    (("explain", "a", "--set", "workers"), "--set wants KEY=VALUE"),
    (("explain", "a", "--set", "wokers=1"), "did you mean 'workers'?"),
    (("explain", "a", "--set", "workers=many"), "--set workers: workers must be a whole number"),
    (("explain", "a"), "model.path is not set"),
    (("version", "x"), "version takes no argument"),
    (("calibrate", "--model", "m"), "--data DIR and --out FILE"),
    (("bench", "--runs", "0", "--model", "m"), "--runs must be a whole number"),
    (("bench", "--model", __file__, "--only", "forward,sideways"), "--only: 'sideways'"),
    (("check-config",), "check-config wants an argument: FILE"),
])
def test_usage_errors_are_status_2(args, words):
    result = cli.run(*args, check=False)
    assert result.returncode == 2 and words in result.stderr, result.stderr


def test_list_methods_needs_no_model():
    text = cli.run("explain", "--list-methods").stdout
    assert {"gradient", "inputgrad", "parchgrad"} <= {line.split()[0] for line in text.splitlines()}


def test_a_full_disk_is_no_success():
    with open("/dev/full", "w") as full:
        result = subprocess.run([cli.binary(), "version"], stdout=full, stderr=subprocess.PIPE,
                                text=True)
    assert result.returncode == 1 and "stdout" in result.stderr


# ---- configuration ----


def test_check_config(net, tmp_path):
    good = tmp_path / "good.yaml"
    good.write_text(f"model:\n  path: {net}\nexplain: {{method: gradient}}\n")
    assert "good" in cli.run("check-config", good).stdout
    assert json.loads(cli.run("check-config", "--config", good, "--json").stdout)["good"]
    assert "not both" in fails(2, "check-config", good, "--config", good)
    assert f"{good}:3:19: explain.target" in fails_with(good, "explain: {target: 99, method: gradient}")


def fails_with(path, line):
    """check-config of the same file with another last line."""
    bad = path.with_name("bad.yaml")
    lines = path.read_text().splitlines()
    bad.write_text("\n".join(lines[:-1] + [line]) + "\n")
    return fails(2, "check-config", bad).replace(str(bad), str(path))


def test_missing_model_names_the_line(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("explain: {top: 3}\nmodel:\n  path: none.onnx\n")
    text = fails(2, "check-config", config)
    assert f"{config}:3:9: model.path: cannot read 'none.onnx'" in text


def test_model_that_is_none_is_status_3(tmp_path):
    (tmp_path / "no.onnx").write_bytes(b"not a model at all")
    config = tmp_path / "c.yaml"
    config.write_text(f"model: {{path: {tmp_path}/no.onnx}}\n")
    fails(3, "check-config", config)
    fails(3, "inspect", "--model", tmp_path / "no.onnx")


@pytest.mark.parametrize("text, place", [
    (b"[" * 40000, ":1:"), (b"a: &a [x]\nb: [*a, *a]\n", ":1:4: anchors"),
    (b"a: 1\na: 2\n", ":2:1: duplicate"), (b"model: \0\n", ":1:8:"), (b"a" * (1 << 20), ":1:1: larger"),
], ids=("deep", "alias", "duplicate", "nul", "large"))
def test_hostile_yaml_is_refused_quickly(tmp_path, text, place):
    config = tmp_path / "c.yaml"
    config.write_bytes(text)
    begin = time.monotonic()
    assert f"{config}{place}" in fails(2, "check-config", config)
    assert time.monotonic() - begin < 1


# ---- explain ----


def test_explain_prints_and_saves(net, picture, tmp_path):
    a, m, y, o = (tmp_path / n for n in ("a.npy", "m.npy", "y.npy", "o.png"))
    out = cli.run("explain", "--model", net, "--method", "gradient", "--json", "--target", "3",
                  "--save-attribution", a, "--save-map", m, "--save-logits", y,
                  "--save-overlay", o, picture)
    info = json.loads(out.stdout)
    assert info["explained"]["class"] == 3 and info["method"] == "gradient"
    assert len(info["model"]["sha256"]) == 64 and len(info["top"]) == 5
    assert info["timing"]["total"] >= sum(v for k, v in info["timing"].items() if k != "total")
    attribution, saliency, logits = np.load(a), np.load(m), np.load(y)
    assert attribution.shape == (3, 64, 64) and attribution.dtype == np.float32
    assert saliency.shape == (64, 64) and logits.shape == (10,)
    assert np.allclose(np.abs(attribution).mean(0), saliency, rtol=1e-5)
    p = np.exp(logits - logits.max())
    assert info["top"][0][0] == logits.argmax()
    assert abs(info["top"][0][2] - p.max() / p.sum()) < 1e-5
    assert o.read_bytes().startswith(b"\x89PNG")
    text = cli.run("explain", "--model", net, "--method", "gradient", picture).stdout
    assert "explained: class" in text and "time:" in text


def test_bad_inputs_are_status_4(net, picture, tmp_path):
    def refuse(name, data):
        path = tmp_path / name
        path.write_bytes(data)
        text = fails(4, "explain", "--model", net, "--method", "gradient", path)
        assert name in text, text
    good = picture.read_bytes()
    refuse("empty", b"")
    refuse("text", b"hello, world")
    refuse("cut.npy", good[:-5])
    refuse("cut.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF")
    refuse("cut.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    x = models.picture(1, 64)
    for name, array in (("f64.npy", x.astype(np.float64)), ("small.npy", x[:, :32].astype(np.float32)),
                        ("nan.npy", np.full_like(x, np.nan, dtype=np.float32))):
        np.save(tmp_path / name, array)
        assert name in fails(4, "explain", "--model", net, "--method", "gradient", tmp_path / name)
    assert "none" in fails(4, "explain", "--model", net, "--method", "gradient", tmp_path / "none")


def test_wrong_choices_are_status_2(net, picture):
    assert "magic" in fails(2, "explain", "--model", net, "--method", "magic", picture)
    assert "explain.target" in fails(2, "explain", "--model", net, "--method", "gradient",
                                     "--target", "10", picture)
    assert "matches no" in fails(2, "explain", "--model", net, "--set", "parchgrad.select=random",
                                 "--set", "parchgrad.layers=[nothing*]", picture)


# ---- inspect, bench, calibrate ----


def test_inspect(net):
    info = json.loads(cli.run("inspect", "--model", net, "--json").stdout)
    convs = info["convolutions"]
    assert info["classes"] == 10 and info["input"] == [1, 3, 64, 64] and info["session_bytes"] > info["kept_bytes"] > 0
    assert sum(c["pruned"] for c in convs) == len(convs) // 2
    assert any(c["batch_norm"] for c in convs) and "kept" in info["batch_norm"]
    assert len(info["operators"]) == info["nodes_run"]
    text = cli.run("inspect", "--model", net).stdout
    assert all(c["name"] in text for c in convs) and "engine.kept_cache" in text
    plain = cli.run("inspect", "--model", net, "--json", "--set", "explain.method=gradient").stdout
    assert json.loads(plain)["kept_bytes"] == 0


def test_bench(net):
    info = json.loads(cli.run("bench", "--model", net, "--runs", 3, "--layers", "--json").stdout)
    for key in ("forward", "backward"):
        assert 0 < info[key]["min_ms"] <= info[key]["median_ms"] <= info[key]["p90_ms"]
    assert {"gradient", "parchgrad"} <= set(info["methods"]) and info["random_channels"]
    assert sum(layer["forward_ms"] for layer in info["layers"]) > 0
    assert info["peak"]["f32_gflops"] > 1 and info["peak"]["read_gbs"] > 0
    assert all(layer["forward_share"] > 0 for layer in info["layers"] if layer["forward_ms"] > 0)
    stages = info["methods"]["parchgrad"]["stages_ms"]
    assert 0 < stages["forward"] + stages["backward"] < 2 * info["methods"]["parchgrad"]["p90_ms"]
    text = cli.run("bench", "--model", net, "--runs", 1, "--layers").stdout
    assert "% of the f32 peak" in text and "bound" in text


def test_bench_in_steps(net):
    """--step measures when told, and only what --only names."""
    command = [cli.binary(), "bench", "--model", str(net), "--step", "--only", "forward,parchgrad", "--runs", "5"]
    result = subprocess.run(command, input="1\n5\n", capture_output=True, text=True, timeout=60)
    one, five = map(json.loads, result.stdout.splitlines())
    assert result.returncode == 0 and (one["runs"], five["runs"]) == (1, 5)
    assert "backward" not in five and list(five["methods"]) == ["parchgrad"]
    bad = subprocess.run(command, input="6\n", capture_output=True, text=True, timeout=60)
    assert bad.returncode == 2 and "from 1 to --runs, 5" in bad.stderr


def test_calibrate(net, tmp_path):
    cli.write_calibration(tmp_path / "data", [models.picture(i, 64) for i in range(4)], [0, 1, 0, 1])
    (tmp_path / "data/0/broken.jpg").write_bytes(b"\xff\xd8 no picture")
    args = ("calibrate", "--model", net, "--data", tmp_path / "data", "--out", tmp_path / "stats")
    info = json.loads(cli.run(*args, "--json").stdout)
    assert info["samples"] == 4 and info["classes_testable"] == 2 and info["broken"] == 1
    assert (tmp_path / "stats").exists()
    assert "could not be used" in cli.run(*args).stdout
    assert "4 pictures" in cli.run(*args, "--labels", "predicted").stdout
    assert "folder or predicted" in fails(2, *args, "--labels", "guess")
    fails(2, *args, "--data", tmp_path / "nowhere")


def test_calibrate_stopped_leaves_no_file(net, tmp_path):
    folder = tmp_path / "data/0"
    folder.mkdir(parents=True)
    np.save(folder / "0.npy", models.picture(0, 64).astype(np.float32))
    for i in range(1, 4000):
        os.link(folder / "0.npy", folder / f"{i}.npy")
    process = subprocess.Popen([cli.binary(), "calibrate", "--model", net, "--data", tmp_path / "data",
                                "--out", tmp_path / "stats"], stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "OMP_NUM_THREADS": "1"})
    time.sleep(.3)
    process.send_signal(signal.SIGINT)
    _, text = process.communicate(timeout=20)
    assert process.returncode == 1 and text.startswith("parchgradd: ")
    assert [p.name for p in pathlib.Path(tmp_path).iterdir()] == ["data"]
