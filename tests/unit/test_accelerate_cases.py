"""Named cases of the drop-in: what accelerate does well stays, what it does wrong is right here."""

from __future__ import annotations

import logging

import accelerate
import pytest
import torch
from compile_plan.compiler.accelerate_compat import InvalidRequestError, infer_auto_device_map
from torch import nn

logging.getLogger("accelerate").setLevel(logging.ERROR)
KIB = 1024


def layer(kib: int) -> nn.Module:
    return nn.Linear(256, kib, bias=False, device="meta")


def model_of(**sizes: int) -> nn.Module:
    model = nn.Module()
    for name, kib in sizes.items():
        model.add_module(name, layer(kib))
    return model


def kib(**budgets: int) -> dict[int | str, int]:
    return {int(k[1:]) if k.startswith("g") else k: v * KIB for k, v in budgets.items()}


@pytest.mark.parametrize(
    ("sizes", "budgets", "fallback", "expected"),
    [
        ((2, 1, 3), kib(g0=4, cpu=6), False, {"": "cpu"}),
        ((2, 1, 3), kib(g0=4, cpu=6), True, {"B": 0, "A": "cpu", "C": "cpu"}),
        ((2, 1, 3), kib(g0=4, g1=10, cpu=6), False, {"": 1}),
        ((5, 1, 3), kib(g0=4, g1=10, cpu=6), False, {"": 1}),
        ((5, 1, 3), kib(g0=4, g1=10, cpu=6), True, {"": 1}),
    ],
)
def test_s1_to_s3_give_accelerates_maps(sizes, budgets, fallback, expected):
    model = model_of(**{name: 4 * size for name, size in zip("ABC", sizes, strict=True)})
    budgets = {key: 4 * size for key, size in budgets.items()}
    assert infer_auto_device_map(model, budgets, fallback_allocation=fallback) == expected
    assert dict(accelerate.infer_auto_device_map(model, budgets, fallback_allocation=fallback)) == expected


def test_s5_an_empty_device_is_logged_once_with_bytes_that_are_enough(caplog):
    model, budgets = model_of(A=8, B=4, C=12), kib(g0=16, g1=100, cpu=24)
    with caplog.at_level(logging.INFO, logger="compile_plan.compiler.accelerate_compat"):
        infer_auto_device_map(model, budgets)
    (record,) = caplog.records
    enough = record.args[1]
    assert 0 in infer_auto_device_map(model, {**budgets, 0: enough}).values()
    assert 0 not in infer_auto_device_map(model, {**budgets, 0: enough - 1}).values()


def test_s6_what_fits_says_nothing(caplog, recwarn):
    with caplog.at_level(logging.INFO, logger="compile_plan.compiler.accelerate_compat"):
        assert infer_auto_device_map(model_of(A=1, B=1), kib(g0=100, cpu=100)) == {"": 0}
    assert not caplog.records
    assert not recwarn.list


def test_s7_buffers_without_room_are_a_python_warning():
    model = model_of(A=4, B=1)
    model.B.register_buffer("table", torch.empty(256 * 60, device="meta"))
    with pytest.warns(UserWarning, match="buffers"):
        infer_auto_device_map(model, kib(g0=8, cpu=200))
    assert infer_auto_device_map(model, kib(g0=8, cpu=200), offload_buffers=True)


@pytest.mark.parametrize("persistent", [True, False])
def test_b1_b2_direct_buffers_of_opened_modules_have_a_place(persistent):
    model = nn.Module()
    for index in range(4):
        block = model_of(a=10, b=10)
        block.scale = nn.Parameter(torch.empty(1, device="meta"))
        block.register_buffer("layer_scalar", torch.empty(1, device="meta"), persistent=persistent)
        model.add_module(str(index), block)
    found = infer_auto_device_map(model, kib(g0=45, g1=45, cpu=100))
    for name, _ in (*model.named_parameters(), *model.named_buffers()):
        assert any(name == key or name.startswith(f"{key}.") for key in found), name


def test_b5_towers_tied_pairwise_are_placed_where_accelerate_crashes():
    model = nn.Module()
    model.enc, model.dec = (nn.Sequential(*(layer(10) for _ in range(4))) for _ in range(2))
    for one, other in zip(model.enc, model.dec, strict=True):
        other.weight = one.weight
    model.head = layer(40)
    for size in (60, 40):
        found = infer_auto_device_map(model, kib(g0=size, g1=size))
        names = [n for n, _ in model.named_parameters(remove_duplicate=False)]
        place = {
            n: next(d for k, d in found.items() if n == k or n.startswith(f"{k}.") or not k) for n in names
        }
        assert all(place[f"enc.{i}.weight"] == place[f"dec.{i}.weight"] for i in range(4))


def test_b8_a_root_parameter_tied_to_an_embedding_is_placed_with_it():
    model = model_of(embed=4, head=4)
    model.scale = model.embed.weight
    found = infer_auto_device_map(model, kib(g0=8, g1=8), clean_result=False)
    assert found["scale"] == found["embed"]


def test_c5_c6_c7_keys_and_sizes_as_people_write_them():
    budgets = {"0": "10 KiB", "cpu": "10gb"}
    assert infer_auto_device_map(model_of(A=2), budgets) == {"A": 0}
    assert budgets == {"0": "10 KiB", "cpu": "10gb"}
    assert infer_auto_device_map(model_of(A=2), {"xpu:1": "1MiB"}) == {"A": "xpu:1"}


@pytest.mark.parametrize("arguments", [{"max_memory": {0: "10 apples"}}, {"dtype": "float61"}])
def test_a_bad_argument_is_a_value_error_with_diagnostics(arguments):
    with pytest.raises(ValueError, match=r"apples|float61") as caught:
        infer_auto_device_map(model_of(A=1), **{"max_memory": {"cpu": 10_000}, **arguments})
    assert isinstance(caught.value, InvalidRequestError)
    assert caught.value.diagnostics
