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
LOST_WRITE: Final = Rule(
    "lost-write",
    Severity.ERROR,
    "a module would write into a copy of its argument, and the original is used later",
    """\
A unit that runs elsewhere gets copies of its arguments. What its forward writes into one in place does
not reach the original; on one device both are the same tensor. Nothing fails, the result is wrong.

    place decoder.embed on cuda:0
    place decoder.adapter on cuda:1     # its forward: total.add_(self.inner(x))

Keep the module whole that hands the tensor over, or let the forward return what it computes. A plan made
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
Meta tensors have shapes and no values. A forward that does not take the inputs, that cannot go on with
assumed values, or that uses an op without a shape function stops; the finding names the op and the module.

    parts = x.split(sizes.tolist())     # sizes depend on weights and must add up

The plan is made from the module tree instead. Other example inputs (without a mask, for instance)
often avoid the branch.""",
)
TRACED_WITHOUT_CACHE: Final = Rule(
    "traced-without-cache",
    Severity.WARNING,
    "the model's forward runs on the meta device only without its KV cache",
    """\
Inputs made from a transformers config leave the cache to the model. Where the forward stops with it and
runs with `use_cache=False`, the trace is of the latter: cuts and activations are right, but the ledger
has no line for the cache.

    reserve 2GiB on cuda:0 for "kv cache"

Reserve what generating needs, or give inputs with which the forward runs as you call it.""",
)
VALUES_ASSUMED: Final = Rule(
    "values-assumed",
    Severity.WARNING,
    "the forward asks for values that depend on weights, and they were assumed",
    """\
A trace has shapes and no weights. Values that follow from the inputs are known; where a forward insists
on one that depends on weights, it goes on with an assumed one.

    counts = router(x).topk(2).indices.bincount()
    parts = x.split(counts.tolist())        # how many tokens each expert gets

Choices are taken in turn, so every expert has its share; a number that is asked for is one, a question
is answered no. Where the forward would go another way, its activations differ from the ledger's. What
the forward did not run stays whole.""",
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

Keep the unit on the device that reads it, or write `never embed on streaming`; a plan made from a trace
(`--inputs`, `--batch`) has that line already.""",
)

ALL: Final = (
    BAD_EXAMPLE_INPUT,
    DEVICES_MEET,
    LOST_WRITE,
    NO_EXAMPLE_INPUTS,
    TRACE_FAILED,
    TRACED_WITHOUT_CACHE,
    VALUES_ASSUMED,
    VERIFIED_PEAK_EXCEEDED,
    WEIGHTS_AWAY,
)
