"""An encoder-decoder with uneven layers: a light encoder, and a decoder with a mixture of experts.

Every second decoder layer has experts and is many times the size of its neighbour, so a first-fit
walk strands memory at every device. Atomic units are named by the variable at the end.

    compile-plan examples/mixture.py --memory cuda:0=1GiB,cuda:1=1GiB,cpu=8GiB
"""

from __future__ import annotations

import torch
from torch import nn


class FeedForward(nn.Sequential):
    """Two linears with a nonlinearity between them."""

    def __init__(self, width, hidden):
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


class Experts(nn.Module):
    """Each token goes through its best two of many feed-forwards."""

    def __init__(self, width, hidden, experts):
        super().__init__()
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(FeedForward(width, hidden) for _ in range(experts))

    def forward(self, x):
        weights, chosen = self.router(x).softmax(-1).topk(2)
        gates = torch.zeros_like(self.router(x)).scatter(-1, chosen, weights)
        return sum(gates[..., i : i + 1] * expert(x) for i, expert in enumerate(self.experts))


class EncoderLayer(nn.Module):
    """Attention over the source."""

    def __init__(self, width, heads, hidden):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed_forward = FeedForward(width, hidden)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))

    def forward(self, x):
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.feed_forward(self.norms[1](x))


class DecoderLayer(nn.Module):
    """Attention over the target and the source, then one feed-forward or many."""

    def __init__(self, width, heads, feed_forward):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.crossing = nn.MultiheadAttention(width, heads, batch_first=True)
        self.feed_forward = feed_forward
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))

    def forward(self, x, source):
        y = self.norms[0](x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        x = x + self.crossing(self.norms[1](x), source, source, need_weights=False)[0]
        return x + self.feed_forward(self.norms[2](x))


class Translator(nn.Module):
    """One embedding for source, target and output."""

    def __init__(self, vocabulary, width, heads, hidden, encoder_layers, decoder_layers, experts):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.encoder = nn.ModuleList(EncoderLayer(width, heads, hidden) for _ in range(encoder_layers))
        feed_forwards = (
            Experts(width, hidden, experts) if i % 2 else FeedForward(width, hidden)
            for i in range(decoder_layers)
        )
        self.decoder = nn.ModuleList(DecoderLayer(width, heads, one) for one in feed_forwards)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, source, target):
        memory = self.embed(source)
        for layer in self.encoder:
            memory = layer(memory)
        x = self.embed(target)
        for layer in self.decoder:
            x = layer(x, memory)
        return self.head(self.norm(x))


def build():
    return Translator(32_000, 1024, 16, 4096, encoder_layers=12, decoder_layers=12, experts=16)


def tiny():
    return Translator(128, 32, 4, 64, encoder_layers=2, decoder_layers=4, experts=4)


no_split_module_classes = ["EncoderLayer", "DecoderLayer"]
example_inputs = (torch.zeros(1, 16, dtype=torch.long), torch.zeros(1, 8, dtype=torch.long))
