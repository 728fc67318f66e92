"""Sockets: subscribe to results, publish frames, ask for one explanation."""
import logging
import os
import time

import zmq

from . import wire

log = logging.getLogger("parchgrad_client")
MESSAGE_BYTES = 64 << 20   # a part of a result larger than this ends the connection


class RequestError(RuntimeError):
    """The daemon did not explain the frame. `reason` is its drop reason."""

    def __init__(self, reason, message):
        super().__init__(f"{reason}: {message}")
        self.reason = reason


def _open(kind, endpoint, bind, **options):
    socket = zmq.Context.instance().socket(kind)
    try:
        for name, value in options.items():
            socket.setsockopt(getattr(zmq, name), value)
        (socket.bind if bind else socket.connect)(endpoint)
    except zmq.ZMQError as error:
        socket.close(0)
        verb = "bind to" if bind else "connect to"
        raise ConnectionError(f"cannot {verb} {endpoint}: {error}") from error
    return socket


class Subscriber:
    """Iterates over results. Messages that are no valid result are logged, counted and skipped.

    streams: a name or several; None: all. timeout: seconds without a result until TimeoutError.
    Not to be shared between threads.
    """

    def __init__(self, endpoint, streams=None, timeout=None, hwm=8, bind=False):
        names = [streams] if isinstance(streams, str) else streams
        self.topics = None if names is None else {wire.check_stream(name) for name in names}
        self.timeout = timeout
        self.malformed = 0
        self.socket = _open(zmq.SUB, endpoint, bind, RCVHWM=hwm, LINGER=0,
                            MAXMSGSIZE=MESSAGE_BYTES)
        for topic in [b""] if self.topics is None else self.topics:
            self.socket.setsockopt(zmq.SUBSCRIBE, topic)

    def _wanted(self, topic):
        # SUB matches prefixes: "cam1" also gets "cam10".
        if self.topics is not None:
            return topic in self.topics
        return not topic.startswith((b"_", b"alert.")) and topic != b"status"

    def __iter__(self):
        return self

    def __next__(self):
        end = None if self.timeout is None else time.monotonic() + self.timeout
        while True:
            if self.socket is None:
                raise StopIteration
            wait = None if end is None else max(0, int((end - time.monotonic()) * 1000))
            if not self.socket.poll(wait):
                raise TimeoutError(f"no result for {self.timeout:g} s")
            parts = self.socket.recv_multipart()
            if not self._wanted(parts[0]):
                continue
            try:
                return wire.decode_saliency(parts)
            except wire.WireError as error:
                self.malformed += 1
                log.warning("skipped a message of %r: %s", parts[0][:wire.STREAM_BYTES], error)

    def close(self):
        if self.socket is not None:
            self.socket.close(0)
            self.socket = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def subscribe(endpoint, streams=None, timeout=None, **options):
    """for s in subscribe("tcp://127.0.0.1:5556"): ... (Subscriber has the details)."""
    return Subscriber(endpoint, streams, timeout, **options)


class Publisher:
    """Sends the frames of one stream.

    kind: "pub" for ingest type sub, "push" for pull. wait: seconds until somebody listens (a PUB
    socket drops what it sends before that); the first send raises ConnectionError after it.
    """

    def __init__(self, endpoint, stream, kind="pub", bind=False, wait=10.0, hwm=8):
        wire.check_stream(stream)
        if kind not in ("pub", "push"):
            raise ValueError(f"kind is pub or push, not {kind!r}")
        self.stream, self.endpoint, self.kind, self.wait = stream, endpoint, kind, wait
        self.boot, self.seq, self.listening = os.urandom(16), 0, False
        # XPUB is a PUB that can be asked whether somebody subscribed.
        self.socket = _open(zmq.XPUB if kind == "pub" else zmq.PUSH, endpoint, bind,
                            SNDHWM=hwm, LINGER=1000, SNDTIMEO=int(wait * 1000))

    def wait_for_listener(self, seconds):
        """True as soon as a subscriber of this stream is connected."""
        end = time.monotonic() + seconds
        topic = self.stream.encode()
        while not self.listening and self.kind == "pub":
            if not self.socket.poll(max(0, int((end - time.monotonic()) * 1000))):
                return False
            message = self.socket.recv()
            self.listening = message[:1] == b"\x01" and topic.startswith(message[1:])
        return True

    def send(self, frame, fmt=None, ts=None, **optional):
        """Sends an array, PIL image or JPEG/PNG bytes (wire.describe); returns its seq.

        ts: capture time, ns since the epoch, default now. optional: target, method, decision,
        roi, label, trace, meta.
        """
        if ts is None:
            ts = time.time_ns()
        fmt, width, height, pixels = wire.describe(frame, fmt)
        parts = wire.encode_frame(self.stream, self.seq, self.boot, ts, fmt, width, height,
                                  pixels, **optional)
        if not self.listening and not self.wait_for_listener(self.wait):
            raise ConnectionError(f"no parchgradd listens at {self.endpoint} "
                                  f"(waited {self.wait:g} s)")
        while self.kind == "pub" and self.socket.poll(0):
            self.socket.recv()  # subscriptions of a daemon that restarted
        try:
            self.socket.send_multipart(parts)
        except zmq.Again:
            raise ConnectionError(f"{self.endpoint} took nothing for {self.wait:g} s") from None
        self.seq += 1
        return self.seq - 1

    def close(self):
        if self.socket is not None:
            self.socket.close()
            self.socket = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def request(endpoint, frame, stream="request", timeout=10.0, fmt=None, **optional):
    """Asks the rpc endpoint to explain one frame; returns the Saliency.

    RequestError: the daemon refused (its `reason` says why). TimeoutError: no answer.
    """
    fmt, width, height, pixels = wire.describe(frame, fmt)
    parts = wire.encode_frame(stream, 0, os.urandom(16), time.time_ns(), fmt, width, height,
                              pixels, **optional)
    socket = _open(zmq.REQ, endpoint, False, LINGER=0, MAXMSGSIZE=MESSAGE_BYTES)
    try:
        socket.send_multipart(parts)
        if not socket.poll(int(timeout * 1000)):
            raise TimeoutError(f"{endpoint} did not answer within {timeout:g} s")
        answer = socket.recv_multipart()
    finally:
        socket.close(0)
    error = wire.error_of(answer)
    if error:
        raise RequestError(*error)
    return wire.decode_saliency(answer)
