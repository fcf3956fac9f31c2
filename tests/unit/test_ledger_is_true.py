"""What the ledger of one device holds beside weights is what is really alive at once, for every workload."""

from __future__ import annotations

import sys
from itertools import accumulate
from pathlib import Path

import pytest
import torch
import transformers
from compile_plan.backends import write_plan
from compile_plan.compiler import compile_model, compile_plan
from compile_plan.compiler.answers.explain_device import device_facts
from compile_plan.compiler.tracing.unfused import unfused_sizes
from compile_plan.grammar import parse
from compile_plan.ir.purposes import ALONE, TOGETHER
from live_bytes import shared_heads_are_fused
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import activation_peaks

MOST = {"mixtral, experts one by one": 1.15}
"""Training counts a gradient for every expert; these tokens all choose the same two."""
MANY = {"cpu": "64GiB"}


LIKE_OTHERS = {"bloom", "gpt2", "qwen2", "qwen3_moe", "gpt_neox", "llama, 32,000 words"}


@pytest.mark.parametrize("kind", activation_peaks.KINDS)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in LIKE_OTHERS else name
        for name in activation_peaks.MODELS
    ],
)
def test_the_ledger_is_what_is_alive(name, kind):
    model = activation_peaks.built(name)
    told, alive = activation_peaks.predicted(model, kind), activation_peaks.measured(model, kind)
    assert alive <= told
    if name != "falcon" or not shared_heads_are_fused():
        assert told <= MOST.get(name, 1.002) * alive


WINDOWS = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(("prompt", "written"), [(64, 2), (8, 80)])
@pytest.mark.parametrize(
    ("kind", "sizes"),
    [("qwen3", {}), ("gemma3_text", WINDOWS), ("llama", {"attn_implementation": "eager"}), ("mamba", {})],
)
def test_generate_takes_what_is_told_with_a_mask_and_without(kind, sizes, prompt, written, rows):
    small = activation_peaks.MODELS.get(kind, activation_peaks.MODELS["llama"])[1]
    config = transformers.AutoConfig.for_model(kind, **small, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    options = {"rows": rows, "prompt": prompt, "generate": written - 1}  # the last is not read again
    account = compile_model(model, max_memory=MANY, **options).ledger[0]
    ids = torch.randint(8, 400, (rows, prompt))
    padded = torch.ones_like(ids)
    padded[-1, 0] = 0
    peaks = [generated(model, ids, mask, written) for mask in (None, torch.ones_like(ids), padded)]
    told = account.kv_cache + account.activations
    assert max(peaks) <= told <= 1.01 * max(peaks)


def test_a_picture_that_is_longer_than_the_prompt_counts_with_what_is_written():
    model = activation_peaks.built("llava")
    account = compile_model(model, max_memory=MANY, rows=2, prompt=4, generate=12).ledger[0]
    inputs = activation_peaks.real_inputs(model, 2, 4)
    assert inputs["input_ids"].shape[1] == 18  # sixteen patches, and a token on either side
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][1, 0] = 0
    with torch.no_grad(), activation_peaks.watched(model, inputs) as live:
        model.generate(**inputs, max_new_tokens=13)
    assert live.peak <= account.kv_cache + account.activations <= 1.01 * live.peak


def listening():
    sizes = {
        "d_model": 128, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
        "decoder_attention_heads": 4, "encoder_ffn_dim": 256, "decoder_ffn_dim": 256, "num_mel_bins": 16,
        "vocab_size": 4000,
    }  # fmt: skip
    ends = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1, "decoder_start_token_id": 1}
    none = {"suppress_tokens": None, "begin_suppress_tokens": None, "max_source_positions": 100}
    return transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**sizes, **ends, **none))


def seeing():
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    text = {"model_type": "gemma", **sizes, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 4000}
    picture = {"model_type": "siglip_vision_model", **sizes, "image_size": 64, "patch_size": 16}
    config = transformers.PaliGemmaConfig(
        text_config=text, vision_config=picture, image_token_index=3990, projection_dim=128
    )
    return transformers.PaliGemmaForConditionalGeneration(config)


@pytest.mark.parametrize("made", [listening, seeing])
def test_what_a_generate_keeps_of_sounds_and_pictures_is_told(made):
    model = made().eval()
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=0, decoder_start_token_id=1, return_timestamps=False
    )
    account = compile_model(model, max_memory=MANY, rows=2, prompt=16, generate=16).ledger[0]
    inputs = activation_peaks.real_inputs(model, 2, 16)
    inputs = {n: each for n, each in inputs.items() if n in {"input_ids", "pixel_values", "input_features"}}
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 0.9}
    with torch.no_grad(), activation_peaks.watched(model, inputs) as live:
        model.generate(**inputs, max_new_tokens=17, **settings)
    assert live.peak <= account.kv_cache + account.activations <= 1.02 * live.peak


@pytest.mark.parametrize("name", ["llama", "bart", "t5"])
def test_beams_are_rows_and_too_few_rows_are_said(name):
    model, ids = activation_peaks.built(name), torch.randint(8, 400, (1, 32))
    settings = {"num_beams": 4, "do_sample": False, "temperature": None, "top_p": None}
    taken = generated(model, ids, torch.ones_like(ids), 9, **settings)
    one, four = (compile_model(model, max_memory=MANY, rows=r, prompt=32, generate=8) for r in (1, 4))
    assert [plan.diagnostics[:1] and plan.diagnostics[0].code for plan in (one, four)] == [
        "beams-are-rows",
        (),
    ]
    assert "`--rows 4`" in one.diagnostics[0].help
    accounts = [plan.ledger[0] for plan in (one, four)]
    told = [each.kv_cache + each.activations for each in accounts]
    assert told[0] < taken <= told[1]


def generated(model, ids, mask, written, **settings):
    """Return the most bytes that are alive while tokens are sampled with what people set."""
    settings = {"pad_token_id": 0, "decoder_start_token_id": 1, "temperature": 0.7, "top_p": 0.9, **settings}
    model.generation_config = transformers.GenerationConfig(**settings)
    given = {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad(), activation_peaks.watched(model, given) as live:
        model.generate(**given, max_new_tokens=written, **{"do_sample": True, **settings})
    return live.peak


SAMPLERS = {
    "usual": {},
    "one by one": {
        "repetition_penalty": 1.1, "no_repeat_ngram_size": 3, "min_p": 0.1, "typical_p": 0.9, "top_k": 20,
        "eta_cutoff": 1e-3, "epsilon_cutoff": 1e-3, "suppress_tokens": [5], "bad_words_ids": [[7]],
        "min_new_tokens": 3, "eos_token_id": [3, 4], "renormalize_logits": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("settings", SAMPLERS)
@pytest.mark.parametrize("name", ["llama", "t5"])
def test_a_sampler_of_many_words_takes_what_is_told(name, settings):
    model = activation_peaks.built(name, vocab_size=256_000)
    ids = torch.randint(8, 400, (2, 24))
    taken = generated(model, ids, torch.ones_like(ids), 5, **SAMPLERS[settings])
    account = compile_model(model, max_memory=MANY, rows=2, prompt=24, generate=4).ledger[0]
    told = account.kv_cache + account.activations
    assert taken <= told <= 1.002 * taken


def test_whoever_sets_nothing_has_the_usual_sampler_told():
    model = activation_peaks.built("llama", vocab_size=32_000)
    told = []
    for settings in ({}, {"top_p": 0.8, "temperature": 0.6, "top_k": 20}, {"top_p": 1.0, "top_k": 0}):
        model.generation_config = transformers.GenerationConfig(**settings)
        told.append(compile_model(model, max_memory=MANY, prompt=24, generate=4).ledger[0].activations)
    assert len(set(told)) == 1
    model.generation_config = "somebody's"
    assert compile_model(model, max_memory=MANY, prompt=24, generate=4).ledger[0].activations < told[0]


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad", "rmsprop", "adamax", "rprop"])
def test_a_step_of_any_optimizer_takes_what_the_ledger_says(optimizer):
    names = {name.lower(): name for name in dir(torch.optim)}
    model = activation_peaks.built("llama")
    options = {"workload": "train", "rows": 2, "prompt": 16, "optimizer": optimizer}
    account = compile_model(model, max_memory=MANY, **options).ledger[0]
    inputs = activation_peaks.padded(activation_peaks.real_inputs(model, 2, 16))
    model.requires_grad_(requires_grad=True).train()
    step = getattr(torch.optim, names[optimizer])(model.parameters(), lr=1e-3)
    with activation_peaks.watched(model, inputs) as live:
        for _ in range(2):
            returned = model(**inputs, labels=inputs["input_ids"])
            returned.loss.backward()
            del returned
            step.step()
            step.zero_grad()
    told = account.kv_cache + account.activations + account.reserve
    assert live.peak <= told <= 1.002 * live.peak


def test_a_plan_for_two_devices_holds_the_bounds_of_its_pieces():
    model = activation_peaks.built("llama")
    options = {"rows": 2, "prompt": 48, "generate": 16, "runtime": 0}
    one = compile_model(model, max_memory={0: "1GiB", "cpu": "1GiB"}, **options)
    card = one.ledger[0]
    two = compile_model(model, max_memory={0: card.weights, 1: "1GiB", "cpu": "1GiB"}, **options)
    assert card.activations < max(each.activations for each in two.ledger)
    assert {each.purpose for each in one.demands} == {each.purpose for each in two.demands} >= ALONE


def test_the_peaks_of_reading_and_of_writing_are_told_and_the_larger_counts():
    """Where each is, in the model and in time, is what `--explain` says of a device."""
    model = activation_peaks.built("llama")
    for options, said in (
        ({"rows": 1, "prompt": 96, "generate": 2}, "while the prompt is read"),
        ({"rows": 8, "prompt": 2, "generate": 40}, "while the last token is written"),
    ):
        plan = compile_model(model, max_memory={0: "1GiB"}, runtime=0, **options)
        told = {each.purpose: each.nbytes for each in plan.demands if each.purpose in ALONE}
        assert set(told) == ALONE
        assert plan.ledger[0].activations == max(told.values())
        (peak,) = (text for label, text in device_facts(plan, "cuda:0") if label == "its peak")
        assert said in peak


def test_the_bytes_a_ledger_says_are_enough_and_one_less_is_not():
    model = activation_peaks.built("t5")
    options = {"rows": 2, "prompt": 48, "generate": 16, "runtime": 0}
    total = compile_model(model, max_memory={0: "1GiB", "cpu": "1GiB"}, **options).ledger[0].total
    exact = compile_model(model, max_memory={0: total, "cpu": "1GiB"}, **options)
    assert {unit.store for unit in exact.units} == {"cuda:0"}
    less = compile_model(model, max_memory={0: total - 1, "cpu": "1GiB"}, **options)
    assert "cpu" in {unit.store for unit in less.units}


def test_what_one_device_needs_stays_with_the_plan(tmp_path):
    model = activation_peaks.built("llama")
    plan = compile_model(model, max_memory={0: "1GiB", "cpu": "1GiB"}, rows=2, prompt=48, runtime=0)
    write_plan(plan, tmp_path / "p.msgpack")
    again = compile_plan(tmp_path / "p.msgpack", max_memory={0: plan.ledger[0].total, "cpu": "1GiB"})
    assert again.ledger[0] == plan.ledger[0]
    apart = compile_plan(tmp_path / "p.msgpack", max_memory={0: "400KiB", 1: "1GiB", "cpu": "1GiB"})
    assert max(each.activations for each in apart.ledger) > plan.ledger[0].activations


def test_a_written_demand_stands_beside_the_bounds():
    model = activation_peaks.built("llama")
    line = 'plan 1\nmodel "m"\ndemand 3MiB with model.layers.0 for "activations"\n'
    plan = compile_model(model, max_memory=MANY, rows=2, prompt=48, overrides=[parse(line)])
    assert plan.ledger[0].activations == 3 * 2**20


def test_a_given_cache_leaves_nothing_known_of_one_device():
    plan = compile_model(activation_peaks.built("llama"), max_memory=MANY, prompt=48, kv_cache="1MiB")
    assert plan.ledger[0].kv_cache == 2**20
    assert not {each.purpose for each in plan.demands} & TOGETHER


def allocated_peak(run):
    """Return the most bytes torch had allocated on the host at once, those inside ops included."""
    kinds = {"activities": [ProfilerActivity.CPU], "acc_events": True}  # older torch warns without the second
    with torch.no_grad(), profile(**kinds, profile_memory=True) as seen:
        kept = run()
    events = seen.profiler.kineto_results.events()
    changes = [each.nbytes() for each in events if each.name() == "[memory]"]
    del kept
    return max(accumulate(changes), default=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", [None, torch.bool, "added"])
@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("length", [1, 33])
def test_attention_that_is_not_fused_takes_what_its_steps_take(dtype, mask, heads, length):
    query = torch.randn(2, 4, length, 24, dtype=dtype)
    key, value = torch.randn(2, heads, 40, 24, dtype=dtype), torch.randn(2, heads, 40, 16, dtype=dtype)
    masks = {torch.bool: torch.ones(2, 1, length, 40, dtype=torch.bool)}
    given = None if mask is None else masks.get(mask, torch.zeros(2, 1, length, 40, dtype=dtype))
    shared = {"enable_gqa": True} if heads == 2 else {}
    attention = torch.nn.functional.scaled_dot_product_attention
    taken = allocated_peak(lambda: attention(query, key, value, given, **shared))
    with torch.no_grad():
        on_meta = [None if each is None else each.to("meta") for each in (query, key, value, given)]
        assert sum(unfused_sizes(*on_meta, **shared)) == taken


class Biased(torch.nn.Module):
    """Attention with a learned number for each head and distance, which lies head by head in memory."""

    def __init__(self, width=16, *, rows=False, dtype=torch.bfloat16):
        super().__init__()
        self.bias = torch.nn.Embedding(64, 4, dtype=dtype)
        self.width, self.rows = width, rows
        steps = torch.arange(128)
        self.register_buffer("distance", (steps[:, None] - steps[None]).abs() % 64)

    def forward(self, x):
        batch, length, _ = x.shape
        heads = x.view(batch, length, 4, self.width).transpose(1, 2)
        if self.rows:
            bias = self.bias.weight[:1].view(1, 4, 1, 1).expand(1, 4, length, length).contiguous()
        else:
            bias = self.bias(self.distance[:length, :length]).permute(2, 0, 1)[None]
        return torch.nn.functional.scaled_dot_product_attention(heads, heads, heads, bias).sum()


@pytest.mark.parametrize(
    ("options", "length", "fused"),
    [
        ({"rows": True}, 128, True),
        ({}, 128, False),  # T5 before transformers 5.20
        ({"rows": True, "width": 12}, 128, False),
        ({"rows": True, "dtype": torch.float64}, 128, False),
    ],
)
def test_a_card_has_no_kernel_for_every_mask(options, length, fused):
    model = Biased(**options)
    x = torch.zeros(2, length, 4 * model.width, dtype=model.bias.weight.dtype)
    plans = {
        device: compile_model(model, max_memory={device: "64GiB"}, example_inputs=(x,), workload="forward")
        for device in ("cuda:0", "cpu")
    }
    card, host = (plan.ledger[0].activations for plan in plans.values())
    scores = 2 * 4 * length**2 * 4
    assert (card - host > scores) is not fused


def test_a_mask_with_odd_rows_is_copied_for_a_cards_kernel():
    model, x = Biased(rows=True), torch.zeros(1, 127, 64, dtype=torch.bfloat16)
    told = [
        compile_model(model, max_memory={device: "64GiB"}, example_inputs=(x,), workload="forward")
        for device in ("cuda:0", "cpu")
    ]
    padded = 4 * 127 * 128 * 2
    assert padded <= told[0].ledger[0].activations - told[1].ledger[0].activations < padded * 1.1


@pytest.mark.parametrize("kind", ["generate", "forward"])
def test_one_row_is_padded_unless_it_is_long(kind):
    """A mask of 16 and of 256 MiB, beside weights of 0.3: nobody pads one long text."""
    with torch.device("meta"):
        model = activation_peaks.built("llama")
    told = []
    for prompt in (1024, 8192):
        options = {"rows": 1, "prompt": prompt, **({"workload": kind} if kind == "forward" else {})}
        told.append(compile_model(model, max_memory=MANY, **options).ledger[0].activations / prompt)
    assert told[0] > 1.3 * told[1]
