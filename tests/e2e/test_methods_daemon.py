"""Every method through the real daemon on a real clip with real weights: chosen by stream, by frame, and by frame while
the clip plays at its own speed. The same frame by `parchgradd explain` is the same map: to the bit, as far as the wire's
256 steps can tell. Few samples and coarse grids: what is tested is the way, other tests have the numbers."""
import io
import json
import time

import msgpack
import numpy as np
import pytest
import zmq
from PIL import Image

import cli
import models
import photos
from daemon import Collector, Daemon, sections_of

SIZE, FPS = 224, 25
CRP_LAYER = "_conv_head"
SETTINGS = {"model.input.mean": 0.5, "model.input.std": 0.5, "parchgrad.select": "instance", "ig.steps": 2,
            "smoothgrad.samples": 2, "scorecam.channels": 6, "rise.masks": 6, "occlusion.window": 96,
            "occlusion.stride": 64, "crp.layer": CRP_LAYER, "explain.methods": ["lrp", "crp"]}
METHODS = [m["name"] for m in json.loads(cli.run("explain", "--list-methods", "--json").stdout)["methods"]]
SEEDED = {"smoothgrad", "parchgrad-smoothgrad", "rise"}  # their noise follows stream and seq
FRAMES = (30, 150)  # the taxi; cyclists


class Case:
    def __init__(self, folder):
        self.folder, self.model = folder, models.export("efficientnet_lite0", SIZE)
        self.frames, self.maps = photos.clip(FRAMES), {}
        (folder / "data").mkdir()
        for i, frame in enumerate(photos.clip(range(0, 240, 30))):
            Image.fromarray(frame[:, :, ::-1]).save(folder / "data" / f"{i}.png")
        for i, frame in enumerate(self.frames):
            Image.fromarray(frame[:, :, ::-1]).save(folder / f"{i}.png")
        self.settings = dict(SETTINGS)
        cli.run("calibrate", "--model", self.model, "--data", folder / "data", "--labels", "predicted", "--out",
                folder / "stats", *cli.settings(self.settings), "--set", "engine.tune=off")
        self.settings["parchgrad.stats"] = str(folder / "stats")
        top = self.explain(0, "crp")[1]["concepts"]["top"]
        self.settings["crp.channels"] = top[:3]
        self.maps.clear()

    def explain(self, frame, method):
        """Map and result of the command line."""
        if (frame, method) not in self.maps:
            out = cli.run("explain", "--model", self.model, "--method", method, "--json", "--save-map",
                          self.folder / "m.npy", "--save-overlay", self.folder / f"{frame}-{method}.png",
                          *cli.settings({**self.settings, "engine.tune": "off", "model.threads": 1}),
                          self.folder / f"{frame}.png")
            self.maps[frame, method] = np.load(self.folder / "m.npy").astype(float), json.loads(out.stdout)
        return self.maps[frame, method]

    def daemon(self, folder, streams):
        return Daemon(self.model, folder, streams=streams, publish={"hwm": 1000, "overlay": True},
                      **sections_of(self.settings))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return Case(tmp_path_factory.mktemp("clip"))


def parts_of(message):
    topic, header, stored = message[:3]
    return topic.decode(), msgpack.unpackb(header), np.frombuffer(stored, np.uint8)


def assert_means_something(h, stored):
    """A map of the network's size with a hot and a cold end; its numbers are finite because its scale is."""
    about = h["map"]
    assert (about["w"], about["h"], about["dtype"]) == (SIZE, SIZE, "u8") and stored.size == SIZE * SIZE
    assert np.isfinite(about["scale"]) and about["scale"] > 0 and about["zero"] == 0, about
    assert stored.max() == 255 and stored.min() < 250, "a flat map"
    assert np.isfinite([h["quality"]["entropy"], h["quality"]["gini"]]).all() and not h["quality"]["degenerate"]


def assert_same_map(h, stored, theirs):
    """Equal after the wire's rounding: the scale is the map's maximum over 255, and no pixel is a step off."""
    m, info = theirs
    assert h["explained"]["class"] == info["explained"]["class"]
    assert h["map"]["scale"] == pytest.approx(m.max() / 255, rel=1e-6)
    assert np.abs(m / h["map"]["scale"] - stored.reshape(m.shape)).max() <= .5 + 1e-4


def assert_same_overlay(case, method, jpeg):
    """The command line's picture, encoded as the daemon does it: quality 85, colours at half the resolution. Two
    encoders differ by up to 2 in a gradient's speckle; heat of another scale would differ by tens."""
    again = io.BytesIO()
    Image.open(case.folder / f"0-{method}.png").convert("RGB").save(again, "JPEG", quality=85, subsampling="4:2:0")
    live, saved = (np.asarray(Image.open(io.BytesIO(j)).convert("RGB")).astype(float) for j in (jpeg, again.getvalue()))
    assert np.abs(live - saved).mean() < 4, np.abs(live - saved).mean()


def settle(d, published):
    """Waits until nothing is in flight; every stream's account closes."""
    def done():
        m = d.metrics()
        m.assert_accounts()
        return sum(m.by_stream("parchgradd_frames_published_total").values()) >= published
    d.wait(done, 50, f"{published} results")
    return d.metrics()


def test_chosen_by_stream(case, tmp_path):
    """One stream per method, two frames of the clip each."""
    streams = {"default": {"policy": "fifo", "depth": 8}, **{f"s-{m}": {"method": m} for m in METHODS}}
    with case.daemon(tmp_path, streams) as d:
        results = Collector(d)
        for frame in case.frames:
            for method in METHODS:
                d.push(f"s-{method}", frame)
        m = settle(d, len(METHODS) * len(FRAMES))
        time.sleep(.2)
        seen = {}
        for stream, h, stored in map(parts_of, results.stop()):
            method = stream.removeprefix("s-")
            assert h["method"] == method
            assert_means_something(h, stored)
            if method not in SEEDED:
                assert_same_map(h, stored, case.explain(h["seq"], method))
            seen[method, h["seq"]] = stored.tobytes()
        assert set(seen) == {(m, i) for m in METHODS for i in range(len(FRAMES))}
        assert len(set(seen.values())) == len(seen), "two methods, or two frames, gave one map"
        assert set(m.by_stream("parchgradd_frames_dropped_total").values()) <= {0}
        assert_ends_with_all_accounted(d, {f"s-{m}": len(FRAMES) for m in METHODS})


def assert_ends_with_all_accounted(d, received):
    status, _, final = d.terminate()
    assert status == 0 and {stream: n for stream, n in final["received"].items() if n} == received
    for stream, count in received.items():
        assert count == final["published"].get(stream, 0) + sum(final["dropped"].get(stream, {}).values()), stream


def test_chosen_by_frame(case, tmp_path):
    """One stream whose own method is another; each frame names its own, under the id and seq that `explain` gives its
    picture, so that noise is the same too. An unknown name between them costs its own frame and no other."""
    with case.daemon(tmp_path, {"default": {"policy": "fifo", "depth": 64, "method": "gradient"}}) as d:
        results = Collector(d)
        for i, method in enumerate(METHODS):
            d.push("input", case.frames[0], method=method, seq=0, boot=bytes([i]) * 16)
            d.push("other", case.frames[0], method="no-such-method")
        d.push("other", case.frames[1])
        m = settle(d, len(METHODS) + 1)
        time.sleep(.2)
        messages = results.stop()
        got = [parts_of(message) for message in messages]
        named = [(h, stored) for stream, h, stored in got if stream == "input"]
        assert [h["method"] for h, _ in named] == METHODS, "in the order of their frames"
        for (h, stored), method in zip(named, METHODS):
            assert_means_something(h, stored)
            assert_same_map(h, stored, case.explain(0, method))
        for message, method in zip((m for m in messages if m[0] == b"input"), METHODS):
            assert_same_overlay(case, method, message[3])
        assert [h["method"] for stream, h, _ in got if stream == "other"] == ["gradient"], "the stream's own again"
        assert m.drops("other") == {"bad_method": len(METHODS)} and m.drops("input") == {}
        reply = d.connect(zmq.REQ, "rpc", RCVTIMEO=10000)
        reply.send_multipart(d.frame("asked", case.frames[0], method="no-such-method"))
        error = msgpack.unpackb(reply.recv_multipart()[1])["error"]
        assert error["reason"] == "bad_method" and "no-such-method" in error["message"], error
        assert_ends_with_all_accounted(d, {"input": len(METHODS), "other": len(METHODS) + 1, "asked": 1})


def test_the_clip_plays_and_every_frame_names_a_method(case, tmp_path):
    """At the clip's own speed with the live policy: what is too slow is superseded and counted, what comes back is what
    its frame asked for."""
    frames = photos.clip(range(3 * FPS))
    with case.daemon(tmp_path, {"default": {"policy": "newest"}}) as d:
        results, begin = Collector(d), time.monotonic()
        for i, frame in enumerate(frames):
            time.sleep(max(0, begin + i / FPS - time.monotonic()))
            d.push("bikes", frame, method=METHODS[i % len(METHODS)])
        d.wait(lambda: d.metrics().get("parchgradd_frames_in_flight", stream="bikes") == 0 and
               d.metrics().get("parchgradd_frames_received_total", stream="bikes") == len(frames), 20, "in flight")
        m = d.metrics()
        m.assert_accounts()
        time.sleep(.2)
        got = [parts_of(message) for message in results.stop()]
        seqs = [h["seq"] for _, h, _ in got]
        assert seqs == sorted(set(seqs)) and len(got) == m.get("parchgradd_frames_published_total", stream="bikes") >= 10
        assert set(m.drops("bikes")) <= {"superseded"}
        for _, h, stored in got:
            assert h["method"] == METHODS[h["seq"] % len(METHODS)]
            assert_means_something(h, stored)
        assert_ends_with_all_accounted(d, {"bikes": len(frames)})
