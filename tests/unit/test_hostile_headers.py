"""A file is believed as far as it goes; what reading takes is bounded by what is read."""

from __future__ import annotations

import json
import struct
import tracemalloc

import pytest
from compile_plan.compiler.sources.foreign_json import read_foreign_json
from compile_plan.compiler.sources.gguf_file import read_gguf
from compile_plan.compiler.sources.safetensors_header import read_header
from compile_plan.ir import Diagnostics, PlanError
from steps import counted
from tiny_gguf import write_gguf

MIB = 2**20
HUGE = 2**60


def text(word):
    return struct.pack("<Q", len(word)) + word


def field(kind, *, array=None, count=0, body=b""):
    head = b"" if array is None else struct.pack("<IQ", array, count)
    return text(b"k") + struct.pack("<I", kind) + head + body


def gguf(body, *, fields=1, tensors=0):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, fields) + body + bytes(4096)


WRONG = {
    "numbers without end": gguf(field(9, array=4, count=HUGE)),
    "bytes without end": gguf(field(9, array=0, count=HUGE)),
    "texts without end": gguf(field(9, array=8, count=HUGE)),
    "arrays without end": gguf(field(9, array=9, count=HUGE)),
    "a text without end": gguf(field(8, body=struct.pack("<Q", HUGE))),
    "fields without end": gguf(b"", fields=HUGE),
    "tensors without end": gguf(b"", fields=0, tensors=HUGE),
    "dimensions without end": gguf(text(b"t") + struct.pack("<I", 2**31), fields=0, tensors=1),
    "arrays in arrays": gguf(text(b"k") + struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 100),
    "an unknown kind": gguf(field(77)),
    "nothing": b"GGUF",
    "half a number": b"GGUF\3\0\0\0\1",
}


def bounded(work, nbytes):
    """Run something twice: its calls and its memory stay in proportion to the bytes."""
    result, calls = counted(work)
    assert calls < 20_000 + nbytes
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB + 16 * nbytes
    return result


@pytest.mark.parametrize("name", WRONG)
def test_a_gguf_file_that_announces_more_than_it_holds_is_refused(tmp_path, name):
    pytest.importorskip("gguf")
    path = tmp_path / "a.gguf"
    path.write_bytes(WRONG[name])

    def codes():
        with pytest.raises(PlanError) as caught:
            read_gguf(path, Diagnostics())
        return [found.code for found in caught.value.diagnostics]

    assert bounded(codes, len(WRONG[name])) == ["invalid-checkpoint"]


@pytest.mark.parametrize("file", ["a.safetensors", "a.gguf"])
@pytest.mark.parametrize(
    ("first", "help_"),
    [
        (b"version https://git-lfs.github.com/spec/v1", "fetch what it points to: `git lfs pull`"),
        (b"<!DOCTYPE html>", "download the file again"),
    ],
)
def test_text_in_the_place_of_weights_is_called_text(tmp_path, file, first, help_):
    path = tmp_path / file
    path.write_bytes(first + b"\nsize 12\n\xff")
    diagnostics = Diagnostics()
    if path.suffix == ".gguf":
        pytest.importorskip("gguf")
        with pytest.raises(PlanError) as caught:
            read_gguf(path, diagnostics)
        diagnostics.extend(caught.value.diagnostics)
    else:
        read_header(path, 0, diagnostics)
    (found,) = diagnostics.errors
    assert (found.code, found.help) == ("invalid-checkpoint", help_)
    assert found.message.endswith(f": it is text, which begins `{first.decode()}`")


def test_every_cut_of_a_gguf_file_is_refused(tmp_path):
    whole = write_gguf(tmp_path / "a.gguf").read_bytes()
    for end in range(4, 600, 7):
        (tmp_path / "b.gguf").write_bytes(whole[:end])
        with pytest.raises(PlanError):
            read_gguf(tmp_path / "b.gguf", Diagnostics())


BOMBS = {
    "lists": b"[" + b"[]," * MIB + b"[]]",
    "objects": b'{"a":[' + b"{}," * MIB + b"{}]}",
    "lists in lists": b"[" * (3 * MIB) + b"]" * (3 * MIB),
}


@pytest.mark.parametrize("name", BOMBS)
def test_json_that_is_mostly_brackets_is_not_parsed(tmp_path, name):
    path = tmp_path / "config.json"
    path.write_bytes(BOMBS[name])

    def refused():
        with pytest.raises(ValueError, match="lists and objects"):
            read_foreign_json(path)

    bounded(refused, len(BOMBS[name]))


@pytest.mark.parametrize("name", BOMBS)
def test_a_header_that_is_mostly_brackets_is_refused(tmp_path, name):
    header = b'{"__metadata__":' + BOMBS[name] + b"}"
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)

    def codes():
        found = Diagnostics()
        read_header(path, 0, found)
        return [each.code for each in found]

    assert bounded(codes, len(header)) == ["invalid-checkpoint"]


def test_the_densest_header_there_is_is_read(tmp_path):
    tensors = {f"{i:x}": {"dtype": "U8", "shape": [], "data_offsets": [i, i + 1]} for i in range(30_000)}
    header = json.dumps(tensors, separators=(",", ":")).encode()
    assert len(header) > MIB
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(len(tensors)))
    assert len(read_header(path, 0, Diagnostics())[0]) == len(tensors)


def test_brackets_in_a_small_file_are_its_own_affair(tmp_path):
    (tmp_path / "config.json").write_text("[[], [], {}]")
    assert read_foreign_json(tmp_path / "config.json") == [[], [], {}]
