"""The language server as an editor meets it: a process, its pipes, one session after the other."""

from __future__ import annotations

import os

import pytest
from command import run_command
from lsp_session import RefusedError, Session

MODEL = """\
device cuda:0 memory 8KiB
device cpu memory 64KiB
module model.layers.{0..3} : Block 1KiB
module lm_head : Linear 2KiB
place model on cuda:0
place lm_head on cuda:0
"""


@pytest.fixture
def session(tmp_path):
    (tmp_path / "full.plan").write_text(MODEL)
    assert run_command(["full.plan", "-o", "edits.msgpack", "-q"], cwd=tmp_path).code == 0
    with Session(tmp_path) as opened:
        yield opened
    assert opened.code == 0


def test_a_session_from_the_first_mistake_to_a_clean_file(session):
    text = "# ünd 🙂\nplace model.layerz.0   on cpu # 🙂\n"
    (found,) = session.open("edits.plan", text)
    assert (found["code"], found["severity"]) == ("unknown-path", 1)
    assert found["range"] == {"start": {"line": 1, "character": 0}, "end": {"line": 1, "character": 29}}
    (action,) = session.ask(
        "textDocument/codeAction",
        {
            "textDocument": {"uri": session.uri("edits.plan")},
            "range": found["range"],
            "context": {"diagnostics": [found]},
        },
    )
    assert action["title"] == "Change to `model.layers.0`"
    text = edited(text, action["edit"]["changes"][session.uri("edits.plan")])
    assert session.change("edits.plan", text) == []
    (edit,) = session.ask(
        "textDocument/formatting",
        {"textDocument": {"uri": session.uri("edits.plan")}, "options": {"tabSize": 4, "insertSpaces": True}},
    )
    assert edited(text, [edit]) == "# ünd 🙂\nplace model.layers.0 on cpu  # 🙂\n"


def test_completion_hover_and_rename_use_the_plan_beside_the_file(session):
    session.open("edits.plan", "# 🙂\nplace model.layers.0 on cuda:0\nplace lm_h\n")
    assert [each["label"] for each in session.at("completion", "edits.plan", 2, 10)] == ["lm_head"]
    shown = session.at("hover", "edits.plan", 1, 8)
    assert shown["contents"]["value"].startswith("**model.layers.0**\n\n- is: Block, 1.0KiB")
    assert "6.0KiB taken, 2.0KiB free" in session.at("hover", "edits.plan", 1, 26)["contents"]["value"]
    assert session.at("hover", "edits.plan", 0, 2) is None
    edits = session.at("rename", "edits.plan", 1, 26, newName="cpu")
    (edit,) = edits["changes"][session.uri("edits.plan")]
    assert (edit["newText"], edit["range"]["start"]) == ("cpu", {"line": 1, "character": 24})
    with pytest.raises(RefusedError, match="not the name of a device"):
        session.at("rename", "edits.plan", 1, 26, newName="my gpu")


def test_bytes_and_room_are_shown_above_a_line(session):
    assert session.capabilities["codeLensProvider"] == {"resolveProvider": False}
    session.open("edits.plan", "# 🙂\nplace model.layers.{0..2} on cuda:0  # 🙂\n")
    document = {"textDocument": {"uri": session.uri("edits.plan")}}
    (lens,) = session.ask("textDocument/codeLens", document)
    assert lens["command"] == {"title": "3.0KiB · 5.0KiB left on cuda:0", "command": ""}
    assert lens["range"] == {"start": {"line": 1, "character": 0}, "end": {"line": 1, "character": 35}}
    session.change("edits.plan", "place model.layers.{0..2} on cpu\n")
    (lens,) = session.ask("textDocument/codeLens", document)
    assert lens["command"]["title"] == "3.0KiB · 61.0KiB left on cpu"


def test_an_editor_that_can_is_told_to_ask_for_the_lenses_again(tmp_path):
    with Session(tmp_path, workspace={"codeLens": {"refreshSupport": True}}) as opened:
        opened.open("a.plan", "place x on cpu\n")
        opened.tell("textDocument/didSave", {"textDocument": {"uri": opened.uri("a.plan")}})
        assert opened.heard("workspace/codeLens/refresh")


def test_closing_a_text_takes_its_findings_away(session):
    assert session.open("edits.plan", "plcae a\n")
    session.tell("textDocument/didClose", {"textDocument": {"uri": session.uri("edits.plan")}})
    assert session.findings("edits.plan") == []


def test_a_new_companion_is_seen_when_a_file_is_saved(session):
    assert session.open("edits.plan", "place extra on cpu\n")[0]["code"] == "unknown-path"
    (session.folder / "full.plan").write_text(f"{MODEL}module extra : Linear 1KiB\nplace extra on cpu\n")
    assert run_command(["full.plan", "-o", "edits.msgpack", "-q"], cwd=session.folder).code == 0
    session.tell("textDocument/didSave", {"textDocument": {"uri": session.uri("edits.plan")}})
    assert session.findings("edits.plan") == []


def test_an_editor_may_count_in_utf8(tmp_path):
    with Session(tmp_path, encodings=("utf-8",)) as opened:
        (found,) = opened.open("a.plan", 'place "🙂🙂" on gpux\n')
    assert found["range"]["start"]["character"] == len('place "🙂🙂" on '.encode())


def test_without_pygls_the_command_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pygls.lsp.server", None)
    monkeypatch.setitem(sys.modules, "pygls", None)
    monkeypatch.delitem(sys.modules, "compile_plan.compiler.lsp.server", raising=False)
    result = run_command(["--lsp"])
    assert result.code == 2
    assert "error[missing-extra]" in result.err
    assert "pip install 'compile-plan[lsp]'" in result.err


def edited(text, edits):
    """Apply an editor's edits, columns counted in UTF-16."""

    def offset(place):
        lines = text.split("\n")
        row = lines[place["line"]].encode("utf-16-le")[: 2 * place["character"]].decode("utf-16-le")
        return sum(len(line) + 1 for line in lines[: place["line"]]) + len(row)

    places = [
        (offset(each["range"]["start"]), offset(each["range"]["end"]), each["newText"]) for each in edits
    ]
    for start, end, new in sorted(places, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def test_a_companion_that_is_a_pipe_or_a_device_is_none(session, tmp_path):
    os.mkfifo(tmp_path / "pipe.msgpack")
    (tmp_path / "zero.msgpack").symlink_to("/dev/zero")
    for name in ("pipe.msgpack", "zero.msgpack", "/dev/zero", "/dev/stdin"):
        assert session.open(f"a{len(name)}.plan", f"# model: {name}\nplace nothing on cpu\n") == []
    (tmp_path / "edits.msgpack").unlink()
    assert session.open("other.plan", "place nothing on cpu\n") == []


def test_an_answer_does_not_wait_for_a_check(session):
    session.open("edits.plan", "place lm_h\n")
    session.at("completion", "edits.plan", 0, 10)
    rows = "# model: none\n" + "".join(f"place a.{{0..99}}.b{i} on cpu\n" for i in range(2_000))
    document = {"uri": session.uri("long.plan"), "languageId": "plan", "version": 1, "text": rows}
    session.tell("textDocument/didOpen", {"textDocument": document})
    assert [each["label"] for each in session.at("completion", "edits.plan", 0, 10)] == ["lm_head"]
    assert not session.heard_of("long.plan")
    assert session.findings("long.plan") == []
