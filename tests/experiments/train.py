#!/usr/bin/env python3
"""Trains the two networks of the experiments and writes resnet.onnx and vgg.onnx beside itself.

    train.py [resnet] [vgg]       a few minutes on one core; the seed is fixed

The files keep their BatchNormalization nodes: the gradient that ParchGrad splits is then the one in front of
the normalisation, as in the source. The accuracy on all 10,000 test pictures is written into the file
(metadata "accuracy")."""
import pathlib
import sys

import numpy as np
import onnx
import torch
from torch import nn
from torch.nn import functional as F

import fashion

HERE = pathlib.Path(__file__).resolve().parent
PICTURES, EPOCHS, BATCH, RATE = 20000, 3, 64, 5e-3


def conv(cin, cout, stride=1, kernel=3):
    return nn.Sequential(nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(cout))


class Block(nn.Module):
    def __init__(self, cin, cout, stride):
        super().__init__()
        self.conv1, self.conv2 = conv(cin, cout, stride), conv(cout, cout)
        self.down = None if cin == cout and stride == 1 else conv(cin, cout, stride, 1)

    def forward(self, x):
        y = self.conv2(torch.relu(self.conv1(x)))
        return torch.relu(y + (x if self.down is None else self.down(x)))


class ResNet(nn.Module):
    """11 convolutions, 153,000 parameters."""

    def __init__(self):
        super().__init__()
        self.stem = conv(1, 16, 2)
        self.blocks = nn.Sequential(Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2), Block(64, 64, 1))
        self.fc = nn.Linear(64, fashion.CLASSES)

    def forward(self, x):
        return self.fc(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))


class VGG(nn.Module):
    """A chain: 5 convolutions, 98,000 parameters."""

    def __init__(self):
        super().__init__()
        layers, cin = [], 1
        for cout, pool in ((16, True), (32, True), (64, False), (64, True), (64, False)):
            layers += [conv(cin, cout), nn.ReLU()] + [nn.MaxPool2d(2)] * pool
            cin = cout
        self.features, self.fc = nn.Sequential(*layers), nn.Linear(64, fashion.CLASSES)

    def forward(self, x):
        return self.fc(self.features(x).mean((2, 3)))


def train(net, x, y, after_epoch):
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=.01)
    steps = len(x) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, epochs=EPOCHS, steps_per_epoch=steps)
    for epoch in range(EPOCHS):
        net.train()
        total = 0.0
        for batch in torch.randperm(len(x))[:steps * BATCH].split(BATCH):
            loss = F.cross_entropy(net(x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / steps:.3f}", flush=True)
        after_epoch()


@torch.no_grad()
def accuracy(net, x, y):
    net.eval()
    return float(np.mean([(net(a).argmax(1) == b).float().mean() for a, b in zip(x.split(500), y.split(500))]))


def write(net, path, reached):
    torch.onnx.export(net.eval(), torch.zeros(1, 1, 28, 28), str(path), opset_version=15,
                      training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False)
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"accuracy": f"{reached:.4f}", "generator": "tests/experiments/train.py"})
    onnx.save(model, path)
    print(f"{path.name}: accuracy {reached:.4f}, {path.stat().st_size / 1e3:.0f} kB", flush=True)


def main():
    torch.set_num_threads(1)
    sets = [fashion.load("train", PICTURES), fashion.load("t10k")]
    (x, y), test = [(torch.from_numpy(fashion.normalise(p)), torch.from_numpy(k)) for p, k in sets]
    for name in sys.argv[1:] or ["resnet", "vgg"]:
        torch.manual_seed(1)
        np.random.seed(1)
        net = {"resnet": ResNet, "vgg": VGG}[name]()
        path, some = HERE / f"{name}.onnx", [t[:1000] for t in test]
        train(net, x, y, lambda: write(net, path, accuracy(net, *some)))
        write(net, path, accuracy(net, *test))


if __name__ == "__main__":
    main()
