"""Streamed weights of one model: which site comes next, who is in it, and what a forward leaves behind.

The order is the one seen in the last pass; what follows is brought ahead, the first site of the next
pass at the end of this one. Whatever ends a forward, the next one starts with everything at rest.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NoReturn, SupportsIndex

import torch

from ..blocks import is_card
from .frames import calls_of
from .refusals import copied, forked, refuse_recording
from .sequence import Order
from .settling import settle
from .site import Load, Site
from .supply import Supply

if TYPE_CHECKING:
    from torch import nn

    from .streamed import Streamed


@dataclass(slots=True)
class _Pass:
    """One thread's way through the model."""

    last: int | None = None
    begun: bool = False
    """Whether it began with a look at what is new."""
    inside: list[int] = field(default_factory=list[int])


class Stream:
    """Lets modules have their weights while they run."""

    def __init__(
        self,
        sites: Sequence[Site],
        budgets: Mapping[torch.device, int],
        aside: Iterable[int] = (),
        *,
        alone: bool = True,
    ) -> None:
        """Take the sites in tree order; those ``aside`` are entered only by passes that need all of them.

        Where a model is not ``alone``, another is in use after each of its passes: nothing is brought for it.
        """
        self._alone = alone
        self.supply = Supply(sites, budgets)
        self._order = Order(len(sites), set(aside))
        self._passes: dict[int, _Pass] = {}
        self._loads: dict[int, list[Load]] = {}
        self.rests = True
        """Whether no thread has anything in use."""
        self._looked: list[bytes] | None = None
        self.newcomers: Callable[[], None] = lambda: None
        """Takes in what came to the model since it was last called."""
        self.late: int | None = None
        """The site that the model itself became while its hooks were running."""
        self._process = os.getpid()
        self.lock = threading.RLock()
        """Held by whoever takes memory of the streaming buffer, or gives it back."""
        self.turns = threading.Condition()
        """Told when a call is done with the rows of a module."""

    @property
    def sites(self) -> Sequence[Site]:
        """The sites by number."""
        return self.supply.sites

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        """Refuse to be copied or pickled, and with it the model whose hooks have it."""
        raise copied(self.sites[0])

    def begin(self, model: nn.Module) -> None:
        """Start preparing for a forward of the whole model."""
        self.notice_fork()
        refuse_recording(self.sites[0])
        with self.lock:
            if not self.rests:
                self._recover(model)
            self._pass().last, self._pass().begun, self.late = None, True, None
            self.newcomers()
            if self._looked is None:  # the last forward did not end: nobody knows what was written to since
                self.supply.drop()
            self._look_again()
            if self.late is not None:
                self.enter(self.late)
            self._ahead(self._order.first)

    def look(self) -> None:
        """Take in what is new in a pass that did not begin with that: some go past the model's hooks."""
        with self.lock:
            if not self._pass().begun:
                self.newcomers()

    def end(self) -> None:
        """Drop what was not used; accelerators are sent what the next forward starts with."""
        with self.lock:
            self._pass().last, self._pass().begun = None, False
            first = self._order.first if self._alone else None
            if first is not None and any(one.device.type == "cpu" for one in self.sites[first].streamed):
                first = None
            self.supply.drop(() if first is None else {first}, rest=True)
            if first is not None and self.supply.ahead(first):
                self._looked = self._look(first)

    def enter(self, number: int) -> None:
        """Bring a site's tensors to where it runs; if that fails, the site stays at rest."""
        self.notice_fork()
        refuse_recording(self.sites[number])
        with self.lock:
            now, site = self._pass(), self.sites[number]
            if now.inside and (number in now.inside or number == self._order.first):
                self._recover(site.module)
                now = self._pass()
            if now.last is None or number == self._order.first:
                self.look()
                self._look_again()
            site.check()
            site.be_left_last()
            self.follow(number)
            self._learn(now, number)
            self._lend(now, number, self.supply.bring(number))
            self._ahead(self._order.after(number))

    def admit(self, number: int, load: Load) -> None:
        """Let a site have what was brought for it, some rows; `leave` takes it back."""
        self.notice_fork()
        refuse_recording(self.sites[number])
        with self.lock:
            self.sites[number].check()
            self._lend(self._pass(), number, load)

    def _lend(self, now: _Pass, number: int, load: Load) -> None:
        self.rests = False
        now.inside.append(number)
        self._loads.setdefault(number, []).append(load)
        self.supply.held.update(load.sizes)
        for one, _, _ in load.copies:
            one.users += 1
        if load.copies:  # rows in a cache are there, and need none of this
            with torch.inference_mode(mode=False), torch.no_grad():
                for one, copy in [(one, copy) for one, _, copy in load.copies if one.users == 1]:
                    one.lend(copy)
        if load.loan is not None:
            load.loan.begin()

    def leave(self, number: int) -> None:
        """Put a site's tensors back to rest; does nothing if it was not brought."""
        with self.lock:
            now = self._pass()
            if number not in now.inside:
                return
            self._put_back(number)
            now.inside.remove(number)
            self.rests = not any(each.inside for each in self._passes.values())
            if not now.inside:
                self._passes = {key: each for key, each in self._passes.items() if each.inside or each is now}
            self._ahead(self._order.after(number))

    def follow(self, number: int) -> bool:
        """Take in what was put in the place of tensors at rest, or of their memory; says if anything was."""
        with self.lock:
            found = [one for one in self.sites[number].streamed if one.follow()]
            if found:
                self.supply.note(number)
            return bool(found)

    def add(self, site: Site) -> int:
        """Take one more site, entered where it is met; returns its number."""
        with self.lock:
            return self.supply.add(site)

    def join(self, number: int, one: Streamed) -> None:
        """Let a site bring one more tensor."""
        with self.lock:
            self.sites[number].streamed.append(one)
            self.supply.note(number)

    def choose(self, *, whole: bool) -> None:
        """Say whether this pass needs all of what is by rows, or some rows: what is brought ahead follows."""
        with self.lock:
            self._order.whole = whole

    def close(self) -> None:
        """End the thread and put everything to rest."""
        self.notice_fork()
        with self.lock:
            self._all_to_rest()
            self.supply.close()

    def _look(self, number: int | None) -> list[bytes]:
        return [] if number is None else [one.look() for one in self.sites[number].streamed]

    def _look_again(self) -> None:
        """Give up what came ahead in the last pass, if it was written to since: adapters are merged so."""
        looked, self._looked = self._looked, None
        if looked is not None and looked != self._look(self._order.first):
            self.supply.drop()

    def _pass(self) -> _Pass:
        return self._passes.setdefault(threading.get_ident(), _Pass())

    def _learn(self, now: _Pass, number: int) -> None:
        """Note what came after what, and give up what was brought ahead for another order."""
        self._order.note(now.last, number)
        now.last = number
        self.supply.drop({number, *self._expected(self._order.after(number))} if self.supply.ready else ())

    def _expected(self, number: int | None) -> Iterator[int]:
        """Yield what came ahead and is what its devices need next, from a site on."""
        return self._next_by_device(number, self.supply.ready.__contains__)

    def _ahead(self, number: int | None) -> None:
        """Prepare what follows, for each device as far as its buffer allows."""
        for _ in self._next_by_device(number, self.supply.ahead):
            pass

    def _next_by_device(self, number: int | None, ask: Callable[[int], bool]) -> Iterator[int]:
        """Yield the sites from one on, each once, up to the first on each device that gets a no."""
        over = set[torch.device]()
        for each in self._order.onwards(number):
            if over >= self.supply.devices:
                return
            devices = self.supply.sizes[each].keys()
            if over.isdisjoint(devices) and ask(each):
                yield each
            else:
                over.update(devices)

    def _put_back(self, number: int) -> None:
        site, load = self.sites[number], self._loads[number].pop()
        self.supply.held.subtract(load.sizes)
        for one, _, _ in load.copies:
            one.users -= 1
        if load.loan is not None:
            load.loan.end()
        try:
            if load.copies:
                settle([one for one, _, _ in load.copies if one.users == 0], self.supply)
        finally:
            load.give_back(used=True)
        for table, name, value in () if self._loads[number] else site.made:
            table[name] = value

    def _recover(self, entered: nn.Module) -> None:
        """Put to rest what forwards left behind that something broke off between their hooks."""
        gone: list[int] = []
        for thread, each in self._passes.items():
            calls = [calls_of(self.sites[number].module, thread) for number in each.inside]
            rows = list(zip(each.inside, calls, strict=True))
            left = [n for n, count in rows if count > (self.sites[n].module is entered)]
            gone += [number for number in each.inside if number not in left]
            each.inside = left
        if not any(each.inside for each in self._passes.values()):
            self._all_to_rest()
            return
        for number in gone:
            if self._loads.get(number):
                self._put_back(number)

    def _all_to_rest(self) -> None:
        streamed = {id(one): one for site in self.sites for one in site.streamed}
        for one in streamed.values():
            one.users = 0
        settle(list(streamed.values()), self.supply)
        for loads in self._loads.values():
            for load in loads:
                if load.loan is not None:
                    load.loan.end()
                load.give_back(used=True)
        self._loads, self._passes, self.supply.held = {}, {}, Counter()
        self.supply.drop(rest=True)
        for site in self.sites:
            for table, name, value in site.made:
                table[name] = value
        self.rests = True

    def notice_fork(self) -> None:
        """Start anew in a child of the process that loaded the model; a card cannot be used there."""
        if self._process == os.getpid():
            return
        self.lock, self.turns = threading.RLock(), threading.Condition()
        self.supply.forget()
        away = next((one for s in self.sites for one in s.streamed if is_card(one.device)), None)
        if away is not None:
            raise forked(away.device)
        self._process = os.getpid()
        self._all_to_rest()
