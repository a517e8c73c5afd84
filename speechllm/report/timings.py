"""Timings of pruned models against their baselines, as a study left them.

A run's own ``speed`` is no timing: it shared its cores with other runs.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from speechbrain_ext.runs.files import ODD_FORM
from speechllm.report.estimates import Estimate

# Others may keep this share of a machine's cores busy while it is timed.
IDLE = 0.1
LACKING = "a timing on an idle device: run the study's timings"


@dataclass(frozen=True)
class Timing:
    """One file of `speechllm.study.timing`."""

    name: str
    content: dict

    @property
    def which(self) -> tuple:
        """The system, as `speechllm.report.study.system` has it."""
        one = self.content
        adapter = one["adapter"] or ""
        return one["backbone"], adapter, one["encoder"], one["task"]

    @property
    def depth(self) -> int:
        """Layers removed."""
        return len(self.content["removed_layers"])

    @property
    def layers(self) -> int:
        """Layers before."""
        return self.content["layers"]

    def __str__(self):
        return f"{self.which[0]} without {self.depth} of {self.layers} layers"

    @property
    def busy(self) -> str:
        """Why it says nothing about speed, or nothing."""
        where = self.content["measured_on"]
        others, cores = where["others_busy_cores"], where["cores"]
        if others is None:
            return "whether the machine was idle"
        if others > IDLE * cores:
            return f"an idle machine: others kept {others:.1f} of {cores} busy"
        return ""

    def ratio(self, what="system") -> Estimate:
        """How many times as fast, of the whole ``system`` or the ``llm``."""
        told = self.content["times"][what]["ratio"]
        return Estimate(told["median"], *told["interval"])

    def speed_up(self, what="system") -> Estimate:
        """By how many per cent it says more in the same time."""
        return _moved(self.ratio(what), lambda ratio: 100 * (ratio - 1))

    def time_saved(self, what="system") -> Estimate:
        """By how many per cent it says the same in less time."""
        return _moved(self.ratio(what), lambda ratio: 100 * (1 - 1 / ratio))

    def held(self, side: str) -> int:
        """Bytes held at decoding: the whole system's and what is beyond."""
        told = self.content["bytes"][side]
        return told["system"] + told["beyond"]

    def memory_left(self) -> Estimate:
        """Bytes held, as a share of the baseline's: counted, not drawn."""
        return Estimate(self.held("pruned") / self.held("baseline"))

    def of_removed(self) -> Estimate:
        """Weights saved, in per cent of those of the removed layers."""
        told = self.content["bytes"]
        saved = told["baseline"]["system"] - told["pruned"]["system"]
        return Estimate(100 * saved / told["removed_layers"])


def _moved(one, rising):
    """A rising function of a statistic; its interval goes along."""
    return Estimate(*map(rising, (one.value, one.low, one.high)))


def read_timings(folder: str | Path) -> list[Timing]:
    """The timings of a study, by its folder or that of its runs."""
    found = []
    for place in (Path(folder), Path(folder).resolve().parent):
        for file in sorted((place / "timings").glob("*.json")):
            try:
                told = json.loads(file.read_text(encoding="utf-8"))
                one = Timing(file.stem, told)
                one.busy, one.ratio(), one.of_removed(), one.memory_left()
            except ODD_FORM as error:
                print(
                    f"{file}: no timing ({error!r}): remove it",
                    file=sys.stderr,
                )
                continue
            found.append(one)
        if found:
            break
    return found
