"""What to change in the rules of a plan whose replay meets: then it is planned again.

Cuts are safe for any assignment as far as a trace shows it; what a plan joins into one unit, or what a
person placed, may still meet. A module in whose forward two devices meet is kept whole, a unit that is
called past its own call is opened, a visit that does not bring everything home is none.
"""

from __future__ import annotations

from collections.abc import Iterator

from ...ir import STREAMING, VISITING, Atomic, Constraint, Never, Plan, Split, atomic_modules, homes_of
from .labels import unit_modules
from .replay import Meeting, replay
from .streaming_sites import streaming_of
from .trace import Op, Trace
from .verify_plan import places_with_rest
from .writes import lost_writes


def corrections(trace: Trace, plan: Plan) -> tuple[Constraint, ...]:
    """Return the rules that would keep the replay of a plan from meeting; none where it does not."""
    places = places_with_rest(trace, plan, streaming_of(trace, plan))
    labels = replay(trace, places)
    found: dict[Constraint, None] = {}
    for meeting in labels.meetings:
        found.update(dict.fromkeys(_of_meeting(trace, plan, meeting)))
    for lost in lost_writes(trace, labels):
        found[_whole(trace, lost.separator(trace))] = None
    return tuple(rule for rule in found if rule not in plan.constraints)


def _of_meeting(trace: Trace, plan: Plan, meeting: Meeting) -> Iterator[Constraint]:
    step = trace.steps[meeting.step]
    assert isinstance(step, Op)  # noqa: S101  only ops meet
    module = trace.calls[step.call].module if step.call >= 0 else 0
    unit = unit_modules(trace, plan)[module]
    resting = {value for value in (meeting.first, meeting.second) if trace.values[value].tensors}
    if unit < 0:
        yield _whole(trace, module)
        return
    path = plan.units[unit].path
    top = trace.tree.module_index[path]
    if unit in homes_of(trace.tree, plan.units):
        yield Never(path, VISITING)
    elif plan.units[unit].store != plan.units[unit].run and not resting:
        yield Never(path, STREAMING)
    elif module != top and top not in atomic_modules(trace.tree, plan.constraints):
        yield Split(path)
    else:
        yield _whole(trace, max(trace.tree.parents[top], 0))


def _whole(trace: Trace, module: int) -> Atomic:
    return Atomic(trace.tree.paths[module])
