"""Rules of tracing and of verified plans."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

BAD_EXAMPLE_INPUT: Final = Rule(
    "bad-example-input",
    Severity.ERROR,
    "an example input is not written as one",
    """\
An example input is a dtype with a shape in brackets, after its name if the model takes it by name.
Several are separated by commas or semicolons.

    --inputs "input_ids=int64[1,128]"
    --inputs "float32[1,3,224,224]"

Dtypes are torch's names; shapes are numbers.""",
)
DEVICES_MEET: Final = Rule(
    "devices-meet",
    Severity.ERROR,
    "an op would see tensors of two devices",
    """\
Replaying the forward under this plan, an op gets one tensor from one device and one from another.
On real hardware torch stops there with "Expected all tensors to be on the same device".

    place model.layers.0.self_attn on cuda:0
    place model.layers.0.mlp on cuda:1       # the layer adds both to its residual stream

Place the named modules together, or mark the module whose forward mixes them as atomic. A plan made
with a trace finds such modules by itself.""",
)
NO_EXAMPLE_INPUTS: Final = Rule(
    "no-example-inputs",
    Severity.WARNING,
    "the model's forward was not traced because there is nothing to call it with",
    """\
A trace runs the forward once on the meta device. Its inputs are made from a transformers config
where there is one; for any other model they have to be given.

    compile-plan model.py --inputs "float32[1,3,224,224]"

Without a trace the plan is made from the module tree: classes that must not be split have to be
listed, and activations and the KV cache are not in the ledger.""",
)
TRACE_FAILED: Final = Rule(
    "trace-failed",
    Severity.WARNING,
    "the model's forward does not run on the meta device",
    """\
Meta tensors have shapes and no values. A forward that branches on a value, or that uses an op without
a shape function, stops; the finding names the op and the module.

    if mask.any():      # a value of a meta tensor

The plan is made from the module tree instead. Other example inputs (without a mask, for instance)
often avoid the branch.""",
)
VERIFIED_PEAK_EXCEEDED: Final = Rule(
    "verified-peak-exceeded",
    Severity.WARNING,
    "running the plan needs more memory than a device has",
    """\
Weights fit, but at its highest point the forward also needs activations, a KV cache and copies of
streamed weights, and together they exceed the budget of the device.

    cuda:0 peaks at 10.4GiB in `model.layers.7`, it has 10.0GiB

Reserve the difference (`reserve 512MiB on cuda:0 for "activations"`), or plan with the batch and
sequence length you will run (`--batch`, `--seq`), which puts these bytes into the ledger.""",
)
WEIGHTS_AWAY: Final = Rule(
    "weights-away",
    Severity.ERROR,
    "an op uses the weights of a streamed unit that is not running",
    """\
A streamed unit has its weights on the device only while it is called. Here another module's forward
reads them without calling the unit.

    place embed on cpu run on cuda:0
    # and in the model's forward: functional.linear(x, self.embed.weight)

Keep the unit on the device that reads it, or place the module that reads it as one unit.""",
)

ALL: Final = (
    BAD_EXAMPLE_INPUT,
    DEVICES_MEET,
    NO_EXAMPLE_INPUTS,
    TRACE_FAILED,
    VERIFIED_PEAK_EXCEEDED,
    WEIGHTS_AWAY,
)
