"""What bfloat16 does to predictions and maps, on photographs, beside float32 and beside noise nobody sees.

A ReLU's derivative is 0 or 1: where forward is rounded, some of them tip over, and so do some choices of channels. Where
only backward is rounded, neither can, and the map is the float32 one but for rounding. The yardstick for the first is
what half a grey level of noise in the picture does to the float32 map."""
import concurrent.futures

import numpy as np
import pytest

import cli
import models
from photos import crops, photos

KINDS = ("gradient", "class", "instance", "random")
needs_bf16 = pytest.mark.skipif("avx512_bf16" not in open("/proc/cpuinfo").read(), reason="no bfloat16 here")


def ranks(a):
    """Of the values of a map; there are practically no ties."""
    order = np.argsort(np.ravel(a), kind="stable")
    out = np.empty(order.size)
    out[order] = np.arange(order.size)
    return out - out.mean()


def spearman(a, b):
    return cli.cosine(ranks(a), ranks(b))


def heat(attribution):
    return np.abs(attribution).mean(0)


class Net:
    def __init__(self, name, folder, samples):
        self.path = models.export(name)
        self.stats = folder / f"{name}.stats"
        data = folder / "data" / "any"
        data.mkdir(parents=True)
        for i, x in enumerate(crops(samples)):
            np.save(data / f"{i:03d}.npy", x)
        cli.run("calibrate", "--model", self.path, "--data", data.parent, "--labels", "predicted", "--out",
                self.stats, "--set", "parchgrad.layers=1.0")

    def explain(self, x, kind, precision, target):
        options = {"model__precision": precision, "model__threads": 1}
        if kind != "gradient":
            options.update(parchgrad__select=kind, parchgrad__layers=1.0)
        return cli.explain(self.path, x, method="gradient" if kind == "gradient" else "parchgrad", target=target,
                           stats=None if kind == "gradient" else self.stats, **options)

    def target(self, x):
        return int(self.explain(x, "gradient", "f32", None).logits.argmax())


class Table:
    """Of one network: per variant and kind, cosines of the attributions and rank correlations of the maps, and the
    largest logit error as a share of the logits' range."""

    def __init__(self, name, net, inputs, say):
        rng = np.random.default_rng(0)
        self.cosine, self.rank, self.logit, self.top1 = {}, {}, {}, {}
        for x in inputs:
            noise = (rng.uniform(-1, 1, x.shape) / 255).astype(np.float32)  # 0.5 of 255 levels, over std 0.5
            target = net.target(x)
            for kind in KINDS:
                runs = [(x, "f32"), (x, "bf16"), (x, "bf16-backward"), (x + noise, "f32")]
                with concurrent.futures.ThreadPoolExecutor(2) as pool:
                    f32, *others = pool.map(lambda r: net.explain(r[0], kind, r[1], target), runs)
                for variant, other in zip(("bf16", "bf16-backward", "noise"), others):
                    self.add(variant, kind, f32, other)
        for variant in ("bf16", "bf16-backward", "noise"):
            say(f"{name:18s} {variant:13s} top-1 {np.mean(self.top1[variant]):4.0%}  logits {max(self.logit[variant]):.0e}"
                + "".join(f"  {kind} {min(self.cosine[variant, kind]):.4f}/{np.median(self.cosine[variant, kind]):.4f}"
                          f" {min(self.rank[variant, kind]):.4f}/{np.median(self.rank[variant, kind]):.4f}"
                          for kind in KINDS))

    def add(self, variant, kind, f32, other):
        a, b = f32.logits.ravel(), other.logits.ravel()
        self.cosine.setdefault((variant, kind), []).append(cli.cosine(other.attribution, f32.attribution))
        self.rank.setdefault((variant, kind), []).append(spearman(heat(other.attribution), heat(f32.attribution)))
        self.logit.setdefault(variant, []).append(np.abs(a - b).max() / (a.max() - a.min()))
        self.top1.setdefault(variant, []).append(a.argmax() == b.argmax())


@needs_bf16
@pytest.mark.parametrize("name,count", [("efficientnet_lite0", 6), ("resnet18", 2), ("resnet50", 2),
                                        ("mobilenet_v2", 2), ("densenet121", 2), ("vgg16_bn", 2)])
def test_bf16(name, count, tmp_path, say):
    net = Net(name, tmp_path, 112 if name == "efficientnet_lite0" else 28)
    table = Table(name, net, list(photos().values())[:2 * count:2] + list(photos().values())[1:2 * count - 9:2], say)
