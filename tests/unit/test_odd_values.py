"""Wrong values from Python: each is refused with a code, whatever it is, and before anything is changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from compile_plan.backends import read_plan, to_device_map, write_plan
from compile_plan.compiler import (
    compile_model,
    compile_plan,
    infer_auto_device_map,
    load_model,
    runtime_report,
    verify_plan,
)
from compile_plan.compiler.keywords import CompileOptions
from compile_plan.grammar import format_text, parse, print_plan
from compile_plan.ir import PlanError
from torch import nn


class Raises:
    """Whatever is asked of it goes wrong."""

    def _no(self, *_):
        raise RuntimeError("no")

    __int__ = __index__ = __eq__ = __repr__ = __iter__ = __len__ = __bool__ = __float__ = _no

    def __hash__(self):
        return 1


def broken():
    yield "place 0 on cpu\n"
    raise RuntimeError("in the middle")


ODD = {
    "text": lambda: "", "word": lambda: "zzz", "list": list, "dict": dict, "int": lambda: 7,
    "negative": lambda: -5, "huge": lambda: 10**400, "nan": lambda: float("nan"), "inf": lambda: float("inf"),
    "bytes": lambda: b"abc", "class": lambda: nn.Linear, "object": object, "raises": Raises,
    "numpy int": lambda: np.int64(3), "array": lambda: np.arange(3), "numpy bool": lambda: np.True_,
    "numpy text": lambda: np.str_("auto"), "tensor": lambda: torch.ones(2), "scalar": lambda: torch.tensor(4),
    "path": lambda: Path("nope"), "surrogate": lambda: "\ud800", "nul": lambda: "a\0b", "line": lambda: "\n",
    "long": lambda: "x" * 100_000, "set": lambda: {1, 2}, "nested": lambda: [[1]], "lambda": lambda: len,
    "generator": lambda: iter([1]), "broken": broken, "dtype": lambda: torch.float16,
    "mapping": lambda: {"a": object()}, "ellipsis": lambda: ..., "complex": lambda: 3j, "true": lambda: True,
    "device": lambda: torch.device("cpu"), "tuple": lambda: (None,), "nones": lambda: {None: None},
}  # fmt: skip
CPU = {"cpu": "1GiB"}
PLAN = parse("plan 1\ndevice cpu memory 1GiB\nplace . on cpu\n")


def model():
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


def refused(step):
    """Run a step and return why it was refused, or nothing."""
    try:
        step()
    except PlanError as error:
        return error.diagnostics
    return ()


def coded(step):
    """Run a step; a value may be right for it, and if it is not, that has a code."""
    assert all(each.code and each.message for each in refused(step))


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("option", sorted(CompileOptions.__annotations__))
def test_every_option_refuses_what_it_cannot_be(option, value):
    coded(lambda: compile_plan(model(), **{"max_memory": CPU, option: ODD[value]()}))


@pytest.mark.parametrize("value", ODD)
def test_every_member_of_an_option_is_read_with_care(value):
    odd = ODD[value]
    coded(lambda: compile_model(model(), max_memory={"cpu": odd()}))
    coded(lambda: compile_model(model(), max_memory=CPU, special_dtypes={"0.weight": odd()}))
    coded(lambda: compile_model(model(), max_memory=CPU, reserves={"cpu": odd()}))
    coded(lambda: compile_model(model(), max_memory=CPU, overrides=[odd()]))
    coded(lambda: compile_model(model(), max_memory=CPU, no_split_module_classes=[odd()]))


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("option", ["max_memory", "no_split_module_classes", "dtype", "special_dtypes"])
def test_the_drop_in_refuses_as_well(option, value):
    coded(lambda: infer_auto_device_map(model(), **{"max_memory": {"cpu": 10**9}, option: ODD[value]()}))


@pytest.mark.parametrize("value", ODD)
def test_what_is_no_input_is_said(value):
    for step in (compile_model, compile_plan):
        with pytest.raises(PlanError):
            step(ODD[value](), max_memory=CPU)
    with pytest.raises(PlanError):
        verify_plan(PLAN, ODD[value](), (torch.ones(1, 4),))
    with pytest.raises(PlanError):
        verify_plan(ODD[value](), model(), (torch.ones(1, 4),))


@pytest.mark.parametrize("value", ODD)
def test_what_is_no_plan_no_text_and_no_path_is_said(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = ODD[value]()
    for step in (to_device_map, print_plan, runtime_report, lambda given: write_plan(given, "a.plan")):
        with pytest.raises(PlanError):
            step(odd)
    for step in (parse, format_text, read_plan, lambda given: write_plan(PLAN, given)):
        coded(lambda step=step: step(odd))


LOADING = ["checkpoint", "strict", "progress", "dtype", "materialize", "devices", "map_memory", "diagnostics"]


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("option", LOADING)
def test_a_load_that_is_refused_leaves_the_model_as_it_was(option, value):
    built = model()
    before = {name: (id(each), each.dtype) for name, each in built.named_parameters()}
    found = refused(lambda: load_model(PLAN, built, **{option: ODD[value]()}))
    after = {name: (id(each), each.dtype) for name, each in built.named_parameters()}
    assert not found or after == before


@pytest.mark.parametrize("value", ODD)
def test_what_is_no_plan_or_no_model_is_not_loaded(value):
    with pytest.raises(PlanError):
        load_model(ODD[value](), model())
    with pytest.raises(PlanError):
        load_model(PLAN, ODD[value]())


@pytest.mark.parametrize(
    "key",
    [
        None, 1.5, -1, 10**9, "cuda:x", "cuda:-1", "", " ", "gpu", b"cpu", ("cpu",), torch.device("meta"),
        Raises(), "node1/", "/cuda:0", "\ud800", True,
    ],
    ids=lambda key: type(key).__name__,
)  # fmt: skip
def test_what_is_no_device_is_refused(key):
    with pytest.raises(PlanError) as caught:
        compile_model(model(), max_memory={key: "1GiB", "cpu": "1GiB"})
    assert {each.code for each in caught.value.diagnostics} == {"unknown-device-name"}


def test_special_dtypes_of_tensors_there_are_not_are_named():
    with pytest.raises(PlanError) as caught:
        compile_model(model(), max_memory=CPU, special_dtypes={"0.wieght": "float16"})
    assert caught.value.diagnostics[0].help == "did you mean `0.weight`?"


def test_numbers_of_numpy_are_numbers():
    plan = compile_model(model(), max_memory={"cpu": np.int64(2**30)}, kv_cache=np.int32(64))
    assert dict(plan.options) == {"kv-cache": "64"}


def test_a_scripted_and_an_exported_program_are_refused_by_name():
    exported = torch.export.export(model(), (torch.ones(1, 4),))
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit"):
        scripted = torch.jit.script(model())
    for given in (scripted, exported, type(model())):
        with pytest.raises(PlanError) as caught:
            compile_model(given, max_memory=CPU)
        assert caught.value.diagnostics[0].code == "not-a-model"


def test_a_sharded_module_is_refused_by_name_f30():
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        sharded = fully_shard(model(), mesh=init_device_mesh("cpu", (1,)))
        for step in (lambda: compile_model(sharded, max_memory=CPU), lambda: load_model(PLAN, sharded)):
            with pytest.raises(PlanError) as caught:
                step()
            assert "sharded" in str(caught.value)
    finally:
        distributed.destroy_process_group()


def test_a_model_that_carries_hooks_of_accelerate_is_refused_and_taken_without_them():
    hooks = pytest.importorskip("accelerate.hooks")
    accelerate = pytest.importorskip("accelerate")
    built = model()
    accelerate.cpu_offload(built, execution_device="cpu")
    with pytest.raises(PlanError) as caught:
        load_model(PLAN, built)
    found = caught.value.diagnostics[0]
    assert (found.code, "remove_hook_from_submodules" in found.help) == ("foreign-hooks", True)
    hooks.remove_hook_from_submodules(built)
    load_model(PLAN, built)


def test_a_dtype_means_the_same_from_plan_to_loader_f26():
    built = model()
    plan = compile_model(built, max_memory=CPU, dtype="bfloat16", special_dtypes={"0.bias": "float32"})
    loaded = load_model(plan, built)
    kinds = {name: each.dtype for name, each in loaded.named_parameters()}
    assert kinds == {
        "0.weight": torch.bfloat16, "0.bias": torch.float32, "1.weight": torch.bfloat16,
        "1.bias": torch.bfloat16,
    }  # fmt: skip
    again = load_model(compile_model(model(), max_memory=CPU, dtype="bfloat16"), model(), dtype="bfloat16")
    assert {each.dtype for each in again.parameters()} == {torch.bfloat16}


def test_weights_larger_than_planned_are_said_with_both_sizes_f26():
    from compile_plan.ir import Diagnostics

    found = Diagnostics()
    plan = compile_model(model(), max_memory=CPU, dtype="bfloat16")
    load_model(plan, model(), dtype="float32", diagnostics=found)
    (warning,) = found
    assert warning.code == "larger-than-planned"
    assert warning.notes == ("160 bytes in the dtypes they are loaded as, 80 bytes planned",)


def test_an_option_there_is_not_is_pythons_own_error():
    with pytest.raises(TypeError, match="max_memroy"):
        compile_plan(model(), max_memroy=CPU)


def test_the_options_of_both_functions_are_the_same():
    import inspect

    one, other = (inspect.signature(each).parameters for each in (compile_model, compile_plan))
    assert {*one} - {"model"} == {*other} - {"input", "trust_remote_code"}
    assert {*CompileOptions.__annotations__} == {*other} - {"input"}
