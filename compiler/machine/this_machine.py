"""What this machine has: every device with the memory that is free now, and who said so.

torch is asked when it is loaded already; otherwise the cards' own tool answers, so that planning
from headers stays fast. A device that fails to answer is left out and named, never guessed.
"""

from __future__ import annotations

import csv
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ...ir import CPU, MPS, Device, Diagnostic, Diagnostics, parse_size
from ...ir.rules.budgets import SKIPPED_DEVICE
from .filling_order import in_filling_order
from .host_memory import available_memory

FREE_BY_TOOL: Final = "free on this machine, by nvidia-smi"
FREE_BY_TORCH: Final = "free on this machine, by torch"
POOL: Final = "host"
"""The pool of devices that share the host's memory."""
_TIMEOUT: Final = 5.0
_QUERY: Final = ("--query-gpu=index,uuid,name,memory.free", "--format=csv,noheader,nounits")
_NONE_ON_PURPOSE: Final = ("", "-1", "NoDevFiles", "none", "void")
"""What people write to hide every card."""
_OTHER_CARDS: Final = ("/dev/kfd", "/dev/accel", "/dev/davinci_manager", "/dev/dri/renderD128")


def this_machine(diagnostics: Diagnostics) -> tuple[Device, ...]:
    """Return this machine's accelerators and its host memory, in filling order. Never raises.

    A disk is not among them: it is used only when it is listed. The plan says of each device where
    its number came from (``Device.origin``).
    """
    memory, origin = available_memory()
    cards = _cards(memory, diagnostics)
    shared = any(card.pool == POOL for card in cards)
    pool = (POOL, memory) if shared else (None, None)
    host = Device(CPU, memory, pool=pool[0], pool_memory=pool[1], origin=origin)
    return in_filling_order([*cards, host])


def on_host(device: Device, host: str) -> Device:
    """Return a device of a machine as one of several hosts."""
    pool = None if device.pool is None else host
    return replace(device, name=f"{host}/{device.name}", pool=pool)


def _cards(host_memory: int, diagnostics: Diagnostics) -> list[Device]:
    if "torch" not in sys.modules and not _only_torch_knows():
        listing = _ask_tool()
        cards = None if listing is None else cards_of_tool(listing, os.environ, diagnostics)
        if cards is not None:
            return cards
    found = len(tuple(diagnostics))
    cards = _asked_torch(host_memory, diagnostics)
    if not cards and len(tuple(diagnostics)) == found:
        _name_unseen(diagnostics)
    return cards


def _asked_torch(host_memory: int, diagnostics: Diagnostics) -> list[Device]:
    try:
        import torch
    except (ImportError, OSError) as error:
        _skip("accelerators", f"torch cannot be loaded: {error}", diagnostics)
        return []
    return cards_of_torch(torch, host_memory, diagnostics)


def _name_unseen(diagnostics: Diagnostics) -> None:
    """Say it where the tool lists cards and torch, asked because of something odd in that, sees none."""
    listed = len(_rows(_ask_tool() or ""))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not listed or (visible is not None and visible.strip() in _NONE_ON_PURPOSE):
        return
    cards = "1 card" if listed == 1 else f"{listed} cards"
    reason = f"nvidia-smi lists {cards}, torch sees none"
    _skip(
        "accelerators",
        reason if visible is None else f"{reason} (`CUDA_VISIBLE_DEVICES={visible}`)",
        diagnostics,
    )


def _only_torch_knows() -> bool:
    """Say whether there may be accelerators that NVIDIA's tool does not list."""
    if platform.system() == "Darwin":
        return platform.machine() == "arm64"
    return shutil.which("nvidia-smi") is None and any(Path(path).exists() for path in _OTHER_CARDS)


def cards_of_torch(torch: Any, host_memory: int, diagnostics: Diagnostics) -> list[Device]:  # noqa: ANN401
    """Return the accelerators torch sees; ``torch`` is the module, or what answers like it."""
    try:
        current = torch.accelerator.current_accelerator()
        count = torch.accelerator.device_count() if current is not None else 0
    except Exception as error:  # noqa: BLE001  # drivers raise anything; a machine without cards is a machine
        _skip("accelerators", _reason(error), diagnostics)
        return []
    if current is None or current.type == CPU:
        return []
    if current.type == MPS:
        return _mps(torch, host_memory, diagnostics)
    cards = []
    for index in range(count):
        name = f"{current.type}:{index}"
        try:
            cards.append(_card(torch, name, index, host_memory))
        except Exception as error:  # noqa: BLE001
            _skip(name, _reason(error), diagnostics)
    return [card for card in cards if not _is_taken(card, diagnostics)]


def _card(torch: Any, name: str, index: int, host_memory: int) -> Device:  # noqa: ANN401
    module = torch.get_device_module(name.partition(":")[0])
    free = int(module.mem_get_info(index)[0])
    properties = module.get_device_properties(index)
    product = str(getattr(properties, "name", ""))
    if not getattr(properties, "is_integrated", False):
        return Device(name, free, origin=f"{FREE_BY_TORCH}{_called(product)}")
    origin = f"free on this machine, by torch; shared with the host{_called(product)}"
    return Device(name, min(free, host_memory), pool=POOL, pool_memory=host_memory, origin=origin)


def _called(product: str) -> str:
    """Return what a driver calls a card, in brackets: its rates are looked up by it."""
    return f" ({product})" if product else ""


def _mps(torch: Any, host_memory: int, diagnostics: Diagnostics) -> list[Device]:  # noqa: ANN401
    try:
        free = int(torch.mps.recommended_max_memory()) - int(torch.mps.driver_allocated_memory())
    except Exception as error:  # noqa: BLE001
        _skip(MPS, _reason(error), diagnostics)
        return []
    origin = "what the system recommends for mps; shared with the host"
    memory = max(0, min(free, host_memory))
    return [Device(MPS, memory, pool=POOL, pool_memory=host_memory, origin=origin)]


def _ask_tool() -> str | None:
    """Return what NVIDIA's tool says; "" without the tool, None when it fails."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603  # a fixed command found on PATH
            [tool, *_QUERY], capture_output=True, text=True, timeout=_TIMEOUT, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def cards_of_tool(
    listing: str, environment: Mapping[str, str], diagnostics: Diagnostics
) -> list[Device] | None:
    """Return the cards of NVIDIA's listing by CUDA's numbers; None when only CUDA knows the numbers.

    CUDA puts the fastest card first unless told otherwise, so the tool's order counts only when all
    cards are the same. ``CUDA_VISIBLE_DEVICES`` hides and reorders cards. Slices of a card have devices
    of their own, and a memory that is no number comes with them.
    """
    rows = _rows(listing)
    if any(len(row) != 4 or parse_size(f"{row[3]}MiB") is None for row in rows):
        return None
    by_bus = environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if len({name for _, _, name, _ in rows}) > 1 and not by_bus:
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if any("MIG" in row[2].split() for row in rows) or "MIG-" in (visible or ""):
        return None
    chosen = rows if visible is None else _visible(rows, visible.split(","))
    if rows and not chosen and (visible or "").strip() not in _NONE_ON_PURPOSE:
        _skip("accelerators", f"`CUDA_VISIBLE_DEVICES={visible}` shows no card", diagnostics)
    found = [
        Device(f"cuda:{index}", parse_size(f"{row[3]}MiB"), origin=f"{FREE_BY_TOOL}{_called(row[2])}")
        for index, row in enumerate(chosen)
    ]
    return [card for card in found if not _is_taken(card, diagnostics)]


def _rows(listing: str) -> list[list[str]]:
    return [[cell.strip() for cell in row] for row in csv.reader(listing.splitlines()) if row]


def _is_taken(card: Device, diagnostics: Diagnostics) -> bool:
    """Name a card whose memory others use up, so that it is no device of the plan."""
    if card.memory:
        return False
    _skip(card.name, "nothing of its memory is free", diagnostics)
    return True


def _visible(rows: list[list[str]], wanted: Iterable[str]) -> list[list[str]]:
    """Return the cards CUDA would show: by number or start of UUID, up to the first that is unknown.

    A card that is wanted twice is CUDA's reason to show none.
    """
    chosen: list[list[str]] = []
    for want in (entry.strip() for entry in wanted):
        found = [
            row for row in rows if row[0] == want or (want.startswith("GPU-") and row[1].startswith(want))
        ]
        if len(found) != 1:
            break
        chosen.append(found[0])
    return chosen if len({row[1] for row in chosen}) == len(chosen) else []


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _skip(name: str, reason: str, diagnostics: Diagnostics) -> None:
    help_ = "give the budgets yourself: `--memory cuda:0=10GiB,cpu=64GiB`"
    message = f"`{name}` is left out: {reason}"
    diagnostics.add(Diagnostic(SKIPPED_DEVICE, message, help=help_))
