"""What a campaign is made of: faults injected, survived or not, and counted.

Each module beside this one that is named in `page.FAMILIES` has a function
``faults(setting)`` that injects faults one by one and yields an `Outcome` for
each. Everything random comes from the setting's seed, so that a command and a
seed make the same faults again.
"""

from __future__ import annotations

import collections
import importlib
import random
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Faults of one kind of which the first are told in full.
TOLD = 5
ITSELF = "the campaign itself"


@dataclass(frozen=True)
class Setting:
    """How much is tried, from which seed, and where files may be written."""

    quick: bool
    seed: int
    folder: Path
    # Those that are wanted; empty: all.
    kinds: tuple[str, ...] = ()

    def wants(self, *kinds: str) -> bool:
        """Whether one of some kinds is wanted; others need not be tried."""
        return not self.kinds or bool({*kinds} & {*self.kinds})

    def many(self, quick: int, full: int) -> int:
        """How many times, in a quick campaign and in a full one."""
        return quick if self.quick else full

    def random(self, kind: str) -> random.Random:
        """Numbers of a kind's own: a kind more changes none of the others."""
        return random.Random(f"{self.seed} {kind}")


@dataclass(frozen=True)
class Outcome:
    """One injected fault: its kind, which it was, and what was wrong then.

    An empty ``wrong`` says that it was survived: nothing lost, a clear
    message, the same end as without it.
    """

    kind: str
    which: str
    wrong: str = ""


@dataclass
class Tally:
    """What came of one family."""

    cases: collections.Counter = field(default_factory=collections.Counter)
    survived: collections.Counter = field(default_factory=collections.Counter)
    wrong: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one fault; the first of a kind that did harm are kept."""
        self.cases[outcome.kind] += 1
        self.survived[outcome.kind] += not outcome.wrong
        alike = [one for one in self.wrong if one["kind"] == outcome.kind]
        if outcome.wrong and len(alike) < TOLD:
            self.wrong.append(vars(outcome))

    def as_json(self) -> dict:
        """Counts by kind, in the order in which they came."""
        kinds = {
            kind: {"cases": many, "survived": self.survived[kind]}
            for kind, many in self.cases.items()
        }
        return {
            "seconds": round(self.seconds),
            "kinds": kinds,
            "wrong": self.wrong,
        }


def run_family(name: str, setting: Setting) -> Tally:
    """Inject the faults of one family; each that does harm is printed."""
    module = importlib.import_module(f"soak.{name}")
    tally, began = Tally(), time.monotonic()
    setting.folder.mkdir(parents=True, exist_ok=True)
    try:
        for outcome in told(module.faults(setting)):
            if not setting.wants(outcome.kind, ITSELF):
                continue
            tally.add(outcome)
            if outcome.wrong:
                what = f"{name}, {outcome.kind}, {outcome.which}"
                print(f"WRONG {what}: {outcome.wrong}", flush=True)
    finally:
        tally.seconds = time.monotonic() - began
    return tally


def told(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    """The outcomes; a campaign that breaks off is a fault of its own."""
    try:
        yield from outcomes
    except Exception:
        yield Outcome(ITSELF, "broke off", traceback.format_exc())
