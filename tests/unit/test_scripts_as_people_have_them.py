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
