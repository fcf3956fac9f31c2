"""What two models compute is the same up to rounding; what they hold is the same to the bit.

Kernels are chosen by how the weights are aligned in memory, and each sums in an order of its own: on one
processor mapped and copied weights give the same bits, on the next they differ in the last one.
"""

from __future__ import annotations

import torch

STEPS = 16
"""Units in the last place of the largest value: above what an order of summing changes, far below a wrong
weight."""


def same_outputs(made, expected):
    """Tell whether `made` is `expected`, whatever the order in which a kernel summed."""
    if (made.shape, made.dtype) != (expected.shape, expected.dtype):
        return False
    if not expected.is_floating_point() or not expected.numel():
        return torch.equal(made, expected)
    largest = torch.where(expected.isfinite(), expected.abs(), 0).max().item()
    return torch.allclose(made, expected, rtol=0, atol=STEPS * torch.finfo(expected.dtype).eps * largest)
