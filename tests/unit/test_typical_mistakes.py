"""What strangers type first, in the command, the language and Python: the change that is suggested works."""

from __future__ import annotations

import ast
import json
import re
import shlex

import pytest
from checkpoints import llama_tensors, write_shards
from command import run_command
from compile_plan.backends import write_plan
from compile_plan.compiler import compile_model, compile_plan, load_model, load_pretrained
from compile_plan.grammar import parse
from compile_plan.ir import PlanError
from safetensors.torch import save_file

torch = pytest.importorskip("torch")
MEMORY = ["--memory", "cuda:0=1MiB,cpu=1GiB"]
QUOTED = re.compile(r"`([^`]+)`")


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with a checkpoint, a config and lines of a person."""
    folder = tmp_path_factory.mktemp("here")
    write_shards(folder / "model", llama_tensors(layers=4), 2)
    (folder / "edits.plan").write_text("place model.layers.{0..1} on cuda:0\n")
    return folder


def refused(here, arguments):
    """Return the one finding of a command that is refused."""
    result = run_command([*arguments, "--format", "json"], cwd=here)
    assert result.code in {1, 2}
    (found,) = json.loads(result.out)["diagnostics"]
    return found


COMMANDS = {
    "a size without a device": (["model", "--memory", "1MiB"], "`cuda:0=1MiB`"),
    "a colon for the equals sign": (["model", "--memory", "cuda:0:1MiB"], "`cuda:0=1MiB`"),
    "a name nobody has": (["model", "--memory", "gpu=1MiB"], "`cuda:0`"),
    "a letter in a size": (["model", "--memory", "0=1MiX"], "`1MiB`"),
    "sizes apart": (["model", "--memory", "cuda:0=1MiB", "cpu=1GiB"], "`--memory cuda:0=24GiB,cpu=1GiB`"),
    "an option misspelled": (["model", "--memroy", "cuda:0=1MiB"], "`--memory`"),
    "a path misspelled": (["modle", *MEMORY], "`model`"),
    "a second path": (["model", "plan.msgpack", *MEMORY], "`-o plan.msgpack`"),
    "a command before the path": (["compile", "model", *MEMORY], "`compile-plan model`"),
    "a suffix misspelled": (["model", "-o", "plan.mspack", *MEMORY], "`plan.msgpack`"),
    "a folder that is not there": (["model", "-o", "out/plan.msgpack", *MEMORY], "`mkdir -p out`"),
    "bits for a dtype": (["model", "--dtype", "4bit", *MEMORY], "`int4`"),
    "an unknown module": (["model", "--explain", "model.layer.0", *MEMORY], "`model.layers.0`"),
    "a code for a module": (["--explain", "spill"], "`--explain-code spill`"),
    "rows by another name": (["model", "--batch-size", "4", *MEMORY], "`--rows 4`"),
    "a reserve without a device": (["model", "--reserve", "1KiB", *MEMORY], "`--reserve cuda:0=1GiB`"),
}


@pytest.mark.parametrize("mistake", COMMANDS)
def test_a_command_is_refused_with_what_to_write(here, mistake):
    arguments, words = COMMANDS[mistake]
    assert words in refused(here, arguments)["help"]


CORRECTED = {
    "a size without a device": ("1MiB", 0),
    "a colon for the equals sign": ("cuda:0:1MiB", 0),
    "a name nobody has": ("gpu", 0),
    "a letter in a size": ("1MiX", 0),
    "an option misspelled": ("--memroy", 0),
    "a path misspelled": ("modle", 0),
    "bits for a dtype": ("4bit", 0),
    "an unknown module": ("model.layer.0", 0),
}
"""The word that is wrong, and which of the quoted ones of the help stands in its place."""


@pytest.mark.parametrize("mistake", CORRECTED)
def test_with_the_suggested_word_the_command_works(here, mistake):
    arguments, _ = COMMANDS[mistake]
    wrong, at = CORRECTED[mistake]
    right = QUOTED.findall(refused(here, arguments)["help"])[at]
    again = [word.replace(wrong, right) for word in arguments]
    assert again != arguments
    assert run_command(again, cwd=here).code == 0


@pytest.mark.parametrize(
    ("mistake", "dropped"),
    [
        ("a second path", ["plan.msgpack"]),
        ("rows by another name", ["--batch-size", "4"]),
        ("a reserve without a device", ["--reserve", "1KiB"]),
        ("sizes apart", ["--memory", "cuda:0=1MiB", "cpu=1GiB"]),
    ],
)
def test_with_the_suggested_option_the_command_works(here, tmp_path, mistake, dropped):
    arguments, _ = COMMANDS[mistake]
    option = shlex.split(QUOTED.findall(refused(here, arguments)["help"])[-1])
    option = [str(tmp_path / word) if word == "plan.msgpack" else word for word in option]
    kept = [word for word in arguments if word not in dropped]
    roomy = MEMORY if "--reserve" not in option else ["--memory", "cuda:0=2GiB,cpu=1GiB"]
    memory = [] if "--memory" in option else roomy
    kept = [word for word in kept if word not in MEMORY]
    assert run_command([*kept, *option, *memory], cwd=here).code == 0


@pytest.mark.parametrize("mistake", ["a command before the path", "a code for a module"])
def test_the_suggested_command_works(here, mistake):
    arguments, _ = COMMANDS[mistake]
    words = shlex.split(QUOTED.findall(refused(here, arguments)["help"])[0])
    more = MEMORY if words[0] == "compile-plan" else []
    assert run_command([*(word for word in words if word != "compile-plan"), *more], cwd=here).code == 0


def test_with_a_suggested_suffix_the_command_works(here, tmp_path):
    arguments, _ = COMMANDS["a suffix misspelled"]
    right = QUOTED.findall(refused(here, arguments)["help"])[0]
    again = [str(tmp_path / right) if word == "plan.mspack" else word for word in arguments]
    assert run_command(again, cwd=here).code == 0


def test_after_the_suggested_command_the_folder_is_there(here, tmp_path):
    arguments, _ = COMMANDS["a folder that is not there"]
    arguments = [str(here / "model") if word == "model" else word for word in arguments]
    program, *words = shlex.split(QUOTED.findall(refused(tmp_path, arguments)["help"])[0])
    assert (program, words) == ("mkdir", ["-p", "out"])
    (tmp_path / words[-1]).mkdir(parents=True)
    assert run_command(arguments, cwd=tmp_path).code == 0


def test_a_dictionary_is_what_memory_means(here):
    written = run_command(["model", "--memory", "{0: '1MiB', 'cpu': '1GiB'}", "-o", "-"], cwd=here)
    assert written.code == 0
    assert written.out == run_command(["model", *MEMORY, "-o", "-"], cwd=here).out


LINES = {
    "model.layers.0: cuda:0": "place model.layers.0 on cuda:0",
    '"model.layers.0": 0,': "place model.layers.0 on cuda:0",
    "put model.layers.0 on cuda:0": "place model.layers.0 on cuda:0",
    "pin model.layers.0 to cpu": "place model.layers.0 on cpu",
    "Move model.layers.0 to CPU;": "place model.layers.0 on cpu",
    "exclude model.layers.0 from cpu": "never model.layers.0 on cpu",
    "keep model.layers.0 whole": "atomic model.layers.0",
    "// the first layers": "# the first layers",
    "place model.layers.0 cuda:0": "place model.layers.0 on cuda:0",
    "place model.layers.0 to cuda:0": "place model.layers.0 on cuda:0",
    "place model.layers.0 = cuda:0": "place model.layers.0 on cuda:0",
    "place model.layers[0:2] on cuda:0": "place model.layers.{0..1} on cuda:0",
    "place model.layers[:3].mlp on cuda:0": "place model.layers.{0..2}.mlp on cuda:0",
    "place model.layers.0 on cpu run cuda:0": "place model.layers.0 on cpu run on cuda:0",
    "device cuda:0 24GiB": "device cuda:0 memory 24GiB",
    "device cuda:0 24 GiB": "device cuda:0 memory 24GiB",
    "device cuda:0 = 24GiB": "device cuda:0 memory 24GiB",
    "device cuda:0 memory=24GiB margin=1GiB": "device cuda:0 memory 24GiB margin 1GiB",
    "reserve cuda:0 1KiB": "reserve 1KiB on cuda:0",
    'reserve cuda:0=1KiB for "kv cache"': 'reserve 1KiB on cuda:0 for "kv cache"',
}
"""A line that cannot be read, and the one that is suggested."""


@pytest.mark.parametrize("line", LINES)
def test_the_line_that_is_suggested_reads_and_is_what_the_editor_writes(line):
    with pytest.raises(PlanError) as caught:
        parse(line + "\n")
    (found,) = caught.value.diagnostics
    assert found.help == f"write `{LINES[line]}`"
    ((change,),) = (fix.changes for fix in found.fixes)
    assert change.text == LINES[line]
    parse(LINES[line] + "\n")


PATHS = {
    "place model.layers.0-2 on cuda:0": "model.layers.{0..2}",
    "place model.layers.{0..9} on cuda:0": "model.layers.{0..3}",
    "place model.layer.0 on cuda:0": "model.layers.0",
    "place model.layers.0,model.layers.1 on cuda:0": "model.layers.{0,1}",
    "place model.layers[1] on cuda:0": "model.layers.1",
    "place mlp on cuda:0": "**.mlp",
    "place model.layers.0 on gpu0": "cuda:0",
    "place model.layers.0 on cpu;": "cpu",
    'option stratgy "auto"': "option strategy",
    'option strategy "autos"': "auto",
}


@pytest.mark.parametrize("line", PATHS)
def test_the_word_that_is_suggested_works(here, line):
    budgets = {0: "1MiB", "cpu": "1GiB"}
    with pytest.raises(PlanError) as caught:
        compile_plan(here / "model", max_memory=budgets, overrides=line)
    (found,) = caught.value.diagnostics
    assert f"did you mean `{PATHS[line]}`?" in found.help
    verb, *words = line.split()
    wrong = {"option stratgy": "stratgy", "option strategy": '"autos"'}.get(" ".join((verb, words[0])))
    wrong = wrong or (words[-1] if words[0] == "model.layers.0" else words[0])
    right = PATHS[line].removeprefix("option ")
    right = f'"{right}"' if wrong.startswith('"') else right
    assert compile_plan(here / "model", max_memory=budgets, overrides=line.replace(wrong, right)).units


def test_a_class_behind_atomic_is_named_as_one():
    model = torch.nn.Sequential(*(torch.nn.Sequential(torch.nn.Linear(4, 4)) for _ in range(3)))
    with pytest.raises(PlanError) as caught:
        compile_plan(model, max_memory={0: "1KiB", "cpu": "1GiB"}, overrides="atomic Liner")
    (found,) = caught.value.diagnostics
    assert found.help == "did you mean `class Linear`?"
    plan = compile_plan(model, max_memory={0: "1KiB", "cpu": "1GiB"}, overrides="atomic class Linear")
    assert plan.units


@pytest.mark.parametrize(
    ("dtype", "meant"),
    [
        ("4bit", "int4"),
        ("8-bit", "int8"),
        ("q4_k_m", "int4"),
        ("nf4", "int4"),
        ("fp16x", "fp16"),
        ("bf15", "bf16"),
    ],
)
def test_a_dtype_by_another_name_is_met_with_one_there_is(here, dtype, meant):
    with pytest.raises(PlanError) as caught:
        compile_plan(here / "model", max_memory={"cpu": "1GiB"}, dtype=dtype)
    assert caught.value.diagnostics[0].help == f"did you mean `{meant}`?"
    assert compile_plan(here / "model", max_memory={"cpu": "1GiB"}, dtype=meant).units


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)

    def forward(self, x):
        return x + self.b(self.a(x))


BUDGETS = {0: "1KiB", "cpu": "1GiB"}
CALLS = {
    "a class": (lambda model: compile_model(type(model)), "build it"),
    "one size": (lambda model: compile_model(model, max_memory="1KiB"), "`{0: '10GiB', 'cpu': '64GiB'}`"),
    "a list": (lambda model: compile_model(model, max_memory=["1KiB"]), "`{0: '10GiB', 'cpu': '64GiB'}`"),
    "a name nobody has": (lambda model: compile_model(model, max_memory={"gpu": "1KiB"}), "`cuda:0`"),
    "a share": (lambda model: compile_model(model, max_memory={"cpu": 4096.5}), "`4096`"),
    "a class misspelled": (
        lambda model: compile_model(model, max_memory=BUDGETS, no_split_module_classes=["Blok"]),
        "`Block`",
    ),
    "classes for names": (
        lambda model: compile_model(model, max_memory=BUDGETS, no_split_module_classes=[Block]),
        "names of classes",
    ),
    "a dtype misspelled": (lambda model: compile_model(model, max_memory=BUDGETS, dtype="bf17"), "`bf16`"),
    "a strategy misspelled": (
        lambda model: compile_model(model, max_memory=BUDGETS, strategy="balance"),
        "`balanced`",
    ),
    "a size misspelled": (
        lambda model: compile_model(model, max_memory=BUDGETS, kv_cache="8 gigs"),
        "`10GiB`",
    ),
    "weights for a module": (lambda model: compile_model(model.state_dict()), "give a module"),
    "arguments exchanged": (lambda model: load_model(model, "plan.msgpack"), "give a plan"),
    "no checkpoint": (lambda model: load_model(_planned(model), model.to("meta")), "pass the checkpoint"),
    "a name on the hub": (lambda _: load_pretrained("meta-llama/Llama-3-8B"), "`hf download meta-llama"),
    "a suffix of torch": (lambda model: write_plan(_planned(model), "plan.pt"), "one of these suffixes"),
}


def _planned(model):
    return compile_model(model, max_memory={"cpu": "1GiB"})


@pytest.mark.parametrize("mistake", CALLS)
def test_python_is_told_what_to_give(mistake):
    call, words = CALLS[mistake]
    with pytest.raises(PlanError) as caught:
        call(torch.nn.Sequential(Block(), Block()))
    (found,) = caught.value.diagnostics
    assert words in found.help


GIVEN = {
    "one size": {"max_memory": {0: "10GiB", "cpu": "64GiB"}},
    "a name nobody has": {"max_memory": {"cuda:0": "1KiB", "cpu": "1GiB"}},
    "a share": {"max_memory": {"cpu": 4096}},
    "a class misspelled": {"no_split_module_classes": ["Block"]},
    "classes for names": {"no_split_module_classes": [Block.__name__]},
    "a dtype misspelled": {"dtype": "bf16"},
    "a strategy misspelled": {"strategy": "balanced"},
    "a size misspelled": {"kv_cache": "1KiB"},
    "a line of a plan": {"overrides": "place 0 on cpu"},
    "lines of a plan": {
        "overrides": ["place 0 on cpu", "never 1 on cpu"],
        "max_memory": {0: "1MiB", "cpu": "1MiB"},
    },
}


@pytest.mark.parametrize("mistake", GIVEN)
def test_what_python_is_told_to_give_works(mistake):
    model = torch.nn.Sequential(Block(), Block())
    assert compile_model(model, **{"max_memory": BUDGETS, **GIVEN[mistake]}).units


@pytest.mark.parametrize("mistake", ["one size", "a list"])
def test_the_budgets_that_are_suggested_work(mistake):
    model = torch.nn.Sequential(Block(), Block())
    with pytest.raises(PlanError) as caught:
        CALLS[mistake][0](model)
    given = next(word for word in QUOTED.findall(caught.value.diagnostics[0].help) if word.startswith("{"))
    assert compile_model(model, max_memory=ast.literal_eval(given)).units


def test_given_what_was_asked_for_python_does_it(tmp_path):
    """The rest of the mistakes, with a module, a plan, a checkpoint and a suffix in their places."""
    model = torch.nn.Sequential(Block(), Block())
    plan, checkpoint = _planned(model), tmp_path / "model.safetensors"
    save_file(model.state_dict(), checkpoint)
    assert compile_model(type(model)(Block()), max_memory=BUDGETS).units
    write_plan(plan, tmp_path / "plan.msgpack")
    want = model(torch.ones(1, 8))
    torch.testing.assert_close(load_model(tmp_path / "plan.msgpack", model)(torch.ones(1, 8)), want)
    empty = torch.nn.Sequential(Block(), Block()).to("meta")
    torch.testing.assert_close(load_model(plan, empty, checkpoint)(torch.ones(1, 8)), want)


def test_a_folder_for_a_name_on_the_hub_works(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path)
    assert not load_pretrained(tmp_path, max_memory={"cpu": "1GiB"}, progress=False).training


@pytest.mark.parametrize(
    ("theirs", "ours"), [("torch_dtype", "dtype"), ("memory", "max_memory"), ("overide", "overrides")]
)
def test_a_keyword_of_another_library_is_met_with_ours(theirs, ours):
    with pytest.raises(TypeError, match=f"'{theirs}'; did you mean '{ours}'"):
        compile_plan(torch.nn.Linear(2, 2), **{theirs: None})
