"""Where frames come from: a video file, a camera, a folder of pictures, one picture."""
import pathlib

PICTURES = (".jpg", ".jpeg", ".png")


class SourceError(RuntimeError):
    """The source cannot be opened or read; the text says why."""


class Source:
    """`frames()` yields arrays (BGR) or encoded bytes, once through. fps, count: None if unknown."""

    def __init__(self, frames, fps=None, count=None):
        self.frames, self.fps, self.count = frames, fps, count


def _opencv():
    try:
        import cv2
    except ImportError as error:
        raise SourceError("videos and cameras need OpenCV: pip install 'parchgrad-client[video]' "
                          f"({error})") from error
    return cv2


def _capture(name, label):
    cv2 = _opencv()
    capture = cv2.VideoCapture(name)
    if not capture.isOpened():
        raise SourceError(f"cannot open {label}")
    return cv2, capture


def _read(capture):
    try:
        while True:
            good, frame = capture.read()
            if not good:
                return
            yield frame
    finally:
        capture.release()


def open_video(path):
    cv2, capture = _capture(str(path), f"{path} as a video")
    fps, count = capture.get(cv2.CAP_PROP_FPS), int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return Source(lambda: _read(_capture(str(path), f"{path} as a video")[1]),
                  fps if 0 < fps < 1000 else None, count if count > 0 else None)


def open_camera(index):
    cv2, capture = _capture(index, f"camera {index}")
    capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
    return Source(lambda: _read(capture))


def open_pictures(paths):
    return Source(lambda: (path.read_bytes() for path in paths), None, len(paths))


def open_source(text):
    """A camera if `text` is a number, else the file or folder of that name."""
    if text.isdigit():
        return open_camera(int(text))
    path = pathlib.Path(text)
    if path.is_dir():
        paths = sorted(p for p in path.iterdir() if p.suffix.lower() in PICTURES)
        if not paths:
            raise SourceError(f"{path} has no pictures ({', '.join(PICTURES)})")
        return open_pictures(paths)
    if not path.is_file():
        raise SourceError(f"{path} does not exist")
    return open_pictures([path]) if path.suffix.lower() in PICTURES else open_video(path)
