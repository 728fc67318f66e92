"""Frames as they would go over the wire, in a file: what WIRE.md calls a recording."""
import os
import struct
import time

from . import wire

MAGIC = b"PGFRAME1"


class Recorder:
    """Writes the frames of one stream into a new file; `send` takes what Publisher.send takes.

    seq: frames so far; bytes: of the file. FileExistsError: nothing is overwritten.
    """

    def __init__(self, path, stream):
        wire.check_stream(stream)
        self.stream, self.boot, self.seq, self.bytes = stream, os.urandom(16), 0, len(MAGIC)
        self.file = open(path, "xb")
        self.file.write(MAGIC)

    def send(self, frame, fmt=None, ts=None, **optional):
        """Appends an array, PIL image or JPEG/PNG bytes; returns its seq."""
        fmt, width, height, pixels = wire.describe(frame, fmt)
        parts = wire.encode_frame(self.stream, self.seq, self.boot, ts or time.time_ns(), fmt, width,
                                  height, pixels, **optional)
        data = b"".join(struct.pack("<I", len(part)) + part for part in parts)
        self.file.write(data)
        self.bytes += len(data)
        self.seq += 1
        return self.seq - 1

    def close(self):
        """An interrupt inside a frame leaves that one out."""
        if self.file is not None:
            self.file.flush()
            self.file.truncate(self.bytes)
            self.file.close()
            self.file = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
