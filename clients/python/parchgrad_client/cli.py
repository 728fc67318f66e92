"""The `parchgrad` command: publish frames, record them, view results."""
import argparse
import io
import os
import signal
import sys
import time

from . import recording, show, sources, stream, wire


class Progress:
    """A line on stderr, renewed a few times a second; silent where stderr is no terminal."""

    def __init__(self, label, total):
        self.label, self.total, self.start = label, total, time.monotonic()
        self.next = self.start + 1
        self.live = sys.stderr.isatty()

    def step(self, done):
        now = time.monotonic()
        if not self.live or now < self.next:
            return
        self.next = now + 0.25
        rate = done / (now - self.start)
        text = f"{self.label}  {done} frames  {rate:.1f}/s"
        if self.total:
            left = max(0, self.total - done) / rate
            text = f"{self.label}  {done}/{self.total} frames  {rate:.1f}/s  {left:.0f} s left"
        sys.stderr.write(f"\r{text}\x1b[K")
        sys.stderr.flush()

    def end(self):
        if self.live:
            sys.stderr.write("\r\x1b[K")


def to_jpeg(frame, quality):
    """A BGR array as JPEG bytes; encoded bytes stay as they are."""
    if isinstance(frame, bytes):
        return frame
    from PIL import Image
    buffer = io.BytesIO()
    Image.fromarray(frame[:, :, ::-1]).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def paced(source, fps, loop):
    """The frames, at most `fps` a second; a late frame does not make the next ones early."""
    due = time.monotonic()
    while True:
        seen = False
        for frame in source.frames():
            seen = True
            now = time.monotonic()
            if fps and due > now:
                time.sleep(due - now)
            due = max(due, now - 1) + (1 / fps if fps else 0)
            yield frame
        if not seen:
            raise sources.SourceError("the source gave no frame")
        if not loop:
            return


def publish(arguments):
    source = sources.open_source(arguments.source)
    is_file = source.count is not None
    fps = arguments.fps or source.fps or (4 if is_file else None)
    total = arguments.count or (None if arguments.loop else source.count)
    started = sent = 0
    with stream.Publisher(arguments.to, arguments.stream, arguments.type, arguments.bind,
                          arguments.wait) as publisher:
        if not publisher.wait_for_listener(min(1, arguments.wait)):
            print(f"parchgrad: waiting for a parchgradd at {arguments.to}", file=sys.stderr)
        progress = Progress(arguments.stream, total)
        started = time.monotonic()
        try:
            for frame in paced(source, fps, arguments.loop):
                ts = time.time_ns()
                frame = to_jpeg(frame, arguments.quality) if arguments.jpeg else frame
                publisher.send(frame, ts=ts, target=arguments.target,
                               method=arguments.method)
                sent += 1
                progress.step(sent)
                if sent == arguments.count:
                    break
        finally:
            progress.end()
    seconds = time.monotonic() - started
    print(f"{arguments.stream}: {sent} frames in {seconds:.1f} s", file=sys.stderr)


def record(arguments):
    """A file is read as fast as it goes, its frames stamped as if it had played; a camera is what it is."""
    source = sources.open_source(arguments.source)
    fps = arguments.fps or source.fps or 4
    progress = Progress(arguments.stream, arguments.count or source.count)
    with recording.Recorder(arguments.file, arguments.stream) as recorder:
        begin = time.time_ns()
        try:
            for frame in source.frames():
                ts = time.time_ns() if source.count is None else begin + int(recorder.seq * 1e9 / fps)
                frame = to_jpeg(frame, arguments.quality) if arguments.jpeg else frame
                recorder.send(frame, ts=ts)
                progress.step(recorder.seq)
                if recorder.seq == arguments.count or (
                        arguments.seconds and ts - begin >= arguments.seconds * 1e9):
                    break
        finally:
            progress.end()
            print(f"{arguments.file}: {recorder.seq} frames of {arguments.stream}, "
                  f"{recorder.bytes / 1e6:.1f} MB", file=sys.stderr)
    if not recorder.seq:
        raise sources.SourceError("the source gave no frame")


def choose_viewer(arguments):
    if arguments.save:
        return show.Files(arguments.save)
    if arguments.text or arguments.digest:
        return show.Lines(arguments.digest)
    if arguments.window and not show.Window.available():
        raise RuntimeError("no window: needs a display and pip install 'parchgrad-client[window]'")
    if not arguments.terminal and show.Window.available():
        return show.Window()
    if arguments.terminal or sys.stdout.isatty():
        return show.Terminal(sys.stdout)
    return show.Lines()


def view(arguments):
    end = time.monotonic() + arguments.seconds if arguments.seconds else None
    seen = 0
    with stream.Subscriber(arguments.endpoint, arguments.stream or None) as results:
        viewer = choose_viewer(arguments)
        if arguments.wait:
            results.timeout = arguments.wait
        try:
            while not (arguments.count and seen >= arguments.count):
                if end is not None:
                    left = end - time.monotonic()
                    if left <= 0:
                        break
                    results.timeout = min(left, arguments.wait or left)
                try:
                    result = next(results)
                except TimeoutError:
                    if end is not None and time.monotonic() >= end - 0.01:
                        break
                    raise
                try:
                    viewer.show(result)
                except wire.WireError as error:
                    print(f"parchgrad: {show.plain(error)}", file=sys.stderr)
                    continue
                seen += 1
        finally:
            viewer.close()
    if arguments.seconds and not seen:
        raise TimeoutError(f"no result within {arguments.seconds:g} s")


def positive(kind):
    def parse(text):
        value = kind(text)
        if not 0 < value < 1e9:
            raise argparse.ArgumentTypeError(f"{text} is not a positive number")
        return value
    return parse


def target(text):
    return int(text) if text.isdigit() else text


def parser():
    top = argparse.ArgumentParser(prog="parchgrad", description="Client of parchgradd.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    p = commands.add_parser("publish", help="send a video, a camera or pictures as a stream",
                            description="Sends a video, a camera or pictures as a stream.")
    p.add_argument("source", help="a video file, a picture, a folder of pictures (JPEG, PNG), "
                                  "or the number of a camera")
    p.add_argument("--stream", required=True, help="stream id, e.g. cam0")
    p.add_argument("--to", required=True, metavar="ENDPOINT",
                   help="the daemon's ingest endpoint, e.g. tcp://127.0.0.1:5555")
    p.add_argument("--fps", type=positive(float),
                   help="frames per second (default: the video's own; pictures 4; camera: its own)")
    p.add_argument("--loop", action="store_true", help="start again at the end")
    p.add_argument("--jpeg", action="store_true", help="send JPEG instead of raw pixels")
    p.add_argument("--quality", type=int, choices=range(1, 101), default=90, metavar="1..100",
                   help="of --jpeg (90)")
    p.add_argument("--count", type=positive(int), metavar="N", help="stop after N frames")
    p.add_argument("--target", type=target, help="class index or name to explain")
    p.add_argument("--method", help="how to explain, e.g. parchgrad, ig (default: the daemon's)")
    p.add_argument("--type", choices=("pub", "push"), default="pub",
                   help="pub for ingest type sub (default), push for pull")
    p.add_argument("--bind", action="store_true", help="bind the endpoint; the daemon connects")
    p.add_argument("--wait", type=positive(float), default=30.0, metavar="SECONDS",
                   help="give up if no daemon listens for so long (30)")
    p.set_defaults(run=publish)

    r = commands.add_parser("record", help="keep frames in a file, for parchgradd evaluate",
                            description="Keeps the frames of a video, a camera or pictures in a file "
                                        "that `parchgradd evaluate --data` reads. Ctrl-C ends it well.")
    r.add_argument("source", help="as of publish")
    r.add_argument("file", help="the recording, a new file")
    r.add_argument("--stream", default="recording", help="stream id (recording)")
    r.add_argument("--fps", type=positive(float),
                   help="of files, for the frames' times (default: the video's own; pictures 4)")
    r.add_argument("--jpeg", action="store_true", help="keep JPEG instead of raw pixels")
    r.add_argument("--quality", type=int, choices=range(1, 101), default=90, metavar="1..100",
                   help="of --jpeg (90)")
    r.add_argument("--count", type=positive(int), metavar="N", help="stop after N frames")
    r.add_argument("--seconds", type=positive(float), metavar="N", help="stop after N seconds of frames")
    r.set_defaults(run=record)

    v = commands.add_parser("view", help="show results: window, terminal, files or text",
                            description="Shows results in a window where there is one, in the "
                                        "terminal's colours, as files, or as text.")
    v.add_argument("endpoint", help="the daemon's publish endpoint, e.g. tcp://127.0.0.1:5556")
    v.add_argument("--stream", action="append", help="only this stream (may be repeated)")
    how = v.add_mutually_exclusive_group()
    how.add_argument("--save", metavar="DIR", help="save overlays there")
    how.add_argument("--terminal", action="store_true", help="draw in the terminal")
    how.add_argument("--window", action="store_true", help="open windows (OpenCV)")
    how.add_argument("--text", action="store_true", help="one line per result")
    how.add_argument("--digest", action="store_true",
                     help="print stream, seq and the message's SHA-256")
    v.add_argument("--count", type=positive(int), metavar="N", help="stop after N results")
    v.add_argument("--seconds", type=positive(float), metavar="N", help="stop after N seconds")
    v.add_argument("--wait", type=positive(float), metavar="SECONDS",
                   help="fail if no result comes for so long (default: wait for ever)")
    v.set_defaults(run=view)
    return top


def main(argv=None):
    """Exit status: 0 done, 1 failed, 2 usage, 130 interrupted."""
    arguments = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (wire.WireError, sources.SourceError, OSError, RuntimeError) as error:
        print(f"parchgrad: {show.plain(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
