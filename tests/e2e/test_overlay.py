"""What of a map is heat in the overlay, recomputed in numpy from the signed attribution: magnitudes for gradients, the
positive part for CAMs and occlusion, what is above the minimum for RISE. The published map is not touched by it."""
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

import cli
import models

SIZE = 64
SETTINGS = {"occlusion.window": 16, "occlusion.stride": 8, "rise.masks": 40}
MAGNITUDE, POSITIVE, RANGE = np.abs, lambda m: np.maximum(m, 0), lambda m: m - m.min()


@pytest.fixture(scope="module")
def model():
    return models.export("tiny_resnet", SIZE, 10, bn="keep")


def explain(model, folder, method, **options):
    rng = np.random.default_rng(2)
    pixels = np.asarray(Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize((SIZE, SIZE)))
    Image.fromarray(pixels).save(folder / "x.png")
    cli.run("explain", "--model", model, "--method", method, "--target", 3, *cli.settings({**SETTINGS, **options}),
            "--save-overlay", folder / "o.png", "--save-map", folder / "m.npy", "--save-attribution", folder / "a.npy",
            folder / "x.png")
    overlay = np.asarray(Image.open(folder / "o.png").convert("RGB")).astype(float)
    return pixels.astype(float), overlay, np.load(folder / "m.npy").astype(float), np.load(folder / "a.npy").astype(float)


def painted(pixels, heat, percentile=99.5):
    """Blue, cyan, yellow, red; weak heat hides little."""
    full = np.percentile(heat, percentile)
    v = np.minimum(heat / (full if full > 0 else heat.max()), 1)[..., None]
    cover = .7 * np.where(v < .5, 2 * v * (1.5 - v), 1)
    colour = np.concatenate([np.clip(1.5 - abs(4 * v - c), 0, 1) for c in (3, 2, 1)], -1)
    return (1 - cover) * pixels + cover * 255 * colour


def assert_painted(overlay, pixels, heat):
    """Rounding to a byte, and a step more where a value lies on the edge."""
    error = np.abs(overlay - painted(pixels, heat)).max()
    assert error <= 1.01, f"{error} of 255"


@pytest.mark.parametrize("method, heat", [
    ("gradient", MAGNITUDE), ("inputgrad", MAGNITUDE), ("lrp", MAGNITUDE), ("occlusion", POSITIVE), ("rise", RANGE)])
def test_heat(model, tmp_path, method, heat):
    pixels, overlay, m, a = explain(model, tmp_path, method)
    assert np.allclose(m, np.abs(a).mean(0), rtol=1e-6, atol=0), "the map is the reduced attribution, whatever is shown"
    signed = a[0] if len(a) == 1 else np.abs(a).mean(0)
    assert_painted(overlay, pixels, heat(signed))
    if method == "occlusion":
        assert (a < 0).mean() > .02 and (a > 0).mean() > .02, "both signs, or the test says nothing"
    if method == "rise":
        assert m.min() > .05 * m.max(), "far from 0, or the test says nothing"


@pytest.mark.parametrize("method", ["gradcam", "eigencam", "ablationcam", "scorecam", "scorecam-prob"])
def test_a_cam_is_shown_as_it_is(model, tmp_path, method):
    pixels, overlay, m, _ = explain(model, tmp_path, method)
    assert m.min() >= 0
    assert_painted(overlay, pixels, m)


def test_signed_maps(model, tmp_path):
    """With explain.reduce: sum the map keeps its signs: either is heat for a gradient, not for occlusion; smoothing
    comes first."""
    for method, heat in (("gradient", MAGNITUDE), ("occlusion", POSITIVE)):
        pixels, overlay, m, a = explain(model, tmp_path, method, **{"explain.reduce": "sum", "explain.smooth": 1.5})
        smooth = gaussian_filter(a.sum(0), 1.5, mode="reflect", truncate=4)
        assert np.allclose(m, smooth, atol=1e-5 * abs(smooth).max()) and m.min() < 0
        assert_painted(overlay, pixels, heat(smooth))
