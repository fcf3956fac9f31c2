"""Named cases of the drop-in: what accelerate does well stays, what it does wrong is right here."""

from __future__ import annotations

import logging
import warnings

import accelerate
import pytest
import torch
from compile_plan.compiler import compile_model
from compile_plan.compiler.driver.drop_in import InvalidRequestError, infer_auto_device_map
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
    with caplog.at_level(logging.INFO, logger="compile_plan.compiler.driver.drop_in"):
        infer_auto_device_map(model, budgets)
    (record,) = caplog.records
    assert "insufficient memory" in record.getMessage()  # what callers of accelerate look for
    enough = record.args[1]
    assert 0 in infer_auto_device_map(model, {**budgets, 0: enough}).values()
    assert 0 not in infer_auto_device_map(model, {**budgets, 0: enough - 1}).values()


def test_s6_what_fits_says_nothing(caplog, recwarn):
    with caplog.at_level(logging.INFO, logger="compile_plan.compiler.driver.drop_in"):
        assert infer_auto_device_map(model_of(A=1, B=1), kib(g0=100, cpu=100)) == {"": 0}
    assert not caplog.records
    assert not recwarn.list


def test_s7_buffers_without_room_are_a_python_warning():
    model = model_of(A=4, B=1)
    model.B.register_buffer("table", torch.empty(256 * 60, device="meta"))
    with pytest.warns(UserWarning, match=r"^Current model requires 61440 bytes.*offload_buffers=True"):
        infer_auto_device_map(model, kib(g0=8, cpu=200))
    assert infer_auto_device_map(model, kib(g0=8, cpu=200), offload_buffers=True)


def test_a_model_without_room_for_any_layer_says_so_and_a_fallback_says_nothing(caplog):
    model = nn.Sequential(model_of(A=44, B=20, C=40))
    with caplog.at_level(logging.INFO):
        assert 0 not in infer_auto_device_map(model, kib(g0=64)).values()
    assert any("insufficient memory" in line for line in caplog.messages)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        found = infer_auto_device_map(model, kib(g0=64), fallback_allocation=True)
    assert found == {"0.A": "disk", "0.B": 0, "0.C": "disk"}
    assert not caplog.messages


def test_filters_written_for_accelerate_silence_our_warning_too():
    model = model_of(A=4, B=1)
    model.B.register_buffer("table", torch.empty(256 * 60, device="meta"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Current model requires")
        infer_auto_device_map(model, kib(g0=8, cpu=200))


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


def tree_of(**children: nn.Module | int) -> nn.Module:
    model = nn.Module()
    for name, child in children.items():
        model.add_module(name, layer(child) if isinstance(child, int) else child)
    return model


def tied(one: nn.Module, other: nn.Module) -> None:
    other.weight = one.weight


def fits_with_its_tie() -> nn.Module:
    model = tree_of(A=4, T=tree_of(x=4, y=6, z=6))
    tied(model.A, model.T.x)
    return model


def tied_to_a_leaf() -> nn.Module:
    model = tree_of(A=4, T=nn.Module())
    tied(model.A, model.T)
    model.T.extra = nn.Parameter(torch.empty(256 * 12, device="meta"))
    return model


def too_large_and_tied(*more: int) -> nn.Module:
    model = tree_of(A=tree_of(p=3, q=9), T=tree_of(x=3, **{f"y{i}": kib for i, kib in enumerate(more)}))
    tied(model.A.p, model.T.x)
    return model


@pytest.mark.parametrize(
    ("model", "budgets", "expected"),
    [
        pytest.param(fits_with_its_tie(), kib(g0=40, g1=40), {"A": 0, "T": 0}, id="TTT-allocate"),
        pytest.param(
            fits_with_its_tie(), kib(g0=20, g1=40),
            {"A": 0, "T.x": 0, "T.y": 0, "T.z": 0}, id="TTF-split-the-tied-module",
        ),
        pytest.param(
            fits_with_its_tie(), kib(g0=12, g1=40),
            {"A": 0, "T.x": 0, "T.y": 1, "T.z": 1}, id="TFF-split-the-tied-module",
        ),
        pytest.param(tied_to_a_leaf(), kib(g0=20, g1=40), {"A": 1, "T": 1}, id="TTF-next-device"),
        pytest.param(tied_to_a_leaf(), kib(g0=18, g1=40), {"A": 1, "T": 1}, id="TFF-next-device"),
        pytest.param(
            too_large_and_tied(2), kib(g0=13, g1=40),
            {"A.p": 0, "T.x": 0, "A.q": 1, "T.y0": 1}, id="FTF-split-the-module",
        ),
        pytest.param(
            too_large_and_tied(9, 9), kib(g0=14, g1=60),
            {"A.p": 0, "T.x": 0, "A.q": 1, "T.y0": 1, "T.y1": 1}, id="FFF-split-the-module",
        ),
    ],
)  # fmt: skip
def test_s4_every_row_of_the_table(model, budgets, expected):
    theirs = dict(accelerate.infer_auto_device_map(model, dict(budgets), clean_result=False))
    ours = infer_auto_device_map(model, budgets, clean_result=False)
    assert ours == theirs
    assert ours == expected


def test_b4_direct_parameters_are_placed_apart_if_they_fit():
    model = model_of(linear=4, other=4)
    for name in "ab":
        model.register_parameter(name, nn.Parameter(torch.empty(256, device="meta")))
    expected = {"a": "cpu", "b": "cpu", "linear": "disk", "other": "disk"}
    assert infer_auto_device_map(model, kib(cpu=6), clean_result=False) == expected
    plan = compile_model(model, max_memory=kib(cpu=6, disk=100))
    assert {unit.path: unit.store for unit in plan.units} == expected


@pytest.mark.parametrize("count", [2, 15])
def test_b6_layers_that_are_all_tied_are_one_cost(count):
    layers = nn.ModuleList(nn.Linear(64, 64, device="meta") for _ in range(count))
    for other in layers[1:]:
        other.weight, other.bias = layers[0].weight, layers[0].bias
    model = nn.Module()
    model.layers, model.head = layers, layer(16)
    one = 64 * 65 * 4
    budgets = {0: one + 16 * KIB, "cpu": 10**6}
    assert infer_auto_device_map(model, budgets) == {"": 0}
    assert dict(accelerate.infer_auto_device_map(model, dict(budgets))) == {"": 0}


def test_b7_a_tied_head_is_stored_with_the_embedding_and_counted_once():
    model = model_of(embed=8, body=4, head=8)
    tied(model.embed, model.head)
    plan = compile_model(model, max_memory=kib(g0=12, cpu=100))
    assert {unit.store for unit in plan.units} == {"cuda:0"}
    assert plan.ledger[0].weights == 12 * KIB


def test_verbose_tells_each_place_and_nothing_else(capsys):
    infer_auto_device_map(model_of(A=2, B=2), kib(g0=4, cpu=8), verbose=True, clean_result=False)
    assert capsys.readouterr().out == "A -> 0\nB -> 0\n"
    infer_auto_device_map(model_of(A=2, B=2), kib(g0=4, cpu=8))
    assert capsys.readouterr().out == ""


def test_a_plan_says_when_it_uses_a_disk_that_nobody_listed():
    plan = compile_model(model_of(a=4, b=4, c=4), max_memory=kib(g0=8), strategy="accelerate")
    assert {unit.path: unit.store for unit in plan.units} == {"a": "cuda:0", "b": "disk", "c": "disk"}
    told = plan.diagnostics
    assert [(d.code, d.severity) for d in told] == [("unlisted-disk", "warning")]
    assert told[0].message == "`disk` holds 8.0KiB of the model, and nobody listed it"
    assert told[0].notes[0].startswith("8192 bytes")


@pytest.mark.parametrize("budgets", [kib(g0=8, disk=8), kib(g0=8, cpu=8), kib(g0=12)])
def test_a_plan_without_an_unlisted_disk_says_nothing(budgets):
    plan = compile_model(model_of(a=4, b=4, c=4), max_memory=budgets, strategy="accelerate")
    assert plan.diagnostics == ()
