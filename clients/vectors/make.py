#!/usr/bin/env python3
"""Writes the byte vectors of wire format 1 (../WIRE.md) that the C, Python and Go tests read.

Each .bin holds one message: for every part a little-endian u32 with its length, then its bytes.
vectors.json describes them, one object per line (the C test reads it line by line):

  frames       messages in; "drop" is the expected drop reason, "none" for a good frame, and then
               "expect" holds what a decoder must find; "stream" is the label it counts under
  saliency     messages out; "expect" holds what a decoder must find
  limits       the limits the expectations assume

Needs msgpack (python3-msgpack). Output is deterministic: no diff, no change.
"""
import json
import os
import struct

import msgpack

HERE = os.path.dirname(os.path.abspath(__file__))
LIMITS = {"frame_bytes": 65536, "meta_bytes": 4096}
BOOT = bytes(range(16))
TS = 1_700_000_000_123_456_789
frames, saliency = [], []


def pack(value):
    return msgpack.packb(value, use_bin_type=True)


def write(name, parts):
    with open(os.path.join(HERE, name + ".bin"), "wb") as f:
        for part in parts:
            f.write(struct.pack("<I", len(part)) + part)
    return name + ".bin"


def header(**change):
    h = {"v": 1, "seq": 7, "boot": BOOT, "ts": TS, "fmt": "bgr24", "w": 4, "h": 2}
    h.update(change)
    return {k: v for k, v in h.items() if v is not ...}


def pixels(n):
    return bytes((i * 7 + 3) & 255 for i in range(n))


def good(name, parts, **expect):
    frames.append({"file": write(name, parts), "drop": "none", "stream": expect.pop("stream", "cam0"),
                   "expect": expect})


def bad(name, drop, parts, stream="cam0", why=""):
    frames.append({"file": write(name, parts), "drop": drop, "stream": stream, "why": why})


def nest(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    return value


def raw_map(*items):
    """A map from already packed keys and values, which may repeat or be no strings."""
    return bytes([0x80 | (len(items) // 2)]) + b"".join(items)


# ---- good frames
good("frame_bgr24", [b"cam0", pack(header()), pixels(24)],
     seq=7, boot=BOOT.hex(), ts=TS, fmt="bgr24", w=4, h=2, pixel_bytes=24)
good("frame_rgb24_stride", [b"cam0", pack(header(fmt="rgb24", stride=16)), pixels(32)],
     seq=7, boot=BOOT.hex(), ts=TS, fmt="rgb24", w=4, h=2, stride=16, pixel_bytes=32)
good("frame_gray8", [b"cam0", pack(header(fmt="gray8", seq=0)), pixels(8)],
     seq=0, boot=BOOT.hex(), ts=TS, fmt="gray8", w=4, h=2, pixel_bytes=8)
good("frame_f32chw", [b"cam0", pack(header(fmt="f32chw", seq=2**64 - 1)),
                      struct.pack("<24f", *[i / 8 - 1 for i in range(24)])],
     seq=2**64 - 1, boot=BOOT.hex(), ts=TS, fmt="f32chw", w=4, h=2, pixel_bytes=96)
good("frame_jpeg_all_keys",
     ["türe 1/links".encode(),
      pack(header(fmt="jpeg", w=640, h=480, seq=2**40, ts=2**63 - 1, target="tabby",
                  decision={"model": "prod-7", "class": 281, "score": 0.875},
                  roi=[10, 20.5, 100, 50], label=281,
                  trace="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                  meta={"line": 3, "tags": ["a", b"\x00\xff", None, True, 1.5]}, later={"x": [1]})),
      b"\xff\xd8\xff\xe0not really a picture"],
     stream="türe 1/links", seq=2**40, boot=BOOT.hex(), ts=2**63 - 1, fmt="jpeg", w=640, h=480,
     pixel_bytes=24, target="tabby", label=281, decision_class=281, decision_score=0.875,
     roi=[10, 20.5, 100, 50],
     trace_hex=pack("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01").hex(),
     meta_hex=pack({"line": 3, "tags": ["a", b"\x00\xff", None, True, 1.5]}).hex())
good("frame_target_index", [b"cam0", pack(header(target=3)), pixels(24)],
     seq=7, boot=BOOT.hex(), ts=TS, fmt="bgr24", w=4, h=2, pixel_bytes=24, target=3)
good("frame_method", [b"cam0", pack(header(method="smoothgrad")), pixels(24)],
     seq=7, boot=BOOT.hex(), ts=TS, fmt="bgr24", w=4, h=2, pixel_bytes=24, method="smoothgrad")
good("frame_meta_8_deep", [b"cam0", pack(header(meta=nest(8))), pixels(24)],
     seq=7, boot=BOOT.hex(), ts=TS, fmt="bgr24", w=4, h=2, pixel_bytes=24,
     meta_hex=pack(nest(8)).hex())
good("frame_longest_stream", [b"s" * 128, pack(header()), pixels(24)], stream="s" * 128,
     seq=7, boot=BOOT.hex(), ts=TS, fmt="bgr24", w=4, h=2, pixel_bytes=24)

# ---- envelope
M = "malformed"
bad("bad_no_header", M, [b"cam0"], why="one part")
bad("bad_no_pixels", M, [b"cam0", pack(header())], why="two parts")
bad("bad_four_parts", M, [b"cam0", pack(header()), pixels(24), b"more"], why="four parts")
bad("bad_topic_empty", M, [b"", pack(header()), pixels(24)], "_unknown", "stream id of 0 bytes")
bad("bad_topic_long", M, [b"s" * 129, pack(header()), pixels(24)], "_unknown", "129 bytes")
bad("bad_topic_utf8", M, [b"cam\xff", pack(header()), pixels(24)], "_unknown", "not UTF-8")
bad("bad_topic_overlong_utf8", M, [b"cam\xc0\xaf", pack(header()), pixels(24)], "_unknown",
    "overlong UTF-8")
bad("bad_topic_control", M, [b"cam\n0", pack(header()), pixels(24)], "_unknown", "control character")
bad("bad_topic_underscore", M, [b"_other", pack(header()), pixels(24)], "_unknown", "starts with _")
bad("bad_topic_alert", M, [b"alert.cam0", pack(header()), pixels(24)], "_unknown",
    "starts with alert.")
bad("bad_topic_status", M, [b"status", pack(header()), pixels(24)], "_unknown", "is status")

# ---- msgpack
bad("bad_header_empty", M, [b"cam0", b"", pixels(24)], why="no bytes")
bad("bad_header_not_map", M, [b"cam0", pack([1, 2, 3]), pixels(24)], why="an array")
bad("bad_header_truncated", M, [b"cam0", pack(header())[:-1], pixels(24)], why="cut")
bad("bad_header_trailing", M, [b"cam0", pack(header()) + b"\x00", pixels(24)], why="trailing byte")
bad("bad_header_two_objects", M, [b"cam0", pack(header()) * 2, pixels(24)], why="two objects")
bad("bad_header_reserved_byte", M, [b"cam0", raw_map(pack("v"), b"\xc1"), pixels(24)], why="0xc1")
bad("bad_header_bomb", M, [b"cam0", b"\xdd\xff\xff\xff\xff" * 32, pixels(24)],
    why="32 nested arrays of 2^32 - 1: libraries reserve gigabytes")
bad("bad_header_map_bomb", M, [b"cam0", b"\xdf\xff\xff\xff\xff", pixels(24)], why="2^32 - 1 pairs")
bad("bad_header_str_bomb", M, [b"cam0", raw_map(b"\xdb\xff\xff\xff\xffv", pack(1)), pixels(24)],
    why="a string longer than the message")
bad("bad_header_deep", M, [b"cam0", b"\x91" * 3000 + b"\xc0", pixels(24)], why="3000 deep")
bad("bad_meta_9_deep", M, [b"cam0", pack(header(meta=nest(9))), pixels(24)], why="meta 9 deep")
bad("bad_meta_large", M, [b"cam0", pack(header(meta="x" * 4094)), pixels(24)],
    why="meta above limits.meta_bytes")
bad("bad_meta_utf8", M, [b"cam0", bytes([0x88]) + pack(header())[1:] + pack("meta") + b"\xa2\xc3\x28",
                         pixels(24)], why="a string in meta that is not UTF-8")
bad("bad_key_twice", M,
    [b"cam0", bytes([0x88]) + pack(header())[1:] + pack("seq") + pack(8), pixels(24)],
    why="seq twice")
bad("bad_key_not_string", M, [b"cam0", bytes([0x88]) + pack(header())[1:] + pack(1) + pack(8),
                              pixels(24)], why="an integer as key")

# ---- mandatory keys: missing, mistyped, out of range
for key in ("v", "seq", "boot", "ts", "fmt", "w", "h"):
    bad("bad_missing_" + key, M, [b"cam0", pack(header(**{key: ...})), pixels(24)], why="no " + key)
for name, change in {
        "v_2": {"v": 2}, "v_string": {"v": "1"}, "seq_negative": {"seq": -1},
        "seq_float": {"seq": 7.0}, "seq_string": {"seq": "7"}, "seq_nil": {"seq": None},
        "boot_15": {"boot": BOOT[:15]}, "boot_17": {"boot": BOOT + b"\x00"},
        "boot_string": {"boot": "0123456789abcdef"}, "ts_zero": {"ts": 0}, "ts_2_63": {"ts": 2**63},
        "ts_float": {"ts": 1.7e18}, "fmt_unknown": {"fmt": "yuyv"}, "fmt_int": {"fmt": 1},
        "w_string": {"w": "4"}, "h_float": {"h": 2.0}, "w_negative": {"w": -4},
        "stride_string": {"stride": "16"}, "target_list": {"target": [1]},
        "roi_three": {"roi": [1, 2, 3]}, "roi_nan": {"roi": [1, 2, 3, float("nan")]},
        "roi_string": {"roi": "1,2,3,4"}, "label_string": {"label": "cat"},
        "decision_list": {"decision": [281, 0.5]}, "decision_no_class": {"decision": {"score": 0.5}},
        "trace_int": {"trace": 5}}.items():
    bad("bad_" + name, M, [b"cam0", pack(header(**change)), pixels(24)], why=name.replace("_", " "))

# ---- shapes, sizes, targets
S = "bad_shape"
bad("shape_short", S, [b"cam0", pack(header()), pixels(23)], why="a byte short")
bad("shape_long", S, [b"cam0", pack(header()), pixels(25)], why="a byte too many")
bad("shape_empty", S, [b"cam0", pack(header()), b""], why="no pixels")
bad("shape_w_zero", S, [b"cam0", pack(header(w=0)), b""], why="w 0")
bad("shape_h_zero", S, [b"cam0", pack(header(h=0)), b""], why="h 0")
bad("shape_stride_short", S, [b"cam0", pack(header(stride=11)), pixels(22)],
    why="stride below one row")
bad("shape_stride_bytes", S, [b"cam0", pack(header(stride=16)), pixels(24)], why="not stride x h")
bad("shape_overflow", S, [b"cam0", pack(header(w=2**33, h=2**31)), pixels(24)],
    why="w x h x 3 wraps to something small")
bad("shape_stride_overflow", S, [b"cam0", pack(header(stride=2**63, h=2)), b""],
    why="stride x h wraps to 0")
bad("shape_f32_bytes", S, [b"cam0", pack(header(fmt="f32chw")), pixels(95)], why="not w x h floats")
bad("shape_jpeg_empty", S, [b"cam0", pack(header(fmt="jpeg")), b""], why="no picture")
bad("too_large", "too_large", [b"cam0", pack(header(w=21846, h=1)), pixels(65538)],
    why="pixels above limits.frame_bytes")
bad("bad_method_int", M, [b"cam0", pack(header(method=3)), pixels(24)], why="method integer")
bad("method_empty", "bad_method", [b"cam0", pack(header(method="")), pixels(24)],
    why="a name of 0 bytes")
bad("method_long", "bad_method", [b"cam0", pack(header(method="x" * 65)), pixels(24)],
    why="a name nobody can have")
bad("target_negative", "bad_target", [b"cam0", pack(header(target=-1)), pixels(24)],
    why="a negative class")
bad("target_long", "bad_target", [b"cam0", pack(header(target="x" * 129)), pixels(24)],
    why="a name nobody can have")


# ---- saliency out, as the daemon writes it
def saliency_header(**change):
    h = {"v": 1, "seq": 7, "boot": BOOT, "ts": TS,
         "top": [[281, "tabby", 0.75], [282, "tiger cat", 0.125]],
         "explained": {"class": 281, "name": "tabby", "why": "top1"},
         "method": "parchgrad",
         "params": {"reduce": "mean_abs", "smooth": 2.0, "select": "class", "quantile": 0.1,
                    "gamma": float("inf"), "conserve": "approx"},
         "map": {"w": 4, "h": 2, "dtype": "u8", "scale": 0.5, "zero": 0,
                 "transform": [160.0, 0.0, 0.0, 0.0, 240.0, 0.0]},
         "quality": {"entropy": 0.5, "gini": 0.25, "mass_in_roi": None, "degenerate": False},
         "prune": {"layers": [{"name": "/layer4/conv2", "kept": 460, "total": 512, "beta": 1.25,
                               "share": 0.75, "degenerate": False}]},
         "timing": {"decode": 1000, "preprocess": 2000, "forward": 30000, "select": 4000,
                    "backward": 50000, "map": 6000, "publish": 700, "total": 100000},
         "age": 123456789, "model": {"sha256": "ab" * 32, "stats": "cd" * 32}}
    h.update(change)
    return h


def out(name, parts, **expect):
    saliency.append({"file": write(name, parts), "expect": expect})


out("saliency_u8", [b"cam0", pack(saliency_header()), bytes([0, 1, 2, 3, 4, 5, 6, 255])],
    stream="cam0", seq=7, boot=BOOT.hex(), ts=TS, top_class=281, top_name="tabby",
    probability=0.75, explained=281, why="top1", method="parchgrad", w=4, h=2, dtype="u8",
    values=[0, 0.5, 1, 1.5, 2, 2.5, 3, 127.5], transform=[160, 0, 0, 0, 240, 0], age=123456789,
    overlay_bytes=0)
out("saliency_u8_signed_overlay",
    [b"cam0",
     pack(saliency_header(map={"w": 2, "h": 1, "dtype": "u8", "scale": 0.25, "zero": 128,
                               "transform": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]},
                          top=[[5, None, 1.0]], explained={"class": 5, "name": None, "why": "frame"},
                          meta={"line": 3}, trace="00-aa", agrees=True)),
     bytes([127, 132]), b"\xff\xd8\xff\xe0jpeg"],
    stream="cam0", seq=7, boot=BOOT.hex(), ts=TS, top_class=5, top_name=None, probability=1.0,
    explained=5, why="frame", method="parchgrad", w=2, h=1, dtype="u8", values=[-0.25, 1.0],
    transform=[1, 0, 0, 0, 1, 0], age=123456789, overlay_bytes=8, meta={"line": 3}, trace="00-aa",
    agrees=True)
for dtype, code, values in (("u16", "H", [0, 1, 65535, 7]), ("f16", "e", [0.0, 1.5, -2.0, 0.25]),
                            ("f32", "f", [0.0, 1.5, -2.0, 0.125])):
    out("saliency_" + dtype,
        [b"cam0", pack(saliency_header(map={"w": 2, "h": 2, "dtype": dtype, "scale": 2.0, "zero": 0,
                                            "transform": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]})),
         struct.pack("<4" + code, *values)],
        stream="cam0", seq=7, boot=BOOT.hex(), ts=TS, top_class=281, top_name="tabby",
        probability=0.75, explained=281, why="top1", method="parchgrad", w=2, h=2, dtype=dtype,
        values=[v * 2 for v in values], transform=[1, 0, 0, 0, 1, 0], age=123456789,
        overlay_bytes=0)
saliency.append({"file": write("reply_error", [
    b"cam0", pack({"v": 1, "error": {"reason": "bad_shape",
                                     "message": "the pixel part has 23 bytes, not 24"}})]),
    "expect": {"stream": "cam0", "error": "bad_shape"}})

with open(os.path.join(HERE, "vectors.json"), "w", encoding="utf-8") as f:
    f.write('{"version": 1,\n "limits": %s,\n "frames": [\n' % json.dumps(LIMITS))
    f.write(",\n".join("  " + json.dumps(x, ensure_ascii=False) for x in frames))
    f.write('\n ],\n "saliency": [\n')
    f.write(",\n".join("  " + json.dumps(x, ensure_ascii=False) for x in saliency))
    f.write("\n ]}\n")
print(len(frames), "frames,", len(saliency), "saliency messages")
