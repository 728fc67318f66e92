#!/usr/bin/env python3
"""Puts the demo's pictures on one sheet: the photos with plain gradient and ParchGrad side by side,
and ten frames of the clip.

    contact_sheet.py PHOTO_DIR SAVE_DIR     reads SAVE_DIR/{gradient,parchgrad}_<photo>.png and .json
                                            and SAVE_DIR/bikes_*.jpg; writes contact_sheet.jpg
"""
import json
import pathlib
import sys

from PIL import Image, ImageDraw, ImageFont

CELL, LINE, CLIP_FRAMES = 224, 16, 10
FONT = ImageFont.load_default()


def latin(text):
    """The built-in font of older Pillow knows latin-1 only."""
    return text.encode("latin-1", "replace").decode("latin-1")


def photo(path):
    """The picture as the network sees it: shorter side to CELL, centre."""
    image = Image.open(path).convert("RGB")
    scale = CELL / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)))
    left, top = (image.width - CELL) // 2, (image.height - CELL) // 2
    return image.crop((left, top, left + CELL, top + CELL))


def explained(path):
    """What `parchgradd explain --json` said the picture shows."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        top = result["top"][0]
        if isinstance(top, dict):
            return f"{top.get('name') or top.get('class')} {top['probability']:.2f}"
        return f"{top[1] if top[1] is not None else top[0]} {top[2]:.2f}"
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return ""


def rows_of(photos, save):
    cells = []
    for path in sorted(photos.iterdir()):
        cells.append((photo(path), path.stem))
        for method in ("gradient", "parchgrad"):
            overlay = Image.open(save / f"{method}_{path.stem}.png").convert("RGB")
            cells.append((overlay, f"{method}: {explained(save / f'{method}_{path.stem}.json')}"))
    rows = [cells[i:i + 6] for i in range(0, len(cells), 6)]
    clip = sorted(save.glob("bikes_*.jpg"))
    if not clip:
        sys.exit(f"contact_sheet: no frame of the clip in {save}")
    step = (len(clip) - 1) / max(1, CLIP_FRAMES - 1)
    chosen = [clip[round(i * step)] for i in range(min(CLIP_FRAMES, len(clip)))]
    cells = [(Image.open(path).convert("RGB"), path.stem) for path in chosen]
    return rows + [cells[i:i + 5] for i in range(0, len(cells), 5)]


def main(photos, save):
    rows = rows_of(photos, save)
    columns = max(map(len, rows))
    sheet = Image.new("RGB", (columns * CELL, len(rows) * (CELL + LINE)), "black")
    draw = ImageDraw.Draw(sheet)
    for y, row in enumerate(rows):
        for x, (picture, text) in enumerate(row):
            picture.thumbnail((CELL, CELL))
            sheet.paste(picture, (x * CELL, y * (CELL + LINE)))
            draw.text((x * CELL + 3, y * (CELL + LINE) + CELL + 2), latin(text)[:36], "white", FONT)
    target = save / "contact_sheet.jpg"
    sheet.save(target, quality=90)
    print(f"{target}: {sheet.width} x {sheet.height}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]))
