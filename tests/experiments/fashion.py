"""Fashion-MNIST from Debian's package dataset-fashion-mnist, and the two small networks of the experiments.

A picture is [1,28,28] in 0..1, normalised by MEAN and STD; its object's box is that of the pixels that
are not black (the background of every picture is exactly 0)."""
import gzip
import pathlib

import numpy as np

FOLDER = pathlib.Path("/usr/share/datasets/fashion-mnist")
PACKAGE = "dataset-fashion-mnist"
MEAN, STD = .2860, .3530
CLASSES = 10


def available():
    return FOLDER.is_dir()


def load(part, count=None):
    """part "train" or "t10k" -> bytes [n,28,28], labels [n]; the first `count` of them."""
    with gzip.open(FOLDER / f"{part}-images-idx3-ubyte.gz") as f:
        pictures = np.frombuffer(f.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(FOLDER / f"{part}-labels-idx1-ubyte.gz") as f:
        labels = np.frombuffer(f.read(), np.uint8, offset=8)
    return pictures[:count], labels[:count].astype(np.int64)


def normalise(pictures):
    """bytes [n,28,28] -> what the networks take, [n,1,28,28]"""
    return ((pictures[:, None] / 255 - MEAN) / STD).astype(np.float32)


def box(picture):
    """x, y, width, height of the object"""
    rows, columns = np.nonzero(picture.any(1))[0], np.nonzero(picture.any(0))[0]
    return (int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1))
