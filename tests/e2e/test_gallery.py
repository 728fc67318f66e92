"""tests/gallery does what it says: a sheet and a page of the methods that were asked for."""
import subprocess

from PIL import Image

import cli


def gallery(*arguments):
    return subprocess.run([cli.ROOT / "tests/gallery", *map(str, arguments)], capture_output=True, text=True,
                          timeout=300)


def test_quick(tmp_path):
    out = gallery("--quick", "--photo", "chelsea", "--out", tmp_path)
    assert out.returncode == 0, out.stderr
    assert "2 methods, 1 pictures" in out.stdout
    for name in ("gallery.png", "gallery.jpg"):
        sheet = Image.open(tmp_path / name).convert("RGB")
        assert len(set(sheet.resize((60, 60)).getdata())) > 500, "pictures are on it"
    page = (tmp_path / "gallery.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 3 and "parchgrad" in page and "rise" in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


def test_an_unknown_method_is_named(tmp_path):
    out = gallery("--methods", "gradient,nonsense", "--out", tmp_path / "none")
    assert out.returncode == 1 and "no method nonsense" in out.stderr and not (tmp_path / "none").exists()
