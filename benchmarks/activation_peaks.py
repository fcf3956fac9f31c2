"""Compares what a ledger holds beside weights with what is really alive, for four workloads, on the CPU.

    python benchmarks/activation_peaks.py [llama mamba ...]

Small models of one architecture a family, float32: two rows padded to 48 tokens, 16 sampled by
``generate()``; as many tokens with their mask as one forward, with labels, as two steps of AdamW. Measured
are storages alive, by weak references, without weights; the ledger is that of a plan with everything on the
CPU. No ratio is to be below 1.00 or above 1.03.
Prints the table of docs/tracing.md.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from compile_plan.compiler import compile_model
from compile_plan.compiler.tracing import example_inputs
from compile_plan.ir import Diagnostics

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from live_bytes import LiveBytes
from small_models import CONFIGS

ROWS, PROMPT, WRITTEN = 2, 48, 16
VISION = {
    "hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2,
    "projection_dim": 64,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, CONFIGS[name]) for name in CONFIGS if name not in {"bert", "resnet", "vit", "whisper"}},
    "llama, eager attention": ("llama", {**CONFIGS["llama"], "attn_implementation": "eager"}),
    "mistral, window of 16": ("mistral", {**CONFIGS["llama"], "sliding_window": 16}),
    "mixtral, experts one by one": ("mixtral", {**CONFIGS["mixtral"], "experts_implementation": "eager"}),
    "qwen3_moe": ("qwen3_moe", {
        **CONFIGS["llama"], "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
    }),
    "deepseek_v3": ("deepseek_v3", {
        **CONFIGS["llama"], "kv_lora_rank": 16, "q_lora_rank": 16, "qk_nope_head_dim": 16, "v_head_dim": 16,
        "qk_rope_head_dim": 8, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "n_group": 1, "topk_group": 1, "num_key_value_heads": 4,
    }),
    "bart": ("bart", {
        "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "vocab_size": 500,
    }),
    "mamba": ("mamba", {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "vocab_size": 500}),
    "llama, fp8": ("llama", CONFIGS["llama"]),
    "llama, 32,000 words": ("llama", {**CONFIGS["llama"], "vocab_size": 32_000}),
    "llava": ("llava", {
        "image_token_index": 7, "vision_feature_layer": -1,
        "text_config": {"model_type": "llama", **CONFIGS["llama"]},
        "vision_config": {"model_type": "clip_vision_model", **VISION, "image_size": 32, "patch_size": 8},
    }),
}  # fmt: skip
KINDS = ("generate", "forward", "loss", "train")
Model = Any


FACTORIES = (
    transformers.AutoModelForSeq2SeqLM,
    transformers.AutoModelForImageTextToText,
    transformers.AutoModelForCausalLM,
)


def built(name: str, **sizes: Any) -> Model:
    """Return a model of the table, in evaluation mode; ``sizes`` replace those of its configuration."""
    kind, small = MODELS[name]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**small, **sizes})
    factory = next(each for each in FACTORIES if type(config) in each._model_mapping)  # noqa: SLF001
    model = factory.from_config(config).eval()
    ends = {"eos_token_id": None, "pad_token_id": 0, "decoder_start_token_id": 1}
    model.generation_config = transformers.GenerationConfig(**ends, do_sample=True, top_k=50, top_p=0.9)
    return in_eight_bits(model) if name.endswith("fp8") else model


def in_eight_bits(model: Model) -> Model:
    """Return a model whose layers multiply by eight-bit floats with a scale for each block.

    The layers are transformers' own. Its kernels come from a hub at run time; plain torch stands in for them.
    """
    from transformers.integrations import finegrained_fp8 as library

    library.fp8_linear = _multiplied
    block = (32, 32)
    for parent in list(model.model.layers.modules()):
        for name, old in list(parent.named_children()):
            if isinstance(old, torch.nn.Linear):
                new = library.FP8Linear(old.in_features, old.out_features, block, has_bias=False)
                new.weight.data = old.weight.data.to(torch.float8_e4m3fn)
                new.weight_scale_inv.data = torch.ones_like(new.weight_scale_inv, device=old.weight.device)
                setattr(parent, name, new.requires_grad_(requires_grad=False))
    return model


def _multiplied(
    x: torch.Tensor,
    weight: torch.Tensor,
    scale: torch.Tensor,
    block_size: Any,
    bias: Any,
    *_rest: Any,
    **_named: Any,
) -> torch.Tensor:
    scales = scale.repeat_interleave(block_size[0], 0).repeat_interleave(block_size[1], 1)
    return torch.nn.functional.linear(x, weight.to(x.dtype) * scales.to(x.dtype), bias)


def real_inputs(model: Model, rows: int = ROWS, prompt: int = PROMPT) -> dict[str, torch.Tensor]:
    """Return the inputs the trace settles on by itself, with memory behind them, where the model is."""
    device = next(model.parameters()).device
    attempts = example_inputs(model, None, Diagnostics(), batch=rows, seq=prompt)
    _, given = next(attempts)
    while True:
        made = {
            name: torch.randint(1, 400, value.shape, dtype=value.dtype) if value.is_meta else value
            for name, value in given.items()
            if isinstance(value, torch.Tensor)
        }
        made = {name: value.to(device) for name, value in made.items()}
        try:
            with torch.no_grad():
                model(**made)
        except (RuntimeError, ValueError, TypeError) as error:  # a guess that does not run leads to the next
            _, given = attempts.send(error)
        else:
            return made


@contextlib.contextmanager
def watched(model: Model, inputs: dict[str, torch.Tensor]) -> Iterator[LiveBytes]:
    known = [*model.parameters(), *model.buffers()]
    live = LiveBytes({tensor.untyped_storage()._cdata for tensor in known})  # noqa: SLF001
    for tensor in inputs.values():  # whoever calls holds them
        live.see(tensor)
    with live:
        yield live


DECODED = "decoder_input_ids"


def held(kind: str, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the inputs that whoever calls holds: where tokens are written, a decoder's are its own."""
    return {name: each for name, each in inputs.items() if kind != "generate" or name != DECODED}


def padded(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return inputs with a mask as tokenizers make it: all rows are padded to the first; one row as well."""
    mask = torch.ones_like(inputs["input_ids"])
    mask[int(len(mask) > 1) :, 0] = 0
    return {**inputs, "attention_mask": mask}


def generate(model: Model, inputs: dict[str, torch.Tensor]) -> None:
    """Sample tokens with ``generate()``, which reads all but the last again; rows are padded to the first."""
    given = padded({name: each for name, each in inputs.items() if name != DECODED})
    model.generate(**given, max_new_tokens=WRITTEN + 1)


def forward(model: Model, inputs: dict[str, torch.Tensor]) -> None:
    model(**padded(inputs))


def loss(model: Model, inputs: dict[str, torch.Tensor]) -> None:
    ids = inputs.get("decoder_input_ids", inputs["input_ids"])
    model(**padded(inputs), labels=torch.ones_like(ids))


def train(model: Model, inputs: dict[str, torch.Tensor]) -> None:
    """Take two steps as the usual loop does: from the second on the state of the optimizer is there."""
    trained = [each for each in model.train().parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    labels = torch.ones_like(inputs.get("decoder_input_ids", inputs["input_ids"]))
    inputs = padded(inputs)
    for _ in range(2):
        returned = model(**inputs, labels=labels)
        returned.loss.backward()
        del returned
        optimizer.step()
        optimizer.zero_grad()


RUNS: dict[str, Callable[[Model, dict[str, torch.Tensor]], None]] = {
    "generate": generate,
    "forward": forward,
    "loss": loss,
    "train": train,
}


def predicted(model: Model, kind: str) -> int:
    """Return what the ledger of a plan with everything on the CPU holds beside weights."""
    written = {"generate": WRITTEN} if kind == "generate" else {"workload": kind}
    plan = compile_model(model, max_memory={"cpu": 10**12}, rows=ROWS, prompt=PROMPT, **written)
    account = plan.ledger[0]
    return account.kv_cache + account.activations + account.reserve  # gradients, the optimizer's state


def measured(model: Model, kind: str) -> int:
    inputs = real_inputs(model)
    with watched(model, held(kind, inputs)) as live, torch.set_grad_enabled(kind == "train"):
        RUNS[kind](model, inputs)
    return live.peak


def main(names: list[str]) -> None:
    print("| model | " + " | ".join(f"{kind}: ledger | alive | ratio" for kind in KINDS) + " |")
    print("|---" * (1 + 3 * len(KINDS)) + "|")
    least = most = 1.0
    for name in names:
        cells = []
        for kind in KINDS:
            model = built(name)
            told, alive = predicted(model, kind), measured(model, kind)
            least, most = min(least, told / alive), max(most, told / alive)
            cells.append(f"{told:,} | {alive:,} | {told / alive:.3f}")
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\nratios {least:.3f} to {most:.3f}")


if __name__ == "__main__":
    main(sys.argv[1:] or list(MODELS))
