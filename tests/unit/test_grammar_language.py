"""The language statement by statement: its grammar, what lines mean, what is said about wrong ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from compile_plan.grammar import format_text, parse, parse_collecting, print_plan
from compile_plan.grammar.parser import next_terminals
from compile_plan.ir import (
    Account,
    Cache,
    Device,
    Link,
    Model,
    Plan,
    Reason,
    Reserve,
    TieGroup,
    Unit,
    Workload,
    verify,
)
from compile_plan.ir.patterns import PatternError, expand_braces
from compile_plan.ir.rules import language
from lark import Lark

GRAMMAR = Path(__file__).parents[2] / "grammar" / "plan.lark"


def findings(text):
    return [(each.code, each.message, each.help) for each in parse_collecting(text)[1]]


def test_the_grammar_has_no_collisions():
    pytest.importorskip("interegular")
    assert Lark(GRAMMAR.read_text("utf-8"), start="line", parser="lalr", lexer="contextual", strict=True)


def test_every_terminal_has_a_name():
    lark = Lark(GRAMMAR.read_text("utf-8"), start="line", parser="lalr", lexer="contextual")
    assert [each.name for each in lark.terminals if each.name.startswith("_")] == [*lark.ignore_tokens]


def test_keywords_are_names_where_a_name_is_expected():
    text = "option margin memory\ndevice cpu pool at\ntogether on run class\nplace on on cpu\ndemand 1K with for for for"  # noqa: E501
    plan = parse(text)
    assert plan.options == (("margin", "memory"),)
    assert [unit.path for unit in plan.units] == ["on"]
    assert plan.constraints[0].patterns == ("on", "run", "class")


def test_importing_the_language_opens_no_heavy_door():
    code = "import sys, compile_plan.grammar; print({'torch', 'lark'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "set()\n"


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("plcae a on cpu", "unknown-keyword", "no statement starts with `plcae`"),
        ("place a at cuda:0", "unexpected-word", "expected `on` after `a`, found `at`"),
        ("place a", "unexpected-word", "expected `on` after `a`, found the end of the line"),
        ('place "a on cpu', "unexpected-word", "a quote is opened and never closed"),
        ("device cpu memory 10 GiB", "unexpected-word", "a size is one word, `10GiB`"),
        ("device cpu memory 10GGiB", "malformed-number", "`10GGiB` is not a size below 2^63"),
        ("device cpu link 10GB", "malformed-number", "`10GB` is not a rate below 2^63"),
        ("place a on gpu7", "unknown-device", "`gpu7` is not the name of a device"),
        ("plan 2", "unsupported-version", "this text is version 2 of the language, version 1 is read"),
        ("plan 1\nplan 1", "repeated-line", "`plan` is given twice"),
        ("device cpu\ndevice cpu", "duplicate-device", "device `cpu` is declared twice"),
        ("device cpu memory 1K memory 2K", "repeated-line", "device `cpu` has `memory` twice"),
        ("place a on cpu\nplace a on disk", "line-never-wins", "this line for `a` decides nothing"),
        ("tie a", "malformed-pattern", "a tie joins at least two tensors, its sides equally many; these name 1"),  # noqa: E501
        ('place "\\q" on cpu', "unexpected-word", "a quoted word holds a `\\` that means nothing"),
        ("parameter a.w : f[1] 1B\nparameter a.b : f[1]", "broken-table", "tensor `a.b` has no bytes, others have"),  # noqa: E501
        ("module a.w : M\nparameter a.w : f[1]", "broken-table", "`a.w` has two rows"),
        ("place a..b on cpu", "malformed-pattern", "`a..b` cannot be expanded: it holds an empty name"),
        ("place a.{0..3 on cpu", "malformed-pattern",
         "`a.{0..3` cannot be expanded: `{` without a `}` after it"),
        ("place a.{0..999999999} on cpu", "malformed-pattern",
         "`a.{0..999999999}` cannot be expanded: it names 1,000,000,000 paths, more than 202,900"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_one_finding(text, code, message):
    assert [(each[0], each[1]) for each in findings(text)] == [(code, message)]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("plcae a on cpu", "did you mean `place`?"),
        ("place a on gpu7", "did you mean `cuda:7`?"),
        ("place a on cudo:0", "did you mean `cuda:0`?"),
        ("device cpu memroy 1K", "did you mean `memory`?"),
        ("device cpu memory 10 GiB", "write `device cpu memory 10GiB`"),
    ],
)
def test_the_help_names_what_was_meant(text, hint):
    assert findings(text)[0][2] == hint


def test_one_wrong_line_does_not_hide_the_next():
    assert [each[0] for each in findings("plcae a\nplace b on gpu7\nplace\nplace c on cpu")] == [
        "unknown-keyword", "unexpected-word", "unknown-device",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "rule", [rule for rule in language.ALL if rule.code in {"malformed-pattern", "unknown-device", "unknown-keyword",  # noqa: E501
                                                           "unexpected-word", "unsupported-version", "repeated-line",  # noqa: E501
                                                           "line-never-wins", "broken-table"}],
    ids=lambda rule: rule.code,
)  # fmt: skip
def test_the_example_on_a_rules_page_triggers_it(rule):
    example = "\n".join(line for line in rule.page.splitlines() if line.startswith("    "))
    assert rule.code in {each[0] for each in findings(example)}


def test_a_device_line_holds_every_attribute():
    plan = parse(
        'device 0 memory 1GiB margin 1K reserve 2K pool p 3K at "f" bandwidth 1TB/s link 25GB/s flops 1.5T'
    )
    assert plan.devices == (
        Device("cuda:0", 2**30, 1024, "p", 3072, "f", 10**12, 25 * 10**9, 15 * 10**11),
    )  # fmt: skip
    assert plan.reserves == (Reserve(2048, "cuda:0"),)


def test_sides_of_a_tie_are_joined_member_by_member():
    assert parse("tie a.{0,1} = b.{0,1}\ntie c.{0..2}").ties == (
        TieGroup(("a.0", "b.0")), TieGroup(("a.1", "b.1")), TieGroup(("c.0", "c.1", "c.2")),
    )  # fmt: skip


TABLE = "module . : M\nmodule h.{0..5} : Block 1KiB\nmodule head : Linear 2KiB\n"


def test_comments_explain_a_printed_plan():
    tree = parse(TABLE).tree
    units = (*(Unit(f"h.{i}", "cuda:0", "cuda:0", Reason.GREEDY) for i in range(6)),
             Unit("head", "cpu", "cuda:0", Reason.SPILLED))  # fmt: skip
    ledger = (Account("cuda:0", weights=6144),)
    plan = Plan(
        Model("m"), (Device("cuda:0", 8192), Device("cpu", None)), units=units, tree=tree, ledger=ledger
    )
    assert print_plan(plan).splitlines()[3:] == [
        "device cuda:0 memory 8KiB  # 6.0KiB used, 2.0KiB free",
        "device cpu",
        "",
        "place h.{0..5} on cuda:0 added  # 6 x 1.0KiB",
        "place head on cpu run on cuda:0 added  # 2.0KiB, spilled",
    ]


def test_identical_siblings_share_their_rows():
    plan = parse(TABLE)
    assert [row for row in print_plan(plan, with_modules=True).splitlines() if "{" in row] == [
        "module h.{0..5} : Block",
        "parameter h.{0..5}.weight : uint8[1024] 1KiB",
    ]


def test_a_large_mixture_fits_a_screen():
    names = [
        f"model.layers.{i}.mlp.experts.{j}.{name}"
        for i in range(61)
        for j in range(256)
        for name in ("up", "down")
    ]
    text = print_plan(Plan(Model("m"), units=tuple(Unit(name, "cpu", "cpu") for name in names)))
    assert text.splitlines()[-1] == "place model.layers.{0..60}.mlp.experts.{0..255}.{up,down} on cpu"
    assert [unit.path for unit in parse(text).units] == names


def test_the_formatter_keeps_spelling_order_and_comments():
    text = '\n\n# head\n place  "a.b" on   0 # why\n\n\n#one\ndevice cpu memory 10gb\n\n# tail\n\n'
    assert format_text(text) == "# head\nplace a.b on 0  # why\n\n#one\ndevice cpu memory 10gb\n\n# tail\n"


@pytest.mark.parametrize("pattern", ["{", "}", "a{b", "{}", "{" * 40, "{0..9}" * 30, "{a,{b}"])
def test_braces_that_cannot_expand_say_so(pattern):
    with pytest.raises(PatternError):
        expand_braces(pattern)


FORMATTED = sorted((Path(__file__).parent.parent / "golden" / "format").glob("*.formatted.plan"))


@pytest.mark.parametrize("path", FORMATTED, ids=lambda path: path.name)
def test_a_golden_text_is_laid_out_as_the_file_beside_it(path):
    untidy = path.with_name(path.name.replace(".formatted", ""))
    assert format_text(untidy.read_text(encoding="utf-8")) == path.read_text(encoding="utf-8")


def test_a_hash_between_quotes_starts_no_comment():
    text = 'place "c # no comment" on cpu # "a comment"\n'
    assert format_text(text) == 'place "c # no comment" on cpu  # "a comment"\n'


def test_every_keyword_of_the_grammar_may_follow_where_the_grammar_says():
    assert next_terminals("place a") == {"ON"}
    assert next_terminals("place a on cpu") >= {"RUN", "$END"}
    assert next_terminals("atomic") == {"CLASS", "PATH", "STRING"}
    assert next_terminals("plcae a") == frozenset()


def test_what_a_plan_is_for_and_what_joins_its_devices():
    text = (
        "device cuda:{0..1} memory 8GiB latency 12us flops bf16 3T reserve 1KiB\ndevice cpu\n"
        "link 0 1 rate 50GB/s latency 1.5us\nworkload loss rows 4 tokens 2K\n"
        "cache 1GiB of h.{0,1}.experts on 0\nplace h.{0,1}.experts on cpu run on cuda:0 by rows\n"
    )
    plan = parse(text)
    assert [device.name for device in plan.devices] == ["cuda:0", "cuda:1", "cpu"]
    assert {(device.latency, device.dtype_flops) for device in plan.devices[:2]} == {
        (12_000, (("bf16", 3 * 10**12),))
    }
    assert plan.reserves == (Reserve(1024, "cuda:0"), Reserve(1024, "cuda:1"))
    assert plan.links == (Link("cuda:0", "cuda:1", 50 * 10**9, 1_500),)
    assert plan.workload == Workload("loss", 4, 0, 2000)
    assert plan.caches == (Cache(2**30, ("h.0.experts", "h.1.experts"), "cuda:0"),)
    assert [unit.by_rows for unit in plan.units] == [True, True]
    assert verify(plan) == ()
    assert parse(print_plan(plan)) == plan


MARKED = """\
plan 1

device cuda:0 memory 8GiB

workload rows 1 prompt 512 tokens 128 added

atomic class Block added
atomic h.{0..3} added
split h added
never a on streaming added
together a added.b added

reserve 1GiB on cuda:0 added
reserve 1GiB on cuda:0 for "runtime" added
cache 1GiB of a b on cuda:0 added
demand 1KiB with a for "kv cache" added
"""


def test_the_mark_of_what_a_compile_added_stays_and_is_no_meaning():
    plan = parse(MARKED)
    nodes = [plan.workload, *plan.constraints, *plan.reserves, *plan.caches, *plan.demands]
    assert [node.added for node in nodes] == [True] * 13
    assert print_plan(plan) == MARKED
    assert parse(MARKED.replace(" added\n", "\n")) == plan


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("link a a.b", "unexpected-word", "expected `rate` after `a.b`, found the end of the line"),
        ("link cuda:0 cpu rate 5", "malformed-number", "`5` is not a rate below 2^63"),
        ("link cuda:0 cpu rate 5GB/s latency 5", "malformed-number", "`5` is not a time below 2^63"),
        ("link a b rate 1GB/s\nlink b a rate 2GB/s", "repeated-line", "the link of `a` and `b` is given twice"),  # noqa: E501
        ("workload rows 0 prompt 1 tokens 1", "malformed-number", "a workload of 0 rows with 2 tokens does nothing"),  # noqa: E501
        ("workload rows 1 prompt 1 tokens 1\nworkload loss rows 1 tokens 1", "repeated-line",
         "`workload` is given twice"),
        ("workload forward rows 1 prompt 1 tokens 1", "unexpected-word", "expected `tokens` after `1`, found `prompt`"),  # noqa: E501
        ("place a on cpu by rows", "unexpected-word", "expected `added` or `run` after `cpu`, found `by`"),
        ("cache 1GiB of a", "unexpected-word", "expected `on` or a path after `a`, found the end of the line"),  # noqa: E501
        ("device cuda:{0..3}\ndevice cuda:2", "duplicate-device", "device `cuda:2` is declared twice"),
        ("device cuda:{0..", "malformed-pattern", "`cuda:{0..` cannot be expanded: `{` without a `}` after it"),  # noqa: E501
        ("device cpu flops a 1T flops a 2T", "repeated-line", "device `cpu` has `flops a` twice"),
        ("reserve 1KiB on cuda:0\nreserve 2KiB on cuda:0", "repeated-line",
         "the reserve on `cuda:0` is given twice"),
        ("device cuda:0 memory 9KiB reserve 1KiB\nreserve 1KiB on cuda:0", "repeated-line",
         "the reserve on `cuda:0` is given twice"),
        ('reserve 1KiB on cpu for "kv cache"\nreserve 2KiB on cpu for "kv cache"', "repeated-line",
         "the reserve for `kv cache` on `cpu` is given twice"),
    ],
)  # fmt: skip
def test_a_wrong_line_of_speed_or_use_is_one_finding(text, code, message):
    assert [(each[0], each[1]) for each in findings(text)] == [(code, message)]


def test_what_a_text_may_stand_for_is_in_proportion_to_it():
    table = "module . : M\nmodule a.{0..999}.{0..999} : M 1KiB\n"
    assert [code for code, *_ in findings(table)] == ["malformed-pattern"]
    lines = "".join(f"place layers.{i}.experts.{{0..255}} on cpu\n" for i in range(2_000))
    assert len(parse(lines).units) == 512_000


@pytest.mark.parametrize("row", ["place " + "a" * 10**7, "place" + " a" * 10**6, "together " + "{" * 10**7])
def test_a_line_beyond_all_reason_is_not_read(row):
    ((code, message, _),) = findings(f"plan 1\n{row}\n")
    assert (code, message.partition(" characters")[2]) == ("unexpected-word", " is longer than 1,048,576")
