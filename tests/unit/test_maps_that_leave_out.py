"""Maps people write by hand: a tied head is left out, a path is misspelled, tensors are uncovered."""

from __future__ import annotations

import json

import torch
from compile_plan.backends import read_plan
from compile_plan.compiler import verify_plan
from compile_plan.compiler.lines.binding import bind_plan
from compile_plan.compiler.sources.live import lower_model
from compile_plan.ir import Diagnostics
from torch import nn

LISTED = {"embed": 0, "body": 1, "head": 0}


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.body = nn.Embedding(20, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.body(self.embed(x)))


def written(tmp_path, mapping):
    path = tmp_path / "map.json"
    path.write_text(json.dumps(mapping))
    return read_plan(path)


def test_a_tied_head_that_is_left_out_runs_where_its_embedding_is(tmp_path):
    left_out = {name: device for name, device in LISTED.items() if name != "head"}
    ids = torch.ones(1, 3, dtype=torch.int64)
    one, two = (verify_plan(written(tmp_path, each), Tied(), ids) for each in (LISTED, left_out))
    assert (one.diagnostics, two.diagnostics) == ((), ())
    assert one.copies == two.copies
    assert one.hops == 2
    bound = bind_plan(written(tmp_path, left_out), lower_model(Tied()), Diagnostics())
    assert [(unit.path, unit.store) for unit in bound.units][-1] == ("head", "cuda:0")


def test_a_map_that_does_not_cover_the_model_is_not_called_clean(tmp_path):
    found = verify_plan(written(tmp_path, {"embed": 0, "bodi": 1}), Tied(), torch.ones(1, 3).long())
    assert "unknown-path" in [each.rule.code for each in found.diagnostics]
    assert not found.lawful
