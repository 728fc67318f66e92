"""What the experiments have in common: parchgradd's measurements, bootstrap intervals, verdicts, the report.

Every figure is the mean over pictures (or draws) with a 95 % interval by 2,000 bootstrap resamples; two
settings are compared by the differences on the same pictures."""
import json
import pathlib
import tempfile
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from PIL import Image

import cli
import fashion

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent


# ---- intervals and verdicts ----


def interval(values, resamples=2000):
    """mean, low, high; NaN left out"""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return (np.nan,) * 3
    rng = np.random.default_rng(7)
    means = np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)])
    return (values.mean(), *np.percentile(means, [2.5, 97.5]))


def text(values, form=".4f"):
    mean, low, high = interval(values)
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"


def verdict(values, bound=0.0):
    """Of the claim that the mean lies above `bound`."""
    _, low, high = interval(values)
    return "confirmed" if low > bound else "refuted" if high < bound else "undecided"


@dataclass
class Report:
    """One experiment: rows of (claim, figure, interval, verdict), and figures."""
    name: str
    out: pathlib.Path
    intro: str = ""
    rows: list = field(default_factory=list)
    tables: list = field(default_factory=list)
    figures: list = field(default_factory=list)

    def claim(self, text, values, above=0.0, below=None):
        """That the mean of `values` lies above (or, if given, below) a bound."""
        mean, low, high = interval(values)
        ruling = verdict(values, above) if below is None else verdict(-np.asarray(values, float), -below)
        self.rows.append((text, f"{mean:.3g}", f"{low:.3g} .. {high:.3g}", ruling))
        print(f"  {ruling:10} {mean:.3g} [{low:.3g}, {high:.3g}]  {text}", flush=True)

    def table(self, header, rows):
        self.tables.append([header, *rows])

    def figure(self, name, draw, **size):
        """draw(axes) into NAME.svg"""
        picture, axes = plt.subplots(**size, layout="constrained")
        draw(axes)
        picture.savefig(self.out / f"{name}.svg")
        plt.close(picture)
        self.figures.append(f"{name}.svg")

    def markdown(self):
        lines = [f"## {self.name}", "", self.intro, ""]
        for table in [[("claim", "mean", "95 %", "verdict"), *self.rows], *self.tables]:
            cells = [f"| {' | '.join(map(str, row))} |" for row in table]
            lines += [cells[0], "|" + "---|" * len(table[0]), *cells[1:], ""]
        return "\n".join(lines + [f"![{f}]({f})\n" for f in self.figures])


# ---- parchgradd ----

INPUT = {"model.input.mean": fashion.MEAN, "model.input.std": fashion.STD}


def model(name):
    return HERE / f"{name}.onnx"


class Pictures:
    """A folder of Fashion-MNIST pictures as parchgradd reads them, one folder per class, with the
    boxes of their objects."""

    def __init__(self, folder, part, count):
        self.folder, self.boxes = pathlib.Path(folder) / part, pathlib.Path(folder) / f"{part}.csv"
        pictures, self.labels = fashion.load(part, count)
        self.inputs, lines = fashion.normalise(pictures), []
        for i, (picture, label) in enumerate(zip(pictures, self.labels)):
            (self.folder / str(label)).mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(self.folder / str(label) / f"{i:05d}.png")
            lines.append(f"{i:05d}.png,{','.join(map(str, fashion.box(picture)))}\n")
        self.boxes.write_text("".join(lines))


def calibrate(network, pictures, out):
    cli.calibrate(network, pictures.folder, out, **{k.replace(".", "__"): v for k, v in INPUT.items()})
    return out


def recognised(network, pictures):
    """How many parchgradd puts into the right class."""
    found = cli.run("evaluate", "--model", network, "--data", pictures.folder, "--methods", "gradient", "--grid", 0,
                    "--no-randomised", "--json", *cli.settings(INPUT))
    return json.loads(found.stdout)["recognised"]


def evaluate(network, data, boxes=None, stats=None, method="parchgrad", **options):
    """{metric: values [pictures]}; the order of the pictures is the same in every call."""
    command = ["evaluate", "--model", network, "--data", data, "--methods", method, "--grid", 0,
               "--no-randomised", "--json", *cli.settings(options)]
    command += ["--boxes", boxes] if boxes else []
    command += ["--stats", stats] if stats else []
    found = json.loads(cli.run(*command, timeout=3600).stdout)
    return {metric: np.array([np.nan if v is None else v for v in figures["values"]], float)
            for metric, figures in found["methods"][method].items() if metric != "curves"}


def scratch():
    return tempfile.TemporaryDirectory(prefix="experiments-")
