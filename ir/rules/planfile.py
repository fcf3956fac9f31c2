"""Rules of plans in files: reading, writing, and what a form cannot hold."""

from __future__ import annotations

from typing import Final

from ..diagnostic import Rule, Severity

DEVICE_MAP_LOSES: Final = Rule(
    "device-map-loses", Severity.WARNING, "a device_map cannot say something this plan says"
)
DEVICE_MAP_NEEDS_MODULES: Final = Rule(
    "device-map-needs-modules", Severity.ERROR, "a device_map cannot be made of this plan without its modules"
)
DISK_FULL: Final = Rule("disk-full", Severity.ERROR, "there is no space left to write the result")
FILE_TOO_LARGE: Final = Rule("file-too-large", Severity.ERROR, "a file is too large to be a plan")
INVALID_DEVICE_MAP: Final = Rule("invalid-device-map", Severity.ERROR, "a JSON file is not a device_map")
INVALID_PLAN_FILE: Final = Rule(
    "invalid-plan-file", Severity.ERROR, "a plan file is damaged or was not made by compile-plan"
)
IS_A_DIRECTORY: Final = Rule("is-a-directory", Severity.ERROR, "a directory was given where a file is needed")
NO_SUCH_FILE: Final = Rule("no-such-file", Severity.ERROR, "a file that should be read does not exist")
NO_SUCH_FOLDER: Final = Rule("no-such-folder", Severity.ERROR, "the folder to write into does not exist")
NOT_A_PLAN_FILE: Final = Rule(
    "not-a-plan-file", Severity.ERROR, "a file is of another kind than its name says"
)
NOT_TEXT: Final = Rule("not-text", Severity.ERROR, "a text file is not UTF-8")
OTHER_VERSION: Final = Rule("other-version", Severity.ERROR, "a plan file is of another version")
PERMISSION_DENIED: Final = Rule("permission-denied", Severity.ERROR, "a file may not be read or written")
PLAN_TOO_LARGE: Final = Rule(
    "plan-too-large", Severity.ERROR, "the names in a plan are too long for a plan file"
)
READ_FAILED: Final = Rule("read-failed", Severity.ERROR, "a file could not be read")
UNKNOWN_FORM: Final = Rule(
    "unknown-form", Severity.ERROR, "a file name does not say which form of plan it is"
)
UNPLACED_UNIT: Final = Rule("unplaced-unit", Severity.ERROR, "a unit has no device yet")
WRITE_FAILED: Final = Rule("write-failed", Severity.ERROR, "a file could not be written")
WRITE_ONLY_FORM: Final = Rule(
    "write-only-form", Severity.ERROR, "a form of plan that can be written but not read was given as input"
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
