"""Rules of the area `loading`: what stops a model from being loaded as its plan says."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

ABSENT_DEVICE: Final = Rule(
    "absent-device",
    Severity.ERROR,
    "the plan uses a device this machine does not have",
    """\
A plan may be compiled for hardware one does not own; loading it needs that hardware. Nothing has
been read when this is reported.

    device cuda:1 memory 24GiB
    place model.layers.{0..9} on cuda:1      # a machine with one card

Compile for the devices that are there, or say which device stands for it:
`load_model(plan, model, checkpoint, devices={"cuda:1": "cuda:0"})`.""",
)
ANOTHER_MODEL: Final = Rule(
    "another-model",
    Severity.ERROR,
    "the plan was compiled for a model with other tensors",
    """\
A plan records the names, shapes, dtypes and ties of the model it was compiled for. The model given
to the loader differs, so the plan may place what is not there and forget what is. The differences
are listed: added, removed, renamed, reshaped, retyped. Names that torch.compile, PEFT and data
parallelism put in front are seen through and are no difference.

Compile the plan again for this model, or build the model the plan is for.""",
)
CHANGED_CHECKPOINT: Final = Rule(
    "changed-checkpoint",
    Severity.ERROR,
    "a checkpoint file changed while it was read or served from",
    """\
The size or the modification time of a file differs from when its header was read, or another file
has taken its name, so the bytes would be of two different checkpoints. If it changed while the model
was loaded, the model has not been touched. If units on disk are served from the file, the forward
that needs them stops here; nothing is computed from the changed bytes.

Wait until whatever writes the checkpoint is done, then load again. To replace a file that is in use,
write the new one beside it and rename it over the old: the model keeps the old one.""",
)
COPIED_WHILE_STREAMING: Final = Rule(
    "copied-while-streaming",
    Severity.ERROR,
    "a model with streamed units cannot be copied or pickled",
    """\
A streamed unit is served by a thread, and on disk from the pages of the checkpoint's files. A copy by
`copy.deepcopy`, or a pickle by `torch.save(model)`, would have to read all of it into memory.

Load a second model by the same plan: both are served from the same pages. To save weights, save the
`state_dict()`. Or take the hooks away first with `release_model(model)`: then it is an ordinary model
whose weights are where they are stored, and copying it takes memory for all of them.""",
)
DISK_NEEDS_CONVERSION: Final = Rule(
    "disk-needs-conversion",
    Severity.ERROR,
    "a unit is planned for disk, but no file holds its tensors as the model has them",
    """\
Units on disk are served from the checkpoint's own files. Some published checkpoints hold one tensor
per expert where today's class has one for all experts; such a tensor lies in no file in one piece.

Save the model once in its own layout and load from there:
`model.save_pretrained(FOLDER, save_original_format=False)`. Units in memory are converted while
they are read and need no such step.""",
)
DISK_WITHOUT_CHECKPOINT: Final = Rule(
    "disk-without-checkpoint",
    Severity.ERROR,
    "a unit is planned for disk but there are no files to serve it from",
    """\
Units on disk are served from the checkpoint's own files, in place; nothing is copied. A model that
was built in memory has no such files.

Save the model first (`save_pretrained`, or safetensors' `save_model`) and pass the folder as
`checkpoint`, or compile a plan without a disk.""",
)
FORKED_WHILE_STREAMING: Final = Rule(
    "forked-while-streaming",
    Severity.ERROR,
    "a process forked from the one that loaded a model cannot stream to an accelerator",
    """\
A process that is made by forking, as data loaders and some web servers do, has the memory of its parent
and not its connection to the card: torch refuses every use of the card there. A model whose streamed
units run on the host goes on working in the child.

Start processes with `multiprocessing.get_context("spawn")`, or load the model after forking.""",
)
FOREIGN_HOOKS: Final = Rule(
    "foreign-hooks",
    Severity.ERROR,
    "another library already moves the weights of the model",
    """\
accelerate, diffusers and deepspeed put hooks on modules that bring weights before a call and take them
away after it. They would go on doing so, with the weights they know.

    model = AutoModelForCausalLM.from_pretrained(folder, device_map="auto")   # has hooks of accelerate
    load_model(plan, model, folder)

Build the model without them, on the meta device: `load_pretrained(folder, plan)` does.""",
)
IGNORED_TENSOR: Final = Rule(
    "ignored-tensor",
    Severity.WARNING,
    "the checkpoint has tensors the model does not have",
    """\
With `strict=False` these are skipped. They cost nothing; make sure that they belong to a part of
the model that was left out on purpose, such as a head for another task.""",
)
KEPT_TENSOR: Final = Rule(
    "kept-tensor",
    Severity.WARNING,
    "the checkpoint lacks tensors, and the model's own values are kept",
    """\
With `strict=False` a tensor that the checkpoint lacks keeps the value it has on the model, or the
value `materialize` returns for it. A fresh head is trained from there; anything else is a mistake
in the names.""",
)
LARGER_THAN_PLANNED: Final = Rule(
    "larger-than-planned",
    Severity.WARNING,
    "weights are loaded in a larger dtype than the plan counted",
    """\
A plan made from bfloat16 weights counts two bytes for each; a model that was built in float32 takes four.

    plan = compile_plan("checkpoint-bf16")
    load_model(plan, model_in_float32, "checkpoint-bf16")

Pass `dtype="bfloat16"`, build the model in it, or compile the plan for the model.""",
)
NO_MEMORY: Final = Rule(
    "no-memory",
    Severity.ERROR,
    "a device has less free memory than the plan puts on it",
    """\
The bytes that would be loaded on a device exceed what is free there now. This is checked before
reading, so that nothing else on the machine is pushed out of memory half way.

Free the memory, or compile the plan again: without `--memory` the compiler uses what is free.""",
)
OPAQUE_WEIGHTS: Final = Rule(
    "opaque-weights",
    Severity.ERROR,
    "a tensor of a class of its own is planned to be streamed",
    """\
Libraries for quantisation (torchao, quanto, bitsandbytes) keep weights as tensors of their own classes:
packed numbers, scales and what to do with them, in parts that torch does not show as one piece of memory.
Streaming moves memory, so it would lose what the class adds. Plain tensors stream in every dtype, 8-bit
floats with their scales too.

    place model.layers.3 on cpu run on cuda:0     # its weights were quantised by torchao

Place such modules where they run (`place model.layers.3 on cuda:0`), or quantise after loading.""",
)
OTHER_HOST: Final = Rule(
    "other-host",
    Severity.ERROR,
    "the plan places units on another machine",
    """\
Devices named `node1/cuda:0` belong to several machines, which takes one process on each. A single
process loads only plans of its own machine.

    place model.layers.{0..9} on node1/cuda:0

Compile for the devices of this machine, or say which device stands for it:
`load_model(plan, model, checkpoint, devices={"node1/cuda:0": "cuda:0"})`.""",
)
TENSOR_NOT_IN_CHECKPOINT: Final = Rule(
    "tensor-not-in-checkpoint",
    Severity.ERROR,
    "the checkpoint lacks tensors of the model",
    """\
Every parameter and persistent buffer is filled from the checkpoint, directly or through a tensor
it is tied to. These are found nowhere. All of them are named before a byte is read.

Check that the checkpoint is for this class of model. If the tensors are meant to be new, build the
model with real values for them and pass `strict=False`, or give `materialize` a function that
returns them.""",
)
TENSOR_NOT_IN_MODEL: Final = Rule(
    "tensor-not-in-model",
    Severity.ERROR,
    "the checkpoint has tensors the model does not have",
    """\
Tensors without a home usually mean that the checkpoint is for another class of model, or quantised
with tensors this class does not know. All of them are named before a byte is read.

Build the class the checkpoint is for, or pass `strict=False` to skip them.""",
)
TIED_TENSORS_DIFFER: Final = Rule(
    "tied-tensors-differ",
    Severity.ERROR,
    "tensors the model ties are stored with different values",
    """\
The model has one tensor under two names; the checkpoint has one for each, and their bytes differ.
Whichever were taken, the other would be lost. Equal copies are fine.

Build the model untied (`tie_word_embeddings=False` in a transformers configuration), or store the
checkpoint again with the tensors tied.""",
)
UNFILLED_TENSOR: Final = Rule(
    "unfilled-tensor",
    Severity.ERROR,
    "a tensor is in no checkpoint and cannot be made again",
    """\
Buffers registered with `persistent=False` are in no checkpoint: the module's constructor makes
them. On a model built on the meta device that value is gone, and here neither the model's own
initialisation nor running the module's constructor again brought it back. Uninitialised memory is
never handed out.

Pass `materialize=function`: it is called with the path and the meta tensor and returns the value.
Or build the model on the CPU, where its constructor makes the buffer.""",
)
UNREADABLE_WEIGHTS: Final = Rule(
    "unreadable-weights",
    Severity.ERROR,
    "a tensor's bytes could not be read",
    """\
The operating system refused or shortened a read: a failing disk, a network share that went away, a
file cut short meanwhile. The message names the file and the tensor; the model has not been touched.

Check the file, download it again if it is damaged, and load again.""",
)
WRONG_DTYPE: Final = Rule(
    "wrong-dtype",
    Severity.ERROR,
    "a tensor in the checkpoint is of another kind than the model's",
    """\
Floating point numbers are converted to the model's precision on the way. Integers, booleans, 8-bit
floats and packed weights are not: as plain numbers they would be nonsense.

Build the model with the quantisation the checkpoint was made with, or use another checkpoint.""",
)
WRONG_SHAPE: Final = Rule(
    "wrong-shape",
    Severity.ERROR,
    "a tensor in the checkpoint has another shape than the model's",
    """\
    model       lm_head.weight [32000, 4096]
    checkpoint  lm_head.weight [32064, 4096]

Build the model from the configuration beside the checkpoint, or resize it before loading.""",
)

NEW_TENSOR: Final = Rule(
    "new-tensor",
    Severity.WARNING,
    "the checkpoint lacks tensors, and the model's class makes them anew",
    """\
Heads for a new task, positions that follow from a formula and buffers with a fixed value need not be in a
checkpoint: transformers initialises them, and so does the loader, by the model's own initialisation.

A head that was initialised has to be trained before its output means anything. If you expected it in the
checkpoint, the class or the names are wrong.""",
)
QUANTISED_CHECKPOINT: Final = Rule(
    "quantised-checkpoint",
    Severity.ERROR,
    "quantised weights cannot be read into a plain model",
    """\
Packed weights, scales and zero points are no tensors of the class that `config.json` names; the library
that wrote them puts layers of its own into the model first.

    {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}}

`load_pretrained(FOLDER, plan)` lets transformers' own quantizer load such a folder by the plan.""",
)
UNTIED_TENSORS: Final = Rule(
    "untied-tensors",
    Severity.WARNING,
    "the checkpoint has its own values for a tensor that the model ties",
    """\
Some classes tie the head to the embedding whatever their configuration says, and some checkpoints (T5 v1.1)
have a head of their own. transformers then does not tie them, and neither does the loader: the tensor goes
where its own path is planned.""",
)

ALL: Final = (
    NEW_TENSOR,
    QUANTISED_CHECKPOINT,
    UNTIED_TENSORS,
    ABSENT_DEVICE,
    ANOTHER_MODEL,
    CHANGED_CHECKPOINT,
    COPIED_WHILE_STREAMING,
    FORKED_WHILE_STREAMING,
    DISK_NEEDS_CONVERSION,
    DISK_WITHOUT_CHECKPOINT,
    FOREIGN_HOOKS,
    IGNORED_TENSOR,
    KEPT_TENSOR,
    LARGER_THAN_PLANNED,
    NO_MEMORY,
    OPAQUE_WEIGHTS,
    OTHER_HOST,
    TENSOR_NOT_IN_CHECKPOINT,
    TENSOR_NOT_IN_MODEL,
    TIED_TENSORS_DIFFER,
    UNFILLED_TENSOR,
    UNREADABLE_WEIGHTS,
    WRONG_DTYPE,
    WRONG_SHAPE,
)
