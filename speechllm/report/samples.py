"""A study's scores, drawn again and again: over seeds and over utterances.

Every statistic of the report is an array ``[1 + R]``: its value from the
result files first, then its value in each of R drawn studies. A drawn study
has its seeds drawn with replacement, and its utterances too; all systems of
one study share both, as they share them in truth, so that what is hard for
all of them does not blur their differences. Legend for shapes: R drawn
studies, U utterances, K counts of each, S seeds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from speechbrain_ext.runs.files import LOSSES_FILE, plain, read_utterances
from speechbrain_ext.scores.bootstrap import percentile_interval
from speechbrain_ext.scores.score import STATISTICS, utterance_counts

DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval."""

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self):
        return self.said()

    def said(self, form: str = "{:.2f}") -> str:
        """Value and interval in words, each in a format."""
        if self.low is None:
            return form.format(self.value)
        ends = [
            form.format(end) if np.isfinite(end) else "no bound"
            for end in (self.low, self.high)
        ]
        return f"{form.format(self.value)} [{', '.join(ends)}]"

    def plain(self) -> dict:
        """As JSON has it; an end without bound is None."""
        ends = [self.low, self.high]
        return {
            "value": self.value,
            "interval": None if self.low is None else plain(ends),
        }


def estimate(drawn_R: np.ndarray | None) -> Estimate | None:
    """Value and percentile interval of a statistic."""
    if drawn_R is None or np.isnan(drawn_R[0]):
        return None
    known_R = drawn_R[1:][~np.isnan(drawn_R[1:])]
    if not known_R.size or (known_R == drawn_R[0]).all():
        return Estimate(float(drawn_R[0]))
    return Estimate(float(drawn_R[0]), *percentile_interval(known_R))


def mean(arrays: Iterable):
    """The mean of statistics, such as those of several sets, or None."""
    found = [one for one in arrays if one is not None]
    return np.mean(found, axis=0) if found else None


class Samples:
    """The drawn scores of a study."""

    def __init__(self, runs, folders, draws=DRAWS):
        self.draws = draws
        self.folders = folders
        self.notes = []
        # Utterances of each run and set that were drawn.
        self.ids = {}
        self.seeds = sorted({run.seed for run in runs}, key=str)
        generator = np.random.default_rng(0)
        many = max(1, len(self.seeds))
        times_RS = generator.multinomial(many, [1 / many] * many, draws)
        self._seeds_RS = np.vstack([np.ones((1, many)), times_RS])
        self._scores, self._losses, self._drawn = {}, {}, {}
        for run in runs:
            for name, one in run.scores.items():
                self._draw_score(run, name, one)

    def _draw_score(self, run, name, one):
        if one.value is not None:
            self._scores[run.name, name] = self._draw(
                run,
                name,
                one.value,
                (f"hypotheses-{name}.jsonl", f"hypotheses of {name}"),
                lambda rows: utterance_counts(rows, one.metric, one.language),
                STATISTICS[one.metric],
            )

    def _draw_loss(self, run):
        loss = run.validation.get("final_loss")
        if loss is None:
            return None
        return self._draw(
            run,
            "validation",
            loss,
            (LOSSES_FILE, "validation losses"),
            lambda rows: [(row["loss"], row["tokens"]) for row in rows],
            lambda sums_R2: sums_R2[:, 0] / sums_R2[:, 1],
        )

    def _draw(self, run, name, value, file, counts_of, statistic):
        """A run's value, then that on the drawn utterances, if it has some."""
        value_R = self.constant(value)
        rows = self._rows(run, *file)
        if rows:
            ids = self.ids[run.name, name] = tuple(sorted(rows))
            counts_UK = counts_of([rows[i] for i in ids])
            value_R[1:] = statistic(self._times(ids, name) @ counts_UK)
        return value_R

    def _rows(self, run, file, what):
        """A run's rows by id; none where their file is not there."""
        folder = self.folders.get(run.name)
        if not folder or not (folder / file).is_file():
            self.notes.append(
                f"{run.name}: no {what}, so no interval over its utterances"
            )
            return None
        return {row["id"]: row for row in read_utterances(folder / file)}

    def _times(self, ids, name):
        """How often each drawn study has each utterance ``[R, U]``."""
        # Tasks may call different sets by one name.
        if (ids, name) not in self._drawn:
            generator = np.random.default_rng(zlib.crc32(name.encode()))
            many = len(ids)
            times_RU = generator.multinomial(
                many, np.full(many, 1 / many), self.draws
            )
            self._drawn[ids, name] = times_RU.astype(np.float64)
        return self._drawn[ids, name]

    def score(self, run, name):
        """A run's score on a set, drawn."""
        return self._scores.get((run.name, name))

    def validation_loss(self, run):
        """A run's validation loss in nats per target token, drawn."""
        if run.name not in self._losses:
            self._losses[run.name] = self._draw_loss(run)
        return self._losses[run.name]

    def constant(self, value):
        """A value that every drawn study has alike."""
        return np.full(1 + self.draws, float(value))

    def over_seeds(self, by_seed):
        """The mean over the seeds that each drawn study has."""
        found = {k: v for k, v in by_seed.items() if v is not None}
        if not found:
            return None
        places = [self.seeds.index(seed) for seed in found]
        weights_RS = self._seeds_RS[:, places]
        values_RS = np.stack(list(found.values()), axis=1)
        weights_RS = np.where(np.isnan(values_RS), 0, weights_RS)
        total_R = weights_RS.sum(axis=1)
        values_RS = np.where(weights_RS > 0, values_RS, 0)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (values_RS * weights_RS).sum(axis=1) / total_R
