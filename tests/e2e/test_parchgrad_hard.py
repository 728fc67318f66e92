"""ParchGrad where it is easily wrong, each case a small network against tests/ref with every convolution selected:
what else consumes an output must not see the partitioned gradient, a weight used twice is two convolutions, groups,
maps of one position, branches, convolutions that the target does not depend on, and a transposed convolution
between two others. Files with batch normalisation folded are the default; two cases keep it.
"""
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import cli
import models
from architectures import ARCHITECTURES
from test_parchgrad import BOUND, CLASSES, Case, flipped_to_fit

WIDTH = 24


def conv(cin, cout, kernel=3, stride=1, **options):
    return nn.Conv2d(cin, cout, kernel, stride, kernel // 2, **options)


class Network(nn.Module):
    """A strided convolution, the case in the middle, a convolution, the mean, a classifier."""

    def __init__(self, classes):
        super().__init__()
        self.stem = conv(3, WIDTH, stride=2)
        self.make()
        self.last = conv(WIDTH, WIDTH, stride=2)
        self.fc = nn.Linear(WIDTH, classes)

    def forward(self, x):
        y = self.middle(torch.relu(self.stem(x)))
        return self.fc(torch.relu(self.last(y)).mean((2, 3)))


class Consumers(Network):
    """One convolution's output taken by an addition, a pool, another convolution and the result, unactivated."""

    def make(self):
        self.fork, self.a, self.b = conv(WIDTH, WIDTH), conv(WIDTH, WIDTH), conv(WIDTH, WIDTH, 1)

    def middle(self, x):
        z = self.fork(x)
        y = self.a(torch.relu(z)) + z
        return y + F.avg_pool2d(z, 3, 1, 1) * torch.sigmoid(self.b(z))


class SharedWeight(Network):
    """One module called twice is two nodes with one weight, and between them another."""

    def make(self):
        self.shared, self.other = conv(WIDTH, WIDTH), conv(WIDTH, WIDTH)

    def middle(self, x):
        y = torch.relu(self.shared(x))
        return torch.relu(self.shared(torch.relu(self.other(y))) + y)


class SharedInput(Network):
    """One module called on two inputs of different size, as a detector's head is."""

    def make(self):
        self.head, self.down = conv(WIDTH, WIDTH), conv(WIDTH, WIDTH, stride=2)

    def middle(self, x):
        small = torch.relu(self.down(x))
        y = torch.relu(self.head(small))
        return y + F.max_pool2d(torch.relu(self.head(x)), 2)


class Groups(Network):
    """Groups of 8 and 3 channels, depthwise, depthwise with multiplier 2, dilated."""

    def make(self):
        self.layers = nn.Sequential(
            conv(WIDTH, WIDTH, groups=3), nn.ReLU(), conv(WIDTH, WIDTH, groups=8), nn.ReLU(),
            conv(WIDTH, WIDTH, 5, groups=WIDTH), nn.ReLU(),
            conv(WIDTH, 2 * WIDTH, groups=WIDTH), nn.ReLU(),
            nn.Conv2d(2 * WIDTH, WIDTH, 3, padding=2, dilation=2, groups=4), nn.ReLU())

    def middle(self, x):
        return self.layers(x)


class GroupsNorm(Network):
    """Grouped and depthwise convolutions with batch normalisation behind them."""

    def make(self):
        self.layers = nn.Sequential(
            conv(WIDTH, WIDTH, groups=3, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU6(),
            conv(WIDTH, WIDTH, groups=WIDTH, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU6(),
            conv(WIDTH, WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH))

    def middle(self, x):
        return x + self.layers(x)


class Squeeze(Network):
    """Squeeze-excite: its convolutions have one position each, where the variance is the square."""

    def make(self):
        self.a = conv(WIDTH, WIDTH)
        self.down, self.up = conv(WIDTH, WIDTH, 1), conv(WIDTH, WIDTH, 1)

    def middle(self, x):
        y = torch.relu(self.a(x))
        return y * torch.sigmoid(self.up(torch.relu(self.down(y.mean((2, 3), keepdim=True)))))


class Branches(Network):
    """Parallel branches of different depth, concatenated, one of them a pool; two are given on to different ends."""

    def make(self):
        third = WIDTH // 3
        self.one, self.a3, self.b3 = conv(WIDTH, third, 1), conv(WIDTH, third, 1), conv(third, third)
        self.pooled, self.mix = conv(WIDTH, third, 1), conv(third, WIDTH, 1)

    def middle(self, x):
        a, b = torch.relu(self.one(x)), torch.relu(self.b3(torch.relu(self.a3(x))))
        c = torch.relu(self.pooled(F.max_pool2d(x, 3, 1, 1)))
        return torch.cat([a, b, c], 1) + self.mix(a)


class Auxiliary(Network):
    """A second output in the middle: its convolutions count, and come before those that matter."""

    def make(self):
        self.aux1, self.aux2, self.main = conv(WIDTH, 12), conv(12, CLASSES), conv(WIDTH, WIDTH)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        aux = self.aux2(torch.relu(self.aux1(x))).mean((2, 3))
        y = torch.relu(self.last(torch.relu(self.main(x))))
        return self.fc(y.mean((2, 3))), aux


class Transposed(Network):
    """A transposed convolution is not pruned; the gradient passes it from one that is to another."""

    def make(self):
        self.before, self.after = conv(WIDTH, WIDTH, stride=2), conv(WIDTH, WIDTH)
        self.up = nn.ConvTranspose2d(WIDTH, WIDTH, 4, 2, 1)

    def middle(self, x):
        return x + self.after(torch.relu(self.up(torch.relu(self.before(x)))))


CASES = {"consumers": Consumers, "shared-weight": SharedWeight, "shared-input": SharedInput, "groups": Groups,
         "groups-norm": GroupsNorm, "squeeze": Squeeze, "branches": Branches, "auxiliary": Auxiliary,
         "transposed": Transposed}
ARCHITECTURES.update({f"hard-{name}": lambda classes, size, make=make: make(classes)
                      for name, make in CASES.items()})

SETTINGS = list(itertools.product(["class", "instance", "list"], [("inf", "approx"), (2, "exact")]))
FILES = [(name, "fold") for name in CASES] + [("groups-norm", "keep"), ("squeeze", "keep")]


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """The networks of this file are no part of the cache's key."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PG_TEST_CACHE", str(tmp_path_factory.mktemp("networks")))
        yield


@pytest.mark.parametrize("name,bn", FILES)
def test_hard(name, bn, tmp_path, say):
    case = Case(f"hard-{name}", bn, tmp_path, samples=16, size=32)
    plain = cli.explain(case.path, case.x, target=case.target)
    assert cli.rel(plain.attribution, case.reference({})) <= BOUND
    worst, pruned = 0, 0
    for select, (gamma, conserve) in SETTINGS:
        choices = case.choices(select, 1.0, quantile=.25)
        got = case.explain(case.options(select, gamma, conserve, 1.0, quantile=.25))
        error, _ = flipped_to_fit(case, choices, got.attribution, gamma, conserve)
        worst = max(worst, error)
        pruned = max(pruned, cli.rel(got.attribution, plain.attribution))
        degenerate = {case.names[i] for i, s in case.ref.splits.items() if s.degenerate}
        # a layer where no gradient arrives has none to split
        assert degenerate <= {n for n, layer in got.layers.items() if layer["degenerate"]}
    say(f"  {name:14s} bn {bn:4s} {len(case.names)} convolutions, worst relative L2 {worst:.1e} "
        f"(pruning changes the map by {pruned:.1f})")
    assert worst <= BOUND and pruned > .1
