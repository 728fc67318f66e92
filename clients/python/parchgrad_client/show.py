"""Ways to look at results: files, a terminal in colour, a window."""
import os
import pathlib
import re
import shutil
import unicodedata


def plain(text):
    """The text without control characters: names come from the network, terminals obey them."""
    return "".join(c if unicodedata.category(c)[0] != "C" else "?" for c in str(text))


def caption(s):
    """One line about a result."""
    name = s.explained.name or f"class {s.explained.index}"
    probability = next((p for i, _, p in s.top if i == s.explained.index), None)
    chance = "" if probability is None else f" {probability:.2f}"
    note = "  degenerate" if s.quality.get("degenerate") else ""
    return plain(f"{s.stream}  seq {s.seq}  {name}{chance}  {s.age_seconds * 1000:.0f} ms{note}")


class Files:
    """Saves each overlay as <stream>_<seq>.jpg, or the grey map as .png where there is none."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)

    def show(self, s):
        # Stream ids may hold slashes and dots; a file name must not lead out of the folder.
        stream = re.sub(r"[^\w-]", "_", s.stream)[:100]
        path = self.folder / f"{stream}_{s.seq:08d}.{'jpg' if s.overlay else 'png'}"
        if s.overlay:
            path.write_bytes(s.overlay)
        else:
            s.map_image().save(path)
        print(f"{path}  {caption(s)}", flush=True)

    def close(self):
        pass


class Terminal:
    """Draws with the upper half block: its colour is one pixel, the background the one below."""

    def __init__(self, out):
        self.out, self.rows = out, {}
        out.write("\x1b[2J\x1b[?25l")

    def show(self, s):
        columns, lines = shutil.get_terminal_size()
        streams = self.rows.setdefault(s.stream, len(self.rows))
        height = max(2, lines // max(1, len(self.rows)) - 1)
        top = streams * (height + 1)
        if top + height + 1 <= lines:
            self.out.write(f"\x1b[{top + 1};1H" + draw(s.image(), columns, height)
                           + f"\x1b[0m{caption(s)[:columns]}\x1b[K")
            self.out.flush()

    def close(self):
        self.out.write("\x1b[0m\x1b[?25h\n")
        self.out.flush()


def draw(image, columns, rows):
    """The picture as `rows` lines of coloured half blocks, aspect ratio kept."""
    scale = min(columns / image.width, rows * 2 / image.height)
    width = max(1, int(image.width * scale))
    height = max(2, int(image.height * scale) // 2 * 2)
    pixels = image.resize((width, height)).tobytes()
    lines = []
    for y in range(0, height, 2):
        cells = []
        for x in range(width):
            a, b = (y * width + x) * 3, ((y + 1) * width + x) * 3
            upper, lower = pixels[a:a + 3], pixels[b:b + 3]
            cells.append("\x1b[38;2;%d;%d;%dm\x1b[48;2;%d;%d;%dm\u2580" % (*upper, *lower))
        lines.append("".join(cells) + "\x1b[0m\x1b[K\n")
    return "".join(lines)


class Window:
    """One OpenCV window per stream; the key q, or closing the window, ends the program."""

    def __init__(self):
        import cv2
        self.cv2 = cv2

    @staticmethod
    def available():
        """Whether there is a display and an OpenCV that can open windows."""
        if os.name == "posix" and not (os.environ.get("DISPLAY")
                                       or os.environ.get("WAYLAND_DISPLAY")):
            return False
        try:
            import cv2
        except ImportError:
            return False
        return not re.search(r"GUI:\s+NONE", cv2.getBuildInformation())

    def show(self, s):
        import numpy as np
        title = plain(s.stream)
        picture = np.asarray(s.image())[:, :, ::-1].copy()
        self.cv2.putText(picture, caption(s).encode("ascii", "replace").decode(), (4, 14),
                         self.cv2.FONT_HERSHEY_SIMPLEX, 0.35, (255, 255, 255), 1)
        self.cv2.namedWindow(title, self.cv2.WINDOW_NORMAL)
        self.cv2.imshow(title, picture)
        if self.cv2.waitKey(1) & 0xFF == ord("q"):
            raise KeyboardInterrupt

    def close(self):
        self.cv2.destroyAllWindows()


class Lines:
    """One line of text per result; with `digest` stream, seq and SHA-256 instead."""

    def __init__(self, digest=False):
        self.digest = digest

    def show(self, s):
        line = f"{plain(s.stream)} {s.seq} {s.digest()}" if self.digest else caption(s)
        print(line, flush=True)

    def close(self):
        pass
