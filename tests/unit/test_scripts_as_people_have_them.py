"""Scripts nobody wrote for us: planned as they are, or refused with the line to change."""

from __future__ import annotations

from textwrap import dedent

import pytest
import torch
from command import run_command
from compile_plan.compiler.sources.script import read_script
from compile_plan.ir import Diagnostics, PlanError

HEAD = "import argparse, sys, torch\nfrom torch import nn\n"


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.path", [*__import__("sys").path])

    def write(text, name="model.py"):
        path = tmp_path / name
        path.write_text(HEAD + dedent(text))
        return path

    return write


def model_of(spec):
    return read_script(str(spec), Diagnostics()).model


def error(spec):
    with pytest.raises(PlanError) as caught:
        read_script(str(spec), Diagnostics())
    (finding,) = caught.value.diagnostics
    return finding


FACTORY = """
    def build(width, depth=2, *, names=(), bias=True):
        return nn.Sequential(*(nn.Linear(width, width, bias=bias) for _ in range(depth)))

    class Net(nn.Module):
        def __init__(self, width: int, heads=2):
            super().__init__()
            self.a = nn.Linear(width, heads)

    class Models:
        tiny = staticmethod(lambda width=4: nn.Linear(width, width))
"""


@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        ("build(width=8)", 144),
        ("build(8, depth=3)", 216),
        ("build(8, bias=False, names=['a', 'b:c'])", 128),
        ("Net(width=16)", 34),
        ("Net(16, heads=1)", 17),
        ("Models.tiny(width=3)", 12),
        ("Models.tiny()", 20),
    ],
)
def test_a_factory_or_class_is_called_with_what_is_written(script, call, parameters):
    found = model_of(f"{script(FACTORY)}:{call}")
    assert sum(p.numel() for p in found.parameters()) == parameters
    assert all(p.is_meta for p in found.parameters())


@pytest.mark.parametrize(
    ("call", "words", "help_"),
    [
        ("build(wdth=8)", "missing a required argument: 'width'", "it is `build(width, depth=2"),
        ("Net()", "missing a required argument: 'width'", "it is `Net(width: int, heads=2)`"),
        ("build(width=x)", "`x` is no plain value", "write plain values"),
        ("build(**options)", "`**` stands for no plain values", "write plain values"),
        ("biuld(width=8)", "defines no `biuld`", "did you mean"),
        ("build(width=8", "there is no `", None),
    ],
)
def test_a_call_that_cannot_be_is_refused_with_the_signature(script, call, words, help_):
    finding = error(f"{script(FACTORY)}:{call}") if call.endswith(")") else None
    if finding is None:
        result = run_command([f"{script(FACTORY)}:{call}", "--memory", "cpu=1GiB"])
        assert result.code == 1
        assert words in result.err
        return
    assert words in finding.message
    assert help_ in finding.help


def test_arguments_that_lack_are_asked_for_in_the_words_that_give_them(script):
    path = script("def build(width): return nn.Linear(width, width)\n")
    finding = error(path)
    assert f"{path}:build(width=…)" in finding.help
    assert model_of(f"{path}:build(width=5)").in_features == 5


@pytest.mark.parametrize(
    "text",
    [
        "model = nn.Linear(4, 4).cuda()",
        "model = nn.Linear(4, 4).to('cuda')",
        "model = nn.Linear(4, 4).to(device='cuda:1')",
        "model = nn.Linear(4, 4).cuda(0)",
        "model = nn.Sequential(nn.Linear(4, 4)).to(torch.device('cuda'), non_blocking=True)",
        "model = nn.Linear(4, 4, device='cuda')",
        "device = 'cuda'\nmodel = nn.Linear(4, 4).to(device)\ny = model(torch.randn(2, 4, device=device))",
        "model = nn.Linear(4, 4)\nmodel.register_buffer('b', torch.zeros(4).cuda())",
        "drop = [x.item() for x in torch.linspace(0, 1, 3)]\nmodel = nn.Linear(4, 4).cuda()",
        "model = nn.Linear(4, 4).to('cpu')",
    ],
)
def test_a_card_that_is_not_there_is_not_needed(script, text):
    model = model_of(script(text))
    assert sum(p.numel() for p in model.parameters()) == 20
    assert all(p.is_meta for p in model.parameters())


@pytest.mark.parametrize(
    ("move", "dtype"),
    [
        (".to('cuda', torch.float16)", "float16"),
        (".cuda().half()", "float16"),
        (".to(torch.bfloat16)", "bfloat16"),
    ],
)
def test_a_dtype_given_with_the_card_counts(script, move, dtype):
    assert model_of(script(f"model = nn.Linear(4, 4){move}")).weight.dtype is getattr(torch, dtype)


@pytest.mark.parametrize(
    "loop",
    [
        "while True:\n    model(torch.randn(2, 4)).sum().backward()",
        "while True:\n    try: model(torch.randn(2, 4)).sum().backward()\n    except Exception: pass",
        "while True:\n    torch.autograd.backward(model(torch.randn(2, 4)).sum())",
        "while True:\n    loss = model(torch.randn(2, 4)).sum()\n    loss.backward()\n    print(loss.item())",
    ],
)
def test_a_training_loop_ends_and_what_it_built_is_planned(script, loop):
    path = script("")
    path.write_text(f"{HEAD}model = nn.Linear(4, 4)\n{loop}\n")
    assert sum(p.numel() for p in model_of(path).parameters()) == 20


def test_a_training_loop_without_a_model_in_sight_is_refused_with_its_line(script):
    path = script("""
        def main():
            net = nn.Linear(4, 4)
            while True:
                net(torch.randn(2, 4)).sum().backward()
        main()
    """)
    finding = error(path)
    assert "trains while it is imported" in finding.message
    assert finding.at.span.source.position(finding.at.span.start)[0] == 7
    mended = path.read_text().replace(
        "\nmain()", "\nmodel = nn.Linear(4, 4)\nif __name__ == '__main__':\n    main()"
    )
    path.write_text(mended)
    assert model_of(path).in_features == 4


ARGUMENTS = """
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, REQUIRED)
    args = parser.parse_args()
    model = nn.Linear(args.width, 4)
"""


def test_arguments_of_its_own_with_defaults_are_no_trouble(script):
    assert model_of(script(ARGUMENTS.replace("REQUIRED", "default=6"))).in_features == 6


def test_arguments_it_insists_on_are_refused_with_the_line_to_change(script, capsys):
    path = script(ARGUMENTS.replace("REQUIRED", "required=True"))
    finding = error(path)
    assert "reads arguments of its own" in finding.message
    span = finding.at.span
    assert span.source.text[span.start : span.end] == "args = parser.parse_args()"
    assert "defaults" in finding.help
    assert "--width" in capsys.readouterr().err


USES = {
    "weights that are not here": "net.load_state_dict(torch.load('weights.pt'))",
    "a forward with values": "print(net(torch.zeros(2, 4)).mean().item())",
    "a card that is not here": "torch.cuda.get_device_properties(99)",
    "other processes": "import torch.distributed as dist\ndist.init_process_group('gloo')",
    "an error code": "sys.exit('no data')",
    "anything else": "raise ValueError('nothing to learn from')",
}


@pytest.mark.parametrize("use", USES)
def test_what_fails_behind_the_model_is_said_and_the_model_is_planned(script, use):
    path = script("")
    path.write_text(f"{HEAD}net = nn.Linear(4, 4)\n{USES[use]}\n")
    found = Diagnostics()
    assert read_script(str(path), found).model.in_features == 4
    (warning,) = found
    assert warning.code == "script-ended"
    assert "had been built" in warning.message
    assert warning.at.span.source.position(warning.at.span.start)[0] == len(path.read_text().splitlines())
    result = run_command([str(path), "--memory", "cpu=1MiB"])
    assert (result.code, "script-ended" in result.err) == (0, True)


def test_a_script_that_says_it_is_done_is_no_trouble(script):
    path = script("")
    path.write_text(f"{HEAD}net = nn.Linear(4, 4)\nsys.exit()\n")
    found = Diagnostics()
    assert read_script(str(path), found).model.in_features == 4
    assert not [*found]


def test_two_models_and_an_error_are_an_error(script):
    path = script("")
    path.write_text(f"{HEAD}teacher = nn.Linear(4, 4)\nstudent = nn.Linear(2, 2)\nraise ValueError('x')\n")
    assert error(path).code == "script-failed"
    path.write_text(f"{HEAD}model = nn.Linear(4, 4)\nstudent = nn.Linear(2, 2)\nraise ValueError('x')\n")
    assert model_of(path).in_features == 4
    assert model_of(f"{path}:student").in_features == 2


BEFORE = {
    "n = int(input('width? '))": ("nobody answers `input()`", "n = 4"),
    "import os\nn = int(os.environ['A_WIDTH_NOBODY_SET'])": ("A_WIDTH_NOBODY_SET=…", "n = 4"),
    "import a_library_nobody_has\nn = 4": ("install what has `a_library_nobody_has`", "n = 4"),
    "n = int(open('a_file_nobody_has').read())": ("where the file is", "n = 4"),
    "import torch.distributed as dist\ndist.init_process_group('gloo')\nn = 4": (
        "one process plans",
        "n = 4",
    ),
    "n = torch.cuda.get_device_properties(99).major": ("torch.cuda.is_available()", "n = 4"),
    "n = {}['width']": ("build the model before this line", "n = 4"),
    "if len(sys.argv) < 2:\n    sys.exit('usage: model.py WIDTH')\nn = 4": ("__main__", "n = 4"),
}


@pytest.mark.parametrize("line", BEFORE)
def test_what_fails_before_the_model_is_refused_with_what_to_change(script, monkeypatch, line):
    monkeypatch.setattr("builtins.input", lambda _="": (_ for _ in ()).throw(EOFError()))
    words, instead = BEFORE[line]
    path = script("")
    path.write_text(f"{HEAD}{line}\nmodel = nn.Linear(n, 4)\n")
    finding = error(path)
    assert finding.code == "script-failed"
    assert words in finding.help
    assert finding.at is not None
    path.write_text(f"{HEAD}{instead}\nmodel = nn.Linear(n, 4)\n")
    assert model_of(path).in_features == 4


PLACES = {
    "an attribute": "class Run:\n    def __init__(self):\n        self.model = Net()\nrun = Run()",
    "a main guard": "def main():\n    print(Net())\nif __name__ == '__main__':\n    main()",
    "a partial": "import functools\nbuild = functools.partial(Net, width=8)",
    "a wrapper": "net = nn.DataParallel(Net())",
    "prints": "print('building')\nnet = Net()",
}


@pytest.mark.parametrize("place", PLACES)
def test_wherever_the_model_is_it_is_found(script, place):
    path = script("")
    net = "class Net(nn.Module):\n    def __init__(self, width=8):\n        super().__init__()\n"
    path.write_text(f"{HEAD}{net}        self.a = nn.Linear(width, 4)\n{PLACES[place]}\n")
    assert sum(p.numel() for p in model_of(path).parameters()) == 36
    result = run_command([str(path), "--memory", "cpu=1MiB", "-o", "-"])
    assert result.code == 0
    assert "building" not in result.out
