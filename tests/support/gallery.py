"""Every saliency method on the same pictures, side by side: gallery.png to look at, gallery.html with the figures. The
photographs are explained by `parchgradd explain`, the frames of the clip by a daemon, each frame once per method."""
import argparse
import base64
import html
import io
import json
import pathlib
import shutil
import sys
import tempfile

import msgpack
import zmq
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

import cli
import models
import photos
from daemon import Daemon, sections_of

SIZE, CELL, LINE, MARGIN = 224, 168, 15, 170  # of the network; of the sheet, in pixels
PHOTOS = {"chelsea": "chelsea.png", "coffee": "coffee.png", "rocket": "rocket.jpg", "motorcycle": "motorcycle_left.png"}
FRAMES = (36, 70, 90, 125, 165, 215)
LABELS = cli.ROOT / "clients/demo/imagenet_classes.txt"
SETTINGS = {"model.input.mean": .5, "model.input.std": .5, "model.labels": str(LABELS), "parchgrad.select": "instance",
            "explain.smooth": 2, "crp.layer": "_conv_head", "scorecam.channels": 256, "explain.methods": ["lrp", "crp"]}
QUICK = {"scorecam.channels": 8, "rise.masks": 20, "occlusion.window": 64, "occlusion.stride": 64}


class Cell:
    """One explanation: its overlay as encoded bytes, and what was said about it."""

    def __init__(self, overlay, name, probability, seconds, quality):
        self.overlay, self.name, self.probability, self.seconds = overlay, name, probability, seconds
        self.gini, self.degenerate = quality["gini"], quality["degenerate"]

    def image(self):
        return Image.open(io.BytesIO(self.overlay)).convert("RGB")

    def caption(self):
        return f"{self.seconds * 1000:.0f} ms" + ("  degenerate" if self.degenerate else "")


class Pictures:
    """The photographs and the clip's frames as files, and the channel statistics of both."""

    def __init__(self, folder, quick, only):
        self.folder = folder
        files = {name: photos.path(file) for name, file in list(PHOTOS.items())[:1 if quick else None]}
        self.photos = {only: files[only]} if only else files
        self.frames = {} if quick or only else dict(zip((f"frame {i}" for i in FRAMES), photos.clip(FRAMES)))
        (folder / "data").mkdir()
        for path in files.values():
            shutil.copy(path, folder / "data")
        for i, frame in enumerate(photos.clip(range(0, 250, 50 if quick else 6))):
            Image.fromarray(frame[:, :, ::-1]).save(folder / "data" / f"{i}.png")

    def originals(self):
        """{name: picture as the network sees it}: shorter side to its size, centre."""
        whole = {name: Image.open(path).convert("RGB") for name, path in self.photos.items()}
        whole |= {name: Image.fromarray(frame[:, :, ::-1]) for name, frame in self.frames.items()}
        out = {}
        for name, image in whole.items():
            scale = SIZE / min(image.size)
            image = image.resize((round(image.width * scale), round(image.height * scale)), Image.BILINEAR)
            left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
            out[name] = image.crop((left, top, left + SIZE, top + SIZE))
        return out


def by_command(model, settings, method, path, folder):
    out = cli.run("explain", "--model", model, "--method", method, "--json", "--save-overlay", folder / "overlay.jpg",
                  *cli.settings(settings), path, timeout=3600)
    info = json.loads(out.stdout)
    top = info["explained"]
    return Cell((folder / "overlay.jpg").read_bytes(), top["name"], top["probability"],
                info["timing"]["total"] * 1e-9, info["quality"])


def best_channels(model, settings, pictures):
    """For crp: the two channels of its layer that say most about each photograph."""
    best = set()
    for path in pictures.photos.values():
        out = cli.run("explain", "--model", model, "--method", "crp", "--json", *cli.settings(settings), path)
        best |= set(json.loads(out.stdout)["concepts"]["top"][:2])
    return sorted(best)


def by_daemon(daemon, results, method, frame):
    daemon.push("bikes", frame, method=method)
    _, header, _, overlay = results.recv_multipart()
    h = msgpack.unpackb(header)
    assert h["method"] == method
    probability = next(p for index, _, p in h["top"] if index == h["explained"]["class"])
    return Cell(overlay, h["explained"]["name"], probability, h["timing"]["total"] * 1e-9, h["quality"])


def value_of(text):
    """What --set says, as YAML would read it."""
    try:
        return json.loads(text)
    except ValueError:
        return [w.strip() for w in text[1:-1].split(",")] if text.startswith("[") else text


def explain_all(model, settings, methods, pictures):
    """{(method, picture): Cell}"""
    cells, folder = {}, pictures.folder
    progress = tqdm(total=len(methods) * (len(pictures.photos) + len(pictures.frames)), unit="map", file=sys.stderr,
                    disable=not sys.stderr.isatty())
    for method in methods:
        for name, path in pictures.photos.items():
            progress.set_description(f"{method}, {name}")
            cells[method, name] = by_command(model, settings, method, path, folder)
            progress.update()
    if pictures.frames:
        with Daemon(model, folder, publish={"overlay": True}, streams={"default": {"policy": "fifo", "depth": 8}},
                    **sections_of(settings)) as daemon:
            results = daemon.subscribe()
            results.setsockopt(zmq.RCVTIMEO, 600000)
            for method in methods:
                for name, frame in pictures.frames.items():
                    progress.set_description(f"{method}, {name}")
                    cells[method, name] = by_daemon(daemon, results, method, frame)
                    progress.update()
    progress.close()
    return cells


def font(size):
    import matplotlib
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def draw_sheet(cells, methods, originals, path):
    names, large, small = list(originals), font(13), font(10)
    row = CELL + LINE
    sheet = Image.new("RGB", (MARGIN + len(names) * (CELL + 4), (1 + len(methods)) * row + 2 * LINE), "white")
    draw = ImageDraw.Draw(sheet)
    for x, name in enumerate(names):
        cell, left = cells[methods[0], name], MARGIN + x * (CELL + 4)
        draw.text((left + 2, 1), name, "black", small)
        draw.text((left + 2, LINE), f"{cell.probability:.2f} {cell.name}"[:28], "black", small)
        sheet.paste(originals[name].resize((CELL, CELL)), (left, 2 * LINE))
    for y, method in enumerate(methods):
        top = 2 * LINE + (1 + y) * row
        draw.text((6, top + CELL // 2 - 8), method, "black", large)
        for x, name in enumerate(names):
            left = MARGIN + x * (CELL + 4)
            sheet.paste(cells[method, name].image().resize((CELL, CELL)), (left, top))
            draw.text((left + 2, top + CELL), cells[method, name].caption(), "black", small)
    sheet.save(path)


def draw_photo(cells, methods, name, original, path):
    """One photograph: itself, then every method's picture, row by row."""
    small, columns, row = font(11), 6, CELL + LINE + 4
    pictures = [(original, f"{cells[methods[0], name].name} {cells[methods[0], name].probability:.2f}")]
    pictures += [(cells[method, name].image(), method) for method in methods]
    sheet = Image.new("RGB", (columns * (CELL + 4) - 4, -(-len(pictures) // columns) * row), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (image, caption) in enumerate(pictures):
        left, top = i % columns * (CELL + 4), i // columns * row
        sheet.paste(image.resize((CELL, CELL), Image.LANCZOS), (left, top))
        draw.text((left + 1, top + CELL + 1), caption, "black", small)
    sheet.save(path, quality=88)


def write_page(cells, methods, originals, settings, path):
    """One file, nothing from elsewhere."""
    def picture(data, kind, title):
        return (f'<img width="{CELL}" title="{html.escape(title)}" '
                f'src="data:image/{kind};base64,{base64.b64encode(data).decode()}">')

    rows = []
    for name, image in originals.items():
        buffer = io.BytesIO()
        image.save(buffer, "JPEG")
        rows.append(f"<th>{picture(buffer.getvalue(), 'jpeg', name)}<br>{html.escape(name)}: "
                    f"{html.escape(str(cells[methods[0], name].name))} {cells[methods[0], name].probability:.2f}</th>")
    table = ["<tr><th></th>" + "".join(rows) + "</tr>"]
    for method in methods:
        row = [cells[method, name] for name in originals]
        table.append(f"<tr><th>{method}</th>" + "".join(
            f"<td>{picture(c.overlay, 'jpeg', method)}<br>{c.caption()}, gini {c.gini:.2f}</td>" for c in row) + "</tr>")
    said = html.escape(", ".join(f"{k}={v}" for k, v in settings.items() if k not in ("model.labels", "parchgrad.stats")))
    path.write_text('<!doctype html><html lang="en"><meta charset="utf-8"><title>Gallery of methods</title>'
                    "<style>body{font:13px system-ui,sans-serif}td,th{padding:2px 4px;text-align:center}"
                    "th:first-child{position:sticky;left:0;background:#fff}</style>"
                    f"<p>EfficientNet-Lite0; {said}</p><table>{''.join(table)}</table></html>\n", encoding="utf-8")


def arguments():
    parser = argparse.ArgumentParser(prog="tests/gallery", description=__doc__)
    parser.add_argument("--out", type=pathlib.Path, default=cli.ROOT / "build/gallery", metavar="DIR",
                        help="where gallery.png and gallery.html go (build/gallery)")
    parser.add_argument("--methods", metavar="A,B", help="only these (all of explain --list-methods)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a configuration key")
    parser.add_argument("--photo", choices=PHOTOS, help="this photograph alone, and a small sheet, gallery.jpg")
    parser.add_argument("--quick", action="store_true", help="two methods, one photograph: does it work")
    return parser.parse_args()


def main():
    args = arguments()
    known = [m["name"] for m in json.loads(cli.run("explain", "--list-methods", "--json").stdout)["methods"]]
    methods = args.methods.split(",") if args.methods else ["parchgrad", "rise"] if args.quick else known
    if not set(methods) <= set(known):
        sys.exit(f"tests/gallery: no method {', '.join(sorted(set(methods) - set(known)))}; there are {', '.join(known)}")
    settings = {**SETTINGS, **(QUICK if args.quick else {})}
    settings |= {key: value_of(text) for key, _, text in (setting.partition("=") for setting in args.set)}
    args.out.mkdir(parents=True, exist_ok=True)
    model = models.export("efficientnet_lite0", SIZE)
    with tempfile.TemporaryDirectory() as folder:
        pictures = Pictures(pathlib.Path(folder), args.quick, args.photo)
        cli.run("calibrate", "--model", model, "--data", pictures.folder / "data", "--labels", "predicted", "--out",
                pictures.folder / "stats", *cli.settings(settings))
        settings["parchgrad.stats"] = str(pictures.folder / "stats")
        if "crp" in methods:
            settings.setdefault("crp.channels", best_channels(model, settings, pictures))
        cells, originals = explain_all(model, settings, methods, pictures), pictures.originals()
    if args.photo:
        draw_photo(cells, methods, args.photo, originals[args.photo], args.out / "gallery.jpg")
    draw_sheet(cells, methods, originals, args.out / "gallery.png")
    write_page(cells, methods, originals, settings, args.out / "gallery.html")
    print(f"{args.out}/gallery.png and .html: {len(methods)} methods, {len(originals)} pictures")


if __name__ == "__main__":
    main()
