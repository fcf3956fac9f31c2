"""What a plan says of its predicted seconds: how long, what limits it, what it beat, whose rates."""

from __future__ import annotations

from collections.abc import Iterator

from ...ir import ModuleTree, Plan, Prediction, Workload
from .asking import with_asking
from .atoms import build
from .costs import predict
from .emit import places_of
from .found import Found, Wish
from .speeds import source_of_speeds
from .timing import Timing, counted_calls


def prediction_of(found: Found, wish: Wish) -> Prediction:
    """Return what the cost model says of a placement and of the simple one beside it."""
    timing = _told(found, wish.work)
    way, other = found.beaten or ("", None)
    return Prediction(
        timing.prompt.seconds,
        timing.token.seconds,
        timing.prompt.limit,
        timing.token.limit,
        way,
        None if other is None else _told(other, wish.work).seconds,
        timing.seconds,
    )


def _told(found: Found, work: Workload) -> Timing:
    model, places, timing = found.model, found.places, predict(found.model.problem, found.places, work)
    (prompt, _), (token, _) = counted_calls(work)
    reading = with_asking(model, places, timing.prompt, prompt)
    return Timing(reading, with_asking(model, places, timing.token, token), work)


def notes_of(found: Found) -> Iterator[str]:
    """Yield where the rates come from, by device."""
    sources: dict[str, list[str]] = {}
    for device in found.model.problem.devices:
        sources.setdefault(source_of_speeds(device), []).append(device.name)
    yield "rates: " + "; ".join(f"{', '.join(names)} {source}" for source, names in sources.items())


def foretold(plan: Plan, tree: ModuleTree, work: Workload) -> tuple[Prediction, tuple[str, ...]] | None:
    """Return the seconds of a workload under a finished plan and whose rates they are by.

    None where the plan places something as no atom of the search is placed: inside of what is whole to it.
    """
    model = build(plan, tree, whole_layers=False)
    if not model.problem.devices or (places := places_of(plan, model)) is None:
        return None
    found, wish = Found(model, places, "fill", 0.0, 0.0, "kept"), Wish(work=work)
    return prediction_of(found, wish), tuple(notes_of(found))
