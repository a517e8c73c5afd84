"""Figures of studies that stand in pages, and the marks that they stand in.

In a page ``<!-- figures: NAME -->`` begins figures of a study, and ``<!-- end
-->`` ends them; a table between lines of its own, a number within a sentence.
What stands there is made by `made`, from the study's runs alone.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from functools import partial

from speechbrain_ext.runs.result import RunResult, SetScore
from speechllm.report.claims import all_claims
from speechllm.report.committed import STUDIES, Evidence
from speechllm.report.estimates import estimate
from speechllm.report.healing_tables import best_table, side_by_side
from speechllm.report.samples import baseline_name
from speechllm.report.study import Study, sets_of, system
from speechllm.report.summary import seconds
from speechllm.report.tables import (
    GAP,
    chances,
    markdown_table,
    system_name,
    tolerance_text,
)

MARKS = re.compile(
    r"(<!-- figures: (?P<name>[\w-]+) -->)(?P<text>.*?)(<!-- end -->)", re.S
)
MARK = re.compile(r"<!-- (?:figures:[^>]*|end) -->")
# A value with its interval is of a study, and stands between marks.
INTERVAL = re.compile(
    r"[-+]?[\d.]+(?: %)? \[[-+]?[\d.]+, (?:[-+]?[\d.]+|no bound)\]"
)
# So is, in a section with such marks, what looks like a score or a share, but
# for the paper's limits and the level of intervals.
FIGURE = re.compile(r"(?<![\d.])\d+\.\d{2,4}(?![\d.]*\d)|\d[\d.]* %")
STATED = {"0.25", "0.10", "25 %", "10 %", "95 %"}
CODE = re.compile(r"```.*?```|`[^`\n]*`|Python [\d.]+( to [\d.]+)?", re.S)
# Of no study: what the scripts of `recheck.MEASURED` make.
BENCHMARKS = ("benchmarks-rows", "benchmarks-gpu")
RELIABILITY = ("reliability-made", "reliability", "reliability-breaks")
OTHERS = (*BENCHMARKS, "int8", *RELIABILITY)
SETS = {"ood": "out of domain"}
SHORT = {
    "none": "not healed",
    "projector": "projector healed",
    "decoder": "decoder healed",
    "both": "both healed",
}
PATHS = {"text": "the text's path", "ASR speech": "ASR's path"}


def read(
    text: str, of_a_study: bool = False
) -> tuple[list[tuple[str, str]], list[str]]:
    """The names and texts between a page's marks, and faults of the page.

    In a study's own page all sections have its figures between marks, else
    those that have marks.
    """
    found = [(m["name"], m["text"].strip()) for m in MARKS.finditer(text)]
    outside = MARKS.sub("", text)
    faults = [
        f"{mark!r}: of a pair of marks the other one is missing, or a name "
        "is not of letters and dashes"
        for mark in MARK.findall(outside)
    ]
    for name, inside in found:
        faults += [f"{name}: no end before {m}" for m in MARK.findall(inside)]
    return found, faults + [
        f"{value}: a study's figure outside of marks"
        for value in _outside(text, of_a_study)
    ]


def _outside(text, of_a_study) -> list[str]:
    """What looks like a study's figure and is not between marks."""
    text = _blank(CODE, text)
    found = []
    sections = [match.start() for match in re.finditer(r"^## ", text, re.M)]
    for start, end in itertools.pairwise([0, *sections, len(text)]):
        section = _blank(MARKS, text[start:end])
        patterns = [INTERVAL]
        if of_a_study or section != text[start:end]:
            patterns.append(FIGURE)
        for pattern in patterns:
            for match in pattern.finditer(section):
                line = text.count("\n", 0, start + match.start()) + 1
                if match[0] not in STATED:
                    found.append(f"line {line}: {match[0]!r}")
            section = _blank(pattern, section)
    return found


def _blank(pattern, text):
    """A text with blanks for what a pattern finds, its lines kept."""
    return pattern.sub(lambda m: re.sub(r"[^\n]", " ", m[0]), text)


def filled(text: str, figures: dict[str, str]) -> str:
    """A page with the figures that are known between its marks."""

    def fill(match):
        new = figures.get(match["name"])
        if new is None:
            return match[0]
        lines = "\n" in match["text"] or "\n" in new
        return (
            f"{match[1]}\n{new}\n{match[4]}"
            if lines
            else f"{match[1]}{new}{match[4]}"
        )

    return MARKS.sub(fill, text)


def study_of(name: str) -> str | None:
    """The study whose figures go by a name; None: no figures do."""
    found = [
        study.name
        for study in STUDIES
        if name.removeprefix(f"{study.name}-") in FIGURES
        and name.startswith(f"{study.name}-")
    ]
    return max(found, key=len, default=None)


def unknown(name: str) -> str:
    """Why no figures go by a name, or nothing."""
    if study_of(name) or name in OTHERS:
        return ""
    studies = ", ".join(study.name for study in STUDIES)
    return (
        f"no such figures: a name is that of a study ({studies}), a dash and "
        f"one of {', '.join(FIGURES)}"
    )


def made(name: str, evidence: Evidence) -> str:
    """The figures of a name, made anew."""
    what = name.removeprefix(f"{evidence.committed.name}-")
    return plain_columns(FIGURES[what](evidence).strip())


def plain_columns(text: str) -> str:
    """A text whose tables' columns do not line up.

    They are read in a browser, and a figure that changes shall change one
    line.
    """
    text = re.sub(r"(?<=\|)( -+ \|)+$", _rule, text, flags=re.M)
    return re.sub(r" +\|", " |", text)


def _rule(match):
    return "---|" * match[0].count("|")


# ----------------------------------------------------------------------------
# Of any study


def scores(evidence: Evidence) -> str:
    """A row for each depth, healing and path; a column for each set."""
    return _cells(evidence, Study.mean_score, "{:.2f}")


def degradation(evidence: Evidence) -> str:
    """The same in relative degradation, with what is tolerated below."""
    study = evidence.study
    table = _cells(evidence, _degradation, "{:.0%}").replace("%", "")
    lines = [
        f"- {system_name(which)}, {which[3]}, {healing}{_along(path)}: "
        f"{tolerance_text(study, which, healing, path)}"
        for which in study.systems()
        for healing, path in study.curves(which)
    ]
    head = "\nWithin the limit on every set, [deepest within, first over]:\n"
    return "\n".join([table, head, *lines])


def _cells(evidence, figure, form):
    """A table of recognition's cells, by a figure of each on a set."""
    study = evidence.study
    systems = study.systems("ASR") or study.systems()
    sets = sets_of([r for r in study.done if system(r) in systems])
    layers = sorted({study.layers(which) for which in systems})
    header = [
        *(["system"] if len(systems) > 1 else []),
        f"layers removed of {' or '.join(map(str, layers))}",
        "healing",
        *(SETS.get(name, name) for name in sets),
    ]
    rows = []
    for which in systems:
        for told, cell in _rows(study, which):
            found = [estimate(figure(study, cell, name)) for name in sets]
            if any(found):
                own = [system_name(which)] if len(systems) > 1 else []
                said = [_said(one, form) if one else GAP for one in found]
                rows.append([*own, *told, *said])
    return markdown_table(header, rows)


def short(evidence: Evidence) -> str:
    """The first system's scores on its first set, a row for each depth."""
    study = evidence.study
    which = study.systems()[0]
    name = study.sets(which)[0]
    header = [f"layers removed of {study.layers(which)}", *SHORT.values()]
    rows: dict[str, dict[str, str]] = {}
    for (depth, healing), runs in _rows(study, which):
        score = estimate(study.mean_score(runs, name))
        if score and (healing or "none") in SHORT:
            row = rows.setdefault(depth.partition(",")[0], {})
            row.setdefault(healing or "none", _said(score, "{:.2f}"))
    return markdown_table(
        header,
        [[d, *(row.get(h, "") for h in SHORT)] for d, row in rows.items()],
    )


def _said(one, form):
    """An estimate in words, without a zero below zero."""
    return re.sub(r"-(0(?:\.0+)?)(?![\d.])", r"\1", one.said(form))


def _rows(study, which) -> Iterator[tuple[list, list[RunResult]]]:
    """What a row is called, and its runs."""
    whole = study.members(which, 0)
    first = [run for run in whole if not baseline_name(run)]
    further = [run for run in whole if baseline_name(run)]
    yield ["0", ""], first
    yield ["0, as many further steps", ""], further
    curves = study.curves(which)
    depths = sorted(set(itertools.chain(*curves.values())))
    for depth, (healing, path) in itertools.product(depths, curves):
        runs = study.members(which, depth, healing, path)
        yield [f"{depth}{_along(path)}", healing], runs


def _degradation(study, runs, name):
    return study.degradation_of([run for run in runs if run.removed], name)


def _along(path):
    return "" if path == "speech" else f", {PATHS.get(path, path)}"


def chance(evidence: Evidence) -> str:
    """What chance the degradations' intervals know."""
    study = evidence.study
    found = [
        text
        for which in study.systems()
        for curve in study.curves(which)
        for text in chances(study, which, *curve)
    ]
    return " or ".join(dict.fromkeys(found))


def minutes(evidence: Evidence) -> str:
    """Core-minutes by the clocks of the runs."""
    found = [seconds(run) for run in evidence.found.all]
    return f"{sum(one for one in found if one) / 60:.0f}"


# ----------------------------------------------------------------------------
# Of one kind of study


def claims(evidence: Evidence) -> str:
    """The paper's claims with what was tested of each."""
    rows = []
    for claim in all_claims(evidence.study, evidence.tables):
        says = f"{claim.number}. {claim.says}"
        rows.append([says, *[""] * 4, claim.decided()])
        rows += [
            ["", p.says, p.wanted, p.value(), p.paper, p.decided()]
            for p in claim.parts
            if p.wanted
        ]
    header = ["the paper's claim", "statistic", "claimed", "here", "the paper"]
    header.append("verdict")
    return markdown_table(header, rows)


def _tasks(name: str, evidence: Evidence) -> str:
    """A part of ``tasks.md``, without its title."""
    from speechllm.study import tasks

    return tasks.PARTS[name](evidence.runs).partition("\n\n")[2]


def whisper(evidence: Evidence) -> str:
    """Whisper's own score on each set, where it was there to be measured."""
    file = evidence.results / "whisper.json"
    if not file.is_file():
        return "not measured"
    found = json.loads(file.read_text(encoding="utf-8"))
    return "; ".join(f"{k}: {SetScore(**one)}" for k, one in found.items())


FIGURES: dict[str, Callable[[Evidence], str]] = {
    "table": scores,
    "short": short,
    "degradation": degradation,
    "chance": chance,
    "runs": lambda evidence: str(len(evidence.found.done)),
    "seeds": lambda evidence: str(
        len({run.seed for run in evidence.found.done})
    ),
    "minutes": minutes,
    "claims": claims,
    "translation": partial(_tasks, "translation"),
    "distances": partial(_tasks, "distances"),
    "multitask": partial(_tasks, "multitask"),
    "best": lambda evidence: str(best_table(evidence.comparisons)),
    "ratios": lambda evidence: str(side_by_side(evidence.comparisons)),
    "whisper": whisper,
}
