"""How long torch needs to ask a device for one operation, measured on layers as decoders have them.

They are so small that the operations themselves take hardly any time, and every module has hooks as a loaded
plan puts them there: what is left is what Python and torch take. Operations are counted as a trace counts
them, by what torch dispatches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

WIDTH: Final = 64
LAYERS: Final = 4


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
    layers = [[_product(torch, name) for _ in range(7)] for _ in range(LAYERS)]
    given, ones = torch.ones(1, 1, WIDTH, device=name), torch.ones(WIDTH // 2, device=name)

    def forward() -> None:
        rows = given
        for layer in layers:
            rows = rows + _attention(torch, _normed(torch, rows), layer[:4], ones)
            gate, up, down = layer[4:]
            normed = _normed(torch, rows)
            rows = rows + down(torch.nn.functional.silu(gate(normed)) * up(normed))
        rows.cpu()  # a card has done what it was asked for

    return forward


def _product(torch: Any, name: str) -> Any:  # noqa: ANN401
    product = torch.nn.Linear(WIDTH, WIDTH, bias=False, device=name)
    product.register_forward_pre_hook(_pass, with_kwargs=True)
    product.register_forward_hook(_pass, with_kwargs=True)
    return product


def _pass(*_given: object) -> None:
    """Leave a call as it is: the hooks of a loaded plan mostly do."""


def _normed(torch: Any, rows: Any) -> Any:  # noqa: ANN401
    return rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + 1e-6)


def _attention(torch: Any, rows: Any, products: list[Any], ones: Any) -> Any:  # noqa: ANN401
    *inner, last = products
    heads = [product(rows).view(1, -1, 2, WIDTH // 2).transpose(1, 2) for product in inner]
    query, key = (_turned(torch, each, ones) for each in heads[:2])
    mixed = torch.nn.functional.scaled_dot_product_attention(query, key, heads[2])
    return last(mixed.transpose(1, 2).reshape(1, -1, WIDTH))


def _turned(torch: Any, heads: Any, ones: Any) -> Any:  # noqa: ANN401
    """Turn positions into heads."""
    first, second = heads.chunk(2, dim=-1)
    return heads * ones + torch.cat((-second, first), -1) * ones
