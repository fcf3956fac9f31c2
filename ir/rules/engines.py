"""Rules about other engines: what of a plan they cannot be told, and what they print that cannot be read."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

ENGINE_CANNOT: Final = Rule(
    "engine-cannot",
    Severity.ERROR,
    "an engine would do something else than the plan says",
    """\
Engines that load models themselves know whole layers in one order, or parts of layers by patterns,
and not everything a plan can say. What would come out differently is refused before anything is
written.

    place model.layers.0 on cuda:1          # vLLM fills its ranks in order: layers 0.. on rank 0

`--for ENGINE` beside a model or a checkpoint plans within what the engine can be told.""",
)
ENGINE_LINE: Final = Rule(
    "engine-line",
    Severity.ERROR,
    "what an engine printed cannot be read",
    """\
`--read` takes the line that the engine's own planner prints: for llama.cpp the arguments that
`llama-fit-params` writes, such as `-c 4096 -ngl 33 -ts 20,13 -ot "blk\\.0\\.ffn_up_exps=CPU"`.

Give the whole line in quotes, and the devices it is for with `--memory`.""",
)
ENGINE_LOSES: Final = Rule(
    "engine-loses",
    Severity.WARNING,
    "an engine puts a part of the model elsewhere than the plan",
    """\
Some places are fixed in an engine: llama.cpp keeps the input embedding in the host's memory, vLLM
puts it on its first rank and the head on its last. The engine will do that whatever the plan says.

Place those parts where the engine puts them, so that the plan's ledger is what will happen.""",
)
UNKNOWN_ENGINE: Final = Rule(
    "unknown-engine",
    Severity.ERROR,
    "`--for` names no engine that is known here",
    """\
`--for` writes what another engine is told of a plan. The engines are llama.cpp, vllm, sglang, mlx-lm,
torchtitan, tabbyapi and transformers.

    compile-plan plan.msgpack --for llama.cpp""",
)

ALL: Final = (ENGINE_CANNOT, ENGINE_LINE, ENGINE_LOSES, UNKNOWN_ENGINE)
