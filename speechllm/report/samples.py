"""A study's scores, with each speaker and each seed left out in turn.

Units of chance are the speakers of every set, the seeds of healing and those
of the baselines; all systems of a study share them, so that what is hard for
all does not blur their differences. Legend for shapes: U utterances, K counts
of each, G speakers of a set, R sets of summed counts, N units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from speechbrain_ext.runs.files import LOSSES_FILE, of_form
from speechbrain_ext.runs.reading import read_utterances
from speechbrain_ext.runs.result import RunResult
from speechbrain_ext.scores.counts import STATISTICS, utterance_counts
from speechbrain_ext.scores.intervals import (
    LOG,
    Scale,
    group_sums,
    left_out,
    scale_of,
)
from speechllm.report.estimates import Drawn, grouped

SEEDS, BASELINES = "seeds", "baseline seeds"
# Not the name of a set, which may well be "validation".
VALIDATION = "validation loss"
# What stands for the speakers of a set whose answers are not there.
NO_ROWS = "answers"


class Figure(NamedTuple):
    """A score or a loss of a run, and what it is summed from."""

    value: float
    file: str
    what: str
    counts_of: Callable
    # Of sets of summed counts: a callable, where the metric is known.
    statistic: Any
    scale: Scale


def figures_of(run: RunResult) -> dict[str, Figure]:
    """A run's scores by their sets, and its loss in nats per target token."""
    found = {
        name: Figure(
            one.value,
            f"hypotheses-{name}.jsonl",
            f"hypotheses of {name}",
            lambda rows, one=one: utterance_counts(
                rows, one.metric, one.language
            ),
            STATISTICS.get(one.metric),
            scale_of(one.metric),
        )
        for name, one in run.scores.items()
        if one.value is not None
    }
    loss = run.validation.get("final_loss")
    if loss is not None:
        found[VALIDATION] = Figure(
            loss,
            LOSSES_FILE,
            "validation losses",
            lambda rows: [(row["loss"], row["tokens"]) for row in rows],
            lambda sums_R2: sums_R2[:, 0] / sums_R2[:, 1],
            LOG,
        )
    return found


class Samples:
    """The scores and losses of a study's runs."""

    def __init__(self, runs: list[RunResult], folders: dict):
        self.folders = folders
        self.notes: list[str] = []
        # Utterances of each run and set that have their counts.
        self._ids: dict[tuple, tuple] = {}
        # What is left out: by kind of chance, the places of its units.
        self.layout: dict[str, list[int]] = {}
        self._places: dict[tuple, int] = {}
        self._kinds: dict[tuple, str] = {}
        self._sums: dict[tuple, tuple] = {}
        self._scores: dict[tuple, Drawn] = {}
        self._baseline_seeds = {r.name: _baseline_seed(r, runs) for r in runs}
        pruned = [run for run in runs if run.removed]
        # Where every run has a baseline of its own seed, to leave out a seed
        # is to leave out both.
        self._apart = any(
            run.seed != self._baseline_seeds[run.name] for run in pruned
        )
        self._unit(NO_ROWS, NO_ROWS)
        for run in runs:
            for kind, seed in self._seed_units(run):
                self._unit(kind, seed)
            for name, figure in figures_of(run).items():
                self._count(run, name, figure)
        # Scores of other utterances than the rest of a set's.
        self._odd = self._refuse_odd(runs)

    def _refuse_odd(self, runs):
        """Runs that miss utterances of a set cannot be paired with others."""
        by_set = grouped(
            ((run.task, name), run.name)
            for run in runs
            for name in [*run.scores, VALIDATION]
            if (run.name, name) in self._ids
        )
        odd = set()
        for (_, name), runs_of_it in by_set.items():
            alike = grouped((self._ids[run, name], run) for run in runs_of_it)
            usual = max(alike, key=lambda ids: (len(alike[ids]), len(ids)))
            for ids in alike.keys() - {usual}:
                missing = sorted(set(usual) ^ set(ids))
                for run in alike[ids]:
                    odd.add((run, name))
                    self.notes.insert(
                        0,
                        f"{run}: {name} left out, as {len(missing)} "
                        f"utterances are not those of {alike[usual][0]} "
                        f"({', '.join(missing[:3])}): evaluate it again",
                    )
        return odd

    # -- what is left out

    def _unit(self, kind, name):
        """The place of a unit, a new one where it is not known yet."""
        if (kind, name) not in self._places:
            place = self._places[kind, name] = len(self._places)
            self.layout.setdefault(kind, []).append(place)
        return self._places[kind, name]

    def _seed_units(self, run):
        """The seeds that a run hangs on, its own and its baseline's."""
        if not self._apart:
            return [(SEEDS, run.seed)]
        # What is not healed has no seed of its own.
        healed = run.removed and run.healing != "none"
        own = [(SEEDS, run.seed)] if healed else []
        return [*own, (BASELINES, self._baseline_seeds[run.name])]

    def _count(self, run, name, figure):
        """Sum what a run's figure is made of over the speakers of a set."""
        found = self.rows_of(run, figure)
        if found is None:
            return
        ids, speakers, counts_UK = found
        self._ids[run.name, name] = ids
        known = None not in speakers
        groups = speakers if known else list(ids)
        sums_GK, names = group_sums(counts_UK, groups)
        # Tasks may call different sets by one name.
        of = name.removesuffix(" loss")
        kind = f"{'speakers' if known else 'utterances'} of {of}"
        if (run.task, kind) not in self._kinds:
            again = sum(kind == other for _, other in self._kinds)
            self._kinds[run.task, kind] = kind + f" ({run.task})" * again
        kind = self._kinds[run.task, kind]
        places = [self._unit(kind, one) for one in names]
        self._sums[run.name, name] = sums_GK, places

    def rows_of(self, run, figure):
        """Ids, speakers and counts of a run's utterances, if they are there."""
        folder = self.folders.get(run.name)
        file = Path(folder or "", figure.file)
        if not folder or not file.is_file():
            self.notes.append(
                f"{run.name}: no {figure.what}, so no interval over its "
                "speakers"
            )
            return None
        found = {r["id"]: r for r in read_utterances(file)}
        ids = tuple(sorted(found))
        rows = [found[i] for i in ids]
        speakers = [row.get("speaker") for row in rows]
        with of_form(file, ": cannot be counted", "Evaluate the run again"):
            return (ids, speakers, figure.counts_of(rows)) if rows else None

    def _drawn(self, run, name, figure):
        """A run's figure on a set, with each speaker left out."""
        values = np.full(1 + len(self._places), float(figure.value))
        involved = np.zeros(len(self._places), dtype=bool)
        # Without its seed there is no run.
        unknown = [self._places[unit] for unit in self._seed_units(run)]
        if (run.name, name) in self._sums:
            sums_GK, places = self._sums[run.name, name]
            without = np.asarray(figure.statistic(left_out(sums_GK)))[1:]
            values[1 + np.array(places)] = without
            involved[places] = True
        else:
            unknown.append(self._places[NO_ROWS, NO_ROWS])
        involved[unknown] = True
        values[1 + np.array(unknown)] = np.nan
        return Drawn(values, involved, self.layout, figure.scale)

    # -- what is asked for

    def score(self, run: RunResult, name: str) -> Drawn | None:
        """A run's score on a set, or `VALIDATION` loss; None: it has none."""
        key = run.name, name
        if key not in self._scores and key not in self._odd:
            if figure := figures_of(run).get(name):
                self._scores[key] = self._drawn(run, name, figure)
        return self._scores.get(key)

    def constant(self, value: float) -> Drawn:
        """A value that no speaker and no seed changes."""
        many = len(self._places)
        values = np.full(1 + many, float(value))
        return Drawn(values, np.zeros(many, dtype=bool), self.layout)

    def without_seeds(self, drawn: Drawn | None) -> Drawn | None:
        """A baseline's figure, as that of each run that was made from it."""
        if drawn is None:
            return None
        seeds = [*self.layout.get(SEEDS, []), *self.layout.get(BASELINES, [])]
        values, involved = drawn.values.copy(), drawn.involved.copy()
        values[1 + np.array(seeds)] = drawn.value
        involved[seeds] = False
        return Drawn(values, involved, self.layout, drawn.scale)

    def over_runs(self, found: Iterable[tuple]) -> Drawn | None:
        """The mean over runs of different seeds, each left out in turn."""
        pairs = [(run, one) for run, one in found if one is not None]
        if not pairs:
            return None
        many = len(self._places)
        there = np.ones((len(pairs), 1 + many))
        involved = np.logical_or.reduce([one.involved for _, one in pairs])
        for row, (run, _) in zip(there, pairs):
            places = [self._places[unit] for unit in self._seed_units(run)]
            row[1 + np.array(places)] = 0
            involved[places] = True
        values = np.stack([one.values for _, one in pairs])
        values = np.where(there > 0, values, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_N = (values * there).sum(axis=0) / there.sum(axis=0)
        return Drawn(mean_N, involved, self.layout, pairs[0][1].scale)


def _baseline_seed(run, runs):
    """The seed of the unpruned run that a run was made from."""
    if not run.removed:
        return run.seed
    whole = {
        one.name: one.seed
        for one in runs
        if not one.removed and one.task == run.task
    }
    seeds = [seed for seed in whole.values() if seed is not None]
    same = run.seed if run.seed in seeds else min(seeds, default=run.seed)
    return whole.get(baseline_name(run), same)


def baseline_name(run: RunResult) -> str:
    """The name of the run that a run was made from; empty where unknown."""
    return Path(str(run.configuration.get("baseline") or "")).name
