"""Modules that write to their parameters and buffers while they run, or register others in their place."""

from __future__ import annotations

import torch
from torch import nn


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.register_buffer("mean", torch.zeros(16))


class InPlace(Layer):
    def forward(self, x):
        y = self.linear(x)
        self.mean.mul_(0.9).add_(0.1 * y.mean(0))
        return y + self.mean


class Replaced(Layer):
    def forward(self, x):
        y = self.linear(x)
        self.mean = 0.9 * self.mean + 0.1 * y.mean(0)
        return y + self.mean


class RegisteredAnew(Layer):
    def forward(self, x):
        y = self.linear(x) + self.mean.sum()
        self.register_buffer("mean", torch.cat([self.mean, y.mean(0)]))
        return y


class TakenAway(Layer):
    def forward(self, x):
        y = self.linear(x)
        if self.mean is None:
            return y
        self.mean = None
        return y + 1


class Deleted(Layer):
    def forward(self, x):
        y = self.linear(x)
        if "mean" in self._buffers:
            del self.mean
            return y
        return y + 1


class Parameters(Layer):
    def forward(self, x):
        with torch.no_grad():
            self.linear.bias.add_(1)
            self.linear.weight = nn.Parameter(self.linear.weight * 0.5)
        return self.linear(x)


class GivenMemory(Layer):
    """Not for pretended devices: what `.data` is given there, their tensors do not hold."""

    def forward(self, x):
        y = self.linear(x)
        self.mean.data = 0.9 * self.mean + 0.1 * y.mean(0)
        self.linear.weight.data = self.linear.weight * 0.5
        return y + self.mean


class Exchanged(Layer):
    """Two streamed buffers that change places: what one is given is what the other had."""

    def __init__(self):
        super().__init__()
        self.register_buffer("other", torch.ones(16))

    def forward(self, x):
        self.mean, self.other = self.other, self.mean
        return self.linear(x) * self.mean


class Normalised(Layer):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)

    def forward(self, x):
        return self.norm(self.linear(x))


KINDS = [
    InPlace, Replaced, RegisteredAnew, TakenAway, Deleted, Parameters, Exchanged, Normalised,
]  # fmt: skip


class Shared(nn.Module):
    """One buffer in two layers; each layer registers its own in the first forward."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(Replaced() for _ in range(2))
        self.layers[1].mean = self.layers[0].mean

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Three(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layers = nn.ModuleList(kind() for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Aside(nn.Module):
    """Writes to its layers while they rest, and while the next one is already being prepared."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        x = self.layers[0](x)
        with torch.no_grad():
            for layer in self.layers:
                layer.weight.mul_(0.5)
        return self.layers[2](self.layers[1](x))
