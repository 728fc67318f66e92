"""The client reads and writes the byte vectors in clients/vectors."""
import hashlib
import json
import pathlib
import struct

import msgpack
import numpy as np
import pytest

from parchgrad_client import wire

VECTORS = pathlib.Path(__file__).resolve().parents[2] / "vectors"
INDEX = json.loads((VECTORS / "vectors.json").read_text(encoding="utf-8"))


def parts_of(name):
    data, parts = (VECTORS / name).read_bytes(), []
    while data:
        size, = struct.unpack_from("<I", data)
        assert 4 + size <= len(data)
        parts.append(data[4:4 + size])
        data = data[4 + size:]
    return parts


RESULTS = [v for v in INDEX["saliency"] if "error" not in v["expect"]]
ERRORS = [v for v in INDEX["saliency"] if "error" in v["expect"]]


@pytest.mark.parametrize("vector", RESULTS, ids=lambda v: v["file"])
def test_result(vector):
    want, parts = vector["expect"], parts_of(vector["file"])
    s = wire.decode_saliency(parts)
    assert (s.stream, s.seq, s.boot.hex(), s.ts) == (
        want["stream"], want["seq"], want["boot"], want["ts"])
    assert s.top[0] == (want["top_class"], want["top_name"], want["probability"])
    assert (s.explained.index, s.explained.why) == (want["explained"], want["why"])
    assert s.method == want["method"] and s.age == want["age"]
    assert s.map.dtype == np.float32 and s.map.shape == (want["h"], want["w"])
    np.testing.assert_array_equal(s.map.ravel(), np.float32(want["values"]))
    assert s.transform == want["transform"]
    assert len(s.overlay or b"") == want["overlay_bytes"]
    assert (s.meta, s.trace, s.agrees) == (
        want.get("meta"), want.get("trace"), want.get("agrees"))
    assert s.parts == parts
    assert s.digest() == hashlib.sha256((VECTORS / vector["file"]).read_bytes()).hexdigest()


@pytest.mark.parametrize("vector", ERRORS, ids=lambda v: v["file"])
def test_error_reply(vector):
    reason, message = wire.error_of(parts_of(vector["file"]))
    assert reason == vector["expect"]["error"] and message


@pytest.mark.parametrize("vector", [v for v in INDEX["frames"] if v["drop"] == "none"],
                         ids=lambda v: v["file"])
def test_frame_bytes(vector):
    """Encoding what a good frame says gives the same bytes (unknown keys apart)."""
    topic, header, pixels = parts_of(vector["file"])
    keys = msgpack.unpackb(header)
    unknown = keys.pop("later", None)
    assert keys.pop("v") == 1
    mine = wire.encode_frame(topic.decode(), pixels=pixels, **keys)
    assert (mine[0], mine[2]) == (topic, pixels)
    if unknown is None:
        assert mine[1] == header
    else:
        assert msgpack.unpackb(mine[1]) == {"v": 1, **keys}


@pytest.mark.parametrize("vector", [v for v in INDEX["frames"] if v["drop"] != "none"],
                         ids=lambda v: v["file"])
def test_garbage_is_no_result(vector):
    """Every bad frame is a bad result too, and says so without any other exception."""
    with pytest.raises(wire.WireError):
        wire.decode_saliency(parts_of(vector["file"]))


def test_bad_topics_are_refused_by_the_sender():
    seen = 0
    for vector in INDEX["frames"]:
        if vector["stream"] != "_unknown":
            continue
        try:
            name = parts_of(vector["file"])[0].decode()
        except UnicodeDecodeError:
            continue
        seen += 1
        with pytest.raises(wire.WireError):
            wire.check_stream(name)
    assert seen >= 5


def test_damaged_results():
    """Each cut, and each flipped byte, is either still a result or a WireError."""
    parts = parts_of("saliency_u8_signed_overlay.bin")
    header, refused = parts[1], 0
    damaged = [header[:n] for n in range(len(header))]
    damaged += [header[:n] + bytes([header[n] ^ flip]) + header[n + 1:]
                for n in range(len(header)) for flip in (0x01, 0x80, 0xFF)]
    for broken in damaged:
        try:
            wire.decode_saliency([parts[0], broken, *parts[2:]])
        except wire.WireError:
            refused += 1
    assert refused > len(header)


@pytest.mark.parametrize("change", [
    {"w": 0}, {"w": 3}, {"h": 1 << 40}, {"w": True}, {"dtype": "f64"}, {"scale": float("nan")},
    {"scale": "1"}, {"zero": None}, {"transform": [1, 2, 3]}, {"transform": [1, 0, 0, 0, 1, "x"]}])
def test_bad_map(change):
    parts = parts_of("saliency_u8.bin")
    header = msgpack.unpackb(parts[1])
    header["map"].update(change)
    with pytest.raises(wire.WireError):
        wire.decode_saliency([parts[0], msgpack.packb(header), parts[2]])


def test_describe_arrays():
    bgr = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert wire.describe(bgr) == ("bgr24", 4, 2, bytes(range(24)))
    assert wire.describe(bgr, "rgb24")[0] == "rgb24"
    assert wire.describe(bgr[:, ::2])[1:] == (2, 2, bgr[:, ::2].tobytes())
    assert wire.describe(bgr[:, :, 0])[:3] == ("gray8", 4, 2)
    assert wire.describe(np.zeros((3, 2, 4), np.float32))[:3] == ("f32chw", 4, 2)
    for wrong in (bgr.astype(float), np.zeros((2, 2, 4), np.uint8), "text", b"GIF89a", b"\xff\xd8"):
        with pytest.raises(wire.WireError):
            wire.describe(wrong)


def test_describe_pictures():
    import io
    from PIL import Image
    picture = Image.new("RGB", (5, 3), (200, 10, 20))
    assert wire.describe(picture)[:3] == ("rgb24", 5, 3)
    for kind in ("JPEG", "PNG"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        assert wire.describe(buffer.getvalue()) == (kind.lower(), 5, 3, buffer.getvalue())
