"""Wire format 1: a frame to message parts, message parts to a result. No sockets here.

Results come from the network, so nothing in them is believed: sizes, types and the number of
bytes are checked before use, and whatever does not fit raises WireError.
"""
import hashlib
import io
import math
import struct
import unicodedata
from collections import namedtuple

import msgpack
import numpy as np

VERSION = 1
STREAM_BYTES = 128
HEADER_BYTES = 1 << 20     # of a result
MAP_SIDE = 1 << 16
DTYPES = {"u8": "u1", "u16": "<u2", "f16": "<f2", "f32": "<f4"}
RAW_CHANNELS = {"bgr24": 3, "rgb24": 3, "gray8": 1}
FORMATS = (*RAW_CHANNELS, "jpeg", "png", "f32chw")

Label = namedtuple("Label", "index name probability")
Explained = namedtuple("Explained", "index name why")


class WireError(ValueError):
    """A message that wire format 1 does not allow; the text says what is wrong."""


def check_stream(name):
    """The stream id as bytes; WireError if the daemon would not take it."""
    try:
        raw = name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise WireError(f"stream id {name!r} is not valid text") from error
    if not 1 <= len(raw) <= STREAM_BYTES:
        raise WireError(f"stream id has {len(raw)} bytes, 1 to {STREAM_BYTES} are allowed")
    if any(unicodedata.category(c) == "Cc" for c in name):
        raise WireError(f"stream id {name!r} has control characters")
    if name.startswith(("_", "alert.")) or name == "status":
        raise WireError(f"stream id {name!r} is reserved: no leading _ or alert., not status")
    return raw


def describe(frame, fmt=None):
    """(fmt, w, h, pixel bytes) of a picture: bytes of a JPEG or PNG, a PIL image, or an array.

    Arrays: uint8 [h,w,3] is bgr24 unless fmt says rgb24, uint8 [h,w] gray8, float32 [3,h,w] f32chw.
    """
    if fmt is not None and fmt not in FORMATS:
        raise WireError(f"unknown format {fmt!r}, one of {', '.join(FORMATS)}")
    if isinstance(frame, (bytes, bytearray, memoryview)):
        return _describe_encoded(bytes(frame), fmt)
    if hasattr(frame, "convert") and hasattr(frame, "getbands"):
        frame, fmt = np.asarray(frame.convert("RGB")), "rgb24"
    if not isinstance(frame, np.ndarray):
        raise WireError(f"a frame is an array, a PIL image or JPEG bytes, not {type(frame)}")
    shape, kind = frame.shape, frame.dtype
    if kind == np.uint8 and len(shape) == 3 and shape[2] == 3 and fmt in (None, "bgr24", "rgb24"):
        fmt = fmt or "bgr24"
    elif kind == np.uint8 and len(shape) == 2 and fmt in (None, "gray8"):
        fmt = "gray8"
    elif kind == np.float32 and len(shape) == 3 and shape[0] == 3 and fmt in (None, "f32chw"):
        return "f32chw", shape[2], shape[1], frame.astype("<f4").tobytes()
    else:
        raise WireError(f"no format fits an array of {kind} {list(shape)}"
                        + (f" as {fmt}" if fmt else ""))
    return fmt, shape[1], shape[0], np.ascontiguousarray(frame).tobytes()


def _describe_encoded(data, fmt):
    from PIL import Image

    found = {b"\xff\xd8": "jpeg", b"\x89P": "png"}.get(data[:2])
    if found is None or fmt not in (None, found):
        raise WireError(f"the bytes are {'a ' + found if found else 'neither JPEG nor PNG'}"
                        + (f", not {fmt}" if fmt else ""))
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
    except Exception as error:
        raise WireError(f"broken {found}: {error}") from error
    return found, width, height, data


def encode_frame(stream, seq, boot, ts, fmt, w, h, pixels, **optional):
    """The three parts [topic, header, pixels] of a frame.

    `boot`: 16 bytes, new at each producer start; `ts`: capture time in ns since the epoch;
    optional: stride, target, method, decision, roi, label, trace, meta (None: left out).
    """
    topic = check_stream(stream)
    if not isinstance(boot, bytes) or len(boot) != 16:
        raise WireError("boot is 16 bytes")
    if not 0 <= seq < 1 << 64 or not 0 < ts < 1 << 63:
        raise WireError(f"seq {seq} or ts {ts} is out of range")
    header = {"v": VERSION, "seq": seq, "boot": boot, "ts": ts, "fmt": fmt, "w": w, "h": h}
    allowed = ("stride", "target", "method", "decision", "roi", "label", "trace", "meta")
    for key in allowed:
        if optional.get(key) is not None:
            header[key] = optional[key]
    unknown = set(optional) - set(allowed)
    if unknown:
        raise WireError(f"unknown header keys: {', '.join(sorted(unknown))}")
    return [topic, msgpack.packb(header, use_bin_type=True), pixels]


def unpack_header(data):
    """The msgpack map of a header part, with string keys; WireError if it is anything else."""
    if len(data) > HEADER_BYTES:
        raise WireError(f"the header has {len(data)} bytes, more than {HEADER_BYTES}")
    try:
        header = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except Exception as error:  # msgpack raises a dozen unrelated types
        raise WireError(f"the header is no msgpack: {type(error).__name__} {error}") from error
    if not isinstance(header, dict) or not all(isinstance(key, str) for key in header):
        raise WireError("the header is no map with string keys")
    if header.get("v") != VERSION or isinstance(header["v"], bool):
        raise WireError(f"wire format version {header.get('v')!r}, this client reads {VERSION}")
    return header


def _take(table, key, kind, where="header"):
    value = table.get(key) if isinstance(table, dict) else None
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise WireError(f"{where}: {key} is {_short(value)}")
    return value


def _short(value):
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _number(table, key, where):
    value = _take(table, key, (int, float), where)
    if not math.isfinite(value):
        raise WireError(f"{where}: {key} is {value}")
    return float(value)


def _name(value):
    if value is not None and not isinstance(value, str):
        raise WireError(f"a class name is {_short(value)}")
    return value


def _decode_top(header):
    rows = []
    for row in _take(header, "top", list):
        if not isinstance(row, list) or len(row) != 3:
            raise WireError(f"header: an entry of top is {_short(row)}")
        cells = {"class": row[0], "probability": row[2]}
        rows.append(Label(_take(cells, "class", int, "top"), _name(row[1]),
                          _number(cells, "probability", "top")))
    if not rows:
        raise WireError("header: top is empty")
    return rows


def decode_map(table, data):
    """The float32 array [h,w] of a map part: (stored - zero) * scale."""
    width, height = (_take(table, key, int, "map") for key in ("w", "h"))
    if not 1 <= width <= MAP_SIDE or not 1 <= height <= MAP_SIDE:
        raise WireError(f"map: {width} x {height} pixels")
    dtype = _take(table, "dtype", str, "map")
    if dtype not in DTYPES:
        raise WireError(f"map: unknown dtype {_short(dtype)}")
    expected = width * height * np.dtype(DTYPES[dtype]).itemsize
    if len(data) != expected:
        raise WireError(f"map: {len(data)} bytes, {width} x {height} {dtype} are {expected}")
    scale, zero = _number(table, "scale", "map"), _number(table, "zero", "map")
    stored = np.frombuffer(data, DTYPES[dtype]).reshape(height, width)
    if scale == 1 and zero == 0:
        return stored.astype(np.float32)
    return ((stored.astype(np.float64) - zero) * scale).astype(np.float32)


class Saliency:
    """One result.

    stream, seq, boot, ts    of the frame; ts in ns since the epoch
    top                      list of Label(index, name, probability), best first
    explained                Explained(index, name, why)
    map                      numpy float32 [h, w]
    overlay                  JPEG bytes or None
    age                      ns from capture to publishing; age_seconds
    method, params, quality, prune, timing, model, transform, agrees, meta, trace
    header                   the whole header as a dictionary
    parts                    the message as it came, for recording
    """

    def __init__(self, stream, header, values, overlay, parts):
        self.stream, self.header, self.map = stream, header, values
        self.overlay, self.parts = overlay, parts
        self.seq, self.ts = _take(header, "seq", int), _take(header, "ts", int)
        self.boot = _take(header, "boot", bytes)
        self.top = _decode_top(header)
        explained = _take(header, "explained", dict)
        self.explained = Explained(_take(explained, "class", int, "explained"),
                                   _name(explained.get("name")),
                                   _take(explained, "why", str, "explained"))
        self.method = _take(header, "method", str)
        self.age = _take(header, "age", int)
        self.transform = self._transform(header["map"])
        for key in ("params", "quality", "prune", "timing", "model"):
            setattr(self, key, _take(header, key, dict) if key in header else {})
        self.agrees, self.meta = header.get("agrees"), header.get("meta")
        self.trace = header.get("trace")

    @staticmethod
    def _transform(table):
        row = _take(table, "transform", list, "map")
        if len(row) != 6:
            raise WireError(f"map: transform has {len(row)} numbers, not 6")
        cells = dict(zip("abcdef", row))
        return [_number(cells, key, "transform") for key in "abcdef"]

    @property
    def age_seconds(self):
        return self.age / 1e9

    def to_frame(self, x, y):
        """Frame pixel of the map position (x, y)."""
        a, b, c, d, e, f = self.transform
        return a * x + b * y + c, d * x + e * y + f

    def digest(self):
        """SHA-256 of the message as it came, each part behind its length as a little-endian u32:
        the same for every client that saw the same bytes."""
        total = hashlib.sha256()
        for part in self.parts:
            total.update(struct.pack("<I", len(part)) + part)
        return total.hexdigest()

    def image(self):
        """The overlay as a PIL image; without an overlay, the map in grey."""
        from PIL import Image

        if self.overlay is not None:
            try:
                image = Image.open(io.BytesIO(self.overlay), formats=("JPEG",))
                return image.convert("RGB")
            except Exception as error:
                raise WireError(f"broken overlay: {error}") from error
        return self.map_image()

    def map_image(self):
        """The map in grey, black the smallest value and white the largest, as a PIL image."""
        from PIL import Image

        values = np.nan_to_num(self.map, posinf=0, neginf=0)
        low, high = float(values.min()), float(values.max())
        grey = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")

    def __repr__(self):
        best = self.top[0]
        return (f"<Saliency {self.stream!r} seq {self.seq} explains {self.explained.index} "
                f"{self.explained.name!r} p {best.probability:.2f} map {self.map.shape}>")


def error_of(parts):
    """(reason, message) if the parts are an error reply of the rpc endpoint, else None."""
    if len(parts) != 2:
        return None
    error = _take(unpack_header(parts[1]), "error", dict)
    return _take(error, "reason", str, "error"), _take(error, "message", str, "error")


def decode_saliency(parts):
    """The Saliency of the parts [topic, header, map] or [topic, header, map, overlay]."""
    parts = [bytes(part) for part in parts]
    if len(parts) not in (3, 4):
        raise WireError(f"a result has three or four parts, not {len(parts)}")
    try:
        stream = parts[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise WireError("the topic is not UTF-8") from error
    check_stream(stream)
    header = unpack_header(parts[1])
    values = decode_map(_take(header, "map", dict), parts[2])
    return Saliency(stream, header, values, parts[3] if len(parts) == 4 else None, parts)
