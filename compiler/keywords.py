"""The keywords people write, typed for editors; None is not given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from .driver.options import Objective, Offload, Strategy, Use
from .machine.budgets import DeviceKey, Size

if TYPE_CHECKING:
    import torch

    from ..ir import Reserve
    from .lines.files import Override
    from .tracing.inputs.example_inputs import Inputs

    Dtype: TypeAlias = str | torch.dtype


class PlanOptions(TypedDict, total=False):
    """The keywords of `compile_model` that `load_pretrained` takes too; None is not given."""

    max_memory: Mapping[DeviceKey, Size] | None
    no_split_module_classes: str | Iterable[str] | None
    special_dtypes: Mapping[str, Dtype] | None
    offload_buffers: bool | None
    strategy: Strategy | None
    objective: Objective | None
    offload: Offload | None
    overrides: Override | Iterable[Override] | None
    example_inputs: Inputs
    fallback: bool | None
    reserves: Mapping[DeviceKey, Size] | Iterable[Reserve] | None
    margin: Size | None
    runtime: Size | None
    kv_cache: Size | None
    workload: Use | None
    rows: int | None
    batch: int | None
    seq: int | None
    cache_tokens: int | None
    prompt: int | None
    generate: int | None
    optimizer: str | None
    time_limit: float | None


class CompileOptions(PlanOptions, total=False):
    """The keywords of `compile_model`, which `compile_plan` takes too; None is not given."""

    dtype: Dtype | None
    trust_remote_code: bool | None
