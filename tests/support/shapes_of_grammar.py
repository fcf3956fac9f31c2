"""Write what follows from the statements: run ``python tests/support/shapes_of_grammar.py`` after an edit.

The rules of grammar/plan.lark, the table grammar/known_shapes.py (its lines are those of the examples in the
language reference, and a few that plans are full of), and the words of the editor's colours.
"""

from __future__ import annotations

import re
from pathlib import Path

from compile_plan.grammar import parser
from compile_plan.grammar.parser import Shapes, grammar_terminals
from compile_plan.grammar.statements import (
    INNER_WORDS,
    MARKS,
    STATEMENTS,
    TERMINALS_OF,
    Each,
    Field,
    Many,
    Maybe,
    OneOf,
    terminal,
)

ROOT = Path(__file__).parent.parent.parent
TABLE = ROOT / "grammar" / "known_shapes.py"
GRAMMAR = ROOT / "grammar" / "plan.lark"
COLOURS = ROOT / "editors" / "vscode" / "syntaxes" / "plan.tmLanguage.json"
MORE = """
plan 1
model a
model "a b"
model a digest b
option a b
device a
device a memory 1
device a memory 1 margin 1
device a memory 1 reserve 1
device a memory 1 margin 1 reserve 1
device a memory 1 pool a
device a memory 1 pool a 1
device a at "a"
device a memory 1 at "a"
atomic a
atomic class a
never a on b
together a b
together a b c
tie a = b
tie a = b = c
tie a = b = c = d
reserve 1 on a
reserve 1 on a for b
reserve 1 on a for "a b"
demand 1 with a for b
demand 1 with a for "a b"
unit a
unit ""
place a on b
place a on b run on c
place "" on b
place "" on b run on c
module a : b
module "" : b
module a : b 1
module a : "b c"
module a : "b c" 1
parameter a : f[1]
parameter a : f[1] 1
parameter a : f[1] 1 shares b
parameter a : f[1] shares b
buffer a : f[1]
buffer a : f[1] 1
buffer a : f[1] transient
buffer a : f[1] 1 transient
"""
HEAD = '''"""The patterns of words and the shapes of usual lines, which need no parser to be built.

Written by ``python tests/support/shapes_of_grammar.py`` from plan.lark and language.md.
"""

from __future__ import annotations

from typing import Final

'''


def grammar():
    """Return the text of the grammar: its head and its words stand, the rules follow from the rows."""
    head, _, rest = GRAMMAR.read_text("utf-8").partition("// ---- statements\n")
    keywords = {row.keyword for row in STATEMENTS}
    names = " | ".join(f"_{keyword}" for keyword in dict.fromkeys(row.keyword for row in STATEMENTS))
    rules = [f"_statement: {names}"]
    for keyword in dict.fromkeys(row.keyword for row in STATEMENTS):
        ways = [" ".join(map(_rule, row.words)) for row in STATEMENTS if row.keyword == keyword]
        rules.append(f"_{keyword}: {terminal(keyword)} {_either(ways)}")
    words = [f'{word.upper()}: "{word}"' for word in sorted(keywords | INNER_WORDS)]
    words += [f'{name}: "{mark}"' for mark, name in MARKS.items()]
    body = "\n".join([*rules, "", "// ---- keywords and marks", *words, "", ""])
    return f"{head}// ---- statements\n{body}// ---- words\n{rest.partition('// ---- words' + chr(10))[2]}"


def _rule(element):
    match element:
        case str():
            return terminal(element)
        case Field(_, kind):
            return _either(TERMINALS_OF[kind])
        case OneOf(_, words):
            return _either([terminal(word) for word in words])
        case Many(slot, between):
            return f"{_rule(slot)} ({terminal(between) + ' ' if between else ''}{_rule(slot)})*"
        case Maybe(words):
            inner = " ".join(map(_rule, words))
            return f"{inner}?" if inner.isidentifier() else f"({inner})?"
        case Each(_, rows):
            ways = [" ".join([terminal(row.keyword), *map(_rule, row.words)]) for row in rows]
            return f"({' | '.join(ways)})*"


def _either(terminals):
    return terminals[0] if len(terminals) == 1 else f"({' | '.join(terminals)})"


def colours():
    """Return the editor's colours with the keywords inside a line that the language has."""
    text, inner = COLOURS.read_text("utf-8"), "|".join(sorted(INNER_WORDS))
    start = r"(?<=\\s)("
    head, _, rest = text.partition(start)
    return f"{head}{start}{inner}{rest[rest.index(')') :]}"


def lines():
    reference = (ROOT / "grammar" / "language.md").read_text("utf-8")
    blocks = re.findall(r"^```plan\n(.*?)^```", reference, re.DOTALL | re.MULTILINE)
    for row in "\n".join([*blocks, MORE]).splitlines():
        if row.strip() and not row.strip().startswith("#"):
            yield row
            yield f"{row.partition('#')[0].rstrip()} # a"


def table():
    """Return the text of the module."""
    terminals = grammar_terminals()
    shapes = Shapes(terminals, ())
    for row in lines():
        shapes.read(row)
    usual = sorted(" ".join(map(_word, shape, types)) for shape, types in shapes.known.items())
    words = "".join(
        f"    {_quoted(name)}: {_quoted(regexp)},\n" for name, regexp in sorted(terminals.items())
    )
    entries = "".join(f'    "{shape}",\n' for shape in usual)
    return f"{HEAD}TERMINALS: Final = {{\n{words}}}\nSHAPES: Final = (\n{entries})\n"


def _word(word, kind):
    return word if word.upper() == kind else kind


def _quoted(text):
    return repr(text) if '"' in text else repr(f"{text}'")[:-2] + '"'


if __name__ == "__main__":
    GRAMMAR.write_text(grammar(), "utf-8")
    COLOURS.write_text(colours(), "utf-8")
    parser._lark.cache_clear()
    TABLE.write_text(table(), "utf-8")
