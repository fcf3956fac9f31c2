"""What a misfit or a spill advises is done to the devices, and it is enough."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from brute_force import instance
from compile_plan.compiler.driver.compile import compile_lowered
from compile_plan.compiler.driver.options import Options
from compile_plan.ir import PlanError, parse_size, pool_sizes

ADVICE = re.compile(r"\+(\S+) on ([^ ,]+)")


def diagnostics_of(problem):
    written = (problem.written,) if problem.written.units or problem.written.constraints else ()
    options = Options(objective=problem.objective, offload=problem.offload, margin=problem.margin)
    try:
        return compile_lowered(problem.lowered, options, written).diagnostics
    except PlanError as error:
        return error.diagnostics


def enlarged(devices, name, nbytes):
    """Give a device more bytes, and the pool it is in as many."""
    pool = next(device.pool for device in devices if device.name == name)
    size = pool_sizes(devices).get(pool)
    for device in devices:
        larger = device
        if device.name == name and device.memory is not None:
            larger = replace(larger, memory=device.memory + nbytes)
        if pool is not None and device.pool == pool and size is not None:
            larger = replace(larger, pool_memory=size + nbytes)
        yield larger


@pytest.mark.parametrize("first", range(0, 240, 40))
def test_the_advice_is_enough(first):
    followed = 0
    for seed in range(first, first + 40):
        problem = instance(seed)
        for finding in diagnostics_of(problem):
            changes = ADVICE.findall(finding.help or "") if finding.code in {"spill", "does-not-fit"} else []
            devices = problem.lowered.devices
            for size, name in changes:
                devices = tuple(enlarged(devices, name, parse_size(size)))
            if changes:
                again = diagnostics_of(replace(problem, lowered=replace(problem.lowered, devices=devices)))
                codes = {each.code for each in again}
                assert not codes & {finding.code, "does-not-fit", "budget-exceeded"}, (seed, finding.help)
                followed += 1
    assert followed > 5
