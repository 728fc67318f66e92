"""Sockets and command line, against a stand-in for the daemon in this process."""
import struct
import threading

import numpy as np
import pytest
import zmq
from PIL import Image

import parchgrad_client
from parchgrad_client import cli, show, wire
from test_wire import parts_of


def bound(kind):
    socket = zmq.Context.instance().socket(kind)
    socket.linger = 0
    socket.rcvtimeo = socket.sndtimeo = 5000
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    return socket, f"tcp://127.0.0.1:{port}"


@pytest.fixture
def daemon():
    """A PUB as the daemon has it; `send` waits for the subscription first."""
    socket, endpoint = bound(zmq.XPUB)
    yield socket, endpoint
    socket.close(0)


def test_whole_topic_is_compared_and_garbage_skipped(daemon):
    socket, endpoint = daemon
    _, header, values = parts_of("saliency_u8.bin")
    with parchgrad_client.subscribe(endpoint, "cam1", timeout=5) as results:
        assert socket.recv() == b"\x01cam1"
        socket.send_multipart([b"cam10", header, values])
        socket.send_multipart([b"cam1", b"\xc1", values])
        socket.send_multipart([b"cam1", header, values])
        s = next(results)
        assert s.stream == "cam1" and results.malformed == 1
        results.timeout = 0.05
        with pytest.raises(TimeoutError):
            next(results)


def test_all_streams_without_alerts(daemon):
    socket, endpoint = daemon
    _, header, values = parts_of("saliency_u8.bin")
    with parchgrad_client.subscribe(endpoint, timeout=5) as results:
        assert socket.recv() == b"\x01"
        for topic in (b"status", b"alert.cam1", b"cam10"):
            socket.send_multipart([topic, header, values])
        assert next(results).stream == "cam10" and results.malformed == 0


class Ingest:
    """A bound SUB that reads `count` messages. libzmq sends a SUB's subscriptions only while its
    thread is inside a call, so the reader has a thread of its own."""

    def __init__(self, count):
        self.socket, self.endpoint = bound(zmq.SUB)
        self.socket.subscribe(b"")
        self.messages = []
        self.thread = threading.Thread(target=self.read, args=(count,))

    def read(self, count):
        while len(self.messages) < count and self.socket.poll(5000):
            self.messages.append(self.socket.recv_multipart())

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.thread.join()
        self.socket.close(0)


def test_publisher():
    with Ingest(2) as ingest:
        with parchgrad_client.Publisher(ingest.endpoint, "cam0", wait=5) as publisher:
            assert publisher.send(np.zeros((2, 4, 3), np.uint8), meta={"line": 3}) == 0
            assert publisher.send(np.zeros((2, 4), np.uint8)) == 1
    first, second = ingest.messages
    one, two = (wire.unpack_header(m[1]) for m in (first, second))
    assert first[0] == b"cam0" and len(first[2]) == 24
    assert (one["seq"], two["seq"], one["fmt"], two["fmt"]) == (0, 1, "bgr24", "gray8")
    assert one["boot"] == two["boot"] and len(one["boot"]) == 16
    assert one["meta"] == {"line": 3} and 0 < one["ts"] <= two["ts"]


def test_publisher_says_when_nobody_listens():
    with parchgrad_client.Publisher("tcp://127.0.0.1:9", "cam0", wait=0.1) as publisher:
        with pytest.raises(ConnectionError, match="no parchgradd listens"):
            publisher.send(np.zeros((2, 4, 3), np.uint8))


@pytest.mark.parametrize("reply", ["saliency_u8.bin", "reply_error.bin"])
def test_request(reply):
    socket, endpoint = bound(zmq.ROUTER)
    got = []

    def serve():
        message = socket.recv_multipart()
        got.append(message)
        socket.send_multipart([*message[:2], *parts_of(reply)])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        frame = np.zeros((2, 4, 3), np.uint8)
        if reply == "reply_error.bin":
            with pytest.raises(parchgrad_client.RequestError) as caught:
                parchgrad_client.request(endpoint, frame, timeout=5)
            assert caught.value.reason == "bad_shape"
        else:
            assert parchgrad_client.request(endpoint, frame, timeout=5).explained.index == 281
    finally:
        thread.join()
        socket.close(0)
    identity, empty, topic, header, pixels = got[0]
    assert (empty, topic, len(pixels)) == (b"", b"request", 24)


def test_unknown_endpoint():
    with pytest.raises(ConnectionError, match="nonsense"):
        parchgrad_client.subscribe("nonsense://x")


def test_publish_a_folder(tmp_path, capsys):
    for n in range(3):
        Image.new("RGB", (6, 4), (n, 0, 0)).save(tmp_path / f"{n}.png")
    with Ingest(5) as ingest:
        status = cli.main(["publish", str(tmp_path), "--stream", "s", "--to", ingest.endpoint,
                           "--fps", "200", "--loop", "--count", "5", "--target", "7", "--method", "ig"])
    frames = ingest.messages
    headers = [wire.unpack_header(f[1]) for f in frames]
    assert status == 0 and [h["seq"] for h in headers] == [0, 1, 2, 3, 4]
    assert {(h["fmt"], h["w"], h["h"], h["target"], h["method"]) for h in headers} == {("png", 6, 4, 7, "ig")}
    assert frames[0][2] == frames[3][2] != frames[1][2]


@pytest.mark.parametrize("source, name, sentence", [
    ("nothing.mp4", "s", "does not exist"), ("empty", "s", "has no pictures"),
    ("full", "_x", "is reserved")])
def test_publish_errors(source, name, sentence, tmp_path, capsys):
    for folder in ("empty", "full"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (2, 2)).save(tmp_path / "full" / "0.png")
    assert cli.main(["publish", str(tmp_path / source), "--stream", name, "--to", "tcp://127.0.0.1:9", "--wait", "0.1"]) == 1
    assert sentence in capsys.readouterr().err


def test_view_saves_files(daemon, tmp_path, capsys):
    socket, endpoint = daemon
    _, header, values = parts_of("saliency_u8.bin")

    def serve():
        socket.recv()
        socket.send_multipart(["../tür".encode(), header, values])
        socket.send_multipart([b"cam0", header, values, b"\xff\xd8jpeg"])

    thread = threading.Thread(target=serve)
    thread.start()
    assert cli.main(["view", endpoint, "--save", str(tmp_path / "out"), "--count", "2",
                     "--wait", "5"]) == 0
    thread.join()
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "___tür_00000007.png", "cam0_00000007.jpg"]
    assert "tabby 0.75" in capsys.readouterr().out


def test_terminal_picture():
    picture = Image.new("RGB", (4, 2), (255, 0, 0))
    text = show.draw(picture, 4, 10)
    assert text.count("\u2580") == 4 and "38;2;255;0;0" in text
    assert show.plain("a\x1b[2J\nb\u202e") == "a?[2J?b?"


def test_caption_names_the_explained_class():
    s = wire.decode_saliency(parts_of("saliency_u8.bin"))
    assert show.caption(s) == "cam0  seq 7  tabby 0.75  123 ms"
    assert s.to_frame(1, 1) == (160, 240)
    assert s.image().size == (4, 2)


def test_oversize_map_is_refused():
    parts = parts_of("saliency_u8.bin")
    with pytest.raises(wire.WireError, match="bytes"):
        wire.decode_saliency([parts[0], parts[1], parts[2] + struct.pack("<I", 0)])
