"""The networks that are measured, and what has to be there for it: ONNX file, torch module, channel statistics."""
import pathlib
import re
import tempfile
from dataclasses import dataclass

import cli
import models


@dataclass(frozen=True)
class Net:
    name: str
    size: int = 224
    classes: int = 1000
    separable: bool = False  # depthwise convolutions: much memory, little arithmetic

    @property
    def path(self):
        return models.export(self.name, self.size, self.classes)

    def module(self):
        return models.build(self.name, self.size, self.classes)

    def picture(self):
        return models.test_picture(self.size)


NETS = {net.name: net for net in (
    Net("resnet18"), Net("resnet50"), Net("vgg16"), Net("densenet121"),
    Net("mobilenet_v2", separable=True), Net("efficientnet_lite0", separable=True),
    Net("tiny_resnet", 64, 10))}
GOAL_NETS = [name for name in NETS if name != "tiny_resnet"]  # that one is for trying the bench itself

# ParchGrad as the goals state it: every convolution, a tenth of the channels.
EVERY_LAYER = {"parchgrad.layers": 1.0, "parchgrad.quantile": 0.1}


def statistics(net, folder, classes=2, samples=6):
    """A statistics file with classes that can be tested; made anew, for it belongs to this very program."""
    path = pathlib.Path(folder) / f"{net.name}-{classes}.stats"
    if not path.exists():
        with tempfile.TemporaryDirectory() as data:
            pictures = [models.picture(i, net.size, classes) for i in range(samples)]
            cli.write_calibration(data, pictures, [i % classes for i in range(samples)])
            cli.calibrate(net.path, data, path, parchgrad__layers="1.0")
    return path


def engine_switches():
    """[(key, other value, usual value)] of the engine's switches, as the annotated configuration lists them: the last
    line of a key's comment ends in its values, (brief, active)."""
    text = (cli.ROOT / "conf" / "parchgradd.yaml").read_text()
    section = re.search(r"^engine:\n((?:  .*\n)+)", text, re.M).group(1)
    out, comment = [], ""
    for line in section.splitlines():
        if line.startswith("  # "):
            comment += line[3:]
            continue
        key, usual = line.strip().split(": ")
        values = re.search(r"\(([^().]*)\)$", comment)  # else a number's range, or any text
        # `always` tunes in every process, which is `cached` with a longer start
        out += [(f"engine.{key}", other, usual) for other in (values.group(1).split(", ") if values else [])
                if other not in (usual, "always")]
        comment = ""
    return out
