"""The optimizers there are: those of torch, by name."""

from __future__ import annotations

import torch


def optimizer_names() -> dict[str, str]:
    """Return the names of torch's optimizers in small letters, with the class of each."""
    classes = vars(torch.optim)
    return {
        name.lower(): name
        for name, kind in classes.items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and name != "Optimizer"
    }
