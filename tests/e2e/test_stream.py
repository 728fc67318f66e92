"""The daemon as a process, seen through its sockets only: frames in, explanations out, every frame accounted for."""
import io
import json
import os
import pathlib
import re
import struct
import time

import msgpack
import numpy as np
import pytest
import zmq

import cli
import models
from daemon import Collector, Daemon, go_tail, has_go, python_tail, sections_of

SIZE = 64
VECTORS = pathlib.Path(cli.ROOT) / "clients/vectors"


@pytest.fixture(scope="module")
def model():
    return models.export("tiny_resnet", SIZE, 10, bn="keep")


def noise(seed=0, size=SIZE):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def settle(d, stream, received, seconds=20):
    """Waits until `received` frames are counted and none is in flight; returns the scrape."""
    def done():
        m = d.metrics()
        m.assert_accounts()
        return (m.get("parchgradd_frames_received_total", stream=stream) >= received
                and m.get("parchgradd_frames_in_flight", stream=stream) == 0)
    d.wait(done, seconds, f"{stream}: {received} frames are not accounted for")
    return d.metrics()


def ask(d, parts, seconds=10):
    """One request over rpc: the reply's parts."""
    s = d.connect(zmq.REQ, "rpc", RCVTIMEO=seconds * 1000)
    s.send_multipart(parts)
    reply = s.recv_multipart()
    s.close()
    return reply


# ---- results ----


def test_a_frame_comes_back_explained(model, tmp_path):
    with Daemon(model, tmp_path) as d:
        sub = d.subscribe()
        meta = {"camera": "north", "n": [1, 2, {"deep": True}]}
        d.push("cam0", noise(), meta=meta, trace="00-abc-def-01")
        topic, header, pixels = sub.recv_multipart()[:3]
        h = msgpack.unpackb(header)
        assert topic == b"cam0" and h["v"] == 1 and h["seq"] == 0 and h["boot"] == d.boot
        assert h["meta"] == meta and h["trace"] == "00-abc-def-01" and h["method"] == "gradient"
        assert h["top"][0][0] == h["explained"]["class"] and h["explained"]["why"] == "top1"
        assert len(h["model"]["sha256"]) == 64 and h["map"]["w"] == h["map"]["h"] == SIZE
        width = {"u8": 1, "u16": 2, "f16": 2, "f32": 4}[h["map"]["dtype"]]
        assert len(pixels) == SIZE * SIZE * width
        stages = {k: v for k, v in h["timing"].items() if k != "total"}
        assert sum(stages.values()) <= h["timing"]["total"]
        assert 0 < h["age"] < 30e9


def test_the_map_is_the_command_lines_map(model, tmp_path):
    """f32chw over the wire and .npy on the command line are the same input: same map."""
    x = models.picture(3, SIZE)
    np.save(tmp_path / "x.npy", x)
    cli.run("explain", "--model", model, "--method", "gradient", "--save-map", tmp_path / "m.npy",
            tmp_path / "x.npy")
    expected = np.load(tmp_path / "m.npy")
    with Daemon(model, tmp_path) as d:
        reply = ask(d, d.frame("cam0", x.astype("<f4").tobytes(), fmt="f32chw", w=SIZE, h=SIZE))
    info = msgpack.unpackb(reply[1])["map"]
    kind = {"u8": "u1", "u16": "<u2", "f16": "<f2", "f32": "<f4"}[info["dtype"]]
    got = (np.frombuffer(reply[2], kind).astype(float).reshape(info["h"], info["w"])
           - info["zero"]) * info["scale"]
    step = info["scale"] if kind[1] == "u" or kind[0] == "u" else 1e-3 * expected.max()
    assert np.abs(got - expected).max() <= step * 1.01


def test_two_consumers_see_the_same_bytes(model, tmp_path):
    with Daemon(model, tmp_path, publish={"hwm": 1000},
                streams={"default": {"policy": "fifo", "depth": 64}}) as d:
        a, b = Collector(d), Collector(d)
        for i in range(100):
            d.push("cam0", noise(i))
            time.sleep(.01)
        m = settle(d, "cam0", 100)
        time.sleep(.3)
        a, b = a.stop(), b.stop()
        assert a == b and len(a) == m.get("parchgradd_frames_published_total", stream="cam0")
        seqs = [msgpack.unpackb(x[1])["seq"] for x in a]
        assert seqs == sorted(seqs)


@pytest.mark.skipif(not has_go(), reason="go is not installed")
def test_python_and_go_see_the_same_bytes(model, tmp_path):
    with Daemon(model, tmp_path, streams={"default": {"policy": "fifo", "depth": 64}},
                publish={"hwm": 1000, "overlay": True}) as d:
        go, python = go_tail(d, tmp_path), python_tail(d, tmp_path)
        time.sleep(1.5)  # until both have subscribed
        for i in range(100):
            d.push("cam0", noise(i))
            time.sleep(.01)
        settle(d, "cam0", 100)
        time.sleep(.5)
        mine, theirs = python.stop(), go.stop()
        assert len(mine) == 100 and list(mine.items()) == list(theirs.items())


@pytest.mark.parametrize("workers", [1, 3])
def test_results_are_in_order(model, tmp_path, workers):
    with Daemon(model, tmp_path, workers=workers, publish={"hwm": 1000},  # nothing lost on PUB
                streams={"default": {"policy": "fifo", "depth": 1000}}) as d:
        c = Collector(d)
        for i in range(150):
            d.push(f"cam{i % 3}", noise(i))
        for cam in range(3):
            settle(d, f"cam{cam}", 50)
        time.sleep(.3)
        for cam in range(3):
            seqs = [msgpack.unpackb(x[1])["seq"] for x in c.messages if x[0] == b"cam%d" % cam]
            assert seqs == list(range(50))
        c.stop()


# ---- overload ----


def overload(d, seconds, factor=2.0, streams=("cam0", "cam1"), say=None):
    """Feeds `factor` times what the daemon manages, scraping all the time. Returns the scrapes."""
    pictures = [noise(i) for i in range(8)]
    rate = factor * capacity(d, pictures)
    begin = time.monotonic()
    sent, scrapes, next_scrape = dict.fromkeys(streams, 0), [], begin
    for stream in streams:
        sent[stream] = d.seq[stream]
    n = 0
    while time.monotonic() < begin + seconds:
        stream = streams[n % len(streams)]
        d.push(stream, pictures[n % 8])
        sent[stream] += 1
        n += 1
        if time.monotonic() >= next_scrape:
            m = d.metrics()
            m.assert_accounts()
            scrapes.append(m)
            next_scrape += min(1.0, seconds / 12)
        delay = begin + n / rate - time.monotonic()
        if delay > 0:
            time.sleep(delay)
    for stream in streams:
        m = settle(d, stream, sent[stream])
        assert m.get("parchgradd_frames_received_total", stream=stream) == sent[stream]
    scrapes.append(d.metrics())
    return scrapes


def capacity(d, pictures, seconds=1.5):
    """Frames per second that one frame after the other (rpc) reaches."""
    s = d.connect(zmq.REQ, "rpc", RCVTIMEO=10000)
    begin, n = time.monotonic(), 0
    while time.monotonic() < begin + seconds:
        s.send_multipart(d.frame("warm", pictures[n % len(pictures)]))
        s.recv_multipart()
        n += 1
    s.close()
    return n / seconds


def assert_flat(scrapes, slack=4 << 20):
    """No allocation and no growth between the first third and the end. Returns the frames explained
    in that time, and the resident memory at its begin and end in bytes."""
    warm, end = scrapes[len(scrapes) // 3], scrapes[-1]
    frames = sum(end.by_stream("parchgradd_frames_published_total").values()) - sum(
        warm.by_stream("parchgradd_frames_published_total").values())
    allocations = (end.get("parchgradd_memory_allocations_total")
                   - warm.get("parchgradd_memory_allocations_total"))
    resident = [m.get("process_resident_memory_bytes") for m in (warm, end)]
    assert frames > 10
    assert allocations == 0, f"{allocations} allocations in {frames} frames"
    assert resident[1] - resident[0] < slack, f"resident memory grew from {resident[0]} bytes to {resident[1]}"
    return frames, resident


def test_overload(model, tmp_path, say):
    with Daemon(model, tmp_path) as d:
        scrapes = overload(d, 12)
        frames, _ = assert_flat(scrapes)
        last = scrapes[-1]
        drops = {s: last.drops(s) for s in ("cam0", "cam1")}
        say(f"\n2x overload: {frames:.0f} frames explained after warm-up, 0 allocations, drops {drops}")
        assert all(set(x) == {"superseded"} for x in drops.values()), drops
        share = (last.get("parchgradd_frames_published_total", stream="cam0")
                 / last.get("parchgradd_frames_received_total", stream="cam0"))
        assert .2 < share < .95


def test_max_age_drops_stale_frames(model, tmp_path):
    with Daemon(model, tmp_path, streams={"default": {"max_age": 1.0}}) as d:
        d.push("cam0", noise(), ts=time.time_ns() - int(5e9))
        m = settle(d, "cam0", 1)
        assert m.drops("cam0") == {"stale": 1}
        d.push("cam0", noise())
        m = settle(d, "cam0", 2)
        assert m.get("parchgradd_frames_published_total", stream="cam0") == 1


def test_gaps_order_and_restarts(model, tmp_path):
    with Daemon(model, tmp_path, streams={"default": {"policy": "fifo", "depth": 100}}) as d:
        for seq in (5, 6, 9, 8, 9, 12):
            d.push("cam0", noise(), seq=seq)
        d.push("cam0", noise(), seq=0, boot=b"B" * 16)  # a restarted producer
        m = settle(d, "cam0", 7)
        assert m.drops("cam0") == {"out_of_order": 2}
        assert m.get("parchgradd_frames_gap_total", stream="cam0") == 4
        assert m.get("parchgradd_frames_published_total", stream="cam0") == 5


def test_memory_and_start(tmp_path):
    """Resident: at most 2.2 times the weights and 100 MB, and for these little pictures, two copies of the weights (one for
    each direction, none for the kept channels) and 60 MB. It does not grow. Start: processor time, which a busy machine does
    not stretch."""
    model = models.export("resnet18", SIZE, 10)
    with Daemon(model, tmp_path, explain={"method": "parchgrad"}, parchgrad={"select": "random", "layers": 1.0}) as d:
        assert d.metrics().get("process_cpu_seconds_total") < 3
        for i in range(5):
            ask(d, d.frame("cam0", noise(i)))
        resident = d.metrics().get("process_resident_memory_bytes")
        assert resident < 2.2 * model.stat().st_size + 100e6
        assert resident < 2 * model.stat().st_size + 60e6
        for i in range(100):
            ask(d, d.frame("cam0", noise(i)))
        assert d.metrics().get("process_resident_memory_bytes") - resident < 2e6


def test_inspect_tells_what_a_worker_takes(tmp_path, say):
    """A second worker's resident memory, once both have explained more classes than fit into engine.kept_cache, is what
    inspect says of a worker and at most 16 MB: stacks, pictures, maps, queues, the allocator's own. The first worker with
    every layer pruned stays below 2.2 times the weights and 100 MB."""
    model, classes = models.export("resnet50", 224), 12
    cli.write_calibration(tmp_path / "data", [models.picture(i, 224, classes) for i in range(2 * classes)],
                          [i % classes for i in range(2 * classes)])
    cli.calibrate(model, tmp_path / "data", tmp_path / "stats", parchgrad__layers=1.0)
    settings = {"parchgrad.stats": str(tmp_path / "stats"), "explain.method": "parchgrad", "parchgrad.layers": 1.0}
    options = cli.settings({"engine.tune": "off", **settings})
    info = json.loads(cli.run("inspect", "--model", model, "--json", *options).stdout)
    assert 0 < info["kept_bytes"] <= 22 << 20
    resident = {}
    for workers in (1, 2):
        with Daemon(model, tmp_path, workers=workers, **sections_of(settings)) as d:
            sockets = [d.connect(zmq.REQ, "rpc", RCVTIMEO=20000) for _ in range(workers)]
            for i in range(2 * classes):
                for s, stream in zip(sockets, ("cam0", "cam1")):  # one frame to each worker
                    s.send_multipart(d.frame(stream, noise(i, 224), target=i % classes))
                for s in sockets:
                    s.recv_multipart()
            resident[workers] = d.metrics().get("process_resident_memory_bytes")
    more = resident[2] - resident[1]
    say(f"  second worker {more * 1e-6:.1f} MB, session {info['session_bytes'] * 1e-6:.1f} MB, of these "
        f"{info['kept_bytes'] * 1e-6:.1f} MB for kept channels")
    assert -2e6 < more - info["session_bytes"] < 16e6
    assert resident[1] < 2.2 * model.stat().st_size + 100e6


def test_more_streams_than_allowed(model, tmp_path):
    with Daemon(model, tmp_path, limits={"streams": 2}) as d:
        for i in range(5):
            d.push(f"cam{i}", noise())
            time.sleep(.05)
        m = settle(d, "_other", 3)
        assert m.drops("_other") == {"too_many_streams": 3}
        assert m.by_stream("parchgradd_frames_received_total").keys() <= {
            "cam0", "cam1", "_other", "_unknown"}


# ---- bad input ----


def unpack(data):
    parts = []
    while data:
        (n,) = struct.unpack_from("<I", data)
        parts.append(data[4:4 + n])
        data = data[4 + n:]
    return parts


def jpeg(size=SIZE, mode="RGB"):
    from PIL import Image
    out = io.BytesIO()
    Image.fromarray(noise(3, size)).convert(mode).save(out, "JPEG")
    return out.getvalue()


def png(size=SIZE):
    from PIL import Image
    out = io.BytesIO()
    Image.fromarray(noise(3, size)).save(out, "PNG")
    return out.getvalue()


def bad_pictures():
    """(name, pixels, header keys, reason)"""
    nan = models.picture(0, SIZE).astype("<f4")
    nan[1, 3, 5] = np.nan
    inf = models.picture(0, SIZE).astype("<f4")
    inf[0, 0, 0] = -np.inf
    whole, png_whole = jpeg(), png()
    square = {"w": SIZE, "h": SIZE}
    yield "NaN pixel", nan.tobytes(), {"fmt": "f32chw", **square}, "malformed"
    yield "infinite pixel", inf.tobytes(), {"fmt": "f32chw", **square}, "malformed"
    yield ("f32chw of another size", models.picture(0, 32).tobytes(),
           {"fmt": "f32chw", "w": 32, "h": 32}, "bad_shape")
    yield "JPEG header only", whole[:20], {"fmt": "jpeg", **square}, "malformed"
    yield "JPEG cut in the middle", whole[:len(whole) // 2], {"fmt": "jpeg", **square}, "malformed"
    yield "JPEG without its end", whole[:-2], {"fmt": "jpeg", **square}, "malformed"
    at = whole.index(b"\xff\xc4") + 5  # how many Huffman codes there are of each length
    yield ("JPEG with a broken table", whole[:at] + b"\xff" * 16 + whole[at + 16:],
           {"fmt": "jpeg", **square}, "malformed")
    at = whole.index(b"\xff\xc0") + 5  # height and width
    yield ("JPEG that claims 65500 x 65500", whole[:at] + struct.pack(">HH", 65500, 65500) + whole[at + 4:],
           {"fmt": "jpeg", "w": 65500, "h": 65500}, "too_large")
    yield "CMYK JPEG", jpeg(mode="CMYK"), {"fmt": "jpeg", **square}, "malformed"
    yield "PNG as JPEG", png_whole, {"fmt": "jpeg", **square}, "malformed"
    yield "JPEG as PNG", whole, {"fmt": "png", **square}, "malformed"
    yield "no JPEG", b"\0" * 500, {"fmt": "jpeg", **square}, "malformed"
    yield "JPEG of another size", whole, {"fmt": "jpeg", "w": SIZE, "h": 65}, "bad_shape"
    yield "PNG cut", png_whole[:len(png_whole) // 2], {"fmt": "png", **square}, "malformed"
    broken = bytearray(png_whole)
    broken[len(broken) // 2] ^= 255
    yield "PNG with a flipped byte", bytes(broken), {"fmt": "png", **square}, "malformed"
    yield "PNG of another size", png_whole, {"fmt": "png", "w": 63, "h": SIZE}, "bad_shape"
    huge = bytearray(png_whole)
    huge[16:24] = struct.pack(">II", 100000, 100000)
    yield "PNG that claims 10^10 pixels", bytes(huge), {"fmt": "png", "w": 100000, "h": 100000}, "too_large"
    yield "raw, a byte short", b"\0" * (SIZE * SIZE * 3 - 1), {**square}, "bad_shape"
    yield "raw, stride below a row", b"\0" * SIZE * 8, {"stride": 8, **square}, "bad_shape"
    yield "class out of range", noise().tobytes(), {"target": 10, **square}, "bad_target"
    yield "unknown class name", noise().tobytes(), {"target": "no such", **square}, "bad_target"


def bad_messages():
    """(name, message parts, stream it is counted under, reason)"""
    whole = unpack((VECTORS / "frame_bgr24.bin").read_bytes())
    for size in range(len(whole[1])):
        yield f"header cut after {size} bytes", [whole[0], whole[1][:size], whole[2]], "cam0", "malformed"
    h = msgpack.unpackb(whole[1])
    for name, extra in (("a key with a megabyte", b"x" * (1 << 20)), ("100000 values", [None] * 100000)):
        yield f"header with {name}", [whole[0], msgpack.packb({**h, "odd": extra}), whole[2]], "cam0", "malformed"
    listing = json.loads((VECTORS / "vectors.json").read_text())
    for entry in listing["frames"]:
        if entry["drop"] != "none":
            yield (entry["file"], unpack((VECTORS / entry["file"]).read_bytes()), entry["stream"],
                   entry["drop"])


def test_bad_input_matrix(model, tmp_path, say):
    """Every bad message has its drop reason, and a good frame is served right after it."""
    counted = {}
    with Daemon(model, tmp_path, limits={"frame_bytes": 65536},
                streams={"default": {"policy": "fifo", "depth": 8}}) as d:
        sub = d.subscribe(b"good")

        def check(name, parts, stream, reason):
            before = d.metrics()
            d.sender.send_multipart(parts)
            d.push("good", noise())
            assert sub.recv_multipart()[0] == b"good", f"no good frame after {name}"
            old = before.get("parchgradd_frames_received_total", stream=stream)
            m = settle(d, stream, old + 1)
            new = {k: v - before.drops(stream).get(k, 0) for k, v in m.drops(stream).items()
                   if v != before.drops(stream).get(k, 0)}
            assert new == {reason: 1}, (name, new)
            counted[reason] = counted.get(reason, 0) + 1

        for name, parts, stream, reason in bad_messages():
            check(name, parts, stream, reason)
        for name, pixels, keys, reason in bad_pictures():
            check(name, d.frame("bad", pixels, **keys), "bad", reason)
        for seed in range(200):  # mutations of a good header
            parts = d.frame("fuzz", noise())
            rng = np.random.default_rng(seed)
            h = bytearray(parts[1])
            for _ in range(rng.integers(1, 4)):
                h[rng.integers(len(h))] = rng.integers(256)
            parts[1] = bytes(h)
            d.sender.send_multipart(parts)
        d.push("good", noise())
        assert sub.recv_multipart()[0] == b"good"
        settle(d, "fuzz", 200)
        assert d.process.poll() is None
    say(f"\nbad input: {sum(counted.values())} messages, each counted once: {counted}")


def test_rpc_errors_name_the_reason(model, tmp_path):
    """Every bad message gets a reply with its reason and a sentence, and a good one its explanation."""
    with Daemon(model, tmp_path, limits={"frame_bytes": 65536}) as d:

        def check(name, parts, stream, reason):
            reply = ask(d, parts)
            error = msgpack.unpackb(reply[1])["error"]
            assert reply[0].decode() == ("" if stream == "_unknown" else stream), name
            assert error["reason"] == reason and len(error["message"]) > 10, (name, error)
            good = ask(d, d.frame("cam0", noise()))
            assert "error" not in msgpack.unpackb(good[1]), name

        for name, parts, stream, reason in bad_messages():
            check(name, parts, stream, reason)
        for name, pixels, keys, reason in bad_pictures():
            check(name, d.frame("cam0", pixels, **keys), "cam0", reason)


# ---- life ----


def test_sigterm_drains_and_accounts(model, tmp_path):
    with Daemon(model, tmp_path, streams={"default": {"policy": "fifo", "depth": 500}}) as d:
        for i in range(300):
            d.push("cam0", noise(i % 8))
        d.wait(lambda: d.metrics().get("parchgradd_frames_received_total", stream="cam0") > 50, 10,
               "frames do not arrive")
        status, took, final = d.terminate()
        assert status == 0 and took < 5.5
        received, published = final["received"]["cam0"], final["published"].get("cam0", 0)
        assert received == published + sum(final["dropped"].get("cam0", {}).values())
        assert received > 50 and published > 0


def test_health_endpoints(model, tmp_path):
    with Daemon(model, tmp_path) as d:
        d.http("/healthz"), d.http("/readyz")
        page = d.http("/")
        assert "<html" in page.lower() and "https://" not in page
        d.push("cam0", noise())
        m = settle(d, "cam0", 1)
        for stage in ("decode", "forward", "backward", "map", "publish"):
            assert m.get("parchgradd_stage_duration_seconds_count", stage=stage) >= 1
        assert m.get("parchgradd_frame_age_seconds_count") == 1


def spins(d):
    """What the running process tells the OpenMP library about waiting."""
    entries = pathlib.Path(f"/proc/{d.process.pid}/environ").read_bytes().split(b"\0")
    return [e for e in entries if e.startswith((b"GOMP_SPINCOUNT=", b"OMP_WAIT_POLICY="))]


def allowed(d):
    """The lists of processors that the daemon's threads may run on."""
    out = []
    for status in pathlib.Path(f"/proc/{d.process.pid}/task").glob("*/status"):
        out.append(re.search(r"Cpus_allowed_list:\s*(\S+)", status.read_text()).group(1))
    return out


def test_pinned_workers_have_processors_of_their_own(model, tmp_path):
    mine = sorted(os.sched_getaffinity(0))
    with Daemon(model, tmp_path, engine={"pin": "cores"}, workers=len(mine), model={"threads": 1}) as d:
        assert ask(d, d.frame("cam0", noise()))[0] == b"cam0"
        lists = allowed(d)
        assert len(mine) == 1 or all(lists.count(str(cpu)) == 1 for cpu in mine), lists
    with Daemon(model, tmp_path, engine={"pin": "cores"}, workers=len(mine) + 1, model={"threads": 1}) as d:
        assert ask(d, d.frame("cam0", noise()))[0] == b"cam0"
        assert len(set(allowed(d))) == 1
        assert d.log.read_text().count("more processors than") == 1


def test_a_teams_threads_have_shares_of_the_processors(model, tmp_path):
    mine = sorted(os.sched_getaffinity(0))
    threads = {"threads": len(mine)}
    with Daemon(model, tmp_path, model=threads) as d:
        assert ask(d, d.frame("cam0", noise()))[0] == b"cam0"
        lists = allowed(d)
        assert len(mine) == 1 or all(lists.count(str(cpu)) == 1 for cpu in mine), lists
    with Daemon(model, tmp_path, engine={"pin": "off"}, model=threads) as d:
        assert ask(d, d.frame("cam0", noise()))[0] == b"cam0"
        assert len(set(allowed(d))) == 1
    with Daemon(model, tmp_path, model={"threads": len(mine) + 1}) as d:
        assert ask(d, d.frame("cam0", noise()))[0] == b"cam0"
        assert len(set(allowed(d))) == 1


def test_threads_bound_by_the_environment_have_their_processors(model, tmp_path):
    """libgomp binds the first thread of a program; the one it becomes, for engine.wait, and threads it starts must find
    all processors."""
    with Daemon(model, tmp_path, env={"OMP_PROC_BIND": "close"}, model={"threads": 0}) as d:
        assert ask(d, d.frame("cam0", noise()))[0] == b"cam0"
        assert len({p for p in allowed(d) if p.isdigit()}) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("wait,env,expected", [
    ("brief", {}, [b"GOMP_SPINCOUNT=2000"]),
    ("active", {}, []),
    ("brief", {"OMP_WAIT_POLICY": "passive"}, [b"OMP_WAIT_POLICY=passive"]),
])
def test_how_threads_wait(model, tmp_path, monkeypatch, wait, env, expected):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    with Daemon(model, tmp_path, env=env, engine={"wait": wait}) as d:
        assert spins(d) == expected
        assert ask(d, d.frame("cam0", noise()))[0] == b"cam0"
