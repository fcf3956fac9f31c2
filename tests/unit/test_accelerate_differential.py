"""The drop-in against accelerate itself, over random module trees."""

from __future__ import annotations

import logging

import pytest
from compile_plan.compiler.driver.drop_in import infer_auto_device_map
from device_maps import accelerates_map, faults
from hypothesis import event, given, settings
from module_strategies import Request, requests

logging.getLogger("accelerate").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore:Current model requires")
QUICK = settings(max_examples=400, derandomize=True)


def check(request: Request) -> None:
    theirs = accelerates_map(request)
    ours = infer_auto_device_map(request.model, **request.arguments)
    assert not faults(request, ours), (ours, theirs)
    wrong = {"crash"} if theirs is None else faults(request, theirs)
    event(", ".join(sorted(wrong)) or "same")
    if not wrong:
        assert ours == theirs


@given(requests(tied=False))
@QUICK
def test_same_map_for_models_without_ties(request_: Request):
    check(request_)


@given(requests())
@QUICK
def test_same_map_for_tied_models_or_accelerate_is_invalid(request_: Request):
    check(request_)


@pytest.mark.slow
@given(requests())
@settings(QUICK, max_examples=200_000, derandomize=False)
def test_same_map_over_a_long_run(request_: Request):
    check(request_)
