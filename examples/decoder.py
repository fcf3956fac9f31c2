"""A decoder language model in plain torch: tied embedding, residual blocks, a buffer for the mask.

compile-plan examples/decoder.py --memory cuda:0=2GiB,cpu=8GiB
compile-plan examples/decoder.py:tiny --memory cuda:0=1MiB,cpu=1GiB
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """Causal attention with fewer key heads than query heads."""

    def __init__(self, width, heads, key_heads, length):
        super().__init__()
        self.heads, self.key_heads, self.size, self.length = heads, key_heads, width // heads, length
        self.query = nn.Linear(width, heads * self.size, bias=False)
        self.key = nn.Linear(width, key_heads * self.size, bias=False)
        self.value = nn.Linear(width, key_heads * self.size, bias=False)
        self.out = nn.Linear(heads * self.size, width, bias=False)
        self.register_buffer("mask", torch.ones(length, length, dtype=torch.bool).tril(), persistent=False)

    def split(self, x, heads):
        return x.unflatten(-1, (heads, self.size)).transpose(1, 2)

    def forward(self, x):
        length = x.shape[1]
        query, key, value = (
            self.split(self.query(x), self.heads),
            self.split(self.key(x), self.key_heads),
            self.split(self.value(x), self.key_heads),
        )
        mask = self.mask[:length, :length]
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        return self.out(mixed.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """A gated feed-forward."""

    def __init__(self, width, hidden):
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """One residual block: cut in two, it would pass both halves of the sum between devices."""

    def __init__(self, width, heads, key_heads, hidden, length):
        super().__init__()
        self.attention_norm = nn.RMSNorm(width)
        self.attention = Attention(width, heads, key_heads, length)
        self.mlp_norm = nn.RMSNorm(width)
        self.mlp = MLP(width, hidden)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Decoder(nn.Module):
    """Embedding, blocks, norm, and a head that shares the embedding's weight."""

    _no_split_modules = ("Block",)

    def __init__(self, vocabulary, width, layers, heads, key_heads, hidden, length=2048):
        super().__init__()
        self.embed = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, heads, key_heads, hidden, length) for _ in range(layers))
        self.norm = nn.RMSNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def build():
    """About a billion parameters, in bfloat16: the size of a small assistant."""
    return Decoder(
        vocabulary=128_256, width=2048, layers=16, heads=32, key_heads=8, hidden=8192
    ).to(torch.bfloat16)  # fmt: skip


def tiny():
    """The same model, small enough to run in a test."""
    return Decoder(vocabulary=256, width=64, layers=4, heads=4, key_heads=2, hidden=192, length=64)


example_inputs = (torch.zeros(1, 16, dtype=torch.long),)
