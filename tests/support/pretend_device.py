"""A device that is not there: tensors on ``npu:N`` hold CPU memory and refuse to meet those of others.

Importing this gives the process the device, so tests that use it run as programs. Values are computed,
not faked: what is loaded and run there can be compared with the CPU's.
"""

from __future__ import annotations

import time
from functools import cache

import torch
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

aten = torch.ops.aten
COUNT = 4
CROSSING = {aten.copy_.default, aten._to_copy.default, aten._copy_from.default}
LINK = [0.0]
"""Bytes a second between devices; none: as fast as they are copied."""


class DevicesMeetError(RuntimeError):
    """An op got tensors of two devices."""


class There(torch.Tensor):
    """A tensor on a pretended device; ``elem`` has its values."""

    @staticmethod
    def __new__(cls, elem, device=None, *, requires_grad=False):
        if device is None:  # accelerate makes parameters anew by the class of what was there
            return torch.nn.Parameter(elem, requires_grad=requires_grad)
        return torch.Tensor._make_wrapper_subclass(
            cls, elem.shape, strides=elem.stride(), storage_offset=elem.storage_offset(),
            dtype=elem.dtype, device=device,
        )  # fmt: skip

    def __init__(self, elem, device=None, *, requires_grad=False):
        del requires_grad
        if device is not None:
            self.elem = elem

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        made = func.decompose(*args, **(kwargs or {}))  # inference mode gives what is made of other ops
        return run(func, args, kwargs or {}) if made is NotImplemented else made

    def __repr__(self, *, tensor_contents=None):
        del tensor_contents
        return f"There({self.elem!r})"


def run(func, args, kwargs):
    """Run an op on the CPU for the device its tensors are on."""
    tensors = []
    args = [_values(arg, tensors) for arg in args]
    kwargs = {key: _values(arg, tensors) for key, arg in kwargs.items()}
    device = _together(func, tensors, kwargs.get("device"))
    if kwargs.get("device") is not None:
        kwargs["device"] = torch.device("cpu")
    if func is aten.histc.default:  # counts integers on accelerators only
        args[0] = args[0].float()
    begun = time.perf_counter()
    made = func(*args, **kwargs)
    if func in CROSSING:
        _travel(made, begun, {t.device.type for t in tensors} | {torch.device(device).type})
    if _writes(func):
        return tensors[0]
    if torch.device(device).type != "npu":
        return made
    if func.is_view and not tensors[0].is_inference():  # nor is a view of it one, whatever the mode
        with torch.inference_mode(False):  # noqa: FBT003  # as torch.compile wants it
            return tree_map_only(torch.Tensor, lambda t: There(t, device), made)
    if isinstance(made, torch.Tensor):
        return There(made, device)
    return tree_map_only(torch.Tensor, lambda t: There(t, device), made)


@cache
def _writes(func):
    """Return whether an op writes to its first tensor."""
    return func is aten.copy_.default or func.__name__.split(".")[0].endswith("_")


def _values(arg, tensors):
    """Return an argument with the values of its tensors, which are noted."""
    if isinstance(arg, torch.Tensor):
        tensors.append(arg)
        return arg.elem if type(arg) is There else arg
    if type(arg) in (list, tuple):
        return type(arg)([_values(each, tensors) for each in arg])
    return arg


def _together(func, tensors, wanted):
    """Return the device of the result; raises where devices meet."""
    if func in CROSSING:
        return wanted or tensors[0].device
    named = {t.device for t in tensors if t.dim() or isinstance(t, There)}
    if func is aten.index.Tensor or "index_put" in func.__name__:
        named = {t.device for t in tensors if isinstance(t, There)} | {tensors[0].device}
    if len(named) > 1:
        raise DevicesMeetError(f"{func} got tensors on {sorted(map(str, named))}")
    return wanted or next(iter(named), "cpu")


def _travel(values, begun, kinds):
    """Wait until what was copied would be there."""
    if LINK[0] and len(kinds) > 1:
        time.sleep(max(0.0, begun + values.nbytes / LINK[0] - time.perf_counter()))


class Module:
    """What torch asks of a kind of device."""

    @staticmethod
    def is_available():
        return True

    @staticmethod
    def device_count():
        return COUNT

    @staticmethod
    def current_device():
        return 0

    @staticmethod
    def is_initialized():
        return True

    @staticmethod
    def _is_in_bad_fork():
        return False

    @staticmethod
    def manual_seed_all(_seed):
        return None

    @staticmethod
    def get_amp_supported_dtype():
        return [torch.bfloat16]


def _empty(size, *, dtype=None, layout=None, device=None, pin_memory=None, memory_format=None):
    del layout, pin_memory, memory_format
    return There(torch.empty(size, dtype=dtype), device)


def _empty_strided(size, stride, *, dtype=None, layout=None, device=None, pin_memory=None):
    del layout, pin_memory
    return There(torch.empty_strided(size, stride, dtype=dtype), device)


def _copy_from(source, target, *_non_blocking):
    begun, kinds = time.perf_counter(), {source.device.type, target.device.type}
    source, inside = (t.elem if isinstance(t, There) else t for t in (source, target))
    inside.copy_(source)
    _travel(inside, begun, kinds)
    return target


_setup_privateuseone_for_python_backend("npu", backend_module=Module())
LIBRARY = torch.library.Library("aten", "IMPL")
LIBRARY.impl("empty.memory_format", _empty, "PrivateUse1")
LIBRARY.impl("empty_strided", _empty_strided, "PrivateUse1")
LIBRARY.impl("_copy_from", _copy_from, "PrivateUse1")
