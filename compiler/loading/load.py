"""Put a model where its plan says: check everything, read, and only then change the model.

Nothing is read before the plan, the model, the checkpoint and the machine agree; nothing of the
model changes before everything is read. What is loaded is whole: no meta tensor and no
uninitialised memory is left.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

import torch
from torch import nn

from ...ir import Diagnostic, Diagnostics, ModuleTree, Plan, PlanError, Role
from ...ir.rules.loading import TIED_TENSORS_DIFFER
from ...ir.wording import listed
from ..lines.agreement import disagreement
from ..sources.checkpoint_index import index_checkpoint
from ..sources.kept_dtypes import kept_in_float32, loaded_tree
from ..sources.live import paused_collection
from .asked import (
    Dtypes,
    asked_checkpoint,
    asked_devices,
    asked_dtypes,
    asked_model,
    asked_plan,
    check_rest,
)
from .execution import Execution, Runtime, attach
from .hosts import Party, join_party, together
from .installing import installed
from .matching import Match, match_seats
from .merging import read_merged
from .obstacles import disks_without_files, larger_than_planned, short_memory
from .opaque import opaque_weights
from .progress import Wish, progress_shown
from .quantised import quantised_checkpoint
from .reading import read_all
from .rebuilding import Materialize, rebuild, rebuild_attributes
from .seats import Seat, Slot, bound_to, live_tensors, seats_of, torch_devices
from .slots import Slots, slots_ahead
from .staging import Stage, Staged
from .stored_files import OpenFiles
from .untied import Untied, untie_different
from .wrappers import Plain, unwrapped

_LOG: Final = logging.getLogger("compile_plan")


def load_model(
    plan: Plan | str | Path,
    model: nn.Module,
    checkpoint: str | Path | None = None,
    *,
    strict: bool = True,
    dtype: torch.dtype | str | None = None,
    progress: Wish = None,
    materialize: Materialize | None = None,
    devices: Mapping[str, str | torch.device] | None = None,
    map_memory: bool = True,
    host: str | None = None,
    diagnostics: Diagnostics | None = None,
) -> nn.Module:
    """Load a model as its plan says and return it.

    A plan of several hosts is loaded by as many processes, started by torchrun: each reads its own units,
    and each runs the whole model from then on, called with the same inputs.

    Args:
        plan: a plan, or a path to one in any form.
        model: the model, usually built on the meta device; filled in place.
        checkpoint: a safetensors file, an index of shards or a folder; None moves the values the
            model has.
        strict: whether tensors that only the model or only the checkpoint has are errors.
        dtype: convert floating-point weights while they are read; None takes the dtype the plan was compiled
            for, else keeps the model's dtypes.
        progress: called with bytes done and in all; True or False force or forbid a progress bar,
            None shows one on a terminal.
        materialize: called with the path and the meta tensor of what is in no checkpoint; returns
            the value, or None to let the model's own code make it.
        devices: the torch device that stands for a device of the plan, where names differ.
        map_memory: let what is stored and runs on ``cpu`` be the pages of the file, read while loading,
            where no conversion is needed: no second copy in memory, shared between processes, writes
            stay private, but the file must not be overwritten while the model lives. False copies.
        host: which of the plan's hosts this is; None: the process of rank r is the r-th of them.
        diagnostics: receives warnings; without it they are logged to ``compile_plan``.

    Raises:
        PlanError: something does not fit or cannot be read; the model has not been touched.

    """
    check_rest(
        strict=strict,
        map_memory=map_memory,
        progress=progress,
        materialize=materialize,
        diagnostics=diagnostics,
    )
    asked, found = asked_plan(plan), Diagnostics()
    files, stand_ins = asked_checkpoint(checkpoint), asked_devices(devices)
    with torch.inference_mode(mode=False), torch.no_grad(), paused_collection():
        party = join_party(asked, host, stand_ins)
        with together(party):
            loader = _Loader(asked, asked_model(model), found, asked_dtypes(dtype, asked), files)
            loader.party = party
        try:
            with together(party):
                loader.bind()
                loader.prepare(stand_ins, strict=strict)
            with together(party):
                staged = loader.read(progress, materialize, map_memory=map_memory)
        except BaseException:
            loader.untied.undo()
            raise
        with nullcontext() if party is None or party.wire is None else party.wire.giving_up():
            loader.commit(staged)
    _pass_on(found, diagnostics)
    if model.training:
        _LOG.info("`%s` is in training mode, as it was: call `.eval()` before using it", type(model).__name__)
    return model


def _pass_on(found: Diagnostics, diagnostics: Diagnostics | None) -> None:
    if diagnostics is not None:
        diagnostics.extend(found)
        return
    for warning in found:
        _LOG.warning("%s", PlanError([warning]))


class _Loader:
    """One load, step by step; each step needs the one before."""

    def __init__(
        self, plan: Plan, model: nn.Module, found: Diagnostics, dtypes: Dtypes, checkpoint: Path | None
    ) -> None:
        self.model, self.found, self.plan = model, found, plan
        self.plain = self._lowered()
        kept = kept_in_float32(model, dtypes.everywhere)
        rows = list(zip(self.plain.tree.tensor_paths, self.plain.tensors, strict=True))
        self.kept = Execution.served(model) if checkpoint is None else {}
        there = live_tensors(model) if self.kept else {}
        served = ((path, self.kept.get(id(there.get(live)))) for path, live in rows)
        used = {path: one.dtype for path, one in served if one is not None}
        float32 = {path: torch.float32 for path, live in rows if live in kept}
        self.dtypes = dtypes = replace(dtypes, single={**used, **float32, **dtypes.single})
        # A plan for smaller weights may have been made from the large ones, or from a model that was small.
        different = disagreement(plan, self.plain.tree)
        if different is not None and disagreement(plan, _converted(self.plain.tree, dtypes)) is not None:
            raise PlanError([different])
        self.index = None if checkpoint is None else index_checkpoint(checkpoint, found)
        self.files = None if self.index is None else OpenFiles(self.index)
        self.untied = Untied()
        self.devices: dict[str, torch.device] = {}
        self.match = Match({}, ())
        self.party: Party | None = None
        self.slots: Slots | None = None
        self.others: list[Seat] = []
        """Seats on other hosts: nothing of them is read."""

    def _lowered(self) -> Plain:
        tree = loaded_tree(self.model)
        same = self.plan.model.digest is not None and self.plan.model.digest == tree.digest
        return Plain(tree, tree.tensor_paths, tree.paths) if same else unwrapped(tree)

    def bind(self) -> None:
        """Bind the plan to the model, whose ties are those the checkpoint has."""
        self.found.raise_errors()
        inner = self.model.get_submodule(self.plain.modules[0])
        if self.index is not None:
            quantised = quantised_checkpoint(self.index, inner)
            if quantised is not None:
                raise PlanError([quantised])
            self.untied = untie_different(inner, self.plain.tree, self.index)
            if self.untied.names:
                self.found.extend(self.untied.findings())
                self.plain = self._lowered()
        written = self.plan
        self.plan = bound_to(written, self.plain, self.found)
        self.found.raise_errors()
        if self.party is not None:
            self.plan = self.party.view.with_made(self.plan, self.plain.tree)
        self.seats = seats_of(self.plan, self.plain, self.model, self.dtypes)
        self.found.extend(larger_than_planned(written, self.seats))
        self.extra = self._adapters()

    def _adapters(self) -> list[Seat]:
        """Return seats for what wrappers added: where the module they belong to runs."""
        live = live_tensors(self.model) if self.plain.adapters else {}
        home = {path: seat for seat in self.seats for slot in seat.slots for path in slot.paths}
        seats: list[Seat] = []
        for path, module in self.plain.adapters:
            near = next((seat for name, seat in home.items() if name.startswith(f"{module}.")), self.seats[0])
            slot = Slot((path,), (path,), live[path], Role.PARAMETER, live[path].dtype)
            seats.append(Seat((slot,), near.run, near.run, near.unit))
        return seats

    def prepare(
        self,
        devices: Mapping[str, torch.device] | None,
        *,
        strict: bool,
    ) -> None:
        """Check devices, names, shapes, dtypes and memory; reads headers and nothing else."""
        view = None if self.party is None else self.party.view
        self.devices = torch_devices(self.plan, devices, self.found, view)
        self.found.raise_errors()
        if self.index is not None:  # while names are matched; transformers takes a tenth of a second for that
            places = ((self.devices[seat.store], seat.nbytes) for seat in self.seats)
            self.slots = slots_ahead([place for place in places if place[0].type not in {"cpu", "meta"}])
        inner = self.model.get_submodule(self.plain.modules[0])
        self.match = match_seats(self.seats, self.index, inner, self.found, strict=strict)
        if view is not None:
            self.others = [seat for seat in self.seats if not view.is_mine(seat.store)]
            self.seats = [seat for seat in self.seats if view.is_mine(seat.store)]
            self.match = self.match.of(self.seats)
        absent = tuple(slot for seat in self.extra for slot in seat.slots if slot.tensor.is_meta)
        self.match = replace(self.match, absent=self.match.absent + absent)
        self.found.extend(self._unservable())
        self.found.extend(short_memory(self.seats, self.devices, moved=self.index is None))
        stored = self.match.stored.keys() | self.match.makers.keys()
        self.found.extend(opaque_weights(self.seats, self.devices, stored))
        self.found.raise_errors()

    def _unservable(self) -> list[Diagnostic]:
        return [] if self.index is not None else disks_without_files(self.plan, self.seats, self.kept)

    def read(self, progress: Wish, materialize: Materialize | None, *, map_memory: bool) -> Staged:
        """Make every tensor the model will have; the model stays as it is."""
        made = rebuild(self.match.absent, self.model, materialize, self.found, self.match.fresh)
        self.attributes = rebuild_attributes(self.model, materialize, self.found)
        self.found.raise_errors()
        files = self.files
        inner = self.model.get_submodule(self.plain.modules[0])
        stage = Stage(self.match, made, self.devices, files, inner, map_memory, self.kept)
        with nullcontext() if files is None else files.opened():
            if files is not None:
                self._refuse_different_ties(files)
            staged = stage.seats([*self.seats, *self.extra, *self.others])
            if files is not None:
                with progress_shown(progress) as report:
                    read_all(staged.jobs, files, report, self.slots)
                    for path in tuple(staged.later):
                        staged.tensor(path)
                    self.slots = None  # what is put together now needs its memory
                    read_merged(self.match, self.seats, staged, files, inner)
                files.check_unchanged()
        for target, value in staged.copies:
            target.copy_(value)
        return staged

    def _refuse_different_ties(self, files: OpenFiles) -> None:
        different = [pair for pair in self.match.again if not files.same(*pair)]
        if different:
            names = listed([f"`{first.path}` and `{second.path}`" for first, second in different], 4)
            message = f"the model ties {names}, the checkpoint has different values for them"
            help_ = "build the model untied: `tie_word_embeddings=False`"
            raise PlanError([Diagnostic(TIED_TENSORS_DIFFER, message, help=help_)])

    def commit(self, staged: Staged) -> None:
        """Put the tensors into the model and let it run as planned."""
        everything = (*self.seats, *self.extra, *self.others)
        slots: Sequence[Slot] = [slot for seat in everything for slot in seat.slots]
        Execution.release(self.model)
        objects = installed(self.model, slots, staged)
        for module, name, value in self.attributes:
            module.__dict__[name] = value.to(next((t.device for t in module.buffers()), value.device))
        runtime = Runtime(
            self.plan,
            self.plain,
            [*self.seats, *self.others],
            self.devices,
            objects,
            staged.mapped,
            staged.blocks,
        )
        attach(self.model, runtime, self.party)
        self.untied.settle(self.model.get_submodule(self.plain.modules[0]))


def _converted(tree: ModuleTree, dtypes: Dtypes) -> ModuleTree:
    """Return the tree as it will be when weights are converted."""
    rows = zip(tree.tensor_paths, tree.dtypes, tree.roles, strict=True)
    kinds = (dtypes.of((path,), getattr(torch, kind), role) for path, kind, role in rows)
    return replace(tree, dtypes=tuple(str(kind).removeprefix("torch.") for kind in kinds))
