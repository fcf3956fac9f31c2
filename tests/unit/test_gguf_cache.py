"""The KV cache a GGUF file tells: heads of each layer, windows, latents; unknown where it says nothing."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from compile_plan.compiler import compile_plan
from compile_plan.compiler.sources.gguf_file import read_gguf
from compile_plan.ir import Diagnostics, PlanError
from compile_plan.ir.purposes import KV_CACHE

gguf = pytest.importorskip("gguf")
TOKENS, CELLS, HALF = 3000, 3072, 2


def written(path, family, layers, tensors, *, ends=(), **numbers):
    """Write a file with these tensors in each layer, and these numbers under the family's name."""
    writer = gguf.GGUFWriter(path, family)
    for name, value in {"block_count": layers, "embedding_length": 64, **numbers}.items():
        key = f"{family}.{name.replace('__', '.')}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif name.endswith("causal"):
            writer.add_bool(key, bool(value))
        else:
            writer.add_uint32(key, value)
    for name in ends:
        writer.add_tensor(name, np.zeros(64, np.float32))
    for layer in range(layers):
        for name in tensors:
            packed = np.zeros((64, 68), np.uint8)
            writer.add_tensor(f"blk.{layer}.{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def cache(path):
    found = Diagnostics()
    plan = read_gguf(path, found).with_room(found, TOKENS)
    return [each.nbytes for each in plan.demands if each.purpose == KV_CACHE], [each.code for each in found]


PLAIN = ("attn_q", "attn_k", "attn_v", "attn_output")
HEADS = {"attention__head_count": 8, "attention__head_count_kv": 2}


def test_keys_and_values_may_differ_in_width(tmp_path):
    widths = {"attention__key_length": 24, "attention__value_length": 16}
    path = written(tmp_path / "a.gguf", "llama", 2, PLAIN, **HEADS, **widths)
    assert cache(path) == ([CELLS * 2 * (24 + 16) * HALF] * 2, [])


def test_each_layer_has_its_own_heads(tmp_path):
    path = written(
        tmp_path / "a.gguf", "openelm", 3, PLAIN, attention__head_count=8,
        attention__head_count_kv=[4, 2, 0], attention__key_length=8, attention__value_length=8,
    )  # fmt: skip
    assert cache(path) == ([CELLS * heads * 16 * HALF for heads in (4, 2)], [])


@pytest.mark.parametrize(
    ("family", "numbers", "windowed"),
    [
        ("gemma2", {}, [True, False, True, False, True, False]),
        ("gemma3", {}, [True] * 5 + [False]),
        ("gpt-oss", {}, [True, False] * 3),
        ("other", {"attention__sliding_window_pattern": [True, True, False] * 2}, [True, True, False] * 2),
        ("olmo2", {}, [True, True, True, False, True, True]),
        ("other", {"attention__sliding_window_pattern": 3}, [True, True, False] * 2),
        ("llama", {}, [False] * 6),
        ("phi3", {}, [False] * 6),
    ],
)
def test_windows_are_where_the_file_or_its_architecture_says(tmp_path, family, numbers, windowed):
    path = written(
        tmp_path / "a.gguf", family, 6, PLAIN, **HEADS, attention__key_length=8, attention__value_length=8,
        attention__sliding_window=33, **numbers,
    )  # fmt: skip
    per_token = 2 * 16 * HALF
    kept = [(768 if is_windowed else CELLS) * per_token for is_windowed in windowed]
    assert cache(path) == (kept, [])


def test_a_window_nothing_places_is_unknown(tmp_path):
    windowed = {"attention__key_length": 8, "attention__sliding_window": 33}
    assert cache(written(tmp_path / "a.gguf", "newest", 6, PLAIN, **HEADS, **windowed)) == (
        [],
        ["unknown-cache"],
    )


def test_windows_may_have_heads_of_another_size(tmp_path):
    path = written(
        tmp_path / "a.gguf", "gemma4", 2, PLAIN, **HEADS, attention__key_length=32,
        attention__value_length=32, attention__key_length_swa=8, attention__value_length_swa=8,
        attention__sliding_window=33,
        attention__sliding_window_pattern=[True, False],
    )  # fmt: skip
    assert cache(path) == ([768 * 2 * 16 * HALF, CELLS * 2 * 64 * HALF], [])


@pytest.mark.parametrize(
    ("family", "layers", "numbers", "keeping"),
    [
        ("gemma4", 6, {"attention__shared_kv_layers": 2}, 4),
        ("gemma3n", 22, {"attention__sliding_window_pattern": 1, "attention__sliding_window": 9}, 20),
        ("glm4moe", 3, {"nextn_predict_layers": 1}, 2),
        ("bert", 3, {"attention__causal": 0}, 0),
    ],
    ids=["read those before", "read those before, untold", "speculate", "see all at once"],
)
def test_blocks_that_keep_nothing_of_their_own(tmp_path, family, layers, numbers, keeping):
    sizes = {"attention__key_length": 8, "attention__value_length": 8}
    path = written(tmp_path / "a.gguf", family, layers, PLAIN, **HEADS, **sizes, **numbers)
    assert cache(path) == ([CELLS * 2 * 16 * HALF] * keeping, [])


LATENTS = {
    "attention__head_count": 8, "attention__head_count_kv": 1, "attention__kv_lora_rank": 32,
    "rope__dimension_count": 8, "attention__key_length": 40, "attention__value_length": 32,
}  # fmt: skip


def test_latents_are_kept_as_they_are_where_they_are_attended_to(tmp_path):
    parts = ("attn_q_a", "attn_kv_a_mqa", "attn_k_b", "attn_v_b", "attn_output")
    path = written(tmp_path / "a.gguf", "deepseek2", 2, parts, **LATENTS)
    assert cache(path) == ([CELLS * (32 + 8) * HALF] * 2, [])


def test_latents_that_are_opened_first_are_kept_as_keys_and_values(tmp_path):
    parts = ("attn_q_a", "attn_kv_a_mqa", "attn_kv_b", "attn_output")
    whole = {**LATENTS, "attention__head_count_kv": 8, "attention__key_length": 24}
    path = written(tmp_path / "a.gguf", "deepseek2", 2, parts, **whole)
    assert cache(path) == ([CELLS * 8 * (24 + 32) * HALF] * 2, [])


def test_what_is_not_said_is_unknown(tmp_path):
    path = written(tmp_path / "a.gguf", "llama", 2, PLAIN)
    assert cache(path) == ([], ["unknown-cache"])


ODD = (0, 1, 2**32 - 1, [], [2, 0], [0, 2**31 - 1], [True, False])


@pytest.mark.parametrize("odd", ODD, ids=str)
@pytest.mark.parametrize("family", ["llama", "gemma3", "deepseek2"])
def test_odd_numbers_are_taken_or_said(tmp_path, family, odd):
    """Whatever a file says of itself, no number of its plan is below zero and what is raised is known."""
    names = {*HEADS, *LATENTS, "block_count", "embedding_length", "attention__sliding_window"}
    for name in (*sorted(names), "attention__sliding_window_pattern", "expert_used_count"):
        path = written(tmp_path / "a.gguf", family, 2, PLAIN, **HEADS | {name: odd})
        codes, demands = set(), ()
        try:
            demands = compile_plan(path, max_memory={0: "1GiB", "cpu": "64GiB"}, cache_tokens=64).demands
        except PlanError as error:
            codes = {found.code for found in error.diagnostics}
        assert codes <= {"does-not-fit", "unknown-cache"}, name
        assert all(demand.nbytes >= 0 for demand in demands), name


@pytest.mark.parametrize("name", ["", "a..b", ".a"])
def test_a_tensor_without_a_name_is_refused(tmp_path, name):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor(name, np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(PlanError) as caught:
        read_gguf(tmp_path / "a.gguf", Diagnostics())
    assert [found.code for found in caught.value.diagnostics] == ["invalid-checkpoint"]


def test_a_file_without_its_embedding_has_no_second_one(tmp_path):
    path = written(tmp_path / "a.gguf", "llama", 2, PLAIN, ends=["output_norm.weight"], **HEADS)
    plan = read_gguf(path, Diagnostics()).with_room(Diagnostics(), TOKENS)
    assert "second embedding" not in {demand.purpose for demand in plan.demands}


def test_packed_weights_are_what_they_are(tmp_path):
    path = written(tmp_path / "a.gguf", "llama", 2, PLAIN, **HEADS)
    for dtype in ("float16", "int4"):
        with pytest.raises(PlanError) as caught:
            compile_plan(path, max_memory={"cpu": "1GiB"}, dtype=dtype)
        assert [found.code for found in caught.value.diagnostics] == ["option-without-effect"]


def in_parts(folder, layers=2):
    """Write a model in several files of five tensors."""
    writer = gguf.GGUFWriter(folder / "m.gguf", "llama", split_max_tensors=5)
    writer.add_block_count(layers)
    writer.add_embedding_length(64)
    writer.add_head_count(8)
    writer.add_head_count_kv(2)
    for layer in range(layers):
        for name in PLAIN:
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.zeros((64, 64), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return sorted(folder.glob("*.gguf"))


def test_any_part_of_a_model_in_several_files_is_the_whole_model(tmp_path):
    first, second = in_parts(tmp_path)
    plans = [read_gguf(path, Diagnostics()).with_room(Diagnostics(), TOKENS) for path in (first, second)]
    assert plans[0] == plans[1]
    assert plans[0].model.name == "m"
    assert sum(plans[0].tree.nbytes) == 2 * 4 * 64 * 64 * HALF
    assert [d.nbytes for d in plans[0].demands if d.purpose == KV_CACHE] == [CELLS * 128 * HALF] * 2


def test_parts_that_are_missing_or_renamed_are_said(tmp_path):
    first, second = in_parts(tmp_path)
    second.rename(tmp_path / "other.gguf")
    for path, word in ((first, second.name), (tmp_path / "other.gguf", "name does not tell")):
        with pytest.raises(PlanError) as caught:
            read_gguf(path, Diagnostics())
        (found,) = caught.value.diagnostics
        assert found.code == "missing-shard"
        assert word in found.message
    first.rename(second)
    shutil.copy(second, first)
    with pytest.raises(PlanError, match="same name"):
        read_gguf(first, Diagnostics())
