"""Quantised weights as transformers makes them on devices that do not compute them packed: plain ones.

Which devices compute a method's weights packed, and into how many numbers stored ones are unpacked, is what
transformers' quantizers do when they load a folder.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from math import prod
from typing import Final

from .config_numbers import PACKING, WIDTHS, Config, integer, quantisation_of
from .named_tensors import NamedTensor

_CARDS: Final = frozenset({"cuda", "xpu"})
_COMPUTED: Final = {
    "fp8": _CARDS,
    "mxfp8": _CARDS,
    "mxfp4": _CARDS,
    "metal": frozenset({"mps"}),
    "compressed-tensors": frozenset[str](),
    "bitnet": frozenset[str](),
}
"""Kinds of devices with which a method's weights stay packed; those of others stay so everywhere.

compressed-tensors leaves them packed while they are read, and makes them plain in the first forward. bitnet
unpacks them where its own layers are asked for that quantise what they compute with.
"""
_OF_A_WEIGHT: Final = (
    "activation_scale", "input_global_scale", "input_scale", "input_zero_point", "output_scale", "qbiases",
    "qscale_weight", "scale", "scales", "weight_g_idx", "weight_global_scale", "weight_scale",
    "weight_scale_inv", "weight_shape", "weight_zero_point",
)  # fmt: skip
"""What is stored beside the weight of a module, and is gone once it is plain."""
_OF_A_TENSOR: Final = ("_scales", "_scale", "_scale_inv")
_EXPERTS: Final = ".experts."
_BLOCKS, _PACKED = "_blocks", "_packed"
_NARROW: Final = ("float8", "float4")
_INTEGERS: Final = {"int8": 8, "uint8": 8, "int32": 32, "uint32": 32}


def method_of(config: Config) -> str | None:
    """Return the method that a configuration says weights are quantised by; None for plain ones."""
    said = quantisation_of(config)
    if not said:
        return None
    method = said.get("quant_method")
    if not isinstance(method, str):
        bits = any(said.get(f"load_in_{bits}bit") is True for bits in (4, 8))
        return "bitsandbytes" if bits else "a method it does not name"
    return method[:40]


def depends_on_devices(config: Config) -> bool:
    """Say whether weights of the configuration's method are plain on some devices."""
    return method_of(config) in _COMPUTED


def stays_packed(config: Config, kinds: Collection[str]) -> bool:
    """Say whether transformers keeps the weights of a folder as they are stored, with such devices."""
    computed = _COMPUTED.get(method_of(config) or "")
    if computed is None:
        return True
    said = quantisation_of(config)
    if method_of(config) == "bitnet":
        return (said.get("linear_class"), said.get("quantization_mode")) != ("autobitlinear", "offline")
    return said.get("dequantize") is not True and not computed.isdisjoint(kinds)


def without_packing(config: Config) -> dict[str, object]:
    """Return a configuration of the same model with plain weights."""
    return {
        key: without_packing(part) if key.endswith("_config") and isinstance(part, Mapping) else part
        for key, part in config.items()
        if key not in PACKING
    }


def unpacked(tensors: Sequence[NamedTensor], config: Config, dtype: str) -> list[NamedTensor]:
    """Return what a folder's tensors are once its weights are plain, of a dtype."""
    names = {tensor.path for tensor in tensors}
    plain = {t.path: made for t in tensors if (made := _plain(t, names, config, dtype)) is not None}
    lasting = _keeps_scales(config)
    gone = {name for path in plain for name in _companions(path) if not lasting or _EXPERTS in path}
    return [plain.get(t.path, t) for t in tensors if t.path in plain or t.path not in gone]


def _keeps_scales(config: Config) -> bool:
    """Say whether what weights shared stays beside the plain ones, where modules make them in a forward.

    Experts are not modules of their own, so they are plain as soon as they are read.
    """
    said = quantisation_of(config)
    kept = method_of(config) in {"compressed-tensors", "bitnet"}
    return kept and said.get("dequantize") is not True


def _plain(tensor: NamedTensor, names: set[str], config: Config, dtype: str) -> NamedTensor | None:
    """Return a packed tensor as a plain one; None for what is none."""
    shape = _plain_shape(tensor, names, config)
    if shape is None:
        return None
    path = tensor.path.removesuffix(_BLOCKS).removesuffix(_PACKED)
    return NamedTensor(path, dtype, shape, prod(shape) * WIDTHS[dtype])


def _plain_shape(tensor: NamedTensor, names: set[str], config: Config) -> tuple[int, ...] | None:
    path, shape, method = tensor.path, tensor.shape, method_of(config)
    if path.endswith(_BLOCKS) and len(shape) > 3:
        return (*shape[:-3], 2 * shape[-2] * shape[-1], shape[-3])  # groups of two numbers a byte, transposed
    found = path.endswith(_PACKED) or any(name in names for name in _companions(path))
    several = _numbers(tensor, config) if found else None
    if several is None or not shape:
        return None
    return (several * shape[0], *shape[1:]) if method == "bitnet" else (*shape[:-1], shape[-1] * several)


def _numbers(tensor: NamedTensor, config: Config) -> int | None:
    """Return how many numbers an element of a tensor holds; None for a plain one."""
    method, packed = method_of(config), tensor.path.endswith(_PACKED)
    width = _INTEGERS.get(tensor.dtype)
    if tensor.dtype.startswith(_NARROW) and not packed:
        return 2 if tensor.dtype.startswith("float4") else 1
    if width is None or len(tensor.shape) < 2:
        return None
    if packed or method == "metal":
        return width // _bits(config)
    return {"bitnet": 4, "compressed-tensors": 1}.get(method or "", 2)  # two of mxfp4, in folders of fp8


def _companions(path: str) -> Iterator[str]:
    """Yield the names that may stand beside a packed tensor and be of it."""
    module, _, name = path.rpartition(".")
    if path.endswith(_BLOCKS):
        yield f"{path.removesuffix(_BLOCKS)}_scales"
    elif name in {"weight", "weight_packed"}:
        yield from (f"{module}.{other}" for other in _OF_A_WEIGHT)
    else:
        yield from (f"{path.removesuffix(_PACKED)}{end}" for end in _OF_A_TENSOR)


def _bits(config: Config) -> int:
    """Return the bits of a packed number, the fewest where groups of weights have others; 4 if none tells."""
    said = quantisation_of(config)
    groups = said.get("config_groups")
    weights = (
        each.get("weights")
        for each in (groups.values() if isinstance(groups, Mapping) else ())
        if isinstance(each, Mapping)
    )
    told = [said.get("bits"), *(each.get("num_bits") for each in weights if isinstance(each, Mapping))]
    return min((bits for each in told if (bits := integer(each)) is not None and bits <= 8), default=4)
