"""The line llama.cpp's own planner prints, read back: ``-c 4096 -ngl 33 -ts 20,13 -ot "…=CPU"``."""

from __future__ import annotations

import re
import shlex
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

from ...ir import (
    CPU,
    Diagnostic,
    ModuleTree,
    Plan,
    PlanError,
    Reason,
    Unit,
    Workload,
    device_type,
    is_accelerator,
)
from ...ir.rules.engines import ENGINE_LINE
from .stack import largest_stack

_OPTIONS = {
    "-np": "rows", "--parallel": "rows",
    "-c": "context", "--ctx-size": "context",
    "-ngl": "layers", "--gpu-layers": "layers", "--n-gpu-layers": "layers",
    "-ts": "split", "--tensor-split": "split",
    "-ot": "overrides", "--override-tensor": "overrides",
    "-ncmoe": "experts", "--n-cpu-moe": "experts",
    "-dev": "devices", "--device": "devices",
}  # fmt: skip
_BUFFER = re.compile(r"([A-Za-z]+?)_?(\d*)")
_WHOLE = "give the line as it was printed"
_EXPERTS = r"^blk\.{}\.ffn_(up|down|gate|gate_up)_(ch)?exps"


@dataclass(frozen=True, slots=True)
class _Line:
    layers: int
    split: tuple[float, ...]
    overrides: tuple[tuple[str, str], ...]
    devices: tuple[str, ...]
    context: int | None
    rows: int


def read(text: str, plan: Plan) -> Plan:
    """Return the plan with the places the line asks for, as if a person had written them.

    Raises:
        PlanError: the line cannot be read, or it names devices the plan does not have.

    """
    tree = plan.tree
    found = None if tree is None else largest_stack(tree)
    if tree is None or found is None:
        raise _wrong("the model has no stack of numbered layers", "give the GGUF file the line is for")
    mains = [device.name for device in plan.devices if is_accelerator(device.name)]
    line = _parsed(text, len(tree.children(found)))
    order = [_device(name, mains) for name in line.devices] or mains
    if line.layers and len(line.split) > len(order):
        message = f"the line splits over {len(line.split)} devices, {len(order)} accelerators are listed"
        raise _wrong(message, "list them: `--memory cuda:0=24GiB,cuda:1=12GiB,cpu=64GiB`")
    units = [*_layers(tree, found, line, order, plan), *_apart(tree, line, mains)]
    written = tuple(replace(unit, reason=Reason.WRITTEN) for unit in units)
    return replace(plan, units=written, workload=_workload(line) or plan.workload)


def asks(text: str) -> Workload | None:
    """Return the workload the cells of the line's cache are for; None where it leaves them open."""
    return _workload(_parsed(text, 0))


def _workload(line: _Line) -> Workload | None:
    if not line.context:
        return None
    length = max(line.context // line.rows, 2)
    last = min(128, length // 2)
    return Workload(rows=line.rows, prompt=length - last, tokens=last)


def _wrong(message: str, help_: str) -> PlanError:
    return PlanError((Diagnostic(ENGINE_LINE, message, help=help_),))


def _parsed(text: str, layers: int) -> _Line:
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _wrong(f"the line cannot be split into words: {error}", "give it whole, in quotes") from error
    found: dict[str, list[str]] = {}
    for flag, value in pairwise(words):
        if flag in _OPTIONS:
            found.setdefault(_OPTIONS[flag], []).append(value)
    if not found:
        raise _wrong("the line has none of `-ngl`, `-ts`, `-ot`", "give what `llama-fit-params` printed")
    asked = found.get("layers", ["all"])[-1]
    number = layers + 1 if asked in {"all", "auto"} else _whole("-ngl", asked)
    split = tuple(_share(part) for part in found.get("split", [""])[-1].split(",") if part)
    overrides = [rule for value in found.get("overrides", []) for rule in _rules(value)]
    experts = _whole("--n-cpu-moe", found["experts"][-1]) if "experts" in found else 0
    overrides += [(_EXPERTS.format(layer), "CPU") for layer in range(min(experts, layers))]
    devices = tuple(part for part in found.get("devices", [""])[-1].split(",") if part)
    context = _whole("-c", found["context"][-1]) if "context" in found else None
    number = min(number, layers + 1) if number >= 0 else layers + 1
    rows = max(_whole("-np", found["rows"][-1]), 1) if "rows" in found else 1
    return _Line(number, split, tuple(overrides), devices, context, rows)


def _whole(option: str, text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise _wrong(f"`{option}` is followed by `{text}`, which is no number", _WHOLE)
    return int(text)


def _share(text: str) -> float:
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text):
        raise _wrong(f"`-ts` has a part `{text}`, which is no number", _WHOLE)
    return float(text)


def _rules(value: str) -> list[tuple[str, str]]:
    """Read ``PATTERN=BUFFER,PATTERN=BUFFER``; a pattern may hold commas in braces."""
    rules = []
    for part in re.split(r",(?![^({\[]*[)}\]])", value):
        pattern, equals, buffer = part.rpartition("=")
        try:
            re.compile(pattern)
        except re.error as error:
            raise _wrong(f"`{pattern}` is no regular expression: {error}", "quote the line") from error
        if not equals or not pattern:
            raise _wrong(f"`{part}` is not PATTERN=BUFFER", _WHOLE)
        rules.append((pattern, buffer))
    return rules


def _device(name: str, mains: Sequence[str]) -> str:
    """Return the device a buffer is on: CPU, or the n-th accelerator of its kind."""
    match = _BUFFER.fullmatch(name.removesuffix("_Host"))
    if name.endswith("_Host") or (match and match[1].upper() == "CPU"):
        return CPU
    kinds = {"CUDA": "cuda", "ROCM": "cuda", "MTL": "mps", "METAL": "mps", "SYCL": "xpu", "VULKAN": "vulkan"}
    kind = kinds.get(match[1].upper(), "") if match else ""
    same = [device for device in mains if device_type(device) == kind]
    index = int(match[2] or 0) if match else 0
    if index >= len(same):
        raise _wrong(
            f"`{name}` is none of the listed devices",
            f"list it with `--memory {kind or 'cuda'}:{index}=SIZE`",
        )
    return same[index]


def _layers(tree: ModuleTree, stack: int, line: _Line, order: list[str], plan: Plan) -> list[Unit]:
    """Place everything by ``-ngl`` and ``-ts``: the output is one layer more, the embedding the host's."""
    children = sorted(tree.children(stack), key=lambda child: int(tree.names[child]))
    count = len(children)
    start = max(count + 1 - line.layers, 0)
    memory = {device.name: float(device.memory or 1) for device in plan.devices}
    shares = list(line.split) or [memory[name] for name in order]
    ends = [*accumulate(shares)]

    def place(number: int) -> str:
        if number < start or not order or not ends or not ends[-1]:
            return CPU
        reached = bisect_right([end / ends[-1] for end in ends], (number - start) / line.layers)
        return order[min(reached, len(order) - 1)]

    units = [_unit("", CPU)] if tree.tensor_names else []
    after = [path for path in tree.paths if path in {"output", "output_norm", "lm_head", "model.norm"}]
    units += [_unit(tree.paths[child], place(number)) for number, child in enumerate(children)]
    return units + [_unit(path, place(count)) for path in after]


def _apart(tree: ModuleTree, line: _Line, mains: list[str]) -> list[Unit]:
    """Place the tensors that patterns name: the first pattern that is found in a name counts."""
    rules = [(re.compile(pattern), _device(buffer, mains)) for pattern, buffer in line.overrides]
    found = []
    for path in tree.tensor_paths:
        device = next((device for pattern, device in rules if pattern.search(path)), None)
        if device is not None:
            found.append(_unit(path, device))
    return found


def _unit(path: str, device: str) -> Unit:
    return Unit(path, device, device)
