"""A recording is the frames' parts with lengths before them (WIRE.md)."""
import io
import struct

import msgpack
import numpy as np
import pytest
from PIL import Image

from parchgrad_client import Recorder, cli


def read(path):
    data, at, parts = path.read_bytes(), 8, []
    assert data[:8] == b"PGFRAME1"
    while at < len(data):
        size, = struct.unpack_from("<I", data, at)
        parts.append(data[at + 4:at + 4 + size])
        at += 4 + size
    assert at == len(data) and len(parts) % 3 == 0
    return [parts[i:i + 3] for i in range(0, len(parts), 3)]


def test_what_was_sent_is_there(tmp_path):
    pictures = [np.full((4, 6, 3), i, np.uint8) for i in range(3)]
    with Recorder(tmp_path / "r", "cam0") as recorder:
        assert [recorder.send(p, ts=i + 1, label=i) for i, p in enumerate(pictures)] == [0, 1, 2]
    assert recorder.bytes == (tmp_path / "r").stat().st_size
    for i, (topic, header, pixels) in enumerate(read(tmp_path / "r")):
        h = msgpack.unpackb(header)
        assert topic == b"cam0" and (h["seq"], h["ts"], h["label"], h["fmt"]) == (i, i + 1, i, "bgr24")
        assert pixels == pictures[i].tobytes()


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "r").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        Recorder(tmp_path / "r", "cam0")
    assert (tmp_path / "r").read_bytes() == b"old"


def test_an_interrupted_frame_is_left_out(tmp_path):
    with Recorder(tmp_path / "r", "cam0") as recorder:
        recorder.send(np.zeros((2, 2, 3), np.uint8))
        recorder.file.write(b"half a frame")
    assert len(read(tmp_path / "r")) == 1


def test_the_command(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    for i in range(3):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 6), (i, 0, 0)).save(buffer, "PNG")
        (tmp_path / "in" / f"{i}.png").write_bytes(buffer.getvalue())
    command = ["record", str(tmp_path / "in"), str(tmp_path / "r"), "--stream", "door", "--fps", "10"]
    assert cli.main([*command, "--count", "2"]) == 0 and "2 frames of door" in capsys.readouterr().err
    frames = read(tmp_path / "r")
    headers = [msgpack.unpackb(header) for _, header, _ in frames]
    assert [(h["fmt"], h["w"], h["h"]) for h in headers] == [("png", 8, 6)] * 2
    assert headers[1]["ts"] - headers[0]["ts"] == 100_000_000
    assert cli.main(command) == 1 and "exist" in capsys.readouterr().err.lower()
