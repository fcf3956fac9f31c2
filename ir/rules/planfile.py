"""Rules of plans in files: reading, writing, and what a form cannot hold."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

DEVICE_MAP_LOSES: Final = Rule(
    "device-map-loses",
    Severity.WARNING,
    "a device_map cannot say something this plan says",
    """\
A device_map of accelerate and transformers names the device that stores each module, nothing else.
Modules on `cpu` and `disk` always run on the first accelerator of the map, the folder of a disk
device is another argument, and one map describes one machine.

    place model.layers.9 on cpu run on cpu       # the map would stream it to cuda:0

Load the `.msgpack` or `.plan` file with `load_model`, which does what the plan says.""",
)
DEVICE_MAP_NEEDS_MODULES: Final = Rule(
    "device-map-needs-modules",
    Severity.ERROR,
    "a device_map cannot be made of this plan without its modules",
    """\
A device_map has no patterns and no nesting: every module is named. A plan with `*` in its paths
needs the names of the modules to be written as one.

    place model.layers.*.mlp on cuda:1

Compile the plan with its model (`compile-plan model.py --override FILE`), or write the names out.""",
)
DISK_FULL: Final = Rule(
    "disk-full",
    Severity.ERROR,
    "there is no space left to write the result",
    """\
The result is written beside its destination and renamed when it is whole, so a disk that is full
leaves what was there before untouched.

Free some space, or write to another disk.""",
)
FILE_TOO_LARGE: Final = Rule(
    "file-too-large",
    Severity.ERROR,
    "a file is too large to be a plan",
    """\
Plans of models with a million modules are a few dozen megabytes. A file of more than 1 GiB is
something else, most likely weights; it is not read.

Check the path: a folder of safetensors files is given as the folder.""",
)
INVALID_DEVICE_MAP: Final = Rule(
    "invalid-device-map",
    Severity.ERROR,
    "a JSON file is not a device_map",
    """\
A device_map is one JSON object from module names to devices. A device is a number (`0` is
`cuda:0`) or a name: `cpu`, `disk`, `mps`, `cuda:1`, `xpu:0`.

    {"model.embed_tokens": 0, "model.layers": "gpu7"}

Each name stands once, and no device is called `gpu7`: write `7` or `cuda:7`.""",
)
INVALID_PLAN_FILE: Final = Rule(
    "invalid-plan-file",
    Severity.ERROR,
    "a plan file is damaged or was not made by compile-plan",
    """\
A `.msgpack` plan starts with its format and version and carries a checksum, so that a damaged
download or an edit with another tool is noticed before anything is loaded by it. Everything in it
is checked as well: nothing in a plan file is ever executed.

Copy or compile the plan again. To edit a plan, convert it to text:
`compile-plan plan.msgpack -o plan.plan`.""",
)
IS_A_DIRECTORY: Final = Rule(
    "is-a-directory",
    Severity.ERROR,
    "a directory was given where a file is needed",
    """\
Plans are files. A folder is understood as an input when it holds a checkpoint, never as an output.

Name a file in the folder, `out/plan.msgpack`.""",
)
NO_SUCH_FILE: Final = Rule(
    "no-such-file",
    Severity.ERROR,
    "a file that should be read does not exist",
    """\
The path names nothing on this machine. Paths are relative to the current folder.

Check the spelling, or give the full path.""",
)
NO_SUCH_FOLDER: Final = Rule(
    "no-such-folder",
    Severity.ERROR,
    "the folder to write into does not exist",
    """\
Folders are not made on the way, so that a typing error does not scatter files.

Create it first: `mkdir -p out`.""",
)
NOT_A_PLAN_FILE: Final = Rule(
    "not-a-plan-file",
    Severity.ERROR,
    "a file is of another kind than its name says",
    """\
The file was read as a plan because of its suffix, but its first bytes are those of something
else: a pickle, a zip archive (`torch.save` makes those), safetensors, JSON, text. It is not opened any
further: pickles in particular can run code.

Give the plan, or rename the file to what it is (`.plan` for text, `.json` for a device_map).""",
)
NOT_TEXT: Final = Rule(
    "not-text",
    Severity.ERROR,
    "a text file is not UTF-8",
    """\
Plans as text are UTF-8. The file holds bytes that are not.

Save it as UTF-8. If it is a plan in binary form, give it the suffix `.msgpack`.""",
)
OTHER_VERSION: Final = Rule(
    "other-version",
    Severity.ERROR,
    "a plan file is of another version",
    """\
Each plan file says in its first bytes which version of the format it has. Versions are never
guessed: a field read wrongly would put weights in the wrong place.

Update compile-plan, or compile the plan again with this one.""",
)
PERMISSION_DENIED: Final = Rule(
    "permission-denied",
    Severity.ERROR,
    "a file may not be read or written",
    """\
The operating system refuses, because of the file's permissions, its folder's, or a read-only disk.

Change the permissions, or choose another place.""",
)
PLAN_TOO_LARGE: Final = Rule(
    "plan-too-large",
    Severity.ERROR,
    "the names in a plan are too long for a plan file",
    """\
Plan files can be read in bounded memory whatever is in them, so the paths of a plan have a limit:
65,535 characters each, and 512 on average in large plans. No model known comes near it.

Shorten the names of the modules, or keep the plan as text.""",
)
READ_FAILED: Final = Rule(
    "read-failed",
    Severity.ERROR,
    "a file could not be read",
    """\
The operating system reported an error that is neither a missing file nor a missing permission,
most often a failing disk or network share.

Copy the file to a local disk and try again.""",
)
UNKNOWN_FORM: Final = Rule(
    "unknown-form",
    Severity.ERROR,
    "a file name does not say which form of plan it is",
    """\
The form of a plan follows from the file's suffix: `.plan` text, `.msgpack` plan file, `.json`
device_map, `.html` report.

    compile-plan model.py -o plan.yaml

Use one of these suffixes.""",
)
UNPLACED_UNIT: Final = Rule(
    "unplaced-unit",
    Severity.ERROR,
    "a unit has no device yet",
    """\
A device_map, unlike a plan, cannot hold what is not placed yet.

    unit model.layers.3

Compile the plan first: `compile-plan plan.plan --memory 0=10GiB -o placed.json`.""",
)
WRITE_FAILED: Final = Rule(
    "write-failed",
    Severity.ERROR,
    "a file could not be written",
    """\
The operating system reported an error while the result was written. What was there before is
untouched.

Try another path.""",
)
WRITE_ONLY_FORM: Final = Rule(
    "write-only-form",
    Severity.ERROR,
    "a form of plan that can be written but not read was given as input",
    """\
Reports are made for people and leave out what only machines need.

Read the plan the report was made of, or keep both: `-o plan.msgpack`.""",
)

ALL: Final = (
    DEVICE_MAP_LOSES,
    DEVICE_MAP_NEEDS_MODULES,
    DISK_FULL,
    FILE_TOO_LARGE,
    INVALID_DEVICE_MAP,
    INVALID_PLAN_FILE,
    IS_A_DIRECTORY,
    NO_SUCH_FILE,
    NO_SUCH_FOLDER,
    NOT_A_PLAN_FILE,
    NOT_TEXT,
    OTHER_VERSION,
    PERMISSION_DENIED,
    PLAN_TOO_LARGE,
    READ_FAILED,
    UNKNOWN_FORM,
    UNPLACED_UNIT,
    WRITE_FAILED,
    WRITE_ONLY_FORM,
)
