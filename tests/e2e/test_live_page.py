"""The live page in a real Chromium beside a real daemon: what a person sees is what the daemon says."""
import json
import re
import threading
import time
import urllib.parse

import numpy as np
import pytest

import models
from browser import Browser
from daemon import Daemon

pytestmark = pytest.mark.skipif(not Browser.available(), reason="chromium is not installed")

HOSTILE = "<b>x</b> \"door\" & 100%/north?#"  # a stream's name is whatever a camera says it is
STREAMS = ("cam0", HOSTILE)
LABELS = [f"<i>class</i> {i}" for i in range(10)]

# One object per card, in the order of the page: texts as a reader sees them, and the picture's pixels.
READ_CARDS = """
const digest = async image => {
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth; canvas.height = image.naturalHeight;
  if (!canvas.width) return null;
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const hash = await crypto.subtle.digest("SHA-256", pixels);
  return Array.from(new Uint8Array(hash)).map(b => b.toString(16).padStart(2, "0")).join("");
};
return Promise.all([...document.querySelectorAll("article")].map(async card => {
  const image = card.querySelector("img"), facts = {};
  for (const dt of card.querySelectorAll("dt")) facts[dt.textContent] = dt.nextSibling.textContent;
  return { stream: card.dataset.stream, badge: card.querySelector(".badge").innerText,
           name: card.querySelector(".name").innerText, p: card.querySelector(".p").innerText,
           bar: card.querySelector(".bar i").style.width, facts,
           drops: card.querySelector(".drops").innerText, old: card.classList.contains("old"),
           markup: card.querySelectorAll("b, img[src='x'], .name i").length,
           shown: !image.hidden && image.complete, width: image.naturalWidth,
           height: image.naturalHeight, pixels: await digest(image) };
}));
"""
STATE = "const s = document.getElementById('state'); return [s.className, s.innerText]"


def scene(step, width=320, height=240):
    """A picture [h,w,3] in which something moves: sky, ground and a bright disc."""
    y, x = np.mgrid[0:height, 0:width]
    image = np.stack([200 - y / 3, 120 + y / 4, 60 + y / 2], 2)  # BGR
    image[y > .7 * height] = (60, 110, 80)
    inside = (x - width * (.5 + .35 * np.cos(step / 9))) ** 2 + (y - height * .45) ** 2 < (height / 7) ** 2
    image[inside] = (40, 90, 240)
    return image.clip(0, 255).astype(np.uint8)


class Cameras(threading.Thread):
    """Both streams at about 15 frames a second; the thread owns the daemon's sender."""

    def __init__(self, d):
        super().__init__(daemon=True)
        self.daemon_, self.ended = d, threading.Event()

    def run(self):
        for step in range(100000):
            for stream in STREAMS:
                self.daemon_.push(stream, scene(step + 40 * (stream != "cam0")))
            if self.ended.wait(1 / 15):
                return

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.ended.set()
        self.join()


@pytest.fixture
def daemon(tmp_path):
    (tmp_path / "labels.txt").write_text("\n".join(LABELS) + "\n")
    model = models.export("tiny_resnet", 64, 10, bn="keep")
    with Daemon(model, tmp_path, model={"labels": str(tmp_path / "labels.txt")}) as d:
        for _ in range(3):  # three drops on cam0, before anything else comes
            d.push("cam0", b"\0" * 99, w=64, h=64)
        yield d


@pytest.fixture
def page(tmp_path, daemon):
    with Browser(tmp_path) as browser:
        browser.address = f"http://127.0.0.1:{daemon.ports['http']}/"
        browser.open(browser.address)
        yield browser


def cards(page):
    return {card["stream"]: card for card in page.run(READ_CARDS)}


def wait(condition, seconds, message):
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"{message} within {seconds} s"
        time.sleep(.1)
    return value


def pictures(page, count=len(STREAMS)):
    """The cards as soon as all show a picture."""
    def every():
        seen = cards(page)
        return len(seen) == count and all(c["shown"] and c["width"] > 0 for c in seen.values()) and seen
    return wait(every, 15, f"no {count} cards with pictures")


def test_every_stream_is_shown(daemon, page, tmp_path):
    with Cameras(daemon):
        pictures(page)
        time.sleep(7)  # the rate is over six full seconds
        seen, said = cards(page), json.loads(daemon.http("/streams"))["streams"]
        page.screenshot(tmp_path / "page.png")
        assert [s["stream"] for s in said] == sorted(STREAMS) == sorted(seen)
        for s in said:
            card = seen[s["stream"]]
            assert card["badge"] == s["stream"]
            assert card["name"] in LABELS
            assert re.fullmatch(r"\d+\.\d %", card["p"])
            assert float(card["bar"][:-1]) == pytest.approx(float(card["p"][:-2]), abs=.06)
            assert re.fullmatch(r"\d+ ms|\d\.\d s", card["facts"]["frame age"])
            assert re.fullmatch(r"\d+ ms|\d\.\d s", card["facts"]["compute"])
            assert 0 < int(card["facts"]["published"]) <= s["published"]
            assert 0 < int(card["facts"]["received"]) <= s["received"]
        assert seen["cam0"]["facts"]["dropped"] != "0" and "bad_shape 3" in seen["cam0"]["drops"]
        assert page.run(STATE) == ["", "2 streams"]

        def rates_agree():  # at one of several looks: it changes once a second
            shown = {stream: card["facts"]["explained / s"] for stream, card in cards(page).items()}
            rates = {s["stream"]: s["rate"] for s in json.loads(daemon.http("/streams"))["streams"]}
            return min(rates.values()) > 0 and shown == {k: f"{v:.1f}" for k, v in rates.items()}

        wait(rates_agree, 10, "the page does not show the daemon's rates")


def test_the_picture_moves(daemon, page):
    with Cameras(daemon):
        before = pictures(page)
        for stream, card in before.items():
            wait(lambda: cards(page)[stream]["pixels"] != card["pixels"], 5, "the picture stands still")
    for stream, card in cards(page).items():  # what is shown is the newest overlay
        assert (card["width"], card["height"]) == (before[stream]["width"], before[stream]["height"])


def test_names_are_text(daemon, page):
    """Stream ids and class names come from outside: no element is made of them."""
    with Cameras(daemon):
        seen = pictures(page)
        assert seen[HOSTILE]["badge"] == HOSTILE and seen[HOSTILE]["name"] in LABELS
        assert all(card["markup"] == 0 for card in seen.values())


def test_nothing_comes_from_elsewhere(daemon, page):
    with Cameras(daemon):
        pictures(page)
        requests = [url for url in page.requests(page.address)
                    if not url.startswith(("blob:", "data:"))]
        hosts = {urllib.parse.urlsplit(url).netloc for url in requests}
        assert hosts == {urllib.parse.urlsplit(page.address).netloc}, hosts
        assert any("/overlay/" in url for url in requests)
        assert page.console() == []


@pytest.mark.parametrize("width,height", [(1280, 900), (500, 900)])
def test_it_fits_the_window(daemon, page, tmp_path, width, height):
    page.resize(width, height)
    daemon.push("n" * 128, scene(0))  # the longest name
    with Cameras(daemon):
        pictures(page, 3)
        page.screenshot(tmp_path / f"page_{width}.png")
        assert page.run("return document.documentElement.scrollWidth <= innerWidth")
        assert page.run("""return [...document.querySelectorAll('article')].every(card =>
            [...card.querySelectorAll('.badge, .name, dt, dd, .drops')].every(e =>
                e.getBoundingClientRect().right <= card.getBoundingClientRect().right))""")


def test_it_outlives_the_daemon(daemon, page, tmp_path):
    """A picture that is no longer live looks so; a daemon that stops and comes back is noticed."""
    with Cameras(daemon):
        pictures(page)
    wait(lambda: all(card["old"] for card in cards(page).values()), 10, "old pictures do not look old")
    page.screenshot(tmp_path / "old.png")
    assert page.run("""return [...document.querySelectorAll('.badge')].every(badge => {
        const at = badge.getBoundingClientRect();
        return document.elementFromPoint(at.x + at.width / 2, at.y + at.height / 2) === badge; })""")
    status, _, _ = daemon.terminate()
    assert status == 0
    wait(lambda: page.run(STATE)[0] == "lost", 5, "the page does not notice")
    assert all(card["width"] > 0 for card in cards(page).values())
    page.screenshot(tmp_path / "lost.png")
    daemon.start()
    wait(lambda: page.run(STATE)[0] == "", 5, "the page does not come back")
    with Cameras(daemon):
        wait(lambda: not any(card["old"] for card in pictures(page).values()), 10, "no new pictures")
