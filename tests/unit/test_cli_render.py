"""What diagnostics look like: carets under what is meant, whatever the line holds."""

from __future__ import annotations

import json

import pytest
from compile_plan.compiler.cli.render import by_place, fold, render, render_json, render_line, summary
from compile_plan.compiler.cli.terminal import cell_width, clip, wants_color, wrap
from compile_plan.ir import Diagnostic, Label, Rule, Severity, Source, Span
from compile_plan.ir.changes import AddLine, Exchange, Fix, RemoveLine, RenamePrefix, Rewrite, WriteLine
from compile_plan.ir.visible import visible

WRONG = Rule("wrong-thing", Severity.ERROR, "a thing is wrong")
ODD = Rule("odd-thing", Severity.WARNING, "a thing is odd")


def pointing(text, word, *, name="a.plan", rule=WRONG, label="here", also=()):
    start = text.index(word)
    span = Span(Source(name, text), start, start + len(word))
    return Diagnostic(rule, f"`{word}` is wrong", Label(span, label), also)


def under_caret(rendered):
    """Return the part of the source line that is shown above the carets, counted in columns."""
    lines = rendered.splitlines()
    row = next(i for i, line in enumerate(lines) if "^" in line)
    start = lines[row].index("^")
    columns = range(start, start + lines[row].count("^"))
    above = lines[row - 1]
    return "".join(char for i, char in enumerate(above) if cell_width(above[:i]) in columns)


def test_a_diagnostic_has_headline_place_line_caret_note_and_help():
    source = Source("llama.plan", "device cpu\nplace a on cuda:2\n")
    found = Diagnostic(
        WRONG,
        "no device is named `cuda:2`",
        Label(Span(source, 22, 28), "not declared"),
        notes=("declared here is `cpu`",),
        help="place it on `cpu`",
    )
    assert render([found]) == (
        "error[wrong-thing]: no device is named `cuda:2`\n"
        " --> llama.plan:2:12\n"
        "  |\n"
        "2 | place a on cuda:2\n"
        "  |            ^^^^^^ not declared\n"
        "  = note: declared here is `cpu`\n"
        "  = help: place it on `cpu`\n"
    )


@pytest.mark.parametrize("before", ["", "\t\t", "a\tb ", "e\u0301 ", "世界 ", "\x1b[31m", "\u202e"])
def test_carets_are_under_the_word_whatever_precedes_it(before):
    assert under_caret(render([pointing(f"{before}word after\n", "word")])) == "word"


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("column", [0, 50, 500, 990])
def test_a_long_line_is_cut_around_the_caret_and_fits(width, column):
    text = f"{'a' * column} word {'b' * (1000 - column)}"
    rendered = render([pointing(text, "word", label="")], width=width)
    assert under_caret(rendered) == "word"
    assert max(cell_width(line) for line in rendered.splitlines()) <= width


def test_a_caret_at_the_end_of_the_text_is_past_the_last_character():
    source = Source("a.plan", "place a on")
    rendered = render([Diagnostic(WRONG, "x", Label(Span(source, 10, 10)))])
    assert "1 | place a on\n  |           ^\n" in rendered


def test_a_span_over_several_lines_marks_the_first_to_its_end():
    source = Source("a.plan", "one two\nthree")
    rendered = render([Diagnostic(WRONG, "x", Label(Span(source, 4, 13)))])
    assert under_caret(rendered) == "two"


def test_other_places_are_shown_in_order_with_what_is_between():
    text = "first\nbetween\nlast\n"
    other = Label(Span(Source("a.plan", text), 0, 5), "declared here")
    rendered = render([pointing(text, "last", also=(other,))])
    assert rendered.splitlines()[3:] == [
        "1 | first",
        "  | ----- declared here",
        "2 | between",
        "3 | last",
        "  | ^^^^ here",
    ]


def test_lines_far_apart_have_dots_between_and_a_gutter_for_the_widest_number():
    text = "first\n" + "\n" * 98 + "last\n"
    other = Label(Span(Source("a.plan", text), 0, 5))
    rendered = render([pointing(text, "last", also=(other,))])
    assert "  1 | first\n    | -----\n...\n100 | last\n    | ^^^^ here\n" in rendered


def test_another_file_has_its_own_block():
    other = Label(Span(Source("b.plan", "x\nfoo"), 2, 5), "also here")
    rendered = render([pointing("word", "word", also=(other,))])
    assert " ::: b.plan:2:1\n  |\n2 | foo\n  | --- also here\n" in rendered


def test_nothing_that_steers_a_terminal_gets_through():
    evil = "\x1b[2J\r\x07\u202e\u2028\x85\udc80"
    found = Diagnostic(WRONG, evil, notes=(evil,), help=evil)
    located = pointing(f"{evil} word", "word", name=f"{evil}.plan", label=evil)
    text = render([found, located])
    assert {char for char in text if not char.isprintable()} == {"\n"}
    assert text.encode("utf-8")


def test_a_message_with_a_line_break_stays_on_its_line():
    assert render([Diagnostic(WRONG, "a\nb")]) == "error[wrong-thing]: a\\nb\n"


def test_a_note_may_have_lines():
    rendered = render([Diagnostic(WRONG, "x", notes=("one\ntwo",))])
    assert rendered.endswith("  = note: one\n          two\n")


def test_a_terminal_width_breaks_text_at_blanks():
    found = Diagnostic(WRONG, "many words " * 12, notes=("many words " * 12,), help="many words " * 12)
    assert max(map(len, render([found], width=60).splitlines())) <= 60
    assert max(map(len, render([found]).splitlines())) > 60


def test_diagnostics_come_by_file_offset_severity_code():
    text = "one two three\n"
    found = [
        pointing(text, "two", name="b.plan"),
        pointing(text, "two", rule=ODD),
        pointing(text, "two"),
        pointing(text, "one"),
        Diagnostic(ODD, "nowhere"),
    ]
    assert by_place(found) == [found[4], found[3], found[2], found[1], found[0]]


def test_more_than_three_warnings_of_a_code_become_one_with_a_count():
    three = [Diagnostic(ODD, str(i)) for i in range(3)]
    assert fold(three) == three
    four = [*three, Diagnostic(ODD, "3")]
    assert [d.message for d in fold(four)] == ["0"]
    assert "3 more warnings say `odd-thing`; `--all` shows them" in render(four)
    assert render(four, unfold=True).count("warning[odd-thing]") == 4


def test_errors_are_never_folded():
    assert len(fold([Diagnostic(WRONG, str(i)) for i in range(9)])) == 9


def test_the_summary_counts_all_of_them_folded_or_not():
    found = [Diagnostic(WRONG, "a"), Diagnostic(WRONG, "b"), *(Diagnostic(ODD, str(i)) for i in range(5))]
    assert summary(found) == "2 errors, 5 warnings"
    assert render(found).endswith("\n2 errors, 5 warnings\n")
    assert render([]) == ""


def test_colour_adds_escapes_and_changes_nothing_else():
    import re

    found = [pointing("a word\n", "word"), Diagnostic(ODD, "b", help="c")]
    colored = render(found, color=True)
    assert "\x1b[1;31m" in colored
    assert re.sub(r"\x1b\[[0-9;]*m", "", colored) == render(found)


def test_one_line_form_names_file_line_and_column():
    assert render_line(pointing("a\nb word", "word")) == "a.plan:2:3: error[wrong-thing]: `word` is wrong"
    assert render_line(Diagnostic(ODD, "b")) == "warning[odd-thing]: b"


def test_json_has_a_version_and_every_field():
    other = Label(Span(Source("b.plan", "foo"), 0, 3), "also")
    content = json.loads(render_json([pointing("a\nb word", "word", also=(other,))]))
    assert content["format_version"] == 1
    (found,) = content["diagnostics"]
    assert found == {
        "code": "wrong-thing",
        "severity": "error",
        "message": "`word` is wrong",
        "at": {"file": "a.plan", "line": 2, "column": 3, "end_line": 2, "end_column": 7, "text": "here"},
        "also": [{"file": "b.plan", "line": 1, "column": 1, "end_line": 1, "end_column": 4, "text": "also"}],
        "notes": [],
        "help": None,
        "about": "",
        "fixes": [],
    }


def test_json_has_what_a_finding_is_about_and_the_changes_that_remove_it():
    text = "device cuda:0 22GiB\nplace a on cuda:1\n"
    place = {"file": "a.plan", "line": 2, "column": 1, "end_line": 2, "end_column": 18}
    line = Span(Source("a.plan", text), text.index("place"), len(text) - 1)
    changes = {
        Rewrite(line, "x"): {"change": "rewrite", "text": "x", **place},
        Exchange(line, "cuda:1", "cuda:0"): {
            "change": "exchange", "name": "cuda:1", "text": "cuda:0", **place
        },
        WriteLine(line, "x"): {"change": "write-line", "text": "x", **place},
        RemoveLine(line): {"change": "remove-line", **place},
        AddLine("device cuda:1"): {"change": "add-line", "text": "device cuda:1"},
        RenamePrefix("old.", ""): {"change": "rename-prefix", "old": "old.", "new": ""},
    }  # fmt: skip
    fixes = (Fix(tuple(changes)), Fix((RemoveLine(line),)))
    found = Diagnostic(WRONG, "`cuda:1` is wrong", about="cuda:1", fixes=fixes)
    (data,) = json.loads(render_json([found]))["diagnostics"]
    assert data["about"] == "cuda:1"
    assert data["fixes"] == [list(changes.values()), [{"change": "remove-line", **place}]]


class Stream:
    def __init__(self, *, terminal):
        self.terminal = terminal

    def isatty(self):
        return self.terminal


@pytest.mark.parametrize(
    ("choice", "environ", "terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_colour_is_for_terminals_unless_said_otherwise(choice, environ, terminal, expected):
    assert wants_color(Stream(terminal=terminal), choice, environ) is expected


def test_wrapping_never_cuts_a_word():
    assert wrap("a " + "b" * 50 + " c", 20, 0) == ["a", "b" * 50, "c"]
    assert wrap("two\nlines", None, 0) == ["two", "lines"]


def test_clipping_keeps_both_ends():
    assert clip("abcdefghij", 10) == "abcdefghij"
    assert clip("abcdefghij", 5) == "ab…ij"
    assert cell_width(clip("世界世界世界", 6)) <= 6


def test_joiners_of_emoji_and_scripts_survive():
    assert visible("👩\u200d💻") == "👩\u200d💻"
