"""The networks of the tests, as torch modules with torch's own initial weights: torchvision's, and a few small
ones that put a case at hand which no torchvision network has.

    ARCHITECTURES[name](classes, size) -> nn.Module that returns logits [1,classes]

Dense heads (segmentation, detection) return the mean of a region, respectively one cell, so that they have
logits as well; "<name>_map" and "<name>_boxes" return all: [1,classes,h,w] and [1,boxes,classes].
"""
import warnings

import torch
import torchvision
from torch import nn
from torch.nn import functional as F


# ---- small networks ----


class SmallVGG(nn.Module):
    """The features of a torchvision VGG and a classifier of one layer: the features are what the tests are
    about, the two 4096-wide layers would be 500 MB of file."""

    def __init__(self, features, classes):
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(512, classes)

    def forward(self, x):
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class LeakNet(nn.Module):
    """Convolutions whose output feeds an addition directly, both ways round: a skip connection past
    a convolution (addition hands one gradient to both), and an output with two consumers."""

    def __init__(self, classes=10, width=16):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, 2, 1)
        self.skip = nn.Conv2d(width, width, 3, 1, 1)
        self.fork = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.branch = nn.Conv2d(2 * width, 2 * width, 3, 1, 1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x):
        r = torch.relu(self.stem(x))
        r = torch.relu(r + self.skip(r))
        z = self.fork(r)
        y = torch.relu(z + self.branch(torch.relu(z)))
        return self.fc(y.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.down = None
        if stride != 1 or cin != cout:
            self.down = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False),
                                      nn.BatchNorm2d(cout))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return torch.relu(y + (x if self.down is None else self.down(x)))


class TinyResNet(nn.Module):
    """A residual net small enough that a daemon explains it in about a millisecond."""

    def __init__(self, classes=10, width=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1, bias=False),
                                  nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(Block(width, width, 1), Block(width, 2 * width, 2),
                                    Block(2 * width, 4 * width, 2))
        self.fc = nn.Linear(4 * width, classes)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def _conv(cin, cout, kernel, stride=1, groups=1):
    return nn.Conv2d(cin, cout, kernel, stride, groups=groups, bias=False)


class Lite0(nn.Module):
    """EfficientNet-Lite0 with the names of its published weights (and therefore their state dictionary). Trained with
    TensorFlow's SAME padding: more on the right and at the bottom where it does not divide evenly."""

    STAGES = [(1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
              (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320)]

    def __init__(self, classes=1000):
        super().__init__()
        self._conv_stem, self._bn0 = _conv(3, 32, 3, 2), nn.BatchNorm2d(32, 1e-3)
        blocks, cin = [], 32
        for repeats, kernel, stride, expansion, cout in self.STAGES:
            for i in range(repeats):
                blocks.append(Lite0Block(cin, cout, kernel, stride if i == 0 else 1, expansion))
                cin = cout
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _conv(cin, 1280, 1), nn.BatchNorm2d(1280, 1e-3)
        self._fc = nn.Linear(1280, classes)

    def forward(self, x):
        x = F.relu6(self._bn0(_same(self._conv_stem, x)))
        for block in self._blocks:
            x = block(x)
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))


class Lite0Block(nn.Module):
    def __init__(self, cin, cout, kernel, stride, expansion):
        super().__init__()
        mid = cin * expansion
        self.skip, self._expand_conv = stride == 1 and cin == cout, None
        if expansion != 1:
            self._expand_conv, self._bn0 = _conv(cin, mid, 1), nn.BatchNorm2d(mid, 1e-3)
        self._depthwise_conv = _conv(mid, mid, kernel, stride, groups=mid)
        self._bn1 = nn.BatchNorm2d(mid, 1e-3)
        self._project_conv, self._bn2 = _conv(mid, cout, 1), nn.BatchNorm2d(cout, 1e-3)

    def forward(self, x):
        y = x if self._expand_conv is None else F.relu6(self._bn0(self._expand_conv(x)))
        y = F.relu6(self._bn1(_same(self._depthwise_conv, y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.skip else y


def _same(conv, x):
    """SAME padding apart from the convolution, so that the latter is a plain nn.Conv2d."""
    size, stride = x.shape[-1], conv.stride[0]
    total = max((-(-size // stride) - 1) * stride + conv.kernel_size[0] - size, 0)
    pad = (total // 2, total - total // 2)
    return conv(F.pad(x, pad + pad))


# ---- torchvision's ----


class Head(nn.Module):
    """A torchvision segmentation or detection model reduced to logits by `head(model, x)`."""

    def __init__(self, model, head):
        super().__init__()
        self.model, self.head = model, head

    def forward(self, x):
        return self.head(self.model, x)


def whole_map(model, x):
    return model(x)["out"]


def region_mean(model, x):
    """Segmentation: the mean of a rectangle of the map, off the centre."""
    y = whole_map(model, x)
    h, w = y.shape[2] // 8, y.shape[3] // 8
    return y[:, :, 2 * h:5 * h, 3 * w:7 * w].mean((2, 3))


def all_boxes(model, x):
    """Detection: the class logits of all anchors of all maps; no boxes, no suppression."""
    return model.head.classification_head(list(model.backbone(x).values()))


def one_box(model, x):
    """The logits of one anchor in the middle of the coarser maps."""
    y = all_boxes(model, x)
    return y[:, y.shape[1] * 7 // 8]


def _torchvision(name, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(torchvision.models, name)(weights=None, **options)


def _plain(name, **options):
    return lambda classes, size: _torchvision(name, num_classes=classes, **options)


def _vgg(name):
    return lambda classes, size: SmallVGG(_torchvision(name).features, classes)


def _dense(package, name, head):
    def make(classes, size):
        models = getattr(torchvision.models, package)
        net = getattr(models, name)(weights=None, weights_backbone=None, num_classes=classes)
        return Head(net, head)
    return make


SEGMENTATION = ["fcn_resnet50", "deeplabv3_resnet50", "deeplabv3_mobilenet_v3_large", "lraspp_mobilenet_v3_large"]
DETECTION = ["ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn"]

_INCEPTION = {"aux_logits": False, "init_weights": True}

ARCHITECTURES = {
    name: _plain(name) for name in (
        "alexnet", "vgg16", "vgg16_bn", "resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2", "densenet121",
        "squeezenet1_0", "squeezenet1_1", "shufflenet_v2_x1_0", "mobilenet_v2", "mobilenet_v3_small",
        "mobilenet_v3_large", "mnasnet1_0", "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf",
        "regnet_y_400mf", "convnext_tiny", "swin_t")
} | {
    f"{name}_small": _vgg(name) for name in ("vgg11", "vgg11_bn", "vgg16", "vgg16_bn")
} | {
    "googlenet": _plain("googlenet", **_INCEPTION),
    "googlenet_transform": _plain("googlenet", transform_input=True, **_INCEPTION),
    "inception_v3": _plain("inception_v3", **_INCEPTION),
    "vit_b_16": lambda classes, size: _torchvision("vit_b_16", num_classes=classes, image_size=size),
    "efficientnet_lite0": lambda classes, size: Lite0(classes),
    "leaknet": lambda classes, size: LeakNet(classes),
    "tiny_resnet": lambda classes, size: TinyResNet(classes),
}
for _name in SEGMENTATION:
    ARCHITECTURES[_name] = _dense("segmentation", _name, region_mean)
    ARCHITECTURES[f"{_name}_map"] = _dense("segmentation", _name, whole_map)
for _name in DETECTION:
    ARCHITECTURES[_name] = _dense("detection", _name, one_box)
    ARCHITECTURES[f"{_name}_boxes"] = _dense("detection", _name, all_boxes)
