"""How long torch needs to ask a device for one operation, measured on layers as decoders have them.

They are so small that the operations themselves take hardly any time, and have hooks as a loaded plan puts
them there: what is left is what Python and torch take. Operations are counted as a trace counts them, by what
torch dispatches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def launch_seconds(torch: Any, name: str, timed: Callable[[Callable[[], None]], float]) -> float | None:  # noqa: ANN401
    """Return the seconds for one operation; None where the device cannot run the layers.

    ``timed`` returns the seconds of a step.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # one asks; what others take to be woken is not asking
    try:
        with torch.no_grad():
            forward = _forward(torch, name)
            count = _dispatched(torch, forward)
            return timed(forward) / count
    except (AssertionError, RuntimeError, TypeError, NotImplementedError):
        return None
    finally:
        torch.set_num_threads(threads)


def _dispatched(torch: Any, step: Callable[[], object]) -> int:  # noqa: ANN401
    """Return how many operations a step asks for."""
    found = []

    class Counting(torch.utils._python_dispatch.TorchDispatchMode):  # type: ignore[misc]  # noqa: SLF001
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
            found.append(func)
            return func(*args, **(kwargs or {}))

    with Counting():
        step()
    return len(found)


def _forward(torch: Any, name: str) -> Callable[[], None]:  # noqa: ANN401
    """Return a forward of one token through the layers, done when the device has done it."""
    from .asked_layers import WIDTH, AskedLayers

    layers, given = AskedLayers().eval().to(name), torch.ones(1, 1, WIDTH, device=name)

    def forward() -> None:
        layers(given).cpu()  # a card has done what it was asked for

    return forward
