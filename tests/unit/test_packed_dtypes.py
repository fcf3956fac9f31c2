"""`--dtype int4` and its kin are what quantised files of the model have, not so many bits of everything."""

from __future__ import annotations

import pytest
from compile_plan.compiler.passes.annotate_sizes import AnnotateSizes
from compile_plan.grammar import parse
from compile_plan.ir import Diagnostics
from compile_plan.ir.dtypes import packed_bytes

GIB = 2**30
ATTENTION = {"q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096), "o_proj": (4096, 4096)}
FORWARD = {"gate_proj": (14336, 4096), "up_proj": (14336, 4096), "down_proj": (4096, 14336)}


def llama(dtype="bfloat16"):
    """Return an 8B model with a head of its own."""
    rows = ["plan 1", "module model.embed_tokens : Embedding", "module lm_head : Linear"]
    rows += [f"parameter {path}.weight : {dtype}[128256,4096]" for path in ("model.embed_tokens", "lm_head")]
    for layer in range(32):
        rows.append(f"module model.layers.{layer}.input_layernorm : LlamaRMSNorm")
        rows.append(f"parameter model.layers.{layer}.input_layernorm.weight : {dtype}[4096]")
        for part, shapes in (("self_attn", ATTENTION), ("mlp", FORWARD)):
            for name, (out, width) in shapes.items():
                path = f"model.layers.{layer}.{part}.{name}"
                rows += [f"module {path} : Linear", f"parameter {path}.weight : {dtype}[{out},{width}]"]
    return parse("\n".join(rows) + "\n")


def sized(plan, dtype):
    return AnnotateSizes(dtype=dtype).run(plan, Diagnostics()).tree


@pytest.mark.parametrize(
    ("dtype", "gibibytes"), [("int4", 5.33), ("int8", 8.46), ("fp8", 8.46), ("bfloat16", 14.96)]
)
def test_an_8b_model_has_the_bytes_of_its_files(dtype, gibibytes):
    assert sum(sized(llama(), dtype).nbytes) / GIB == pytest.approx(gibibytes, abs=0.01)


def test_what_is_not_quantised_is_of_two_bytes():
    tree = sized(llama("float32"), "int4")
    by_name = dict(zip(tree.tensor_paths, tree.nbytes, strict=True))
    assert by_name["model.embed_tokens.weight"] == by_name["lm_head.weight"] == 2 * 128256 * 4096
    assert by_name["model.layers.0.input_layernorm.weight"] == 2 * 4096


def test_a_group_of_int4_has_the_scale_and_the_zero_that_files_have():
    out, width = 4096, 14336
    weights, scales, zeros = out * width // 2, out * width // 128 * 2, out * width // 128 // 2
    assert packed_bytes("int4", (out, width)) == weights + scales + zeros


def test_experts_are_packed_and_convolutions_are_not():
    plan = parse(
        "plan 1\nmodule layers.0.experts : Experts\nparameter layers.0.experts.up : bfloat16[8,512,256]\n"
        "module layers.0.conv : Conv1d\nparameter layers.0.conv.weight : bfloat16[512,1,4]\n"
    )
    by_name = dict(zip(plan.tree.tensor_paths, sized(plan, "int4").nbytes, strict=True))
    assert by_name["layers.0.experts.up"] == packed_bytes("int4", (8, 512, 256))
    assert by_name["layers.0.conv.weight"] == 2 * 512 * 4


def test_what_accelerate_counts_is_what_it_counts():
    tree = sized(llama(), "int4")
    assert sum(tree.eighths) == sum(2 * nbytes for nbytes in sized(llama(), None).nbytes)
