"""Every option of the command beside every kind of input: obeyed, or refused with a code (F32)."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import pytest
from command import run_command
from compile_plan.compiler.cli.arguments import FLAGS
from tiny_gguf import write_gguf

TABLE = """\
module layers : ModuleList
module layers.0 : Linear 4KiB
module layers.1 : Linear 4KiB
"""
PLAN = f"""\
plan 1
model "small"
device cuda:0 memory 10KiB
device cpu memory 1MiB
{TABLE}place layers.0 on cuda:0
place layers.1 on cpu run on cpu
"""
SCRIPT = "from torch import nn\nmodel = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))\n"
BUDGETS = ("--memory", "cuda:0=64KiB,cpu=1MiB")
INPUTS = {
    "script": ("script.py", *BUDGETS),
    "config": ("config", *BUDGETS),
    "folder": ("folder", *BUDGETS),
    "one file": ("folder/model.safetensors", *BUDGETS),
    "gguf": ("model.gguf", *BUDGETS),
    "text": ("table.plan",),
    "text without modules": ("bare.plan",),
    "half-placed text": ("half.plan",),
    "msgpack": ("plan.msgpack",),
    "device map": ("map.json",),
    "report": ("plan.msgpack", "--to", "html"),
}
VALUES = {
    "to": "html", "for": "llama.cpp", "read": "x", "format": "json", "memory": "cuda:0=40KiB,cpu=1MiB",
    "reserve": "cuda:0=1KiB", "margin": "1KiB", "runtime": "1KiB", "kv_cache": "1KiB", "dtype": "float16",
    "override": "more.plan", "no_split": "Linear", "strategy": "balanced", "objective": "balance",
    "offload": "compute", "time_limit": "5", "workload": "forward", "rows": "2", "prompt": "7",
    "generate": "9", "optimizer": "sgd", "inputs": "float32[1,8]", "batch": "2", "seq": "8",
    "cache_tokens": "8", "explain": "layers.0", "print_after": "all", "passes": "merge-ties", "save": "x",
    "diff": "x", "explain_code": "bad-usage", "format_plan": "x", "completion": "bash", "machine": "x",
}  # fmt: skip
APART = {
    "lsp", "help", "help_all", "version", "output", "calibrate", "codes", "format_plan", "diff", "completion",
    "explain_code",
}  # fmt: skip
"""Commands of their own (`test_effects.py` has what may stand beside them), and where the result goes."""
PRESENTATION = {"all", "quiet", "color", "check", "try"}
"""How findings look, which a run without any does not show; and what needs weights."""
PERMITTED = {("config", "trust_remote_code")}
"""Leave to run code that the folder does not hold is no claim that it does."""
SAID_ALREADY = {
    ("text without modules", "passes"),
    ("device map", "passes"),
    ("report", "passes"),
    ("report", "to"),
}
"""The listed pass runs and has nothing to change; the report is a report already."""
OPTIONS = {flag.names[-1]: flag for flag in FLAGS if flag.destination not in APART | PRESENTATION}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("transformers")
    from safetensors.torch import save_file
    from torch import ones
    from transformers import LlamaConfig

    path = tmp_path_factory.mktemp("inputs")
    (path / "table.plan").write_text(PLAN)
    (path / "bare.plan").write_text(PLAN.replace(TABLE, ""))
    (path / "half.plan").write_text(PLAN.replace("place layers.1 on cpu run on cpu", "unit layers.1"))
    (path / "more.plan").write_text("reserve 2KiB on cuda:0\n")
    (path / "map.json").write_text(json.dumps({"layers.0": 0, "layers.1": "cpu"}))
    (path / "script.py").write_text(SCRIPT)
    write_gguf(path / "model.gguf")
    (path / "folder").mkdir()
    save_file({f"layers.{i}.weight": ones(8, 8) for i in range(2)}, path / "folder" / "model.safetensors")
    small = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    kind = {"vocab_size": 64, "num_hidden_layers": 2, "architectures": ["LlamaForCausalLM"]}
    LlamaConfig(**small, **kind).save_pretrained(path / "config")
    assert run_command(["table.plan", "-o", "plan.msgpack"], cwd=path).code == 0
    return path


@cache
def outcome(folder: Path, *arguments: str):
    return run_command(arguments, cwd=folder)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", INPUTS)
def test_each_option_changes_what_comes_out_or_is_refused_with_a_code(kind, option, folder):
    name, given = OPTIONS[option].destination, INPUTS[kind]
    plain = outcome(folder, *given, "-o", "-")
    value = (VALUES[name],) if name in VALUES else ()
    shown = name in {"for", "read", "explain", "passes"}
    target = () if shown else ("-o", "x.plan" if name == "format" else "-")
    budgeted = name in {"memory", "machine"} and given[1:] == BUDGETS
    asked = given[:1] if budgeted else given
    result = run_command([*asked, option, *value, *target], cwd=folder)
    codes = set(re.findall(r"^error\[([a-z-]+)\]", result.err, re.MULTILINE))
    assert "internal-error" not in codes, result.err
    assert (result.code == 0) != bool(codes), result.err
    if (kind, name) not in PERMITTED | SAID_ALREADY:
        assert (result.code, result.out, result.err) != (plain.code, plain.out, plain.err)
