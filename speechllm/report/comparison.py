"""Two runs side by side, utterance by utterance."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from speechbrain_ext.runs.result import load_run
from speechbrain_ext.scores.bootstrap import percentile_interval
from speechbrain_ext.scores.language import form_of
from speechllm.report.samples import DRAWS, Samples


def compare_runs(a: str | Path, b: str | Path, samples: int = DRAWS) -> dict:
    """Differences of two runs' scores, and whether they are chance."""
    folders = {"A": Path(a), "B": Path(b)}
    runs = {letter: load_run(one) for letter, one in folders.items()}
    others = runs["B"].scores
    sets = {
        name: one.metric
        for name, one in runs["A"].scores.items()
        if name in others
        and others[name].metric == one.metric
        and None not in (one.value, others[name].value)
    }
    if not sets:
        raise ValueError(
            f"{a} and {b} have no scored set in common: evaluate both on one"
        )
    for name in sets:
        _check_forms(name, folders, runs)
    # Two runs may bear one name.
    pair = [dataclasses.replace(r, name=letter) for letter, r in runs.items()]
    drawn = Samples(pair, folders, samples)
    for name in sets:
        _check_utterances(drawn, name, folders)
    return {
        **{letter.lower(): run.name for letter, run in runs.items()},
        "sets": {
            name: {"metric": metric, **_difference(drawn, pair, name)}
            for name, metric in sets.items()
        },
    }


def _check_forms(name, folders, runs):
    """Refuse scores whose texts were made ready in different ways."""
    scores = {letter: run.scores[name] for letter, run in runs.items()}
    forms = {k: form_of(one.metric, one.language) for k, one in scores.items()}
    if len(set(forms.values())) > 1:
        told = ", ".join(f"{folders[k]}: {form}" for k, form in forms.items())
        raise ValueError(
            f"{name} was not scored alike ({told}): evaluate both with the "
            "same language"
        )


def _check_utterances(drawn, name, folders):
    """Refuse runs that were not drawn on the same utterances."""
    for letter, folder in folders.items():
        if (letter, name) not in drawn.ids:
            raise FileNotFoundError(
                f"{folder / f'hypotheses-{name}.jsonl'}: is not there, so "
                f"{name} cannot be compared utterance by utterance: evaluate "
                "the run again"
            )
    refuse_unlike(
        name, *((f, set(drawn.ids[k, name])) for k, f in folders.items())
    )


def refuse_unlike(name: str, first: tuple, second: tuple) -> None:
    """Refuse two runs, folder and utterances, that do not fit together."""
    (a, one), (b, other) = first, second
    lacking = [
        f"{folder} lacks {len(gone)} ({', '.join(sorted(gone)[:3])})"
        for folder, gone in ((a, other - one), (b, one - other))
        if gone
    ]
    if lacking:
        raise ValueError(
            f"{name}: {len(one ^ other)} utterances are in only one of {a} "
            f"and {b}, which cannot be compared utterance by utterance then: "
            f"{'; '.join(lacking)}. Evaluate both again from one manifest"
        )


def _difference(drawn, pair, name):
    """First minus second, its 95 % interval and its two-sided p-value."""
    a_R, b_R = (drawn.score(run, name) for run in pair)
    value, *drawn_R = a_R - b_R
    drawn_R = np.array(drawn_R)
    against = min((drawn_R <= 0).sum(), (drawn_R >= 0).sum())
    # The sample itself counts as one draw: no p-value is ever quite zero.
    p_value = min(1.0, 2 * (against + 1) / (len(drawn_R) + 1))
    low, high = percentile_interval(drawn_R)
    return {
        "a": float(a_R[0]),
        "b": float(b_R[0]),
        "difference": float(value),
        "low": low,
        "high": high,
        "p_value": float(p_value),
    }
