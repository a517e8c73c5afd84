"""How often intervals hold the truth: made-up studies whose truth is known.

``python tests/tools/coverage_of_intervals.py`` writes docs/coverage.md. Every study has an
unpruned system and two pruned ones, whose true WER is 1.4 and 1.2 times its
own; speakers are hard or easy for all of them alike, and a little for each;
seeds differ; errors are Poisson. The report's own code makes the intervals,
and beside it stands what it did before: utterances and seeds drawn with
replacement, the middle 95 % of what comes out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from speechbrain_ext.runs.result import RunResult, SetScore
from speechbrain_ext.scores.intervals import score_interval, wer_from_sums
from speechllm.report.estimates import estimate, ratio_estimate
from speechllm.report.samples import Samples
from speechllm.report.study import Study
from speechllm.report.tables import markdown_table

TRUE = {"whole": 6.0, "paper": 8.4, "ours": 7.2}
FIGURES = {
    "WER of a run": None,  # that of its seed
    "WER over seeds": TRUE["paper"],
    "degradation": 0.4,
    "ratio of two degradations": 0.5,
    "ratio of two WERs": 7.2 / 8.4,
}
SET = "test"


def made_up(rng, speakers, seeds, spread, sentences=16):
    """Errors ``[seeds, U]`` of each system, words and speakers ``[U]``.

    And the true WER of the first run, whose seed was lucky or not.
    """
    groups = np.repeat(np.arange(speakers), sentences)
    words = rng.integers(5, 13, size=len(groups)).astype(float)
    hard = _lognormal(rng, spread, speakers)
    errors = {}
    for name, wer in TRUE.items():
        own = _lognormal(rng, 0.3, speakers)
        luck = _lognormal(rng, 0.1, (seeds, 1))
        both = _lognormal(rng, 0.2, (seeds, speakers))
        if name == "whole":
            first = wer * float(luck[0, 0])
        rate = wer / 100 * luck * (hard * own * both)[:, groups] * words
        errors[name] = rng.poisson(rate).astype(float)
    return errors, words, groups, first


def _lognormal(rng, spread, size):
    """Factors whose mean is one."""
    return np.exp(rng.normal(-(spread**2) / 2, spread, size))


class MadeUp(Samples):
    """Samples whose counts do not come from files."""

    def __init__(self, runs, counts):
        self.counts = counts
        super().__init__(runs, {})

    def rows_of(self, run, figure):
        """Utterances, their speakers and their counts."""
        counts, groups = self.counts[run.name]
        return tuple(map(str, range(len(groups)))), list(groups), counts


def study_of(errors, words, groups):
    """The study of some errors, its baseline with a run for each seed."""
    runs, counts = [], {}
    for name, own in errors.items():
        for seed, errors_U in enumerate(own):
            pruned = name != "whole"
            run = RunResult(
                name=f"{name}-{seed}",
                backbone="llm",
                layers=12,
                removed=4 * pruned,
                healing={"whole": "none", "paper": "both"}.get(name, name),
                path={"from": "speech"} if pruned else None,
                seed=seed,
                status="done",
                scores={
                    SET: SetScore("WER", 100 * errors_U.sum() / words.sum())
                },
                configuration={"baseline": f"whole-{seed}"} if pruned else {},
            )
            runs.append(run)
            table = np.stack([errors_U, words], axis=1)
            counts[run.name] = table, groups
    return Study(runs, samples=MadeUp(runs, counts))


def ours(study, errors, words, groups):
    """The intervals of the report."""
    which = study.systems()[0]
    cells = [(which, 4, one, "speech", SET) for one in ("ours", "both")]
    lost = [study.degradation(*cell) for cell in cells]
    scores = [study.score(*cell) for cell in cells]
    table = np.stack([errors["whole"][0], words], axis=1)
    found = [
        score_interval(table, list(groups), "WER", wer_from_sums),
        estimate(scores[1]),
        estimate(lost[1]),
        ratio_estimate(*lost),
        estimate(np.exp(np.log(scores[0] / scores[1]))),
    ]
    ends = [found[0], *map(_ends, found[1:])]
    return dict(zip(FIGURES, ends))


def _ends(one):
    """An interval's ends; no bound where nothing is told."""
    known = one is not None and one.low is not None
    return (one.low, one.high) if known else (-np.inf, np.inf)


def before(rng, errors, words, draws=300):
    """Utterances and seeds drawn with replacement; the middle 95 %."""
    many, seeds = len(words), len(errors["whole"])
    times_RU = rng.multinomial(many, np.full(many, 1 / many), draws)
    times_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws)
    words_R = times_RU @ words
    by_seed = {
        k: 100 * (times_RU @ own.T) / words_R[:, None]
        for k, own in errors.items()
    }

    def over_seeds(values_RS):
        return (values_RS * times_RS).sum(axis=1) / seeds

    with np.errstate(divide="ignore", invalid="ignore"):
        lost = {
            k: over_seeds(by_seed[k] / by_seed["whole"] - 1)
            for k in ("paper", "ours")
        }
        wers = {k: over_seeds(one) for k, one in by_seed.items()}
        drawn = [
            by_seed["whole"][:, 0],
            wers["paper"],
            lost["paper"],
            lost["ours"] / lost["paper"],
            wers["ours"] / wers["paper"],
        ]
    return {
        name: np.nanpercentile(one, [2.5, 97.5])
        for name, one in zip(FIGURES, drawn)
    }


def coverage(speakers, seeds, spread, studies, seed=0, old=False):
    """How often each interval holds the truth, ours and that of before."""
    rng = np.random.default_rng(seed)
    held = {
        "ours": dict.fromkeys(FIGURES, 0),
        "before": dict.fromkeys(FIGURES, 0),
    }
    for _ in range(studies):
        errors, words, groups, first = made_up(rng, speakers, seeds, spread)
        study = study_of(errors, words, groups)
        found = {"ours": ours(study, errors, words, groups)}
        if old:
            found["before"] = before(rng, errors, words)
        for which, intervals in found.items():
            for name, (low, high) in intervals.items():
                true = FIGURES[name] or first
                held[which][name] += low <= true <= high
    return {
        which: {name: many / studies for name, many in own.items()}
        for which, own in held.items()
    }


PAGE = """# How sure a figure is

## How intervals are made

Utterances of one speaker are not independent, and a second seed gives another
model. So every figure is computed again without each speaker of a set, without
each seed of healing, and without each baseline's seed. How much it moves gives
its standard error, Student's t its interval (`speechbrain_ext/scores/intervals.py`).

- Systems are paired: the same speakers are left out of both, so that what is
  hard for all does not blur their difference.
- WER and degradations are taken on a logarithmic scale, BLEU on a logit one. A
  degradation over several seeds is that of the mean scores, not a mean of ratios.
- A ratio of two degradations has Fieller's interval: without bounds where the
  lower one may be zero.
- `speechllm compare` exchanges the two systems' answers speaker by speaker, in all
  ways up to 14 speakers and in 16,384 beyond; p-values by Holm over all sets and runs.
- Where a manifest knows no speakers, utterances are left out, and the page says so.

## When a depth is within the threshold

*Within*: the upper 95 % bound (one-sided) of every set's degradation is at most
0.25 (0.10 for BLEU). *Over*: the lower bound of one set is above. Else open. From
the shallowest depth on, up to the first that is not within: `[deepest within,
first over]`. The paper's own rule takes the values as they are. Depth and baseline
are chosen on test scores, as in the paper.

## When a claim is confirmed

Where the interval of each of its tested figures excludes the contrary. Equality is
tested as such: the 90 % interval lies within 5 % of the WER, or 0.5 BLEU. One seed,
or no answers to leave speakers out of, decides nothing; one baseline decides nothing
on claims about baselines. For "bigger models lose more" a model counts as one.

## How often a 95 % interval holds the truth

`python tests/tools/coverage_of_intervals.py` (a quarter of an hour): {studies:,}
made-up studies a row, whose truth is known. In per cent, before -> now. Before:
utterances and seeds drawn with replacement, the middle 95 % of what comes out.

{table}
Spread: the standard deviation of the logarithm of speakers' error rates; 16
sentences a speaker, true WER 6.0, 8.4 and 7.2. Where speakers are very unlike
(1.0), the WER of one set is not known as well as its interval says: a speaker worse
than all that were heard is still to come. What is compared on the same speakers is
not touched by that. Fieller's intervals hold too often where few speakers leave
them without bounds.
"""
PLACES = [(40, 5), (40, 3), (20, 5), (9, 3)]
SPREADS = (0.5, 0.7, 1.0)


def main(studies: int = 2000) -> None:
    """Write the page."""
    rows = []
    for speakers, seeds in PLACES:
        for spread in SPREADS:
            found = coverage(speakers, seeds, spread, studies, old=True)
            cells = [
                f"{100 * found['before'][n]:.1f} -> {100 * found['ours'][n]:.1f}"
                for n in FIGURES
            ]
            rows.append([speakers, seeds, spread, *cells])
    header = ["Speakers", "Seeds", "Spread of speakers", *FIGURES]
    page = Path(__file__).parents[2] / "docs" / "coverage.md"
    table = markdown_table(header, rows)
    page.write_text(PAGE.format(studies=studies, table=table), encoding="utf-8")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
