"""What a plan needs of a configuration is kept, and is what building the model again would give."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("transformers")

from compile_plan.backends import encode
from compile_plan.compiler import compile_plan
from compile_plan.compiler.driver import inputs, remembered_models
from compile_plan.compiler.driver.remembered_models import cache_folder
from compile_plan.ir import PlanError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 3,
    "vocab_size": 128,
    "torch_dtype": "bfloat16",
    "attention_bias": True,
}
"""With a bias, which the table of described classes does not have."""
TIED = LLAMA | {"tie_word_embeddings": True}
ALBERT = {
    "architectures": ["AlbertForMaskedLM"],
    "model_type": "albert",
    "hidden_size": 32,
    "embedding_size": 16,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 128,
}
"""Declares no classes, so its forward says what stays whole."""
KINDS = {"llama": LLAMA, "tied": TIED, "albert": ALBERT}
BUDGETS = {0: "40KiB", "cpu": "1GiB"}


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("COMPILE_PLAN_NO_CACHE", raising=False)
    return cache_folder()


@pytest.fixture
def builds(monkeypatch):
    """Count how often a model is built."""
    calls, build = [], inputs.built_from_config

    def counted(spec, options):
        calls.append(spec)
        return build(spec, options)

    monkeypatch.setattr(inputs, "built_from_config", counted)
    return calls


def folder_of(tmp_path, config=LLAMA, name="model"):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def written(folder, **options):
    return encode(compile_plan(folder, max_memory=BUDGETS, **options), "msgpack")


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_remembered_gives_the_same_plan_to_the_byte(tmp_path, kept, monkeypatch, kind):
    folder = folder_of(tmp_path, KINDS[kind])
    first = written(folder)
    assert len(list(kept.iterdir())) == 1
    second = written(folder)
    monkeypatch.setenv("COMPILE_PLAN_NO_CACHE", "1")
    assert first == second == written(folder)


def test_a_model_is_built_once_in_each_dtype(tmp_path, kept, builds):
    folder = folder_of(tmp_path)
    for dtype in (None, "int8", "bfloat16", "bfloat16"):  # in two dtypes
        written(folder, dtype=dtype)
    assert len(builds) == 2
    assert kept.is_dir()


def test_what_needs_the_forward_builds_the_model(tmp_path, kept, builds, monkeypatch):
    folder = folder_of(tmp_path)
    written(folder)
    traced = written(folder, prompt=16, generate=4)
    assert len(builds) == 2
    monkeypatch.setenv("COMPILE_PLAN_NO_CACHE", "1")
    assert traced == written(folder, prompt=16, generate=4)
    assert kept.is_dir()


def test_another_configuration_is_another_model(tmp_path, kept):
    folder = folder_of(tmp_path)
    first = written(folder)
    folder_of(tmp_path, LLAMA | {"num_hidden_layers": 4})
    assert written(folder) != first
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize("library", ["torch", "transformers"])
def test_another_version_of_a_library_is_another_model(tmp_path, kept, builds, monkeypatch, library):
    folder = folder_of(tmp_path)
    written(folder)
    version = remembered_models.version
    newer = {library: "99.1"}
    monkeypatch.setattr(remembered_models, "version", lambda name: newer.get(name) or version(name))
    written(folder)
    assert len(builds) == 2
    newer[library] = "99.2.dev0"  # somebody works on it: nothing is kept
    written(folder)
    written(folder)
    assert len(builds) == 4
    assert len(list(kept.iterdir())) == 2


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "folder"])
def test_what_is_damaged_is_made_again(tmp_path, kept, builds, damage):
    folder = folder_of(tmp_path)
    first = written(folder)
    (file,) = kept.iterdir()
    data = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    else:
        ends = {"cut": data[:-9], "changed": data.replace(b"LlamaMLP", b"LlamaMLQ"), "empty": b""}
        file.write_bytes(ends[damage])
    assert written(folder) == first
    assert len(builds) == 2
    if damage != "folder":
        assert file.read_bytes() == data


def test_a_folder_nothing_can_be_written_to_keeps_nothing(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = folder_of(tmp_path)
    assert written(folder) == written(folder)


def test_few_are_kept_and_the_one_used_longest_ago_goes(tmp_path, kept, builds, monkeypatch):
    monkeypatch.setattr(remembered_models, "MOST_KEPT", 2)
    folders = [
        folder_of(tmp_path, LLAMA | {"num_hidden_layers": layers}, f"model{layers}") for layers in (1, 2, 3)
    ]
    for age, folder in enumerate(folders):
        written(folder)
        newest = max(kept.iterdir(), key=lambda each: each.stat().st_mtime_ns)
        os.utime(newest, (age + 1, age + 1))
    assert len(list(kept.iterdir())) == 2
    written(folders[2])
    assert len(builds) == 3
    written(folders[0])
    assert len(builds) == 4


def test_code_of_its_own_is_never_remembered(tmp_path, kept):
    folder = folder_of(tmp_path, LLAMA | {"auto_map": {"AutoConfig": "code.Config"}})
    written(folder)
    assert not kept.exists()


def test_what_cannot_be_built_is_refused_each_time(tmp_path, kept):
    folder = folder_of(tmp_path, LLAMA | {"hidden_size": "many"})
    for _ in range(2):
        with pytest.raises(PlanError) as caught:
            written(folder)
        assert [each.code for each in caught.value.diagnostics] == ["config-failed"]
    assert not kept.exists()


def test_the_second_command_opens_neither_library(tmp_path, kept):
    folder = folder_of(tmp_path)
    code = (
        "import sys; from compile_plan.compiler.cli.command import main; code = main(sys.argv[1:]);"
        "print({'torch', 'transformers'} & set(sys.modules), code, file=sys.stderr)"
    )
    arguments = [str(folder), "--memory", "0=40KiB,cpu=1GiB", "-o", "-"]
    runs = [
        subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert runs[0].stderr.splitlines()[-1].endswith("'} 0")
    assert runs[1].stderr.splitlines()[-1] == "set() 0"
    assert kept.is_dir()
