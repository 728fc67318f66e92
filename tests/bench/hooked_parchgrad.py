"""ParchGrad the way its authors' code does it in PyTorch (github.com/fxnnxc/parchgrad): hooks on the modules, in
float32. A forward hook records each convolution's channel means; a full backward hook chooses the channels, scales
the gradient at the convolution's output, and computes the gradient at its input a second time, because torch has by
then computed it from the unscaled one. backward() on a network as torchvision returns it also computes the
gradients of all weights, which nobody asked for; `frozen` leaves them out.

This is the speed that a user of such code knows. It is not the truth that results are compared with: that is tests/ref.
"""
import copy

import torch
from torch import nn
from torch.nn.functional import adaptive_avg_pool2d


class HookedParchGrad:
    """explain(x [3,H,W]) -> map [H,W] of the likeliest class; random p-values stand for a calibration's."""

    def __init__(self, module, quantile, frozen=False):
        self.module, self.quantile = copy.deepcopy(module).requires_grad_(not frozen), quantile
        self.p, self.gap = {}, {}
        random = torch.Generator().manual_seed(1)
        for m in self.module.modules():
            if hasattr(m, "inplace"):
                m.inplace = False  # torch forbids it behind a module with a full backward hook
            if isinstance(m, nn.Conv2d):
                self.p[m] = torch.rand(m.out_channels, generator=random)
                m.register_forward_hook(self.on_forward)
                m.register_full_backward_hook(self.on_backward)

    def __call__(self, x):
        self.module.zero_grad()
        leaf = x[None].clone().requires_grad_(True)
        logits = self.module(leaf)
        logits.max().backward()
        return leaf.grad[0].abs().mean(0)

    def on_forward(self, conv, _inputs, out):
        self.gap[conv] = adaptive_avg_pool2d(torch.relu(out.detach()), 1)[0, :, 0, 0]

    def keep(self, conv):
        p = self.p[conv]
        level = torch.kthvalue(p, max(1, int(self.quantile * len(p)))).values
        return p <= level

    def on_backward(self, conv, d_inputs, d_outputs):
        d_out, high = d_outputs[0].clone(), self.keep(conv)
        m = d_out[0, high].sum(0).var().item() + 1e-30
        n = d_out[0, ~high].sum(0).var().item() + 1e-30
        d_out[0, high] *= ((m + n) / m) ** .5
        d_out[0, ~high] = 0
        return (nn.grad.conv2d_input(d_inputs[0].shape, conv.weight, d_out, conv.stride, conv.padding, conv.dilation,
                                     conv.groups),)
