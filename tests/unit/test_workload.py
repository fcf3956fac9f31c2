"""What a model is used for decides its ledger: options and lines, kinds, the moments of each."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import transformers
from command import run_command
from compile_plan.backends.predictions import predicted_text
from compile_plan.compiler import compile_model, compile_plan, verify_plan
from compile_plan.compiler.tracing import Use, demands, try_moments
from compile_plan.grammar import parse, print_plan
from compile_plan.ir import WORKLOADS, Diagnostics, PlanError, Workload
from live_bytes import LiveBytes
from small_models import small_model
from torch import nn

ROOMY = {0: 10**9, "cpu": 10**9}
SENSIBLE = ("bert", "bloom", "falcon", "gemma2", "gpt2", "llama", "mixtral", "opt", "qwen2", "t5", "vit")


def account(model, **options):
    plan = compile_model(model, max_memory=ROOMY, **options)
    return plan, plan.ledger[0]


def codes(raised):
    return [(each.code, each.message.split("`")[1]) for each in raised.value.diagnostics]


def test_rows_prompt_and_written_tokens_size_cache_and_activations():
    model = small_model("llama")
    _, one = account(model, rows=1, prompt=16, generate=8)
    plan, two = account(model, rows=2, prompt=16, generate=8)
    assert plan.workload == Workload("generate", 2, 16, 8)
    per_token = 2 * 2 * 2 * 32 * 4  # layers, keys and values, heads, head size, float32
    assert one.kv_cache == (16 + 8) * per_token // 2
    assert two.kv_cache == 2 * one.kv_cache
    assert one.activations < two.activations <= 2 * one.activations
    assert verify_plan(plan, model).diagnostics == ()


def test_what_does_not_fit_is_called_what_it_is():
    model = small_model("llama")
    with pytest.raises(PlanError) as caught:
        compile_model(model, max_memory={0: 1000, "cpu": 1000}, workload="train", rows=1, prompt=8)
    (found,) = caught.value.diagnostics
    assert "of it kept activations, gradients, optimizer" in found.notes[0]


@pytest.mark.parametrize("options", [{"rows": 1}, {"rows": 4}, {"rows": 1, "objective": "balance"}], ids=str)
def test_seconds_are_told_where_nothing_spills_too(options):
    model = small_model("llama")
    plan, _ = account(model, **options)
    told = plan.outcome.predicted
    assert 0 < told.token < told.prompt
    assert told.token_limit
    assert not told.simple
    assert any(note.startswith("rates: ") for note in plan.outcome.notes)
    assert compile_model(model, max_memory=ROOMY).outcome.predicted is None  # nobody said what it is for


def test_a_line_says_it_as_well_and_an_option_wins():
    model, line = small_model("llama"), "workload rows 3 prompt 10 tokens 6\n"
    plan, told = account(model, overrides=line)
    assert plan.workload == Workload("generate", 3, 10, 6)
    assert parse(print_plan(plan)).workload == plan.workload
    assert told == account(model, rows=3, prompt=10, generate=6)[1]
    again, _ = account(model, overrides=line, rows=1)
    assert again.workload == Workload("generate", 1, 10, 6)


@pytest.mark.parametrize("kind", ["generate", "forward", "loss"])
def test_the_ledger_is_no_less_than_what_is_alive_where_a_window_is_shorter_than_the_prompt(kind):
    torch.manual_seed(0)
    config = transformers.MistralConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=500, sliding_window=16,
    )  # fmt: skip
    model, ids = transformers.MistralForCausalLM(config).eval(), torch.ones(2, 48, dtype=torch.int64)
    options = {"generate": 4} if kind == "generate" else {"workload": kind}
    plan, ledger = account(model, rows=2, prompt=48, **options)
    more = {"labels": ids} if kind == "loss" else {"logits_to_keep": 1} if kind == "generate" else {}
    live = LiveBytes({t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers(), ids)})
    with torch.no_grad(), live:
        model(ids, **more)
    counted = ledger.kv_cache + ledger.activations
    assert live.peak <= counted <= 1.15 * live.peak
    assert verify_plan(plan, model).diagnostics == ()


@pytest.mark.parametrize("prompt", [8, 48])
@pytest.mark.parametrize("subject", ["folder", "file"])
def test_headers_are_told_how_long_the_prompt_is(tmp_path, subject, prompt):
    """A window holds on to the whole of a longer prompt."""
    config = transformers.MistralConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=500, sliding_window=16,
    )  # fmt: skip
    model = transformers.MistralForCausalLM(config)
    model.save_pretrained(tmp_path)
    path = tmp_path if subject == "folder" else tmp_path / "model.safetensors"
    options = {"rows": 2, "prompt": prompt, "generate": 4}
    told = compile_plan(path, max_memory=ROOMY, **options)
    assert told.ledger[0].kv_cache == account(model, **options)[1].kv_cache


def test_a_cache_the_forward_does_not_show_is_what_the_configuration_tells():
    config = transformers.BambaConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=500, mamba_n_heads=8, mamba_d_state=8, mamba_d_head=16,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.BambaForCausalLM(config)
    plan, ledger = account(model, rows=2, prompt=40, generate=8)
    found = [each for each in plan.diagnostics if each.rule.code == "traced-without-cache"]
    assert [each.notes for each in found] == [("the ledger holds the cache that its configuration tells",)]
    assert ledger.kv_cache >= 2 * 2 * 8 * 16 * 8 * 4  # rows, layers, heads, their width, states, bytes
    none, bare = account(model, workload="forward", rows=2, prompt=40)
    assert bare.kv_cache == 0
    assert "the ledger holds no cache" in none.diagnostics[0].notes


@pytest.mark.parametrize(("prompt", "experts"), [(48, 4), (300, 128)])  # with many experts, a long mask
def test_experts_that_run_one_by_one_may_get_every_token(prompt, experts):
    torch.manual_seed(0)
    sizes = {
        "num_local_experts": experts,
        "num_experts_per_tok": experts // 16 or 2,
        "intermediate_size": 512,
    }
    model = small_model("mixtral", device="cpu", experts_implementation="eager", **sizes)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.mlp.gate.weight)  # all tokens choose the same
    ids = torch.arange(2 * prompt).remainder(400).view(2, prompt)
    live = LiveBytes({t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers(), ids)})
    with torch.no_grad(), live:
        model(ids)
    ledger = account(model, rows=2, prompt=prompt, workload="forward")[1]
    assert live.peak <= ledger.kv_cache + ledger.activations <= 1.03 * live.peak


def test_a_loss_sees_the_values_of_given_tokens():
    """A text has a token for each part of a picture, and the model counts them."""
    text = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = transformers.LlavaConfig(
        text_config={**text, "model_type": "llama", "vocab_size": 500}, image_token_index=7,
        vision_config={**text, "model_type": "clip_vision_model", "image_size": 32, "patch_size": 8},
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.LlavaForConditionalGeneration(config)
    (_, loss), (_, forward) = (
        account(model, rows=2, prompt=48, workload=kind) for kind in ("loss", "forward")
    )
    scores = 2 * 48 * 500 * 4
    assert loss.activations >= forward.activations + scores / 2
    plan, _ = account(model, rows=2, prompt=48, workload="train")
    assert plan.diagnostics == ()


def test_a_longer_writing_needs_its_own_moment():
    found = try_moments(small_model("llama"), None, Diagnostics(), seq=4, use=Use(written=900))
    late = max(each.nbytes for each in demands(found) if each.purpose == "activations")
    prompt = max(each.nbytes for each in demands(replace(found, later=())) if each.purpose == "activations")
    assert late > prompt  # at the end of a long text the cache that is made anew outweighs the prompt


def test_generation_keeps_scores_of_the_last_position_and_other_kinds_those_of_all():
    model = small_model("llama").to(torch.bfloat16)

    def logits(kind):
        found = demands(try_moments(model, None, Diagnostics(), seq=32, use=Use(kind)))
        return max(each.nbytes for each in found if each.purpose == "logits")

    words = model.config.vocab_size
    assert logits("forward") == 32 * words * 2
    assert logits("generate") == words * (2 + 30)  # made; widened, changed twice, sorted with places, summed
    assert logits("loss") == 32 * words * 2  # the loss widens them in the forward: an activation


def seq2seq(kind, dtype):
    numbers = {"attention_heads": 4, "ffn_dim": 64, "layers": 2}
    both = {f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in numbers.items()}
    sizes = both if kind == "bart" else {"d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2}
    config = transformers.AutoConfig.for_model(kind, vocab_size=4000, d_model=64, **sizes)
    torch.manual_seed(0)
    return transformers.AutoModelForSeq2SeqLM.from_config(config, dtype=dtype).eval()


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_decoder_begins_with_one_token_whatever_its_encoder_reads(kind):
    model = seq2seq(kind, torch.bfloat16)
    _, ledger = account(model, rows=2, prompt=48, generate=16)
    layers, row, widths = 2, 2 * 64 * 2, {"self": 1 + 16, "cross": 48}  # keys and values, bytes of a number
    assert ledger.kv_cache == 2 * layers * row * sum(widths.values())
    given = "input_ids=int64[2,48], decoder_input_ids=int64[2,48]"
    _, longer = account(model, example_inputs=given, generate=16)
    assert longer.kv_cache == 2 * layers * row * (48 + 16 + 48)
    _, asked = account(model, rows=2, prompt=48, generate=16, cache_tokens=100)
    assert asked.kv_cache == 2 * layers * row * (100 + 48)


@pytest.mark.parametrize("kind", ["t5", "bart"])
def test_a_folder_tells_the_cache_of_a_decoder_as_its_trace_does(tmp_path, kind):
    model = seq2seq(kind, torch.bfloat16)
    model.save_pretrained(tmp_path)
    options = {"rows": 2, "prompt": 48, "generate": 16}
    told = compile_plan(tmp_path, max_memory=ROOMY, **options)
    assert told.ledger[0].kv_cache == account(model, **options)[1].kv_cache


def test_a_sampler_widens_the_last_scores_of_a_model_that_makes_those_of_all():
    model = seq2seq("t5", torch.bfloat16)
    given = {name: torch.ones(2, 48, dtype=torch.int64) for name in ("input_ids", "decoder_input_ids")}
    found = demands(try_moments(model, given, Diagnostics(), use=Use("generate", written=4)))
    assert max(each.nbytes for each in found if each.purpose == "logits") == 2 * 4000 * (48 * 2 + 30)


def test_what_writes_nothing_has_the_seconds_of_a_forward():
    plan, _ = account(small_model("llama"), workload="train", prompt=8)
    assert predicted_text(plan.outcome.predicted).startswith("predicted: a forward ")


def test_generation_asks_for_a_cache_a_model_keeps_only_if_asked():
    config = transformers.MptConfig(d_model=64, n_heads=4, n_layers=2, vocab_size=500, max_seq_len=64)
    assert config.use_cache is False
    with torch.device("meta"):
        model = transformers.MptForCausalLM(config)
    _, ledger = account(model, rows=2, prompt=40, generate=8)
    assert ledger.kv_cache == 2 * 2 * (2 * 64) * (40 + 8) * 4
    assert account(model, workload="forward", rows=2, prompt=40)[1].kv_cache == 0


def test_a_loss_keeps_float32_scores_of_all_positions():
    model = small_model("llama").to(torch.bfloat16)
    _, forward = account(model, workload="forward", prompt=32)
    _, loss = account(model, workload="loss", prompt=32)
    assert loss.activations - forward.activations >= 32 * model.config.vocab_size * 4


@pytest.mark.parametrize("name", SENSIBLE)
def test_a_step_of_training_is_counted_whole(name):
    torch.manual_seed(0)
    model = small_model(name, device="cpu")
    plan, ledger = account(model, workload="train", rows=2, prompt=16, optimizer="adamw")
    trainable = sum(each.nbytes for each in model.parameters())
    assert ledger.reserve == 3 * trainable  # gradients and two moments
    measured = _measured_step(model)
    assert measured <= ledger.total - ledger.buffers
    assert plan.workload == Workload("train", 2, 0, 16)


def _measured_step(model):
    """Return the most bytes alive in a second step of AdamW, weights included, by weak references."""
    from compile_plan.compiler.tracing import example_inputs

    _, inputs = next(iter(example_inputs(model, None, Diagnostics(), batch=2, seq=16)))
    inputs = {n: torch.zeros(v.shape, dtype=v.dtype) if v.is_meta else v for n, v in inputs.items()}
    model.train(mode=False)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    weights = {each.untyped_storage()._cdata for each in (*model.parameters(), *model.buffers())}
    live = LiveBytes(weights)
    with live:
        for _ in range(2):
            result = model(**inputs)
            scores = next(v for v in result.values() if isinstance(v, torch.Tensor) and v.requires_grad)
            scores.float().logsumexp(-1).mean().backward()
            optimizer.step()
            del result, scores
            optimizer.zero_grad()
    return live.peak + sum(each.nbytes for each in model.parameters())


@pytest.mark.parametrize(("name", "states"), [("sgd", 0), ("adagrad", 1), ("adam", 2), ("Adamax", 2)])
def test_the_optimizer_is_what_one_step_of_it_keeps(name, states):
    model = small_model("llama")
    _, ledger = account(model, workload="train", prompt=8, optimizer=name)
    assert ledger.reserve == (1 + states) * sum(each.nbytes for each in model.parameters())


def test_what_is_frozen_has_no_gradient():
    model = small_model("llama")
    for parameter in model.model.parameters():
        parameter.requires_grad_(requires_grad=False)
    _, ledger = account(model, workload="train", prompt=8, optimizer="sgd")
    assert ledger.reserve == model.lm_head.weight.nbytes


def test_a_given_cache_length_is_obeyed_whatever_the_inputs_are():
    model, inputs = small_model("llama"), {"input_ids": torch.ones(1, 6, dtype=torch.int64)}
    _, short = account(model, example_inputs=inputs)
    _, asked = account(model, example_inputs=inputs, cache_tokens=8192)
    assert asked.kv_cache * 6 == short.kv_cache * 8192
    _, written = account(model, example_inputs=inputs, generate=12)
    assert written.kv_cache * 6 == short.kv_cache * (6 + 12)
    _, given = account(model, example_inputs=inputs, kv_cache=12345)
    assert given.kv_cache == 12345


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        ({"workload": "train", "generate": 3}, "generate"),
        ({"workload": "loss", "cache_tokens": 3}, "cache_tokens"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"rows": 2, "batch": 2}, "batch"),
        ({"prompt": 8, "seq": 8}, "seq"),
    ],
)
def test_an_option_beside_which_another_does_nothing_is_refused(options, idle):
    with pytest.raises(PlanError) as raised:
        compile_model(small_model("llama"), max_memory=ROOMY, **options)
    assert ("option-without-effect", idle) in codes(raised)


def test_an_optimizer_that_does_not_exist_is_refused_by_name():
    with pytest.raises(PlanError) as raised:
        compile_model(small_model("llama"), max_memory=ROOMY, workload="train", optimizer="adamv")
    assert codes(raised) == [("bad-option-value", "optimizer")]


def test_a_plan_has_no_forward_for_another_workload():
    plan, _ = account(small_model("llama"), rows=1, prompt=16, generate=8)
    for options in ({"rows": 2}, {"workload": "loss"}):
        with pytest.raises(PlanError) as raised:
            compile_plan(plan, **options)
        assert codes(raised)[0][0] == "option-without-effect"


def test_a_model_without_inputs_keeps_its_seconds_only():
    made = compile_model(nn.Linear(4, 4), max_memory={"cpu": 10**6}, prompt=7, generate=3)
    assert made.workload == Workload("generate", 1, 7, 3)
    assert made.demands == ()


def test_every_kind_has_a_line():
    for kind in WORKLOADS[1:]:
        text = f"workload {kind} rows 2 tokens 64\n"
        assert parse(text).workload == Workload(kind, 2, 0, 64)


def test_the_command_takes_them(tmp_path):
    script = tmp_path / "model.py"
    script.write_text(
        "import torch, transformers\n"
        "def build():\n"
        "    config = transformers.LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2,\n"
        "        num_attention_heads=4, vocab_size=100)\n"
        "    with torch.device('meta'):\n"
        "        return transformers.LlamaForCausalLM(config)\n"
    )
    words = ["--rows", "2", "--prompt", "8", "--generate", "4", "--format", "json"]
    done = run_command([str(script), "--memory", "cpu=1GiB", *words])
    assert done.code == 0, done.err
    ledger = json.loads(done.out)["devices"][0]
    assert ledger["ledger"]["kv_cache"] == 2 * 12 * 2 * 2 * 32 * 4


def large_llama(**more):
    config = transformers.LlamaConfig(
        hidden_size=2048, intermediate_size=8192, num_hidden_layers=12, num_attention_heads=16,
        num_key_value_heads=4, vocab_size=32_000, **more,
    )  # fmt: skip
    with torch.device("meta"):
        return transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)


def test_without_options_the_usual_workload_has_its_room():
    model = large_llama()
    plan = compile_model(model, max_memory={0: "5GiB", "cpu": "64GiB"})
    ledger = plan.ledger[0]
    assert plan.workload == Workload("generate", 1, 512, 128)
    assert plan.workload.added
    assert ledger.kv_cache == 12 * 2 * 4 * 128 * 2 * (512 + 128)
    assert ledger.runtime == 512 * 2**20
    asked = compile_model(model, max_memory={0: "5GiB", "cpu": "64GiB"}, prompt=512, generate=128)
    assert asked.ledger[0].kv_cache == ledger.kv_cache
    traced = asked.ledger[0].activations
    assert traced <= ledger.activations <= 1.25 * traced  # what the configuration tells is no less


@pytest.mark.parametrize(
    "options",
    [
        {"strategy": "accelerate"},
        {"strategy": "balanced"},
        {"strategy": "sequential"},
        {"kv_cache": 0},
        {"margin": 0},
        {"reserves": {0: 2**20}},
        {"overrides": 'reserve 1MiB on cuda:0 for "kv cache"\n'},
    ],
)
def test_where_somebody_accounts_nothing_is_assumed(options):
    plan = compile_model(large_llama(), max_memory={0: "5GiB", "cpu": "64GiB"}, **options)
    assert plan.workload is None or not any(each.added for each in plan.demands)
    assert plan.ledger[0].activations == 0
    assert plan.ledger[0].runtime == 0


def test_a_budget_below_a_card_keeps_nothing_for_a_driver():
    plan = compile_model(large_llama(), max_memory={0: "3GiB", "cpu": "64GiB"})
    assert plan.ledger[0].runtime == 0
    assert plan.ledger[0].kv_cache > 0


def test_a_small_model_is_planned_by_its_weights():
    plan = compile_model(small_model("llama"), max_memory=ROOMY)
    assert plan.demands == ()


def test_placing_again_keeps_the_room_to_the_byte():
    plan = compile_model(large_llama(), max_memory={0: "5GiB", "cpu": "64GiB"})
    again = compile_plan(plan, max_memory={0: "5GiB", "cpu": "64GiB"})
    assert again.ledger == plan.ledger
