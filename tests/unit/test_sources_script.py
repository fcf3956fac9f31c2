"""Models from scripts: what a script may offer, and every way it can go wrong."""

from __future__ import annotations

import os
import random
import runpy
import sys
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from compile_plan.compiler.sources.script import load_script, read_script
from compile_plan.compiler.sources.script_spec import split_spec
from compile_plan.ir import Diagnostics, PlanError
from torch import nn

HEAD = "import torch\nfrom torch import nn\n"


@pytest.fixture(autouse=True)
def _python_as_before():
    """Scripts stay importable after a load; a test leaves nothing."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("_script_") or name == "sibling":
            del sys.modules[name]


@pytest.fixture
def script(tmp_path):
    """Write a script and return its path."""

    def write(text, name="model.py"):
        path = tmp_path / name
        path.write_text(HEAD + dedent(text))
        return path

    return write


def error(spec):
    with pytest.raises(PlanError) as caught:
        read_script(spec, Diagnostics())
    (finding,) = caught.value.diagnostics
    return finding


def marked(finding):
    span = finding.at.span
    return span.source.text[span.start : span.end]


@pytest.mark.parametrize(
    ("text", "attribute"),
    [
        ("model = nn.Linear(2, 3)", ""),
        ("model = lambda: nn.Linear(2, 3)", ""),
        ("def model():\n    return nn.Linear(2, 3)", ""),
        ("def build():\n    return nn.Linear(2, 3)", ""),
        ("def get_model(width=3):\n    return nn.Linear(2, width)", ""),
        ("net = nn.Linear(2, 3)", ""),
        ("class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(2, 3)", ""),
        ("class model(nn.Linear):\n    def __init__(self):\n        super().__init__(2, 3)", ""),
        ("model = 3\ndef large():\n    return nn.Linear(2, 3)", ":large"),
        ("class zoo:\n    small = nn.Linear(2, 3)", ":zoo.small"),
        ("def build(*layers, **more):\n    return nn.Linear(2, 3)", ""),
        ("from functools import partial\nbuild = partial(nn.Linear, 2, 3)", ":build"),
    ],
)
def test_what_a_script_may_offer(script, text, attribute):
    model = load_script(f"{script(text)}{attribute}", Diagnostics())
    assert tuple(model.weight.shape) == (3, 2)
    assert model.weight.device.type == "meta"


def test_a_model_of_any_size_takes_no_memory(script):
    path = script("def build():\n    return nn.Sequential(*(nn.Linear(100_000, 100_000) for _ in range(7)))")
    model = load_script(path, Diagnostics())
    assert sum(p.numel() for p in model.parameters()) > 70e9


def test_variables_beside_the_model(script):
    found = read_script(
        script("model = nn.Linear(2, 3)\nexample_inputs = (1,)\nno_split_module_classes = ['A']"),
        Diagnostics(),
    )
    assert (found.name, found.example_inputs, found.no_split) == ("model", (1,), ("A",))
    found = read_script(script("model = nn.Linear(2, 3)\nno_split_module_classes = 'A'"), Diagnostics())
    assert found.no_split == ("A",)
    found = read_script(script("model = nn.Linear(2, 3)"), Diagnostics())
    assert (found.example_inputs, found.no_split) == (None, None)


def test_the_main_block_is_not_run(script):
    load_script(
        script("model = nn.Linear(2, 3)\nif __name__ == '__main__':\n    raise SystemExit(3)"), Diagnostics()
    )


def test_prints_go_to_stderr(script, capsys):
    load_script(script("print('hello')\nmodel = nn.Linear(2, 3)"), Diagnostics())
    assert capsys.readouterr() == ("", "hello\n")


def test_a_script_sees_its_folder_and_its_own_arguments(script, tmp_path):
    (tmp_path / "sibling.py").write_text("WIDTH = 3\n")
    load_script(
        script(
            "import sys\nfrom sibling import WIDTH\nassert len(sys.argv) == 1\nmodel = nn.Linear(2, WIDTH)"
        ),
        Diagnostics(),
    )


def test_what_a_script_changes_is_put_back(script, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    here, argv, python_random = Path.cwd(), sys.argv, random.getstate()
    (tmp_path / "elsewhere").mkdir()
    text = f"""
        import os, warnings
        torch.set_default_dtype(torch.bfloat16)
        torch.set_grad_enabled(False)
        torch.manual_seed(1)
        warnings.simplefilter("ignore")
        os.chdir({str(tmp_path / "elsewhere")!r})
        model = nn.Linear(2, 3)
    """
    model = load_script(script(text), Diagnostics())
    assert model.weight.dtype is torch.bfloat16
    assert torch.get_default_dtype() is torch.float32
    assert torch.is_grad_enabled()
    assert torch.equal(torch.rand(1), expected)
    assert (Path.cwd(), sys.argv, random.getstate()) == (here, argv, python_random)
    assert torch.zeros(1).device.type == "cpu"


@pytest.mark.parametrize(
    "text",
    [
        "rates = [x.item() for x in torch.linspace(0, 1, 4)]\nmodel = nn.Linear(2, 3)",
        "rates = torch.linspace(0, 1, 4).tolist()\nmodel = nn.Linear(2, 3)",
        "rates = torch.ones(4).numpy()\nmodel = nn.Linear(2, 3)",
        "if torch.ones(1) > 0:\n    model = nn.Linear(2, 3)",
    ],
)
def test_small_values_are_computed(script, text):
    model = load_script(script(text), Diagnostics())
    assert model.weight.device.type == "meta"


def test_the_gentle_mode_keeps_ties_and_real_buffers(script):
    text = """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.rates = torch.linspace(0, 1, 4).tolist()
                self.register_buffer("frequency", torch.arange(4.0))
                self.embed = nn.Embedding(5000, 500)
                self.head = nn.Linear(500, 5000, bias=False)
                self.head.weight = self.embed.weight
                shared = nn.Parameter(torch.ones(3))
                self.left, self.right = shared, shared
        model = Net()
    """
    register = nn.Module.register_parameter
    model = load_script(script(text), Diagnostics())
    assert model.head.weight is model.embed.weight
    assert model.left is model.right
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert torch.equal(model.frequency, torch.arange(4.0))
    assert nn.Module.register_parameter is register


def test_a_constructor_that_reads_large_values_is_explained(script):
    text = """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = nn.Linear(2000, 2000)
                self.scale = self.linear.weight.abs().max().item()
        model = Net()
    """
    path = script(text)
    finding = error(path)
    assert finding.code == "needs-real-values"
    assert f"`{path}`, line 8" in finding.message
    assert marked(finding) == "self.scale = self.linear.weight.abs().max().item()"
    assert finding.help


def test_an_error_of_the_script_is_the_scripts(script):
    path = script("""
        def width():
            return {}["width"]
        def build():
            return nn.Linear(2, width())
    """)
    finding = error(path)
    assert finding.code == "script-failed"
    assert finding.message == f"`{path}`, line 5: KeyError: 'width'"
    assert marked(finding) == 'return {}["width"]'
    assert finding.notes == ("model.py:7 in build", "model.py:5 in width")


def test_an_error_in_a_library_points_at_the_scripts_line(script):
    path = script("model = nn.Linear('wide', 3)")
    finding = error(path)
    assert marked(finding) == "model = nn.Linear('wide', 3)"
    assert finding.notes[0] == "model.py:3 in <module>"
    assert not any("script.py" in note for note in finding.notes)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_package", "ModuleNotFoundError"),
        ("raise RuntimeError", "RuntimeError"),
        ("raise RuntimeError('one\\ntwo')", "RuntimeError: one"),
        ("import sys; sys.exit(2)", "ended itself with `sys.exit(2)`"),
        ("def build():\n    return build()", "RecursionError"),
        ("raise BaseException('x')", "BaseException: x"),
        ("raise GeneratorExit", "GeneratorExit"),
    ],
)
def test_whatever_a_script_raises_is_a_finding(script, text, words):
    finding = error(script(text))
    assert finding.code == "script-failed"
    assert words in finding.message


def test_a_syntax_error_is_marked_where_it_is(script):
    finding = error(script("model = nn.Linear(2,, 3)"))
    assert finding.code == "script-failed"
    assert "line 3 is not Python" in finding.message
    assert marked(finding).startswith(", 3)")


def test_an_interrupt_is_an_interrupt(script):
    with pytest.raises(KeyboardInterrupt):
        read_script(script("raise KeyboardInterrupt"), Diagnostics())


@pytest.mark.parametrize(
    ("text", "attribute", "code", "words"),
    [
        ("x = 3", "", "no-model", "neither a model nor a factory"),
        ("def build():\n    pass", ":biuld", "no-model", "no `biuld`"),
        ("a = nn.Linear(1, 1)\nb = nn.Linear(1, 1)", "", "ambiguous-input", "2 models: `a`, `b`"),
        ("def build():\n    pass\ndef get_model():\n    pass", "", "ambiguous-input", "`build`, `get_model`"),
        ("def build(layers, *, width):\n    pass", "", "factory-needs-arguments", "`layers`, `width`"),
        ("model = nn.Linear", "", "factory-needs-arguments", "`in_features`"),
        ("def build():\n    nn.Linear(1, 1)", "", "not-a-model", "is None"),
        ("model = {'weight': 3}", "", "not-a-model", "a `dict`"),
        ("def build():\n    return nn.Linear", "", "not-a-model", "a `type`"),
        ("async def build():\n    return nn.Linear(1, 1)", "", "not-a-model", "a `coroutine`"),
        ("model = nn.Sequential()", "", "empty-model", "no modules"),
        ("model = nn.Sequential(nn.ReLU())", "", "empty-model", "no parameters and no buffers"),
    ],
)
def test_a_script_without_one_model(script, text, attribute, code, words):
    finding = error(f"{script(text)}{attribute}")
    assert finding.code == code
    assert words in finding.message
    assert finding.help or code == "empty-model"


def test_a_misspelled_factory_gets_a_suggestion(script):
    path = script("def build():\n    pass")
    assert error(f"{path}:biuld").help == f"did you mean `{path}:build`?"


def test_a_model_of_buffers_alone_is_a_model(script):
    text = "model = nn.Module()\nmodel.register_buffer('table', torch.zeros(3))"
    assert load_script(script(text), Diagnostics()).table.shape == (3,)


def test_files_that_are_no_scripts(tmp_path):
    assert error(tmp_path / "nothing.py").code == "missing-input"
    assert error(tmp_path).code == "unknown-input"
    (tmp_path / "binary.py").write_bytes(b"\x80\x81\x00")
    assert error(tmp_path / "binary.py").code == "script-failed"
    (tmp_path / "nul.py").write_bytes(b"x = 1\0")
    assert error(tmp_path / "nul.py").code == "script-failed"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_forbidden_script_is_unreadable(script):
    path = script("model = 3")
    path.chmod(0)
    assert error(path).code == "unreadable-input"


@pytest.mark.parametrize(
    ("spec", "path", "attribute"),
    [
        ("model.py", "model.py", None),
        ("model.py:build", "model.py", "build"),
        ("a/model.py:zoo.small", "a/model.py", "zoo.small"),
        ("C:model", "C:model", None),
        ("C:/models/model.py:build", "C:/models/model.py", "build"),
        ("model.py:", "model.py:", None),
        ("model.py:2b", "model.py:2b", None),
    ],
)
def test_what_follows_the_colon(spec, path, attribute):
    assert split_spec(spec) == (Path(path), attribute)


def test_a_file_with_a_colon_in_its_name_is_a_file(script):
    assert split_spec(script("", name="a.py:build"))[1] is None


EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(("name", "shape"), [("decoder", (1, 16, 128_256)), ("mixture", (1, 8, 32_000))])
def test_the_examples_are_large_and_run_on_meta(name, shape):
    found = read_script(EXAMPLES / f"{name}.py", Diagnostics())
    assert sum(p.nbytes for p in found.model.parameters()) > 2**30
    assert {t.device.type for t in found.model.state_dict().values()} == {"meta"}
    assert tuple(found.model(*found.example_inputs).shape) == shape
    assert found.no_split or found.model._no_split_modules


@pytest.mark.parametrize("name", ["decoder", "mixture"])
def test_the_small_examples_compute(name):
    offered = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    model = offered["tiny"]()
    assert torch.isfinite(model(*offered["example_inputs"])).all()
    assert model.head.weight is model.embed.weight


def test_the_transformers_example_is_an_eight_billion_model():
    pytest.importorskip("transformers")
    model = load_script(EXAMPLES / "transformers_config.py", Diagnostics())
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(8.03e9, rel=0.01)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
