"""The trained networks as torch modules again, inside the reference of tests/ref, and what their blocks pass on."""
import numpy as np
import onnx
import torch
from onnx import numpy_helper

import measure
import parchgrad_reference
import train


def load(name):
    net = {"resnet": train.ResNet, "vgg": train.VGG}[name]()
    graph = onnx.load(measure.model(name)).graph
    state = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    # two normalisations that meet in one addition learn one bias; torch writes it once
    state |= {n.output[0]: state[n.input[0]] for n in graph.node if n.op_type == "Identity" and n.input[0] in state}
    net.load_state_dict(state, strict=False)
    missing = [k for k in net.state_dict() if k not in state and "num_batches" not in k]
    assert not missing, missing
    return net.eval()


class Reference(parchgrad_reference.Reference):
    """One channel, 28 x 28. Every block hands its input to branch and skip as two tensors, so that the
    gradients they pass on can be told apart: balance()."""

    def __init__(self, name):
        super().__init__(load(name), size=28)
        for i, block in enumerate(getattr(self.net, "blocks", [])):
            block.forward = self._split(i, block)

    def forward(self, x):
        self.parts = {}
        return super().forward(np.asarray(x)[..., :1, :, :] if np.ndim(x) > 2 else x)

    def _split(self, i, block):
        def forward(x):
            branch, skip = x.clone(), x.clone()
            if x.requires_grad:
                branch.retain_grad()
                skip.retain_grad()
            self.parts[i] = branch, skip
            y = block.conv2(torch.relu(block.conv1(branch)))
            return torch.relu(y + (skip if block.down is None else block.down(skip)))
        return forward

    def balance(self, target, plan, conserve):
        """Per block: Var(what the branch passes on) / Var(what the skip passes on), sums over channels."""
        for pair in self.parts.values():
            for part in pair:
                part.grad = None
        self.plan = {i: torch.as_tensor(k) for i, k in plan.items()}
        self.gamma, self.conserve, self.splits = np.inf, conserve, {}
        self.y[0, target].backward(retain_graph=True)
        variances = [[parchgrad_reference.variance(part.grad[0].sum(0)) for part in pair]
                     for pair in self.parts.values()]
        return np.array([branch / skip for branch, skip in variances])


def plan(reference, statistics, klass, layers, quantile):
    """{convolution: kept channels}, class-wise"""
    numbers = parchgrad_reference.choose_layers(len(reference.layers), layers)
    return {i: statistics.class_wise(i, klass, quantile=quantile).keep for i in numbers}
