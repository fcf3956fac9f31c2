"""Pipelines: parts used one after another are planned together, and each is loaded from its own folder."""

from __future__ import annotations

import json

import pytest
import torch
from compile_plan.backends.engines import ENGINES
from compile_plan.compiler import compile_model, compile_plan, load_model, load_pretrained, verify_plan
from compile_plan.compiler.sources import input_kinds
from compile_plan.grammar import parse
from compile_plan.ir import PlanError
from rounding import same_outputs
from torch import nn

CARDS = {0: "16KiB", 1: "16KiB", "cpu": "100KiB"}


def layers(count):
    return nn.Sequential(*(nn.Linear(16, 16, bias=False) for _ in range(count)))


def parts(encoder, denoiser=24):
    """A denoiser of so many KiB beside a text encoder, in the order a pipeline has them."""
    return {
        "text_encoder": layers(encoder),
        "transformer": layers(denoiser),
        "vae": nn.Linear(4, 8),
        "text_encoder_2": nn.Linear(4, 8),
    }


def places(plan, part):
    return {(u.store, u.run) for u in plan.units if u.path == part or u.path.startswith(f"{part}.")}


@pytest.mark.parametrize("encoder", [10, 20])
def test_what_is_called_in_every_step_is_split_over_the_cards(encoder):
    given = parts(encoder)
    plan = compile_model(given, max_memory=CARDS)
    assert places(plan, "transformer") == {("cuda:0", "cuda:0"), ("cuda:1", "cuda:1")}
    assert all(places(plan, name) for name in given)
    assert list(given) == list(parts(encoder))
    again = compile_plan(plan, max_memory={0: "60KiB", "cpu": "100KiB"})
    assert {unit.store for unit in again.units} == {"cuda:0"}


def test_a_part_that_fits_no_cards_is_planned_as_any_model():
    plan = compile_model(parts(10, denoiser=60), max_memory=CARDS)
    assert "cpu" in {store for store, _ in places(plan, "transformer")}
    pinned = compile_model(parts(2, denoiser=4), max_memory=CARDS, overrides="place transformer on cpu\n")
    assert places(pinned, "transformer") == {("cpu", "cpu")}


def test_a_dictionary_of_modules_is_moved_as_planned():
    given = parts(4, denoiser=4)
    x = torch.ones(2, 16)
    before = {name: given[name](x) for name in ("text_encoder", "transformer")}
    plan = compile_model(given, max_memory={"cpu": "1GiB"})
    assert load_model(plan, given) is given
    assert all(same_outputs(given[name](x), output) for name, output in before.items())


def test_names_that_are_no_paths_are_refused():
    for name in ("a.b", "", 3):
        with pytest.raises(PlanError) as caught:
            compile_model({name: nn.Linear(2, 2)}, max_memory={"cpu": "1GiB"})
        assert [found.code for found in caught.value.diagnostics] == ["not-a-model"]


def unet():
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        block_out_channels=(4, 8), layers_per_block=1, sample_size=8, in_channels=4, out_channels=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=8, attention_head_dim=2, norm_num_groups=2,
    )  # fmt: skip


@pytest.fixture(name="pipe")
def _pipe():
    diffusers = pytest.importorskip("diffusers")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    decoder = diffusers.AutoencoderKL(
        block_out_channels=[4, 8], in_channels=3, out_channels=3, latent_channels=4, norm_num_groups=2,
        down_block_types=["DownEncoderBlock2D"] * 2, up_block_types=["UpDecoderBlock2D"] * 2,
    )  # fmt: skip
    encoder = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=100,
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            projection_dim=8,
        )
    )
    made = diffusers.StableDiffusionPipeline(
        vae=decoder, text_encoder=encoder, tokenizer=None, unet=unet(), safety_checker=None,
        scheduler=diffusers.DDIMScheduler(), feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.set_progress_bar_config(disable=True)
    return made


def picture(pipe):
    generator, words = torch.Generator().manual_seed(0), torch.ones(1, 4, 8)
    options = {"num_inference_steps": 2, "height": 16, "width": 16, "output_type": "pt"}
    return pipe(prompt_embeds=words, negative_prompt_embeds=-words, generator=generator, **options).images


LINES = 'device cpu\ndevice disk\nplace "" on cpu\nplace unet on disk run on cpu\n'


@pytest.mark.filterwarnings("ignore")  # diffusers' and transformers' own
def test_a_pipeline_is_planned_loaded_and_draws_the_same(pipe, tmp_path):
    expected = picture(pipe)
    pipe.save_pretrained(tmp_path)
    plan = compile_model(pipe, max_memory={"cpu": "1GiB"})
    assert places(compile_plan(tmp_path, max_memory={"cpu": "1GiB"}), "unet") == places(plan, "unet")
    assert load_model(plan, pipe) is pipe
    for given in (None, plan, parse(LINES)):
        mine = load_pretrained(tmp_path, given, **({"max_memory": {"cpu": "1GiB"}} if given is None else {}))
        mine.set_progress_bar_config(disable=True)
        assert type(mine) is type(pipe)
        assert same_outputs(picture(mine), expected)
    assert same_outputs(picture(pipe), expected)


def by_diffusers(plan, folder, monkeypatch):
    """Return the pipeline that the emitted calls make, and those calls."""
    monkeypatch.chdir(folder)
    assert not [found for found in ENGINES["diffusers"].accepts(plan) if found.severity == "error"]
    calls = ENGINES["diffusers"].emit(plan)
    whole, names = "Pipeline.from_pretrained(FOLDER, ", {"FOLDER": str(folder)}
    absent = "tokenizer=None, safety_checker=None, feature_extractor=None, "  # it was saved without them
    exec(calls.replace(whole, whole + absent), names)  # noqa: S102
    names["pipe"].set_progress_bar_config(disable=True)
    return names["pipe"], calls


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("lines", [(), LINES.replace(" run on cpu", "")])
def test_diffusers_own_hooks_are_told_the_plan(pipe, lines, tmp_path, monkeypatch):
    pytest.importorskip("accelerate")
    expected = picture(pipe)
    pipe.save_pretrained(tmp_path)
    plan = compile_plan(tmp_path, max_memory={"cpu": "1GiB", "disk": "1GiB"}, overrides=lines)
    theirs, calls = by_diffusers(plan, tmp_path, monkeypatch)
    assert ('"disk"' in calls) is bool(lines)
    names = ("unet", "vae", "text_encoder")
    assert all(f'subfolder="{name}", torch_dtype=torch.float32' in calls for name in names)
    assert same_outputs(picture(theirs), expected)


@pytest.mark.filterwarnings("ignore")
def test_hooks_of_others_and_ours_do_not_meet(pipe, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    pipe.save_pretrained(tmp_path)
    mine = load_pretrained(tmp_path, parse(LINES))
    with pytest.raises(PlanError) as caught:
        mine.unet.to("meta")  # as `enable_model_cpu_offload` moves the parts
    assert [found.code for found in caught.value.diagnostics] == ["moved-by-hand"]
    plan = compile_model(pipe, max_memory={"cpu": "1GiB"})
    accelerate.cpu_offload(pipe.unet, execution_device="cpu")  # what `enable_sequential_cpu_offload` does
    with pytest.raises(PlanError) as caught:
        load_model(plan, pipe)
    assert [found.code for found in caught.value.diagnostics] == ["foreign-hooks"]


@pytest.mark.filterwarnings("ignore")
def test_what_is_asked_of_a_pipeline_is_done_or_refused(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    mine = load_pretrained(tmp_path, parse(LINES), attn_implementation="eager")
    assert mine.text_encoder.config._attn_implementation == "eager"
    for asked in ({"auto_class": type(pipe.unet)}, {"pickled": True}, {"host": "a"}, {"max_memory": {0: 1}}):
        with pytest.raises(PlanError) as caught:
            load_pretrained(tmp_path, parse(LINES), **asked)
        assert [found.code for found in caught.value.diagnostics] == ["option-without-effect"]


def test_what_parts_share_is_one_tensor_in_one_place():
    shared = nn.Linear(16, 16, bias=False)
    given = {
        "text_encoder": nn.Sequential(shared, *layers(4)),
        "transformer": nn.Sequential(shared, *layers(4)),
    }
    plan = compile_model(given, max_memory={0: "7KiB", 1: "7KiB", "cpu": "1MiB"})
    assert sum(account.weights for account in plan.ledger) == 9 * 1024
    stores = {unit_at(plan, f"{name}.0") for name in given}
    assert len(stores) == 1
    x = torch.ones(1, 16)
    expected = {name: given[name](x) for name in given}
    load_model(compile_model(given, max_memory={"cpu": "1MiB"}), given)
    assert given["text_encoder"][0].weight is given["transformer"][0].weight
    assert all(same_outputs(given[name](x), output) for name, output in expected.items())


def unit_at(plan, path):
    above = (
        unit for unit in plan.units if unit.path == path or not unit.path or path.startswith(f"{unit.path}.")
    )
    return max(above, key=lambda unit: len(unit.path)).store


def test_a_pipeline_over_two_cards_is_told_by_part():
    plan = compile_model(parts(10), max_memory=CARDS)
    calls = ENGINES["diffusers"].emit(plan)
    for name in parts(10):
        line = next(line for line in calls.splitlines() if line.startswith(f"{name} ="))
        told = json.loads(line[line.index("device_map=") + 11 : -1])
        assert told
        assert not any(key.startswith(name) for key in told)
    assert f"{name}={name}" in calls.splitlines()[-1]
    (refused,) = ENGINES["transformers"].accepts(plan)
    assert (refused.code, refused.help) == ("engine-cannot", "use `--for diffusers`")
    single = compile_model(layers(2), max_memory={"cpu": "1MiB"})
    (refused,) = ENGINES["diffusers"].accepts(single)
    assert refused.code == "engine-cannot"
    assert "--for transformers" in refused.help


@pytest.mark.filterwarnings("ignore")
def test_a_unet_is_cut_between_its_blocks_with_diffusers_and_without(tmp_path, monkeypatch):
    model = unet()
    model.save_pretrained(tmp_path)
    inputs = {
        "sample": torch.zeros(1, 4, 8, 8),
        "timestep": torch.tensor(1),
        "encoder_hidden_states": torch.zeros(1, 4, 8),
    }
    memory = {0: "40KiB", 1: "40KiB", "cpu": "1GiB"}
    built = compile_plan(tmp_path, max_memory=memory)
    monkeypatch.setattr(input_kinds, "find_spec", lambda _: None)
    bare = compile_plan(tmp_path, max_memory=memory)
    for plan in (built, bare):
        assert {unit.store for unit in plan.units} == {"cuda:0", "cuda:1"}
        assert all(unit.path.count(".") <= 1 for unit in plan.units)
    assert verify_plan(built, model, inputs).lawful


def test_a_folder_without_models_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "X", "unet": ["diffusers", "Y"]}))
    with pytest.raises(PlanError) as caught:
        compile_plan(tmp_path, max_memory={"cpu": "1GiB"})
    assert [found.code for found in caught.value.diagnostics] == ["invalid-config"]
