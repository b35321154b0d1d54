"""How busy replicas are and what they have written: counted by each, gathered by one actor."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from ray_si.engines.base import Completion, Purpose, Request
from ray_si.serving.versions import mismatch


class SlotSeconds(dict[str, float]):
    """Slots times seconds, by the section of the configuration whose replicas have the slots."""

    def __add__(self, other: SlotSeconds) -> SlotSeconds:
        names = self.keys() | other.keys()
        return SlotSeconds({name: self.get(name, 0.0) + other.get(name, 0.0) for name in names})

    def __sub__(self, other: SlotSeconds) -> SlotSeconds:
        return self + SlotSeconds({name: -seconds for name, seconds in other.items()})

    def of(self, section: str | None) -> float:
        """Those of a section; None: of all."""
        return sum(self.values()) if section is None else self.get(section, 0.0)


@dataclass
class Usage:
    """What replicas have done since they started, and what they are doing.

    ``busy_s`` is out of ``open_s``. ``running`` requests are being answered, ``waiting`` ones are
    queued on a replica. The counters go by purpose; tokens are those of answered requests,
    ``failed`` counts requests that ended as an error row. ``failed_starts`` and ``deaths`` count
    replicas, ``trouble`` is the last word of one of them.
    """

    replicas: int = 0
    slots: int = 0
    running: int = 0
    waiting: int = 0
    busy_s: SlotSeconds = field(default_factory=SlotSeconds)
    open_s: SlotSeconds = field(default_factory=SlotSeconds)
    requests: Counter[Purpose] = field(default_factory=Counter)
    failed: Counter[Purpose] = field(default_factory=Counter)
    prompt_tokens: Counter[Purpose] = field(default_factory=Counter)
    completion_tokens: Counter[Purpose] = field(default_factory=Counter)
    failed_starts: int = 0
    deaths: int = 0
    trouble: str = ""

    @property
    def queued(self) -> int:
        """Requests that wait for a slot, wherever they do."""
        return self.waiting + max(0, self.running - self.slots)

    def count(self, request: Request, completion: Completion) -> None:
        """Add one answered request."""
        self.requests[request.purpose] += 1
        self.failed[request.purpose] += completion.finish_reason == "error"
        self.prompt_tokens[request.purpose] += completion.prompt_tokens
        self.completion_tokens[request.purpose] += completion.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{name: value + getattr(other, name) for name, value in vars(self).items()})

    def since(self, earlier: Usage) -> Usage:
        """What was done after an earlier moment; what is being done now is as it is."""
        now = ("replicas", "slots", "running", "waiting", "trouble")
        return Usage(
            **{
                name: value if name in now else value - getattr(earlier, name)
                for name, value in vars(self).items()
            }
        )

    def utilisation_since(self, earlier: Usage, section: str | None = None) -> float | None:
        """Share of the slots' time that was used between two moments; None where none passed.

        Of one ``section``'s replicas, or of all together.
        """
        open_s = (self.open_s - earlier.open_s).of(section)
        return (self.busy_s - earlier.busy_s).of(section) / open_s if open_s > 0 else None


class BusyClock:
    """Integrates busy slots over time into a `Usage` of a ``section``'s replica."""

    def __init__(self, slots: int, section: str) -> None:
        self._section = section
        self.usage = Usage(replicas=1, slots=slots)
        self._since = time.monotonic()

    def change(self, running: int, waiting: int) -> None:
        """Note a new state; the time until now went by in the old one."""
        now = time.monotonic()
        elapsed, self._since = now - self._since, now
        busy = min(self.usage.running, self.usage.slots)
        self.usage.busy_s += SlotSeconds({self._section: elapsed * busy})
        self.usage.open_s += SlotSeconds({self._section: elapsed * self.usage.slots})
        self.usage.running, self.usage.waiting = running, waiting


RequestId = tuple[str, int]
"""Purpose and seed, of which no two requests of a phase have the same."""

_FRUITLESS = 3
"""Engines at the least that die in a row before anything is answered, after which another is of no
use."""

_SILENT_S = 5.0
"""A replica that has reported nothing for so long is no longer there."""

_FREE_STARTS = 4
"""Starts that may fail on a node before it costs a second and more to try there again."""

_LONGEST_PAUSE_S = 60.0
"""Most seconds before a node is tried again."""


class Meter:
    """What is known of a run's replicas, each by an id of its own. A Ray actor."""

    def __init__(self, expected: Mapping[str, str] | None = None) -> None:
        """``expected`` are versions that every replica must have, the driver's."""
        self._expected = dict(expected or {})
        self._versions: dict[str, dict[str, str]] = {}
        self._usage: dict[str, tuple[float, Usage]] = {}
        self._failed_starts: Counter[str] = Counter()  # by node
        self._deaths = 0
        self._trouble = ""
        self._fruitless: list[frozenset[RequestId]] = []
        self._answered = 0  # before the first of those

    def joins(self, engine: str, told: dict[str, str]) -> str | None:
        """A replica tells its `versions`; why it must not start, None where it may."""
        problem = mismatch(told, self._expected, "the driver has")
        if problem is None:
            first = self._versions.setdefault(engine, told)
            problem = mismatch(told, first, "the first replica has")
        return problem

    def versions(self) -> dict[str, dict[str, str]]:
        """Those of the replicas, by engine."""
        return self._versions

    def report(self, replica: str, usage: Usage) -> None:
        """Replace what is known of one replica."""
        self._usage[replica] = (time.monotonic(), usage)
        if usage.trouble:
            self._trouble = usage.trouble

    def could_not_start(self, reason: str, node: str) -> float:
        """Count a replica that failed before it could answer anything; seconds to keep its place.

        They grow with the failures on its node: a broken one, where starts fail within seconds,
        would else use up all tries before the others' models are loaded.
        """
        self._failed_starts[node] += 1
        self._trouble = f"a replica could not start: {reason}"
        return min(_LONGEST_PAUSE_S, 2.0 ** (self._failed_starts[node] - _FREE_STARTS))

    def died(self, replica: str, usage: Usage, running: frozenset[RequestId], reason: str) -> bool:
        """Count a replica whose engine has died over these requests; whether more would, too.

        That is where as many died in a row as others are at work, and several at the least, nothing
        was answered in between by any, and no request was among those of all of them that could be
        to blame.
        """
        self._usage[replica] = (-math.inf, usage)  # it is no longer there
        self._deaths += 1
        self._trouble = f"a replica died: {reason}"
        answered = self.total().requests.total()
        if not self._fruitless or answered > self._answered:
            self._fruitless, self._answered = [], answered
        if usage.requests.total():
            return False
        self._fruitless.append(running)
        wanted = max(_FRUITLESS, self._at_work())  # one bad node may have several of many
        last = self._fruitless[-wanted:]
        return len(last) == wanted and not frozenset.intersection(*last)

    def _at_work(self) -> int:
        """Replicas that are there and have something to answer."""
        now = time.monotonic()
        return sum(
            usage.running > 0 and now - at <= _SILENT_S for at, usage in self._usage.values()
        )

    def held_back(self) -> frozenset[RequestId]:
        """Requests that a new replica had better not begin with: the last engines died over them.

        Half of the first one's, then those of the last one, so that it soon shows whether it is one
        request that kills.
        """
        if not self._fruitless:
            return frozenset()
        last = self._fruitless[-1]
        if last < frozenset.union(*self._fruitless):
            return last
        return frozenset(sorted(last)[(len(last) + 1) // 2 :])

    def total(self, silent_s: float = _SILENT_S) -> Usage:
        """The sum; replicas silent for so long no longer count as there, what they did does."""
        total = Usage()
        for at, usage in self._usage.values():
            gone = {}
            if time.monotonic() - at > silent_s:
                gone = {"replicas": 0, "slots": 0, "running": 0, "waiting": 0}
            total += Usage(**(vars(usage) | {"trouble": ""} | gone))
        total.failed_starts, total.deaths = self._failed_starts.total(), self._deaths
        total.trouble = self._trouble
        return total
