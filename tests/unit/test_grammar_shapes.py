"""The table of usual lines: it is what the grammar says, and texts of usual lines open no lark."""

from __future__ import annotations

import subprocess
import sys

import pytest
from compile_plan.grammar import parse
from compile_plan.grammar.known_shapes import SHAPES, TERMINALS
from compile_plan.grammar.parser import Shapes
from compile_plan.ir import PlanError
from shapes_of_grammar import COLOURS, GRAMMAR, TABLE, colours, grammar, table

OTHER = {
    "PATH": "layers.{0..3}",
    "NAME": "Llama-3",
    "NUMBER": "1.5GiB",
    "DEVICE_NAME": "node1/cuda:1",
    "STRING": '"kv # cache"',
    "TENSOR_TYPE": "bfloat16[4,4]",
    "COLON": ":",
    "EQUALS": "=",
    "COMMENT": "# why",
}


def test_the_files_are_those_of_the_statements():
    assert GRAMMAR.read_text("utf-8") == grammar(), "run `python tests/support/shapes_of_grammar.py`"
    assert COLOURS.read_text("utf-8") == colours(), "run `python tests/support/shapes_of_grammar.py`"


def test_the_table_is_that_of_the_grammar():
    written = TABLE.read_text("utf-8")
    assert written == table(), "run `python tests/support/shapes_of_grammar.py`"


def test_a_known_line_has_the_words_lark_finds():
    known, nothing = Shapes(TERMINALS, SHAPES), Shapes(TERMINALS, ())
    for shape in SHAPES:
        row = " ".join(OTHER.get(word, word) for word in shape.split())
        assert known.read(row) == nothing.read(row), row


@pytest.mark.parametrize("row", ["place a in cuda:0", "tie a b c", "module a b : C", "device a memory x"])
def test_a_wrong_word_in_a_known_shape_is_still_a_mistake(row):
    with pytest.raises(PlanError):
        parse(f'plan 1\nmodel "m"\n{row}\n')


def test_usual_texts_open_no_parser():
    text = 'plan 1\nmodel "m"\ndevice cpu memory 8GiB\nplace layers.{0..3} on cpu  # 4 x 2KiB\n'
    script = (
        "import sys; from compile_plan.grammar import parse, print_plan; "
        f"print_plan(parse({text!r})); print('lark' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"
