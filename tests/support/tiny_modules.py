"""One tiny module for each way a forward can mix its children, or not."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def linear() -> nn.Linear:
    return nn.Linear(4, 4)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = linear(), linear()

    def forward(self, x):
        return x + self.down(functional.relu(self.up(x)))


class GatedMlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = linear(), linear(), linear()

    def forward(self, x):
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = linear(), linear()

    def forward(self, x):
        return functional.relu(self.second(functional.relu(self.first(x))))


class Scaled(nn.Module):
    """Uses its own parameter on what a child returns."""

    def __init__(self):
        super().__init__()
        self.inner = linear()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.inner(x) * self.scale


class Borrowed(nn.Module):
    """Uses a child's weight without calling the child."""

    def __init__(self):
        super().__init__()
        self.embed, self.inner = linear(), linear()

    def forward(self, x):
        return functional.linear(self.inner(x), self.embed.weight)


class Polite(nn.Module):
    """Adds two children after moving one to the other, as careful models do."""

    def __init__(self):
        super().__init__()
        self.left, self.right = linear(), linear()

    def forward(self, x):
        left = self.left(x)
        return left + self.right(x).to(left.device)


class Sum(nn.Module):
    def forward(self, left, right):
        return left + right


class SummedByChild(nn.Module):
    """Leaves the addition to a child without tensors, which no loader moves anything for."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.sum = linear(), linear(), Sum()

    def forward(self, x):
        return self.sum(self.left(x), self.right(x))


class Following(nn.Module):
    """Makes a tensor on the device of what it is added to."""

    def __init__(self):
        super().__init__()
        self.first, self.second = linear(), linear()

    def forward(self, x):
        x = self.first(x)
        return self.second(x + torch.arange(4, device=x.device))


class Stack(nn.Module):
    def __init__(self, block, depth: int = 3):
        super().__init__()
        self.blocks = nn.ModuleList(block() for _ in range(depth))

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class TwoEmbeddings(nn.Module):
    """Adds token and position embeddings in the forward that also runs the stack."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(8, 4), nn.Embedding(8, 4)
        self.blocks = nn.ModuleList(Residual() for _ in range(3))
        self.head = linear()

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Branching(nn.Module):
    """Asks for a value that depends on weights."""

    def __init__(self):
        super().__init__()
        self.inner = linear()

    def forward(self, x):
        y = self.inner(x)
        return y if y.sum() > 0 else -y


class Tied(nn.Module):
    """Looks up in the table its head multiplies with."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        return self.head(self.table(ids))
